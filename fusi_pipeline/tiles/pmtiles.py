"""Read PMTiles v3 archives, and number tiles as they do.

Tile ids, which count the tiles of all zooms along Hilbert curves, come from
here and are known to the PMTiles modules only.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from pmtiles.tile import zxy_to_tileid

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable
from fusi_pipeline.tiles import directory as codec
from fusi_pipeline.tiles import stated
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.directory import (
    DEGREE_E7,
    DIRECTORY_DIGEST,
    HEADER_BYTES,
    HEADER_FACTS,
    TILE_DIGEST,
    Entries,
    Header,
)
from fusi_pipeline.tiles.grid import HILBERT_STEPS, Bounds, Tile, hilbert_indices

_DEPTH = 4
"""Directories from the root to a tile, at most, as other readers have it."""
_CACHED_ENTRIES = 1 << 20
_PART_BYTES = 1 << 20
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
            self.document: Mapping[str, object] = self._read_document()
            """The JSON metadata as it stands, digests and repeated header facts included."""
            self._metadata = _archive_metadata(self.header, self.document, path.stem)
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

    @property
    def states_bounds(self) -> bool:
        """Whether it states bounds that can be right; its metadata has the world's where not."""
        return _bounds(self.header, self.document.get("bounds")) is not None

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
        for entries in self.walk(int(low), int(high)):
            starts = np.maximum(entries.ids, low)
            counts = np.maximum(np.minimum(entries.ids + entries.runs, high), starts) - starts
            firsts = np.cumsum(counts) - counts
            places = np.arange(counts.sum(), dtype=np.uint64)
            parts.append(np.repeat(starts - firsts, counts.astype(np.int64)) + places)
        return np.stack(_columns_rows(z, np.concatenate(parts) - low), axis=1)

    def counts(self) -> dict[int, int]:
        """Return the number of tiles at each zoom that has some."""
        found: dict[int, int] = {}
        for entries in self.walk():
            ends = entries.ids + entries.runs
            for z in range(zoom_of(int(entries.ids[0])), min(zoom_of(int(ends[-1]) - 1), 31) + 1):
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

    def walk(
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
            yield from self.walk(low, high, visited, leaf, depth + 1)
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

    def section(self, what: str) -> Iterator[bytes]:
        """Yield the bytes of a section, by its name in `directory.sections`, in parts of a MiB at most."""
        ((offset, length),) = [place for name, *place in codec.sections(self.header) if name == what]
        for start in range(offset, offset + length, _PART_BYTES):
            yield self._bytes(start, min(_PART_BYTES, offset + length - start), what)

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

    def _read_document(self) -> Mapping[str, object]:
        header = self.header
        stored = self._bytes(header.metadata_offset, header.metadata_length, "metadata")
        data = self._inflated(stored, "metadata")
        try:
            document = json.loads(data) if data else {}
        except (ValueError, RecursionError) as error:
            raise ArchiveUnreadable(self.path, "the metadata is no JSON") from error
        if not isinstance(document, dict):
            raise ArchiveUnreadable(self.path, "the metadata is no JSON object")
        return document


def zoom_of(tile_id: int) -> int:
    """Return the zoom of a tile id."""
    return ((3 * tile_id + 1).bit_length() - 1) // 2


def _archive_metadata(header: Header, document: Mapping[str, object], name: str) -> ArchiveMetadata:
    """Return metadata from header and JSON; `name` is for archives that have none, size 0 is unknown."""
    said = {key: stated.text(document.get(key)) for key in ("name", "description", "attribution")}
    known = {*said, "encoding", "tileSize", *HEADER_FACTS, TILE_DIGEST, DIRECTORY_DIGEST}
    kind = header.tile_type
    return ArchiveMetadata(
        name=said["name"] or name,
        minzoom=header.min_zoom,
        maxzoom=header.max_zoom,
        bounds=_bounds(header, document.get("bounds")) or stated.WORLD,
        description=said["description"],
        attribution=said["attribution"],
        format=codec.TILE_TYPES[kind] if kind < len(codec.TILE_TYPES) else "",
        encoding=stated.encoding(document.get("encoding")),
        tile_size=stated.number(document.get("tileSize")) or 0,
        extra={key: value for key, value in document.items() if key not in known},
    )


def _bounds(header: Header, noted: object) -> Bounds | None:
    """Return the header's box, or the noted one where that crosses the antimeridian; None where unsound.

    A header of zeros, as of a writer that does not know, is not sound.
    """
    crossing = stated.box(noted) if isinstance(noted, list) else None
    if crossing is not None and crossing.west > crossing.east:
        return crossing
    corners = (header.min_lon_e7, header.min_lat_e7, header.max_lon_e7, header.max_lat_e7)
    found = stated.box([value / DEGREE_E7 for value in corners])
    return None if found is None or found.west > found.east else found
