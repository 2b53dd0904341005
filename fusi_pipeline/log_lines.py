"""Lines on standard error; in a file each begins with the time, since nobody was there.

Whatever reads a pipe (journald, a container's log, another program) notes the time
itself, and a person at a terminal has a clock.
"""

from __future__ import annotations

import os
import platform
import shlex
import stat
import sys
import time
from importlib.metadata import version
from pathlib import Path

import click


def is_file() -> bool:
    """Tell whether standard error goes to a file."""
    try:
        return stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode)
    except (OSError, ValueError):  # there is none, or it is no file of the system's
        return False


def say(text: str) -> None:
    """Write a line."""
    click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}" if is_file() else text, err=True)


def begin() -> None:
    """Say, in a file, what runs from here on, and where."""
    if is_file():
        words = shlex.join(["fusi", *sys.argv[1:]])
        where = f"process {os.getpid()} on {platform.node()}, in {Path.cwd()}"
        say(f"{words} (version {version('fusi')}, {where})")
