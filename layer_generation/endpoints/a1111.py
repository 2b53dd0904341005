"""`a1111`: img2img of AUTOMATIC1111's web UI, and of Forge, SD.Next and sd.cpp, which speak like it."""

from __future__ import annotations

import json
import secrets
import threading
from contextlib import suppress
from typing import Any

import httpx

from layer_generation.endpoints.adapter import Adapter, merged, stated
from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointCancelled,
    EndpointError,
    Stop,
)
from layer_generation.endpoints.exchange import AnswerUnusable, TooLate
from layer_generation.endpoints.payload import base64_picture, base64_png, white_mask

_ROUTE = "/sdapi/v1/img2img"
_INTERRUPT_S = 3.0


class A1111(Adapter):
    """POST of JSON to `/sdapi/v1/img2img`. The mask is white where to draw.

    A picture that is not waited for any more is interrupted, where the server says that it is the
    one under way, or does not say which one is.
    """

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        rows, cols = request.image.shape[:2]
        fields: dict[str, Any] = stated(
            init_images=[base64_png(request.image)],
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=cols,
            height=rows,
            steps=request.steps,
            cfg_scale=request.guidance,
            denoising_strength=request.strength,
            seed=-1 if request.seed is None else request.seed,
            batch_size=1,
            n_iter=1,
            send_images=True,
            save_images=False,
        )
        if request.mask is not None:
            fields |= {
                "mask": base64_png(white_mask(request.mask)),
                "inpainting_fill": 1,  # begin with what is there
                "inpaint_full_res": False,  # not scaled to the masked part
                "inpainting_mask_invert": 0,
                "mask_blur": 0,  # a soft edge would leave the source in the picture, along every seam
            }
        if self._config.model:
            fields["override_settings"] = {"sd_model_checkpoint": self._config.model}
        fields |= {"force_task_id": f"fusi-{secrets.token_hex(8)}"}
        fields = merged(fields, self._extra(request))
        if stop.is_set():
            raise EndpointCancelled("stopped before the picture was asked for")
        try:
            answer = self._server.call(stop).post(self._server.at(_ROUTE, _ROUTE), fields=fields)
        except (EndpointCancelled, TooLate):
            self._interrupt(fields["force_task_id"])
            raise
        document = answer.json()
        images = document.get("images")
        if not isinstance(images, list) or not images:
            raise AnswerUnusable(answer.text_only())
        return EditResult(image=base64_picture(images[0]), seed=_seed(document.get("info")))

    def _interrupt(self, task: object) -> None:
        """Ask the server to stop drawing, unless it draws something else."""
        call = self._server.call(threading.Event(), _INTERRUPT_S)
        with suppress(EndpointError):
            told = call.get(self._probe_address()).json()
            if told.get("current_task", task) != task:
                return
        with suppress(EndpointError):
            call.post(self._server.at("/sdapi/v1/interrupt", _ROUTE), fields={})

    def _is_basic(self, key: str) -> bool:
        return ":" in key

    def _probe_address(self) -> httpx.URL:
        return self._server.at("/sdapi/v1/progress", _ROUTE).copy_with(query=b"skip_current_image=true")


def _seed(info: object) -> int | None:
    """Return the seed that `info` tells, JSON in a text that some servers leave empty."""
    try:
        told = json.loads(info) if isinstance(info, str) else info
    except (ValueError, RecursionError):
        return None
    seed = told.get("seed") if isinstance(told, dict) else None
    return seed if type(seed) is int else None
