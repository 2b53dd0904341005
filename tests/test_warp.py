"""One window of a source against GDAL's own warp with an exact transform, and against itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.env import get_gdal_config, set_gdal_config
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from fusi_pipeline import warp
from fusi_pipeline.errors import SourceUnreadable
from fusi_pipeline.plan import BuildOptions, plan_source
from fusi_pipeline.sources import SourceFile, SourceIndex, raster_entries, read_config
from fusi_pipeline.survey import Survey
from fusi_pipeline.tasks import WarpParameters
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.warp import Datasets, TargetWindow
from tests import rasters

Heights = npt.NDArray[np.float32]
METHODS = {
    "nearest": Resampling.nearest,
    "bilinear": Resampling.bilinear,
    "cubic": Resampling.cubic,
    "cubicspline": Resampling.cubic_spline,
    "average": Resampling.average,
}
EXACT_PX = 1e-6
"""GDAL's tolerance in source pixels, for an oracle without error of its own."""
FAST_PX = 1e-3
"""For the real set, where an oracle to a fraction of a vertical step does."""


@dataclass(frozen=True)
class Source:
    """A scanned source folder: its files and the parameters it is warped with at its own zoom."""

    folder: Path
    files: tuple[SourceFile, ...]
    parameters: WarpParameters
    maxzoom: int
    blocks: tuple[tuple[int, int], ...]
    block_zoom: int

    def warp(self, window: TargetWindow, *, threads: int = 1, **changes: Any) -> Heights:
        """Return the heights of a window."""
        with Datasets(self.folder) as datasets:
            return warp.warp(
                self.files, datasets, window, replace(self.parameters, **changes), threads=threads
            )

    def window(self, z: int | None = None, margin: int = 8) -> TargetWindow:
        """Return the window around all files at a zoom, whatever side of the antimeridian is west."""
        z = self.maxzoom if z is None else z
        boxes = [part for file in self.files for part in file.box.parts()]
        return window_around(
            min(box.left for box in boxes), min(box.bottom for box in boxes),
            max(box.right for box in boxes), max(box.top for box in boxes), z, margin,
        )  # fmt: skip


def window_around(left: float, bottom: float, right: float, top: float, z: int, margin: int) -> TargetWindow:
    size, world = grid.resolution_m(z), 512 << z
    col_off = max(int((left + grid.HALF_WORLD_M) / size) - margin, 0)
    row_off = max(int((grid.HALF_WORLD_M - top) / size) - margin, 0)
    last_col = min(int((right + grid.HALF_WORLD_M) / size) + margin, world)
    last_row = min(int((grid.HALF_WORLD_M - bottom) / size) + margin, world)
    return TargetWindow(z, col_off, row_off, last_col - col_off, last_row - row_off)


class Files:
    """What a plan asks of an index, of files surveyed a moment ago."""

    def __init__(self, files: Sequence[SourceFile]) -> None:
        self._files = files

    def files(self) -> Sequence[SourceFile]:
        return self._files

    def maxzoom(self) -> int:
        return max(file.maxzoom for file in self._files)


def opened(folder: Path, maxzoom: int | None = None) -> Source:
    """Survey a folder and plan it, without writing an index."""
    config = read_config(folder)
    survey = Survey(folder, config)
    files = []
    for entry in raster_entries(folder):
        found = survey(entry)
        assert isinstance(found, SourceFile), found
        files.append(found)
    plan = plan_source(folder.name, config, cast(SourceIndex, Files(files)), BuildOptions(maxzoom=maxzoom))
    return Source(
        folder,
        tuple(files),
        WarpParameters(config.resampling, config.unit_factor, config.offset_m, plan.averaged),
        plan.maxzoom,
        tuple((x, y) for x, y in plan.coordinates.tolist()),
        plan.block_zoom,
    )


