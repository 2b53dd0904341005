"""The `metadata` table of an MBTiles 1.3: rows of text to metadata, and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from fusi_pipeline.tiles import stated
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds

_TRUE_BOUNDS = "bounds"
"""Key of the JSON row under which bounds across the antimeridian stand."""


def metadata_rows(metadata: ArchiveMetadata) -> list[tuple[str, str]]:
    """Return the rows (name, value) that state the metadata; nothing that is empty."""
    box, (lon, lat, zoom) = metadata.bounds, metadata.center
    extra = dict(metadata.extra)
    if box.west > box.east:  # which MBTiles has no way to say
        extra[_TRUE_BOUNDS] = [box.west, box.south, box.east, box.north]
        box = Bounds(-180.0, box.south, 180.0, box.north)
    rows = {
        "name": metadata.name,
        "format": metadata.format,
        "type": "overlay",
        "version": "1",
        "description": metadata.description,
        "attribution": metadata.attribution,
        "bounds": ",".join(f"{value:.7f}" for value in (box.west, box.south, box.east, box.north)),
        "center": f"{lon:.7f},{lat:.7f},{zoom}",
        "minzoom": str(metadata.minzoom),
        "maxzoom": str(metadata.maxzoom),
        "encoding": metadata.encoding,
        "tileSize": str(metadata.tile_size),
        "json": json.dumps(extra, sort_keys=True) if extra else "",
    }
    return [(name, value) for name, value in rows.items() if value]


def read_metadata(
    rows: Mapping[str, str], name: str, counts: Callable[[], Mapping[int, int]]
) -> tuple[ArchiveMetadata, bool]:
    """Return what the rows state, and whether they state bounds.

    `name` is for archives that have none; zooms that are not stated soundly
    come from `counts`, bounds are the world's then, a tile size is 0 (unknown).
    """
    extra = _json(rows.get("json", ""))
    across = extra.pop(_TRUE_BOUNDS, None)
    bounds = stated.box(across) if isinstance(across, list) else None
    bounds = bounds or stated.box(rows.get("bounds", "").split(","))
    minzoom, maxzoom = _zooms(rows, counts)
    metadata = ArchiveMetadata(
        name=rows.get("name") or name,
        minzoom=minzoom,
        maxzoom=maxzoom,
        bounds=bounds or stated.WORLD,
        description=rows.get("description", ""),
        attribution=rows.get("attribution", ""),
        format=rows.get("format", ""),
        encoding=stated.encoding(rows.get("encoding")),
        tile_size=stated.number(rows.get("tileSize")) or 0,
        extra=extra,
    )
    return metadata, bounds is not None


def _zooms(rows: Mapping[str, str], counts: Callable[[], Mapping[int, int]]) -> tuple[int, int]:
    """Return (minzoom, maxzoom) as stated, or those of the tiles where that makes no sense."""
    low, high = stated.zoom(rows.get("minzoom")), stated.zoom(rows.get("maxzoom"))
    if low is not None and high is not None and low <= high:
        return low, high
    zooms = counts()
    least, most = min(zooms, default=0), max(zooms, default=0)
    if low is None and high is not None and least <= high:
        return least, high
    if high is None and low is not None and low <= most:
        return low, most
    return least, most


def _json(text: str) -> dict[str, object]:
    """Return the object that a text is in JSON, an empty one where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return dict(found) if isinstance(found, dict) else {}
