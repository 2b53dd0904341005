"""MBTiles 1.3 archives written: SQLite files of tiles, with the ledger of the blocks that made them.

A writer works on `NAME.mbtiles.partial` in WAL mode and gives the file its name
when it is whole, so that an archive is absent or complete. A block's tiles and
its ledger row are one transaction: after a crash the ledger tells exactly what
is there.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from fusi_pipeline.errors import DiskFull
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.files import sync, writable_folder
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import (
    COLUMNS,
    DIGESTS,
    LEDGER_SCHEMA,
    LEDGER_VERSION,
    BlockRecord,
    checksum_of,
    digest_of,
    record_of,
    records,
    row_of,
)
from fusi_pipeline.tiles.mbtiles_metadata import metadata_rows
from fusi_pipeline.tiles.mbtiles_rows import TILES_SCHEMA, place_of, tile_row
from fusi_pipeline.tiles.sqlite import LOCK_TIMEOUT_S, sqlite_errors

PARTIAL_SUFFIX = ".partial"
_APPLICATION_ID = 0x4D504258
_PAGE_SIZE = 16384
_CHANGE_COUNTERS = (24, 92)
"""Offsets of the file change counter and of its copy beside SQLite's version."""


@dataclass(frozen=True, slots=True)
class WriterPace:
    """How often a writer empties its log, and how long it pauses for a slow disk."""

    checkpoint_interval: int = 16
    """Blocks between two `wal_checkpoint(TRUNCATE)`."""
    commit_sleep_s: float = 0.0
    """Pause after each transaction."""
    batch_sleep_s: float = 0.0
    """Pause after each batch of tiles inside a transaction."""
    batch_tiles: int = 64
    """Tiles in a batch."""


