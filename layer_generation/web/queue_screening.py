"""Rows of the queue looked at before they are made: what any program wrote, what waits for itself."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterable

from layer_generation.errors import ItemInvalid
from layer_generation.web.items import Item
from layer_generation.web.queue_file import QueueFile
from layer_generation.web.queue_ids import tame

_UNSEEN = "checked IS NOT 1 AND status IN ('pending', 'processing')"


class QueueScreening(QueueFile):
    """The queue as it is checked."""

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
            tame(db, self._clock())
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


def _circular(edges: Iterable[tuple[int, int]]) -> set[int]:
    """Return the items that lie on a cycle of `item waits for other`, or between two cycles."""
    left = set(edges)
    while True:
        waiting, waited = {item for item, _ in left}, {other for _, other in left}
        kept = {edge for edge in left if edge[1] in waiting and edge[0] in waited}
        if len(kept) == len(left):
            return waiting & waited
        left = kept
