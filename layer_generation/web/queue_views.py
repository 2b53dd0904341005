"""What there is in the queue: items with their places, what changed since, who holds what back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layer_generation.errors import ItemUnknown
from layer_generation.web import items
from layer_generation.web.items import Item
from layer_generation.web.queue_file import QueueFile

_PART_OF_IN = 500
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


class QueueViews(QueueFile):
    """The queue as people and pages see it."""

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

    def of(self, numbers: Sequence[int]) -> tuple[int, list[Listed]]:
        """Return the newest revision, and items by their ids; those that are no more are left out."""
        with self._snapshot() as db:
            found: list[Listed] = []
            for part in _parts(numbers):
                found += self._listed(f"id IN ({', '.join('?' * len(part))})", tuple(part))
            return _newest(db), found

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
            return active_items(db)

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


def active_items(db: sqlite3.Connection) -> list[Item]:
    """Return the items that are not finished, in order."""
    rows = db.execute(
        "SELECT * FROM generation_queue WHERE status IN ('pending', 'processing') ORDER BY id"
    ).fetchall()
    return [items.item_of(row) for row in rows]


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
