"""One partition drawn: its blocks given to the worker, and what became of them read from progress.db."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.errors import UsageError
from layer_generation.defs.regions import Partition, Regions
from layer_generation.defs.reporting import LINE_INTERVAL_S
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.endpoints.open import open_endpoint
from layer_generation.layer_config import FILENAME, read_layer
from layer_generation.pool import Pool
from layer_generation.progress import BlockRow, Progress
from layer_generation.settings import keys_from
from layer_generation.worker import GENERATIONS, LayerRun, RunOptions, RunReport

_TICK_S = 1.0
_REST_PER_LOOK = 20
"""Looking through a plan takes at most a twentieth of the time, however large it is."""


@dataclass(frozen=True, slots=True)
class State:
    """How the blocks of a partition stand."""

    blocks: tuple[BlockRow, ...]
    blocked: frozenset[int]
    """Those that wait, directly or not, for a failed one, by id."""
    lost: tuple[BlockRow, ...]
    """Complete ones whose pictures are not all there."""

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of blocks by status, `blocked` and `lost` among them."""
        found = Counter(one.status for one in self.blocks)
        found["pending"] -= len(self.blocked)
        found["complete"] -= len(self.lost)
        found |= Counter({"blocked": len(self.blocked), "lost": len(self.lost)})
        names = ("complete", "error", "blocked", "pending", "in_progress", "lost")
        return {name: found[name] for name in names}

    @property
    def whole(self) -> bool:
        """Whether every block is complete and has its pictures."""
        return self.counts["complete"] == len(self.blocks)

    @property
    def failed(self) -> list[BlockRow]:
        """The blocks in error."""
        return [one for one in self.blocks if one.status == "error"]


def state_of(layer_dir: Path, ids: Iterable[int]) -> State:
    """Return how blocks stand. Raises LayerMissing and MapUnreadable."""
    wanted = set(ids)
    with Progress(layer_dir) as progress:
        blocks = tuple(one for one in progress.blocks() if one.id in wanted)
        blocked = frozenset(progress.blocked() & wanted)
    folder = layer_dir / GENERATIONS
    lost = tuple(
        one
        for one in blocks
        if one.status == "complete" and not all((folder / f"{x}_{y}.png").is_file() for x, y in one.quadrants)
    )
    return State(blocks, blocked, lost)


def first_of(layer_dir: Path, regions: Regions, partition: Partition) -> dict[int, Partition]:
    """Return the blocks of other partitions to be drawn before a partition's, by id; lost ones among them.

    None where one of them has failed: that waits for a person.
    """
    with Progress(layer_dir) as progress:
        status = {one.id: one.status for one in progress.blocks()}
    lost = {one.id for one in state_of(layer_dir, regions.outside(partition)).lost}
    complete = (one for one, found in status.items() if found == "complete" and one not in lost)
    found = regions.first(partition, complete)
    return {} if any(status[one] == "error" for one in found) else found


def unfinished(layer_dir: Path, ids: Iterable[int]) -> list[int]:
    """Return those of some blocks, by id, that are not complete."""
    return [one.id for one in state_of(layer_dir, ids).blocks if one.status != "complete"]


def drawn(
    layer_dir: Path,
    ids: Sequence[int],
    waited_for: Sequence[int],
    say: Callable[[str], object],
    stop: Stop = NEVER,
) -> RunReport:
    """Draw blocks until none of them can be drawn, failed ones of earlier runs among them; say how it goes.

    `waited_for` are the blocks elsewhere that they wait for: where one of these is
    found not to be complete, the run ends, for nobody here would finish it. Raises
    UsageError for a layer without model servers, EndpointsExhausted.
    """
    config = read_layer(layer_dir)
    if not config.model_endpoints:
        raise UsageError(f"{layer_dir / FILENAME}: names no model endpoint")
    keys = keys_from()
    pool = Pool(
        [(open_endpoint(one, keys, folder=layer_dir), one.concurrency) for one in config.model_endpoints]
    )
    with Progress(layer_dir) as progress:
        again = progress.retry_errors(ids)
    if again:
        say(f"{again} blocks that failed before are tried again")
    run = LayerRun(layer_dir, config, pool, RunOptions(blocks=ids))
    looks = _Looks(layer_dir, ids, waited_for, say)
    started = time.monotonic()
    try:
        with stop.ending(run), closing(run.run(_TICK_S)) as work:  # type: ignore[type-var]
            for _ in work:
                while not run.events.empty():
                    say(run.events.get())
                if looks.found_held() and not run.stopping:
                    run.stop()
    finally:
        pool.close()
    return run.report(time.monotonic() - started)


class _Looks:
    """Looks at the blocks of a run now and then: says how far they are, and whether others hold them."""

    def __init__(
        self, layer_dir: Path, ids: Sequence[int], waited_for: Sequence[int], say: Callable[[str], object]
    ) -> None:
        self._layer_dir, self._ids, self._waited_for, self._say = layer_dir, ids, waited_for, say
        self._next_at = self._line_at = 0.0
        self._held = False

    def found_held(self) -> bool:
        """Look, if it is time to; tell whether a block that is waited for was found not to be complete."""
        began = time.monotonic()
        if began < self._next_at:
            return self._held
        self._held = bool(self._waited_for and unfinished(self._layer_dir, self._waited_for))
        if began >= self._line_at:
            counts = state_of(self._layer_dir, self._ids).counts
            told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            self._say(f"{len(self._ids)} blocks: {told}")
            self._line_at = began + LINE_INTERVAL_S
        now = time.monotonic()
        self._next_at = now + max(_TICK_S, _REST_PER_LOOK * (now - began))
        return self._held
