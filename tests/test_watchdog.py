"""Workers that die or take too much: others go on, their tasks are tried again and in parts, then named."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline import block_worker, machine_memory, worker_pool
from fusi_pipeline.aggregate import index_source
from fusi_pipeline.block_parts import join_of, parts_of
from fusi_pipeline.build_run import BuildRun
from fusi_pipeline.errors import FusiError, SeveralUnfinished, WorkerLost, WorkUnfinished
from fusi_pipeline.merge_cells import quarters, together
from fusi_pipeline.plan import BuildOptions, plan_source
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import settings_from
from fusi_pipeline.sources import SourceIndex, read_config
from fusi_pipeline.tasks import MergeTask, TileTask
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.watchdog import Limits, Watched
from fusi_pipeline.worker_pool import WorkerPool, _Allowance
from fusi_pipeline.workers import Lost, Smaller, in_order, process_pool
from tests import rasters
from tests.command import Fusi, fusi  # noqa: F401
from tests.in_process import Workers, built, settings_in

TASKS = "tests.pool_tasks"
ARCHIVE = "sources/hills.mbtiles"


@contextmanager
def pool(
    place: Path, workers: int = 2, context: object = None, **limits: float | None
) -> Iterator[WorkerPool]:
    environment = dict.fromkeys(("TMPDIR", "SQLITE_TMPDIR", "CPL_TMPDIR"), str(place / "tmp"))
    with process_pool(workers, TASKS, context, environment, Limits(**limits)) as one:  # type: ignore[arg-type]
        yield one


def answers(
    one: WorkerPool, function: str, tasks: Sequence[object], smaller: Smaller | None = None, window: int = 4
) -> list[object]:
    """Return the answers to tasks, Lost among them."""
    work = in_order(
        one, f"{TASKS}:{function}", ((task, True) for task in tasks), window, smaller=smaller, keep_going=True
    )
    return [answer for _, answer in work]


def halves(function: str, least: float) -> Smaller:
    """Return how numbers are worked on in two halves, down to a least one."""
    return Smaller(
        parts=lambda number: [number / 2, number / 2] if number > least else [],
        work=f"{TASKS}:{function}",
        joined=lambda _, parts: sum(parts),
    )


def test_answers_come_in_order_and_nothing_is_left_running(tmp_path: Path) -> None:
    with pool(tmp_path) as one:
        assert answers(one, "twice", range(50)) == [2 * number for number in range(50)]
        pids = one.pids
    assert 1 <= len(pids) <= 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not one.notes


def test_what_a_task_raises_is_raised_and_the_worker_stays(tmp_path: Path) -> None:
    with pool(tmp_path, 1) as one:
        with pytest.raises(FusiError, match="it is so"):
            answers(one, "fail", ["it is so"])
        with pytest.raises(RuntimeError, match="pickle"):
            answers(one, "unpicklable", [1])
        assert len(set(answers(one, "process_id", range(3)))) == 1


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(FusiError, match="it cannot begin"), pool(tmp_path, 1, "broken") as one:
        answers(one, "twice", [1])


def test_a_worker_that_is_killed_costs_a_second_attempt(tmp_path: Path) -> None:
    with pool(tmp_path) as one:
        marks = [str(tmp_path / f"mark {number}") for number in range(3)]
        assert answers(one, "end_once", marks) == ["done"] * 3
        assert len(one.notes) == 3
        assert all("killed by signal 9" in note and "tried again" in note for note in one.notes)


def test_what_ends_every_worker_is_lost_and_the_others_are_done(tmp_path: Path) -> None:
    with pool(tmp_path) as one:
        lost, *_ = found = answers(one, "end", [3])
        assert found == [Lost("3", "ended with code 3")]
        assert isinstance(lost, Lost)
        assert answers(one, "twice", [1, 2]) == [2, 4]
        with pytest.raises(WorkerLost, match="ended with code 3"):
            list(in_order(one, f"{TASKS}:end", [(3, True)], 1))


def test_a_worker_that_takes_too_long_is_ended_and_its_task_done_in_parts(tmp_path: Path) -> None:
    with pool(tmp_path, time_s=0.8) as one:
        began = time.monotonic()
        found = answers(one, "sleep", [0.1, 1.2, 0.1, 60.0], halves("sleep", 1.0))
        assert found[:3] == [0.1, pytest.approx(1.2), 0.1]
        assert found[3] == Lost("60.0", "was ended after 0.8 s (--watchdog-time-seconds)")
        assert time.monotonic() - began < 50, "nobody waited for what takes a minute"


@pytest.mark.parametrize("function", ["take", "take_below"])
def test_a_worker_that_takes_too_much_memory_is_ended_with_all_below_it(
    tmp_path: Path, function: str
) -> None:
    with pool(tmp_path, 1, memory_mib=180) as one:
        (lost,) = answers(one, function, [400])
        assert isinstance(lost, Lost)
        assert "--watchdog-memory-mb 180" in lost.reason
        assert answers(one, "take", [20]) == [20]
    if function == "take":
        with pool(tmp_path, 1, memory_mib=180) as one:
            smaller = replace(halves("take", 100), parts=lambda _: [60, 60])
            assert answers(one, "take", [300], smaller) == [120]


def test_memory_is_that_of_the_process_and_those_below_it() -> None:
    own = Watched(os.getpid()).memory_mib(0.0, 1 << 40)
    assert abs(own - (psutil.Process().memory_info().rss >> 20)) <= 30
    alone = Watched(os.getpid()).memory_mib(0.0, 0)
    assert 0 < alone <= own + 30
    assert Watched(2**22 - 3).memory_mib(0.0, 0) == 0, "a process that is gone takes nothing"


def test_where_memory_runs_low_there_are_fewer_workers_and_then_more_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = [10_000]
    monkeypatch.setattr(worker_pool, "machine_available_mib", lambda: available[0])
    monkeypatch.setattr(worker_pool, "_CALM_S", 0.5)
    monkeypatch.setattr(worker_pool, "_LOWER_S", 0.2)
    monkeypatch.setattr(worker_pool, "_IDLE_S", 0.1)

    def number_of_workers(wanted: int, one: WorkerPool) -> set[object]:
        until = time.monotonic() + 60
        seen: set[object] = set()
        while time.monotonic() < until:
            seen = set(answers(one, "process_id", range(8), window=8))
            if len(one.pids) == wanted:
                return seen
        raise AssertionError(f"{len(one.pids)} workers, not {wanted}")

    with pool(tmp_path, 3, floor_mib=1000) as one:
        number_of_workers(3, one)
        available[0] = 900
        number_of_workers(1, one)
        available[0] = 400  # so little that nobody would be waited for; the last worker stays
        number_of_workers(1, one)
        available[0] = 10_000
        number_of_workers(3, one)
        text = "\n".join(one.notes)
    assert "less than 1000 MiB (--memory-floor-mb): 2 of 3 workers" in text
    assert "available again: 3 of 3 workers" in text
    assert "tried again" not in text, "who has to go finishes, or its task is handed on"


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.integers(0, 3000), st.floats(0.1, 60)), max_size=40),
    st.integers(0, 1500),
)
def test_the_number_of_workers_follows_memory_and_never_leaves_its_bounds(
    most: int, course: list[tuple[int, float]], floor: int
) -> None:
    allowance, now = _Allowance(most, floor), 1000.0
    for available, pause in course:
        now += pause
        before = allowance.allowed
        change = allowance.judge(available, 300, now)
        assert allowance.allowed == before + change
        assert 1 <= allowance.allowed <= most
        assert change >= 0 or available < floor
        assert change <= 0 or available >= floor + 300


def cgroup(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")


STAT = "anon 1\nactive_file {0}\ninactive_file {1}\nfile_mapped {2}\nfile_dirty 0\nfile_writeback 0"


def test_a_limit_of_a_container_counts_wherever_it_stands(tmp_path: Path) -> None:
    mib = 1 << 20
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("0::/outer/inner\n")
    machine = machine_memory.total_mib(root, membership)
    cgroup(root / "outer" / "inner", {"memory.max": "max", "memory.current": f"{90 * mib}"})
    assert machine_memory.total_mib(root, membership) == machine
    stat = STAT.format(20 * mib, 30 * mib, 10 * mib)
    files = {"memory.max": f"{200 * mib}", "memory.current": f"{150 * mib}", "memory.stat": stat}
    cgroup(root / "outer", files)
    assert machine_memory.total_mib(root, membership) == 200
    assert machine_memory.available_mib(root, membership) == 200 - 150 + 20 + 30 - 10
    cgroup(
        root / "outer" / "inner", {**files, "memory.max": f"{120 * mib}", "memory.current": f"{400 * mib}"}
    )
    assert machine_memory.available_mib(root, membership) == 0


def test_a_limit_of_the_first_version_counts_too(tmp_path: Path) -> None:
    mib = 1 << 20
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("5:cpu,memory:/job\n0::/\n3:devices:/x\n")
    files = {"memory.usage_in_bytes": f"{60 * mib}", "memory.stat": f"total_inactive_file {15 * mib}"}
    cgroup(root / "memory" / "job", {**files, "memory.limit_in_bytes": f"{100 * mib}"})
    cgroup(root / "memory", {**files, "memory.limit_in_bytes": str(2**63 - 4096)})
    assert machine_memory.total_mib(root, membership) == 100
    assert machine_memory.available_mib(root, membership) == 100 - 60 + 15


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources of a few blocks: with a hole, of two pixel grids in two CRSs, and fine under a coarse zoom."""
    store = tmp_path_factory.mktemp("watchdog") / "store"
    heights, absent = rasters.terrain(500, 700), rasters.hole(500, 700, share=0.3)
    rasters.write_many(
        store / "hills", np.where(absent, -9999, heights), 2, left=5.0, top=49.0, pixel=0.009, nodata=-9999
    )
    rasters.write(store / "two" / "a.tif", rasters.terrain(300, 300), left=7.0, top=47.0, pixel=0.004)
    rasters.write(
        store / "two" / "b.tif", rasters.cone(400, 400), crs="EPSG:32632",
        left=480_000, top=5_180_000, pixel=250, nodata=-1, absent=rasters.hole(400, 400, share=0.1),
    )  # fmt: skip
    return store


