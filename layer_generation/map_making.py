"""New maps, absent or complete, and quadrants added to a map: those that its terrain has heights for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from fusi_pipeline.errors import ArchiveMissing, UsageError
from fusi_pipeline.tiles.files import sync, writable_folder
from fusi_pipeline.tiles.grid import Bounds
from layer_generation.advance import Advance
from layer_generation.camera import Geometry, IsometricCamera, MercatorGrid
from layer_generation.errors import GeometryInvalid, MapExists
from layer_generation.quadrants import FILENAME, QuadrantStore
from layer_generation.renderer.terrain import Box, Terrain

MOST_QUADRANTS = 16_000_000
"""Positions of a box that are looked at."""
_SCRATCH = ".new-map-"


@dataclass(frozen=True, slots=True)
class MapReport:
    """What became of a map that was made or grew."""

    map: Path
    quadrants: int
    """Quadrants of the map."""
    added: int
    """Of these, those that are new."""
    bounds: Box | None
    """(min_x, min_y, max_x, max_y) of all, inclusive; None where there are none."""


def make_map(
    folder: Path,
    archive: Path,
    zoom: int,
    box: Bounds | None = None,
    *,
    everywhere: bool = False,
) -> Generator[Advance, None, MapReport]:
    """Make a map over a terrain archive.

    Without a `box`, the archive's own. Unless `everywhere`, only quadrants that
    the terrain has heights for. Raises MapExists, GeometryInvalid, UsageError.
    """
    if (folder / FILENAME).exists():
        raise MapExists(folder)
    with Terrain(archive, zoom) as terrain:
        found = yield from _covered(terrain, box, everywhere)
        facts = terrain_facts(terrain, folder)
    with new_store(folder, MercatorGrid(zoom=zoom), {"terrain": facts}) as store:
        report = _added(store, found)
    return replace(report, map=folder)


def extend_map(
    folder: Path,
    archive: Path | None = None,
    zoom: int | None = None,
    box: Bounds | None = None,
    *,
    everywhere: bool = False,
) -> Generator[Advance, None, MapReport]:
    """Add quadrants to a map over terrain; what it holds stays. See `make_map`.

    Without an `archive`, that of the map. Raises MapMissing and GeometryInvalid,
    the latter for another zoom, too.
    """
    with QuadrantStore(folder) as store:
        there = store.geometry
        if not isinstance(there, MercatorGrid) or zoom not in (None, there.zoom):
            stands = f"zoom {there.zoom}" if isinstance(there, MercatorGrid) else "an isometric camera"
            raise GeometryInvalid(f"{folder}: is a map of {stands}, and is extended at that only")
        with Terrain(terrain_of(store, archive), there.zoom) as terrain:
            found = yield from _covered(terrain, box, everywhere)
        return _added(store, found)


def terrain_of(store: QuadrantStore, named: Path | None) -> Path:
    """Return the terrain archive of a map, unless another is named. Raises UsageError, ArchiveMissing."""
    if named is not None:
        return named
    stated = store.fact("terrain")
    if not isinstance(stated, dict) or not stated.get("archive"):
        raise UsageError(f"{store.folder}: does not say what terrain it lies over; name it with --terrain")
    path = store.folder / str(stated["archive"])
    if not path.exists():
        raise ArchiveMissing(path)
    return path


def terrain_facts(terrain: Terrain, folder: Path) -> dict[str, object]:
    """Return what a map remembers of the archive that it lies over."""
    stated = terrain.metadata
    return {
        "archive": relative(terrain.path, folder),
        "name": stated.name,
        "attribution": stated.attribution,
        "bounds": list(asdict(stated.bounds).values()),
    }


def _covered(
    terrain: Terrain, box: Bounds | None, everywhere: bool
) -> Generator[Advance, None, npt.NDArray[np.int64]]:
    """Return the (x, y) of the quadrants of a box, or of all of the terrain. Raises UsageError for none."""
    stated, zoom = terrain.metadata, terrain.zoom
    area = box or stated.bounds
    quadrants = _checked(MercatorGrid(zoom=zoom).covering(area), zoom)
    found = _all_of(quadrants) if everywhere else (yield from terrain.quadrants(quadrants))
    if not len(found):
        raise UsageError(
            f"{terrain.path}: has no heights at zoom {zoom} in {area}; it covers {stated.bounds}"
            f" at zooms {stated.minzoom}..{stated.maxzoom} (--all takes every quadrant of the box)"
        )
    return found


def make_isometric_map(
    folder: Path, camera: IsometricCamera, quadrants: Box | None = None, archive: Path | None = None
) -> MapReport:
    """Make a map seen through an isometric camera, with the quadrants of a rectangle or none yet.

    It remembers a terrain archive where one is named. Raises MapExists, ArchiveMissing.
    """
    found = np.empty((0, 2), dtype=np.int64) if quadrants is None else _all_of(_checked(quadrants))
    facts: dict[str, object] = {}
    if archive is not None:
        with Terrain(archive, 0) as terrain:
            facts["terrain"] = terrain_facts(terrain, folder)
    with new_store(folder, camera, facts) as store:
        report = _added(store, found)
    return replace(report, map=folder)


@contextmanager
def new_store(
    folder: Path, geometry: Geometry, facts: dict[str, object] | None = None
) -> Iterator[QuadrantStore]:
    """Yield a new map to be filled; the folder has it when the block ends well. Raises MapExists."""
    if (folder / FILENAME).exists():
        raise MapExists(folder)
    writable_folder(folder)
    for old in folder.glob(f"{_SCRATCH}*"):
        owner = old.name.removeprefix(_SCRATCH)
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(old, ignore_errors=True)
    scratch = folder / f"{_SCRATCH}{os.getpid()}"
    try:
        with QuadrantStore.create(scratch, geometry, facts) as store:
            yield store
        sync(scratch / FILENAME)
        os.replace(scratch / FILENAME, folder / FILENAME)
        sync(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, absolute where they have nothing but the root in common."""
    whole, base = path.resolve(), folder.resolve()
    common = os.path.commonpath([whole, base])
    return str(whole) if common == os.sep else os.path.relpath(whole, base)


def box_of(coordinates: npt.NDArray[np.int64]) -> Box | None:
    """Return (min_x, min_y, max_x, max_y) of quadrants, None where there are none."""
    if not len(coordinates):
        return None
    (min_x, min_y), (max_x, max_y) = coordinates.min(axis=0).tolist(), coordinates.max(axis=0).tolist()
    return min_x, min_y, max_x, max_y


def _added(store: QuadrantStore, found: npt.NDArray[np.int64]) -> MapReport:
    before = len(store.coordinates())
    store.add(map(tuple, found.tolist()))
    after = store.coordinates()
    return MapReport(store.folder, len(after), len(after) - before, box_of(after))


def _checked(box: Box, zoom: int | None = None) -> Box:
    count = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
    if count > MOST_QUADRANTS:
        where = "" if zoom is None else f" at zoom {zoom}"
        raise GeometryInvalid(
            f"{count:,} quadrants{where} are more than {MOST_QUADRANTS:,}; "
            "choose a lower --zoom or a smaller --bbox"
        )
    return box


def _all_of(box: Box) -> npt.NDArray[np.int64]:
    """Return the (x, y) of all quadrants of a box, shape (n, 2), row by row."""
    y, x = np.mgrid[box[1] : box[3] + 1, box[0] : box[2] + 1]
    return np.stack([x.ravel(), y.ravel()], axis=1)
