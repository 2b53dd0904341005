"""Which tiles of a terrain are seen in a window of an isometric plane, and at which zoom. Pure.

A point of the ground at height h is drawn h cos(elevation) above its place at
0 m. So a window shows, besides the ground that lies in it, mountains from below
it that are high enough to lean into it. Tiles are numbered in a row that goes on
around the world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import MAX_ZOOM, TILE_SIZE_PX
from layer_generation.camera import METRES_PER_DEGREE
from layer_generation.errors import ViewInvalid
from layer_generation.renderer.views import CELL_PX, IsometricPlane, Window

HIGHEST_M = 9000.0
"""No ground is higher."""
MOST_ENLARGED = 4
"""Zooms below an archive at which heights are still made; more of them would show nothing new."""
MOST_TILES = 4096
"""Tiles that a cell may take; only views along the ground or of archives without overviews have more."""
_MOST_CANDIDATES = 1 << 20
_SLACK_PX = 1.0

Floats = npt.NDArray[np.float64]
Relief = tuple[Floats, Floats, npt.NDArray[np.bool_]]
"""Lowest and highest height, and whether there are any, of the tiles below a base tile, by row and column."""


@dataclass(frozen=True, slots=True)
class Detail:
    """The zooms that a plane is drawn from."""

    zoom: int
    """Of the tiles that are drawn: of their pixels and those of the picture neither is much larger."""
    base: int
    """Of the tiles that tell how high the ground is: `zoom`, or the archive's highest."""


def detail_of(plane: IsometricPlane, minzoom: int, maxzoom: int) -> Detail:
    """Return the zooms for a plane: the same for all its cells, or neighbours would not meet."""
    ground_m = grid.resolution_m(0) * math.cos(math.radians(plane.seed_lat))
    wanted = round(math.log2(ground_m / min(plane.right_m, plane.up_m)))
    zoom = max(minzoom, min(wanted, maxzoom + MOST_ENLARGED, MAX_ZOOM), 0)
    return Detail(zoom=zoom, base=min(zoom, maxzoom))


@dataclass(frozen=True, slots=True)
class Frame:
    """A plane as factors: pixels to the right and up of a metre to the east, to the north and of height."""

    plane: IsometricPlane
    right_east: float
    right_north: float
    up_east: float
    up_north: float
    up_height: float

    @classmethod
    def of(cls, plane: IsometricPlane) -> Frame:
        """Return the factors of a plane, those of `IsometricCamera.pixels`."""
        azimuth, elevation = math.radians(plane.azimuth_deg), math.radians(plane.elevation_deg)
        return cls(
            plane=plane,
            right_east=math.cos(azimuth) / plane.right_m,
            right_north=-math.sin(azimuth) / plane.right_m,
            up_east=-math.sin(elevation) * math.sin(azimuth) / plane.up_m,
            up_north=-math.sin(elevation) * math.cos(azimuth) / plane.up_m,
            up_height=math.cos(elevation) / plane.up_m,
        )

    def near(self, up_px: float) -> float:
        """Return how near the eye, in pixels, the ground at 0 m is that is drawn at a row."""
        elevation = math.radians(self.plane.elevation_deg)
        return up_px / math.tan(elevation)

    def reach(self) -> int:
        """Return the distance, in pixels and a power of two, between which all that a cell shows lies."""
        elevation = math.radians(self.plane.elevation_deg)
        depth = CELL_PX / abs(math.tan(elevation)) + HIGHEST_M / self.plane.up_m / abs(math.sin(elevation))
        return 1 << math.ceil(math.log2(depth + CELL_PX))

    def east(self, columns: npt.NDArray[Any], zoom: int) -> Floats:
        """Return metres to the east of the seed; columns are tiles of a zoom and parts of them."""
        per_degree = METRES_PER_DEGREE * math.cos(math.radians(self.plane.seed_lat))
        east: Floats = (columns / 2.0**zoom * 360 - 180 - self.plane.seed_lon) * per_degree
        return east

    def north(self, rows: npt.NDArray[Any], zoom: int) -> Floats:
        """Return metres to the north of the seed; rows are tiles of a zoom and parts of them."""
        lats = np.degrees(np.arctan(np.sinh(math.pi * (1 - 2 * rows / 2.0**zoom))))
        north: Floats = (lats - self.plane.seed_lat) * METRES_PER_DEGREE
        return north


