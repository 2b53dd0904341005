"""The tables of `quadrants.db`, brought up to date, and what their rows say as values.

Triggers give every change a number, whichever program makes it.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlite_utils import Database, Migrations

from fusi_pipeline.tiles.sqlite import address

Kind = Literal["render", "generation"]
KINDS: tuple[Kind, ...] = ("render", "generation")
FLAGS = ("flagged", "starred", "is_water", "is_reference")
FACTS = "facts"
"""Kind of a change to flags or notes."""
_BUSY_TIMEOUT_S = 30.0
PAGE_SIZE = 16384


MIGRATIONS = Migrations("fusi-quadrants")


@MIGRATIONS()
def quadrants_and_metadata(db: Database) -> None:
    """Create the tables."""
    db.execute(
        """
        CREATE TABLE quadrants (
            quadrant_x INTEGER NOT NULL,
            quadrant_y INTEGER NOT NULL,
            lat REAL, lng REAL,
            render BLOB,
            generation BLOB,
            is_generated INTEGER GENERATED ALWAYS AS (generation IS NOT NULL) STORED,
            notes TEXT,
            flagged INTEGER NOT NULL DEFAULT 0,
            starred INTEGER NOT NULL DEFAULT 0,
            is_water INTEGER NOT NULL DEFAULT 0,
            is_reference INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (quadrant_x, quadrant_y)
        )
        """
    )
    db.execute("CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT)")


@MIGRATIONS()
def index_of_pictures(db: Database) -> None:
    """Create the indexes that tell which quadrants have pictures without touching these."""
    for kind in KINDS:
        db.execute(f"CREATE INDEX has_{kind} ON quadrants (quadrant_x, quadrant_y) WHERE {kind} IS NOT NULL")


@MIGRATIONS()
def changes_and_makers(db: Database) -> None:
    """Have every change, by whichever program, leave its revision; keep what made a picture."""
    db.execute(
        """
        CREATE TABLE quadrant_changes (
            revision INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL,
            UNIQUE (kind, x, y)
        )
        """
    )
    db.execute(
        """
        CREATE TABLE made (
            kind TEXT NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL,
            item TEXT NOT NULL, facts TEXT NOT NULL,
            PRIMARY KEY (kind, x, y)
        ) WITHOUT ROWID
        """
    )

    def leave(kind: str, row: str) -> str:
        # not INSERT OR REPLACE: the conflict policy of the statement that fires a trigger wins
        place = f"('{kind}', {row}.quadrant_x, {row}.quadrant_y)"
        return (
            f"DELETE FROM quadrant_changes WHERE (kind, x, y) = {place};"
            f" INSERT INTO quadrant_changes (kind, x, y) VALUES {place};"
            f" DELETE FROM made WHERE (kind, x, y) = {place};"
        )

    for kind in (*KINDS, FACTS):
        columns = ", ".join((*FLAGS, "notes")) if kind == FACTS else kind
        db.execute(
            f"CREATE TRIGGER {kind}_changed AFTER UPDATE OF {columns} ON quadrants"
            f" BEGIN {leave(kind, 'NEW')} END"
        )
        there = "1" if kind == FACTS else f"NEW.{kind} IS NOT NULL"
        db.execute(
            f"CREATE TRIGGER {kind}_added AFTER INSERT ON quadrants WHEN {there}"
            f" BEGIN {leave(kind, 'NEW')} END"
        )
        db.execute(f"CREATE TRIGGER {kind}_removed AFTER DELETE ON quadrants BEGIN {leave(kind, 'OLD')} END")
    db.execute(f"CREATE INDEX marks ON quadrants (quadrant_y, quadrant_x, {', '.join(FLAGS)})")
    db.execute("CREATE INDEX noted ON quadrants (quadrant_x, quadrant_y) WHERE notes <> ''")


@MIGRATIONS()
def identity_of_map(db: Database) -> None:
    """Have a map tell itself from every other, so that nobody takes a revision of one for that of another."""
    db.execute("CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL)")
    db.execute(
        "INSERT INTO identity SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM identity)"
    )


KNOWN_MIGRATIONS = frozenset(one.name for one in MIGRATIONS.pending(Database(memory=True)))


@dataclass(frozen=True, slots=True)
class QuadrantState:
    """What a map has of a quadrant, and how new that is."""

    x: int
    y: int
    has_render: bool
    has_generation: bool
    flags: frozenset[str]
    has_note: bool
    version: int
    """Revision of its newest change; 0 where nothing changed since the map was made by an older fusi."""
    is_there: bool = True
    """Whether it is of the map still."""


@dataclass(frozen=True, slots=True)
class QuadrantFacts:
    """What is known of a quadrant beside its pictures."""

    x: int
    y: int
    has_render: bool
    has_generation: bool
    flags: frozenset[str]
    notes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadrantRow:
    """A quadrant with all that a map holds of it."""

    x: int
    y: int
    lat: float | None = None
    lng: float | None = None
    render: bytes | None = None
    generation: bytes | None = None
    notes: str | None = None
    flags: Mapping[str, int] = field(default_factory=dict)
    """By the names of FLAGS; -1 where a person protected a quadrant from being marked."""


def connected(path: Path) -> Database:
    """Open a database, made where there is none."""
    connection = sqlite3.connect(address(path), timeout=_BUSY_TIMEOUT_S, uri=True)
    connection.execute("PRAGMA synchronous = NORMAL")
    return Database(connection, execute_plugins=False)


def migrated(db: Any) -> None:
    """Bring the schema up to date, one process at a time; what cannot be written may lack its identity."""
    pending = {one.name for one in MIGRATIONS.pending(db)}
    if not pending:
        return
    try:
        MIGRATIONS.apply(db)
    except sqlite3.OperationalError as error:
        if pending != {"identity_of_map"} or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
            raise


def identity_of(db: Database, path: Path) -> str:
    """Return what tells a database from every other: its own id, and the file that it is.

    A copy has the id of the first, but is another file. One that was never given an id has
    the time of its last change in place of that.
    """
    file = path.stat()
    own = db.execute("SELECT id FROM identity").fetchone() if db["identity"].exists() else None
    text = f"{own[0] if own else file.st_mtime_ns} {file.st_ino}"
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
