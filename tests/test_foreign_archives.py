"""Archives as others write them: what they state badly is not stated, what cannot be right is named."""

from __future__ import annotations

import gzip
import io
import re
import sqlite3
import struct
import zlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from fusi_pipeline.errors import ArchiveUnreadable, TileCorrupt
from fusi_pipeline.tiles import stated
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.directory import DEGREE_E7, Header
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_image, encode_webp, is_lossless_webp, is_plain
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter

Pixels = npt.NDArray[np.uint8]
PIXELS: Pixels = np.arange(16 * 16 * 3, dtype=np.uint32).reshape(16, 16, 3).astype(np.uint8)
ALPS = Bounds(5.5, 45.25, 10.125, 48.0)
TILES = [(3, 4, 5, b"a"), (5, 16, 20, b"b"), (5, 17, 20, b"c")]
UNSOUND_BOUNDS = [
    "", "everywhere", "1,2,3", "1,2,3,4,5", "nan,1,2,3", "1,inf,2,inf", "5,48,10,45", "-181,1,2,3",
    "170,-20,190,10", "1,-91,2,3", "0,0,0,0", "7,46,7,47",
]  # fmt: skip


def mbtiles(
    path: Path, metadata: Mapping[str, object] | None, tiles: object = TILES, kind: str = "INTEGER"
) -> Path:
    """Write an MBTiles with the least that the specification asks for, without `metadata` where None."""
    with closing(sqlite3.connect(path)) as connection, connection:
        if metadata is not None:
            connection.execute("CREATE TABLE metadata (name, value)")
            connection.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
        columns = f"zoom_level {kind}, tile_column {kind}, tile_row {kind}, tile_data BLOB"
        connection.execute(f"CREATE TABLE tiles ({columns})")
        connection.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", tiles)  # type: ignore[arg-type]
    return path


def stating(tmp_path: Path, metadata: Mapping[str, object] | None) -> ArchiveMetadata:
    with MBTilesReader(mbtiles(tmp_path / "theirs.mbtiles", metadata)) as reader:
        return reader.metadata


# Bounds


@pytest.mark.parametrize("text", UNSOUND_BOUNDS)
def test_bounds_that_cannot_be_right_are_not_stated(tmp_path: Path, text: str) -> None:
    with MBTilesReader(mbtiles(tmp_path / "a.mbtiles", {"bounds": text})) as reader:
        assert (reader.metadata.bounds, reader.states_bounds) == (stated.WORLD, False)


def test_sound_bounds_are_stated_and_absent_ones_are_the_world(tmp_path: Path) -> None:
    with MBTilesReader(mbtiles(tmp_path / "a.mbtiles", {"bounds": "5.5, 45.25, 10.125, 48"})) as reader:
        assert (reader.metadata.bounds, reader.states_bounds) == (ALPS, True)
    with MBTilesReader(mbtiles(tmp_path / "b.mbtiles", {})) as reader:
        assert (reader.metadata.bounds, reader.states_bounds) == (stated.WORLD, False)


@pytest.mark.parametrize(
    "corners",
    [(0, 0, 0, 0), (10, 45, 5, 48), (5, 48, 10, 45), (-190, 45, 10, 48), (5, 45, 10, 91), (5, 45, 5, 48)],
)
def test_a_header_without_sound_bounds_states_none(tmp_path: Path, corners: tuple[int, ...]) -> None:
    path = pmtiles(tmp_path / "a.pmtiles")
    with PMTilesReader(path) as reader:
        assert (reader.metadata.bounds, reader.states_bounds) == (ALPS, True)
        offset = reader.header.root_offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<4i", data, 102, *(corner * DEGREE_E7 for corner in corners))
    assert Header.from_bytes(bytes(data[:offset])).min_lon_e7 == corners[0] * DEGREE_E7
    path.write_bytes(data)
    with PMTilesReader(path) as reader:
        assert (reader.metadata.bounds, reader.states_bounds) == (stated.WORLD, False)


@given(st.lists(st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.booleans()), max_size=5))
def test_a_box_is_within_the_world_and_has_an_area_or_is_none(values: list[object]) -> None:
    box = stated.box(values)
    if box is not None:
        assert -180 <= box.west <= 180
        assert -180 <= box.east <= 180
        assert box.west != box.east
        assert -90 <= box.south < box.north <= 90


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary()))
def test_anything_may_be_stated(value: object) -> None:
    assert stated.zoom(value) in (None, *range(31))
    assert (stated.number(value) or 0) >= 0
    assert stated.encoding(value) == stated.text(value).strip().lower()


# Metadata


def test_a_value_of_null_is_none_at_all(tmp_path: Path) -> None:
    metadata = stating(tmp_path, {"name": None, "attribution": None, "description": None, "json": None})
    assert (metadata.name, metadata.attribution, metadata.description) == ("theirs", "", "")


