"""Samples of runs: taken beside them and from outside, read again, summed up and drawn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fusi_pipeline import monitor, run_file
from fusi_pipeline.console import run
from fusi_pipeline.errors import ArchiveUnreadable, UsageError
from fusi_pipeline.monitor import Sample, Sampler, Watch, observed, watched
from fusi_pipeline.monitor_picture import picture
from fusi_pipeline.monitor_report import read_samples, report_of
from fusi_pipeline.process_tree import ProcessTree
from fusi_pipeline.progress import Progress
from fusi_pipeline.run_file import RunFile, RunState, running, state_of
from tests.command import Fusi, fusi  # noqa: F401
from tests.rasters import terrain, write

SAMPLE = Sample(
    at_s=1000.0, elapsed_s=0.0, pid=7, processes=3, threads=5, rss_mib=100.0, uss_mib=60.0, cpu_s=0.0,
    cpu_percent=None, read_bytes=0, written_bytes=0, wal_bytes=0, output_bytes=0, output_free_mib=5000,
    scratch_free_mib=5000, available_mib=8000, stage="build", subject="dem", done=0, total=10, unit="blocks",
    tiles=0, tiles_per_s=None, left_s=None,
)  # fmt: skip


def later(sample: Sample, seconds: float, **changes: object) -> Sample:
    moved = replace(sample, at_s=sample.at_s + seconds, elapsed_s=sample.elapsed_s + seconds)
    return replace(moved, **changes)  # type: ignore[arg-type]


def long_run() -> list[Sample]:
    """Return samples of a run of two stages, ten seconds apart."""
    samples = [SAMPLE]
    for number in range(1, 40):
        build = number < 25
        samples.append(
            later(
                samples[-1], 10.0, rss_mib=100.0 + 10 * min(number, 30), uss_mib=50.0 + 5 * number,
                cpu_s=15.0 * number, cpu_percent=150.0, read_bytes=number << 20, written_bytes=number << 21,
                wal_bytes=(number % 5) << 20, output_bytes=number << 22, stage="build" if build else "merge",
                subject="dem" if build else "", tiles=20 * number if build else 50 * (number - 25),
                tiles_per_s=2.0 if build else 5.0, left_s=400.0 - 10 * number, available_mib=8000 - number,
            )
        )  # fmt: skip
    return samples


def written(path: Path, samples: list[Sample], behind: str = "") -> Path:
    path.write_text("".join(f"{monitor.line(one)}\n" for one in samples) + behind)
    return path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a child, both asleep."""
    code = (
        "import subprocess, sys, time\n"
        "asleep = 'import time; print(1, flush=True); time.sleep(60)'\n"
        "child = subprocess.Popen([sys.executable, '-c', asleep], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    kin = psutil.Process(process.pid).children(recursive=True)
    yield process
    for one in (*kin, process):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()
    process.stdout.close()


# Processes


def test_a_tree_counts_a_process_and_those_below_it(sleeper: subprocess.Popen[bytes]) -> None:
    tree = ProcessTree(sleeper.pid)
    usage = tree.usage()
    alone = psutil.Process(sleeper.pid).memory_info().rss / 2**20
    assert usage.processes == 2
    assert usage.threads >= 2
    assert usage.rss_mib > 1.5 * alone
    assert usage.uss_mib is None or 0 < usage.uss_mib <= usage.rss_mib
    assert tree.usage(exact=False).uss_mib is None


def test_what_a_process_took_stays_counted_when_it_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    tree = ProcessTree(sleeper.pid)
    before = tree.usage()
    (child,) = psutil.Process(sleeper.pid).children()
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:  # its parent does not wait for it
        time.sleep(0.01)
    after = tree.usage()
    assert after.cpu_s >= before.cpu_s
    assert (after.read_bytes or 0) >= (before.read_bytes or 0)
    assert after.rss_mib < before.rss_mib
    assert tree.is_alive()


def test_a_process_that_lost_its_parent_is_still_watched(sleeper: subprocess.Popen[bytes]) -> None:
    tree = ProcessTree(sleeper.pid)
    tree.usage()
    sleeper.kill()
    sleeper.wait()
    assert not tree.is_alive()
    assert tree.usage().processes == 1


# Beside a run


def steps(count: int, seconds: float, output: Path) -> Iterator[Progress]:
    for number in range(count + 1):
        yield Progress("build", number, count, "blocks", number * 100, "dem", tiles=21 * number)
        (output / "a.mbtiles.partial-wal").write_bytes(bytes(1000 * (number + 1)))
        time.sleep(seconds)


def test_a_run_is_sampled_beside_and_leaves_only_its_samples(tmp_path: Path) -> None:
    output, samples = tmp_path / "out", tmp_path / "samples.jsonl"
    output.mkdir()
    watch = Watch(output=output, scratch=output / "tmp", samples=samples, interval_s=0.1)

    def work() -> Generator[Progress, None, str]:
        yield from steps(10, 0.05, output)
        (found,) = output.glob(".fusi-run.*")
        state = run_file.read(found)
        assert state is not None
        assert (state.pid, state.stage) == (os.getpid(), "build")
        return "report"

    assert run(work(), 1e9, watch) == "report"
    assert [path.name for path in output.iterdir()] == ["a.mbtiles.partial-wal"]
    read, damaged = read_samples(samples)
    assert damaged == 0
    assert len(read) >= 4
    assert read[-1].pid == os.getpid()
    assert (read[-1].stage, read[-1].done, read[-1].tiles) == ("build", 10, 210)
    assert read[-1].wal_bytes == 11_000
    assert read[-1].output_bytes >= read[-1].wal_bytes
    assert any(one.tiles_per_s for one in read)
    assert [one.elapsed_s for one in read] == sorted(one.elapsed_s for one in read)


def test_a_run_that_fails_removes_its_file_and_keeps_its_samples(tmp_path: Path) -> None:
    watch = Watch(output=tmp_path, scratch=tmp_path, samples=tmp_path / "samples.jsonl")

    def work() -> Generator[Progress, None, str]:
        yield Progress("build", 1, 2, "blocks")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        run(work(), 1e9, watch)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]


