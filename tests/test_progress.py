"""Progress as values, the forecast that listens to them, and the work that plans predict."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline.aggregate import aggregate, build_sources
from fusi_pipeline.console import progress_line
from fusi_pipeline.contributions import LikelyCopies, TileIndex
from fusi_pipeline.forecast import Forecast
from fusi_pipeline.groups import GroupRule
from fusi_pipeline.plan import BuildOptions, plan_source
from fusi_pipeline.progress import Progress, Work, followed_by
from fusi_pipeline.sources import SourceIndex, read_config
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.workload import BuildLoad, MergeLoad, merge_ahead
from tests.in_process import Workers, settings_in
from tests.rasters import terrain, write

speeds = st.floats(0.05, 20)


def counted(done: int, total: int, stage: str = "build") -> Progress:
    return Progress(stage, done, total, "blocks")


def listened(moments: Iterator[tuple[Progress, float]]) -> list[float | None]:
    forecast = Forecast()
    return [forecast.take(moment, at_s) for moment, at_s in moments]


@given(speeds, st.floats(0, 1000), st.integers(20, 300))
def test_equal_units_take_as_long_as_those_before_whatever_the_start_took(
    unit_s: float, start_s: float, total: int
) -> None:
    moments = ((counted(n, total), n and start_s + n * unit_s) for n in range(total + 1))
    said = listened(moments)
    assert said[0] is None
    for done in range(max(2, total // 10, int(0.5 / unit_s) + 2), total + 1):
        assert said[done] == pytest.approx((total - done) * unit_s, rel=0.05, abs=unit_s)


@given(st.lists(st.floats(0.2, 5), min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_kinds_that_are_dearer_or_cheaper_than_predicted_are_told_apart(
    factors: list[float], random: object
) -> None:
    generator = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    work = generator.random((400, 3)) * (generator.random((400, 3)) < 0.4) + 0.02
    work[200:, 2] *= 3  # what comes later is of another mixture
    done = np.concatenate([np.zeros((1, 3)), np.cumsum(work, axis=0)])
    at_s = done @ np.array(factors)
    total = tuple(done[-1].tolist())
    moments = (
        (Progress("build", n, 400, "blocks", work=Work(tuple(done[n].tolist()), total)), float(at_s[n]))
        for n in range(401)
    )
    said = listened(moments)
    for n in range(60, 400, 20):
        left_s = at_s[-1] - at_s[n]
        assert said[n] == pytest.approx(left_s, rel=0.25, abs=0.02 * at_s[-1])


def test_a_wait_for_space_is_no_work() -> None:
    def moments() -> Iterator[tuple[Progress, float]]:
        for n in range(51):
            yield counted(n, 100), float(n)
        yield Progress("wait", 0, 0, "MiB", note="waiting"), 60.0
        for n in range(51, 101):
            yield counted(n, 100), 5000.0 + n

    said = listened(moments())
    assert said[52] == pytest.approx(49, rel=0.02)
    assert said[-1] == 0


def test_what_comes_after_is_scaled_by_what_was_measured() -> None:
    forecast = Forecast()
    for n in range(11):
        work = Work((0.0, n * 10.0), (0.0, 100.0))
        moment = Progress("build", n, 10, "blocks", work=work, ahead=(("build", 50.0), ("merge", 30.0)))
        left_s = forecast.take(moment, 20.0 * n)
    assert left_s == pytest.approx(2 * 80, rel=0.02)
    begun = Progress(
        "build", 0, 5, "blocks", subject="b", work=Work((0.0, 0.0), (0.0, 50.0)), ahead=(("merge", 30.0),)
    )
    assert forecast.take(begun, 200.0) == pytest.approx(160, rel=0.02)


def test_blocks_that_were_there_already_say_nothing_of_the_others() -> None:
    forecast = Forecast()
    forecast.take(counted(0, 1000), 0.0)
    forecast.take(counted(901, 1000), 3.0)
    for n in range(902, 951):
        left_s = forecast.take(counted(n, 1000), 3.0 + (n - 901) * 2)
    assert left_s == pytest.approx(100, rel=0.02)


def test_a_forecast_says_nothing_of_what_nobody_knows() -> None:
    assert listened(iter([(counted(0, 0), 0.0), (counted(5, 0), 5.0), (counted(9, 0), 9.0)])) == [None] * 3


def test_followed_by_hands_on_moments_results_and_the_end() -> None:
    closed = []

    def work() -> Generator[Progress, None, str]:
        try:
            yield Progress("build", 1, 2, "blocks", ahead=(("pack", 1.0),))
            return "report"
        finally:
            closed.append(True)

    steps = followed_by(work(), (("merge", 5.0),))
    assert next(steps).ahead == (("pack", 1.0), ("merge", 5.0))
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert (end.value.value, closed) == ("report", [True])
    steps = followed_by(work(), ())
    next(steps)
    steps.close()
    assert closed == [True, True]


def test_a_line_says_what_is_left() -> None:
    moment = Progress("build", 3, 10, "blocks", 5_000_000, "dem", ahead=(("merge", 1.0),))
    assert progress_line(moment, 90.0) == "build dem 3/10 blocks, 5.0 MB, 2 min left"
    assert progress_line(Progress("pack", 9, 9, "tiles"), 0.0) == "pack 9/9 tiles"
    assert progress_line(Progress("build", 10, 10, "blocks", ahead=(("merge", 1.0),)), 40.0).endswith(
        "40 s left"
    )


# What plans predict


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two sources: a fine one in four files beside each other, one of them flat, and a coarse one below."""
    folder = tmp_path / "store"
    for number in range(4):
        heights = np.full((300, 300), 7.0) if number == 3 else terrain(300, 300)
        path = folder / "fine" / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, heights, left=7 + 0.3 * number, top=47.0, pixel=0.001)
    (folder / "coarse").mkdir()
    write(folder / "coarse" / "all.tif", terrain(120, 180), left=6.9, top=47.1, pixel=0.01)
    return folder


