"""MBTiles 1.3 archives: SQLite files of tiles, with the ledger of the blocks that made them.

The only place where a TMS row exists. A writer works on `NAME.mbtiles.partial`
in WAL mode and gives the file its name when it is whole, so that an archive is
absent or complete. A block's tiles and its ledger row are one transaction:
after a crash the ledger tells exactly what is there.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, DiskFull
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.files import sync, writable_folder
from fusi_pipeline.tiles.grid import MAX_ZOOM, Tile
from fusi_pipeline.tiles.mbtiles_metadata import metadata_rows, read_metadata
from fusi_pipeline.tiles.sqlite import LOCK_TIMEOUT_S, sqlite_errors
from fusi_pipeline.tiles.stated import text

PARTIAL_SUFFIX = ".partial"
_APPLICATION_ID = 0x4D504258
_LEDGER_VERSION = 3
_PAGE_SIZE = 16384
_BLOCK_LEVELS = 2
"""How many zooms below its own tile a block's deepest tiles are, at most."""
_CHANGE_COUNTERS = (24, 92)
"""Offsets of the file change counter and of its copy beside SQLite's version."""
_ON_GRID = f"""
    typeof(zoom_level) = 'integer' AND zoom_level BETWEEN 0 AND {MAX_ZOOM}
    AND typeof(tile_column) = 'integer' AND tile_column BETWEEN 0 AND (1 << zoom_level) - 1
    AND typeof(tile_row) = 'integer' AND tile_row BETWEEN 0 AND (1 << zoom_level) - 1
"""
"""Whether a row of `tiles` is a place of the grid; SQLite stores anything in any column."""
_SCHEMA = """
CREATE TABLE metadata (name TEXT, value TEXT);
CREATE UNIQUE INDEX metadata_name ON metadata (name);
CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB);
CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);
CREATE TABLE fusi_blocks (
    position INTEGER PRIMARY KEY,
    z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL,
    key TEXT NOT NULL,
    tiles INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    extent TEXT,
    overview BLOB,
    digests BLOB NOT NULL,
    checksum BLOB NOT NULL
);
CREATE INDEX fusi_blocks_key ON fusi_blocks (key);
CREATE INDEX fusi_blocks_tile ON fusi_blocks (z, x, y);
"""


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """A row of the ledger: one block, its content key, and what it left for the tiles above."""

    tile: Tile
    """The tile that the block fills."""
    key: str
    """Hash of everything the block's bytes depend on."""
    tiles: int
    """Number of tiles the block has in the archive."""
    size_bytes: int
    """Their size."""
    extent: tuple[int, int, int, int] | None
    """(first column, first row, last column + 1, last row + 1) of its valid pixels at the base zoom."""
    overview: bytes | None
    """Its heights at half the resolution of its own tile, packed, for the overviews above."""
    digests: bytes = b""
    """A hash of each of its tiles, packed (see `digests_of`)."""


DIGEST_BYTES = 16
DIGESTS = np.dtype([("z", "u1"), ("x", "<u4"), ("y", "<u4"), ("digest", f"V{DIGEST_BYTES}")])
"""A tile and the BLAKE2b hash, 16 bytes, of its bytes in the archive."""


