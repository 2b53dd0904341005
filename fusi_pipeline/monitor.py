"""What a long run uses, sample by sample, as JSON lines: its own thread beside the run, or another process.

A sample never touches the run: it reads what the system knows of the processes,
sizes of files, and what the run says of itself.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fusi_pipeline import run_file
from fusi_pipeline.errors import OutputUnwritable, UsageError
from fusi_pipeline.machine_memory import available_mib
from fusi_pipeline.process_tree import ProcessTree, Usage
from fusi_pipeline.progress import Progress
from fusi_pipeline.run_file import RunFile, RunState, state_of
from fusi_pipeline.tiles.files import free_mib

INTERVAL_S = 5.0
_DEEPEST = 2
"""Folders below an output folder that are looked into."""
_MOST_ENTRIES = 20_000
_LOG_SUFFIX = "-wal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a run uses at a moment."""

    at_s: float
    """Seconds of the epoch."""
    elapsed_s: float
    """Since its process began."""
    pid: int
    processes: int
    threads: int
    rss_mib: float
    """Resident memory of all processes; what they share counts in each."""
    uss_mib: float | None
    """What would be given back if they ended."""
    cpu_s: float
    """Processor time so far."""
    cpu_percent: float | None
    """Of one processor, since the sample before."""
    read_bytes: int | None
    """Read from disks so far."""
    written_bytes: int | None
    """Written to disks so far."""
    wal_bytes: int
    """Size of SQLite's logs beside the outputs."""
    output_bytes: int
    """Size of the files in the output folder that changed since the run began, those logs among them."""
    output_free_mib: int
    """Free space of the volume of the output."""
    scratch_free_mib: int
    """Free space of the volume of the folder for temporary files."""
    available_mib: int
    """Memory of the machine, or the container, that can be had without swapping."""
    stage: str
    subject: str
    done: int
    total: int
    unit: str
    tiles: int
    """Tiles finished so far in the stage."""
    tiles_per_s: float | None
    """Since the sample before; None where that was of another stage."""
    left_s: float | None
    """Estimate of the time that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What a run writes of itself while it goes on."""

    output: Path
    """Its output folder or archive."""
    scratch: Path
    """Its folder for temporary files."""
    leaves_file: bool = True
    """Whether others are told where the run is (see `run_file`)."""
    samples: Path | None = None
    """Where samples go."""
    interval_s: float = INTERVAL_S


class Sampler:
    """Takes samples of one process and all below it."""

    def __init__(self, tree: ProcessTree, output: Path, scratch: Path) -> None:
        self._tree = tree
        self._output = output
        self._scratch = scratch
        self._before: tuple[float, Usage, RunState | None] | None = None

    def take(self, state: RunState | None) -> Sample:
        """Return what is used now; `state` is where the run is, as far as that is known."""
        now, usage = time.time(), self._tree.usage()
        percent = rate = None
        if self._before is not None and now > self._before[0]:
            at, was, then = self._before
            percent = round(100 * max(usage.cpu_s - was.cpu_s, 0.0) / (now - at), 1)
            rate = _rate(then, state)
        self._before = now, usage, state
        size, log = _sizes(self._output, self._tree.began_s)
        where = state or RunState(pid=self._tree.pid, began_s=0, output="", scratch="")
        left_s = None if where.left_s is None else round(max(where.left_s - (now - where.at_s), 0.0), 1)
        return Sample(
            at_s=round(now, 3),
            elapsed_s=round(now - self._tree.began_s, 2),
            pid=self._tree.pid,
            cpu_percent=percent,
            wal_bytes=log,
            output_bytes=size,
            output_free_mib=free_mib(self._output),
            scratch_free_mib=free_mib(self._scratch),
            available_mib=available_mib(),
            tiles_per_s=rate,
            left_s=left_s,
            **{name: getattr(where, name) for name in ("stage", "subject", "done", "total", "unit", "tiles")},
            **asdict(usage),
        )