def gdal_warp(path: Path, window: TargetWindow, method: str, tolerance_px: float = EXACT_PX) -> Heights:
    """Return GDAL's warp of one raster, NaN where missing."""
    size, box = grid.resolution_m(window.z), window.box
    with (
        rasterio.open(path) as dataset,
        WarpedVRT(
            dataset,
            crs="EPSG:3857",
            transform=Affine(size, 0, box.left, 0, -size, box.top),
            width=window.width,
            height=window.height,
            resampling=METHODS[method],
            nodata=np.nan,
            dtype="float32",
            tolerance=tolerance_px,
            XSCALE=1,
            YSCALE=1,
        ) as vrt,
    ):
        heights: Heights = vrt.read(1)
        return heights


def filled(*layers: Heights) -> Heights:
    """Return the first array with its missing pixels taken from the next."""
    out = layers[0].copy()
    for layer in layers[1:]:
        out = np.where(np.isnan(out), layer, out)
    return out


def worst(ours: Heights, theirs: Heights) -> float:
    """Return the largest difference where both are valid, which must be somewhere."""
    both = ~np.isnan(ours) & ~np.isnan(theirs)
    assert both.any()
    return float(np.abs(ours[both].astype(np.float64) - theirs[both]).max())


def disagreeing(ours: Heights, theirs: Heights) -> int:
    """Return how many pixels only one of two holds valid."""
    return int((np.isnan(ours) != np.isnan(theirs)).sum())


def away_from_edges(heights: Heights, by: int = 1) -> npt.NDArray[np.bool_]:
    """Return the valid pixels whose neighbours within `by` are valid too."""
    valid = np.pad(~np.isnan(heights), by)
    inner = np.ones(heights.shape, bool)
    for row in range(2 * by + 1):
        for col in range(2 * by + 1):
            inner &= valid[row : row + heights.shape[0], col : col + heights.shape[1]]
    return inner


ROUGH = rasters.terrain(150, 180)
HOLE = rasters.hole(150, 180, share=0.1)
PLACES: dict[str, dict[str, Any]] = {
    "degrees": {"crs": "EPSG:4326", "left": 7.0, "top": 47.0, "pixel": 0.00083},
    "southern-hemisphere": {"crs": "EPSG:4326", "left": -70.3, "top": -32.1, "pixel": 0.0021},
    "across-the-equator": {"crs": "EPSG:4326", "left": -0.05, "top": 0.05, "pixel": 0.0007},
    "utm": {"crs": "EPSG:32632", "left": 430_000.0, "top": 5_200_000.0, "pixel": 25.0},
    "nad27-utm": {"crs": "EPSG:26710", "left": 557_805.0, "top": 5_122_005.0, "pixel": 30.0},
    "nad27-degrees": {"crs": "EPSG:4267", "left": -120.5, "top": 46.2, "pixel": 0.0003},
    "laea": {"crs": "EPSG:3035", "left": 4_321_000.0, "top": 2_800_000.0, "pixel": 1000.0},
    "mercator": {"crs": "EPSG:3857", "left": 779_236.4, "top": 5_942_074.1, "pixel": 23.7},
    "anisotropic": {"crs": "EPSG:4326", "left": -147.76, "top": 64.85, "pixel": (0.0011, 0.0003)},
    "high-latitude": {"crs": "EPSG:32633", "left": 502_810.0, "top": 8_674_030.0, "pixel": 40.0},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", PLACES)
def test_agrees_with_gdal(tmp_path: Path, place: str, method: str) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, nodata=-9999, absent=HOLE, **PLACES[place])
    source = opened(path.parent)
    window = source.window()
    ours = source.warp(window, resampling=method)
    theirs = gdal_warp(path, window, method)
    if method == "average":
        inner = away_from_edges(theirs)
        assert worst(ours[inner], theirs[inner]) < 0.01
        assert disagreeing(ours[inner], theirs[inner]) == 0
        return
    assert disagreeing(ours, theirs) <= 2
    if method == "nearest":  # where a coordinate lies between two pixels, either may be taken
        both = ~np.isnan(ours) & ~np.isnan(theirs)
        assert (ours[both] != theirs[both]).mean() < 1e-3
    else:
        assert worst(ours, theirs) < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_south_up_file_is_its_north_up_twin(tmp_path: Path, method: str) -> None:
    upright = rasters.write(tmp_path / "n" / "a.tif", ROUGH, nodata=-9999, absent=HOLE)
    turned = rasters.write(
        tmp_path / "s" / "a.tif", ROUGH, nodata=-9999, absent=np.flipud(np.flipud(HOLE)), south_up=True
    )
    ours, twin = opened(turned.parent), opened(upright.parent)
    assert ours.window() == twin.window()
    got, wanted = (one.warp(one.window(), resampling=method) for one in (ours, twin))
    assert disagreeing(got, wanted) == 0
    assert worst(got, wanted) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_neighbouring_files_are_one_raster(tmp_path: Path, method: str) -> None:
    place = {"crs": "EPSG:32632", "left": 430_000.0, "top": 5_200_000.0, "pixel": 25.0}
    whole = rasters.write(tmp_path / "whole" / "a.tif", ROUGH, **place)
    rasters.write_many(tmp_path / "cut", ROUGH, 2, **place)
    one, four = opened(whole.parent), opened(tmp_path / "cut")
    got, wanted = (source.warp(one.window(), resampling=method) for source in (four, one))
    assert disagreeing(got, wanted) == 0
    assert worst(got, wanted) < 1e-3


