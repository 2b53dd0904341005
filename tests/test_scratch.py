"""Nothing is written outside the output's volume and the scratch folder, and a full disk loses nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusi_pipeline import disk_space, workers
from fusi_pipeline.aggregate import aggregate
from fusi_pipeline.disk_space import RoomWatch, check_room, scratch_space
from fusi_pipeline.errors import DiskFull, DiskTooSmall
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles import pmtiles_writer
from fusi_pipeline.tiles.files import free_mib
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from tests import rasters, sandbox
from tests.in_process import Workers, built, settings_in

REPOSITORY = Path(__file__).parent.parent
ARCHIVE = "sources/hills.mbtiles"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("scratch") / "store"
    rasters.write_many(store / "hills", rasters.terrain(400, 500), 2, left=5.0, top=49.0, pixel=0.009)
    return store


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished(settings_in(store, folder, workers=2))
    return folder


def finished(settings: Settings, seen: list[Progress] | None = None) -> None:
    """Aggregate to the end."""
    for moment in aggregate(["hills"], settings.output_dir / "out.pmtiles", settings):
        if seen is not None:
            seen.append(moment)


def digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (ARCHIVE, "out.pmtiles")
    }


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def confined(
    store: Path, output: Path, *more: str, folders: tuple[Path, ...], home: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Aggregate in a process that may write only below `folders`."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FUSI_", "TMPDIR"))}
    env |= {"HOME": str(home), "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(
        [
            sys.executable, str(REPOSITORY / "tests" / "sandbox.py"), *map(str, folders), "--",
            sys.executable, "-m", "fusi_pipeline.cli", "aggregate", "hills",
            "-o", str(output / "out.pmtiles"), "--lineage", str(output / "lineage.pmtiles"),
            "--source-store", str(store), "--output-dir", str(output), "--workers", "2", *more,
        ],
        env=env, cwd=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not sandbox.is_available(), reason="the kernel has no Landlock, version 3")
@pytest.mark.parametrize("own_scratch", [False, True])
def test_a_run_needs_no_other_place_to_write_to(
    store: Path, undisturbed: Path, tmp_path: Path, own_scratch: bool
) -> None:
    """With everything else read-only, the source store, the installation and TMPDIR's default among it."""
    output, home, scratch = (tmp_path / name for name in ("output", "home", "scratch"))
    for folder in (output, home, scratch):
        folder.mkdir()
    folders = (output, scratch) if own_scratch else (output,)
    more = {"TMPDIR": str(scratch)} if own_scratch else {}
    split = ("--split", "fast") if own_scratch else ()
    run = confined(store, output, *split, folders=folders, home=home, **more)
    assert run.returncode == 0, run.stderr
    assert digests(output)[ARCHIVE] == digests(undisturbed)[ARCHIVE]
    assert not files(home)
    assert not files(scratch), "nothing is left behind"
    assert "tmp" not in files(output)


