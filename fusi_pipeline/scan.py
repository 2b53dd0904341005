"""Rasters -> index: every file of a source opened, checked, hashed and read through once."""

from __future__ import annotations

import csv
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from fusi_pipeline.conversion import check_before_scan, conversion, is_wanted, oddities
from fusi_pipeline.errors import (
    DiskFull,
    OutputUnwritable,
    OutsideGeoidGrid,
    SourceEmpty,
    SourceIndexInvalid,
    SourcesBroken,
)
from fusi_pipeline.footprint import width_m
from fusi_pipeline.pixel_grid import pixel_sides_m
from fusi_pipeline.progress import Ahead, Progress, Work
from fusi_pipeline.sketch import cells
from fusi_pipeline.sources import (
    SCHEMA_VERSION,
    BrokenFile,
    FileStore,
    RasterEntry,
    SourceConfig,
    SourceFile,
    SourceIndex,
    forget_scan,
    is_unchanged,
    raster_entries,
    read_config,
    reading_digest,
    scan_memory_path,
    write_index,
)
from fusi_pipeline.survey import Survey, cache_limit
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.files import replacing, writable_folder
from fusi_pipeline.tiles.grid import XYBounds
from fusi_pipeline.tiles.sqlite import LOCK_TIMEOUT_S, sqlite_errors
from fusi_pipeline.workload import FLAT_SHARE

BOUNDS_FILENAME = "bounds.csv"
BOUNDS_COLUMNS = ("filename", "left", "bottom", "right", "top", "width", "height")
_TASKS_PER_WORKER = 4
_COMMIT_INTERVAL_S = 1.0
_RESOLUTIONS_DIFFER = 8.0
_FILE_S, _PIXEL_S, _BYTE_S = 0.003, 2.0e-8, 3.0e-9
"""Of a file that is read through, of each of its pixels, and of each of its bytes."""

Outcome = SourceFile | BrokenFile


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanReport:
    """What a scan found."""

    name: str
    files: int
    """Usable files."""
    broken: tuple[tuple[str, str], ...]
    """(filename, problem) of the files left out."""
    warnings: tuple[tuple[str, str], ...]
    """(filename, text)."""
    reused: int
    """Files that were not read again, for their size and time had not changed."""
    bounds: XYBounds
    maxzoom: int
    valid_share: float
    """Valid pixels among all, 0..1."""
    bounds_csv: Path
    """Where the boxes were written; beside the index where the source folder is read-only."""


def scan(
    folder: Path,
    index_path: Path,
    *,
    name: str,
    workers: int = 2,
    skip_broken: bool = False,
    cache_mib: int | None = 64,
    foresee: Callable[[Seen], Ahead] | None = None,
) -> Generator[Progress, None, ScanReport]:
    """Read the files of a source that changed, write its index and `bounds.csv`; return a report.

    What was read is remembered beside the index while the scan goes on, so that
    one that was interrupted, or found broken files, does not read it again.
    `cache_mib` limits GDAL's block cache meanwhile; None leaves it as it is.
    `foresee` tells from what was seen so far what comes after the scan.
    Raises SourceConfigInvalid, SourceEmpty, SourcesBroken (unless
    `skip_broken`), DiskFull and OutputUnwritable, and where heights cannot be
    converted as wished what `conversion` raises, after the index is written.
    """
    config = read_config(folder)
    check_before_scan(name, folder, config)
    entries = raster_entries(folder)
    if not entries:
        raise SourceEmpty(name, f"{folder} holds no raster; put GeoTIFFs (or what else GDAL reads) there")
    tally = _Tally({entry.filename for entry in entries}, bytes=sum(one.size_bytes for one in entries))
    with sqlite_errors(index_path):
        moments = _scanned(folder, index_path, name, config, entries, tally, workers, skip_broken, cache_mib)
        for moment in moments:
            yield moment if foresee is None else replace(moment, ahead=foresee(tally.seen))
    _check_heights(name, folder, config, index_path, tally)
    return _report(folder, index_path, tally)


