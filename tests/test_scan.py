"""Scans of small rasters: what is recorded, what is refused, what is remembered."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import threading
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_bounds

from fusi_pipeline import console
from fusi_pipeline.errors import SourceConfigInvalid, SourceEmpty, SourcesBroken
from fusi_pipeline.progress import Progress
from fusi_pipeline.scan import ScanReport, scan
from fusi_pipeline.sources import SourceFile, SourceIndex, heights_m, is_current
from fusi_pipeline.tiles.grid import HALF_WORLD_M, MAX_LATITUDE_DEG, XYBounds, project, zoom_for_resolution
from tests import rasters


def finish(running: Generator[Progress, None, ScanReport]) -> ScanReport:
    """Return what a scan returns, past all its progress."""
    while True:
        try:
            next(running)
        except StopIteration as stop:
            report: ScanReport = stop.value
            return report


class Source:
    """A source folder of a test with its index."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "store" / "alps"
        self.folder.mkdir(parents=True)
        self.index_path = place / "output" / "alps.sqlite"

    def scan(self, *, skip_broken: bool = False, workers: int = 2) -> ScanReport:
        """Run a whole scan."""
        return finish(
            scan(self.folder, self.index_path, name="alps", skip_broken=skip_broken, workers=workers)
        )

    def files(self) -> list[SourceFile]:
        """Return the records of the index."""
        with SourceIndex(self.index_path) as index:
            return list(index.files())

    def file(self) -> SourceFile:
        """Scan and return the only record."""
        self.scan()
        (file,) = self.files()
        return file

    def problem(self) -> str:
        """Scan and return what is wrong with the only broken file."""
        with pytest.raises(SourcesBroken) as caught:
            self.scan()
        remedy = "; mend or remove it, or leave it out with --skip-broken"
        assert not self.index_path.exists()
        assert str(caught.value).endswith(remedy)
        return str(caught.value).removeprefix("source 'alps': ").removesuffix(remedy)

    def configure(self, text: str) -> None:
        """Write `source.toml`."""
        (self.folder / "source.toml").write_text(text, encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


HEIGHTS = rasters.terrain(40, 60)


# What is recorded


def test_record_of_a_file(source: Source) -> None:
    hole = rasters.hole(40, 60)
    path = rasters.write(
        source.folder / "sub" / "a.tif", HEIGHTS, nodata=-9999, absent=hole, crs="EPSG:4258", tile_px=16
    )
    file = source.file()
    kept = HEIGHTS.astype(np.float32)[~hole]
    with rasterio.open(path) as dataset:
        box = transform_bounds(dataset.crs, "EPSG:3857", *dataset.bounds)
        assert file.crs == dataset.crs.to_wkt()
        assert file.transform == tuple(dataset.transform)[:6]
    assert file.filename == "sub/a.tif"
    assert (file.size_bytes, file.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert file.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (file.width, file.height, file.dtype) == (60, 40, "float32")
    assert (file.nodata, file.scale, file.offset, file.has_mask) == (-9999.0, 1.0, 0.0, False)
    assert file.valid_pixels == kept.size
    assert (file.minimum, file.maximum) == (float(kept.min()), float(kept.max()))
    assert (file.box.left, file.box.bottom, file.box.right, file.box.top) == pytest.approx(box, abs=0.01)
    assert file.maxzoom == zoom_for_resolution((box[2] - box[0]) / 60) == 7
    assert file.warnings == ()


def test_report_progress_and_bounds_csv(source: Source) -> None:
    rasters.write_many(source.folder, HEIGHTS, 2)
    running = scan(source.folder, source.index_path, name="alps")
    steps = []
    try:
        while True:
            steps.append(next(running))
    except StopIteration as stop:
        report = stop.value
    assert steps == [Progress("scan", done, 4, "files", subject="alps") for done in (1, 2, 3, 4)]
    assert (report.name, report.files, report.broken, report.warnings) == ("alps", 4, (), ())
    assert (report.reused, report.valid_share, report.maxzoom) == (0, 1.0, 7)
    told = json.loads(json.dumps(console.plain(report)))
    assert told["bounds"]["left"] == report.bounds.left == pytest.approx(project(7.0, 0)[0])
    assert report.bounds_csv == source.folder / "bounds.csv"
    with report.bounds_csv.open(encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    assert header == ["filename", "left", "bottom", "right", "top", "width", "height"]
    expected = [
        [
            file.filename,
            *map(repr, (file.box.left, file.box.bottom, file.box.right, file.box.top)),
            "30",
            "20",
        ]
        for file in source.files()
    ]
    assert rows == expected
    assert [row[0] for row in rows] == ["0-0.tif", "0-1.tif", "1-0.tif", "1-1.tif"]
    assert sorted(path.name for path in source.index_path.parent.iterdir()) == ["alps.sqlite"]


def test_bounds_csv_beside_the_index_where_the_folder_refuses(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS)
    (source.folder / "bounds.csv").mkdir()
    report = source.scan()
    assert report.bounds_csv == source.index_path.with_name("alps.bounds.csv")
    assert report.bounds_csv.read_text(encoding="utf-8").count("\n") == 2


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("layout", [{"tile_px": 16}, {"compress": "deflate"}, {"blockysize": 7}])
def test_counts_of_any_type_and_layout(source: Source, dtype: str, layout: dict[str, object]) -> None:
    heights = rasters.plane(70, 50, corner_m=20)
    hole = rasters.hole(70, 50)
    rasters.write(source.folder / "a.tif", heights, dtype=dtype, nodata=255, absent=hole, **layout)  # type: ignore[arg-type]
    file = source.file()
    kept = heights[~hole & (heights != 255)]
    assert (file.valid_pixels, file.minimum, file.maximum) == (kept.size, kept.min(), kept.max())


@pytest.mark.parametrize(("kind", "dtype"), [("mask_band", "int16"), ("alpha", "uint8"), ("alpha", "uint16")])
def test_mask_and_alpha_bands_are_validity(source: Source, kind: str, dtype: str) -> None:
    hole = rasters.hole(40, 60)
    heights = rasters.plane(40, 60)
    rasters.write(source.folder / "a.tif", heights, absent=hole, fill=0, dtype=dtype, **{kind: True})  # type: ignore[arg-type]
    file = source.file()
    assert file.has_mask
    assert file.valid_pixels == np.count_nonzero(~hole)
    assert file.minimum == heights[~hole].min()
    assert file.warnings == ()


def test_an_alpha_band_that_gdal_would_ignore(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS, absent=rasters.hole(40, 60), fill=0, alpha=True)
    assert "its alpha band is float32" in source.problem()


def test_scale_offset_and_units(source: Source) -> None:
    rasters.write(source.folder / "a.tif", rasters.plane(20, 20), dtype="uint16", scale=0.01, offset=-100.0)
    source.configure("unit_factor = 0.5\noffset_m = 7")
    file = source.file()
    assert (file.scale, file.offset) == (0.01, -100.0)
    assert (file.minimum, file.maximum) == pytest.approx((100 * 0.5 + 7, 157 * 0.5 + 7))
    with rasterio.open(source.folder / "a.tif") as dataset:
        heights = heights_m(dataset.read(1), None, file, 0.5, 7)
    assert (heights.min(), heights.max()) == pytest.approx((file.minimum, file.maximum))


def test_depths_turned_into_heights(source: Source) -> None:
    rasters.write(source.folder / "a.tif", rasters.plane(20, 20))
    source.configure("unit_factor = -1")
    file = source.file()
    assert (file.minimum, file.maximum) == (-157, -100)


@pytest.mark.parametrize(
    ("nodata", "fill"),
    [
        (-3.4e38, -3.4028235e38),
        (np.nan, np.nan),
        (-3.4028230607370965e38, -3.4028230607370965e38),
        (1e20, 1e20),
    ],
)
def test_huge_nodata_matches_however_it_is_written(source: Source, nodata: float, fill: float) -> None:
    hole = rasters.hole(40, 60)
    rasters.write(source.folder / "a.tif", HEIGHTS, nodata=nodata, absent=hole, fill=fill)
    assert source.file().valid_pixels == np.count_nonzero(~hole)


def test_nan_and_infinity_are_absent_without_any_tag(source: Source) -> None:
    heights = HEIGHTS.copy()
    heights[0, :3] = np.nan, np.inf, -np.inf
    rasters.write(source.folder / "a.tif", heights)
    file = source.file()
    assert file.valid_pixels == heights.size - 3
    assert np.isfinite([file.minimum, file.maximum]).all()


def test_south_up_is_the_same_place(source: Source, tmp_path: Path) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS)
    up = source.file()
    other = Source(tmp_path / "other")
    rasters.write(other.folder / "a.tif", HEIGHTS, south_up=True)
    down = other.file()
    assert down.transform[4] > 0
    for end in ("left", "bottom", "right", "top"):
        assert getattr(down.box, end) == pytest.approx(getattr(up.box, end), abs=1e-6)


def test_vrt_and_its_members(source: Source, tmp_path: Path) -> None:
    members = rasters.write_many(tmp_path / "store" / "raw", HEIGHTS, 2, nodata=-9999)
    vrt = rasters.write_vrt(tmp_path / "store" / "raw" / "all.vrt", members)
    vrt.rename(source.folder / "all.vrt")
    text = (source.folder / "all.vrt").read_text(encoding="utf-8")
    (source.folder / "all.vrt").write_text(text.replace(">0-", ">../raw/0-").replace(">1-", ">../raw/1-"))
    file = source.file()
    assert file.valid_pixels == HEIGHTS.size
    assert [path for path, _, _ in file.parts] == [f"../raw/{member.name}" for member in members]
    assert is_current(source.folder, source.index_path)
    rasters.write(members[0], rasters.plane(20, 30), nodata=-9999)
    assert not is_current(source.folder, source.index_path)
    assert source.file().fingerprint != file.fingerprint


def test_vrt_beside_its_members_is_told(source: Source) -> None:
    members = rasters.write_many(source.folder, HEIGHTS, 2)
    rasters.write_vrt(source.folder / "all.vrt", members)
    report = source.scan()
    assert report.files == 5
    assert len(report.warnings) == 1
    assert report.warnings[0][0] == "all.vrt"
    assert "refers to 4 of the files beside it" in report.warnings[0][1]


def test_sidecars_are_part_of_the_content(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS)
    plain = source.file()
    (source.folder / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Offset>10</Offset></PAMRasterBand></PAMDataset>',
        encoding="utf-8",
    )
    moved = source.file()
    assert moved.offset == 10
    assert moved.fingerprint != plain.fingerprint


# Where files are

EDGE = HALF_WORLD_M


def placed(
    source: Source, crs: str, left: float, top: float, pixel: float, rows: int = 20, cols: int = 20
) -> XYBounds:
    rasters.write(
        source.folder / "a.tif", rasters.plane(rows, cols), crs=crs, left=left, top=top, pixel=pixel
    )
    return source.file().box


@pytest.mark.parametrize("left", [179.0, -181.0, 539.0])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4269", "EPSG:4167"])
def test_geographic_across_the_antimeridian(source: Source, crs: str, left: float) -> None:
    box = placed(source, crs, left, 1, 0.1)
    assert (box.left, box.right) == pytest.approx((project(179, 0)[0], project(-179, 0)[0]), abs=2)
    file = source.files()[0]
    assert file.maxzoom == zoom_for_resolution(project(0.1, 0)[0])
    with SourceIndex(source.index_path) as index:
        assert index.bounds() == box
        assert len(index.touching(XYBounds(-EDGE, 0, -EDGE + 10, 10))) == 1
        assert len(index.touching(XYBounds(EDGE - 10, 0, EDGE, 10))) == 1
        assert index.touching(XYBounds(0, 0, 10, 10)) == []


@pytest.mark.parametrize(
    ("left", "expected"), [(359.0, -1.0), (180.0, -180.0), (-180.0, -180.0), (178.0, 178.0)]
)
def test_geographic_by_whole_turns_and_at_the_edge(source: Source, left: float, expected: float) -> None:
    box = placed(source, "EPSG:4326", left, 1, 0.1)
    wanted = (project(expected, 0)[0], project(0, -1)[1], project(expected + 2, 0)[0], project(1, 1)[1])
    assert (box.left, box.bottom, box.right, box.top) == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize(("left", "cols"), [(0, 36), (-180, 36), (-180.5, 37), (-185, 36)])
def test_whole_world(source: Source, left: float, cols: int) -> None:
    rasters.write(source.folder / "a.tif", rasters.plane(19, cols), left=left, top=95, pixel=10)
    assert source.file().box == XYBounds(-EDGE, -EDGE, EDGE, EDGE)


@pytest.mark.parametrize(
    ("crs", "left"),
    [("EPSG:32660", 700_000), ("EPSG:32601", 100_000), ("EPSG:3832", 3_300_000), ("EPSG:3857", 20_000_000)],
)
def test_projected_across_the_antimeridian(source: Source, crs: str, left: float) -> None:
    top = 1_000_000
    box = placed(source, crs, left, top, 10_000)
    assert box.left > EDGE * 0.97
    assert box.right < -EDGE * 0.97
    with rasterio.open(source.folder / "a.tif") as dataset:
        edges = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    west, _, east, _ = edges
    assert west > east
    assert (box.left, box.right) == pytest.approx((project(west, 0)[0], project(east, 0)[0]), abs=200)


def test_new_zealand_beyond_180(source: Source) -> None:
    box = placed(source, "EPSG:2193", 2_450_000, 5_200_000, 1_000)
    assert -EDGE < box.left < box.right < -EDGE * 0.95


def test_polar_file_over_the_pole_has_the_whole_width(source: Source) -> None:
    box = placed(source, "EPSG:3413", -1_000_000, 1_000_000, 100_000)
    assert (box.left, box.right, box.top) == (-EDGE, EDGE, EDGE)
    assert box.bottom == pytest.approx(project(0, 76.9)[1], rel=0.01)


def test_antarctica(source: Source) -> None:
    box = placed(source, "EPSG:3031", -2_000_000, 2_000_000, 200_000)
    assert (box.left, box.bottom, box.right) == (-EDGE, -EDGE, EDGE)


def test_polar_file_beside_the_pole_has_its_own_width(source: Source) -> None:
    box = placed(source, "EPSG:3413", -2_000_000, -1_000_000, 50_000)
    assert -EDGE < box.left < box.right < EDGE


@pytest.mark.parametrize(("crs", "size"), [("EPSG:4087", 20_037_508.34), ("EPSG:6933", 17_367_530.0)])
def test_projected_world(source: Source, crs: str, size: float) -> None:
    rasters.write(
        source.folder / "a.tif", rasters.plane(10, 40), crs=crs, left=-size, top=5e6, pixel=(size / 20, 1e6)
    )
    box = source.file().box
    assert (box.left, box.right) == pytest.approx((-EDGE, EDGE), abs=1)


def test_latitudes_are_clamped_to_the_square(source: Source) -> None:
    box = placed(source, "EPSG:4326", 10, 89.95, 0.5)
    assert (box.left, box.bottom) == pytest.approx(project(10, 79.95))
    assert (box.right, box.top) == pytest.approx((project(20, 0)[0], EDGE))


@pytest.mark.parametrize(
    ("crs", "left", "top", "pixel"),
    [("EPSG:4326", 10, 89.9, 0.1), ("EPSG:4326", 10, -86, 0.1), ("EPSG:3413", -100_000, 100_000, 5_000)],
)
def test_wholly_outside_web_mercator(source: Source, crs: str, left: float, top: float, pixel: float) -> None:
    rasters.write(source.folder / "a.tif", rasters.plane(20, 20), crs=crs, left=left, top=top, pixel=pixel)
    assert f"lies wholly beyond {MAX_LATITUDE_DEG:.4f} degrees" in source.problem()


def test_not_projectable(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS, crs="EPSG:32632", left=1e12, top=1e12, pixel=10)
    assert "a.tif: " in source.problem()


def test_maxzoom_is_capped(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS, crs="EPSG:3857", pixel=0.05)
    assert source.file().maxzoom == 17


# What is broken


def test_empty_folder(source: Source) -> None:
    (source.folder / "readme.txt").touch()
    with pytest.raises(SourceEmpty, match="holds no raster"):
        source.scan()


def test_bad_configuration(source: Source) -> None:
    source.configure("resampling = 'best'")
    with pytest.raises(SourceConfigInvalid):
        source.scan()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (rasters.write_rotated, "is rotated or sheared"),
        (rasters.write_without_place, "has no geotransform"),
        (rasters.write_two_bands, "has 2 bands, not one"),
        (rasters.write_with_gcps, "is placed by control points"),
        (rasters.write_complex, "holds complex numbers (complex64)"),
    ],
)
def test_files_that_cannot_be_used(source: Source, make: object, told: str) -> None:
    assert callable(make)
    make(source.folder / "bad.tif")
    rasters.write(source.folder / "good.tif", HEIGHTS)
    assert source.problem().startswith(f"bad.tif: {told}")


