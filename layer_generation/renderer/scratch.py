"""A folder of a renderer's temporary files, and what dead renderers left: their folders and their processes.

The folder's name says whose it is: the owner's number and when that started,
so that a number that was given anew is not mistaken for it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_PREFIX = "fusi-renderer-"


def new_scratch(parent: Path | None = None) -> Path:
    """Return a new empty folder of this process; clean up after those that are no more."""
    base = parent or Path(tempfile.gettempdir())
    for folder in base.glob(f"{_PREFIX}*"):
        if not _is_owned(folder.name):
            end_all(folder)
    me = psutil.Process()
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{me.pid}-{int(me.create_time())}-", dir=base))


def end_all(folder: Path) -> None:
    """End the processes whose temporary files are in a folder of ours, and remove it."""
    found = list(_processes(folder))
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=5)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(folder: Path) -> Iterator[psutil.Process]:
    """Yield the processes that were given a folder for their temporary files, or name it."""
    path = str(folder)
    for process in psutil.process_iter(["cmdline", "environ"]):
        told, given = process.info["cmdline"] or [], process.info["environ"] or {}
        if process.pid != os.getpid() and (given.get("TMPDIR") == path or any(path in word for word in told)):
            yield process


def _is_owned(name: str) -> bool:
    """Tell whether the process that a folder is named for lives."""
    words = name.removeprefix(_PREFIX).split("-")
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()):
        return True
    try:
        return int(psutil.Process(int(words[0])).create_time()) == int(words[1])
    except psutil.Error:
        return False
