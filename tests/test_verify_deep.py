"""`fusi verify --deep`: sound archives pass, and every kind of damage is told with its place."""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from fusi_pipeline import lineage
from fusi_pipeline.cli import cli
from fusi_pipeline.deep import blocks
from fusi_pipeline.errors import ArchiveMissing, ArchiveUnsuitable, FusiError, UsageError
from fusi_pipeline.overview import encode_tile, pyramid
from fusi_pipeline.progress import Progress
from fusi_pipeline.publish import merge_archives
from fusi_pipeline.settings import settings_from
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata, TileReader
from fusi_pipeline.tiles.directory import Header
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import decode_webp, encode_webp
from fusi_pipeline.tiles.ledger import BlockRecord, digests_of
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles import PMTilesReader, tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.verify import VerifyReport, verify, verify_deep
from tests import rasters

Heights = npt.NDArray[np.float32]
Tiles = dict[Tile, bytes]
Result = TypeVar("Result")

BLOCK = Tile(10, 530, 360)
TOP = 12
SIDE = 4 * 512
BASE = Tile(TOP, BLOCK.x * 4 + 1, BLOCK.y * 4 + 2)
"""A tile with neighbours on all sides and no missing pixel."""
ABOVE = grid.parent(BASE)


def finish(work: Generator[Progress, None, Result]) -> Result:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def deep(path: Path, **options: Any) -> VerifyReport:
    return finish(verify_deep(path, settings_from({"FUSI_WORKERS": "1"}), **options))


@pytest.fixture(scope="module")
def ground() -> Heights:
    """Rough heights over a block, a hole in the north-east of it."""
    heights = rasters.terrain(SIDE, SIDE, relief_m=400, base_m=900).astype(np.float32)
    heights[:700, 1500:][rasters.hole(700, SIDE - 1500, share=0.3)] = np.nan
    return heights


@pytest.fixture(scope="module")
def tiles(ground: Heights) -> Tiles:
    return dict(pyramid(ground, BLOCK, TOP, BLOCK.z)[0])


def metadata(**extra: object) -> ArchiveMetadata:
    steps = {str(z): terrarium.step_m(z) for z in range(BLOCK.z, TOP + 1)}
    return ArchiveMetadata(
        name="hills",
        minzoom=BLOCK.z,
        maxzoom=TOP,
        bounds=grid.bounds(BLOCK),
        extra={"generator": GENERATOR, "vertical_step_m": steps, **extra},
    )


def write(path: Path, tiles: Mapping[Tile, bytes], about: ArchiveMetadata | None = None) -> Path:
    """Write tiles as a PMTiles archive of its own right: digests and all are those of these tiles."""
    order = sorted(tiles, key=lambda one: int(tile_ids(one.z, [one.x], [one.y])[0]))
    with PMTilesWriter(path, about or metadata(), len(tiles)) as writer:
        for tile in order:
            writer.write(tile, tiles[tile])
    return path


def heights_of(tiles: Tiles, tile: Tile) -> Heights:
    return terrarium.decode(decode_webp(tiles[tile]))


def encoded(heights: Heights, z: int) -> bytes:
    data = encode_tile(heights.astype(np.float32), z)
    assert data is not None
    return data