def test_an_earlier_file_wins_where_files_of_one_grid_overlap_and_is_filled_from_the_later(
    tmp_path: Path,
) -> None:
    rasters.write(tmp_path / "s" / "a.tif", np.full((60, 60), 100.0), nodata=-1, absent=rasters.hole(60, 60))
    rasters.write(tmp_path / "s" / "b.tif", np.full((60, 60), 200.0))
    source = opened(tmp_path / "s")
    heights = source.warp(source.window(), resampling="nearest")
    assert sorted(np.unique(heights[~np.isnan(heights)])) == [100.0, 200.0]
    assert 0.2 < (heights == 200).sum() / (~np.isnan(heights)).sum() < 0.4


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
def test_a_file_off_the_grid_of_another_fills_what_that_misses(tmp_path: Path, method: str) -> None:
    first = rasters.write(tmp_path / "s" / "a.tif", ROUGH, left=7.0, nodata=-9999, absent=HOLE)
    second = rasters.write(tmp_path / "s" / "b.tif", ROUGH + 50, left=7.0037, top=47.0061)
    source = opened(first.parent)
    window = source.window()
    ours = source.warp(window, resampling=method)
    layers = [gdal_warp(path, window, method) for path in (first, second)]
    either = [filled(*layers), filled(*layers[::-1])]
    theirs = min(either, key=lambda heights: worst(ours, heights))
    assert disagreeing(ours, theirs) <= 2
    assert worst(ours, theirs) < 0.01


UTM_PLACES = [
    {"crs": "EPSG:32632", "left": 690_000.0, "top": 5_200_000.0, "pixel": 100},
    {"crs": "EPSG:32633", "left": 240_000.0, "top": 5_200_000.0, "pixel": 100},
]
GRIDS = {
    "two UTM zones": (UTM_PLACES, [{**UTM_PLACES[0], "top": 5_900_000}, {**UTM_PLACES[1], "top": 5_900_000}]),
    "two phases of one grid": (
        [{"left": 7.0, "top": 47.0}, {"left": 7.0037, "top": 47.0061}],
        [{"left": 9.0, "top": 47.0}, {"left": 9.0037, "top": 47.0061}],
    ),
}


@pytest.mark.parametrize("far", [0, 1])
@pytest.mark.parametrize("case", GRIDS)
def test_a_file_that_does_not_reach_a_window_changes_nothing_there(
    tmp_path: Path, case: str, far: int
) -> None:
    near_places, far_places = GRIDS[case]
    for name, shift_m, place in zip("bc", (0, 100), near_places, strict=True):
        rasters.write(tmp_path / "s" / f"{name}.tif", ROUGH + shift_m, **place)
    alone = opened(tmp_path / "s")
    wanted = alone.warp(alone.window())
    rasters.write(tmp_path / "s" / "a.tif", ROUGH, **far_places[far])
    np.testing.assert_array_equal(opened(tmp_path / "s").warp(alone.window()), wanted)


