"""What a merge has done so far, and what the last one did: a SQLite file of cells.

While a merge runs, `OUT.merge.partial` holds each finished cell with the bytes
of its encoded tiles, so that an interrupted run goes on. When the archive is
whole, what is known of its tiles, without their bytes, stays beside it as
`OUT.ledger`, from which the next merge knows which tiles it may take over.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fusi_pipeline.tiles.files import sync, writable_folder
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import DIGEST_BYTES, digest_of
from fusi_pipeline.tiles.sqlite import LOCK_TIMEOUT_S, sqlite_errors

_VERSION = 1002
_APPLICATION_ID = 0x66757369
_MAGIC = b"SQLite format 3\0"
_TABLES = {"meta", "cells", "tiles"}
_CELLS = "(z INTEGER, x INTEGER, y INTEGER, tiles BLOB NOT NULL, PRIMARY KEY (z, x, y)) WITHOUT ROWID"
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE cells {_CELLS};
CREATE TABLE tiles (kind INTEGER, z INTEGER, x INTEGER, y INTEGER, data BLOB NOT NULL);
CREATE UNIQUE INDEX tiles_place ON tiles (kind, z, x, y);
"""
_HEAD = struct.Struct("<II16s16s16s8sihh")
_SHARE = struct.Struct("<HHI8s")
_CHECKSUM = "checksum"
TERRAIN, LINEAGE = 0, 1
"""Kinds of tiles."""
NO_DIGEST = bytes(16)


@dataclass(frozen=True, slots=True)
class TileRecord:
    """What became of one tile."""

    tile: Tile
    key: bytes
    """Hash of all that decides about its heights, 16 bytes."""
    rule: bytes
    """Hash of the rule by which tiles are merged, 8 bytes."""
    choice: int
    """ABSENT, ENCODED, or COPIED + i for a copy of contributor i's."""
    disjoint: bool
    """Whether no pixel is valid in more than one contributor."""
    inputs: tuple[int, ...]
    """Number of each contributor among the inputs."""
    parts: tuple[bytes, ...]
    """Hash of what each contributor puts in, 8 bytes each."""
    counts: tuple[int, ...]
    """Pixels that each contributor decides or has a share in."""
    terrain: bytes
    """Hash of the tile's bytes, 16 bytes; NO_DIGEST where there is no tile."""
    lineage: bytes
    """Hash of its lineage's bytes; NO_DIGEST where there is none."""


def _packed(cell: Tile, records: Sequence[TileRecord]) -> bytes:
    """Return the records of a cell, and a hash of it all behind them."""
    parts = []
    for one in records:
        tile = one.tile
        parts.append(
            _HEAD.pack(
                tile.x, tile.y, one.key, one.terrain, one.lineage, one.rule,
                one.choice, len(one.inputs), one.disjoint,
            )
        )  # fmt: skip
        shares = zip(one.inputs, one.counts, one.parts, strict=True)
        parts += [_SHARE.pack(number, 0, count, part) for number, count, part in shares]
    data = b"".join(parts)
    return data + _checksum(records[0].tile.z, cell, data)


def _checksum(z: int, cell: Tile, data: bytes) -> bytes:
    return digest_of(f"{z}|{cell.x}|{cell.y}|".encode() + data)


def _unpacked(z: int, cell: Tile, data: bytes) -> list[TileRecord]:
    """Return the records of a cell; none where they are not as they were written."""
    data, checksum = data[:-DIGEST_BYTES], data[-DIGEST_BYTES:]
    if _checksum(z, cell, data) != checksum:
        return []
    records, at = [], 0
    while at < len(data):
        x, y, key, terrain, lineage, rule, choice, shares, disjoint = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        end = at + shares * _SHARE.size
        rows = [(number, count, part) for number, _, count, part in _SHARE.iter_unpack(data[at:end])]
        at = end
        inputs, counts, parts = zip(*rows, strict=True) if rows else ((), (), ())
        records.append(
            TileRecord(
                Tile(z, x, y), key, rule, choice, bool(disjoint), inputs, parts, counts, terrain, lineage
            )
        )
    return records


class MergeLedger:
    """The ledger of a finished merge, opened for reading."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version != _VERSION:
                raise sqlite3.DatabaseError("another version")
            self.facts: dict[str, str] = dict(self._connection.execute("SELECT key, value FROM meta"))
            if self.facts.pop(_CHECKSUM, "") != _facts_checksum(self.facts):
                raise sqlite3.DatabaseError("damaged")
        except sqlite3.Error:
            self._connection.close()
            raise

    def cell(self, z: int, cell: Tile) -> dict[Tile, TileRecord]:
        """Return what became of the tiles of a cell, by tile; empty where that is not known."""
        with suppress(sqlite3.Error):
            return _cell(self._connection, z, cell)
        return {}

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def work_path(output: Path) -> Path:
    """Return where the work file of a merge to an archive is."""
    return output.with_name(f"{output.name}.merge.partial")


def ledger_path(output: Path) -> Path:
    """Return where the ledger of a merged archive is."""
    return output.with_name(f"{output.name}.ledger")


def is_ledger(path: Path) -> bool:
    """Tell whether a file may be a ledger or work file of fusi's, be it damaged."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
    if sum(one != other for one, other in zip(head, _MAGIC, strict=False)) > 1:
        return False
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error:
        return True
    return {name for (name,) in names} <= _TABLES


