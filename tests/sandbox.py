"""A command that may write only below some folders: the kernel refuses everything else (Landlock)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""System calls of Landlock, alike on all processors."""
_WRITES = 0x7FF2
"""The rights of version 3 that change something: write, remove, make anything, link, truncate."""
_FILE_WRITES = 0x4002
"""Those of a file."""


def is_available() -> bool:
    """Tell whether the kernel can confine a process."""
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(_CREATE, None, 0, 1) >= 3


def confine(*folders: Path) -> None:
    """Refuse this process, and all that it starts, to write anywhere but below these folders."""
    libc = ctypes.CDLL(None, use_errno=True)
    rules = libc.syscall(_CREATE, struct.pack("Q", _WRITES), 8, 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    allowed = [*((folder, _WRITES) for folder in folders), (Path(os.devnull), _FILE_WRITES)]
    for path, rights in allowed:
        descriptor = os.open(path, os.O_PATH)
        if libc.syscall(_ADD, rules, 1, struct.pack("=Qi", rights, descriptor), 0):
            raise OSError(ctypes.get_errno(), "landlock_add_rule", str(path))
        os.close(descriptor)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges, which Landlock asks for
    if libc.syscall(_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


if __name__ == "__main__":
    count = sys.argv.index("--")
    confine(*map(Path, sys.argv[1:count]))
    os.execv(sys.argv[count + 1], sys.argv[count + 1 :])
