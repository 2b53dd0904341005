"""Sources x area x zooms -> blocks, and what they will cost. Reads only the index (and geoid grids).

A block is a square of base tiles, warped in one piece. Its key is a hash of
everything its bytes depend on; the tiles above the blocks are keyed by the keys
of their four children. Equal keys, equal bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.conversion import conversion
from fusi_pipeline.cost import (
    BLOCK_LEVELS,
    PYRAMID,
    TILE_BYTES,
    BuildCost,
    Estimate,
    worker_mib,
    workers_for,
)
from fusi_pipeline.errors import AreaEmpty, ZoomInvalid
from fusi_pipeline.pixel_grid import PixelGridKey, pixel_grid_key, pixel_sides_m
from fusi_pipeline.sources import AUTO_MAXZOOM_CAP, SourceConfig, SourceFile, SourceIndex
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Bounds, Tile, XYBounds
from fusi_pipeline.tiles.image import ENCODERS, encoder_version
from fusi_pipeline.vertical_shift import UNCONVERTED, Conversion

__all__ = [
    "BLOCK_LEVELS",
    "CODE_VERSION",
    "Block",
    "BuildOptions",
    "Estimate",
    "SourcePlan",
    "estimate",
    "plan_source",
    "worker_mib",
    "workers_for",
]

CODE_VERSION = "terrain-1"
"""Part of every key: raised whenever a change of the code changes the bytes of a tile."""
_UNITED_AT_ONCE = 4096
_MARGIN_PX = 3
"""Source pixels around a block whose files may reach into it through interpolation."""
_AVERAGE_ABOVE = 2**0.5
"""Base pixels wider than this many source pixels are averaged, whatever the resampling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What of a source is built."""

    minzoom: int | None = None
    """Lowest zoom; 0 where None."""
    maxzoom: int | None = None
    """Base zoom; from the ground resolution where None."""
    bbox: Bounds | None = None
    """Only base tiles that touch it."""


@dataclass(frozen=True, slots=True)
class Block:
    """A square of base tiles, the unit of work."""

    tile: Tile
    """The tile that the block fills."""
    key: str
    """Hash of everything its bytes depend on."""
    files: tuple[SourceFile, ...]
    """The files that may reach into it, by name."""
    clip: tuple[tuple[int, int, int, int], ...] | None
    """(first column, first row, last column + 1, last row + 1) of the base tiles wanted, in two parts
    where the area crosses the antimeridian within the block; None for all."""

    def __str__(self) -> str:
        return f"block {self.tile}"


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """The blocks of one source, in order, and the parameters they share."""

    name: str
    config: SourceConfig
    minzoom: int
    maxzoom: int
    block_zoom: int
    bbox: Bounds | None
    averaged: frozenset[PixelGridKey]
    """The pixel grids that are finer than the base zoom by enough to be averaged."""
    coordinates: npt.NDArray[np.int64]
    """Columns and rows of the blocks at `block_zoom`, shape (n, 2), row by row."""
    margin_m: float
    """How far beyond a block the coarsest file may reach into it, in EPSG:3857 metres."""
    vertical: Conversion = UNCONVERTED
    """How heights are converted to another vertical CRS."""
    encoder: str = ENCODERS[0]
    """What writes the tiles."""
    expected_bytes: float = 0.0
    """Rough size of the archive, from the area of the valid pixels of all files."""

    def blocks(self, index: SourceIndex, first: int = 0) -> Iterator[Block]:
        """Yield the blocks in order from the `first`, reading the files of each from the index."""
        base = self._parameters_digest()
        for x, y in self.coordinates[first:].tolist():
            tile = Tile(self.block_zoom, x, y)
            box = grid.xy_bounds(tile)
            near = index.touching(_widened(box, self.margin_m))
            files = tuple(file for file in near if _reaches(file, box))
            clip = self._clip(tile)
            digest = base.copy()
            digest.update(f"{tile}|{clip}".encode())
            for file in files:
                averaged = pixel_grid_key(file) in self.averaged
                digest.update(f"|{file.fingerprint}{'a' if averaged else ''}".encode())
                if (shift := self.vertical.shift(file.vertical_crs)) is not None:
                    digest.update(f"+{shift.digest}".encode())
            yield Block(tile, digest.hexdigest(), files, clip)

    def parent_key(self, tile: Tile, keys: Mapping[Tile, str]) -> str:
        """Return the key of a tile above the blocks, from the keys of its children."""
        digest = self._parameters_digest()
        digest.update(f"{tile}".encode())
        for child in grid.children(tile):
            digest.update(f"|{keys.get(child, '')}".encode())
        return digest.hexdigest()

    def block_tile_counts(self, index: SourceIndex) -> Iterator[dict[int, int]]:
        """Yield, for each block, how many tiles of its zooms the files' boxes touch: an upper bound."""
        side = 1 << (self.maxzoom - self.block_zoom)
        for block in self.blocks(index):
            counts: dict[int, int] = {}
            touched = _touched_tiles(block, self.maxzoom, side)
            for z in range(self.maxzoom, self.block_zoom - 1, -1):
                if z >= self.minzoom:
                    counts[z] = int(touched.sum())
                if z > self.block_zoom:
                    touched = touched[0::2] | touched[1::2]
                    touched = touched[:, 0::2] | touched[:, 1::2]
            yield counts

    def base_tile_counts(self, index: SourceIndex) -> dict[int, int]:
        """Return, for each zoom, how many tiles the files' boxes touch: an upper bound."""
        counts = dict.fromkeys(range(self.minzoom, self.maxzoom + 1), 0)
        for block_counts in self.block_tile_counts(index):
            for z, count in block_counts.items():
                counts[z] += count
        upper = self.coordinates
        for z in range(self.block_zoom - 1, self.minzoom - 1, -1):
            upper = np.unique(upper >> 1, axis=0)
            counts[z] = len(upper)
        return counts

    def _clip(self, tile: Tile) -> tuple[tuple[int, int, int, int], ...] | None:
        if self.bbox is None:
            return None
        side = 1 << (self.maxzoom - self.block_zoom)
        left, top = tile.x * side, tile.y * side
        clips = []
        for columns, rows in grid.covering_ranges(grid.projected(self.bbox), self.maxzoom):
            clip = (
                max(left, columns.start),
                max(top, rows.start),
                min(left + side, columns.stop),
                min(top + side, rows.stop),
            )
            if clip == (left, top, left + side, top + side):
                return None
            if clip[0] < clip[2] and clip[1] < clip[3]:
                clips.append(clip)
        return tuple(clips)

    def _parameters_digest(self) -> hashlib.blake2b:
        config = self.config
        words = (
            CODE_VERSION + encoder_version(self.encoder),
            self.minzoom,
            self.maxzoom,
            self.block_zoom,
            config.resampling,
            config.nodata,
            config.unit_factor,
            config.offset_m,
        )
        return hashlib.blake2b(repr(words).encode(), digest_size=16)


