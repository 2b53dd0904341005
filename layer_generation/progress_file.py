"""The file `progress.db`: its tables, how it is made and opened, its transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from fusi_pipeline.tiles.files import writable_folder
from fusi_pipeline.tiles.sqlite import address, sqlite_errors
from layer_generation.errors import LayerMissing, MapUnreadable

FILENAME = "progress.db"
_VERSION = 1
_BUSY_TIMEOUT_S = 30.0
_SCHEMA = """
CREATE TABLE generation_plan (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    step INTEGER NOT NULL CHECK (step IN (1, 2, 3)),
    block_type TEXT NOT NULL CHECK (block_type IN ('2x2', '1x2', '2x1', '1x1')),
    top_left_x INTEGER NOT NULL,
    top_left_y INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'in_progress', 'complete', 'error')),
    model_name TEXT,
    started_at REAL,
    completed_at REAL,
    error_message TEXT,
    wave INTEGER NOT NULL DEFAULT 0,
    extension INTEGER NOT NULL DEFAULT 0,
    reason TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until REAL,
    provenance TEXT,
    UNIQUE (step, top_left_x, top_left_y)
);
CREATE INDEX idx_plan_status ON generation_plan (status, step);
CREATE INDEX idx_plan_ready ON generation_plan (id) WHERE status = 'pending' AND waiting = 0;
CREATE INDEX idx_plan_leased ON generation_plan (lease_until) WHERE status = 'in_progress';
CREATE TABLE block_edges (
    block INTEGER NOT NULL REFERENCES generation_plan (id),
    waits_for INTEGER NOT NULL REFERENCES generation_plan (id),
    PRIMARY KEY (block, waits_for)
) WITHOUT ROWID;
CREATE INDEX idx_edges_back ON block_edges (waits_for, block);
CREATE TABLE block_quadrants (
    x INTEGER NOT NULL, y INTEGER NOT NULL,
    block INTEGER NOT NULL REFERENCES generation_plan (id),
    PRIMARY KEY (x, y)
) WITHOUT ROWID;
CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT);
"""


class ProgressFile:
    """An open `progress.db`. Use it as a context manager; one object is for one thread."""

    def __init__(self, layer_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the database of a layer. Raises LayerMissing and MapUnreadable."""
        self.path = layer_dir / FILENAME
        self._clock = clock
        if not self.path.is_file():
            raise LayerMissing(layer_dir, f"holds no {FILENAME}")
        try:
            self._connection = _connected(self.path)
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as error:
            raise MapUnreadable(self.path, f"cannot be read ({error})") from error
        if version != _VERSION:
            raise MapUnreadable(self.path, f"is of version {version}, this fusi reads {_VERSION}")

    @classmethod
    def create(cls, layer_dir: Path, clock: Callable[[], float] = time.time) -> Self:
        """Make the empty database of a layer, in a folder that has none."""
        writable_folder(layer_dir)
        path = layer_dir / FILENAME
        with sqlite_errors(path):
            connection = _connected(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
            connection.close()
        return cls(layer_dir, clock)

    def fact(self, key: str) -> str | None:
        """Return a value of the metadata."""
        with self._readable():
            row = self._connection.execute("SELECT value FROM metadata WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, key: str, value: str) -> None:
        """Set a value of the metadata."""
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO metadata VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise MapUnreadable(self.path, f"cannot be read ({error})") from error


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(address(path), uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")  # in WAL mode NORMAL loses commits in a power cut
    return connection
