"""What every tile archive offers, whatever its format: a reader and its metadata.

Metadata is in TileJSON 3.0 words, with `encoding` and `tileSize` as map
clients read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile

GENERATOR = "fusi"
"""Stands in the metadata of every archive that fusi wrote, and may therefore write again."""
PICTURES = "fusi_layer"
"""Stands in the metadata of archives of pictures: what drew them, and over what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveMetadata:
    """What an archive says of itself."""

    name: str
    """Short name of the tile set."""
    minzoom: int
    """Lowest zoom with tiles."""
    maxzoom: int
    """Highest zoom with tiles."""
    bounds: Bounds
    """Geographic box of the data, not of the tiles that hold it."""
    description: str = ""
    """One sentence on what the tiles show."""
    attribution: str = ""
    """Who is to be credited; HTML allowed; empty where nobody said."""
    format: str = "webp"
    """Image format of the tiles, as MBTiles names it."""
    encoding: str = "terrarium"
    """How pixels carry heights, as MapLibre names it; empty where they do not."""
    tile_size: int = TILE_SIZE_PX
    """Pixels along a tile's side."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further facts, JSON values by key."""

    @property
    def is_picture(self) -> bool:
        """Whether the tiles are the pictures of a layer: for the eye, and no heights."""
        return not self.encoding and PICTURES in self.extra

    @property
    def center(self) -> tuple[float, float, int]:
        """(lon, lat, zoom) of a first look at the data; the zoom shows all of it."""
        west, east = self.bounds.west, self.bounds.east
        span = east - west if east >= west else east - west + 360
        lon = (west + span / 2 + 180) % 360 - 180
        zoom = self.minzoom
        while zoom < self.maxzoom and span * (1 << (zoom + 1)) <= 360 * 2:
            zoom += 1
        return lon, (self.bounds.south + self.bounds.north) / 2, zoom


class TileReader(Protocol):
    """An open archive to read tiles from. Use it as a context manager."""

    path: Path

    @property
    def metadata(self) -> ArchiveMetadata:
        """What the archive says of itself."""
        ...

    @property
    def states_bounds(self) -> bool:
        """Whether it states bounds that can be right; its metadata has the world's where not."""
        ...

    def read(self, tile: Tile) -> bytes | None:
        """Return a tile's bytes, or None where the archive has none."""
        ...

    def coordinates(self, z: int) -> npt.NDArray[np.uint32]:
        """Return the (x, y) of every tile at a zoom, shape (n, 2), in any order."""
        ...

    def counts(self) -> dict[int, int]:
        """Return the number of tiles at each zoom that has some."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...
