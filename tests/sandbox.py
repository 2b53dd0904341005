"""A command that may write only below some folders: the kernel refuses everything else (Landlock)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""System calls of Landlock, alike on all processors."""
_WRITE = 0b1111_1111_1111_0010
"""Of the rights of version 3: write, remove, make anything, link, truncate; neither read, list nor execute."""
_EVERYWHERE = ("/dev", "/proc")
"""Devices that are no disk, and settings of the process itself."""


def is_available() -> bool:
    """Tell whether the kernel can confine a process."""
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(_CREATE, None, 0, 1) >= 3


def confine(*folders: Path) -> None:
    """Refuse this process, and all that it starts, to write anywhere but below these folders."""
    libc = ctypes.CDLL(None, use_errno=True)
    rights = 0x7FFE & ~0b1100  # all of version 3 from bit 1 on, but for reading and listing
    rules = libc.syscall(_CREATE, struct.pack("Q", rights), 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for folder in (*map(str, folders), *_EVERYWHERE):
        descriptor = os.open(folder, os.O_PATH)
        if libc.syscall(_ADD, rules, 1, struct.pack("=Qi", rights, descriptor), 0):
            raise OSError(ctypes.get_errno(), "landlock_add_rule", folder)
        os.close(descriptor)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges, which Landlock asks for
    if libc.syscall(_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


if __name__ == "__main__":
    count = sys.argv.index("--")
    confine(*map(Path, sys.argv[1:count]))
    os.execv(sys.argv[count + 1], sys.argv[count + 1 :])  # noqa: S606
