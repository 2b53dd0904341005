"""What each source covers, zoom by zoom and cell by cell, from a lineage archive.

A cell is a tile some zooms above those whose pixels are counted. Counts are of
pixels; polygons are the pixels' own edges, or coarser where a cell is finely
mixed. Cells are taken one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import shapely

from fusi_pipeline import lineage, lineage_files, polygons
from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.feature_files import Feature, Sink, writing
from fusi_pipeline.lineage import MOST_SOURCES, LegendEntry
from fusi_pipeline.progress import Progress
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile

CELL_LEVELS = 3
"""A cell is 2^3 = 8 tiles wide, unless asked otherwise."""
MOST_CELL_LEVELS = 4
MOST_SEGMENTS = 50_000
"""Straight pieces of border that a cell may have before its polygons are made coarser."""
_INDICES = MOST_SOURCES + 1
_POLAR_RADIUS_M = 6356752.314245
_ECCENTRICITY = math.sqrt(1 - (_POLAR_RADIUS_M / grid.EARTH_RADIUS_M) ** 2)
"""Of the ellipsoid of WGS 84."""
KINDS: Mapping[str, type] = {
    "index": int, "source": str, "attribution": str, "license": str, "color": str, "zoom": int, "cell": str,
    "pixels": int, "share": float, "blended_pixels": int, "area_km2": float, "detail_px": int,
}  # fmt: skip
"""The properties of a feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCoverage:
    """What one source covers at one zoom."""

    index: int
    source: str
    zoom: int
    pixels: int
    """Pixels whose height is the source's, or mostly its."""
    share: float
    """Their share of the pixels of the zoom that any source has."""
    blended_pixels: int
    """Those among them into which another source is blended."""
    area_km2: float
    """Their area on the ellipsoid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageReport:
    """What was written."""

    lineage: Path
    output: Path | None
    """None for a stream."""
    features: int
    cells: int
    coverage: tuple[SourceCoverage, ...]
    """By zoom and index."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """The tiles of one zoom that lie in one tile above."""

    tile: Tile
    z: int
    places: npt.NDArray[np.int64]
    """Columns and rows of the tiles that there are, shape (n, 2)."""


class _Counts:
    """Pixels, blended pixels and area of each index, arrays of shape (256,)."""

    def __init__(self) -> None:
        self.pixels: npt.NDArray[np.int64] = np.zeros(_INDICES, dtype=np.int64)
        self.blended: npt.NDArray[np.int64] = np.zeros(_INDICES, dtype=np.int64)
        self.area_km2: npt.NDArray[np.float64] = np.zeros(_INDICES)

    def add(self, other: _Counts) -> None:
        self.pixels += other.pixels
        self.blended += other.blended
        self.area_km2 += other.area_km2


def coverage(
    archive: Path,
    output: Path | IO[str],
    *,
    zooms: Sequence[int] = (),
    cell_levels: int = CELL_LEVELS,
    detail_px: int = 1,
    overwrite: bool = False,
) -> Generator[Progress, None, CoverageReport]:
    """Write a feature for each source, zoom and cell of a lineage archive, yielding progress.

    `archive` is the lineage or the terrain that names it; `zooms` those wanted,
    all by default; `detail_px`, a power of two up to 512, the finest step of the
    polygons. Raises LineageMissing, UsageError, OutputExists, ExtraMissing,
    TileCorrupt, DiskFull.
    """
    path = lineage_files.lineage_path(archive)
    if isinstance(output, Path) and any(output.exists() and output.samefile(one) for one in (archive, path)):
        raise UsageError(f"{output}: is an archive to read; choose another name for the output")
    with lineage_files.open_lineage(path) as reader:
        wanted = _zooms(reader, zooms)
        entries = {entry.index: entry for entry in lineage.legend(reader.metadata)}
        total = sum(_cell_count(reader, z, cell_levels) for z in wanted)
        totals = {z: _Counts() for z in wanted}
        done = features = 0
        with writing(output, KINDS, overwrite=overwrite) as sink:
            yield Progress("cover", 0, total, "cells")
            for cell in (cell for z in wanted for cell in _cells(reader, z, cell_levels)):
                counts = _write_cell(reader, cell, entries, detail_px, sink)
                totals[cell.z].add(counts)
                features += int(np.count_nonzero(counts.pixels[1:]))
                done += 1
                yield Progress("cover", done, total, "cells")
    return CoverageReport(
        lineage=path,
        output=output if isinstance(output, Path) else None,
        features=features,
        cells=done,
        coverage=tuple(line for z in wanted for line in _summary(z, totals[z], entries)),
    )


def _zooms(reader: TileReader, zooms: Sequence[int]) -> list[int]:
    there = sorted(reader.counts())
    missing = sorted(set(zooms) - set(there))
    if missing:
        held = f"{there[0]}..{there[-1]}" if there else "none"
        raise ArchiveUnsuitable(reader.path, f"has no tile of zoom {missing[0]}; its zooms are {held}")
    return sorted(set(zooms)) or there


def _cells(reader: TileReader, z: int, cell_levels: int) -> Iterator[_Cell]:
    """Yield the cells of a zoom, column by column."""
    levels = min(cell_levels, z)
    places = reader.coordinates(z).astype(np.int64)
    above = places >> levels
    order = np.lexsort((places[:, 0], places[:, 1], above[:, 1], above[:, 0]))
    places, above = places[order], above[order]
    borders = np.flatnonzero((above[1:] != above[:-1]).any(axis=1)) + 1
    for part in np.split(places, borders):
        yield _Cell(Tile(z - levels, int(part[0, 0]) >> levels, int(part[0, 1]) >> levels), z, part)


def _cell_count(reader: TileReader, z: int, cell_levels: int) -> int:
    places = reader.coordinates(z).astype(np.int64) >> min(cell_levels, z)
    return len(np.unique(places[:, 0] << 32 | places[:, 1]))


def _write_cell(
    reader: TileReader, cell: _Cell, entries: Mapping[int, LegendEntry], detail_px: int, sink: Sink
) -> _Counts:
    """Write the features of a cell; return what was counted in it."""
    side = TILE_SIZE_PX << (cell.z - cell.tile.z)
    labels = np.zeros((side, side), dtype=np.uint8)
    counts = _Counts()
    for x, y in cell.places.tolist():
        tile = Tile(cell.z, x, y)
        pixels = lineage_files.tile_pixels(reader, tile)
        if pixels is None:
            continue
        col, row = (x * TILE_SIZE_PX) % side, (y * TILE_SIZE_PX) % side
        labels[row : row + TILE_SIZE_PX, col : col + TILE_SIZE_PX] = pixels[..., 0]
        counts.add(_counted(tile, pixels))
    areas, detail_px = _areas(cell, labels, counts, detail_px)
    for index in (np.flatnonzero(counts.pixels[1:]) + 1).tolist():
        entry = entries.get(index) or LegendEntry(index=index, name=f"source {index}")
        properties: dict[str, str | int | float] = {
            "index": index,
            "source": entry.name,
            "attribution": entry.attribution,
            "license": entry.license,
            "color": entry.color or lineage.color(index),
            "zoom": cell.z,
            "cell": str(cell.tile),
            "pixels": int(counts.pixels[index]),
            "share": round(int(counts.pixels[index]) / side**2, 9),
            "blended_pixels": int(counts.blended[index]),
            "area_km2": round(float(counts.area_km2[index]), 9),
            "detail_px": detail_px,
        }
        sink.add(Feature(areas.get(index), properties))
    return counts


def _counted(tile: Tile, pixels: lineage.Pixels) -> _Counts:
    """Return what is in one tile."""
    first, second, _ = lineage.decode(pixels)
    counts = _Counts()
    if first.min() == first.max() and not second.any():
        counts.pixels[first[0, 0]] = first.size
        counts.area_km2[first[0, 0]] = _pixel_areas_km2(tile).sum() * TILE_SIZE_PX
        return counts
    rows = np.arange(TILE_SIZE_PX)[:, None] * _INDICES
    by_row = np.bincount((rows + first).ravel(), minlength=TILE_SIZE_PX * _INDICES).reshape(-1, _INDICES)
    counts.pixels = by_row.sum(axis=0)
    counts.area_km2 = _pixel_areas_km2(tile) @ by_row
    counts.blended = np.bincount(first[second > 0], minlength=_INDICES)
    return counts


def _areas(
    cell: _Cell, labels: polygons.Labels, counts: _Counts, detail_px: int
) -> tuple[dict[int, shapely.Geometry], int]:
    """Return the area of each index of a cell, in degrees, and the step in pixels to which it is drawn."""
    uniform = labels.min() == labels.max()
    coarse = labels[:1, :1] if uniform else polygons.coarsened(labels, detail_px)
    while (borders := polygons.segments(coarse, MOST_SEGMENTS)) is None:
        detail_px *= 2
        coarse = polygons.coarsened(labels, detail_px)
    lons, lats = _lattice(cell, len(coarse))

    def at(points: polygons.Points) -> polygons.Points:
        places = points.astype(np.intp)
        return np.stack([lons[places[:, 0]], lats[places[:, 1]]], -1)

    if not counts.pixels[1:].any():
        return {}, detail_px
    areas = polygons.by_label(coarse, borders)
    return {index: polygons.placed(area, at) for index, area in areas.items()}, detail_px


def _lattice(cell: _Cell, side: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the longitudes and latitudes of the edges of a cell's `side` columns and rows.

    They are rounded to a hundredth of a pixel and 7 decimals (1 cm) at most.
    """
    box = grid.xy_bounds(cell.tile)
    steps = np.linspace(0, 1, side + 1)
    lons: npt.NDArray[np.float64] = np.degrees(
        (box.left + (box.right - box.left) * steps) / grid.EARTH_RADIUS_M
    )
    norths = box.top - (box.top - box.bottom) * steps
    lats = _latitudes(norths)
    decimals = max(7, math.ceil(-math.log10(360 / (TILE_SIZE_PX << cell.z))) + 2)
    return np.round(lons, decimals), np.round(lats, decimals)


