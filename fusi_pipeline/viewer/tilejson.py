"""TileJSON 3.0 of a served archive. Pure.

Source: mapbox/tilejson-spec 3.0.0; `encoding` and `tileSize` as MapLibre reads them.
"""

from __future__ import annotations

from urllib.parse import quote

from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.grid import Bounds

VERSION = "3.0.0"
_PLACE = "{z}/{x}/{y}"


def tilejson(
    metadata: ArchiveMetadata, name: str, zooms: tuple[int, int], address: str, *, pictured: bool = False
) -> dict[str, object]:
    """Return the TileJSON document of an archive.

    `zooms` are the lowest and highest zoom with tiles, `address` is the
    server's (`http://host:port`), `name` its name there. Where the archive is
    `pictured`, `pictures` names the tiles that are for the eye. Facts that the
    archive does not state are absent.
    """
    lon, lat, zoom = metadata.center
    base = f"{address}/{quote(name, safe='')}/{_PLACE}"
    document: dict[str, object] = {
        "tilejson": VERSION,
        "name": metadata.name,
        "description": metadata.description,
        "attribution": metadata.attribution,
        "scheme": "xyz",
        "tiles": [f"{base}.{extension(metadata)}"],
        "pictures": [f"{base}.png"] if pictured else "",
        "minzoom": zooms[0],
        "maxzoom": zooms[1],
        "bounds": unwrapped(metadata.bounds),
        "center": [round(lon, 7), round(lat, 7), min(max(zoom, zooms[0]), zooms[1])],
        "format": metadata.format,
        "encoding": metadata.encoding,
        "tileSize": metadata.tile_size or "",
    }
    return {key: value for key, value in document.items() if value != ""}


def extension(metadata: ArchiveMetadata) -> str:
    """Return what the names of an archive's tiles end in."""
    return metadata.format or "bin"


def unwrapped(box: Bounds) -> list[float]:
    """Return [west, south, east, north]; the whole width where the box crosses the antimeridian.

    TileJSON 3.0, section 3.4: bounds must not wrap around the antimeridian.
    """
    west, east = (-180.0, 180.0) if box.west > box.east else (max(box.west, -180.0), min(box.east, 180.0))
    return [round(value, 7) for value in (west, max(box.south, -90.0), east, min(box.north, 90.0))]