def test_no_crs(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS, crs=None)
    assert "has no CRS" in source.problem()


def test_not_a_raster(source: Source) -> None:
    (source.folder / "a.tif").write_text("hello", encoding="utf-8")
    problem = source.problem()
    assert "a.tif: cannot be opened as a raster" in problem
    assert str(source.folder) not in problem


@pytest.mark.parametrize("layout", [{}, {"compress": "deflate"}, {"tile_px": 64, "compress": "lzw"}])
def test_truncated(source: Source, layout: dict[str, object]) -> None:
    path = rasters.write(source.folder / "a.tif", rasters.terrain(300, 300), **layout)  # type: ignore[arg-type]
    rasters.truncate(path)
    assert "cannot be" in source.problem()


def test_vrt_whose_member_is_gone(source: Source) -> None:
    member = rasters.write(source.folder / "raw" / "a.tif", HEIGHTS)
    vrt = rasters.write_vrt(source.folder / "raw" / "all.vrt", [member])
    member.unlink()
    assert "cannot be" in source.problem()
    assert vrt.exists()


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        (-9999, "int16"),
        (-32768, "int16"),
        (-32767, "float32"),
        (32767, "int16"),
        (-99999, "float32"),
        (-999999, "float32"),
        (-3.4028235e38, "float32"),
        (1e20, "float64"),
        (65535, "uint16"),
    ],
)
def test_fill_without_a_tag(source: Source, fill: float, dtype: str) -> None:
    hole = rasters.hole(40, 60)
    rasters.write(source.folder / "a.tif", HEIGHTS, absent=hole, fill=fill, dtype=dtype)
    share = 100 * hole.mean()
    expected = f"pixels hold {fill:.8g} ({share:.1f} % of them) but there is no nodata tag"
    assert source.problem() == f"a.tif: {expected}: set nodata in source.toml"
    source.configure(f"nodata = {fill}")
    file = source.file()
    assert file.valid_pixels == np.count_nonzero(~hole)
    assert file.nodata == fill


