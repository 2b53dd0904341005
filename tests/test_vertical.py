"""Vertical references: what is declared, what is converted, what is refused."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyproj
import pytest
import rasterio
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.transform import Affine
from scipy.interpolate import RegularGridInterpolator

from fusi_pipeline import height_shift, vertical, vertical_shift
from fusi_pipeline.aggregate import aggregate, index_source
from fusi_pipeline.build import BuildReport, build
from fusi_pipeline.errors import (
    FusiError,
    GeoidGridMissing,
    HeightsInconvertible,
    HeightsUndeclared,
    OutsideGeoidGrid,
    SourceConfigInvalid,
)
from fusi_pipeline.plan import BuildOptions, plan_source
from fusi_pipeline.progress import Progress
from fusi_pipeline.scan import ScanReport, scan
from fusi_pipeline.settings import settings_from
from fusi_pipeline.sources import SourceFile, SourceIndex, raster_entries, read_config
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.grid import HALF_WORLD_M, Bounds, Tile, project, resolution_m
from fusi_pipeline.tiles.image import decode_webp
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from tests import rasters

Array = npt.NDArray[np.float64]
Geoid = Callable[[Array, Array], Array]
Result = TypeVar("Result")
WGS84 = vertical.reference("EPSG:4979")
SCALED = (
    "proj=pipeline step proj=unitconvert xy_in=deg xy_out=rad step proj=cart ellps=WGS84 "
    "step proj=helmert x=1 s=20 step inv proj=cart ellps=WGS84 step proj=unitconvert xy_in=rad xy_out=deg"
)
"""A Helmert transformation that makes everything larger by 20 parts in a million."""
EGM96_GRID = "us_nga_egm96_15.tif"


def plane(lon: Array, lat: Array) -> Array:
    """A geoid that a lattice has exactly, in degrees: 40 m, sloping 0.1 and 0.2 m a degree."""
    return 40 + 0.1 * lon + 0.2 * lat


def bumpy(lon: Array, lat: Array) -> Array:
    """A geoid with the roughest slopes of real ones: up to 1 m in 10 km, within 15 km."""
    return 30 + 0.8 * np.sin(lon * 40) * np.cos(lat * 45) + 5 * np.sin(lon) * np.sin(2 * lat)


def zero(lon: Array, lat: Array) -> Array:
    return 0 * (lon + lat)


def write_gtx(
    path: Path,
    geoid: Geoid,
    area: tuple[float, float, float, float] = (7.5, 46, 9.5, 48),
    step: float = 1 / 60,
) -> Path:
    """Write geoid heights over (west, south, east, north) as a GTX: big-endian, rows from the south."""
    west, south, east, north = area
    lon = west + step * np.arange(round((east - west) / step) + 1)
    lat = south + step * np.arange(round((north - south) / step) + 1)
    heights = geoid(*np.meshgrid(lon, lat))
    header = struct.pack(">4d2i", south, west, step, step, len(lat), len(lon))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + heights.astype(">f4").tobytes())
    return path


def write_egm96(folder: Path, geoid: Geoid = plane) -> Path:
    """Write a stand-in for PROJ's own grid of EGM96, by its name and in its form."""
    lon, lat = np.meshgrid(np.arange(-180, 180, 1.0), np.arange(90, -91, -1.0))
    folder.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "width": 360, "height": 181, "count": 1, "dtype": "float32"}
    place = {"crs": "EPSG:4979", "transform": Affine(1, 0, -180.5, 0, -1, 90.5)}
    with rasterio.open(folder / EGM96_GRID, "w", **profile, **place) as dataset:
        dataset.write(geoid(lon, lat).astype(np.float32), 1)
        dataset.update_tags(TYPE="VERTICAL_OFFSET_GEOGRAPHIC_TO_VERTICAL", AREA_OR_POINT="Point")
        dataset.set_band_description(1, "geoid_undulation")
    return folder / EGM96_GRID


@pytest.fixture
def egm96(tmp_path: Path) -> Iterator[Path]:
    """A stand-in for the grid of EGM96 in one of PROJ's data folders."""
    before = pyproj.datadir.get_data_dir()
    path = write_egm96(tmp_path / "proj")
    pyproj.datadir.set_data_dir(f"{before}{os.pathsep}{path.parent}")
    yield path
    pyproj.datadir.set_data_dir(before)


def pixel_at(z: int, lon: float, lat: float) -> tuple[int, int]:
    """Return the column and row of the pixel at a position."""
    x_m, y_m = project(lon, lat)
    return int((x_m + HALF_WORLD_M) / resolution_m(z)), int((HALF_WORLD_M - y_m) / resolution_m(z))