def _scanned(
    folder: Path,
    index_path: Path,
    name: str,
    config: SourceConfig,
    entries: Sequence[RasterEntry],
    tally: _Tally,
    workers: int,
    skip_broken: bool,
    cache_mib: int | None,
) -> Iterator[Progress]:
    """Look at every file that changed and write the index, yielding progress."""
    memory = _Memory(folder, index_path, config)
    try:
        with cache_limit(cache_mib):
            outcomes = _outcomes(entries, memory, Survey(folder, config), workers)
            for entry, (outcome, known) in zip(entries, outcomes, strict=True):
                tally.add(outcome, known)
                tally.bytes_known += entry.size_bytes if known else 0
                tally.bytes_read += 0 if known else entry.size_bytes
                work = tally.work(workers)
                yield Progress("scan", tally.count, len(entries), "files", subject=name, work=work)
        if tally.broken and not skip_broken:
            raise SourcesBroken(name, [(one.filename, one.problem) for one in tally.broken])
        _refuse_empty(name, tally)
        write_index(index_path, memory.files(entries, tally), tally.broken, name=name, config=config)
    finally:
        memory.close()
    memory.forget()


def _refuse_empty(name: str, tally: _Tally) -> None:
    if tally.files == 0:
        raise SourceEmpty(name, "no file of it can be used; run the scan without --skip-broken to see why")
    if tally.valid_pixels == 0:
        raise SourceEmpty(
            name,
            f"not one valid pixel in {tally.files} file{'s' if tally.files != 1 else ''}; "
            "check nodata in the files and in source.toml",
        )


def _check_heights(name: str, folder: Path, config: SourceConfig, index_path: Path, tally: _Tally) -> None:
    """Add warnings about what heights are counted from, and raise where they cannot be converted.

    A file that reaches out of a grid only warns: it may not be built.
    """
    tally.warnings += oddities(config, tally.declared)
    if not is_wanted(config):
        return
    with SourceIndex(index_path) as index:
        try:
            conversion(name, folder, config, index, tally.declared)
        except OutsideGeoidGrid as outside:
            tally.warnings.append((outside.file, str(outside)))


def _report(folder: Path, index_path: Path, tally: _Tally) -> ScanReport:
    with SourceIndex(index_path) as index:
        written = _write_bounds(folder, index_path, index)
        return ScanReport(
            name=index.name,
            files=index.count(),
            broken=tuple(index.broken()),
            warnings=tuple(tally.warnings + tally.differences()),
            reused=tally.reused,
            bounds=index.bounds(),
            maxzoom=index.maxzoom(),
            valid_share=tally.valid_pixels / tally.pixels,
            bounds_csv=written,
        )


