"""The fork server that is begun before the command line is read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import rasters

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="it is begun on Linux, by two processors",
)

_REPORT = """
import sys
from pathlib import Path
from fusi_pipeline import fork_ahead, fork_server
fork_ahead.begin()
begun = fork_ahead._waiting[0]
{between}
from multiprocessing import forkserver
context = fork_server.fork_context(Path(sys.argv[1]), fork_ahead.PRELOAD)
queue = context.SimpleQueue()
process = context.Process(target=queue.put, args=(1,))
process.start()
print(begun, forkserver._forkserver._forkserver_pid, queue.get())
process.join()
"""


def _report(folder: Path, between: str = "") -> tuple[int, int, int]:
    run = subprocess.run(
        [sys.executable, "-c", _REPORT.format(between=between), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    begun, served, answer = map(int, run.stdout.split())
    return begun, served, answer


def test_the_process_begun_becomes_the_fork_server(tmp_path: Path) -> None:
    begun, served, answer = _report(tmp_path)
    assert begun == served
    assert answer == 1
    assert not any(tmp_path.iterdir())


def test_one_that_was_killed_is_replaced(tmp_path: Path) -> None:
    kill = (
        f"import os; os.kill(begun, {signal.SIGKILL:d}); os.waitid(os.P_PID, begun, os.WEXITED | os.WNOWAIT)"
    )
    begun, served, answer = _report(tmp_path, kill)
    assert begun != served
    assert answer == 1


def test_one_that_is_not_wanted_ends_with_the_command() -> None:
    script = "from fusi_pipeline import fork_ahead; fork_ahead.begin(); print(fork_ahead._waiting[0])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not psutil.pid_exists(int(run.stdout))


def test_one_whose_command_was_killed_ends_by_itself() -> None:
    script = (
        "from fusi_pipeline import fork_ahead; fork_ahead.begin();"
        " print(fork_ahead._waiting[0], flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        begun = psutil.Process(int(process.stdout.readline()))
        process.kill()
        process.wait()
        psutil.wait_procs([begun], timeout=60)
    assert not begun.is_running()


def test_a_build_by_the_command_has_the_bytes_of_one_without(tmp_path: Path) -> None:
    rasters.write(tmp_path / "store/one/a.tif", rasters.cone(300, 300))
    archives = []
    for name, module in (("ahead", "fusi_pipeline.start"), ("without", "fusi_pipeline.cli")):
        words = ["build", "one", "--source-store", tmp_path / "store", "--output-dir", tmp_path / name]
        subprocess.run([sys.executable, "-m", module, *map(str, words)], capture_output=True, check=True)
        archives.append((tmp_path / name / "sources/one.mbtiles").read_bytes())
    assert archives[0] == archives[1]
