"""Runs of the real command under a limit of memory that the kernel enforces by killing."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest

from fusi_pipeline import settings
from tests import rasters
from tests.control_group import ControlGroup, control_group
from tests.test_interruption import Run, after_lines, apart_from_progress, family, workers

_SIDE_PX = 3000


@pytest.fixture
def group(request: pytest.FixtureRequest) -> Iterator[ControlGroup]:
    with control_group(request.node.name.split("[")[0][-40:]) as one:
        yield one


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of one striped file, some hundred tiles of rough ground."""
    store = tmp_path_factory.mktemp("limit") / "store"
    y, x = np.mgrid[0:_SIDE_PX, 0:_SIDE_PX].astype(np.float32)
    heights = 900 + 700 * np.sin(x / 97) * np.cos(y / 131) + 40 * np.sin(x * y / 4001)
    rasters.write(
        store / "hills" / "a.tif",
        heights,
        crs="EPSG:32633",
        left=450_000,
        top=5_300_000,
        pixel=8,
        nodata=-9999,
    )
    return store


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(store, tmp_path_factory.mktemp("unlimited"))
    run.finish()
    return run


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def test_with_what_it_takes_by_default_a_run_fits_a_gibibyte(
    store: Path, tmp_path: Path, undisturbed: Run, group: ControlGroup
) -> None:
    group.limit(1024)
    run = Run(store, tmp_path / "output")
    with run.start(before=group.entering) as process:
        code, said = ended(process)
    assert code == 0, said
    assert apart_from_progress(said) == []
    assert group.kills == 0
    assert run.hashes() == undisturbed.hashes()


def test_two_workers_fit_a_gibibyte_whatever_the_budget_says(
    store: Path, tmp_path: Path, undisturbed: Run, group: ControlGroup
) -> None:
    group.limit(1024)
    run = Run(store, tmp_path / "output")
    with run.start("--memory-mb", "4000", before=group.entering) as process:
        code, said = ended(process)
    assert code == 0, said
    assert group.kills == 0
    assert run.hashes() == undisturbed.hashes()


@pytest.mark.parametrize("stage", ["build", "merge"])
def test_a_worker_that_the_kernel_ends_costs_a_second_attempt(
    store: Path, tmp_path: Path, undisturbed: Run, group: ControlGroup, stage: str
) -> None:
    group.limit(4)
    run = Run(store, tmp_path / "output")
    with run.start("--memory-mb", "4000", FUSI_MB_COMMIT_SLEEP_SEC="0.1", FUSI_IO_SLEEP_MS="100") as process:
        after_lines(process, 2, stage)
        until = time.monotonic() + 60
        while not group.kills and process.poll() is None and time.monotonic() < until:
            for worker in workers(process)[:1]:
                with suppress(OSError, psutil.Error):
                    group.take(worker.pid)
            time.sleep(0.05)
        code, said = ended(process)
    assert code == 0, said
    assert group.kills >= 1
    lines = apart_from_progress(said)
    assert lines
    assert all("most likely for lack of memory; tried again" in line for line in lines), lines
    assert run.hashes() == undisturbed.hashes()


def test_the_kernel_is_told_to_end_workers_before_their_parent(store: Path, tmp_path: Path) -> None:
    run = Run(store, tmp_path / "output")
    with run.start(FUSI_IO_SLEEP_MS="100") as process:
        after_lines(process, 2, "build")
        scores = [_badness(worker.pid) for worker in workers(process)]
        own = _badness(process.pid)
        process.kill()
        psutil.wait_procs(family(process), timeout=20)
        process.communicate()
    assert scores
    assert min(scores) > own


def _badness(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.parametrize(
    ("total_mib", "budget_mib"), [(512, 384), (1024, 768), (1536, 1044), (2048, 1044), (4096, 2048)]
)
def test_of_little_memory_a_run_takes_more_than_half(
    monkeypatch: pytest.MonkeyPatch, total_mib: int, budget_mib: int
) -> None:
    monkeypatch.setattr(settings, "total_mib", lambda: total_mib)
    assert settings.default_memory_mb() == budget_mib
