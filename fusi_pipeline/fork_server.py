"""How worker processes come to be: forked from a server that has imported everything once.

The server listens on a socket in a folder of this run, never in the system's
temporary folder. Paths of sockets are short (108 bytes with their end), so a
longer one is reached through the folder's descriptor where the system has that.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

_PREFIX = "fusi-socket-"
_LONGEST_PATH = 80
"""Of a folder for sockets, in bytes; its own name and what multiprocessing adds fit behind it."""


def fork_context(scratch: Path, preload: tuple[str, ...]) -> ForkServerContext:
    """Return the context in which workers are started; its socket lies in `scratch`, which exists."""
    _place_socket(scratch)
    context = _Context()
    context.set_forkserver_preload(list(preload))
    return context


@contextmanager
def without_main() -> Iterator[None]:
    """Let a process that is started meanwhile not run this one's main module again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _Process(ForkServerProcess):
    """A worker that does not run the parent's main module again, as new processes otherwise do."""

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802
        with without_main():
            return ForkServerProcess._Popen(process_obj)


class _Context(ForkServerContext):
    Process = _Process


def _place_socket(scratch: Path) -> None:
    """Give multiprocessing a folder for its socket, as long as it has none that is there.

    A server whose socket is gone, with the output folder of an earlier run in
    this process, cannot be reached any more, and makes way for another.
    """
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    known = config.get("tempdir")
    if known is not None and Path(known).is_dir():
        return
    if known is not None:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
    _remove_abandoned(scratch)
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=scratch.absolute())
    util.Finalize(None, _remove, args=(folder,), exitpriority=-100)
    config["tempdir"] = _short(folder)


def _short(folder: str) -> str:
    """Return a path of a folder that a socket can have, open for the rest of this process where need be."""
    through = f"/proc/{os.getpid()}/fd"
    if len(os.fsencode(folder)) <= _LONGEST_PATH or not Path(through).is_dir():
        return folder
    return f"{through}/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY)}"


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        Path(folder).parent.rmdir()  # the scratch folder goes when it is empty


def _remove_abandoned(scratch: Path) -> None:
    """Remove the sockets of processes that are no more."""
    for folder in scratch.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
