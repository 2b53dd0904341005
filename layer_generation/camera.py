"""Where the quadrants of a map lie on the ground.

A map is drawn on the web-mercator grid, where a quadrant is an XYZ tile of 512
pixels, or through an isometric camera: an orthographic view of given azimuth and
elevation, whose quadrants are parallelograms on the ground. Quadrants are
(x, y); x grows to the right, y grows down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import MAX_ZOOM, Bounds, Tile
from layer_generation.errors import GeometryInvalid

QUADRANT_PX = 512
METRES_PER_DEGREE = 111_111.0
"""Of latitude, on the flat earth of the isometric camera."""


class LatLon(NamedTuple):
    """A position in degrees."""

    lat: float
    lon: float


Corners = tuple[LatLon, LatLon, LatLon, LatLon]
"""Top left, top right, bottom right, bottom left, as seen in the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MercatorGrid:
    """The tiles of one zoom: quadrant (x, y) is tile zoom/x/y; x may go on around the world."""

    zoom: int

    def __post_init__(self) -> None:
        if not 0 <= self.zoom <= MAX_ZOOM:
            raise GeometryInvalid(f"zoom {self.zoom}: expected 0..{MAX_ZOOM}")

    def tile(self, x: int, y: int) -> Tile | None:
        """Return the tile of a quadrant, None beyond the top and bottom of the map."""
        world = 1 << self.zoom
        return Tile(self.zoom, x % world, y) if 0 <= y < world else None

    def corners(self, x: int, y: int, width: int = 1, height: int = 1) -> Corners:
        """Return the corners of a block of quadrants; longitudes go on beyond 180."""
        world_m = 2 * grid.HALF_WORLD_M
        size = world_m / (1 << self.zoom)
        left, top = x * size - grid.HALF_WORLD_M, grid.HALF_WORLD_M - y * size
        west, north = grid.unproject(left, top)
        east, south = grid.unproject(left + width * size, top - height * size)
        return LatLon(north, west), LatLon(north, east), LatLon(south, east), LatLon(south, west)

    def covering(self, box: Bounds) -> tuple[int, int, int, int]:
        """Return (min_x, min_y, max_x, max_y), inclusive, of the quadrants that touch a box."""
        first = grid.tile_at(box.west, box.north, self.zoom)
        last = grid.tile_at(box.east, box.south, self.zoom)
        right, bottom = last.x, last.y
        edges = grid.bounds(last)
        if box.east <= edges.west and right > first.x:
            right -= 1
        if box.south >= edges.north and bottom > first.y:
            bottom -= 1
        if box.west > box.east:
            right += 1 << self.zoom
        return first.x, first.y, right, bottom


