"""The generation queue: one SQLite file beside the map, which any program may write into.

`generation_queue.db` has one row for each picture or render that is wanted. Rows
are made in the order of their ids, one at a time in each lane (a model, or the
renderer), several lanes together. A row is claimed by one UPDATE, with a lease;
whoever loses its lease loses the row. Every change of a row has a revision, so
that pages learn what changed since they looked, also after a restart.
"""

from __future__ import annotations

from layer_generation.web.queue_apps import QueueApps
from layer_generation.web.queue_leases import QueueLeases
from layer_generation.web.queue_orders import QueueOrders
from layer_generation.web.queue_screening import QueueScreening


class GenerationQueue(QueueOrders, QueueLeases, QueueScreening, QueueApps):
    """An open queue, whole. Use it as a context manager; one object is for one thread."""
