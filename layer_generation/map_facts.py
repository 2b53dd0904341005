"""What a map is made of, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from layer_generation.camera import geometry_json
from layer_generation.map_making import box_of
from layer_generation.quadrants import FLAGS, KINDS, QuadrantStore


@dataclass(frozen=True, slots=True)
class MapFacts:
    """A map at a glance."""

    map: Path
    geometry: Mapping[str, object]
    """As the map states it, with its `type`."""
    quadrants: int
    quadrant_box: tuple[int, int, int, int] | None
    """(min_x, min_y, max_x, max_y), inclusive."""
    bounds: tuple[float, float, float, float] | None
    """(west, south, east, north) of the quadrants' box in degrees; longitudes may go on beyond 180."""
    pictures: Mapping[str, int]
    """Quadrants that have a picture, by kind."""
    flags: Mapping[str, int]
    """Quadrants that are marked, by flag."""
    notes: int
    """Quadrants with a note."""
    terrain: Mapping[str, object]
    """The archive that the map lies over, as the map states it."""
    relief: Mapping[str, object]
    """The style of its renders, where fusi drew them."""
    bytes: int


def map_facts(folder: Path) -> MapFacts:
    """Return what is true of a map. Raises MapMissing, MapUnreadable, GeometryInvalid."""
    with QuadrantStore(folder) as store:
        geometry = store.geometry
        coordinates = store.coordinates()
        pictures: dict[str, int] = {kind: len(store.coordinates(kind)) for kind in KINDS}
        flags, notes = dict.fromkeys(FLAGS, 0), 0
        for one in store.facts():
            notes += bool(one.notes)
            for flag in one.flags:
                flags[flag] += 1
        terrain, relief = store.fact("terrain"), store.fact("relief")
    box = box_of(coordinates)
    bounds = None
    if box is not None:
        corners = geometry.corners(box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1)
        lats, lons = [one.lat for one in corners], [one.lon for one in corners]
        bounds = min(lons), min(lats), max(lons), max(lats)
    return MapFacts(
        map=folder,
        geometry=geometry_json(geometry),
        quadrants=len(coordinates),
        quadrant_box=box,
        bounds=bounds,
        pictures=pictures,
        flags=flags,
        notes=notes,
        terrain=terrain if isinstance(terrain, dict) else {},
        relief=relief if isinstance(relief, dict) else {},
        bytes=(folder / "quadrants.db").stat().st_size,
    )