def test_a_run_whose_folder_is_not_there_yet_makes_none(tmp_path: Path) -> None:
    with observed(Watch(output=tmp_path / "out", scratch=tmp_path)) as tell:
        tell(Progress("build", 1, 2, "blocks"), None)
    assert list(tmp_path.iterdir()) == []


def test_samples_go_behind_those_of_a_killed_run(tmp_path: Path) -> None:
    path = written(tmp_path / "samples.jsonl", [SAMPLE], behind='{"at_s": 12')
    descriptor = monitor.append_to(path)
    os.write(descriptor, f"{monitor.line(later(SAMPLE, 5))}\n".encode())
    os.close(descriptor)
    read, damaged = read_samples(path)
    assert (len(read), damaged) == (2, 1)


def test_a_file_of_another_kind_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "heights.tif"
    path.write_bytes(b"II*\0")
    with pytest.raises(UsageError, match="no samples"):
        monitor.append_to(path)
    assert path.read_bytes() == b"II*\0"


def test_a_sample_costs_little(tmp_path: Path) -> None:
    sampler = Sampler(ProcessTree(), tmp_path, tmp_path)
    sampler.take(None)
    started = time.thread_time()
    for _ in range(5):
        sampler.take(None)
    assert (time.thread_time() - started) / 5 < 0.25, "every five seconds that would be five per cent"


# From outside