def test_tag_that_does_not_match_the_data(source: Source) -> None:
    hole = rasters.hole(40, 60)
    rasters.write(source.folder / "a.tif", HEIGHTS, absent=hole, fill=-32767, nodata=-9999, dtype="int16")
    assert "pixels hold -32767 (30.0 % of them) but nodata is -9999" in source.problem()


def test_deep_sea_may_hold_9999_metres(source: Source) -> None:
    heights = -rasters.plane(40, 60, corner_m=9900, east_m=3, south_m=1)
    rasters.write(source.folder / "a.tif", heights, dtype="int16")
    assert source.file().valid_pixels == 2400


def test_heights_in_centimetres(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS * 100, dtype="int32")
    assert "beyond any on Earth: set nodata, unit_factor or offset_m" in source.problem()
    source.configure("unit_factor = 0.01")
    assert source.file().maximum == pytest.approx(HEIGHTS.max(), abs=0.01)


def test_nodata_override_that_the_type_cannot_hold(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS, dtype="uint16")
    source.configure("nodata = -9999")
    assert source.file().valid_pixels == HEIGHTS.size


def test_broken_files_are_listed_or_skipped(source: Source) -> None:
    rasters.write(source.folder / "good.tif", HEIGHTS)
    rasters.write_two_bands(source.folder / "bands.tif")
    rasters.write(source.folder / "crs.tif", HEIGHTS, crs=None)
    with pytest.raises(SourcesBroken, match="2 broken files") as caught:
        source.scan()
    assert "bands.tif: " in str(caught.value)
    assert "crs.tif: " in str(caught.value)
    assert not source.index_path.exists()
    assert not (source.folder / "bounds.csv").exists()
    report = source.scan(skip_broken=True)
    assert (report.files, report.reused) == (1, 1)
    assert [filename for filename, _ in report.broken] == ["bands.tif", "crs.tif"]
    with SourceIndex(source.index_path) as index:
        assert index.count() == 1
        assert index.broken() == list(report.broken)
    assert is_current(source.folder, source.index_path)


