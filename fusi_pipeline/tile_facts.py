"""What one tile holds, and the height at a position in it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fusi_pipeline.errors import ArchiveUnsuitable, OutputExists, UsageError
from fusi_pipeline.preview import tile_heights
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile


def height_at(reader: TileReader, tile: Tile, lon: float, lat: float) -> float | None:
    """Return the height in metres of the pixel that holds a position; None where it is missing.

    Raises UsageError for a position outside the tile, ArchiveUnsuitable where
    the archive has no such tile.
    """
    if grid.tile_at(lon, lat, tile.z) != tile:
        raise UsageError(f"{lon:g},{lat:g} is in tile {grid.tile_at(lon, lat, tile.z)}, not in {tile}")
    heights = tile_heights(reader, tile)
    if heights is None:
        raise ArchiveUnsuitable(reader.path, f"has no tile {tile}")
    box, size = grid.xy_bounds(tile), grid.resolution_m(tile.z)
    x_m, y_m = grid.project(lon, lat)
    scale = TILE_SIZE_PX / heights.shape[1]
    col = min(max(math.floor((x_m - box.left) / size / scale), 0), heights.shape[1] - 1)
    row = min(max(math.floor((box.top - y_m) / size / scale), 0), heights.shape[0] - 1)
    height = float(heights[row, col])
    return None if math.isnan(height) else height


def write(data: bytes, output: Path, archive: Path, *, overwrite: bool) -> None:
    """Write a tile's bytes to a file. Raises OutputExists, and never replaces the archive itself."""
    if output.exists() and (not overwrite or output.samefile(archive)):
        raise OutputExists(output, "exists")
    with replacing(output) as scratch:
        scratch.write_bytes(data)


def said(height: float | None) -> str:
    """Return a height as the command line prints it."""
    return "no data" if height is None else f"{height:.10g} m"


def facts(reader: TileReader, tile: Tile) -> dict[str, object]:
    """Return what a tile holds: size, heights, missing share, vertical step, bounds."""
    data, heights = reader.read(tile), tile_heights(reader, tile)
    if data is None or heights is None:
        raise ArchiveUnsuitable(reader.path, f"has no tile {tile}")
    valid = heights[~np.isnan(heights)]
    return {
        "tile": str(tile),
        "bytes": len(data),
        "pixels": f"{heights.shape[1]} x {heights.shape[0]}",
        "minimum_m": float(valid.min()) if valid.size else None,
        "maximum_m": float(valid.max()) if valid.size else None,
        "missing": f"{1 - valid.size / heights.size:.2%}",
        "vertical_step_m": terrarium.step_m(tile.z),
        "bounds": str(grid.bounds(tile)),
    }
