"""Tiles that are pictures for the eye: bytes to pixels, and halved for the zoom above."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.grid import TILE_SIZE_PX
from fusi_pipeline.tiles.image import ImageInvalid, decode_image, decode_webp

Pixels = npt.NDArray[np.uint8]
FORMATS = ("webp", "png")
"""In which tiles of pictures are kept, as archives name them."""
_MAGIC = {"webp": b"RIFF", "png": b"\x89PNG"}
_STEPS = 1 << 16


def decoded(data: bytes, image_format: str) -> Pixels:
    """Return the pixels of a tile, shape (rows, cols, 3), or (rows, cols, 4) where it has alpha.

    Unlike heights, pictures may be lossy. Raises ImageInvalid where the bytes
    are no whole image of the format.
    """
    if data[:4] != _MAGIC.get(image_format):
        raise ImageInvalid(f"not a {'PNG' if image_format == 'png' else 'WebP'}")
    return decode_webp(data) if image_format == "webp" else decode_image(data)


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


def joined(quarters: Sequence[Pixels | None]) -> Pixels:
    """Return the picture of a tile, shape (512, 512, 4), from the halved ones of its children.

    They are those in the north-west, north-east, south-west and south-east;
    where one is None the tile is transparent.
    """
    half = TILE_SIZE_PX // 2
    whole = np.zeros((TILE_SIZE_PX, TILE_SIZE_PX, 4), dtype=np.uint8)
    for number, quarter in enumerate(quarters):
        row, col = number // 2 * half, number % 2 * half
        if quarter is not None:
            whole[row : row + half, col : col + half] = quarter
    return whole


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
