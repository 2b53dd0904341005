"""`openai`: OpenAI's images/edits and the servers that speak like it (vLLM-Omni, SGLang, sd.cpp)."""

from __future__ import annotations

from typing import ClassVar

import httpx

from layer_generation.endpoints.adapter import Adapter, as_form
from layer_generation.endpoints.base import EditRequest, EditResult, Pixels, Stop
from layer_generation.endpoints.exchange import AnswerUnusable, Call, Part
from layer_generation.endpoints.payload import alpha_mask, base64_picture, picture
from layer_generation.pictures import png

_ROUTE = "/images/edits"


class OpenAI(Adapter):
    """POST of a form to `.../v1/images/edits`. The mask has alpha 0 where to draw.

    The protocol knows no seed, steps, guidance, strength or negative prompt;
    `fields` names those that a server has beyond it: `{"seed": "seed", "steps": "num_inference_steps"}`.
    """

    size_multiple = 16
    options: ClassVar = {"fields": dict, "image_field": str}
    _probe_also = (404, 405)

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        call = self._server.call(stop)
        rows, cols = request.image.shape[:2]
        known = {
            "negative_prompt": request.negative_prompt or None,
            "steps": request.steps,
            "guidance": request.guidance,
            "strength": request.strength,
            "seed": request.seed,
        }
        form = {
            "prompt": request.prompt,
            "model": self._config.model or None,
            "n": 1,
            "size": f"{cols}x{rows}",
            **{theirs: known.get(ours) for ours, theirs in self._option("fields", {}).items()},
            **self._extra(request),
        }
        field = self._option("image_field", "image")
        files: list[Part] = [(field, ("image.png", png(request.image), "image/png"))]
        if request.mask is not None:
            files.append(("mask", ("mask.png", png(alpha_mask(request.image, request.mask)), "image/png")))
        answer = call.post(self._address(_ROUTE), form=as_form(form), files=files)
        entries = answer.json().get("data")
        entry = entries[0] if isinstance(entries, list) and entries else None
        if isinstance(entry, dict) and entry.get("b64_json"):
            return EditResult(image=base64_picture(entry["b64_json"]))
        if isinstance(entry, dict) and isinstance(entry.get("url"), str) and entry["url"]:
            return EditResult(image=_fetched(call, self._joined(entry["url"])))
        raise AnswerUnusable(answer.text_only())

    def _joined(self, stated: str) -> httpx.URL:
        """Return the address of a picture as an answer states it. Raises AnswerUnusable."""
        try:
            return self._server.url.join(stated)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise AnswerUnusable("answers with a picture's address that is none") from error

    def _address(self, route: str) -> httpx.URL:
        """Return the address of a route of a url that ends before or after `/v1`, or with the route."""
        base = self._server.at("", _ROUTE).path.rstrip("/")
        return self._server.url.copy_with(path=base + ("" if base.endswith("/v1") else "/v1") + route)

    def _probe_address(self) -> httpx.URL:
        return self._address("/models")


def _fetched(call: Call, url: httpx.URL) -> Pixels:
    if url.scheme not in ("http", "https"):
        raise AnswerUnusable(f"answers with a {url.scheme[:20]}: address in place of a picture")
    return picture(call.get(url).body)
