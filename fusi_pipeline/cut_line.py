"""The part of an archive that a merge may use: areas of a GeoJSON file (RFC 7946)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry import shape

from fusi_pipeline.errors import CutLineInvalid
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import EARTH_RADIUS_M, TILE_SIZE_PX, Bounds, Tile


class CutLine:
    """Polygons in degrees of WGS 84; longitudes may go on beyond 180. Raises CutLineInvalid."""

    def __init__(self, path: Path) -> None:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CutLineInvalid(path, error.strerror or str(error)) from error
        except (UnicodeDecodeError, ValueError) as error:
            raise CutLineInvalid(path, f"is no JSON ({error})") from error
        try:
            areas = [shape(geometry) for geometry in _geometries(document)]
        except (shapely.errors.ShapelyError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise CutLineInvalid(path, f"is no GeoJSON ({error})") from error
        areas = [area for area in areas if not area.is_empty]
        if not areas or any(area.geom_type not in ("Polygon", "MultiPolygon") for area in areas):
            raise CutLineInvalid(path, "expected areas: Polygon or MultiPolygon, in degrees")
        self._area = shapely.union_all([shapely.make_valid(area) for area in areas])
        west, south, east, north = self._area.bounds
        if not (west >= -360 and east <= 540 and south >= -90 and north <= 90):
            raise CutLineInvalid(
                path, f"reaches over {west:g},{south:g},{east:g},{north:g}; expected longitudes and latitudes"
            )
        turns = [turn for turn in (-360.0, 0.0, 360.0) if west < 180 + turn and east > -180 + turn]
        self._turns = tuple(turns)
        shapely.prepare(self._area)

    @property
    def bounds(self) -> Bounds | None:
        """The box around all areas; None where they go on beyond 180 degrees."""
        west, south, east, north = self._area.bounds
        return Bounds(west, south, east, north) if self._turns == (0.0,) else None

    def inside(self, tile: Tile) -> npt.NDArray[np.bool_]:
        """Return which pixels of a tile have their centre in the areas, shape (512, 512)."""
        box = grid.xy_bounds(tile)
        centre = np.arange(TILE_SIZE_PX) + 0.5
        size = grid.resolution_m(tile.z)
        lons = np.degrees((box.left + centre * size) / EARTH_RADIUS_M)
        lats = np.degrees(2 * np.arctan(np.exp((box.top - centre * size) / EARTH_RADIUS_M)) - np.pi / 2)
        out = np.zeros((TILE_SIZE_PX, TILE_SIZE_PX), dtype=bool)
        for turn in self._turns:
            part = shapely.box(lons[0] + turn, lats[-1], lons[-1] + turn, lats[0])
            if not self._area.intersects(part):
                continue
            if self._area.contains_properly(part):
                return np.ones_like(out)
            columns, rows = np.meshgrid(lons + turn, lats)
            out |= shapely.contains_xy(self._area, columns, rows)
        return out


def _geometries(document: object) -> Iterator[dict[str, Any]]:
    """Yield the geometries of a GeoJSON document of any kind."""
    if not isinstance(document, Mapping):
        raise TypeError("it is no object")
    kind = document.get("type")
    if kind == "FeatureCollection":
        for feature in document["features"]:
            yield from _geometries(feature)
    elif kind == "Feature":
        if document["geometry"] is not None:
            yield from _geometries(document["geometry"])
    elif kind == "GeometryCollection":
        for geometry in document["geometries"]:
            yield from _geometries(geometry)
    else:
        yield dict(document)
