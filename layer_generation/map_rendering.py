"""Fill the renders of a map from its terrain: quadrant by quadrant, resumable at any moment."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import UsageError
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.hillshade import ReliefStyle, style_of
from fusi_pipeline.tiles.resample import Heights
from layer_generation.advance import Advance
from layer_generation.camera import Geometry, MercatorGrid
from layer_generation.errors import GeometryInvalid
from layer_generation.map_making import terrain_facts, terrain_of
from layer_generation.pictures import png
from layer_generation.quadrants import QuadrantStore
from layer_generation.renderer.open import Renders, open_renderer
from layer_generation.renderer.projection import detail_of
from layer_generation.renderer.relief import relief, row_lengths_m, with_margin
from layer_generation.renderer.terrain import Terrain
from layer_generation.renderer.views import IsometricPlane, Missing, View, quadrants_view

Drawer = Literal["numpy", "browser"]
Task = Callable[[], bytes]
"""Draws one quadrant as PNG, in any thread."""
_SAMPLES = 48
"""Quadrants that the style of a map is chosen by."""
_BATCH, _BATCH_S = 32, 2.0
_PLAIN = ReliefStyle(exaggeration=1.0, low_m=0.0, high_m=1.0)
_GROUP = 8
"""Quadrants are drawn in squares of so many, so that neighbours' heights are at hand."""


@dataclass(frozen=True, slots=True)
class RenderReport:
    """What a rendering came to."""

    map: Path
    rendered: int
    """Renders made."""
    kept: int
    """Renders that were there already."""
    style: ReliefStyle
    renderer: Drawer
    """What drew them, or would have."""


def render_map(
    folder: Path,
    *,
    archive: Path | None = None,
    overwrite: bool = False,
    tint_m: tuple[float, float] | None = None,
    exaggeration: float | None = None,
    workers: int = 1,
    renderer: Drawer | None = None,
    missing: Missing | None = None,
) -> Generator[Advance, None, RenderReport]:
    """Draw the quadrants of a map that have no render, or all of them (`overwrite`).

    A web-mercator map is drawn by numpy and an isometric one by the browser,
    unless a `renderer` is named. The style is chosen by the first rendering and
    kept in the map; `tint_m`, `exaggeration` and `missing`, what stands where the
    terrain has no heights, change it. `archive` is for a map that does not know
    its terrain, or whose terrain moved, and is remembered. Raises GeometryInvalid
    for an isometric map and numpy, RendererUnavailable, ArchiveMissing.
    """
    with QuadrantStore(folder) as store:
        geometry = store.geometry
        chosen = _chosen(folder, geometry, renderer, missing or _stated(store))
        with Terrain(terrain_of(store, archive), _zoom(geometry)) as terrain:
            if archive is not None:
                store.set_fact("terrain", terrain_facts(terrain, folder))
            if overwrite:  # taken away first, so that a run that is killed leaves no two styles
                store.put("render", ((x, y, None) for x, y in store.coordinates("render").tolist()))
            done = store.coordinates("render")
            filling = _filling(store, missing, redo=not len(done))
            style = _settled(store, terrain, tint_m, exaggeration, redo=not len(done))
            wanted = _in_groups(_without(store.coordinates(), done))
            yield Advance("render", 0, len(wanted), "quadrants")
            if wanted:
                tasks = _numpy_tasks(terrain, style)
                if chosen == "browser":
                    tasks = _browser_tasks(
                        folder,
                        partial(quadrants_view, terrain.path.absolute(), geometry, style, missing=filling),
                    )
                with ThreadPoolExecutor(max(workers, 2)) as pool, tasks as task_of:
                    yield from _stored(store, _pictures(pool, workers, wanted, task_of), len(wanted))
    return RenderReport(folder, len(wanted), len(done), style, chosen)


