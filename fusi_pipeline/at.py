"""What archives say of one place: height, source, resolution, zoom, vertical step.

Nothing but the archives is asked: a terrain archive, and the lineage archive
that belongs to it where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fusi_pipeline import lineage, lineage_files
from fusi_pipeline.errors import ArchiveUnsuitable, UsageError
from fusi_pipeline.lineage import LegendEntry
from fusi_pipeline.preview import tile_heights
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata, TileReader
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.open import open_archive

_MAPBOX_STEP_M = 0.1
_FINEST_STEP_M = 1 / 256
"""What a Terrarium archive of unknown making can tell apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReport:
    """What one terrain archive says of one place."""

    archive: Path
    lineage: Path | None = None
    """The archive that tells the source; None where there is none."""
    lon: float
    """Degrees."""
    lat: float
    """Degrees."""
    height_m: float | None = None
    """Height of the pixel that holds the place; None for no data, though a merge stores 0 m there."""
    source: str | None = None
    """Name of the source the height is from; None where that is not known or there is no data."""
    second_source: str | None = None
    """Name of the source blended in; None where none is."""
    second_share: float | None = None
    """The second source's share of the height, 0..1."""
    attribution: str = ""
    license: str = ""
    website: str = ""
    vertical_datum: str = ""
    """These four are facts of `source`; empty where nobody said."""
    source_resolution_m: float | None = None
    """Ground size of a pixel at the source's own base zoom, in metres."""
    zoom: int | None = None
    """Zoom that was read: the deepest with a tile at the place; None where there is none."""
    tile: str | None = None
    """The tile that was read, as zoom/column/row."""
    pixel: tuple[int, int] | None = None
    """(column, row) in the tile, from its north-west corner."""
    resolution_m: float | None = None
    """Ground size of that pixel, in metres."""
    vertical_step_m: float | None = None
    """Step to which heights of the zoom are rounded."""
    note: str = ""
    """What the answer leaves open."""


def at(
    archives: Sequence[Path],
    lon: float,
    lat: float,
    zoom: int | None = None,
    lineage_archive: Path | None = None,
) -> tuple[PlaceReport, ...]:
    """Return what each terrain archive says of a place, at a zoom or the deepest one there.

    Lineage archives among `archives` go with the terrain archives that they
    belong to; `lineage_archive` goes with the only one. Raises UsageError
    where archives cannot be paired, ArchiveUnsuitable for one that holds
    neither heights nor lineage, TileCorrupt.
    """
    pairs = _pairs(archives, lineage_archive)
    return tuple(_answer(terrain, sources, lon, lat, zoom) for terrain, sources in pairs)


def pixel_at(lon: float, lat: float, tile: Tile, side_px: int) -> tuple[int, int]:
    """Return the (column, row) of the pixel that holds a position, in a tile `side_px` wide.

    Positions beyond the tile are given its nearest pixel.
    """
    box, size_m = grid.xy_bounds(tile), grid.resolution_m(tile.z) * TILE_SIZE_PX / side_px
    x_m, y_m = grid.project(lon, lat)
    col, row = math.floor((x_m - box.left) / size_m), math.floor((box.top - y_m) / size_m)
    return min(max(col, 0), side_px - 1), min(max(row, 0), side_px - 1)


def _pairs(archives: Sequence[Path], lineage_archive: Path | None) -> list[tuple[Path, Path | None]]:
    """Return each terrain archive with its lineage, in the order named."""
    known: dict[Path, ArchiveMetadata] = {}
    for path in archives:
        known[path] = _metadata(path)
    lineages = [path for path, metadata in known.items() if lineage_files.is_lineage(metadata)]
    terrains = [path for path in known if path not in lineages] or _terrains_of(lineages, known)
    if lineage_archive is not None and lineage_archive not in lineages:
        lineages.append(lineage_archive)
        with lineage_files.open_lineage(lineage_archive) as reader:
            known[lineage_archive] = reader.metadata
    pairs = [(path, _lineage_of(path, known, lineages, alone=len(terrains) == 1)) for path in terrains]
    for path in lineages:
        if path not in [other for _, other in pairs]:
            raise UsageError(
                f"{path}: is the lineage of none of the terrain archives named; "
                "name the archive that was merged with it"
            )
    return pairs


