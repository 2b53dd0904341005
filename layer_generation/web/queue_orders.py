"""What people do with the queue: add items, cancel them, have them made after all, take them off."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable, Sequence

from layer_generation.errors import ItemSettled
from layer_generation.web.items import CANCELLED, FINISHED, PROCESSING, Item, NewItem, item_of
from layer_generation.web.queue_ids import tame
from layer_generation.web.queue_views import Listed, QueueViews, active_items

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


class QueueOrders(QueueViews):
    """The queue as people give orders to it."""

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
            tame(db, now)
            if unless is not None and unless(active_items(db)):
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
        """Have a failed or cancelled item made after all.

        Raises ItemUnknown, and ItemSettled where it is neither, or another item draws the same by now.
        """
        with self._writing() as db:
            done, others = self._retry(db, "id = ?", (number,))
        listed = self.get(number)
        if others:
            raise ItemSettled(f"item {others[0]} draws what item {number} would; cancel that first")
        if not done:
            raise ItemSettled(
                f"item {number} is {listed.item.status}; only failed and cancelled ones are retried"
            )
        return listed

    def retry_failed(self) -> int:
        """Have all failed items made after all; return how many that were.

        What another item draws by now stays as it is.
        """
        with self._writing() as db:
            return self._retry(db, "status = 'error'", ())[0]

    def _retry(self, db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> tuple[int, list[int]]:
        """Return how many items are made after all, and ids of those that draw what others would."""
        taken = {(one.item_type, place): one.id for one in active_items(db) for place in one.quadrants}
        rows = db.execute(
            f"SELECT * FROM generation_queue WHERE {where} AND status IN ('error', 'cancelled') ORDER BY id",
            values,
        ).fetchall()
        again: list[tuple[int]] = []
        others: list[int] = []
        for item in map(item_of, rows):
            places = [(item.item_type, place) for place in item.quadrants]
            busy = [taken[one] for one in places if one in taken]
            if busy:
                others.append(busy[0])
                continue
            again.append((item.id,))
            taken.update(dict.fromkeys(places, item.id))
        db.executemany(f"{_AGAIN} WHERE id = ?", again)
        return len(again), others

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
