"""Groups: any cut of a plan gives the archive of an uncut run, from wherever it goes on."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline.errors import FusiError, UsageError, WorkUnfinished
from fusi_pipeline.groups import PATTERNS, GroupRule, check_split, grouped
from fusi_pipeline.plan import SourcePlan
from fusi_pipeline.progress import Progress
from fusi_pipeline.sources import SourceConfig
from tests import rasters
from tests.command import Fusi, fusi  # noqa: F401
from tests.in_process import Workers, built, settings_in

ARCHIVE = "sources/hills.mbtiles"


def plan(columns: int, rows: int, minzoom: int, block_zoom: int, maxzoom: int) -> SourcePlan:
    """Return a plan of a rectangle of blocks."""
    y, x = np.mgrid[5 : 5 + rows, 7 : 7 + columns]
    return SourcePlan(
        name="hills",
        config=SourceConfig(name="hills"),
        minzoom=minzoom,
        maxzoom=maxzoom,
        block_zoom=block_zoom,
        bbox=None,
        averaged=frozenset(),
        coordinates=np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64),
        margin_m=0.0,
    )


@st.composite
def ranges(draw: st.DrawFn) -> str:
    """Return ranges of zooms that cover 0..16, in any order."""
    cuts = sorted(draw(st.sets(st.integers(1, 16), max_size=6)) | {0, 17})
    parts = [f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in pairwise(cuts)]
    return ",".join(draw(st.permutations(parts)))


@given(
    st.sampled_from(sorted(PATTERNS)) | ranges(),
    st.none() | st.integers(1, 50),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(0, 16),
    st.integers(0, 2),
)
def test_groups_are_the_whole_plan_in_its_order(
    split: str, size: int | None, columns: int, rows: int, minzoom: int, levels: int
) -> None:
    one = plan(columns, rows, min(minzoom, 14), 14 - levels, 14)
    groups = grouped(one, GroupRule(split=split, group_blocks=size), 4)
    assert [group.number for group in groups] == list(range(4, 4 + len(groups)))
    assert groups[0].start == 0
    assert all(before.stop == after.start for before, after in pairwise(groups))
    assert all(group.stop > group.start and group.minzoom <= group.maxzoom for group in groups)
    if split != "single":
        assert all(before.minzoom >= after.minzoom for before, after in pairwise(groups))
    in_blocks = [group for group in groups if group.maxzoom == 14]
    assert sum(group.stop - group.start for group in in_blocks) >= columns * rows
    if size is not None:
        assert all(group.stop - group.start <= size for group in in_blocks)


@pytest.mark.parametrize(
    ("split", "zooms"),
    [
        ("0-12,13-15,16", [(14, 16), (13, 13), (0, 12)]),
        ("16,15,14,13,0-12", [(14, 16), (13, 13), (0, 12)]),
        ("0-16", [(14, 16), (0, 13)]),
        ("0-5,6-30", [(14, 16), (6, 13), (0, 5)]),
        ("fast", [(14, 16), (0, 13)]),
        ("safe", [(14, 16), (11, 13), (8, 10), (5, 7), (2, 4), (0, 1)]),
        ("incremental", [(14, 16), *((z, z) for z in range(13, -1, -1))]),
        ("single", [(0, 16)]),
    ],
)
def test_zooms_above_the_blocks_are_cut_as_asked_for(split: str, zooms: list[tuple[int, int]]) -> None:
    groups = grouped(plan(4, 4, 0, 14, 16), GroupRule(split=split))
    assert [(group.minzoom, group.maxzoom) for group in groups] == zooms


def test_safe_groups_are_no_larger_than_balanced_ones() -> None:
    one = plan(100, 100, 0, 12, 14)
    largest = {
        name: max(
            group.stop - group.start
            for group in grouped(one, GroupRule(split=name))
            if group.maxzoom == one.maxzoom
        )
        for name in PATTERNS
    }
    assert largest["safe"] <= 256 < largest["balanced"] <= 4096 < largest["fast"]


@pytest.mark.parametrize("text", ["quick", "", "1-", "3-1", "0-5,5-9", "0-5;6-9", "0-100", "-3"])
def test_what_is_no_way_to_split_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="--split"):
        check_split(text)


def test_ranges_have_to_cover_the_zooms_of_the_source() -> None:
    with pytest.raises(UsageError, match=r"zoom 13 of source 'hills'.*in no range"):
        grouped(plan(4, 4, 0, 14, 16), GroupRule(split="0-12,14-16"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of a dozen blocks at zoom 6, with a hole, and a small one."""
    store = tmp_path_factory.mktemp("groups") / "store"
    heights, absent = rasters.terrain(500, 700), rasters.hole(500, 700, share=0.3)
    rasters.write_many(
        store / "hills", np.where(absent, -9999, heights), 2, left=5.0, top=49.0, pixel=0.009, nodata=-9999
    )
    rasters.write(store / "plain" / "a.tif", rasters.plane(40, 40), left=7.0, top=45.0, pixel=0.05)
    return store


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    return Workers(monkeypatch)


