"""A tile's heights from an ancestor, enlarged together with the ancestor's neighbours.

Nothing shows at tile borders: pixels beyond the ancestor's edge come from the
tiles beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.resample import Heights, enlarge

_MARGIN_PX = 2
"""Pixels of the neighbours taken in on each side; bilinear needs one."""


def overzoom(
    tile: Tile, levels: int, heights_of: Callable[[Tile], Heights | None], method: str = "bilinear"
) -> Heights | None:
    """Return the heights, shape (512, 512), of a tile `levels` zooms below what `heights_of` gives.

    Interpolates bilinearly, or by a method whose reach is at most 2 px; a pixel is valid where the
    ancestor's pixel that holds it is. None where the ancestor is missing, or wholly so under the tile.
    """
    ancestor = grid.parent(tile, levels)
    if heights_of(ancestor) is None:
        return None
    left, top, first_col, first_row, side = _window(tile, levels)
    source = _around(ancestor, first_col, first_row, side, heights_of)
    if np.isnan(source).all():
        return None
    heights = enlarge(source, 1 << levels, left - first_col, top - first_row, TILE_SIZE_PX, method)
    return None if np.isnan(heights).all() else heights


def tiles_read(tile: Tile, levels: int) -> list[Tile]:
    """Return the tiles that `overzoom` looks at, the ancestor first."""
    ancestor = grid.parent(tile, levels)
    _, _, first_col, first_row, side = _window(tile, levels)
    across = [dx for dx in (-1, 0, 1) if _meets(dx, first_col, side)]
    down = [dy for dy in (-1, 0, 1) if _meets(dy, first_row, side)]
    world = 1 << ancestor.z
    beside = [
        Tile(ancestor.z, (ancestor.x + dx) % world, ancestor.y + dy)
        for dy in down
        for dx in across
        if (dx or dy) and 0 <= ancestor.y + dy < world
    ]
    return [ancestor, *beside]


def _window(tile: Tile, levels: int) -> tuple[float, float, int, int, int]:
    """Return where a tile starts in its ancestor (column, row), and the square of pixels it needs."""
    factor = 1 << levels
    left = (tile.x % factor) * TILE_SIZE_PX / factor
    top = (tile.y % factor) * TILE_SIZE_PX / factor
    side = TILE_SIZE_PX // factor + 1 + 2 * _MARGIN_PX
    return left, top, int(left) - _MARGIN_PX, int(top) - _MARGIN_PX, side


def _meets(step: int, first: int, side: int) -> bool:
    """Tell whether a tile `step` tiles away has a column or row of a window in it."""
    start = step * TILE_SIZE_PX
    return start < first + side and first < start + TILE_SIZE_PX


def _around(
    tile: Tile, first_col: int, first_row: int, side: int, heights_of: Callable[[Tile], Heights | None]
) -> Heights:
    """Return a square of pixels that may reach beyond a tile into its neighbours, NaN where none is."""
    square = np.full((side, side), np.nan, dtype=np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            y = tile.y + dy
            if not (_meets(dx, first_col, side) and _meets(dy, first_row, side) and 0 <= y < 1 << tile.z):
                continue
            left, top = dx * TILE_SIZE_PX - first_col, dy * TILE_SIZE_PX - first_row
            cols = slice(max(left, 0), min(left + TILE_SIZE_PX, side))
            rows = slice(max(top, 0), min(top + TILE_SIZE_PX, side))
            heights = heights_of(Tile(tile.z, (tile.x + dx) % (1 << tile.z), y))
            if heights is not None:
                square[rows, cols] = heights[
                    rows.start - top : rows.stop - top, cols.start - left : cols.stop - left
                ]
    return square
