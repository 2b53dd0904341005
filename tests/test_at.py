"""What archives say of a place."""

from __future__ import annotations

import io
import math
from pathlib import Path

import mercantile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusi_pipeline.at import at, pixel_at
from fusi_pipeline.errors import ArchiveUnsuitable, FusiError, UsageError
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import encode_webp
from tests import command, merged
from tests.command import Fusi

fusi = command.fusi

LON, LAT = -7.5, 43.0
STEPS = {"vertical_step_m": {str(z): 2.0 ** (19 - z) / 256 for z in range(12, 16)}}


def here(z: int) -> Tile:
    return grid.tile_at(LON, LAT, z)


def middle(tile: Tile) -> tuple[float, float]:
    box = grid.bounds(tile)
    return (box.west + box.east) / 2, (box.south + box.north) / 2


def write_pair(folder: Path, suffix: str = ".pmtiles") -> tuple[Path, Path]:
    """Write a terrain and its lineage: zoom 12 srtm, zoom 14 lidar blended with srtm in the west half."""
    deep, high = here(14), here(12)
    first, second = merged.labels(1), merged.labels(0)
    second[:, :256] = 2
    first[:8] = 0
    terrain = merged.write_terrain(
        folder / f"all{suffix}",
        {high: merged.heights(100.0), deep: merged.heights(250.125)},
        lineage=f"all.lineage{suffix}",
        nodata="0 m",
        merge_mode="feather",
        sources=[{"index": one["index"], "name": one["name"]} for one in merged.LEGEND],
        generator="fusi",
        **STEPS,
    )
    lineage = merged.write_lineage(
        folder / f"all.lineage{suffix}",
        {high: merged.labels(2), deep: merged.lineage_pixels(first, second, 0.2)},
        terrain=terrain.name,
    )
    return terrain, lineage


@pytest.mark.parametrize("suffix", [".pmtiles", ".mbtiles"])
def test_everything_the_issue_asks_for_comes_from_the_two_archives(tmp_path: Path, suffix: str) -> None:
    terrain, lineage = write_pair(tmp_path, suffix)
    (report,) = at([terrain], LON, LAT)
    assert (report.height_m, report.source, report.zoom) == (250.125, "lidar", 14)
    assert report.lineage == lineage
    assert report.tile == str(here(14))
    assert report.vertical_step_m == 0.125
    assert report.source_resolution_m == 1.5
    assert (report.license, report.attribution, report.vertical_datum) == ("CC BY 4.0", "© City", "EGM2008")
    metres = 40_075_016.6856 / (512 * 2**14) * math.cos(math.radians(LAT))
    assert report.resolution_m == pytest.approx(metres)
    column = report.pixel[0] if report.pixel else -1
    expected = ("srtm", 51 / 255) if column < 256 else (None, None)
    assert (report.second_source, report.second_share) == expected


def test_the_deepest_tile_at_the_place_is_read_and_not_the_highest_zoom(tmp_path: Path) -> None:
    terrain, _ = write_pair(tmp_path)
    other = next(
        tile
        for tile in (Tile(14, here(12).x * 4, here(12).y * 4 + row) for row in (0, 3))
        if tile != here(14)
    )
    (report,) = at([terrain], *middle(other))
    assert (report.zoom, report.height_m, report.source) == (12, 100.0, "srtm")
    (asked,) = at([terrain], LON, LAT, 12)
    assert (asked.zoom, asked.height_m) == (12, 100.0)


def test_a_zoom_without_a_tile_and_a_place_without_one_are_said(tmp_path: Path) -> None:
    terrain, _ = write_pair(tmp_path)
    (report,) = at([terrain], LON, LAT, 13)
    assert (report.height_m, report.zoom) == (None, None)
    assert "no tile of zoom 13" in report.note
    assert "zoom 14" in report.note
    (report,) = at([terrain], 100.0, 10.0)
    assert (report.height_m, report.source, report.note) == (None, None, "the archive has no tile here")


def test_where_no_source_is_there_is_no_height(tmp_path: Path) -> None:
    terrain, _ = write_pair(tmp_path)
    box = grid.bounds(here(14))
    (report,) = at([terrain], (box.west + box.east) / 2, box.north - (box.north - box.south) / 512)
    assert report.pixel is not None
    assert report.pixel[1] < 8
    assert (report.height_m, report.source, report.zoom) == (None, None, 14)
    assert report.note == "no source has data here"


