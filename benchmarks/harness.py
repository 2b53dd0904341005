"""What benchmarks share: commands in fresh processes, measured; results with facts of the machine."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from fusi_pipeline.process_tree import ProcessTree

RESULTS = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results"))
"""Where results are kept; a quick look keeps them elsewhere."""
DEM = Path(__file__).parent.parent.parent / "shared" / "dem"
"""Real elevation data, where it is present."""
_PR_SET_CHILD_SUBREAPER = 36
_SAMPLE_S = 0.1


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took."""

    seconds: float
    cpu_s: float
    """Of all its processes."""
    peak_mib: float
    """Most memory of its processes together, ten times a second; what they share counts once (PSS)."""
    peak_uss_mib: float
    """Likewise what each had to itself."""
    peak_rss_mib: float
    """Likewise with what they share counted in each."""
    written_bytes: int


def fusi(*words: object, watched: bool = True) -> Cost:
    """Run a `fusi` command in fresh processes; `watched` as in `run`."""
    return run([sys.executable, "-m", "fusi_pipeline.start", *map(str, words)], watched=watched)


def run(command: Sequence[str], *, watched: bool = True) -> Cost:
    """Run a command to its end; stop the benchmark with what it said where it fails.

    Watching its memory takes a third of a processor: where all are to work, it is
    left out, and memory and bytes written are 0.
    """
    _adopt()
    before, started = _children_cpu_s(), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    pss, uss, rss, written = 0.0, 0.0, 0.0, 0
    try:
        tree = ProcessTree(process.pid)
        while watched and process.poll() is None:
            usage = tree.usage()
            pss = max(pss, _shared_once_mib(tree))
            uss, rss = max(uss, usage.uss_mib or 0.0), max(rss, usage.rss_mib)
            written = max(written, usage.written_bytes or 0)
            time.sleep(_SAMPLE_S)
    except psutil.NoSuchProcess:
        pass
    said = process.communicate()[1]
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    _reap()
    cpu_s = round(_children_cpu_s() - before, 2)
    return Cost(round(seconds, 2), cpu_s, round(pss, 1), round(uss, 1), round(rss, 1), written)


def report(name: str, facts: dict[str, object]) -> None:
    """Print what was measured, and keep it with facts of the machine as `NAME.json` in RESULTS."""
    print(json.dumps({"benchmark": name, **facts}), flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"benchmark": name, **facts, "machine": machine()}, indent=2)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """Return facts of this machine, and what else it was doing."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("fusi", "numpy", "rasterio", "pillow", "imagecodecs", "numba")
        },
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


@contextmanager
def place() -> Iterator[Path]:
    """Yield a folder in the working folder, which is not a memory file system as a rule, and remove it."""
    with TemporaryDirectory(dir=".", prefix=".bench-") as folder:
        yield Path(folder)


def drop(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _adopt() -> None:
    """Be given the processes that a command leaves behind, so that their time counts; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def _shared_once_mib(tree: ProcessTree) -> float:
    total = 0
    for process in tree.processes:
        with suppress(psutil.Error, AttributeError):  # it ended meanwhile, or the system does not tell
            total += process.memory_full_info().pss
    return total / 2**20


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
