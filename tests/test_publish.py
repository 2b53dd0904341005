"""Merges of whole archives: every pixel by the rule, every way to the same bytes."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fusi_pipeline import merge
from fusi_pipeline.aggregate import aggregate, build_source, convert
from fusi_pipeline.errors import (
    ArchiveMissing,
    ArchiveUnreadable,
    ArchiveUnsuitable,
    FusiError,
    OutputExists,
    TileCorrupt,
    UsageError,
)
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.plan import BuildOptions
from fusi_pipeline.publish import MergeReport, merge_archives
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.image import decode_webp, encode_webp
from fusi_pipeline.tiles.ledger import BlockRecord
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from fusi_pipeline.tiles.structure import problems
from tests import rasters
from tests.test_build import finish, settings
from tests.test_warp import away_from_edges, linked

Heights = npt.NDArray[np.float32]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Place:
    """A folder with two built sources that overlap, `fine` to zoom 10 and `coarse` to zoom 8."""

    folder: Path
    fine: Path
    coarse: Path

    def merge(self, output: Path, *inputs: Path, mode: str = "priority", **env: str) -> MergeReport:
        work = merge_archives(
            inputs or (self.fine, self.coarse), output, settings(output.parent, **env), mode=mode
        )
        return finish(work)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("publish")
    fine = rasters.terrain(640, 700, base_m=100)
    rasters.write(
        folder / "store" / "fine" / "a.tif",
        np.where(fine < 40, 0.0, fine),
        crs="EPSG:32632",
        left=580_000,
        top=5_240_000,
        pixel=100,
        nodata=-9999,
        absent=np.roll(rasters.hole(640, 700, share=0.12), (180, 200), axis=(0, 1)),
    )
    coarse = rasters.terrain(600, 800, base_m=-50, phase=1)
    rasters.write(
        folder / "store" / "coarse" / "a.tif",
        coarse,
        left=7.3,
        top=47.9,
        pixel=0.005,
        nodata=-1,
        absent=np.roll(rasters.hole(600, 800, share=0.06), (-40, 230), axis=(0, 1)),
    )
    paths = []
    for name, maxzoom in (("fine", 10), ("coarse", 8)):
        report = finish(build_source(name, settings(folder), BuildOptions(minzoom=5)))
        assert report.metadata.maxzoom == maxzoom
        paths.append(report.path)
    return Place(folder, paths[0], paths[1])


@pytest.fixture(scope="module")
def merged(place: Place) -> Path:
    place.merge(place.folder / "out.pmtiles")
    return place.folder / "out.pmtiles"


def decoded(path: Path, tile: Tile) -> Heights | None:
    with open_archive(path) as reader:
        data = reader.read(tile)
    return None if data is None else terrarium.decode(decode_webp(data))


def all_tiles(path: Path, z: int) -> set[Tile]:
    with open_archive(path) as reader:
        return {Tile(z, x, y) for x, y in reader.coordinates(z).tolist()}


def all_zooms(path: Path) -> list[int]:
    with open_archive(path) as reader:
        return sorted(reader.counts())


def flat(layers: list[Heights], mode: str) -> Heights:
    """Return what a final archive holds of layers: by the rule, 0 m where nothing is."""
    return np.nan_to_num(merge.combined(layers, mode).heights, nan=0.0)


@pytest.mark.parametrize("mode", ["priority", "max", "min", "mean"])
def test_merged_tiles_are_the_rule_applied_pixel_by_pixel(place: Place, tmp_path: Path, mode: str) -> None:
    place.merge(tmp_path / "out.pmtiles", mode=mode)
    both = 0
    for z in (5, 6, 7, 8):
        inputs = [all_tiles(path, z) for path in (place.fine, place.coarse)]
        assert all_tiles(tmp_path / "out.pmtiles", z) == inputs[0] | inputs[1]
        for tile in inputs[0] | inputs[1]:
            layers = [
                heights for path in (place.fine, place.coarse) if (heights := decoded(path, tile)) is not None
            ]
            both += len(layers) == 2
            ours = decoded(tmp_path / "out.pmtiles", tile)
            assert ours is not None
            off = np.abs(ours - flat(layers, mode)).max()
            assert off <= (terrarium.step_m(z) / 2 if mode == "mean" else 0), tile
    assert both >= 4


def mosaic(path: Path, z: int) -> tuple[int, int, npt.NDArray[np.float64]]:
    """Return (first column, first row, heights) of all tiles of a zoom in one array."""
    found = all_tiles(path, z)
    left, top = min(tile.x for tile in found), min(tile.y for tile in found)
    cols, rows = (max(getattr(tile, axis) for tile in found) for axis in ("x", "y"))
    out = np.full(((rows - top + 1) * 512, (cols - left + 1) * 512), np.nan)
    for tile in found:
        row, col = (tile.y - top) * 512, (tile.x - left) * 512
        heights = decoded(path, tile)
        assert heights is not None
        out[row : row + 512, col : col + 512] = heights
    return left * 512, top * 512, out


def enlarged(heights: npt.NDArray[np.float64], factor: int) -> npt.NDArray[np.float64]:
    """Return heights interpolated bilinearly in one piece; NaN where any of the four pixels is missing."""

    def along(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        at = (np.arange(len(values) * factor) + 0.5) / factor - 0.5
        first = np.clip(np.floor(at).astype(int), 0, len(values) - 2)
        share = np.clip(at - first, 0, 1)[:, None]
        return values[first] * (1 - share) + values[first + 1] * share

    return along(along(heights).T).T


def test_finer_zooms_are_filled_smoothly_from_the_coarser_source_across_tile_borders(
    place: Place, merged: Path
) -> None:
    z = 10
    left, top, coarse = mosaic(place.coarse, 8)
    under = enlarged(coarse, 1 << (z - 8)).astype(np.float32)
    nearest = coarse.astype(np.float32).repeat(1 << (z - 8), axis=0).repeat(1 << (z - 8), axis=1)
    left, top = left << (z - 8), top << (z - 8)
    filled = 0
    assert all_tiles(merged, z) == all_tiles(place.fine, z)
    for tile in all_tiles(merged, z):
        ours, fine = decoded(merged, tile), decoded(place.fine, tile)
        assert ours is not None
        assert fine is not None
        known = ~np.isnan(fine)
        np.testing.assert_array_equal(ours[known], fine[known])
        row, col = tile.y * 512 - top, tile.x * 512 - left
        below, held = np.full((512, 512), np.nan), np.full((512, 512), np.nan)
        for out, whole in ((below, under), (held, nearest)):
            rows = slice(max(-row, 0), min(whole.shape[0] - row, 512))
            cols = slice(max(-col, 0), min(whole.shape[1] - col, 512))
            out[rows, cols] = whole[row + rows.start : row + rows.stop, col + cols.start : col + cols.stop]
        smooth = ~known & ~np.isnan(below)
        filled += int(smooth.sum())
        if smooth.any():
            assert np.abs(ours - below)[smooth].max() <= terrarium.step_m(z) / 2 + 1e-3, tile
        nothing = ~known & np.isnan(held)
        assert (ours[nothing] == 0).all(), tile
    assert filled > 100_000


def test_a_tile_of_one_source_and_wholly_valid_is_copied_byte_for_byte(place: Place, merged: Path) -> None:
    copied = {"fine": 0, "coarse": 0}
    for z in (5, 6, 7, 8, 9, 10):
        fine, coarse = all_tiles(place.fine, z), all_tiles(place.coarse, z)
        for path, tiles in ((place.fine, fine - coarse), (place.coarse, coarse - fine)):
            for tile in tiles:
                with open_archive(path) as reader, open_archive(merged) as final:
                    data = reader.read(tile)
                    assert data is not None
                    if decode_webp(data).shape[2] == 3:
                        copied[path.stem] += 1
                        assert final.read(tile) == data
    assert min(copied.values()) >= 1


def test_the_final_archive_is_rgb_sound_and_complete(place: Place, merged: Path) -> None:
    assert problems(merged) == []
    with PMTilesReader(merged) as reader:
        assert sorted(reader.counts()) == [5, 6, 7, 8, 9, 10]
        for z in reader.counts():
            for x, y in reader.coordinates(z).tolist():
                data = reader.read(Tile(z, x, y))
                assert data is not None
                assert decode_webp(data).shape == (512, 512, 3)
        metadata = reader.metadata
    assert (metadata.encoding, metadata.minzoom, metadata.maxzoom) == ("terrarium", 5, 10)
    with MBTilesReader(place.fine) as fine, MBTilesReader(place.coarse) as coarse:
        boxes = (fine.metadata.bounds, coarse.metadata.bounds)
    assert metadata.bounds.west == pytest.approx(min(box.west for box in boxes), abs=1e-6)
    assert metadata.bounds.north == pytest.approx(max(box.north for box in boxes), abs=1e-6)


def test_one_archive_merged_is_itself_with_0_m_where_it_has_nothing(place: Place, tmp_path: Path) -> None:
    place.merge(tmp_path / "one.pmtiles", place.fine)
    for z in (6, 9, 10):
        assert all_tiles(tmp_path / "one.pmtiles", z) == all_tiles(place.fine, z)
        for tile in all_tiles(place.fine, z):
            wanted, ours = decoded(place.fine, tile), decoded(tmp_path / "one.pmtiles", tile)
            assert wanted is not None
            np.testing.assert_array_equal(ours, np.nan_to_num(wanted, nan=0.0))


def test_the_first_archive_has_precedence(place: Place, tmp_path: Path) -> None:
    place.merge(tmp_path / "turned.pmtiles", place.coarse, place.fine)
    for tile in all_tiles(place.coarse, 8) & all_tiles(place.fine, 8):
        coarse, ours = decoded(place.coarse, tile), decoded(tmp_path / "turned.pmtiles", tile)
        assert coarse is not None
        assert ours is not None
        np.testing.assert_array_equal(ours[~np.isnan(coarse)], coarse[~np.isnan(coarse)])


def test_a_pmtiles_may_be_merged_too(place: Place, merged: Path, tmp_path: Path) -> None:
    place.merge(tmp_path / "again.pmtiles", merged)
    for z in (6, 10):
        for tile in all_tiles(merged, z):
            np.testing.assert_array_equal(decoded(tmp_path / "again.pmtiles", tile), decoded(merged, tile))


# Every way to the same bytes


def test_workers_do_not_change_a_byte(place: Place, merged: Path, tmp_path: Path) -> None:
    for workers in ("1", "3"):
        path = tmp_path / workers / "out.pmtiles"
        place.merge(path, FUSI_WORKERS=workers)
        assert sha256(path) == sha256(merged)


@pytest.mark.parametrize("cells", [1, 3])
def test_a_merge_that_was_left_goes_on_where_it_was(
    place: Place, merged: Path, tmp_path: Path, cells: int
) -> None:
    output = tmp_path / "out.pmtiles"
    work = merge_archives((place.fine, place.coarse), output, settings(tmp_path))
    while next(work).done < cells:
        pass
    work.close()
    assert not output.exists()
    report = place.merge(output)
    assert report.reused >= cells
    assert report.reused + report.merged + report.copied == report.tiles
    assert sha256(output) == sha256(merged)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "out.pmtiles",
        "out.pmtiles.ledger",
    ]


def test_a_merge_left_while_packing_goes_on(place: Place, merged: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.pmtiles"
    work = merge_archives((place.fine, place.coarse), output, settings(tmp_path))
    while next(work).stage != "pack":
        pass
    work.close()
    assert not output.exists()
    place.merge(output)
    assert sha256(output) == sha256(merged)


def test_a_merge_that_was_left_and_is_asked_for_otherwise_begins_anew(place: Place, tmp_path: Path) -> None:
    output = tmp_path / "out.pmtiles"
    work = merge_archives((place.fine, place.coarse), output, settings(tmp_path))
    while next(work).done < 3:
        pass
    work.close()
    place.merge(output, place.coarse, place.fine)
    place.merge(tmp_path / "clean" / "out.pmtiles", place.coarse, place.fine)
    assert sha256(output) == sha256(tmp_path / "clean" / "out.pmtiles")


def test_aggregate_is_build_and_merge(place: Place, merged: Path, tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(place.folder / "store")
    work = aggregate(
        ["fine", "coarse"],
        tmp_path / "out.pmtiles",
        settings(tmp_path),
        BuildOptions(minzoom=5),
        keep_intermediates=False,
    )
    report = finish(work)
    assert sha256(tmp_path / "out.pmtiles") == sha256(merged)
    assert [one.name for one in report.builds] == ["fine", "coarse"]
    assert not list((tmp_path / "output" / "sources").glob("*.mbtiles"))


def test_aggregate_builds_only_the_source_that_changed(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.folder / "store", tmp_path / "store")
    shutil.copytree(place.folder / "output", tmp_path / "output")
    rasters.write(
        tmp_path / "store" / "coarse" / "b.tif", rasters.plane(20, 20), left=10.4, top=47.4, pixel=0.005
    )
    work = aggregate(
        ["fine", "coarse"], tmp_path / "out.pmtiles", settings(tmp_path), BuildOptions(minzoom=5)
    )
    fine, coarse = finish(work).builds
    assert fine.built == 0
    assert coarse.built > 0


# One raster


def test_convert_makes_the_archive_of_one_raster(tmp_path: Path) -> None:
    raster = rasters.write(tmp_path / "dem.tif", rasters.terrain(80, 80), pixel=0.01)
    report = finish(convert(raster, tmp_path / "dem.pmtiles", settings(tmp_path)))
    assert problems(report.merge.path) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dem.pmtiles", "dem.tif"]


def test_convert_takes_the_raster_it_is_given_whatever_an_earlier_run_left(tmp_path: Path) -> None:
    one = rasters.write(tmp_path / "one" / "dem.tif", np.full((60, 60), 100.0))
    other = rasters.write(tmp_path / "other" / "dem.tif", np.full((60, 60), 700.0))
    output = tmp_path / "dem.pmtiles"
    work = convert(one, output, settings(tmp_path), BuildOptions(minzoom=5))
    while next(work).stage != "build":
        pass
    work.close()
    finish(convert(other, output, settings(tmp_path), BuildOptions(minzoom=5)))
    (tile, *_) = all_tiles(output, 6)
    heights = decoded(output, tile)
    assert heights is not None
    assert set(np.unique(heights)) == {0.0, 700.0}


# What cannot be merged


def write_archive(path: Path, tiles: dict[Tile, bytes], **facts: str) -> Path:
    """Write an MBTiles of given tiles."""
    zooms = [tile.z for tile in tiles] or [0]
    metadata = ArchiveMetadata(
        name=path.stem,
        minzoom=min(zooms),
        maxzoom=max(zooms),
        bounds=Bounds(7, 46, 8, 47),
        **facts,  # type: ignore[arg-type]
    )
    with MBTilesWriter(path) as writer:
        writer.commit(BlockRecord(Tile(0, 0, 0), path.stem, len(tiles), 0, None, None), tiles.items())
        writer.finish(metadata)
    return path


def flat_tile(height_m: float, z: int, side: int = 512) -> bytes:
    pixels = terrarium.encode(np.full((side, side), height_m, np.float32), z)
    assert pixels is not None
    return encode_webp(pixels)


def test_more_archives_than_a_byte_can_count_can_be_merged(tmp_path: Path) -> None:
    inputs = [
        write_archive(tmp_path / f"{number}.mbtiles", {Tile(9, 100 + number, 200): flat_tile(number, 9)})
        for number in range(260)
    ]
    finish(merge_archives(inputs, tmp_path / "out.pmtiles", settings(tmp_path)))
    for number in (0, 253, 254, 255, 256, 259):
        heights = decoded(tmp_path / "out.pmtiles", Tile(9, 100 + number, 200))
        assert heights is not None
        assert set(np.unique(heights)) == {float(number)}


def spoiled(path: Path, target: Path, tile: Tile, data: bytes) -> Path:
    """Return a copy of an archive with another content for one tile."""
    shutil.copy(path, target)
    with closing(sqlite3.connect(target)) as connection, connection:
        done = connection.execute(
            "UPDATE tiles SET tile_data = ? WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?",
            (data, tile.z, tile.x, (1 << tile.z) - 1 - tile.y),
        )
        assert done.rowcount == 1
    return target


@pytest.mark.parametrize("kind", ["garbage", "half", "small", "empty"])
@pytest.mark.parametrize("z", [5, 10])
def test_a_corrupt_tile_is_named(place: Place, tmp_path: Path, z: int, kind: str) -> None:
    tile = max(all_tiles(place.fine, z))
    with MBTilesReader(place.fine) as reader:
        good = reader.read(tile)
    assert good is not None
    data = {"garbage": b"RIFF\0\0\0\0WEBPgarbage", "half": good[: len(good) // 2], "empty": b""}
    data["small"] = flat_tile(5, z, 256)
    bad = spoiled(place.fine, tmp_path / "bad.mbtiles", tile, data[kind])
    with pytest.raises(FusiError) as caught:
        place.merge(tmp_path / "out.pmtiles", bad, place.coarse)
    message = str(caught.value)
    assert str(bad) in message
    assert "\n" not in message
    if kind != "small" or z == 10:
        assert isinstance(caught.value, TileCorrupt | ArchiveUnsuitable)
        assert str(tile) in message
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out.pmtiles").exists()


def test_a_corrupt_tile_of_a_coarser_source_is_named_where_it_fills(place: Place, tmp_path: Path) -> None:
    tile = next(tile for tile in sorted(all_tiles(place.coarse, 8)) if tile in all_tiles(place.fine, 8))
    bad = spoiled(place.coarse, tmp_path / "bad.mbtiles", tile, b"RIFF\0\0\0\0WEBPgarbage")
    with pytest.raises(TileCorrupt, match=str(tile)):
        place.merge(tmp_path / "out.pmtiles", place.fine, bad)


def archive_256(folder: Path) -> Path:
    return write_archive(folder / "in.mbtiles", {Tile(3, 4, 2): flat_tile(5, 3, 256)})


def archive_of_pictures(folder: Path) -> Path:
    return write_archive(folder / "in.mbtiles", {Tile(3, 4, 2): flat_tile(5, 3)}, encoding="")


def archive_of_mapbox_heights(folder: Path) -> Path:
    return write_archive(folder / "in.mbtiles", {Tile(3, 4, 2): flat_tile(5, 3)}, encoding="mapbox")


def archive_without_tiles(folder: Path) -> Path:
    return write_archive(folder / "in.mbtiles", {})


def text_file(folder: Path) -> Path:
    path = folder / "in.mbtiles"
    path.write_text("not an archive")
    return path


def raster_file(folder: Path) -> Path:
    return rasters.write(folder / "in.mbtiles", rasters.plane(20, 20))


def other_database(folder: Path) -> Path:
    with closing(sqlite3.connect(folder / "in.mbtiles")) as connection, connection:
        connection.execute("CREATE TABLE numbers (n)")
    return folder / "in.mbtiles"


def cut_database(folder: Path) -> Path:
    path = archive_256(folder)
    return rasters.truncate(path, 0.4)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (archive_of_pictures, ArchiveUnsuitable, "not known to be terrain"),
        (archive_without_tiles, ArchiveUnsuitable, "no tile"),
        (text_file, ArchiveUnreadable, "neither"),
        (raster_file, ArchiveUnreadable, "neither"),
        (other_database, ArchiveUnreadable, "not a sound MBTiles"),
        (cut_database, ArchiveUnreadable, "SQLite|sound"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_unsuitable_input_is_named_in_one_line(
    place: Place, tmp_path: Path, make: object, error: type[FusiError], word: str
) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    with pytest.raises(error, match=word) as caught:
        place.merge(tmp_path / "out.pmtiles", place.fine, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out.pmtiles").exists()


def test_an_input_that_is_missing_is_a_usage_error(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing) as caught:
        place.merge(tmp_path / "out.pmtiles", tmp_path / "none.mbtiles")
    assert caught.value.exit_code == 2


def test_an_output_that_is_no_pmtiles_or_an_input_is_refused(
    place: Place, merged: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"\.pmtiles"):
        place.merge(tmp_path / "out.mbtiles")
    with pytest.raises(UsageError, match="also an input"):
        place.merge(merged, place.fine, merged)


def test_a_file_that_fusi_did_not_write_is_replaced_only_when_told(place: Place, tmp_path: Path) -> None:
    output = tmp_path / "out.pmtiles"
    output.write_bytes(b"precious")
    with pytest.raises(OutputExists, match="--overwrite"):
        place.merge(output, place.coarse)
    assert output.read_bytes() == b"precious"
    finish(merge_archives([place.coarse], output, settings(tmp_path), overwrite=True))
    assert problems(output) == []
    place.merge(output, place.fine)
    assert max(all_zooms(output)) == 10


# The real set


def test_full_and_holed_twins_merge_to_the_full_one(dem: Path, tmp_path: Path) -> None:
    for name in ("full", "nodata"):
        linked(dem / "portland" / f"ned_13_{name}", tmp_path / "store" / name)
    options = BuildOptions(minzoom=11)
    finish(aggregate(["nodata", "full"], tmp_path / "out.pmtiles", settings(tmp_path), options))
    sources = tmp_path / "output" / "sources"
    filled = 0
    for tile in all_tiles(sources / "full.mbtiles", 13):
        full, ours = decoded(sources / "full.mbtiles", tile), decoded(tmp_path / "out.pmtiles", tile)
        holed = decoded(sources / "nodata.mbtiles", tile)
        assert full is not None
        assert ours is not None
        wanted = np.nan_to_num(full, nan=0.0)
        if holed is None:
            np.testing.assert_array_equal(ours, wanted)
            continue
        away = away_from_edges(holed, 2) | np.isnan(holed)
        np.testing.assert_array_equal(ours[away], wanted[away])
        filled += int((np.isnan(holed) & ~np.isnan(full)).sum())
    assert filled > 100_000


def test_a_south_up_twin_makes_the_same_tiles(dem: Path, tmp_path: Path) -> None:
    for name in ("ned_1s", "ned_1s_southup"):
        linked(dem / "sf_bay" / name, tmp_path / "store" / name)
        finish(build_source(name, settings(tmp_path), BuildOptions(minzoom=9)))
    upright, turned = (
        tmp_path / "output" / "sources" / f"{name}.mbtiles" for name in ("ned_1s", "ned_1s_southup")
    )
    for z in range(9, 13):
        assert all_tiles(upright, z) == all_tiles(turned, z)
        for tile in all_tiles(upright, z):
            one, other = decoded(upright, tile), decoded(turned, tile)
            assert one is not None
            assert other is not None
            np.testing.assert_array_equal(np.isnan(one), np.isnan(other))
            assert np.nanmax(np.abs(one - other)) <= terrarium.step_m(z)


def test_sources_in_different_crss_merge_by_the_rule_everywhere(dem: Path, tmp_path: Path) -> None:
    names = ["usgs_dome_10m_late", "usgs_dem_30m_nad27", "gz_186m_nan"]
    for name in names:
        linked(dem / "sthelens" / name, tmp_path / "store" / name)
    finish(aggregate(names, tmp_path / "out.pmtiles", settings(tmp_path), BuildOptions(minzoom=7)))
    sources = [tmp_path / "output" / "sources" / f"{name}.mbtiles" for name in names]
    for z in (7, 8, 9):
        for tile in all_tiles(tmp_path / "out.pmtiles", z):
            layers = [heights for path in sources if (heights := decoded(path, tile)) is not None]
            np.testing.assert_array_equal(decoded(tmp_path / "out.pmtiles", tile), flat(layers, "priority"))


# What a reviewer would try


def test_an_input_replaced_during_a_merge_is_noticed(place: Place, tmp_path: Path) -> None:
    mine = tmp_path / "fine.mbtiles"
    shutil.copy(place.fine, mine)
    work = merge_archives((mine, place.coarse), tmp_path / "out.pmtiles", settings(tmp_path))
    while next(work).stage != "merge":
        pass
    shutil.copy(place.coarse, tmp_path / "other.mbtiles")
    (tmp_path / "other.mbtiles").replace(mine)
    with pytest.raises(ArchiveUnsuitable, match="changed while"):
        finish(work)
    assert not (tmp_path / "out.pmtiles").exists()
    shutil.copy(place.fine, mine)
    place.merge(tmp_path / "out.pmtiles", mine, place.coarse)
    place.merge(tmp_path / "clean" / "out.pmtiles", mine, place.coarse)
    assert sha256(tmp_path / "out.pmtiles") == sha256(tmp_path / "clean" / "out.pmtiles")


def test_outputs_that_are_the_same_file_in_other_words_are_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    work = merge_archives(
        [place.fine], tmp_path / "same.pmtiles", settings(tmp_path),
        lineage_output=tmp_path / "sub" / ".." / "same.pmtiles",
    )  # fmt: skip
    with pytest.raises(UsageError, match="output itself"):
        finish(work)


def test_the_lineage_of_an_input_or_of_another_archive_is_not_replaced(place: Place, tmp_path: Path) -> None:
    first, names = tmp_path / "one.pmtiles", tmp_path / "names.pmtiles"
    finish(merge_archives([place.fine], first, settings(tmp_path), lineage_output=names))
    before = names.read_bytes()
    for inputs, output, lineage in (
        ([first, place.coarse], tmp_path / "two.pmtiles", names),
        ([first, place.coarse], names, None),
        ([place.coarse], tmp_path / "two.pmtiles", names),
    ):
        with pytest.raises((UsageError, OutputExists), match=r"names\.pmtiles"):
            finish(merge_archives(inputs, output, settings(tmp_path), lineage_output=lineage))
    assert names.read_bytes() == before


@pytest.mark.parametrize("name", ["out.pmtiles.ledger", "out.pmtiles.merge.partial"])
def test_a_file_of_the_users_beside_the_output_is_not_replaced(
    place: Place, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("dear reader, keep this")
    with pytest.raises(OutputExists, match="in the way"):
        place.merge(tmp_path / "out.pmtiles", place.fine)
    (tmp_path / name).unlink()
    with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
        connection.execute("CREATE TABLE letters (text)")
    with pytest.raises(OutputExists, match="in the way"):
        place.merge(tmp_path / "out.pmtiles", place.fine)


def test_tiles_that_are_no_more_are_counted(place: Place, tmp_path: Path) -> None:
    first = place.merge(tmp_path / "out.pmtiles", place.fine, place.coarse)
    work = merge_archives(
        [InputOptions(path=place.fine, missing=((-12000.0, 9000.0),)), place.coarse],
        tmp_path / "out.pmtiles", settings(tmp_path),
    )  # fmt: skip
    second = finish(work)
    assert second.removed == first.tiles - second.tiles > 0


def test_a_zoom_that_no_input_has_is_told(tmp_path: Path) -> None:
    tiles = {Tile(3, 4, 2): flat_tile(5, 3), Tile(5, 16, 8): flat_tile(5, 5)}
    path = write_archive(tmp_path / "gap.mbtiles", tiles)
    report = finish(merge_archives([path], tmp_path / "out.pmtiles", settings(tmp_path)))
    assert any("zoom 4" in warning for warning in report.warnings)


def test_only_heights_of_the_zooms_step_are_copied(tmp_path: Path) -> None:
    pixels = np.full((512, 512, 3), (128, 5, 77), np.uint8)
    path = write_archive(tmp_path / "fine.mbtiles", {Tile(3, 4, 2): encode_webp(pixels)})
    report = finish(merge_archives([path], tmp_path / "out.pmtiles", settings(tmp_path)))
    assert (report.merged, report.copied) == (1, 0)
    heights = decoded(tmp_path / "out.pmtiles", Tile(3, 4, 2))
    assert heights is not None
    assert set(np.unique(heights)) == {5.0}


@pytest.mark.parametrize("box", [(-180.0, -85.0, 180.0, 85.0), (1.0, 2.0, 3.0, 4.0)])
def test_bounds_go_no_further_than_the_tiles(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    metadata = ArchiveMetadata(name="x", minzoom=5, maxzoom=5, bounds=Bounds(*box))
    with MBTilesWriter(tmp_path / "x.mbtiles") as writer:
        writer.commit(BlockRecord(Tile(0, 0, 0), "x", 1, 0, None, None), [(Tile(5, 16, 11), flat_tile(5, 5))])
        writer.finish(metadata)
    report = finish(merge_archives([tmp_path / "x.mbtiles"], tmp_path / "out.pmtiles", settings(tmp_path)))
    tile = grid.bounds(Tile(5, 16, 11))
    found = report.metadata.bounds
    assert (found.west, found.east) == pytest.approx((tile.west, tile.east), abs=1e-6)
    assert (found.south, found.north) == pytest.approx((tile.south, tile.north), abs=1e-6)


def test_everyone_who_has_a_share_in_a_mean_is_credited(tmp_path: Path) -> None:
    paths = [
        write_archive(tmp_path / f"{name}.mbtiles", {Tile(3, 4, 2): flat_tile(height, 3)}, attribution=name)
        for name, height in (("a", 5), ("b", 6), ("c", 7))
    ]
    report = finish(merge_archives(paths, tmp_path / "out.pmtiles", settings(tmp_path), mode="mean"))
    assert report.metadata.attribution == "a, b, c"
