"""A generator driven in a new interpreter, so that all its memory is given back when it ends.

Nothing is forked: the new process begins empty, and imports what it needs. It
ends with its parent, and when the parent closes the generator.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Generator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from fusi_pipeline.errors import FusiError, Interrupted
from fusi_pipeline.fork_server import without_main
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import given_to_children
from fusi_pipeline.workers import end_with_parent

_MOMENT, _RESULT, _ERROR = range(3)
_PATIENCE_S = 30.0
"""How long a process that was asked to stop may take to leave a tidy file."""


class ProcessGone(Exception):
    """The process ended without a result."""

    def __init__(self, code: int | None) -> None:
        ending = (
            f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        )
        super().__init__(ending)


def in_fresh_process(
    environment: Mapping[str, str], function: str, *arguments: object, **options: object
) -> Generator[Progress, None, Any]:
    """Return what a generator function, named `package.module:function`, returns; yield what it yields.

    Arguments and result are pickled. The process has the variables of
    `environment` beside those of this one. Raises what the function raises, and
    ProcessGone.
    """
    method = multiprocessing.get_context("spawn")
    here, there = method.Pipe()
    process = method.Process(target=_serve, args=(there, function, arguments, options))
    with without_main(), given_to_children(environment):
        process.start()
    there.close()
    try:
        while True:
            what, value = _heard(here, process)
            if what == _MOMENT:
                yield value
            elif what == _RESULT:
                return value
            else:
                raise value
    finally:
        _end(process, here)


def _heard(pipe: Connection, process: BaseProcess) -> tuple[int, Any]:
    try:
        what, value = pipe.recv()
    except (EOFError, OSError):
        process.join(_PATIENCE_S)
        raise ProcessGone(process.exitcode) from None
    return what, value


def _end(process: BaseProcess, pipe: Connection) -> None:
    """End the process if it goes on, gently first."""
    pipe.close()
    with suppress(OSError, AttributeError):
        process.terminate()
    process.join(_PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    process.close()


def _serve(pipe: Connection, function: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    signal.signal(signal.SIGTERM, _stop)
    end_with_parent()
    module, name = function.split(":")
    try:
        work = getattr(importlib.import_module(module), name)(*arguments, **options)
        result = _driven(work, pipe)
    except (Interrupted, BrokenPipeError):
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - handed to the parent, which raises it
        if not isinstance(error, FusiError):
            error.add_note("".join(traceback.format_exception(error)))
        message = (_ERROR, error)
    else:
        message = (_RESULT, result)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        pipe.send(message)


def _driven(work: Generator[Progress, None, Any], pipe: Connection) -> Any:
    """Hand on what a generator yields, and return what it returns."""
    try:
        while True:
            pipe.send((_MOMENT, next(work)))
    except StopIteration as end:
        return end.value
    finally:
        work.close()


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted
