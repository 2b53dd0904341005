"""What a picture shows: a rectangle of whole pixels in the plane of a map's geometry, over a terrain.

The plane of a map on the web-mercator grid is that of its zoom's pixels. The
plane of an isometric map is the one its camera looks at, right angles to the
view: pixel (0, 0) lies to the right of and below the point that the seed is
drawn at. In both, a quadrant is a square of 512 px. Columns grow to the right,
rows grow down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fusi_pipeline.tiles.hillshade import ReliefStyle
from layer_generation.camera import QUADRANT_PX, Geometry, IsometricCamera, MercatorGrid
from layer_generation.errors import GeometryInvalid, ViewInvalid


class Window(NamedTuple):
    """A rectangle of whole pixels."""

    left: int
    top: int
    width: int
    height: int


CELL_PX = QUADRANT_PX
"""Pictures are put together from squares of the plane of this size, whose corners are multiples of it."""
MOST_SIDE_PX = 8192
MOST_PIXELS = 32 << 20
_FARTHEST_PX = 1 << 40
Missing = Literal["sea", "hole"]
"""What stands where the terrain has no heights: water at 0 m, or nothing (transparent)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IsometricPlane:
    """The picture's plane of an isometric camera; as `IsometricCamera`, with the size of a pixel."""

    seed_lat: float
    seed_lon: float
    azimuth_deg: float
    elevation_deg: float
    right_m: float
    """Metres of the plane from a pixel to the next on its right."""
    up_m: float
    """Metres of the plane from a pixel to the next above it."""

    def __post_init__(self) -> None:
        IsometricCamera(
            seed_lat=self.seed_lat,
            seed_lon=self.seed_lon,
            azimuth_deg=self.azimuth_deg,
            elevation_deg=self.elevation_deg,
            view_height_m=min(self.right_m, self.up_m),
        )
        if abs(math.sin(math.radians(self.elevation_deg))) < math.sin(math.radians(1)):
            raise ViewInvalid(
                f"elevation {self.elevation_deg:g}: the renderer draws views of at least 1 degree"
            )


Plane = MercatorGrid | IsometricPlane


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A picture that is asked for. Raises ViewInvalid for a rectangle of no size or too large a one."""

    terrain: Path
    plane: Plane
    left_px: int
    top_px: int
    width_px: int
    height_px: int
    style: ReliefStyle
    missing: Missing = "sea"

    def __post_init__(self) -> None:
        size = self.width_px, self.height_px
        if min(size) < 1 or max(size) > MOST_SIDE_PX or math.prod(size) > MOST_PIXELS:
            most = f"at most {MOST_SIDE_PX} px a side and {MOST_PIXELS:,} in all"
            raise ViewInvalid(f"a picture of {size[0]} x {size[1]} px: expected at least 1 and {most}")
        if max(abs(self.left_px), abs(self.top_px)) > _FARTHEST_PX:
            raise ViewInvalid(f"a picture at {self.left_px},{self.top_px} px: lies beyond the Earth")

    def cells(self) -> Iterator[tuple[int, int, Window]]:
        """Yield the left and top pixel of the cells that the picture is put together from, row by row.

        With each the part of it that is in the picture, counted from its corner.
        """
        first_x, first_y = self.left_px // CELL_PX, self.top_px // CELL_PX
        last_x = (self.left_px + self.width_px - 1) // CELL_PX
        last_y = (self.top_px + self.height_px - 1) // CELL_PX
        for top in range(first_y * CELL_PX, last_y * CELL_PX + 1, CELL_PX):
            for left in range(first_x * CELL_PX, last_x * CELL_PX + 1, CELL_PX):
                from_x, from_y = max(self.left_px - left, 0), max(self.top_px - top, 0)
                to_x = min(self.left_px + self.width_px - left, CELL_PX)
                to_y = min(self.top_px + self.height_px - top, CELL_PX)
                yield left, top, Window(from_x, from_y, to_x - from_x, to_y - from_y)


def quadrants_view(
    terrain: Path,
    geometry: Geometry,
    style: ReliefStyle,
    x: int,
    y: int,
    width: int = 1,
    height: int = 1,
    *,
    missing: Missing = "sea",
) -> View:
    """Return the view of a block of quadrants of a map, of which (x, y) is the top left one."""
    if isinstance(geometry, MercatorGrid):
        plane: Plane = geometry
        left, top = x, y
    else:
        plane = IsometricPlane(
            **_angles(geometry),
            right_m=geometry.metres_per_px * geometry.width_px * geometry.tile_step / QUADRANT_PX,
            up_m=geometry.metres_per_px * geometry.height_px * geometry.tile_step / QUADRANT_PX,
        )
        left, top = x - 1, y - 1  # the anchor of a quadrant is its bottom right corner
    return View(
        terrain=terrain,
        plane=plane,
        left_px=left * QUADRANT_PX,
        top_px=top * QUADRANT_PX,
        width_px=width * QUADRANT_PX,
        height_px=height * QUADRANT_PX,
        style=style,
        missing=missing,
    )


def camera_view(
    terrain: Path, camera: IsometricCamera, style: ReliefStyle, *, missing: Missing = "sea"
) -> View:
    """Return the view that a camera has of its seed: its whole picture, the seed in the middle."""
    metres = camera.metres_per_px
    return View(
        terrain=terrain,
        plane=IsometricPlane(**_angles(camera), right_m=metres, up_m=metres),
        left_px=-(camera.width_px // 2),
        top_px=-(camera.height_px // 2),
        width_px=camera.width_px,
        height_px=camera.height_px,
        style=style,
        missing=missing,
    )


def view_json(view: View) -> dict[str, Any]:
    """Return a view as JSON values."""
    kind = "web-mercator" if isinstance(view.plane, MercatorGrid) else "isometric"
    return {**asdict(view), "terrain": str(view.terrain), "plane": {"type": kind, **asdict(view.plane)}}


def view_from(stated: Mapping[str, Any]) -> View:
    """Return the view that JSON values state. Raises ViewInvalid and GeometryInvalid."""
    try:
        values = dict(stated)
        plane = dict(values.pop("plane"))
        kind = plane.pop("type")
        known: Plane = MercatorGrid(**plane) if kind == "web-mercator" else IsometricPlane(**plane)
        if any(type(values[name]) is not int for name in ("left_px", "top_px", "width_px", "height_px")):
            raise ViewInvalid("a view's place and size: expected whole pixels")
        if values.get("missing", "sea") not in ("sea", "hole"):
            raise ViewInvalid(f"missing {values['missing']!r}: expected sea or hole")
        style = ReliefStyle(**{name: float(value) for name, value in dict(values.pop("style")).items()})
        return View(terrain=Path(values.pop("terrain")), plane=known, style=style, **values)
    except (ViewInvalid, GeometryInvalid):
        raise
    except (TypeError, KeyError, ValueError) as error:
        raise ViewInvalid(f"a view cannot be read ({error})") from error


def _angles(camera: IsometricCamera) -> dict[str, float]:
    return {
        "seed_lat": camera.seed_lat,
        "seed_lon": camera.seed_lon,
        "azimuth_deg": camera.azimuth_deg,
        "elevation_deg": camera.elevation_deg,
    }
