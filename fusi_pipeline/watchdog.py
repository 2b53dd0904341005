"""What a worker may take of memory and time, and what it takes, seen from outside.

A process and all below it count together. Measured is what would be given back
if they ended (USS), where the system tells it, else what is resident (RSS).
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from fusi_pipeline.machine_memory import available_mib, total_mib

_FLOOR_SHARE = 0.05
_LEAST_FLOOR_MIB, _MOST_FLOOR_MIB = 64, 1024
_KIN_INTERVAL_S = 2.0
"""Between two looks for new processes below a worker: each reads the whole process table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What each worker may take, and what is to be left on the machine."""

    memory_mib: int | None = None
    """Of a worker and the processes below it."""
    time_s: float | None = None
    """On one task."""
    floor_mib: int | None = None
    """Available on the machine, below which there are fewer workers; a share of all memory where None."""

    @property
    def floor(self) -> int:
        """The floor in MiB."""
        if self.floor_mib is not None:
            return self.floor_mib
        share = int(total_mib() * _FLOOR_SHARE)
        return min(max(share, _LEAST_FLOOR_MIB), _MOST_FLOOR_MIB)


class Watched:
    """A process under watch, with those below it."""

    def __init__(self, pid: int) -> None:
        self._process = _process(pid)
        self._kin: list[psutil.Process] = []
        self._looked_at = 0.0

    def memory_mib(self, now: float, above_mib: int) -> int:
        """Return what the processes take in MiB; exact only where it is more than `above_mib`.

        Resident memory is quick to read and never less than what is theirs
        alone, which is therefore asked for only where it decides. `now` is a
        time in seconds. A process that is gone takes nothing.
        """
        if now - self._looked_at >= _KIN_INTERVAL_S:
            self._looked_at = now
            self._kin = [] if self._process is None else _below(self._process)
        family = [*([] if self._process is None else [self._process]), *self._kin]
        resident = sum(_resident(one) for one in family) >> 20
        return resident if resident <= above_mib else sum(_own(one) for one in family) >> 20


def machine_available_mib() -> int:
    """Return the memory in MiB that the machine, or the container, has left."""
    return available_mib()


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        below: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return below


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _own(process: psutil.Process) -> int:
    """Return what a process alone takes, in bytes: USS, else RSS."""
    try:
        return int(process.memory_full_info().uss)
    except (psutil.AccessDenied, AttributeError):
        return _resident(process)
    except psutil.Error:
        return 0
