"""The pictures of a request: PNG in base64 to start from, and masks. Checked before anything is accepted."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import TypeAlias

import numpy as np
from PIL import Image

from layer_generation.errors import ImageInvalid
from layer_generation.image_api.backend import Mask, Pixels
from layer_generation.pictures import decoded

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

LARGEST_PX = 2048
_MAGIC = b"\x89PNG\r\n\x1a\n"
_HEAD = struct.Struct(">8s4x4sIIB")
"""Signature, name of the first chunk, width, height, bits of a sample (PNG 3rd edition, 5.2 and 11.2.1)."""


class ReferenceInvalid(Exception):
    """A picture of a request cannot be used; says why, without the field's name."""


def png_bytes(text: str) -> bytes:
    """Return the PNG that base64 stands for (RFC 4648, section 4). Raises ReferenceInvalid."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ReferenceInvalid("must be base64 without a prefix or line breaks") from error
    if data[:8] != _MAGIC:
        raise ReferenceInvalid("must be a PNG in base64")
    return data


def size_of(png: bytes) -> Size:
    """Return the size that a PNG states; one that is too large for any request is never decoded.

    Raises ReferenceInvalid.
    """
    if len(png) < _HEAD.size:
        raise ReferenceInvalid("must be a PNG, and ends before its size")
    magic, chunk, width, height, bits = _HEAD.unpack_from(png)
    if magic != _MAGIC or chunk != b"IHDR":
        raise ReferenceInvalid("must be a PNG in base64")
    if not (0 < width <= LARGEST_PX and 0 < height <= LARGEST_PX):
        raise ReferenceInvalid(f"must be of 1 to {LARGEST_PX} px each way, not {width} x {height}")
    if bits > 8:
        raise ReferenceInvalid(f"must be a PNG of 8 bits a channel, not of {bits}")
    return width, height


def picture_of(png: bytes, what: str, size: Size) -> Pixels:
    """Return the pixels of a picture of a certain size, shape (height, width, 3), laid over white.

    Raises ReferenceInvalid.
    """
    if size_of(png) != size:
        width, height = size_of(png)
        raise ReferenceInvalid(f"is {width} x {height} px, and must be of {size[0]} x {size[1]}")
    try:
        return decoded(png, what, LARGEST_PX**2)
    except (ImageInvalid, Image.DecompressionBombWarning) as error:
        raise ReferenceInvalid("must be a PNG that decodes") from error


def mask_of(png: bytes, what: str, size: Size) -> Mask:
    """Return where to draw, shape (height, width): where a mask is white rather than black.

    What is transparent counts as white. Raises ReferenceInvalid.
    """
    pixels = picture_of(png, what, size)
    light: Mask = pixels.astype(np.uint16).sum(axis=2) >= 3 * 128
    return light
