"""Lineage pixels, legends and colours, and pictures of whole lineage archives."""

from __future__ import annotations

import io
from itertools import combinations, pairwise
from math import dist
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fusi_pipeline import lineage, tile_facts
from fusi_pipeline.errors import ArchiveUnsuitable, TileCorrupt
from fusi_pipeline.lineage import LegendEntry
from fusi_pipeline.preview import preview_png, write_preview
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from tests import merged

INDICES = arrays.arrays(np.uint8, (4, 5))
SHARES = arrays.arrays(np.float32, (4, 5), elements=st.floats(0, 1, width=32))


def metadata(**extra: object) -> ArchiveMetadata:
    return ArchiveMetadata(name="l", minzoom=0, maxzoom=0, bounds=Bounds(0, 0, 1, 1), extra=extra)


def rgb(text: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue


# Pixels


@given(INDICES, INDICES, SHARES)
@settings(deadline=None)
def test_what_is_encoded_is_decoded(
    first: lineage.Pixels, second: lineage.Pixels, share: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    pixels = lineage.encode(first, second, share)
    assert (pixels.shape, pixels.dtype) == ((4, 5, 3), np.uint8)
    one, two, told = lineage.decode(pixels)
    assert np.array_equal(one, first)
    assert np.array_equal(two, second)
    assert np.all(told[second == 0] == 0)
    assert np.all(told[second > 0] > 0), "a second source that is named has some share"
    assert np.abs(told - share)[second > 0].max(initial=0) <= 1 / lineage.SHARE_UNITS
    assert np.array_equal(lineage.encode(one, two, told), pixels)


def test_arguments_are_left_as_they_are() -> None:
    first, second = np.ones((2, 2), np.uint8), np.full((2, 2), 2, np.uint8)
    share = np.full((2, 2), 0.25, np.float32)
    lineage.encode(first, second, share)
    assert (first.max(), second.max(), share.max()) == (1, 2, 0.25)


# Colours and legends


def test_no_two_sources_have_one_colour_and_the_first_differ_clearly() -> None:
    colours = [rgb(lineage.color(index)) for index in range(1, lineage.MOST_SOURCES + 1)]
    assert len(set(colours)) == lineage.MOST_SOURCES
    assert min(dist(a, b) for a, b in combinations(colours[:12], 2)) > 60
    assert all(dist(a, b) > 60 for a, b in pairwise(colours))


def test_a_legend_is_read_as_it_was_written() -> None:
    entries = lineage.legend(metadata(legend=[*reversed(merged.LEGEND)]))
    assert [entry.index for entry in entries] == [1, 2, 3]
    assert entries[0] == LegendEntry(**merged.LEGEND[0])  # type: ignore[arg-type]
    assert entries[2] == LegendEntry(index=3, name="sea", color="#009988")


@pytest.mark.parametrize(
    "stated",
    [None, "legend", 7, [], {}, ["a"], [{}], [{"index": "1"}], [{"index": 0}], [{"index": 256}], [None]],
)
def test_a_legend_that_is_none_is_empty(stated: object) -> None:
    assert lineage.legend(metadata(legend=stated)) == ()


@pytest.mark.parametrize("stated", [None, "", "red", "#12", "#gggggg", 7])
def test_a_colour_that_is_none_is_the_indexs_own(stated: object) -> None:
    (entry,) = lineage.legend(metadata(legend=[{"index": 4, "name": "a", "color": stated}]))
    assert entry.color == lineage.color(4)


# Pictures


def test_a_picture_has_the_legends_colours_mixed_where_sources_are() -> None:
    entries = lineage.legend(metadata(legend=list(merged.LEGEND)))
    first, second = np.array([[0, 1, 2, 1]], np.uint8), np.array([[0, 0, 0, 2]], np.uint8)
    drawn = lineage.picture(lineage.encode(first, second, np.full((1, 4), 0.2, np.float32)), entries)
    one, two = rgb("#cc3311"), rgb("#0077bb")
    assert drawn.shape == (1, 4, 4)
    assert drawn[0, :, 3].tolist() == [0, 255, 255, 255]
    assert tuple(drawn[0, 1, :3].tolist()) == one
    assert tuple(drawn[0, 2, :3].tolist()) == two
    assert drawn[0, 3, :3] == pytest.approx(
        [a + (b - a) * 0.2 for a, b in zip(one, two, strict=True)], abs=0.5
    )


def test_an_index_without_an_entry_has_its_own_colour() -> None:
    one = np.ones((1, 1), np.uint8)
    drawn = lineage.picture(lineage.encode(one, one * 0, np.zeros((1, 1), np.float32)), ())
    assert tuple(drawn[0, 0].tolist()) == (*rgb(lineage.color(1)), 255)


def opened(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("suffix", [".pmtiles", ".mbtiles"])
def test_an_archive_is_drawn_at_the_zoom_that_fits_and_coarser_parts_are_enlarged(
    tmp_path: Path, suffix: str
) -> None:
    fine = merged.labels(1)
    fine[256:] = 0
    path = merged.write_lineage(
        tmp_path / f"l{suffix}",
        {Tile(4, 8, 8): merged.labels(2), Tile(5, 16, 16): fine, Tile(5, 17, 17): merged.labels(3)},
    )
    drawn = opened(preview_png(path, max_px=1600))
    assert drawn.shape == (1024, 1024, 4)
    for row, col, colour in (
        (0, 0, "#cc3311"),
        (100, 700, "#0077bb"),
        (700, 100, "#0077bb"),
        (700, 700, "#009988"),
    ):
        assert tuple(drawn[row, col]) == (*rgb(colour), 255)
    assert drawn[300, 300, 3] == 0
    small = opened(preview_png(path, max_px=100))
    assert max(small.shape) <= 100
    shown = {tuple(colour) for colour in small.reshape(-1, 4).tolist() if colour[3]}
    assert shown <= {(*rgb(str(one["color"])), 255) for one in merged.LEGEND}


def test_a_written_picture_may_be_written_again(tmp_path: Path) -> None:
    path = merged.write_lineage(tmp_path / "l.mbtiles", {Tile(4, 8, 8): merged.labels(2)})
    assert write_preview(path, tmp_path / "l.png") == (512, 512)
    assert write_preview(path, tmp_path / "l.png", max_px=64) == (64, 64)


def test_a_tile_says_how_much_of_it_each_source_has(tmp_path: Path) -> None:
    tile, first = Tile(4, 8, 8), merged.labels(1)
    first[:256], first[:128] = 7, 0
    pixels = merged.lineage_pixels(first, np.where(first == 1, 2, 0).astype(np.uint8))
    path = merged.write_lineage(tmp_path / "l.mbtiles", {tile: pixels})
    with MBTilesReader(path) as reader:
        told = tile_facts.facts(reader, tile)
        assert told["sources"] == {"lidar": "50.00%", "source 7": "25.00%"}
        assert (told["blended"], told["missing"], told["pixels"]) == ("50.00%", "25.00%", "512 x 512")
        with pytest.raises(ArchiveUnsuitable, match="not terrain"):
            tile_facts.height_at(reader, tile, 0.01, -0.01)
        with pytest.raises(ArchiveUnsuitable, match="no tile"):
            tile_facts.facts(reader, Tile(4, 1, 1))


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    tile = Tile(4, 8, 8)
    path = merged.write(tmp_path / "a.mbtiles", {tile: b"RIFFnone"}, encoding="lineage")
    with pytest.raises(TileCorrupt, match="4/8/8"):
        preview_png(path)
    small = encode_webp(merged.lineage_pixels(merged.labels(1)[:256, :256]))
    path = merged.write(tmp_path / "b.mbtiles", {tile: small}, encoding="lineage")
    with pytest.raises(TileCorrupt, match="256 x 256"):
        preview_png(path)
    path = merged.write(tmp_path / "c.mbtiles", {tile: small}, encoding="other")
    with pytest.raises(ArchiveUnsuitable, match="other"):
        preview_png(path)


def test_a_merge_is_drawn_transparent_where_its_lineage_has_no_source(tmp_path: Path) -> None:
    tile, sources = Tile(4, 8, 8), merged.labels(1)
    sources[:256] = 0
    merged.write_lineage(tmp_path / "l.mbtiles", {tile: sources}, content_key="k")
    heights = np.where(sources == 0, np.float32(0), np.float32(300))
    path = merged.write_terrain(tmp_path / "t.mbtiles", {tile: heights}, lineage="l.mbtiles", content_key="k")
    drawn = opened(preview_png(path))
    assert drawn[100, 100, 3] == 0
    assert drawn[400, 100, 3] == 255


def test_tiles_of_half_the_size_are_drawn_in_their_places(tmp_path: Path) -> None:
    parts = {}
    for col in range(2):
        for row in range(2):
            pixels = np.zeros((256, 256, 3), np.uint8)
            pixels[...] = (128, 100 + 50 * col, 0)
            parts[Tile(5, 16 + col, 16 + row)] = encode_webp(pixels)
    del parts[Tile(5, 17, 17)]
    drawn = opened(preview_png(merged.write(tmp_path / "h.mbtiles", parts, tile_size=256)))
    assert drawn.shape[:2] == (512, 512)
    assert drawn[300, 300, 3] == 0
    assert drawn[100, 100, 3] == drawn[100, 400, 3] == drawn[400, 100, 3] == 255
    assert MBTilesReader(tmp_path / "h.mbtiles").metadata.tile_size == 256
