"""When a partition of a layer is drawn by itself: it is missing, and all it waits for is there."""

from __future__ import annotations

import dagster as dg

_C = dg.AutomationCondition
_ready = _C.missing() & ~_C.any_deps_missing() & ~_C.any_deps_in_progress()
NEIGHBOURS_READY = (_ready.newly_true().since_last_handled() & _ready & ~_C.in_progress()).with_label(
    "neighbours_ready"
)
"""Asked for once: a partition that failed waits for a person or a backfill, for each try is paid."""
