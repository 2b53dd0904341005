"""Who is at which item: claims by one UPDATE, leases, what becomes of an item, what vanished workers left."""

from __future__ import annotations

import json
import sqlite3

from layer_generation.owners import is_gone
from layer_generation.web import items
from layer_generation.web.items import Item
from layer_generation.web.queue_file import QueueFile

MOST_LOST = 5
"""Times that an item is taken up again after its worker vanished; more, and it is the item's fault."""
MOST_LEASE_S = 3600.0
"""Of a lease; what claims to run longer was not written by a lane."""
_READY = """
    SELECT q.id FROM generation_queue q
    WHERE q.status = 'pending' AND q.lane = :lane AND q.checked = 1 AND q.not_before <= :now
      AND NOT EXISTS (SELECT 1 FROM generation_queue o WHERE o.status = 'processing' AND o.lane = q.lane)
      AND NOT EXISTS (
          SELECT 1 FROM queue_edges e JOIN generation_queue w ON w.id = e.waits_for
          WHERE e.item = q.id AND w.status <> 'complete')
    ORDER BY q.id LIMIT 1
"""


class QueueLeases(QueueFile):
    """The queue as those see it who work at it."""

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