def plan_source(
    name: str,
    config: SourceConfig,
    index: SourceIndex,
    options: BuildOptions,
    *,
    folder: Path | None = None,
    levels: int = BLOCK_LEVELS,
    encoder: str = ENCODERS[0],
) -> SourcePlan:
    """Return the plan of a source; `folder` is its own, where a geoid grid may be.

    Raises ZoomInvalid and AreaEmpty, and where heights cannot be converted as
    wished what `conversion` raises.
    """
    automatic = min(index.maxzoom(), AUTO_MAXZOOM_CAP)
    maxzoom = options.maxzoom
    if maxzoom is None:
        maxzoom = automatic if config.max_zoom is None else config.max_zoom
    minzoom = 0 if options.minzoom is None else options.minzoom
    if not (minzoom >= 0 and maxzoom <= grid.MAX_ZOOM):
        raise ZoomInvalid(minzoom, maxzoom, f"expected zooms of 0..{grid.MAX_ZOOM}")
    if minzoom > maxzoom:
        raise ZoomInvalid(
            minzoom, maxzoom, f"the base zoom of source {name!r} is {maxzoom}; --max-zoom sets another"
        )
    block_zoom = max(maxzoom - levels, 0)
    boxes = _Boxes.read(index)
    coordinates = _block_coordinates(boxes, block_zoom)
    share, everywhere = 1.0, len(coordinates)
    if options.bbox is not None:
        coordinates = _inside(coordinates, options.bbox, block_zoom)
        if not len(coordinates) or not boxes.touch(options.bbox):
            raise AreaEmpty(name, options.bbox, grid.geographic(index.bounds()))
        share = len(coordinates) / everywhere
    base_m = grid.resolution_m(maxzoom)
    return SourcePlan(
        name=name,
        config=config,
        minzoom=minzoom,
        maxzoom=maxzoom,
        block_zoom=block_zoom,
        bbox=options.bbox,
        averaged=frozenset(key for key, finest in boxes.finest_m.items() if base_m > _AVERAGE_ABOVE * finest),
        coordinates=coordinates,
        margin_m=_MARGIN_PX * boxes.coarsest_m,
        encoder=encoder,
        expected_bytes=share * boxes.valid_m2 / (grid.TILE_SIZE_PX * base_m) ** 2 * PYRAMID * TILE_BYTES,
        vertical=conversion(name, folder, config, index, boxes.declared, options.bbox),
    )