def paint(
    folder: Path, quadrants: Sequence[tuple[int, int]], renderer: Renders | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """Yield quadrants of a map with renders as PNG, in the map's style; nothing is stored.

    An isometric map takes a `renderer`. Raises GeometryInvalid without one,
    ArchiveMissing, UsageError, and what the renderer raises.
    """
    with QuadrantStore(folder) as store:
        geometry = store.geometry
        if renderer is None:
            _chosen(folder, geometry, "numpy", _stated(store))
        with Terrain(terrain_of(store, None), _zoom(geometry)) as terrain:
            style = _settled(store, terrain, None, None, redo=not len(store.coordinates("render")))
            filling = _stated(store)
            for x, y in quadrants:
                if renderer is None:
                    yield x, y, _drawn(with_margin(x, y, terrain.heights), y, terrain.zoom, style)
                else:
                    path = terrain.path.absolute()
                    view = quadrants_view(path, geometry, style, x, y, missing=filling)
                    yield x, y, renderer.render(view).png()


def _chosen(folder: Path, geometry: Geometry, named: Drawer | None, missing: Missing) -> Drawer:
    """Return what draws a map. Raises GeometryInvalid and UsageError for what numpy cannot."""
    flat = isinstance(geometry, MercatorGrid)
    chosen: Drawer = named or ("numpy" if flat and missing != "hole" else "browser")
    if chosen == "numpy" and not flat:
        raise GeometryInvalid(
            f"{folder}: is seen through an isometric camera, which only a browser draws; "
            "use --renderer browser, or fill it with `fusi layer map import-images`"
        )
    if chosen == "numpy" and missing == "hole":
        raise UsageError(f"{folder}: is a map with holes (--missing hole); only --renderer browser draws it")
    return chosen


def _zoom(geometry: Geometry) -> int:
    return geometry.zoom if isinstance(geometry, MercatorGrid) else 0


def _stated(store: QuadrantStore) -> Missing:
    """Return what stands where a map's terrain has no heights, as the map says."""
    return "hole" if store.fact("missing") == "hole" else "sea"


def _filling(store: QuadrantStore, missing: Missing | None, *, redo: bool) -> Missing:
    """Return what stands where a map's terrain has no heights, and keep it.

    Raises UsageError where renders of another kind would stay.
    """
    before = _stated(store)
    if missing is None or missing == before:
        return before
    if not redo:
        raise UsageError(
            f"{store.folder}: has renders with {before} where heights are missing; "
            "draw them again with --overwrite"
        )
    store.set_fact("missing", missing)
    return missing


def _settled(
    store: QuadrantStore,
    terrain: Terrain,
    tint_m: tuple[float, float] | None,
    exaggeration: float | None,
    *,
    redo: bool,
) -> ReliefStyle:
    """Return the style of a map, and keep it. Raises UsageError where renders of another would stay."""
    stated = store.fact("relief")
    before = ReliefStyle(**stated) if isinstance(stated, dict) else None
    samples = [] if before else list(_samples(store, terrain))
    base = before or style_of(samples)
    low, high = tint_m or (base.low_m, base.high_m)
    style = ReliefStyle(exaggeration=exaggeration or base.exaggeration, low_m=low, high_m=high)
    if style != before:
        if before is not None and not redo:
            raise UsageError(
                f"{store.folder}: has renders of another style, which would meet the new ones with a seam; "
                "draw them again with --overwrite"
            )
        if samples or before or tint_m:  # a map without heights yet has them chosen later
            store.set_fact("relief", asdict(style))
    return style


def _samples(store: QuadrantStore, terrain: Terrain) -> Iterator[tuple[Heights, float]]:
    """Yield heights of quadrants spread over a map, with the ground length of a pixel."""
    coordinates, geometry = store.coordinates(), store.geometry
    chosen = np.unique(np.linspace(0, len(coordinates) - 1, _SAMPLES).round().astype(np.int64))
    for x, y in coordinates[chosen].tolist() if len(coordinates) else ():
        tile = _below(geometry, terrain, x, y)
        heights = terrain.at(tile.z, tile.x, tile.y)
        if heights is not None:
            yield heights, float(row_lengths_m(tile.y, tile.z).mean())


def _below(geometry: Geometry, terrain: Terrain, x: int, y: int) -> Tile:
    """Return the tile at a quadrant, or at its middle at 0 m, whose pixels are about as large."""
    if isinstance(geometry, MercatorGrid):
        return Tile(geometry.zoom, x, y)
    plane = cast(IsometricPlane, quadrants_view(terrain.path, geometry, _PLAIN, x, y).plane)
    zoom = detail_of(plane, terrain.metadata.minzoom, terrain.metadata.maxzoom).zoom
    corners = geometry.corners(x, y)
    lat, lon = (sum(one[axis] for one in corners) / len(corners) for axis in (0, 1))
    return grid.tile_at((lon + 180) % 360 - 180, min(max(lat, -85.0), 85.0), zoom)


def _without(coordinates: npt.NDArray[np.int64], those: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the coordinates that are not among those."""
    known = set(map(tuple, those.tolist()))
    return np.array([one for one in coordinates.tolist() if tuple(one) not in known], np.int64).reshape(-1, 2)


def _in_groups(coordinates: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return coordinates square by square."""
    x, y = coordinates[:, 0], coordinates[:, 1]
    order = np.lexsort((x, y, x // _GROUP, y // _GROUP))
    return [(int(one), int(other)) for one, other in coordinates[order]]


@contextmanager
def _numpy_tasks(terrain: Terrain, style: ReliefStyle) -> Iterator[Callable[[int, int], Task]]:
    """Yield what makes tasks of quadrants: the heights are read at once."""

    def task_of(x: int, y: int) -> Task:
        return partial(_drawn, with_margin(x, y, terrain.heights), y, terrain.zoom, style)

    yield task_of


@contextmanager
def _browser_tasks(folder: Path, view_of: Callable[[int, int], View]) -> Iterator[Callable[[int, int], Task]]:
    """Yield what makes tasks of quadrants, with a renderer open meanwhile. Raises RendererUnavailable."""
    with open_renderer(folder) as renderer:

        def task_of(x: int, y: int) -> Task:
            view = view_of(x, y)
            return lambda: renderer.render(view).png()

        yield task_of


def _pictures(
    pool: ThreadPoolExecutor,
    workers: int,
    quadrants: list[tuple[int, int]],
    task_of: Callable[[int, int], Task],
) -> Iterator[tuple[int, int, bytes]]:
    """Yield quadrants with their pictures in order; at most two for each worker are under way."""
    waiting: deque[tuple[int, int, Future[bytes]]] = deque()
    try:
        for x, y in quadrants:
            waiting.append((x, y, pool.submit(task_of(x, y))))
            if len(waiting) > 2 * workers:
                first = waiting.popleft()
                yield first[0], first[1], first[2].result()
        while waiting:
            first = waiting.popleft()
            yield first[0], first[1], first[2].result()
    finally:
        for _, _, future in waiting:
            future.cancel()


def _drawn(heights: Heights, y: int, zoom: int, style: ReliefStyle) -> bytes:
    return png(relief(heights, y, zoom, style))


def _stored(
    store: QuadrantStore, pictures: Iterator[tuple[int, int, bytes]], total: int
) -> Generator[Advance, None, None]:
    """Write pictures in batches, of a few where they take long to draw."""
    done, stored = 0, time.monotonic()
    batch: list[tuple[int, int, bytes | None]] = []
    for one in pictures:
        batch.append(one)
        late = time.monotonic() - stored > _BATCH_S
        if late or len(batch) == _BATCH or done + len(batch) == total:
            store.put("render", batch)
            done += len(batch)
            batch, stored = [], time.monotonic()
            yield Advance("render", done, total, "quadrants")
