"""Outputs that are absent or complete, and scratch space on their own volume."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fusi_pipeline.errors import DiskFull, OutputUnwritable


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes the name, else it is removed.

    The bytes are on the disk before the name is. Raises DiskFull where the
    volume ran out and OutputUnwritable where the folder refuses files.
    """
    writable_folder(path.parent)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        _sync(scratch)
        os.replace(scratch, path)
        _sync(path.parent)
    except OSError as error:
        raise full_or_unwritable(error, path) from error
    finally:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def writable_folder(folder: Path) -> Path:
    """Make a folder and prove that a file can be written into it; return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".fusi-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise full_or_unwritable(error, folder) from error
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


def full_or_unwritable(error: OSError, path: Path) -> Exception:
    """Return the error to raise for a failed write at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(path, free_mib(path))
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return OutputUnwritable(path, error.strerror or str(error))
    return error


def free_mib(path: Path) -> int:
    """Return the free space, in MiB, of the volume that holds `path` or will hold it."""
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
