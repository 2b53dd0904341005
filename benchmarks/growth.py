"""Time per tile and peak memory of a build of 1, 4 and 16 times the area, in files of the same size."""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import closing

from encode_floor import write_surface
from harness import drop, fusi, place, report

_FACTORS = (1, 4, 16)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=2048, help="pixels along the side of a file")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rows: list[dict[str, float]] = []
    with place() as folder:
        store = folder / "source-store" / "surface"
        for factor in _FACTORS:
            across = round(factor**0.5)
            for row in range(across):
                for column in range(across):
                    path = store / f"{row}-{column}.tif"
                    if not path.exists():
                        write_surface(path, options.side, seed=1 + row * 7 + column, row=row, column=column)
            drop(folder / "output")
            cost = fusi(
                "build", "surface", "--source-store", folder / "source-store", "--output-dir",
                folder / "output", "--workers", options.workers,
            )  # fmt: skip
            with closing(sqlite3.connect(folder / "output" / "sources" / "surface.mbtiles")) as archive:
                (tiles,) = archive.execute("SELECT count(*) FROM tiles").fetchone()
            rows.append(
                {
                    "area": factor, "tiles": tiles, "seconds": cost.seconds,
                    "cpu_ms_per_tile": round(1000 * cost.cpu_s / tiles, 1),
                    "peak_uss_mib": cost.peak_uss_mib, "peak_rss_mib": cost.peak_rss_mib,
                }
            )  # fmt: skip
    facts: dict[str, object] = {"workers": options.workers, "rows": rows}
    facts["memory_ratio"] = round(rows[-1]["peak_uss_mib"] / rows[0]["peak_uss_mib"], 2)
    facts["ratio"] = round(rows[-1]["cpu_ms_per_tile"] / rows[0]["cpu_ms_per_tile"], 2)
    report("growth", facts)


if __name__ == "__main__":
    main()
