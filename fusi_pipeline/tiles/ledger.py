"""The ledger in an MBTiles: which blocks it was made of, and how to tell that they are as they were written.

Rows of its table and values, hashes and checksums; `mbtiles` reads it and
`mbtiles_writer` writes it. A row and the tiles of its block are one transaction.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusi_pipeline.tiles.grid import Tile

LEDGER_VERSION = 3
"""Stated as `user_version` by the database."""
LEDGER_SCHEMA = """
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
COLUMNS = "z, x, y, key, tiles, bytes, extent, overview, digests"
"""What `record_of` takes, in its order."""


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


def row_of(record: BlockRecord) -> tuple[object, ...]:
    """Return a block as the values of COLUMNS."""
    extent = None if record.extent is None else ",".join(str(value) for value in record.extent)
    tile = record.tile
    facts = (tile.z, tile.x, tile.y, record.key, record.tiles, record.size_bytes)
    return *facts, extent, record.overview, record.digests


def record_of(row: tuple[Any, ...]) -> BlockRecord:
    """Return the block of a row of COLUMNS; raises TypeError or ValueError for a damaged one."""
    z, x, y, key, tiles, size, stated, overview, digests = row
    extent = None
    if stated is not None:
        left, top, right, bottom = (int(part) for part in stated.split(","))
        extent = (left, top, right, bottom)
    return BlockRecord(Tile(z, x, y), key, tiles, size, extent, overview, digests)


def checksum_of(record: BlockRecord) -> bytes:
    """Return a hash, 16 bytes, of all that a row of the ledger says."""
    *facts, overview, _ = row_of(record)
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=DIGEST_BYTES)
    digest.update(b"-" if overview is None else digest_of(record.overview or b""))
    digest.update(record.digests)
    return digest.digest()


def records(connection: sqlite3.Connection, *, overviews: bool) -> Iterator[BlockRecord]:
    """Yield all blocks in the order they were committed, with their overviews if asked."""
    columns = COLUMNS if overviews else COLUMNS.replace("overview", "NULL")
    rows = connection.execute(f"SELECT {columns} FROM fusi_blocks ORDER BY position")
    return (record_of(row) for row in rows)
