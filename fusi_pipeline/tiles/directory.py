"""The PMTiles v3 header and directories: bytes to values and arrays, and back.

Nothing here opens a file. Source: PMTiles specification 3.6, sections 3
(header) and 4 (directories).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 127
FIRST_READ_BYTES = 16384
"""Header and root directory lie within these first bytes of a file."""
ROOT_BYTES = FIRST_READ_BYTES - HEADER_BYTES
"""The most a compressed root directory may take."""

HEADER_FACTS = {"minzoom", "maxzoom", "bounds", "center", "format"}
"""What the header states, and the JSON metadata of our archives once more, so that each proves the other."""
TILE_DIGEST, DIRECTORY_DIGEST = "tile_data_sha256", "directories_sha256"
"""Keys of the JSON metadata: SHA-256 of the tile data; of root and leaf directories as they are stored."""

NONE, GZIP = 1, 2
COMPRESSIONS = ("unknown", "none", "gzip", "brotli", "zstd")
"""Names of the compression numbers of the header."""
TILE_TYPES = ("", "pbf", "png", "jpg", "webp", "avif", "mlt")
"""Formats of the tile type numbers of the header, as MBTiles names them."""

_HEADER = struct.Struct("<7sB11Q6B4iB2i")
DEGREE_E7 = 10_000_000
"""The header's unit of longitude and latitude."""

_MAGIC = b"PMTiles"
_VERSION = 3
_GZIP_START = bytes.fromhex("1f8b08000000000002ff")
"""A gzip header without time, name or operating system (RFC 1952)."""
_GZIP_SYSTEMS = {*range(14), 255}
_GZIP_EFFORTS = {0, 2, 4}
_MOST_STORED_BYTES = 65535
_MOST_INFLATED_BYTES = 1 << 28
_MOST_32_BITS = (1 << 32) - 1


