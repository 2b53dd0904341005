"""What each source covers: polygons against rasterio's, counts against pixels, files against formats."""

from __future__ import annotations

import builtins
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pyproj import Geod
from rasterio import features as gdal
from scipy.ndimage import gaussian_filter
from shapely.geometry import shape

from fusi_pipeline import coverage as module
from fusi_pipeline import polygons
from fusi_pipeline.coverage import KINDS, CoverageReport, coverage
from fusi_pipeline.errors import ArchiveUnsuitable, ExtraMissing, LineageMissing, OutputExists, UsageError
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from tests import command, merged
from tests.command import Fusi

fusi = command.fusi

RASTERS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))


def blobs(side: int, seed: int = 1, width: float = 12.0) -> merged.Labels:
    """Return ragged areas of the labels 0 to 3."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), width)
    return np.searchsorted(np.quantile(noise, [0.25, 0.5, 0.75]), noise).astype(np.uint8)


WHOLE = blobs(1024, width=24.0)


def driven(archive: Path, output: Any, **how: Any) -> tuple[CoverageReport, list[Progress]]:
    work, seen = coverage(archive, output, **how), []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as end:
            return end.value, seen


def written(archive: Path, **how: Any) -> list[dict[str, Any]]:
    """Return the features of an archive as GeoJSON has them."""
    text = io.StringIO()
    driven(archive, text, **how)
    document = json.loads(text.getvalue())
    assert document["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = document["features"]
    assert all(one["type"] == "Feature" for one in features)
    return features


# Polygons of a raster


def same_areas(labels: merged.Labels) -> None:
    ours = polygons.by_label(labels, polygons.segments(labels))
    oracle: dict[int, list[shapely.Geometry]] = {}
    for geometry, value in gdal.shapes(labels, connectivity=4):
        oracle.setdefault(int(value), []).append(shape(geometry))
    assert set(ours) == set(oracle) - {0}
    for label, area in ours.items():
        assert area.is_valid
        assert area.area == np.count_nonzero(labels == label)
        assert area.normalize().equals(shapely.union_all(oracle[label]))


@given(RASTERS)
@settings(max_examples=300, deadline=None)
def test_areas_are_those_of_gdal(labels: merged.Labels) -> None:
    same_areas(labels)


def test_ragged_areas_are_those_of_gdal_too() -> None:
    same_areas(blobs(300))


@given(RASTERS)
@settings(deadline=None)
def test_areas_overlap_nowhere(labels: merged.Labels) -> None:
    areas = list(polygons.by_label(labels, polygons.segments(labels)).values())
    assert shapely.union_all(areas).area == sum(area.area for area in areas) == np.count_nonzero(labels)


@given(RASTERS)
@settings(deadline=None)
def test_shells_turn_left_and_holes_right(labels: merged.Labels) -> None:
    for area in polygons.by_label(labels, polygons.segments(labels)).values():
        turned = polygons.placed(area, lambda points: points * [1.0, -1.0])
        for part in shapely.get_parts(turned):
            assert part.exterior.is_ccw
            assert not any(ring.is_ccw for ring in part.interiors)


@given(arrays.arrays(np.uint8, (8, 12), elements=st.integers(0, 4)), st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_coarser_labels_are_the_most_frequent_and_none_is_lost(labels: merged.Labels, factor: int) -> None:
    coarse = polygons.coarsened(labels, factor)
    assert coarse.shape == (8 // factor, 12 // factor)
    squares = labels.reshape(8 // factor, factor, 12 // factor, factor).swapaxes(1, 2).reshape(-1, factor**2)
    most = [np.bincount(square).max() for square in squares]
    held = [np.count_nonzero(square == label) for square, label in zip(squares, coarse.flat, strict=True)]
    assert all(count > 0 for count in held)
    assert sum(a != b for a, b in zip(most, held, strict=True)) <= 4
    if factor < 4:
        return
    lost = set(np.unique(labels)) - {0} - set(np.unique(coarse))
    assert len(lost) <= 2


# Features of an archive


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lineage of 2 x 2 ragged tiles of zoom 9, the one above them, and one of zoom 12."""
    folder = tmp_path_factory.mktemp("country")
    corner, whole = grid.tile_at(-3.0, 52.0, 8), WHOLE
    tiles: dict[Tile, merged.Labels] = {}
    for row in range(2):
        for col in range(2):
            part = whole[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
            second = np.where((part == 1) & (np.arange(512) < 100), 2, 0).astype(np.uint8)
            tiles[Tile(9, corner.x * 2 + col, corner.y * 2 + row)] = merged.lineage_pixels(part, second)
    tiles[corner] = whole[::2, ::2]
    deep = grid.tile_at(-3.0, 52.0, 12)
    tiles[deep] = merged.labels(3)
    return merged.write_lineage(folder / "sources.pmtiles", tiles)


def test_pixels_add_up_to_what_is_covered(country: Path) -> None:
    whole = WHOLE
    at_9 = [one["properties"] for one in written(country, zooms=[9])]
    assert sum(one["pixels"] for one in at_9) == np.count_nonzero(whole)
    for index in (1, 2, 3):
        assert sum(one["pixels"] for one in at_9 if one["index"] == index) == np.count_nonzero(whole == index)
    blended = np.count_nonzero((whole == 1) & (np.arange(1024) % 512 < 100))
    assert sum(one["blended_pixels"] for one in at_9) == blended
    report, _ = driven(country, io.StringIO())
    lines = {(one.zoom, one.index): one for one in report.coverage}
    assert lines[9, 2].pixels == np.count_nonzero(whole == 2)
    assert lines[12, 3].share == 1.0
    assert sum(one.share for one in report.coverage) == pytest.approx(3)


@pytest.mark.parametrize("detail_px", [1, 8])
@pytest.mark.parametrize("cell_levels", [0, 1, 3])
def test_polygons_are_valid_and_of_the_size_of_their_pixels(
    country: Path, cell_levels: int, detail_px: int
) -> None:
    features = written(country, zooms=[9], cell_levels=cell_levels, detail_px=detail_px)
    geod = Geod(ellps="WGS84")
    for feature in features:
        area, told = shape(feature["geometry"]), feature["properties"]
        assert area.is_valid
        cell = Tile(*map(int, told["cell"].split("/")))
        assert cell.z == 9 - cell_levels
        box = grid.bounds(cell)
        assert shapely.box(box.west, box.south, box.east, box.north).buffer(1e-7).covers(area)
        assert told["share"] == pytest.approx(told["pixels"] / (512 << cell_levels) ** 2)
        assert told["detail_px"] == detail_px
        if detail_px == 1:
            assert told["area_km2"] == pytest.approx(
                abs(geod.geometry_area_perimeter(area)[0]) / 1e6, rel=1e-4
            )
    by_index = [
        shapely.union_all([shape(one["geometry"]) for one in features if one["properties"]["index"] == index])
        for index in (1, 2, 3)
    ]
    assert shapely.union_all(by_index).area == pytest.approx(sum(area.area for area in by_index))


def test_polygons_are_where_the_pixels_are(country: Path) -> None:
    whole, features = WHOLE, written(country, zooms=[9], cell_levels=1)
    corner, size = grid.xy_bounds(grid.tile_at(-3.0, 52.0, 8)), grid.resolution_m(9)
    areas = {one["properties"]["index"]: shape(one["geometry"]) for one in features}
    for row, col in np.random.default_rng(4).integers(0, 1024, (200, 2)).tolist():
        place = grid.unproject(corner.left + (col + 0.5) * size, corner.top - (row + 0.5) * size)
        held = {index for index, area in areas.items() if shapely.contains_xy(area, *place)}
        assert held == ({int(whole[row, col])} - {0})


def test_rings_turn_as_rfc_7946_wants_and_stay_on_the_map(tmp_path: Path) -> None:
    ring = merged.labels(1)
    ring[100:200, 100:200] = 0
    last = Tile(3, 7, 3)
    path = merged.write_lineage(
        tmp_path / "l.mbtiles", {Tile(0, 0, 0): ring, Tile(3, 0, 3): ring, last: ring}
    )
    for feature in written(path):
        for part in shapely.get_parts(shape(feature["geometry"])):
            assert part.exterior.is_ccw
            assert [hole.is_ccw for hole in part.interiors] == [False] * len(part.interiors)
            west, south, east, north = part.bounds
            assert -180 <= west < east <= 180
            assert -85.06 < south < north < 85.06
    (world,) = written(path, zooms=[0])
    assert world["properties"]["cell"] == "0/0/0"


def test_what_is_told_of_a_source(country: Path) -> None:
    (feature,) = written(country, zooms=[12])
    assert set(feature["properties"]) == set(KINDS)
    assert feature["properties"]["source"] == "sea"
    assert feature["properties"]["color"] == "#009988"
    told = next(one for one in written(country, zooms=[8]) if one["properties"]["index"] == 1)["properties"]
    assert (told["source"], told["attribution"], told["license"]) == ("lidar", "© City", "CC BY 4.0")


def test_mixed_cells_are_drawn_coarser_and_counted_exactly(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(1, 3, (512, 512)).astype(np.uint8)
    noise[17, 31] = 3
    path = merged.write_lineage(tmp_path / "l.pmtiles", {Tile(5, 9, 9): noise})
    features = written(path)
    told = [one["properties"] for one in features]
    assert {one["detail_px"] for one in told} != {1}
    assert [one["pixels"] for one in told] == [np.count_nonzero(noise == index) for index in (1, 2, 3)]
    assert all(shape(one["geometry"]).is_valid for one in features)
    vertices = sum(shapely.get_num_coordinates(shape(one["geometry"])) for one in features)
    assert vertices < 4 * module.MOST_SEGMENTS


def test_progress_counts_the_cells(country: Path) -> None:
    report, seen = driven(country, io.StringIO(), cell_levels=0)
    assert [one.done for one in seen] == list(range(report.cells + 1))
    assert {one.total for one in seen} == {report.cells} == {6}


# Files


def test_a_geojson_file_is_whole_or_not_there(country: Path, tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "cover.geojson"
    report, _ = driven(country, path)
    assert len(json.loads(path.read_text())["features"]) == report.features
    before = path.read_bytes()
    driven(country, path)
    assert path.read_bytes() == before
    monkeypatch.setattr(module, "_write_cell", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        driven(country, path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["other.geojson", "other.parquet"])
def test_a_file_of_someone_else_is_left_alone(country: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(OutputExists):
        driven(country, path)
    driven(country, path, overwrite=True)
    driven(country, path)


def test_geoparquet_says_the_same_as_geojson(country: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra geoparquet is not installed")
    path = tmp_path / "cover.parquet"
    driven(country, path)
    table = parquet.read_table(path)
    stated = json.loads(table.schema.metadata[b"geo"])
    column = stated["columns"]["geometry"]
    assert (stated["version"], stated["primary_column"], column["encoding"]) == ("1.1.0", "geometry", "WKB")
    assert set(column["geometry_types"]) <= {"Polygon", "MultiPolygon"}
    assert column["orientation"] == "counterclockwise"
    geometries = shapely.from_wkb(table["geometry"].to_pylist())
    assert column["bbox"] == pytest.approx(shapely.total_bounds(geometries).tolist())
    features = written(country)
    assert len(features) == table.num_rows
    for feature, geometry, row in zip(features, geometries, table.to_pylist(), strict=True):
        assert {key: row[key] for key in KINDS} == feature["properties"]
        assert shapely.equals(shape(feature["geometry"]), geometry)
        assert list(row["bbox"].values()) == list(geometry.bounds)
    driven(country, path)


def test_without_pyarrow_the_extra_is_named(country: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = builtins.__import__

    def without(name: str, *how: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *how, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ExtraMissing, match=r"fusi\[geoparquet\]"):
        driven(country, tmp_path / "cover.parquet")
    assert not list(tmp_path.iterdir())


def test_the_lineage_is_found_from_the_terrain(country: Path, tmp_path: Path) -> None:
    tile = Tile(5, 9, 9)
    lineage = merged.write_lineage(tmp_path / "l.pmtiles", {tile: merged.labels(1)})
    terrain = merged.write_terrain(tmp_path / "t.pmtiles", {tile: merged.heights(1.0)}, lineage="l.pmtiles")
    assert written(terrain) == written(lineage)
    lineage.unlink()
    with pytest.raises(LineageMissing, match=r"fusi merge .* --lineage"):
        driven(terrain, io.StringIO())
    with pytest.raises(LineageMissing, match="--lineage"):
        driven(merged.write_terrain(tmp_path / "n.pmtiles", {tile: merged.heights(1.0)}), io.StringIO())


def test_wrong_wishes(country: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnsuitable, match="no tile of zoom 11"):
        driven(country, io.StringIO(), zooms=[11])
    with pytest.raises(UsageError, match=r"\.geojson"):
        driven(country, tmp_path / "cover.shp")
    with pytest.raises(UsageError, match="archive to read"):
        driven(country, country)


# The command


def test_the_command(country: Path, tmp_path: Path, fusi: Fusi) -> None:
    answer = fusi("coverage", country, "--zoom", 9, "--cells", 1, "--detail-px", 8)
    assert answer.code == 0
    assert len(answer.json["features"]) == 3
    answer = fusi("coverage", country, "-o", tmp_path / "c.geojson")
    assert answer.code == 0
    assert "lidar" in answer.out
    report = fusi("coverage", country, "-o", tmp_path / "c.geojson", "--json").json
    assert report["features"] == len(json.loads((tmp_path / "c.geojson").read_text())["features"])
    assert math.isclose(sum(one["share"] for one in report["coverage"]), 3)
    answer = fusi(
        "coverage", merged.write_terrain(tmp_path / "t.pmtiles", {Tile(0, 0, 0): merged.heights(1)})
    )
    assert answer.code == 1
    (line,) = answer.said
    assert "--lineage" in line
