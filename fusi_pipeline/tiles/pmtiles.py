"""PMTiles v3: write an archive in one pass, read any, and check one.

The only place that knows tile ids, which count the tiles of all zooms along
Hilbert curves. The writer lays a file out as header and root directory (in
the first 16 KiB, unused bytes zero), tile data, metadata, leaf directories.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

import numpy as np
import numpy.typing as npt
from pmtiles.tile import zxy_to_tileid

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, ArchiveUnsuitable
from fusi_pipeline.tiles import directory as codec
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.directory import (
    DEGREE_E7,
    FIRST_READ_BYTES,
    HEADER_BYTES,
    ROOT_BYTES,
    Entries,
    Header,
)
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import HILBERT_STEPS, MAX_ZOOM, Bounds, Tile, hilbert_indices

SMALL_TILE_BYTES = 512
"""Tiles up to this size are remembered for the whole run: empty sea repeats far apart."""
SMALL_TILES = 1 << 20
"""How many of them at most."""
RECENT_TILES = 1 << 18
"""How many larger tiles are remembered, those last met."""

_LEAF_ENTRIES = 4096
_MOST_LEAVES = 1000
"""An entry of the root takes 15 bytes at worst, so that 1000 fit it however badly they compress."""
_SPOOL_BYTES = 1 << 26
_DEPTH = 4
"""Directories from the root to a tile, at most, as other readers have it."""
_CACHED_ENTRIES = 1 << 20
_HEADER_FACTS = {"minzoom", "maxzoom", "bounds", "center", "format"}
_BASES = np.array([(4**z - 1) // 3 for z in range(33)], dtype=np.uint64)
"""The first tile id of each zoom."""


def _tiles_of_steps() -> npt.NDArray[np.uint16]:
    """Return HILBERT_STEPS turned round: from orientation and index to orientation and cell."""
    key = np.arange(1024, dtype=np.uint16)
    turned = np.empty_like(key)
    turned[key & 0x300 | HILBERT_STEPS & 255] = HILBERT_STEPS & 0x300 | key & 255
    return turned


_TILE_STEPS = _tiles_of_steps()


def tile_ids(z: int, xs: npt.ArrayLike, ys: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return the PMTiles ids of tiles of one zoom; `xs`, `ys` and the result have shape (n,)."""
    ids: npt.NDArray[np.uint64] = hilbert_indices(z, xs, ys) + _BASES[z]
    return ids


