"""`multipart`: a form with a picture in, picture bytes out; the other way to speak to those servers."""

from __future__ import annotations

from layer_generation.endpoints.adapter import as_form
from layer_generation.endpoints.base import EditRequest, EditResult, Stop
from layer_generation.endpoints.base64_json import Base64Json, wishes
from layer_generation.endpoints.exchange import AnswerUnusable, Part
from layer_generation.endpoints.payload import base64_picture, picture, white_mask
from layer_generation.pictures import png


class Multipart(Base64Json):
    """POST of `file`, `prompt`, `steps`, ... to the url itself; the answer is the picture."""

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn."""
        files: list[Part] = [("file", ("input.png", png(request.image), "image/png"))]
        if self.mask_field and request.mask is not None:
            files.append((self.mask_field, ("mask.png", png(white_mask(request.mask)), "image/png")))
        answer = self._server.call(stop).post(
            self._server.url,
            form=as_form({**wishes(request), **self._extra(request)}),
            files=files,
            accept="image/png",
        )
        if answer.media_type.startswith("image/"):
            return EditResult(image=picture(answer.body))
        if answer.media_type == "application/json":
            found = answer.json().get("image_b64")
            if found:
                return EditResult(image=base64_picture(found))
        raise AnswerUnusable(answer.text_only())
