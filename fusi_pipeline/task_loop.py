"""What a worker does all its life: take a task from a pipe, answer it, take the next."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from fusi_pipeline.errors import FusiError

READY, ANSWERED, FAILED, BROKEN = range(4)
"""What a worker says: it can begin; it has an answer; its task raised; it could not be made ready."""

_OOM_SCORE = Path("/proc/self/oom_score_adj")
_EXPENDABLE = "500"
"""Added to a worker's badness, in thousandths of all memory: the kernel ends it before its parent."""


def serve_tasks(pipe: Connection, prepare: Callable[[], None]) -> None:
    """Be a worker: make ready, then answer one task after another until the pool closes the pipe.

    Where memory runs out for good, Linux is asked to end workers first: they cost a second attempt.
    """
    with suppress(OSError):  # there is none elsewhere, and a container may forbid it
        if _OOM_SCORE.exists():
            _OOM_SCORE.write_text(_EXPENDABLE)
    try:
        prepare()
    except Exception as error:  # noqa: BLE001 - handed to whoever waits for an answer
        _say(pipe, BROKEN, error)
        return
    _say(pipe, READY, None)
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the answer
            if not isinstance(error, FusiError):
                error.add_note("".join(traceback.format_exception(error)))
            _say(pipe, FAILED, error)
        else:
            _say(pipe, ANSWERED, answer)
            del answer


def _say(pipe: Connection, what: int, value: object) -> None:
    try:
        pipe.send((what, value))
    except OSError:
        os._exit(1)  # nobody listens
    except Exception as error:  # noqa: BLE001 - the value cannot be pickled
        pipe.send((FAILED, RuntimeError(f"{type(error).__name__}: {error}")))
