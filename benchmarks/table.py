"""Write the table of results into the README, between its markers, from `results/*.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import RESULTS

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- benchmarks -->", "<!-- end of benchmarks -->"

Facts = dict[str, Any]
_ROWS: tuple[tuple[str, str, Callable[[Facts], str]], ...] = (
    ("encode_floor", "CPU of a build by that of encoding its tiles with libwebp", lambda f: f"{f['ratio']}"),
    ("plain_pipeline", "a plain per-tile pipeline by `fusi aggregate`: time, CPU",
     lambda f: f"{f['ratio']}, {f['cpu_ratio']}"),
    ("packing", "packing by a copy of the bytes", lambda f: f"{f['ratio']}" + _command(f)),
    ("scaling", "one worker by two", lambda f: f"{f['ratio']}"),
    ("growth", "16 times the area by 1: CPU per tile, peak memory",
     lambda f: f"{f['ratio']}, {f['memory_ratio']} ({f['rows'][-1]['peak_uss_mib']:.0f} MiB)"),
    ("incremental", "a run after one changed file by a clean one", lambda f: f"{f['ratio']}"),
    ("million", "a million tiles: CPU of the `pmtiles` package by `fusi pack`; seconds to pack",
     lambda f: f"{f['ratio']}; {f['pack_s']}"),
    ("estimate", "error of the time left at 10, 20, 50 %",
     lambda f: ", ".join(f"{100 * one:+.0f} %" for one in f["estimate_error"].values())),
)  # fmt: skip


def main() -> None:
    """Write the table, or fail where the README has no markers."""
    text = README.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"{README}: has no {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{table()}{END}{after}", encoding="utf-8")


def table() -> str:
    """Return the table, a row for each result there is, and the machine below it."""
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))
    }
    lines = ["| benchmark | what by what | ratio |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {what} | {say(found[name])} |" for name, what, say in _ROWS if name in found]
    if not found:
        return "\n".join(lines) + "\n"
    machines = {
        f"{one['processors']} x {one['processor']}, {one['memory_mib'] / 1024:.0f} GiB"
        for one in (facts["machine"] for facts in found.values())
    }
    return "\n".join([*lines, "", f"Measured on {'; '.join(sorted(machines))}."]) + "\n"


def _command(facts: Facts) -> str:
    return f"; `pmtiles convert` by it: {facts['cli_ratio']}" if "cli_ratio" in facts else ""


if __name__ == "__main__":
    main()