def partial_path(path: Path) -> Path:
    """Return the name under which an archive is being written."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


class MBTilesWriter:
    """The one writer of an archive. Use it as a context manager.

    Leaving the block without `finish` keeps the partial file, from which the
    next writer of the same archive goes on.
    """

    def __init__(self, path: Path, pace: WriterPace | None = None) -> None:
        """Open the partial file of `path`, a new one or what an earlier run left.

        Raises OutputBusy, OutputUnwritable, DiskFull.
        """
        self.path = path
        self.partial = partial_path(path)
        self._pace = pace or WriterPace()
        self._since_checkpoint = 0
        writable_folder(path.parent)
        with sqlite_errors(self.partial):
            self._connection = self._open()
            self._position = int(
                self._connection.execute("SELECT coalesce(max(position), 0) FROM fusi_blocks").fetchone()[0]
            )

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.partial, isolation_level=None, timeout=LOCK_TIMEOUT_S)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("BEGIN IMMEDIATE")
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if tables and version != LEDGER_VERSION:  # another fusi began it
                connection.execute("ROLLBACK")
                connection.close()
                _remove(self.partial)
                return self._open()
            if not tables:
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {LEDGER_VERSION}")
                for statement in filter(str.strip, f"{TILES_SCHEMA}{LEDGER_SCHEMA}".split(";")):
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def ledger(self, *, overviews: bool = False) -> Iterator[BlockRecord]:
        """Yield the committed blocks in the order they were committed, with their overviews if asked."""
        with sqlite_errors(self.partial):
            yield from records(self._connection, overviews=overviews)

    def read(self, tile: Tile) -> bytes | None:
        """Return a committed tile's bytes, or None where there is none."""
        with sqlite_errors(self.partial):
            row = tile_row(self._connection, tile)
        return None if row is None else row[0]

    @property
    def count(self) -> int:
        """How many blocks are committed."""
        return self._position

    def key(self, tile: Tile) -> str | None:
        """Return the key of a committed block; None without one."""
        with sqlite_errors(self.partial):
            row = self._connection.execute(
                "SELECT key FROM fusi_blocks WHERE z = ? AND x = ? AND y = ?", (tile.z, tile.x, tile.y)
            ).fetchone()
        return None if row is None else str(row[0])

    def block(self, tile: Tile) -> BlockRecord | None:
        """Return the ledger row of a committed block, with its overview; None without one."""
        with sqlite_errors(self.partial):
            row = self._connection.execute(
                f"SELECT {COLUMNS} FROM fusi_blocks WHERE z = ? AND x = ? AND y = ?",
                (tile.z, tile.x, tile.y),
            ).fetchone()
        return None if row is None else record_of(row)

    def tiles_of(self, record: BlockRecord) -> tuple[tuple[Tile, bytes], ...] | None:
        """Return the tiles of a committed block as they were written; None where they are not those."""
        places = np.frombuffer(record.digests, dtype=DIGESTS)
        found = []
        for z, x, y, digest in places.tolist():
            data = self.read(Tile(z, x, y))
            if data is None or digest_of(data) != bytes(digest):
                return None
            found.append((Tile(z, x, y), data))
        return tuple(found)

    def left_for_parent(self, tile: Tile) -> tuple[bytes | None, tuple[int, int, int, int] | None]:
        """Return the packed overview and the extent of a committed block; (None, None) without one."""
        record = self.block(tile)
        return (None, None) if record is None else (record.overview, record.extent)

    def set_aside(self, path: Path) -> None:
        """Leave WAL mode and give the unfinished file another name, for its blocks to be reused."""
        self._leave_wal()
        os.replace(self.partial, path)

    def commit(
        self, record: BlockRecord, tiles: Iterable[tuple[Tile, bytes]], *, replace: bool = False
    ) -> None:
        """Add a block: its tiles and its ledger row, in one transaction. Raises DiskFull.

        A commit that raised has changed nothing and may be tried again. With
        `replace` a block or tile that is there already makes way.
        """
        with sqlite_errors(self.partial):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if replace:
                    tiles = self._make_way(record, tiles)
                self._insert(tiles)
                self._connection.execute(
                    "INSERT INTO fusi_blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (self._position + 1, *row_of(record), checksum_of(record)),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._position += 1
            self._since_checkpoint += 1
            if self._since_checkpoint >= self._pace.checkpoint_interval:
                self._checkpoint_if_room()
        if self._pace.commit_sleep_s:
            time.sleep(self._pace.commit_sleep_s)

    def _make_way(self, record: BlockRecord, tiles: Iterable[tuple[Tile, bytes]]) -> list[tuple[Tile, bytes]]:
        """Remove a block's ledger row and its tiles' rows; return the tiles that take their place."""
        place = (record.tile.z, record.tile.x, record.tile.y)
        self._connection.execute("DELETE FROM fusi_blocks WHERE z = ? AND x = ? AND y = ?", place)
        new = list(tiles)
        self._connection.executemany(
            "DELETE FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            [place_of(tile) for tile, _ in new],
        )
        return new

    def _insert(self, tiles: Iterable[tuple[Tile, bytes]]) -> None:
        batch: list[tuple[int, int, int, bytes]] = []
        for tile, data in tiles:
            batch.append((*place_of(tile), data))
            if len(batch) >= self._pace.batch_tiles:
                self._insert_batch(batch)
                batch = []
        self._insert_batch(batch)

    def _insert_batch(self, batch: list[tuple[int, int, int, bytes]]) -> None:
        if not batch:
            return
        self._connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", batch)
        if self._pace.batch_sleep_s:
            time.sleep(self._pace.batch_sleep_s)

    def _checkpoint_if_room(self) -> None:
        """Empty the log, or leave it where the disk is full: what it holds is committed."""
        with suppress(DiskFull), sqlite_errors(self.partial):
            self.checkpoint()

    def checkpoint(self) -> None:
        """Move the log into the file and truncate it."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._since_checkpoint = 0

    def finish(self, metadata: ArchiveMetadata) -> None:
        """Write the metadata, leave WAL mode and give the file its name. Raises DiskFull."""
        with sqlite_errors(self.partial):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("DELETE FROM metadata")
            self._connection.executemany("INSERT INTO metadata VALUES (?, ?)", metadata_rows(metadata))
            self._connection.execute("COMMIT")
            self._leave_wal()
        _forget_sessions(self.partial)
        os.replace(self.partial, self.path)
        sync(self.path.parent)

    def discard(self) -> None:
        """Close the unfinished file and remove it."""
        self._connection.close()
        _remove(self.partial)

    def _leave_wal(self) -> None:
        self.checkpoint()
        self._connection.execute("PRAGMA locking_mode = NORMAL")
        self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()

    def close(self) -> None:
        """Release the file; what is committed stays in it."""
        with suppress(sqlite3.Error):
            self.checkpoint()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(sqlite3.ProgrammingError):
            self.close()


def _remove(path: Path) -> None:
    """Remove a database that is closed, and its log."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _forget_sessions(path: Path) -> None:
    """Set the counters of a closed file that tell in how many sessions it was written.

    An archive made after an interruption then has the bytes of any other.
    Source: SQLite database file format, sections 1.3.7 and 1.3.17.
    """
    with path.open("r+b") as file:
        for offset in _CHANGE_COUNTERS:
            file.seek(offset)
            file.write((1).to_bytes(4, "big"))
        file.flush()
        os.fsync(file.fileno())
