"""What a run is told by its environment, read once and handed down.

The only module that reads environment variables. A bad value fails at the
start, by name; command-line options replace single fields afterwards.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from fusi_pipeline.cost import BuildCost
from fusi_pipeline.errors import SettingInvalid
from fusi_pipeline.machine_memory import total_mib
from fusi_pipeline.tiles.image import ENCODERS
from fusi_pipeline.tiles.mbtiles_writer import WriterPace
from fusi_pipeline.watchdog import Limits

_DEFAULT_CACHE_MIB = 192
"""Holds the strips of a float32 file 20,000 pixels wide that a row of blocks needs."""
_BUDGET_SHARE = 0.5
_MOST_BUDGET_SHARE = 0.75
"""Of the memory of a machine that is small, as far as two workers need it."""
ON_DISK_FULL = ("stop", "wait")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are and how hard the machine may be worked."""

    source_store: Path
    """Folder of sources, one sub-folder each (FUSI_SOURCE_STORE)."""
    output_dir: Path
    """Folder for everything that is made (FUSI_OUTPUT_DIR)."""
    workers: int
    """Worker processes (FUSI_WORKERS)."""
    memory_mb: int
    """Budget in MiB for all processes together (FUSI_MEMORY_MB)."""
    warp_threads: int = 1
    """Threads that share the warp of one block (FUSI_WARP_THREADS)."""
    io_sleep_s: float = 0.0
    """Pause of a worker after reading a block's files (FUSI_IO_SLEEP_MS, in milliseconds there)."""
    progress_interval_s: float = 10.0
    """Between two progress lines where there is no terminal (FUSI_PROGRESS_INTERVAL)."""
    gdal_cache_mib: int = _DEFAULT_CACHE_MIB
    """GDAL's block cache in each worker (GDAL_CACHEMAX)."""
    pace: WriterPace = field(default_factory=WriterPace)
    """FUSI_MB_CHECKPOINT_INTERVAL, FUSI_MB_COMMIT_SLEEP_SEC, FUSI_MB_BATCH_SLEEP_SEC."""
    scratch: Path | None = None
    """Folder for temporary files (TMPDIR); in the output folder where None."""
    watchdog_memory_mb: int | None = None
    """What a worker may take, in MiB (FUSI_WATCHDOG_MEMORY_MB)."""
    watchdog_time_s: float | None = None
    """How long it may be at one task (FUSI_WATCHDOG_TIME_SECONDS)."""
    memory_floor_mb: int | None = None
    """Available memory in MiB under which there are fewer workers (FUSI_MEMORY_FLOOR_MB)."""
    encoder: str = ENCODERS[0]
    """What writes tiles, `fusi`, `fusi-fast` or `libwebp` (FUSI_ENCODER)."""
    packer: str = "auto"
    """What writes PMTiles archives, `auto`, `builtin` or `cli`; an option only."""
    on_disk_full: str = "stop"
    """What a run does when its disk is full, `wait` or `stop` (FUSI_ON_DISK_FULL)."""

    @property
    def sources_dir(self) -> Path:
        """Where the archives and indexes of single sources are."""
        return self.output_dir / "sources"

    def archive_path(self, name: str) -> Path:
        """Return where the MBTiles of a source is."""
        return self.sources_dir / f"{name}.mbtiles"

    def index_path(self, name: str) -> Path:
        """Return where the index of a source is."""
        return self.sources_dir / f"{name}.index.db"

    @property
    def limits(self) -> Limits:
        """What workers may take."""
        return Limits(
            memory_mib=self.watchdog_memory_mb, time_s=self.watchdog_time_s, floor_mib=self.memory_floor_mb
        )

    @property
    def scratch_dir(self) -> Path:
        """Folder for temporary files."""
        return self.scratch or self.output_dir / "tmp"

    def child_environment(self) -> dict[str, str]:
        """Return the variables that every child process is given."""
        return dict.fromkeys(("TMPDIR", "SQLITE_TMPDIR", "CPL_TMPDIR"), str(self.scratch_dir.absolute()))

    def process_environment(self) -> dict[str, str]:
        """Return this process's variables and, over them, those that every child is given."""
        return {**os.environ, **self.child_environment()}

    def with_options(self, **options: object) -> Settings:
        """Return the settings with those options replaced that are not None."""
        given = {name: value for name, value in options.items() if value is not None}
        return replace(self, **given)  # type: ignore[arg-type]


