"""Builds of small sources: what is in the archive, and that every way to it ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from fusi_pipeline.aggregate import build_source
from fusi_pipeline.build import BuildReport
from fusi_pipeline.errors import AreaEmpty, BudgetTooSmall, OutputExists, SourceEmpty, ZoomInvalid
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings, settings_from
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.grid import Bounds, Tile, XYBounds
from fusi_pipeline.tiles.image import decode_webp, is_lossless_webp
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from tests import rasters
from tests.test_warp import opened

Heights = npt.NDArray[np.float32]
Result = TypeVar("Result")
ROWS, COLS = 500, 620
PLACE: dict[str, Any] = {"left": 8.0, "top": 47.5, "pixel": 0.0027}
"""Over the corner of four blocks of zoom 9."""


def finish(work: Generator[Progress, None, Result]) -> Result:
    """Return what a piece of work returns, past all its progress."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def settings(place: Path, **environment: str) -> Settings:
    """Return settings with source store and output below a folder."""
    folders = {"FUSI_SOURCE_STORE": str(place / "store"), "FUSI_OUTPUT_DIR": str(place / "output")}
    return settings_from({"FUSI_WORKERS": "2", **folders, **environment})


def built(
    place: Path,
    name: str = "hills",
    options: BuildOptions | None = None,
    *,
    overwrite: bool = False,
    **env: str,
) -> BuildReport:
    """Build a source below a folder."""
    return finish(build_source(name, settings(place, **env), options, overwrite=overwrite))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tiles(path: Path, z: int) -> dict[Tile, Heights]:
    """Return the decoded tiles of a zoom."""
    with MBTilesReader(path) as reader:
        found = {}
        for x, y in reader.coordinates(z).tolist():
            data = reader.read(Tile(z, x, y))
            assert data is not None
            found[Tile(z, x, y)] = terrarium.decode(decode_webp(data))
        return found