@pytest.mark.parametrize(
    ("name", "options", "resampling"),
    [
        ("hills", BuildOptions(), "bilinear"),
        ("hills", BuildOptions(bbox=Bounds(6.3, 46.2, 8.9, 47.7)), "cubic"),
        ("two", BuildOptions(), "nearest"),
        ("two", BuildOptions(), "bilinear"),
        ("two", BuildOptions(minzoom=7), "cubicspline"),
        ("two", BuildOptions(maxzoom=5), "bilinear"),
        ("hills", BuildOptions(maxzoom=1), "bilinear"),
        ("hills", BuildOptions(maxzoom=0), "bilinear"),
    ],
)
def test_a_block_in_quarters_is_the_block(
    store: Path, tmp_path: Path, name: str, options: BuildOptions, resampling: str
) -> None:
    """Tiles, their order, the ledger row and what is left for the zooms above, to the last bit."""
    settings = settings_in(store, tmp_path)
    list(index_source(name, settings))
    config = replace(read_config(store / name), resampling=resampling)
    with SourceIndex(settings.index_path(name)) as index:
        plan = plan_source(name, config, index, options)
        run = BuildRun(plan, index, store / name, tmp_path / "x.mbtiles", settings, False)
        block_worker.start(run._context())
        for block in list(plan.blocks(index))[:4]:
            parts = [block_worker.build_part(part) for part in parts_of(block)]
            assert block_worker.build_joined(join_of(block, parts)) == block_worker.build_block(block)


