"""The generation queue: one SQLite file beside the map, which any program may write into.

`generation_queue.db` has one row for each picture or render that is wanted. Rows
are made in the order of their ids, one at a time in each lane (a model, or the
renderer), several lanes together. A row is claimed by one UPDATE, with a lease;
whoever loses its lease loses the row. Every change of a row has a revision, so
that pages learn what changed since they looked, also after a restart.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sqlite_utils import Database, Migrations

from fusi_pipeline.tiles.files import writable_folder
from fusi_pipeline.tiles.sqlite import sqlite_errors
from layer_generation.errors import ItemInvalid, ItemSettled, ItemUnknown
from layer_generation.owners import is_gone
from layer_generation.web import items
from layer_generation.web.items import CANCELLED, FINISHED, PROCESSING, Item, NewItem

FILENAME = "generation_queue.db"
MOST_LOST = 5
"""Times that an item is taken up again after its worker vanished; more, and it is the item's fault."""
MOST_LEASE_S = 3600.0
"""Of a lease; what claims to run longer was not written by a lane."""
MOST_ID = 2**53 - 1
"""Of an item: what a page can count to. With SQLite's own largest no further row could be added."""
_BUSY_TIMEOUT_S = 30.0
_PART_OF_IN = 500

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


_READY = """
    SELECT q.id FROM generation_queue q
    WHERE q.status = 'pending' AND q.lane = :lane AND q.checked = 1 AND q.not_before <= :now
      AND NOT EXISTS (SELECT 1 FROM generation_queue o WHERE o.status = 'processing' AND o.lane = q.lane)
      AND NOT EXISTS (
          SELECT 1 FROM queue_edges e JOIN generation_queue w ON w.id = e.waits_for
          WHERE e.item = q.id AND w.status <> 'complete')
    ORDER BY q.id LIMIT 1
"""
_UNSEEN = "checked IS NOT 1 AND status IN ('pending', 'processing')"
_AGAIN = (
    "UPDATE generation_queue SET status = 'pending', attempts = 0, lost = 0, not_before = 0, lane = NULL,"
    " checked = 0, error_message = NULL, result_message = NULL, started_at = NULL, completed_at = NULL"
)
_NEEDED = """
    WITH RECURSIVE needed (id) AS (
        SELECT e.waits_for FROM queue_edges e JOIN generation_queue q ON q.id = e.item
        WHERE q.status IN ('pending', 'processing')
        UNION SELECT e.waits_for FROM needed JOIN queue_edges e ON e.item = needed.id)
"""
_HELD = """
    WITH RECURSIVE held (id) AS (
        SELECT e.item FROM queue_edges e JOIN generation_queue w ON w.id = e.waits_for
        WHERE w.status IN ('error', 'cancelled')
        UNION SELECT e.item FROM held JOIN queue_edges e ON e.waits_for = held.id)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An item with its place in the queue."""

    item: Item
    position: int | None
    """1, 2, ... among those of its lane that wait; 0 while it is made; None when finished."""
    waits_for: tuple[int, ...]
    """Items that it waits for."""
    held: bool
    """Whether one of those, or one they wait for, failed or was cancelled."""


