"""Pyramids of heights: the tiles of a block at every zoom, and what is left for the zooms above.

Arrays in, arrays and bytes out. Heights stay float32 from zoom to zoom and are
rounded once, when a tile is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import imagecodecs
import numpy as np

from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ENCODERS, encode_webp
from fusi_pipeline.tiles.resample import Heights, halve

_HALF = TILE_SIZE_PX // 2
_ZSTD_LEVEL = 1


def tiles_of(heights: Heights, first: Tile, encoder: str = ENCODERS[0]) -> Iterator[tuple[Tile, bytes]]:
    """Yield the encoded tiles of an array whose north-west tile is `first`; wholly missing ones not at all.

    `heights` has shape (n * 512, m * 512).
    """
    for row in range(heights.shape[0] // TILE_SIZE_PX):
        for col in range(heights.shape[1] // TILE_SIZE_PX):
            part = heights[
                row * TILE_SIZE_PX : (row + 1) * TILE_SIZE_PX, col * TILE_SIZE_PX : (col + 1) * TILE_SIZE_PX
            ]
            data = encode_tile(part, first.z, encoder)
            if data is not None:
                yield Tile(first.z, first.x + col, first.y + row), data


def encode_tile(heights: Heights, z: int, encoder: str = ENCODERS[0]) -> bytes | None:
    """Return a tile of heights, shape (512, 512), as a lossless WebP; None where all are missing."""
    pixels = terrarium.encode(heights, z)
    return None if pixels is None else encode_webp(pixels, encoder)


def pyramid(
    heights: Heights, block: Tile, maxzoom: int, minzoom: int, encoder: str = ENCODERS[0]
) -> tuple[list[tuple[Tile, bytes]], Heights]:
    """Return the tiles of a block from `maxzoom` up to its own zoom, and its heights at half its own size.

    `heights` is the whole block at `maxzoom`, shape (512 * 2^n, 512 * 2^n) with
    n = maxzoom - block.z. Tiles below `minzoom` are left out. The second value
    has shape (256, 256): the block's quarter of the tile above it.
    """
    tiles: list[tuple[Tile, bytes]] = []
    for z in range(maxzoom, block.z - 1, -1):
        levels = z - block.z
        if z >= minzoom:
            tiles.extend(tiles_of(heights, Tile(z, block.x << levels, block.y << levels), encoder))
        heights = halve(heights)
    return tiles, heights


def joined(quarters: Sequence[Heights | None]) -> Heights:
    """Return a tile's heights, shape (512, 512), from its children's NW, NE, SW, SE quarters."""
    heights = np.full((TILE_SIZE_PX, TILE_SIZE_PX), np.nan, dtype=np.float32)
    for index, quarter in enumerate(quarters):
        if quarter is not None:
            row, col = (index // 2) * _HALF, (index % 2) * _HALF
            heights[row : row + _HALF, col : col + _HALF] = quarter
    return heights


def packed(quarter: Heights) -> bytes:
    """Return a quarter, shape (256, 256), as bytes: the four bytes of each float in planes, compressed."""
    planes = np.ascontiguousarray(quarter.astype("<f4").view(np.uint8).reshape(-1, 4).T)
    return bytes(imagecodecs.zstd_encode(planes.tobytes(), level=_ZSTD_LEVEL))


def unpacked(data: bytes) -> Heights:
    """Return what `packed` was given."""
    planes = np.frombuffer(imagecodecs.zstd_decode(data), dtype=np.uint8).reshape(4, -1)
    return np.ascontiguousarray(planes.T).view("<f4").reshape(_HALF, _HALF).astype(np.float32, copy=False)
