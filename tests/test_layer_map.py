"""Maps of quadrants: where they lie, what is stored of them, what a layer's configuration may say."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
from pathlib import Path

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline.errors import UsageError
from fusi_pipeline.tiles.grid import Bounds
from layer_generation.camera import (
    Geometry,
    IsometricCamera,
    LatLon,
    MercatorGrid,
    calculate_quadrant_corners,
    geometry_from,
    geometry_json,
)
from layer_generation.errors import GeometryInvalid, LayerConfigInvalid, MapExists, MapMissing, MapUnreadable
from layer_generation.layer_config import EndpointConfig, LayerConfig, layer_from, read_layer, write_layer
from layer_generation.quadrants import QuadrantStore

CAMERA = IsometricCamera(seed_lat=40.7484, seed_lon=-73.9857)
cameras = st.builds(
    IsometricCamera,
    seed_lat=st.floats(-80, 80),
    seed_lon=st.floats(-180, 180),
    azimuth_deg=st.floats(-180, 180),
    elevation_deg=st.floats(-90, -10),
    view_height_m=st.floats(10, 5000),
    tile_step=st.sampled_from([0.5, 1.0]),
)
places = st.integers(-200, 200)


@given(st.integers(0, 20), st.data())
def test_a_quadrant_of_the_web_mercator_grid_is_an_xyz_tile(zoom: int, data: st.DataObject) -> None:
    x, y = (data.draw(st.integers(0, (1 << zoom) - 1)) for _ in range(2))
    top_left, top_right, bottom_right, bottom_left = calculate_quadrant_corners(MercatorGrid(zoom=zoom), x, y)
    box = mercantile.bounds(x, y, zoom)
    for corner, lat, lon in (
        (top_left, box.north, box.west), (top_right, box.north, box.east),
        (bottom_right, box.south, box.east), (bottom_left, box.south, box.west),
    ):  # fmt: skip
        assert corner == pytest.approx((lat, lon), abs=1e-9)


def test_quadrants_of_a_box_are_those_it_touches() -> None:
    for box in (Bounds(7.1, 43.5, 7.6, 43.9), Bounds(-3.0, -2.0, 4.0, 1.0), Bounds(0.0, 0.0, 45.0, 40.0)):
        for zoom in (3, 8, 11):
            left, top, right, bottom = MercatorGrid(zoom=zoom).covering(box)
            wanted = {
                (tile.x, tile.y) for tile in mercantile.tiles(box.west, box.south, box.east, box.north, zoom)
            }
            assert {(x, y) for x in range(left, right + 1) for y in range(top, bottom + 1)} == wanted


def test_a_box_across_180_degrees_goes_on_in_x() -> None:
    grid = MercatorGrid(zoom=3)
    left, _, right, _ = grid.covering(Bounds(170, -10, -170, 10))
    assert (left, right) == (7, 8)
    assert grid.tile(8, 3) == grid.tile(0, 3)
    assert grid.corners(8, 3)[0].lon == pytest.approx(180)
    assert grid.tile(0, 8) is None


def test_the_sample_camera_shows_what_is_known_of_it() -> None:
    """A quadrant of 512 px at 300 m a view of 1024 px, 45 degrees down: 150 m by 212.13 m on the ground."""
    corners = calculate_quadrant_corners(CAMERA, 0, 0)
    assert corners[2] == pytest.approx((CAMERA.seed_lat, CAMERA.seed_lon))

    def metres(one: LatLon, other: LatLon) -> float:
        east = (other.lon - one.lon) * 111_111 * math.cos(math.radians(CAMERA.seed_lat))
        return math.hypot(east, (other.lat - one.lat) * 111_111)

    assert metres(corners[0], corners[1]) == pytest.approx(150)
    assert metres(corners[1], corners[2]) == pytest.approx(150 / math.sin(math.radians(45)))


@given(cameras, places, places)
def test_neighbouring_quadrants_of_a_camera_share_their_corners(
    camera: IsometricCamera, x: int, y: int
) -> None:
    here = calculate_quadrant_corners(camera, x, y)
    right, below = calculate_quadrant_corners(camera, x + 1, y), calculate_quadrant_corners(camera, x, y + 1)
    for one, other in ((here[1], right[0]), (here[2], right[3]), (here[3], below[0]), (here[2], below[1])):
        assert one == pytest.approx(other, abs=1e-8)
    block = camera.corners(x, y, 2, 2)
    last = calculate_quadrant_corners(camera, x + 1, y + 1)
    assert (block[0], block[2]) == (pytest.approx(here[0]), pytest.approx(last[2]))


@given(cameras, st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_a_place_seen_is_found_again(camera: IsometricCamera, right: float, up: float) -> None:
    assert camera.pixels(camera.place(right, up)) == pytest.approx((right, up), abs=1e-4)


@pytest.mark.parametrize("geometry", [MercatorGrid(zoom=9), CAMERA])
def test_a_geometry_survives_json(geometry: Geometry) -> None:
    assert geometry_from(json.loads(json.dumps(geometry_json(geometry)))) == geometry


def test_the_configuration_of_a_known_map_is_understood() -> None:
    stated = {
        "name": "nyc", "seed": {"lat": 40.7484, "lng": -73.9857}, "n_tiles_x": 3, "n_tiles_y": 3,
        "camera_azimuth_degrees": -15, "camera_elevation_degrees": -45, "width_px": 1024, "height_px": 1024,
        "view_height_meters": 300, "tile_step": 0.5,
    }  # fmt: skip
    assert geometry_from(stated) == CAMERA


@pytest.mark.parametrize(
    "stated", [{}, {"type": "web-mercator"}, {"type": "web-mercator", "zoom": 99}, {"seed": {"lat": 1}}]
)
def test_a_geometry_that_cannot_be_read_is_an_error(stated: dict[str, object]) -> None:
    with pytest.raises(GeometryInvalid):
        geometry_from(stated)


def test_a_level_camera_is_refused() -> None:
    with pytest.raises(GeometryInvalid, match="level"):
        IsometricCamera(seed_lat=0, seed_lon=0, elevation_deg=0)


# The store


def test_pictures_flags_and_notes_are_kept_by_place(tmp_path: Path) -> None:
    with QuadrantStore.create(tmp_path / "map", CAMERA) as store:
        store.put("render", [(3, -2, b"one"), (-1, 5, b"two")])
        store.put("generation", [(3, -2, b"three")])
        store.add([(3, -2), (0, 0)])
        assert store.mark("starred", [(3, -2), (99, 99)]) == 1
        store.note([(0, 0)], "look here")
    with QuadrantStore(tmp_path / "map") as store:
        assert store.geometry == CAMERA
        assert store.coordinates().tolist() == [[3, -2], [0, 0], [-1, 5]]
        assert store.coordinates("render").tolist() == [[3, -2], [-1, 5]]
        assert store.image("render", 3, -2) == b"one"
        assert store.image("generation", -1, 5) is None
        assert store.image("render", 7, 7) is None
        facts = {(one.x, one.y): one for one in store.facts()}
        assert facts[(3, -2)].flags == {"starred"}
        assert (facts[(3, -2)].has_generation, facts[(0, 0)].has_render) == (True, False)
        assert facts[(0, 0)].notes == "look here"
        store.put("generation", [(3, -2, None)])
        assert store.coordinates("generation").shape == (0, 2)


def test_a_map_is_not_made_where_one_is(tmp_path: Path) -> None:
    QuadrantStore.create(tmp_path, CAMERA).close()
    with pytest.raises(MapExists):
        QuadrantStore.create(tmp_path, CAMERA)


def test_a_folder_without_a_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(MapMissing, match="fusi layer map init"):
        QuadrantStore(tmp_path)
    (tmp_path / "quadrants.db").write_text("not a database, not at all")
    with pytest.raises(MapUnreadable):
        QuadrantStore(tmp_path)


def test_a_map_of_another_program_is_read_and_never_written(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "quadrants.db")
    connection.execute(
        "CREATE TABLE quadrants (quadrant_x INTEGER, quadrant_y INTEGER, render BLOB, generation BLOB)"
    )
    connection.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
    connection.execute("INSERT INTO quadrants VALUES (1, 2, x'00', NULL)")
    connection.commit()
    connection.close()
    with QuadrantStore(tmp_path) as store:
        assert store.coordinates("render").tolist() == [[1, 2]]
        with pytest.raises(MapUnreadable, match="import"):
            store.put("render", [(1, 2, b"x")])


def test_threads_may_write_to_one_map(tmp_path: Path) -> None:
    QuadrantStore.create(tmp_path, CAMERA).close()

    def write(first: int) -> None:
        with QuadrantStore(tmp_path) as store:
            for number in range(20):
                store.put("generation", [(first, number, b"x" * 1000)])

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with QuadrantStore(tmp_path) as store:
        assert len(store.coordinates("generation")) == 80


# The configuration


def endpoint(**facts: object) -> dict[str, object]:
    return {"name": "one", "url": "http://127.0.0.1:9/edit", **facts}


def layer(**facts: object) -> dict[str, object]:
    return {"name": "snow", "generation_dir": "../map", **facts}


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = LayerConfig(
        name="snow <&' \N{SNOWFLAKE}",
        generation_dir="../map",
        source_layer="renders",
        model_endpoints=(
            EndpointConfig(name="a", url="builtin:pixelart", protocol="builtin"),
            EndpointConfig(name="b", url="https://h/x", protocol="openai", api_key_env="K", concurrency=3),
        ),
        generation_params={"prompt": "snow", "steps": 14},
        bounds=(-10, -10, 50, 50),
    )
    write_layer(tmp_path, config)
    assert read_layer(tmp_path) == config
    assert config.source_kind == "render"
    assert config.map_folder(tmp_path / "layers").resolve() == (tmp_path / "map").resolve()


def test_the_file_of_the_known_program_is_understood() -> None:
    config = layer_from(
        layer(
            bounds={"min_x": -1, "max_x": 5, "min_y": -2, "max_y": 6},
            created_at="2026-01-01T00:00:00",
            model_endpoints=[endpoint(api_key_env="MODEL_1_API_KEY")],
            generation_params={"prompt": "Transform to snow", "num_inference_steps": 14},
        ),
        "x",
    )
    assert config.bounds == (-1, -2, 5, 6)
    assert config.prompt == "Transform to snow"


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ([], "object"),
        (layer(extra=1), "extra"),
        ({"name": "x"}, "generation_dir"),
        (layer(source_layer="tiles"), "source_layer"),
        (layer(bounds=[1, 2, 0, 3]), "bounds"),
        (layer(bounds=[1, 2, 3]), "bounds"),
        (layer(model_endpoints={}), "list"),
        (layer(model_endpoints=[endpoint(), endpoint()]), "twice"),
        (layer(model_endpoints=[{"name": "x"}]), "url"),
        (layer(model_endpoints=[endpoint(url="ftp://x")]), "url"),
        (layer(model_endpoints=[endpoint(protocol="telnet")]), "protocol"),
        (layer(model_endpoints=[endpoint(context="red")]), "context"),
        (layer(model_endpoints=[endpoint(concurrency=0)]), "concurrency"),
        (layer(model_endpoints=[endpoint(concurrency=True)]), "concurrency"),
        (layer(model_endpoints=[endpoint(timeout_s=-1)]), "timeout_s"),
        (layer(model_endpoints=[endpoint(colour="red")]), "colour"),
        (layer(model_endpoints=[endpoint(api_key="sk-123")]), "api_key_env"),
        (layer(model_endpoints=[endpoint(params={"Token": "sk-123"})]), "api_key_env"),
        (layer(generation_params={"api_key": "sk-123"}), "api_key_env"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(document: object, word: str) -> None:
    with pytest.raises(LayerConfigInvalid, match=word) as caught:
        layer_from(document, "layer_config.json")
    assert isinstance(caught.value, UsageError)
    assert "sk-123" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_coordinates_may_be_of_any_size(tmp_path: Path) -> None:
    with QuadrantStore.create(tmp_path, MercatorGrid(zoom=20)) as store:
        far = np.array([[-(1 << 30), 1 << 30], [1 << 30, -(1 << 30)]])
        store.add([(x, y) for x, y in far.tolist()])
        assert sorted(store.coordinates().tolist()) == sorted(far.tolist())
