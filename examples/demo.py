"""The whole pipeline on a real elevation model, in one run.

Takes the Jacksboro fault (Tennessee, 3 arc seconds) that matplotlib ships,
derives two overlapping sources from it - all of it at half the resolution in
NAD83, its middle at 40 m in UTM with an irregular hole - and makes one archive
with its lineage, a deep verification, what each source covers, and a picture of
both archives. With `--sources-only` it stops after the sources, for another
command to go on with them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import rasterio
from matplotlib import cbook
from rasterio.enums import Resampling
from rasterio.transform import Affine, from_bounds
from rasterio.warp import reproject, transform_bounds

from fusi_pipeline import aggregate
from fusi_pipeline.console import duration, print_table, run, size
from fusi_pipeline.coverage import CoverageReport, coverage
from fusi_pipeline.preview import write_preview
from fusi_pipeline.settings import Settings, settings_from
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.verify import verify_deep

CRS = "EPSG:4269"
FINE_CRS = "EPSG:32616"
FINE_PIXEL_M = 40.0
NODATA = -9999.0
SOURCES = ("demo-fine", "demo-base")
CREDIT = "SRTM, NASA/USGS (public domain), by way of matplotlib"


def main() -> None:
    """Make the sources, the archives and their pictures; say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources-only", action="store_true", help="write the two sources and stop")
    options = parser.parse_args()
    started = time.monotonic()
    settings = settings_from()
    write_sources(settings.source_store)
    if options.sources_only:
        print(f"wrote {', '.join(SOURCES)} to {settings.source_store}")
        return
    pause_s = settings.progress_interval_s
    output = settings.output_dir / "demo.pmtiles"
    lineage = settings.output_dir / "demo_lineage.pmtiles"
    run(aggregate.aggregate(SOURCES, output, settings, lineage_output=lineage), pause_s)
    report = run(verify_deep(output, settings), pause_s)
    covered = run(coverage(output, output.with_name("demo_coverage.geojson")), pause_s)
    summary(output, settings)
    print_coverage(covered)
    print(f"\n{output}: {size(output.stat().st_size)}, {'sound' if report.sound else report.problems}")
    print(f"{lineage}: {size(lineage.stat().st_size)}, which source each pixel is from")
    print(f"{covered.output}: {covered.features} polygons of what each source covers")
    for archive in (output, lineage):
        picture = archive.with_suffix(".png")
        width, height = write_preview(archive, picture, max_px=1200)
        print(f"{picture}: {width} x {height} px")
    print(f"all in {duration(time.monotonic() - started)}\n")
    print("next, in a shell where `fusi` is on the path (`source .venv/bin/activate`):")
    print(f"  fusi show {output}")
    print(f"  fusi serve {output}                # a map of it, with the sources")
    print(f"  fusi at -84.25,36.58 {output}      # how high, and who says so")
    print("  fusi aggregate YOUR_SOURCE -o output/yours.pmtiles   # GeoTIFFs in source-store/YOUR_SOURCE/")
    print("  just dev                                             # the same in the Dagster UI")


def print_coverage(report: CoverageReport) -> None:
    """Print what each source covers at the highest zoom."""
    highest = max(one.zoom for one in report.coverage)
    print()
    print_table(
        (f"source at zoom {highest}", "pixels", "share", "km2"),
        [
            (one.source, one.pixels, f"{one.share:.1%}", round(one.area_km2, 1))
            for one in report.coverage
            if one.zoom == highest
        ],
    )


def summary(output: Path, settings: Settings) -> None:
    """Print the tiles and bytes of each zoom, for the sources and the merged archive."""
    archives = [settings.archive_path(name) for name in SOURCES] + [output]
    counts = []
    for path in archives:
        with open_archive(path) as reader:
            counts.append(reader.counts())
    zooms = sorted(set().union(*counts))
    print_table(
        ("zoom", *(path.name for path in archives)), [(z, *(c.get(z, 0) for c in counts)) for z in zooms]
    )


