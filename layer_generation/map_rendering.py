"""Fill the renders of a map from its terrain: quadrant by quadrant, resumable at any moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import UsageError
from fusi_pipeline.tiles.hillshade import ReliefStyle, style_of
from fusi_pipeline.tiles.resample import Heights
from layer_generation.advance import Advance
from layer_generation.camera import MercatorGrid
from layer_generation.errors import GeometryInvalid
from layer_generation.map_making import terrain_facts, terrain_of
from layer_generation.pictures import png
from layer_generation.quadrants import QuadrantStore
from layer_generation.renderer.relief import relief, row_lengths_m, with_margin
from layer_generation.renderer.terrain import Terrain

_SAMPLES = 48
"""Quadrants that the style of a map is chosen by."""
_BATCH = 32
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


def render_map(
    folder: Path,
    *,
    archive: Path | None = None,
    overwrite: bool = False,
    tint_m: tuple[float, float] | None = None,
    exaggeration: float | None = None,
    workers: int = 1,
) -> Generator[Advance, None, RenderReport]:
    """Draw the quadrants of a web-mercator map that have no render, or all of them (`overwrite`).

    The style is chosen by the first rendering and kept in the map; `tint_m` and
    `exaggeration` change it. `archive` is for a map that does not know its
    terrain, or whose terrain moved, and is remembered. Raises GeometryInvalid
    for an isometric map, ArchiveMissing.
    """
    with QuadrantStore(folder) as store:
        geometry = store.geometry
        if not isinstance(geometry, MercatorGrid):
            raise GeometryInvalid(
                f"{folder}: is seen through an isometric camera, which this renderer does not draw; "
                "fill it with `fusi layer map import-images`"
            )
        with Terrain(terrain_of(store, archive), geometry.zoom) as terrain:
            if archive is not None:
                store.set_fact("terrain", terrain_facts(terrain, folder))
            if overwrite:  # taken away first, so that a run that is killed leaves no two styles
                store.put("render", ((x, y, None) for x, y in store.coordinates("render").tolist()))
            done = store.coordinates("render")
            style = _settled(store, terrain, tint_m, exaggeration, redo=not len(done))
            wanted = _in_groups(_without(store.coordinates(), done))
            yield Advance("render", 0, len(wanted), "quadrants")
            with ThreadPoolExecutor(workers) as pool:
                pictures = _pictures(pool, workers, terrain, wanted, style)
                yield from _stored(store, pictures, len(wanted))
    return RenderReport(folder, len(wanted), len(done), style)


def paint(folder: Path, quadrants: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
    """Yield quadrants of a web-mercator map with renders as PNG, in the map's style; nothing is stored.

    Raises GeometryInvalid for an isometric map, ArchiveMissing, UsageError.
    """
    with QuadrantStore(folder) as store:
        geometry = store.geometry
        if not isinstance(geometry, MercatorGrid):
            raise GeometryInvalid(f"{folder}: is seen through an isometric camera, which only a browser draws")
        with Terrain(terrain_of(store, None), geometry.zoom) as terrain:
            style = _settled(store, terrain, None, None, redo=not len(store.coordinates("render")))
            for x, y in quadrants:
                yield x, y, _drawn(with_margin(x, y, terrain.heights), y, terrain.zoom, style)


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
    base = before or style_of(_samples(store, terrain))
    low, high = tint_m or (base.low_m, base.high_m)
    style = ReliefStyle(exaggeration=exaggeration or base.exaggeration, low_m=low, high_m=high)
    if style != before:
        if before is not None and not redo:
            raise UsageError(
                f"{store.folder}: has renders of another style, which would meet the new ones with a seam; "
                "draw them again with --overwrite"
            )
        store.set_fact("relief", asdict(style))
    return style


def _samples(store: QuadrantStore, terrain: Terrain) -> Iterator[tuple[Heights, float]]:
    """Yield heights of quadrants spread over a map, with the ground length of a pixel."""
    coordinates = store.coordinates()
    chosen = np.unique(np.linspace(0, len(coordinates) - 1, _SAMPLES).round().astype(np.int64))
    for x, y in coordinates[chosen].tolist() if len(coordinates) else ():
        heights = terrain.heights(x, y)
        if heights is not None:
            yield heights, float(row_lengths_m(y, terrain.zoom).mean())


def _without(coordinates: npt.NDArray[np.int64], those: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the coordinates that are not among those."""
    known = set(map(tuple, those.tolist()))
    return np.array([one for one in coordinates.tolist() if tuple(one) not in known], np.int64).reshape(-1, 2)


def _in_groups(coordinates: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return coordinates square by square."""
    x, y = coordinates[:, 0], coordinates[:, 1]
    order = np.lexsort((x, y, x // _GROUP, y // _GROUP))
    return [(int(one), int(other)) for one, other in coordinates[order]]


def _pictures(
    pool: ThreadPoolExecutor,
    workers: int,
    terrain: Terrain,
    quadrants: list[tuple[int, int]],
    style: ReliefStyle,
) -> Iterator[tuple[int, int, bytes]]:
    """Yield quadrants with their pictures in order; at most two for each worker are under way."""
    waiting: deque[tuple[int, int, Future[bytes]]] = deque()
    try:
        for x, y in quadrants:
            heights = with_margin(x, y, terrain.heights)
            waiting.append((x, y, pool.submit(_drawn, heights, y, terrain.zoom, style)))
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
    """Write pictures in batches."""
    done = 0
    batch: list[tuple[int, int, bytes | None]] = []
    for one in pictures:
        batch.append(one)
        if len(batch) == _BATCH or done + len(batch) == total:
            store.put("render", batch)
            done += len(batch)
            batch = []
            yield Advance("render", done, total, "quadrants")
