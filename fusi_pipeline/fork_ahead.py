"""A fork server begun before the command line is read: it imports while this process does.

Which folder its socket may be in is known later. Until then it is a process
that has imported what workers need and waits to be told, at the other end of a
pair of sockets. Where it is not wanted it is ended with this one.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, reduction, resource_tracker, util
from subprocess import _args_from_interpreter_flags as _interpreter_flags  # type: ignore[attr-defined]

PRELOAD = ("fusi_pipeline.block_worker", "fusi_pipeline.merge_worker")
"""What a fork server imports once for all workers."""

_waiting: tuple[int, socket.socket] | None = None


def begin() -> None:
    """Start the process, on Linux and where a second processor has time for it."""
    global _waiting
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2 or _waiting is not None:
        return
    here, there = socket.socketpair()
    with there:
        command = f"from fusi_pipeline.fork_ahead import wait; wait({there.fileno()})"
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: this process decides
        try:
            words = [sys.executable, *_interpreter_flags(), "-c", command]
            pid = util.spawnv_passfds(os.fsencode(sys.executable), words, [there.fileno()])
        finally:
            signal.signal(signal.SIGINT, before)
    _waiting = pid, here
    atexit.register(_end)


@contextmanager
def taken() -> Iterator[None]:
    """Let the fork server that multiprocessing starts meanwhile, if it does, be the process that waits."""
    global _waiting
    if _waiting is None:
        yield
        return
    resource_tracker.ensure_running()
    spawn = util.spawnv_passfds

    def tell(executable: bytes, words: Sequence[str], descriptors: Sequence[int]) -> int:
        global _waiting
        assert _waiting is not None
        (pid, here), _waiting = _waiting, None
        with here:
            try:
                reduction.sendfds(here, list(descriptors))
            except OSError:  # it ended
                os.waitpid(pid, 0)
                return int(spawn(executable, words, descriptors))
        return pid

    util.spawnv_passfds = tell  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = spawn


def wait(descriptor: int) -> None:
    """Import, and be the fork server once told to; end where nobody tells. Runs in the process begun."""
    for module in PRELOAD:
        with suppress(ImportError):  # said where the module is needed
            importlib.import_module(module)
    with socket.socket(fileno=descriptor) as there:
        try:
            listener, alive = reduction.recvfds(there, 2)
        except (EOFError, OSError):
            return
    forkserver.main(listener, alive, [])


def _end() -> None:
    """End the process if it still waits: nobody is to wait for what it imports."""
    global _waiting
    if _waiting is not None:
        (pid, here), _waiting = _waiting, None
        here.close()
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
