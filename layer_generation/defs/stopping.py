"""Ctrl-C and SIGTERM where runs are driven from a shell: the first lets what is under way finish.

Dagster takes these signals for itself while a run is under way in the main thread, and
forgets those that come between two runs. So runs go in a thread of their own, where it
leaves signals alone, and the main thread takes them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from fusi_pipeline.errors import Interrupted

if TYPE_CHECKING:
    from layer_generation.worker import LayerRun

Result = TypeVar("Result")
EXIT_INTERRUPTED = 130
_FINISHING = "finishing what is under way; once more to leave it"
INTERRUPTED = "interrupted; finished blocks are kept"
_LEAVING_S = 2.0
"""After the second signal: long enough to give blocks back, then it ends however things are."""
_IDLE_S = 5.0
"""After the first, where nothing is under way: as when a run waits for its place in a pool."""


class Stop:
    """Whether a process was asked to end: once to finish what is under way, again to leave it."""

    def __init__(self) -> None:
        self._times = 0
        self._asked = threading.Event()
        self._run: LayerRun | None = None
        self._bodies = 0

    @property
    def asked(self) -> bool:
        """Whether it was asked at all: nothing more is begun then."""
        return self._asked.is_set()

    @property
    def working(self) -> bool:
        """Whether an asset is being made."""
        return self._bodies > 0

    def ask(self) -> int:
        """Ask; return how often that was done by now."""
        self._times += 1
        self._asked.set()
        self._tell()
        return self._times

    def wait(self, seconds: float) -> bool:
        """Wait for a while, or until asked; tell whether it was."""
        return self._asked.wait(seconds)

    @contextmanager
    def making(self) -> Iterator[None]:
        """Say meanwhile that an asset is being made."""
        self._bodies += 1
        try:
            yield
        finally:
            self._bodies -= 1

    @contextmanager
    def ending(self, run: LayerRun) -> Iterator[None]:
        """End a run of the worker when asked meanwhile, or before."""
        self._run = run
        self._tell()
        try:
            yield
        finally:
            self._run = None

    def _tell(self) -> None:
        run = self._run
        if run is None or not self._times:
            return
        run.stop() if self._times == 1 else run.give_back()


NEVER = Stop()
"""Of runs that Dagster launches: it ends these by its own means."""


def interruptible(work: Callable[[Stop], Result], say: Callable[[str], object]) -> Result:
    """Do work in a thread of its own, where signals end it; return what it returns.

    Raises Interrupted where it was asked to end, and what the work raises. The second
    signal ends the process, at the latest after two seconds; what it held is given
    back by the next one.
    """
    stop = Stop()
    outcome: list[Result] = []
    trouble: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work(stop))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            trouble.append(error)

    thread = threading.Thread(target=target, name="runs", daemon=True)
    with _taking_signals(stop, say):
        thread.start()
        _joined(thread, stop, say)
    if stop.asked:
        raise Interrupted
    if trouble:
        raise trouble[0]
    return outcome[0]


def end_at_once(say: Callable[[str], object]) -> None:
    """Let the first signal end this process at once, for as long as it has begun nothing."""

    def end(_number: int, _frame: FrameType | None) -> None:
        _end(say)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


def _joined(thread: threading.Thread, stop: Stop, say: Callable[[str], object]) -> None:
    """Wait for a thread; end the process where it was asked to end and the thread does nothing of use."""
    busy_at = time.monotonic()
    while thread.is_alive():
        thread.join(0.1)
        if stop.working or not stop.asked:
            busy_at = time.monotonic()
        elif time.monotonic() - busy_at > _IDLE_S:
            _end(say)


@contextmanager
def _taking_signals(stop: Stop, say: Callable[[str], object]) -> Iterator[None]:
    def take(_number: int, _frame: FrameType | None) -> None:
        times = stop.ask()
        if times == 1 and stop.working:
            say(_FINISHING)
        elif times > 1:
            timer = threading.Timer(0.0 if times > 2 else _LEAVING_S, _end, (say,))
            timer.daemon = True
            timer.start()

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(say: Callable[[str], object]) -> None:
    """End the process as one that was interrupted, without waiting for anything."""
    say(INTERRUPTED)
    os._exit(EXIT_INTERRUPTED)
