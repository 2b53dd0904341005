"""Ids of the queue that other programs wrote, kept within what a page can count to."""

from __future__ import annotations

import sqlite3

MOST_ID = 2**53 - 1
"""Of an item: what a page can count to. With SQLite's own largest no further row could be added."""


def tame(db: sqlite3.Connection, now: float) -> None:
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
