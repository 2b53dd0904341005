"""A log in a file tells when; what reads a pipe knows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.rasters import terrain, write

STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def test_in_a_file_every_line_has_its_time_and_the_run_its_beginning_and_end(tmp_path: Path) -> None:
    write(tmp_path / "store" / "dem" / "a.tif", terrain(60, 60))
    command = [
        sys.executable, "-m", "fusi_pipeline.cli", "scan", "dem", "--source-store", str(tmp_path / "store"),
        "--output-dir", str(tmp_path / "out"),
    ]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command, stderr=log, stdout=subprocess.DEVNULL, check=True)
    lines = (tmp_path / "log").read_text().splitlines()
    assert all(STAMP.match(line) for line in lines)
    assert "fusi scan dem" in lines[0]
    assert "scan dem 1/1 files" in lines[1]
    assert "finished after" in lines[-1]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stderr == "scan dem 1/1 files\n"


def test_in_a_file_the_error_has_its_time(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        code = subprocess.run(
            [sys.executable, "-m", "fusi_pipeline.cli", "show", str(tmp_path / "none.pmtiles")],
            stderr=log,
            check=False,
        ).returncode
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert code == 2
    assert STAMP.match(line)
    assert "no such archive" in line