def estimate(plan: SourcePlan, index: SourceIndex, workers: int, cache_mib: int) -> Estimate:
    """Return what building a plan will take."""
    tiles = sum(plan.base_tile_counts(index).values())
    cost = BuildCost.of(workers, cache_mib)
    size = cost.bytes_of(tiles)
    return Estimate(
        source=plan.name,
        files=index.count(),
        blocks=len(plan.coordinates),
        minzoom=plan.minzoom,
        maxzoom=plan.maxzoom,
        tiles=tiles,
        bytes=size,
        workers=workers,
        memory_mib=cost.memory_mib,
        scratch_bytes=size + (64 << 20),
        seconds=cost.seconds_of(tiles),
    )


@dataclass(frozen=True, slots=True)
class _Boxes:
    """The boxes of all files, one row for each part, the resolutions of their pixel grids, and more."""

    parts: npt.NDArray[np.float64]
    finest_m: dict[PixelGridKey, float]
    coarsest_m: float
    valid_m2: float
    """Area of all valid pixels in EPSG:3857; where files overlap it counts twice."""
    declared: dict[str, str]
    """What files say that heights are counted from, with the name of the first that does."""

    @classmethod
    def read(cls, index: SourceIndex) -> _Boxes:
        parts: list[tuple[float, float, float, float]] = []
        finest: dict[PixelGridKey, float] = {}
        coarsest = valid = 0.0
        declared: dict[str, str] = {}
        for file in index.files():
            declared.setdefault(file.vertical_crs, file.filename)
            for part in file.box.parts():
                parts.append((part.left, part.bottom, part.right, part.top))
            sides, key = pixel_sides_m(file), pixel_grid_key(file)
            finest[key] = min(*sides, finest.get(key, sides[0]))
            coarsest = max(coarsest, *sides)
            valid += file.valid_pixels * sides[0] * sides[1]
        return cls(np.array(parts, dtype=np.float64).reshape(-1, 4), finest, coarsest, valid, declared)

    def touch(self, bbox: Bounds) -> bool:
        """Tell whether any file touches a geographic box."""
        return any(
            bool(
                (
                    (self.parts[:, 0] < box.right)
                    & (box.left < self.parts[:, 2])
                    & (self.parts[:, 1] < box.top)
                    & (box.bottom < self.parts[:, 3])
                ).any()
            )
            for box in grid.projected(bbox).parts()
        )


def _block_coordinates(boxes: _Boxes, z: int) -> npt.NDArray[np.int64]:
    """Return the columns and rows of the blocks that any file touches, row by row."""
    codes = np.empty(0, dtype=np.int64)
    waiting: list[npt.NDArray[np.int64]] = []
    for left, bottom, right, top in boxes.parts.tolist():
        columns, rows = grid.covering_range(XYBounds(left, bottom, right, top), z)
        x, y = np.asarray(columns, dtype=np.int64), np.asarray(rows, dtype=np.int64)
        waiting.append(((y[:, None] << z) | x).ravel())
        if len(waiting) >= _UNITED_AT_ONCE:
            codes, waiting = np.unique(np.concatenate([codes, *waiting])), []
    codes = np.unique(np.concatenate([codes, *waiting]))
    return np.stack([codes & ((1 << z) - 1), codes >> z], axis=1)


def _inside(coordinates: npt.NDArray[np.int64], bbox: Bounds, z: int) -> npt.NDArray[np.int64]:
    keep = np.zeros(len(coordinates), dtype=bool)
    for columns, rows in grid.covering_ranges(grid.projected(bbox), z):
        x, y = coordinates[:, 0], coordinates[:, 1]
        keep |= (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)
    return coordinates[keep]


def _touched_tiles(block: Block, maxzoom: int, side: int) -> npt.NDArray[np.bool_]:
    """Return which base tiles of a block any of its files touches, shape (side, side)."""
    touched = np.zeros((side, side), dtype=bool)
    left, top = block.tile.x * side, block.tile.y * side
    for file in block.files:
        for columns, rows in grid.covering_ranges(file.box, maxzoom):
            row = slice(max(rows.start - top, 0), max(rows.stop - top, 0))
            col = slice(max(columns.start - left, 0), max(columns.stop - left, 0))
            touched[row, col] = True
    if block.clip is not None:
        wanted = np.zeros_like(touched)
        for first_col, first_row, last_col, last_row in block.clip:
            wanted[first_row - top : last_row - top, first_col - left : last_col - left] = True
        touched &= wanted
    return touched


def _reaches(file: SourceFile, box: XYBounds) -> bool:
    """Tell whether a file is within a few of its own pixels of a box."""
    near = _widened(box, _MARGIN_PX * max(pixel_sides_m(file)))
    return any(part.intersects(near) for part in file.box.parts())


def _widened(box: XYBounds, margin_m: float) -> XYBounds:
    return XYBounds(box.left - margin_m, box.bottom - margin_m, box.right + margin_m, box.top + margin_m)
