"""The picture of a quadrant: shaded relief under a fixed style, which meets its neighbours' exactly. Pure.

A pixel depends on the heights around it, on its row and on the style of the map,
never on the window that it is computed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import HALF_WORLD_M, TILE_SIZE_PX
from fusi_pipeline.tiles.hillshade import ReliefStyle, shade_within
from fusi_pipeline.tiles.resample import Heights
from layer_generation.pictures import Pixels

HeightsOf = Callable[[int, int], Heights | None]
"""Heights of quadrant (x, y), shape (512, 512) in metres, NaN where missing; None where there are none."""


def relief(heights: Heights, y: int, zoom: int, style: ReliefStyle) -> Pixels:
    """Return the picture, shape (512, 512, 3), of a quadrant in row `y` of a zoom's grid.

    `heights` has shape (514, 514): one pixel of the neighbours' around its own.
    """
    return shade_within(heights, row_lengths_m(y, zoom), style)


def with_margin(x: int, y: int, heights_of: HeightsOf) -> Heights:
    """Return a quadrant's heights and one pixel of its neighbours' around them, shape (514, 514)."""
    size = TILE_SIZE_PX
    heights = np.full((size + 2, size + 2), np.nan, dtype=np.float32)
    ends = {
        -1: (slice(0, 1), slice(-1, None)),
        0: (slice(1, -1), slice(None)),
        1: (slice(-1, None), slice(1)),
    }
    for dy, (rows, from_rows) in ends.items():
        for dx, (cols, from_cols) in ends.items():
            part = heights_of(x + dx, y + dy)
            if part is not None:
                heights[rows, cols] = part[from_rows, from_cols]
    return heights


def row_lengths_m(y: int, zoom: int) -> npt.NDArray[np.float32]:
    """Return the ground length of a pixel in each row of a quadrant, shape (512,), in metres."""
    size = grid.resolution_m(zoom)
    middles = (HALF_WORLD_M - (y * TILE_SIZE_PX + row + 0.5) * size for row in range(TILE_SIZE_PX))
    return np.array([size / math.cosh(middle / grid.EARTH_RADIUS_M) for middle in middles], dtype=np.float32)