def test_a_run_is_found_by_its_number_its_folder_and_its_archive(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    file = RunFile(tmp_path)
    file.write(state_of(tmp_path, tmp_path / "tmp"))
    try:
        for target in (tmp_path, tmp_path / "all.pmtiles", tmp_path / "sources" / "dem.mbtiles"):
            pid, found = running(str(target))
            assert pid == os.getpid()
            assert found is not None
            assert found.parent == tmp_path
        pid, found = running(str(os.getpid()))
        assert pid == os.getpid()
        assert found is None or found.parent == tmp_path
    finally:
        file.close()
    with pytest.raises(UsageError, match="no run of fusi"):
        running(str(tmp_path))


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such process"):
        running("99999999")
    gone = replace(state_of(tmp_path, tmp_path), pid=os.getpid(), began_s=1.0)
    path = tmp_path / ".fusi-run.1.json"
    path.write_text(json.dumps(asdict(gone)))
    with pytest.raises(UsageError, match="no run of fusi"):
        running(str(tmp_path))
    file = RunFile(tmp_path)
    file.write(state_of(tmp_path, tmp_path))
    assert not path.exists(), "the file of a dead run is removed by the next one"
    file.close()


@given(st.binary(max_size=300))
def test_a_file_that_is_no_run_is_none(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "run.json"
    path.write_bytes(data)
    assert run_file.read(path) is None


def test_watching_ends_with_the_process(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    seen = []
    for sample in watched(sleeper.pid, None, 0.1, lambda _: time.sleep(0.01)):
        seen.append(sample)
        if len(seen) == 3:
            sleeper.send_signal(signal.SIGKILL)
            sleeper.wait()
    assert len(seen) == 3
    assert {one.pid for one in seen} == {sleeper.pid}


def test_a_state_tells_the_estimate_that_is_left_now(tmp_path: Path) -> None:
    sampler = Sampler(ProcessTree(), tmp_path, tmp_path)
    state = RunState(
        pid=1, began_s=0, output="", scratch="", at_s=time.time() - 10, stage="build", left_s=100.0
    )
    assert sampler.take(state).left_s == pytest.approx(90, abs=2)
    assert sampler.take(replace(state, left_s=5.0)).left_s == 0


# Reports


def test_figures_by_stage_add_up_to_those_of_all(tmp_path: Path) -> None:
    samples = long_run()
    report = report_of(tmp_path, samples, 0)
    build, merge, whole = report.stages
    assert [one.stage for one in report.stages] == ["build dem", "merge", "all"]
    assert build.seconds + merge.seconds == whole.seconds == 390
    assert build.rss_peak_mib == 350
    assert whole.rss_peak_mib == 400
    assert build.tiles == 480
    assert whole.cpu_percent == pytest.approx(150)
    assert (build.read_bytes or 0) + (merge.read_bytes or 0) == whole.read_bytes == 39 << 20
    assert whole.available_least_mib == 8000 - 39


def test_runs_one_after_another_are_counted_apart(tmp_path: Path) -> None:
    first = long_run()
    again = [replace(one, pid=8, at_s=one.at_s + 10_000) for one in first]
    whole = report_of(tmp_path, [*first, *again], 0).stages[-1]
    assert whole.seconds == 2 * 390
    assert whole.written_bytes == 2 * (39 << 21)


@given(st.integers(0, 600), st.binary(min_size=1, max_size=40))
def test_damaged_lines_are_left_out(tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.jsonl"
    whole = f"{monitor.line(SAMPLE)}\n".encode()
    noise = noise.replace(b"\n", b"").replace(b"\r", b"") or b"x"
    path.write_bytes(whole + noise + b"\n" + whole[: min(cut, len(whole) - 2)])
    read, damaged = read_samples(path)
    assert read == [SAMPLE]
    assert damaged <= 2


def test_a_file_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_samples(tmp_path / "none")
    (tmp_path / "empty").write_text("\n{}\n[1]\n")
    with pytest.raises(ArchiveUnreadable, match="no samples"):
        read_samples(tmp_path / "empty")


def test_the_picture_shows_what_was_sampled() -> None:
    drawn = np.asarray(picture(long_run(), "run"))
    colors = {tuple(color) for color in drawn.reshape(-1, 3)[::7].tolist()}
    assert drawn.shape[1] == 1400
    for color in ((0x2F, 0x6D, 0xB5), (0xD9, 0x82, 0x2B)):
        assert (drawn == color).all(axis=-1).any()
    assert len(colors) > 10
    unknown = [
        replace(one, uss_mib=None, read_bytes=None, written_bytes=None, left_s=None, tiles_per_s=None)
        for one in long_run()
    ]
    assert picture(unknown, "run").height < drawn.shape[0]
    assert picture([SAMPLE], "one").width == 1400


# The commands


def test_a_build_can_be_monitored_and_reported(tmp_path: Path, fusi: Fusi) -> None:  # noqa: F811
    (tmp_path / "store" / "dem").mkdir(parents=True)
    write(tmp_path / "store" / "dem" / "a.tif", terrain(200, 200), pixel=0.001)
    places = ("--source-store", tmp_path / "store", "--output-dir", tmp_path / "out")
    samples = tmp_path / "samples.jsonl"
    answer = fusi(
        "build", "dem", *places, "--monitor", samples, "--monitor-interval", "0.1", "--workers", "1"
    )
    assert answer.code == 0, answer.err
    report = fusi("monitor", "--report", samples, "--json")
    assert report.code == 0
    stages = [one["stage"] for one in report.json["stages"]]
    assert stages[-1] == "all"
    assert "build dem" in stages
    with Image.open(tmp_path / "samples.jsonl.png") as drawn:
        assert drawn.size[0] == 1400
    told = fusi("monitor", "--report", samples, "-o", tmp_path / "a.png")
    assert told.code == 0
    assert told.out.splitlines()[0].startswith("stage")
    assert not list((tmp_path / "out").rglob(".fusi-run*"))


def test_wrong_ways_to_monitor_are_named(tmp_path: Path, fusi: Fusi) -> None:  # noqa: F811
    samples = written(tmp_path / "samples.jsonl", long_run())
    for words in (
        ("monitor",),
        ("monitor", "1", "--report", samples),
        ("monitor", "1", "--json"),
        ("monitor", "--report", samples, "-o", tmp_path / "a.jpg"),
        ("monitor", tmp_path / "nothing"),
    ):
        answer = fusi(*words)
        assert answer.code == 2
        assert len(answer.said) == 1
    (tmp_path / "mine.png").write_bytes(b"precious")
    assert fusi("monitor", "--report", samples, "-o", tmp_path / "mine.png").code == 2


def test_a_monitor_ends_by_itself_and_by_ctrl_c(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    output = tmp_path / "samples.jsonl"
    command = [
        sys.executable, "-m", "fusi_pipeline.cli", "monitor", str(sleeper.pid), "--interval", "0.1",
    ]  # fmt: skip
    to_file = subprocess.Popen([*command, "-o", str(output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    to_pipe = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert to_pipe.stdout is not None
    first = to_pipe.stdout.readline()
    assert json.loads(first)["pid"] == sleeper.pid
    to_pipe.send_signal(signal.SIGINT)
    _, said = to_pipe.communicate(timeout=20)
    assert (to_pipe.returncode, said) == (0, b"")
    until = time.monotonic() + 20
    while not (output.exists() and output.stat().st_size) and time.monotonic() < until:
        time.sleep(0.05)
    sleeper.kill()
    sleeper.wait()
    told, said = to_file.communicate(timeout=20)
    assert (to_file.returncode, said) == (0, b"")
    assert told.startswith(b"stage")
