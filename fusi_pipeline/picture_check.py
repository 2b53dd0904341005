"""What holds for an archive of pictures: what it says of itself, each tile, each tile with those below it.

An archive of pictures is a layer that `fusi layer export` wrote: quadrants at its
highest zoom, above them means of 2 x 2 pixels in linear light. Sentences come
without the archive's name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from fusi_pipeline.errors import ArchiveUnreadable
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import PICTURES, ArchiveMetadata, TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.image import ImageInvalid, is_lossless_webp
from fusi_pipeline.tiles.picture import FORMATS, Pixels, decoded, joined, overview

ADVICE = "what is not what was written: `fusi layer export` the layer again, or fetch the archive again"
_FLAT = "fusi_flat"
_MARGIN_DEG = 1e-6
_MOST_DRIFT = 32.0
"""Mean difference, of 255, that lossy pictures may have from the mean of lossy ones below them."""
_MOST_PROBLEMS = 50


@dataclass(slots=True)
class PictureResult:
    """What a check of every picture with those below it has shown."""

    tiles: int = 0
    """Tiles that were looked at with those below them."""
    problems: list[str] = field(default_factory=list)

    def add(self, found: list[str]) -> None:
        """Note problems, up to a number of them."""
        room = _MOST_PROBLEMS - len(self.problems)
        self.problems += found[: max(room, 0)]
        if 0 <= room < len(found):
            self.problems.append(f"and perhaps more: not listed after {_MOST_PROBLEMS} problems")


def statement_problems(reader: TileReader, counts: Mapping[int, int]) -> list[str]:
    """Return where what the archive says of itself, its provenance and its tiles do not agree."""
    metadata, found = reader.metadata, []
    if metadata.format not in FORMATS:
        found.append(f"metadata states the format {metadata.format!r}, not {' or '.join(FORMATS)}")
    if metadata.tile_size != TILE_SIZE_PX:
        found.append(f"metadata states tiles of {metadata.tile_size} px, not {TILE_SIZE_PX}")
    if not counts:
        return found
    quadrants = reader.coordinates(max(counts)).astype(np.int64)
    found += _provenance_problems(metadata, len(quadrants))
    left, top = quadrants.min(axis=0).tolist()
    right, bottom = quadrants.max(axis=0).tolist()
    found += _bounds_problems(metadata.bounds, max(counts), (left, top, right, bottom))
    if _FLAT in metadata.extra:
        found += _flat_problems(metadata, (left, top, right, bottom))
    return found


def _provenance_problems(metadata: ArchiveMetadata, quadrants: int) -> list[str]:
    """Return what the provenance lacks, and where its sums do not hold."""
    stated = metadata.extra[PICTURES]
    if not isinstance(stated, Mapping):
        return [f"metadata states no provenance: {PICTURES} is not an object"]
    lacking = [key for key in ("name", "models", "prompt_sha256", "plan", "finished") if key not in stated]
    if lacking:
        return [f"the provenance lacks {', '.join(lacking)}"]
    found = []
    if stated["finished"] != quadrants:
        found.append(f"the provenance counts {stated['finished']} quadrants, {quadrants} are there")
    models, plan = stated["models"], stated["plan"]
    steps = plan.get("steps") if isinstance(plan, Mapping) else None
    if not isinstance(models, Mapping) or not isinstance(steps, Mapping):
        return [*found, "the provenance does not count blocks by model and by step"]
    drawn = sum(count for count in models.values() if isinstance(count, int))
    blocks = sum(_complete(step) for step in steps.values())
    if drawn != blocks:
        found.append(f"the provenance counts {drawn} blocks by model and {blocks} by step")
    return found


def _complete(step: object) -> int:
    count = step.get("complete") if isinstance(step, Mapping) else None
    return count if isinstance(count, int) else 0


def _bounds_problems(stated: Bounds, z: int, box: tuple[int, int, int, int]) -> list[str]:
    """Return whether bounds are not those of the quadrants, which end where tiles do."""
    left, top, right, bottom = box
    first, last = grid.bounds(Tile(z, left, top)), grid.bounds(Tile(z, right, bottom))
    crossing = stated.west > stated.east or stated.east - stated.west >= 360
    pairs = [(stated.north, first.north), (stated.south, last.south)]
    pairs += [] if crossing else [(stated.west, first.west), (stated.east, last.east)]
    if all(abs(one - other) <= _MARGIN_DEG for one, other in pairs):
        return []
    return [
        f"metadata states bounds {stated}, the quadrants lie in"
        f" {Bounds(first.west, last.south, last.east, first.north)}"
    ]


def _flat_problems(metadata: ArchiveMetadata, box: tuple[int, int, int, int]) -> list[str]:
    """Return whether the numbers of quadrants that a flat archive states are not those of its tiles."""
    stated = metadata.extra[_FLAT]
    names = ("origin_x", "origin_y", "min_x", "min_y", "max_x", "max_y")
    numbers = [stated.get(name) if isinstance(stated, Mapping) else None for name in names]
    if not all(isinstance(one, int) for one in numbers):
        return [f"metadata does not state where its quadrants are: {_FLAT} lacks {', '.join(names)}"]
    across, down, *wanted = (int(one) for one in numbers if isinstance(one, int))
    held = [box[0] + across, box[1] + down, box[2] + across, box[3] + down]
    if held == wanted:
        return []
    return [f"{_FLAT} states quadrants {wanted}, the tiles are those of {held}"]


def tile_problem(data: bytes, metadata: ArchiveMetadata, tile: Tile) -> str:
    """Return what is wrong with a tile by itself; empty where nothing is."""
    return _looked_at(data, metadata, tile)[1]


def _looked_at(data: bytes, metadata: ArchiveMetadata, tile: Tile) -> tuple[Pixels | None, str]:
    """Return a tile's pixels and what is wrong with them."""
    try:
        pixels = decoded(data, metadata.format)
    except ImageInvalid as error:
        return None, str(error)
    if pixels.shape[:2] != (TILE_SIZE_PX, TILE_SIZE_PX):
        return None, f"is {pixels.shape[1]} x {pixels.shape[0]} px"
    if pixels.shape[2] == 4 and tile.z == metadata.maxzoom:
        return pixels, "is a quadrant and has an alpha channel"
    return pixels, ""


