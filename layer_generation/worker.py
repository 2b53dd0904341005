"""A layer under way: claim a block, show its template to a model, keep what comes back.

One thread for each slot of each model server. progress.db decides who owns a
block; pictures are written beside their names and get them in the transaction
that marks the block complete, so that a crash leaves no half picture and loses no
finished one.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from layer_generation.blocks import BlockRow
from layer_generation.desk import DEFAULT_ATTEMPTS, GENERATIONS, LEASE_S, Desk, Shared
from layer_generation.layer_config import LayerConfig
from layer_generation.owners import is_gone, own_name
from layer_generation.pool import Pool, Slot
from layer_generation.progress import Progress
from layer_generation.quadrants import QuadrantStore
from layer_generation.received import Answers

__all__ = ["DEFAULT_ATTEMPTS", "GENERATIONS", "LayerRun", "RunOptions", "RunReport"]

_IDLE_S = 0.5
_LOOK_S = 5.0
"""How often an idle run looks whether other processes on its machine have died."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What of a layer to run, and how."""

    max_items: int | None = None
    """Blocks to begin at most; None for all."""
    step: int | None = None
    blocks: Sequence[int] | None = None
    """Only these blocks, by id."""
    strict_steps: bool = False
    """Whether a step waits for all blocks of the steps before, not only for those it touches."""
    max_concurrent: int | None = None
    """Requests under way at most; None for what the endpoints take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did, and what is left."""

    completed: int
    """Blocks finished in this run."""
    adopted: int
    """Of these, blocks whose pictures an interrupted run had received already."""
    calls: int
    """Requests that were sent to models."""
    failed: int
    """Blocks in error now, from this run or earlier ones."""
    blocked: int
    """Blocks that wait for one in error."""
    remaining: int
    """Blocks that are neither complete nor in error, the blocked ones among them."""
    interrupted: bool
    seconds: float
    by_endpoint: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every block is complete."""
        return not self.failed and not self.remaining


class LayerRun:
    """One process's work on a layer.

    `stop` makes it begin nothing more and end when what is under way has ended;
    `give_back` leaves what is under way, too, for another run.
    """

    def __init__(
        self,
        layer_dir: Path,
        config: LayerConfig,
        pool: Pool,
        options: RunOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.layer_dir = layer_dir
        self.config = config
        self.pool = pool
        self.options = options or RunOptions()
        self.stopping = False
        self.name = own_name()
        self._shared = Shared(layer_dir=layer_dir, config=config, clock=clock)
        self._tally = self._shared.tally
        self._clock = clock
        self._halt = threading.Event()
        self._changed = threading.Condition()
        self._changes = 0
        self._looked_at = -math.inf

    @property
    def events(self) -> queue.Queue[str]:
        """A line for each thing that a person watching wants to know."""
        return self._shared.events

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the number of blocks by step and status."""
        with Progress(self.layer_dir, self._clock) as progress:
            return progress.counts()

    def run(self, every_s: float = 1.0) -> Iterator[dict[int, dict[str, int]]]:
        """Work until nothing is left that could be done, yielding the counts of blocks now and then.

        Raises EndpointsExhausted where no model server could go on.
        """
        self._prepare()
        if self.options.max_concurrent is not None:
            self.pool.limit_to(self.options.max_concurrent)
        slots = self.pool.slots()
        threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in slots]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                deadline = time.monotonic() + every_s
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
                yield self.counts()
        finally:
            self._halt.set()
            self._wake()
            if any(thread.is_alive() for thread in threads):
                self._shared.abandon.set()
            for thread in threads:
                thread.join()
            self._clear()
        if self._tally.trouble is not None:
            raise self._tally.trouble
        if not self.stopping:
            self._check_left()
        yield self.counts()

    def stop(self) -> None:
        """Begin nothing more; what is under way is finished."""
        self.stopping = True
        self._halt.set()
        self._wake()

    def give_back(self) -> None:
        """Begin nothing more, and leave what is under way."""
        self._shared.abandon.set()
        self.stop()

    def report(self, seconds: float) -> RunReport:
        """Return what was done, and what is left."""
        counts, tally = self.counts(), self._tally
        total = {status: sum(step[status] for step in counts.values()) for status in counts[1]}
        return RunReport(
            completed=tally.completed,
            adopted=tally.adopted,
            calls=tally.calls,
            failed=total["error"],
            blocked=total["blocked"],
            remaining=total["pending"] + total["blocked"] + total["in_progress"],
            interrupted=self.stopping,
            seconds=seconds,
            by_endpoint=dict(tally.by_endpoint),
        )

    # Before the work, and after it

    def _prepare(self) -> None:
        """Give back what dead workers hold, and what is complete but has lost its pictures."""
        folder = self.layer_dir / GENERATIONS
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(self.layer_dir, self._clock) as progress:
            progress.reclaim(is_gone)
            complete = [block for block in progress.blocks() if block.status == "complete"]
            there = {entry.name for entry in os.scandir(folder)}
            lost = [
                block.id for block in complete if any(f"{x}_{y}.png" not in there for x, y in block.quadrants)
            ]
            if lost:
                progress.reopen(lost)
                self.events.put(f"{len(lost)} finished blocks have lost pictures and are made again")
        self._clear()

    def _clear(self) -> None:
        """Remove what interrupted runs left of blocks that are complete, or that no one makes."""
        with Progress(self.layer_dir, self._clock) as progress:
            status = {block.id: block.status for block in progress.blocks()}
        complete = {block for block, one in status.items() if one == "complete"}
        Answers(self.layer_dir / GENERATIONS).clear(complete, whole=len(complete) == len(status))

    def _check_left(self) -> None:
        """Raise EndpointsExhausted where blocks are left because no server could go on."""
        counts = self.counts()
        if any(step["pending"] for step in counts.values()) and self.pool.exhausted() is not None:
            self.pool.check()

    # A thread

    def _work(self, slot: Slot) -> None:
        worker = f"{self.name}:{slot.name}:{slot.number}"
        try:
            with ExitStack() as stack:
                progress = stack.enter_context(Progress(self.layer_dir, self._clock))
                source = stack.enter_context(QuadrantStore(self.config.map_folder(self.layer_dir)))
                desk = Desk(self._shared, progress, source, slot, worker)
                self._loop(slot, progress, desk)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, and the other threads end
            with self._tally.lock:
                self._tally.trouble = self._tally.trouble or error
            self._halt.set()
        finally:
            self._wake()

    def _loop(self, slot: Slot, progress: Progress, desk: Desk) -> None:
        while not self._halt.is_set():
            if self.pool.exhausted() is not None:
                return
            seen = self._changes
            wait_s = slot.acquire()
            if wait_s > 0:
                if not self._left(progress):
                    return
                self._rest(min(wait_s, _IDLE_S * 4), seen)
                continue
            block = None
            if slot.helps(progress.pending(step=self.options.step, blocks=self.options.blocks)):
                block = self._claim(progress, desk.worker)
            if block is None:
                slot.release()
                if not self._left(progress) or self._begun_all():
                    return
                self._take_over(progress)
                self._rest(_IDLE_S, seen)
                continue
            desk.make(block)
            self._wake()

    def _claim(self, progress: Progress, worker: str) -> BlockRow | None:
        options = self.options
        with self._tally.lock:
            if options.max_items is not None and self._tally.begun >= options.max_items:
                return None
            block = progress.claim(
                worker, LEASE_S, step=options.step, blocks=options.blocks, strict_steps=options.strict_steps
            )
            self._tally.begun += block is not None
        return block

    def _begun_all(self) -> bool:
        return self.options.max_items is not None and self._tally.begun >= self.options.max_items

    def _left(self, progress: Progress) -> bool:
        """Tell whether a block may still become ready, here or elsewhere."""
        return progress.is_open(step=self.options.step, blocks=self.options.blocks)

    def _take_over(self, progress: Progress) -> None:
        """Give back, now and then, what processes of this machine hold that have died meanwhile."""
        with self._tally.lock:
            now = time.monotonic()
            if now - self._looked_at < _LOOK_S:
                return
            self._looked_at = now
        if progress.reclaim(is_gone):
            self._wake()

    def _rest(self, seconds: float, seen: int) -> None:
        """Wait until something changes that was not there when `seen` was read."""
        with self._changed:
            if not self._halt.is_set():
                self._changed.wait_for(lambda: self._changes != seen or self._halt.is_set(), seconds)

    def _wake(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()
