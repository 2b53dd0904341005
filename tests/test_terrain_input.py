"""Archives of any make as inputs of a merge: encodings, formats, sizes, zooms, and options."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from PIL import Image

from fusi_pipeline.archive_writer import archive_writer
from fusi_pipeline.cut_line import CutLine
from fusi_pipeline.errors import ArchiveUnsuitable, CutLineInvalid, TileCorrupt, UsageError
from fusi_pipeline.input_options import InputOptions, inputs_from, read_inputs
from fusi_pipeline.publish import MergeReport, merge_archives
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.open import open_archive
from tests.test_build import finish, settings
from tests.test_publish import Place, all_tiles, all_zooms, decoded, sha256
from tests.test_publish import place as place  # the fixture

Heights = npt.NDArray[np.float32]
CORNER = Tile(6, 33, 22)
"""The 512 px tiles that the archives of this file hold: 2 x 2 from here."""


def surface(z: int, left_px: int, top_px: int, size: int) -> Heights:
    """Return heights in whole metres of a square of the pixel grid of a zoom (512 px tiles)."""
    scale = 1 << (8 - z)
    x = (left_px + np.arange(size) + 0.5) * scale
    y = ((top_px + np.arange(size) + 0.5) * scale)[:, None]
    return np.rint(800 + 700 * np.sin(x / 390) * np.cos(y / 270)).astype(np.float32)


def hole(z: int, left_px: int, top_px: int, size: int) -> npt.NDArray[np.bool_]:
    """Return where the archives of this file have no height: a disc."""
    scale = 1 << (8 - z)
    x = (left_px + np.arange(size) + 0.5) * scale - (CORNER.x * 512 + 500) * 4
    y = ((top_px + np.arange(size) + 0.5) * scale - (CORNER.y * 512 + 480) * 4)[:, None]
    return np.asarray(x**2 + y**2 < 900**2)


def mapbox(heights: Heights) -> npt.NDArray[np.uint8]:
    code = np.rint((np.nan_to_num(heights) + 10000) * 10).astype(np.int64)
    planes = [code >> 16, code >> 8 & 255, code & 255]
    if np.isnan(heights).any():
        planes.append(np.where(np.isnan(heights), 0, 255))
    return np.stack(planes, axis=-1).astype(np.uint8)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def foreign(path: Path, *, encoding: str, image: str, tile_px: int, alpha: bool, stated: bool = True) -> Path:
    """Write an archive of the surface as another tool would; its hole is alpha 0 or a height of 0 m."""
    shift = 512 // tile_px - 1
    z = CORNER.z + shift
    side = 2 << shift
    metadata = ArchiveMetadata(
        name=path.stem, minzoom=z, maxzoom=z, bounds=grid.bounds(grid.parent(CORNER)), format=image,
        encoding=encoding if stated else "", tile_size=tile_px if stated else 0,
    )  # fmt: skip
    tiles = [
        Tile(z, (CORNER.x << shift) + dx, (CORNER.y << shift) + dy)
        for dy in range(side) for dx in range(side)
    ]  # fmt: skip
    with archive_writer(path, metadata, len(tiles)) as writer:
        for tile in sorted(tiles, key=in_tile_order):
            heights = surface(CORNER.z, tile.x * tile_px, tile.y * tile_px, tile_px)
            heights[hole(CORNER.z, tile.x * tile_px, tile.y * tile_px, tile_px)] = np.nan if alpha else 0
            pixels = terrarium.encode(heights, 19) if encoding == "terrarium" else mapbox(heights)
            assert pixels is not None
            writer.write(tile, encode_webp(pixels) if image == "webp" else png(pixels))
    return path


def in_tile_order(tile: Tile) -> int:
    from pmtiles.tile import zxy_to_tileid

    return int(zxy_to_tileid(tile.z, tile.x, tile.y))


def merged(folder: Path, *inputs: Path | InputOptions, **options: object) -> MergeReport:
    return finish(merge_archives(inputs, folder / "out.pmtiles", settings(folder), **options))  # type: ignore[arg-type]


def wanted(tile: Tile) -> Heights:
    """Return what a merge of an archive of this file holds: its heights, 0 m in the hole."""
    heights = surface(tile.z, tile.x * 512, tile.y * 512, 512)
    heights[hole(tile.z, tile.x * 512, tile.y * 512, 512)] = 0
    return heights


VARIANTS = list(itertools.product(("terrarium", "mapbox"), ("webp", "png"), (256, 512), (True, False)))


@pytest.mark.parametrize(("encoding", "image", "tile_px", "alpha"), VARIANTS)
def test_any_make_of_archive_holds_the_same_heights(
    tmp_path: Path, encoding: str, image: str, tile_px: int, alpha: bool
) -> None:
    ending = "mbtiles" if alpha == (image == "png") else "pmtiles"
    path = foreign(tmp_path / f"in.{ending}", encoding=encoding, image=image, tile_px=tile_px, alpha=alpha)
    report = merged(tmp_path, path)
    assert (report.metadata.tile_size, report.metadata.encoding) == (512, "terrarium")
    assert all_zooms(report.path) == [6]
    tiles = all_tiles(report.path, 6)
    assert tiles == {Tile(6, CORNER.x + dx, CORNER.y + dy) for dx in (0, 1) for dy in (0, 1)}
    for tile in tiles:
        np.testing.assert_array_equal(decoded(report.path, tile), wanted(tile))
    copies = tile_px == 512 and image == "webp" and encoding == "terrarium" and not alpha
    assert (report.copied > 0) == copies


def test_what_an_archive_does_not_state_may_be_told(tmp_path: Path) -> None:
    path = foreign(
        tmp_path / "in.mbtiles", encoding="mapbox", image="png", tile_px=256, alpha=True, stated=False
    )
    with pytest.raises(ArchiveUnsuitable, match="encoding"):
        merged(tmp_path, path)
    merged(tmp_path, InputOptions(path=path, encoding="mapbox"))
    np.testing.assert_array_equal(decoded(tmp_path / "out.pmtiles", CORNER), wanted(CORNER))


def test_palette_and_grey_pngs_are_read(tmp_path: Path) -> None:
    flat = np.full((512, 512, 3), (128, 128, 128), dtype=np.uint8)
    image = Image.fromarray(flat)
    for name, picture in (("palette", image.quantize(2)), ("grey", image.convert("L"))):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        path = tmp_path / f"{name}.mbtiles"
        metadata = ArchiveMetadata(name=name, minzoom=6, maxzoom=6, bounds=Bounds(5, 46, 6, 47))
        with archive_writer(path, metadata, 1) as writer:
            writer.write(CORNER, buffer.getvalue())
        with TerrainInput(InputOptions(path=path)) as one:
            heights = one.layer(CORNER)
        assert heights is not None
        assert set(np.unique(heights)) == {128 * 256 + 128 + 0.5 - 32768}


def test_lossy_pictures_are_no_heights(tmp_path: Path) -> None:
    pixels = terrarium.encode(wanted(CORNER), 6)
    assert pixels is not None
    for kind, options in (("WEBP", {"quality": 80}), ("JPEG", {"quality": 90})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)  # type: ignore[arg-type]
        metadata = ArchiveMetadata(name="lossy", minzoom=6, maxzoom=6, bounds=Bounds(5, 46, 6, 47))
        with archive_writer(tmp_path / "lossy.mbtiles", metadata, 1) as writer:
            writer.write(CORNER, buffer.getvalue())
        with pytest.raises(TileCorrupt, match=r"lossy|neither"):
            merged(tmp_path, tmp_path / "lossy.mbtiles")


# Options


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return foreign(tmp_path / "plain.mbtiles", encoding="terrarium", image="webp", tile_px=512, alpha=False)


def listing(folder: Path, text: str) -> Path:
    path = folder / "inputs.toml"
    path.write_text(text)
    return path


def test_values_to_be_taken_as_missing_let_the_next_archive_through(tmp_path: Path, plain: Path) -> None:
    foreign(tmp_path / "under.mbtiles", encoding="mapbox", image="png", tile_px=256, alpha=False)
    text = f"""
        [[input]]
        path = "{plain.name}"
        missing = [0, [900, 1000]]
        [[input]]
        path = "under.mbtiles"
        offset_m = 10
    """
    merged(tmp_path, *inputs_from((), listing(tmp_path, text)))
    for tile in all_tiles(tmp_path / "out.pmtiles", 6):
        heights = wanted(tile)
        gone = (heights == 0) | ((heights >= 900) & (heights <= 1000))
        assert gone.any()
        np.testing.assert_array_equal(
            decoded(tmp_path / "out.pmtiles", tile), np.where(gone, heights + 10, heights)
        )


def test_a_value_is_missing_as_it_is_stored_before_the_offset(tmp_path: Path, plain: Path) -> None:
    options = InputOptions(path=plain, missing=((-0.1, 0.1),), offset_m=-100)
    merged(tmp_path, options)
    heights = wanted(CORNER)
    ours = decoded(tmp_path / "out.pmtiles", CORNER)
    np.testing.assert_array_equal(ours, np.where(heights == 0, 0, heights - 100))


def test_a_cut_line_keeps_the_pixels_whose_centre_is_inside(tmp_path: Path, plain: Path) -> None:
    box = grid.bounds(CORNER)
    lon, lat = (box.west + box.east) / 2, (box.south + box.north) / 2
    ring = [[lon - 1.5, lat - 1], [lon + 1.7, lat - 0.8], [lon + 0.3, lat + 1.2], [lon - 1.5, lat - 1]]
    inner = [[lon - 0.2, lat - 0.2], [lon, lat + 0.1], [lon + 0.2, lat - 0.2], [lon - 0.2, lat - 0.2]]
    area = {"type": "Polygon", "coordinates": [ring, inner]}
    path = tmp_path / "area.geojson"
    path.write_text(
        json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": area}]})
    )
    merged(tmp_path, InputOptions(path=plain, cut_line=path, offset_m=1))
    polygon = shapely.Polygon(ring, [inner])
    seen = 0
    for tile in all_tiles(plain, 6):
        inside = np.zeros((512, 512), dtype=bool)
        for row, col in itertools.product(range(0, 512, 9), range(0, 512, 7)):
            at = grid.xy_bounds(tile)
            size = grid.resolution_m(6)
            place = grid.unproject(at.left + (col + 0.5) * size, at.top - (row + 0.5) * size)
            inside[row, col] = polygon.contains(shapely.Point(place))
        ours = decoded(tmp_path / "out.pmtiles", tile)
        if ours is None:
            assert not inside.any()
            continue
        np.testing.assert_array_equal(ours[::9, ::7], np.where(inside, wanted(tile) + 1, 0)[::9, ::7])
        seen += int(inside.sum())
    assert seen > 500


def test_a_cut_line_may_go_on_beyond_180_degrees(tmp_path: Path) -> None:
    path = tmp_path / "pacific.geojson"
    ring = [[170, -10], [190, -10], [190, 10], [170, 10], [170, -10]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    cut = CutLine(path)
    for x, share in ((0, 10 / 90), (3, 10 / 90), (1, 0)):
        inside = cut.inside(Tile(2, x, 1)).any(axis=0)
        assert inside.mean() == pytest.approx(share, abs=0.003)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"type": "Point", "coordinates": [1, 2]}',
        '{"type": "Polygon"}',
        '{"type": "Polygon", "coordinates": [[[400000, 5], [500000, 5], [500000, 6], [400000, 5]]]}',
        '{"type": "FeatureCollection", "features": []}',
        '{"type": "Feature", "geometry": 7}',
    ],
)
def test_a_cut_line_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cut.geojson"
    path.write_text(text)
    with pytest.raises(CutLineInvalid, match=r"cut\.geojson") as caught:
        CutLine(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_zoom_cap_uses_the_tiles_of_that_zoom_enlarged(place: Place, tmp_path: Path) -> None:
    merged(tmp_path, InputOptions(path=place.fine, max_zoom=8), place.coarse)
    assert max(all_zooms(tmp_path / "out.pmtiles")) == 8
    capped = InputOptions(path=place.fine, max_zoom=9)
    with TerrainInput(capped) as one:
        tile = max(all_tiles(place.fine, 10))
        assert one.levels_up(tile) == 1
        heights = one.layer(tile)
    whole = decoded(place.fine, tile)
    assert heights is not None
    assert whole is not None
    both = ~np.isnan(heights) & ~np.isnan(whole)
    assert 0 < np.abs(heights - whole)[both].mean() < 40


# Archives that were merged before


def test_a_merged_archive_with_its_lineage_is_merged_again_without_loss(place: Place, tmp_path: Path) -> None:
    """(fine over coarse) as one input over nothing else is itself, and its holes stay holes."""
    first = tmp_path / "first"
    finish(
        merge_archives(
            (place.fine,), first / "fine.pmtiles", settings(first), lineage_output=first / "names.pmtiles"
        )
    )
    merged(tmp_path, first / "fine.pmtiles", place.coarse)
    direct = tmp_path / "direct"
    merged(direct, place.fine, place.coarse)
    for z in (5, 7, 8, 9, 10):
        assert all_tiles(tmp_path / "out.pmtiles", z) == all_tiles(direct / "out.pmtiles", z)
        for tile in all_tiles(direct / "out.pmtiles", z):
            np.testing.assert_array_equal(
                decoded(tmp_path / "out.pmtiles", tile), decoded(direct / "out.pmtiles", tile)
            )


def test_a_lineage_of_another_merge_is_not_taken_for_an_archives_own(place: Place, tmp_path: Path) -> None:
    names = tmp_path / "names.pmtiles"
    merged(tmp_path, place.fine, lineage_output=names)
    with TerrainInput(InputOptions(path=tmp_path / "out.pmtiles")) as one:
        assert one.is_exact
    other = tmp_path / "other"
    merged(other, place.coarse, lineage_output=other / "names.pmtiles")
    names.write_bytes((other / "names.pmtiles").read_bytes())
    with TerrainInput(InputOptions(path=tmp_path / "out.pmtiles")) as one:
        assert not one.is_exact


def test_where_an_archive_ends_at_a_lower_zoom_it_is_enlarged_there_and_nowhere_else(tmp_path: Path) -> None:
    """An archive that goes on to zoom 7 under one of two tiles only: the other is its finest there."""
    path = tmp_path / "mixed.mbtiles"
    west, east = CORNER, Tile(6, CORNER.x + 1, CORNER.y)
    deep = grid.children(west)[0]
    metadata = ArchiveMetadata(name="mixed", minzoom=6, maxzoom=7, bounds=grid.bounds(grid.parent(CORNER)))
    with archive_writer(path, metadata, 3) as writer:
        for tile in (west, east, deep):
            pixels = terrarium.encode(surface(tile.z, tile.x * 512, tile.y * 512, 512), tile.z)
            assert pixels is not None
            writer.write(tile, encode_webp(pixels))
    with TerrainInput(InputOptions(path=path)) as one:
        assert one.levels_up(deep) == 0
        assert one.levels_up(grid.children(west)[1]) is None
        assert one.levels_up(grid.children(east)[2]) == 1
        assert one.levels_up(Tile(7, 0, 0)) is None


# The file of options


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[[input]]\npath = 7", "path"),
        ("[[input]]\nencoding = 'mapbox'", "path"),
        ("[[input]]\npath = 'a'\nencoding = 'png'", "terrarium or mapbox"),
        ("[[input]]\npath = 'a'\nmissing = 0", "missing"),
        ("[[input]]\npath = 'a'\nmissing = [[2, 1]]", "missing"),
        ("[[input]]\npath = 'a'\nmissing = [nan]", "missing"),
        ("[[input]]\npath = 'a'\nmax_zoom = 99", "max_zoom"),
        ("[[input]]\npath = 'a'\nmax_zoom = true", "max_zoom"),
        ("[[input]]\npath = 'a'\noffset_m = 'up'", "offset_m"),
        ("[[input]]\npath = 'a'\ncutline = 'b'", "cutline"),
        ("[[input]]\npath = 'a'\nname = 3", "name"),
        ("[input]\npath = 'a'", "two brackets"),
        ("[other]\npath = 'a'", "other"),
        ("not toml", "TOML"),
        ("", "nothing to merge"),
    ],
)
def test_a_file_of_inputs_that_cannot_be_used_is_named(tmp_path: Path, text: str, word: str) -> None:
    path = listing(tmp_path, text)
    with pytest.raises(UsageError, match=word) as caught:
        inputs_from((), path)
    assert "\n" not in str(caught.value)


def test_the_order_is_that_of_the_command_line_where_archives_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    path = listing(tmp_path, "[[input]]\npath = 'a'\noffset_m = 2\n[[input]]\npath = 'b'\n")
    assert [one.path.name for one in read_inputs(path)] == ["a", "b"]
    found = inputs_from((tmp_path / "b", tmp_path / "a"), path)
    assert [(one.path.name, one.offset_m) for one in found] == [("b", 0.0), ("a", 2.0)]
    with pytest.raises(UsageError, match="not among"):
        inputs_from((tmp_path / "b",), path)


def test_names_and_credits_may_be_given(place: Place, tmp_path: Path) -> None:
    options = InputOptions(path=place.fine, name="Fine", attribution="Fine people", license="CC0")
    merged(tmp_path, options, InputOptions(path=place.coarse, attribution="Coarse people"))
    with open_archive(tmp_path / "out.pmtiles") as reader:
        metadata = reader.metadata
    assert metadata.attribution == "Fine people, Coarse people"
    (first, _) = metadata.extra["sources"]  # type: ignore[misc]
    assert (first["name"], first["license"], first["index"]) == ("Fine", "CC0", 1)


def test_only_who_has_a_pixel_is_credited(place: Place, tmp_path: Path) -> None:
    hidden = InputOptions(path=place.coarse, attribution="Hidden", missing=((-12000.0, 9000.0),))
    shown = InputOptions(path=place.fine, attribution="Shown")
    report = merged(tmp_path, shown, hidden)
    assert report.metadata.attribution == "Shown"
    second = merged(tmp_path, shown, InputOptions(path=place.fine, attribution="Twin"))
    assert second.metadata.attribution == "Shown"
    assert [one["pixels"] > 0 for one in second.metadata.extra["sources"]] == [True, False]  # type: ignore[attr-defined]


# What is taken over


def changed(path: Path, target: Path, tile: Tile, edit: Callable[[Heights], None]) -> Path:
    """Write an archive of the same tiles with one of them edited."""
    with open_archive(path) as reader:
        places = [Tile(z, x, y) for z in reader.counts() for x, y in reader.coordinates(z).tolist()]
        with archive_writer(target, reader.metadata, len(places)) as writer:
            for one in sorted(places, key=in_tile_order):
                data = reader.read(one)
                assert data is not None
                if one == tile:
                    heights = decoded(path, tile)
                    assert heights is not None
                    edit(heights)
                    pixels = terrarium.encode(heights, tile.z)
                    assert pixels is not None
                    data = encode_webp(pixels)
                writer.write(one, data)
    return target


def test_only_tiles_whose_contributors_changed_are_merged_again(place: Place, tmp_path: Path) -> None:
    first = merged(tmp_path, place.fine, place.coarse, lineage_output=tmp_path / "names.pmtiles")
    tile = next(tile for tile in sorted(all_tiles(place.fine, 8)) if tile in all_tiles(place.coarse, 8))

    def edit(heights: Heights) -> None:
        heights[100:110] = 1234

    other = changed(place.fine, tmp_path / "fine.mbtiles", tile, edit)
    report = merged(tmp_path, other, place.coarse, lineage_output=tmp_path / "names.pmtiles")
    assert (report.merged + report.copied, report.reused) == (1, first.tiles - 1)
    clean = tmp_path / "clean"
    merged(clean, other, place.coarse, lineage_output=clean / "names.pmtiles")
    for name in ("out.pmtiles", "names.pmtiles"):
        assert sha256(tmp_path / name) == sha256(clean / name)


def test_a_lineage_asked_for_later_encodes_no_height_again(place: Place, tmp_path: Path) -> None:
    first = merged(tmp_path, place.fine, place.coarse)
    report = merged(tmp_path, place.fine, place.coarse, lineage_output=tmp_path / "names.mbtiles")
    assert (report.merged, report.copied, report.reused) == (0, 0, first.tiles)
    clean = tmp_path / "clean"
    merged(clean, place.fine, place.coarse, lineage_output=clean / "names.mbtiles")
    for name in ("out.pmtiles", "names.mbtiles"):
        assert sha256(tmp_path / name) == sha256(clean / name)


def test_a_ledger_or_archive_that_was_tampered_with_does_no_harm(place: Place, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    merged(clean, place.coarse, place.fine)
    for name, offset in (("out.pmtiles", 20_000), ("out.pmtiles.ledger", 5_000)):
        merged(tmp_path, place.fine, place.coarse)
        data = bytearray((tmp_path / name).read_bytes())
        data[offset] ^= 255
        (tmp_path / name).write_bytes(bytes(data))
        merged(tmp_path, place.coarse, place.fine)
        assert sha256(tmp_path / "out.pmtiles") == sha256(clean / "out.pmtiles")


def test_a_tile_that_is_not_what_the_ledger_says_is_named(place: Place, tmp_path: Path) -> None:
    from tests.test_publish import spoiled

    pixels = terrarium.encode(np.full((512, 512), 5, dtype=np.float32), 10)
    assert pixels is not None
    tile = max(all_tiles(place.fine, 10))
    bad = spoiled(place.fine, tmp_path / "bad.mbtiles", tile, encode_webp(pixels))
    with pytest.raises(ArchiveUnsuitable, match=str(tile)):
        merged(tmp_path, bad)