def test_of_files_in_different_crss_the_finest_comes_first(tmp_path: Path) -> None:
    fine = rasters.write(
        tmp_path / "s" / "z.tif", ROUGH, crs="EPSG:32632", left=430_000.0, top=5_200_000.0, pixel=25.0
    )
    coarse = rasters.write(tmp_path / "s" / "a.tif", ROUGH, left=8.0, top=47.1, pixel=0.002)
    source = opened(fine.parent)
    window = source.window()
    theirs = filled(gdal_warp(fine, window, "bilinear"), gdal_warp(coarse, window, "bilinear"))
    ours = source.warp(window)
    assert disagreeing(ours, theirs) <= 2
    assert worst(ours, theirs) < 0.01


def test_a_file_past_180_degrees_is_seen_from_both_sides(tmp_path: Path) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, left=179.1, top=-16.0, pixel=0.01)
    twin = rasters.write(tmp_path / "twin.tif", ROUGH, left=179.1 - 360, top=-16.0, pixel=0.01)
    source = opened(path.parent)
    whole = source.window()
    world = 512 << whole.z
    west = TargetWindow(whole.z, world - 120, whole.row_off, 120, whole.height)
    east = TargetWindow(whole.z, 0, whole.row_off, 120, whole.height)
    for window, oracle in ((west, path), (east, twin)):
        ours, theirs = source.warp(window), gdal_warp(oracle, window, "bilinear")
        assert disagreeing(ours, theirs) == 0
        assert worst(ours, theirs) < 0.01


@pytest.mark.parametrize("zone", ["EPSG:32660", "EPSG:32601"])
def test_a_utm_file_across_the_antimeridian(tmp_path: Path, zone: str) -> None:
    left = 815_000.0 if zone == "EPSG:32660" else 175_000.0
    path = rasters.write(
        tmp_path / "s" / "a.tif", ROUGH, crs=zone, left=left - 15_000, top=1_800_000, pixel=200
    )
    source = opened(path.parent)
    whole = source.window()
    world = 512 << whole.z
    assert whole.width == world
    for col_off in (world - 300, 0):
        window = TargetWindow(whole.z, col_off, whole.row_off, 300, whole.height)
        ours, theirs = source.warp(window), gdal_warp(path, window, "bilinear")
        assert disagreeing(ours, theirs) <= 2
        assert worst(ours, theirs) < 0.01


def test_a_polar_file_covers_all_longitudes(tmp_path: Path) -> None:
    path = rasters.write(
        tmp_path / "s" / "a.tif", rasters.terrain(400, 400), crs="EPSG:3413", left=-2e6, top=2e6, pixel=10_000
    )
    source = opened(path.parent)
    whole = source.window()
    assert whole.width == 512 << whole.z
    ours, theirs = source.warp(whole), gdal_warp(path, whole, "bilinear")
    assert not np.isnan(ours[40]).any()
    assert disagreeing(ours, theirs) <= 4
    assert worst(ours, theirs) < 0.05


def test_the_globe_from_0_to_360_is_the_globe_from_180_west(tmp_path: Path) -> None:
    heights = rasters.terrain(180, 360)
    rasters.write(tmp_path / "a" / "a.tif", heights, left=0, top=90, pixel=1)
    rasters.write(tmp_path / "b" / "a.tif", np.roll(heights, 180, axis=1), left=-180, top=90, pixel=1)
    ours, twin = opened(tmp_path / "a"), opened(tmp_path / "b")
    window = TargetWindow(1, 0, 0, 1024, 1024)
    got, wanted = ours.warp(window), twin.warp(window)
    assert not np.isnan(got).any()
    assert not np.isnan(wanted).any()
    pixel = 1024 / 360
    seams = np.zeros(1024, bool)
    for seam in (0, 512, 1024):
        seams[max(int(seam - pixel), 0) : int(seam + pixel) + 1] = True
    assert worst(got[:, ~seams], wanted[:, ~seams]) < 1e-3