def digest(folder: Path, name: str = ARCHIVE) -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uncut(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uncut run, made by worker processes."""
    folder = tmp_path_factory.mktemp("uncut")
    built(settings_in(store, folder, workers=2), "hills")
    return folder


@pytest.mark.parametrize("split", [*PATTERNS, "0-2,3-4,5-30", "0-1,2-3,4-7,8"])
@pytest.mark.parametrize("size", [None, 2])
def test_in_groups_the_bytes_are_those_of_an_uncut_run(
    store: Path, uncut: Path, tmp_path: Path, workers: Workers, split: str, size: int | None
) -> None:
    settings = settings_in(store, tmp_path)
    (report,) = built(settings, "hills", rule=GroupRule(split=split, group_blocks=size))
    assert digest(tmp_path) == digest(uncut)
    assert report.built == report.blocks
    assert workers.groups == list(range(1, len(workers.groups) + 1))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_run_again_goes_on_at_the_first_unfinished_group(
    store: Path, uncut: Path, tmp_path: Path, workers: Workers, after: int
) -> None:
    rule = GroupRule(split="safe", group_blocks=2)
    settings = settings_in(store, tmp_path)

    class EndError(FusiError):
        """The run is ended."""

    def end(_: object) -> bool:
        if len(workers.groups) == after:
            raise EndError
        return False

    workers.lost = end
    with pytest.raises(EndError):
        built(settings, "hills", rule=rule)
    workers.lost = lambda _: False
    workers.groups.clear()
    (report,) = built(settings, "hills", rule=replace(rule, resume_from=after))
    assert workers.groups[0] == after
    assert report.resumed + report.built == report.blocks
    assert digest(tmp_path) == digest(uncut)


def test_groups_count_through_all_sources_and_one_that_is_not_finished_cannot_be_passed_over(
    store: Path, tmp_path: Path, workers: Workers
) -> None:
    settings = settings_in(store, tmp_path)
    rule = GroupRule(split="fast", group_blocks=6)
    with pytest.raises(UsageError, match=r"--resume-from 2: group 1 .*not finished"):
        built(settings, "hills", "plain", rule=replace(rule, resume_from=2))
    with pytest.raises(UsageError, match="--resume-from 99: there are"):
        built(settings, "hills", "plain", rule=replace(rule, resume_from=99))
    assert not workers.groups
    built(settings, "hills", "plain", rule=rule)
    assert workers.groups == list(range(1, len(workers.groups) + 1))
    workers.groups.clear()
    built(settings, "hills", "plain", rule=rule)
    assert not workers.groups, "what is finished is not begun again"


def test_other_groups_are_run_where_one_has_a_block_that_cannot_be_made(
    store: Path, uncut: Path, tmp_path: Path, workers: Workers
) -> None:
    rule = GroupRule(split="safe", group_blocks=2)
    settings = settings_in(store, tmp_path)
    workers.lost = lambda task: str(task).startswith("block") and len(workers.made) == 3
    with pytest.raises(WorkUnfinished, match="'hills'") as caught:
        built(settings, "hills", rule=rule)
    assert caught.value.lost
    ran, workers.lost = set(workers.groups), lambda _: False
    assert max(ran) > 3, "the others were run to the end"
    workers.made.clear()
    built(settings, "hills", rule=rule)
    assert len(workers.made) == len(caught.value.lost) + caught.value.held_back
    assert digest(tmp_path) == digest(uncut)
    assert not list(tmp_path.rglob("*.partial"))


def test_progress_counts_through_the_groups(store: Path, tmp_path: Path, workers: Workers) -> None:
    seen: list[Progress] = []
    (report,) = built(settings_in(store, tmp_path), "hills", rule=GroupRule(split="safe"), seen=seen)
    steps = [one for one in seen if one.stage == "build" and not one.note and one.done]
    assert [one.done for one in steps] == list(range(1, report.blocks + 1))
    assert steps[-1].bytes_written == report.bytes
    assert sum("begins" in one.note for one in seen) == len(workers.groups)


def test_plan_says_what_each_group_will_take(fusi: Fusi, store: Path, tmp_path: Path) -> None:  # noqa: F811
    place = ("--source-store", store, "--output-dir", tmp_path)
    whole = fusi("plan", "hills", "plain", *place, "--json").json
    cut = fusi("plan", "--split", "hills", "plain", *place, "--group-blocks", 4, "--json").json
    assert [one["groups"] for one in whole] == [[], []]
    groups = [group for one in cut for group in one["groups"]]
    assert [group["number"] for group in groups] == list(range(1, len(groups) + 1))
    for before, after in zip(whole, cut, strict=True):
        assert sum(group["tiles"] for group in after["groups"]) == before["tiles"]
        assert sum(group["bytes"] for group in after["groups"]) == before["bytes"]
        assert after["memory_mib"] > before["memory_mib"], "the group has a process of its own"
    table = fusi("plan", "hills", *place, "--split", "0-4,5-30").out
    assert "group" in table
    assert fusi("plan", "--split", *place).code == 2
    refused = fusi("plan", "hills", *place, "--split", "0-3")
    assert refused.code == 2
    assert "in no range" in refused.err


def test_the_command_killed_between_groups_ends_with_the_same_bytes(
    store: Path, uncut: Path, tmp_path: Path
) -> None:
    """Real processes: the run, or a group of it, is killed, and the same command goes on."""
    words = [
        sys.executable, "-m", "fusi_pipeline.cli", "build", "hills", "--source-store", str(store),
        "--output-dir", str(tmp_path), "--split", "0-2,3-5,6-9", "--group-blocks", "5",
        "--progress-interval", "0", "--workers", "1",
    ]  # fmt: skip
    env = {key: value for key, value in os.environ.items() if not key.startswith(("FUSI_", "TMPDIR"))}
    chance = random.Random(3)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        count = chance.randint(1, 4)
        for line in process.stderr:
            count -= line.startswith("build hills ")
            if not count:
                break
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(below, timeout=30)[1], "left running"
    killed = False
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if not killed and line.startswith("build hills ") and "begins" in "".join(said):
                (group,) = (
                    one
                    for one in psutil.Process(process.pid).children()
                    if "spawn_main" in " ".join(one.cmdline())
                )
                group.kill()
                killed = True
    assert process.returncode == 0, said
    assert any("killed by signal 9; begun again" in line for line in said)
    assert digest(tmp_path) == digest(uncut)
