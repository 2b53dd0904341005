"""What of an archive is for the eye: surfaces and their gaps, lineage in colours, the relief of a place."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from fusi_pipeline import lineage, lineage_files
from fusi_pipeline.preview import tile_heights
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile, XYBounds
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.overzoom import overzoom
from fusi_pipeline.tiles.resample import Heights
from fusi_pipeline.viewer.shelf import Served

_RELIEF_TILES = 6
"""Tiles that are decoded to learn the relief of a place, as many as a screen shows."""
_MOST_RELIEF_TILES = 24
"""Where even the lowest zoom has more of them: some of these, evenly spread."""
_OUTLIERS_PERCENT = 1.0


@dataclass(frozen=True, slots=True)
class Relief:
    """The heights of a place, in metres; None where it has none of the kind."""

    minimum_m: float | None
    maximum_m: float | None
    land_m: tuple[float, float] | None
    """Heights above 0 m but for the lowest and the highest 1 %."""
    sea_m: float | None
    """The lowest height below 0 m but for the lowest 1 % of them."""


def surface(served: Served, tile: Tile) -> bytes | None:
    """Return a tile as a map client wants it: without alpha, missing pixels at 0 m.

    A tile that has every pixel is returned as it is stored, and so is every
    tile that is no Terrarium WebP. Where the archive is coarser, the tile is
    enlarged from its ancestor; None where it has none. Raises TileCorrupt.
    """
    data = served.reader.read(tile)
    if served.metadata.encoding != "terrarium" or served.metadata.format != "webp":
        return data
    heights = _enlarged(served, tile) if data is None else tile_heights(served.reader, tile)
    if heights is None or (data is not None and not np.isnan(heights).any()):
        return data
    return _filled(heights, tile)


def lineage_picture(served: Served, tile: Tile) -> bytes | None:
    """Return a lineage tile as a PNG in the legend's colours, transparent without a source.

    None where the archive has no such tile. Raises TileCorrupt.
    """
    pixels = lineage_files.tile_pixels(served.reader, tile)
    if pixels is None:
        return None
    return _png(Image.fromarray(lineage.picture(pixels, lineage.legend(served.metadata))))


def gaps_picture(served: Served, sources: Served | None, tile: Tile, color: str) -> bytes | None:
    """Return a PNG of the pixels of a surface that no source has, in a colour (`rrggbb`).

    The lineage, where there is one, knows them; else pixels of alpha 0 are
    missing. None where every pixel is there, or none is known to be missing.
    Raises TileCorrupt.
    """
    if sources is not None:
        absent = _unsourced(sources, tile)
    else:
        heights = tile_heights(served.reader, tile)
        heights = _enlarged(served, tile) if heights is None else heights
        absent = None if heights is None else np.isnan(heights)
    if absent is None or not absent.any():
        return None
    picture = Image.fromarray(absent.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *bytes.fromhex(color)])
    return _png(picture, transparency=0)


def _unsourced(sources: Served, tile: Tile) -> npt.NDArray[np.bool_] | None:
    """Return which pixels of a tile no source has, shape (512, 512); None where the lineage has no tile."""
    pixels = _lineage_under(sources, tile)
    return None if pixels is None else pixels[..., 0] == 0


def _lineage_under(sources: Served, tile: Tile) -> lineage.Pixels | None:
    """Return the lineage of a tile, shape (512, 512, 3), from its nearest ancestor where it has none."""
    for levels in range(tile.z - sources.zooms[0] + 1):
        pixels = lineage_files.tile_pixels(sources.reader, grid.parent(tile, levels))
        if pixels is not None:
            place = np.arange(TILE_SIZE_PX) >> levels
            left, top = ((at << 9) >> levels & (TILE_SIZE_PX - 1) for at in (tile.x, tile.y))
            part: lineage.Pixels = pixels[np.ix_(top + place, left + place)]
            return part
    return None


def relief(served: Served, sources: Served | None, box: Bounds) -> Relief:
    """Return the heights within a geographic box, from the few tiles that show it.

    Pixels that no source has, by the lineage or by alpha, do not count.
    Raises TileCorrupt.
    """
    parts = list(_heights_within(served, sources, box))
    found = np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
    if not found.size:
        return Relief(None, None, None, None)
    land, sea = found[found > 0], found[found < 0]
    low, high = np.percentile(land, (_OUTLIERS_PERCENT, 100 - _OUTLIERS_PERCENT)) if land.size else (0, 0)
    return Relief(
        minimum_m=float(found.min()),
        maximum_m=float(found.max()),
        land_m=(float(low), float(high)) if land.size else None,
        sea_m=float(np.percentile(sea, _OUTLIERS_PERCENT)) if sea.size else None,
    )


def _heights_within(served: Served, sources: Served | None, box: Bounds) -> Iterator[Heights]:
    """Yield the valid heights within a box, shape (n,) for each of some tiles that touch it."""
    projected = grid.projected(box)
    for tile in _sampled(projected, served.zooms):
        heights = tile_heights(served.reader, tile)
        if heights is None:
            heights = _enlarged(served, tile)
        if heights is None:
            continue
        own, side = grid.xy_bounds(tile), heights.shape[0]
        absent = None if sources is None else _unsourced(sources, tile)
        if absent is not None:
            at = np.arange(side) * TILE_SIZE_PX // side
            heights = np.where(absent[np.ix_(at, at)], np.float32(np.nan), heights)
        scale = side / (own.right - own.left)
        for part in projected.parts():
            cols = _pixels((part.left - own.left) * scale, (part.right - own.left) * scale, side)
            rows = _pixels((own.top - part.top) * scale, (own.top - part.bottom) * scale, side)
            within = heights[rows, cols]
            yield within[~np.isnan(within)]


def _sampled(box: XYBounds, zooms: tuple[int, int]) -> Iterator[Tile]:
    """Yield the tiles of the highest zoom that shows a box in a few, or some of the lowest zoom's."""
    covered = {z: grid.covering_ranges(box, z) for z in range(zooms[0], zooms[1] + 1)}
    counts = {z: sum(len(cols) * len(rows) for cols, rows in ranges) for z, ranges in covered.items()}
    z = max((z for z, count in counts.items() if count <= _RELIEF_TILES), default=zooms[0])
    step = -(-counts[z] // _MOST_RELIEF_TILES)
    for cols, rows in covered[z]:
        for place in range(0, len(cols) * len(rows), step):
            yield Tile(z, cols[place % len(cols)], rows[place // len(cols)])


def _pixels(first: float, last: float, side: int) -> slice:
    """Return the pixels of a tile that an interval touches, none where it lies beyond the tile."""
    return slice(min(max(math.floor(first), 0), side), min(max(math.ceil(last), 0), side))


def _enlarged(served: Served, tile: Tile) -> Heights | None:
    """Return a tile's heights from its nearest ancestor; None where there is none of 512 px."""
    if served.metadata.tile_size != TILE_SIZE_PX:
        return None
    for levels in range(1, tile.z - served.zooms[0] + 1):
        if served.reader.read(grid.parent(tile, levels)) is not None:
            return overzoom(tile, levels, partial(tile_heights, served.reader))
    return None


def _filled(heights: Heights, tile: Tile) -> bytes:
    pixels = terrarium.encode(np.nan_to_num(heights, nan=0.0), tile.z)
    assert pixels is not None, "no height is missing"
    return encode_webp(pixels)


def _png(picture: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3, **options)
    return buffer.getvalue()