class GenerationQueue:
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
            if _migrations.pending(self._db):
                _migrations.apply(self._db)

    # What is wanted

    def add(
        self, wanted: Sequence[NewItem], unless: Callable[[list[Item]], bool] | None = None
    ) -> tuple[int, ...]:
        """Queue items together, or none; return their ids, in order.

        `waits_for` may name items of the same call by negative numbers: -1 is the
        first of them, -2 the second. `unless` is asked about the items that are not
        finished, in the same transaction; where it says yes, nothing is queued and
        no id returned.
        """
        now = self._clock()
        ids: list[int] = []
        with self._writing() as db:
            _tame(db, now)
            if unless is not None and unless(_active(db)):
                return ()
            for one in wanted:
                row = db.execute(
                    "INSERT INTO generation_queue (item_type, quadrants, model_id, created_at, prompt,"
                    " negative_prompt, seed, parameters, overwrite, uid)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                    (
                        one.item_type,
                        json.dumps([list(quadrant) for quadrant in one.quadrants]),
                        one.model_id,
                        now,
                        one.prompt or None,
                        one.negative_prompt or None,
                        one.seed,
                        json.dumps(dict(one.parameters)) if one.parameters else None,
                        int(one.overwrite),
                        secrets.token_hex(8),
                    ),
                ).fetchone()
                ids.append(int(row[0]))
                after = [ids[-other - 1] if other < 0 else other for other in one.waits_for]
                db.executemany(
                    "INSERT OR IGNORE INTO queue_edges SELECT ?, id FROM generation_queue WHERE id = ?",
                    [(ids[-1], other) for other in after],  # what was taken off meanwhile is not waited for
                )
        return tuple(ids)

    def screen(self, check: Callable[[sqlite3.Row], tuple[Item, str]]) -> int:
        """Give every new row its lane, and mark as failed what cannot be done; return how many were new.

        Rows may come from any program, with anything in any column: new is what this
        did not see. `check` returns the row as an item with its lane, or raises ItemInvalid.
        """
        unseen = f"SELECT * FROM generation_queue WHERE {_UNSEEN}"
        with self._reading() as db:
            if db.execute(f"{unseen} LIMIT 1").fetchone() is None:
                return 0
        with self._writing() as db:
            _tame(db, self._clock())
            new = db.execute(f"{unseen} ORDER BY id").fetchall()
            for row in new:
                try:
                    item, lane = check(row)
                except ItemInvalid as error:
                    db.execute(
                        "UPDATE generation_queue SET status = 'error', error_message = ?, completed_at = ?,"
                        " lane = '', worker = NULL, lease_until = NULL, storing = 0, progress = NULL,"
                        " checked = 1 WHERE id = ?",
                        (str(error), self._clock(), row["id"]),
                    )
                    continue
                db.execute(
                    "UPDATE generation_queue SET lane = ?, model_id = ?, uid = coalesce(uid, ?),"
                    " status = 'pending', worker = NULL, lease_until = NULL, storing = 0, progress = NULL,"
                    " completed_at = NULL, checked = 1 WHERE id = ?",
                    (lane, item.model_id, secrets.token_hex(8), row["id"]),
                )
        return len(new)

    def break_cycles(self) -> int:
        """Mark as failed the items that wait for themselves, directly or by others; return how many."""
        with self._writing() as db:
            edges = db.execute(
                "SELECT e.item, e.waits_for FROM queue_edges e JOIN generation_queue q ON q.id = e.item"
                " JOIN generation_queue w ON w.id = e.waits_for"
                " WHERE q.status = 'pending' AND w.status = 'pending'"
            ).fetchall()
            circular = _circular([(int(item), int(other)) for item, other in edges])
            db.executemany(
                "UPDATE generation_queue SET status = 'error', completed_at = ?,"
                " error_message = 'waits for itself; remove it and queue it again' WHERE id = ?",
                [(self._clock(), number) for number in sorted(circular)],
            )
        return len(circular)

    def is_stuck(self) -> bool:
        """Tell whether items wait and none is being made."""
        with self._reading() as db:
            return bool(
                db.execute(
                    "SELECT EXISTS (SELECT 1 FROM generation_queue WHERE status = 'pending')"
                    " AND NOT EXISTS (SELECT 1 FROM generation_queue WHERE status = 'processing')"
                ).fetchone()[0]
            )

    # Work

    def claim(self, lane: str, worker: str, lease_s: float) -> Item | None:
        """Take the next item of a lane that nothing holds back; None where there is none now.

        None, too, while another of the lane is being made, by whichever process.
        """
        now = self._clock()
        with self._writing() as db:
            self._recover(db, now)
            row = db.execute(
                "UPDATE generation_queue SET status = 'processing', started_at = :now, completed_at = NULL,"
                " worker = :worker, lease_until = :until, attempts = attempts + 1, storing = 0,"
                f" progress = NULL WHERE id = ({_READY}) RETURNING *",
                {"lane": lane, "now": now, "worker": worker, "until": now + lease_s},
            ).fetchone()
        return None if row is None else items.item_of(row)

    def renew(self, number: int, worker: str, lease_s: float) -> bool:
        """Prolong a lease; tell whether the item is still the worker's."""
        return self._own(number, worker, "lease_until = ?", self._clock() + lease_s)

    def tell(self, number: int, worker: str, stage: str, percentage: float | None = None) -> bool:
        """Note how far an item is; tell whether it is still the worker's."""
        progress = json.dumps({"stage": stage, "percentage": percentage})
        return self._own(number, worker, "progress = ?", progress)

    def begin_storing(self, number: int, worker: str) -> bool:
        """Say that the pictures are about to be stored: from here on it cannot be cancelled.

        Return whether the item is still the worker's; if not, the pictures are not to be stored.
        """
        return self._own(number, worker, "storing = ?", 1)

    def complete(self, number: int, worker: str, message: str = "") -> bool:
        """Mark an item complete; tell whether it was still the worker's."""
        return self._end(number, worker, "complete", "result_message", message)

    def fail(self, number: int, worker: str, message: str) -> bool:
        """Mark an item failed; tell whether it was still the worker's."""
        return self._end(number, worker, "error", "error_message", message)

    def requeue(
        self, number: int, worker: str, *, message: str = "", after_s: float = 0.0, counts: bool = True
    ) -> bool:
        """Give an item back; `counts` says whether this was one of its attempts."""
        return self._own(
            number,
            worker,
            "status = 'pending', worker = NULL, lease_until = NULL, storing = 0, progress = NULL,"
            f" error_message = ?, not_before = ?, attempts = attempts - {int(not counts)}",
            message or None,
            self._clock() + after_s,
        )

    def recover(self) -> int:
        """Give back what vanished workers hold; return how many items that were."""
        with self._writing() as db:
            return self._recover(db, self._clock())

    def _recover(self, db: sqlite3.Connection, now: float) -> int:
        rows = db.execute(
            "SELECT id, worker, lease_until, lost FROM generation_queue WHERE status = 'processing'"
        ).fetchall()
        stale = [
            row
            for row in rows
            if not isinstance(row["lease_until"], int | float)
            or not now <= row["lease_until"] <= now + MOST_LEASE_S
            or is_gone(str(row["worker"]))
        ]
        for row in stale:
            lost = row["lost"] if isinstance(row["lost"], int) else MOST_LOST
            spent = lost >= MOST_LOST
            db.execute(
                "UPDATE generation_queue SET status = ?, worker = NULL, lease_until = NULL, storing = 0,"
                " progress = NULL, lost = ?, attempts = max(attempts - 1, 0),"
                " completed_at = ?, error_message = ? WHERE id = ?",
                (
                    "error" if spent else "pending",
                    min(lost, MOST_LOST) + 1,
                    now if spent else None,
                    f"whoever worked at it vanished {MOST_LOST + 1} times" if spent else None,
                    row["id"],
                ),
            )
        return len(stale)

    def _own(self, number: int, worker: str, changes: str, *values: object) -> bool:
        with self._writing() as db:
            return bool(
                db.execute(
                    f"UPDATE generation_queue SET {changes}"
                    " WHERE id = ? AND status = 'processing' AND worker = ?",
                    (*values, number, worker),
                ).rowcount
            )

    def _end(self, number: int, worker: str, status: str, column: str, message: str) -> bool:
        return self._own(
            number,
            worker,
            "status = ?, completed_at = ?, worker = NULL, lease_until = NULL, storing = 0, progress = NULL,"
            f" error_message = NULL, {column} = ?",
            status,
            self._clock(),
            message or None,
        )

    # What people do

    def cancel(self, number: int) -> Listed:
        """Cancel an item that is not finished; one that is cancelled stays so.

        Raises ItemUnknown, and ItemSettled for one that is finished or whose pictures are being stored.
        """
        with self._writing() as db:
            done = self._cancel(db, "id = ?", (number,))
        listed = self.get(number)
        if not done and listed.item.status != CANCELLED:
            state = "being stored" if listed.item.status == PROCESSING else listed.item.status
            raise ItemSettled(f"item {number} is {state} and cannot be cancelled")
        return listed

    def cancel_pending(self, lane: str | None = None) -> int:
        """Cancel what waits, of one lane or of all; return how many items that were."""
        with self._writing() as db:
            if lane is None:
                return self._cancel(db, "status = 'pending'", ())
            return self._cancel(db, "status = 'pending' AND coalesce(lane, model_id) = ?", (lane,))

    def _cancel(self, db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> int:
        return db.execute(
            "UPDATE generation_queue SET status = 'cancelled', completed_at = ?, worker = NULL,"
            " lease_until = NULL, progress = NULL, error_message = NULL"
            f" WHERE {where} AND (status = 'pending' OR (status = 'processing' AND storing = 0))",
            (self._clock(), *values),
        ).rowcount

    def retry(self, number: int) -> Listed:
        """Have a failed or cancelled item made after all. Raises ItemUnknown and ItemSettled."""
        with self._writing() as db:
            done = db.execute(
                f"{_AGAIN} WHERE id = ? AND status IN ('error', 'cancelled')", (number,)
            ).rowcount
        listed = self.get(number)
        if not done:
            raise ItemSettled(
                f"item {number} is {listed.item.status}; only failed and cancelled ones are retried"
            )
        return listed

    def retry_failed(self) -> int:
        """Have all failed items made after all; return how many that were."""
        with self._writing() as db:
            return db.execute(f"{_AGAIN} WHERE status = 'error'").rowcount

    def remove(self, number: int) -> None:
        """Take a finished item off the list; what waits for one that is not complete is cancelled.

        Raises ItemUnknown and ItemSettled.
        """
        listed = self.get(number)
        if listed.item.status not in FINISHED:
            raise ItemSettled(f"item {number} is {listed.item.status}; cancel it first")
        with self._writing() as db:
            self._remove(db, "id = ?", (number,))

    def remove_finished(self) -> int:
        """Take the finished items off the list; return how many that were.

        Failed and cancelled ones stay while something that is not finished waits for them.
        """
        with self._writing() as db:
            return db.execute(
                "DELETE FROM generation_queue WHERE status = 'complete'"
                f" OR (status IN ('error', 'cancelled') AND id NOT IN ({_NEEDED} SELECT id FROM needed))"
            ).rowcount

    def _remove(self, db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> int:
        gone = f"SELECT id FROM generation_queue WHERE {where} AND status IN ('error', 'cancelled')"
        db.execute(
            "UPDATE generation_queue SET status = 'cancelled', completed_at = ?,"
            " error_message = 'what it waited for was taken off the list'"
            " WHERE status = 'pending' AND id IN (WITH RECURSIVE after (id) AS ("
            f" SELECT item FROM queue_edges WHERE waits_for IN ({gone})"
            " UNION SELECT e.item FROM after JOIN queue_edges e ON e.waits_for = after.id)"
            " SELECT id FROM after)",
            (self._clock(), *values),
        )
        return db.execute(
            f"DELETE FROM generation_queue WHERE {where} AND status IN ('complete', 'error', 'cancelled')",
            values,
        ).rowcount

    # What there is

    @property
    def revision(self) -> int:
        """The number of the newest change."""
        with self._reading() as db:
            return _newest(db)

    def get(self, number: int) -> Listed:
        """Return an item. Raises ItemUnknown."""
        found = self._listed("id = ?", (number,))
        if not found:
            raise ItemUnknown(number)
        return found[0]

    def listed(self, finished: int = 100) -> tuple[int, list[Listed]]:
        """Return the newest revision and all items that are not finished, with the newest finished ones."""
        with self._snapshot() as db:
            return _newest(db), self._listed(
                "status IN ('pending', 'processing') OR id IN (SELECT id FROM generation_queue WHERE"
                " status IN ('complete', 'error', 'cancelled')"
                " ORDER BY completed_at DESC, id DESC LIMIT ?)",
                (finished,),
            )

    def changed_since(self, revision: int) -> tuple[int, list[Listed], list[int]]:
        """Return the newest revision, items that changed after one, and ids of those that were removed.

        Items that wait for one that changed count as changed, those behind it in its lane do not.
        """
        with self._snapshot() as db:
            newest = _newest(db)
            if newest == revision:
                return newest, [], []
            changed = [
                int(row[0])
                for row in db.execute("SELECT id FROM queue_changes WHERE revision > ?", (revision,))
            ]
            new = "SELECT id FROM queue_changes WHERE revision > ?"
            after = f"SELECT item FROM queue_edges WHERE waits_for IN ({new})"
            found = self._listed(
                f"id IN ({new}) OR (status = 'pending' AND id IN ({after}))", (revision, revision)
            )
            there = {one.item.id for one in found}
            return newest, found, [one for one in changed if one not in there]

    def active(self) -> list[Item]:
        """Return the items that are not finished, in order."""
        with self._reading() as db:
            return _active(db)

    def is_own(self, number: int, worker: str) -> bool:
        """Tell whether an item is being made by a worker."""
        with self._reading() as db:
            row = db.execute("SELECT status, worker FROM generation_queue WHERE id = ?", (number,)).fetchone()
        return row is not None and row["status"] == "processing" and row["worker"] == worker

    def _listed(self, where: str, values: tuple[object, ...]) -> list[Listed]:
        with self._reading() as db:
            rows = db.execute(f"SELECT * FROM generation_queue WHERE {where} ORDER BY id", values).fetchall()
            waits = _waits(db, [int(row["id"]) for row in rows if row["status"] == "pending"])
            held = {int(row[0]) for row in db.execute(f"{_HELD} SELECT id FROM held")} if waits else set()
            pending = {
                int(row["id"]): int(row["position"])
                for row in db.execute(
                    "SELECT id, row_number() OVER (PARTITION BY lane ORDER BY id) AS position"
                    " FROM generation_queue WHERE status = 'pending'"
                )
            }
        return [
            Listed(
                item=items.item_of(row),
                position=0 if row["status"] == "processing" else pending.get(int(row["id"])),
                waits_for=waits.get(int(row["id"]), ()),
                held=int(row["id"]) in held,
            )
            for row in rows
        ]

    def data_version(self) -> int:
        """Return a number that changes when another connection has written."""
        with self._reading() as db:
            return int(db.execute("PRAGMA data_version").fetchone()[0])

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


def _active(db: sqlite3.Connection) -> list[Item]:
    rows = db.execute(
        "SELECT * FROM generation_queue WHERE status IN ('pending', 'processing') ORDER BY id"
    ).fetchall()
    return [items.item_of(row) for row in rows]


def _tame(db: sqlite3.Connection, now: float) -> None:
    """Give rows whose id is not one of the queue's another, failed, so that rows can still be added.

    AUTOINCREMENT refuses every further row after the largest id (sqlite.org/autoinc.html).
    """
    sane = f"BETWEEN 1 AND {MOST_ID}"
    wild = [int(row[0]) for row in db.execute(f"SELECT id FROM generation_queue WHERE id NOT {sane}")]
    spent = db.execute(
        "SELECT 1 FROM sqlite_sequence WHERE name = 'generation_queue' AND seq > ?", (MOST_ID,)
    ).fetchone()
    if not wild and spent is None:
        return
    last = f"SELECT coalesce(max(id), 0) FROM generation_queue WHERE id {sane}"
    for number in wild:
        db.execute("DELETE FROM queue_edges WHERE ? IN (item, waits_for)", (number,))
        db.execute(
            "UPDATE generation_queue SET status = 'error', completed_at = ?, error_message = ?, lane = '',"
            f" worker = NULL, lease_until = NULL, checked = 1, id = ({last}) + 1 WHERE id = ?",
            (now, f"id = {number}: leave the id to the queue", number),
        )
        db.execute("DELETE FROM queue_changes WHERE id = ?", (number,))
        db.execute("INSERT INTO queue_changes (id) VALUES (?)", (number,))
    db.execute(f"UPDATE sqlite_sequence SET seq = ({last}) WHERE name = 'generation_queue'")


def _circular(edges: Iterable[tuple[int, int]]) -> set[int]:
    """Return the items that lie on a cycle of `item waits for other`, or between two cycles."""
    left = set(edges)
    while True:
        waiting, waited = {item for item, _ in left}, {other for _, other in left}
        kept = {edge for edge in left if edge[1] in waiting and edge[0] in waited}
        if len(kept) == len(left):
            return waiting & waited
        left = kept


def _newest(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT coalesce(max(revision), 0) FROM queue_changes").fetchone()[0])


def _waits(db: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return, for items, those that they still wait for."""
    found: dict[int, list[int]] = {}
    for part in _parts(numbers):
        marks = ", ".join("?" * len(part))
        for item, other in db.execute(
            "SELECT e.item, e.waits_for FROM queue_edges e JOIN generation_queue w ON w.id = e.waits_for"
            f" WHERE e.item IN ({marks}) AND w.status <> 'complete' ORDER BY 1, 2",
            part,
        ):
            found.setdefault(int(item), []).append(int(other))
    return {item: tuple(others) for item, others in found.items()}


def _parts(numbers: Sequence[int]) -> Iterable[Sequence[int]]:
    return (numbers[start : start + _PART_OF_IN] for start in range(0, len(numbers), _PART_OF_IN))
