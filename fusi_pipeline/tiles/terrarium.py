"""Heights in metres to Terrarium pixels and back.

height = red * 256 + green + blue / 256 - 32768. A missing pixel is alpha 0
over the colour of 0 m, so that a reader without alpha sees sea level.
Source: Tilezen Joerd, docs/formats.md; the step per zoom is mapterhorn's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import kernel, pointer

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
    rows, cols = elevation_m.shape
    if elevation_m.strides[1] != elevation_m.itemsize:
        elevation_m = np.ascontiguousarray(elevation_m)
    stride = elevation_m.strides[0] // elevation_m.itemsize
    pixels = np.empty((rows, cols, 3), dtype=np.uint8)
    arguments = (pointer(elevation_m), stride, rows, cols, step_units(z))
    missing = kernel("encode")(*arguments, 3, pointer(pixels))
    if missing:
        pixels = np.empty((rows, cols, 4), dtype=np.uint8)
        if kernel("encode")(*arguments, 4, pointer(pixels)) == rows * cols:
            return None
    return pixels


def decode_mapbox(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return heights of shape (rows, cols) in metres from Mapbox Terrain-RGB pixels, NaN where alpha is 0.

    height = -10000 + (red * 65536 + green * 256 + blue) / 10. Source: Mapbox, "Access elevation data".
    """
    red, green, blue = (pixels[..., channel].astype(np.int64) for channel in range(3))
    code = red << 16 | green << 8 | blue
    heights: npt.NDArray[np.float32] = (code / 10 - 10000).astype(np.float32)
    if pixels.shape[2] == 4:
        heights[pixels[..., 3] == 0] = np.nan
    return heights


def decode(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return heights of shape (rows, cols) in metres, NaN where alpha is 0.

    `pixels` has shape (rows, cols, 3) or (rows, cols, 4).
    """
    pixels = np.ascontiguousarray(pixels)
    elevation = np.empty(pixels.shape[:2], dtype=np.float32)
    kernel("decode")(pointer(pixels), elevation.size, pixels.shape[2], pointer(elevation))
    return elevation


DECODERS = {"terrarium": decode, "mapbox": decode_mapbox}
"""How the pixels of an archive become heights, by the encoding its metadata states."""
