"""What passes between the writer of an archive and its workers: frozen values only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.pixel_grid import PixelGridKey
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import BlockRecord
from fusi_pipeline.vertical_shift import UNCONVERTED, Conversion

ABSENT, ENCODED, COPIED = -1, 0, 1
"""What a merge does for a tile: nothing, as no input has a height; encode it; copy it as it is."""
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
    vertical: Conversion = UNCONVERTED
    """What is added to heights after the factor and the offset."""


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
    encoder: str
    """What writes the tiles, one of `image.ENCODERS`."""


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

    inputs: tuple[InputOptions, ...]
    """The archives, the one with precedence first."""
    states: tuple[str, ...]
    """By what the files of each input can be told to have been changed."""
    mode: str
    feather_m: float
    encoder: str


@dataclass(frozen=True, slots=True)
class TileTask:
    """One tile to merge."""

    tile: Tile
    contributors: tuple[tuple[int, int], ...]
    """Number of each input that may have heights for it, and how many zooms above it they are found."""
    terrain: bool
    lineage: bool
    """Whether the tile's heights, and its lineage, are wanted as bytes."""


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Tiles of one zoom that lie close together and are merged by one worker."""

    cell: Tile
    tiles: tuple[TileTask, ...]

    def __str__(self) -> str:
        return f"the tiles of zoom {self.tiles[0].tile.z} in {self.cell}"


@dataclass(frozen=True, slots=True)
class TileMade:
    """What became of one tile."""

    choice: int
    """ABSENT, ENCODED, or COPIED + i for a copy of contributor i's."""
    counts: tuple[int, ...]
    """How many pixels each contributor decides or has a share in."""
    disjoint: bool
    """Whether no pixel is valid in more than one contributor, so that their order is of no account."""
    size: int
    """Size of the tile in bytes, also where it is copied."""
    terrain: bytes | None
    lineage: bytes | None


def united(extents: list[Extent | None]) -> Extent | None:
    """Return the smallest extent that holds all that are known."""
    known = [extent for extent in extents if extent is not None]
    if not known:
        return None
    lefts, tops, rights, bottoms = zip(*known, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
