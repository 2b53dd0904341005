"""Lossless WebP (and PNG, for reading) bytes to uint8 arrays and back."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from fusi_pipeline.tiles import vp8l, webp
from fusi_pipeline.tiles.directory import GZIP, DirectoryInvalid, inflate

WEBP_METHOD = 2
WEBP_QUALITY = 30
"""The fastest libwebp setting that costs no bytes on terrain (see DESIGN, "Encoder settings")."""
ENCODERS = ("fusi", "fusi-fast", "libwebp")
"""What may write tiles; the first by default. All of them write lossless WebP that every reader takes."""
_EFFORTS = {"fusi": "default", "fusi-fast": "fast"}

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_MODES = ("RGB", "RGBA", "P", "L", "LA", "1")
_PNG_HEADER = struct.Struct(">4sIIB")
"""Of its first chunk: IHDR, width, height, bits a channel (PNG specification, section 11.2.1)."""
_PNG_HEADER_OFFSET = 12
_LARGEST_PX = 1 << 24
"""Pixels of the largest picture that is taken for a tile, 4096 x 4096."""
_GZIP_MAGIC = b"\x1f\x8b"


class ImageInvalid(ValueError):
    """Bytes that are no image of the kind asked for."""


def encoder_version(encoder: str) -> str:
    """Return what a key says of an encoder: its bytes are those of this version. Empty for libwebp."""
    return "" if encoder == "libwebp" else f"+{encoder}-{vp8l.VERSION}"


def encode_webp(pixels: npt.NDArray[np.uint8], encoder: str = ENCODERS[0]) -> bytes:
    """Return a lossless WebP of an array of shape (rows, cols, 3) or (rows, cols, 4).

    Colour under alpha 0 is kept. What is no terrain is left to libwebp, whoever is asked.
    """
    if encoder in _EFFORTS:
        with suppress(vp8l.Unsuitable):
            return vp8l.encode(pixels, _EFFORTS[encoder])
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

    Either may be wrapped in gzip, as some archives have it. Raises ImageInvalid
    where the bytes are no whole image of these kinds with 8 bits a channel.
    """
    data = _unwrapped(data)
    if data[:4] == b"RIFF":
        if not is_lossless_webp(data):
            raise ImageInvalid("not a lossless WebP; the pixels of a lossy one are no heights")
        return decode_webp(data)
    if data[:8] != _PNG_MAGIC:
        raise ImageInvalid("neither a WebP nor a PNG")
    return _decode_png(data)


def _unwrapped(data: bytes) -> bytes:
    if data[:2] != _GZIP_MAGIC:
        return data
    try:
        return inflate(data, GZIP)
    except DirectoryInvalid as error:
        raise ImageInvalid("a gzip that is damaged or cut short") from error


def _decode_png(data: bytes) -> npt.NDArray[np.uint8]:
    if len(data) < _PNG_HEADER_OFFSET + _PNG_HEADER.size:
        raise ImageInvalid("a PNG that is cut short")
    kind, width, height, bits = _PNG_HEADER.unpack_from(data, _PNG_HEADER_OFFSET)
    if kind != b"IHDR":
        raise ImageInvalid("a PNG without its header")
    if width * height > _LARGEST_PX:
        raise ImageInvalid(f"a PNG of {width} x {height} px, which no tile has")
    if bits > 8:  # Pillow cuts these to 8 without a word
        raise ImageInvalid(f"a PNG of {bits} bits a channel, not of 8")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in _PNG_MODES:
                raise ImageInvalid(f"a PNG of mode {image.mode}, not of 8 bits a channel")
            alpha = "A" in image.mode or "transparency" in image.info
            return np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except ImageInvalid:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise ImageInvalid("a PNG that does not decode: damaged or cut short") from error


def is_plain(data: bytes) -> bool:
    """Tell whether bytes are a lossless WebP and nothing besides: no profile, no metadata, no container."""
    return data[:4] == b"RIFF" and data[12:16] == b"VP8L"


def is_lossless_webp(data: bytes) -> bool:
    """Tell whether bytes are a WebP of one lossless picture, whatever else is in it."""
    return webp.is_lossless(webp.chunk_names(data))