@contextmanager
def observed(watch: Watch | None) -> Iterator[Callable[[Progress, float | None], None]]:
    """Yield what is to be told each moment of the run of this process; write meanwhile what `watch` says.

    Samples are taken by a thread. One that cannot be written ends them and
    nothing else. Raises UsageError where their file holds something else.
    """
    if watch is None:
        yield lambda _progress, _left_s: None
        return
    thread = None if watch.samples is None else _Thread(watch, watch.samples)
    state = state_of(watch.output, watch.scratch)
    folder = watch.output if watch.output.is_dir() or not watch.output.suffix else watch.output.parent
    file = RunFile(folder) if watch.leaves_file else None

    def tell(progress: Progress, left_s: float | None) -> None:
        nonlocal state
        if progress.note:
            return
        state = state.at(progress, left_s, time.time())
        if file is not None:
            file.write(state)
        if thread is not None:
            thread.state = state

    try:
        yield tell
    finally:
        if thread is not None:
            thread.end()
        if file is not None:
            file.close()


def watched(
    pid: int, run: Path | None, interval_s: float, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Sample]:
    """Yield samples of another process until it ends; `run` is the file of its run, where it has one."""
    tree = ProcessTree(pid)
    state = None if run is None else run_file.read(run)
    output = Path(state.output) if state else _working_folder(tree)
    sampler = Sampler(tree, output, Path(state.scratch) if state else output)
    while tree.is_alive():
        state = (None if run is None else run_file.read(run)) or state
        yield sampler.take(state)
        _rest(tree, interval_s, sleep)


def append_to(path: Path) -> int:
    """Return a descriptor by which whole lines are added to a file of samples, begun if need be.

    A last line that a killed run left unfinished is ended first. Raises
    UsageError for a file of another kind, OutputUnwritable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end:
            if os.pread(descriptor, 9, 0) != b'{"at_s": ':
                os.close(descriptor)
                raise UsageError(f"{path}: exists and holds no samples; choose another name")
            if os.pread(descriptor, 1, end - 1) != b"\n":
                os.write(descriptor, b"\n")
    except OSError as error:
        raise OutputUnwritable(path, error.strerror or str(error)) from error
    return descriptor


def line(sample: Sample) -> str:
    """Return a sample as a line of JSON."""
    return json.dumps(asdict(sample))


class _Thread:
    """Samples of this process, taken beside what it does."""

    def __init__(self, watch: Watch, path: Path) -> None:
        self.state: RunState | None = None
        self._descriptor = append_to(path)
        self._sampler = Sampler(ProcessTree(), watch.output, watch.scratch)
        self._interval_s = watch.interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go, name="monitor", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take a last sample and close the file."""
        self._over.set()
        self._thread.join()
        os.close(self._descriptor)

    def _go(self) -> None:
        with suppress(OSError):  # such as a full disk, which the run itself will say
            while True:
                os.write(self._descriptor, f"{line(self._sampler.take(self.state))}\n".encode())
                if self._over.is_set():
                    return
                self._over.wait(self._interval_s)


def _rate(then: RunState | None, now: RunState | None) -> float | None:
    """Return the tiles per second between two states of a run, None where they are of different stages."""
    if then is None or now is None or (then.stage, then.subject) != (now.stage, now.subject):
        return None
    seconds = now.at_s - then.at_s
    return round(max(now.tiles - then.tiles, 0) / seconds, 2) if seconds > 0 else 0.0


def _rest(tree: ProcessTree, interval_s: float, sleep: Callable[[float], None]) -> None:
    """Wait for the next sample, or until the process ends."""
    until = time.monotonic() + interval_s
    while tree.is_alive() and (left_s := until - time.monotonic()) > 0:
        sleep(min(left_s, 0.5))


def _working_folder(tree: ProcessTree) -> Path:
    """Return the folder of the files that processes write, or the one they work in."""
    return tree.folder() or Path.cwd()


def _sizes(output: Path, since_s: float) -> tuple[int, int]:
    """Return the bytes of what was written since a time in or beside `output`, and of the logs in it."""
    folder = output if output.is_dir() else output.parent
    size = log = 0
    for entry in _entries([folder]):
        with suppress(OSError):
            state = entry.stat(follow_symlinks=False)
            if state.st_mtime >= since_s:
                size += state.st_size
                log += state.st_size if entry.name.endswith(_LOG_SUFFIX) else 0
    return size, log


def _entries(folders: Sequence[Path]) -> Iterator[os.DirEntry[str]]:
    """Yield the files of folders and of those below them, not too deep and not too many."""
    seen = 0
    level: list[str] = [str(folder) for folder in folders]
    for _ in range(_DEEPEST + 1):
        below: list[str] = []
        for folder in level:
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST_ENTRIES:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
                    else:
                        yield entry
        level = below
