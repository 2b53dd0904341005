"""The asynchronous image API as a client speaks it: `/v1/images/generations`, submit, poll, cancel."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from layer_generation.endpoints.base import EndpointBusy, EndpointError, EndpointRetryable, Pixels
from layer_generation.endpoints.exchange import AnswerUnusable, Call, Server
from layer_generation.endpoints.failures import cleaned
from layer_generation.endpoints.jobs import JobLost, ended, id_of
from layer_generation.endpoints.payload import base64_picture, mapping

ROUTE = "/v1/images/generations"
_WAITS = ("pending", "queued", "in_progress")
"""States that are not the end; any other that is not known is taken for one."""
_ENDS = {"error": "failed", "cancelled": "was cancelled"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that came back."""

    image: Pixels
    """Shape (rows, cols, 3)."""
    seed: int | None
    """The seed that the server says it used."""


@dataclass(frozen=True, slots=True)
class Told:
    """How far a generation is, as its server says."""

    status: str
    percentage: float = 0.0
    """0..100, of all pictures."""
    stage: str = ""
    image: int = 1
    """The picture that is drawn, counted from 1."""
    position: int | None = None
    """Place among those that wait."""


Listener = Callable[[Told], None]


class Generations:
    """Jobs of the API, for `jobs.drawn`: a request is its JSON fields, a result is its pictures."""

    def __init__(self, server: Server, count: int = 1, listener: Listener | None = None) -> None:
        """Take a server, how many pictures are wanted at least, and who hears how far they are."""
        self._server = server
        self._count = count
        self._listener = listener
        self.submitted = 0
        """How many jobs the server has taken."""

    def submit(self, call: Call, request: Mapping[str, Any]) -> str:
        """Begin pictures; return the id. Raises AnswerUnusable where it is none."""
        answer = call.post(self._server.at(ROUTE, ROUTE), fields=request)
        self.submitted += 1
        return id_of(answer.json().get("id"))

    def poll(self, call: Call, job: str) -> tuple[Drawing, ...] | EndpointError | None:
        """Return the pictures, why there are none, or None while they are drawn. Raises JobLost."""
        answer = call.get(self._job(job), also=(404, 410))
        if answer.status in (404, 410):
            raise JobLost(job)
        document = answer.json()
        status = document.get("status")
        if not isinstance(status, str):
            raise AnswerUnusable("answers without a status")
        if status == "complete":
            return self._drawings(document)
        if status in _WAITS:
            if self._listener is not None:
                self._listener(_told(status, document))
            return None
        error = document.get("error")
        if status == "error" and mapping(error).get("code") in ("SERVER_BUSY", "SHUTTING_DOWN"):
            return EndpointBusy(f"is busy ({cleaned(str(mapping(error).get('message') or ''))})")
        if status in _ENDS:
            return ended(_ENDS[status], error)
        with contextlib.suppress(EndpointError):  # it may be no end after all
            self.cancel(call, job)
        return EndpointRetryable(f"the server's job is in a state that is not known ({cleaned(status)})")

    def cancel(self, call: Call, job: str) -> None:
        """Ask the server to stop drawing; one that has ended or is gone is well."""
        call.request("DELETE", self._job(job), also=(404, 405, 409, 410))

    def _drawings(self, document: Mapping[str, Any]) -> tuple[Drawing, ...]:
        """Return the pictures of an answer. Raises AnswerUnusable."""
        images = mapping(document.get("result")).get("images")
        if not isinstance(images, list) or len(images) < self._count:
            found = len(images) if isinstance(images, list) else 0
            raise AnswerUnusable(f"is done, with {found} of {self._count} pictures")
        drawings = []
        for one in map(mapping, images[: self._count]):
            seed = one.get("seed")
            drawings.append(Drawing(base64_picture(one.get("image")), seed if type(seed) is int else None))
        return tuple(drawings)

    def _job(self, job: str) -> httpx.URL:
        return self._server.at(f"{ROUTE}/{quote(job, safe='')}", ROUTE)


def _told(status: str, document: Mapping[str, Any]) -> Told:
    """Return how far a generation is; what cannot be is left out."""
    progress = mapping(document.get("progress"))
    stage, image = progress.get("stage"), progress.get("currentImage")
    percentage, position = progress.get("percentage"), document.get("position")
    try:
        percent = float(percentage) if isinstance(percentage, int | float) else 0.0
    except OverflowError:  # a whole number of hundreds of digits
        percent = 0.0
    return Told(
        status,
        percentage=min(max(percent, 0.0), 100.0) if math.isfinite(percent) else 0.0,
        stage=cleaned(stage)[:20] if isinstance(stage, str) else "",
        image=image if type(image) is int and 1 <= image <= 100 else 1,
        position=position if type(position) is int and position > 0 else None,
    )
