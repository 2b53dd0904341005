"""The tables of `generation_queue.db`, as numbered migrations."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

_migrations = Migrations("fusi-generation-queue")


@_migrations()
def queue_and_edges(db: Database) -> None:
    """Create the tables. Columns up to `negative_prompt` are what other programs may rely on."""
    db.execute(
        """
        CREATE TABLE generation_queue (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            item_type TEXT NOT NULL DEFAULT 'generate',
            quadrants TEXT NOT NULL,
            model_id TEXT,
            status TEXT NOT NULL DEFAULT 'pending'
                CHECK (status IN ('pending', 'processing', 'complete', 'error', 'cancelled')),
            created_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
            started_at REAL,
            completed_at REAL,
            error_message TEXT,
            result_message TEXT,
            context_quadrants TEXT,
            prompt TEXT,
            negative_prompt TEXT,
            seed INTEGER,
            parameters TEXT,
            overwrite INTEGER NOT NULL DEFAULT 0,
            uid TEXT UNIQUE,
            lane TEXT,
            attempts INTEGER NOT NULL DEFAULT 0,
            lost INTEGER NOT NULL DEFAULT 0,
            not_before REAL NOT NULL DEFAULT 0,
            worker TEXT,
            lease_until REAL,
            storing INTEGER NOT NULL DEFAULT 0,
            progress TEXT
        )
        """
    )
    db.execute("CREATE INDEX idx_queue_status ON generation_queue (status, lane)")
    db.execute(
        """
        CREATE TABLE queue_edges (
            item INTEGER NOT NULL REFERENCES generation_queue (id) ON DELETE CASCADE,
            waits_for INTEGER NOT NULL REFERENCES generation_queue (id) ON DELETE CASCADE,
            PRIMARY KEY (item, waits_for)
        ) WITHOUT ROWID
        """
    )
    db.execute("CREATE INDEX idx_queue_edges_back ON queue_edges (waits_for, item)")


@_migrations()
def revisions(db: Database) -> None:
    """Have every change of a row, by whomever, leave its revision."""
    db.execute(
        "CREATE TABLE queue_changes (revision INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER NOT NULL UNIQUE)"
    )
    for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
        db.execute(
            f"CREATE TRIGGER queue_{event.lower()}_leaves_revision AFTER {event} ON generation_queue"
            f" BEGIN DELETE FROM queue_changes WHERE id = {row}.id;"
            f" INSERT INTO queue_changes (id) VALUES ({row}.id); END"
        )


@_migrations()
def checked(db: Database) -> None:
    """Have a row tell whether it was looked at, whatever else its writer filled in."""
    db.execute("ALTER TABLE generation_queue ADD COLUMN checked INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE generation_queue SET checked = 1 WHERE lane IS NOT NULL")
    db.execute("CREATE INDEX idx_queue_unchecked ON generation_queue (id) WHERE checked IS NOT 1")


@_migrations()
def lanes_of_apps(db: Database) -> None:
    """Have apps say which lanes they work at; `app` is empty for what some app once had."""
    db.execute(
        "CREATE TABLE queue_lanes (lane TEXT NOT NULL, app TEXT NOT NULL, since REAL NOT NULL,"
        " PRIMARY KEY (lane, app)) WITHOUT ROWID"
    )


@_migrations()
def identity_of_queue(db: Database) -> None:
    """Have a queue tell itself from every other, so that revisions of one are not taken for another's."""
    db.execute("CREATE TABLE identity (id TEXT NOT NULL)")
    db.execute("INSERT INTO identity VALUES (lower(hex(randomblob(16))))")


def migrate(db: Database) -> None:
    """Bring the tables up to date."""
    if _migrations.pending(db):
        _migrations.apply(db)
