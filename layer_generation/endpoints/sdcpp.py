"""`sdcpp`: the jobs of stable-diffusion.cpp's own server, `/sdcpp/v1`."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import quote

import httpx

from layer_generation.endpoints.adapter import Adapter, merged, stated
from layer_generation.endpoints.base import EditRequest, EditResult, EndpointError, Stop
from layer_generation.endpoints.exchange import Call
from layer_generation.endpoints.jobs import FIRST_POLL_S, JobLost, drawn, ended, id_of
from layer_generation.endpoints.payload import (
    base64_picture,
    base64_png,
    first_of,
    mapping,
    white_mask,
)

_ROUTE = "/sdcpp/v1/img_gen"
_JOBS = "/sdcpp/v1/jobs/"


class SdCpp(Adapter):
    """POST to `/sdcpp/v1/img_gen`, then GET of the job. The mask is white where to draw."""

    options: ClassVar = {"poll_s": (int, float), "reference": bool}

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        return drawn(self._server, self, request, stop, self._option("poll_s", FIRST_POLL_S))

    def submit(self, call: Call, request: EditRequest) -> str:
        """Begin a picture; return the job's id."""
        rows, cols = request.image.shape[:2]
        image = base64_png(request.image)
        fields: dict[str, Any] = stated(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            width=cols,
            height=rows,
            strength=request.strength,
            seed=-1 if request.seed is None else request.seed,
            batch_count=1,
            init_image=image,
            ref_images=[image] if self._option("reference", False) else None,
            mask_image=None if request.mask is None else base64_png(white_mask(request.mask)),
            sample_params=stated(
                sample_steps=request.steps,
                guidance=None if request.guidance is None else {"txt_cfg": request.guidance},
            ),
        )
        answer = call.post(self._server.at(_ROUTE, _ROUTE), fields=merged(fields, self._extra(request)))
        return id_of(answer.json().get("id"))

    def poll(self, call: Call, job: str) -> EditResult | EndpointError | None:
        """Return the picture, why there is none, or None while it is under way. Raises JobLost."""
        answer = call.get(self._job(job), also=(404, 410))
        if answer.status in (404, 410):
            raise JobLost(job)
        document = answer.json()
        status = document.get("status")
        if status == "completed":
            image = first_of(mapping(document.get("result")).get("images"))
            return EditResult(image=base64_picture(image.get("b64_json")))
        if status in ("failed", "cancelled"):
            return ended(str(status), document.get("error"))
        return None

    def cancel(self, call: Call, job: str) -> None:
        """Ask the server to stop drawing; a running job it cannot stop."""
        call.request(
            "POST", self._job(job).copy_with(path=self._job(job).path + "/cancel"), also=(404, 409, 410)
        )

    def _job(self, job: str) -> httpx.URL:
        return self._server.at(_JOBS + quote(job, safe=""), _ROUTE)

    def _probe_address(self) -> httpx.URL:
        return self._server.at("/sdcpp/v1/capabilities", _ROUTE)
