"""What a backend is: something that draws one picture at a time, in a process of its own.

The server never calls a backend in its own process (see `artist`), so a backend
may hang, crash or use up the memory without taking the server with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import FusiError

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Stage = Literal["loading", "diffusion", "decoding"]
STAGES: tuple[Stage, ...] = ("loading", "diffusion", "decoding")
SAMPLERS = (
    "euler_a", "euler", "heun", "dpm2", "dpm++2s_a", "dpm++2m", "dpm++2mv2", "lcm", "er_sde",
    "euler_cfg_pp", "euler_a_cfg_pp",
)  # fmt: skip
"""The names that the protocol has; a backend supports some of them."""
FailureCode = Literal["BACKEND_ERROR", "OUT_OF_MEMORY", "TIMEOUT_ERROR"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to draw."""

    prompt: str
    negative_prompt: str
    width: int
    """Pixels, a multiple of 8."""
    height: int
    """Pixels, a multiple of 8."""
    steps: int
    cfg_scale: float
    seed: int
    """0..2^32 - 1; the same picture of the same seed is drawn the same."""
    sampler: str
    """One of the backend's `samplers`."""
    strength: float
    """0..1, how far the picture may get from `image`."""
    model: str
    """One of the backend's `models`."""
    image: Pixels | None = None
    """What to start from, shape (height, width, 3), RGB; None for text to image."""
    mask: Mask | None = None
    """True where to draw, shape (height, width); None for everywhere. Only where there is an image."""


Report = Callable[[Stage, int, int], None]
"""Called with the stage, the steps of it that are done and the steps in all; raises Cancelled."""


class Backend(Protocol):
    """Draws pictures."""

    @property
    def name(self) -> str:
        """What `--backend` calls it."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """What a request may name; the first is the default."""
        ...

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those of SAMPLERS that it has; the first is the default."""
        ...

    def draw(self, picture: Picture, report: Report) -> Pixels:
        """Return the picture, shape (height, width, 3).

        Call `report` as often as there is something to say, at least once per
        step: it raises Cancelled when to stop, which is not to be caught.
        Raises BackendFailed.
        """
        ...


class Cancelled(Exception):
    """The picture is not wanted any more; raised by a report, and through `draw`."""


class BackendFailed(FusiError):
    """A backend could not begin or could not draw; the message holds neither a prompt nor a path."""

    def __init__(self, message: str, code: FailureCode = "BACKEND_ERROR") -> None:
        super().__init__(message)
        self.code = code
