"""Where a run is, for other processes: a small file in its output folder while it lasts.

`fusi monitor` reads it. A run keeps it open, writes it anew in place about once
a second, and removes it at the end; that of a run that was killed is removed by
the next one. A run goes on without it where it cannot be written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import psutil

from fusi_pipeline.errors import UsageError
from fusi_pipeline.progress import Progress

_PREFIX, _SUFFIX = ".fusi-run.", ".json"
_LENGTH = 2048
"""Always written in full, with one call, so that nobody reads half of it."""
_INTERVAL_S = 1.0
_SAME_S = 1.0
"""A process that began this much later than the file says is another one of the same number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run is."""

    pid: int
    began_s: float
    """When its process began, in seconds of the epoch."""
    output: str
    """Its output folder or archive."""
    scratch: str
    """Its folder for temporary files."""
    at_s: float = 0.0
    """When this was written."""
    stage: str = ""
    subject: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    tiles: int = 0
    """Tiles finished so far in the stage."""
    bytes_written: int = 0
    left_s: float | None = None
    """Estimate of the time that is left."""

    def at(self, progress: Progress, left_s: float | None, at_s: float) -> RunState:
        """Return the state of the run at a later moment."""
        return replace(
            self,
            at_s=at_s,
            stage=progress.stage,
            subject=progress.subject,
            done=progress.done,
            total=progress.total,
            unit=progress.unit,
            tiles=progress.tiles_done,
            bytes_written=progress.bytes_written,
            left_s=left_s,
        )


def state_of(output: Path, scratch: Path) -> RunState:
    """Return the state of the run of this process, before its first moment."""
    began_s = float(psutil.Process().create_time())
    return RunState(
        pid=os.getpid(), began_s=began_s, output=str(output.absolute()), scratch=str(scratch.absolute())
    )


class RunFile:
    """The file of the run of this process."""

    def __init__(self, folder: Path) -> None:
        """Have the file in a folder, as soon as that exists."""
        self._folder = folder
        self._descriptor: int | None = None
        self._path = folder / f"{_PREFIX}{os.getpid()}{_SUFFIX}"
        self._written_s = float("-inf")
        self._stage = ("", "")

    def write(self, state: RunState) -> None:
        """Write where the run is, if it is time to or it is at another stage."""
        now = time.monotonic()
        stage = (state.stage, state.subject)
        if now - self._written_s < _INTERVAL_S and stage == self._stage:
            return
        self._written_s, self._stage = now, stage
        with suppress(OSError):
            if self._descriptor is None:
                if not self._folder.is_dir():
                    return
                _forget_dead(self._folder)
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            text = json.dumps(asdict(state)).encode()
            os.pwrite(self._descriptor, text.ljust(_LENGTH), 0)

    def close(self) -> None:
        """Remove the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def running(target: str) -> tuple[int, Path | None]:
    """Return the process, and the file of its run where there is one, that a person means by `target`.

    That is the number of a process, the output folder of a run, or an archive
    that it writes. Raises UsageError where there is none, or more than one.
    """
    path = Path(target)
    if target.isdigit() and not path.exists():
        pid = int(target)
        if not psutil.pid_exists(pid):
            raise UsageError(
                f"{target}: no such process; give the number of one that runs, or its output folder"
            )
        return pid, _file_of(pid)
    found = [
        (one, state) for one in _files_near(path) if (state := read(one)) is not None and is_alive(state)
    ]
    named = [(one, state) for one, state in found if Path(state.output) == path.absolute()] or found
    if not named:
        raise UsageError(
            f"{target}: no run of fusi writes there; give its output folder, or the number of its process"
        )
    if len(named) > 1:
        pids = ", ".join(str(state.pid) for _, state in named)
        raise UsageError(f"{target}: several runs write there; give the number of one: {pids}")
    return named[0][1].pid, named[0][0]


def read(path: Path) -> RunState | None:
    """Return what a file says, None where it is gone or is no such file."""
    try:
        facts = json.loads(path.read_bytes())
        names = {field.name for field in fields(RunState)}
        return RunState(**{name: value for name, value in facts.items() if name in names})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def is_alive(state: RunState) -> bool:
    """Tell whether the process that a file names still runs, and is not another one of that number."""
    try:
        process = psutil.Process(state.pid)
        same = abs(process.create_time() - state.began_s) < _SAME_S
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _files_near(path: Path) -> Iterator[Path]:
    """Yield the files of runs in a folder, or in those of an archive (which may lie one below the output)."""
    folders: Sequence[Path] = [path] if path.is_dir() else [path.parent, path.absolute().parent.parent]
    for folder in folders:
        yield from sorted(folder.absolute().glob(f"{_PREFIX}*{_SUFFIX}"))


def _file_of(pid: int) -> Path | None:
    """Return the file that a process keeps open, None where it has none or the system does not tell."""
    try:
        opened = [Path(one.path) for one in psutil.Process(pid).open_files()]
    except (psutil.Error, NotImplementedError, OSError):
        return None
    name = f"{_PREFIX}{pid}{_SUFFIX}"
    return next((path for path in opened if path.name == name), None)


def _forget_dead(folder: Path) -> None:
    """Remove the files of runs that were killed."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        state = read(path)
        if state is not None and not is_alive(state):
            path.unlink(missing_ok=True)