def tile_positions(
    ids: npt.ArrayLike,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return (z, x, y) of tile ids of any zooms up to 31, three arrays of their shape (n,)."""
    wanted = np.asarray(ids, dtype=np.uint64)
    zooms = (np.searchsorted(_BASES, wanted, side="right") - 1).astype(np.uint8)
    xs = np.empty(wanted.shape, dtype=np.uint32)
    ys = np.empty(wanted.shape, dtype=np.uint32)
    for z in np.unique(zooms):
        chosen = zooms == z
        xs[chosen], ys[chosen] = _columns_rows(int(z), wanted[chosen] - _BASES[z])
    return zooms, xs, ys


def _columns_rows(
    z: int, indices: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Return columns and rows of Hilbert indices, the inverse of `hilbert_indices`."""
    xs = np.zeros(indices.shape, dtype=np.uint32)
    ys = np.zeros(indices.shape, dtype=np.uint32)
    steps = -(-z // 4)
    state = np.full(indices.shape, (4 * steps - z) % 2 << 9, dtype=np.uint16)
    for shift in range(8 * (steps - 1), -1, -8):
        step = _TILE_STEPS[state | (indices >> np.uint64(shift) & np.uint64(255)).astype(np.uint16)]
        xs = xs << 4 | step >> 4 & 15
        ys = ys << 4 | step & 15
        state = step & 0x300
    return xs, ys


class PMTilesWriter:
    """A new archive, written in one pass. Use it as a context manager.

    The file takes its name when the block ends well, and else there is none.
    The same tiles, metadata and expectation make the same bytes. Equal tiles
    are stored once, as far as memory is allowed to remember them (`recent`
    large ones; see also SMALL_TILES). Raises ArchiveUnsuitable for a format
    that is no image's and, at the end, for no tile at all; DiskFull and
    OutputUnwritable for the volume.
    """

    def __init__(
        self,
        path: Path,
        metadata: ArchiveMetadata,
        expected_tiles: int,
        *,
        leaf_entries: int | None = None,
        recent: int = RECENT_TILES,
    ) -> None:
        if metadata.format not in codec.TILE_TYPES[2:6]:
            raise ArchiveUnsuitable(path, f"tiles of format {metadata.format!r} are no images to write")
        _metadata_json(metadata)
        self.path = path
        self.metadata = metadata
        """May be replaced until the block ends; the format is settled by then."""
        self.tiles_written = 0
        """Tiles written so far, equal ones counted each time."""
        self.bytes_written = FIRST_READ_BYTES
        """Length of the file so far."""
        self._leaf_entries = leaf_entries or max(_LEAF_ENTRIES, -(-expected_tiles // _MOST_LEAVES))
        self._next_id = 0
        self._first_zoom = self._last_zoom = 0
        self._contents = _Contents(recent)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            scratch = stack.enter_context(replacing(self.path))
            self._file = stack.enter_context(scratch.open("wb"))
            self._file.write(bytes(FIRST_READ_BYTES))
            self._leaves = stack.enter_context(_Leaves(self.path.parent, self._leaf_entries))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.__exit__(*exception)  # type: ignore[arg-type]

    def write(self, tile: Tile, data: bytes) -> None:
        """Append a tile; raises ValueError for no bytes and for a tile id not above the last one's."""
        z, x, y = tile.z, tile.x, tile.y
        if not 0 <= z <= MAX_ZOOM or x < 0 or y < 0 or not data:
            raise ValueError(f"tile {tile}: outside the grid or without bytes")
        tile_id = zxy_to_tileid(z, x, y)
        if tile_id < self._next_id:
            raise ValueError(f"tile {tile}: tiles must come in ascending order of their tile ids")
        if not self.tiles_written:
            self._first_zoom = z
        self._last_zoom = z
        self._next_id = tile_id + 1
        self.tiles_written += 1
        offset = self.bytes_written - FIRST_READ_BYTES
        known = self._contents.place(data, offset)
        if known == offset:
            self._file.write(data)
            self.bytes_written += len(data)
        self._leaves.add(tile_id, known, len(data))

    def _finish(self, kind: object, _error: object, _trace: object) -> None:
        if kind is not None:
            return
        if not self.tiles_written:
            raise ArchiveUnsuitable(self.path, "there is no tile to put into it")
        root = self._leaves.finish()
        metadata = codec.deflate(_metadata_json(self.metadata))
        header = self._header(len(root), len(metadata))
        self._file.write(metadata)
        self._leaves.copy_to(self._file)
        self._file.seek(0)
        self._file.write(header.to_bytes() + root)
        self.bytes_written = header.leaf_directory_offset + header.leaf_directory_length

    def _header(self, root_length: int, metadata_length: int) -> Header:
        facts = replace(self.metadata, minzoom=self._first_zoom, maxzoom=self._last_zoom)
        west, south, east, north = _bounds_e7(facts.bounds)
        lon, lat, center_zoom = facts.center
        return Header(
            root_offset=HEADER_BYTES,
            root_length=root_length,
            metadata_offset=self.bytes_written,
            metadata_length=metadata_length,
            leaf_directory_offset=self.bytes_written + metadata_length,
            leaf_directory_length=self._leaves.length,
            tile_data_offset=FIRST_READ_BYTES,
            tile_data_length=self.bytes_written - FIRST_READ_BYTES,
            addressed_tiles_count=self.tiles_written,
            tile_entries_count=self._leaves.entries,
            tile_contents_count=self._contents.stored,
            clustered=1,
            internal_compression=codec.GZIP,
            tile_compression=codec.NONE,
            tile_type=codec.TILE_TYPES.index(self.metadata.format),
            min_zoom=facts.minzoom,
            max_zoom=facts.maxzoom,
            min_lon_e7=west,
            min_lat_e7=south,
            max_lon_e7=east,
            max_lat_e7=north,
            center_zoom=center_zoom,
            center_lon_e7=round(lon * DEGREE_E7),
            center_lat_e7=round(lat * DEGREE_E7),
        )


class _Contents:
    """Where the contents met so far are stored, by a strong hash, in bounded memory."""

    def __init__(self, recent: int) -> None:
        self.stored = 0
        self._recent_limit = recent
        self._small: dict[bytes, int] = {}
        self._recent: dict[bytes, int] = {}

    def place(self, data: bytes, offset: int) -> int:
        """Return where `data` is stored; that is `offset`, from now on, where it is not known."""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        known = self._small.get(digest)
        if known is not None:
            return known
        known = self._recent.pop(digest, None)
        if known is None:
            known = offset
            self.stored += 1
            if len(data) <= SMALL_TILE_BYTES and len(self._small) < SMALL_TILES:
                self._small[digest] = offset
                return offset
        self._recent[digest] = known
        if len(self._recent) > self._recent_limit:
            del self._recent[next(iter(self._recent))]
        return known


class _Leaves:
    """Directory entries in ascending order, serialised leaf by leaf as they come."""

    def __init__(self, folder: Path, leaf_entries: int) -> None:
        self.entries = 0
        self.length = 0
        self._folder = folder
        self._leaf_entries = leaf_entries
        self._spool = self._new_spool()
        self._pointers: list[tuple[int, int, int, int]] = []
        self._clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._spool.close()

    def add(self, tile_id: int, offset: int, length: int) -> None:
        """Append a tile, to the run of the last entry where it continues that."""
        ids, offsets, lengths, runs = self._columns
        if ids and offsets[-1] == offset and ids[-1] + runs[-1] == tile_id and runs[-1] < 0xFFFFFFFF:
            runs[-1] += 1
            return
        if len(ids) == self._leaf_entries:
            self._flush()
            ids, offsets, lengths, runs = self._columns
        ids.append(tile_id)
        offsets.append(offset)
        lengths.append(length)
        runs.append(1)
        self.entries += 1

    def finish(self) -> bytes:
        """Return the compressed root directory: of the tiles where they fit it, else of leaves."""
        if not self._pointers:
            root = _packed(self._buffered())
            if len(root) <= ROOT_BYTES:
                return root
        self._flush()
        while len(root := _packed(_columns_entries(self._pointers))) > ROOT_BYTES:
            self._halve()
        return root

    def copy_to(self, file: IO[bytes]) -> None:
        """Append the leaf directories to a file."""
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, file, 1 << 20)

    def _clear(self) -> None:
        self._columns = (array("Q"), array("Q"), array("Q"), array("Q"))

    def _buffered(self) -> Entries:
        ids, offsets, lengths, runs = (np.frombuffer(column, dtype=np.uint64) for column in self._columns)
        return Entries(ids, offsets, lengths, runs)

    def _flush(self) -> None:
        if self._columns[0]:
            self._append(self._buffered())
            self._clear()

    def _append(self, entries: Entries) -> None:
        leaf = _packed(entries)
        self._pointers.append((int(entries.ids[0]), self.length, len(leaf), 0))
        self._spool.write(leaf)
        self.length += len(leaf)

    def _halve(self) -> None:
        """Join leaves two by two: more tiles came than were expected, and the root is too long."""
        with self._spool as old:
            pointers, self._pointers, self.length = self._pointers, [], 0
            self._spool = self._new_spool()
            for start in range(0, len(pointers), 2):
                leaves = [_unpacked(old, pointer) for pointer in pointers[start : start + 2]]
                self._append(codec.joined(*leaves) if len(leaves) == 2 else leaves[0])

    def _new_spool(self) -> tempfile.SpooledTemporaryFile[bytes]:
        return tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(self._folder))


def _packed(entries: Entries) -> bytes:
    return codec.deflate(codec.encode(entries))


def _unpacked(file: IO[bytes], pointer: tuple[int, int, int, int]) -> Entries:
    _, offset, length, _ = pointer
    file.seek(offset)
    return codec.decode(codec.inflate(file.read(length), codec.GZIP))


def _columns_entries(rows: list[tuple[int, int, int, int]]) -> Entries:
    return Entries(*np.array(rows, dtype=np.uint64).T)


def _bounds_e7(bounds: Bounds) -> tuple[int, int, int, int]:
    """Return (west, south, east, north) in 1e-7 degrees, wide enough to have an area.

    A box across the antimeridian becomes the whole circle, since the header
    cannot say otherwise; the metadata repeats it as it is.
    """
    if bounds.west > bounds.east:
        bounds = replace(bounds, west=-180, east=180)
    west, east = _interval_e7(bounds.west, bounds.east, 180)
    south, north = _interval_e7(bounds.south, bounds.north, 90)
    return west, south, east, north


def _interval_e7(low: float, high: float, limit: int) -> tuple[int, int]:
    start = min(max(round(low * DEGREE_E7), -limit * DEGREE_E7), limit * DEGREE_E7 - 1)
    return start, min(max(round(high * DEGREE_E7), start + 1), limit * DEGREE_E7)


def _metadata_json(metadata: ArchiveMetadata) -> bytes:
    """Return the JSON section; raises ValueError or TypeError for extra facts that are no JSON."""
    facts: dict[str, object] = {
        "name": metadata.name,
        "description": metadata.description,
        "attribution": metadata.attribution,
        "encoding": metadata.encoding,
        "tileSize": metadata.tile_size,
    }
    box = metadata.bounds
    document: dict[str, object] = {
        **metadata.extra,
        **{key: value for key, value in facts.items() if value},
    }
    if box.west > box.east:
        document["bounds"] = [box.west, box.south, box.east, box.north]
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.encode()


class PMTilesReader:
    """An open PMTiles v3 archive: any layout, any depth of directories. Use it as a context manager.

    Raises ArchiveMissing where there is no file and ArchiveUnreadable where
    it is cut short or not sound; directories and tiles are looked at when
    asked for. Threads may share one. Tiles are returned as they are stored,
    except that gzip around images is taken off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack:
            try:
                self._file = stack.enter_context(path.open("rb"))
            except FileNotFoundError as error:
                raise ArchiveMissing(path) from error
            except OSError as error:
                raise ArchiveUnreadable(path, error.strerror or str(error)) from error
            self._size = os.fstat(self._file.fileno()).st_size
            self.header = self._read_header()
            self._root = self._directory(self.header.root_offset, self.header.root_length, "root directory")
            self._metadata = self._read_metadata()
            stack.pop_all()
        self._leaves: OrderedDict[int, Entries] = OrderedDict()
        self._cached = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    @property
    def metadata(self) -> ArchiveMetadata:
        """What the archive says of itself."""
        return self._metadata

    def read(self, tile: Tile) -> bytes | None:
        """Return a tile's bytes, or None where the archive has none."""
        if not (0 <= tile.z <= 31 and 0 <= tile.x < 1 << tile.z and 0 <= tile.y < 1 << tile.z):
            return None
        place = self._find(zxy_to_tileid(tile.z, tile.x, tile.y))
        if place is None:
            return None
        data = self._bytes(self.header.tile_data_offset + place[0], place[1], f"tile {tile}")
        if self.header.tile_compression == codec.GZIP and self._metadata.format != "pbf":
            return self._inflated(data, f"tile {tile}")
        return data

    def coordinates(self, z: int) -> npt.NDArray[np.uint32]:
        """Return the (x, y) of every tile at a zoom, shape (n, 2), in the order of tile ids."""
        if not 0 <= z <= 31:
            return np.empty((0, 2), dtype=np.uint32)
        low, high = _BASES[z], _BASES[z + 1]
        parts = [np.empty(0, dtype=np.uint64)]
        for entries in self._walk(int(low), int(high)):
            starts = np.maximum(entries.ids, low)
            counts = np.maximum(np.minimum(entries.ids + entries.runs, high), starts) - starts
            firsts = np.cumsum(counts) - counts
            places = np.arange(counts.sum(), dtype=np.uint64)
            parts.append(np.repeat(starts - firsts, counts.astype(np.int64)) + places)
        return np.stack(_columns_rows(z, np.concatenate(parts) - low), axis=1)

    def counts(self) -> dict[int, int]:
        """Return the number of tiles at each zoom that has some."""
        found: dict[int, int] = {}
        for entries in self._walk():
            ends = entries.ids + entries.runs
            for z in range(_zoom(int(entries.ids[0])), min(_zoom(int(ends[-1]) - 1), 31) + 1):
                low, high = _BASES[z], _BASES[z + 1]
                inside = np.clip(ends, low, high) - np.clip(entries.ids, low, high)
                found[z] = found.get(z, 0) + int(inside.sum())
        return {z: count for z, count in sorted(found.items()) if count}

    def _find(self, tile_id: int) -> tuple[int, int] | None:
        """Return (offset, length) of a tile within the tile data."""
        entries = self._root
        for _ in range(_DEPTH):
            row = int(entries.ids.searchsorted(np.uint64(tile_id), side="right")) - 1
            if row < 0:
                return None
            offset, length, run = int(entries.offsets[row]), int(entries.lengths[row]), int(entries.runs[row])
            if run:
                return (offset, length) if tile_id - int(entries.ids[row]) < run else None
            entries = self._cached_leaf(offset, length)
        raise ArchiveUnreadable(self.path, f"its directories are more than {_DEPTH} deep")

    def _walk(
        self,
        low: int = 0,
        high: int = 1 << 64,
        visited: list[codec.Visit] | None = None,
        entries: Entries | None = None,
        depth: int = 1,
    ) -> Iterator[Entries]:
        """Yield the tile entries below a directory (the root) in order, in parts.

        Leaves that hold no id of `low` to `high` are passed over; those read are noted in `visited`.
        """
        if depth > _DEPTH:
            raise ArchiveUnreadable(self.path, f"its directories are more than {_DEPTH} deep")
        here = self._root if entries is None else entries
        start = 0
        for row in np.flatnonzero(here.runs == 0).tolist():
            if row > start:
                yield here.part(start, row)
            start = row + 1
            first, after = int(here.ids[row]), int(here.ids[start]) if start < len(here) else 1 << 64
            if after <= low or first >= high:
                continue
            offset, length = int(here.offsets[row]), int(here.lengths[row])
            leaf = self._leaf(offset, length)
            if visited is not None:
                visited.append(codec.Visit(depth, first, int(leaf.ids[0]), offset, length))
            yield from self._walk(low, high, visited, leaf, depth + 1)
        if start < len(here):
            yield here.part(start, len(here))

    def _cached_leaf(self, offset: int, length: int) -> Entries:
        """Return a leaf directory, kept while it is among those last used."""
        with self._lock:
            found = self._leaves.get(offset)
            if found is not None:
                self._leaves.move_to_end(offset)
                return found
        leaf = self._leaf(offset, length)
        with self._lock:
            if offset not in self._leaves:
                self._leaves[offset] = leaf
                self._cached += len(leaf)
            while self._cached > _CACHED_ENTRIES and len(self._leaves) > 1:
                _, oldest = self._leaves.popitem(last=False)
                self._cached -= len(oldest)
        return leaf

    def _leaf(self, offset: int, length: int) -> Entries:
        if offset + length > self.header.leaf_directory_length:
            raise ArchiveUnreadable(self.path, f"a leaf directory at {offset} lies outside their section")
        return self._directory(self.header.leaf_directory_offset + offset, length, "leaf directory")

    def _directory(self, offset: int, length: int, what: str) -> Entries:
        data = self._inflated(self._bytes(offset, length, what), what)
        try:
            return codec.decode(data)
        except codec.DirectoryInvalid as error:
            raise ArchiveUnreadable(self.path, f"the {what} at {offset} {error}") from error

    def _inflated(self, data: bytes, what: str) -> bytes:
        tile = what.startswith("tile ")
        compression = self.header.tile_compression if tile else self.header.internal_compression
        try:
            return codec.inflate(data, compression)
        except codec.DirectoryInvalid as error:
            raise ArchiveUnreadable(self.path, f"the {what} {error}") from error

    def _bytes(self, offset: int, length: int, what: str) -> bytes:
        """Return a range of the file, wholly; raises ArchiveUnreadable."""
        if offset + length > self._size:
            reason = f"the {what} should end at byte {offset + length}, the file ends at {self._size}"
            raise ArchiveUnreadable(self.path, reason)
        try:
            data = os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise ArchiveUnreadable(self.path, f"the {what}: {error.strerror or error}") from error
        if len(data) < length:
            raise ArchiveUnreadable(self.path, f"the {what} at {offset} is cut short")
        return data

    def _read_header(self) -> Header:
        try:
            header = Header.from_bytes(self._bytes(0, min(HEADER_BYTES, self._size), "header"))
        except codec.DirectoryInvalid as error:
            raise ArchiveUnreadable(self.path, f"no PMTiles archive: the header {error}") from error
        for what, offset, length in codec.sections(header):
            if offset + length > self._size:
                reason = f"the {what} should end at byte {offset + length}, the file ends at {self._size}"
                raise ArchiveUnreadable(self.path, reason)
        return header

    def _read_metadata(self) -> ArchiveMetadata:
        header = self.header
        stored = self._bytes(header.metadata_offset, header.metadata_length, "metadata")
        data = self._inflated(stored, "metadata")
        try:
            document = json.loads(data) if data else {}
        except (ValueError, RecursionError) as error:
            raise ArchiveUnreadable(self.path, f"the metadata is no JSON ({error})") from error
        if not isinstance(document, dict):
            raise ArchiveUnreadable(self.path, "the metadata is no JSON object")
        return _archive_metadata(header, document, self.path.stem)


def _zoom(tile_id: int) -> int:
    """Return the zoom of a tile id."""
    return ((3 * tile_id + 1).bit_length() - 1) // 2


def _archive_metadata(header: Header, document: Mapping[str, object], name: str) -> ArchiveMetadata:
    """Return metadata from header and JSON; `name` is for archives that have none, size 0 is unknown."""
    said = {key: str(document.get(key) or "") for key in ("name", "description", "attribution", "encoding")}
    size = str(document.get("tileSize", ""))
    known = {*said, "tileSize", *_HEADER_FACTS}
    kind = header.tile_type
    return ArchiveMetadata(
        name=said["name"] or name,
        minzoom=header.min_zoom,
        maxzoom=header.max_zoom,
        bounds=_bounds(header, document.get("bounds")),
        description=said["description"],
        attribution=said["attribution"],
        format=codec.TILE_TYPES[kind] if kind < len(codec.TILE_TYPES) else "",
        encoding=said["encoding"],
        tile_size=int(size) if size.isascii() and size.isdigit() else 0,
        extra={key: value for key, value in document.items() if key not in known},
    )


def _bounds(header: Header, noted: object) -> Bounds:
    """Return the header's box, or the noted one where that crosses the antimeridian."""
    west, south, east, north = (
        value / DEGREE_E7
        for value in (header.min_lon_e7, header.min_lat_e7, header.max_lon_e7, header.max_lat_e7)
    )
    numbers = isinstance(noted, list) and [float(v) for v in noted if isinstance(v, (int, float))]
    if numbers and len(numbers) == 4 and 180 >= numbers[0] > numbers[2] >= -180:
        return Bounds(*numbers)
    return Bounds(west, south, east, north)


def problems(path: Path) -> list[str]:
    """Return what is wrong with the structure of an archive, a sentence each; empty where it is sound.

    Derives every claim of the header from the directories again; looks into
    no tile. Whatever passes, `pmtiles verify` passes too. Raises ArchiveMissing.
    """
    try:
        with PMTilesReader(path) as reader:
            return [*codec.layout_problems(reader.header, path.stat().st_size), *_directory_problems(reader)]
    except ArchiveUnreadable as error:
        return [str(error).removeprefix(f"{path}: ")]


def _directory_problems(reader: PMTilesReader) -> list[str]:
    header = reader.header
    visited: list[codec.Visit] = []
    audit = codec.Audit(header.tile_data_length, header.clustered == 1)
    for entries in reader._walk(visited=visited):
        audit.feed(entries)
    if audit.pending:
        for entries in reader._walk():
            audit.resolve(entries)
    found = codec.leaf_problems(visited, header.leaf_directory_length) + audit.problems()
    for what, said, true in (
        ("tiles addressed", header.addressed_tiles_count, audit.tiles),
        ("tile entries", header.tile_entries_count, audit.entries),
        ("tile contents", header.tile_contents_count, audit.contents),
        ("as lowest zoom", header.min_zoom, _zoom(max(audit.first_id, 0))),
        ("as highest zoom", header.max_zoom, _zoom(max(audit.next_id - 1, 0))),
    ):
        if said != true:
            found.append(f"the header says {said} {what}, the directories {true}")
    return found
