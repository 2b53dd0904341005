"""How runs on maps and layers look without a terminal and on one, and how they are stopped."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusi_pipeline.errors import Interrupted, SettingInvalid
from layer_generation import console, settings
from layer_generation.advance import Advance


def counting(total: int, stages: tuple[str, ...] = ("draw",)) -> Generator[Advance, None, str]:
    for stage in stages:
        for done in range(total + 1):
            yield Advance(stage, done, total, "quadrants", "two kept" if done == total else "")
    return "result"


def test_lines_tell_the_beginning_and_the_end_of_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.run(counting(50, ("draw", "pack")), 1000) == "result"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "draw 0/50 quadrants",
        "draw 50/50 quadrants, two kept",
        "pack 0/50 quadrants",
        "pack 50/50 quadrants, two kept",
    ]


def test_without_an_interval_every_moment_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.run(counting(9), 0)
    assert len(capsys.readouterr().err.splitlines()) == 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_run_that_is_stopped_is_closed(number: signal.Signals) -> None:
    closed = []

    def work() -> Generator[Advance, None, None]:
        try:
            yield Advance("draw", 0, 2, "quadrants")
            os.kill(os.getpid(), number)
            yield Advance("draw", 1, 2, "quadrants")
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        console.run(work(), 10)
    assert closed
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_terminal_gets_a_bar() -> None:
    program = (
        "from layer_generation import console; from layer_generation.advance import Advance\n"
        "def work():\n    yield Advance('draw [x]', 1, 4, 'quadrants', 'a [b] note')\n    return 7\n"
        "print(console.run(work(), 1))"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=theirs,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        os.close(ours)
        assert process.stdout is not None
        assert process.stdout.read() == b"7\n"
    assert b"1/4" in shown
    assert b"quadrants a [b]" in shown
    assert b"Traceback" not in shown


@dataclass
class Report:
    path: Path
    share: float
    names: frozenset[str]


def test_reports_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(Report(Path("a/b"), float("nan"), frozenset({"é"})))
    out = capsys.readouterr().out
    assert json.loads(out) == {"path": "a/b", "share": None, "names": ["é"]}
    assert "é" in out


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "inf"])
def test_an_interval_that_is_none_is_told(value: str) -> None:
    with pytest.raises(SettingInvalid, match="FUSI_PROGRESS_INTERVAL"):
        settings.progress_interval_s({"FUSI_PROGRESS_INTERVAL": value})
    assert settings.progress_interval_s({}) == 10
    assert settings.progress_interval_s({"FUSI_PROGRESS_INTERVAL": "0.5"}) == 0.5


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "many", "²"])
def test_a_number_of_workers_that_is_none_is_told(value: str) -> None:
    with pytest.raises(SettingInvalid, match="FUSI_WORKERS"):
        settings.workers({"FUSI_WORKERS": value})
    assert settings.workers({"FUSI_WORKERS": "3"}) == 3
    assert settings.workers({}) >= 1
