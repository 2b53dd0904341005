"""Pictures halved for the zoom above, and encoded as tiles. Arrays in, arrays or bytes out."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fusi_pipeline.tiles.image import encode_webp
from layer_generation.pictures import png

FORMATS = ("webp", "png")
Pixels = npt.NDArray[np.uint8]
_STEPS = 1 << 16


@dataclass(frozen=True, slots=True)
class TileFormat:
    """How tiles are encoded."""

    name: str = "webp"
    """One of FORMATS."""
    quality: int | None = None
    """Of lossy WebP, 1..100; None for lossless."""

    def encoded(self, picture: Pixels) -> bytes:
        """Return a picture, shape (rows, cols, 3 or 4), as a tile, without alpha where all is opaque."""
        if picture.shape[2] == 4 and (picture[..., 3] == 255).all():
            picture = np.ascontiguousarray(picture[..., :3])
        if self.name == "png":
            return png(picture)
        if self.quality is None:
            return encode_webp(picture)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "WEBP", quality=self.quality, method=4)
        return buffer.getvalue()


def overview(picture: Pixels) -> Pixels:
    """Return the means of 2 x 2 pixels in linear light, shape (rows / 2, cols / 2, 4).

    Colours count as far as they are opaque; alpha is the mean.
    """
    alpha = picture[..., 3] if picture.shape[2] == 4 else np.full(picture.shape[:2], 255, dtype=np.uint8)
    weight = alpha.astype(np.float32)
    light = _LINEAR[picture[..., :3]] * weight[..., None]
    total = _sum_of_four(weight)
    mean = _sum_of_four(light) / np.maximum(total, 1)[..., None]
    halved = np.empty((*total.shape, 4), dtype=np.uint8)
    halved[..., :3] = _ENCODED[np.rint(mean * np.float32(_STEPS - 1)).astype(np.int32)]
    halved[..., 3] = np.rint(total / np.float32(4))
    return halved


def _sum_of_four(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the sums of 2 x 2 neighbours."""
    rows = values[0::2] + values[1::2]
    total: npt.NDArray[np.float32] = rows[:, 0::2] + rows[:, 1::2]
    return total


def _linear(share: float) -> float:
    """Return the light of an sRGB value of 0..1 (IEC 61966-2-1)."""
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def _tables() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return light by sRGB byte, shape (256,), and the nearest byte by steps of light, shape (65536,)."""
    linear = np.array([_linear(value / 255) for value in range(256)])
    between = np.array([_linear((value + 0.5) / 255) for value in range(255)])
    encoded = np.searchsorted(between, np.arange(_STEPS) / (_STEPS - 1), side="right").astype(np.uint8)
    return linear.astype(np.float32), encoded


_LINEAR, _ENCODED = _tables()
