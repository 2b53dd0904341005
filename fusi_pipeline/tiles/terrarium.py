"""Heights in metres to Terrarium pixels and back.

height = red * 256 + green + blue / 256 - 32768. A missing pixel is alpha 0
over the colour of 0 m, so that a reader without alpha sees sea level.
Source: Tilezen Joerd, docs/formats.md; the step per zoom is mapterhorn's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MINIMUM_M = -32768.0
MAXIMUM_M = 32767.99609375


def step_units(z: int) -> int:
    """Return the vertical step at a zoom in units of 1/256 m: 2^(19-z), from 1/256 m to 1 m."""
    return 1 << min(max(19 - z, 0), 8)


def step_m(z: int) -> float:
    """Return the vertical step at a zoom in metres."""
    return step_units(z) / 256


def encode(elevation_m: npt.NDArray[np.float32], z: int) -> npt.NDArray[np.uint8] | None:
    """Return pixels of shape (rows, cols, 3), or (rows, cols, 4) where a pixel is missing.

    `elevation_m` has shape (rows, cols), NaN where missing. Heights are rounded
    to the nearest multiple of the zoom's step, ties to even, and clamped to
    what Terrarium holds. None where every pixel is missing.
    """
    missing = np.isnan(elevation_m)
    if missing.all():
        return None
    units = step_units(z)
    scaled = np.multiply(elevation_m, np.float32(256 / units), dtype=np.float32)
    scaled[missing] = 0
    low, high = int(MINIMUM_M * 256) // units, int(MAXIMUM_M * 256) // units
    code = np.clip(np.rint(scaled), low, high).astype(np.int32)
    code *= units
    code += 32768 * 256
    big_endian = code.astype(">u4").view(np.uint8).reshape(*code.shape, 4)
    if not missing.any():
        return np.ascontiguousarray(big_endian[..., 1:])
    pixels = np.empty((*code.shape, 4), dtype=np.uint8)
    pixels[..., :3] = big_endian[..., 1:]
    pixels[..., 3] = np.where(missing, 0, 255)
    return pixels


def decode(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return heights of shape (rows, cols) in metres, NaN where alpha is 0.

    `pixels` has shape (rows, cols, 3) or (rows, cols, 4).
    """
    code = pixels[..., 0].astype(np.int32)
    code <<= 8
    code |= pixels[..., 1]
    code <<= 8
    code |= pixels[..., 2]
    elevation = code.astype(np.float32)
    elevation *= np.float32(1 / 256)
    elevation -= np.float32(32768)
    if pixels.shape[-1] == 4:
        elevation[pixels[..., 3] == 0] = np.nan
    return elevation
