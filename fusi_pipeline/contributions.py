"""Which inputs of a merge have a say in a tile, and a hash of all that decides about it.

Two merges in which a tile's key is the same make the same tile, so that its
bytes may be taken over. A key depends on the bytes of the tiles that are read
for it, on their inputs' options and on the rule, not on the rest of the archives.
Where keys differ, what each input puts in may still show that nothing changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fusi_pipeline import feather
from fusi_pipeline.merge_ledger import NO_DIGEST, TileRecord
from fusi_pipeline.progress import Progress
from fusi_pipeline.tasks import COPIED
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.overzoom import tiles_read

_HASH_BYTES = 16
_PART_BYTES = 8
_STRIDE = 256
_AROUND = [(0, 0), *((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y)]
"""Steps to a tile itself and to those around it."""
Digests = npt.NDArray[np.void]


class TileIndex:
    """The tiles of one input as 512 px tiles, each with a hash of what it is made of."""

    def __init__(self, zooms: dict[int, tuple[npt.NDArray[np.uint64], Digests]]) -> None:
        """`zooms` holds, for each zoom, keys (x << 32 | y) in ascending order and their hashes."""
        self._zooms = zooms

    def digest(self, tile: Tile) -> bytes | None:
        """Return the hash of a tile, None where there is no such tile."""
        found = self._zooms.get(tile.z)
        if found is None:
            return None
        keys, digests = found
        key = np.uint64(tile.x << 32 | tile.y)
        at = int(keys.searchsorted(key))
        return digests[at].tobytes() if at < len(keys) and keys[at] == key else None

    def coordinates(self, z: int) -> npt.NDArray[np.int64]:
        """Return the (x, y) of the tiles of a zoom, shape (n, 2)."""
        keys = self._zooms[z][0] if z in self._zooms else np.empty(0, dtype=np.uint64)
        return np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=1).astype(np.int64)

    @property
    def zooms(self) -> list[int]:
        """The zooms that have tiles."""
        return sorted(self._zooms)

    def identity(self) -> bytes:
        """Return a hash of all tiles."""
        digest = hashlib.blake2b(digest_size=_HASH_BYTES)
        for z in self.zooms:
            keys, digests = self._zooms[z]
            digest.update(f"{z}|{len(keys)}".encode() + keys.tobytes() + digests.tobytes())
        return digest.digest()


def indexed(one: TerrainInput) -> Generator[Progress, None, TileIndex]:
    """Return the index of an input: from its ledger where it has one, else by reading every tile."""
    ledger = _from_ledger(one)
    if ledger is not None:
        return ledger
    zooms: dict[int, tuple[npt.NDArray[np.uint64], Digests]] = {}
    places = {z: one.coordinates(z) for z in range(one.minzoom, one.maxzoom + 1)}
    total, done = sum(len(xy) for xy in places.values()), 0
    for z, xy in places.items():
        if not len(xy):
            continue
        keys = _keys(xy)
        order = np.argsort(keys)
        digests = np.empty(len(keys), dtype=f"V{_HASH_BYTES}")
        for row, (x, y) in enumerate(xy[order].tolist()):
            digests[row] = one.fingerprint(Tile(z, x, y))
            done += 1
            if done % _STRIDE == 0 or done == total:
                yield Progress("read", done, total, "tiles", subject=one.path.name)
        zooms[z] = keys[order], digests
    return TileIndex(zooms)


def _from_ledger(one: TerrainInput) -> TileIndex | None:
    reader = one.reader
    if not isinstance(reader, MBTilesReader) or not one.is_stored_plainly:
        return None
    parts = list(reader.digests())
    counts = reader.counts()
    if not parts or sum(map(len, parts)) != sum(counts.values()):
        return None
    rows = np.concatenate(parts)
    zooms = {}
    for z in range(one.minzoom, one.maxzoom + 1):
        chosen = rows[rows["z"] == z]
        keys = _keys(np.stack([chosen["x"], chosen["y"]], axis=1))
        order = np.argsort(keys)
        if len(keys):
            zooms[z] = keys[order], np.ascontiguousarray(chosen["digest"][order])
    return TileIndex(zooms)


def _keys(xy: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    columns, rows = xy[:, 0].astype(np.uint64), xy[:, 1].astype(np.uint64)
    return np.asarray(columns << np.uint64(32) | rows, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Contributions:
    """What has a say in one tile."""

    tile: Tile
    inputs: tuple[tuple[int, int], ...]
    """Number of each input, in order of precedence, and how many zooms above the tile its heights are."""
    key: bytes
    """Hash of all that decides about the tile's heights."""
    rule: bytes
    """Hash of the rule of the merge, 8 bytes."""
    parts: tuple[bytes, ...]
    """Hash of what each input puts in, 8 bytes each."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of each input, in order of precedence."""
        return tuple(number for number, _ in self.inputs)


