"""Worker processes under watch: an executor that outlives its workers.

A worker that dies, or is ended for what it takes, costs its own task alone:
that task's future says so, another worker takes the place, and the others do
not notice. Where the machine runs out of memory there are fewer workers for a
while. A thread hands tasks out, one to each worker at a time, and collects
what comes back.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from fusi_pipeline.errors import WorkerLost
from fusi_pipeline.task_loop import ANSWERED, BROKEN, READY
from fusi_pipeline.watchdog import Limits, Watched, machine_available_mib

Answer = TypeVar("Answer")

_SAMPLE_S = 0.1
"""Between two looks at what a worker takes, where that is limited."""
_IDLE_S = 1.0
_CALM_S = 20.0
"""How long there has to be enough memory before there is a worker more."""
_LOWER_S = 2.0
"""Between two workers less."""
_MOST_STILLBORN = 3
_PATIENCE_S = 10.0
_RESIDENT = 1 << 40
"""Above any size, so that resident memory is measured."""


class Spawner(Protocol):
    """What makes the processes of a pool."""

    def Process(self, *, target: Any, args: Any) -> BaseProcess:  # noqa: N802
        """Return a process that is not started yet."""
        ...


class WorkerGone(Exception):
    """A worker ended without an answer, by itself or because it took too much."""

    def __init__(self, reason: str, *, over_limit: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        """Why, as the end of a sentence that begins with `a worker`."""
        self.over_limit = over_limit
        """Whether it was ended for what it took; else something from outside, or a defect, ended it."""


@dataclass(slots=True, eq=False)
class _Job:
    """A task handed in, and where its answer goes."""

    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    future: Future[Any]


@dataclass(slots=True, eq=False)
class _Hand:
    """A worker process and what it is at."""

    process: BaseProcess
    pipe: Connection
    watched: Watched
    ready: bool = False
    job: _Job | None = None
    since: float = 0.0
    retiring: bool = False
    ended_for: str = ""
    """Why this pool ended it, empty where it did not."""
    put_back: bool = False
    """Whether its task is to be handed out again as if nothing had been."""


@dataclass(slots=True)
class _Allowance:
    """How many workers the machine's memory allows at the moment."""

    most: int
    floor_mib: int
    allowed: int = field(init=False)
    changed_at: float = 0.0

    def __post_init__(self) -> None:
        self.allowed = self.most

    def judge(self, available_mib: int, worker_mib: int, now: float) -> int:
        """Return the change in the number of workers: -1, 0 or 1."""
        change = 0
        if available_mib < self.floor_mib:
            if self.allowed > 1 and now - self.changed_at >= _LOWER_S:
                change = -1
        elif (
            self.allowed < self.most
            and available_mib >= self.floor_mib + worker_mib
            and now - self.changed_at >= _CALM_S
        ):
            change = 1
        if change:
            self.allowed += change
            self.changed_at = now
        return change


