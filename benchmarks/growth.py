"""Time per tile and peak memory of a build and merge of 1, 4 and 16 times the area, in files of one size.

The files are stored in strips, which takes the most memory to read. At 16 times the area there are as many
pixels as in a raster of 20,000 x 20,000.
"""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing
from pathlib import Path

from harness import drop, fusi, place, report
from incremental import Heights, surface, write

_FACTORS = (1, 4, 16)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=5000, help="pixels along the side of a file")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    heights = surface(options.side)
    rows: list[dict[str, float]] = []
    with place() as folder:
        for factor in _FACTORS:
            _grow(folder / "source-store" / "surface", heights, round(factor**0.5))
            drop(folder / "output")
            rows.append({"area": factor, **_measured(folder, options.workers)})
    facts: dict[str, object] = {"workers": options.workers, "pixels_of_largest": options.side**2 * 16}
    facts |= {"rows": rows, "peak_mib": max(row["peak_mib"] for row in rows)}
    facts["memory_ratio"] = round(rows[-1]["peak_mib"] / rows[0]["peak_mib"], 2)
    facts["ratio"] = round(rows[-1]["cpu_ms_per_tile"] / rows[0]["cpu_ms_per_tile"], 2)
    report("growth", facts)


def _grow(store: Path, heights: Heights, across: int) -> None:
    """Write the missing files of a square of so many by so many: one surface and its mirror images."""
    side = len(heights)
    for row in range(across):
        for column in range(across):
            path = store / f"{row}-{column}.tif"
            if not path.exists():
                turned = heights[:: -1 if row % 2 else 1, :: -1 if column % 2 else 1]
                write(path, turned, row * side, column * side)


def _measured(folder: Path, workers: int) -> dict[str, float]:
    cost = fusi(
        "aggregate", "surface", "-o", folder / "output" / "all.pmtiles", "--lineage",
        folder / "output" / "from.pmtiles", "--source-store", folder / "source-store", "--output-dir",
        folder / "output", "--workers", workers,
    )  # fmt: skip
    with closing(sqlite3.connect(folder / "output" / "sources" / "surface.mbtiles")) as archive:
        (tiles,) = archive.execute("SELECT count(*) FROM tiles").fetchone()
    return {
        "tiles": tiles,
        "seconds": cost.seconds,
        "cpu_ms_per_tile": round(1000 * cost.cpu_s / tiles, 1),
        "peak_mib": cost.peak_mib,
        "peak_uss_mib": cost.peak_uss_mib,
        "peak_rss_mib": cost.peak_rss_mib,
    }


if __name__ == "__main__":
    main()
