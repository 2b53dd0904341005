"""What becomes of a run when its disk is full: it ends, or waits for space and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fusi_pipeline.errors import DiskFull, DiskTooSmall
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.files import free_mib, scratch_folder
from fusi_pipeline.tiles.sqlite import temporary_tables_in

Result = TypeVar("Result")

_LOOK_S = 2.0
"""Between two looks at the free space."""
_LEAST_LINE_S = 10.0
"""Between two lines that say that a run waits, at least."""
_ENOUGH_MIB = 1
"""What there has to be more than when the disk was full."""
_QUOTA_S = 300.0
"""After this long it is tried again anyway: a quota does not show in the free space."""
_ROOM_STRIDE = 64
"""Pieces of work between two looks at whether the rest will fit."""
_SURE_SHARE = 0.25
"""Sizes are estimates: less than this share of one is too little in any case."""


@contextmanager
def scratch_space(settings: Settings) -> Iterator[Path]:
    """Yield the folder for temporary files (see `scratch_folder`), which SQLite here uses meanwhile."""
    with scratch_folder(settings.scratch_dir) as folder:
        temporary_tables_in(folder)
        try:
            yield folder
        finally:
            temporary_tables_in(None)


def when_there_is_room(
    work: Callable[[], Generator[Progress, None, Result]], path: Path, settings: Settings
) -> Generator[Progress, None, Result]:
    """Return what resumable work for an output at `path` returns.

    With `on_disk_full` set to `wait`, work that raised DiskFull is begun again,
    where it stopped, as soon as there is space; else DiskFull is raised.
    """
    while True:
        try:
            return (yield from work())
        except DiskFull as error:
            if settings.on_disk_full != "wait":
                raise
            said = str(error).partition("; ")[0]
        yield from _waiting(said, path, free_mib(path) + _ENOUGH_MIB, settings, _QUOTA_S)


def check_room(path: Path, expected_bytes: float, settings: Settings) -> Generator[Progress, None, None]:
    """See that the volume of `path` can hold what is expected to be written, as far as that is sure.

    Raises DiskTooSmall where it cannot, or waits until it can if `on_disk_full`
    says so. Says where it may become tight.
    """
    expected_mib, free = round(expected_bytes) >> 20, free_mib(path)
    least_mib = int(expected_mib * _SURE_SHARE)
    if free < least_mib:
        error = DiskTooSmall(path, free, expected_mib)
        if settings.on_disk_full != "wait":
            raise error
        yield from _waiting(str(error).partition("; ")[0], path, least_mib, settings, None)
    elif free < expected_mib:
        yield _moment(f"{path}: about {expected_mib} MiB are to be written, {free} MiB are free")


class RoomWatch:
    """Looks now and then whether what is left to write still fits, and says once that it does not."""

    def __init__(self, path: Path, total: int) -> None:
        """Watch the volume of `path` over `total` pieces of work."""
        self._path = path
        self._total = total
        self._pieces = self._bytes = 0
        self._said = False

    def wrote(self, done: int, size: int) -> Iterator[Progress]:
        """Note that piece `done`, of `size` bytes, is written; yield a line if the rest will not fit."""
        self._pieces += 1
        self._bytes += size
        if self._said or self._pieces % _ROOM_STRIDE:
            return
        left_mib = round(self._bytes / self._pieces * (self._total - done)) >> 20
        if (free := free_mib(self._path)) < left_mib:
            self._said = True
            yield _moment(
                f"{self._path}: at the present rate about {left_mib} MiB are still to be written, "
                f"{free} MiB are free"
            )


def _waiting(
    said: str, path: Path, wanted_mib: int, settings: Settings, patience_s: float | None
) -> Generator[Progress, None, None]:
    """Wait until there is as much free space, saying so once in a while."""
    interval_s = max(settings.progress_interval_s, _LEAST_LINE_S)
    began = time.monotonic()
    told = -interval_s
    while (free := free_mib(path)) < wanted_mib:
        waited = time.monotonic() - began
        if patience_s is not None and waited > patience_s:
            return
        if waited - told >= interval_s:
            told = waited
            yield _moment(f"{said}; waiting until {wanted_mib} MiB are free (--on-disk-full wait)")
        time.sleep(_LOOK_S)
    yield _moment(f"{path}: {free} MiB free; going on")


def _moment(text: str) -> Progress:
    return Progress("wait", 0, 0, "MiB", note=text)