class WorkerPool(Executor):
    """Processes that work on what is submitted. Ended by `shutdown`, or at once by `kill`."""

    def __init__(
        self,
        workers: int,
        spawner: Spawner,
        main: Callable[..., None],
        arguments: Sequence[object],
        limits: Limits,
    ) -> None:
        """Begin with no worker; as many as `workers` are started as tasks come in.

        Each runs `main(pipe, *arguments)`.
        """
        self.notes: deque[str] = deque()
        """What a person should know of: workers ended, and how many there are."""
        self.limits = limits
        self._spawner = spawner
        self._main = main
        self._arguments = tuple(arguments)
        self._allowance = _Allowance(workers, limits.floor)
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._hands: list[_Hand] = []
        self._stillborn = 0
        self._largest_mib = 0
        self._closing = self._killed = False
        self._guarded_at = 0.0
        self._wake_out, self._wake_in = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(target=self._serve, name="worker pool", daemon=True)
        self._thread.start()

    @property
    def pids(self) -> list[int]:
        """The processes at work."""
        return [hand.process.pid for hand in list(self._hands) if hand.process.pid is not None]

    def submit(self, fn: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        """Hand a task in; its future raises WorkerGone where the worker ended without an answer."""
        job = _Job((fn, args, kwargs), Future())
        with self._lock:
            if self._closing:
                raise RuntimeError("the pool is closed")
            self._waiting.append(job)
        self._wake()
        return job.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the workers, after what was handed in unless that is cancelled."""
        with self._lock:
            self._closing = True
            cancelled = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for job in cancelled:
            job.future.cancel()
        self._wake()
        if wait:
            self._thread.join()
            self._wake_out.close()
            self._wake_in.close()

    def kill(self) -> None:
        """End the workers at once; what they were at is lost."""
        self._killed = True
        self.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_in.send_bytes(b".")

    def _serve(self) -> None:
        """Hand out tasks and collect answers until closed. Runs in a thread of its own."""
        try:
            while not self._killed and not (self._closing and self._is_done()):
                self._staff()
                self._hand_out()
                self._collect(wait(self._events(), self._pause_s()))
                self._watch(time.monotonic())
        finally:
            self._end()

    def _is_done(self) -> bool:
        return not self._waiting and all(hand.job is None for hand in self._hands)

    def _pause_s(self) -> float:
        limited = self.limits.memory_mib is not None or self.limits.time_s is not None
        at_work = any(hand.job is not None for hand in self._hands)
        return _SAMPLE_S if limited and at_work else _IDLE_S

    def _events(self) -> list[Any]:
        sentinels = [hand.process.sentinel for hand in self._hands]
        return [self._wake_out, *(hand.pipe for hand in self._hands), *sentinels]

    def _staff(self) -> None:
        """Start a worker for each task that would wait for one, as far as there may be more."""
        free = sum(hand.job is None and not hand.retiring for hand in self._hands)
        working = sum(not hand.retiring for hand in self._hands)
        for _ in range(min(len(self._waiting) - free, self._allowance.allowed - working)):
            here, there = multiprocessing.Pipe()
            process = self._spawner.Process(target=self._main, args=(there, *self._arguments))
            process.start()
            there.close()
            assert process.pid is not None, "the process was started"
            self._hands.append(_Hand(process, here, Watched(process.pid)))

    def _hand_out(self) -> None:
        for hand in self._hands:
            if not hand.ready or hand.job is not None or hand.retiring:
                continue
            job = self._next()
            if job is None:
                return
            hand.job, hand.since = job, time.monotonic()
            try:
                hand.pipe.send(job.call)
            except OSError:
                pass  # it is gone, as its sentinel will tell
            except Exception as error:  # noqa: BLE001 - whatever pickling raises belongs to the task
                hand.job = None
                job.future.set_exception(error)

    def _next(self) -> _Job | None:
        while True:
            with self._lock:
                if not self._waiting:
                    return None
                job = self._waiting.popleft()
            if job.future.running() or job.future.set_running_or_notify_cancel():
                return job

    def _collect(self, ready: Sequence[Any]) -> None:
        for event in ready:
            if event is self._wake_out:
                while self._wake_out.poll():
                    self._wake_out.recv_bytes()
        for hand in list(self._hands):
            if hand.pipe in ready or hand.process.sentinel in ready:
                self._hear(hand)

    def _hear(self, hand: _Hand) -> None:
        """Take what a worker says, to the end where it has ended."""
        try:
            while hand.pipe.poll():
                self._take(hand, *hand.pipe.recv())
        except (EOFError, OSError):
            self._dismiss(hand)
            return
        if hand.process.exitcode is not None:
            self._dismiss(hand)

    def _take(self, hand: _Hand, what: int, value: Any) -> None:
        if what == READY:
            hand.ready = True
            self._stillborn = 0
            return
        job, hand.job = hand.job, None
        if what == BROKEN:
            job = job or self._next()
            hand.retiring = True
        if job is not None and what == ANSWERED:
            job.future.set_result(value)
        elif job is not None:
            job.future.set_exception(value)
        if hand.retiring:
            hand.pipe.close()
            raise EOFError

    def _dismiss(self, hand: _Hand) -> None:
        """Take leave of a worker that has ended, or will."""
        self._hands.remove(hand)
        hand.pipe.close()
        hand.process.join(_PATIENCE_S)
        if hand.process.exitcode is None:
            hand.process.kill()
            hand.process.join()
        job, code = hand.job, hand.process.exitcode
        if job is not None and hand.put_back:
            with self._lock:
                self._waiting.appendleft(job)
        elif job is not None:
            reason = hand.ended_for or _ending(code)
            job.future.set_exception(WorkerGone(reason, over_limit=bool(hand.ended_for)))
        elif not hand.ready and not hand.retiring and not hand.ended_for:
            self._mourn(code)
        hand.process.close()

    def _mourn(self, code: int | None) -> None:
        """Note that a worker ended before it could begin; give up where that is all they do."""
        self._stillborn += 1
        if self._stillborn < _MOST_STILLBORN:
            return
        while (job := self._next()) is not None:
            job.future.set_exception(WorkerLost("its start", _ending(code)))

    def _watch(self, now: float) -> None:
        """End the workers that take too much, and have fewer or more as memory allows."""
        limits = self.limits
        for hand in self._hands:
            if hand.job is None or hand.ended_for or hand.put_back:
                continue
            if limits.time_s is not None and now - hand.since > limits.time_s:
                self._kill(hand, f"was ended after {limits.time_s:g} s (--watchdog-time-seconds)")
            elif limits.memory_mib is not None:
                taken = hand.watched.memory_mib(now, limits.memory_mib)
                if taken > limits.memory_mib:
                    limit = f"--watchdog-memory-mb {limits.memory_mib}"
                    self._kill(hand, f"was ended when it took {taken} MiB ({limit})")
        if now - self._guarded_at >= _IDLE_S:
            self._guarded_at = now
            self._guard(now)

    def _kill(self, hand: _Hand, reason: str) -> None:
        hand.ended_for = reason
        hand.process.kill()

    def _guard(self, now: float) -> None:
        available = machine_available_mib()
        taken = [hand.watched.memory_mib(now, _RESIDENT) for hand in self._hands]
        self._largest_mib = max(self._largest_mib, *taken, 0)
        change = self._allowance.judge(available, self._largest_mib, now)
        if not change:
            return
        allowed, most = self._allowance.allowed, self._allowance.most
        if change > 0:
            self.notes.append(f"{available} MiB of memory available again: {allowed} of {most} workers")
            return
        self.notes.append(
            f"{available} MiB of memory available, less than {self._allowance.floor_mib} MiB"
            f" (--memory-floor-mb): {allowed} of {most} workers"
        )
        self._retire_one(urgent=available < self._allowance.floor_mib // 2)

    def _retire_one(self, *, urgent: bool) -> None:
        """Do without a worker: an idle one, else the one that began last, at once if that is `urgent`."""
        staying = [hand for hand in self._hands if not hand.retiring]
        if len(staying) <= self._allowance.allowed:
            return
        hand = max(staying, key=lambda one: (one.job is None, one.since))
        hand.retiring = True
        if hand.job is None or urgent:
            hand.put_back = hand.job is not None
            hand.process.kill()

    def _end(self) -> None:
        """End every worker, and answer whoever still waits."""
        with self._lock:
            self._closing = True
            left = list(self._waiting)
            self._waiting.clear()
        if self._killed:
            for hand in self._hands:
                hand.process.kill()
        for hand in self._hands:
            hand.pipe.close()
        for hand in list(self._hands):
            hand.process.join(_PATIENCE_S)
            if hand.process.exitcode is None:
                hand.process.kill()
                hand.process.join()
            if hand.job is not None:
                left.append(hand.job)
        self._hands.clear()
        for job in left:
            if not job.future.done() and not job.future.cancel():
                job.future.set_exception(WorkerGone("was ended with the run", over_limit=False))


def _ending(code: int | None) -> str:
    """Return how a process ended, as the end of a sentence."""
    if code is not None and code < 0:
        lack = ", most likely for lack of memory" if code == -9 else ""
        return f"was killed by signal {-code}{lack}"
    return f"ended with code {code}"
