"""Pictures and masks as model servers want them, and back; each protocol has its own idea of a mask."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from layer_generation.endpoints.base import Mask, Pixels
from layer_generation.endpoints.exchange import AnswerUnusable
from layer_generation.errors import ImageInvalid
from layer_generation.pictures import decoded, png

MOST_PIXELS = 36_000_000
"""A picture of more is taken for an attack: 6,000 px square."""
_DATA_URL = re.compile(r"data:[^,]{0,200}?;base64,")
_OBJECT = re.compile(r" <_io\.[^>]*>")
"""How Pillow names bytes in its messages."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def base64_png(pixels: npt.NDArray[np.uint8]) -> str:
    """Return an array of shape (rows, cols), (rows, cols, 3) or (rows, cols, 4) as PNG in base64."""
    return base64.b64encode(png(pixels)).decode("ascii")


def white_mask(mask: Mask) -> npt.NDArray[np.uint8]:
    """Return a mask with 255 where to draw and 0 elsewhere, shape (rows, cols)."""
    return np.where(mask, np.uint8(255), np.uint8(0))


def alpha_mask(image: Pixels, mask: Mask) -> npt.NDArray[np.uint8]:
    """Return the image with alpha 0 where to draw and 255 elsewhere, shape (rows, cols, 4)."""
    return np.dstack([image, np.where(mask, np.uint8(0), np.uint8(255))])


def picture(data: bytes) -> Pixels:
    """Return the pixels of a picture that a server sent. Raises AnswerUnusable."""
    if data[:8] == _PNG_MAGIC and len(data) > 24:  # before Pillow warns of it
        width, height = struct.unpack(">II", data[16:24])
        if width * height > MOST_PIXELS:
            raise AnswerUnusable(f"the picture has {width} x {height} px, more than {MOST_PIXELS} pixels")
    try:
        return decoded(data, "the picture", MOST_PIXELS)
    except ImageInvalid as error:
        raise AnswerUnusable(_OBJECT.sub("", str(error))) from error
    except Image.DecompressionBombWarning as error:
        raise AnswerUnusable(f"the picture has more than {MOST_PIXELS} pixels") from error


def base64_picture(text: object) -> Pixels:
    """Return the pixels of a picture in base64, with or without `data:...;base64,` before it.

    Raises AnswerUnusable.
    """
    if not isinstance(text, str) or not text:
        raise AnswerUnusable("the answer has no picture where one should be")
    start = _DATA_URL.match(text)
    bare = "".join(text[start.end() if start else 0 :].split())
    try:
        data = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise AnswerUnusable("the picture in the answer is no base64") from error
    return picture(data)


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value of an answer if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def first_of(value: object) -> Mapping[str, Any]:
    """Return the first object of a list in an answer, or an empty one."""
    return mapping(value[0]) if isinstance(value, list) and value else {}
