"""What one tile holds, heights, lineage or a picture, and the height at a position in it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fusi_pipeline import lineage, lineage_files
from fusi_pipeline.at import pixel_at, step_m
from fusi_pipeline.errors import ArchiveUnsuitable, OutputExists, UsageError
from fusi_pipeline.preview import tile_heights, tile_picture
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import Tile


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
    col, row = pixel_at(lon, lat, tile, heights.shape[1])
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
    """Return what a tile holds: size, bounds, and heights, missing share and vertical step, or sources.

    Of a picture, how much of it is transparent. Raises ArchiveUnsuitable where
    the archive has no such tile or holds none of these.
    """
    data = reader.read(tile)
    if data is None:
        raise ArchiveUnsuitable(reader.path, f"has no tile {tile}")
    held = _sources if lineage_files.is_lineage(reader.metadata) else _heights
    held = _picture if reader.metadata.is_picture else held
    return {
        "tile": str(tile),
        "bytes": len(data),
        **held(reader, tile),
        "bounds": str(grid.bounds(tile)),
    }


def _heights(reader: TileReader, tile: Tile) -> dict[str, object]:
    heights = tile_heights(reader, tile)
    assert heights is not None, "the tile was read before"
    valid = heights[~np.isnan(heights)]
    return {
        "pixels": f"{heights.shape[1]} x {heights.shape[0]}",
        "minimum_m": float(valid.min()) if valid.size else None,
        "maximum_m": float(valid.max()) if valid.size else None,
        "missing": f"{1 - valid.size / heights.size:.2%}",
        "vertical_step_m": step_m(reader.metadata, tile.z),
    }


def _picture(reader: TileReader, tile: Tile) -> dict[str, object]:
    pixels = tile_picture(reader, tile)
    assert pixels is not None, "the tile was read before"
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    return {
        "pixels": f"{pixels.shape[1]} x {pixels.shape[0]}",
        "transparent": f"{0.0 if alpha is None else 1 - np.count_nonzero(alpha) / alpha.size:.2%}",
    }


def _sources(reader: TileReader, tile: Tile) -> dict[str, object]:
    """Return the share of a tile's pixels that each source has."""
    pixels = lineage_files.tile_pixels(reader, tile)
    assert pixels is not None, "the tile was read before"
    first, second, _ = lineage.decode(pixels)
    names = {entry.index: entry.name for entry in lineage.legend(reader.metadata)}
    counts = np.bincount(first.ravel(), minlength=1)
    return {
        "pixels": f"{pixels.shape[1]} x {pixels.shape[0]}",
        "sources": {
            names.get(index, f"source {index}"): f"{counts[index] / first.size:.2%}"
            for index in np.flatnonzero(counts).tolist()
            if index
        },
        "blended": f"{np.count_nonzero(second) / first.size:.2%}",
        "missing": f"{counts[0] / first.size:.2%}",
    }
