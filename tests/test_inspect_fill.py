"""What each source contributes to a tile of a merge: numbers with known answers, and the sheet."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusi_pipeline.at import at
from fusi_pipeline.coverage import coverage
from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.fill_sheet import MOST_ROWS, differences, sheet, validity
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.inspect_fill import Inspection, inspect_fill
from fusi_pipeline.publish import merge_archives
from fusi_pipeline.settings import settings_from
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from tests import command, merged, rasters
from tests.command import Fusi

fusi = command.fusi

TILE = Tile(13, 4000, 2900)
LEFT, RIGHT = np.s_[:, :200], np.s_[:, 200:]


def rough(phase: float = 0.0) -> merged.Heights:
    """Return terrain rounded to the step of zoom 13, a quarter of a metre."""
    heights = rasters.terrain(512, 512, phase=phase)
    return (np.rint(heights * 4) / 4).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`fine` has the west, `coarse` all, one zoom higher; the merged tile is as a merge makes it."""
    folder = tmp_path_factory.mktemp("made")
    fine = rough()
    fine[RIGHT] = np.nan
    whole = rough(1.0)
    third = merged.heights(9.0)
    result = np.where(np.isnan(fine), whole, fine)
    result[5, 300] += 12.5  # as if something had changed since
    first = np.where(np.isnan(fine), 2, 1).astype(np.uint8)
    second = np.zeros_like(first)
    second[:10, :200] = 2
    steps = {"generator": "fusi"}
    facts = {"merge_mode": "priority", "nodata": "0 m", "content_key": "k", **steps}
    return {
        "fine": merged.write_terrain(folder / "fine.mbtiles", {TILE: fine}, name="lidar", **steps),
        "whole": merged.write_terrain(folder / "whole.mbtiles", {TILE: whole}, name="srtm", **steps),
        "other": merged.write_terrain(folder / "other.mbtiles", {Tile(11, 5, 5): third}, name="sea", **steps),
        "merged": merged.write_terrain(
            folder / "all.pmtiles", {TILE: result}, lineage="sources.pmtiles", **facts
        ),
        "lineage": merged.write_lineage(
            folder / "sources.pmtiles", {TILE: merged.lineage_pixels(first, second, 0.25)}, content_key="k"
        ),
    }


