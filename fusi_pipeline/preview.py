"""A shaded picture of a whole archive, from the tiles of one zoom."""

from __future__ import annotations

import io
import math
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusi_pipeline.errors import ArchiveUnsuitable, OutputExists, TileCorrupt
from fusi_pipeline.hillshade import shade
from fusi_pipeline.overzoom import overzoom
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.resample import Heights

_SOFTWARE = "fusi"
"""Stands in every picture, so that it may be written again."""


def write_preview(
    archive: Path, output: Path, *, max_px: int = 1600, overwrite: bool = False
) -> tuple[int, int]:
    """Write a PNG of an archive's heights; return its (width, height) in pixels.

    Raises OutputExists where a file is in the way that is no such picture.
    """
    if output.exists() and (output.samefile(archive) or not (overwrite or _is_picture(output))):
        raise OutputExists(output)
    data = preview_png(archive, max_px=max_px)
    with replacing(output) as scratch:
        scratch.write_bytes(data)
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size


def preview_png(archive: Path, *, max_px: int = 1600) -> bytes:
    """Return a PNG of an archive's heights, no side longer than about `max_px` pixels."""
    with open_archive(archive) as reader:
        heights, pixel_m = _heights(reader, max_px)
    picture = Image.fromarray(shade(heights, pixel_m))
    picture.thumbnail((max_px, max_px))
    buffer, facts = io.BytesIO(), PngInfo()
    facts.add_text("Software", _SOFTWARE)
    picture.save(buffer, "PNG", optimize=True, pnginfo=facts)
    return buffer.getvalue()


def _is_picture(path: Path) -> bool:
    """Tell whether a file is a picture that fusi wrote."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == _SOFTWARE
    except (OSError, ValueError):
        return False


def tile_heights(reader: TileReader, tile: Tile) -> Heights | None:
    """Return a tile's heights, or None where the archive has none. Raises TileCorrupt."""
    data = reader.read(tile)
    if data is None:
        return None
    try:
        return terrarium.decode(decode_webp(data))
    except ImageInvalid as error:
        raise TileCorrupt(reader.path, tile, str(error)) from error


def _heights(reader: TileReader, max_px: int) -> tuple[Heights, float]:
    """Return the heights of an archive's box at a fitting zoom, and the ground length of a pixel."""
    metadata = reader.metadata
    if metadata.encoding != "terrarium":
        raise ArchiveUnsuitable(reader.path, "is not terrain: its metadata does not state terrarium")
    zooms = sorted(reader.counts())
    if not zooms:
        raise ArchiveUnsuitable(reader.path, "holds no tile")
    z = next((z for z in reversed(zooms) if _side_px(metadata.bounds, z) <= 2 * max_px), zooms[0])
    left, top, right, bottom = _pixel_box(metadata.bounds, z)
    heights = np.full((bottom - top, right - left), np.nan, dtype=np.float32)
    for y in range(top // TILE_SIZE_PX, -(-bottom // TILE_SIZE_PX)):
        for x in range(left // TILE_SIZE_PX, -(-right // TILE_SIZE_PX)):
            part = _nearest_heights(reader, Tile(z, x, y))
            if part is not None:
                _paste(heights, part, x * TILE_SIZE_PX - left, y * TILE_SIZE_PX - top)
    lat = math.radians((metadata.bounds.south + metadata.bounds.north) / 2)
    return heights, grid.resolution_m(z) * math.cos(lat)


def _nearest_heights(reader: TileReader, tile: Tile) -> Heights | None:
    """Return a tile's heights, from the part of its ancestor where the archive is coarser there."""
    heights_of = partial(tile_heights, reader)
    for levels in range(tile.z + 1):
        if heights_of(grid.parent(tile, levels)) is not None:
            return overzoom(tile, levels, heights_of) if levels else heights_of(tile)
    return None


def _paste(heights: Heights, part: Heights, left: int, top: int) -> None:
    rows, cols = heights.shape
    first_row, first_col = max(top, 0), max(left, 0)
    last_row, last_col = min(top + part.shape[0], rows), min(left + part.shape[1], cols)
    heights[first_row:last_row, first_col:last_col] = part[
        first_row - top : last_row - top, first_col - left : last_col - left
    ]


def _side_px(box: Bounds, z: int) -> int:
    left, top, right, bottom = _pixel_box(box, z)
    return max(right - left, bottom - top)


def _pixel_box(box: Bounds, z: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a geographic box on the pixel grid of a zoom."""
    if box.west > box.east:
        box = Bounds(-180.0, box.south, 180.0, box.north)
    xy, size = grid.projected(box), grid.resolution_m(z)
    left = math.floor((xy.left + grid.HALF_WORLD_M) / size)
    top = math.floor((grid.HALF_WORLD_M - xy.top) / size)
    right = math.ceil((xy.right + grid.HALF_WORLD_M) / size)
    bottom = math.ceil((grid.HALF_WORLD_M - xy.bottom) / size)
    return left, top, max(right, left + 1), max(bottom, top + 1)
