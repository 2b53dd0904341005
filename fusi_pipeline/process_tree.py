"""What a process and all below it take: memory, processor time, bytes read and written, seen from outside.

Processes come and go. What one took of processor and disk until it was last
seen is kept, so that those figures only grow; what it took after that is lost.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes take at a moment, and took until then."""

    processes: int
    threads: int
    rss_mib: float
    """Resident memory; what processes share counts in each."""
    uss_mib: float | None
    """What would be given back if they ended; None where the system does not tell, or it was not asked."""
    cpu_s: float
    read_bytes: int | None
    """From disks, not from the cache of files; None where the system does not tell."""
    written_bytes: int | None


@dataclass(slots=True)
class _Spent:
    """What one process has spent so far."""

    cpu_s: float = 0.0
    read_bytes: int | None = None
    written_bytes: int | None = None


class ProcessTree:
    """A process and all below it, also those that lost their parent meanwhile."""

    def __init__(self, pid: int | None = None) -> None:
        """Watch a process, this one by default. Raises psutil.NoSuchProcess."""
        self._root = psutil.Process(pid)
        self._known: dict[psutil.Process, _Spent] = {}
        self._alive: set[psutil.Process] = {self._root}

    @property
    def pid(self) -> int:
        """The number of the process at the root."""
        return int(self._root.pid)

    @property
    def began_s(self) -> float:
        """When that process began, in seconds of the epoch."""
        return float(self._root.create_time())

    def is_alive(self) -> bool:
        """Tell whether the process at the root still runs; one that nobody has waited for does not."""
        try:
            return bool(self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def folder(self) -> Path | None:
        """Return the folder in which the process at the root works, None where the system does not tell."""
        try:
            return Path(self._root.cwd())
        except (psutil.Error, OSError):
            return None

    @property
    def processes(self) -> list[psutil.Process]:
        """The processes that were there when it was last looked."""
        return list(self._alive)

    def usage(self, *, exact: bool = True) -> Usage:
        """Return what all of them take; without `exact` not how much of their memory is theirs alone."""
        self._look()
        gone = set()
        threads, resident, own = 0, 0, 0 if exact else None
        for process in self._alive:
            try:
                with process.oneshot():
                    self._known[process] = _spent(process)
                    if process.status() == psutil.STATUS_ZOMBIE:
                        gone.add(process)
                        continue
                    threads += process.num_threads()
                    rss = process.memory_info().rss
                    resident += rss
                if own is not None:
                    own = None if (alone := _own(process)) is None else own + alone
            except psutil.Error:
                gone.add(process)
        self._alive -= gone
        spent = self._known.values()
        return Usage(
            processes=len(self._alive),
            threads=threads,
            rss_mib=round(resident / 2**20, 1),
            uss_mib=None if own is None else round(own / 2**20, 1),
            cpu_s=round(sum(one.cpu_s for one in spent), 2),
            read_bytes=_sum([one.read_bytes for one in spent]),
            written_bytes=_sum([one.written_bytes for one in spent]),
        )

    def _look(self) -> None:
        """Take in processes that are new; let go of those that are no more."""
        with suppress(psutil.Error):  # the root may be gone; what it left behind is still watched
            self._alive.update(self._root.children(recursive=True))
        self._alive = {one for one in self._alive if one.is_running()}


def _spent(process: psutil.Process) -> _Spent:
    times = process.cpu_times()
    read: int | None = None
    written: int | None = None
    try:
        counters = process.io_counters()
        read, written = int(counters.read_bytes), int(counters.write_bytes)
    except (AttributeError, psutil.AccessDenied, NotImplementedError):
        pass  # macOS has none for a process; Linux only shows one's own
    return _Spent(float(times.user + times.system), read, written)


def _own(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_full_info().uss)
    except (psutil.AccessDenied, AttributeError, NotImplementedError):
        return None


def _sum(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