def test_files_on_both_sides_of_the_antimeridian_leave_no_gap(tmp_path: Path) -> None:
    rasters.write(tmp_path / "s" / "w.tif", rasters.plane(50, 50), left=179.5, top=10, pixel=0.01)
    rasters.write(tmp_path / "s" / "e.tif", rasters.plane(50, 50), left=-180.0, top=10, pixel=0.01)
    source = opened(tmp_path / "s")
    whole = source.window(margin=-2)
    world = 512 << whole.z
    for col_off in (0, world - 40):
        window = TargetWindow(whole.z, col_off, whole.row_off + 4, 40, whole.height - 8)
        assert not np.isnan(source.warp(window)).any()


def test_the_cache_of_gdal_is_set_in_mebibytes() -> None:
    before = get_gdal_config("GDAL_CACHEMAX")
    try:
        warp.configure_gdal(48, 1)
        assert get_gdal_config("GDAL_CACHEMAX") == 48 << 20
    finally:
        set_gdal_config("GDAL_CACHEMAX", before)


def test_a_mercator_file_past_the_antimeridian_goes_on_in_the_west(tmp_path: Path) -> None:
    east = grid.HALF_WORLD_M
    rasters.write(
        tmp_path / "s" / "a.tif", rasters.plane(80, 120), crs="EPSG:3857", left=east - 6000, top=0, pixel=100
    )
    source = opened(tmp_path / "s")
    z, size = source.maxzoom, grid.resolution_m(source.maxzoom)
    rows = (512 << z) // 2 + 8
    beyond = TargetWindow(z, 0, rows, int(5800 / size), 20)
    before = TargetWindow(z, (512 << z) - int(5800 / size), rows, int(5800 / size), 20)
    west, within = source.warp(beyond), source.warp(before)
    assert not np.isnan(west).any()
    slope = np.diff(within, axis=1).mean()
    assert abs(west[0, 0] - within[0, -1] - slope) < 0.01 * abs(slope)


@pytest.mark.parametrize("coarser", [2, 3])
@pytest.mark.parametrize("method", ["bilinear", "cubic", "cubicspline", "nearest"])
@pytest.mark.parametrize("place", ["degrees", "utm", "mercator"])
def test_a_base_zoom_coarser_than_the_data_is_averaged(
    tmp_path: Path, place: str, method: str, coarser: int
) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, **PLACES[place])
    own = opened(path.parent).maxzoom
    source = opened(path.parent, own - coarser)
    window = source.window()
    ours, theirs = source.warp(window, resampling=method), gdal_warp(path, window, "average")
    inner = away_from_edges(theirs, 2)
    assert source.parameters.averaged
    assert worst(ours[inner], theirs[inner]) < (0.01 if place != "utm" else 1.0)


