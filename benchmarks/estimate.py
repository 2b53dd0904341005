"""How far the estimate of the time left is off at 10 %, 20 % and 50 % of a whole run.

Makes fine data in many files, once rough ground and once an island with sea and holes
among it, over a coarse source, merges both with lineage, and asks at every moment for
the estimate that a person is shown. On a machine that is shared the time of a wall clock says more of
others than of the run: `--clock cpu` takes the processor seconds of all processes
of the run, by the number of workers, for its time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import report
from incremental import surface, write_sources

from fusi_pipeline.aggregate import aggregate
from fusi_pipeline.forecast import Forecast
from fusi_pipeline.process_tree import ProcessTree
from fusi_pipeline.settings import Settings, settings_from

SHAPES = ("square", "island")
"""Rough ground in all files; an island in a flat sea, with no data beyond."""
_MARKS = (0.1, 0.2, 0.5)


def main() -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=12000, help="pixels along the surface's side")
    parser.add_argument("--files", type=int, default=12, help="files along it")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--all", action="store_true", help="print the estimate at every twentieth of the run")
    options = parser.parse_args()
    found = []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as scratch:
            found.append(
                measure(Path(scratch), options.side, options.files, shape, options.clock, options.all)
            )
        print(found[-1], flush=True)
    worst = max(abs(error) for one in found for error in one["estimate_error"].values())
    report("estimate", {"clock": options.clock, "shapes": found, "worst_percent": round(100 * worst)})
    return 0


def measure(
    place: Path, side: int, files: int, shape: str = "island", clock: str = "wall", tell: bool = False
) -> dict[str, Any]:
    """Return the errors of the estimate at some parts of a run, as shares of what was left."""
    heights = surface(side)
    if shape == "island":
        shift = np.hypot(*np.meshgrid(*[np.linspace(-1, 1, side, dtype=np.float32)] * 2))
        heights = np.where(heights < 700 + 1200 * shift, 0, heights - 700).astype(np.float32)
        heights[shift > 1.0] = -9999
    write_sources(place / "source-store", heights, side // files)
    del heights
    settings: Settings = settings_from().with_options(
        source_store=place / "source-store", output_dir=place / "output", scratch=place / "output" / "tmp"
    )
    now = time.monotonic if clock == "wall" else _cpu_clock(settings.workers)
    moments = followed(settings, place / "output", now)
    began, ended = moments[0][0], moments[-1][0]
    whole = ended - began
    errors = {}
    for mark in _MARKS:
        at, left = next((at, left) for at, left in moments if at - began >= mark * whole and left is not None)
        errors[f"at_{round(100 * mark)}_percent"] = round((left or 0.0) / (ended - at) - 1, 3)
    if tell:
        _tell(moments)
    return {"shape": shape, "seconds": round(whole, 1), "estimate_error": errors}


def followed(settings: Settings, output: Path, now: Callable[[], float]) -> list[tuple[float, float | None]]:
    """Make everything; return the time and the estimate of what is left at every moment."""
    forecast = Forecast()
    moments: list[tuple[float, float | None]] = [(now(), None)]
    for progress in aggregate(
        ["fine", "coarse"], output / "all.pmtiles", settings, lineage_output=output / "from.pmtiles"
    ):
        at = now()
        moments.append((at, forecast.take(progress, at)))
    moments.append((now(), 0.0))
    return moments


def _cpu_clock(workers: int) -> Callable[[], float]:
    """Return a clock of the processor seconds of this process and all below it, by the workers."""
    tree = ProcessTree()
    return lambda: tree.usage(exact=False).cpu_s / workers


def _tell(moments: list[tuple[float, float | None]]) -> None:
    began, ended = moments[0][0], moments[-1][0]
    mark = 0.0
    for at, left in moments:
        share = (at - began) / (ended - began)
        if share >= mark:
            mark = share + 0.05
            error = None if left is None or at == ended else round(left / (ended - at) - 1, 3)
            print(f"{share:.2f}  left {ended - at:6.1f} s  estimate {left}  error {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
