"""What a worker does all its life: take a task from a pipe, answer it, take the next."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from fusi_pipeline.errors import FusiError

READY, ANSWERED, FAILED, BROKEN = range(4)
"""What a worker says: it can begin; it has an answer; its task raised; it could not be made ready."""


def serve_tasks(pipe: Connection, prepare: Callable[[], None]) -> None:
    """Be a worker: make ready, then answer one task after another until the pool closes the pipe."""
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