class DirectoryInvalid(ValueError):
    """Bytes that are no header or directory; the message completes "the header ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The 127 bytes a PMTiles archive starts with, field by field in their order."""

    root_offset: int
    root_length: int
    metadata_offset: int
    metadata_length: int
    leaf_directory_offset: int
    leaf_directory_length: int
    tile_data_offset: int
    tile_data_length: int
    addressed_tiles_count: int
    """Tiles, repeated ones included; 0 where the writer did not know."""
    tile_entries_count: int
    """Directory entries that point to tiles; 0 where the writer did not know."""
    tile_contents_count: int
    """Distinct offsets in the tile data; 0 where the writer did not know."""
    clustered: int
    """1 where the tile data is in the order of tile ids."""
    internal_compression: int
    """Of directories and metadata, an index of `COMPRESSIONS`."""
    tile_compression: int
    """Of tiles, an index of `COMPRESSIONS`."""
    tile_type: int
    """An index of `TILE_TYPES`."""
    min_zoom: int
    max_zoom: int
    min_lon_e7: int
    """Degrees times 10,000,000, as in all fields named so."""
    min_lat_e7: int
    max_lon_e7: int
    max_lat_e7: int
    center_zoom: int
    center_lon_e7: int
    center_lat_e7: int

    def to_bytes(self) -> bytes:
        """Return the 127 bytes."""
        return _HEADER.pack(_MAGIC, _VERSION, *astuple(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Return the header at the start of `data`; raises DirectoryInvalid."""
        if data[: len(_MAGIC)] != _MAGIC:
            raise DirectoryInvalid("does not start with PMTiles")
        if len(data) < HEADER_BYTES:
            raise DirectoryInvalid(f"is cut short after {len(data)} of {HEADER_BYTES} bytes")
        _, version, *values = _HEADER.unpack_from(data)
        if version != _VERSION:
            raise DirectoryInvalid(f"is of version {version}; only {_VERSION} is read")
        return cls(**dict(zip(cls.__slots__, values, strict=True)))


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """The entries of one directory, four uint64 arrays of shape (n,), by ascending id."""

    ids: npt.NDArray[np.uint64]
    """Id of the first tile of an entry."""
    offsets: npt.NDArray[np.uint64]
    """Where the bytes start, in the tile data, or in the leaf section where the run is 0."""
    lengths: npt.NDArray[np.uint64]
    """Number of bytes."""
    runs: npt.NDArray[np.uint64]
    """Consecutive tiles with the same bytes; 0 where the entry points to a leaf directory."""

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Entries:
        """Return entries `start` to `stop`, as views."""
        rows = slice(start, stop)
        return Entries(self.ids[rows], self.offsets[rows], self.lengths[rows], self.runs[rows])


def joined(first: Entries, second: Entries) -> Entries:
    """Return the entries of two directories as those of one."""
    return Entries(
        np.concatenate([first.ids, second.ids]),
        np.concatenate([first.offsets, second.offsets]),
        np.concatenate([first.lengths, second.lengths]),
        np.concatenate([first.runs, second.runs]),
    )


def encode(entries: Entries) -> bytes:
    """Return a directory's bytes before compression."""
    count = np.array([len(entries)], dtype=np.uint64)
    starts = entries.offsets + np.uint64(1)
    starts[1:][entries.offsets[1:] == entries.offsets[:-1] + entries.lengths[:-1]] = 0
    deltas = np.diff(entries.ids, prepend=np.uint64(0))
    return _to_varints(np.concatenate([count, deltas, entries.runs, entries.lengths, starts]))


def decode(data: bytes) -> Entries:
    """Return the entries of an uncompressed directory; raises DirectoryInvalid."""
    values = _from_varints(data)
    count = int(values[0])
    if count == 0:
        raise DirectoryInvalid("is empty")
    if len(values) != 4 * count + 1:
        raise DirectoryInvalid(f"names {count} entries and holds {len(values) - 1} numbers for them")
    deltas, runs, lengths, starts = values[1:].reshape(4, count)
    ids = np.cumsum(deltas, dtype=np.uint64)
    if np.any(ids[1:] < ids[:-1]) or max(int(runs.max()), int(lengths.max())) > _MOST_32_BITS:
        raise DirectoryInvalid("holds a number that is out of range")
    if starts[0] == 0:
        raise DirectoryInvalid("starts with an entry that follows no other")
    return Entries(ids, _offsets(starts, lengths), lengths, runs)


def _offsets(starts: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return offsets from what is stored: offset + 1, or 0 where an entry follows the one before."""
    before = np.cumsum(lengths, dtype=np.uint64) - lengths
    anchors = np.maximum.accumulate(np.where(starts != 0, np.arange(len(starts)), 0))
    # Differences may wrap below zero; the sum wraps back.
    offsets: npt.NDArray[np.uint64] = (starts - np.uint64(1) - before)[anchors] + before
    return offsets


def deflate(data: bytes) -> bytes:
    """Return a gzip member that depends on `data` alone, not on time or system."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(data) + packer.flush()
    return _GZIP_START + body + struct.pack("<II", zlib.crc32(data), len(data) & _MOST_32_BITS)


def enclose(data: bytes) -> bytes:
    """Return a gzip member that holds `data` as it is, uncompressed.

    Its bytes follow from `data` alone, all of them, also those that no
    checksum covers; so a reader can tell whether any of them was changed.
    """
    parts = [_GZIP_START]
    for start in range(0, max(len(data), 1), _MOST_STORED_BYTES):
        part = data[start : start + _MOST_STORED_BYTES]
        last = start + _MOST_STORED_BYTES >= len(data)
        parts.append(struct.pack("<BHH", last, len(part), len(part) ^ _MOST_STORED_BYTES) + part)
    parts.append(struct.pack("<II", zlib.crc32(data), len(data) & _MOST_32_BITS))
    return b"".join(parts)


def gzip_doubt(data: bytes) -> str:
    """Return what no writer of gzip writes, among the bits that no checksum covers; empty where nothing.

    `data` is a sound member. Looked at are its header and the unused bits of the
    last byte of the stream (RFC 1951: writers leave them 0).
    """
    flags, effort, system = data[3], data[8], data[9]
    if flags & 0xE0 or effort not in _GZIP_EFFORTS or system not in _GZIP_SYSTEMS:
        return "has a gzip header with values that have no meaning"
    body = bytearray(data[10:-8])
    if flags or not body or not body[-1]:
        return ""
    whole = zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(body), _MOST_INFLATED_BYTES)
    body[-1] ^= 1 << body[-1].bit_length() - 1
    changed = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        same = changed.decompress(bytes(body), _MOST_INFLATED_BYTES) == whole and changed.eof
    except zlib.error:
        return ""
    return "has bits behind the end of its compressed data" if same else ""


def inflate(data: bytes, compression: int) -> bytes:
    """Return what `data` holds, by a compression number; raises DirectoryInvalid."""
    if compression == NONE:
        return data
    if compression != GZIP:
        name = COMPRESSIONS[compression] if compression < len(COMPRESSIONS) else str(compression)
        raise DirectoryInvalid(f"has the compression {name}; only none and gzip are read")
    parts = []
    while data:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            parts.append(member.decompress(data, _MOST_INFLATED_BYTES))
        except zlib.error as error:
            raise DirectoryInvalid(f"is no sound gzip ({error})") from error
        if not member.eof:
            raise DirectoryInvalid("is cut short or larger than can be right")
        data = member.unused_data
    return b"".join(parts)


def _to_varints(values: npt.NDArray[np.uint64]) -> bytes:
    """Return little-endian base-128 numbers of seven bits a byte, the high bit set on all but the last."""
    sizes = np.ones(len(values), dtype=np.intp)
    for shift in range(7, 64, 7):
        longer = values >> np.uint64(shift) != 0
        if not longer.any():
            break
        sizes += longer
    ends = np.cumsum(sizes)
    octets = np.empty(ends[-1], dtype=np.uint8)
    for position in range(int(sizes.max())):
        chosen = np.flatnonzero(sizes > position)
        bits = values[chosen] >> np.uint64(7 * position) & np.uint64(127)
        more = (sizes[chosen] > position + 1).astype(np.uint8)
        octets[ends[chosen] - sizes[chosen] + position] = bits.astype(np.uint8) | more << 7
    return octets.tobytes()


def _from_varints(data: bytes) -> npt.NDArray[np.uint64]:
    octets = np.frombuffer(data, dtype=np.uint8)
    if not len(octets) or octets[-1] >= 128:
        raise DirectoryInvalid("is cut short within a number")
    ends = np.flatnonzero(octets < 128)
    sizes = np.diff(ends, prepend=-1)
    longest = int(sizes.max())
    if longest > 10 or (longest == 10 and octets[ends[sizes == 10]].max() > 1):
        raise DirectoryInvalid("holds a number of more than 64 bits")
    values = np.zeros(len(ends), dtype=np.uint64)
    for position in range(longest):
        chosen = np.flatnonzero(sizes > position)
        bits = octets[ends[chosen] - sizes[chosen] + 1 + position] & 127
        values[chosen] |= bits.astype(np.uint64) << np.uint64(7 * position)
    return values


@dataclass(frozen=True, slots=True)
class Visit:
    """A leaf directory met on a walk."""

    depth: int
    """Of the directory that points to it; the root's is 1."""
    announced_id: int
    first_id: int
    offset: int
    length: int


def sections(header: Header) -> list[tuple[str, int, int]]:
    """Return (name, offset, length) of the sections that a header names."""
    return [
        ("root directory", header.root_offset, header.root_length),
        ("metadata", header.metadata_offset, header.metadata_length),
        ("leaf directories", header.leaf_directory_offset, header.leaf_directory_length),
        ("tile data", header.tile_data_offset, header.tile_data_length),
    ]


def box_e7(west: float, south: float, east: float, north: float) -> tuple[int, int, int, int]:
    """Return (west, south, east, north) in 1e-7 degrees, wide enough to have an area.

    A box across the antimeridian becomes the whole circle, since the header
    cannot say otherwise; the metadata states it as it is.
    """
    if west > east:
        west, east = -180.0, 180.0
    left, right = _interval_e7(west, east, 180)
    bottom, top = _interval_e7(south, north, 90)
    return left, bottom, right, top


def _interval_e7(low: float, high: float, limit: int) -> tuple[int, int]:
    start = min(max(round(low * DEGREE_E7), -limit * DEGREE_E7), limit * DEGREE_E7 - 1)
    return start, min(max(round(high * DEGREE_E7), start + 1), limit * DEGREE_E7)