def settings_from(environment: Mapping[str, str] | None = None) -> Settings:
    """Return the settings that an environment asks for, the process's own by default.

    Raises SettingInvalid for a value that cannot be used.
    """
    env = os.environ if environment is None else environment
    return Settings(
        source_store=Path(env.get("FUSI_SOURCE_STORE") or "source-store"),
        output_dir=Path(env.get("FUSI_OUTPUT_DIR") or "output"),
        workers=_whole(env, "FUSI_WORKERS", processors(), 1),
        memory_mb=_whole(env, "FUSI_MEMORY_MB", default_memory_mb(), 1),
        warp_threads=_whole(env, "FUSI_WARP_THREADS", 1, 1),
        io_sleep_s=_number(env, "FUSI_IO_SLEEP_MS", 0.0) / 1000,
        progress_interval_s=_number(env, "FUSI_PROGRESS_INTERVAL", 10.0),
        gdal_cache_mib=_cache_mib(env.get("GDAL_CACHEMAX", "")),
        pace=WriterPace(
            checkpoint_interval=_whole(env, "FUSI_MB_CHECKPOINT_INTERVAL", 16, 1),
            commit_sleep_s=_number(env, "FUSI_MB_COMMIT_SLEEP_SEC", 0.0),
            batch_sleep_s=_number(env, "FUSI_MB_BATCH_SLEEP_SEC", 0.0),
        ),
        scratch=_scratch(env.get("TMPDIR", "")),
        watchdog_memory_mb=_whole(env, "FUSI_WATCHDOG_MEMORY_MB", 0, 1) or None,
        watchdog_time_s=_number(env, "FUSI_WATCHDOG_TIME_SECONDS", 0.0) or None,
        memory_floor_mb=_whole(env, "FUSI_MEMORY_FLOOR_MB", -1, 0)
        if env.get("FUSI_MEMORY_FLOOR_MB")
        else None,
        encoder=_one_of(env, "FUSI_ENCODER", ENCODERS),
        on_disk_full=_one_of(env, "FUSI_ON_DISK_FULL", ON_DISK_FULL),
    )


@contextmanager
def given_to_children(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def default_memory_mb() -> int:
    """Return half of the memory, in MiB, of the machine or of the container; more of it where it is small."""
    total = total_mib()
    two_workers = BuildCost.of(2, _DEFAULT_CACHE_MIB).memory_mib
    return max(int(total * _BUDGET_SHARE), min(int(total * _MOST_BUDGET_SHARE), two_workers))


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _whole(env: Mapping[str, str], name: str, default: int, least: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise SettingInvalid(name, text, f"a whole number of at least {least}")
    return value


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value >= 0 and math.isfinite(value)):
        raise SettingInvalid(name, text, "a number of at least 0")
    return value


def _one_of(env: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """Return a word of a list, the first by default."""
    text = env.get(name) or choices[0]
    if text not in choices:
        raise SettingInvalid(name, text, " or ".join(choices))
    return text


def _scratch(text: str) -> Path | None:
    """Return TMPDIR where the user set it; macOS sets it for everyone, to the system's volume."""
    return None if not text or text.startswith(("/var/folders/", "/private/var/folders/")) else Path(text)


def _cache_mib(text: str) -> int:
    """Return GDAL_CACHEMAX in MiB; GDAL takes bare numbers of 100,000 and more for bytes."""
    if not text:
        return _DEFAULT_CACHE_MIB
    try:
        if text.endswith("%"):
            mib = int(psutil.virtual_memory().total * float(text[:-1]) / 100) >> 20
        elif text.upper().endswith(("GB", "MB")):
            mib = int(float(text[:-2]) * (1024 if text[-2] in "Gg" else 1))
        else:
            value = int(text)
            mib = value if value < 100_000 else max(1, value >> 20)
    except (ValueError, OverflowError):
        mib = 0
    if mib < 1:
        raise SettingInvalid("GDAL_CACHEMAX", text, "MiB as a number, or a share such as 5%")
    return mib
