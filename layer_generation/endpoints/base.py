"""What a model server is asked for and what it answers, whatever protocol it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
PLACE = ("left_px", "top_px")
"""Of `EditRequest.params`, where on the map the picture begins, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """A picture to be redrawn where the mask says."""

    image: Pixels
    """Shape (rows, cols, 3), RGB."""
    mask: Mask | None
    """True where to draw, shape (rows, cols); None for everywhere or where a frame in the image says it."""
    prompt: str
    negative_prompt: str = ""
    steps: int | None = None
    guidance: float | None = None
    strength: float | None = None
    seed: int | None = None
    """0..2^31 - 1."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, as the protocol has them, and those of PLACE, which no server is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """What came back."""

    image: Pixels
    """Shape (rows, cols, 3), of whatever size the server answered with."""
    seed: int | None = None
    """The seed it says it used."""


class EndpointError(Exception):
    """A model server did not draw the picture. The message holds no key and no picture."""

    quarantines = False
    """Whether the server itself cannot be used further, whatever the picture."""
    counts = True
    """Whether the picture may be to blame, so that the attempt is one of those that it has."""


class EndpointRetryable(EndpointError):
    """Another try may pass: time out, a failure of the server, an answer that is no picture."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """How long the server asks to wait."""


class EndpointBusy(EndpointRetryable):
    """The server did not take the request: no connection, at work on others, too many requests."""

    counts = False


class EndpointUnreached(EndpointBusy):
    """There was no connection to the server."""


class EndpointPermanent(EndpointError):
    """The same request will fail again: refused, malformed, of a size the model cannot do."""


class EndpointUnavailable(EndpointError):
    """The server cannot be used as it is set up: key refused, no such route or model, quota used up."""

    quarantines = True
    counts = False


class EndpointCancelled(EndpointError):
    """The caller asked to stop while the request was under way."""

    counts = False


class Stop(Protocol):
    """Tells a request under way that its caller wants to stop; `threading.Event` is one."""

    def is_set(self) -> bool:
        """Tell whether to stop."""
        ...

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until told to stop or until the time is over; tell which."""
        ...


class Endpoint(Protocol):
    """A model server, spoken to by one adapter; threads may share one."""

    name: str
    size_multiple: int
    """Width and height of a request must be multiples of this."""
    takes_mask: bool
    """Whether the protocol can say where to draw."""

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn. Raises the errors of this module."""
        ...

    def probe(self) -> None:
        """Ask a cheap question to learn whether the server can be used; raises like `edit`."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