def test_an_archive_without_a_metadata_table_is_read(tmp_path: Path) -> None:
    metadata = stating(tmp_path, None)
    assert metadata == ArchiveMetadata(
        name="theirs", minzoom=3, maxzoom=5, bounds=stated.WORLD, format="", encoding="", tile_size=0
    )


@pytest.mark.parametrize(
    ("said", "zooms"),
    [
        ({"minzoom": "9.0", "maxzoom": "12.5"}, (3, 5)),
        ({"minzoom": "low", "maxzoom": "7"}, (3, 7)),
        ({"minzoom": "4", "maxzoom": None}, (4, 5)),
        ({"minzoom": "8", "maxzoom": "high"}, (3, 5)),
        ({"minzoom": "9", "maxzoom": "2"}, (3, 5)),
        ({"minzoom": "-1", "maxzoom": "99"}, (3, 5)),
        ({"minzoom": "\N{SUPERSCRIPT TWO}", "maxzoom": "9" * 5000}, (3, 5)),
        ({"minzoom": 2, "maxzoom": " 6 "}, (2, 6)),
    ],
)
def test_zooms_that_make_no_sense_come_from_the_tiles(
    tmp_path: Path, said: dict[str, object], zooms: tuple[int, int]
) -> None:
    metadata = stating(tmp_path, said)
    assert (metadata.minzoom, metadata.maxzoom) == zooms


@pytest.mark.parametrize(
    ("said", "size"), [("512", 512), (512, 512), ("512px", 0), ("", 0), (None, 0), ("-1", 0)]
)
def test_a_tile_size_that_is_none_is_unknown(tmp_path: Path, said: object, size: int) -> None:
    assert stating(tmp_path, {"tileSize": said}).tile_size == size


@pytest.mark.parametrize("text", ["{", "[1]", "1" * 5000, "[" * 100_000, '{"bounds": ["a", 1, 2, 3]}'])
def test_a_json_row_that_is_none_is_passed_over(tmp_path: Path, text: str) -> None:
    assert stating(tmp_path, {"json": text}).extra == {}


def test_text_that_is_no_utf8_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    path = mbtiles(tmp_path / "a.mbtiles", {})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO metadata VALUES ('attribution', CAST(x'5afc72696368' AS TEXT))")
        connection.execute("INSERT INTO metadata VALUES ('name', x'616c7073')")
    with MBTilesReader(path) as reader:
        assert (reader.metadata.attribution, reader.metadata.name) == (
            "Z\N{REPLACEMENT CHARACTER}rich",
            "alps",
        )


def test_an_encoding_is_known_in_any_case(tmp_path: Path) -> None:
    assert stating(tmp_path, {"encoding": "Terrarium "}).encoding == "terrarium"
    with open_archive(pmtiles(tmp_path / "a.pmtiles", encoding="Terrarium")) as reader:
        assert reader.metadata.encoding == "terrarium"


def pmtiles(path: Path, **facts: object) -> Path:
    metadata = ArchiveMetadata(name="a", minzoom=0, maxzoom=0, bounds=ALPS, **facts)  # type: ignore[arg-type]
    with PMTilesWriter(path, metadata, 1) as writer:
        writer.write(Tile(0, 0, 0), b"a")
    return path


def test_values_of_another_kind_in_a_pmtiles_are_not_stated(tmp_path: Path) -> None:
    document = b'{"name":{"en":"Alps"},"attribution":["me"],"description":null,"encoding":7,"tileSize":true}'
    path, stored = pmtiles(tmp_path / "theirs.pmtiles"), gzip.compress(document)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2Q", data, 24, len(data), len(stored))  # the metadata, behind all else
    path.write_bytes(bytes(data) + stored)
    with PMTilesReader(path) as reader:
        found = reader.metadata
    assert (found.name, found.attribution, found.description) == ("theirs", "", "")
    assert (found.encoding, found.tile_size, found.extra) == ("7", 0, {})


# Rows of tiles


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ((40, 3, 5), "zoom 40 column 3 row 5"),
        ((-1, 0, 0), "zoom -1 column 0 row 0"),
        ((5, -3, 5), "zoom 5 column -3 row 5"),
        ((5, 3, -5), "zoom 5 column 3 row -5"),
        ((5, 32, 5), "zoom 5 column 32 row 5"),
        ((5, 3, 1 << 40), f"zoom 5 column 3 row {1 << 40}"),
        ((None, 3, 5), "zoom NULL column 3 row 5"),
        ((5, None, 5), "zoom 5 column NULL row 5"),
        (("five", 3, 5), "zoom 'five' column 3 row 5"),
        ((5, "x\ny", 5), "zoom 5 column 'x y' row 5"),
        ((5, 3, 2.5), "zoom 5 column 3 row 2.5"),
        ((5, 3, b"\x01"), "zoom 5 column 3 row X'01'"),
    ],
)
@pytest.mark.parametrize("kind", ["INTEGER", ""])
def test_a_row_on_no_grid_is_named(tmp_path: Path, row: tuple[object, ...], named: str, kind: str) -> None:
    path = mbtiles(tmp_path / "a.mbtiles", {}, [*TILES, (*row, b"d")], kind)
    line = re.escape(f"{path}: row {named} of its tiles table is on no tile grid")
    with MBTilesReader(path) as reader:
        with pytest.raises(ArchiveUnreadable, match=line) as caught:
            reader.counts()
        assert "\n" not in str(caught.value)
        with pytest.raises(ArchiveUnreadable, match=line):
            _ = reader.metadata
        assert reader.read(Tile(3, 4, 2)) == b"a"
        if isinstance(row[0], int):
            with pytest.raises(ArchiveUnreadable, match=line):
                reader.coordinates(row[0])
        assert reader.coordinates(3).tolist() == [[4, 2]]