def test_a_missing_pixel_of_one_source_is_no_data_and_its_facts_are_the_archives(tmp_path: Path) -> None:
    tile, heights = here(13), merged.heights(-3.5)
    heights[:256] = np.nan
    path = merged.write_terrain(
        tmp_path / "one.mbtiles", {tile: heights}, attribution="A", license="L", vertical_datum="D",
        generator="fusi",
    )  # fmt: skip
    box = grid.bounds(tile)
    lon = (box.west + box.east) / 2
    (report,) = at([path], lon, box.south + 1e-6)
    assert (report.height_m, report.source, report.lineage) == (-3.5, "one", None)
    assert (report.attribution, report.license, report.vertical_datum) == ("A", "L", "D")
    assert report.source_resolution_m == pytest.approx(report.resolution_m, rel=1e-3)
    assert report.vertical_step_m == 0.25
    (report,) = at([path], lon, box.north - 1e-6)
    assert (report.height_m, report.source) == (None, None)


def test_a_merge_without_lineage_says_what_it_cannot_tell(tmp_path: Path) -> None:
    facts = {"sources": [{"name": "a"}, {"name": "b"}], "nodata": "0 m"}
    path = merged.write_terrain(tmp_path / "m.pmtiles", {here(10): merged.heights(7.0)}, **facts)
    (report,) = at([path], LON, LAT)
    assert (report.height_m, report.source) == (7.0, None)
    assert "from sources a, b" in report.note
    assert "--lineage" in report.note
    path = merged.write_terrain(tmp_path / "z.pmtiles", {here(10): merged.heights(0.0)}, **facts)
    assert "no data" in at([path], LON, LAT)[0].note
    alone = {**facts, "sources": [{"name": "a", "attribution": "A"}]}
    path = merged.write_terrain(tmp_path / "s.pmtiles", {here(10): merged.heights(7.0)}, **alone)
    (report,) = at([path], LON, LAT)
    assert (report.source, report.attribution, report.note) == ("a", "A", "")


def test_how_a_lineage_is_found(tmp_path: Path) -> None:
    terrain, lineage = write_pair(tmp_path)
    assert at([lineage], LON, LAT) == at([terrain], LON, LAT)
    moved = lineage.rename(tmp_path / "elsewhere.pmtiles")
    assert at([terrain], LON, LAT)[0].source is None
    assert at([terrain, moved], LON, LAT)[0].source == "lidar"
    assert at([moved, terrain], LON, LAT)[0].source == "lidar"
    assert at([terrain], LON, LAT, lineage_archive=moved)[0].source == "lidar"
    with pytest.raises(ArchiveUnsuitable, match="no lineage archive"):
        at([terrain], LON, LAT, lineage_archive=terrain)
    terrain.unlink()
    with pytest.raises(UsageError, match="no heights"):
        at([moved], LON, LAT)


def test_the_lineage_of_another_merge_is_not_believed(tmp_path: Path) -> None:
    tiles = {here(10): merged.heights(7.0)}
    terrain = merged.write_terrain(
        tmp_path / "t.pmtiles", tiles, lineage="l.pmtiles", content_key="new", sources=[]
    )
    lineage = merged.write_lineage(tmp_path / "l.pmtiles", {here(10): merged.labels(1)}, content_key="old")
    (report,) = at([terrain], LON, LAT)
    assert report.source is None
    assert "l.pmtiles is not beside it, or of another merge" in report.note
    with pytest.raises(UsageError, match="lineage of none"):
        at([terrain], LON, LAT, lineage_archive=lineage)


def test_several_terrain_archives_are_answered_each(tmp_path: Path) -> None:
    terrain, lineage = write_pair(tmp_path / "a")
    other = merged.write_terrain(tmp_path / "b.mbtiles", {here(9): merged.heights(3.0)})
    reports = at([other, terrain], LON, LAT)
    assert [report.archive for report in reports] == [other, terrain]
    assert [report.source for report in reports] == ["b", "lidar"]
    assert at([other, lineage, terrain], LON, LAT) == reports


