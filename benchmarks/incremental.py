"""A run after one changed file against a clean run: time, and bytes reused against bytes made again.

Makes a surface in many files and a coarser one below it, merges both, changes
a part of one file, merges again, and then once more from nothing in another
folder. The outputs of the last two must be the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import from_origin

from fusi_pipeline.aggregate import AggregateReport, aggregate
from fusi_pipeline.settings import Settings, settings_from

LEFT_M, TOP_M, PIXEL_M = 450_000, 5_300_000, 8
COARSE = 8
"""How many pixels of the fine source one of the coarse source is wide."""
OUTPUTS = ("sources/fine.mbtiles", "sources/coarse.mbtiles", "all.pmtiles", "from.pmtiles")

Heights = npt.NDArray[np.float32]


def main() -> int:
    """Measure and print one JSON line; return 1 where the outputs differ."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=4800, help="pixels along the surface's side")
    parser.add_argument("--files", type=int, default=12, help="files along it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".", prefix=".bench-") as scratch:
        place = Path(scratch)
        heights = surface(options.side)
        part = options.side // options.files
        write_sources(place / "source-store", heights, part)
        run(place, "kept")
        change_one_file(place / "source-store", heights, part)
        report, incremental_s = run(place, "kept")
        _, clean_s = run(place, "clean")
        same = all(_sha256(place / "kept" / name) == _sha256(place / "clean" / name) for name in OUTPUTS)
        facts = {"files": options.files**2, **figures(report)}
        facts |= {"incremental_s": round(incremental_s, 2), "clean_s": round(clean_s, 2)}
        harness.report(
            "incremental", {**facts, "ratio": round(incremental_s / clean_s, 3), "same_bytes": same}
        )
    return 0 if same else 1


def run(place: Path, name: str) -> tuple[AggregateReport, float]:
    """Make all outputs in a folder; return the report and the seconds it took."""
    started = time.monotonic()
    settings: Settings = settings_from().with_options(
        source_store=place / "source-store", output_dir=place / name, scratch=None
    )
    work = aggregate(
        ["fine", "coarse"], place / name / "all.pmtiles", settings,
        lineage_output=place / name / "from.pmtiles",
    )  # fmt: skip
    while True:
        try:
            next(work)
        except StopIteration as end:
            report: AggregateReport = end.value
            return report, time.monotonic() - started


def figures(report: AggregateReport) -> dict[str, object]:
    """Return what a run reused and what it made."""
    built, merge = report.builds, report.merge
    fresh = sum(one.bytes_built for one in built) + merge.bytes_merged + merge.bytes_copied
    kept = sum(one.bytes_reused for one in built) + merge.bytes_reused
    return {
        "blocks": {"built": sum(one.built for one in built), "reused": sum(one.reused for one in built)},
        "tiles": {
            "built": sum(one.tiles_built for one in built),
            "reused": sum(one.tiles_reused for one in built),
        },
        "merged_tiles": {"merged": merge.merged, "copied": merge.copied, "reused": merge.reused},
        "bytes_rewritten": fresh,
        "bytes_reused": kept,
        "reused_per_rewritten": round(kept / fresh, 1) if fresh else None,
    }


def surface(side: int) -> Heights:
    """Return a fractal surface, shape (side, side), heights 0..2500 m."""
    noise = np.random.default_rng(1).standard_normal((side, side), dtype=np.float32)
    spectrum = np.fft.rfft2(noise)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf
    heights = np.fft.irfft2(spectrum * frequency**-2.1, s=(side, side))
    return np.asarray((heights - heights.min()) * (2500 / np.ptp(heights)), dtype=np.float32)


def write_sources(store: Path, heights: Heights, part: int) -> None:
    """Write the fine source in files of `part` x `part` pixels, and the coarse one as one file."""
    for row in range(0, len(heights), part):
        for col in range(0, len(heights), part):
            write(store / "fine" / f"{row}-{col}.tif", heights[row : row + part, col : col + part], row, col)
    write(store / "coarse" / "all.tif", heights[::COARSE, ::COARSE] + 5, 0, 0, PIXEL_M * COARSE)


def change_one_file(store: Path, heights: Heights, part: int) -> None:
    """Raise a part of one file in the middle by 10 m."""
    row = col = len(heights) // part // 2 * part
    changed = heights[row : row + part, col : col + part].copy()
    changed[: part // 4, : part // 4] += 10
    write(store / "fine" / f"{row}-{col}.tif", changed, row, col)


def write(path: Path, heights: Heights, row: int, col: int, pixel_m: int = PIXEL_M) -> None:
    """Write heights as one raster, at a row and column of fine pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=heights.shape[1], height=heights.shape[0], count=1,
        dtype="float32", crs="EPSG:32633", nodata=-9999, compress="deflate", predictor=3,
        transform=from_origin(LEFT_M + col * PIXEL_M, TOP_M - row * PIXEL_M, pixel_m, pixel_m),
    ) as dataset:  # fmt: skip
        dataset.write(heights, 1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
