"""The shift between two vertical references over the pixel grid of a zoom.

PROJ is asked on a lattice of pixel centres within each cell of 512 x 512 pixels
of the world, and interpolated bilinearly between. Lattices and cells lie on
the global pixel grid, and how fine a lattice has to be is found out within its
cell alone, so that a pixel's shift never depends on the window it is part of.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import OutsideGeoidGrid
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.vertical_shift import Degrees, Metres, Shift

CELL_PX = grid.TILE_SIZE_PX
COARSEST_PX = 32
"""Spacing of the first lattice, in pixels, where these are not too wide."""
COARSEST_M = 2500.0
"""Spacing of the first lattice on the equator, at most: finer than the grids of global geoids."""
TOLERANCE_STEPS = 1 / 64
"""Largest error of a lattice, in vertical steps, before it is halved; half of it is then used."""


def shifts(
    shift: Shift, z: int, col_off: int, row_off: int, wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[slice, slice, npt.NDArray[np.float32]]]:
    """Yield (rows, columns, metres to add) of every cell that has wanted pixels.

    `wanted` is a window of the zoom's pixel grid, shape (height, width), whose
    north-west pixel is (col_off, row_off). What is yielded for pixels that are
    not wanted has no meaning. Raises OutsideGeoidGrid for a wanted pixel
    without a value.
    """
    height, width = wanted.shape
    for y in range(row_off // CELL_PX, (row_off + height - 1) // CELL_PX + 1):
        rows = slice(max(y * CELL_PX - row_off, 0), min((y + 1) * CELL_PX - row_off, height))
        for x in range(col_off // CELL_PX, (col_off + width - 1) // CELL_PX + 1):
            cols = slice(max(x * CELL_PX - col_off, 0), min((x + 1) * CELL_PX - col_off, width))
            part = wanted[rows, cols]
            if not part.any():
                continue
            field = interpolated(shift, z, x, y)
            if field is None:
                field = _exact(shift, z, col_off + cols.start, row_off + rows.start, part)
            else:
                left, top = col_off + cols.start - x * CELL_PX, row_off + rows.start - y * CELL_PX
                field = field[top : top + part.shape[0], left : left + part.shape[1]]
            yield rows, cols, field.astype(np.float32)


def interpolated(shift: Shift, z: int, x: int, y: int) -> Metres | None:
    """Return the shift of all pixels of a cell, shape (512, 512); None where a lattice is not good enough.

    A lattice is good where that of half its spacing, which is then used, is
    within the tolerance of what the coarser one gives there.
    """
    spacing = min(COARSEST_PX, 2 ** max(int(math.log2(COARSEST_M / grid.resolution_m(z))), 0))
    if spacing < 4:
        return None
    tolerance_m = TOLERANCE_STEPS * terrarium.step_m(z)
    coarse = _nodes(shift, z, x, y, spacing)
    while spacing >= 4 and np.isfinite(coarse).all():
        spacing //= 2
        fine = _nodes(shift, z, x, y, spacing)
        if not np.isfinite(fine).all():
            return None
        if np.abs(_between(_between(coarse, 2).T, 2).T - fine).max() <= tolerance_m:
            dense: Metres = _between(_between(fine, spacing).T, spacing).T[:-1, :-1]
            return dense
        coarse = fine
    return None


def _nodes(shift: Shift, z: int, x: int, y: int, spacing: int) -> Metres:
    """Return the shift at every `spacing`th pixel of a cell and the first ones beyond it."""
    offsets = np.arange(0, CELL_PX + 1, spacing)
    cols, rows = np.meshgrid(x * CELL_PX + offsets, y * CELL_PX + offsets)
    return shift.at(*pixel_centres(z, cols.ravel(), rows.ravel())).reshape(cols.shape)


def _between(nodes: Metres, times: int) -> Metres:
    """Return rows of `nodes` with `times` - 1 rows interpolated linearly between any two."""
    share = (np.arange(times) / times)[None, :, None]
    steps = nodes[:-1, None, :] * (1 - share) + nodes[1:, None, :] * share
    return np.concatenate([steps.reshape(-1, nodes.shape[1]), nodes[-1:]])


def _exact(shift: Shift, z: int, col_off: int, row_off: int, wanted: npt.NDArray[np.bool_]) -> Metres:
    """Return the shift of the wanted pixels as PROJ has it, 0 elsewhere."""
    rows, cols = np.nonzero(wanted)
    lon, lat = pixel_centres(z, col_off + cols, row_off + rows)
    metres = shift.at(lon, lat)
    lost = np.flatnonzero(~np.isfinite(metres))
    if len(lost):
        at = lost[0]
        raise OutsideGeoidGrid(shift.source, shift.description, float(lon[at]), float(lat[at]))
    field = np.zeros(wanted.shape)
    field[rows, cols] = metres
    return field


def pixel_centres(
    z: int, cols: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> tuple[Degrees, Degrees]:
    """Return (longitude, latitude) of the centres of pixels; beyond 180 degrees they go on at -180."""
    world_px = grid.TILE_SIZE_PX << z
    lon = ((cols % world_px) + 0.5) / world_px * 360.0 - 180.0
    lat = np.degrees(np.arctan(np.sinh(math.pi * (1.0 - 2.0 * (rows + 0.5) / world_px))))
    return lon, lat