def halved(heights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the mean of the valid pixels of each 2 x 2 square, as float32 numbers."""
    squares = heights.reshape(heights.shape[0] // 2, 2, heights.shape[1] // 2, 2)
    known = ~np.isnan(squares)
    with np.errstate(invalid="ignore"):
        means = np.nansum(squares, axis=(1, 3)) / known.sum(axis=(1, 3))
    return means.astype(np.float32).astype(np.float64)


def write_hills(store: Path) -> None:
    """Write a source of 3 x 3 neighbouring files with a hole, below and above the sea."""
    heights = rasters.terrain(ROWS, COLS, base_m=20.0)
    absent = np.roll(rasters.hole(ROWS, COLS, share=0.08), (150, 180), axis=(0, 1))
    rasters.write_many(store / "hills", np.where(absent, -9999, heights), 3, nodata=-9999, **PLACE)
    (store / "hills" / "source.toml").write_text('attribution = "Somebody"\nlicense = "CC0-1.0"\n')


@pytest.fixture(scope="module")
def hills(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuildReport]:
    """A place with a built source, not to be changed, and the report."""
    place = tmp_path_factory.mktemp("hills")
    write_hills(place / "store")
    return place, built(place)


@pytest.fixture
def own(hills: tuple[Path, BuildReport], tmp_path: Path) -> Path:
    """A copy of the place with the built source, to be changed."""
    shutil.copytree(hills[0], tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture(scope="module")
def pyramid(hills: tuple[Path, BuildReport]) -> dict[int, tuple[int, int, npt.NDArray[np.float64]]]:
    """What zooms 9 to 3 must hold, from one warp: (first column, first row, heights), whole tiles."""
    source = opened(hills[0] / "store" / "hills")
    box = source.window()
    left, top, heights = box.col_off, box.row_off, source.warp(box).astype(np.float64)
    levels = {}
    for z in range(source.maxzoom, 2, -1):
        left, top, heights = whole_tiles(left, top, heights)
        levels[z] = (left, top, heights)
        heights, left, top = halved(heights), left // 2, top // 2
    return levels


def whole_tiles(
    left: int, top: int, heights: npt.NDArray[np.float64]
) -> tuple[int, int, npt.NDArray[np.float64]]:
    """Return heights grown to whole tiles, an even number of pixels each way, NaN where nothing was."""
    first_col, first_row = left // 512 * 512, top // 512 * 512
    rows = -(-(top + heights.shape[0] - first_row) // 512) * 512
    cols = -(-(left + heights.shape[1] - first_col) // 512) * 512
    grown = np.full((rows, cols), np.nan)
    row, col = top - first_row, left - first_col
    grown[row : row + heights.shape[0], col : col + heights.shape[1]] = heights
    return first_col, first_row, grown


def test_every_zoom_is_the_mean_of_the_valid_base_pixels_rounded_once(
    hills: tuple[Path, BuildReport], pyramid: dict[int, tuple[int, int, npt.NDArray[np.float64]]]
) -> None:
    for z, (left, top, wanted) in pyramid.items():
        step, seen = terrarium.step_m(z), np.zeros(wanted.shape, bool)
        for tile, ours in tiles(hills[1].path, z).items():
            rows = slice(tile.y * 512 - top, tile.y * 512 - top + 512)
            cols = slice(tile.x * 512 - left, tile.x * 512 - left + 512)
            seen[rows, cols] = True
            theirs = wanted[rows, cols]
            np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=str(tile))
            known = ~np.isnan(theirs)
            assert np.abs(ours - theirs)[known].max() <= step / 2 + 1e-3, tile
            steps = ours[known].astype(np.float64) / step
            assert (steps == np.rint(steps)).all(), tile
        assert np.isnan(wanted[~seen]).all(), f"zoom {z} lacks a tile"


def test_tiles_are_lossless_and_have_alpha_only_where_a_pixel_is_missing(
    hills: tuple[Path, BuildReport],
) -> None:
    kinds = set()
    with MBTilesReader(hills[1].path) as reader:
        for z in reader.counts():
            for x, y in reader.coordinates(z).tolist():
                data = reader.read(Tile(z, x, y))
                assert data is not None
                assert is_lossless_webp(data)
                pixels = decode_webp(data)
                if pixels.shape[2] == 4:
                    kinds.add("RGBA")
                    assert set(np.unique(pixels[..., 3])) == {0, 255}, (
                        "alpha without a missing pixel, or no other"
                    )
                    absent = pixels[pixels[..., 3] == 0]
                    assert (absent[:, :3] == (128, 0, 0)).all(), "missing pixels are coloured as 0 m"
                else:
                    kinds.add("RGB")
    assert kinds == {"RGB", "RGBA"}


def test_every_zoom_from_the_base_to_0_has_tiles(hills: tuple[Path, BuildReport]) -> None:
    report = hills[1]
    with MBTilesReader(report.path) as reader:
        counts = reader.counts()
    assert sorted(counts) == list(range(report.metadata.maxzoom + 1))
    assert counts[0] == 1
    assert sum(counts.values()) == report.tiles


def test_bounds_are_those_of_the_valid_pixels(
    hills: tuple[Path, BuildReport], pyramid: dict[int, tuple[int, int, npt.NDArray[np.float64]]]
) -> None:
    metadata = hills[1].metadata
    left, top, heights = pyramid[metadata.maxzoom]
    rows, cols = np.nonzero(~np.isnan(heights))
    size = grid.resolution_m(metadata.maxzoom)
    wanted = grid.geographic(
        XYBounds(
            (left + cols.min()) * size - grid.HALF_WORLD_M,
            grid.HALF_WORLD_M - (top + rows.max() + 1) * size,
            (left + cols.max() + 1) * size - grid.HALF_WORLD_M,
            grid.HALF_WORLD_M - (top + rows.min()) * size,
        )
    )
    got = metadata.bounds
    assert (got.west, got.south, got.east, got.north) == pytest.approx(
        (wanted.west, wanted.south, wanted.east, wanted.north), abs=1e-6
    )
    assert got.west == pytest.approx(8.0, abs=0.002)
    assert got.north == pytest.approx(47.5, abs=0.002)


def test_a_plane_survives_within_half_a_step_at_every_zoom(tmp_path: Path) -> None:
    pixel_m, side = 300.0, 700
    left, top = 800_000.0, 6_000_000.0
    east_m, south_m = 0.5, -0.25
    rasters.write(
        tmp_path / "store" / "plane" / "a.tif",
        rasters.plane(side, side, corner_m=500, east_m=east_m, south_m=south_m),
        crs="EPSG:3857", left=left, top=top, pixel=pixel_m,
    )  # fmt: skip
    report = built(tmp_path, "plane")
    checked = 0
    for z in range(report.metadata.maxzoom, 2, -1):
        size = grid.resolution_m(z)
        for tile, heights in tiles(report.path, z).items():
            box = grid.xy_bounds(tile)
            x = (box.left + (np.arange(512) + 0.5) * size - left) / pixel_m
            y = (top - (box.top - (np.arange(512) + 0.5) * size)) / pixel_m
            plane = 500 + east_m * (x[None, :] - 0.5) + south_m * (y[:, None] - 0.5)
            edge = 1 + size / pixel_m
            inside = ((x > edge) & (x < side - edge))[None, :] & ((y > edge) & (y < side - edge))[:, None]
            if inside.any():
                checked += 1
                assert np.abs(heights - plane)[inside].max() <= terrarium.step_m(z) / 2 + 1e-3, tile
    assert checked > 10


def test_a_cone_keeps_its_top_and_its_slope(tmp_path: Path) -> None:
    z, side = 8, 512
    size = grid.resolution_m(z)
    rasters.write(
        tmp_path / "store" / "cone" / "a.tif", rasters.cone(side, side, top_m=2000, slope_m=5),
        crs="EPSG:3857", left=0.0, top=size * side, pixel=size,
    )  # fmt: skip
    report = built(tmp_path, "cone")
    assert report.metadata.maxzoom == z
    (heights,) = tiles(report.path, z).values()
    wanted = rasters.cone(side, side, top_m=2000, slope_m=5)
    assert np.abs(heights - wanted).max() <= terrarium.step_m(z) / 2 + 1e-3


def test_zero_and_negative_heights_are_heights(tmp_path: Path) -> None:
    heights = np.zeros((300, 300))
    heights[:, 150:] = -430.0
    rasters.write(tmp_path / "store" / "sea" / "a.tif", heights, nodata=-9999, left=35, top=32, pixel=0.002)
    report = built(tmp_path, "sea")
    for z in (report.metadata.maxzoom, 6):
        values = np.concatenate([part[~np.isnan(part)] for part in tiles(report.path, z).values()])
        assert values.min() == -430
        assert values.max() == 0
        assert (values == 0).mean() > 0.4


def test_unit_offset_and_nodata_of_the_configuration_reach_the_tiles(tmp_path: Path) -> None:
    heights = np.full((200, 200), 1000.0)
    heights[:60] = 7.0
    rasters.write(tmp_path / "store" / "feet" / "a.tif", heights, dtype="int16")
    (tmp_path / "store" / "feet" / "source.toml").write_text(
        "unit_factor = 0.3048\noffset_m = -4.8\nnodata = 7\n"
    )
    report = built(tmp_path, "feet", BuildOptions(minzoom=7))
    (part, *_) = tiles(report.path, report.metadata.maxzoom).values()
    assert set(np.unique(part[~np.isnan(part)])) == {300.0}
    assert np.isnan(part).any()


# Every way to the same bytes


def test_the_number_of_workers_threads_and_pauses_do_not_change_a_byte(
    hills: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    (tmp_path / "store").symlink_to(hills[0] / "store")
    for number, env in enumerate(
        (
            {"FUSI_WORKERS": "1"},
            {"FUSI_WORKERS": "3", "FUSI_WARP_THREADS": "3", "FUSI_MB_CHECKPOINT_INTERVAL": "1"},
        )
    ):
        report = built(tmp_path, FUSI_OUTPUT_DIR=str(tmp_path / str(number)), **env)
        assert sha256(report.path) == sha256(hills[1].path)


def test_an_unchanged_source_is_not_built_again(own: Path) -> None:
    path = own / "output" / "sources" / "hills.mbtiles"
    before = path.stat().st_mtime_ns
    report = built(own)
    assert (report.built, report.resumed) == (0, 0)
    assert report.reused == report.blocks
    assert path.stat().st_mtime_ns == before


def rewrite(store: Path) -> None:
    path = store / "hills" / "0-0.tif"
    rasters.write(path, rasters.plane(167, 207), nodata=-9999, **PLACE)


def add(store: Path) -> None:
    rasters.write(store / "hills" / "new.tif", rasters.cone(60, 60), **{**PLACE, "left": 9.3})


def remove(store: Path) -> None:
    (store / "hills" / "2-2.tif").unlink()


@pytest.mark.parametrize("change", [rewrite, add, remove], ids=lambda change: str(change.__name__))
def test_a_changed_source_is_rebuilt_where_it_changed_and_equals_a_clean_build(
    own: Path, tmp_path: Path, change: Any
) -> None:
    change(own / "store")
    report = built(own)
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "store").symlink_to(own / "store")
    clean = built(tmp_path / "clean")
    assert 0 < report.built < report.blocks
    assert report.reused == report.blocks - report.built
    assert (clean.built, clean.reused) == (clean.blocks, 0)
    assert sha256(report.path) == sha256(clean.path)


def test_new_metadata_reuses_every_block_and_equals_a_clean_build(own: Path, tmp_path: Path) -> None:
    (own / "store" / "hills" / "source.toml").write_text('attribution = "Somebody else"\n')
    report = built(own)
    assert (report.built, report.reused) == (0, report.blocks)
    assert report.metadata.attribution == "Somebody else"
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "store").symlink_to(own / "store")
    assert sha256(report.path) == sha256(built(tmp_path / "clean").path)


def test_a_build_that_was_left_goes_on_where_it_was(hills: tuple[Path, BuildReport], own: Path) -> None:
    shutil.rmtree(own / "output")
    work = build_source("hills", settings(own))
    while (progress := next(work)).stage != "build" or progress.done < 2:
        pass
    work.close()
    assert not (own / "output" / "sources" / "hills.mbtiles").exists()
    report = built(own)
    assert report.resumed >= 2
    assert report.resumed + report.built == report.blocks
    assert sha256(report.path) == sha256(hills[1].path)


def test_a_build_that_was_left_and_is_asked_for_otherwise_reuses_what_it_can(
    hills: tuple[Path, BuildReport], own: Path
) -> None:
    shutil.rmtree(own / "output")
    work = build_source("hills", settings(own))
    while (progress := next(work)).stage != "build" or progress.done < 4:
        pass
    work.close()
    rewrite(own / "store")
    report = built(own)
    assert report.resumed == 0
    assert report.reused > 0
    assert sorted(path.name for path in report.path.parent.glob("hills.mbtiles*")) == ["hills.mbtiles"]


# What is asked for


def test_a_box_limits_the_base_tiles_and_does_not_change_them(
    hills: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    (tmp_path / "store").symlink_to(hills[0] / "store")
    bbox = Bounds(8.3, 46.9, 8.6, 47.1)
    report = built(tmp_path, options=BuildOptions(bbox=bbox))
    z = report.metadata.maxzoom
    wanted = set(grid.covering(grid.projected(bbox), z))
    with MBTilesReader(report.path) as part, MBTilesReader(hills[1].path) as whole:
        got = {Tile(z, x, y) for x, y in part.coordinates(z).tolist()}
        assert got == wanted & {Tile(z, x, y) for x, y in whole.coordinates(z).tolist()}
        assert got
        assert all(part.read(tile) == whole.read(tile) for tile in got)
    inner, outer = report.metadata.bounds, hills[1].metadata.bounds
    assert outer.west <= inner.west <= bbox.west < bbox.east <= inner.east <= outer.east


def test_a_box_across_the_antimeridian_takes_both_sides(tmp_path: Path) -> None:
    rasters.write(tmp_path / "store" / "fiji" / "w.tif", rasters.plane(40, 40), left=176, top=-15, pixel=0.1)
    rasters.write(tmp_path / "store" / "fiji" / "e.tif", rasters.plane(40, 40), left=-180, top=-15, pixel=0.1)
    for maxzoom in (2, 4):
        report = built(tmp_path, "fiji", BuildOptions(maxzoom=maxzoom, bbox=Bounds(177, -18, -178, -16)))
        columns = {tile.x for tile in tiles(report.path, maxzoom)}
        assert columns == {0, (1 << maxzoom) - 1}, f"zoom {maxzoom}"


def test_zooms_limit_the_tiles_and_do_not_change_them(
    hills: tuple[Path, BuildReport], tmp_path: Path
) -> None:
    (tmp_path / "store").symlink_to(hills[0] / "store")
    high = built(tmp_path, options=BuildOptions(minzoom=8))
    assert (high.metadata.minzoom, high.metadata.maxzoom) == (8, 9)
    with MBTilesReader(high.path) as part, MBTilesReader(hills[1].path) as whole:
        assert sorted(part.counts()) == [8, 9]
        for z in (8, 9):
            np.testing.assert_array_equal(part.coordinates(z), whole.coordinates(z))
            for x, y in part.coordinates(z).tolist():
                assert part.read(Tile(z, x, y)) == whole.read(Tile(z, x, y))
    low = built(tmp_path, options=BuildOptions(minzoom=2, maxzoom=5))
    with MBTilesReader(low.path) as part:
        assert sorted(part.counts()) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (BuildOptions(minzoom=12), ZoomInvalid),
        (BuildOptions(minzoom=5, maxzoom=4), ZoomInvalid),
        (BuildOptions(bbox=Bounds(20, 20, 21, 21)), AreaEmpty),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is_written(
    hills: tuple[Path, BuildReport], tmp_path: Path, options: BuildOptions, error: type[Exception]
) -> None:
    (tmp_path / "store").symlink_to(hills[0] / "store")
    with pytest.raises(error):
        built(tmp_path, options=options)
    assert not list((tmp_path / "output").rglob("*.mbtiles*"))


def test_a_box_in_a_hole_of_the_data_is_refused(tmp_path: Path) -> None:
    heights, absent = rasters.plane(400, 400), np.zeros((400, 400), bool)
    absent[:, :300] = True
    rasters.write(tmp_path / "store" / "a" / "a.tif", heights, nodata=-1, absent=absent, pixel=0.01)
    with pytest.raises(SourceEmpty, match="no valid pixel"):
        built(tmp_path, "a", BuildOptions(bbox=Bounds(7.2, 45.2, 7.4, 45.4)))


def test_a_budget_below_one_worker_is_refused(own: Path) -> None:
    shutil.rmtree(own / "output")
    with pytest.raises(BudgetTooSmall, match=r"--memory-mb 100: one worker needs \d+ MiB"):
        built(own, FUSI_MEMORY_MB="100")


# The file


def test_the_file_is_whole_and_stands_alone(hills: tuple[Path, BuildReport]) -> None:
    path = hills[1].path
    assert sorted(one.name for one in path.parent.iterdir()) == ["hills.index.db", "hills.mbtiles"]
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA application_id").fetchone() == (0x4D504258,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (distinct,) = connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT zoom_level, tile_column, tile_row FROM tiles)"
        ).fetchone()
    assert distinct == hills[1].tiles


def test_metadata_says_what_mbtiles_1_3_asks_for(hills: tuple[Path, BuildReport]) -> None:
    with closing(sqlite3.connect(f"{hills[1].path.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT name, value FROM metadata").fetchall()
    values = dict(rows)
    assert len(values) == len(rows)
    assert values["name"] == "hills"
    assert values["format"] == "webp"
    assert values["type"] in ("overlay", "baselayer")
    assert float(values["version"]) >= 1
    assert (values["minzoom"], values["maxzoom"]) == ("0", "9")
    assert values["encoding"] == "terrarium"
    assert values["attribution"] == "Somebody"
    assert values["description"]
    west, south, east, north = (float(part) for part in values["bounds"].split(","))
    assert -180 <= west < east <= 180
    assert -90 <= south < north <= 90
    lon, lat, zoom = (float(part) for part in values["center"].split(","))
    assert west < lon < east
    assert south < lat < north
    assert 0 <= zoom <= 9
    extra = json.loads(values["json"])
    assert extra["license"] == "CC0-1.0"
    assert extra["vertical_step_m"] == {str(z): 1.0 for z in range(10)}
    assert extra["generator"] == "fusi"


def test_nothing_in_the_archive_depends_on_where_it_is(own: Path, hills: tuple[Path, BuildReport]) -> None:
    shutil.rmtree(own / "output")
    assert sha256(built(own).path) == sha256(hills[1].path)


@pytest.mark.parametrize("content", [b"not an archive", b""])
def test_a_file_that_fusi_did_not_write_is_replaced_only_when_told(
    hills: tuple[Path, BuildReport], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "store").symlink_to(hills[0] / "store")
    path = tmp_path / "output" / "sources" / "hills.mbtiles"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(OutputExists, match="--overwrite"):
        built(tmp_path)
    assert path.read_bytes() == content
    assert sha256(built(tmp_path, overwrite=True).path) == sha256(hills[1].path)


def test_a_foreign_mbtiles_is_not_replaced(own: Path) -> None:
    path = own / "output" / "sources" / "hills.mbtiles"
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        connection.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
    with pytest.raises(OutputExists):
        built(own)


def test_progress_counts_every_block_once(own: Path) -> None:
    shutil.rmtree(own / "output")
    seen = [progress for progress in build_source("hills", settings(own)) if progress.stage == "build"]
    assert [progress.done for progress in seen] == list(range(seen[-1].total + 1))
    assert all(progress.unit == "blocks" for progress in seen)
    assert seen[-1].bytes_written == hills_bytes(own)


def hills_bytes(place: Path) -> int:
    path = place / "output" / "sources" / "hills.mbtiles"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT sum(length(tile_data)) FROM tiles").fetchone()[0])