def _write_bounds(folder: Path, index_path: Path, index: SourceIndex) -> Path:
    """Write `bounds.csv` into the source folder, or beside the index where that cannot be; return where."""
    for path in (folder / BOUNDS_FILENAME, index_path.with_name(f"{index.name}.{BOUNDS_FILENAME}")):
        try:
            with replacing(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as stream:
                rows = csv.writer(stream, lineterminator="\n")
                rows.writerow(BOUNDS_COLUMNS)
                for file in index.files():
                    box = file.box
                    corners = [repr(value) for value in (box.left, box.bottom, box.right, box.top)]
                    rows.writerow([file.filename, *corners, file.width, file.height])
            return path
        except (OutputUnwritable, DiskFull):
            if path.parent != folder:
                raise
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scan under way knows of a source."""

    share: float
    """Of its files that were looked at: the mean of their share in number and in bytes."""
    bytes: int
    """Of all of them."""
    base_tiles: float
    """Tiles of the finest zoom that the valid pixels so far fill; flat ones count for what they take."""


@dataclass(slots=True)
class _Tally:
    """Sums over the outcomes of a scan."""

    names: set[str]
    """Every raster candidate of the folder."""
    files: int = 0
    reused: int = 0
    pixels: int = 0
    valid_pixels: int = 0
    broken: list[BrokenFile] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    declared: dict[str, str] = field(default_factory=dict)
    """What files say that heights are counted from, with the name of the first that does."""
    bytes: int = 0
    """Of all files there are."""
    bytes_read: int = 0
    bytes_known: int = 0
    """Of the files that were not read again."""
    _read_s: float = 0.0
    """Predicted seconds of what was read."""
    _work_m2: float = 0.0
    """Area of valid pixels; flat ones count for what they take."""
    _maxzoom: int = 0
    _finest: tuple[float, str] = (float("inf"), "")
    _coarsest: tuple[float, str] = (0.0, "")

    @property
    def seen(self) -> Seen:
        """What is known so far."""
        share = (self.bytes_read + self.bytes_known) / max(self.bytes, 1)
        share = (share + self.count / len(self.names)) / 2
        tile_m2 = (grid.TILE_SIZE_PX * grid.resolution_m(self._maxzoom)) ** 2
        return Seen(share, self.bytes, self._work_m2 / tile_m2)

    def work(self, workers: int) -> Work:
        """Return how much is read of what is to be read."""
        done = self._read_s / workers
        total = done * (self.bytes - self.bytes_known) / max(self.bytes_read, 1)
        return Work((done,), (max(done, total),))

    @property
    def count(self) -> int:
        """Files looked at."""
        return self.files + len(self.broken)

    def add(self, outcome: Outcome, known: bool) -> None:
        """Count one file."""
        if isinstance(outcome, BrokenFile):
            self.broken.append(outcome)
            return
        self.files += 1
        self.reused += known
        if not known:
            pixels = outcome.width * outcome.height
            self._read_s += _FILE_S + pixels * _PIXEL_S + outcome.size_bytes * _BYTE_S
        self.pixels += outcome.width * outcome.height
        sides = pixel_sides_m(outcome)
        self._work_m2 += outcome.valid_pixels * _rough_share(outcome) * sides[0] * sides[1]
        self._maxzoom = max(self._maxzoom, outcome.maxzoom)
        self.valid_pixels += outcome.valid_pixels
        self.declared.setdefault(outcome.vertical_crs, outcome.filename)
        self.warnings += [(outcome.filename, text) for text in outcome.warnings]
        doubled = sum(path in self.names for path, _, _ in outcome.parts)
        if doubled:
            text = f"refers to {doubled} of the files beside it, covered twice: keep the one or the others"
            self.warnings.append((outcome.filename, text))
        box = outcome.box
        pixel_m = min(width_m(box) / outcome.width, (box.top - box.bottom) / outcome.height)
        self._finest = min(self._finest, (pixel_m, outcome.filename))
        self._coarsest = max(self._coarsest, (pixel_m, outcome.filename))

    def differences(self) -> list[tuple[str, str]]:
        """Return a warning where the resolutions of the files are far apart."""
        (fine, finest), (coarse, coarsest) = self._finest, self._coarsest
        if coarse < _RESOLUTIONS_DIFFER * fine:
            return []
        text = (
            f"pixels of {coarse:.3g} m beside {fine:.3g} m in {finest} (EPSG:3857): "
            "make sources of their own of files so different"
        )
        return [(coarsest, text)]


def _rough_share(file: SourceFile) -> float:
    """Return what the valid pixels of a file take, by what they would if none of it were flat."""
    seen = [(cell.rough, cell.flat) for cell in cells(file.sketch)]
    rough, flat = sum(one for one, _ in seen), sum(one for _, one in seen)
    return (rough + flat * FLAT_SHARE) / (rough + flat) if seen else 1.0


class _Memory:
    """What is known of a source's files from the last index and from a scan that did not end."""

    def __init__(self, folder: Path, index_path: Path, config: SourceConfig) -> None:
        self._folder = folder
        self._previous = _open_previous(index_path, reading_digest(config))
        self._index_path = index_path
        writable_folder(index_path.parent)
        self._connection, self._store = _open_store(scan_memory_path(index_path), reading_digest(config))
        self._committed_s = time.monotonic()

    def known(self, entry: RasterEntry) -> SourceFile | None:
        """Return the record of a file that has not changed since."""
        file = self._recorded(entry.filename)
        if file is None:
            return None
        state = (file.filename, file.size_bytes, file.mtime_ns, file.parts)
        return file if is_unchanged(self._folder, entry, *state) else None

    def keep(self, file: SourceFile) -> None:
        """Remember a record; committed within a second or so."""
        self._store.put(file)
        if time.monotonic() - self._committed_s > _COMMIT_INTERVAL_S:
            self._store.commit()
            self._committed_s = time.monotonic()

    def files(self, entries: Sequence[RasterEntry], tally: _Tally) -> Iterator[SourceFile]:
        """Yield the records of all usable files, by name."""
        broken = {one.filename for one in tally.broken}
        for entry in entries:
            if entry.filename not in broken and (file := self._recorded(entry.filename)) is not None:
                yield file

    def close(self) -> None:
        """Commit and close."""
        self._store.commit()
        self._connection.close()
        if self._previous is not None:
            self._previous.close()

    def forget(self) -> None:
        """Remove what the scan that just ended remembered."""
        forget_scan(self._index_path)

    def _recorded(self, filename: str) -> SourceFile | None:
        """Return the newest record of a file."""
        file = self._store.file(filename)
        return file if file is not None or self._previous is None else self._previous.file(filename)


def _open_previous(index_path: Path, reading: str) -> SourceIndex | None:
    try:
        index = SourceIndex(index_path)
    except SourceIndexInvalid:
        return None
    if index.reading_digest == reading:
        return index
    index.close()
    return None


def _open_store(path: Path, reading: str) -> tuple[sqlite3.Connection, FileStore]:
    """Open the memory of an unfinished scan that read pixels the same way, or begin a new one."""
    if path.exists():
        connection = _connect(path)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            store = FileStore(connection)
            if version == SCHEMA_VERSION and store.meta("reading_digest") == reading:
                return connection, store
        except sqlite3.OperationalError:
            connection.close()
            raise  # another scan of the source is using it
        except sqlite3.DatabaseError:
            pass  # not a store, or damaged: it is only a memory, begin again
        connection.close()
        path.unlink()
    connection = _connect(path)
    store = FileStore.create(connection)
    store.set_meta(reading_digest=reading)
    store.commit()
    return connection, store


def _connect(path: Path) -> sqlite3.Connection:
    """Open the memory of a scan for this scan alone."""
    connection = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def _outcomes(
    entries: Sequence[RasterEntry], memory: _Memory, survey: Survey, workers: int
) -> Iterator[tuple[Outcome, bool]]:
    """Yield (outcome, was it known) of every entry, in order, a bounded number of files under way."""
    pending: deque[SourceFile | Future[Outcome]] = deque()
    with _stoppable_pool(workers, survey.stop) as pool:
        for entry in entries:
            pending.append(memory.known(entry) or pool.submit(partial(survey, entry)))
            if len(pending) > _TASKS_PER_WORKER * workers:
                yield _settled(pending.popleft(), memory)
        while pending:
            yield _settled(pending.popleft(), memory)


def _settled(pending: SourceFile | Future[Outcome], memory: _Memory) -> tuple[Outcome, bool]:
    if isinstance(pending, SourceFile):
        return pending, True
    outcome = pending.result()
    if isinstance(outcome, SourceFile):
        memory.keep(outcome)
    return outcome, False


@contextmanager
def _stoppable_pool(workers: int, stop: Callable[[], None]) -> Iterator[ThreadPoolExecutor]:
    """Yield threads that are told to stop, and waited for, when the body ends early."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="scan")
    try:
        yield pool
    finally:
        stop()
        pool.shutdown(cancel_futures=True)