def opened(path: Path) -> MergeLedger | None:
    """Return the ledger at a path, None where there is none that can be read."""
    try:
        return MergeLedger(path) if path.is_file() else None
    except sqlite3.Error:
        return None


class MergeWork:
    """The work file of a merge: the one writer of its cells. Use it as a context manager.

    Raises OutputBusy where another process merges to the same output, DiskFull.
    """

    def __init__(self, path: Path, checkpoint_interval: int) -> None:
        self.path = path
        self._checkpoint_interval = checkpoint_interval
        self._since_checkpoint = 0
        writable_folder(path.parent)
        with sqlite_errors(path):
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=LOCK_TIMEOUT_S)
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA page_size = 16384")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("BEGIN IMMEDIATE")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version != _VERSION:
                names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (name,) in names:
                    connection.execute(f'DROP TABLE "{name}"')
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.close()
            raise
        return connection

    def cell(self, z: int, cell: Tile) -> dict[Tile, TileRecord]:
        """Return what became of the tiles of a cell, by tile; empty where the cell is not done."""
        with sqlite_errors(self.path):
            return _cell(self._connection, z, cell)

    def has(self, kind: int, tile: Tile) -> bool:
        """Tell whether the bytes of a tile are here."""
        with sqlite_errors(self.path):
            row = self._connection.execute(
                "SELECT 1 FROM tiles WHERE kind = ? AND z = ? AND x = ? AND y = ?",
                (kind, tile.z, tile.x, tile.y),
            ).fetchone()
        return row is not None

    def read(self, kind: int, tile: Tile) -> bytes | None:
        """Return the bytes of a tile that was encoded, None where they are not here."""
        with sqlite_errors(self.path):
            row = self._connection.execute(
                "SELECT data FROM tiles WHERE kind = ? AND z = ? AND x = ? AND y = ?",
                (kind, tile.z, tile.x, tile.y),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def commit(
        self, cell: Tile, records: Sequence[TileRecord], made: Iterable[tuple[int, Tile, bytes]]
    ) -> None:
        """Add or replace a cell, and the bytes of its tiles that were encoded, in one transaction."""
        z = records[0].tile.z
        with sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute(
                    "INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?)",
                    (z, cell.x, cell.y, _packed(cell, records)),
                )
                self._connection.executemany(
                    "INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?)",
                    ((kind, tile.z, tile.x, tile.y, data) for kind, tile, data in made),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._since_checkpoint += 1
            if self._since_checkpoint >= self._checkpoint_interval:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._since_checkpoint = 0

    def finish(self, ledger: Path, cells: Iterable[tuple[int, Tile]], facts: dict[str, str]) -> None:
        """Write the ledger of these cells, absent or complete, and remove the work file."""
        scratch = ledger.with_name(f".{ledger.name}.{os.getpid()}.part")
        scratch.unlink(missing_ok=True)
        try:
            with sqlite_errors(ledger), closing(sqlite3.connect(scratch, isolation_level=None)) as target:
                target.execute("PRAGMA journal_mode = OFF")
                target.execute("PRAGMA synchronous = OFF")
                target.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                target.execute(f"PRAGMA user_version = {_VERSION}")
                target.execute("BEGIN")
                target.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
                facts = {**facts, _CHECKSUM: _facts_checksum(facts)}
                target.executemany("INSERT INTO meta VALUES (?, ?)", sorted(facts.items()))
                target.execute(f"CREATE TABLE cells {_CELLS}")
                rows = (
                    (z, cell.x, cell.y, self._raw(z, cell))
                    for z, cell in sorted(cells, key=lambda one: (one[0], one[1].x, one[1].y))
                )
                target.executemany("INSERT INTO cells VALUES (?, ?, ?, ?)", rows)
                target.execute("COMMIT")
            sync(scratch)
            os.replace(scratch, ledger)
            sync(ledger.parent)
        finally:
            scratch.unlink(missing_ok=True)
        self.discard()

    def _raw(self, z: int, cell: Tile) -> bytes:
        row = self._connection.execute(
            "SELECT tiles FROM cells WHERE z = ? AND x = ? AND y = ?", (z, cell.x, cell.y)
        ).fetchone()
        return bytes(row[0])

    def discard(self) -> None:
        """Close the work file and remove it."""
        self._connection.close()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        """Release the file; what is committed stays in it."""
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(sqlite3.ProgrammingError):
            self.close()


def _cell(connection: sqlite3.Connection, z: int, cell: Tile) -> dict[Tile, TileRecord]:
    row = connection.execute(
        "SELECT tiles FROM cells WHERE z = ? AND x = ? AND y = ?", (z, cell.x, cell.y)
    ).fetchone()
    return {} if row is None else {record.tile: record for record in _unpacked(z, cell, bytes(row[0]))}


def _facts_checksum(facts: Mapping[str, str]) -> str:
    return digest_of(repr(sorted(facts.items())).encode()).hex()