def seen_of(work: Generator[Progress, None, object]) -> list[Progress]:
    return list(work)


def test_work_grows_with_what_is_done_and_ends_whole(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workers(monkeypatch)
    settings = settings_in(store, tmp_path / "out")
    seen = seen_of(build_sources(["fine"], settings))
    built = [one for one in seen if one.stage == "build" and one.work is not None]
    assert built
    for one, other in pairwise(built):
        assert one.work is not None
        assert other.work is not None
        assert one.work.total == other.work.total
        assert all(a <= b for a, b in zip(one.work.done, other.work.done, strict=True))
    assert built[-1].work is not None
    assert built[-1].work.done == pytest.approx(built[-1].work.total)
    assert built[-1].tiles > built[0].tiles > 0


def test_work_in_groups_is_that_of_the_whole(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workers(monkeypatch)
    at_once = seen_of(build_sources(["fine"], settings_in(store, tmp_path / "a")))
    rule = GroupRule(split="safe", group_blocks=2)
    in_groups = seen_of(build_sources(["fine"], settings_in(store, tmp_path / "b"), None, rule))
    works = [[(one.done, one.work, one.tiles) for one in seen if one.work] for seen in (at_once, in_groups)]
    assert works[0] == works[1]


def test_areas_and_files_make_the_work(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Workers(monkeypatch)
    settings = settings_in(store, tmp_path / "out")
    seen_of(build_sources(["fine"], settings))
    with SourceIndex(settings.index_path("fine")) as index:
        plan = plan_source("fine", read_config(store / "fine"), index, BuildOptions())
        load = BuildLoad(plan, index, 3, 2)
        blocks = len(plan.coordinates)
        work = load.at(blocks + 3)
        assert work.done == work.total
        assert load.seconds() == pytest.approx(sum(work.total))
        assert load.seconds(blocks) == pytest.approx(work.total[3])
        alone = BuildLoad(plan, index, 3, 1)
        assert alone.seconds() == pytest.approx(2 * load.seconds())
        first = load.at(1).done
        load.taken_over([0])
        assert load.at(1).done[:3] == (0, 0, 0)
        assert load.at(1).done[5] == 0
        assert sum(first) > load.at(1).done[4] > 0


def test_what_comes_after_is_told_from_the_first_block_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workers(monkeypatch)
    settings = settings_in(store, tmp_path / "out", workers=1)
    seen = seen_of(aggregate(["fine", "coarse"], tmp_path / "out" / "all.pmtiles", settings))
    ahead = {one.title: [stage for stage, _ in one.ahead] for one in seen if not one.note}
    assert ahead["scan fine"] == ["build", "merge", "pack"]
    assert ahead["build fine"] == ["build", "merge", "pack"]
    assert ahead["build coarse"] == ["merge", "pack"]
    assert ahead["merge"] == ["pack"]
    assert ahead["pack"] == []


def test_a_merge_is_foreseen_from_the_sources(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workers(monkeypatch)
    settings = settings_in(store, tmp_path / "out")
    seen_of(build_sources(["fine", "coarse"], settings))
    with ExitStack() as stack:
        plans = []
        for name in ("fine", "coarse"):
            index = stack.enter_context(SourceIndex(settings.index_path(name)))
            plans.append((plan_source(name, read_config(store / name), index, BuildOptions()), index))
        both = dict(merge_ahead(plans, False, 1))
        alone = dict(merge_ahead(plans[:1], False, 1))
    assert list(both) == ["merge", "pack"]
    assert both["merge"] >= alone["merge"] > 0


def test_the_work_of_a_merge_ends_whole_whatever_was_known_before() -> None:
    load = MergeLoad(30, 20, True, 2)
    load.made(10, 5)
    load.taken_over(15, 10)
    assert all(done < total for done, total in zip(load.work.done, load.work.total, strict=True))
    load.made(5, 5)
    assert load.work.done == load.work.total


def test_copies_are_expected_where_the_first_source_has_all_around() -> None:
    def index(tiles: list[tuple[int, int]]) -> TileIndex:
        keys = np.array(sorted(x << 32 | y for x, y in tiles), dtype=np.uint64)
        return TileIndex({5: (keys, np.zeros(len(keys), "V16"))})

    square = [(x, y) for x in range(4, 9) for y in range(4, 9)]
    below = [(x, y) for x in range(12) for y in range(12)]
    likely = LikelyCopies([index(square), index(below)])
    inner = {(x, y) for x in range(5, 8) for y in range(5, 8)}
    ring = {(x, y) for x in range(1, 11) for y in range(1, 11)} - set(square)
    found = {(x, y) for x in range(12) for y in range(12) if Tile(5, x, y) in likely}
    assert found == inner | ring
    assert (likely.copies, likely.others) == (len(found), 144 - len(found))
    assert Tile(4, 3, 3) not in likely