def digest_of(data: bytes) -> bytes:
    """Return the hash of a tile's bytes, 16 bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digests_of(tiles: Iterable[tuple[Tile, bytes]]) -> bytes:
    """Return the hash of each tile, packed as DIGESTS, in the order given."""
    rows = [(tile.z, tile.x, tile.y, digest_of(data)) for tile, data in tiles]
    return np.array(rows, dtype=DIGESTS).tobytes()


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


def _tms_row(tile: Tile) -> int:
    """Return the MBTiles row, which counts from the south (spec 1.3)."""
    return (1 << tile.z) - 1 - tile.y


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
            if tables and version != _LEDGER_VERSION:  # another fusi began it
                connection.execute("ROLLBACK")
                connection.close()
                _remove(self.partial)
                return self._open()
            if not tables:
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_LEDGER_VERSION}")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def ledger(self, *, overviews: bool = False) -> Iterator[BlockRecord]:
        """Yield the committed blocks in the order they were committed, with their overviews if asked."""
        with sqlite_errors(self.partial):
            yield from _ledger(self._connection, overviews)

    def read(self, tile: Tile) -> bytes | None:
        """Return a committed tile's bytes, or None where there is none."""
        with sqlite_errors(self.partial):
            row = _row_of(self._connection, tile)
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
                "SELECT z, x, y, key, tiles, bytes, extent, overview, digests FROM fusi_blocks"
                " WHERE z = ? AND x = ? AND y = ?",
                (tile.z, tile.x, tile.y),
            ).fetchone()
        return None if row is None else _record(row)

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
                    (self._position + 1, *_row(record), _checksum(record)),
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
            [(tile.z, tile.x, _tms_row(tile)) for tile, _ in new],
        )
        return new

    def _insert(self, tiles: Iterable[tuple[Tile, bytes]]) -> None:
        batch: list[tuple[int, int, int, bytes]] = []
        for tile, data in tiles:
            batch.append((tile.z, tile.x, _tms_row(tile), data))
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


