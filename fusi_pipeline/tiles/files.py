"""Outputs that are absent or complete, and scratch space on their own volume."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil

from fusi_pipeline.errors import DiskFull, OutputUnwritable


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes the name, else it is removed.

    The bytes are on the disk before the name is. Raises DiskFull where the
    volume ran out and OutputUnwritable where the folder refuses files.
    """
    writable_folder(path.parent)
    _remove_abandoned(path)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        sync(scratch)
        os.replace(scratch, path)
        sync(path.parent)
    except OSError as error:
        raise_for(error, path)
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def writable_folder(folder: Path) -> Path:
    """Make a folder and prove that a file can be written into it; return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".fusi-probe-{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)  # another thread of this process may have been here
    except OSError as error:
        raise_for(error, folder)
    return folder


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder for temporary files, made if need be, and removed again if nothing is in it."""
    writable_folder(folder)
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()


def raise_for(error: OSError, path: Path) -> NoReturn:
    """Raise what a failed write at `path` means: DiskFull or OutputUnwritable."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFull(path, free_mib(path)) from error
    raise OutputUnwritable(path, error.strerror or str(error)) from error


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that are no more had begun to write for `path`."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        text = part.name.removeprefix(f".{path.name}.").removesuffix(".part")
        if text.isdigit() and not psutil.pid_exists(int(text)):
            part.unlink(missing_ok=True)


def free_mib(path: Path) -> int:
    """Return the free space, in MiB, of the volume that holds `path` or will hold it."""
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20


def file_state(path: Path) -> str:
    """Return the size and time of a file, by which it can be told to have been changed."""
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
