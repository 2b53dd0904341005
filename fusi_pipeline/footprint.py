"""The box of a raster in web mercator, across the antimeridian and over the poles too.

Pure: coordinates are transformed by functions that the caller passes in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.grid import HALF_WORLD_M, MAX_LATITUDE_DEG, XYBounds, project

Coordinates = npt.NDArray[np.float64]
Extent = tuple[float, float, float, float]
"""left, bottom, right, top in the units of the raster's CRS."""
_SAMPLES = 21
_DENSE_SAMPLES = 201
_TINY_DEG = 1e-9


class OutsideMercator(ValueError):
    """A raster lies where web mercator does not reach; the message is a clause that says so."""


def footprint(
    extent: Extent,
    to_lonlat: Callable[[Coordinates, Coordinates], tuple[Coordinates, Coordinates]],
    to_mercator: Callable[[Extent], Extent | None],
    poles: Coordinates,
) -> XYBounds:
    """Return the EPSG:3857 box of an extent, clamped to the web-mercator square.

    `to_lonlat` takes x and y of shape (n,) to degrees, not finite where there
    are none; longitudes may be off by whole turns. `to_mercator` gives the box
    of an extent that stays clear of the antimeridian, or None; `poles` holds
    x and y of the poles in the raster's CRS, shape (n, 2). Raises OutsideMercator.
    """
    lons, lats = _positions(extent, to_lonlat)
    south, north = float(lats.min()), float(lats.max())
    if south > MAX_LATITUDE_DEG or north < -MAX_LATITUDE_DEG:
        raise OutsideMercator(
            f"lies wholly beyond {MAX_LATITUDE_DEG:.4f} degrees of latitude, outside web mercator"
        )
    west, east = float(lons.min()), float(lons.max())
    if _contains(extent, poles):
        return _whole_width(south, 90.0) if north > 0 else _whole_width(-90.0, north)
    if east - west >= 360 - _TINY_DEG:
        return _whole_width(south, north)
    turn = 360 * np.floor((west + 180 + _TINY_DEG) / 360)
    west, east = west - turn, east - turn
    if east > 180 + _TINY_DEG:
        return _box(west, south, east - 360, north)
    sampled = _box(west, south, east, north)
    straight = to_mercator(extent)
    return sampled if straight is None else _checked(straight, sampled)


def _whole_width(south: float, north: float) -> XYBounds:
    return _box(-180, south, 180, north)


def _box(west: float, south: float, east: float, north: float) -> XYBounds:
    (left, bottom), (right, top) = project(west, south), project(east, north)
    return XYBounds(_clamp(left), _clamp(bottom), _clamp(right), _clamp(top))


def _clamp(value: float) -> float:
    return max(-HALF_WORLD_M, min(HALF_WORLD_M, value))


def width_m(box: XYBounds) -> float:
    """Return the width of a box in EPSG:3857 metres, across the antimeridian too."""
    return sum(part.right - part.left for part in box.parts())


def _positions(
    extent: Extent, to_lonlat: Callable[[Coordinates, Coordinates], tuple[Coordinates, Coordinates]]
) -> tuple[Coordinates, Coordinates]:
    """Return unwrapped longitudes and latitudes of points all over an extent."""
    for samples in (_SAMPLES, _DENSE_SAMPLES):
        lons, lats = to_lonlat(*_snake(extent, samples))
        finite = np.isfinite(lons) & np.isfinite(lats)
        if not finite.any():
            raise OutsideMercator("cannot be projected to web mercator")
        if finite.all():
            break
    return np.unwrap(lons[finite], period=360), lats[finite]


def _snake(extent: Extent, samples: int) -> tuple[Coordinates, Coordinates]:
    """Return x and y of a lattice over an extent, row after row, every other row backwards.

    Points that follow each other are neighbours, so that longitudes can be unwrapped.
    """
    left, bottom, right, top = extent
    x, y = np.meshgrid(np.linspace(left, right, samples), np.linspace(bottom, top, samples))
    x[1::2] = x[1::2, ::-1]
    return x.ravel(), y.ravel()


def _contains(extent: Extent, points: Coordinates) -> bool:
    """Tell whether a point lies inside an extent, and not on its edge."""
    left, bottom, right, top = extent
    margin_x, margin_y = (right - left) * 1e-9, (top - bottom) * 1e-9
    x, y = points[:, 0], points[:, 1]
    inside = (x > left + margin_x) & (x < right - margin_x) & (y > bottom + margin_y) & (y < top - margin_y)
    return bool(inside.any())


def _checked(straight: Extent, sampled: XYBounds) -> XYBounds:
    """Return the exact box, clamped, or the sampled one where the two disagree about longitudes."""
    left, bottom, right, top = map(_clamp, straight)
    slack = 0.02 * (sampled.right - sampled.left) + 1.0
    if not abs(left - sampled.left) <= slack or not abs(right - sampled.right) <= slack:
        return sampled
    return XYBounds(left, bottom, right, top)
