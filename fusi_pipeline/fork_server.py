"""How worker processes come to be: forked from a server that has imported everything once.

The server listens on a socket. On Linux its file is in the scratch folder for a
moment only: an open descriptor of it is all that connecting takes, so that
neither the length of a path matters nor anything is left behind. Elsewhere it
is where multiprocessing puts it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from fusi_pipeline import fork_ahead
from fusi_pipeline.tiles.files import writable_folder

_DESCRIPTORS = Path("/proc/self/fd")


def fork_context(scratch: Path, preload: tuple[str, ...]) -> ForkServerContext:
    """Return the context in which workers are started, the server running; `scratch` is made if need be."""
    context = _Context()
    context.set_forkserver_preload(list(preload))
    writable_folder(scratch)
    if _DESCRIPTORS.is_dir():
        with _socket_in(scratch), fork_ahead.taken():
            forkserver.ensure_running()
    else:
        forkserver.ensure_running()
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


@contextmanager
def _socket_in(scratch: Path) -> Iterator[None]:
    """Let a server that is started meanwhile have its socket in a folder, and be reached without it after."""
    server: Any = forkserver._forkserver
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before, address = config.get("tempdir"), server._forkserver_address
    folder = tempfile.mkdtemp(prefix="fusi-socket-", dir=scratch.absolute())
    descriptor = os.open(folder, os.O_RDONLY)
    config["tempdir"] = str(_DESCRIPTORS / str(descriptor))  # short, as the path of a socket has to be
    try:
        yield
        if server._forkserver_address != address:
            socket = os.open(server._forkserver_address, os.O_PATH)  # for the rest of this process
            server._forkserver_address = str(_DESCRIPTORS / str(socket))
    finally:
        if before is None:
            del config["tempdir"]
        else:
            config["tempdir"] = before
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)
