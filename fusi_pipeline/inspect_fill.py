"""What every source contributes to one tile of a merge, and how the merged tile differs from each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline import lineage, lineage_files
from fusi_pipeline.at import step_m
from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.lineage import LegendEntry
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.resample import Heights

_FLOAT_M = 1e-3
"""What float32 leaves uncertain of a height."""

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Merged heights less those of one input, over the pixels that both have."""

    common_pixels: int
    unequal_pixels: int
    """Pixels that differ by more than rounding to the vertical step explains."""
    mean_m: float
    mean_absolute_m: float
    largest_m: float
    """The difference furthest from 0, with its sign."""
    pixel: tuple[int, int]
    """(column, row) where that is."""
    lon: float
    lat: float
    """Degrees of that pixel's centre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one input has in the tile."""

    archive: Path
    name: str
    index: int
    """Its index in the lineage, or its place in the order given."""
    color: str
    """`#rrggbb`, of the legend."""
    zoom: int | None
    """Zoom its heights are from: the tile's own, or that of the ancestor enlarged; None without any."""
    valid_pixels: int
    minimum_m: float | None
    mean_m: float | None
    maximum_m: float | None
    """Of its valid heights; None where there are none."""
    winning_pixels: int
    """Pixels of the merged tile that are its."""
    second_pixels: int
    """Pixels of another into which it is blended."""
    difference: Difference | None
    """None where it shares no pixel with the merged tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FillReport:
    """How one tile of a merge came about."""

    tile: str
    """As zoom/column/row."""
    merged: Path
    lineage: Path | None
    """What the winners are from; None where they are found by comparing heights."""
    merge_mode: str
    """As the archive states it; empty where it does not."""
    vertical_step_m: float
    pixels: int
    valid_pixels: int
    """Pixels that any source has."""
    minimum_m: float | None
    mean_m: float | None
    maximum_m: float | None
    """Of these."""
    unexplained_pixels: int
    """Valid pixels that are not blended and have the height of no input."""
    inputs: tuple[Contribution, ...]
    """In order of precedence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A report and the arrays behind it, each of shape (512, 512)."""

    report: FillReport
    tile: Tile
    heights: Heights
    """Of the merged tile, NaN where missing."""
    layers: tuple[Heights | None, ...]
    """Of each input."""
    first: Labels
    """Index of each pixel's source, 0 for none."""
    second: Labels
    """Index of the source blended in."""


def inspect_fill(tile: Tile, merged: Path, inputs: Sequence[InputOptions]) -> Inspection:
    """Return what the inputs of a merge, in order of precedence, have in one of its tiles.

    Inputs are read as a merge reads them. Raises ArchiveUnsuitable where the
    merged archive has no such tile, UsageError without inputs or with more
    than a lineage can number, TileCorrupt.
    """
    if not 1 <= len(inputs) <= lineage.MOST_SOURCES:
        raise UsageError(f"{len(inputs)} inputs: name 1 to {lineage.MOST_SOURCES} of the archives merged")
    names, zooms, layers = _read(tile, inputs)
    heights, metadata = _merged(tile, merged)
    sources = lineage_files.beside(merged, metadata)
    step = step_m(metadata, tile.z)
    entries = _entries(sources, names)
    if sources is None:
        heights = _without_fill(heights, layers) if "nodata" in metadata.extra else heights
        first, second = _by_comparing(heights, layers, entries, step), np.zeros(heights.shape, np.uint8)
    else:
        first, second = _by_lineage(sources, tile)
    contributions = tuple(
        _contribution(tile, one, entry, zoom, layer, heights, first, second, step)
        for one, entry, zoom, layer in zip(inputs, entries, zooms, layers, strict=True)
    )
    minimum, mean, maximum = _figures(heights)
    report = FillReport(
        tile=str(tile),
        merged=merged,
        lineage=sources,
        merge_mode=str(metadata.extra.get("merge_mode") or ""),
        vertical_step_m=step,
        pixels=heights.size,
        valid_pixels=int(np.count_nonzero(~np.isnan(heights))),
        minimum_m=minimum,
        mean_m=mean,
        maximum_m=maximum,
        unexplained_pixels=_unexplained(heights, layers, second, step),
        inputs=contributions,
    )
    return Inspection(report=report, tile=tile, heights=heights, layers=layers, first=first, second=second)


def _read(
    tile: Tile, inputs: Sequence[InputOptions]
) -> tuple[list[str], list[int | None], tuple[Heights | None, ...]]:
    """Return the name of each input, the zoom its heights are from, and its heights."""
    names: list[str] = []
    zooms: list[int | None] = []
    layers: list[Heights | None] = []
    for options in inputs:
        with TerrainInput(options) as one:
            levels = one.levels_up(tile)
            layer = one.layer(tile, levels)
            names.append(options.name or one.metadata.name)
            zooms.append(None if levels is None or layer is None else tile.z - levels)
            layers.append(layer)
    return names, zooms, tuple(layers)


def _merged(tile: Tile, merged: Path) -> tuple[Heights, ArchiveMetadata]:
    with TerrainInput(InputOptions(path=merged)) as one:
        if not one.has(tile):
            raise ArchiveUnsuitable(merged, f"has no tile {tile}; `fusi at` names the deepest at a place")
        heights = one.layer(tile, 0)
        assert heights is not None, "the archive has the tile"
        return heights, one.metadata