def test_a_tile_without_bytes_is_named_and_bytes_kept_as_text_are_read(tmp_path: Path) -> None:
    rows = [(5, 3, 31, None), (5, 4, 31, "text"), (5, 5, 31, b"")]
    path = mbtiles(tmp_path / "a.mbtiles", {}, rows)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO tiles VALUES (5, 6, 31, CAST(x'89504e47' AS TEXT))")
    with MBTilesReader(path) as reader:
        with pytest.raises(ArchiveUnreadable, match="tile 5/3/0 has a row without bytes"):
            reader.read(Tile(5, 3, 0))
        assert [reader.read(Tile(5, x, 0)) for x in (4, 5, 6, 7)] == [b"text", b"", b"\x89PNG", None]


# Pictures


def webp(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def png_of(bits: int, colour: int, samples: int) -> bytes:
    """Return a PNG of 4 x 4 px with `samples` zeros of `bits` a pixel."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + bytes(4 * samples * bits // 8)) * 4
    head = struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_lossless_webp_with_a_profile_is_lossless() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = webp(lossless=True, icc_profile=profile)
    assert data.index(b"VP8L") > 64
    assert is_lossless_webp(data)
    assert not is_plain(data)
    np.testing.assert_array_equal(decode_image(data), PIXELS)
    np.testing.assert_array_equal(decode_image(data + b"behind the end"), PIXELS)


def test_a_lossy_webp_is_none_whatever_stands_in_it() -> None:
    lossy = webp(quality=90, exif=b"VP8L")
    assert b"VP8L" in lossy
    assert not is_lossless_webp(lossy)
    with pytest.raises(ImageInvalid, match="lossy"):
        decode_image(lossy)
    animated = io.BytesIO()
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert not is_lossless_webp(animated.getvalue())


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_is_refused_and_one_of_8_read(colour: int, samples: int) -> None:
    assert decode_image(png_of(8, colour, samples)).shape[:2] == (4, 4)
    with pytest.raises(ImageInvalid, match="16 bits a channel"):
        decode_image(png_of(16, colour, samples))


def test_a_png_larger_than_any_tile_is_refused_before_it_is_decoded() -> None:
    data = bytearray(png_of(8, 2, 3))
    struct.pack_into(">II", data, 16, 1 << 20, 1 << 20)
    with pytest.raises(ImageInvalid, match="1048576 x 1048576 px"):
        decode_image(bytes(data))


@pytest.mark.parametrize("image", ["webp", "png"])
def test_gzip_around_a_picture_is_taken_off_and_bytes_stay(tmp_path: Path, image: str) -> None:
    plain = encode_webp(PIXELS) if image == "webp" else png_of(8, 2, 3)
    wrapped = gzip.compress(plain)
    with MBTilesReader(mbtiles(tmp_path / "a.mbtiles", {}, [(0, 0, 0, wrapped)])) as reader:
        data = reader.read(Tile(0, 0, 0))
    assert data == wrapped
    assert not is_plain(wrapped)
    np.testing.assert_array_equal(decode_image(wrapped), decode_image(plain))
    with pytest.raises(ImageInvalid, match="gzip"):
        decode_image(wrapped[:-9])


@given(st.data())
def test_damaged_pictures_are_refused_or_read_and_nothing_else(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([png_of(8, 2, 3), png_of(8, 6, 4), encode_webp(PIXELS)]))
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    said = ""
    try:
        assert decode_image(bytes(damaged)).dtype == np.uint8
    except ImageInvalid as error:
        said = str(error)
    assert "\n" not in said


def test_what_to_do_about_a_corrupt_tile_is_said_for_any_archive() -> None:
    line = str(TileCorrupt("a.mbtiles", Tile(1, 0, 1), "neither a WebP nor a PNG"))
    assert line.startswith(
        "a.mbtiles: tile 1/0/1 is corrupt: neither a WebP nor a PNG; make the archive again"
    )
    assert "fetch it again" in line
    assert "`fusi build NAME --overwrite`" in line
