"""Scans of real elevation data, on copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

from fusi_pipeline.errors import SourceEmpty
from fusi_pipeline.scan import ScanReport, scan
from fusi_pipeline.sources import SourceFile, SourceIndex, raster_files
from fusi_pipeline.tiles.grid import HALF_WORLD_M, XYBounds

GROUPS = (
    *("japan", "riviera", "sthelens", "auckland", "sf_bay"),
    *("equator", "odd", "minnesota", "portland", "los_angeles"),
)


def scanned(folder: Path, place: Path) -> tuple[ScanReport, list[SourceFile]]:
    """Scan a copy of a folder; return the report and the records."""
    copy = place / folder.name
    shutil.copytree(folder, copy)
    running = scan(copy, place / f"{folder.name}.index", name=folder.name)
    report = None
    while report is None:
        try:
            next(running)
        except StopIteration as stop:
            report = stop.value
    with SourceIndex(place / f"{folder.name}.index") as index:
        return report, list(index.files())


@pytest.mark.parametrize("group", GROUPS)
def test_figures_agree_with_rasterio(dem: Path, tmp_path: Path, group: str) -> None:
    for folder in sorted((dem / group).iterdir()):
        _, files = scanned(folder, tmp_path)
        assert [folder / file.filename for file in files] == raster_files(folder)
        for file in files:
            with rasterio.open(folder / file.filename) as dataset:
                heights = np.ma.masked_invalid(dataset.read(1, masked=True))
                box = transform_bounds(dataset.crs, "EPSG:3857", *sorted_bounds(dataset.bounds))
            assert file.valid_pixels == heights.count()
            if file.valid_pixels:
                assert (file.minimum, file.maximum) == (heights.min(), heights.max())
            assert (file.box.left, file.box.bottom, file.box.right, file.box.top) == pytest.approx(
                box, abs=0.01
            )


def sorted_bounds(bounds: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top of a grid that may be south-up."""
    left, bottom, right, top = bounds
    return left, min(bottom, top), right, max(bottom, top)


def test_warnings_are_few_and_right(dem: Path, tmp_path: Path) -> None:
    found = {}
    for group in GROUPS:
        for folder in sorted((dem / group).iterdir()):
            report, _ = scanned(folder, tmp_path / group)
            found.update({(folder.name, name): text for name, text in report.warnings})
    assert list(found) == [("usgs_dome_webmerc_zero", "5.tif")]
    assert "0 looks like fill" in found["usgs_dome_webmerc_zero", "5.tif"]


def test_the_globe(dem: Path, tmp_path: Path) -> None:
    report, _ = scanned(dem / "global" / "etopo1_1deg", tmp_path)
    edge = HALF_WORLD_M
    assert report.bounds == XYBounds(-edge, -edge, edge, edge)


def test_formats_other_than_tiff(dem: Path, tmp_path: Path) -> None:
    _, (hgt,) = scanned(dem / "originals" / "hgt", tmp_path)
    _, tifs = scanned(dem / "riviera" / "srtm3", tmp_path)
    tif = next(file for file in tifs if file.filename == "N43E006.tif")
    assert (hgt.width, hgt.height, hgt.maxzoom, hgt.nodata) == (1201, 1201, 10, -32768.0)
    assert (hgt.minimum, hgt.maximum, hgt.valid_pixels) == (tif.minimum, tif.maximum, tif.valid_pixels)
    for name in ("dted", "usgs_dem", "netcdf"):
        report, _ = scanned(dem / "originals" / name, tmp_path)
        assert (report.files, report.broken) == (1, ())
    with pytest.raises(SourceEmpty, match="holds no raster"):
        scanned(dem / "originals" / "compound_crs", tmp_path)
