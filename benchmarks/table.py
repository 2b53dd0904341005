"""Write the table of results into the README, between its markers, from `results/*.json`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import RESULTS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of the table."""

    name: str
    """Of the result."""
    what: str
    value: str
    """What of it is shown: a key, or some, the last of a list."""
    target: str = ""
    met: Callable[[Facts], bool] | None = None


_ROWS = (
    _Row("encode_floor", "CPU of a build by that of encoding its tiles with libwebp", "{ratio}",
         "at most 1.20", lambda f: f["ratio"] <= 1.2),
    _Row("encode_floor_libwebp", "the same, where the build encodes with libwebp too", "{ratio}",
         "at most 1.20", lambda f: f["ratio"] <= 1.2),
    _Row("plain_pipeline", "a plain per-tile pipeline with rasterio by build and merge: time, CPU",
         "{ratio}, {cpu_ratio}", "over 1", lambda f: min(f["ratio"], f["cpu_ratio"]) > 1),
    _Row("packing", "packing by a copy of the same bytes", "{ratio}", "at most 1.5",
         lambda f: f["ratio"] <= 1.5),
    _Row("packing", "`pmtiles convert` by packing", "{cli_ratio}", "over 1", lambda f: f["cli_ratio"] > 1),
    _Row("scaling", "build with one worker by two", "{ratio}", "at least 1.85", lambda f: f["ratio"] >= 1.85),
    _Row("growth", "16 times the area by 1: CPU per tile", "{ratio}", "at most 1.1",
         lambda f: f["ratio"] <= 1.1),
    _Row("growth", "peak memory of build and merge at 2 workers, 1 to 16 times the area", "{peak_mib} MiB",
         "at most 1024 MiB", lambda f: f["peak_mib"] <= 1024),
    _Row("incremental", "a run after one changed file of 144 by a clean one", "{ratio}", "under 1",
         lambda f: f["ratio"] < 1 and f["same_bytes"]),
    _Row("million", "a million small tiles: CPU of the `pmtiles` package by packing", "{ratio}"),
    _Row("million", "the same: seconds of MBTiles, pack, verify", "{mbtiles_s}, {pack_s}, {verify_s}"),
    _Row("estimate", "largest error of the time left, at 10, 20 and 50 % of two runs", "{worst_percent} %",
         "at most 25 %", lambda f: f["worst_percent"] <= 25),
)  # fmt: skip


def main() -> None:
    """Write the table into the README, or print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--print", action="store_true", help="print it, and leave the README as it is")
    if parser.parse_args().print:
        print(table())
        return
    text = README.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"{README}: has no {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table()}{END}{after}", encoding="utf-8")


def table() -> str:
    """Return the table, a row for each figure there is, and the machine below it."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))
    }
    lines = ["| benchmark | what by what | measured | target | met |", "| --- | --- | --- | --- | --- |"]
    for row in _ROWS:
        with suppress(KeyError):  # it was not run, or without what this figure takes
            lines.append(_line(row, found[row.name]))
    machines = sorted(
        {
            f"{one['processors']} x {one['processor']}, {one['memory_mib'] / 1024:.0f} GiB, {one['date']}"
            for one in (facts["machine"] for facts in found.values())
        }
    )
    return "\n".join([*lines, "", f"Measured on {'; '.join(machines)}."]) + "\n" if found else ""


def _line(row: _Row, facts: Facts) -> str:
    met = "" if row.met is None else "yes" if row.met(facts) else "no"
    return f"| `{row.name}` | {row.what} | {row.value.format(**facts)} | {row.target} | {met} |"


if __name__ == "__main__":
    main()
