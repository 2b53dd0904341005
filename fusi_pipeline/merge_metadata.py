"""What a merged archive and its lineage say of themselves."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from fusi_pipeline import lineage
from fusi_pipeline.lineage import LegendEntry
from fusi_pipeline.sources import union
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds

_MOST_NAMED = 20


def legend_of(inputs: Sequence[TerrainInput]) -> tuple[LegendEntry, ...]:
    """Return what is to be said of each input, numbered from 1 in order of precedence."""
    return tuple(_entry(index, one) for index, one in enumerate(inputs, 1))


def _entry(index: int, one: TerrainInput) -> LegendEntry:
    options, metadata = one.options, one.metadata
    stated = {key: str(metadata.extra.get(key) or "") for key in ("license", "website", "vertical_datum")}
    box = one.bounds
    latitude = math.radians((box.south + box.north) / 2)
    return LegendEntry(
        index=index,
        name=options.name or metadata.name,
        attribution=options.attribution or metadata.attribution,
        license=options.license or stated["license"],
        website=options.website or stated["website"],
        vertical_datum=options.vertical_datum or stated["vertical_datum"],
        resolution_m=round(grid.resolution_m(one.maxzoom) * math.cos(latitude), 3),
        color=lineage.color(index) if index <= lineage.MOST_SOURCES else "",
    )


def differing_datums(legend: Sequence[LegendEntry]) -> str | None:
    """Return a sentence about inputs whose heights count from different levels, None where none is known."""
    stated: dict[str, str] = {}
    for entry in legend:
        if entry.vertical_datum:
            stated.setdefault(entry.vertical_datum, entry.name)
    if len(stated) < 2:
        return None
    said = ", ".join(f"{name} {datum}" for datum, name in stated.items())
    return f"the heights count from different levels ({said}); see target_vertical_crs in source.toml"


def missing_zooms(zooms: Collection[int]) -> str | None:
    """Return a sentence about zooms between others at which no input has a tile, None where there is none."""
    gaps = sorted(set(range(min(zooms), max(zooms) + 1)) - set(zooms))
    if not gaps:
        return None
    said = ", ".join(map(str, gaps))
    return f"no input has a tile at zoom {said}, and so the output has none there; maps show gaps at it"


def terrain_metadata(
    name: str,
    inputs: Sequence[TerrainInput],
    pixels: Sequence[int],
    zooms: Sequence[int],
    *,
    mode: str,
    feather_m: float,
    key: str,
    lineage_name: str,
) -> ArchiveMetadata:
    """Return the metadata of a merged archive; `pixels` is how many each input has a say in."""
    legend = legend_of(inputs)
    sources = []
    for entry, one, count in zip(legend, inputs, pixels, strict=True):
        source: dict[str, object] = _stated(entry)
        del source["color"]
        overviews = "mean" if one.is_of_one_source and not one.options.changes_heights else "unknown"
        source |= {"minzoom": one.minzoom, "maxzoom": one.maxzoom, "overviews": overviews}
        sources.append(source | {"pixels": count})
    used = [entry for entry, count in zip(legend, pixels, strict=True) if count]
    extra: dict[str, object] = {
        "generator": GENERATOR,
        "content_key": key,
        "merge_mode": mode,
        "nodata": "0 m",
        "sources": sources,
        "vertical_step_m": {str(z): terrarium.step_m(z) for z in zooms},
    }
    if mode == "feather":
        extra["feather_m"] = feather_m
    if lineage_name:
        extra["lineage"] = lineage_name
    return ArchiveMetadata(
        name=name,
        minzoom=min(zooms),
        maxzoom=max(zooms),
        bounds=_bounds([one for one, count in zip(inputs, pixels, strict=True) if count]),
        description=f"Elevation as Terrarium tiles, merged from {_names(used)}",
        attribution=_credits(used),
        extra=extra,
    )


def lineage_metadata(
    terrain: ArchiveMetadata, inputs: Sequence[TerrainInput], terrain_path: Path
) -> ArchiveMetadata:
    """Return the metadata of the lineage of a merged archive."""
    return ArchiveMetadata(
        name=f"{terrain.name} lineage",
        minzoom=terrain.minzoom,
        maxzoom=terrain.maxzoom,
        bounds=terrain.bounds,
        description=f"Which source each pixel of {terrain.name} is from: red the index of the source, "
        "green that of a second one blended in, blue the second's share in 1/255",
        attribution=terrain.attribution,
        encoding=lineage.ENCODING,
        extra={
            "generator": GENERATOR,
            "content_key": terrain.extra["content_key"],
            "legend": [_stated(entry) for entry in legend_of(inputs)],
            "terrain": terrain_path.name,
        },
    )


def _stated(entry: LegendEntry) -> dict[str, object]:
    """Return what is known of an entry, as JSON values."""
    kept = ("index", "name", "attribution", "color")
    return {key: value for key, value in asdict(entry).items() if value or key in kept}


def _names(entries: Sequence[LegendEntry]) -> str:
    names = [entry.name for entry in entries]
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
    return ", ".join(names)


def _credits(entries: Sequence[LegendEntry]) -> str:
    return ", ".join(dict.fromkeys(entry.attribution for entry in entries if entry.attribution))


def _bounds(inputs: Sequence[TerrainInput]) -> Bounds:
    """Return the smallest box that holds all inputs, each as far as its cut line lets it."""
    boxes = [_cut_bounds(one) for one in inputs]
    box = grid.geographic(union([grid.projected(one) for one in boxes]))
    south, north = min(one.south for one in boxes), max(one.north for one in boxes)
    return Bounds(round(box.west, 7), south, round(box.east, 7), north)


def _cut_bounds(one: TerrainInput) -> Bounds:
    box, cut = one.bounds, one.cut_bounds
    if cut is None or box.west > box.east:
        return box
    west, east = max(box.west, cut.west), min(box.east, cut.east)
    south, north = max(box.south, cut.south), min(box.north, cut.north)
    return Bounds(west, south, east, north) if west < east and south < north else box
