"""A finished layer as one PMTiles: georeferenced where its map is, else a flat picture to zoom into.

Base tiles are the quadrants; each tile above is the mean of its four children in
linear light, transparent where there are none. The same layer makes the same bytes.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fusi_pipeline.errors import FusiError, OutputExists, UsageError
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import GENERATOR
from fusi_pipeline.tiles.files import writable_folder
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.picture import Pixels, joined, overview
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from layer_generation.advance import Advance
from layer_generation.camera import QUADRANT_PX
from layer_generation.errors import ImageInvalid, LayerIncomplete
from layer_generation.export_metadata import PROVENANCE, Placing, layer_metadata, placing_of, summary_of
from layer_generation.layer_config import read_layer
from layer_generation.pictures import decoded
from layer_generation.progress import Progress
from layer_generation.pyramid import TileFormat
from layer_generation.quadrants import QuadrantStore

_SUBTREE_LEVELS = 3
"""Zooms of tiles that are made together, from 8 x 8 quadrants."""
GENERATIONS = "generations"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written."""

    path: Path
    kind: str
    """`web-mercator` or `isometric`."""
    quadrants: int
    """Quadrants written as base tiles."""
    missing: int
    """Quadrants of the plan that are not finished."""
    tiles: int
    bytes: int
    minzoom: int
    maxzoom: int
    models: Mapping[str, int]
    """Blocks that each model drew."""