@dataclass(frozen=True, slots=True, kw_only=True)
class IsometricCamera:
    """An orthographic camera over a flat earth around a seed position.

    Positions follow the public isometric maps that can be imported: the anchor
    of a quadrant is its bottom right corner, and that of (0, 0) is the seed.
    """

    seed_lat: float
    seed_lon: float
    azimuth_deg: float = -15.0
    """Direction that is up in the picture, in degrees."""
    elevation_deg: float = -45.0
    """Angle of view against the horizon; -90 is straight down."""
    view_height_m: float = 300.0
    """Metres that a view of `height_px` shows from its bottom to its top."""
    width_px: int = 1024
    height_px: int = 1024
    tile_step: float = 0.5
    """Part of a view from one quadrant to the next."""

    def __post_init__(self) -> None:
        numbers = (self.seed_lat, self.seed_lon, self.azimuth_deg, self.elevation_deg, self.view_height_m)
        if not all(map(math.isfinite, (*numbers, self.tile_step))):
            raise GeometryInvalid("the camera's numbers must be finite")
        if not (-89 <= self.seed_lat <= 89 and -180 <= self.seed_lon <= 180):
            raise GeometryInvalid(f"seed {self.seed_lat},{self.seed_lon}: expected latitude and longitude")
        if abs(math.sin(math.radians(self.elevation_deg))) < 1e-6:
            raise GeometryInvalid(f"elevation {self.elevation_deg}: a level camera sees no ground")
        if self.view_height_m <= 0 or self.width_px < 1 or self.height_px < 1 or self.tile_step <= 0:
            raise GeometryInvalid("view height, picture size and step must be greater than 0")

    @property
    def metres_per_px(self) -> float:
        """Metres of the picture's plane that a pixel shows."""
        return self.view_height_m / self.height_px

    def place(self, right_px: float, up_px: float) -> LatLon:
        """Return the position that lies so many pixels to the right of and above the seed."""
        scale = self.metres_per_px
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        right, forward = right_px * scale, -up_px * scale / math.sin(elevation)
        east = right * math.cos(azimuth) + forward * math.sin(azimuth)
        north = -right * math.sin(azimuth) + forward * math.cos(azimuth)
        per_degree = METRES_PER_DEGREE * math.cos(math.radians(self.seed_lat))
        return LatLon(self.seed_lat + north / METRES_PER_DEGREE, self.seed_lon + east / per_degree)

    def pixels(self, place: LatLon) -> tuple[float, float]:
        """Return how many pixels to the right of and above the seed a position lies."""
        per_degree = METRES_PER_DEGREE * math.cos(math.radians(self.seed_lat))
        east, north = (
            (place.lon - self.seed_lon) * per_degree,
            (place.lat - self.seed_lat) * METRES_PER_DEGREE,
        )
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        right = east * math.cos(azimuth) - north * math.sin(azimuth)
        forward = east * math.sin(azimuth) + north * math.cos(azimuth)
        return right / self.metres_per_px, -forward * math.sin(elevation) / self.metres_per_px

    def corners(self, x: int, y: int, width: int = 1, height: int = 1) -> Corners:
        """Return the corners of a block of quadrants: a parallelogram on the ground."""
        step_x, step_y = self.width_px * self.tile_step, self.height_px * self.tile_step
        right, bottom = (x + width - 1) * step_x, -(y + height - 1) * step_y
        left, top = right - width * step_x, bottom + height * step_y
        return (
            self.place(left, top),
            self.place(right, top),
            self.place(right, bottom),
            self.place(left, bottom),
        )


Geometry = MercatorGrid | IsometricCamera

_KNOWN_KEYS = {
    "camera_azimuth_degrees": "azimuth_deg",
    "camera_elevation_degrees": "elevation_deg",
    "view_height_meters": "view_height_m",
    "width_px": "width_px",
    "height_px": "height_px",
    "tile_step": "tile_step",
}


def calculate_quadrant_corners(geometry: Geometry, x: int, y: int) -> Corners:
    """Return the (lat, lon) of a quadrant's top left, top right, bottom right and bottom left corner."""
    return geometry.corners(x, y)


def geometry_json(geometry: Geometry) -> dict[str, object]:
    """Return a geometry as JSON values."""
    kind = "web-mercator" if isinstance(geometry, MercatorGrid) else "isometric"
    return {"type": kind, **asdict(geometry)}


def geometry_from(stated: Mapping[str, object]) -> Geometry:
    """Return the geometry that JSON values state: our own, or a known isometric map's `generation_config`.

    Raises GeometryInvalid.
    """
    values = dict(stated)
    kind = values.pop("type", None)
    try:
        if kind == "web-mercator":
            return MercatorGrid(**values)  # type: ignore[arg-type]
        if kind == "isometric":
            return IsometricCamera(**values)  # type: ignore[arg-type]
        seed = values["seed"]
        assert isinstance(seed, Mapping)
        known = {ours: values[theirs] for theirs, ours in _KNOWN_KEYS.items() if theirs in values}
        return IsometricCamera(seed_lat=seed["lat"], seed_lon=seed["lng"], **known)  # type: ignore[arg-type]
    except (TypeError, KeyError, AssertionError) as error:
        raise GeometryInvalid(f"the geometry of the map cannot be read ({error})") from error
