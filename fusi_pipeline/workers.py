"""Processes that work on tasks, a bounded number at a time, answers in order.

Workers come from a fork server that has imported and compiled everything once,
so that a new worker costs milliseconds and their memory is apart. They ignore
Ctrl-C and SIGTERM (the parent decides) and end by themselves when the parent is
gone. A task whose worker ended is tried again, then in smaller parts.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from fusi_pipeline.errors import WorkerLost
from fusi_pipeline.fork_ahead import PRELOAD
from fusi_pipeline.fork_server import fork_context
from fusi_pipeline.settings import given_to_children
from fusi_pipeline.task_loop import serve_tasks
from fusi_pipeline.tiles.sqlite import temporary_tables_in
from fusi_pipeline.watchdog import Limits
from fusi_pipeline.worker_pool import WorkerGone, WorkerPool

Task = TypeVar("Task")

WINDOW_PER_WORKER = 2
"""Tasks taken and not yet answered, per worker: one under way and one waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Smaller:
    """How a task is done in parts that take less, one after another."""

    parts: Callable[[Any], Sequence[object]]
    """The parts of a task; none where it cannot be less."""
    work: str
    """The function that works on a part, as `package.module:function`."""
    joined: Callable[[Any, Sequence[Any]], Any]
    """What the answers of all parts of a task come to."""
    join_work: str = ""
    """The function that makes the answer of that in a worker; empty where it is the answer."""


@dataclass(frozen=True, slots=True)
class Lost:
    """In place of an answer: the task could not be done, neither as a whole nor in parts."""

    what: str
    reason: str
    """Why, as the end of a sentence that begins with `a worker`."""


@contextmanager
def process_pool(
    workers: int,
    module: str,
    context: object,
    environment: Mapping[str, str],
    limits: Limits | None = None,
) -> Iterator[WorkerPool]:
    """Yield an executor of `workers` processes that have imported `module`, a dotted name.

    `environment` is set in each worker, then the module's `start(context)` is
    called; its TMPDIR is where all of them leave temporary files. Workers are
    watched by `limits`. The parent need not import the module itself. Leaving
    with an error ends the workers at once: they hold nothing that is not made
    again.
    """
    with given_to_children(environment):
        method = fork_context(Path(environment["TMPDIR"]), PRELOAD)
    pool = WorkerPool(workers, method, _main, (dict(environment), module, context), limits or Limits())
    try:
        yield pool
    except BaseException:
        pool.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    executor: Executor,
    work: str,
    tasks: Iterable[tuple[Task, bool]],
    window: int,
    *,
    smaller: Smaller | None = None,
    keep_going: bool = False,
) -> Iterator[tuple[Task, Any]]:
    """Yield (task, answer) in the order of the tasks, never more than `window` of them under way.

    `work` names a function as `package.module:function`. Each task comes with
    whether it needs work; one that does not is yielded with None in its turn.
    A task whose worker ended is tried once more, and in parts where `smaller`
    says how; one that took more than its limit in parts at once. Raises what a
    task raised, and where nothing helped WorkerLost, or yields Lost if it is to
    `keep_going`.
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
            answer = _answer(executor, work, task, future, smaller)
            busy -= 1
            if isinstance(answer, Lost) and not keep_going:
                raise WorkerLost(answer.what, answer.reason)
            yield task, answer
            del answer
    except BrokenProcessPool as error:
        raise WorkerLost(f"{task}") from error
    finally:
        for _, future in pending:
            if future is not None:
                future.cancel()


def _answer(executor: Executor, work: str, task: object, future: Future[Any], smaller: Smaller | None) -> Any:
    """Return the answer to a task, however often it has to be tried, or Lost."""
    try:
        return future.result()
    except WorkerGone as gone:
        parts = () if smaller is None else smaller.parts(task)
        if not gone.over_limit or not parts:
            _note(executor, f"{task}: a worker {gone.reason}; tried again")
            try:
                return executor.submit(_call, work, task).result()
            except WorkerGone as again:
                gone = again
        if not parts or smaller is None:
            return _lost(executor, task, gone)
        _note(executor, f"{task}: a worker {gone.reason}; tried again in {len(parts)} parts")
    try:
        return _in_parts(executor, task, parts, smaller)
    except WorkerGone as gone:
        return _lost(executor, task, gone)


def _in_parts(executor: Executor, task: object, parts: Sequence[object], smaller: Smaller) -> Any:
    """Return the answer to a task made of those to its parts. Raises WorkerGone."""
    answers = [executor.submit(_call, smaller.work, part).result() for part in parts]
    joined = smaller.joined(task, answers)
    return executor.submit(_call, smaller.join_work, joined).result() if smaller.join_work else joined


def _lost(executor: Executor, task: object, gone: WorkerGone) -> Lost:
    _note(executor, f"{task}: a worker {gone.reason}; left out")
    return Lost(f"{task}", gone.reason)


def _note(executor: Executor, text: str) -> None:
    if isinstance(executor, WorkerPool):
        executor.notes.append(text)


def _call(work: str, task: object) -> object:
    module, function = work.split(":")
    return getattr(importlib.import_module(module), function)(task)


def _main(pipe: Connection, environment: dict[str, str], module: str, context: object) -> None:
    """Be a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.update(environment)
    tempfile.tempdir = environment["TMPDIR"]
    temporary_tables_in(Path(environment["TMPDIR"]))
    end_with_parent()
    serve_tasks(pipe, lambda: importlib.import_module(module).start(context))


def end_with_parent() -> None:
    """End this process as soon as its parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
