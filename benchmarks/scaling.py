"""How much faster two workers build than one, in turn in one run.

The start of the processes, a second that no worker shortens, counts; the surfaces
are large enough for it to be a small part of a build. Nothing is watched meanwhile, so
that the second worker has the second processor.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import product
from pathlib import Path

from encode_floor import write_surface
from harness import Cost, drop, fusi, place, report


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=12_000, help="pixels along one of four surfaces")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with place() as folder:
        for row, column in product(range(2), range(2)):
            path = folder / "source-store" / "surface" / f"{row}-{column}.tif"
            write_surface(path, options.side, seed=2 * row + column, row=row, column=column)
        store = ("surface", "--source-store", folder / "source-store", "--output-dir", folder / "output")
        fusi("scan", *store)
        rounds = [[_build(folder, workers, store) for workers in (1, 2)] for _ in range(options.rounds)]
    facts = {
        "one_s": [one.seconds for one, _ in rounds],
        "two_s": [two.seconds for _, two in rounds],
        "ratio": round(statistics.median(one.seconds / two.seconds for one, two in rounds), 2),
    }
    report("scaling", facts)


def _build(folder: Path, workers: int, store: tuple[object, ...]) -> Cost:
    drop(folder / "output" / "sources" / "surface.mbtiles")
    return fusi("build", *store, "--workers", workers, watched=False)


if __name__ == "__main__":
    main()