class Contributors:
    """The inputs of one merge, asked tile by tile."""

    def __init__(
        self, inputs: Sequence[TerrainInput], indexes: Sequence[TileIndex], rule: str, feather_m: float
    ) -> None:
        self._inputs = inputs
        self._indexes = indexes
        self._options = [one.options.digest() + one.kind.encode() for one in inputs]
        self._rule = f"{rule}|{feather_m!r}".encode()
        self._feather_m = feather_m
        self._part = lru_cache(maxsize=4096)(self._part_uncached)

    def of(self, tile: Tile) -> Contributions:
        """Return what has a say in a tile."""
        digest = hashlib.blake2b(self._rule, digest_size=_HASH_BYTES)
        found: list[tuple[int, int]] = []
        parts: list[bytes] = []
        for number in range(len(self._inputs)):
            part = self._part(number, tile)
            if part is not None:
                found.append((number, part[0]))
                digest.update(self._options[number] + part[1])
                parts.append(_short(self._options[number] + part[1]))
        if self._feather_m and len(found) > 1:
            for number, _ in found[:-1]:
                for other in _around(tile, feather.reach_tiles(tile, self._feather_m)):
                    part = self._part(number, other)
                    digest.update(b"-" if part is None else part[1])
        return Contributions(tile, tuple(found), digest.digest(), _short(self._rule), tuple(parts))

    def digest(self, number: int, tile: Tile) -> bytes | None:
        """Return the hash of an input's own tile."""
        return self._indexes[number].digest(tile)

    def _part_uncached(self, number: int, tile: Tile) -> tuple[int, bytes] | None:
        """Return how many zooms above a tile an input's heights are, and a hash of what is read for them."""
        index = self._indexes[number]
        own = index.digest(tile)
        if own is not None:
            return 0, b"0" + own
        levels = self._inputs[number].levels_up(tile, lambda one: index.digest(one) is not None)
        if levels is None:
            return None
        read = [index.digest(one) or bytes(_HASH_BYTES) for one in tiles_read(tile, levels)]
        return levels, f"{levels}|{tile.x}|{tile.y}".encode() + b"".join(read)


def carried_over(record: TileRecord, wanted: Contributions, mode: str) -> TileRecord | None:
    """Return an earlier record of a tile as the record of the tile now wanted; None where it is to be made.

    It stands where nothing that decides about the tile changed; where the inputs
    that decide every pixel are still first, whatever lies below them; and where
    inputs of which no two have a pixel in common changed places. Its lineage is
    left out where the inputs that have a say have other numbers now.
    """
    if record.key == wanted.key:
        order: Sequence[int] = range(len(record.inputs))
        counts = record.counts
    elif record.rule != wanted.rule:
        return None
    elif (first := _deciding(record) if mode == "priority" else 0) and (
        record.parts[:first] == wanted.parts[:first]
    ):
        order = range(first)
        counts = record.counts[:first] + (0,) * (len(wanted.inputs) - first)
        record = replace(record, disjoint=record.disjoint and record.parts == wanted.parts)
    elif record.disjoint and sorted(record.parts) == sorted(wanted.parts):
        order = _order(record.parts, wanted.parts)
        counts = tuple(record.counts[one] for one in order)
    else:
        return None
    numbers = wanted.numbers
    same = all(record.inputs[was] == numbers[now] or not counts[now] for now, was in enumerate(order))
    choice = record.choice
    if choice >= COPIED:
        choice = COPIED + list(order).index(choice - COPIED)
    return replace(
        record, key=wanted.key, choice=choice, inputs=numbers, parts=wanted.parts, counts=counts,
        lineage=record.lineage if same else NO_DIGEST,
    )  # fmt: skip


def _deciding(record: TileRecord) -> int:
    """Return how many inputs, from the first, decide every pixel between them; 0 where not even all do."""
    pixels = 0
    for place, count in enumerate(record.counts, 1):
        pixels += count
        if pixels == TILE_SIZE_PX**2:
            return place
    return 0


def _order(earlier: Sequence[bytes], now: Sequence[bytes]) -> list[int]:
    """Return where each part that is wanted now was before, each place once."""
    left = list(range(len(earlier)))
    order = []
    for part in now:
        place = next(one for one in left if earlier[one] == part)
        left.remove(place)
        order.append(place)
    return order


def _short(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_PART_BYTES).digest()


def _around(tile: Tile, reach: int) -> list[Tile]:
    """Return the tiles within `reach` tiles of a tile, row by row, around the world."""
    world = 1 << tile.z
    return [
        Tile(tile.z, (tile.x + dx) % world, y)
        for y in range(max(tile.y - reach, 0), min(tile.y + reach, world - 1) + 1)
        for dx in range(-reach, reach + 1)
        if (dx, y) != (0, tile.y)
    ]


def tiles_of(indexes: Sequence[TileIndex], z: int) -> npt.NDArray[np.int64]:
    """Return the (x, y) of every tile that any input has at a zoom, shape (n, 2), each once."""
    return np.unique(np.concatenate([index.coordinates(z) for index in indexes]), axis=0)


class LikelyCopies:
    """Which tiles a merge will most likely copy, told without reading any.

    Those that the first input to have something there has with all eight around:
    where sources overlap, only the edges of the upper ones are to be merged.
    """

    def __init__(self, indexes: Sequence[TileIndex]) -> None:
        self._copies: dict[int, npt.NDArray[np.uint64]] = {}
        self.copies = self.others = 0
        """How many tiles there are of either kind."""
        for z in sorted(set().union(*(index.zooms for index in indexes))):
            places = tiles_of(indexes, z)
            decided, inner = np.zeros(len(places), np.bool_), np.zeros(len(places), np.bool_)
            for index in indexes:
                own = _keys(index.coordinates(z))
                around = [np.isin(_keys(places + step), own) for step in _AROUND]
                has = around[0]
                inner |= ~decided & np.logical_and.reduce(around)
                decided |= has
            self._copies[z] = np.sort(_keys(places[inner]))
            self.copies += int(inner.sum())
            self.others += int((~inner).sum())

    def __contains__(self, tile: Tile) -> bool:
        """Tell whether a tile is one of them."""
        keys = self._copies.get(tile.z, np.empty(0, np.uint64))
        key = np.uint64(tile.x << 32 | tile.y)
        at = int(keys.searchsorted(key))
        return at < len(keys) and bool(keys[at] == key)


def covering_cell(tile: Tile, levels: int) -> Tile:
    """Return the tile some zooms up that holds a tile, or the topmost one."""
    return grid.parent(tile, min(levels, tile.z))
