"""The web-mercator tile grid: tiles, their bounds, their family and their order.

Tiles are XYZ (row 0 touches the north edge) and 512 px wide throughout.
Projected coordinates are EPSG:3857 metres, geographic ones degrees of WGS 84.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TILE_SIZE_PX = 512
EARTH_RADIUS_M = 6378137.0
HALF_WORLD_M = math.pi * EARTH_RADIUS_M
"""Half the width of the web-mercator square."""
MAX_LATITUDE_DEG = math.degrees(2 * math.atan(math.exp(math.pi)) - math.pi / 2)
"""85.0511 degrees, where web mercator is cut off to be square."""
MAX_ZOOM = 30


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A web-mercator tile in the XYZ scheme; row 0 touches the north edge."""

    z: int
    x: int
    y: int

    def __str__(self) -> str:
        return f"{self.z}/{self.x}/{self.y}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """A geographic box in degrees; `west > east` where it crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    def __str__(self) -> str:
        return ",".join(f"{value:.6g}" for value in (self.west, self.south, self.east, self.north))


@dataclass(frozen=True, slots=True)
class XYBounds:
    """A projected box in EPSG:3857 metres; `left > right` where it crosses the antimeridian."""

    left: float
    bottom: float
    right: float
    top: float

    def parts(self) -> list[XYBounds]:
        """Return the box itself, or its two halves where it crosses the antimeridian."""
        if self.left <= self.right:
            return [self]
        return [
            XYBounds(self.left, self.bottom, HALF_WORLD_M, self.top),
            XYBounds(-HALF_WORLD_M, self.bottom, self.right, self.top),
        ]

    def intersects(self, other: XYBounds) -> bool:
        """Tell whether two boxes share more than an edge; neither may cross the antimeridian."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )


def resolution_m(z: int) -> float:
    """Return the EPSG:3857 metres per pixel at zoom `z`."""
    return 2 * HALF_WORLD_M / (TILE_SIZE_PX << z)


def zoom_for_resolution(pixel_m: float) -> int:
    """Return the lowest zoom whose pixels are no larger than `pixel_m` (EPSG:3857 metres)."""
    return max(0, math.ceil(math.log2(resolution_m(0) / pixel_m) - 1e-9))


def project(lon: float, lat: float) -> tuple[float, float]:
    """Return EPSG:3857 metres of a position; latitudes are clamped to the square."""
    lat = max(-MAX_LATITUDE_DEG, min(MAX_LATITUDE_DEG, lat))
    return (
        math.radians(lon) * EARTH_RADIUS_M,
        EARTH_RADIUS_M * math.log(math.tan(math.pi / 4 + math.radians(lat) / 2)),
    )


def unproject(x_m: float, y_m: float) -> tuple[float, float]:
    """Return (lon, lat) in degrees of EPSG:3857 metres."""
    return (
        math.degrees(x_m / EARTH_RADIUS_M),
        math.degrees(2 * math.atan(math.exp(y_m / EARTH_RADIUS_M)) - math.pi / 2),
    )


def xy_bounds(tile: Tile) -> XYBounds:
    """Return the projected box of a tile."""
    width_m = 2 * HALF_WORLD_M / (1 << tile.z)
    left = -HALF_WORLD_M + tile.x * width_m
    top = HALF_WORLD_M - tile.y * width_m
    return XYBounds(left, top - width_m, left + width_m, top)


def bounds(tile: Tile) -> Bounds:
    """Return the geographic box of a tile."""
    return geographic(xy_bounds(tile))


def geographic(box: XYBounds) -> Bounds:
    """Return the geographic box of a projected one."""
    west, south = unproject(box.left, box.bottom)
    east, north = unproject(box.right, box.top)
    return Bounds(west, south, east, north)


def projected(box: Bounds) -> XYBounds:
    """Return the projected box of a geographic one, latitudes clamped to the square."""
    left, bottom = project(box.west, box.south)
    right, top = project(box.east, box.north)
    return XYBounds(left, bottom, right, top)


def parent(tile: Tile, levels: int = 1) -> Tile:
    """Return the ancestor `levels` zooms up."""
    return Tile(tile.z - levels, tile.x >> levels, tile.y >> levels)


def children(tile: Tile) -> list[Tile]:
    """Return the four tiles one zoom down: NW, NE, SW, SE."""
    z, x, y = tile.z + 1, tile.x * 2, tile.y * 2
    return [Tile(z, x, y), Tile(z, x + 1, y), Tile(z, x, y + 1), Tile(z, x + 1, y + 1)]


def tile_at(lon: float, lat: float, z: int) -> Tile:
    """Return the tile that holds a position; positions on the far edges belong to the last tile."""
    x_m, y_m = project(lon, lat)
    return Tile(z, _index(x_m + HALF_WORLD_M, z), _index(HALF_WORLD_M - y_m, z))


def covering_range(box: XYBounds, z: int) -> tuple[range, range]:
    """Return the columns and rows of the tiles a box touches with more than an edge.

    The box must not cross the antimeridian (see `XYBounds.parts`).
    """
    scale = (1 << z) / (2 * HALF_WORLD_M)
    first_x, last_x = _span((box.left + HALF_WORLD_M) * scale, (box.right + HALF_WORLD_M) * scale, z)
    first_y, last_y = _span((HALF_WORLD_M - box.top) * scale, (HALF_WORLD_M - box.bottom) * scale, z)
    return range(first_x, last_x), range(first_y, last_y)


def covering_ranges(box: XYBounds, z: int) -> list[tuple[range, range]]:
    """Return the columns and rows of the tiles a box touches, in two parts across the antimeridian."""
    return [covering_range(part, z) for part in box.parts()]


def covering(box: XYBounds, z: int) -> Iterator[Tile]:
    """Yield the tiles that a box touches, row by row, across the antimeridian too."""
    for columns, rows in covering_ranges(box, z):
        for y in rows:
            for x in columns:
                yield Tile(z, x, y)


def hilbert_indices(z: int, xs: npt.ArrayLike, ys: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Return the position of each tile along the Hilbert curve of zoom `z`.

    `xs` and `ys` are integer arrays of one shape (n,); so is the result. The
    curve is the one PMTiles numbers its tiles by (spec v3, section 4.1).
    """
    x = np.asarray(xs).astype(np.uint32)
    y = np.asarray(ys).astype(np.uint32)
    index = np.zeros(x.shape, dtype=np.uint64)
    steps = -(-z // 4)
    # A level above the top has x = y = 0 and swaps the axes, so an odd number of them starts swapped.
    state = np.full(x.shape, (4 * steps - z) % 2 << 9, dtype=np.uint16)
    for shift in range(4 * (steps - 1), -1, -4):
        cell = ((x >> shift & 15) << 4 | y >> shift & 15).astype(np.uint16)
        step = HILBERT_STEPS[state | cell]
        index = index << 8 | step & 255
        state = step & 0x300
    return index


def _hilbert_steps() -> npt.NDArray[np.uint16]:
    """Return four levels of the Hilbert curve at once, shape (1024,).

    Indexed by swapped << 9 | flipped << 8 | x << 4 | y, with four bits each of
    x and y; an item is swapped << 9 | flipped << 8 | the eight bits of the
    index, with the orientation in which the curve goes on.
    """
    key: npt.NDArray[np.int64] = np.arange(1024)
    swapped, flipped, index = key >> 9, key >> 8 & 1, np.zeros_like(key)
    for bit in (3, 2, 1, 0):
        x = key >> (bit + 4) & 1 ^ flipped
        y = key >> bit & 1 ^ flipped
        turned = (x ^ y) & swapped
        x, y = x ^ turned, y ^ turned
        index = index << 2 | (3 * x ^ y)
        flipped = flipped ^ (x & (1 - y))
        swapped = swapped ^ (1 - y)
    return (swapped << 9 | flipped << 8 | index).astype(np.uint16)


HILBERT_STEPS = _hilbert_steps()
"""See `_hilbert_steps`."""


def _index(distance_m: float, z: int) -> int:
    return min(max(math.floor(distance_m / (2 * HALF_WORLD_M) * (1 << z)), 0), (1 << z) - 1)


def _span(start: float, stop: float, z: int) -> tuple[int, int]:
    """Return the half-open index range of an interval, forgiving a billionth of a tile at its ends."""
    first = min(max(math.floor(start + 1e-9), 0), (1 << z) - 1)
    last = min(max(math.ceil(stop - 1e-9), first + 1), 1 << z)
    return first, last
