"""`progress.db`: which block of a layer is planned, under way, finished or failed. SQLite decides.

A block is claimed by one UPDATE, with a lease; it is ready when all blocks it
waits for are complete. Any number of processes may share a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from layer_generation.blocks import STATUSES, BlockRow, NewBlock
from layer_generation.progress_file import FILENAME, ProgressFile

__all__ = ["FILENAME", "STATUSES", "BlockRow", "NewBlock", "Progress"]

_BLOCK = (
    "id, step, wave, top_left_x, top_left_y, width, height, status, attempts,"
    " model_name, error_message, extension, reason"
)
_GIVEN_BACK = "status = 'pending', worker = NULL, lease_until = NULL, attempts = max(attempts - 1, 0)"
_HELD = (
    "WITH RECURSIVE held (id) AS (SELECT id FROM generation_plan WHERE status = 'error' UNION"
    " SELECT e.block FROM held JOIN block_edges e ON e.waits_for = held.id)"
)
_OPEN = "(status = 'in_progress' OR (status = 'pending' AND id NOT IN (SELECT id FROM held)))"
_FIRST_OPEN_STEP = (
    f" AND (extension, step) = ({_HELD} SELECT extension, step FROM generation_plan WHERE {_OPEN}"
    " ORDER BY extension, step LIMIT 1)"
)


class Progress(ProgressFile):
    """The blocks of a layer under way. Use it as a context manager; one object is for one thread."""

    # The plan

    def add(self, blocks: Sequence[NewBlock], waits_for: npt.NDArray[np.int64]) -> None:
        """Add blocks in order; `waits_for` holds (block, block it waits for), shape (m, 2).

        Both are places among the new blocks, or -id of a block that is there already.
        """
        with self._transaction() as connection:
            first = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM generation_plan").fetchone()[0]
            connection.executemany(
                "INSERT INTO generation_plan (id, step, wave, block_type, top_left_x, top_left_y, width,"
                " height, extension, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (first + place, one.step, one.wave, f"{one.width}x{one.height}", one.x, one.y, one.width,
                     one.height, one.extension, one.reason)
                    for place, one in enumerate(blocks)
                ),
            )  # fmt: skip
            connection.executemany(
                "INSERT INTO block_quadrants VALUES (?, ?, ?)",
                (
                    (one.x + dx, one.y + dy, first + place)
                    for place, one in enumerate(blocks)
                    for dy in range(one.height)
                    for dx in range(one.width)
                ),
            )
            ids = np.where(waits_for < 0, -waits_for, waits_for + first)
            connection.executemany("INSERT INTO block_edges VALUES (?, ?)", map(tuple, ids.tolist()))
            connection.execute(
                "UPDATE generation_plan SET waiting = (SELECT count(*) FROM block_edges e"
                " JOIN generation_plan u ON u.id = e.waits_for"
                " WHERE e.block = generation_plan.id AND u.status <> 'complete') WHERE id >= ?",
                (first,),
            )

    def quadrants_waited_for(self, block: int) -> list[tuple[int, int]]:
        """Return the quadrants of the blocks that a block waits for."""
        with self._readable():
            rows = self._connection.execute(
                "SELECT q.x, q.y FROM block_edges e JOIN generation_plan b ON b.id = e.waits_for"
                " JOIN block_quadrants q ON q.block = b.id"
                " AND q.x BETWEEN b.top_left_x AND b.top_left_x + b.width - 1"
                " AND q.y BETWEEN b.top_left_y AND b.top_left_y + b.height - 1 WHERE e.block = ?",
                (block,),
            ).fetchall()
        return [(int(x), int(y)) for x, y in rows]

    def pending(
        self, *, step: int | None = None, blocks: Sequence[int] | None = None, most: int = 10_000
    ) -> int:
        """Return how many blocks are pending and not held back by a failed one, counted up to `most`."""
        chosen, values = _chosen(step, blocks)
        with self._readable():
            (count,) = self._connection.execute(
                f"{_HELD} SELECT count(*) FROM (SELECT 1 FROM generation_plan WHERE status = 'pending'"
                f" AND id NOT IN (SELECT id FROM held){chosen} LIMIT ?)",
                (*values, most),
            ).fetchone()
        return int(count)

    def is_open(self, *, step: int | None = None, blocks: Sequence[int] | None = None) -> bool:
        """Tell whether some block is under way, or pending and not held back by a failed one."""
        chosen, values = _chosen(step, blocks)
        with self._readable():
            row = self._connection.execute(
                f"{_HELD} SELECT 1 FROM generation_plan WHERE {_OPEN}{chosen} LIMIT 1",
                values,
            ).fetchone()
        return row is not None

    def blocks(self) -> Iterator[BlockRow]:
        """Yield every block in order."""
        with self._readable():
            rows = self._connection.execute(f"SELECT {_BLOCK} FROM generation_plan ORDER BY id")
            for row in rows:
                yield BlockRow(*row)

    def edges(self) -> npt.NDArray[np.int64]:
        """Return (block, block it waits for) by id, shape (m, 2)."""
        with self._readable():
            rows = self._connection.execute("SELECT block, waits_for FROM block_edges").fetchall()
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def owner(self, x: int, y: int) -> BlockRow | None:
        """Return the block that a quadrant belongs to."""
        with self._readable():
            row = self._connection.execute(
                f"SELECT {_BLOCK} FROM generation_plan WHERE id = "
                "(SELECT block FROM block_quadrants WHERE x = ? AND y = ?)",
                (x, y),
            ).fetchone()
        return None if row is None else BlockRow(*row)

    def finished_around(self, x: int, y: int, width: int, height: int) -> set[tuple[int, int]]:
        """Return the finished quadrants of a rectangle of quadrants."""
        with self._readable():
            rows = self._connection.execute(
                "SELECT q.x, q.y FROM block_quadrants q JOIN generation_plan b ON b.id = q.block"
                " WHERE q.x BETWEEN ? AND ? AND q.y BETWEEN ? AND ? AND b.status = 'complete'",
                (x, x + width - 1, y, y + height - 1),
            ).fetchall()
        return {(int(one), int(other)) for one, other in rows}

    # Work

    def claim(
        self,
        worker: str,
        lease_s: float,
        *,
        step: int | None = None,
        blocks: Sequence[int] | None = None,
        strict_steps: bool = False,
    ) -> BlockRow | None:
        """Take the next ready block for a worker, None where none is ready now.

        `step` and `blocks` (ids) narrow the choice; `strict_steps` holds back
        every step until all blocks of the steps before are complete or failed.
        A block whose lease ran out is ready again.
        """
        now = self._clock()
        chosen, values = _chosen(step, blocks)
        if strict_steps:
            chosen += _FIRST_OPEN_STEP
        with self._transaction() as connection:
            connection.execute(
                f"UPDATE generation_plan SET {_GIVEN_BACK} WHERE status = 'in_progress' AND lease_until < ?",
                (now,),
            )
            row = connection.execute(
                "UPDATE generation_plan SET status = 'in_progress', worker = ?, lease_until = ?,"
                " started_at = ?, attempts = attempts + 1, error_message = NULL"
                " WHERE id = (SELECT id FROM generation_plan"
                f" WHERE status = 'pending' AND waiting = 0 AND not_before <= ?{chosen} ORDER BY id LIMIT 1)"
                f" RETURNING {_BLOCK}",
                (worker, now + lease_s, now, now, *values),
            ).fetchone()
        return None if row is None else BlockRow(*row)

    def renew(self, block: int, worker: str, lease_s: float) -> bool:
        """Prolong a lease; False where the block is not this worker's any more."""
        return self._own(block, worker, "lease_until = ?", (self._clock() + lease_s,))

    def finish(
        self, block: int, worker: str, *, model_name: str, provenance: str, publish: Callable[[], None]
    ) -> bool:
        """Mark a block complete; False, and nothing published, where it is not this worker's any more.

        `publish` gives the pictures their names; it runs while no one else can
        claim, so that a picture that is there is that of its row.
        """
        with self._transaction() as connection:
            done = connection.execute(
                "UPDATE generation_plan SET status = 'complete', model_name = ?, provenance = ?,"
                " completed_at = ?, worker = NULL, lease_until = NULL, error_message = NULL"
                " WHERE id = ? AND worker = ? AND status = 'in_progress'",
                (model_name, provenance, self._clock(), block, worker),
            ).rowcount
            if not done:
                return False
            publish()
            connection.execute(
                "UPDATE generation_plan SET waiting = waiting - 1"
                " WHERE id IN (SELECT block FROM block_edges WHERE waits_for = ?)",
                (block,),
            )
        return True

    def fail(self, block: int, worker: str, message: str, *, model_name: str | None = None) -> bool:
        """Mark a block failed; False where it is not this worker's any more."""
        return self._own(
            block,
            worker,
            "status = 'error', error_message = ?, model_name = coalesce(?, model_name), completed_at = ?,"
            " worker = NULL, lease_until = NULL",
            (message, model_name, self._clock()),
        )

    def requeue(
        self, block: int, worker: str, *, after_s: float = 0.0, counts: bool = True, note: str = ""
    ) -> bool:
        """Give a block back, to be tried again after a while; `counts` tells whether the attempt counts."""
        return self._own(
            block,
            worker,
            "status = 'pending', not_before = ?, attempts = attempts - ?, error_message = nullif(?, ''),"
            " worker = NULL, lease_until = NULL, started_at = NULL",
            (self._clock() + after_s, 0 if counts else 1, note),
        )

    def reclaim(self, is_dead: Callable[[str], bool]) -> int:
        """Give back the blocks of workers that are no more, whatever their leases; return how many.

        The attempt that ended with the worker does not count: it says nothing of the picture.
        """
        with self._readable():
            rows = self._connection.execute(
                "SELECT id, worker FROM generation_plan WHERE status = 'in_progress'"
            ).fetchall()
        dead = [(block, worker) for block, worker in rows if worker is None or is_dead(worker)]
        if not dead:
            return 0
        with self._transaction() as connection:
            return connection.executemany(
                f"UPDATE generation_plan SET {_GIVEN_BACK}"
                " WHERE status = 'in_progress' AND id = ? AND worker IS ?",
                dead,
            ).rowcount

    def reopen(self, blocks: Sequence[int]) -> None:
        """Make complete blocks pending again; what waits for them waits again."""
        with self._transaction() as connection:
            for block in blocks:
                reopened = connection.execute(
                    "UPDATE generation_plan SET status = 'pending', attempts = 0, not_before = 0,"
                    " completed_at = NULL, provenance = NULL WHERE id = ? AND status = 'complete'",
                    (block,),
                ).rowcount
                if reopened:
                    connection.execute(
                        "UPDATE generation_plan SET waiting = waiting + 1"
                        " WHERE id IN (SELECT block FROM block_edges WHERE waits_for = ?)",
                        (block,),
                    )

    def retry_errors(self, blocks: Sequence[int] | None = None) -> int:
        """Make failed blocks pending again, with all their attempts; return how many."""
        chosen = "" if blocks is None else " AND id IN (SELECT value FROM json_each(?))"
        values = () if blocks is None else ("[" + ",".join(str(int(one)) for one in blocks) + "]",)
        with self._transaction() as connection:
            return connection.execute(
                "UPDATE generation_plan SET status = 'pending', attempts = 0, not_before = 0,"
                " error_message = NULL, started_at = NULL, completed_at = NULL"
                f" WHERE status = 'error'{chosen}",
                values,
            ).rowcount

    # What is so

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the number of blocks by step and status, `blocked` among them for those behind an error."""
        with self._readable():
            rows = self._connection.execute(
                "SELECT step, status, count(*) FROM generation_plan GROUP BY step, status"
            ).fetchall()
            blocked = self._connection.execute(
                "SELECT step, count(*) FROM generation_plan"
                " WHERE id IN (SELECT value FROM json_each(?)) GROUP BY step",
                ("[" + ",".join(map(str, sorted(self.blocked()))) + "]",),
            ).fetchall()
        found = {step: dict.fromkeys((*STATUSES, "blocked"), 0) for step in (1, 2, 3)}
        for step, status, count in rows:
            found[step][status] = count
        for step, count in blocked:
            found[step]["blocked"] = count
            found[step]["pending"] -= count
        return found

    def blocked(self) -> set[int]:
        """Return the ids of the pending blocks that wait, directly or not, for a failed one."""
        with self._readable():
            rows = self._connection.execute(
                f"{_HELD} SELECT p.id FROM held JOIN generation_plan p USING (id) WHERE p.status = 'pending'"
            ).fetchall()
        return {int(one) for (one,) in rows}

    def next_at(self) -> float | None:
        """Return when, by the clock, a block that waits for time may become ready; None where none does."""
        with self._readable():
            (moment,) = self._connection.execute(
                "SELECT min(CASE status WHEN 'pending' THEN not_before ELSE lease_until END)"
                " FROM generation_plan WHERE (status = 'pending' AND waiting = 0) OR status = 'in_progress'"
            ).fetchone()
        return None if moment is None else float(moment)

    def provenance(self) -> Iterator[tuple[int, str, str]]:
        """Yield (block, model name, provenance as JSON) of the complete blocks."""
        with self._readable():
            yield from self._connection.execute(
                "SELECT id, coalesce(model_name, ''), coalesce(provenance, '{}') FROM generation_plan"
                " WHERE status = 'complete' ORDER BY id"
            )

    def _own(self, block: int, worker: str, change: str, values: tuple[object, ...]) -> bool:
        with self._transaction() as connection:
            done = connection.execute(
                f"UPDATE generation_plan SET {change} WHERE id = ? AND worker = ? AND status = 'in_progress'",
                (*values, block, worker),
            ).rowcount
        return bool(done)


def _chosen(step: int | None, blocks: Sequence[int] | None) -> tuple[str, tuple[object, ...]]:
    """Return the end of a condition that narrows the choice of blocks, and its values."""
    text = ""
    values: list[object] = []
    if step is not None:
        text += " AND step = ?"
        values.append(step)
    if blocks is not None:
        text += " AND id IN (SELECT value FROM json_each(?))"
        values.append("[" + ",".join(str(int(one)) for one in blocks) + "]")
    return text, tuple(values)
