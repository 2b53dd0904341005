"""`base64`: a picture in JSON in, a picture in JSON out, as the servers of known isometric maps speak.

Those take no mask and look for a red frame; `mask_field` names the field where a server takes one.
"""

from __future__ import annotations

from typing import Any, ClassVar

import httpx

from layer_generation.endpoints.adapter import Adapter, stated
from layer_generation.endpoints.base import EditRequest, EditResult, Stop
from layer_generation.endpoints.exchange import AnswerUnusable
from layer_generation.endpoints.payload import base64_picture, base64_png, white_mask
from layer_generation.layer_config import EndpointConfig


class Base64Json(Adapter):
    """POST of `image_b64`, `prompt`, `steps`, ... to the url itself."""

    size_multiple = 1
    options: ClassVar = {"mask_field": str}
    _probe_also = (400, 405, 422)

    def __init__(
        self, config: EndpointConfig, key: str = "", transport: httpx.BaseTransport | None = None
    ) -> None:
        super().__init__(config, key, transport)
        self.mask_field: str = self._option("mask_field", "")
        self.takes_mask = bool(self.mask_field)

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        fields = {"image_b64": base64_png(request.image), **wishes(request)}
        if self.mask_field and request.mask is not None:
            fields[self.mask_field] = base64_png(white_mask(request.mask))
        answer = self._server.call(stop).post(self._server.url, fields={**fields, **self._extra(request)})
        document = answer.json()
        found = document.get("image_b64") or document.get("image")
        if not found:
            raise AnswerUnusable(answer.text_only())
        seed = document.get("seed")
        return EditResult(image=base64_picture(found), seed=seed if type(seed) is int else None)


def wishes(request: EditRequest) -> dict[str, Any]:
    """Return what is wished of a picture, by the names that those servers have for it."""
    return stated(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        steps=request.steps,
        guidance_scale=request.guidance,
        strength=request.strength,
        seed=request.seed,
    )
