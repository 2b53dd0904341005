"""`fusi`: this project's asynchronous image API, `/v1/images/generations`: submit, poll, cancel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import httpx

from layer_generation.endpoints.adapter import Adapter, stated
from layer_generation.endpoints.base import EditRequest, EditResult, Stop
from layer_generation.endpoints.generations import ROUTE, Drawing, Generations, Listener
from layer_generation.endpoints.jobs import FIRST_POLL_S, drawn
from layer_generation.endpoints.payload import base64_png, white_mask


class Fusi(Adapter):
    """POST of JSON, then GET of the id, DELETE to cancel. The mask is white where to draw."""

    options: ClassVar = {"poll_s": (int, float)}

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        rows, cols = request.image.shape[:2]
        fields = stated(
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
        found = self.draw({**fields, **self._extra(request)}, Generations(self._server), stop)
        return EditResult(image=found[0].image, seed=found[0].seed)

    def generations(self, count: int, listener: Listener) -> Generations:
        """Return jobs of some pictures, of which `listener` hears how far they are."""
        return Generations(self._server, count, listener)

    def draw(self, fields: Mapping[str, Any], jobs: Generations, stop: Stop) -> tuple[Drawing, ...]:
        """Return the pictures of a request as the API has it, over the fields that are configured."""
        given = {name: value for name, value in self._config.params.items() if name not in self.options}
        return drawn(self._server, jobs, {**given, **fields}, stop, self._option("poll_s", FIRST_POLL_S))

    def _probe_address(self) -> httpx.URL:
        return self._server.at("/health", ROUTE)
