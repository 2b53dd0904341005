"""A new archive of tiles that come in the order of tile ids, in the format that its name says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from fusi_pipeline.errors import UsageError
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import BlockRecord, digests_of
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter

_BATCH_TILES = 64


class TileWriter(Protocol):
    """What tiles are written to."""

    def write(self, tile: Tile, data: bytes) -> None:
        """Append a tile."""
        ...


@contextmanager
def archive_writer(path: Path, metadata: ArchiveMetadata, expected_tiles: int) -> Iterator[TileWriter]:
    """Yield a writer of a PMTiles or MBTiles file; the file takes its name when the block ends well."""
    if path.suffix == ".pmtiles":
        with PMTilesWriter(path, metadata, expected_tiles) as writer:
            yield writer
    elif path.suffix == ".mbtiles":
        with _MBTiles(path) as batches:
            yield batches
            batches.finish(metadata)
    else:
        raise UsageError(f"{path}: give a name that ends in .pmtiles or .mbtiles")


class _MBTiles:
    """An MBTiles written from its beginning, in batches that its ledger lists."""

    def __init__(self, path: Path) -> None:
        MBTilesWriter(path).discard()
        self._writer = MBTilesWriter(path)
        self._batch: list[tuple[Tile, bytes]] = []

    def write(self, tile: Tile, data: bytes) -> None:
        """Append a tile."""
        self._batch.append((tile, data))
        if len(self._batch) >= _BATCH_TILES:
            self._flush()

    def _flush(self) -> None:
        if self._batch:
            size = sum(len(data) for _, data in self._batch)
            digests = digests_of(self._batch)
            first = self._batch[0][0]
            record = BlockRecord(first, digests[9:25].hex(), len(self._batch), size, None, None, digests)
            self._writer.commit(record, self._batch)
            self._batch = []

    def finish(self, metadata: ArchiveMetadata) -> None:
        """Write what is left and give the file its name."""
        self._flush()
        self._writer.finish(metadata)

    def __enter__(self) -> _MBTiles:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._writer.discard()
