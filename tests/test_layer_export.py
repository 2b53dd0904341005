"""Layers as PMTiles: their tiles, overviews, metadata, by the `pmtiles` package, Pillow and mercantile."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import TileType

from fusi_pipeline.errors import FusiError, OutputExists, UsageError
from fusi_pipeline.tiles.picture import overview
from fusi_pipeline.tiles.structure import problems
from layer_generation.camera import IsometricCamera, MercatorGrid
from layer_generation.errors import ImageInvalid, LayerIncomplete
from layer_generation.export import export_layer
from layer_generation.export_metadata import placing_of
from layer_generation.progress import Progress
from layer_generation.pyramid import TileFormat
from tests.layers import done, picture, told, write_layer, write_map

SHAPE = [(x, y) for x in range(530, 537) for y in range(370, 375) if (x, y) not in ((530, 370), (536, 374))]
TERRAIN = {"archive": "../t.pmtiles", "name": "Hills", "attribution": "© <b>somebody</b>"}
CAMERA = IsometricCamera(seed_lat=40.7484, seed_lon=-73.9857)
Facts = dict[str, Any]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("georeferenced")
    write_map(base / "map", MercatorGrid(zoom=10), SHAPE, terrain=TERRAIN)
    return write_layer(base / "layer", base / "map")


def opened(path: Path) -> tuple[Facts, Facts, dict[tuple[int, int, int], bytes]]:
    """Return header, metadata and tiles by (z, x, y), as the `pmtiles` package reads them."""
    with path.open("rb") as file:
        source = MmapSource(file)
        reader = Reader(source)
        return reader.header(), reader.metadata(), dict(all_tiles(source))


def pixels(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA"))


def test_a_quadrant_is_its_tile_without_loss(layer: Path, tmp_path: Path) -> None:
    report = done(export_layer(layer, tmp_path / "a.pmtiles", workers=2))
    header, _, tiles = opened(tmp_path / "a.pmtiles")
    assert (report.quadrants, report.missing, report.tiles) == (len(SHAPE), 0, len(tiles))
    assert {(x, y) for z, x, y in tiles if z == 10} == set(SHAPE)
    for x, y in SHAPE:
        assert np.array_equal(pixels(tiles[10, x, y])[..., :3], picture(x, y))
    assert (header["min_zoom"], header["max_zoom"]) == (0, 10)
    assert header["tile_type"] == TileType.WEBP


def test_every_tile_above_is_the_mean_of_its_children(layer: Path, tmp_path: Path) -> None:
    done(export_layer(layer, tmp_path / "a.pmtiles"))
    _, _, tiles = opened(tmp_path / "a.pmtiles")
    above = {tile for tile in tiles if tile[0] < 10}
    assert above == {(z, x >> (10 - z), y >> (10 - z)) for z in range(10) for x, y in SHAPE}
    for z, x, y in sorted(above):
        expected = np.zeros((512, 512, 4), dtype=np.uint8)
        for child in mercantile.children(x, y, z):
            if (data := tiles.get((child.z, child.x, child.y))) is not None:
                row, col = child.y % 2 * 256, child.x % 2 * 256
                expected[row : row + 256, col : col + 256] = overview(pixels(data))
        assert np.array_equal(pixels(tiles[z, x, y]), expected)


def light(value: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    share = value / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


@given(arrays.arrays(np.uint8, (6, 8, 4)))
def test_an_overview_is_the_mean_in_linear_light(data: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    halved = overview(data)
    alpha = data[..., 3:].astype(float)
    four = (light(data[..., :3]) * alpha).reshape(3, 2, 4, 2, 3).sum(axis=(1, 3))
    weight = alpha.reshape(3, 2, 4, 2, 1).sum(axis=(1, 3))
    known = weight[..., 0] > 0
    mean = four[known] / weight[known]
    got = halved[..., :3][known].astype(float)
    slack = 2e-5
    assert (light(np.maximum(got - 0.5, 0)) <= mean + slack).all()
    assert (mean - slack <= light(np.minimum(got + 0.5, 255))).all()
    assert np.abs(halved[..., 3] - weight[..., 0] / 4).max() <= 0.5
    assert not halved[..., 3][~known].any()


@given(st.integers(0, 255), st.integers(1, 255))
def test_one_colour_stays_what_it_is(value: int, alpha: int) -> None:
    data = np.full((4, 4, 4), (value, 255 - value, 7, alpha), dtype=np.uint8)
    assert np.array_equal(overview(data), data[:2, :2])


def test_the_metadata_say_where_from_and_by_whom(layer: Path, tmp_path: Path) -> None:
    done(export_layer(layer, tmp_path / "a.pmtiles", kind="baselayer"))
    header, metadata, _ = opened(tmp_path / "a.pmtiles")
    west, south, east, north = metadata["bounds"]
    assert (west, north) == pytest.approx(mercantile.ul(530, 370, 10))
    assert (east, south) == pytest.approx(mercantile.ul(537, 375, 10))
    assert header["min_lon_e7"] == pytest.approx(west * 1e7, abs=1)
    lon, lat, zoom = metadata["center"]
    assert west < lon < east
    assert south < lat < north
    assert 0 <= zoom <= 10
    assert metadata["tileSize"] == 512
    assert metadata["type"] == "baselayer"
    assert metadata["attribution"] == TERRAIN["attribution"]
    assert "encoding" not in metadata
    made = metadata["fusi_layer"]
    assert made["name"] == "snow"
    assert made["source_layer"] == "renders"
    assert made["models"] == {"one (brush)": sum(step["total"] for step in made["plan"]["steps"].values())}
    assert made["prompt_sha256"] == ["ab" * 32]
    with Progress(layer) as progress:
        lines = [f"{one.step} {one.x} {one.y} {one.width} {one.height}\n" for one in progress.blocks()]
    assert made["plan"]["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert (made["plan"]["quadrants"], made["finished"], made["missing"]) == (len(SHAPE), len(SHAPE), 0)
    assert made["terrain"] == {"name": "Hills", "attribution": TERRAIN["attribution"]}
    assert "archive" not in json.dumps(made)


def test_the_archive_is_sound_and_the_same_every_time(layer: Path, tmp_path: Path) -> None:
    for name, workers in (("a", 1), ("b", 4)):
        done(export_layer(layer, tmp_path / f"{name}.pmtiles", workers=workers))
    data = (tmp_path / "a.pmtiles").read_bytes()
    assert data == (tmp_path / "b.pmtiles").read_bytes()
    assert str(layer).encode() not in data
    assert problems(tmp_path / "a.pmtiles") == []
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("tile_format", "magic"),
    [(TileFormat("png"), b"\x89PNG"), (TileFormat("webp", 80), b"RIFF")],
    ids=["png", "lossy"],
)
def test_formats(layer: Path, tmp_path: Path, tile_format: TileFormat, magic: bytes) -> None:
    done(export_layer(layer, tmp_path / "a.pmtiles", tile_format=tile_format, minzoom=9))
    header, metadata, tiles = opened(tmp_path / "a.pmtiles")
    assert metadata["format"] == tile_format.name
    assert header["min_zoom"] == 9
    assert all(data.startswith(magic) for data in tiles.values())
    got = pixels(tiles[10, *SHAPE[0]])[..., :3].astype(int)
    assert np.abs(got - picture(*SHAPE[0])).mean() < (1e-9 if tile_format.quality is None else 40)


def test_an_unfinished_layer_is_exported_on_request(tmp_path: Path) -> None:
    write_map(tmp_path / "map", MercatorGrid(zoom=10), SHAPE)
    layer = write_layer(tmp_path / "layer", tmp_path / "map", blocks=3)
    output = tmp_path / "a.pmtiles"
    with pytest.raises(LayerIncomplete, match=rf"of {len(SHAPE)} quadrants are not finished.*--partial"):
        done(export_layer(layer, output))
    assert not output.exists()
    report = done(export_layer(layer, output, partial=True))
    assert report.quadrants + report.missing == len(SHAPE)
    _, metadata, tiles = opened(output)
    assert sum(z == 10 for z, _, _ in tiles) == report.quadrants
    assert metadata["fusi_layer"]["missing"] == report.missing > 0
    (layer / "generations" / "999_999.png").write_bytes(b"of no block")
    assert done(export_layer(layer, output, partial=True)).quadrants == report.quadrants


def test_nothing_finished_is_an_error(tmp_path: Path) -> None:
    write_map(tmp_path / "map", MercatorGrid(zoom=10), SHAPE[:4])
    layer = write_layer(tmp_path / "layer", tmp_path / "map", blocks=0)
    with pytest.raises(FusiError, match="no block is finished"):
        done(export_layer(layer, tmp_path / "a.pmtiles", partial=True))


@pytest.mark.parametrize("damage", ["gone", "cut", "small"])
def test_a_picture_that_is_not_as_it_should_be_is_named(tmp_path: Path, damage: str) -> None:
    write_map(tmp_path / "map", MercatorGrid(zoom=10), SHAPE[:4])
    layer = write_layer(tmp_path / "layer", tmp_path / "map")
    path = layer / "generations" / f"{SHAPE[1][0]}_{SHAPE[1][1]}.png"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        Image.fromarray(picture(0, 0, 256)).save(path)
    with pytest.raises(ImageInvalid, match=path.name):
        done(export_layer(layer, tmp_path / "a.pmtiles"))
    assert not (tmp_path / "a.pmtiles").exists()


def test_files_of_others_stay(layer: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.pmtiles"
    output.write_text("mine")
    with pytest.raises(OutputExists):
        done(export_layer(layer, output))
    done(export_layer(layer, output, overwrite=True, minzoom=9))
    done(export_layer(layer, output, minzoom=10))
    with pytest.raises(UsageError, match=r"\.pmtiles"):
        done(export_layer(layer, tmp_path / "a.mbtiles"))
    with pytest.raises(UsageError, match="own zoom is 10"):
        done(export_layer(layer, output, minzoom=11))


# Isometric maps


def test_an_isometric_layer_is_a_flat_picture_around_its_origin(tmp_path: Path) -> None:
    shape = [(x, y) for x in range(-3, 2) for y in range(-1, 3)]
    write_map(tmp_path / "map", CAMERA, shape)
    layer = write_layer(tmp_path / "layer", tmp_path / "map")
    report = done(export_layer(layer, tmp_path / "a.pmtiles"))
    assert (report.kind, report.maxzoom) == ("isometric", 3)
    _, metadata, tiles = opened(tmp_path / "a.pmtiles")
    flat = metadata["fusi_flat"]
    assert (flat["origin_x"], flat["origin_y"]) == (-4, -4)
    assert [flat[key] for key in ("min_x", "min_y", "max_x", "max_y")] == [-3, -1, 1, 2]
    assert flat["camera"]["seed_lat"] == CAMERA.seed_lat
    for x, y in shape:
        tile = 3, x - flat["origin_x"], y - flat["origin_y"]
        assert np.array_equal(pixels(tiles[tile])[..., :3], picture(x, y))
    assert (0, 0, 0) in tiles


@given(st.sets(st.tuples(st.integers(-90, 160), st.integers(-90, 120)), min_size=1, max_size=30))
def test_every_quadrant_has_a_place_that_stays_together(quadrants: set[tuple[int, int]]) -> None:
    placing = placing_of(CAMERA, tuple(sorted(quadrants)))
    assert set(placing.quadrants.values()) == quadrants
    side = 1 << placing.zoom
    assert placing.origin == (-side // 2, -side // 2)
    assert all(0 <= tile.x < side and 0 <= tile.y < side for tile in placing.quadrants)
    wider = placing_of(CAMERA, (*sorted(quadrants), (side, side)))
    places = {quadrant: tile for tile, quadrant in wider.quadrants.items()}
    for tile, quadrant in placing.quadrants.items():
        offset = (1 << wider.zoom - 1) - side // 2
        assert (places[quadrant].x, places[quadrant].y) == (tile.x + offset, tile.y + offset)
    assert wider.zoom > placing.zoom


def test_a_layer_across_the_antimeridian(tmp_path: Path) -> None:
    write_map(tmp_path / "map", MercatorGrid(zoom=5), [(31, 10), (32, 10), (31, 11), (32, 11)])
    layer = write_layer(tmp_path / "layer", tmp_path / "map")
    done(export_layer(layer, tmp_path / "a.pmtiles"))
    _, metadata, tiles = opened(tmp_path / "a.pmtiles")
    assert {(x, y) for z, x, y in tiles if z == 5} == {(31, 10), (0, 10), (31, 11), (0, 11)}
    assert metadata["bounds"][0] == pytest.approx(168.75)
    assert metadata["bounds"][2] == pytest.approx(-168.75)


def test_the_command(layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a.pmtiles"
    answer = told(capsys, "export", "--layer-dir", layer, "-o", output, "--json", "--workers", 1)
    assert answer.code == 0
    assert answer.json["quadrants"] == len(SHAPE)
    assert told(capsys, "export", "--layer-dir", layer, "-o", output, "--min-zoom", 10).code == 0
    wrong = told(capsys, "export", "--layer-dir", layer, "-o", output, "--format", "png", "--quality", 5)
    assert (wrong.code, len(wrong.said)) == (2, 1)
    missing = told(capsys, "export", "--layer-dir", tmp_path, "-o", output)
    assert (missing.code, len(missing.said)) == (2, 1)
