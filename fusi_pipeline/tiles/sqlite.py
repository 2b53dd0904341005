"""What SQLite says of disks and locks, as errors a person can act on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fusi_pipeline.errors import ArchiveUnreadable, DiskFull, OutputBusy, OutputUnwritable
from fusi_pipeline.tiles.files import free_mib

LOCK_TIMEOUT_S = 0.2
"""How long a connection waits for another process's lock before it says so."""


def temporary_tables_in(folder: Path | None) -> None:
    """Let SQLite put what does not fit into memory, of any connection of this process, into a folder.

    None lets it choose again. SQLite reads the environment only when it is
    loaded, which is before anybody knows the folder.
    """
    name = "" if folder is None else str(folder.absolute()).replace("'", "''")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA temp_store_directory = '{name}'")


def address(path: Path) -> str:
    """Return the URI by which to open a database that may have a write-ahead log.

    Where its folder cannot be written to and no log is left beside it, it is one
    that nobody changes; it could not be opened otherwise (sqlite.org/wal.html, "Read-Only Databases").
    """
    fixed = not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists()
    return path.absolute().as_uri() + ("?immutable=1" if fixed else "")


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise DiskFull, OutputBusy, OutputUnwritable or ArchiveUnreadable for what SQLite reports of `path`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        primary = code & 0xFF if isinstance(code, int) else None
        if primary == sqlite3.SQLITE_FULL or (primary == sqlite3.SQLITE_IOERR and free_mib(path) < 1):
            raise DiskFull(path, free_mib(path)) from error
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise OutputBusy(path) from error
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise OutputUnwritable(path, str(error)) from error
        if primary in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise ArchiveUnreadable(path, f"is damaged ({error}); remove it and run again") from error
        raise