def _entries(sources: Path | None, names: Sequence[str]) -> list[LegendEntry]:
    """Return what stands for each input in the lineage: by name, else by its place in the order."""
    stated: tuple[LegendEntry, ...] = ()
    if sources is not None:
        with lineage_files.open_lineage(sources) as reader:
            stated = lineage.legend(reader.metadata)
    by_name = {entry.name: entry for entry in stated}
    clear = len(by_name) == len(stated) and len(set(names)) == len(names)
    if stated and clear and all(name in by_name for name in names):
        return [by_name[name] for name in names]
    if stated and len(stated) != len(names):
        raise UsageError(
            f"{sources}: its legend has {len(stated)} sources ({', '.join(by_name)}), the inputs named are "
            f"{', '.join(names)}; name those that were merged, all of them and in their order"
        )
    by_index = {entry.index: entry for entry in stated}
    return [
        by_index.get(number) or LegendEntry(index=number, name=name, color=lineage.color(number))
        for number, name in enumerate(names, 1)
    ]


def _without_fill(heights: Heights, layers: Sequence[Heights | None]) -> Heights:
    """Return heights that are missing where they are 0 m and no input has any."""
    held = np.zeros(heights.shape, dtype=np.bool_)
    for layer in layers:
        if layer is not None:
            held |= ~np.isnan(layer)
    return np.where((heights == 0) & ~held, np.float32(np.nan), heights)


def _same(heights: Heights, layer: Heights, step: float) -> npt.NDArray[np.bool_]:
    """Tell where heights differ by no more than one rounding; False where one is missing."""
    with np.errstate(invalid="ignore"):
        same: npt.NDArray[np.bool_] = np.abs(heights - layer) <= step / 2 + _FLOAT_M
    return same


def _by_comparing(
    heights: Heights, layers: Sequence[Heights | None], entries: Sequence[LegendEntry], step: float
) -> Labels:
    """Return the index of the first input that has each pixel's height, 0 where none has."""
    first = np.zeros(heights.shape, dtype=np.uint8)
    for entry, layer in zip(entries, layers, strict=True):
        if layer is not None:
            first[(first == 0) & _same(heights, layer, step)] = entry.index
    return first


def _by_lineage(sources: Path, tile: Tile) -> tuple[Labels, Labels]:
    with lineage_files.open_lineage(sources) as reader:
        pixels = lineage_files.tile_pixels(reader, tile)
    if pixels is None:
        raise ArchiveUnsuitable(sources, f"has no tile {tile}, which its terrain has; merge again")
    first, second, _ = lineage.decode(pixels)
    return first, second


def _unexplained(heights: Heights, layers: Sequence[Heights | None], second: Labels, step: float) -> int:
    explained = np.isnan(heights) | (second > 0)
    for layer in layers:
        if layer is not None:
            explained |= _same(heights, layer, step)
    return int(np.count_nonzero(~explained))


def _contribution(
    tile: Tile, options: InputOptions, entry: LegendEntry, zoom: int | None, layer: Heights | None,
    heights: Heights, first: Labels, second: Labels, step: float,
) -> Contribution:  # fmt: skip
    minimum, mean, maximum = (None, None, None) if layer is None else _figures(layer)
    return Contribution(
        archive=options.path,
        name=entry.name,
        index=entry.index,
        color=entry.color,
        zoom=zoom,
        valid_pixels=0 if layer is None else int(np.count_nonzero(~np.isnan(layer))),
        minimum_m=minimum,
        mean_m=mean,
        maximum_m=maximum,
        winning_pixels=int(np.count_nonzero(first == entry.index)),
        second_pixels=int(np.count_nonzero(second == entry.index)),
        difference=None if layer is None else _difference(tile, heights, layer, step),
    )


def _figures(heights: Heights) -> tuple[float | None, float | None, float | None]:
    """Return (minimum, mean, maximum) of the valid heights."""
    valid = heights[~np.isnan(heights)].astype(np.float64)
    return (float(valid.min()), float(valid.mean()), float(valid.max())) if valid.size else (None,) * 3


def _difference(tile: Tile, heights: Heights, layer: Heights, step: float) -> Difference | None:
    difference = heights.astype(np.float64) - layer
    common = ~np.isnan(difference)
    if not common.any():
        return None
    held = difference[common]
    place = int(np.argmax(np.where(common, np.abs(difference), -1)))
    row, col = divmod(place, TILE_SIZE_PX)
    box, size_m = grid.xy_bounds(tile), grid.resolution_m(tile.z)
    lon, lat = grid.unproject(box.left + (col + 0.5) * size_m, box.top - (row + 0.5) * size_m)
    return Difference(
        common_pixels=held.size,
        unequal_pixels=held.size - int(np.count_nonzero(_same(heights, layer, step))),
        mean_m=float(held.mean()),
        mean_absolute_m=float(np.abs(held).mean()),
        largest_m=float(difference[row, col]),
        pixel=(col, row),
        lon=lon,
        lat=lat,
    )
