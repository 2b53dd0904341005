"""Picture files <-> RGB arrays, safely: a size limit against bombs, one colour mode, always PNG out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from layer_generation.errors import ImageInvalid

Pixels = npt.NDArray[np.uint8]
BACKGROUND = (255, 255, 255)
"""What shows through where a picture is transparent."""
MOST_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")


def decoded(data: bytes, what: Path | str, most_pixels: int = MOST_PIXELS) -> Pixels:
    """Return the pixels of a picture, shape (rows, cols, 3), laid over BACKGROUND where transparent.

    Raises ImageInvalid where the bytes are no picture or one of more pixels than allowed.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise ImageInvalid(
                    what, f"{image.width} x {image.height} px is more than {most_pixels} pixels"
                )
            image.load()
            if image.mode == "RGB":
                return np.asarray(image)
            if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
                return _of_16_bits(np.asarray(image), image.mode, what)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                over = image.convert("RGBA")
                flat = Image.new("RGBA", over.size, (*BACKGROUND, 255))
                flat.alpha_composite(over)
                return np.asarray(flat.convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except ImageInvalid:
        raise
    except (
        OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning
    ) as error:  # fmt: skip
        raise ImageInvalid(
            what, f"does not decode as a picture{_why(error)}; put a sound one in its place"
        ) from error


def _of_16_bits(values: npt.NDArray[np.generic], mode: str, what: Path | str) -> Pixels:
    """Return a grey picture of 16 bits with 8; other numbers have no brightness that all would agree on."""
    if mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ImageInvalid(what, f"a picture of mode {mode}, not of 8 or 16 bits a channel")
    grey = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def _why(error: Exception) -> str:
    """Return what a decoder said, where that says more than that the kind is not known."""
    return "" if isinstance(error, UnidentifiedImageError) else f" ({error})"


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return an array of shape (rows, cols), (rows, cols, 3) or (rows, cols, 4) as PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return a picture at another size: the mean of whole pixels where they fit, else by Lanczos."""
    rows, cols = pixels.shape[:2]
    whole = rows % height == 0 and cols % width == 0
    method = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))
