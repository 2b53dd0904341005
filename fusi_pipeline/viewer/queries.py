"""What a request asks for, as values; a request that cannot be understood is refused by name."""

from __future__ import annotations

import math
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request

from fusi_pipeline.tiles.grid import MAX_LATITUDE_DEG, MAX_ZOOM, Bounds, Tile
from fusi_pipeline.viewer.shelf import Served

MISSING = (404, 204)
"""What may be answered where an archive has no tile within its zooms."""
_GREY = "808080"


def tile(request: Request, one: Served) -> tuple[Tile, str]:
    """Return the tile that a path names and what the path ends in. Raises HTTPException 404."""
    row, _, suffix = request.path_params["y"].partition(".")
    texts = (request.path_params["z"], request.path_params["x"], row)
    if not all(re.fullmatch(r"[0-9]{1,10}", text) for text in texts):
        raise HTTPException(404, f"{'/'.join(texts)}: not a tile; expected three whole numbers z/x/y")
    z, x, y = map(int, texts)
    if z > MAX_ZOOM or x >= 1 << z or y >= 1 << z:
        raise HTTPException(404, f"tile {z}/{x}/{y} is not on the grid")
    if not one.zooms[0] <= z <= one.zooms[1]:
        raise HTTPException(404, f"{one.name} has zooms {one.zooms[0]} to {one.zooms[1]}, and not {z}")
    return Tile(z, x, y), suffix


def missing(request: Request, default: int) -> int:
    """Return the status that a request wants for a missing tile: `?missing=`, else the server's own."""
    wanted = request.query_params.get("missing")
    return int(wanted) if wanted in [str(status) for status in MISSING] else default


def _numbers(request: Request, key: str, count: int) -> list[float]:
    """Return the finite numbers of a query parameter. Raises HTTPException 400."""
    text = request.query_params.get(key, "")
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise HTTPException(400, f"{key}={text!r}: expected {count} number{'s' * (count > 1)}")
    return numbers


def position(request: Request) -> tuple[float, float]:
    """Return `?lon=&lat=` in degrees. Raises HTTPException 400."""
    (lon,), (lat,) = _numbers(request, "lon", 1), _numbers(request, "lat", 1)
    if not (-180 <= lon <= 180 and -MAX_LATITUDE_DEG <= lat <= MAX_LATITUDE_DEG):
        raise HTTPException(
            400, f"lon={lon:g}, lat={lat:g}: expected lon of -180..180 and lat of -85.0511..85.0511"
        )
    return lon, lat


def zoom(request: Request) -> int | None:
    """Return `?zoom=`, None where it is not given. Raises HTTPException 400."""
    text = request.query_params.get("zoom")
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > MAX_ZOOM:
        raise HTTPException(400, f"zoom={text!r}: expected a whole number of 0..{MAX_ZOOM}")
    return int(text)


def box(request: Request) -> Bounds:
    """Return `?bbox=W,S,E,N` in degrees. Raises HTTPException 400."""
    west, south, east, north = _numbers(request, "bbox", 4)
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90 and west != east):
        raise HTTPException(400, "bbox: expected west,south,east,north in degrees, south below north")
    return Bounds(west, south, east, north)


def color(request: Request) -> str:
    """Return `?rgb=`, six hexadecimal digits. Raises HTTPException 400."""
    text = request.query_params.get("rgb", _GREY)
    if not re.fullmatch(r"[0-9a-fA-F]{6}", text):
        raise HTTPException(400, f"rgb={text!r}: expected six hexadecimal digits")
    return text
