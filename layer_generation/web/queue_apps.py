"""Which apps work at the queue, and at which of its lanes: several may, each with models of its own.

A row of a model that one app does not have is another's to draw, also while that
one is not running: only what no app ever had is nonsense.
"""

from __future__ import annotations

from collections.abc import Collection

from layer_generation.owners import is_gone
from layer_generation.web.items import RENDER_LANE
from layer_generation.web.queue_file import QueueFile

_REMEMBERED_S = 30 * 86400.0
"""How long a lane counts as some app's after the last one that worked at it began."""


class QueueApps(QueueFile):
    """The queue as apps find each other in it."""

    def offer(self, app: str, lanes: Collection[str]) -> None:
        """Say that an app works at lanes. Its name begins with that of its process, as `owners` has it."""
        now = self._clock()
        with self._writing() as db:
            known = [
                str(row[0]) for row in db.execute("SELECT DISTINCT app FROM queue_lanes WHERE app <> ''")
            ]
            gone = [(one,) for one in known if one == app or is_gone(one)]
            db.executemany("DELETE FROM queue_lanes WHERE app = ?", gone)
            db.execute("DELETE FROM queue_lanes WHERE app = '' AND since < ?", (now - _REMEMBERED_S,))
            db.executemany(
                "INSERT OR REPLACE INTO queue_lanes (lane, app, since) VALUES (?, ?, ?)",
                [(lane, name, now) for lane in lanes for name in ("", app)],
            )

    def withdraw(self, app: str) -> None:
        """Say that an app ended."""
        with self._writing() as db:
            db.execute("DELETE FROM queue_lanes WHERE app = ?", (app,))

    def models_of_others(self) -> frozenset[str]:
        """Return the models that some app of this map has, or had of late."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT DISTINCT lane FROM queue_lanes WHERE lane <> ?", (RENDER_LANE,)
            ).fetchall()
        return frozenset(str(row[0]) for row in rows)

    def lanes_worked_at(self) -> frozenset[str]:
        """Return the lanes that an app works at that runs now."""
        with self._reading() as db:
            rows = db.execute("SELECT lane, app FROM queue_lanes WHERE app <> ''").fetchall()
        gone = {str(app) for _, app in rows if is_gone(str(app))}
        return frozenset(str(lane) for lane, app in rows if str(app) not in gone)
