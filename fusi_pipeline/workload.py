"""How much work a plan holds, by kinds, block by block, so that a run can say how long it will take.

Blocks differ: one at a coast holds a few tiles, one over a hundred small files
takes as long to read as to encode. The index tells both. Seconds are those of
one processor, measured on the benchmark's surfaces; a run corrects them by what
it measures (see `forecast`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.cost import PYRAMID
from fusi_pipeline.pixel_grid import pixel_sides_m
from fusi_pipeline.plan import SourcePlan
from fusi_pipeline.progress import TILES, Ahead, Work
from fusi_pipeline.sketch import Cell, cells
from fusi_pipeline.source_file import SourceFile
from fusi_pipeline.sources import SourceIndex
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import XYBounds

Seconds = npt.NDArray[np.float64]

_BLOCK, _AREA, _READ, _PARENT, _COPY, _FLAT = range(6)
assert _AREA == TILES, "and in a merge the second kind is that of tiles that are made, too"
_KINDS = 6
_BLOCK_S = 0.036
"""Of a block, whatever it holds."""
_TILE_S = 0.016
"""Of a tile that is wholly valid: its share of the warp, and encoding it."""
_FLAT_TILE_S = 0.0055
"""Of one of equal heights."""
_FILE_S = 0.004
_PIXEL_S = 1.7e-8
"""Of a file that reaches into a block, and of each pixel that is read of it."""
_PARENT_S = 0.009
"""Of a tile above the blocks."""
_COPY_S = 0.012
"""Of a block that is taken over."""
_MERGED_S, _COPIED_S, _LINEAGE_S = 0.028, 0.0012, 0.001
"""Of a tile that is merged, of one that is taken as it is, and what the lineage adds to either."""
_PACKED_S = 1.5e-4
"""Of a tile that is packed."""
_START_S = 0.6
"""Of a stage's processes, before they work."""
_ROUGH_TILE_S = 0.0235
"""Of a tile, reading and all."""
_ROUGH_MERGE, _ROUGH_COPY = 0.5, 0.1
"""Time of a merge by that of the builds: of several sources, and of one."""
FLAT_SHARE = _FLAT_TILE_S / _TILE_S
"""What a tile of equal heights takes of what another does."""
_WHOLE = 0.9
"""Share of a block from which on it counts as wholly covered; areas are those of boxes."""


class BuildLoad:
    """The work of a build, in the order of its plan."""

    def __init__(self, plan: SourcePlan, index: SourceIndex, parents: int, workers: int) -> None:
        """Read the index once; `parents` is the number of tiles above the blocks."""
        blocks = len(plan.coordinates)
        self._workers = workers
        self._seconds: Seconds = np.zeros((blocks + parents, _KINDS))
        rough, flat, read = _covered(plan, index)
        self._seconds[:blocks, _BLOCK] = _BLOCK_S
        tiles = _tiles_of_block(plan) / np.maximum(rough + flat, 1.0)  # files may lie over each other
        self._seconds[:blocks, _AREA] = rough * tiles * _TILE_S
        self._seconds[:blocks, _FLAT] = flat * tiles * _FLAT_TILE_S
        self._seconds[:blocks, _READ] = read
        self._seconds[blocks:, _PARENT] = _PARENT_S
        self._sums = self._summed()

    def taken_over(self, positions: Sequence[int]) -> None:
        """Note the blocks, by their positions in the plan, that need not be made."""
        self._seconds[positions] = 0.0
        self._seconds[positions, _COPY] = _COPY_S
        self._sums = self._summed()

    def at(self, position: int) -> Work:
        """Return how much is done when the first `position` blocks are."""
        return Work(tuple(self._sums[position].tolist()), tuple(self._sums[-1].tolist()))

    def seconds(self, start: int = 0) -> float:
        """Return the predicted seconds of the blocks from one position on."""
        return float(self._sums[-1].sum() - self._sums[start].sum())

    def _summed(self) -> Seconds:
        start = np.zeros((1, _KINDS))
        return np.concatenate([start, np.cumsum(self._seconds, axis=0)]) / self._workers


class MergeLoad:
    """The work of a merge: tiles that are most likely copied, and the others."""

    def __init__(self, copies: int, others: int, lineage: bool, workers: int) -> None:
        self._each_s = (np.array([_COPIED_S, _MERGED_S]) + (_LINEAGE_S if lineage else 0.0)) / workers
        self._total = np.array([copies, others], dtype=np.float64)
        self._done = np.zeros(2)

    def made(self, copies: int, others: int) -> None:
        """Note that tiles are made."""
        self._done += (copies, others)

    def taken_over(self, copies: int, others: int) -> None:
        """Note that tiles need not be made."""
        self._total = np.maximum(self._total - (copies, others), self._done)

    @property
    def work(self) -> Work:
        """How much is done."""
        done, total = self._done * self._each_s, self._total * self._each_s
        return Work(tuple(done.tolist()), tuple(total.tolist()))


def rough_ahead(base_tiles: float, workers: int, *, several: bool) -> Ahead:
    """Return what building and merging so many tiles, of `several` sources or one, will take, roughly."""
    tiles = base_tiles * PYRAMID
    seconds = tiles * _ROUGH_TILE_S / workers
    merge_s = seconds * (_ROUGH_MERGE if several else _ROUGH_COPY)
    return (
        ("build", seconds + _START_S),
        ("merge", merge_s + _START_S),
        ("pack", pack_seconds(round(tiles))),
    )


def pack_seconds(tiles: int) -> float:
    """Return the predicted seconds of packing so many tiles."""
    return tiles * _PACKED_S


