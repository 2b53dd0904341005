"""What passes between the writer of an archive and its workers: frozen values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.pixel_grid import PixelGridKey
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.mbtiles import BlockRecord

COPIED = 1
"""A merge's choice for a tile: COPIED + i is a copy of input i's, anything lower was encoded anew."""
CHOICE = np.dtype("<u2")
"""How choices are kept in the ledger of a merge."""
Extent = tuple[int, int, int, int]
"""(first column, first row, last column + 1, last row + 1) on the pixel grid of the base zoom."""


@dataclass(frozen=True, slots=True)
class WarpParameters:
    """How heights are taken from a source's files."""

    resampling: str
    unit_factor: float = 1.0
    offset_m: float = 0.0
    averaged: frozenset[PixelGridKey] = frozenset()
    """The pixel grids finer than the target by enough to be averaged."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What all blocks of one build have in common."""

    folder: Path
    minzoom: int
    maxzoom: int
    parameters: WarpParameters
    threads: int
    io_sleep_s: float
    gdal_cache_mib: int


@dataclass(frozen=True, slots=True)
class ParentTask:
    """A tile above the blocks, with what its children left for it."""

    tile: Tile
    key: str
    children: tuple[tuple[bytes | None, Extent | None], ...]
    """Packed quarter and extent of the NW, NE, SW and SE child."""

    def __str__(self) -> str:
        return f"tile {self.tile}"


@dataclass(frozen=True, slots=True)
class Made:
    """A ledger row and the tiles that go with it."""

    record: BlockRecord
    tiles: tuple[tuple[Tile, bytes], ...]


@dataclass(frozen=True, slots=True)
class MergeContext:
    """What all cells of one merge have in common."""

    inputs: tuple[Path, ...]
    """The archives, the one with precedence first."""
    mode: str


@dataclass(frozen=True, slots=True)
class MergeCell:
    """Neighbouring tiles of one zoom that are merged together."""

    tile: Tile
    """The tile, some zooms up, that holds them all."""
    z: int
    key: str
    coordinates: npt.NDArray[np.int64]
    """Columns and rows of the tiles, shape (n, 2), row by row."""

    def __str__(self) -> str:
        return f"the tiles of zoom {self.z} in {self.tile}"


def united(extents: list[Extent | None]) -> Extent | None:
    """Return the smallest extent that holds all that are known."""
    known = [extent for extent in extents if extent is not None]
    if not known:
        return None
    lefts, tops, rights, bottoms = zip(*known, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