def check_families(
    reader: TileReader, counts: Mapping[int, int], workers: int, *, sample: int = 0
) -> Generator[Progress, None, PictureResult]:
    """Look at every tile, or at `sample` of them, together with the four below it.

    A tile above the highest zoom is the mean of those: exactly where pictures are
    lossless. Each has one above it, down to the lowest zoom.
    """
    metadata, result = reader.metadata, PictureResult()
    places = {z: {(x, y) for x, y in reader.coordinates(z).tolist()} for z in sorted(counts)}
    orphans = _orphans(places)
    result.add([f"tile {tile}: there is no tile above it" for tile in orphans])
    tiles = [Tile(z, x, y) for z in places for x, y in sorted(places[z])]
    stride = max(1, len(tiles) // sample) if sample else 1
    chosen = tiles[::stride]
    for done, found in enumerate(_in_order(reader, metadata, places, chosen, workers), 1):
        result.tiles = done
        result.add(found)
        if done % 20 == 0 or done == len(chosen):
            yield Progress("check", done, len(chosen), "tiles")
    return result


def _orphans(places: Mapping[int, set[tuple[int, int]]]) -> list[Tile]:
    """Return the tiles without one above them, but for those of the lowest zoom."""
    return [
        Tile(z, x, y)
        for z in places
        if z - 1 in places
        for x, y in sorted(places[z])
        if (x >> 1, y >> 1) not in places[z - 1]
    ]


def _in_order(
    reader: TileReader,
    metadata: ArchiveMetadata,
    places: Mapping[int, set[tuple[int, int]]],
    tiles: list[Tile],
    workers: int,
) -> Iterator[list[str]]:
    """Yield what is wrong with each tile; bytes are read here, pictures are decoded by threads."""
    waiting: deque[Future[list[str]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for tile in tiles:
                held = places.get(tile.z + 1, set())
                below = [
                    _read(reader, one) if (one.x, one.y) in held else None for one in grid.children(tile)
                ]
                data = [_read(reader, tile), *below]
                waiting.append(pool.submit(_family_problems, tile, data, metadata))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def _read(reader: TileReader, tile: Tile) -> bytes | str:
    """Return a tile's bytes, or why they cannot be had."""
    try:
        return reader.read(tile) or "is listed and cannot be read"
    except ArchiveUnreadable as error:
        return str(error)


def _family_problems(tile: Tile, data: list[bytes | str | None], metadata: ArchiveMetadata) -> list[str]:
    """Return what is wrong with a tile, and between it and the four below; `data` is its bytes and theirs."""
    own, *below = data
    if not isinstance(own, bytes):
        return [f"tile {tile}: {own}"]
    pixels, problem = _looked_at(own, metadata, tile)
    if problem or pixels is None:
        return [f"tile {tile}: {problem}"]
    if tile.z == metadata.maxzoom:
        return []
    if not any(below):
        return [f"tile {tile}: there is no tile below it"]
    quarters: list[Pixels | None] = []
    for child, held in zip(grid.children(tile), below, strict=True):
        part = _looked_at(held, metadata, child)[0] if isinstance(held, bytes) else None
        if held is not None and part is None:
            return []  # told of the child itself
        quarters.append(None if part is None else overview(part))
    exact = metadata.format == "png" or all(is_lossless_webp(one) for one in data if isinstance(one, bytes))
    return _mean_problems(tile, pixels, joined(quarters), exact=exact)


def _mean_problems(tile: Tile, pixels: Pixels, wanted: Pixels, *, exact: bool) -> list[str]:
    """Return whether a picture is not the mean of those below it, both of shape (512, 512, 3 or 4)."""
    held = pixels
    if pixels.shape[2] == 3:
        held = np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)])
    differs = (held != wanted).any(axis=2) & ((held[..., 3] > 0) | (wanted[..., 3] > 0))
    if exact and differs.any():
        return [f"tile {tile}: {np.count_nonzero(differs)} of its pixels are not the mean of those below"]
    if (held[..., 3] != wanted[..., 3]).any():
        return [f"tile {tile}: it is opaque where nothing is below, or not where something is"]
    opaque = held[..., 3] > 0
    drift = np.abs(held[opaque][:, :3].astype(np.int16) - wanted[opaque][:, :3])
    if not exact and drift.size and drift.mean() > _MOST_DRIFT:
        return [f"tile {tile}: its pixels are {drift.mean():.0f} of 255 from the mean of those below"]
    return []