def test_an_average_is_the_mean_of_the_pixels_under_it(tmp_path: Path) -> None:
    z, factor, side = 9, 4, 256
    size = grid.resolution_m(z) / factor
    heights = rasters.terrain(side, side)
    absent = rasters.hole(side, side)
    rasters.write(
        tmp_path / "s" / "a.tif", heights, crs="EPSG:3857", left=0.0, top=size * side, pixel=size,
        nodata=-9999, absent=absent,
    )  # fmt: skip
    source = opened(tmp_path / "s", z)
    world = 512 << z
    window = TargetWindow(z, world // 2, world // 2 - side // factor, side // factor, side // factor)
    pixels = np.where(absent, np.nan, heights).astype(np.float32).astype(np.float64)
    squares = pixels.reshape(side // factor, factor, side // factor, factor)
    known = (~np.isnan(squares)).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        wanted = np.nansum(squares, axis=(1, 3)) / known
    ours = source.warp(window)
    assert (np.isnan(ours) == (known == 0)).all()
    assert worst(ours, wanted.astype(np.float32)) < 1e-3


@pytest.mark.parametrize("place", ["degrees", "utm", "mercator"])
def test_an_average_is_valid_wherever_it_covers_some_of_the_data(tmp_path: Path, place: str) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, **PLACES[place])
    source = opened(path.parent, opened(path.parent).maxzoom - 2)
    window = source.window()
    ours = source.warp(window)
    fine = opened(path.parent, window.z + 4).warp(
        TargetWindow(window.z + 4, *(value * 16 for value in (
            window.col_off, window.row_off, window.width, window.height
        ))),
        resampling="nearest", averaged=frozenset(),
    )  # fmt: skip
    touched = (~np.isnan(fine)).reshape(window.height, 16, window.width, 16).any(axis=(1, 3))
    missed = touched & np.isnan(ours)
    assert missed.sum() == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("place", ["utm", "degrees", "laea"])
def test_windows_cut_in_any_way_give_the_same_heights(tmp_path: Path, place: str, method: str) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, nodata=-9999, absent=HOLE, **PLACES[place])
    source = opened(path.parent)
    whole = source.window()
    wanted = source.warp(whole, resampling=method)
    chance = np.random.default_rng(7)
    rows = [0, *sorted(chance.choice(np.arange(1, whole.height), 2, replace=False).tolist()), whole.height]
    cols = [0, *sorted(chance.choice(np.arange(1, whole.width), 3, replace=False).tolist()), whole.width]
    got = np.empty_like(wanted)
    for top, bottom in itertools.pairwise(rows):
        for left, right in itertools.pairwise(cols):
            part = TargetWindow(
                whole.z, whole.col_off + left, whole.row_off + top, right - left, bottom - top
            )
            got[top:bottom, left:right] = source.warp(part, resampling=method)
    assert disagreeing(got, wanted) == 0
    if method == "nearest":
        assert (got != wanted)[~np.isnan(got)].mean() < 1e-4
    else:
        assert worst(got, wanted) < 1e-3


def test_a_source_window_beyond_the_memory_limit_gives_the_same_heights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, nodata=-9999, absent=HOLE, **PLACES["utm"])
    source = opened(path.parent)
    wanted = source.warp(source.window())
    monkeypatch.setattr(warp, "_MAX_SOURCE_PX", 6000)
    got = source.warp(source.window())
    assert disagreeing(got, wanted) == 0
    assert worst(got, wanted) < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_threads_do_not_change_a_height(tmp_path: Path, method: str) -> None:
    path = rasters.write(tmp_path / "s" / "a.tif", ROUGH, nodata=-9999, absent=HOLE, **PLACES["utm"])
    source = opened(path.parent)
    alone, shared = (source.warp(source.window(), resampling=method, threads=n) for n in (1, 3))
    np.testing.assert_array_equal(alone, shared)


def test_quarters_are_the_window_without_gap_or_overlap() -> None:
    for width, height in ((1, 5), (5, 1), (7, 4), (2, 2)):
        covered = np.zeros((height, width), int)
        for part in TargetWindow(3, 10, 20, width, height).quarters():
            row, col = part.row_off - 20, part.col_off - 10
            covered[row : row + part.height, col : col + part.width] += 1
        assert (covered == 1).all()


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = rasters.write(tmp_path / "s" / "gone.tif", ROUGH)
    source = opened(path.parent)
    path.unlink()
    with pytest.raises(SourceUnreadable, match=r"gone\.tif"):
        source.warp(source.window())


def test_a_file_that_was_cut_short_is_named(tmp_path: Path) -> None:
    path = rasters.write(tmp_path / "s" / "short.tif", ROUGH)
    source = opened(path.parent)
    rasters.truncate(path)
    with pytest.raises(SourceUnreadable, match=r"short\.tif"):
        source.warp(source.window())


# The real set


def real_sources(dem: Path) -> list[Path]:
    return sorted(path for path in dem.glob("*/*") if path.is_dir() and path.parent.name != "originals")


