"""Runs of the real command, stopped in every way, and what the same command makes of it afterwards."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import rasters

PROGRESS = re.compile(r"(scan|build|merge|pack)( \S+)? \d+/\d+ ")
MBTILES = "sources/hills.mbtiles"
PMTILES = "out.pmtiles"


@dataclass(frozen=True)
class Run:
    """The command at work on an output folder of its own."""

    store: Path
    output: Path

    def start(
        self, *more: str, before: Callable[[], None] | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Begin to aggregate, with `more` options; every step is a line on standard error.

        The new process does `before` what it is for.
        """
        env = {key: value for key, value in os.environ.items() if not key.startswith("FUSI_")}
        env.pop("TMPDIR", None)
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "fusi_pipeline.cli",
                "aggregate",
                "hills",
                "-o",
                str(self.output / PMTILES),
                "--source-store",
                str(self.store),
                "--output-dir",
                str(self.output),
                "--workers",
                "2",
                "--progress-interval",
                "0",
                *more,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**env, **environment},
            preexec_fn=before,
        )

    def finish(self, *more: str) -> None:
        """Run the command to its end, undisturbed."""
        with self.start(*more) as process:
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors

    def hashes(self) -> dict[str, str]:
        """Return the hashes of what is made."""
        return {
            name: hashlib.sha256((self.output / name).read_bytes()).hexdigest() for name in (MBTILES, PMTILES)
        }

    def files(self) -> list[str]:
        """Return the names of all files of the output folder."""
        return sorted(str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file())


def after_lines(process: subprocess.Popen[str], count: int, stage: str = "") -> None:
    """Wait for `count` lines of progress, of one stage if named, or for the end."""
    assert process.stderr is not None
    for line in process.stderr:
        count -= line.startswith(stage)
        if count == 0:
            return


def apart_from_progress(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line and not PROGRESS.match(line)]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return every process below a command."""
    with suppress(psutil.NoSuchProcess):
        if process.poll() is None:
            return psutil.Process(process.pid).children(recursive=True)
    return []


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes that work on tasks: those below the fork server."""
    below = family(process)
    found = []
    for one in below:
        with suppress(psutil.NoSuchProcess):
            if any(one.ppid() == other.pid for other in below):
                found.append(one)
    return found


def end(process: subprocess.Popen[str], number: int, below: list[psutil.Process]) -> tuple[int, list[str]]:
    """Send a signal; return the exit code and what was said, when nothing is left running."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive, f"left running: {[one.cmdline() for one in alive]}"
    return process.returncode, apart_from_progress(errors)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of some 60 tiles in a dozen blocks, part of it missing."""
    store = tmp_path_factory.mktemp("interruption") / "store"
    heights, absent = rasters.plane(800, 1200), rasters.hole(800, 1200, share=0.3)
    rasters.write_many(
        store / "hills", np.where(absent, -9999, heights), 3, left=5.0, top=49.0, pixel=0.0054, nodata=-9999
    )
    return store


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(store, tmp_path_factory.mktemp("undisturbed"))
    with run.start() as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert sum("build " in line for line in errors.splitlines()) > 12
    return run


@pytest.fixture
def run(store: Path, tmp_path: Path) -> Run:
    return Run(store, tmp_path / "output")


def test_killed_again_and_again_the_command_ends_with_the_same_bytes(run: Run, undisturbed: Run) -> None:
    chance = random.Random(0)
    for _ in range(5):
        with run.start() as process:
            after_lines(process, chance.randint(1, 12))
            end(process, signal.SIGKILL, family(process))
    run.finish()
    assert run.hashes() == undisturbed.hashes()
    assert run.files() == undisturbed.files()


def test_killed_in_a_late_stage_the_command_goes_on(run: Run, undisturbed: Run) -> None:
    with run.start(FUSI_MB_COMMIT_SLEEP_SEC="0.02") as process:
        after_lines(process, 4, "merge")
        end(process, signal.SIGKILL, family(process))
    run.finish()
    assert run.hashes() == undisturbed.hashes()
    assert run.files() == undisturbed.files()


