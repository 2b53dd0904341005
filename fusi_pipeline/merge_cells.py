"""The tiles of a merge in cells: the units of its work, in the order of PMTiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusi_pipeline.contributions import Contributions, LikelyCopies, TileIndex, tiles_of
from fusi_pipeline.merge_ledger import TileRecord
from fusi_pipeline.tasks import MergeTask, TileMade
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.pmtiles import tile_ids
from fusi_pipeline.workload import MergeLoad

_CELL_LEVELS = 3
"""A cell is 2^3 = 8 tiles wide."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a merge: what is known of its tiles, and what is to be made."""

    cell: Tile
    contributions: tuple[Contributions, ...]
    known: dict[Tile, TileRecord]
    """Records whose terrain may be taken over."""
    task: MergeTask
    """The tiles of which anything is to be made."""
    committed: dict[Tile, TileRecord]
    """What the work file holds of the cell."""
    was: frozenset[Tile]
    """Tiles that the merge before had."""

    def count(self, load: MergeLoad, likely: LikelyCopies) -> None:
        """Note in the work of the merge that this cell is done."""
        tasks = {one.tile for one in self.task.tiles}
        made = [one.tile in likely for one in self.contributions if one.tile in tasks]
        load.made(sum(made), len(made) - sum(made))
        known = [one.tile in likely for one in self.contributions if one.tile not in tasks]
        load.taken_over(sum(known), len(known) - sum(known))


def cells(indexes: Sequence[TileIndex]) -> Iterator[tuple[int, Tile, list[Tile]]]:
    """Yield (zoom, cell, tiles) of all cells, cells and tiles in the order of tile ids."""
    for z in zooms(indexes):
        places = tiles_of(indexes, z)
        places = places[np.argsort(tile_ids(z, places[:, 0], places[:, 1]), kind="stable")]
        levels = min(_CELL_LEVELS, z)
        parents = places >> levels
        borders = np.flatnonzero((parents[1:] != parents[:-1]).any(axis=1)) + 1
        for part in np.split(places, borders):
            tiles = [Tile(z, x, y) for x, y in part.tolist()]
            yield z, grid.parent(tiles[0], levels), tiles


def cell_count(indexes: Sequence[TileIndex]) -> int:
    """Return how many cells there are."""
    return sum(len(np.unique(tiles_of(indexes, z) >> min(_CELL_LEVELS, z), axis=0)) for z in zooms(indexes))


def zooms(indexes: Sequence[TileIndex]) -> list[int]:
    """Return the zooms at which any input has tiles, in order."""
    return sorted(set().union(*(index.zooms for index in indexes)))


def quarters(task: MergeTask) -> list[MergeTask]:
    """Return a cell's tiles in four parts; none where there is but one tile."""
    count = min(4, len(task.tiles))
    edges = [len(task.tiles) * part // count for part in range(count + 1)]
    return [MergeTask(task.cell, task.tiles[a:b]) for a, b in pairwise(edges)] if count > 1 else []


def together(_: MergeTask, parts: Sequence[tuple[TileMade, ...]]) -> tuple[TileMade, ...]:
    """Return what was made of the parts of a cell as what is made of it at once."""
    return tuple(made for part in parts for made in part)