def one_piece(source: Source, path: Path) -> Path:
    """Write all files of a source, which must share a grid, as one float32 raster with NaN for absence."""
    parts: list[tuple[Heights, Affine]] = []
    for file in source.files:
        with rasterio.open(source.folder / file.filename) as dataset:
            heights = dataset.read(1, masked=True).astype(np.float32).filled(np.nan)
            transform = dataset.transform
        heights[np.abs(heights) > 1e30] = np.nan
        if transform.e > 0:
            heights = heights[::-1]
            transform = transform @ Affine.translation(0, len(heights)) @ Affine.scale(1, -1)
        parts.append((heights, transform))
    first = parts[0][1]
    corners = [(round((t.f - first.f) / first.e), round((t.c - first.c) / first.a)) for _, t in parts]
    top, left = min(row for row, _ in corners), min(col for _, col in corners)
    bottom = max(row + len(heights) for (row, _), (heights, _) in zip(corners, parts, strict=True))
    right = max(col + heights.shape[1] for (_, col), (heights, _) in zip(corners, parts, strict=True))
    mosaic = np.full((bottom - top, right - left), np.nan)
    for (row, col), (heights, _) in zip(corners, parts, strict=True):
        place = mosaic[row - top : row - top + len(heights), col - left : col - left + heights.shape[1]]
        np.copyto(place, heights, where=np.isnan(place))
    return rasters.write(
        path, mosaic, crs=CRS.from_wkt(source.files[0].crs), nodata=np.nan,  # type: ignore[arg-type]
        transform=first @ Affine.translation(left, top),
    )  # fmt: skip


def linked(folder: Path, place: Path) -> Path:
    """Return a folder of links to the files of another, which is never written to."""
    place.mkdir(parents=True)
    for path in folder.iterdir():
        (place / path.name).symlink_to(path)
    return place


def shared(one: TargetWindow, other: TargetWindow) -> TargetWindow:
    """Return where two windows of one zoom overlap."""
    left, top = max(one.col_off, other.col_off), max(one.row_off, other.row_off)
    right = min(one.col_off + one.width, other.col_off + other.width)
    bottom = min(one.row_off + one.height, other.row_off + other.height)
    return TargetWindow(one.z, left, top, right - left, bottom - top)


def compare(source: Source, oracle: Path, method: str, blocks: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Check blocks warped one by one against one warp; return (valid, disagreeing) pixels."""
    valid = differing = 0
    side = 512 << (source.maxzoom - source.block_zoom)
    for x, y in blocks:
        block = TargetWindow(source.maxzoom, x * side, y * side, side, side)
        window = shared(block, source.window())
        ours = source.warp(block, resampling=method)[
            window.row_off - block.row_off : window.row_off - block.row_off + window.height,
            window.col_off - block.col_off : window.col_off - block.col_off + window.width,
        ]
        theirs = gdal_warp(oracle, window, method, FAST_PX)
        if np.isnan(ours).all() and np.isnan(theirs).all():
            continue
        assert worst(ours, theirs) <= terrarium.step_m(source.maxzoom)
        valid += int((~np.isnan(theirs)).sum())
        differing += disagreeing(ours, theirs)
    return valid, differing


def test_real_sources_agree_with_gdal_to_one_vertical_step(dem: Path, tmp_path: Path) -> None:
    for folder in real_sources(dem):
        name = f"{folder.parent.name}-{folder.name}"
        source = opened(linked(folder, tmp_path / name))
        oracle = one_piece(source, tmp_path / f"{name}.tif")
        valid, differing = compare(source, oracle, "bilinear", source.blocks[:8])
        assert valid, name
        assert differing <= 10, name


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("sthelens/usgs_dem_30m_nad27", "cubic"),
        ("riviera/srtm3_utm31", "cubicspline"),
        ("japan/gsi_dem5b", "cubic"),
        ("odd/glo30_fairbanks", "cubicspline"),
        ("riviera/eudem_25km", "cubic"),
    ],
)
def test_real_sources_agree_with_gdal_by_other_methods(
    dem: Path, tmp_path: Path, name: str, method: str
) -> None:
    source = opened(linked(dem / name, tmp_path / "source"))
    oracle = one_piece(source, tmp_path / "oracle.tif")
    valid, differing = compare(source, oracle, method, source.blocks)
    assert valid
    assert differing <= 10