def test_a_quarter_reads_less_than_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = grid.xy_bounds(Tile(5, 16, 10))
    pixel = (box.right - box.left) / 1200
    folder = tmp_path / "store" / "whole"
    rasters.write(
        folder / "a.tif",
        rasters.terrain(1200, 1200),
        crs="EPSG:3857",
        left=box.left,
        top=box.top,
        pixel=pixel,
    )
    settings = settings_in(tmp_path / "store", tmp_path)
    list(index_source("whole", settings))
    with SourceIndex(settings.index_path("whole")) as index:
        plan = plan_source("whole", read_config(folder), index, BuildOptions(maxzoom=7))
        run = BuildRun(plan, index, folder, tmp_path / "x.mbtiles", settings, False)
        block_worker.start(run._context())
        read: list[int] = []
        original = block_worker.warp.Datasets.read

        def counted(self, file, window, parameters):  # type: ignore[no-untyped-def]
            read.append(window.width * window.height)
            return original(self, file, window, parameters)

        def pixels_read(work: Callable[[Any], object], task: object) -> int:
            read.clear()
            work(task)
            return sum(read)

        monkeypatch.setattr(block_worker.warp.Datasets, "read", counted)
        block = next(one for one in plan.blocks(index) if one.tile == Tile(5, 16, 10))
        whole = pixels_read(block_worker.build_block, block)
        parts = [pixels_read(block_worker.build_part, part) for part in parts_of(block)]
        assert max(parts) < 0.3 * whole
        assert sum(parts) >= whole


