"""Names of processes that own work, and whether one of them is no more on this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil


def own_name() -> str:
    """Return this process's name: its machine, number and start, which tells it from a later one."""
    return f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"


def is_gone(name: str) -> bool:
    """Tell whether the process of a name (or of a name that begins so) ran on this machine and ended."""
    host, pid, started, *_ = [*name.split(":"), "", "", ""]
    if host != socket.gethostname() or not (pid.isascii() and pid.isdigit() and len(pid) <= 10):
        return False
    try:
        if psutil.Process(int(pid)).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return True
        return _started(int(pid)) != started
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _started(pid: int) -> str:
    """Return when a process started, in a form that stays the same when the clock is set.

    Linux counts it in ticks since the machine's start (field 22 of /proc/PID/stat);
    elsewhere it is the time of day. Raises psutil.NoSuchProcess and psutil.AccessDenied.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return fields.split()[19]
    except (OSError, IndexError):
        return f"{psutil.Process(pid).create_time():.2f}"
