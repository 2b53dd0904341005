"""The file of the generation queue, open: who reads, who writes, what is seen together."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from sqlite_utils import Database

from fusi_pipeline.tiles.files import writable_folder
from fusi_pipeline.tiles.sqlite import sqlite_errors
from layer_generation.quadrant_tables import identity_of
from layer_generation.web.queue_tables import migrate

FILENAME = "generation_queue.db"
_BUSY_TIMEOUT_S = 30.0


class QueueFile:
    """An open queue. Use it as a context manager; one object is for one thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the queue of a map's folder, made where there is none. `clock` returns seconds."""
        self.path = folder / FILENAME
        self._clock = clock
        if not self.path.exists():
            writable_folder(folder)
        with sqlite_errors(self.path):
            connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.text_factory = _text
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._db = Database(connection, execute_plugins=False)
            migrate(self._db)

    def data_version(self) -> int:
        """Return a number that changes when another connection has written."""
        with self._reading() as db:
            return int(db.execute("PRAGMA data_version").fetchone()[0])

    @property
    def identity(self) -> str:
        """What tells the queue from every other, one made at the same place included."""
        with self._reading():
            return identity_of(self._db, self.path)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(self.path):
            yield self._db.conn

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """Read several things as they are at one moment."""
        with sqlite_errors(self.path):
            self._db.conn.execute("BEGIN")
            try:
                yield self._db.conn
            finally:
                self._db.conn.execute("ROLLBACK")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(self.path):
            self._db.conn.execute("BEGIN IMMEDIATE")
            try:
                yield self._db.conn
            except BaseException:
                self._db.conn.execute("ROLLBACK")
                raise
            self._db.conn.execute("COMMIT")


def _text(stored: bytes) -> str:
    """Return stored text; what is not UTF-8 in it becomes U+FFFD."""
    return stored.decode("utf-8", "replace")
