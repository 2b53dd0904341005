"""Lossless WebP (and PNG, for reading) bytes to uint8 arrays and back."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

WEBP_METHOD = 2
WEBP_QUALITY = 30
"""The fastest libwebp setting that costs no bytes on terrain (see DESIGN, "Encoder settings")."""


_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = ("RGB", "RGBA", "P", "L", "LA", "1")


class ImageInvalid(ValueError):
    """Bytes that are no image of the kind asked for."""


def encode_webp(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return a lossless WebP of an array of shape (rows, cols, 3) or (rows, cols, 4).

    Colour under alpha 0 is kept.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, "WEBP", lossless=True, method=WEBP_METHOD, quality=WEBP_QUALITY, exact=True
    )
    return buffer.getvalue()


def decode_webp(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels of a WebP, shape (rows, cols, 3), or (rows, cols, 4) where it has alpha.

    Raises ImageInvalid where the bytes are no whole WebP.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ImageInvalid("not a WebP")
    try:
        pixels = np.asarray(imagecodecs.webp_decode(data))
    except (imagecodecs.WebpError, ValueError) as error:
        raise ImageInvalid(f"WebP does not decode ({error})") from error
    return pixels


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels of a lossless WebP or a PNG, shape (rows, cols, 3), or (rows, cols, 4) with alpha.

    Raises ImageInvalid where the bytes are no whole image of these kinds with 8 bits a channel.
    """
    if data[:4] == b"RIFF":
        if not is_lossless_webp(data):
            raise ImageInvalid("a lossy WebP, whose pixels are no heights")
        return decode_webp(data)
    if data[:8] != _PNG_MAGIC:
        raise ImageInvalid("neither a WebP nor a PNG")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in _PNG_MODES:
                raise ImageInvalid(f"a PNG of mode {image.mode}, not of 8 bits a channel")
            alpha = "A" in image.mode or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageInvalid):
            raise
        raise ImageInvalid(f"PNG does not decode ({error})") from error


def is_plain(data: bytes) -> bool:
    """Tell whether bytes are a lossless WebP and nothing besides: no profile, no metadata, no container."""
    return data[:4] == b"RIFF" and data[12:16] == b"VP8L"


def is_lossless_webp(data: bytes) -> bool:
    """Tell whether WebP bytes are of the lossless kind (a VP8L chunk)."""
    return data[:4] == b"RIFF" and b"VP8L" in data[12:64]
