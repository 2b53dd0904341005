"""`fusi`: this project's asynchronous image API, `/v1/images/generations`: submit, poll, cancel."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

import httpx

from layer_generation.endpoints.adapter import Adapter, stated
from layer_generation.endpoints.base import EditRequest, EditResult, EndpointBusy, EndpointError, Stop
from layer_generation.endpoints.exchange import AnswerUnusable, Call
from layer_generation.endpoints.failures import cleaned
from layer_generation.endpoints.jobs import FIRST_POLL_S, JobLost, drawn, ended
from layer_generation.endpoints.payload import (
    base64_picture,
    base64_png,
    first_of,
    mapping,
    white_mask,
)

_ROUTE = "/v1/images/generations"


class Fusi(Adapter):
    """POST of JSON, then GET of the id, DELETE to cancel. The mask is white where to draw."""

    options: ClassVar = {"poll_s": (int, float)}

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        return drawn(self._server, self, request, stop, self._option("poll_s", FIRST_POLL_S))

    def submit(self, call: Call, request: EditRequest) -> str:
        """Begin a picture; return its id."""
        rows, cols = request.image.shape[:2]
        fields: dict[str, Any] = stated(
            prompt=request.prompt,
            negativePrompt=request.negative_prompt or None,
            width=cols,
            height=rows,
            steps=request.steps,
            cfgScale=request.guidance,
            strength=request.strength,
            seed=request.seed,
            model=self._config.model or None,
            image=base64_png(request.image),
            mask=None if request.mask is None else base64_png(white_mask(request.mask)),
        )
        answer = call.post(self._server.at(_ROUTE, _ROUTE), fields={**fields, **self._extra(request)})
        job = answer.json().get("id")
        if not isinstance(job, str) or not job:
            raise AnswerUnusable("answers without an id")
        return job

    def poll(self, call: Call, job: str) -> EditResult | EndpointError | None:
        """Return the picture, why there is none, or None while it is under way. Raises JobLost."""
        answer = call.get(self._job(job), also=(404, 410))
        if answer.status in (404, 410):
            raise JobLost(job)
        document = answer.json()
        status = document.get("status")
        if status == "complete":
            image = first_of(mapping(document.get("result")).get("images"))
            seed = image.get("seed")
            return EditResult(
                image=base64_picture(image.get("image")), seed=seed if type(seed) is int else None
            )
        error = document.get("error")
        if status == "error" and isinstance(error, dict) and error.get("code") == "SERVER_BUSY":
            return EndpointBusy(f"is busy ({cleaned(str(error.get('message') or ''))})")
        if status in ("error", "cancelled"):
            return ended("failed" if status == "error" else "cancelled", error)
        return None

    def cancel(self, call: Call, job: str) -> None:
        """Ask the server to stop drawing."""
        call.request("DELETE", self._job(job), also=(404, 405, 409, 410))

    def _job(self, job: str) -> httpx.URL:
        return self._server.at(f"{_ROUTE}/{quote(job, safe='')}", _ROUTE)

    def _probe_address(self) -> httpx.URL:
        return self._server.at("/health", _ROUTE)
