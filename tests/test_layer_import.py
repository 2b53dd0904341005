"""Maps of known projects and folders of pictures become maps of ours."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusi_pipeline.errors import UsageError
from layer_generation import importing
from layer_generation.camera import IsometricCamera, MercatorGrid
from layer_generation.errors import GeometryInvalid, ImageInvalid, MapExists, MapMissing, MapUnreadable
from layer_generation.importing import import_images, import_map
from layer_generation.pictures import decoded, png
from layer_generation.quadrants import QuadrantStore
from tests.layers import done, picture, told, write_map

CONFIG = {
    "name": "city",
    "seed": {"lat": 40.7484, "lng": -73.9857},
    "camera_azimuth_degrees": -15,
    "camera_elevation_degrees": -45,
    "width_px": 1024,
    "height_px": 1024,
    "view_height_meters": 300,
    "tile_step": 0.5,
    "n_tiles_x": 2,
    "n_tiles_y": 2,
}
CAMERA = IsometricCamera(seed_lat=40.7484, seed_lon=-73.9857)
NEW = (
    "quadrant_x INTEGER, quadrant_y INTEGER, lat REAL, lng REAL, tile_row INTEGER, tile_col INTEGER,"
    " quadrant_index INTEGER, render BLOB, generation BLOB,"
    " is_generated INTEGER GENERATED ALWAYS AS (generation IS NOT NULL) STORED, notes TEXT,"
    " flagged INTEGER DEFAULT 0, is_water INTEGER DEFAULT 0, starred INTEGER DEFAULT 0,"
    " is_reference INTEGER DEFAULT 0, water_mask BLOB, PRIMARY KEY (quadrant_x, quadrant_y)"
)
OLD = "quadrant_x INTEGER, quadrant_y INTEGER, lat REAL, lng REAL, render BLOB, generation BLOB"


def known_map(folder: Path, columns: str = NEW, *, beside: bool = False, stated: bool = True) -> Path:
    """Write a map as the known project has them: 5 x 4 quadrants from (-2, -1)."""
    folder.mkdir(parents=True)
    connection = sqlite3.connect(folder / "quadrants.db")
    connection.execute(f"CREATE TABLE quadrants ({columns})")
    connection.execute("CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT)")
    if stated and not beside:
        connection.execute("INSERT INTO metadata VALUES ('generation_config', ?)", (json.dumps(CONFIG),))
        connection.execute("INSERT INTO metadata VALUES ('schema_version', '3')")
    if beside:
        (folder / "generation_config.json").write_text(json.dumps(CONFIG))
    for x in range(-2, 3):
        for y in range(-1, 3):
            generation = png(255 - picture(x, y)) if (x + y) % 2 else None
            connection.execute(
                "INSERT INTO quadrants (quadrant_x, quadrant_y, lat, lng, render, generation)"
                " VALUES (?, ?, 1.5, 2.5, ?, ?)",
                (x, y, png(picture(x, y)), generation),
            )
    if columns == NEW:
        connection.execute(
            "UPDATE quadrants SET notes = 'é <b>', flagged = 1, is_water = -1 WHERE quadrant_x = -2"
        )
    connection.commit()
    connection.close()
    return folder


def test_a_known_map_is_copied_whole(tmp_path: Path) -> None:
    source = known_map(tmp_path / "known")
    before = (source / "quadrants.db").read_bytes()
    report = done(import_map(source, tmp_path / "ours"))
    assert (report.quadrants, report.renders, report.generations) == (20, 20, 10)
    assert report.columns_left_out == ("water_mask",)
    assert report.metadata == {"schema_version": 3}
    assert (source / "quadrants.db").read_bytes() == before
    with QuadrantStore(tmp_path / "ours") as store:
        assert store.is_ours
        assert store.geometry == CAMERA
        for x in range(-2, 3):
            for y in range(-1, 3):
                assert store.image("render", x, y) == png(picture(x, y))
                assert (store.image("generation", x, y) is not None) == bool((x + y) % 2)
        facts = {(one.x, one.y): one for one in store.facts()}
    assert facts[-2, 0].flags == {"flagged"}
    assert facts[-2, 0].notes == "é <b>"
    assert facts[1, 1].flags == frozenset()


def test_the_numbers_of_flags_are_kept(tmp_path: Path) -> None:
    done(import_map(known_map(tmp_path / "known"), tmp_path / "ours"))
    connection = sqlite3.connect(tmp_path / "ours" / "quadrants.db")
    assert connection.execute(
        "SELECT DISTINCT is_water, lat FROM quadrants WHERE quadrant_x = -2"
    ).fetchall() == [(-1, 1.5)]
    connection.close()


@pytest.mark.parametrize("beside", [False, True])
def test_older_maps_lack_columns(tmp_path: Path, beside: bool) -> None:
    source = known_map(tmp_path / "known", OLD, beside=beside)
    report = done(import_map(source / "quadrants.db", tmp_path / "ours"))
    assert (report.quadrants, report.columns_left_out) == (20, ())
    with QuadrantStore(tmp_path / "ours") as store:
        assert store.geometry == CAMERA


def test_an_import_is_absent_or_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "_BATCH", 4)
    source = known_map(tmp_path / "known")
    work = import_map(source, tmp_path / "ours")
    for _ in range(3):
        next(work)
    work.close()
    assert list((tmp_path / "ours").iterdir()) == []
    assert done(import_map(source, tmp_path / "ours")).quadrants == 20
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["quadrants.db"]
    with pytest.raises(MapExists):
        done(import_map(source, tmp_path / "ours"))


def test_progress_counts_quadrants(tmp_path: Path) -> None:
    moments = list(import_map(known_map(tmp_path / "known"), tmp_path / "ours"))
    assert [(one.done, one.total) for one in (moments[0], moments[-1])] == [(0, 20), (20, 20)]


def test_pictures_of_another_size_are_left_out(tmp_path: Path) -> None:
    source = known_map(tmp_path / "known")
    connection = sqlite3.connect(source / "quadrants.db")
    connection.execute(
        "UPDATE quadrants SET render = ? WHERE quadrant_x = 0 AND quadrant_y = 0", (png(picture(0, 0, 400)),)
    )
    connection.execute("UPDATE quadrants SET render = x'0102' WHERE quadrant_x = 1 AND quadrant_y = 0")
    connection.commit()
    connection.close()
    report = done(import_map(source, tmp_path / "ours"))
    assert report.renders == 18
    assert [one.what for one in report.skipped] == ["render of 0,0", "render of 1,0"]
    assert "400 x 400" in report.skipped[0].reason


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MapMissing):
        done(import_map(tmp_path, tmp_path / "ours"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "quadrants.db").write_text("hello" * 1000)
    with pytest.raises(MapUnreadable):
        done(import_map(tmp_path / "text", tmp_path / "ours"))
    with pytest.raises(GeometryInvalid, match=r"generation_config\.json"):
        done(import_map(known_map(tmp_path / "mute", stated=False), tmp_path / "ours"))
    (tmp_path / "mute" / "generation_config.json").write_text("{")
    with pytest.raises(MapUnreadable, match="no JSON"):
        done(import_map(tmp_path / "mute", tmp_path / "ours"))
    assert not (tmp_path / "ours" / "quadrants.db").exists()


# Folders of pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map", CAMERA, [(0, 0)])


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    found = tmp_path / "pictures"
    found.mkdir()
    (found / "-3_-2.png").write_bytes(png(picture(-3, -2)))
    (found / "1_0.webp").write_bytes(encoded(Image.fromarray(picture(1, 0)), "WEBP"))
    (found / "2_0.JPG").write_bytes(encoded(Image.fromarray(picture(2, 0)), "JPEG"))
    (found / "readme.txt").write_text("no picture")
    (found / "a_b.png").write_bytes(b"")
    return found


def test_pictures_are_taken_as_they_are(folder: Path, pictures: Path) -> None:
    report = done(import_images(pictures, folder, kind="generation"))
    assert (report.generations, report.renders) == (3, 0)
    assert {one.what for one in report.skipped} == {"readme.txt", "a_b.png"}
    with QuadrantStore(folder) as store:
        assert store.image("generation", -3, -2) == (pictures / "-3_-2.png").read_bytes()
        assert store.image("generation", 2, 0) == (pictures / "2_0.JPG").read_bytes()
        assert len(store.coordinates()) == 4
    again = done(import_images(pictures, folder, kind="generation"))
    assert (again.generations, again.unchanged) == (0, 3)


def test_what_is_there_stays_unless_overwritten(folder: Path, pictures: Path) -> None:
    (pictures / "0_0.png").write_bytes(png(picture(5, 5)))
    report = done(import_images(pictures, folder))
    assert any(one.what == "0_0.png" and "--overwrite" in one.reason for one in report.skipped)
    with QuadrantStore(folder) as store:
        assert store.image("render", 0, 0) == png(picture(0, 0))
    assert done(import_images(pictures, folder, overwrite=True)).renders == 1
    with QuadrantStore(folder) as store:
        assert store.image("render", 0, 0) == png(picture(5, 5))


def test_another_size_is_an_error_before_anything_is_written(folder: Path, pictures: Path) -> None:
    (pictures / "9_9.png").write_bytes(png(picture(9, 9, 1024)))
    with pytest.raises(ImageInvalid, match=r"9_9\.png: is 1024 x 1024 px.*--resize"):
        done(import_images(pictures, folder))
    with QuadrantStore(folder) as store:
        assert len(store.coordinates()) == 1
    assert done(import_images(pictures, folder, resize=True)).renders == 4
    with QuadrantStore(folder) as store:
        assert decoded(store.image("render", 9, 9) or b"", "").shape == (512, 512, 3)


def whole_header(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [whole_header, lambda _: b"", lambda _: b"\x89PNG\r\n\x1a\n"])
def test_a_broken_picture_is_named_or_left_out(
    folder: Path, pictures: Path, damage: Callable[[bytes], bytes]
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    (pictures / "7_7.png").write_bytes(damage(png(noise)))
    with pytest.raises(ImageInvalid, match=r"7_7\.png"):
        done(import_images(pictures, folder))
    report = done(import_images(pictures, folder, skip_broken=True))
    assert "7_7.png" in {one.what for one in report.skipped}
    with QuadrantStore(folder) as store:
        assert store.image("render", 7, 7) is None


def test_two_pictures_of_a_quadrant_are_an_error(folder: Path, pictures: Path) -> None:
    (pictures / "1_0.png").write_bytes(png(picture(1, 0)))
    with pytest.raises(UsageError, match=r"1_0\.webp.*quadrant 1,0 has 1_0\.png too"):
        done(import_images(pictures, folder))


def test_a_folder_without_pictures_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="holds no picture"):
        done(import_images(tmp_path / "none", folder))
    with pytest.raises(UsageError, match="name a folder"):
        done(import_images(tmp_path / "nowhere", folder))


def test_rows_off_the_grid_are_left_out(tmp_path: Path, pictures: Path) -> None:
    folder = write_map(tmp_path / "mercator", MercatorGrid(zoom=4), [(3, 3)])
    report = done(import_images(pictures, folder))
    assert report.renders == 2
    assert any(one.what == "-3_-2.png" and "not on the grid" in one.reason for one in report.skipped)


def test_a_known_map_is_not_written_to(tmp_path: Path, pictures: Path) -> None:
    source = known_map(tmp_path / "known")
    before = (source / "quadrants.db").read_bytes()
    with pytest.raises(MapUnreadable, match="map import"):
        done(import_images(pictures, source))
    assert (source / "quadrants.db").read_bytes() == before


def test_the_commands_of_imports(tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, ours = known_map(tmp_path / "known"), tmp_path / "ours"
    made = told(capsys, "map", "import", source, "--map-dir", ours, "--json")
    assert (made.code, made.json["quadrants"]) == (0, 20)
    taken = told(capsys, "map", "import-images", pictures, "--map-dir", ours, "--kind", "generation")
    assert taken.code == 0
    assert "a_b.png: is not named" in taken.out
    shown = told(capsys, "map", "show", "--map-dir", ours, "--json").json
    assert shown["flags"]["flagged"] == 4
    assert shown["notes"] == 4
    missing = told(capsys, "map", "import", tmp_path / "no", "--map-dir", tmp_path / "x")
    assert (missing.code, len(missing.said)) == (2, 1)
