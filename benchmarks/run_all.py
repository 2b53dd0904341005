"""Run every benchmark, one after another, and write the table; one that fails stops no other."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_HERE = Path(__file__).parent
_RUNS: tuple[tuple[str, str, str], ...] = (
    ("encode_floor.py", "", "--side 3000 --rounds 1"),
    ("encode_floor.py --encoder libwebp", "--rounds 2", "--side 3000 --rounds 1"),
    ("plain_pipeline.py", "", "--side 2400 --rounds 1"),
    ("packing.py", "", "--tiles 4000"),
    ("scaling.py", "", "--side 2500 --rounds 1"),
    ("growth.py", "", "--side 2000"),
    ("incremental.py", "", "--side 2400"),
    ("million.py", "", "--tiles 100000"),
    ("estimate.py", "", "--side 6000"),
    ("layer_throughput.py --real", "", ""),
)
"""What is run, its sizes, and those of a quick look."""


def main() -> int:
    """Run them; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, not what is true")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those whose name begins so")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as elsewhere:
        environment = {**os.environ, **({"BENCH_RESULTS": elsewhere} if options.quick else {})}
        failed = _run(tuple(options.only or [""]), options.quick, environment)
        table = [sys.executable, str(_HERE / "table.py"), *(["--print"] if options.quick else [])]
        subprocess.run(table, env=environment, check=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(only: tuple[str, ...], quick: bool, environment: dict[str, str]) -> list[str]:
    """Run those whose names begin so; return those that failed."""
    failed = []
    for command, sizes, quick_sizes in _RUNS:
        if not command.startswith(only):
            continue
        words = [*command.split(), *(quick_sizes if quick else sizes).split()]
        script = [sys.executable, str(_HERE / words[0]), *words[1:]]
        started = time.monotonic()
        code = subprocess.run(script, env=environment, check=False).returncode
        print(f"{' '.join(words)}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        if code:
            failed.append(command)
    return failed


if __name__ == "__main__":
    sys.exit(main())
