"""Packing archives: by the writer of this package, and by a `pmtiles` command."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pytest

from fusi_pipeline import pack as packing
from fusi_pipeline.errors import (
    ArchiveUnsuitable,
    DiskFull,
    FusiError,
    OutputExists,
    PackerUnavailable,
    UsageError,
)
from fusi_pipeline.pack import PackReport, cli_path, cli_verify, in_tile_order, pack
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.pmtiles import PMTilesReader, tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.tiles.structure import problems
from tests.command import Fusi, fusi  # noqa: F401
from tests.rasters import terrain, write

METADATA = ArchiveMetadata(name="alps", minzoom=3, maxzoom=7, bounds=Bounds(5.9, 45.8, 10.5, 47.8))

FAKE_COMMAND = '''#!{python}
"""A stand-in for go-pmtiles: `convert IN OUT --tmpdir DIR` and `verify IN`, as its main.go has them."""
import pathlib, shutil, sys
mode = pathlib.Path({mode!r}).read_text()
verb, *rest = sys.argv[1:]
if verb == "convert":
    source, output, flag, folder = rest
    assert flag == "--tmpdir" and pathlib.Path(folder).is_dir(), rest
    assert pathlib.Path(folder).parent == pathlib.Path({output!r}), folder
    pathlib.Path(folder, "pmtiles123").write_bytes(bytes(100))
    if mode == "fail":
        print("2026/01/01 Failed to convert, it is odd")
        sys.exit(1)
    if mode == "full":
        print("write /x: no space left on device")
        sys.exit(1)
    if mode == "garbage":
        pathlib.Path(output).write_bytes(b"PMTiles?")
    if mode == "sound":
        shutil.copy({prepared!r}, output)
    if mode == "slow":
        import time
        time.sleep(60)
elif verb == "verify":
    if mode == "printed":
        print("Invalid: entry outside of tile data section")
    if mode == "fail":
        print("Failed to verify archive")
        sys.exit(1)
    print("Completed verify in 1ms.")
'''


CONVERTING_COMMAND = '''#!{python}
"""A stand-in for go-pmtiles that converts, by the packer of fusi."""
import pathlib, sys
sys.path.insert(0, {repository!r})
from fusi_pipeline.pack import pack
from fusi_pipeline.tiles.mbtiles import MBTilesReader
verb, source, output, flag, folder = sys.argv[1:]
assert (verb, flag) == ("convert", "--tmpdir")
assert pathlib.Path(folder).parent == pathlib.Path(source).parent
with MBTilesReader(pathlib.Path(source)) as reader:
    for _ in pack(reader, pathlib.Path(output)):
        pass
'''
REPOSITORY = Path(__file__).parent.parent


class Tiles:
    """An archive in memory, which lists its tiles in an order of no use."""

    def __init__(self, path: Path, tiles: dict[Tile, bytes]) -> None:
        self.path = path
        self.metadata = METADATA
        self.tiles = tiles

    def read(self, tile: Tile) -> bytes | None:
        return self.tiles.get(tile)

    def coordinates(self, z: int) -> npt.NDArray[np.uint32]:
        places = sorted((tile.x, tile.y) for tile in self.tiles if tile.z == z)
        return np.array(places[::-1], dtype=np.uint32).reshape(-1, 2)

    def counts(self) -> dict[int, int]:
        zooms = [tile.z for tile in self.tiles]
        return {z: zooms.count(z) for z in sorted(set(zooms), reverse=True)}

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


@pytest.fixture
def source(tmp_path: Path) -> Tiles:
    tiles = {
        Tile(z, x, y): b"sea" if (x + y) % 3 else b"%d/%d/%d" % (z, x, y)
        for z in (3, 5, 7)
        for x in range(min(30, 1 << z))
        for y in range(2, min(27, 1 << z))
    }
    path = tmp_path / "in" / "source.mbtiles"
    path.parent.mkdir()
    path.write_bytes(b"stand-in")
    return Tiles(path, tiles)


def run(steps: Generator[Progress, None, PackReport]) -> tuple[list[Progress], PackReport]:
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


@pytest.fixture
def command(tmp_path: Path, source: Tiles, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stand-in on the PATH; the file returned says how it behaves."""
    prepared = tmp_path / "in" / "prepared.pmtiles"
    run(pack(source, prepared))
    mode = tmp_path / "in" / "mode"
    mode.write_text("sound")
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "pmtiles"
    script.write_text(
        FAKE_COMMAND.format(
            python=sys.executable, mode=str(mode), output=str(tmp_path / "out"), prepared=str(prepared)
        )
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return mode


def test_packing_keeps_every_tile_and_says_how_far_it_is(tmp_path: Path, source: Tiles) -> None:
    output = tmp_path / "out" / "a.pmtiles"
    seen, report = run(pack(source, output))
    count = len(source.tiles)
    assert report == PackReport(tiles=count, bytes=output.stat().st_size)
    assert problems(output) == []
    with PMTilesReader(output) as reader:
        assert {tile: reader.read(tile) for tile in source.tiles} == source.tiles
        assert reader.counts() == dict(sorted(source.counts().items()))
        assert reader.metadata == METADATA
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[0] == Progress("pack", 0, count, "tiles", 16384)
    assert seen[-1] == Progress("pack", count, count, "tiles", report.bytes)


def test_tiles_come_in_the_order_of_their_ids(source: Tiles) -> None:
    tiles = list(in_tile_order(source))
    ids = [int(tile_ids(tile.z, [tile.x], [tile.y])[0]) for tile in tiles]
    assert ids == sorted(ids)
    assert set(tiles) == set(source.tiles)


def test_packing_what_was_packed_gives_the_same_bytes(tmp_path: Path, source: Tiles) -> None:
    run(pack(source, tmp_path / "a.pmtiles"))
    with PMTilesReader(tmp_path / "a.pmtiles") as reader:
        run(pack(reader, tmp_path / "b.pmtiles"))
    assert (tmp_path / "a.pmtiles").read_bytes() == (tmp_path / "b.pmtiles").read_bytes()


def test_an_output_is_replaced_only_when_told(tmp_path: Path, source: Tiles) -> None:
    output = tmp_path / "a.pmtiles"
    output.write_bytes(b"precious")
    with pytest.raises(OutputExists):
        run(pack(source, output))
    assert output.read_bytes() == b"precious"
    run(pack(source, output, overwrite=True))
    with PMTilesReader(output) as reader, pytest.raises(UsageError):
        run(pack(reader, output, overwrite=True))
    assert problems(output) == []


def test_a_pack_given_up_leaves_nothing(tmp_path: Path, source: Tiles) -> None:
    steps = pack(source, tmp_path / "out" / "a.pmtiles")
    next(steps)
    next(steps)
    steps.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tile_that_vanished_is_named(tmp_path: Path, source: Tiles) -> None:
    source.tiles[Tile(7, 3, 3)] = b""
    with pytest.raises(ArchiveUnsuitable, match="7/3/3"):
        run(pack(source, tmp_path / "out" / "a.pmtiles"))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("packer", ["builtin", "cli"])
def test_an_empty_source_is_refused(tmp_path: Path, command: Path, packer: packing.Packer) -> None:
    empty = Tiles(tmp_path / "empty.mbtiles", {})
    with pytest.raises(ArchiveUnsuitable, match="no tile"):
        run(pack(empty, tmp_path / "out" / "a.pmtiles", packer=packer))


def test_the_command_packs(tmp_path: Path, source: Tiles, command: Path) -> None:
    output = tmp_path / "out" / "a.pmtiles"
    seen, report = run(pack(source, output, packer="cli"))
    assert report == PackReport(len(source.tiles), output.stat().st_size)
    assert seen[-1].done == len(source.tiles)
    assert [path.name for path in output.parent.iterdir()] == ["a.pmtiles"]
    assert cli_verify(output) is None


@pytest.mark.parametrize(
    ("mode", "error", "reason"),
    [
        ("fail", PackerUnavailable, "it is odd"),
        ("full", DiskFull, "disk is full"),
        ("garbage", PackerUnavailable, "unsound"),
        ("nothing", PackerUnavailable, "wrote nothing"),
    ],
)
def test_a_command_that_fails_leaves_nothing(
    tmp_path: Path, source: Tiles, command: Path, mode: str, error: type[FusiError], reason: str
) -> None:
    command.write_text(mode)
    with pytest.raises(error, match=reason):
        run(pack(source, tmp_path / "out" / "a.pmtiles", packer="cli"))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_command_that_loses_tiles_is_found_out(tmp_path: Path, source: Tiles, command: Path) -> None:
    source.tiles[Tile(9, 9, 9)] = b"one more"
    with pytest.raises(PackerUnavailable, match="tiles of"):
        run(pack(source, tmp_path / "out" / "a.pmtiles", packer="cli"))


def test_a_command_that_changes_tiles_is_found_out(tmp_path: Path, source: Tiles, command: Path) -> None:
    first = next(in_tile_order(source))
    source.tiles[first] = b"another"
    with pytest.raises(PackerUnavailable, match=f"another tile {first}"):
        run(pack(source, tmp_path / "out" / "a.pmtiles", packer="cli"))
    assert list((tmp_path / "out").iterdir()) == []


def test_auto_is_our_own_packer(tmp_path: Path, source: Tiles, command: Path) -> None:
    command.write_text("fail")
    run(pack(source, tmp_path / "a.pmtiles", packer="auto"))
    run(pack(source, tmp_path / "b.pmtiles", packer="builtin"))
    assert (tmp_path / "a.pmtiles").read_bytes() == (tmp_path / "b.pmtiles").read_bytes()


def test_progress_of_the_command_grows_with_its_bytes(
    tmp_path: Path, source: Tiles, monkeypatch: pytest.MonkeyPatch, command: Path
) -> None:
    source.path.write_bytes(bytes(1000))
    monkeypatch.setattr(packing, "_running", lambda *_: iter([0, 500, 1000, 9000]))
    steps = pack(source, tmp_path / "out" / "a.pmtiles", packer="cli")
    total = len(source.tiles)
    assert [next(steps).done for _ in range(4)] == [0, total // 4, total // 2, total - 1]
    steps.close()


def test_a_merge_by_the_command_holds_the_same_tiles(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fusi: Fusi,  # noqa: F811
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "pmtiles"
    script.write_text(CONVERTING_COMMAND.format(python=sys.executable, repository=str(REPOSITORY)))
    script.chmod(0o755)
    (tmp_path / "store" / "dem").mkdir(parents=True)
    write(tmp_path / "store" / "dem" / "a.tif", terrain(200, 200), pixel=0.001)
    places = ("--source-store", tmp_path / "store", "--output-dir", tmp_path / "out", "--workers", "1")
    assert fusi("aggregate", "dem", "-o", tmp_path / "a.pmtiles", *places).code == 0
    monkeypatch.setenv("PATH", f"{folder}:{Path('/usr/bin')}:{Path('/bin')}")
    answer = fusi(
        "aggregate", "dem", "-o", tmp_path / "b.pmtiles", "--lineage", tmp_path / "l.pmtiles", *places,
        "--packer", "cli",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "b", "l"))) == [
        "b.pmtiles", "b.pmtiles.ledger", "bin", "l.pmtiles",
    ]  # fmt: skip
    with PMTilesReader(tmp_path / "a.pmtiles") as ours, PMTilesReader(tmp_path / "b.pmtiles") as theirs:
        assert ours.counts() == theirs.counts()
        for z in ours.counts():
            for x, y in ours.coordinates(z).tolist():
                assert ours.read(Tile(z, x, y)) == theirs.read(Tile(z, x, y))
    assert (
        fusi("aggregate", "dem", "-o", tmp_path / "b.pmtiles", *places, "--json").json["merge"]["merged"] == 0
    )


def test_a_command_is_ended_with_the_pack(tmp_path: Path, source: Tiles, command: Path) -> None:
    command.write_text("slow")
    steps = pack(source, tmp_path / "out" / "a.pmtiles", packer="cli")
    assert next(steps).unit == "tiles"
    steps.close()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_command_is_named(tmp_path: Path, source: Tiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli_path() is None
    with pytest.raises(PackerUnavailable, match="PATH"):
        run(pack(source, tmp_path / "a.pmtiles", packer="cli"))
    with pytest.raises(PackerUnavailable, match="PATH"):
        cli_verify(tmp_path / "a.pmtiles")
    (tmp_path / "go-pmtiles").write_bytes(b"\x00not a program")
    (tmp_path / "go-pmtiles").chmod(0o755)
    assert cli_path() == str(tmp_path / "go-pmtiles")
    with pytest.raises(PackerUnavailable, match="does not start"):
        run(pack(source, tmp_path / "a.pmtiles", packer="cli"))


def test_the_command_takes_mbtiles_only(tmp_path: Path, source: Tiles, command: Path) -> None:
    source.path = source.path.with_suffix(".pmtiles")
    with pytest.raises(ArchiveUnsuitable, match="mbtiles"):
        run(pack(source, tmp_path / "a.pmtiles", packer="cli"))


def test_complaints_of_verify_are_passed_on(tmp_path: Path, command: Path) -> None:
    command.write_text("fail")
    assert "Failed to verify" in (cli_verify(tmp_path) or "")
    command.write_text("printed")
    assert "Invalid" in (cli_verify(tmp_path) or "")


@pytest.mark.skipif(cli_path() is None, reason="the pmtiles command is not installed")
@pytest.mark.parametrize("leaf_entries", [None, 8])
def test_the_real_command_accepts_our_archives(
    tmp_path: Path, source: Tiles, leaf_entries: int | None
) -> None:
    output = tmp_path / "a.pmtiles"
    with PMTilesWriter(output, METADATA, len(source.tiles), leaf_entries=leaf_entries) as writer:
        for tile in in_tile_order(source):
            writer.write(tile, source.tiles[tile])
    assert cli_verify(output) is None
