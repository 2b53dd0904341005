"""Laws of the PMTiles writer, reader and checker; the `pmtiles` package is the oracle."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pmtiles.reader
import pmtiles.writer
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pmtiles import tile as oracle

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, ArchiveUnsuitable, DiskFull, FusiError
from fusi_pipeline.tiles import directory, grid
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.directory import Entries, Header
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.pmtiles import PMTilesReader, tile_ids, tile_positions
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.tiles.structure import problems, tile_data_problem

METADATA = ArchiveMetadata(
    name="alps",
    minzoom=0,
    maxzoom=4,
    bounds=Bounds(5.9, 45.8, 10.5, 47.8),
    description="heights",
    attribution="<a>swisstopo</a>",
    extra={"step_m": {"4": 1}, "über": ["ä"]},
)
# Untyped in the package.
MemorySource: Any = pmtiles.reader.MemorySource
Reader: Any = pmtiles.reader.Reader
all_tiles: Any = pmtiles.reader.all_tiles
Writer: Any = pmtiles.writer.Writer

in_a_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@st.composite
def tiles_of_a_zoom(draw: st.DrawFn, highest: int = 30) -> tuple[int, list[tuple[int, int]]]:
    z = draw(st.integers(0, highest))
    side = st.integers(0, (1 << z) - 1)
    return z, draw(st.lists(st.tuples(side, side), min_size=1, max_size=50))


contents = st.sampled_from([b"sea", b"s" * 513, b"land", b"l" * 2000, b"x"])
tile_sets = st.dictionaries(st.integers(0, (4**5 - 1) // 3 - 1), contents, min_size=1, max_size=120)


def tile_of(tile_id: int) -> Tile:
    return Tile(*oracle.tileid_to_zxy(tile_id))


def write(
    path: Path, tiles: Mapping[int, bytes], metadata: ArchiveMetadata = METADATA, **options: int
) -> Path:
    with PMTilesWriter(path, metadata, len(tiles), **options) as writer:
        for tile_id in sorted(tiles):
            writer.write(tile_of(tile_id), tiles[tile_id])
    return path


def read_all(reader: PMTilesReader) -> dict[int, bytes]:
    found = {}
    for z in reader.counts():
        for x, y in reader.coordinates(z).tolist():
            data = reader.read(Tile(z, x, y))
            assert data is not None
            found[oracle.zxy_to_tileid(z, x, y)] = data
    return found


def entries_of(rows: Iterable[tuple[int, int, int, int]]) -> Entries:
    return Entries(*np.array(list(rows), dtype=np.uint64).T)


# -- ids


@given(tiles_of_a_zoom())
def test_ids_are_those_of_the_pmtiles_package(tiles: tuple[int, list[tuple[int, int]]]) -> None:
    z, places = tiles
    xs, ys = np.array(places).T
    assert tile_ids(z, xs, ys).tolist() == [oracle.zxy_to_tileid(z, x, y) for x, y in places]


@given(st.lists(st.integers(0, (4**32 - 1) // 3 - 1), max_size=50))
def test_positions_are_those_of_the_pmtiles_package(ids: list[int]) -> None:
    zs, xs, ys = tile_positions(np.array(ids, dtype=np.uint64))
    found = list(zip(zs.tolist(), xs.tolist(), ys.tolist(), strict=True))
    assert found == [oracle.tileid_to_zxy(tile_id) for tile_id in ids]


@pytest.mark.parametrize("z", range(8))
def test_the_curve_visits_every_tile_of_a_zoom_once_and_steps_to_a_neighbour(z: int) -> None:
    ids = np.arange(4**z, dtype=np.uint64) + np.uint64((4**z - 1) // 3)
    zs, xs, ys = tile_positions(ids)
    assert set(zs.tolist()) == {z}
    assert np.array_equal(tile_ids(z, xs, ys), ids)
    steps = np.abs(np.diff(xs.astype(int))) + np.abs(np.diff(ys.astype(int)))
    assert set(steps.tolist()) <= {1}


# -- directories

rows = st.lists(
    st.tuples(
        st.integers(1, 1 << 40), st.integers(0, (1 << 63) - 1) | st.none(), st.integers(1, (1 << 32) - 1),
        st.integers(0, (1 << 32) - 1),
    ),
    min_size=1,
    max_size=60,
)  # fmt: skip


@given(rows)
def test_directories_agree_with_the_pmtiles_package(drawn: list[tuple[int, int | None, int, int]]) -> None:
    entries, tile_id, end = [], 0, 0
    for delta, offset, length, run in drawn:
        tile_id += delta
        start = end if offset is None else offset
        entries.append(oracle.Entry(tile_id, start, length, run))
        end = start + length
    wanted = [(entry.tile_id, entry.offset, entry.length, entry.run_length) for entry in entries]
    ours = directory.encode(entries_of(wanted))
    assert ours == gzip.decompress(oracle.serialize_directory(entries))
    read = oracle.deserialize_directory(directory.deflate(ours))
    assert [(entry.tile_id, entry.offset, entry.length, entry.run_length) for entry in read] == wanted
    back = directory.decode(ours)
    columns = (back.ids, back.offsets, back.lengths, back.runs)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == wanted


@given(st.binary(max_size=60))
def test_any_bytes_are_a_directory_or_a_named_error(data: bytes) -> None:
    for compression in range(6):
        with suppress(directory.DirectoryInvalid):
            directory.decode(directory.inflate(data, compression))


def test_gzip_depends_on_the_data_alone_and_may_have_members() -> None:
    packed = directory.deflate(b"a" * 100)
    assert packed[:10].hex() == "1f8b08000000000002ff"
    assert gzip.decompress(packed) == b"a" * 100
    assert directory.inflate(packed + directory.deflate(b"b"), directory.GZIP) == b"a" * 100 + b"b"


# -- writer and reader


@given(tiles=tile_sets, leaf_entries=st.sampled_from([None, 1, 2, 7]), recent=st.sampled_from([1, 2, 100]))
@in_a_folder
def test_what_is_written_is_read_by_everyone(
    tmp_path: Path, tiles: dict[int, bytes], leaf_entries: int | None, recent: int
) -> None:
    path = tmp_path / "a.pmtiles"
    with PMTilesWriter(path, METADATA, len(tiles), leaf_entries=leaf_entries, recent=recent) as writer:
        for tile_id in sorted(tiles):
            writer.write(tile_of(tile_id), tiles[tile_id])
    assert writer.bytes_written == path.stat().st_size
    assert problems(path) == []
    with PMTilesReader(path) as reader:
        assert read_all(reader) == tiles
        assert sum(reader.counts().values()) == len(tiles) == reader.header.addressed_tiles_count
        absent = next(i for i in range(2000) if i not in tiles)
        assert reader.read(tile_of(absent)) is None
    source = MemorySource(path.read_bytes())
    assert {oracle.zxy_to_tileid(*zxy): data for zxy, data in all_tiles(source)} == tiles


@given(tiles=tile_sets, gzipped=st.booleans(), shuffled=st.booleans())
@in_a_folder
def test_archives_of_the_pmtiles_package_are_read(
    tmp_path: Path, tiles: dict[int, bytes], gzipped: bool, shuffled: bool
) -> None:
    file = io.BytesIO()
    writer = Writer(file)
    for tile_id in sorted(tiles, key=lambda i: (i * 7919) % 1009 if shuffled else i):
        data = tiles[tile_id]
        writer.write_tile(tile_id, gzip.compress(data, mtime=0) if gzipped else data)
    writer.tile_entries.sort(key=lambda entry: entry.tile_id)
    packing = oracle.Compression.GZIP if gzipped else oracle.Compression.NONE
    writer.finalize({"tile_type": oracle.TileType.PNG, "tile_compression": packing}, {"name": "theirs"})
    path = tmp_path / "theirs.pmtiles"
    path.write_bytes(file.getvalue())
    with PMTilesReader(path) as reader:
        assert reader.metadata.name == "theirs"
        assert reader.metadata.format == "png"
        assert sum(reader.counts().values()) == len(tiles)
        assert read_all(reader) == tiles
    if not shuffled:
        assert problems(path) == []


def header_facts(metadata: ArchiveMetadata) -> dict[str, Any]:
    """Return what the metadata repeats of the header."""
    box = metadata.bounds
    return {
        "minzoom": metadata.minzoom, "maxzoom": metadata.maxzoom, "format": metadata.format,
        "bounds": [box.west, box.south, box.east, box.north], "center": list(metadata.center),
    }  # fmt: skip


def digests_of(path: Path) -> set[str]:
    """Return the SHA-256 of the tile data and of root and leaf directories, as the header places them."""
    data, header = path.read_bytes(), Reader(MemorySource(path.read_bytes())).header()

    def part(name: str) -> bytes:
        return data[header[f"{name}_offset"] :][: header[f"{name}_length"]]

    directories = part("root") + part("leaf_directory")
    return {hashlib.sha256(one).hexdigest() for one in (part("tile_data"), directories)}


def test_header_and_metadata_say_what_was_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pmtiles", {1: b"a", 2: b"a", 5: b"b", 20: b"a"})
    theirs = Reader(MemorySource(path.read_bytes()))
    header = theirs.header()
    with PMTilesReader(path) as reader:
        ours = reader.header
        assert reader.metadata == replace(METADATA, minzoom=1, maxzoom=2)
    for name, value in header.items():
        if name != "version":
            assert getattr(ours, name) == getattr(value, "value", value), name
    assert (ours.addressed_tiles_count, ours.tile_entries_count, ours.tile_contents_count) == (4, 3, 2)
    assert (header["tile_type"], header["tile_compression"]) == (
        oracle.TileType.WEBP,
        oracle.Compression.NONE,
    )
    assert header["clustered"]
    assert (header["min_lon_e7"], header["max_lat_e7"]) == (59_000_000, 478_000_000)
    document = theirs.metadata()
    assert list(document) == sorted(document)
    digests = {document.pop(name) for name in ("tile_data_sha256", "directories_sha256")}
    assert digests == digests_of(path)
    assert document == {
        "name": "alps", "description": "heights", "attribution": "<a>swisstopo</a>", "encoding": "terrarium",
        "tileSize": 512, **header_facts(replace(METADATA, minzoom=1, maxzoom=2)), **METADATA.extra,
    }  # fmt: skip


def test_nothing_that_nobody_said_is_in_the_metadata(tmp_path: Path) -> None:
    bare = ArchiveMetadata(name="n", minzoom=0, maxzoom=0, bounds=METADATA.bounds, encoding="", format="png")
    path = write(tmp_path / "a.pmtiles", {0: b"a"}, bare)
    document = Reader(MemorySource(path.read_bytes())).metadata()
    said = {"name": "n", "tileSize": 512, **header_facts(bare)}
    assert document == said | {name: document[name] for name in ("tile_data_sha256", "directories_sha256")}
    with PMTilesReader(path) as reader:
        assert reader.metadata == bare


def test_metadata_may_be_settled_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    with PMTilesWriter(path, METADATA, 1) as writer:
        writer.write(Tile(0, 0, 0), b"a")
        writer.metadata = replace(METADATA, attribution="only who won")
    with PMTilesReader(path) as reader:
        assert reader.metadata.attribution == "only who won"


@pytest.mark.parametrize(
    "bounds",
    [Bounds(170, -20, -170, 10), Bounds(7, 46, 7, 46), Bounds(-180, -90, 180, 90), Bounds(180, 90, 180, 90)],
)
def test_any_bounds_make_a_header_with_an_area(tmp_path: Path, bounds: Bounds) -> None:
    path = write(tmp_path / "a.pmtiles", {0: b"a"}, replace(METADATA, bounds=bounds))
    assert problems(path) == []
    with PMTilesReader(path) as reader:
        found = reader.metadata.bounds
    for name in ("west", "south", "east", "north"):
        assert getattr(found, name) == pytest.approx(getattr(bounds, name), abs=2e-7)


def test_many_leaves_stay_within_the_first_read(tmp_path: Path) -> None:
    count = 60_000
    tiles = {3 * i: b"%d" % i for i in range(count)}
    path = write(tmp_path / "few.pmtiles", tiles)
    with PMTilesReader(path) as reader:
        assert reader.header.leaf_directory_length > 0
        assert reader.header.root_length < 500
    assert problems(path) == []
    short = write(tmp_path / "many.pmtiles", tiles, leaf_entries=5)
    with PMTilesReader(short) as reader:
        assert reader.header.root_length <= directory.ROOT_BYTES
        assert reader.counts() == {z: n for z, n in zoom_counts(tiles).items() if n}
        for i in range(0, count, 997):
            assert reader.read(tile_of(3 * i)) == b"%d" % i
            assert reader.read(tile_of(3 * i + 1)) is None
    assert problems(short) == []
    theirs = Reader(MemorySource(short.read_bytes()))
    for i in range(0, count, 9973):
        assert theirs.get(*oracle.tileid_to_zxy(3 * i)) == b"%d" % i


def zoom_counts(tiles: Mapping[int, bytes]) -> dict[int, int]:
    zs, counts = np.unique(tile_positions(list(tiles))[0], return_counts=True)
    return dict(zip(zs.tolist(), counts.tolist(), strict=True))


def test_a_thousand_leaves_fit_the_root_however_they_compress() -> None:
    random = np.random.default_rng(7)
    ids = np.sort(random.integers(0, (4**31 - 1) // 3, 1000, dtype=np.uint64))
    lengths = random.integers(1 << 27, 1 << 28, 1000, dtype=np.uint64)
    offsets = np.cumsum(lengths) - lengths
    root = directory.deflate(directory.encode(Entries(ids, offsets, lengths, np.zeros_like(ids))))
    assert len(root) <= directory.ROOT_BYTES


def test_one_run_over_a_whole_zoom_is_one_entry(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pmtiles", dict.fromkeys(range((4**7 - 1) // 3), b"sea"))
    with PMTilesReader(path) as reader:
        assert reader.header.tile_entries_count == 1
        assert reader.counts() == {z: 4**z for z in range(7)}
        assert {(x, y) for x, y in reader.coordinates(6).tolist()} == {
            (x, y) for x in range(64) for y in range(64)
        }
        assert len(reader.coordinates(7)) == 0
    assert problems(path) == []


def test_the_same_tiles_make_the_same_bytes(tmp_path: Path) -> None:
    tiles = {i: b"%d" % (i % 50) * (1 + i % 300) for i in range(0, 6000, 2)}
    first = write(tmp_path / "a.pmtiles", tiles)
    second = write(tmp_path / "b.pmtiles", dict(reversed(tiles.items())))
    assert first.read_bytes() == second.read_bytes()


def test_large_tiles_are_remembered_while_recent_and_small_ones_always(tmp_path: Path) -> None:
    large = [bytes([i]) * 600 for i in range(4)]
    order = [b"small", *large[:3], large[0], large[3], large[0], large[1], b"small"]
    tiles = {2 * i: data for i, data in enumerate(order)}
    path = write(tmp_path / "a.pmtiles", tiles, recent=3)
    with PMTilesReader(path) as reader:
        # large[1] was the least recently met of four when large[3] came, so it is stored twice.
        assert reader.header.tile_contents_count == 6
        assert read_all(reader) == tiles
    assert problems(path) == []


def test_large_tiles_that_differ_in_one_byte_are_both_kept(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8
    other = data[:100] + b"!" + data[101:]
    tiles = {0: data, 1: other, 2: data, 3: data, 4: other}
    path = write(tmp_path / "a.pmtiles", tiles)
    with PMTilesReader(path) as reader:
        assert read_all(reader) == tiles
    assert problems(path) == []


# -- failures of the writer


def test_an_interrupted_write_leaves_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "a.pmtiles"
    path.write_bytes(b"old")
    with suppress(KeyboardInterrupt), PMTilesWriter(path, METADATA, 1) as writer:
        writer.write(Tile(0, 0, 0), b"a")
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pmtiles"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: PMTilesWriter, *_: int) -> Header:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PMTilesWriter, "_header", full)
    with pytest.raises(DiskFull):
        write(tmp_path / "a.pmtiles", {0: b"a"})
    assert list(tmp_path.iterdir()) == []


def test_no_tile_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnsuitable):
        write(tmp_path / "a.pmtiles", {})
    with pytest.raises(ArchiveUnsuitable):
        write(tmp_path / "a.pmtiles", {0: b"a"}, replace(METADATA, format="pbf"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "second", "data"),
    [
        (Tile(1, 0, 0), Tile(1, 0, 0), b"a"),
        (Tile(1, 0, 1), Tile(1, 0, 0), b"a"),
        (Tile(1, 0, 0), Tile(0, 0, 0), b"a"),
        (Tile(1, 0, 0), Tile(1, 0, 1), b""),
        (Tile(1, 0, 0), Tile(1, 2, 0), b"a"),
        (Tile(1, 0, 0), Tile(1, -1, 0), b"a"),
    ],
)
def test_tiles_out_of_order_are_refused(tmp_path: Path, first: Tile, second: Tile, data: bytes) -> None:
    with PMTilesWriter(tmp_path / "a.pmtiles", METADATA, 2) as writer:
        writer.write(first, b"a")
        with pytest.raises(ValueError):
            writer.write(second, data)


def test_extra_facts_must_be_json_from_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        PMTilesWriter(tmp_path / "a.pmtiles", replace(METADATA, extra={"x": float("nan")}), 1)


# -- failures of the reader


def read_everything(path: Path) -> None:
    with PMTilesReader(path) as reader:
        read_all(reader)


def test_missing_archives_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveMissing):
        PMTilesReader(tmp_path / "none.pmtiles")
    with pytest.raises(ArchiveMissing):
        problems(tmp_path / "none.pmtiles")
    with pytest.raises(ArchiveUnreadable):
        PMTilesReader(tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "PMTiles"),
        (b"PMTiles\x03", "cut short"),
        (b"PMTiles\x02" + bytes(200), "version 2"),
        (b"SQLite format 3\x00" * 20, "PMTiles"),
    ],
)
def test_garbage_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.pmtiles"
    path.write_bytes(data)
    with pytest.raises(ArchiveUnreadable, match=reason):
        PMTilesReader(path)
    assert len(problems(path)) == 1


def test_every_truncation_is_found_at_once(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.pmtiles", {i: b"%d" % i for i in range(40)}, leaf_entries=8).read_bytes()
    path = tmp_path / "b.pmtiles"
    for size in [*range(0, 400, 7), 16384, *range(16385, len(whole), 5), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ArchiveUnreadable):
            PMTilesReader(path)
        assert problems(path)


@given(places=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=4))
@in_a_folder
def test_changed_bytes_never_end_in_a_traceback(tmp_path: Path, places: list[tuple[int, int]]) -> None:
    whole = tmp_path / "a.pmtiles"
    if not whole.exists():
        write(whole, {i: b"%d" % (i % 9) for i in range(40)}, leaf_entries=8)
    data = bytearray(whole.read_bytes())
    used = [*range(8, 300), *range(16384, len(data))]
    for place, value in places:
        data[used[place % len(used)]] = value
    path = tmp_path / "b.pmtiles"
    path.write_bytes(data)
    problems(path)
    with suppress(FusiError):
        read_everything(path)


def test_directories_that_point_to_themselves_end(tmp_path: Path) -> None:
    leaf = directory.encode(entries_of([(0, 0, 10, 0)]))
    length = len(leaf)
    leaf = directory.encode(entries_of([(0, 0, length, 0)]))
    path = rebuilt(tmp_path / "a.pmtiles", root=leaf, leaves=leaf, compression=directory.NONE)
    with PMTilesReader(path) as reader, pytest.raises(ArchiveUnreadable, match="deep"):
        reader.read(Tile(0, 0, 0))
    assert "deep" in problems(path)[0]


def rebuilt(
    path: Path,
    *,
    root: bytes,
    leaves: bytes = b"",
    tiles: bytes = b"ab",
    document: bytes = b"{}",
    compression: int = directory.NONE,
    **changes: int,
) -> Path:
    """Write an archive from its sections, in the usual order, with `changes` to its header."""
    at = np.cumsum([127, len(root), len(document), len(leaves)]).tolist()
    header = Header(
        root_offset=at[0], root_length=len(root), metadata_offset=at[1], metadata_length=len(document),
        leaf_directory_offset=at[2], leaf_directory_length=len(leaves), tile_data_offset=at[3],
        tile_data_length=len(tiles), addressed_tiles_count=2, tile_entries_count=2, tile_contents_count=2,
        clustered=1, internal_compression=compression, tile_compression=1, tile_type=4, min_zoom=1,
        max_zoom=1, min_lon_e7=0, min_lat_e7=0, max_lon_e7=1, max_lat_e7=1, center_zoom=1,
        center_lon_e7=0, center_lat_e7=0,
    )  # fmt: skip
    path.write_bytes(replace(header, **changes).to_bytes() + root + document + leaves + tiles)
    return path


# -- the checker

SOUND = [(1, 0, 1, 1), (2, 1, 1, 1)]


def test_a_sound_archive_of_another_layout_has_no_problem(tmp_path: Path) -> None:
    assert problems(rebuilt(tmp_path / "a.pmtiles", root=directory.encode(entries_of(SOUND)))) == []


def test_nested_leaves_are_read_and_complained_of(tmp_path: Path) -> None:
    inner = directory.encode(entries_of(SOUND))
    middle = directory.encode(entries_of([(1, 0, len(inner), 0)]))
    root = directory.encode(entries_of([(1, len(inner), len(middle), 0)]))
    path = rebuilt(tmp_path / "a.pmtiles", root=root, leaves=inner + middle)
    with PMTilesReader(path) as reader:
        assert reader.read(tile_of(2)) == b"b"
        assert reader.counts() == {1: 2}
    assert problems(path) == ["the leaf directory at 0 is reached by way of another leaf"]


@pytest.mark.parametrize(
    ("rows", "changes", "reason"),
    [
        ([(2, 0, 1, 1), (2, 1, 1, 1)], {}, "ascending"),
        ([(1, 0, 1, 2), (2, 1, 1, 1)], {"addressed_tiles_count": 3}, "overlapping"),
        ([(1, 0, 1, 1), (2, 1, 2, 1)], {}, "outside the tile data"),
        ([(1, 1, 1, 1), (2, 0, 1, 1)], {}, "out of order"),
        ([(1, 0, 1, 1), (2, 1, 0, 1)], {}, "without bytes"),
        ([(1, 0, 1, 1), (2, 0, 1, 1)], {"tile_contents_count": 1}, "belong to no tile"),
        ([(1, 0, 2, 1), (2, 1, 1, 1)], {}, "start where no entry"),
        ([(1, 0, 2, 1), (2, 0, 1, 1)], {"tile_contents_count": 1}, "another length"),
        ([(1, 0, 1, 1), (9, 1, 1, 1)], {}, "as highest zoom"),
        ([(0, 0, 1, 1), (2, 1, 1, 1)], {}, "as lowest zoom"),
    ],
)
def test_every_wrong_directory_is_found(
    tmp_path: Path, rows: list[tuple[int, int, int, int]], changes: dict[str, Any], reason: str
) -> None:
    found = problems(rebuilt(tmp_path / "a.pmtiles", root=directory.encode(entries_of(rows)), **changes))
    assert any(reason in sentence for sentence in found), found


def test_leaves_out_of_place_are_found(tmp_path: Path) -> None:
    leaf = directory.encode(entries_of(SOUND))
    size = len(leaf)
    for pointer, leaves, reason in (
        ((0, 0, size, 0), leaf, "starts with id 1, not 0"),
        ((1, 1, size, 0), b"\0" + leaf, "does not start"),
        ((1, 0, size, 0), leaf + b"\0", "their section has"),
        ((1, 9, size, 0), leaf, "outside"),
    ):
        path = rebuilt(tmp_path / "a.pmtiles", root=directory.encode(entries_of([pointer])), leaves=leaves)
        assert any(reason in sentence for sentence in problems(path)), problems(path)


@pytest.mark.parametrize("document", [b"[]", b"{", b"\xff", b"null"])
def test_metadata_that_is_no_object_is_found(tmp_path: Path, document: bytes) -> None:
    path = rebuilt(tmp_path / "a.pmtiles", root=directory.encode(entries_of(SOUND)), document=document)
    assert "metadata" in problems(path)[0]
    with pytest.raises(ArchiveUnreadable):
        PMTilesReader(path)


WRONG_VALUES = {
    "clustered": [2, 255],
    "internal_compression": [0, 1, 3, 4, 99],
    "tile_compression": [5],
    "tile_type": [7],
    "min_lon_e7": [-1_800_000_001, 105_000_000],
    "min_lat_e7": [-900_000_001, 478_000_000],
    "max_lon_e7": [1_800_000_001, 59_000_000],
    "max_lat_e7": [900_000_001, 458_000_000],
    "center_zoom": [0, 9],
    "center_lon_e7": [1_800_000_001],
    "center_lat_e7": [-900_000_001],
}


@pytest.mark.parametrize("name", Header.__slots__)
def test_every_wrong_field_of_the_header_is_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.pmtiles", {i: b"%d" % (i % 9) for i in range(1, 80)}, leaf_entries=8)
    sound = path.read_bytes()
    header = Header.from_bytes(sound)
    value = getattr(header, name)
    for wrong in WRONG_VALUES.get(name, [0, value + 1, value - 1, value * 2]):
        path.write_bytes(replace(header, **{name: wrong}).to_bytes() + sound[127:])
        assert problems(path), f"{name}: {value} -> {wrong}"


def test_a_claim_of_clustered_tiles_is_checked(tmp_path: Path) -> None:
    swapped = directory.encode(entries_of([(1, 1, 1, 1), (2, 0, 1, 1)]))
    assert problems(rebuilt(tmp_path / "a.pmtiles", root=swapped, clustered=0)) == []
    assert problems(rebuilt(tmp_path / "a.pmtiles", root=swapped, clustered=1)) != []


def test_padding_counts_as_go_pmtiles_counts_it(tmp_path: Path) -> None:
    """The two lengths that `pmtiles verify` accepts: sections end to end, or a root padded to 16 KiB."""
    path = write(tmp_path / "a.pmtiles", {0: b"a"})
    header = Header.from_bytes(path.read_bytes())
    sections = header.metadata_length + header.leaf_directory_length + header.tile_data_length
    assert path.stat().st_size == 16384 + sections
    assert 0 not in (header.root_offset, header.metadata_offset, header.leaf_directory_offset)
    with path.open("ab") as file:
        file.write(b"\0")
    assert "not what its sections add up to" in problems(path)[0]


def test_the_metadata_is_compact_utf8_json(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pmtiles", {0: b"a"})
    header = Header.from_bytes(path.read_bytes())
    section = path.read_bytes()[header.metadata_offset :][: header.metadata_length]
    text = gzip.decompress(section).decode()
    assert json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"), sort_keys=True) == text


def test_ids_of_a_million_tiles_at_once_are_those_of_each() -> None:
    random = np.random.default_rng(3)
    xs, ys = random.integers(0, 1 << 16, (2, 1_000_000), dtype=np.uint32)
    ids = grid.hilbert_indices(16, xs, ys)
    sample = random.integers(0, 1_000_000, 50)
    base = (4**16 - 1) // 3
    assert [int(ids[i]) + base for i in sample] == [
        oracle.zxy_to_tileid(16, int(xs[i]), int(ys[i])) for i in sample
    ]


# -- damage


def all_problems(path: Path) -> list[str]:
    """Return what is wrong with an archive, its tile data hashed too; none where it is sound."""
    found = problems(path)
    if found:
        return found
    with PMTilesReader(path) as reader:
        work = tile_data_problem(reader)
        while True:
            try:
                next(work)
            except StopIteration as end:
                return [end.value] if end.value else []


@pytest.mark.parametrize("leaf_entries", [4096, 8])
def test_no_changed_byte_goes_unnoticed(tmp_path: Path, leaf_entries: int) -> None:
    """Every byte of a small archive in turn, changed by some bits: header, directories, padding, all."""
    tiles = {i: b"tile %d" % (i % 60) for i in range(1, 80)}
    path = write(tmp_path / "a.pmtiles", tiles, leaf_entries=leaf_entries)
    assert all_problems(path) == []
    random = np.random.default_rng(7)
    with path.open("r+b") as file:
        for place, value in enumerate(path.read_bytes()):
            if 1024 <= place < 16380 and place % 16:  # unused bytes, each treated like the next
                continue
            changed = value ^ int(random.integers(1, 256))
            for byte in (changed, value):
                file.seek(place)
                file.write(bytes([byte]))
                file.flush()
                assert bool(all_problems(path)) == (byte != value), place


def test_every_bit_of_header_and_metadata_is_guarded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pmtiles", {1: b"a", 2: b"b"})
    whole = path.read_bytes()
    header = Header.from_bytes(whole)
    used = [*range(127 + header.root_length + 9), *range(16384, len(whole))]
    with path.open("r+b") as file:
        for place in used:
            for bit in range(8):
                file.seek(place)
                file.write(bytes([whole[place] ^ 1 << bit]))
                file.flush()
                assert all_problems(path), (place, bit)
            file.seek(place)
            file.write(whole[place : place + 1])
            file.flush()
    assert all_problems(path) == []


def test_bytes_behind_the_end_and_bytes_missing_are_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.pmtiles", {i: b"%d" % i for i in range(40)}, leaf_entries=8).read_bytes()
    path = tmp_path / "b.pmtiles"
    for data in (whole + b"\0", whole + whole, whole[:-1], whole[:16384], whole[:16384] + whole[16385:]):
        path.write_bytes(data)
        assert all_problems(path)


def test_archives_of_others_are_guarded_as_far_as_they_say(tmp_path: Path) -> None:
    """All that a checksum covers, and the bits around it that every writer leaves alone."""
    file = io.BytesIO()
    writer = Writer(file)
    for tile_id in range(1, 60):
        writer.write_tile(tile_id, b"tile %d" % tile_id)
    packing = oracle.Compression.NONE
    writer.finalize({"tile_type": oracle.TileType.PNG, "tile_compression": packing}, {"name": "theirs"})
    path = tmp_path / "theirs.pmtiles"
    path.write_bytes(file.getvalue())
    assert all_problems(path) == []
    whole = path.read_bytes()
    header = Header.from_bytes(whole)
    sections = (
        (header.root_offset, header.root_length),
        (header.metadata_offset, header.metadata_length),
    )
    for offset, length in sections:
        free = {4, 5, 6, 7}  # the time in a gzip header may be any
        for place in set(range(length)) - free:
            for pattern in (0x80, 0xFF):
                data = bytearray(whole)
                data[offset + place] ^= pattern
                path.write_bytes(data)
                assert all_problems(path), (offset, place, pattern)


@given(st.binary(max_size=200_000))
@settings(deadline=None, max_examples=30)
def test_what_is_enclosed_is_a_gzip_member_of_it(data: bytes) -> None:
    assert gzip.decompress(directory.enclose(data)) == data
    assert directory.inflate(directory.enclose(data), directory.GZIP) == data


@pytest.mark.parametrize("size", [0, 65535, 65536, 200_000])
def test_long_data_is_enclosed_in_several_parts(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert gzip.decompress(directory.enclose(data[:size])) == data[:size]


@given(st.binary(max_size=3000), st.integers(0, 9))
def test_no_writer_of_gzip_is_doubted(data: bytes, level: int) -> None:
    assert directory.gzip_doubt(gzip.compress(data, level)) == ""
    assert directory.gzip_doubt(directory.deflate(data)) == ""
    assert directory.gzip_doubt(directory.enclose(data)) == ""