@pytest.fixture
def archives(made: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of these that a test may change."""
    return {name: Path(shutil.copy(path, tmp_path)) for name, path in made.items()}


def inspected(archives: dict[str, Path], *names: str) -> Inspection:
    return inspect_fill(TILE, archives["merged"], [InputOptions(path=archives[name]) for name in names])


def test_the_numbers_are_those_of_the_pixels(archives: dict[str, Path]) -> None:
    report = inspected(archives, "fine", "whole", "other").report
    fine, whole, sea = report.inputs
    assert [one.name for one in report.inputs] == ["lidar", "srtm", "sea"]
    assert (report.lineage, report.merge_mode) == (archives["lineage"], "priority")
    assert (report.pixels, report.valid_pixels, report.vertical_step_m) == (512 * 512, 512 * 512, 0.25)
    assert (fine.zoom, whole.zoom, sea.zoom) == (13, 13, None)
    assert (fine.valid_pixels, whole.valid_pixels, sea.valid_pixels) == (512 * 200, 512 * 512, 0)
    assert (fine.winning_pixels, whole.winning_pixels) == (512 * 200, 512 * 312)
    assert (fine.second_pixels, whole.second_pixels) == (0, 10 * 200)
    assert fine.minimum_m == rough()[LEFT].min()
    assert fine.maximum_m == rough()[LEFT].max()
    assert fine.mean_m == pytest.approx(rough()[LEFT].mean(dtype=np.float64))
    assert report.unexplained_pixels == 1
    assert sea.difference is None


def test_the_differences_are_those_of_the_pixels(archives: dict[str, Path]) -> None:
    fine, whole, _ = inspected(archives, "fine", "whole", "other").report.inputs
    assert fine.difference is not None
    assert whole.difference is not None
    assert (fine.difference.common_pixels, fine.difference.unequal_pixels) == (512 * 200, 0)
    assert (fine.difference.mean_m, fine.difference.mean_absolute_m, fine.difference.largest_m) == (0, 0, 0)
    true = rough().astype(np.float64) - rough(1.0)
    true[RIGHT] = 0
    true[5, 300] = 12.5
    told = whole.difference
    assert told.common_pixels == 512 * 512
    assert told.unequal_pixels == np.count_nonzero(np.abs(true) > 0.126)
    assert told.mean_m == pytest.approx(true.mean(), abs=1e-9)
    assert told.mean_absolute_m == pytest.approx(np.abs(true).mean())
    col, row = told.pixel
    assert abs(told.largest_m) == np.abs(true).max() == abs(true[row, col])
    assert np.sign(told.largest_m) == np.sign(true[row, col])
    assert grid.tile_at(told.lon, told.lat, 22) == Tile(22, TILE.x * 512 + col, TILE.y * 512 + row)


def test_without_a_lineage_heights_are_compared(archives: dict[str, Path]) -> None:
    archives["lineage"].unlink()
    inspection = inspected(archives, "fine", "whole")
    report = inspection.report
    assert report.lineage is None
    assert [one.winning_pixels for one in report.inputs] == [512 * 200, 512 * 312 - 1]
    assert inspection.first[5, 300] == 0
    assert report.unexplained_pixels == 1
    assert report.valid_pixels == 512 * 512


def test_zero_metres_that_no_input_has_are_no_data_without_a_lineage(tmp_path: Path) -> None:
    half, filled = merged.heights(3.0), merged.heights(3.0)
    half[RIGHT], filled[RIGHT] = np.nan, 0.0
    one = merged.write_terrain(tmp_path / "one.mbtiles", {TILE: half}, generator="fusi")
    facts = {"generator": "fusi", "nodata": "0 m", "merge_mode": "priority"}
    result = merged.write_terrain(tmp_path / "all.pmtiles", {TILE: filled}, **facts)
    report = inspect_fill(TILE, result, [InputOptions(path=one)]).report
    assert report.valid_pixels == 512 * 200
    assert report.unexplained_pixels == 0


def test_a_coarser_input_is_enlarged_and_rounding_is_no_difference(tmp_path: Path) -> None:
    above = grid.parent(TILE, 2)
    coarse = merged.write_terrain(tmp_path / "c.mbtiles", {above: rough()}, name="coarse", generator="fusi")
    options = [InputOptions(path=coarse, offset_m=2.0)]
    layer = _layer(options[0])
    result = merged.write_terrain(tmp_path / "all.pmtiles", {TILE: layer}, generator="fusi")
    report = inspect_fill(TILE, result, options).report
    (one,) = report.inputs
    assert one.zoom == 11
    assert one.difference is not None
    assert one.difference.unequal_pixels == 0
    assert 0 < one.difference.mean_absolute_m <= 0.125
    assert one.winning_pixels == 512 * 512


def _layer(options: InputOptions) -> merged.Heights:
    from fusi_pipeline.terrain_input import TerrainInput

    with TerrainInput(options) as one:
        layer = one.layer(TILE)
    assert layer is not None
    return layer


def test_inputs_are_matched_with_the_legend_by_name_or_by_order(archives: dict[str, Path]) -> None:
    swapped = inspected(archives, "whole", "fine", "other").report
    assert [(one.name, one.index) for one in swapped.inputs] == [("srtm", 2), ("lidar", 1), ("sea", 3)]
    assert [one.winning_pixels for one in swapped.inputs] == [512 * 312, 512 * 200, 0]
    alone = inspected(archives, "fine").report
    assert [(one.name, one.index) for one in alone.inputs] == [("lidar", 1)]
    renamed = [InputOptions(path=archives["fine"], name="new")]
    with pytest.raises(UsageError, match="3 sources"):
        inspect_fill(TILE, archives["merged"], renamed)
    renamed += [InputOptions(path=archives[name]) for name in ("whole", "other")]
    report = inspect_fill(TILE, archives["merged"], renamed).report
    assert [one.index for one in report.inputs] == [1, 2, 3]


def test_what_cannot_be_inspected_says_why(archives: dict[str, Path]) -> None:
    with pytest.raises(ArchiveUnsuitable, match="no tile 13/1/1"):
        inspect_fill(Tile(13, 1, 1), archives["merged"], [InputOptions(path=archives["fine"])])
    with pytest.raises(UsageError, match="inputs"):
        inspect_fill(TILE, archives["merged"], [])


# The sheet


def test_the_sheet_has_a_row_for_the_merge_and_for_each_input_with_heights(archives: dict[str, Path]) -> None:
    one, two = sheet(inspected(archives, "fine")), sheet(inspected(archives, "fine", "whole", "other"))
    assert one.size[0] == two.size[0] == 3 * 512 + 4 * 16
    assert one.size[1] < two.size[1]
    pixels = np.asarray(two)
    assert (204, 51, 17) in {tuple(colour) for colour in pixels[100:500, 600:700].reshape(-1, 3).tolist()}


def test_colours_of_differences_say_their_sign() -> None:
    drawn = differences(np.array([[-9, -1, 0, 1, 9, np.nan]], np.float32), 1.0)
    blue, same, red = drawn[0, 0], drawn[0, 2], drawn[0, 4]
    assert blue[2] > 100 > blue[0]
    assert red[0] > 100 > red[2]
    assert min(same[:3]) > 240
    assert np.array_equal(drawn[0, 0], drawn[0, 1])
    assert np.array_equal(drawn[0, 4], drawn[0, 3])
    assert drawn[0, :, 3].tolist() == [255] * 5 + [0]


def test_validity_is_full_pale_or_absent() -> None:
    layer = np.array([[1, 1, np.nan]], np.float32)
    drawn = validity(layer, np.array([[True, False, False]]), "#cc3311")
    assert tuple(drawn[0, 0]) == (204, 51, 17, 255)
    assert all(drawn[0, 1, :3] > drawn[0, 0, :3])
    assert drawn[0, 2, 3] == 0


def test_many_inputs_do_not_make_an_endless_sheet(tmp_path: Path) -> None:
    one = merged.write_terrain(tmp_path / "one.mbtiles", {TILE: merged.heights(3.0)}, generator="fusi")
    result = merged.write_terrain(tmp_path / "all.pmtiles", {TILE: merged.heights(3.0)}, generator="fusi")
    inputs = [InputOptions(path=one, name=f"source number {number}") for number in range(MOST_ROWS + 6)]
    assert sheet(inspect_fill(TILE, result, inputs)).size[1] < 600 * (MOST_ROWS + 2)


# The command


def test_the_command_gives_numbers_and_a_picture(
    archives: dict[str, Path],
    tmp_path: Path,
    fusi: Fusi,
) -> None:
    words = ("inspect-fill", TILE, archives["merged"], archives["fine"], archives["whole"], archives["other"])
    answer = fusi(*words, "-o", tmp_path / "sheet.png")
    assert answer.code == 0, answer.err
    assert "lidar" in answer.out
    assert "sheet.png" in answer.out
    with Image.open(io.BytesIO((tmp_path / "sheet.png").read_bytes())) as picture:
        assert picture.format == "PNG"
    assert fusi(*words, "-o", tmp_path / "sheet.png").code == 0, "its own picture may be written again"
    report = fusi(*words, "--json").json
    assert [one["winning_pixels"] for one in report["inputs"]] == [512 * 200, 512 * 312, 0]
    assert report["inputs"][2]["difference"] is None


def test_the_command_takes_a_list_of_inputs(
    archives: dict[str, Path],
    tmp_path: Path,
    fusi: Fusi,
) -> None:
    listing = tmp_path / "inputs.toml"
    tables = [f"[[input]]\npath = {json.dumps(archives[name].name)}\n" for name in ("fine", "whole", "other")]
    listing.write_text("\n".join(tables))
    answer = fusi("inspect-fill", TILE, archives["merged"], "--inputs", listing, "--json")
    assert answer.code == 0, answer.err
    assert [one["name"] for one in answer.json["inputs"]] == ["lidar", "srtm", "sea"]


def test_a_command_without_inputs_ends_with_2(archives: dict[str, Path], fusi: Fusi) -> None:
    answer = fusi("inspect-fill", TILE, archives["merged"])
    assert answer.code == 2
    assert "--inputs" in answer.said[0]


@pytest.mark.parametrize("tile", ["13/4000", "13/9000/1", "a/b/c", "99/0/0"])
def test_a_tile_that_is_none_ends_with_2(archives: dict[str, Path], fusi: Fusi, tile: str) -> None:
    answer = fusi("inspect-fill", tile, archives["merged"], archives["fine"])
    assert answer.code == 2
    assert "Z/X/Y" in answer.err


def test_a_picture_replaces_nothing_that_is_not_its_own(
    archives: dict[str, Path],
    fusi: Fusi,
    tmp_path: Path,
) -> None:
    words = ("inspect-fill", TILE, archives["merged"], archives["fine"], archives["whole"], archives["other"])
    (tmp_path / "mine.txt").write_text("mine")
    for output in (tmp_path / "mine.txt", archives["fine"]):
        before = output.read_bytes()
        assert fusi(*words, "-o", output).code == 2
        assert output.read_bytes() == before


# A whole merge


@pytest.fixture(scope="module")
def country(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sources merged with a feathered edge and a lineage: a fine one with a hole, and a coarse one."""
    folder = tmp_path_factory.mktemp("country")
    fine = rough()
    fine[rasters.hole(512, 512)] = np.nan
    above = grid.parent(TILE, 2)
    sources = [
        merged.write_terrain(folder / "fine.mbtiles", {TILE: fine}, generator="fusi"),
        merged.write_terrain(folder / "coarse.mbtiles", {above: rough(2.0)}, generator="fusi"),
    ]
    terrain, lineage = folder / "all.pmtiles", folder / "sources.pmtiles"
    settings = settings_from({"FUSI_WORKERS": "1", "FUSI_OUTPUT_DIR": str(folder)})
    for _ in merge_archives(
        sources, terrain, settings, mode="feather", feather_m=200.0, lineage_output=lineage
    ):
        pass
    return {"fine": sources[0], "coarse": sources[1], "terrain": terrain, "lineage": lineage}


def test_a_merge_is_explained_by_its_inputs_and_its_lineage(country: dict[str, Path]) -> None:
    inputs = [InputOptions(path=country[name]) for name in ("fine", "coarse")]
    inspection = inspect_fill(TILE, country["terrain"], inputs)
    report, (fine, coarse) = inspection.report, inspection.report.inputs
    assert (report.lineage, report.merge_mode) == (country["lineage"], "feather")
    assert (report.unexplained_pixels, report.valid_pixels) == (0, 512 * 512)
    assert (fine.zoom, coarse.zoom) == (13, 11)
    assert fine.winning_pixels + coarse.winning_pixels == 512 * 512
    assert coarse.second_pixels > 1000
    assert fine.difference is not None
    assert 0 < fine.difference.unequal_pixels <= coarse.second_pixels


def test_places_and_areas_of_a_merge_agree_with_its_inputs(country: dict[str, Path]) -> None:
    inputs = [InputOptions(path=country[name]) for name in ("fine", "coarse")]
    inspection = inspect_fill(TILE, country["terrain"], inputs)
    box, size_m = grid.xy_bounds(TILE), grid.resolution_m(TILE.z)
    for row, col in np.random.default_rng(3).integers(0, 512, (12, 2)).tolist():
        place = grid.unproject(box.left + (col + 0.5) * size_m, box.top - (row + 0.5) * size_m)
        (told,) = at([country["terrain"]], *place)
        index, under = int(inspection.first[row, col]), int(inspection.second[row, col])
        assert (told.tile, told.pixel) == (str(TILE), (col, row))
        assert told.height_m == inspection.heights[row, col]
        assert told.source == ("fine", "coarse")[index - 1]
        assert told.second_source == (None, "fine", "coarse")[under]
    text = io.StringIO()
    for _ in coverage(country["lineage"], text, zooms=[TILE.z]):
        pass
    told_of = {
        one["properties"]["source"]: one["properties"] for one in json.loads(text.getvalue())["features"]
    }
    assert {name: one["pixels"] for name, one in told_of.items()} == {
        one.name: one.winning_pixels for one in inspection.report.inputs
    }
    assert told_of["fine"]["blended_pixels"] == inspection.report.inputs[1].second_pixels
