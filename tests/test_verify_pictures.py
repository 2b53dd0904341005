"""Archives of pictures: what `verify` finds in sound and in damaged ones, what other commands say of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusi_pipeline.errors import FusiError
from fusi_pipeline.settings import settings_from
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import decode_webp, encode_webp
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.verify import VerifyReport, verify, verify_deep
from layer_generation.camera import IsometricCamera, MercatorGrid
from layer_generation.export import export_layer
from layer_generation.pyramid import TileFormat
from tests import command
from tests.command import Fusi
from tests.layers import done, write_layer, write_map

fusi = command.fusi
SHAPE = [(x, y) for x in range(529, 533) for y in range(370, 373) if (x, y) != (532, 372)]
FLAT_SHAPE = [(x, y) for x in range(-2, 2) for y in range(-1, 2)]
CAMERA = IsometricCamera(seed_lat=40.7484, seed_lon=-73.9857)
SETTINGS = settings_from({"FUSI_WORKERS": "2"})
Tiles = dict[Tile, bytes]
Change = Callable[[Tiles], None]


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    base = tmp_path_factory.mktemp("pictures")
    write_map(base / "map", MercatorGrid(zoom=10), SHAPE)
    write_map(base / "flat-map", CAMERA, FLAT_SHAPE)
    return {
        "mercator": write_layer(base / "layer", base / "map"),
        "flat": write_layer(base / "flat", base / "flat-map"),
    }


@pytest.fixture(scope="module")
def archive(layers: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(layers["mercator"], tmp_path_factory.mktemp("archive") / "snow.pmtiles", minzoom=8)


def exported(layer: Path, path: Path, tile_format: TileFormat | None = None, minzoom: int = 0) -> Path:
    done(export_layer(layer, path, tile_format=tile_format, minzoom=minzoom))
    return path


def deep(path: Path, sample: int = 0) -> VerifyReport:
    report: VerifyReport = done(verify_deep(path, SETTINGS, sample=sample))  # type: ignore[arg-type]
    return report


def brief(path: Path) -> VerifyReport:
    report: VerifyReport = done(verify(path))  # type: ignore[arg-type]
    return report


def rewritten(path: Path, archive: Path, change: Change = lambda tiles: None, **metadata: Any) -> Path:
    """Write an archive again, with digests that hold, after a change of its tiles or of what it states."""
    with open_archive(archive) as reader:
        tiles = {
            Tile(z, x, y): reader.read(Tile(z, x, y)) or b""
            for z in reader.counts()
            for x, y in reader.coordinates(z).tolist()
        }
        stated: ArchiveMetadata = replace(reader.metadata, **metadata)
    change(tiles)
    with PMTilesWriter(path, stated, len(tiles)) as writer:
        for z in sorted({tile.z for tile in tiles}):
            some = [tile for tile in tiles if tile.z == z]
            order = grid.hilbert_indices(z, [tile.x for tile in some], [tile.y for tile in some])
            for number in np.argsort(order):
                writer.write(some[number], tiles[some[number]])
    return path


def extra(archive: Path, **changed: Any) -> dict[str, Any]:
    """Return what an archive states, its provenance changed; a value of None goes."""
    with open_archive(archive) as reader:
        stated = json.loads(json.dumps(dict(reader.metadata.extra)))
    provenance = {**stated["fusi_layer"], **changed}
    return {**stated, "fusi_layer": {key: one for key, one in provenance.items() if one is not None}}


def swap(one: Tile, other: Tile) -> Change:
    def change(tiles: Tiles) -> None:
        tiles[one], tiles[other] = tiles[other], tiles[one]

    return change


def put(tile: Tile, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Change:
    return lambda tiles: tiles.__setitem__(tile, encode_webp(pixels))


QUADRANT, PARENT = Tile(10, 530, 371), Tile(9, 265, 185)
GREY = np.full((512, 512, 3), 99, dtype=np.uint8)
DAMAGE: dict[str, tuple[Change, str]] = {
    "swapped quadrants": (swap(QUADRANT, Tile(10, 531, 370)), "not the mean of those below"),
    "another parent": (swap(PARENT, Tile(9, 264, 185)), "not the mean of those below"),
    "a lost quadrant": (lambda tiles: tiles.pop(QUADRANT) and None, "counts 11 quadrants, 10 are there"),
    "a lost parent": (lambda tiles: tiles.pop(PARENT) and None, "there is no tile above it"),
    "a tile too many": (put(Tile(9, 300, 185), GREY), "there is no tile below it"),
    "a small tile": (put(QUADRANT, GREY[:256, :256]), "is 256 x 256 px"),
    "an alpha channel": (put(QUADRANT, np.dstack([GREY, GREY[..., 0]])), "has an alpha channel"),
    "another colour": (put(PARENT, GREY), "not the mean of those below"),
    "no picture": (lambda tiles: tiles.__setitem__(QUADRANT, b"<html>"), "not a WebP"),
    "cut short": (lambda tiles: tiles.__setitem__(PARENT, tiles[PARENT][:-9]), "does not decode"),
}


@pytest.mark.parametrize("kind", ["mercator", "flat"])
@pytest.mark.parametrize("tile_format", [TileFormat(), TileFormat("png"), TileFormat("webp", 40)])
def test_what_was_exported_is_sound(
    layers: Mapping[str, Path], tmp_path: Path, kind: str, tile_format: TileFormat
) -> None:
    path = exported(layers[kind], tmp_path / f"{kind}.pmtiles", tile_format, 7 if kind == "mercator" else 0)
    for report in (brief(path), deep(path)):
        assert report.problems == ()
        assert report.suspects == ()
        assert (report.holds, report.minimum_m) == ("pictures", None)
        assert report.decoded == report.tiles > len(SHAPE)
    assert deep(path).deep is not None
    assert deep(path, sample=3).sound


@pytest.mark.parametrize("name", DAMAGE)
def test_every_damage_is_found_though_digests_hold(archive: Path, tmp_path: Path, name: str) -> None:
    change, complaint = DAMAGE[name]
    report = deep(rewritten(tmp_path / "a.pmtiles", archive, change))
    assert report.deep is not None
    assert report.deep.seal == "holds"
    assert any(complaint in one for one in report.problems), report.problems
    assert any("fusi layer export" in one for one in report.advice)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"finished": 12}, "counts 12 quadrants, 11 are there"),
        ({"models": {"one": 1}}, "1 blocks by model and"),
        ({"models": None}, "lacks models"),
        ({"plan": []}, "does not count blocks"),
        ({"prompt_sha256": None, "name": None}, "lacks name, prompt_sha256"),
    ],
)
def test_provenance_is_held_against_the_tiles(
    archive: Path, tmp_path: Path, changed: dict[str, Any], complaint: str
) -> None:
    path = rewritten(tmp_path / "a.pmtiles", archive, extra=extra(archive, **changed))
    for report in (brief(path), deep(path)):
        assert any(complaint in one for one in report.problems), report.problems


def test_bounds_format_and_places_are_held_against_the_tiles(
    layers: Mapping[str, Path], archive: Path, tmp_path: Path
) -> None:
    with open_archive(archive) as reader:
        bounds = reader.metadata.bounds
    wide = rewritten(tmp_path / "a.pmtiles", archive, bounds=replace(bounds, east=bounds.east + 0.01))
    assert any("metadata states bounds" in one for one in brief(wide).problems)
    other = rewritten(tmp_path / "c.pmtiles", archive, format="png")
    assert any("not a PNG" in one for one in brief(other).problems)
    flat = exported(layers["flat"], tmp_path / "flat.pmtiles")
    stated = extra(flat)
    stated["fusi_flat"]["min_x"] = -3
    moved = rewritten(tmp_path / "d.pmtiles", flat, extra=stated)
    assert any("fusi_flat states quadrants" in one for one in brief(moved).problems)


def test_an_archive_that_lost_its_provenance_is_no_picture(archive: Path, tmp_path: Path) -> None:
    bare = rewritten(tmp_path / "a.pmtiles", archive, extra={"generator": "fusi"})
    assert any("states encoding ''" in one for one in brief(bare).problems)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_no_bit_changes_unseen(
    archive: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = bytearray(archive.read_bytes())
    place = data.draw(st.integers(0, len(whole) * 8 - 1))
    whole[place // 8] ^= 1 << place % 8
    path = tmp_path_factory.mktemp("bit") / "a.pmtiles"
    path.write_bytes(whole)
    try:
        sound = deep(path).sound
    except FusiError:
        sound = False
    assert not sound, place


def test_it_is_shown_as_what_it_is(fusi: Fusi, archive: Path, tmp_path: Path) -> None:
    said = fusi("verify", archive).out
    assert "pictures" in said
    assert "heights" not in said
    assert fusi("preview", archive, tmp_path / "a.png", "--max-px", "2048").code == 0
    with Image.open(tmp_path / "a.png") as picture:
        drawn = np.asarray(picture)
    assert drawn.shape == (3 * 512, 4 * 512, 4)
    with open_archive(archive) as reader:
        for x, y in SHAPE:
            quadrant = decode_webp(reader.read(Tile(10, x, y)) or b"")
            row, col = (y - 370) * 512, (x - 529) * 512
            np.testing.assert_array_equal(drawn[row : row + 512, col : col + 512, :3], quadrant)
    assert not drawn[1024:, 1536:, 3].any()
    told = fusi("tile", archive, 10, 530, 371, "--json").json
    assert (told["pixels"], told["transparent"]) == ("512 x 512", "0.00%")


@pytest.mark.parametrize(
    "words",
    [
        ("at", "6.5,44.9", "ARCHIVE"),
        ("coverage", "ARCHIVE"),
        ("merge", "-o", "OUT", "ARCHIVE"),
        ("tile", "ARCHIVE", "10", "530", "371", "--elevation", "PLACE"),
        ("inspect-fill", "10/530/371", "ARCHIVE", "ARCHIVE"),
    ],
)
def test_what_wants_heights_says_that_there_are_none(
    fusi: Fusi, archive: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    box = grid.bounds(QUADRANT)
    place = f"{(box.west + box.east) / 2},{(box.south + box.north) / 2}"
    names = {"ARCHIVE": archive, "OUT": tmp_path / "out.pmtiles", "PLACE": place}
    answer = fusi(*(names.get(word, word) for word in words))
    assert answer.code == 1
    assert "holds the pictures of a layer" in answer.err
    assert not (tmp_path / "out.pmtiles").exists()
