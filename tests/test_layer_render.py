"""Maps over terrain: which quadrants they have, and renders that meet without a seam."""

from __future__ import annotations

from pathlib import Path

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds
from fusi_pipeline.tiles.hillshade import ReliefStyle, shade_within, style_of
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.resample import Heights, enlarge
from layer_generation.camera import IsometricCamera
from layer_generation.errors import GeometryInvalid, MapExists, MapMissing
from layer_generation.map_making import extend_map, make_isometric_map, make_map
from layer_generation.map_rendering import render_map
from layer_generation.pictures import decoded
from layer_generation.quadrants import QuadrantStore
from layer_generation.renderer.relief import relief, row_lengths_m, with_margin
from layer_generation.renderer.terrain import Terrain
from tests import served
from tests.layers import done, told

STYLE = ReliefStyle(exaggeration=3.0, low_m=-20.0, high_m=900.0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of zooms 4..8 with missing pixels around its box."""
    return served.write_source(tmp_path_factory.mktemp("terrain"), range(4, 9))


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A final archive, which holds 0 m where nothing is known."""
    return served.write_merged(tmp_path_factory.mktemp("merged"))[0]


def around(terrain: Terrain, x: int, y: int, side: int) -> Heights:
    """Return the heights of side x side quadrants from (x, y) on, put together tile by tile."""
    whole = np.full((side * 512, side * 512), np.nan, dtype=np.float32)
    for row in range(side):
        for col in range(side):
            part = terrain.heights(x + col, y + row)
            if part is not None:
                whole[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512] = part
    return whole


@pytest.mark.parametrize("zoom", [7, 8, 9, 11])
def test_four_pictures_are_the_picture_of_all_four(archive: Path, zoom: int) -> None:
    middle = grid.tile_at(6.35, 44.2, zoom)
    x, y = middle.x, middle.y
    with Terrain(archive, zoom) as terrain:
        whole = around(terrain, x - 1, y - 1, 4)[511:-511, 511:-511]
        lengths = np.concatenate([row_lengths_m(y, zoom), row_lengths_m(y + 1, zoom)])
        at_once = shade_within(whole, lengths, STYLE)
        for row in range(2):
            for col in range(2):
                heights = with_margin(x + col, y + row, terrain.heights)
                part = relief(heights, y + row, zoom, STYLE)
                expected = at_once[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
                assert np.array_equal(part, expected)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_heights_below_the_archive_are_its_own_enlarged_in_one_piece(archive: Path, levels: int) -> None:
    parent = grid.tile_at(7.0, 44.3, 8)
    with Terrain(archive, 8) as terrain:
        source = around(terrain, parent.x - 1, parent.y - 1, 3)
    whole = enlarge(source, 1 << levels, 512, 512, 512 << levels, "cubicspline")
    side = 1 << levels
    with Terrain(archive, 8 + levels) as terrain:
        parts = around(terrain, parent.x * side, parent.y * side, side)
    assert not np.isnan(whole).all()
    assert np.array_equal(parts, whole, equal_nan=True)


def test_a_picture_does_not_depend_on_the_window(archive: Path) -> None:
    rng = np.random.default_rng(3)
    heights = rng.normal(50, 60, (90, 120)).astype(np.float32)
    heights[rng.random(heights.shape) < 0.1] = np.nan
    lengths = np.linspace(20, 30, 88, dtype=np.float32)
    whole = shade_within(heights, lengths, STYLE)
    part = shade_within(heights[30:62, 41:90].copy(), lengths[30:60], STYLE)
    assert np.array_equal(part, whole[30:60, 41:88])


@given(st.floats(0.1, 20), st.sampled_from([np.nan, 0.0, -3.0]))
def test_water_is_level_and_blue_and_no_cliff_stands_beside_it(factor: float, water: float) -> None:
    heights = np.full((40, 40), 800.0, dtype=np.float32)
    heights[:, 20:] = water
    style = ReliefStyle(exaggeration=factor, low_m=0.0, high_m=1000.0)
    picture = shade_within(heights, np.full(38, 30, np.float32), style).astype(int)
    assert len(np.unique(picture[:, :19].reshape(-1, 3), axis=0)) == 1
    assert (picture[:, 19:, 2] > picture[:, 19:, 0] + 20).all()


def test_a_slope_is_lit_from_the_north_west() -> None:
    rows, cols = np.mgrid[0:64, 0:64].astype(np.float32)
    style = ReliefStyle(exaggeration=1.0, low_m=0.0, high_m=4000.0)
    lengths = np.full(62, 30, np.float32)
    towards = shade_within(1000 + 20 * (cols + rows), lengths, style)  # faces the north-west
    away = shade_within(1000 + 20 * (126 - cols - rows), lengths, style)
    assert towards[31, 31].sum() > 1.5 * away[31, 31].sum()


def test_ground_lengths_are_those_of_the_latitude() -> None:
    for zoom, y in ((0, 0), (5, 10), (14, 6000)):
        lengths = row_lengths_m(y, zoom)
        box = mercantile.bounds(0, y, zoom)
        at_edges = grid.resolution_m(zoom) * np.cos(np.radians([box.north, box.south]))
        assert min(at_edges) <= lengths.min()
        assert lengths.max() <= max(*at_edges, grid.resolution_m(zoom) if zoom == 0 else 0)


def test_the_style_spans_the_heights_and_shows_the_relief() -> None:
    flat = style_of([(np.linspace(10, 12, 4096, dtype=np.float32).reshape(64, 64), 100.0)])
    steep = style_of([(np.linspace(0, 60_000, 4096, dtype=np.float32).reshape(64, 64), 100.0)])
    assert flat.exaggeration > 10 > steep.exaggeration == 1
    assert 10 <= flat.low_m < flat.high_m <= 12.1
    assert style_of([]) == ReliefStyle(exaggeration=1.0, low_m=0.0, high_m=1.0)


# Which quadrants


def quadrants_of(folder: Path) -> set[tuple[int, int]]:
    with QuadrantStore(folder) as store:
        return set(map(tuple, store.coordinates().tolist()))


def covering(box: Bounds, zoom: int) -> set[tuple[int, int]]:
    return {(tile.x, tile.y) for tile in grid.covering(grid.projected(box), zoom)}


@pytest.mark.parametrize("zoom", [6, 8, 9, 10, 12])
def test_quadrants_are_those_that_hold_a_valid_pixel(archive: Path, tmp_path: Path, zoom: int) -> None:
    report = done(make_map(tmp_path, archive, zoom))
    assert quadrants_of(tmp_path) == covering(served.BOX, zoom)
    assert report.quadrants == report.added == len(covering(served.BOX, zoom))


def test_a_final_archive_has_no_quadrants_where_it_holds_0_m(merged: Path, tmp_path: Path) -> None:
    done(make_map(tmp_path, merged, 10))
    found = quadrants_of(tmp_path)
    sure = {(tile.x, tile.y) for tile in mercantile.tiles(6.4, 44.2, 7.6, 44.6, 10)}
    assert sure <= found <= covering(served.BOX, 10)


def test_a_box_narrows_the_map_and_all_widens_it(archive: Path, tmp_path: Path) -> None:
    west = Bounds(5.0, 44.0, 6.5, 44.5)
    done(make_map(tmp_path / "data", archive, 9, west))
    done(make_map(tmp_path / "all", archive, 9, west, everywhere=True))
    assert quadrants_of(tmp_path / "data") == covering(west, 9) & covering(served.BOX, 9)
    assert quadrants_of(tmp_path / "all") == covering(west, 9)


def test_a_map_grows_by_extend_only(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(MapMissing):
        done(extend_map(tmp_path))
    done(make_map(tmp_path, archive, 9, Bounds(6.0, 44.0, 6.5, 44.5)))
    with pytest.raises(MapExists):
        done(make_map(tmp_path, archive, 9))
    with pytest.raises(GeometryInvalid, match="zoom 9"):
        done(extend_map(tmp_path, zoom=10))
    report = done(extend_map(tmp_path))
    assert quadrants_of(tmp_path) == covering(served.BOX, 9)
    assert 0 < report.added < report.quadrants


def test_a_map_goes_on_across_the_antimeridian(tmp_path: Path) -> None:
    box = Bounds(179.0, 43.5, -179.0, 45.0)
    tiles = {tile: served.encoded(served.hills(tile), tile.z) for tile in served.tiles_of(box, range(5, 8))}
    path = served.write_pmtiles(tmp_path / "a.pmtiles", tiles, served.metadata(range(5, 8), bounds=box))
    report = done(make_map(tmp_path / "map", path, 7))
    assert report.bounds is not None
    assert report.bounds[0] < 1 << 7 <= report.bounds[2]
    done(render_map(tmp_path / "map", workers=2))
    with QuadrantStore(tmp_path / "map") as store:
        x = store.coordinates("render")[:, 0]
        assert {127, 128} <= set(x.tolist())


def test_nothing_is_left_where_there_is_no_terrain(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no heights at zoom 9"):
        done(make_map(tmp_path / "map", archive, 9, Bounds(50.0, 10.0, 51.0, 11.0)))
    with pytest.raises(GeometryInvalid, match="lower --zoom"):
        done(make_map(tmp_path / "map", archive, 22))
    assert not (tmp_path / "map" / "quadrants.db").exists()


def test_other_archives_are_refused(tmp_path: Path) -> None:
    facts = ArchiveMetadata(name="a", minzoom=8, maxzoom=8, bounds=served.BOX, encoding="lineage")
    tile = grid.tile_at(7.0, 44.0, 8)
    small = encode_webp(np.full((256, 256, 3), 128, np.uint8))
    lineage = served.write_pmtiles(tmp_path / "a.pmtiles", {tile: small}, facts)
    with pytest.raises(ArchiveUnsuitable, match="no terrain"):
        done(make_map(tmp_path / "map", lineage, 8))
    half = served.write_pmtiles(tmp_path / "b.pmtiles", {tile: small}, served.metadata([8]))
    with pytest.raises(ArchiveUnsuitable, match="512 px"):
        done(make_map(tmp_path / "map", half, 9))


# Renders


def test_rendering_fills_goes_on_and_is_the_same_every_time(archive: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done(make_map(tmp_path / name, archive, 8))
    report = done(render_map(tmp_path / "one", workers=1))
    assert (report.rendered, report.kept) == (len(covering(served.BOX, 8)), 0)
    work = render_map(tmp_path / "two", workers=3)
    next(work)
    work.close()
    done(render_map(tmp_path / "two", workers=3))
    with QuadrantStore(tmp_path / "one") as one, QuadrantStore(tmp_path / "two") as two:
        for x, y in one.coordinates().tolist():
            data = one.image("render", x, y)
            assert data == two.image("render", x, y)
            assert decoded(data or b"", "").shape == (512, 512, 3)
        one.put("render", [(*one.coordinates()[0].tolist(), None)])
    again = done(render_map(tmp_path / "one", workers=1))
    assert (again.rendered, again.kept, again.style) == (1, report.rendered - 1, report.style)


def test_a_style_may_change_for_all_renders_only(archive: Path, tmp_path: Path) -> None:
    done(make_map(tmp_path, archive, 7))
    done(render_map(tmp_path))
    with pytest.raises(UsageError, match="--overwrite"):
        done(render_map(tmp_path, exaggeration=9.0))
    report = done(render_map(tmp_path, exaggeration=9.0, tint_m=(0.0, 500.0), overwrite=True))
    assert report.style == ReliefStyle(exaggeration=9.0, low_m=0.0, high_m=500.0)


def test_a_change_of_style_that_is_cut_short_leaves_one_style(archive: Path, tmp_path: Path) -> None:
    done(make_map(tmp_path, archive, 8))
    first = done(render_map(tmp_path))
    work = render_map(tmp_path, exaggeration=9.0, overwrite=True)
    next(work)
    work.close()
    second = done(render_map(tmp_path))
    assert (second.rendered, second.kept, second.style.exaggeration) == (first.rendered, 0, 9.0)


def test_an_isometric_map_is_not_drawn_by_numpy(tmp_path: Path) -> None:
    camera = IsometricCamera(seed_lat=40.0, seed_lon=-74.0)
    assert make_isometric_map(tmp_path, camera, (-1, -1, 2, 0)).quadrants == 8
    with pytest.raises(GeometryInvalid, match="--renderer browser"):
        done(render_map(tmp_path, renderer="numpy"))
    with pytest.raises(UsageError, match="--terrain"):
        done(render_map(tmp_path))


def test_a_map_that_lost_its_terrain_says_so(archive: Path, tmp_path: Path) -> None:
    moved = tmp_path / "a.mbtiles"
    moved.write_bytes(archive.read_bytes())
    done(make_map(tmp_path / "map", moved, 7))
    with QuadrantStore(tmp_path / "map") as store:
        stated = store.fact("terrain")
        assert isinstance(stated, dict)
        assert stated["archive"] == "../a.mbtiles"
    moved.rename(tmp_path / "b.mbtiles")
    with pytest.raises(UsageError, match="no such archive"):
        done(render_map(tmp_path / "map"))
    assert done(render_map(tmp_path / "map", archive=tmp_path / "b.mbtiles")).rendered
    assert done(render_map(tmp_path / "map")).rendered == 0


def test_heights_are_those_of_the_tile(archive: Path) -> None:
    tile = grid.tile_at(7.0, 44.2, 8)
    with Terrain(archive, 8) as terrain:
        heights = terrain.heights(tile.x, tile.y)
        assert heights is not None
        expected = np.where(served.within(tile, served.BOX), served.hills(tile), np.nan)
        missing = np.isnan(heights)
        assert missing[np.isnan(expected)].all()
        assert (np.nan_to_num(np.abs(expected[missing])) <= 0.5).all()  # 0 m in steps of 1 m
        np.testing.assert_allclose(heights[~missing], expected[~missing], atol=0.6)
        assert terrain.heights(tile.x + 256, tile.y) is heights
        assert terrain.heights(0, -1) is None


# The command


def test_the_commands_of_maps(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "map"
    made = told(
        capsys, "map", "init", "--map-dir", folder, "--terrain", archive, "--zoom", 8,
        "--bbox", "-10,43,8,45", "--json",
    )  # fmt: skip
    assert made.code == 0
    assert made.json["quadrants"] == len(covering(Bounds(-10, 43, 8, 45), 8) & covering(served.BOX, 8))
    assert told(capsys, "map", "render", "--map-dir", folder, "--workers", 1, "--json").json["rendered"] > 0
    shown = told(capsys, "map", "show", "--map-dir", folder, "--json").json
    assert shown["geometry"] == {"type": "web-mercator", "zoom": 8}
    assert shown["pictures"] == {"render": made.json["quadrants"], "generation": 0}
    assert shown["terrain"]["attribution"] == "© somebody"
    again = told(capsys, "map", "init", "--map-dir", folder, "--terrain", archive, "--zoom", 8)
    assert (again.code, len(again.said)) == (2, 1)
    assert "holds a map already" in again.said[0]
    assert told(capsys, "map", "show", "--map-dir", folder).code == 0


def test_the_command_makes_isometric_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("map", "init", "--map-dir", tmp_path, "--camera", "--seed-lat", 40.7, "--seed-lon", -74.0)
    assert told(capsys, *words, "--azimuth", 20, "--quadrants", "-2,-1,3,3").code == 0
    shown = told(capsys, "map", "show", "--map-dir", tmp_path, "--json").json
    assert shown["geometry"]["azimuth_deg"] == 20
    assert shown["quadrant_box"] == [-2, -1, 3, 3]
    west, south, east, north = shown["bounds"]
    assert west < -74.0 < east
    assert south < 40.7 < north


@pytest.mark.parametrize(
    "words",
    [
        ("--zoom", 3),
        ("--camera", "--seed-lat", 1.0),
        ("--camera", "--zoom", 3, "--seed-lat", 1.0, "--seed-lon", 1.0),
        ("--azimuth", 3, "--zoom", 3),
        ("--camera", "--seed-lat", 1.0, "--seed-lon", 1.0, "--elevation", 0),
    ],
    ids=str,
)
def test_wrong_words_are_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[object, ...]
) -> None:
    answer = told(capsys, "map", "init", "--map-dir", tmp_path, *words)
    assert (answer.code, len(answer.said)) == (2, 1)
