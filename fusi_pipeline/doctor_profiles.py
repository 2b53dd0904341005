"""Settings that suit a machine: for a quiet long run, and for all the speed there is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.cost import worker_mib, workers_for
from fusi_pipeline.errors import BudgetTooSmall

_SMALL_MIB = 16 * 1024 + 512
"""Up to this much memory a machine is taken for a small one."""
_SLOW_MB_S = 150.0
_CACHE_MIB = 192
_CONSERVATIVE_CACHE_MIB = 256
_CONSERVATIVE_SHARE = 0.375
"""Of all memory, 6 of 16 GiB: the cache of files and other programs have the rest."""
_CONSERVATIVE_MIB = 6000
_GENEROUS = 2
"""A worker may take so many times what the plan states before it is ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What settings depend on."""

    processors: int
    memory_mib: int
    output_dir: Path
    disk_mb_s: float | None = None
    """How fast the output's volume takes what is written; None where that is not known."""
    external: bool = False
    """Whether it looks like a disk that is plugged in, or is reached through a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Settings that go together."""

    name: str
    reason: str
    environment: Mapping[str, str]
    options: str
    """For `fusi aggregate` and `fusi build`."""


def profiles(machine: Machine) -> tuple[Profile, ...]:
    """Return profiles for a machine, the one that suits it best first."""
    careful, fast = _conservative(machine), _fast(machine)
    return (careful, fast) if is_small(machine) else (fast, careful)


def is_small(machine: Machine) -> bool:
    """Tell whether a long run should go easy on a machine."""
    slow = machine.disk_mb_s is not None and machine.disk_mb_s < _SLOW_MB_S
    return machine.memory_mib <= _SMALL_MIB or machine.external or slow


def _conservative(machine: Machine) -> Profile:
    """Return what a machine of 16 GiB with an external disk does for days without being felt."""
    budget = min(int(machine.memory_mib * _CONSERVATIVE_SHARE), _CONSERVATIVE_MIB)
    workers = _workers(budget, min(2, machine.processors), _CONSERVATIVE_CACHE_MIB)
    limit = _GENEROUS * worker_mib(_CONSERVATIVE_CACHE_MIB)
    return Profile(
        name="conservative",
        reason="for days on 16 GiB with an external disk: few workers, pauses between writes",
        environment={
            "TMPDIR": str(machine.output_dir.absolute() / "tmp"),
            "GDAL_CACHEMAX": str(_CONSERVATIVE_CACHE_MIB),
            "FUSI_WORKERS": str(workers),
            "FUSI_MEMORY_MB": str(budget),
            "FUSI_MB_COMMIT_SLEEP_SEC": "0.10",
            "FUSI_MB_BATCH_SLEEP_SEC": "0.02",
            "FUSI_IO_SLEEP_MS": "1",
            "FUSI_WATCHDOG_MEMORY_MB": str(limit),
            "FUSI_ON_DISK_FULL": "wait",
            "FUSI_PROGRESS_INTERVAL": "100",
        },
        options="--split balanced",
    )


def _fast(machine: Machine) -> Profile:
    """Return what uses all processors, and half of the memory."""
    budget = machine.memory_mib // 2
    workers = _workers(budget, machine.processors, _CACHE_MIB)
    return Profile(
        name="fast",
        reason="for a machine with nothing else to do: every processor, half of the memory",
        environment={
            "GDAL_CACHEMAX": str(_CACHE_MIB),
            "FUSI_WORKERS": str(workers),
            "FUSI_MEMORY_MB": str(budget),
            "FUSI_ON_DISK_FULL": "wait",
        },
        options="",
    )


def _workers(budget_mib: int, wanted: int, cache_mib: int) -> int:
    try:
        return workers_for(budget_mib, wanted, cache_mib)
    except BudgetTooSmall:
        return 1
