"""What a worker process does in a merge: the tiles of one cell, each copied, merged or flattened.

A source without a tile at a zoom above its own takes part through its ancestor
tile, interpolated together with the ancestor's neighbours, so that nothing
shows at tile borders.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fusi_pipeline import merge
from fusi_pipeline.errors import TileCorrupt
from fusi_pipeline.overzoom import overzoom
from fusi_pipeline.tasks import CHOICE, COPIED, Made, MergeCell, MergeContext
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp, encode_webp
from fusi_pipeline.tiles.mbtiles import BlockRecord
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.resample import Heights

_CACHED_TILES = 48
"""Decoded ancestor tiles kept by a worker for all its inputs, 1 MiB each."""


_Decoded = OrderedDict[tuple[Path, Tile], Heights | None]


class _Input:
    """One archive that takes part in the merge; `decoded` is a cache that all inputs share."""

    def __init__(self, reader: TileReader, decoded: _Decoded) -> None:
        self.reader = reader
        self.maxzoom = reader.metadata.maxzoom
        self._decoded = decoded

    def heights(self, tile: Tile, data: bytes) -> Heights:
        """Return the decoded heights of a tile. Raises TileCorrupt."""
        try:
            pixels = decode_webp(data)
        except ImageInvalid as error:
            raise TileCorrupt(self.reader.path, tile, str(error)) from error
        if pixels.shape[:2] != (TILE_SIZE_PX, TILE_SIZE_PX):
            size = f"{pixels.shape[1]} x {pixels.shape[0]} px"
            raise TileCorrupt(self.reader.path, tile, f"it is {size}, not {TILE_SIZE_PX} x {TILE_SIZE_PX}")
        return terrarium.decode(pixels)

    def cached(self, tile: Tile) -> Heights | None:
        """Return the heights of a tile that will be asked for again, or None where there is none."""
        key = (self.reader.path, tile)
        if key in self._decoded:
            self._decoded.move_to_end(key)
            return self._decoded[key]
        data = self.reader.read(tile)
        heights = None if data is None else self.heights(tile, data)
        self._decoded[key] = heights
        if len(self._decoded) > _CACHED_TILES:
            self._decoded.popitem(last=False)
        return heights


class _Worker:
    """A worker's own state: the open archives."""

    def __init__(self, context: MergeContext) -> None:
        self.mode = context.mode
        self._stack = ExitStack()
        decoded: _Decoded = OrderedDict()
        readers = [self._stack.enter_context(open_archive(path)) for path in context.inputs]
        self.inputs = [_Input(reader, decoded) for reader in readers]


_worker: _Worker | None = None


def start(context: MergeContext) -> None:
    """Prepare this process for the cells of one merge."""
    global _worker
    _worker = _Worker(context)


def merge_cell(cell: MergeCell) -> Made:
    """Return the tiles of a cell that had to be encoded, and how each of its tiles came about.

    The record's `overview` holds a number (CHOICE) for each tile of the cell, in
    order: 0 encoded here, COPIED + i copied from input i.
    """
    assert _worker is not None, "start() has not run in this process"
    tiles: list[tuple[Tile, bytes]] = []
    choices: list[int] = []
    for x, y in cell.coordinates.tolist():
        tile = Tile(cell.z, x, y)
        choice, data = _merge_tile(_worker, tile)
        choices.append(choice)
        if data is not None:
            tiles.append((tile, data))
    size = sum(len(data) for _, data in tiles)
    packed = np.array(choices, dtype=CHOICE).tobytes()
    return Made(BlockRecord(cell.tile, cell.key, len(tiles), size, None, packed), tuple(tiles))


def _merge_tile(worker: _Worker, tile: Tile) -> tuple[int, bytes | None]:
    """Return (COPIED + input, None) for a tile to be copied, or (0, bytes) for one encoded here."""
    copies: list[int] = []

    def layers() -> Iterator[Heights]:
        for number, one in enumerate(worker.inputs):
            if tile.z > one.maxzoom:
                heights = overzoom(tile, tile.z - one.maxzoom, one.cached)
                if heights is not None:
                    copies.append(-1)
                    yield heights
                continue
            data = one.reader.read(tile)
            if data is not None:
                heights = one.heights(tile, data)
                copies.append(-1 if np.isnan(heights).any() else number)
                yield heights

    merged = _merged(layers(), worker.mode)
    if len(copies) == 1 and copies[0] >= 0:
        return COPIED + copies[0], None
    pixels = terrarium.encode(np.nan_to_num(merged, nan=0.0), tile.z)
    assert pixels is not None, "no pixel is missing once 0 m has taken its place"
    return 0, encode_webp(pixels)


def _merged(layers: Iterator[Heights], mode: str) -> Heights:
    """Return the layers merged; with `priority`, layers below a complete one are not even decoded."""
    return merge.filled(layers) if mode == "priority" else merge.combined(list(layers), mode)