def _latitudes(norths_m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return degrees of EPSG:3857 northings."""
    return np.degrees(2 * np.arctan(np.exp(norths_m / grid.EARTH_RADIUS_M)) - np.pi / 2)


def _pixel_areas_km2(tile: Tile) -> npt.NDArray[np.float64]:
    """Return the area of a pixel of each row of a tile on the ellipsoid of WGS 84, shape (512,).

    Source: Snyder, Map Projections (USGS 1395), equation 3-12, for the area between parallels.
    """
    box = grid.xy_bounds(tile)
    steps = np.linspace(0, 1, TILE_SIZE_PX + 1)
    sine = np.sin(np.radians(_latitudes(box.top - (box.top - box.bottom) * steps)))
    e = _ECCENTRICITY
    authalic = sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e
    width = 2 * math.pi / (TILE_SIZE_PX << tile.z)
    areas: npt.NDArray[np.float64] = -np.diff(authalic) * width * _POLAR_RADIUS_M**2 / 2 / 1e6
    return areas


def _summary(z: int, counts: _Counts, entries: Mapping[int, LegendEntry]) -> Iterator[SourceCoverage]:
    covered = int(counts.pixels[1:].sum())
    for index in (np.flatnonzero(counts.pixels[1:]) + 1).tolist():
        entry = entries.get(index)
        yield SourceCoverage(
            index=index,
            source=entry.name if entry else f"source {index}",
            zoom=z,
            pixels=int(counts.pixels[index]),
            share=int(counts.pixels[index]) / covered,
            blended_pixels=int(counts.blended[index]),
            area_km2=float(counts.area_km2[index]),
        )
