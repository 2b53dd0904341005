"""Write a PMTiles v3 archive in one pass, in tile order, in bounded memory.

The file is laid out as header and root directory (in the first 16 KiB, unused
bytes zero), tile data, metadata, leaf directories.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from array import array
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Self

import numpy as np
from pmtiles.tile import zxy_to_tileid

from fusi_pipeline.errors import ArchiveUnsuitable
from fusi_pipeline.tiles import directory as codec
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.digested_file import DigestedFile
from fusi_pipeline.tiles.directory import (
    DEGREE_E7,
    DIRECTORY_DIGEST,
    FIRST_READ_BYTES,
    HEADER_BYTES,
    ROOT_BYTES,
    TILE_DIGEST,
    Entries,
    Header,
)
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import MAX_ZOOM, Tile

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
        _metadata_json(metadata, {})
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
            self._file = stack.enter_context(scratch.open("w+b", buffering=0))
            self._file.write(bytes(FIRST_READ_BYTES))
            self._leaves = stack.enter_context(_Leaves(self.path.parent, self._leaf_entries))
            self._tiles = stack.enter_context(DigestedFile(self._file))
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
        offset = self.bytes_written
        known = self._contents.place(data, offset, self._tiles)
        if known == offset:
            self._tiles.append(data)
            self.bytes_written += len(data)
        self._leaves.add(tile_id, known - FIRST_READ_BYTES, len(data))

    def _finish(self, kind: object, _error: object, _trace: object) -> None:
        if kind is not None:
            return
        if not self.tiles_written:
            raise ArchiveUnsuitable(self.path, "there is no tile to put into it")
        root = self._leaves.finish()
        digests = {
            TILE_DIGEST: self._tiles.finish(),
            DIRECTORY_DIGEST: self._leaves.digest(root),
        }
        facts = replace(self.metadata, minzoom=self._first_zoom, maxzoom=self._last_zoom)
        metadata = codec.enclose(_metadata_json(facts, digests))
        header = self._header(facts, len(root), len(metadata))
        self._file.write(metadata)
        self._leaves.copy_to(self._file)
        self._file.seek(0)
        self._file.write(header.to_bytes() + root)
        self.bytes_written = header.leaf_directory_offset + header.leaf_directory_length

    def _header(self, facts: ArchiveMetadata, root_length: int, metadata_length: int) -> Header:
        box = facts.bounds
        west, south, east, north = codec.box_e7(box.west, box.south, box.east, box.north)
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
    """Where in the file the contents met so far are stored, in bounded memory.

    Small ones are known by a strong hash. A larger one is known by its length
    and a few of its bytes, and held against the bytes of the file where another had the same.
    """

    def __init__(self, recent: int) -> None:
        self.stored = 0
        self._recent_limit = recent
        self._small: dict[bytes, int] = {}
        self._recent: dict[bytes, int] = {}

    def place(self, data: bytes, offset: int, file: DigestedFile) -> int:
        """Return where `data` is stored; that is `offset`, from now on, where it is not known."""
        small = len(data) <= SMALL_TILE_BYTES
        key = hashlib.blake2b(data, digest_size=16).digest() if small else _sample(data)
        known = self._small.get(key) if small else None
        if known is not None:
            return known
        known = self._recent.pop(key, None)
        if known is None or not (small or file.holds(data, known)):
            known = offset
            self.stored += 1
            if small and len(self._small) < SMALL_TILES:
                self._small[key] = offset
                return offset
        self._recent[key] = known
        if len(self._recent) > self._recent_limit:
            del self._recent[next(iter(self._recent))]
        return known


def _sample(data: bytes) -> bytes:
    """Return the length of some bytes and a few of them; images that differ mostly differ in these."""
    third = len(data) // 3
    parts = (data[third : third + 8], data[2 * third : 2 * third + 8], data[-16:])
    return b"".join((len(data).to_bytes(8, "little"), *parts))


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

    def digest(self, root: bytes) -> str:
        """Return the SHA-256 of root and leaf directories, as `finish` left them."""
        found = hashlib.sha256(root)
        self._spool.seek(0)
        while part := self._spool.read(1 << 20):
            found.update(part)
        return found.hexdigest()

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


def _metadata_json(metadata: ArchiveMetadata, digests: Mapping[str, str]) -> bytes:
    """Return the JSON section; raises ValueError or TypeError for extra facts that are no JSON.

    It repeats what the header states, so that a change of either is noticed.
    """
    box = metadata.bounds
    said: dict[str, object] = {
        "name": metadata.name,
        "description": metadata.description,
        "attribution": metadata.attribution,
        "encoding": metadata.encoding,
        "tileSize": metadata.tile_size,
    }
    document: dict[str, object] = {
        **metadata.extra,
        **{key: value for key, value in said.items() if value},
        "minzoom": metadata.minzoom,
        "maxzoom": metadata.maxzoom,
        "bounds": [box.west, box.south, box.east, box.north],
        "center": list(metadata.center),
        "format": metadata.format,
        **digests,
    }
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)
    return text.encode()
