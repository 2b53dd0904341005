"""A picture of a whole archive from the tiles of one zoom: heights shaded, lineage in colours, pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusi_pipeline import lineage, lineage_files
from fusi_pipeline.errors import ArchiveUnsuitable, OutputExists, TileCorrupt
from fusi_pipeline.input_options import InputOptions
from fusi_pipeline.lineage import Pixels
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.files import replacing
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.hillshade import shade
from fusi_pipeline.tiles.image import ImageInvalid, decode_image
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.picture import decoded
from fusi_pipeline.tiles.resample import Heights
from fusi_pipeline.tiles.terrarium import DECODERS

_SOFTWARE = "fusi"
"""Stands in every picture, so that it may be written again."""
_ROUNDED_PX = 0.01
"""A box that ends this close to the edge of a pixel ends at the edge: archives state degrees, rounded."""


def write_preview(
    archive: Path, output: Path, *, max_px: int = 1600, overwrite: bool = False
) -> tuple[int, int]:
    """Write a PNG of an archive; return its (width, height) in pixels.

    Raises OutputExists where a file is in the way that is no such picture.
    """
    check_output(output, (archive,), overwrite=overwrite)
    data = preview_png(archive, max_px=max_px)
    with replacing(output) as scratch:
        scratch.write_bytes(data)
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size


def check_output(output: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Raise OutputExists where a file is in the way that is no picture of fusi's, or one that is read."""
    if not output.exists():
        return
    read = any(one.exists() and output.samefile(one) for one in inputs)
    if read or not (overwrite or _is_picture(output)):
        raise OutputExists(output)


def png(picture: Image.Image) -> bytes:
    """Return a picture as a PNG that says it is fusi's."""
    buffer, facts = io.BytesIO(), PngInfo()
    facts.add_text("Software", _SOFTWARE)
    picture.save(buffer, "PNG", optimize=True, pnginfo=facts)
    return buffer.getvalue()


def preview_png(archive: Path, *, max_px: int = 1600) -> bytes:
    """Return a PNG of an archive, no side longer than about `max_px` pixels.

    Heights are shaded; lineage is drawn in the colours of its legend; pictures
    are shown. What is missing is transparent.
    """
    pixels, drawn = None, False
    with open_archive(archive) as reader:
        drawn = lineage_files.is_lineage(reader.metadata)
        if drawn:
            pixels = lineage_picture(reader, max_px)
        elif reader.metadata.is_picture:
            pixels = layer_picture(reader, max_px)
        elif reader.metadata.encoding not in DECODERS:
            stated = reader.metadata.encoding or "no encoding"
            raise ArchiveUnsuitable(archive, f"is not known to be terrain: its metadata states {stated}")
    if pixels is None:
        pixels = shade(*_heights(archive, max_px))
    picture = Image.fromarray(pixels)
    resampling = Image.Resampling.NEAREST if drawn else Image.Resampling.BICUBIC
    picture.thumbnail((max_px, max_px), resampling)
    return png(picture)


def lineage_picture(reader: TileReader, max_px: int = 1600) -> Pixels:
    """Return which source each place of a lineage archive is from, in the legend's colours.

    The shape is (rows, cols, 4), no side longer than 2 * `max_px`; where no
    source is, alpha is 0. Raises ArchiveUnsuitable for an archive without a tile, TileCorrupt.
    """
    zooms = sorted(reader.counts())
    z, (left, top, right, bottom) = _view(reader, zooms, max_px)
    entries = lineage.legend(reader.metadata)
    out = np.zeros((bottom - top, right - left, 4), dtype=np.uint8)
    for tile in _tiles(z, (left, top, right, bottom)):
        part = _nearest_lineage(reader, tile, zooms[0])
        if part is not None:
            drawn = lineage.picture(part, entries)
            _paste(out, drawn, tile.x * TILE_SIZE_PX - left, tile.y * TILE_SIZE_PX - top)
    return out


def layer_picture(reader: TileReader, max_px: int = 1600) -> Pixels:
    """Return the pictures of an archive as one, shape (rows, cols, 4), no side longer than 2 * `max_px`.

    Raises ArchiveUnsuitable for an archive without a tile, TileCorrupt.
    """
    z, (left, top, right, bottom) = _view(reader, sorted(reader.counts()), max_px)
    out = np.zeros((bottom - top, right - left, 4), dtype=np.uint8)
    for tile in _tiles(z, (left, top, right, bottom)):
        part = tile_picture(reader, tile)
        if part is not None:
            opaque = np.full((*part.shape[:2], 4), 255, dtype=np.uint8)
            opaque[..., : part.shape[2]] = part
            _paste(out, opaque, tile.x * TILE_SIZE_PX - left, tile.y * TILE_SIZE_PX - top)
    return out


def tile_picture(reader: TileReader, tile: Tile) -> Pixels | None:
    """Return the pixels of a tile of pictures, shape (rows, cols, 3 or 4); None where there is none.

    Raises TileCorrupt.
    """
    data = reader.read(tile)
    if data is None:
        return None
    try:
        return decoded(data, reader.metadata.format)
    except ImageInvalid as error:
        raise TileCorrupt(reader.path, tile, str(error)) from error