def test_nothing_but_broken_files(source: Source) -> None:
    rasters.write_two_bands(source.folder / "a.tif")
    with pytest.raises(SourceEmpty, match="no file of it can be used"):
        source.scan(skip_broken=True)


# What is odd


def empty(path: Path) -> Path:
    return rasters.write(path, HEIGHTS, nodata=-9999, absent=np.ones(HEIGHTS.shape, bool))


def test_a_file_without_valid_pixels_among_others(source: Source) -> None:
    empty(source.folder / "a.tif")
    rasters.write(source.folder / "b.tif", HEIGHTS)
    report = source.scan()
    assert report.warnings == (("a.tif", "has no valid pixel"),)
    assert report.valid_share == 0.5
    assert np.isnan(source.files()[0].minimum)


def test_a_source_without_valid_pixels(source: Source) -> None:
    empty(source.folder / "a.tif")
    with pytest.raises(SourceEmpty, match="not one valid pixel in 1 file"):
        source.scan()


def test_zero_that_looks_like_fill(source: Source) -> None:
    hole = rasters.hole(40, 60)
    path = rasters.write(source.folder / "a.tif", HEIGHTS, absent=hole, fill=0)
    assert [name for name, text in source.scan().warnings if "0 looks like fill (30.0 %" in text] == ["a.tif"]
    rasters.write(path, HEIGHTS, absent=hole, nodata=0)
    assert source.scan().warnings == ()
    rasters.write(path, HEIGHTS - HEIGHTS.min(), absent=hole, fill=0)
    assert source.scan().warnings == ()


