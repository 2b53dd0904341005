"""How strongly each pixel of a source counts near the source's edge, in metres of ground.

The distance of a pixel to the nearest missing one of its source is measured
over tile borders, so that neighbouring tiles agree, and turned into metres
with the pixel's own ground size, so that the band is as wide at every zoom.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusi_pipeline import merge
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.distance import distance_px
from fusi_pipeline.tiles.grid import EARTH_RADIUS_M, TILE_SIZE_PX, Tile

Valid = npt.NDArray[np.bool_]


def ground_m(tile: Tile) -> npt.NDArray[np.float64]:
    """Return the ground size in metres of the pixels of each row of a tile, shape (512,).

    On the sphere of web mercator: the projected size times the cosine of the
    latitude of the pixel's centre.
    """
    size = grid.resolution_m(tile.z)
    y_m = grid.xy_bounds(tile).top - (np.arange(TILE_SIZE_PX) + 0.5) * size
    return np.asarray(size / np.cosh(y_m / EARTH_RADIUS_M), dtype=np.float64)


def reach_px(tile: Tile, width_m: float) -> int:
    """Return how many pixels beyond a tile decide about its pixels."""
    return math.ceil(width_m / float(ground_m(tile).min()))


def reach_tiles(tile: Tile, width_m: float) -> int:
    """Return how many tiles on each side of a tile decide about its pixels."""
    return -(-reach_px(tile, width_m) // TILE_SIZE_PX)


def weights(
    tile: Tile, width_m: float, valid_of: Callable[[Tile], Valid | None]
) -> npt.NDArray[np.float64] | None:
    """Return the share of a source at each pixel of a tile, shape (512, 512); None for 1 everywhere.

    `valid_of` tells which pixels of a tile the source has, None for none at all.
    """
    reach = reach_px(tile, width_m)
    side = TILE_SIZE_PX + 2 * reach
    around = np.zeros((side, side), dtype=bool)
    tiles, world = reach_tiles(tile, width_m), 1 << tile.z
    for dy in range(-tiles, tiles + 1):
        rows, rows_from = _overlap(dy, reach, side)
        y = tile.y + dy
        if not 0 <= y < world:
            around[rows] = True  # beyond the map there is nothing to be missing
            continue
        for dx in range(-tiles, tiles + 1):
            cols, cols_from = _overlap(dx, reach, side)
            valid = valid_of(Tile(tile.z, (tile.x + dx) % world, y))
            if valid is not None:
                around[rows, cols] = valid[rows_from, cols_from]
    if around.all():
        return None
    distance = distance_px(around, reach, reach, TILE_SIZE_PX, TILE_SIZE_PX)
    return merge.fade(distance * ground_m(tile)[:, None], width_m)


def _overlap(step: int, reach: int, side: int) -> tuple[slice, slice]:
    """Return where in the surroundings a tile `step` tiles away lies, and which part of it that is."""
    start = reach + step * TILE_SIZE_PX
    inside = slice(max(start, 0), min(start + TILE_SIZE_PX, side))
    return inside, slice(inside.start - start, inside.stop - start)