def visible_tiles(
    plane: IsometricPlane, detail: Detail, window: Window, relief_of: Callable[[int, int], Relief]
) -> list[tuple[int, int]]:
    """Return the (x, y) of the tiles that a window of the plane shows, the nearest first.

    `relief_of` tells of a base tile how high the tiles below it are. Raises
    ViewInvalid where they are more than MOST_TILES.
    """
    frame = Frame.of(plane)
    shift = detail.zoom - detail.base
    low, high = np.zeros(1), np.full(1, HIGHEST_M)
    found: list[npt.NDArray[np.int64]] = []
    x, y = _candidates(frame, detail.base, window)
    reaching = _touching(frame, detail.base, x, y, low, high, window)
    for base_x, base_y in zip(x[reaching].tolist(), y[reaching].tolist(), strict=True):
        lows, highs, there = relief_of(base_x, base_y)
        if not there.any():
            continue
        rows, cols = np.nonzero(there)
        tile_x, tile_y = (base_x << shift) + cols, (base_y << shift) + rows
        lowest, highest = lows[rows, cols], highs[rows, cols]
        seen = _touching(frame, detail.zoom, tile_x, tile_y, lowest, highest, window)
        found.append(np.stack([tile_x[seen], tile_y[seen]], axis=1))
    tiles = np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    if len(tiles) > MOST_TILES:
        raise ViewInvalid(
            f"a view of {plane.up_m:g} m a pixel at {plane.elevation_deg:g} degrees takes {len(tiles):,}"
            " tiles for a picture of 512 px; look down more steeply, or use an archive with more overviews"
        )
    across = frame.up_east * frame.east(tiles[:, 0] + 0.5, detail.zoom)
    up = across + frame.up_north * frame.north(tiles[:, 1] + 0.5, detail.zoom)
    return [(int(one), int(other)) for one, other in tiles[np.lexsort((tiles[:, 0], up))]]


def _candidates(
    frame: Frame, zoom: int, window: Window
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return (x, y) of the tiles in the box around the ground that may be seen in a window."""
    lean = frame.up_height * HIGHEST_M
    bottom, top = -(window.top + window.height) - max(lean, 0.0), -window.top - min(lean, 0.0)
    corners = [(right, up) for right in (window.left, window.left + window.width) for up in (bottom, top)]
    inverse = np.linalg.inv([[frame.right_east, frame.right_north], [frame.up_east, frame.up_north]])
    east, north = inverse @ np.array(corners, dtype=np.float64).T
    per_degree = METRES_PER_DEGREE * math.cos(math.radians(frame.plane.seed_lat))
    lons = frame.plane.seed_lon + east / per_degree
    lats = np.clip(frame.plane.seed_lat + north / METRES_PER_DEGREE, -85.0, 85.0)
    columns = (lons + 180) / 360 * 2.0**zoom
    rows = (1 - np.arcsinh(np.tan(np.radians(lats))) / math.pi) / 2 * 2.0**zoom
    first_x, last_x = math.floor(columns.min()) - 1, math.floor(columns.max()) + 1
    first_y, last_y = max(math.floor(rows.min()) - 1, 0), min(math.floor(rows.max()) + 1, (1 << zoom) - 1)
    if last_x - first_x >= 1 << zoom:  # the world is not shown twice
        first_x = min(first_x, 0)
        last_x = first_x + (1 << zoom) - 1
    if (last_x - first_x + 1) * (last_y - first_y + 1) > _MOST_CANDIDATES:
        raise ViewInvalid(
            f"a view at {frame.plane.elevation_deg:g} degrees looks too far; look down more steeply"
        )
    y, x = np.mgrid[first_y : last_y + 1, first_x : last_x + 1]
    return x.ravel(), y.ravel()


def _touching(
    frame: Frame,
    zoom: int,
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    low: Floats,
    high: Floats,
    window: Window,
) -> npt.NDArray[np.bool_]:
    """Tell which tiles, as high as given, reach into a window; meshes run from middle to middle of pixels."""
    first = 0.5 / TILE_SIZE_PX
    easts = np.stack([frame.east(x + first, zoom), frame.east(x + 1 + first, zoom)])
    norths = np.stack([frame.north(y + first, zoom), frame.north(y + 1 + first, zoom)])
    rights = [frame.right_east * easts, frame.right_north * norths]
    ups = [frame.up_east * easts, frame.up_north * norths, frame.up_height * np.stack([low, high])]
    left, right = (sum(one.min(axis=0) for one in rights), sum(one.max(axis=0) for one in rights))
    bottom, top = (sum(one.min(axis=0) for one in ups), sum(one.max(axis=0) for one in ups))
    across = (left <= window.left + window.width + _SLACK_PX) & (right >= window.left - _SLACK_PX)
    down = (bottom <= -window.top + _SLACK_PX) & (top >= -(window.top + window.height) - _SLACK_PX)
    return np.asarray(across & down)
