"""Processes that work on tasks, a bounded number at a time, answers in order.

Workers come from a fork server that has imported and compiled everything once,
so that a new worker costs milliseconds and their memory is apart. They ignore
Ctrl-C and SIGTERM (the parent decides) and end by themselves when the parent is gone.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

from fusi_pipeline.errors import WorkerLost

Task = TypeVar("Task")

PRELOAD = ("fusi_pipeline.block_worker", "fusi_pipeline.merge_worker")
"""What the fork server imports once for all workers."""
WINDOW_PER_WORKER = 2
"""Tasks taken and not yet answered, per worker: one under way and one waiting."""


@contextmanager
def process_pool(
    workers: int, module: str, context: object, environment: Mapping[str, str]
) -> Iterator[Executor]:
    """Yield an executor of `workers` processes that have imported `module`, a dotted name.

    `environment` is set in each worker, then the module's `start(context)` is
    called. The parent need not import the module itself. Leaving with an error
    ends the workers at once: they hold nothing that is not made again.
    """
    method = _Context()
    method.set_forkserver_preload(list(PRELOAD))
    pool = ProcessPoolExecutor(
        workers, mp_context=method, initializer=_start, initargs=(dict(environment), module, context)
    )
    try:
        yield pool
    except BaseException:
        _kill(pool)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    executor: Executor,
    work: str,
    tasks: Iterable[tuple[Task, bool]],
    window: int,
) -> Iterator[tuple[Task, Any]]:
    """Yield (task, answer) in the order of the tasks, never more than `window` of them under way.

    `work` names a function as `package.module:function`. Each task comes with
    whether it needs work; one that does not is yielded with None in its turn.
    Raises what a task raised, and WorkerLost where a process died.
    """
    pending: deque[tuple[Task, Future[Any] | None]] = deque()
    source = iter(tasks)
    busy = 0
    try:
        while True:
            while busy < window and len(pending) < 16 * window:
                item = next(source, None)
                if item is None:
                    break
                task, needs_work = item
                busy += needs_work
                pending.append((task, executor.submit(_call, work, task) if needs_work else None))
            if not pending:
                return
            task, future = pending.popleft()
            if future is None:
                yield task, None
                continue
            answer = future.result()
            busy -= 1
            yield task, answer
    except BrokenProcessPool as error:
        raise WorkerLost(f"{task}") from error
    finally:
        for _, future in pending:
            if future is not None:
                future.cancel()


class _Process(ForkServerProcess):
    """A worker that does not run the parent's main module again, as new processes otherwise do."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return ForkServerProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Context(ForkServerContext):
    Process = _Process


def _kill(pool: ProcessPoolExecutor) -> None:
    """End the workers of a pool; from Python 3.14 on it has a method for that."""
    for process in list((pool._processes or {}).values()):
        process.kill()


def _call(work: str, task: object) -> object:
    module, function = work.split(":")
    return getattr(importlib.import_module(module), function)(task)


def _start(environment: dict[str, str], module: str, context: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    importlib.import_module(module).start(context)


def _end_with(sentinel: int) -> None:
    """End this process as soon as its parent has ended."""
    wait([sentinel])
    os._exit(1)