@given(st.integers(1, 80))
def test_a_cell_of_a_merge_in_quarters_has_its_tiles_in_order(count: int) -> None:
    tiles = tuple(TileTask(Tile(9, number, 0), (), True, True) for number in range(count))
    parts = quarters(MergeTask(Tile(6, 0, 0), tiles))
    assert len(parts) in (0, 2, 3, 4)
    assert (len(parts) == 0) == (count == 1)
    assert all(len(part.tiles) <= -(-count // 4) or count < 4 for part in parts)
    if parts:
        assert together(None, [part.tiles for part in parts]) == tiles  # type: ignore[arg-type]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    return Workers(monkeypatch)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / ARCHIVE).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    built(settings_in(store, folder, workers=2), "hills")
    return folder


@pytest.mark.parametrize("seed", range(6))
def test_blocks_that_cannot_be_made_hold_up_only_what_is_above_them(
    store: Path, undisturbed: Path, tmp_path: Path, workers: Workers, seed: int
) -> None:
    """Run after run other blocks fail; each makes what the one before could not, and nothing twice."""
    chance = np.random.default_rng(seed)
    settings = settings_in(store, tmp_path)
    made: set[str] = set()
    for share in (0.5, 0.4, 0.2, 0.1):
        workers.lost = lambda task, share=share: chance.random() < share
        workers.made.clear()
        with suppress(WorkUnfinished):
            built(settings, "hills")
        assert not made & set(workers.made)
        made |= set(workers.made)
        if (tmp_path / ARCHIVE).exists():
            break
    workers.lost = lambda _: False
    workers.made.clear()
    (report,) = built(settings, "hills")
    assert len(made | set(workers.made)) == report.blocks
    assert digest(tmp_path) == digest(undisturbed)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        path.name for path in undisturbed.rglob("*") if path.is_file()
    )


def test_what_waits_behind_a_gap_is_not_taken_for_what_another_plan_wants(
    store: Path, tmp_path: Path, workers: Workers
) -> None:
    settings = settings_in(store, tmp_path / "a")
    workers.lost = lambda task: len(workers.made) == 1
    with pytest.raises(WorkUnfinished):
        built(settings, "hills")
    other = BuildOptions(maxzoom=7)
    workers.lost = lambda task: len(workers.made) % 3 == 2
    with pytest.raises(WorkUnfinished):
        built(settings, "hills", options=other)
    workers.lost = lambda _: False
    built(settings, "hills", options=other)
    clean = settings_in(store, tmp_path / "b")
    built(clean, "hills", options=other)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_source_that_is_not_finished_does_not_hold_up_the_next(
    store: Path, tmp_path: Path, workers: Workers
) -> None:
    settings = settings_in(store, tmp_path)
    workers.lost = lambda task: bool(task.tile == Tile(5, 16, 10))
    with pytest.raises(WorkUnfinished, match=r"'hills': 1 blocks.*, 5 wait for them: block 5/16/10"):
        built(settings, "hills", "two")
    assert not (tmp_path / ARCHIVE).exists()
    assert (tmp_path / "sources" / "two.mbtiles").exists()
    workers.lost = lambda _: True
    with pytest.raises(SeveralUnfinished, match=r"(?s)'hills'.*'two'"):
        built(settings, "hills", "two", anew=True)


def test_a_command_over_its_limits_names_the_blocks_and_one_within_them_goes_on(
    fusi: Fusi,  # noqa: F811
    store: Path,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real workers: every block is too long for the limit, then as quarters within it."""
    words = ("build", "hills", "--source-store", store, "--output-dir", tmp_path, "--workers", 2)
    refused = fusi(*words, "--watchdog-memory-mb", 1, "--progress-interval", 0)
    assert refused.code == 1
    assert "blocks could not be made" in refused.said[-1]
    assert "block 6/" in refused.said[-1] or "block 5/" in refused.said[-1]
    assert not (tmp_path / ARCHIVE).exists()
    monkeypatch.setenv("FUSI_IO_SLEEP_MS", "8000")
    answer = fusi(*words, "--watchdog-time-seconds", 6)
    assert answer.code == 0, answer.err
    assert any("tried again in 4 parts" in line for line in answer.said)
    assert digest(tmp_path) == digest(undisturbed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FUSI_WATCHDOG_MEMORY_MB", "0"),
        ("FUSI_WATCHDOG_TIME_SECONDS", "-1"),
        ("FUSI_MEMORY_FLOOR_MB", "low"),
        ("FUSI_ON_DISK_FULL", "go on"),
    ],
)
def test_a_bad_setting_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(FusiError, match=name):
        settings_from({name: value})


def test_settings_become_limits() -> None:
    given = {
        "FUSI_WATCHDOG_MEMORY_MB": "700",
        "FUSI_WATCHDOG_TIME_SECONDS": "90.5",
        "FUSI_MEMORY_FLOOR_MB": "0",
    }
    assert settings_from(given).limits == Limits(memory_mib=700, time_s=90.5, floor_mib=0)
    assert settings_from({}).limits == Limits()
    assert 64 <= Limits().floor <= 1024


def test_notes_are_lines_of_a_run(store: Path, tmp_path: Path, workers: Workers) -> None:
    seen: list[Progress] = []
    built(settings_in(store, tmp_path), "hills", seen=seen)
    assert not [one for one in seen if one.note]