@pytest.mark.skipif(not sandbox.is_available(), reason="the kernel has no Landlock, version 3")
def test_what_is_outside_cannot_be_written_to_in_that_test(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    for folder, worked in ((inside, True), (outside, False)):
        words = [sys.executable, sandbox.__file__, str(inside), "--", "/bin/touch", str(folder / "file")]
        done = subprocess.run(words, capture_output=True, check=False, env={"PYTHONPATH": str(REPOSITORY)})
        assert (done.returncode == 0) == worked == (folder / "file").exists()


def test_a_socket_has_a_place_below_a_long_path(tmp_path: Path, store: Path) -> None:
    output = tmp_path / ("long" * 15) / ("longer" * 10)
    assert len(str(output)) > 108
    words = [
        sys.executable, "-m", "fusi_pipeline.cli", "build", "hills", "--source-store", str(store),
        "--output-dir", str(output), "--max-zoom", "5",
    ]  # fmt: skip
    run = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert files(output) == ["sources", ARCHIVE.replace("mbtiles", "index.db"), ARCHIVE]


def test_sqlite_uses_the_scratch_folder(tmp_path: Path, store: Path) -> None:
    settings = settings_in(store, tmp_path)
    opened: list[str] = []
    with scratch_space(settings) as folder:
        with sqlite3.connect(":memory:") as connection:
            connection.execute("PRAGMA cache_size = 10")
            connection.execute(
                "CREATE TEMP TABLE t AS WITH RECURSIVE c(x) AS"
                " (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 20000)"
                " SELECT x, hex(randomblob(200)) FROM c"
            )
            descriptors = Path("/proc/self/fd")
            if descriptors.is_dir():
                opened = [str(one.readlink()) for one in descriptors.iterdir() if one.is_symlink()]
                assert any(name.startswith(str(folder)) for name in opened)
        connection.close()
    with sqlite3.connect(":memory:") as connection:
        assert not connection.execute("PRAGMA temp_store_directory").fetchone()
    connection.close()
    assert not folder.exists()


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Workers:
    return Workers(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let time pass at once where a run waits, and do something when it has."""
    now, hooks = [0.0], []

    def sleep(seconds: float) -> None:
        now[0] += seconds
        for hook in hooks:
            hook()

    monkeypatch.setattr(disk_space, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now[0]))
    return hooks.append


class Disk:
    """A database that may not grow beyond some pages, as on a full disk; SQLite itself says so."""

    def __init__(self, patched: pytest.MonkeyPatch, pages: int) -> None:
        self.pages: int | None = pages
        self.free = 7
        original = MBTilesWriter._open

        def opened(writer: MBTilesWriter) -> sqlite3.Connection:
            connection = original(writer)
            if self.pages is not None:
                connection.execute(f"PRAGMA max_page_count = {self.pages}")
            return connection

        patched.setattr(MBTilesWriter, "_open", opened)
        patched.setattr(disk_space, "free_mib", lambda _: self.free)

    def grow(self) -> None:
        self.pages, self.free = None, 5000


def pages_of(folder: Path, share: float) -> int:
    """Return how many pages a share of the finished archive has."""
    return int(share * (folder / ARCHIVE).stat().st_size) // 16384


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_a_full_disk_ends_the_run_in_one_line_and_it_goes_on_later(
    store: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: Workers,
    share: float,
) -> None:
    disk = Disk(monkeypatch, pages_of(undisturbed, share))
    settings = settings_in(store, tmp_path)
    with pytest.raises(DiskFull, match="the disk is full"):
        built(settings, "hills")
    made = len(in_process.made)
    disk.grow()
    in_process.made.clear()
    (report,) = built(settings, "hills")
    assert report.resumed >= made - 1
    assert digests_of_archive(tmp_path) == digests_of_archive(undisturbed)


def digests_of_archive(folder: Path) -> str:
    return hashlib.sha256((folder / ARCHIVE).read_bytes()).hexdigest()


def test_a_full_disk_is_waited_for_with_a_line_per_interval(
    store: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_process: Workers,
    clock: Callable[[Callable[[], None]], None],
) -> None:
    disk, waits = Disk(monkeypatch, pages_of(undisturbed, 0.5)), []

    def pass_time() -> None:
        waits.append(1)
        if len(waits) == 30:  # of 2 s each
            disk.grow()

    clock(pass_time)
    seen: list[Progress] = []
    settings = settings_in(store, tmp_path, on_disk_full="wait")
    built(settings, "hills", seen=seen)
    notes = [one.note for one in seen if one.note and one.stage == "wait"]
    assert len(notes) == 7, f"six lines for a minute, and one at the end: {notes}"
    assert all("the disk is full" in note and "waiting until 8 MiB are free" in note for note in notes[:-1])
    assert "5000 MiB free; going on" in notes[-1]
    assert digests_of_archive(tmp_path) == digests_of_archive(undisturbed)


def test_a_disk_that_fills_while_packing_is_waited_for(
    store: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Callable[[Callable[[], None]], None],
) -> None:
    free = [3]
    monkeypatch.setattr(disk_space, "free_mib", lambda _: free[0])
    clock(lambda: free.__setitem__(0, 100))
    original = pmtiles_writer.PMTilesWriter.write

    def write(self: Any, *tile: Any) -> None:
        if free[0] < 100 and self.tiles_written == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, *tile)

    monkeypatch.setattr(pmtiles_writer.PMTilesWriter, "write", write)
    seen: list[Progress] = []
    with pytest.raises(DiskFull):
        finished(settings_in(store, tmp_path, workers=1))
    assert not (tmp_path / "out.pmtiles").exists()
    finished(settings_in(store, tmp_path, workers=1, on_disk_full="wait"), seen)
    assert any("waiting until 4 MiB" in one.note for one in seen)
    assert digests(tmp_path) == digests(undisturbed)


def test_what_cannot_fit_is_refused_before_anything_is_made(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    clock: Callable[[Callable[[], None]], None],
) -> None:
    free = [10]
    monkeypatch.setattr(disk_space, "free_mib", lambda _: free[0])
    settings = settings_in(store, tmp_path)
    path = tmp_path / "x.mbtiles"
    mib = 1 << 20
    with pytest.raises(DiskTooSmall, match=r"10 MiB free.*about 100 MiB.*--on-disk-full wait"):
        list(check_room(path, 100 * mib, settings))
    (note,) = check_room(path, 30 * mib, settings)
    assert "about 30 MiB are to be written, 10 MiB are free" in note.note
    assert not list(check_room(path, 9 * mib, settings))
    clock(lambda: free.__setitem__(0, free[0] + 5))
    notes = [one.note for one in check_room(path, 100 * mib, settings.with_options(on_disk_full="wait"))]
    assert "waiting until 25 MiB" in notes[0]
    assert "25 MiB free; going on" in notes[-1]


def test_a_run_says_once_that_the_rest_will_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_mib", lambda _: 100)
    roomy, tight = RoomWatch(tmp_path, 300), RoomWatch(tmp_path, 300)
    assert not [note for done in range(1, 301) for note in roomy.wrote(done, 400 << 10)]
    notes = [note.note for done in range(1, 301) for note in tight.wrote(done, 1 << 20)]
    assert notes == [
        f"{tmp_path}: at the present rate about 236 MiB are still to be written, 100 MiB are free"
    ]


def test_free_space_is_that_of_the_volume_a_path_will_be_on(tmp_path: Path) -> None:
    assert abs(free_mib(tmp_path / "not" / "there") - free_mib(tmp_path)) < 1024


def test_a_worker_pool_makes_its_scratch_folder(tmp_path: Path) -> None:
    environment = {"TMPDIR": str(tmp_path / "a" / "b")}
    with workers.process_pool(1, "tests.pool_tasks", None, environment) as pool:
        assert (tmp_path / "a" / "b").is_dir()
        assert pool.submit(abs, -3).result() == 3