def _terrains_of(lineages: Sequence[Path], known: Mapping[Path, ArchiveMetadata]) -> list[Path]:
    """Return the terrain archives of lineages that were named without them."""
    found = []
    for path in lineages:
        terrain = lineage_files.named(path, known[path], lineage_files.TERRAIN_KEY)
        if terrain is None or not terrain.is_file():
            raise UsageError(f"{path}: holds lineage and no heights; name its terrain archive as well")
        found.append(terrain)
    return found


def _lineage_of(
    path: Path, known: Mapping[Path, ArchiveMetadata], lineages: Sequence[Path], *, alone: bool
) -> Path | None:
    """Return the lineage of a terrain archive: one of those named, or the one beside it.

    A single lineage is that of an archive that stands `alone`, whatever their names.
    """
    metadata = known.get(path) or _metadata(path)
    stated = lineage_files.named(path, metadata, lineage_files.LINEAGE_KEY)
    for one in lineages:
        back = known[one].extra.get(lineage_files.TERRAIN_KEY)
        fits = (stated is not None and one.name == stated.name) or back == path.name
        if (fits or (alone and len(lineages) == 1)) and lineage_files.belong(metadata, known[one]):
            return one
    return lineage_files.beside(path, metadata)


def _metadata(path: Path) -> ArchiveMetadata:
    with open_archive(path) as reader:
        if reader.metadata.is_picture:
            raise ArchiveUnsuitable(path, "holds the pictures of a layer; name the terrain that it lies over")
        return reader.metadata


def _answer(terrain: Path, sources: Path | None, lon: float, lat: float, zoom: int | None) -> PlaceReport:
    with open_archive(terrain) as reader:
        tile, note = _tile(reader, lon, lat, zoom)
        if tile is None:
            return PlaceReport(archive=terrain, lineage=sources, lon=lon, lat=lat, note=note)
        facts, height = _pixel(reader, tile, lon, lat)
        metadata = reader.metadata
    told: dict[str, Any] = {}
    if not metadata.encoding:
        told["note"] = "the archive states no encoding and was read as Terrarium"
    if sources is not None:
        held, known = _told_by_lineage(sources, tile, lon, lat)
        told, height = told | known, height if held else None
    elif _is_merged(metadata):
        told |= _told_by_merge(metadata, height)
    elif height is not None:
        told |= _facts(_itself(metadata))
    return PlaceReport(
        archive=terrain, lineage=sources, lon=lon, lat=lat, height_m=height, zoom=tile.z, tile=str(tile),
        **facts, **told,
    )  # fmt: skip


def _tile(reader: TileReader, lon: float, lat: float, zoom: int | None) -> tuple[Tile | None, str]:
    """Return the tile to read at a place, or None and what is there instead."""
    metadata = reader.metadata
    first, last = max(metadata.minzoom, 0), min(metadata.maxzoom, grid.MAX_ZOOM)
    deepest = next(
        (
            tile
            for z in range(last, first - 1, -1)
            if reader.read(tile := grid.tile_at(lon, lat, z)) is not None
        ),
        None,
    )
    if deepest is None:
        return None, "the archive has no tile here"
    if zoom is None or zoom == deepest.z:
        return deepest, ""
    wanted = grid.tile_at(lon, lat, zoom)
    if reader.read(wanted) is None:
        return None, f"the archive has no tile of zoom {zoom} here; its deepest is of zoom {deepest.z}"
    return wanted, ""


def _pixel(reader: TileReader, tile: Tile, lon: float, lat: float) -> tuple[dict[str, Any], float | None]:
    """Return the facts of the pixel that holds a place, and its height, None where it is missing."""
    heights = tile_heights(reader, tile)
    assert heights is not None, "the tile was read before"
    col, row = pixel_at(lon, lat, tile, heights.shape[1])
    size_m = grid.resolution_m(tile.z) * TILE_SIZE_PX / heights.shape[1]
    facts: dict[str, Any] = {
        "pixel": (col, row),
        "resolution_m": size_m * math.cos(math.radians(lat)),
        "vertical_step_m": step_m(reader.metadata, tile.z),
    }
    height = float(heights[row, col])
    return facts, None if math.isnan(height) else height


