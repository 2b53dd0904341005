"""A limit of memory that the kernel holds processes to: a control group (version 1 or 2) of a test's own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_ROOT = Path("/sys/fs/cgroup")


class ControlGroup:
    """A group of processes whose memory is limited."""

    def __init__(self, folder: Path, *, version_2: bool) -> None:
        self.folder = folder
        self._limit = folder / ("memory.max" if version_2 else "memory.limit_in_bytes")
        self._events = folder / ("memory.events" if version_2 else "memory.oom_control")

    def limit(self, mib: int) -> None:
        """Let its processes have so much memory together, pages of files that are kept for them included."""
        self._limit.write_text(str(mib << 20))
        with suppress(OSError):  # there may be no swap to forbid
            (self.folder / "memory.swap.max").write_text("0")

    def take(self, pid: int) -> None:
        """Put a process into the group; what it has taken before stays where it was counted."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    @property
    def entering(self) -> Callable[[], None]:
        """What a new process does to begin in the group."""
        return lambda: self.take(os.getpid())

    @property
    def kills(self) -> int:
        """How often the kernel ended a process of the group for lack of memory."""
        rows = dict(line.split() for line in self._events.read_text().splitlines())
        return int(rows["oom_kill"])


@contextmanager
def control_group(name: str) -> Iterator[ControlGroup]:
    """Yield a new group below this process's own; skip the test, with the reason, where none can be made."""
    parent, version_2 = _parent()
    folder = parent / f"fusi-{name}-{os.getpid()}"
    try:
        folder.mkdir()
        group = ControlGroup(folder, version_2=version_2)
        group.limit(1 << 20)
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group with a limit of memory can be made here: {error}")
    try:
        yield group
    finally:
        _remove(folder)


def _parent() -> tuple[Path, bool]:
    """Return the group of this process that limits memory, and whether it is of version 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        pytest.skip("this system has no control groups")
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, path in groups.items():
        if "memory" in controllers.split(","):
            return _ROOT / "memory" / path.lstrip("/"), False
    return _ROOT / groups.get("", "/").lstrip("/"), True


def _remove(folder: Path) -> None:
    """Remove a group; its last process may take a moment to be gone."""
    for _ in range(100):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