def _is_picture(path: Path) -> bool:
    """Tell whether a file is a picture that fusi wrote."""
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == _SOFTWARE
    except (OSError, ValueError):
        return False


def tile_heights(reader: TileReader, tile: Tile) -> Heights | None:
    """Return the heights of a tile as it is stored, whatever its size; None where the archive has none.

    Raises ArchiveUnsuitable for an archive of something else, TileCorrupt.
    An archive that states no encoding is taken for Terrarium.
    """
    if reader.metadata.is_picture:
        raise ArchiveUnsuitable(reader.path, "holds the pictures of a layer and no heights")
    decode = DECODERS.get(reader.metadata.encoding or "terrarium")
    if decode is None:
        stated = reader.metadata.encoding
        raise ArchiveUnsuitable(reader.path, f"is not terrain: its metadata states the encoding {stated!r}")
    data = reader.read(tile)
    if data is None:
        return None
    try:
        return decode(decode_image(data))
    except ImageInvalid as error:
        raise TileCorrupt(reader.path, tile, str(error)) from error


def _heights(archive: Path, max_px: int) -> tuple[Heights, float]:
    """Return the heights of an archive's box at a fitting zoom, and the ground length of a pixel."""
    with TerrainInput(InputOptions(path=archive)) as terrain:
        bounds = terrain.metadata.bounds
        z, (left, top, right, bottom) = _view(
            terrain.reader, range(terrain.minzoom, terrain.maxzoom + 1), max_px
        )
        heights = np.full((bottom - top, right - left), np.nan, dtype=np.float32)
        for tile in _tiles(z, (left, top, right, bottom)):
            part = _nearest_heights(terrain, tile)
            if part is not None:
                _paste(heights, part, tile.x * TILE_SIZE_PX - left, tile.y * TILE_SIZE_PX - top)
    lat = math.radians((bounds.south + bounds.north) / 2)
    return heights, grid.resolution_m(z) * math.cos(lat)


def _view(reader: TileReader, zooms: Sequence[int], max_px: int) -> tuple[int, tuple[int, int, int, int]]:
    """Return the deepest zoom at which an archive fits a picture, and its box in pixels there."""
    if not zooms:
        raise ArchiveUnsuitable(reader.path, "holds no tile")
    box = reader.metadata.bounds
    z = next((z for z in reversed(zooms) if _side_px(box, z) <= 2 * max_px), zooms[0])
    return z, _pixel_box(box, z)


def _tiles(z: int, box: tuple[int, int, int, int]) -> Iterator[Tile]:
    """Yield the tiles of a zoom that touch a box in pixels, row by row."""
    left, top, right, bottom = box
    for y in range(top // TILE_SIZE_PX, -(-bottom // TILE_SIZE_PX)):
        for x in range(left // TILE_SIZE_PX, -(-right // TILE_SIZE_PX)):
            yield Tile(z, x, y)


def _nearest_heights(terrain: TerrainInput, tile: Tile) -> Heights | None:
    """Return a tile's heights, from the part of its ancestor where the archive is coarser there."""
    for levels in range(tile.z - terrain.minzoom + 1):
        if terrain.has(grid.parent(tile, levels)):
            return terrain.layer(tile, levels)
    return None


def _nearest_lineage(reader: TileReader, tile: Tile, minzoom: int) -> Pixels | None:
    """Return a tile's lineage, each pixel that of its ancestor's where the archive is coarser there."""
    for levels in range(tile.z - minzoom + 1):
        pixels = lineage_files.tile_pixels(reader, grid.parent(tile, levels))
        if pixels is not None:
            places = np.arange(TILE_SIZE_PX)
            rows = (((tile.y % (1 << levels)) * TILE_SIZE_PX + places) >> levels)[:, None]
            cols = ((tile.x % (1 << levels)) * TILE_SIZE_PX + places) >> levels
            enlarged: Pixels = pixels[rows, cols]
            return enlarged
    return None


def _paste(whole: npt.NDArray[Any], part: npt.NDArray[Any], left: int, top: int) -> None:
    """Write what of a part, with its corner at (left, top), lies inside a whole."""
    rows, cols = whole.shape[:2]
    first_row, first_col = max(top, 0), max(left, 0)
    last_row, last_col = min(top + part.shape[0], rows), min(left + part.shape[1], cols)
    whole[first_row:last_row, first_col:last_col] = part[
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
    left = math.floor((xy.left + grid.HALF_WORLD_M) / size + _ROUNDED_PX)
    top = math.floor((grid.HALF_WORLD_M - xy.top) / size + _ROUNDED_PX)
    right = math.ceil((xy.right + grid.HALF_WORLD_M) / size - _ROUNDED_PX)
    bottom = math.ceil((grid.HALF_WORLD_M - xy.bottom) / size - _ROUNDED_PX)
    return left, top, max(right, left + 1), max(bottom, top + 1)
