"""What workers do in the tests of the pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fusi_pipeline.errors import FusiError

_held: list[bytes] = []


def start(context: object) -> None:
    if context == "broken":
        raise FusiError("it cannot begin")


def twice(number: int) -> int:
    return 2 * number


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def take(mib: int) -> int:
    """Hold memory for a while."""
    held = b"x" * (mib << 20)
    time.sleep(1.0)
    return len(held) >> 20


def take_below(mib: int) -> int:
    """Let a process below this one hold memory for a while."""
    subprocess.run(
        [sys.executable, "-c", f"import time; held = b'x' * ({mib} << 20); time.sleep(30)"], check=True
    )
    return mib


def end_once(mark: str) -> str:
    """End this process the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def end(code: int) -> None:
    os._exit(code)


def fail(text: str) -> None:
    raise FusiError(text)


def unpicklable(_: object) -> object:
    return lambda: None


def process_id(_: object) -> int:
    time.sleep(0.05)
    return os.getpid()