def test_foreign_tiles_are_read_as_they_are(tmp_path: Path) -> None:
    pixels = np.zeros((256, 256, 3), dtype=np.uint8)
    pixels[:, 128:] = (1, 134, 160 + 5)  # 100000 + 5 tenths over -10000 m
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    tile = here(10)
    path = merged.write(
        tmp_path / "mapbox.mbtiles", {tile: buffer.getvalue()}, encoding="mapbox", tile_size=256, format="png"
    )
    box = grid.bounds(tile)
    (report,) = at([path], box.east - 1e-6, LAT)
    assert report.height_m == pytest.approx(0.5, abs=1e-3)
    assert report.pixel is not None
    assert report.pixel[0] == 255
    assert report.vertical_step_m == 0.1
    assert report.resolution_m == pytest.approx(grid.resolution_m(9) * math.cos(math.radians(LAT)))


def test_an_archive_that_states_no_encoding_is_read_as_terrarium_and_says_so(tmp_path: Path) -> None:
    path = merged.write_terrain(tmp_path / "t.mbtiles", {here(9): merged.heights(3.0)}, encoding="")
    (report,) = at([path], LON, LAT)
    assert report.height_m == 3.0
    assert "no encoding" in report.note


@given(st.floats(-180, 180), st.floats(-85.05, 85.05), st.integers(0, 18), st.sampled_from([256, 512]))
@settings(deadline=None)
def test_the_pixel_is_the_tile_some_zooms_down(lon: float, lat: float, z: int, side: int) -> None:
    tile = grid.tile_at(lon, lat, z)
    col, row = pixel_at(lon, lat, tile, side)
    deep = mercantile.tile(lon, lat, z + side.bit_length() - 1)
    assert abs(deep.x - (tile.x * side + col)) <= (1 if abs(lon) == 180 else 1e-9) or _on_edge(lon, lat, deep)
    assert abs(deep.y - (tile.y * side + row)) <= 1


def _on_edge(lon: float, lat: float, tile: mercantile.Tile) -> bool:
    box = mercantile.bounds(tile)
    width = box.east - box.west
    return min(abs(lon - box.west), abs(lon - box.east)) < width * 1e-6


# The command


def test_western_places_are_no_options(tmp_path: Path, fusi: Fusi) -> None:
    terrain, lineage = write_pair(tmp_path)
    for words in (
        (f"{LON},{LAT}", terrain),
        (f"{LON},{LAT}", terrain, "--zoom", 14),
        ("--", f"{LON},{LAT}", terrain),
    ):
        answer = fusi("at", *words)
        assert answer.code == 0, answer.err
        assert "250.125 m" in answer.out
        assert "lidar" in answer.out
    (report,) = fusi("at", f"{LON},{LAT}", terrain, lineage, "--json").json
    assert (report["height_m"], report["source"], report["zoom"]) == (250.125, "lidar", 14)
    assert report["tile"] == str(here(14))


def test_no_data_is_said_and_no_failure(tmp_path: Path, fusi: Fusi) -> None:
    terrain, _ = write_pair(tmp_path)
    answer = fusi("at", "12,12", terrain)
    assert answer.code == 0
    assert "no data" in answer.out
    assert json_of(fusi, terrain)["height_m"] is None


def json_of(fusi: Fusi, terrain: Path) -> dict[str, object]:
    (report,) = fusi("at", "12,12", terrain, "--json").json
    assert isinstance(report, dict)
    return report


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("1,2,3", "x.pmtiles"), "lon,lat"),
        (("1,99", "x.pmtiles"), "lat"),
        (("1,2", "x.pmtiles"), "no such archive"),
        (("1,2",), "ARCHIVE"),
        (("1,2", "x.pmtiles", "--zom", "3"), "--zom"),
    ],
)
def test_a_wrong_command_ends_with_2_and_a_line(fusi: Fusi, words: tuple[str, ...], said: str) -> None:
    answer = fusi("at", *words)
    assert answer.code == 2
    assert said in answer.err


def test_what_is_no_terrain_is_refused(tmp_path: Path) -> None:
    path = merged.write(
        tmp_path / "map.mbtiles",
        {here(3): encode_webp(merged.lineage_pixels(merged.labels(1)))},
        encoding="other",
    )
    with pytest.raises(ArchiveUnsuitable, match="not terrain"):
        at([path], LON, LAT)
    with pytest.raises(FusiError):
        at([tmp_path / "none.pmtiles"], LON, LAT)
