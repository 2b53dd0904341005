"""MBTiles 1.3 archives read: SQLite files of tiles, ours with a ledger, and those of others."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import MAX_ZOOM, Tile
from fusi_pipeline.tiles.ledger import (
    COLUMNS,
    DIGESTS,
    LEDGER_VERSION,
    BlockRecord,
    checksum_of,
    digests_of,
    record_of,
    records,
)
from fusi_pipeline.tiles.mbtiles_metadata import metadata_rows, read_metadata
from fusi_pipeline.tiles.mbtiles_rows import ON_GRID, flipped, tile_row
from fusi_pipeline.tiles.stated import text

_BLOCK_LEVELS = 2
"""How many zooms below its own tile a block's deepest tiles are, at most."""


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
            row = tile_row(self._connection, tile)
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
        coordinates[:, 1] = flipped(z, coordinates[:, 1])
        return coordinates

    def counts(self) -> dict[int, int]:
        """Return the number of tiles at each zoom that has some.

        Raises ArchiveUnreadable for a row that is no place of the tile grid.
        """
        found: dict[int, int] = {}
        for z, count, sound in self._query(
            "SELECT CASE typeof(zoom_level) WHEN 'integer' THEN zoom_level END, count(*),"
            f" sum({ON_GRID}) FROM tiles GROUP BY zoom_level ORDER BY zoom_level",
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
            f" CAST(quote(tile_row) AS BLOB) FROM tiles WHERE ({ON_GRID}) IS NOT 1 LIMIT 1",
            (),
        )
        z, column, tms_row = (" ".join(text(value).split())[:40] for value in next(row, ("?",) * 3))
        place = f"row zoom {z} column {column} row {tms_row} of its tiles table"
        return ArchiveUnreadable(self.path, f"{place} is on no tile grid; remove it from the table")

    def ledger(self) -> Iterator[BlockRecord]:
        """Yield the blocks the archive was made of, without their overviews; none in foreign archives."""
        if self.has_ledger:
            with self._sound_ledger():
                yield from records(self._connection, overviews=False)

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
        return "fusi_blocks" in names and version == LEDGER_VERSION

    def block(self, tile: Tile, key: str) -> BlockRecord | None:
        """Return a block of the ledger, with its overview, where its key is `key` and the row is sound."""
        rows = self._query(
            f"SELECT {COLUMNS}, checksum FROM fusi_blocks WHERE z = ? AND x = ? AND y = ? AND key = ?",
            (tile.z, tile.x, tile.y, key),
        )
        with self._sound_ledger():
            for *row, checksum in rows:
                record = record_of(tuple(row))
                if checksum_of(record) == checksum:
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
            f"SELECT {COLUMNS}, checksum FROM fusi_blocks ORDER BY position",
            (),
        )
        with self._sound_ledger():
            for *row, checksum in rows:
                record = record_of(tuple(row))
                own = (
                    (Tile(z, x, flipped(z, row)), bytes(data))
                    for z, x, row, data in islice(tiles, max(record.tiles, 0))
                )
                yield digests_of(own) == record.digests and checksum_of(record) == checksum
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