def write_sources(store: Path) -> None:
    """Write the two source folders; files that are there already and equal stay untouched."""
    with np.load(cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as dem:
        heights = dem["elevation"].astype(np.float32)
        west, east = float(dem["xmin"]), float(dem["xmax"])
        north, south = float(dem["ymin"]), float(dem["ymax"])  # named in the order of the rows
        half = float(dem["dx"]) / 2  # positions are of pixel centres
        bounds = (west - half, south - half, east + half, north + half)
    transform = from_bounds(*bounds, heights.shape[1], heights.shape[0])
    _write_base(store / "demo-base", heights, transform)
    _write_fine(store / "demo-fine", heights, transform, bounds)


def _write_base(folder: Path, heights: np.ndarray, transform: Affine) -> None:
    """Write all of it at 6 arc seconds, in two files that meet."""
    rows, cols = heights.shape[0] // 2 * 2, heights.shape[1] // 2 * 2
    half = (
        heights[:rows, :cols].reshape(rows // 2, 2, cols // 2, 2).mean(axis=(1, 3)).round().astype(np.int16)
    )
    coarse = transform * Affine.scale(2)
    middle = half.shape[1] // 2
    _write(folder / "west.tif", half[:, :middle], CRS, coarse, None)
    _write(folder / "east.tif", half[:, middle:], CRS, coarse * Affine.translation(middle, 0), None)
    _write_config(folder, "Jacksboro, 6 arc seconds")


def _write_fine(folder: Path, heights: np.ndarray, transform: Affine, bounds: tuple[float, ...]) -> None:
    """Write the middle of it at 40 m in UTM, with an irregular hole."""
    west, south, east, north = bounds
    width, height = east - west, north - south
    inner = (west + 0.18 * width, south + 0.2 * height, east - 0.22 * width, north - 0.15 * height)
    left, bottom, right, top = transform_bounds(CRS, FINE_CRS, *inner)
    cols, rows = int((right - left) / FINE_PIXEL_M), int((top - bottom) / FINE_PIXEL_M)
    target = Affine(FINE_PIXEL_M, 0, left, 0, -FINE_PIXEL_M, top)
    fine = np.full((rows, cols), NODATA, dtype=np.float32)
    reproject(
        heights, fine, src_transform=transform, src_crs=CRS, dst_transform=target, dst_crs=FINE_CRS,
        dst_nodata=NODATA, resampling=Resampling.cubic,
    )  # fmt: skip
    fine[_hole(rows, cols)] = NODATA
    _write(folder / "fine.tif", fine, FINE_CRS, target, NODATA)
    _write_config(folder, "Jacksboro, 40 m")


def _hole(rows: int, cols: int) -> np.ndarray:
    """Return a blot whose radius varies with its direction, shape (rows, cols)."""
    y, x = np.mgrid[0:rows, 0:cols]
    dy, dx = (y - 0.55 * rows) / rows, (x - 0.45 * cols) / cols
    angle = np.arctan2(dy, dx)
    radius = 0.17 + 0.05 * np.sin(3 * angle + 1) + 0.03 * np.sin(7 * angle) + 0.015 * np.sin(19 * angle)
    return np.hypot(dx, dy) < radius


def _write(path: Path, heights: np.ndarray, crs: str, transform: Affine, nodata: float | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        with rasterio.open(path) as known:
            if known.transform.almost_equals(transform) and np.array_equal(known.read(1), heights):
                return
    with rasterio.open(
        path, "w", driver="GTiff", width=heights.shape[1], height=heights.shape[0], count=1,
        dtype=heights.dtype, crs=crs, transform=transform, nodata=nodata, compress="deflate", tiled=True,
    ) as dataset:  # fmt: skip
        dataset.write(heights, 1)


def _write_config(folder: Path, name: str) -> None:
    text = f'name = "{name}"\nattribution = "{CREDIT}"\nlicense = "public domain"\n'
    path = folder / "source.toml"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


if __name__ == "__main__":
    main()
