"""How much memory this process may have and how much is left, also in a container.

A container's limit stands in its control group (version 2 or 1), which the
figures for the whole machine know nothing of. Every group above counts too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What the files of a control group are called."""

    limit: str
    used: str
    prefix: str
    """Before the keys of `memory.stat` that count the groups below too."""


_V2 = _Names("memory.max", "memory.current", "")
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def total_mib(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Return the memory of the machine in MiB, or what a control group leaves of it."""
    limits = [limit for limit, _ in _groups(root, membership)]
    return min([int(psutil.virtual_memory().total), *limits]) >> 20


def available_mib(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int:
    """Return the memory in MiB that can be had without swapping, on the machine and in every control group.

    Pages of files count as free in a group, unless they are mapped or still to be written.
    """
    left = [limit - used for limit, used in _groups(root, membership)]
    return max(min([int(psutil.virtual_memory().available), *left]), 0) >> 20


def _groups(root: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes in use that cannot be given back) of every control group that has a limit."""
    for folder, names in _folders(root, membership):
        with suppress(OSError, ValueError):
            text = (folder / names.limit).read_text().strip()
            limit = _UNLIMITED if text == "max" else int(text)
            if limit < _UNLIMITED:
                used = int((folder / names.used).read_text())
                yield limit, max(used - _reclaimable(folder, names.prefix), 0)


def _folders(root: Path, membership: Path) -> Iterator[tuple[Path, _Names]]:
    """Yield the control groups of this process, each with those above it."""
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controllers and "memory" not in controllers.split(","):
                continue
            top, names = (root / "memory", _V1) if controllers else (root, _V2)
            inside = top / path.lstrip("/")
            for folder in (inside, *inside.parents):
                yield folder, names
                if folder == top:
                    break


def _reclaimable(folder: Path, prefix: str) -> int:
    """Return the bytes of file pages that the kernel can drop at once."""
    stat: dict[str, int] = {}
    for line in (folder / "memory.stat").read_text().splitlines():
        key, _, value = line.partition(" ")
        stat[key] = int(value)
    cached = stat.get(f"{prefix}active_file", 0) + stat.get(f"{prefix}inactive_file", 0)
    version_2 = not prefix
    kept = (
        ("file_mapped", "file_dirty", "file_writeback")
        if version_2
        else ("mapped_file", "dirty", "writeback")
    )
    return max(cached - sum(stat.get(prefix + key, 0) for key in kept), 0)