def export_layer(
    layer_dir: Path,
    output: Path,
    *,
    tile_format: TileFormat | None = None,
    kind: str = "overlay",
    minzoom: int = 0,
    partial: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> Generator[Advance, None, ExportReport]:
    """Write the finished quadrants of a layer into a PMTiles, absent or complete.

    Raises LayerIncomplete where quadrants are missing and it is not to be
    `partial`, OutputExists for a file of others, ImageInvalid for a picture that
    is not what its block says.
    """
    tile_format = tile_format or TileFormat()
    check_output(output, overwrite=overwrite)
    config = read_layer(layer_dir)
    with Progress(layer_dir) as progress:
        summary = summary_of(progress)
    if not summary.finished:
        raise FusiError(f"{layer_dir}: no block is finished yet; `fusi layer generate` draws them")
    if summary.missing and not partial:
        raise LayerIncomplete(layer_dir, summary.missing, summary.quadrants)
    with QuadrantStore(config.map_folder(layer_dir)) as store:
        geometry, terrain = store.geometry, store.fact("terrain")
    placing = placing_of(geometry, summary.finished)
    if not minzoom <= placing.zoom:
        raise UsageError(f"--min-zoom {minzoom}: the layer's own zoom is {placing.zoom}")
    metadata = layer_metadata(
        config, geometry, placing, summary, terrain if isinstance(terrain, dict) else {},
        kind=kind, image_format=tile_format.name, minzoom=minzoom,
    )  # fmt: skip
    files = {tile: layer_dir / GENERATIONS / f"{x}_{y}.png" for tile, (x, y) in placing.quadrants.items()}
    writable_folder(output.parent)
    with tempfile.TemporaryFile(dir=output.parent) as scratch:
        spool = _Spool(scratch)
        yield from _made(files, placing, minzoom, tile_format, spool, workers)
        with PMTilesWriter(output, metadata, len(spool)) as writer:
            for done, (tile, data) in enumerate(spool.in_order(), 1):
                writer.write(tile, data)
                if done % 256 == 0 or done == len(spool):
                    yield Advance("pack", done, len(spool), "tiles")
    return ExportReport(
        path=output,
        kind="isometric" if placing.flat else "web-mercator",
        quadrants=len(files),
        missing=summary.missing,
        tiles=len(spool),
        bytes=output.stat().st_size,
        minzoom=minzoom,
        maxzoom=placing.zoom,
        models=summary.models,
    )


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raise UsageError for a name that is no PMTiles', OutputExists for a file that is no exported layer."""
    if output.suffix != ".pmtiles":
        raise UsageError(f"{output}: give a name that ends in .pmtiles")
    if not output.exists() or overwrite:
        return
    try:
        with open_archive(output) as reader:
            extra = reader.metadata.extra
    except FusiError:
        extra = {}
    if extra.get("generator") != GENERATOR or PROVENANCE not in extra:
        raise OutputExists(output)


class _Spool:
    """Tiles in a temporary file, until all are there and can be told in order."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[Tile, tuple[int, int]] = {}
        self._end = 0

    def __len__(self) -> int:
        return len(self._places)

    def add(self, tile: Tile, data: bytes) -> None:
        """Append a tile."""
        self._file.write(data)
        self._places[tile] = (self._end, len(data))
        self._end += len(data)

    def in_order(self) -> Iterator[tuple[Tile, bytes]]:
        """Yield the tiles in the order of a PMTiles."""
        for z in sorted({tile.z for tile in self._places}):
            tiles = [tile for tile in self._places if tile.z == z]
            order = grid.hilbert_indices(z, [tile.x for tile in tiles], [tile.y for tile in tiles])
            for number in np.argsort(order):
                offset, length = self._places[tiles[number]]
                self._file.seek(offset)
                yield tiles[number], self._file.read(length)


@dataclass(frozen=True, slots=True)
class _Subtree:
    """The tiles of a part of the map, and the picture of the topmost."""

    root: Tile
    tiles: tuple[tuple[Tile, bytes], ...]
    picture: Pixels


def _made(
    files: Mapping[Tile, Path],
    placing: Placing,
    minzoom: int,
    tile_format: TileFormat,
    spool: _Spool,
    workers: int,
) -> Generator[Advance, None, None]:
    """Make all tiles into a spool: parts of the map by workers, then the tiles above them."""
    levels = min(_SUBTREE_LEVELS, placing.zoom - minzoom)
    parts: dict[Tile, dict[Tile, Path]] = {}
    for tile, path in files.items():
        parts.setdefault(grid.parent(tile, levels), {})[tile] = path
    pictures: dict[Tile, Pixels] = {}
    done = 0
    yield Advance("draw", 0, len(files), "quadrants")
    for part in _subtrees(parts, tile_format, workers):
        for tile, data in part.tiles:
            spool.add(tile, data)
        pictures[part.root] = overview(part.picture)
        done += len(parts[part.root])
        yield Advance("draw", done, len(files), "quadrants")
    for _ in range(placing.zoom - levels - minzoom):
        above: dict[Tile, dict[Tile, Pixels]] = {}
        for tile in sorted(pictures):
            above.setdefault(grid.parent(tile), {})[tile] = pictures[tile]
        pictures = {}
        for tile, quarters in above.items():
            picture = _joined(tile, quarters)
            spool.add(tile, tile_format.encoded(picture))
            pictures[tile] = overview(picture)


def _subtrees(
    parts: Mapping[Tile, Mapping[Tile, Path]], tile_format: TileFormat, workers: int
) -> Iterator[_Subtree]:
    """Yield the parts of the map in order; at most two for each worker are under way."""
    waiting: deque[Future[_Subtree]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for root in sorted(parts):
                waiting.append(pool.submit(_subtree, root, parts[root], tile_format))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _subtree(root: Tile, files: Mapping[Tile, Path], tile_format: TileFormat) -> _Subtree:
    """Make the tiles of one part of the map, from its quadrants up."""
    tiles: list[tuple[Tile, bytes]] = []

    def picture_of(tile: Tile, below: Mapping[Tile, Path]) -> Pixels:
        if tile in below:
            picture = _quadrant(below[tile])
        else:
            levels = next(iter(below)).z - tile.z - 1
            quarters: dict[Tile, dict[Tile, Path]] = {}
            for one, path in below.items():
                quarters.setdefault(grid.parent(one, levels), {})[one] = path
            picture = _joined(
                tile,
                {child: overview(picture_of(child, part)) for child, part in quarters.items()},
            )
        tiles.append((tile, tile_format.encoded(picture)))
        return picture

    picture = picture_of(root, files)
    return _Subtree(root, tuple(sorted(tiles)), picture)


def _quadrant(path: Path) -> Pixels:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageInvalid(
            path, f"{error.strerror or error}, though its block is complete; `fusi layer generate` remakes it"
        ) from error
    try:
        pixels = decoded(data, path)
    except ImageInvalid as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ImageInvalid(path, f"{reason}; delete it, and `fusi layer generate` remakes it") from error
    if pixels.shape[:2] != (QUADRANT_PX, QUADRANT_PX):
        raise ImageInvalid(path, f"is {pixels.shape[1]} x {pixels.shape[0]} px, a quadrant {QUADRANT_PX}")
    return pixels


def _joined(tile: Tile, quarters: Mapping[Tile, Pixels]) -> Pixels:
    """Return the picture of a tile, shape (512, 512, 4), from the halved ones of its children."""
    return joined([quarters.get(child) for child in grid.children(tile)])