@pytest.mark.parametrize(
    ("stage", "number"), [("scan", signal.SIGTERM), ("build", signal.SIGINT), ("merge", signal.SIGTERM)]
)
def test_asked_to_stop_the_command_says_so_in_one_line_and_leaves_nothing_running(
    run: Run, undisturbed: Run, stage: str, number: signal.Signals
) -> None:
    with run.start(FUSI_MB_COMMIT_SLEEP_SEC="0.05") as process:
        after_lines(process, 2, stage)
        below = family(process)
        if number == signal.SIGINT:  # which a terminal sends to every process of the group
            os.killpg(process.pid, number)
        code, said = end(process, 0 if number == signal.SIGINT else number, below)
    assert code == 130
    assert said == ["fusi: interrupted; the same command goes on where this stopped"]
    assert not (run.output / PMTILES).exists()
    run.finish()
    assert run.hashes() == undisturbed.hashes()


@pytest.mark.parametrize("stage", ["build", "merge"])
def test_a_worker_that_is_killed_costs_its_task_a_second_attempt(
    run: Run, undisturbed: Run, stage: str
) -> None:
    with run.start(FUSI_MB_COMMIT_SLEEP_SEC="0.1", FUSI_IO_SLEEP_MS="100") as process:
        after_lines(process, 2, stage)
        below = family(process)
        victims = workers(process)
        assert victims
        victims[0].kill()
        code, said = end(process, 0, below)
    assert code == 0, said
    assert all("killed by signal 9" in line and "tried again" in line for line in said)
    assert run.hashes() == undisturbed.hashes()
    assert run.files() == undisturbed.files()


def test_where_every_worker_is_killed_the_run_ends_in_a_line_and_can_go_on(
    run: Run, undisturbed: Run
) -> None:
    with run.start(FUSI_IO_SLEEP_MS="300") as process:
        after_lines(process, 2, "build")
        below = family(process)
        while process.poll() is None:
            for victim in workers(process):
                below.append(victim)
                with suppress(psutil.Error):
                    victim.kill()
        code, said = end(process, 0, below)
    assert code == 1
    assert "could not be made" in said[-1] or "worker process died" in said[-1]
    assert not (run.output / PMTILES).exists()
    run.finish()
    assert run.hashes() == undisturbed.hashes()
    assert run.files() == undisturbed.files()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A volume of a given size, which can be made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if resized(folder, "1m", "size=1m"):
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def resized(folder: Path, size: str, options: str | None = None) -> int:
    """Mount a tmpfs, or change its size; return the exit code."""
    command = ["mount", "-t", "tmpfs", "-o", options or f"remount,size={size}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("share", [0.5, 1.4])
def test_on_a_full_disk_the_run_ends_in_one_line_and_goes_on_when_there_is_space(
    store: Path, undisturbed: Run, small_disk: Path, share: float
) -> None:
    needed = (undisturbed.output / MBTILES).stat().st_size
    assert resized(small_disk, f"{200 + int(share * needed) // 1024}k") == 0
    run = Run(store, small_disk / "output")
    with run.start() as process:
        _, errors = process.communicate(timeout=120)
    said = apart_from_progress(errors)
    assert process.returncode == 1
    *warnings, end = said
    assert all("space" in line or "MiB" in line for line in warnings), said  # that it will be tight
    assert len(warnings) <= 1, said
    assert "the disk is full" in end
    assert not (run.output / PMTILES).exists()
    assert resized(small_disk, "64m") == 0
    run.finish()
    assert run.hashes() == undisturbed.hashes()
    assert run.files() == undisturbed.files()


def test_on_a_full_disk_the_run_waits_if_it_is_told_to_and_goes_on_when_there_is_space(
    store: Path, undisturbed: Run, small_disk: Path
) -> None:
    needed = (undisturbed.output / MBTILES).stat().st_size
    assert resized(small_disk, f"{200 + needed // 2048}k") == 0
    run = Run(store, small_disk / "output")
    with run.start("--on-disk-full", "wait") as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "waiting until" in line)
        assert "the disk is full" in line
        assert resized(small_disk, "64m") == 0
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert any("going on" in line for line in apart_from_progress(errors))
    assert run.hashes() == undisturbed.hashes()
    assert run.files() == undisturbed.files()


def test_what_a_scan_left_when_it_was_killed_at_its_very_end_is_cleared_away(
    run: Run, undisturbed: Run
) -> None:
    run.finish()
    memory = run.output / "sources" / ".hills.index.db.scan"
    for suffix in ("", "-journal"):
        memory.with_name(memory.name + suffix).touch()
    run.finish()
    assert run.files() == undisturbed.files()