def saved(data: bytes, size: int = 512, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(decode_webp(data)).resize((size, size)).save(buffer, "WEBP", **options)
    return buffer.getvalue()


# -- an archive of one source


def test_a_sound_archive_has_neither_problem_nor_suspect(tmp_path: Path, tiles: Tiles) -> None:
    report = deep(write(tmp_path / "a.pmtiles", tiles))
    assert (report.problems, report.suspects, report.advice) == ((), (), ())
    assert report.decoded == report.tiles == len(tiles) == 21
    assert report.deep is not None
    assert (report.deep.seal, report.deep.places) == ("holds", 0)
    for one in report.deep.zooms:
        assert one.ratio is None or one.ratio == pytest.approx(1, abs=0.15)
        if one.zoom < TOP:
            assert one.within == 1
            assert one.compared > 100_000
            assert one.bound_m == (terrarium.step_m(one.zoom) + terrarium.step_m(one.zoom + 1)) / 2
            assert abs(one.drift_m or 0) < 0.01


def test_flat_ground_and_single_zooms_are_sound(tmp_path: Path) -> None:
    flat = np.full((SIDE, SIDE), 100.3, dtype=np.float32)
    report = deep(write(tmp_path / "flat.pmtiles", dict(pyramid(flat, BLOCK, TOP, BLOCK.z)[0])))
    assert (report.problems, report.suspects) == ((), ())
    steep = rasters.plane(SIDE, SIDE, east_m=3, south_m=-1).astype(np.float32)
    about = replace(metadata(), minzoom=TOP)
    report = deep(write(tmp_path / "one.pmtiles", dict(pyramid(steep, BLOCK, TOP, TOP)[0]), about))
    assert (report.problems, report.suspects, report.decoded) == ((), (), 16)


def shifted(tiles: Tiles) -> Tiles:
    return {BASE: encoded(heights_of(tiles, BASE) + 5, TOP)}


def replaced(tiles: Tiles) -> Tiles:
    return {BASE: tiles[Tile(TOP, BASE.x + 1, BASE.y)]}


def rolled(tiles: Tiles) -> Tiles:
    return {BASE: encoded(np.roll(heights_of(tiles, BASE), 1, axis=1), TOP)}


def drifting(tiles: Tiles) -> Tiles:
    return {ABOVE: encoded(heights_of(tiles, ABOVE) + 2, ABOVE.z)}


def with_a_pixel(value: float) -> Callable[[Tiles], Tiles]:
    def change(tiles: Tiles) -> Tiles:
        heights = heights_of(tiles, BASE)
        heights[100, 200] = value
        return {BASE: encoded(heights, TOP)}

    return change


def with_a_hole(tiles: Tiles) -> Tiles:
    heights = heights_of(tiles, BASE)
    heights[100:102, 200:202] = np.nan
    return {BASE: encoded(heights, TOP)}


def as_image(**options: Any) -> Callable[[Tiles], Tiles]:
    return lambda tiles: {BASE: saved(tiles[BASE], **options)}


def of_another_step(tiles: Tiles) -> Tiles:
    pixels = terrarium.encode(heights_of(tiles, ABOVE) + np.float32(0.01), 19)
    assert pixels is not None
    return {ABOVE: encode_webp(pixels)}


DAMAGE: dict[str, tuple[Callable[[Tiles], Tiles], str]] = {
    "a base tile 5 m too high": (shifted, f"tile {ABOVE}: 65536 of 65536 pixels .* child {BASE}"),
    "a base tile of its neighbour": (replaced, f"tile {ABOVE}: .* child {BASE}"),
    "a base tile a pixel to the east": (rolled, f"tile {ABOVE}: .* child {BASE}"),
    "a parent that drifts": (drifting, f"tile {ABOVE}: 65536 of 65536 .* \\+2 m in the middle"),
    "a fill value": (with_a_pixel(-32768), f"tile {BASE}: 1 pixels are below -11100 .*pixel 200,100"),
    "a height above all": (with_a_pixel(9000), f"tile {BASE}: 1 pixels .* is 9000 m"),
    "a hole": (with_a_hole, f"tile {ABOVE}: 1 pixels over its child {BASE} are missing"),
    "a tile of 256 px": (as_image(size=256, lossless=True), f"tile {BASE}: it is 256 x 256 px"),
    "a lossy tile": (as_image(quality=90), f"tile {BASE}: it is not lossless"),
    "a tile with a profile": (as_image(lossless=True, icc_profile=b"x" * 100), f"tile {BASE}: .* ICCP"),
    "no image": (lambda tiles: {BASE: b"nothing"}, f"tile {BASE}: it is no WebP"),
    "half an image": (lambda tiles: {BASE: tiles[BASE][:5000]}, f"tile {BASE}: it has 5000 bytes and says"),
    "heights of another zoom": (of_another_step, f"tile {ABOVE}: .* no multiple of 1 m"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_told_with_its_place(tmp_path: Path, tiles: Tiles, name: str) -> None:
    change, sentence = DAMAGE[name]
    report = deep(write(tmp_path / "a.pmtiles", {**tiles, **change(tiles)}))
    assert not report.sound
    assert any(re.search(sentence, one) for one in report.problems), report.problems
    assert report.advice


@pytest.mark.parametrize("lost", [BASE, ABOVE])
def test_a_lost_tile_is_missed_by_its_family(tmp_path: Path, tiles: Tiles, lost: Tile) -> None:
    report = deep(write(tmp_path / "a.pmtiles", {one: tiles[one] for one in tiles if one != lost}))
    assert any(f"tile {lost} is missing" in one for one in report.problems)


def test_a_tile_out_of_place_is_found_where_there_is_no_parent_to_tell(tmp_path: Path, tiles: Tiles) -> None:
    alone = {one: data for one, data in tiles.items() if one.z == TOP}
    about = replace(metadata(), minzoom=TOP)
    for change in (shifted, replaced):
        report = deep(write(tmp_path / "a.pmtiles", {**alone, **change(alone)}, about))
        assert any(f"tile {BASE}: does not meet its neighbours" in one for one in report.problems)
        assert any(str(BASE) in one and "step across" in one for one in report.suspects)


def test_a_spike_is_a_suspect_and_no_problem(tmp_path: Path, ground: Heights) -> None:
    heights = ground.copy()
    row, col = (BASE.y - BLOCK.y * 4) * 512 + 60, (BASE.x - BLOCK.x * 4) * 512 + 90
    heights[row : row + 2, col : col + 2] += 800
    report = deep(write(tmp_path / "a.pmtiles", dict(pyramid(heights, BLOCK, TOP, BLOCK.z)[0])))
    assert report.sound
    (spike,) = report.suspects
    lon, lat = (float(part) for part in spike.split(" at ")[1].split(" ")[0].split(","))
    assert grid.tile_at(lon, lat, TOP) == BASE
    assert spike.startswith(f"tile {BASE}: ")


def test_findings_of_a_kind_are_listed_up_to_a_number_and_counted_beyond(
    tmp_path: Path, ground: Heights
) -> None:
    heights = ground.copy()
    heights[30::60, 30::60] += 900
    report = deep(write(tmp_path / "a.pmtiles", dict(pyramid(heights, BLOCK, TOP, BLOCK.z)[0])))
    assert report.sound
    assert len(report.suspects) == 26
    assert "more of this kind (spike)" in report.suspects[-1]


def test_a_sample_finds_damage_around_its_places_and_is_the_same_each_time(
    tmp_path: Path, tiles: Tiles
) -> None:
    sound = write(tmp_path / "sound.pmtiles", tiles)
    report = deep(sound, sample=4)
    assert (report.problems, report.suspects, report.decoded) == ((), (), 4)
    assert report == deep(sound, sample=4)
    assert report.deep is not None
    assert (report.deep.places, report.deep.seal) == (4, "not checked")
    broken = write(tmp_path / "broken.pmtiles", {**tiles, **drifting(tiles)})
    assert not deep(broken, sample=10).sound
    whole = deep(sound, sample=1000)
    assert whole == deep(sound)
    assert whole.decoded == 21


# -- bytes


def test_a_changed_byte_anywhere_is_a_problem(tmp_path: Path, tiles: Tiles) -> None:
    """The command itself, end to end; every single byte is tried in test_pmtiles."""
    sound = write(tmp_path / "a.pmtiles", tiles)
    whole = sound.read_bytes()
    header = Header.from_bytes(whole)
    places = [3, 40, 101, 140, 9000, header.tile_data_offset + 5, header.tile_data_offset + 300_001]
    places += [header.metadata_offset + 4, header.metadata_offset + 40, len(whole) - 2]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 0x14
        path = tmp_path / "b.pmtiles"
        path.write_bytes(data)
        answer = CliRunner().invoke(cli, ["verify", str(path), "--deep", "--workers", "1"])
        assert answer.exit_code == 1 or answer.exception is not None, place


def test_an_archive_without_digests_says_so(tmp_path: Path, tiles: Tiles) -> None:
    path = theirs(tmp_path / "theirs.pmtiles", tiles, {}, {})
    report = deep(path)
    assert (report.problems, report.suspects) == ((), ())
    assert report.deep is not None
    assert report.deep.seal == "not stated"


# -- MBTiles


def mbtiles(path: Path, tiles: Tiles) -> Path:
    with MBTilesWriter(path) as writer:
        size = sum(len(data) for data in tiles.values())
        record = BlockRecord(BLOCK, "key", len(tiles), size, None, None, digests_of(tiles.items()))
        writer.commit(record, tiles.items())
        writer.finish(metadata())
    return path


def test_tiles_of_an_mbtiles_are_held_against_the_ledger(tmp_path: Path, tiles: Tiles) -> None:
    path = mbtiles(tmp_path / "a.mbtiles", tiles)
    report = deep(path)
    assert (report.problems, report.suspects) == ((), ())
    assert report.deep is not None
    assert report.deep.seal == "holds"
    row = (1 << TOP) - 1 - BASE.y
    place = "zoom_level = ? AND tile_column = ? AND tile_row = ?"
    for statement, sentence in (
        (f"UPDATE tiles SET tile_data = zeroblob(50) WHERE {place}", "is not what was written"),
        (f"DELETE FROM tiles WHERE {place}", "in the ledger and not in the archive"),
    ):
        broken = tmp_path / "b.mbtiles"
        shutil.copyfile(path, broken)
        with closing(sqlite3.connect(broken)) as connection:
            connection.execute(statement, (TOP, BASE.x, row))
            connection.commit()
        found = deep(broken)
        assert any(str(BASE) in one and sentence in one for one in found.problems), found.problems


# -- a merged archive and its lineage

EDGE = 900
"""Column at which the fine source ends in `pair`, at the highest zoom."""


@pytest.fixture(scope="module")
def pair(ground: Heights, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sources side by side, each with its own overviews, merged pixel by pixel; and the lineage."""
    folder = tmp_path_factory.mktemp("pair")
    solid = np.nan_to_num(ground, nan=0.0)
    west, east = solid.copy(), solid + np.float32(3)
    west[:, EDGE:] = np.nan
    solid_east = dict(pyramid(east, BLOCK, TOP, BLOCK.z)[0])
    terrain: Tiles = {}
    origin: Tiles = {}
    for tile, data in pyramid(west, BLOCK, TOP, BLOCK.z)[0]:
        top = terrarium.decode(decode_webp(data))
        under = heights_of(solid_east, tile)
        terrain[tile] = encoded(np.where(np.isnan(top), under, top), tile.z)
        index = np.where(np.isnan(top), 2, 1).astype(np.uint8)
        none = np.zeros_like(index)
        origin[tile] = encode_webp(lineage.encode(index, none, none.astype(np.float32)))
    for tile, data in solid_east.items():
        terrain.setdefault(tile, data)
        all_east = np.full((512, 512, 3), (2, 0, 0), dtype=np.uint8)
        origin.setdefault(tile, encode_webp(all_east))
    zooms = {"minzoom": BLOCK.z, "maxzoom": TOP, "attribution": ""}
    sources = [{"index": 1, "name": "west", **zooms}, {"index": 2, "name": "east", **zooms}]
    merged = {"merge_mode": "priority", "nodata": "0 m", "content_key": "k", "sources": sources}
    about = metadata(**merged, lineage="l.pmtiles")
    write(folder / "t.pmtiles", terrain, about)
    legend = [{"index": 1, "name": "west"}, {"index": 2, "name": "east"}]
    facts = {"generator": GENERATOR, "legend": legend, "terrain": "t.pmtiles", "content_key": "k"}
    write(folder / "l.pmtiles", origin, replace(about, encoding=lineage.ENCODING, extra=facts))
    return folder / "t.pmtiles", folder / "l.pmtiles"


def tiles_of(reader: TileReader) -> Tiles:
    """Return all tiles of an archive."""
    found: dict[Tile, bytes | None] = {}
    for z in reader.counts():
        for x, y in reader.coordinates(z).tolist():
            found[Tile(z, x, y)] = reader.read(Tile(z, x, y))
    return {tile: data for tile, data in found.items() if data is not None}


def changed(path: Path, target: Path, change: Callable[[Tiles], Mapping[Tile, bytes | None]]) -> Path:
    """Write an archive again with some tiles replaced, or left out where they are None."""
    with open_archive(path) as reader:
        held = tiles_of(reader)
        found: dict[Tile, bytes | None] = {**held, **change(held)}
        kept = {tile: data for tile, data in found.items() if data is not None}
        return write(target, kept, reader.metadata)


def test_a_merged_archive_obeys_the_law_source_by_source(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = deep(pair[0])
    assert (report.problems, report.suspects) == ((), ())
    assert report.deep is not None
    assert report.deep.lineage == pair[1]
    assert [one.within for one in report.deep.zooms] == [1, 1, None]
    alone = tmp_path / "t.pmtiles"
    shutil.copyfile(pair[0], alone)
    report = deep(alone)
    assert report.sound
    assert len(report.suspects) == 1
    assert "names the lineage l.pmtiles, which is not beside it" in report.suspects[0]
    assert deep(alone, lineage=pair[1]).suspects == ()


@pytest.mark.parametrize("change", [shifted, replaced, drifting])
@pytest.mark.parametrize("with_lineage", [True, False])
def test_a_changed_tile_of_a_merged_archive_is_found(
    pair: tuple[Path, Path], tmp_path: Path, change: Callable[[Tiles], Tiles], with_lineage: bool
) -> None:
    path = changed(pair[0], tmp_path / "t.pmtiles", change)
    report = deep(path, lineage=pair[1] if with_lineage else None)
    assert any(f"tile {ABOVE}: " in one for one in report.problems)


def test_what_a_second_rounding_explains_is_a_suspect_unless_the_sources_rule_it_out(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    path = changed(
        pair[0],
        tmp_path / "t.pmtiles",
        lambda tiles: {BASE: encoded(heights_of(tiles, BASE) + np.float32(0.5), TOP)},
    )
    report = deep(path, lineage=pair[1])
    assert report.sound
    assert any(f"tile {ABOVE}: " in one for one in report.suspects)
    with PMTilesReader(path) as reader:
        about, held = reader.metadata, tiles_of(reader)
    stated = about.extra["sources"]
    assert isinstance(stated, list)
    sources = [{**one, "overviews": "mean"} for one in stated]
    write(path, held, replace(about, extra={**about.extra, "sources": sources}))
    assert any(f"tile {ABOVE}: " in one for one in deep(path, lineage=pair[1]).problems)


def test_a_lineage_archive_is_checked_by_itself(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = deep(pair[1])
    assert (report.problems, report.suspects, report.minimum_m) == ((), (), None)
    assert finish(verify(pair[1])).sound

    def strange(tiles: Tiles) -> Tiles:
        pixels = decode_webp(tiles[BASE]).copy()
        pixels[3, 3], pixels[4, 4] = (9, 0, 0), (1, 0, 7)
        return {BASE: encode_webp(pixels)}

    problems = deep(changed(pair[1], tmp_path / "l.pmtiles", strange)).problems
    assert f"tile {BASE}: the legend has no index 9" in problems
    assert f"tile {BASE}: it gives a share to a second source where there is none" in problems


def test_terrain_and_lineage_must_fit(pair: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copyfile(pair[0], tmp_path / "t.pmtiles")
    beside = tmp_path / "l.pmtiles"
    changed(pair[1], beside, lambda tiles: {BASE: None})
    report = deep(tmp_path / "t.pmtiles")
    assert any(
        f"the lineage lacks 1 tiles of zoom 12 (the first is {BASE})" in one for one in report.problems
    )
    assert any("lacks 1 tiles" in one for one in deep(beside).problems)

    def without_source(tiles: Tiles) -> Tiles:
        return {BASE: encode_webp(np.zeros((512, 512, 3), dtype=np.uint8))}

    changed(pair[1], beside, without_source)
    report = deep(tmp_path / "t.pmtiles")
    assert any("are of no source by the lineage" in one for one in report.problems)
    with PMTilesReader(pair[1]) as reader:
        other = replace(reader.metadata, extra={**reader.metadata.extra, "content_key": "another"})
        held = tiles_of(reader)
    write(beside, held, other)
    assert any("different merges" in one for one in deep(tmp_path / "t.pmtiles").problems)


def test_a_lineage_that_is_none_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing):
        deep(pair[0], lineage=tmp_path / "absent.pmtiles")
    with pytest.raises(ArchiveUnsuitable, match="no lineage archive"):
        deep(pair[0], lineage=pair[0])
    with pytest.raises(UsageError, match="is a lineage archive itself"):
        deep(pair[1], lineage=pair[1])


# -- every pixel of a merge is judged by something

MODES = {"priority": 0.0, "max": 0.0, "min": 0.0, "mean": 0.0, "feather": 1500.0}
PARENT = Tile(TOP - 1, BLOCK.x * 2 + 1, BLOCK.y * 2)
"""Over the hole of the first source, with blended pixels around it."""


@pytest.fixture(scope="module")
def merges(ground: Heights, tiles: Tiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sources over each other, merged in every mode, each with its lineage `MODE_l.pmtiles` beside it."""
    folder = tmp_path_factory.mktemp("merges")
    rows, cols = np.mgrid[:SIDE, :SIDE]
    other = np.nan_to_num(ground, nan=800) + np.float32(20) * np.sin(rows / 9 + cols / 14).astype(np.float32)
    other[-300:] = np.nan
    inputs = (
        write(folder / "one.pmtiles", tiles),
        write(folder / "two.pmtiles", dict(pyramid(other + 4, BLOCK, TOP, BLOCK.z)[0])),
    )
    found = {}
    for mode, feather_m in MODES.items():
        found[mode] = folder / f"{mode}.pmtiles"
        work = merge_archives(
            inputs, found[mode], settings_from({"FUSI_WORKERS": "1"}), mode=mode, feather_m=feather_m,
            lineage_output=folder / f"{mode}_l.pmtiles",
        )  # fmt: skip
        finish(work)
    return found


def lineage_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_l.pmtiles")


@pytest.mark.parametrize("mode", MODES)
def test_a_sound_merge_has_no_problem_in_any_mode(merges: dict[str, Path], tmp_path: Path, mode: str) -> None:
    report = deep(merges[mode])
    assert report.problems == ()
    assert [one for one in report.suspects if "from what is around it" not in one] == []
    assert report.deep is not None
    for one in report.deep.zooms[:-1]:
        assert one.within == 1
        assert one.not_compared < (20_000 if mode == "feather" else 256)
        assert one.compared + one.judged > 150_000
    alone = tmp_path / "alone.pmtiles"
    shutil.copyfile(merges[mode], alone)
    assert deep(alone).sound


def blended(path: Path, tile: Tile) -> npt.NDArray[np.bool_]:
    """Return which pixels of a tile are of several sources, or over such; all where no mode blends."""
    with open_archive(lineage_of(path)) as reader:
        data = reader.read(tile)
    assert data is not None
    second = decode_webp(data)[..., 1] > 0
    return second if second.any() else np.ones_like(second)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value_m", [100.0, None])
def test_a_wrong_tile_is_found_in_every_mode(
    merges: dict[str, Path], tmp_path: Path, mode: str, value_m: float | None
) -> None:
    """Blended pixels 100 m too high, or 0 m: nothing else of the tile is changed."""
    wrong = blended(merges[mode], PARENT)

    def change(held: Tiles) -> Tiles:
        heights = heights_of(held, PARENT)
        heights[wrong] = 0 if value_m is None else heights[wrong] + value_m
        return {PARENT: encoded(heights, PARENT.z)}

    report = deep(changed(merges[mode], tmp_path / "t.pmtiles", change), lineage=lineage_of(merges[mode]))
    assert any(one.startswith(f"tile {PARENT}: ") for one in report.problems), report.problems


def test_a_mean_of_two_sources_obeys_the_law_pixel_by_pixel(merges: dict[str, Path], tmp_path: Path) -> None:
    def change(held: Tiles) -> Tiles:
        heights = heights_of(held, ABOVE)
        heights[40, 50] += 4
        return {ABOVE: encoded(heights, ABOVE.z)}

    path = changed(merges["mean"], tmp_path / "t.pmtiles", change)
    (problem,) = deep(path, lineage=lineage_of(merges["mean"])).problems
    assert problem.startswith(f"tile {ABOVE}: 1 of 65536 pixels")


def test_borders_are_looked_at_where_sources_are_blended(merges: dict[str, Path], tmp_path: Path) -> None:
    path = changed(
        merges["mean"],
        tmp_path / "t.pmtiles",
        lambda held: {BASE: encoded(heights_of(held, BASE) + 40, TOP)},
    )
    report = deep(path, lineage=lineage_of(merges["mean"]))
    assert sum(str(BASE) in one and "step across" in one for one in report.suspects) == 4


def test_pixels_missing_against_the_lineage_of_their_children_are_found(
    merges: dict[str, Path], tmp_path: Path
) -> None:
    def hollow(held: Tiles) -> Tiles:
        pixels = decode_webp(held[ABOVE]).copy()
        is_terrain = pixels[0, 0, 0] >= 128
        pixels[10:20, 10:20] = (128, 0, 0) if is_terrain else 0  # 0 m, and no source
        return {ABOVE: encode_webp(pixels)}

    path = changed(merges["priority"], tmp_path / "t.pmtiles", hollow)
    beside = changed(lineage_of(merges["priority"]), tmp_path / "l.pmtiles", hollow)
    report = deep(path, lineage=beside)
    assert any(f"tile {ABOVE}: 100 pixels over its child" in one for one in report.problems)


@pytest.mark.parametrize("lost", [BASE, Tile(TOP, BLOCK.x * 4 + 3, BLOCK.y * 4)])
def test_a_base_tile_lost_from_a_merge_without_lineage_is_suspected(
    tmp_path: Path, ground: Heights, lost: Tile
) -> None:
    solid = dict(pyramid(np.nan_to_num(ground, nan=700), BLOCK, TOP, BLOCK.z)[0])
    sources = [
        {"index": 1, "name": "fine", "minzoom": BLOCK.z, "maxzoom": TOP},
        {"index": 2, "name": "coarse", "minzoom": BLOCK.z, "maxzoom": TOP - 1},
    ]
    about = metadata(merge_mode="priority", nodata="0 m", sources=sources)
    assert deep(write(tmp_path / "a.pmtiles", solid, about)).suspects == ()
    report = deep(write(tmp_path / "a.pmtiles", {one: solid[one] for one in solid if one != lost}, about))
    assert report.sound
    assert any(str(lost) in one and "may be missing" in one for one in report.suspects)


def test_a_hole_in_the_tiles_of_a_merge_is_suspected_by_its_place(tmp_path: Path, ground: Heights) -> None:
    """Where neighbours have detail up to their border a tile is named, even at the edge of all."""
    rough = ground + np.random.default_rng(3).normal(0, 9, ground.shape).astype(np.float32)
    solid = dict(pyramid(np.nan_to_num(rough, nan=700), BLOCK, TOP, BLOCK.z)[0])
    zooms = {"minzoom": BLOCK.z, "maxzoom": TOP - 1}
    about = metadata(merge_mode="priority", nodata="0 m", sources=[{"index": 1, "name": "coarse", **zooms}])
    corner = Tile(TOP, BLOCK.x * 4 + 3, BLOCK.y * 4 + 3)
    report = deep(write(tmp_path / "a.pmtiles", {one: solid[one] for one in solid if one != corner}, about))
    assert any(
        one.startswith(f"tile {corner} may be missing") and "2 of them end in detail" in one
        for one in report.suspects
    )


# -- header, metadata and tiles agree, whoever wrote them


def theirs(path: Path, tiles: Tiles, header: Mapping[str, object], document: Mapping[str, object]) -> Path:
    """Write an archive as other programs do: without digests."""
    import pmtiles.writer
    from pmtiles import tile as oracle

    west, south, east, north = (
        round(value * 1e7)
        for value in (lambda box: (box.west, box.south, box.east, box.north))(grid.bounds(BLOCK))
    )
    facts: dict[str, object] = {
        "tile_type": oracle.TileType.WEBP, "tile_compression": oracle.Compression.NONE,
        "min_lon_e7": west, "min_lat_e7": south, "max_lon_e7": east, "max_lat_e7": north,
        "center_zoom": TOP, "center_lon_e7": (west + east) // 2, "center_lat_e7": (south + north) // 2,
    }  # fmt: skip
    with path.open("wb") as file:
        writer: Any = getattr(pmtiles.writer, "Writer")(file)  # noqa: B009
        for tile in sorted(tiles, key=lambda one: oracle.zxy_to_tileid(one.z, one.x, one.y)):
            writer.write_tile(oracle.zxy_to_tileid(tile.z, tile.x, tile.y), tiles[tile])
        writer.finalize({**facts, **header}, {"encoding": "terrarium", **document})
    return path


BOX = grid.bounds(BLOCK)
FAR = [BOX.west, BOX.south, BOX.east + 3, BOX.north]
AGREEING: dict[str, object] = {
    "minzoom": str(BLOCK.z), "maxzoom": TOP, "format": "webp", "tileSize": 512,
    "bounds": f"{BOX.west:.6f},{BOX.south:.6f},{BOX.east:.6f},{BOX.north:.6f}",
}  # fmt: skip


def test_an_archive_of_others_may_say_the_same_twice(tmp_path: Path, tiles: Tiles) -> None:
    report = deep(theirs(tmp_path / "a.pmtiles", tiles, {}, AGREEING))
    assert (report.problems, report.suspects) == ((), ())
    unset = {"center_zoom": 0, "center_lon_e7": 0, "center_lat_e7": 0}
    problems = deep(theirs(tmp_path / "a.pmtiles", tiles, unset, {})).problems
    ours = [one for one in problems if not one.startswith("pmtiles verify:")]  # which finds it too
    assert ours == ["the centre has the zoom 0, which is not between the others"]


@pytest.mark.parametrize(
    ("header", "document", "sentence"),
    [
        ({}, {"minzoom": 3}, "for the lowest zoom, the metadata 3"),
        ({}, {"maxzoom": "14"}, "for the highest zoom, the metadata 14"),
        ({}, {"bounds": FAR}, "for the bounds, the metadata"),
        ({}, {"bounds": "everywhere"}, "for the bounds, the metadata everywhere"),
        ({}, {"center": [1.0, 2.0, TOP]}, "for the centre, the metadata"),
        ({}, {"format": "png"}, "for the tile type, the metadata png"),
        ({}, {"tileSize": 256}, "metadata states tiles of 256 px, they have 512"),
        ({"center_lon_e7": 0}, {}, "the centre has the longitude 0.0, which is not within the bounds"),
        ({"center_zoom": 3}, {}, "the centre has the zoom 3"),
        ({"max_lon_e7": round((BOX.west + 0.01) * 1e7)}, {}, "lie outside the bounds"),
    ],
)
def test_what_contradicts_itself_is_a_problem_in_any_archive(
    tmp_path: Path, tiles: Tiles, header: dict[str, object], document: dict[str, object], sentence: str
) -> None:
    report = deep(theirs(tmp_path / "a.pmtiles", tiles, header, document))
    assert any(sentence in one for one in report.problems), report.problems


def test_bounds_far_beyond_the_tiles_are_a_problem_of_ours_and_a_suspect_of_others(
    tmp_path: Path, tiles: Tiles
) -> None:
    sentence = f"reach more than a tile of zoom {TOP} beyond the tiles, to the east"
    report = deep(theirs(tmp_path / "a.pmtiles", tiles, {"max_lon_e7": round(FAR[2] * 1e7)}, {}))
    assert report.sound
    assert any(sentence in one for one in report.suspects)
    zooms = {"minzoom": BLOCK.z, "maxzoom": TOP, "overviews": "mean"}
    merged = metadata(merge_mode="mean", nodata="0 m", sources=[{"index": 1, "name": "one", **zooms}])
    wide = replace(merged, bounds=grid.Bounds(*FAR))
    assert any(sentence in one for one in deep(write(tmp_path / "a.pmtiles", tiles, wide)).problems)
    assert not any(
        "beyond the tiles" in one for one in deep(write(tmp_path / "b.pmtiles", tiles, merged)).problems
    )


# -- files of SQLite that are not what was written


def test_a_truncated_mbtiles_is_told_without_a_traceback(tmp_path: Path, tiles: Tiles) -> None:
    whole = mbtiles(tmp_path / "a.mbtiles", tiles).read_bytes()
    path = tmp_path / "b.mbtiles"
    for cut in (4096, 16384, 3 * 16384, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:-cut])
        for options in ([], ["--deep", "--workers", "1"]):
            answer = CliRunner().invoke(cli, ["verify", str(path), *options])
            assert isinstance(answer.exception, SystemExit | FusiError), answer.exception
            assert answer.exit_code == 1


def test_bytes_behind_the_last_page_are_a_problem(tmp_path: Path, tiles: Tiles) -> None:
    path = mbtiles(tmp_path / "a.mbtiles", tiles)
    with path.open("ab") as file:
        file.write(b"x" * 5000)
    for report in (deep(path), finish(verify(path))):
        assert any("5000 bytes behind the last page" in one for one in report.problems)


@pytest.mark.parametrize("change", ["key = 'another'", "extent = '0,0,1,1'", "overview = x'00'"])
def test_a_changed_row_of_the_ledger_is_a_problem(tmp_path: Path, tiles: Tiles, change: str) -> None:
    path = mbtiles(tmp_path / "a.mbtiles", tiles)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE fusi_blocks SET {change}")
        connection.commit()
    report = deep(path)
    assert any("1 rows of the ledger are not what was written" in one for one in report.problems)
    assert report.deep is not None
    assert report.deep.seal == "broken"


def test_an_mbtiles_states_the_size_and_the_place_of_its_tiles(tmp_path: Path, tiles: Tiles) -> None:
    path = mbtiles(tmp_path / "a.mbtiles", tiles)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE metadata SET value = '256' WHERE name = 'tileSize'")
        connection.execute("UPDATE metadata SET value = '10,10,11,11' WHERE name = 'bounds'")
        connection.commit()
    problems = deep(path).problems
    assert "metadata states tiles of 256 px, they have 512" in problems
    assert any("lie outside the bounds" in one for one in problems)


# -- the plan and the command


@pytest.mark.parametrize(("minzoom", "maxzoom"), [(0, 0), (0, 3), (2, 9), (5, 5), (6, 8), (0, 7)])
def test_blocks_hold_every_tile_once(tmp_path: Path, minzoom: int, maxzoom: int) -> None:
    wanted = []
    for z in range(minzoom, maxzoom + 1):
        wanted += [Tile(z, x, y) for x, y in {(0, 0), ((1 << z) - 1, (1 << z) // 2), ((1 << z) // 3, 0)}]
    about = replace(metadata(), minzoom=minzoom, maxzoom=maxzoom)
    with PMTilesReader(write(tmp_path / "a.pmtiles", dict.fromkeys(wanted, b"x"), about)) as reader:
        found = list(blocks(reader, minzoom, maxzoom))
    for tile in wanted:
        holding = [
            one
            for one in found
            if one.low <= tile.z <= one.high and grid.parent(tile, tile.z - one.square.z) == one.square
        ]
        assert len(holding) == 1, tile
    assert all(one.high - one.square.z <= 3 for one in found)


def test_the_command_prints_what_to_act_on_and_ends_with_1(tmp_path: Path, tiles: Tiles) -> None:
    sound = write(tmp_path / "a.pmtiles", tiles)
    answer = CliRunner().invoke(cli, ["verify", str(sound), "--deep", "--workers", "1"])
    assert answer.exit_code == 0
    assert "verdict         sound" in answer.output
    broken = write(tmp_path / "b.pmtiles", {**tiles, **shifted(tiles)})
    answer = CliRunner().invoke(cli, ["verify", str(broken), "--deep", "--workers", "1"])
    assert answer.exit_code == 1
    assert f"  tile {ABOVE}: 65536 of 65536 pixels" in answer.output
    assert "what to do:" in answer.output
    answer = CliRunner().invoke(cli, ["verify", str(broken), "--deep", "--workers", "1", "--json"])
    told = json.loads(answer.stdout)
    assert told["sound"] is False
    assert told["deep"]["zooms"][-1]["bound_m"] is None
    assert set(told) >= {"problems", "suspects", "advice", "deep", "second_opinion"}


def test_a_lineage_is_for_a_deep_check(tmp_path: Path, tiles: Tiles) -> None:
    path = write(tmp_path / "a.pmtiles", tiles)
    answer = CliRunner().invoke(cli, ["verify", str(path), "--lineage", str(path)])
    assert isinstance(answer.exception, UsageError)