class MBTilesReader:
    """A complete MBTiles archive, opened for reading. Use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open an archive. Raises ArchiveMissing and ArchiveUnreadable."""
        self.path = path
        if not path.is_file():
            raise ArchiveMissing(path)
        try:
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles LIMIT 1")
            self._values = _values(self._connection)
        except sqlite3.Error as error:
            raise ArchiveUnreadable(path, f"not a sound MBTiles archive ({error})") from error

    @property
    def metadata(self) -> ArchiveMetadata:
        """What the archive says of itself; zooms it does not state are taken from the tiles."""
        return self._stated[0]

    @property
    def states_bounds(self) -> bool:
        """Whether it states bounds that can be right; its metadata has the world's where not."""
        return self._stated[1]

    @cached_property
    def _stated(self) -> tuple[ArchiveMetadata, bool]:
        return read_metadata(self._values, self.path.stem, self.counts)

    def read(self, tile: Tile) -> bytes | None:
        """Return a tile's bytes, or None where the archive has none. Raises ArchiveUnreadable."""
        with self._readable():
            row = _row_of(self._connection, tile)
        if row is not None and row[0] is None:
            raise ArchiveUnreadable(self.path, f"tile {tile} has a row without bytes; remove that row")
        return None if row is None else row[0]

    def coordinates(self, z: int) -> npt.NDArray[np.uint32]:
        """Return the (x, y) of every tile at a zoom, shape (n, 2), by column. Raises ArchiveUnreadable."""
        rows = self._query(
            "SELECT tile_column, tile_row FROM tiles WHERE zoom_level = ? ORDER BY tile_column, tile_row",
            (z,),
        )
        chunks: list[npt.NDArray[np.uint32]] = []
        while chunk := list(islice(rows, 65536)):
            places = np.array(chunk)
            whole = 0 <= z <= MAX_ZOOM and places.dtype == np.int64
            if not (whole and ((places >= 0) & (places < 1 << z)).all()):
                raise self._off_grid()
            chunks.append(places.astype(np.uint32))
        if not chunks:
            return np.empty((0, 2), dtype=np.uint32)
        coordinates = np.concatenate(chunks)
        coordinates[:, 1] = (1 << z) - 1 - coordinates[:, 1]
        return coordinates

    def counts(self) -> dict[int, int]:
        """Return the number of tiles at each zoom that has some.

        Raises ArchiveUnreadable for a row that is no place of the tile grid.
        """
        found: dict[int, int] = {}
        for z, count, sound in self._query(
            "SELECT CASE typeof(zoom_level) WHEN 'integer' THEN zoom_level END, count(*),"
            f" sum({_ON_GRID}) FROM tiles GROUP BY zoom_level ORDER BY zoom_level",
            (),
        ):
            if count != sound:
                raise self._off_grid()
            found[z] = count
        return found

    def _off_grid(self) -> ArchiveUnreadable:
        """Return the error that names the first row of `tiles` that is no place of the grid."""
        row = self._query(
            "SELECT CAST(quote(zoom_level) AS BLOB), CAST(quote(tile_column) AS BLOB),"
            f" CAST(quote(tile_row) AS BLOB) FROM tiles WHERE ({_ON_GRID}) IS NOT 1 LIMIT 1",
            (),
        )
        z, column, tms_row = (" ".join(text(value).split())[:40] for value in next(row, ("?",) * 3))
        place = f"row zoom {z} column {column} row {tms_row} of its tiles table"
        return ArchiveUnreadable(self.path, f"{place} is on no tile grid; remove it from the table")

    def ledger(self) -> Iterator[BlockRecord]:
        """Yield the blocks the archive was made of, without their overviews; none in foreign archives."""
        if self.has_ledger:
            with self._sound_ledger():
                yield from _ledger(self._connection, False)

    def digests(self) -> Iterator[npt.NDArray[np.void]]:
        """Yield the hashes of the tiles of each block as the ledger has them, arrays of dtype DIGESTS."""
        if self.has_ledger:
            with self._sound_ledger():
                for (packed,) in self._query("SELECT digests FROM fusi_blocks ORDER BY position", ()):
                    yield np.frombuffer(packed, dtype=DIGESTS)

    def stated_digest(self, tile: Tile) -> bytes | None:
        """Return the hash that the ledger has of a tile in the row of its own block; None without one."""
        if not self.has_ledger:
            return None
        for up in range(min(tile.z, _BLOCK_LEVELS) + 1):
            place = (tile.z - up, tile.x >> up, tile.y >> up)
            rows = self._query("SELECT digests FROM fusi_blocks WHERE z = ? AND x = ? AND y = ?", place)
            with self._sound_ledger():
                for (packed,) in rows:
                    known = np.frombuffer(packed, dtype=DIGESTS)
                    of_tile = (known["z"] == tile.z) & (known["x"] == tile.x) & (known["y"] == tile.y)
                    for digest in known["digest"][of_tile]:
                        return bytes(digest.tobytes())
        return None

    @cached_property
    def has_ledger(self) -> bool:
        """Whether fusi wrote the archive, at a version whose ledger can be read."""
        (version,) = next(self._query("PRAGMA user_version", ()))
        names = {name for (name,) in self._query("SELECT name FROM sqlite_master WHERE type = 'table'", ())}
        return "fusi_blocks" in names and version == _LEDGER_VERSION

    def block(self, tile: Tile, key: str) -> BlockRecord | None:
        """Return a block of the ledger, with its overview, where its key is `key` and the row is sound."""
        rows = self._query(
            "SELECT z, x, y, key, tiles, bytes, extent, overview, digests, checksum FROM fusi_blocks"
            " WHERE z = ? AND x = ? AND y = ? AND key = ?",
            (tile.z, tile.x, tile.y, key),
        )
        with self._sound_ledger():
            for *row, checksum in rows:
                record = _record(tuple(row))
                if _checksum(record) == checksum:
                    return record
        return None

    def sound_blocks(self) -> Iterator[bool]:
        """Yield for each block of the ledger whether its row and its tiles are as they were written.

        Reads the whole archive, in the order of the file. A last False is for tiles
        that no block accounts for.
        """
        tiles = self._query(
            "SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY rowid", ()
        )
        rows = self._query(
            "SELECT z, x, y, key, tiles, bytes, extent, overview, digests, checksum FROM fusi_blocks"
            " ORDER BY position",
            (),
        )
        with self._sound_ledger():
            for *row, checksum in rows:
                record = _record(tuple(row))
                own = (
                    (Tile(z, x, (1 << z) - 1 - y), bytes(data))
                    for z, x, y, data in islice(tiles, max(record.tiles, 0))
                )
                yield digests_of(own) == record.digests and _checksum(record) == checksum
        if next(tiles, None) is not None:
            yield False

    def states(self, metadata: ArchiveMetadata) -> bool:
        """Tell whether the archive states exactly this metadata."""
        return self._values == dict(metadata_rows(metadata))

    def square(self, tile: Tile, z: int) -> Iterator[tuple[Tile, bytes]]:
        """Yield the tiles at zoom `z` that a tile of the same or a lower zoom holds, row by row."""
        levels = z - tile.z
        side = 1 << levels
        top = tile.y << levels
        for y in range(top, top + side):
            for x in range(tile.x << levels, (tile.x << levels) + side):
                one = Tile(z, x, y)
                data = self.read(one)
                if data is not None:
                    yield one, data

    def integrity_problem(self, *, indices: bool = False) -> str | None:
        """Return what SQLite's own check finds wrong with the file, with its indices if asked, or None."""
        check = "integrity_check" if indices else "quick_check"
        try:
            verdict = str(self._connection.execute(f"PRAGMA {check}(1)").fetchone()[0])
        except sqlite3.Error as error:
            return str(error)
        return None if verdict == "ok" else verdict

    def _query(self, sql: str, values: tuple[object, ...]) -> Iterator[Any]:
        """Yield the rows of a query. Raises ArchiveUnreadable, also for what only a later row shows."""
        with self._readable():
            yield from self._connection.execute(sql, values)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ArchiveUnreadable(self.path, f"SQLite cannot read it ({error})") from error
        except UnicodeDecodeError as error:  # which SQLite's own errors may hold
            raise ArchiveUnreadable(self.path, "holds text that is no UTF-8") from error

    @contextmanager
    def _sound_ledger(self) -> Iterator[None]:
        try:
            with self._readable():
                yield
        except (TypeError, ValueError, OverflowError) as error:
            reason = "its ledger is damaged; make the archive again with `fusi build NAME --overwrite`"
            raise ArchiveUnreadable(self.path, reason) from error

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _values(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the rows of the table `metadata` as text; none where there is no such table."""
    tables = "SELECT count(*) FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = 'metadata'"
    if not connection.execute(tables).fetchone()[0]:
        return {}
    connection.text_factory = bytes  # what is no UTF-8 is not worth an archive
    try:
        rows = connection.execute("SELECT name, value FROM metadata").fetchall()
    finally:
        connection.text_factory = str
    return {text(name): text(value) for name, value in rows if value is not None}


def _row(record: BlockRecord) -> tuple[object, ...]:
    extent = None if record.extent is None else ",".join(str(value) for value in record.extent)
    tile = record.tile
    facts = (tile.z, tile.x, tile.y, record.key, record.tiles, record.size_bytes)
    return *facts, extent, record.overview, record.digests


def _checksum(record: BlockRecord) -> bytes:
    """Return a hash, 16 bytes, of all that a row of the ledger says."""
    *facts, overview, _ = _row(record)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=DIGEST_BYTES)
    digest.update(b"-" if overview is None else digest_of(record.overview or b""))
    digest.update(record.digests)
    return digest.digest()


def _remove(path: Path) -> None:
    """Remove a database that is closed, and its log."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _record(row: tuple[Any, ...]) -> BlockRecord:
    z, x, y, key, tiles, size, text, overview, digests = row
    extent = None
    if text is not None:
        left, top, right, bottom = (int(part) for part in text.split(","))
        extent = (left, top, right, bottom)
    return BlockRecord(Tile(z, x, y), key, tiles, size, extent, overview, digests)


def _row_of(connection: sqlite3.Connection, tile: Tile) -> tuple[bytes | None] | None:
    """Return the row with a tile's bytes, also where they are kept as text; None where there is none."""
    row: tuple[bytes | None] | None = connection.execute(
        "SELECT CAST(tile_data AS BLOB) FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
        (tile.z, tile.x, _tms_row(tile)),
    ).fetchone()
    return row


def _ledger(connection: sqlite3.Connection, overviews: bool) -> Iterator[BlockRecord]:
    overview = "overview" if overviews else "NULL"
    rows = connection.execute(
        f"SELECT z, x, y, key, tiles, bytes, extent, {overview}, digests FROM fusi_blocks ORDER BY position"
    )
    return (_record(row) for row in rows)


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