def merge_ahead(plans: Sequence[tuple[SourcePlan, SourceIndex]], lineage: bool, workers: int) -> Ahead:
    """Return what merging and packing what will be built of sources will take.

    Looks at the blocks of each source: where the first source that has anything
    there has all of it, its tiles are copied. Ground counts for the finest source.
    """
    covered = [_covered(plan, index) for plan, index in plans]
    areas = [np.minimum(rough + flat, 1.0) for rough, flat, _ in covered]
    fineness = [(plan.maxzoom, -number) for number, (plan, _) in enumerate(plans)]
    alone = shared = 0.0
    for number, (plan, _) in enumerate(plans):
        shares = np.stack(
            [_at_blocks_of(plan, other, area) for (other, _), area in zip(plans, areas, strict=True)]
        )
        there = shares > 0
        finer = [one > fineness[number] for one in fineness]
        rest = np.maximum(areas[number] - shares[finer].max(axis=0, initial=0.0), 0.0)
        tiles = rest * (_tiles_of_block(plan) + 1 / 3)
        first = np.take_along_axis(shares, there.argmax(axis=0)[None], axis=0)[0]
        merged = first < _WHOLE
        shared += float(tiles[merged].sum())
        alone += float(tiles[~merged].sum())
    load = MergeLoad(round(alone), round(shared), lineage, workers)
    seconds = pack_seconds(round(alone + shared) * (1 + lineage))
    return ("merge", sum(load.work.total) + _START_S), ("pack", seconds)


def _at_blocks_of(plan: SourcePlan, other: SourcePlan, area: Seconds) -> Seconds:
    """Return the share of each block of a plan that another source covers, which covers `area` of its own."""
    z = min(plan.block_zoom, other.block_zoom)
    codes = _codes(other, other.block_zoom - z)
    found, places = np.unique(codes, return_inverse=True)
    known = np.bincount(places, weights=area) / 4 ** (other.block_zoom - z)
    wanted = _codes(plan, plan.block_zoom - z)
    at = np.minimum(found.searchsorted(wanted), len(found) - 1)
    shares: Seconds = np.where(found[at] == wanted, known[at], 0.0)
    return shares


def _codes(plan: SourcePlan, levels: int) -> npt.NDArray[np.int64]:
    """Return a number for the tile, so many zooms up, in which each block lies; ascending for none."""
    coordinates = plan.coordinates >> levels
    codes: npt.NDArray[np.int64] = coordinates[:, 1] << (plan.block_zoom - levels) | coordinates[:, 0]
    return codes


def _tiles_of_block(plan: SourcePlan) -> int:
    """Return how many tiles a block has at its zooms, where all of it is valid."""
    return sum(
        4 ** (z - plan.block_zoom) for z in range(plan.block_zoom, plan.maxzoom + 1) if z >= plan.minzoom
    )


def _covered(plan: SourcePlan, index: SourceIndex) -> tuple[Seconds, Seconds, Seconds]:
    """Return, for each block, the shares of its area that are rough and flat, and the seconds of reading."""
    z = plan.block_zoom
    codes = _codes(plan, 0)
    rough, flat, read = np.zeros(len(codes)), np.zeros(len(codes)), np.zeros(len(codes))
    block_m2 = (2 * grid.HALF_WORLD_M / (1 << z)) ** 2
    for file in index.files():
        sides = pixel_sides_m(file)
        in_blocks = _pixels(file) * sides[0] * sides[1] / block_m2
        for part, weight in _weighted(file.box.parts()):
            places, shares = _shares(part, z, codes)
            read[places] += _FILE_S + _pixels(file) * _PIXEL_S * shares * weight
            for cell in cells(file.sketch):
                box = _cell_box(part, cell, south_up=file.transform[4] > 0)
                places, shares = _shares(box, z, codes)
                shares *= in_blocks * weight * (cell.right - cell.left) * (cell.bottom - cell.top)
                rough[places] += cell.rough * shares
                flat[places] += cell.flat * shares
    return rough, flat, read


def _weighted(parts: Sequence[XYBounds]) -> list[tuple[XYBounds, float]]:
    """Return boxes with their shares of the width of all."""
    whole = sum(part.right - part.left for part in parts) or 1.0
    return [(part, (part.right - part.left) / whole) for part in parts]


def _cell_box(box: XYBounds, cell: Cell, *, south_up: bool) -> XYBounds:
    """Return where a cell lies in the box of its file, as if that were on the grid of the map."""
    top, bottom = (1 - cell.bottom, 1 - cell.top) if south_up else (cell.top, cell.bottom)
    width, height = box.right - box.left, box.top - box.bottom
    return XYBounds(
        box.left + cell.left * width,
        box.top - bottom * height,
        box.left + cell.right * width,
        box.top - top * height,
    )


def _pixels(file: SourceFile) -> int:
    return file.width * file.height


def _shares(part: XYBounds, z: int, codes: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Seconds]:
    """Return the positions of the blocks that a box touches, and the share of the box in each."""
    columns, rows = grid.covering_range(part, z)
    x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)
    side = 2 * grid.HALF_WORLD_M / (1 << z)
    across = _overlap(x * side - grid.HALF_WORLD_M, side, part.left, part.right)
    down = _overlap(grid.HALF_WORLD_M - (y + 1) * side, side, part.bottom, part.top)
    wanted = ((y[:, None] << z) | x).ravel()
    at = np.minimum(codes.searchsorted(wanted), len(codes) - 1)
    there = codes[at] == wanted
    return at[there], (down[:, None] * across).ravel()[there]


def _overlap(start: npt.NDArray[Any], side: float, low: float, high: float) -> Seconds:
    """Return the share of [low, high] in each interval of length `side` that begins at `start`."""
    shared = np.minimum(start + side, high) - np.maximum(start, low)
    share: Seconds = np.maximum(shared, 0.0) / max(high - low, 1e-9)
    return share