def shift_of(path: Path) -> vertical_shift.Shift:
    return vertical_shift.through_grid("alps", WGS84, path)


def finish(work: Generator[Progress, None, Result]) -> Result:
    """Return what a piece of work returns, past all its progress."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result


class Source:
    """A source of a test, scanned and built below a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.folder = place / "store" / "alps"
        self.index_path = place / "output" / "alps.index.db"

    def write(self, heights: Array, name: str = "a.tif", **facts: object) -> Path:
        """Write a raster of the source (see `rasters.write`)."""
        return rasters.write(self.folder / name, heights, **{**PLACE, **facts})  # type: ignore[arg-type]

    def configure(self, text: str) -> None:
        """Write `source.toml`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "source.toml").write_text(text, encoding="utf-8")

    def scan(self) -> ScanReport:
        """Scan, into the index."""
        return finish(scan(self.folder, self.index_path, name="alps"))

    def build(
        self, output: str = "alps.mbtiles", workers: int = 1, options: BuildOptions | None = None
    ) -> BuildReport:
        """Scan and build."""
        self.scan()
        environment = {
            "FUSI_SOURCE_STORE": str(self.folder.parent),
            "FUSI_OUTPUT_DIR": str(self.place / "output"),
        }
        settings = settings_from({"FUSI_WORKERS": str(workers), **environment})
        return finish(
            build(
                "alps",
                self.folder,
                read_config(self.folder),
                self.index_path,
                self.place / "output" / output,
                options or BuildOptions(),
                settings,
            )
        )

    def file(self) -> SourceFile:
        """Scan and return the only record."""
        self.scan()
        with SourceIndex(self.index_path) as index:
            (file,) = index.files()
        return file


PLACE: dict[str, object] = {"left": 8.0, "top": 47.5, "pixel": 0.0025}
FLAT = np.full((240, 300), 500.0)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def tiles(path: Path, z: int) -> Iterator[tuple[Array, Array, Array]]:
    """Yield the heights of every tile of a zoom with the longitudes and latitudes of its pixels."""
    with MBTilesReader(path) as reader:
        for x, y in reader.coordinates(z).tolist():
            data = reader.read(Tile(z, x, y))
            assert data is not None
            heights = terrarium.decode(decode_webp(data)).astype(np.float64)
            cols, rows = np.meshgrid(x * 512 + np.arange(512), y * 512 + np.arange(512))
            size = resolution_m(z)
            to_degrees = Transformer.from_crs("EPSG:3857", "EPSG:4326", always_xy=True)
            yield (
                heights,
                *to_degrees.transform((cols + 0.5) * size - HALF_WORLD_M, HALF_WORLD_M - (rows + 0.5) * size),
            )


def assert_heights(path: Path, z: int, expected: Geoid, tolerance_m: float = 0.0) -> None:
    """Compare all valid heights of a zoom with a function of longitude and latitude."""
    count = 0
    for heights, lon, lat in tiles(path, z):
        valid = ~np.isnan(heights)
        error = np.abs(heights - expected(lon, lat))[valid]
        count += len(error)
        assert error.max() <= terrarium.step_m(z) / 2 + tolerance_m
    assert count > 50_000


# References


@pytest.mark.parametrize(
    ("text", "name", "ellipsoidal", "metres"),
    [
        ("EPSG:5773", "EGM96 height", False, 1.0),
        ("EPSG:4979", "WGS 84 ellipsoidal height", True, 1.0),
        ("EPSG:4326+5773", "EGM96 height", False, 1.0),
        ("EPSG:26918+6360", "NAVD88 height (ftUS)", False, 1200 / 3937),
        ("EPSG:5715", "MSL depth", False, -1.0),
    ],
)
def test_reference(text: str, name: str, ellipsoidal: bool, metres: float) -> None:
    found = vertical.reference(text)
    assert (found.name, found.ellipsoidal) == (name, ellipsoidal)
    assert found.metres == pytest.approx(metres, rel=1e-12)
    assert CRS.from_wkt(found.base).is_geographic


@pytest.mark.parametrize("text", ["EPSG:4326", "EPSG:32632", "EPSG:4978", "EPSG:1", "EGM96", "1"])
def test_what_says_nothing_of_heights_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match="expected a vertical CRS such as EPSG:5773"):
        vertical.reference(text)


@pytest.mark.parametrize(
    ("text", "horizontal", "declared"),
    [
        ("EPSG:32632", "EPSG:32632", ""),
        ("EPSG:4979", "EPSG:4326", "EPSG:4979"),
        ("EPSG:4326+5773", "EPSG:4326", "EPSG:4326+5773"),
        ("EPSG:26918+6360", "EPSG:26918", "EPSG:4269+6360"),
        ("EPSG:2056+5729", "EPSG:2056", "EPSG:4150+5729"),
    ],
)
def test_split(text: str, horizontal: str, declared: str) -> None:
    found, said = vertical.split(CRS.from_user_input(text).to_wkt())
    assert CRS.from_wkt(found) == CRS.from_user_input(horizontal)
    assert said == declared


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('vertical_crs = "EPSG:4326"', "vertical_crs = 'EPSG:4326': WGS 84 says nothing of heights"),
        ('target_vertical_crs = "EGM96"', "target_vertical_crs = 'EGM96': PROJ does not know it"),
        ('vertical_crs = "EPSG:6360"', "counts in US survey foot: set unit_factor = 0.304800609601219"),
        ('vertical_crs = "EPSG:5715"', "counts in metre downwards: set unit_factor = -1"),
        ('target_vertical_crs = "EPSG:6360"', "tiles hold metres upwards"),
        ('vertical_crs = "EPSG:5773"\ngeoid_grid = "g.gtx"', "(EGM96 height) is not ellipsoidal"),
        ('target_vertical_crs = "EPSG:4979"\ngeoid_grid = "g.gtx"', "makes heights above its geoid"),
        ('geoid_grid = "@g.gtx"', "expected one file"),
        ('geoid_grid = "null"', "expected one file"),
        ('geoid_grid = "a.gtx,b.gtx"', "expected one file"),
        ("geoid_grid = 7", "expected text"),
    ],
)
def test_keys_that_make_no_sense_are_refused(source: Source, toml: str, expected: str) -> None:
    source.configure(toml)
    with pytest.raises(SourceConfigInvalid) as caught:
        read_config(source.folder)
    assert expected in str(caught.value)
    assert caught.value.exit_code == 2


def test_differing_datums_are_told() -> None:
    assert vertical.differing(["EGM96 height", "", "EGM96 height"]) is None
    told = vertical.differing(["NAVD88 height", "EGM96 height"])
    assert told is not None
    assert "EGM96 height, NAVD88 height" in told


# The shift


@pytest.mark.parametrize("geoid", [plane, bumpy])
def test_a_grid_is_interpolated_as_scipy_does(tmp_path: Path, geoid: Geoid) -> None:
    shift = shift_of(write_gtx(tmp_path / "with space" / "g.gtx", geoid))
    lon, lat = np.linspace(7.5, 9.5, 121), np.linspace(46, 48, 121)
    nodes = geoid(*np.meshgrid(lon, lat)).astype(np.float32).astype(np.float64)
    at_lon, at_lat = np.random.default_rng(1).uniform([[7.51], [46.01]], [[9.49], [47.99]], (2, 500))
    expected = RegularGridInterpolator((lat, lon), nodes)(np.stack([at_lat, at_lon], axis=1))
    assert shift.at(at_lon, at_lat) == pytest.approx(-expected, abs=1e-5)


@pytest.mark.parametrize("z", [6, 8, 10, 12, 14, 17])
def test_the_lattice_is_far_more_exact_than_the_vertical_step(tmp_path: Path, z: int) -> None:
    shift = shift_of(write_gtx(tmp_path / "g.gtx", bumpy))
    col, row = pixel_at(z, 8.4, 46.9)
    wanted = np.ones((256, 256), dtype=bool) if z > 8 else np.ones((20, 20), dtype=bool)
    for rows, cols, metres in height_shift.shifts(shift, z, col, row, wanted):
        at_cols, at_rows = np.meshgrid(np.arange(col, col + 256)[cols], np.arange(row, row + 256)[rows])
        exact = shift.at(*height_shift.pixel_centres(z, at_cols.ravel(), at_rows.ravel()))
        error = np.abs(metres - exact.reshape(at_cols.shape)).max()
        assert error <= terrarium.step_m(z) / 50


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    z=st.integers(9, 15),
    cut=st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(1, 500), st.integers(1, 500)),
)
def test_a_pixel_is_shifted_alike_in_every_window(
    tmp_path_factory: pytest.TempPathFactory, z: int, cut: tuple[int, int, int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "bumpy.gtx"
    shift = shift_of(path if path.exists() else write_gtx(path, bumpy, (5, 44, 12, 50)))
    col, row = pixel_at(z, 8.0, 47.5)
    size = 1000 if z > 10 else 400

    def field(left: int, top: int, width: int, height: int) -> npt.NDArray[np.float32]:
        out = np.full((height, width), np.nan, dtype=np.float32)
        whole = np.ones((height, width), dtype=bool)
        for rows, cols, metres in height_shift.shifts(shift, z, col + left, row + top, whole):
            out[rows, cols] = metres
        return out

    left, top = cut[0] % size, cut[1] % size
    width, height = min(cut[2], size - left), min(cut[3], size - top)
    part = field(left, top, width, height)
    assert not np.isnan(part).any()
    assert np.array_equal(field(0, 0, size, size)[top : top + height, left : left + width], part)


def test_the_shift_goes_on_across_the_antimeridian(tmp_path: Path) -> None:
    def wave(lon: Array, lat: Array) -> Array:
        return 20 + 5 * np.cos(np.radians(lon)) + 3 * np.sin(np.radians(lat))

    shift = shift_of(write_gtx(tmp_path / "g.gtx", wave, (-180, -90, 179, 90), 1.0))
    z, row = 10, 512 * 400
    last = 512 * 1024 - 64
    wanted = np.ones((64, 64), dtype=bool)
    ((_, _, west),) = height_shift.shifts(shift, z, 0, row, wanted)
    ((_, _, east),) = height_shift.shifts(shift, z, last, row, wanted)
    lon, lat = height_shift.pixel_centres(z, np.array([0, 512 * 1024 - 1, 512 * 1024]), np.array([row] * 3))
    assert lon[0] == lon[2] == pytest.approx(-180, abs=1e-3)
    assert east[0, -1] == pytest.approx(-wave(lon, lat)[1], abs=1e-2)
    assert abs(float(east[0, -1]) - float(west[0, 0])) < 1e-3


def test_a_pixel_outside_of_the_grid_is_an_error_with_its_place(tmp_path: Path) -> None:
    shift = shift_of(write_gtx(tmp_path / "g.gtx", bumpy, (8, 47, 9, 48)))
    z = 12
    col, row = pixel_at(z, 8.0, 47.5)
    wanted = np.zeros((50, 50), dtype=bool)
    wanted[:, 25:] = True
    out = np.full((50, 50), np.nan, dtype=np.float32)
    for rows, cols, metres in height_shift.shifts(shift, z, col - 24, row, wanted):
        out[rows, cols] = metres
    at = np.meshgrid(np.arange(col + 1, col + 26), np.arange(row, row + 50))
    exact = shift.at(*height_shift.pixel_centres(z, at[0].ravel(), at[1].ravel())).reshape(50, 25)
    assert np.array_equal(out[:, 25:], exact.astype(np.float32))
    wanted[7, 3] = True
    with pytest.raises(OutsideGeoidGrid, match=r"longitude 7\.99\d+, latitude 47\.49\d+: no value there"):
        list(height_shift.shifts(shift, z, col - 24, row, wanted))


def test_a_file_that_is_no_grid_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.gtx").write_text("nothing of the kind")
    with pytest.raises(HeightsInconvertible, match="PROJ cannot read it as a grid"):
        shift_of(tmp_path / "g.gtx")


# PROJ's own operations


AREA = Bounds(8, 46, 9, 47)


def test_heights_above_a_geoid_become_ellipsoidal_as_with_pyproj(egm96: Path) -> None:
    declared = vertical.reference("EPSG:5773")
    shift = vertical_shift.between("alps", declared, WGS84, AREA)
    assert shift is not None
    assert shift.grids == (EGM96_GRID,)
    lon, lat = np.meshgrid(np.linspace(8, 9, 7), np.linspace(46, 47, 7))
    oracle = Transformer.from_crs("EPSG:4326+5773", "EPSG:4979", always_xy=True, only_best=True)
    expected = oracle.transform(lon, lat, np.full(lon.shape, 100.0))[2] - 100
    assert shift.at(lon, lat) == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(plane(lon, lat), abs=1e-4)


def test_the_content_of_a_grid_is_part_of_the_digest(egm96: Path) -> None:
    declared = vertical.reference("EPSG:5773")
    first = vertical_shift.between("alps", declared, WGS84, AREA)
    write_egm96(egm96.parent, bumpy)
    second = vertical_shift.between("alps", declared, WGS84, AREA)
    assert first is not None
    assert second is not None
    assert first.pipeline == second.pipeline
    assert first.digest != second.digest
    lon, lat = np.array([8.3]), np.array([46.4])
    assert abs(first.at(lon, lat) - second.at(lon, lat)) > 0.1


def test_one_datum_in_two_units_needs_no_shift() -> None:
    feet, metres = vertical.reference("EPSG:6360"), vertical.reference("EPSG:5703")
    assert vertical_shift.between("alps", feet, metres, AREA) is None


@pytest.mark.parametrize("text", ["EPSG:4979", "EPSG:4937", "EPSG:5773", "EPSG:4258+5773"])
def test_a_missing_grid_is_an_error_and_never_a_shift_of_nothing(text: str) -> None:
    target = vertical.reference("EPSG:3855")
    for area in (AREA, None):
        with pytest.raises(
            GeoidGridMissing, match=r"missing the grids? us_nga_egm08_25\.tif .*; put (it|them) into"
        ):
            vertical_shift.between("alps", vertical.reference(text), target, area)


def test_a_conversion_that_proj_does_not_know_is_an_error() -> None:
    local = CRS.from_wkt(
        'VERTCRS["town",VDATUM["town gauge"],CS[vertical,1],'
        'AXIS["gravity-related height (H)",up,LENGTHUNIT["metre",1]]]'
    )
    with pytest.raises(HeightsInconvertible, match="PROJ knows no way from town to EGM2008 height"):
        vertical_shift.between(
            "alps", vertical.reference(local.to_wkt()), vertical.reference("EPSG:3855"), AREA
        )


def test_a_shift_that_depends_on_the_height_is_refused() -> None:
    shift = vertical_shift.Shift("alps", SCALED, "scaled", "by the scale of a Helmert transformation")
    assert shift.at(np.array([8.0]), np.array([47.0]))[0] != 0
    with pytest.raises(HeightsInconvertible, match="the shift depends on the height"):
        vertical_shift.check_slope(shift, np.array([8.0]), np.array([47.0]))


# Sources


def test_what_the_crs_of_a_file_says_is_recorded_and_carried(source: Source) -> None:
    source.write(FLAT, crs="EPSG:4326+5773")
    assert source.file().vertical_crs == "EPSG:4326+5773"
    report = source.build()
    assert report.metadata.extra["vertical_datum"] == "EGM96 height"
    assert report.metadata.extra["vertical_crs"] == "EPSG:4326+5773"
    assert "vertical_conversion" not in report.metadata.extra
    assert_heights(report.path, report.metadata.maxzoom, lambda lon, lat: 500 + 0 * lon)


@pytest.mark.parametrize(
    ("whole", "horizontal"),
    [
        ("EPSG:4326+5773", "EPSG:4326"),
        ("EPSG:4979", "EPSG:4326"),
        ("EPSG:4937", "EPSG:4258"),
        ("EPSG:26918+5703", "EPSG:26918"),
        ("EPSG:2056+5729", "EPSG:2056"),
    ],
)
def test_the_horizontal_crs_is_that_of_a_file_without_heights(
    source: Source, whole: str, horizontal: str
) -> None:
    place: dict[str, object] = {"left": 400000.0, "top": 5250000.0, "pixel": 100.0}
    if whole.startswith("EPSG:4"):
        place = PLACE
    for crs in (whole, horizontal):
        source.write(FLAT, f"{crs}.tif".replace(":", ""), crs=crs, **place)
    source.scan()
    with SourceIndex(source.index_path) as index:
        crs, *others = {file.crs for file in index.files()}
    assert others == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_old_and_new_geotiffs_say_what_their_heights_are(source: Source, version: str) -> None:
    source.write(
        FLAT, crs="EPSG:32632+5773", left=400000.0, top=5250000.0, pixel=100.0, GEOTIFF_VERSION=version
    )
    assert source.file().vertical_crs == "EPSG:4326+5773"


def test_compound_and_plain_files_share_a_pixel_grid_where_nothing_is_converted(source: Source) -> None:
    whole = rasters.terrain(240, 300)
    source.write(whole[:, :150], "a.tif", crs="EPSG:4326+5773")
    source.write(whole[:, 150:], "b.tif", left=8.0 + 150 * 0.0025)
    mixed = source.build("mixed.mbtiles")
    source.write(whole[:, :150], "a.tif")
    plain = source.build("plain.mbtiles")
    z = plain.metadata.maxzoom
    pairs = zip(tiles(mixed.path, z), tiles(plain.path, z), strict=True)
    assert all(np.array_equal(one, other, equal_nan=True) for (one, *_), (other, *_) in pairs)


def test_a_text_given_for_the_datum_is_what_the_metadata_say(source: Source) -> None:
    source.write(FLAT)
    source.configure('vertical_crs = "EPSG:5773"\nvertical_datum = "EGM96, tide free"')
    extra = source.build().metadata.extra
    assert (extra["vertical_datum"], extra["vertical_crs"]) == ("EGM96, tide free", "EPSG:5773")


@pytest.mark.parametrize("geoid", [plane, bumpy])
def test_ellipsoidal_heights_become_those_above_the_geoid(source: Source, geoid: Geoid) -> None:
    source.write(FLAT)
    grid_path = write_gtx(source.folder / "geoid" / "g.gtx", geoid)
    source.configure(
        'vertical_crs = "EPSG:4979"\ntarget_vertical_crs = "EPSG:3855"\ngeoid_grid = "geoid/g.gtx"'
    )
    report = source.build(options=BuildOptions(minzoom=6))
    oracle = Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad "
        f"+step +proj=vgridshift +grids={grid_path} +step +proj=unitconvert +xy_in=rad +xy_out=deg"
    )

    def expected(lon: Array, lat: Array) -> Array:
        heights: Array = oracle.transform(lon, lat, np.full(lon.shape, 500.0), errcheck=False)[2]
        return heights

    z = report.metadata.maxzoom
    assert_heights(report.path, z, expected, terrarium.step_m(z) / 50)
    extra = report.metadata.extra
    assert (extra["vertical_datum"], extra["vertical_crs"]) == ("EGM2008 height", "EPSG:3855")
    assert "g.gtx" in str(extra["vertical_conversion"])


def test_feet_are_metres_before_they_are_converted(source: Source) -> None:
    write_gtx(source.folder / "g.gtx", plane)
    source.write(np.full((240, 300), 1000.0), dtype="int16")
    source.configure('unit_factor = 0.3048\noffset_m = 2.2\ngeoid_grid = "g.gtx"')
    report = source.build(options=BuildOptions(minzoom=8))
    assert_heights(report.path, report.metadata.maxzoom, lambda lon, lat: 307.0 - plane(lon, lat), 1e-3)
    assert report.metadata.extra["height_formula_m"] == "value * 0.3048 + 2.2"
    assert report.metadata.extra["vertical_datum"] == "geoid of g.gtx"


def test_ellipsoidal_heights_across_the_antimeridian(source: Source) -> None:
    def wave(lon: Array, lat: Array) -> Array:
        return 20 + 5 * np.cos(np.radians(lon)) + 3 * np.sin(np.radians(lat))

    path = write_gtx(source.place / "g.gtx", wave, (-180, -90, 179, 90), 1.0)
    source.write(FLAT, left=179.6)
    source.configure(f'geoid_grid = "{path}"')
    report = source.build(options=BuildOptions(minzoom=8))
    assert_heights(report.path, report.metadata.maxzoom, lambda lon, lat: 500 - wave(lon, lat), 5e-3)


def test_a_grid_in_the_folder_is_no_raster_of_the_source(source: Source) -> None:
    source.write(FLAT)
    write_gtx(source.folder / "other.gtx", plane)
    source.configure(f'vertical_crs = "EPSG:4979"\ngeoid_grid = "./{EGM96_GRID}"')
    write_egm96(source.folder)
    assert [entry.filename for entry in raster_entries(source.folder)] == ["a.tif"]
    report = source.build(options=BuildOptions(minzoom=8))
    assert_heights(report.path, report.metadata.maxzoom, lambda lon, lat: 500 - plane(lon, lat), 1e-3)


def test_every_way_of_building_ends_with_the_same_bytes(source: Source) -> None:
    heights = rasters.terrain(500, 620)
    absent = rasters.hole(500, 620, share=0.1)
    rasters.write_many(
        source.folder, np.where(absent, -9999, heights), 3, nodata=-9999, left=8.0, top=47.5, pixel=0.0027
    )
    write_gtx(source.folder / "g.gtx", plane, (7, 45, 11, 49))
    source.configure('geoid_grid = "g.gtx"')
    first = source.build("a.mbtiles")
    before = hashlib.sha256(first.path.read_bytes()).hexdigest()
    write_gtx(source.folder / "g.gtx", bumpy, (7, 45, 11, 49))
    again = source.build("a.mbtiles", workers=2)
    assert (first.reused, again.reused) == (0, 0)
    clean = source.build("b.mbtiles", workers=1)
    digests = [hashlib.sha256(report.path.read_bytes()).hexdigest() for report in (again, clean)]
    assert digests[0] == digests[1] != before
    kept = source.build("b.mbtiles")
    assert kept.built == 0


def test_a_file_that_declares_something_else_leaves_the_other_blocks_alone(source: Source) -> None:
    write_gtx(source.folder / "g.gtx", plane, (7, 45, 14, 49))
    source.configure('geoid_grid = "g.gtx"')
    source.write(FLAT, "a.tif")
    first = source.build(options=BuildOptions(minzoom=8))
    source.write(FLAT, "b.tif", left=12.0, crs="EPSG:4979")
    second = source.build(options=BuildOptions(minzoom=8))
    assert second.reused == first.blocks
    assert second.built > 0


def test_files_that_declare_different_references_are_converted_each_in_its_way(
    source: Source, egm96: Path
) -> None:
    source.write(FLAT[:, :150], "a.tif", crs="EPSG:4326+5773")
    source.write(FLAT[:, 150:], "b.tif", crs="EPSG:4979", left=8.0 + 150 * 0.0025)
    source.configure('target_vertical_crs = "EPSG:4979"')
    source.scan()
    with SourceIndex(source.index_path) as index:
        plan = plan_source("alps", read_config(source.folder), index, BuildOptions(), folder=source.folder)
    by_file = dict(plan.vertical.shifts)
    assert by_file["EPSG:4979"] is None
    assert by_file["EPSG:4326+5773"] is not None
    assert plan.vertical.datum == "WGS 84 ellipsoidal height"
    source.configure("")
    (*_, (_, warning)) = source.scan().warnings
    assert "heights are counted from EGM96 height, WGS 84 ellipsoidal height" in warning
    with SourceIndex(source.index_path) as index:
        carried = plan_source("alps", read_config(source.folder), index, BuildOptions(), folder=source.folder)
    assert (carried.vertical.datum, carried.vertical.shifts) == ("", ())


# What is refused before hours of work


def refused(source: Source, kind: type[FusiError]) -> str:
    with pytest.raises(kind) as caught:
        source.scan()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_source_whose_grid_is_missing_is_not_scanned(source: Source) -> None:
    source.write(FLAT)
    source.configure('vertical_crs = "EPSG:4979"\ntarget_vertical_crs = "EPSG:3855"')
    told = refused(source, GeoidGridMissing)
    assert told.startswith("source 'alps': missing the grid us_nga_egm08_25.tif to convert heights from")
    assert told.endswith("or give another way in source.toml (geoid_grid, or a compound vertical_crs)")
    source.configure('geoid_grid = "nope.gtx"')
    assert f"missing the grid nope.gtx; put it into {source.folder}" in refused(source, GeoidGridMissing)
    assert not source.index_path.exists()


def test_a_grid_that_is_missing_for_what_a_file_declares_fails_the_scan_and_the_plan(source: Source) -> None:
    source.write(FLAT, crs="EPSG:4326+5773")
    source.configure('target_vertical_crs = "EPSG:3855"')
    told = refused(source, GeoidGridMissing)
    assert "us_nga_egm08_25.tif and us_nga_egm96_15.tif" in told
    with SourceIndex(source.index_path) as index, pytest.raises(GeoidGridMissing):
        plan_source("alps", read_config(source.folder), index, BuildOptions(), folder=source.folder)


def test_heights_that_nobody_declares_are_not_converted(source: Source) -> None:
    source.write(FLAT)
    source.configure('target_vertical_crs = "EPSG:3855"')
    told = refused(source, HeightsUndeclared)
    assert "a.tif does not say what its heights are counted from" in told
    assert told.endswith("set vertical_crs in source.toml")


def test_heights_above_a_geoid_are_not_taken_for_ellipsoidal_ones(source: Source) -> None:
    write_gtx(source.folder / "g.gtx", plane)
    source.write(FLAT, crs="EPSG:4326+5773")
    source.configure('geoid_grid = "g.gtx"')
    assert "(EGM96 height) is not ellipsoidal, but geoid_grid is" in refused(source, HeightsUndeclared)
    source.configure('geoid_grid = "g.gtx"\nvertical_crs = "EPSG:4979"')
    (warning,) = source.scan().warnings
    assert "says that heights are EGM96 height, vertical_crs in source.toml WGS 84" in warning[1]


def test_feet_in_the_crs_of_a_file_need_a_factor(source: Source) -> None:
    source.write(FLAT, crs="EPSG:4326+6360")
    source.configure('target_vertical_crs = "EPSG:4979"')
    assert "counts in US survey foot: set unit_factor = 0.304800609" in refused(source, HeightsUndeclared)


def test_depths_in_the_crs_of_a_file_are_warned_of(source: Source) -> None:
    source.write(FLAT, crs="EPSG:4326+5715")
    (warning,) = source.scan().warnings
    assert "MSL depth counts in metre downwards: set unit_factor = -1" in warning[1]


def test_a_valid_file_that_reaches_out_of_the_grid_fails_the_plan_by_name(source: Source) -> None:
    write_gtx(source.folder / "g.gtx", plane, (8.2, 46, 9.5, 48))
    source.write(FLAT)
    source.write(FLAT, "b.tif", left=8.75)
    source.configure('geoid_grid = "g.gtx"')
    (warning,) = source.scan().warnings
    config = read_config(source.folder)
    with SourceIndex(source.index_path) as index, pytest.raises(OutsideGeoidGrid) as caught:
        plan_source("alps", config, index, BuildOptions(), folder=source.folder)
    assert "a.tif, longitude 8.001250, latitude 47.498750: no value" in str(caught.value)
    assert warning == ("a.tif", str(caught.value))
    report = source.build(options=BuildOptions(minzoom=8, bbox=Bounds(9.0, 47.1, 9.4, 47.3)))
    assert report.tiles > 0


def test_a_valid_pixel_outside_of_the_grid_fails_the_build_by_its_place(source: Source) -> None:
    write_gtx(source.folder / "g.gtx", plane, (8.2, 46, 9.5, 48))
    heights = FLAT.copy()
    heights[:, :90] = -9999
    source.write(heights, nodata=-9999)
    source.configure('geoid_grid = "g.gtx"')
    source.build("fits.mbtiles", options=BuildOptions(minzoom=8))
    heights[100, 60] = 500
    source.write(heights, nodata=-9999)
    with pytest.raises(OutsideGeoidGrid, match=r"longitude 8\.15\d+, latitude 47\.2\d+: no value there"):
        source.build("reaches.mbtiles", options=BuildOptions(minzoom=8))
    assert not (source.place / "output" / "reaches.mbtiles").exists()


def test_two_ellipsoids_that_are_taken_for_one_are_not_converted(source: Source) -> None:
    source.write(FLAT)
    source.configure('vertical_crs = "EPSG:4937"\ntarget_vertical_crs = "EPSG:4979"')
    assert "the shift is zero everywhere" in refused(source, HeightsInconvertible)


def test_a_grid_of_zeros_is_refused(source: Source) -> None:
    write_gtx(source.folder / "g.gtx", zero)
    source.write(FLAT)
    source.configure('geoid_grid = "g.gtx"')
    assert "the shift is zero everywhere" in refused(source, HeightsInconvertible)


def test_no_source_is_built_where_another_cannot_be(source: Source) -> None:
    source.write(FLAT)
    other = source.folder.with_name("baltic")
    rasters.write(other / "a.tif", FLAT)
    path = write_gtx(other / "g.gtx", plane, (6, 44, 11, 49))
    (other / "source.toml").write_text('geoid_grid = "g.gtx"')
    places = {"FUSI_SOURCE_STORE": str(other.parent), "FUSI_OUTPUT_DIR": str(source.place / "output")}
    finish(index_source("baltic", settings_from(places)))
    path.unlink()
    with pytest.raises(GeoidGridMissing, match=r"source 'baltic': missing the grid g\.gtx"):
        finish(aggregate(["alps", "baltic"], source.place / "out.pmtiles", settings_from(places)))
    assert list(source.place.glob("**/*.mbtiles*")) == []


# The command, with a grid in PROJ's own folder of the user


def run(source: Source, data_home: Path) -> subprocess.CompletedProcess[str]:
    places = ["--source-store", str(source.folder.parent), "--output-dir", str(source.place / "output")]
    command = ["-m", "fusi_pipeline.cli", "build", "alps", "--min-zoom", "8", "--workers", "2", *places]
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "XDG_DATA_HOME": str(data_home), "PROJ_NETWORK": "ON"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_finds_grids_where_it_says_they_belong(source: Source) -> None:
    source.write(FLAT)
    source.configure('vertical_crs = "EPSG:4979"\ntarget_vertical_crs = "EPSG:5773"')
    data_home = source.place / "home"
    failed = run(source, data_home)
    assert failed.returncode == 1
    (line,) = (line for line in failed.stderr.splitlines() if EGM96_GRID in line)
    assert f"; put it into {data_home / 'proj'}" in line
    assert "Traceback" not in failed.stderr
    write_egm96(data_home / "proj")
    done = run(source, data_home)
    assert done.returncode == 0, done.stderr
    path = source.place / "output" / "sources" / "alps.mbtiles"
    with MBTilesReader(path) as reader:
        z = reader.metadata.maxzoom
    assert_heights(path, z, lambda lon, lat: 500 - plane(lon, lat), 1e-3)
