"""Where a tile lies in the table `tiles` of an MBTiles 1.3: the only place where a TMS row exists."""

from __future__ import annotations

import sqlite3
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.grid import MAX_ZOOM, Tile

Row = TypeVar("Row", int, npt.NDArray[np.uint32])

TILES_SCHEMA = """
CREATE TABLE metadata (name TEXT, value TEXT);
CREATE UNIQUE INDEX metadata_name ON metadata (name);
CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB);
CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row);
"""
ON_GRID = f"""
    typeof(zoom_level) = 'integer' AND zoom_level BETWEEN 0 AND {MAX_ZOOM}
    AND typeof(tile_column) = 'integer' AND tile_column BETWEEN 0 AND (1 << zoom_level) - 1
    AND typeof(tile_row) = 'integer' AND tile_row BETWEEN 0 AND (1 << zoom_level) - 1
"""
"""Whether a row of `tiles` is a place of the grid; SQLite stores anything in any column."""


def place_of(tile: Tile) -> tuple[int, int, int]:
    """Return a tile's zoom_level, tile_column and tile_row."""
    return tile.z, tile.x, flipped(tile.z, tile.y)


def flipped(z: int, row: Row) -> Row:
    """Return rows counted from the south (TMS) of rows counted from the north, and the reverse (spec 1.3)."""
    return (1 << z) - 1 - row


def tile_row(connection: sqlite3.Connection, tile: Tile) -> tuple[bytes | None] | None:
    """Return the row with a tile's bytes, also where they are kept as text; None where there is none."""
    row: tuple[bytes | None] | None = connection.execute(
        "SELECT CAST(tile_data AS BLOB) FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
        place_of(tile),
    ).fetchone()
    return row