def test_resolutions_far_apart(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS, pixel=0.01)
    rasters.write(source.folder / "b.tif", HEIGHTS, pixel=0.001)
    ((filename, text),) = source.scan().warnings
    assert filename == "a.tif"
    assert "in b.tif" in text


def test_wide_strips_and_feet(source: Source) -> None:
    path = rasters.write(
        source.folder / "a.tif", rasters.plane(3, 30_001, east_m=0.01), pixel=1e-4, blockysize=1
    )
    with rasterio.open(path, "r+") as dataset:
        dataset.units = ("ft",)
    texts = [text for _, text in source.scan().warnings]
    assert any("30001 px wide are slow to read" in text for text in texts)
    assert any("its unit is 'ft'" in text for text in texts)


# What is remembered


def test_unchanged_files_are_not_read_again(source: Source) -> None:
    paths = rasters.write_many(source.folder, HEIGHTS, 2)
    assert source.scan().reused == 0
    before = source.files()
    assert source.scan().reused == 4
    assert source.files() == before
    rasters.write(paths[3], rasters.plane(20, 30), left=7.3, top=46.8)
    paths[0].unlink()
    report = source.scan()
    assert (report.files, report.reused) == (3, 2)
    source.configure("attribution = 'me'")
    assert not is_current(source.folder, source.index_path)
    assert source.scan().reused == 3
    source.configure("offset_m = 1")
    assert source.scan().reused == 0


def test_an_interrupted_scan_goes_on(source: Source) -> None:
    rasters.write_many(source.folder, HEIGHTS, 4)
    running = scan(source.folder, source.index_path, name="alps", workers=1)
    for _ in range(5):
        next(running)
    running.close()
    assert not source.index_path.exists()
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("scan") for thread in threading.enumerate()
    )
    report = source.scan()
    assert report.files == 16
    assert report.reused >= 5
    assert [path.name for path in source.index_path.parent.iterdir()] == ["alps.sqlite"]


def test_what_is_remembered_wrongly_is_forgotten(source: Source) -> None:
    rasters.write(source.folder / "a.tif", HEIGHTS)
    memory = source.index_path.with_name(".alps.sqlite.scan")
    memory.parent.mkdir()
    memory.write_bytes(os.urandom(5000))
    assert source.scan().reused == 0
    assert not memory.exists()


def test_workers_do_not_change_the_index(source: Source) -> None:
    rasters.write_many(source.folder, HEIGHTS, 3, nodata=-9999)
    source.scan(workers=1)
    alone = source.files()
    source.index_path.unlink()
    source.scan(workers=4)
    assert source.files() == alone
