"""MBTiles archives: what goes in comes out, absent or complete, whatever happens on the way."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, OutputBusy, OutputUnwritable
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.ledger import BlockRecord
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter, WriterPace, partial_path

METADATA = ArchiveMetadata(
    name="alps",
    minzoom=2,
    maxzoom=4,
    bounds=Bounds(5.5, 45.25, 10.125, 48.0),
    description="Elevation of the Alps, as far as it is known",
    attribution='<a href="https://example.org">Somebody</a>, "others"',
    extra={"generator": "fusi", "steps": {"2": 1.0}, "words": ["ä", "漢"]},
)
TILES = {Tile(4, 8, 5): b"a", Tile(4, 9, 5): b"bb", Tile(3, 4, 2): b"ccc", Tile(2, 2, 1): b"dddd"}


def record(tile: Tile, key: str = "key", count: int = 0, **facts: object) -> BlockRecord:
    whole = {"extent": None, "overview": None, **facts}
    return BlockRecord(tile, key, count, 0, **whole)  # type: ignore[arg-type]


def write(path: Path, pace: WriterPace | None = None) -> Path:
    with MBTilesWriter(path, pace) as writer:
        writer.commit(record(Tile(3, 4, 2), "one", 3), list(TILES.items())[:3])
        writer.commit(record(Tile(2, 2, 1), "two", 1), list(TILES.items())[3:])
        writer.finish(METADATA)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alps.mbtiles"


def test_what_goes_in_comes_out(path: Path) -> None:
    with MBTilesReader(write(path)) as reader:
        assert reader.metadata == METADATA
        assert {tile: reader.read(tile) for tile in TILES} == TILES
        assert reader.counts() == {2: 1, 3: 1, 4: 2}
        assert sorted(map(tuple, reader.coordinates(4).tolist())) == [(8, 5), (9, 5)]
        assert reader.coordinates(7).shape == (0, 2)
        assert reader.read(Tile(4, 0, 0)) is None
        assert [one.key for one in reader.ledger()] == ["one", "two"]
        assert reader.integrity_problem() is None


def test_rows_count_from_the_south(path: Path) -> None:
    write(path)
    with closing(sqlite3.connect(path)) as connection:
        (row,) = connection.execute(
            "SELECT tile_row FROM tiles WHERE zoom_level = 4 AND tile_column = 8"
        ).fetchone()
    assert row == 15 - 5


def test_bounds_across_the_antimeridian_survive_and_what_others_read_stays_valid(path: Path) -> None:
    metadata = replace(METADATA, bounds=Bounds(176.5, -19.0, -178.25, -15.0))
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(4, 8, 5), count=1), [(Tile(4, 8, 5), b"a")])
        writer.finish(metadata)
    with MBTilesReader(path) as reader:
        assert reader.metadata == metadata
    with closing(sqlite3.connect(path)) as connection:
        (text,) = connection.execute("SELECT value FROM metadata WHERE name = 'bounds'").fetchone()
    west, _, east, _ = (float(part) for part in text.split(","))
    assert west < east


@pytest.mark.parametrize(
    "pace",
    [WriterPace(checkpoint_interval=1), WriterPace(batch_tiles=1, batch_sleep_s=1e-4, commit_sleep_s=1e-4)],
)
def test_the_pace_does_not_change_a_byte(tmp_path: Path, pace: WriterPace) -> None:
    slow, fast = write(tmp_path / "slow.mbtiles", pace), write(tmp_path / "fast.mbtiles")
    assert slow.read_bytes() == fast.read_bytes()


def test_an_archive_is_absent_until_it_is_complete_and_alone_then(path: Path) -> None:
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(4, 8, 5), count=1), [(Tile(4, 8, 5), b"a")])
        assert not path.exists()
        assert partial_path(path).exists()
        writer.finish(METADATA)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_was_committed_is_found_by_the_next_writer(path: Path) -> None:
    with MBTilesWriter(path) as writer:
        writer.commit(
            record(Tile(3, 4, 2), "one", 1, extent=(1, 2, 3, 4), overview=b"left"), [(Tile(4, 8, 5), b"a")]
        )
    with MBTilesWriter(path) as writer:
        (found,) = writer.ledger(overviews=True)
        assert (found.tile, found.key, found.extent, found.overview) == (
            Tile(3, 4, 2),
            "one",
            (1, 2, 3, 4),
            b"left",
        )
        assert writer.read(Tile(4, 8, 5)) == b"a"
        assert writer.left_for_parent(Tile(3, 4, 2)) == (b"left", (1, 2, 3, 4))
        assert writer.left_for_parent(Tile(3, 0, 0)) == (None, None)


@pytest.mark.parametrize("sessions", [2, 3])
def test_the_number_of_sessions_does_not_change_a_byte(tmp_path: Path, sessions: int) -> None:
    whole = write(tmp_path / "whole.mbtiles")
    path = tmp_path / "parts.mbtiles"
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(3, 4, 2), "one", 3), list(TILES.items())[:3])
    for _ in range(sessions - 2):
        with MBTilesWriter(path):
            pass
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(2, 2, 1), "two", 1), list(TILES.items())[3:])
        writer.finish(METADATA)
    assert path.read_bytes() == whole.read_bytes()


def test_an_end_between_metadata_and_name_does_not_change_a_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write(tmp_path / "whole.mbtiles")
    path = tmp_path / "late.mbtiles"
    longer = replace(METADATA, attribution="Somebody else " * 50, name="a longer name than at last")
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(3, 4, 2), "one", 3), list(TILES.items())[:3])
        writer.commit(record(Tile(2, 2, 1), "two", 1), list(TILES.items())[3:])
        monkeypatch.setattr(writer, "_leave_wal", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.finish(longer)
    with MBTilesWriter(path) as writer:
        writer.finish(METADATA)
    with MBTilesReader(path) as reader:
        assert reader.metadata == METADATA
    assert path.read_bytes() == whole.read_bytes()


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_block_is_committed_whole_or_not_at_all(path: Path) -> None:
    def breaking() -> Iterator[tuple[Tile, bytes]]:
        yield Tile(4, 8, 5), b"a"
        raise KeyboardInterrupt

    with MBTilesWriter(path, WriterPace(batch_tiles=1)) as writer:
        writer.commit(record(Tile(3, 0, 0), "first"), [])
        with pytest.raises(KeyboardInterrupt):
            writer.commit(record(Tile(3, 4, 2), "second", 1), breaking())
        assert writer.read(Tile(4, 8, 5)) is None
        writer.commit(record(Tile(3, 4, 2), "third", 1), [(Tile(4, 8, 5), b"b")])
        assert [one.key for one in writer.ledger()] == ["first", "third"]


def test_two_writers_at_once_are_refused(path: Path) -> None:
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(3, 0, 0)), [])
        with pytest.raises(OutputBusy, match="another fusi process"):
            MBTilesWriter(path)
    with MBTilesWriter(path) as writer:
        writer.discard()


def test_a_discarded_archive_leaves_nothing(path: Path) -> None:
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(3, 0, 0)), [])
        writer.discard()
    assert list(path.parent.iterdir()) == []


def test_an_archive_set_aside_can_be_read_for_its_blocks(path: Path) -> None:
    aside = path.with_name("aside")
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(3, 4, 2), "one", 2), list(TILES.items())[:2])
        writer.set_aside(aside)
    assert [one.name for one in path.parent.iterdir()] == ["aside"]
    with MBTilesReader(aside) as reader:
        assert reader.block(Tile(3, 4, 2), "one") is not None
        assert reader.block(Tile(3, 4, 2), "other") is None
        assert dict(reader.square(Tile(3, 4, 2), 4)) == dict(list(TILES.items())[:2])


def test_a_square_goes_row_by_row(path: Path) -> None:
    wanted = [Tile(4, 8, 4), Tile(4, 9, 4), Tile(4, 8, 5), Tile(4, 9, 5)]
    with MBTilesWriter(path) as writer:
        writer.commit(record(Tile(3, 4, 2), count=4), [(tile, b"x") for tile in reversed(wanted)])
        writer.finish(METADATA)
    with MBTilesReader(path) as reader:
        assert [tile for tile, _ in reader.square(Tile(3, 4, 2), 4)] == wanted
        assert list(reader.square(Tile(4, 0, 0), 4)) == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputUnwritable, match="file"):
        MBTilesWriter(tmp_path / "file" / "alps.mbtiles")


def test_a_damaged_partial_file_is_named_with_what_to_do(path: Path) -> None:
    partial_path(path).write_bytes(b"no database at all" * 2000)
    with pytest.raises(ArchiveUnreadable, match="remove it and run again"):
        MBTilesWriter(path)


# Archives that others wrote


def foreign(path: Path, metadata: dict[str, str]) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
        connection.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
        connection.execute(
            "CREATE TABLE tiles (zoom_level INTEGER, tile_column INTEGER, tile_row INTEGER, tile_data BLOB)"
        )
        connection.executemany(
            "INSERT INTO tiles VALUES (?, ?, ?, ?)", [(3, 4, 5, b"a"), (5, 16, 20, b"b"), (5, 17, 20, b"c")]
        )
    return path


def test_zooms_that_are_not_stated_are_taken_from_the_tiles(path: Path) -> None:
    with MBTilesReader(foreign(path, {"name": "x", "format": "webp"})) as reader:
        assert (reader.metadata.minzoom, reader.metadata.maxzoom) == (3, 5)
        assert (reader.metadata.name, reader.metadata.encoding) == ("x", "")
        assert not reader.has_ledger
        assert list(reader.ledger()) == []
        assert reader.read(Tile(3, 4, 7 - 5)) == b"a"


def test_what_is_no_mbtiles_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing):
        MBTilesReader(tmp_path / "none.mbtiles")
    (tmp_path / "text.mbtiles").write_text("text")
    with pytest.raises(ArchiveUnreadable, match=r"text\.mbtiles"):
        MBTilesReader(tmp_path / "text.mbtiles")
    with closing(sqlite3.connect(tmp_path / "other.mbtiles")) as connection, connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(ArchiveUnreadable):
        MBTilesReader(tmp_path / "other.mbtiles")


def test_a_view_will_do_for_the_tiles(path: Path) -> None:
    foreign(path, {"name": "x"})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE tiles RENAME TO images")
        connection.execute("CREATE VIEW tiles AS SELECT * FROM images")
    with MBTilesReader(path) as reader:
        assert reader.counts() == {3: 1, 5: 2}