def step_m(metadata: ArchiveMetadata, z: int) -> float:
    """Return the vertical step of a zoom: as stated, else what the encoding can tell apart."""
    stated = metadata.extra.get("vertical_step_m")
    if isinstance(stated, Mapping) and isinstance(number := stated.get(str(z)), int | float):
        return float(number)
    if metadata.extra.get("generator") == GENERATOR:
        return terrarium.step_m(z)
    return _MAPBOX_STEP_M if metadata.encoding == "mapbox" else _FINEST_STEP_M


def _told_by_lineage(path: Path, tile: Tile, lon: float, lat: float) -> tuple[bool, dict[str, Any]]:
    """Return whether a source has the pixel, and which; what it does not know is in the note."""
    with lineage_files.open_lineage(path) as reader:
        pixels = lineage_files.tile_pixels(reader, tile)
        entries = {entry.index: entry for entry in lineage.legend(reader.metadata)}
    if pixels is None:
        return True, {"note": f"the lineage has no tile {tile}, so the source is not known"}
    col, row = pixel_at(lon, lat, tile, pixels.shape[1])
    first, second, share = lineage.decode(pixels[row : row + 1, col : col + 1])
    index, under = int(first[0, 0]), int(second[0, 0])
    if not index:
        return False, {"note": "no source has data here"}
    told = _facts(_entry(entries, index))
    if under:
        told["second_source"] = _entry(entries, under).name
        told["second_share"] = round(float(share[0, 0]), 4)
    return True, told


def _entry(entries: Mapping[int, LegendEntry], index: int) -> LegendEntry:
    return entries.get(index) or LegendEntry(index=index, name=f"source {index}")


def _told_by_merge(metadata: ArchiveMetadata, height: float | None) -> dict[str, Any]:
    """Return what a merged archive without lineage knows of the source of a pixel of this height."""
    sources = metadata.extra.get("sources")
    names = [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, Sequence) else []
    remedy = "`fusi merge ... --lineage OUT` writes a lineage that tells"
    if height == 0 and "nodata" in metadata.extra:
        return {"note": f"0 m is also how a merge stores no data; {remedy} which it is"}
    if len(names) == 1 and height is not None:
        (entry,) = lineage.legend(replace(metadata, extra={"legend": [{**names[0], "index": 1}]}))
        return _facts(entry)
    if lineage_files.LINEAGE_KEY in metadata.extra:
        missing = metadata.extra[lineage_files.LINEAGE_KEY]
        return {"note": f"its lineage {missing} is not beside it, or of another merge"}
    among = ", ".join(str(one.get("name") or "?") for one in names) or "not stated"
    return {"note": f"merged without lineage from sources {among}; {remedy} them apart"}


def _is_merged(metadata: ArchiveMetadata) -> bool:
    return "sources" in metadata.extra or "merge_mode" in metadata.extra


def _itself(metadata: ArchiveMetadata) -> LegendEntry:
    """Return what the archive of one source says of it."""
    texts = {key: str(metadata.extra.get(key) or "") for key in ("license", "website", "vertical_datum")}
    lat = math.radians((metadata.bounds.south + metadata.bounds.north) / 2)
    size = metadata.tile_size or TILE_SIZE_PX
    return LegendEntry(
        index=1,
        name=metadata.name,
        attribution=metadata.attribution,
        resolution_m=grid.resolution_m(metadata.maxzoom) * TILE_SIZE_PX / size * math.cos(lat),
        **texts,
    )


def _facts(entry: LegendEntry) -> dict[str, Any]:
    return {
        "source": entry.name,
        "attribution": entry.attribution,
        "license": entry.license,
        "website": entry.website,
        "vertical_datum": entry.vertical_datum,
        "source_resolution_m": entry.resolution_m,
    }
