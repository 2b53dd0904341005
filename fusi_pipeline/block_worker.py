"""What a worker process does: one block warped, its pyramid made, its tiles encoded.

Importing this module compiles (or loads) every kernel, so a fork server that
preloads it hands ready workers out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fusi_pipeline import overview, warp
from fusi_pipeline.block_parts import BlockJoin, BlockPart, PartMade
from fusi_pipeline.plan import Block
from fusi_pipeline.tasks import BuildContext, Extent, Made, ParentTask, united
from fusi_pipeline.tiles import native, resample
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.ledger import BlockRecord, digests_of
from fusi_pipeline.tiles.resample import Heights

native.warm_up()


class _Worker:
    """A worker's own state: the context and the files it keeps open."""

    def __init__(self, context: BuildContext) -> None:
        self.context = context
        warp.configure_gdal(context.gdal_cache_mib, context.threads)
        self.datasets = warp.Datasets(context.folder)


_worker: _Worker | None = None


def start(context: BuildContext) -> None:
    """Prepare this process for the blocks of one build."""
    global _worker
    _worker = _Worker(context)


def build_block(block: Block) -> Made:
    """Return the tiles of a block at every zoom from the base to its own."""
    assert _worker is not None, "start() has not run in this process"
    context = _worker.context
    levels = context.maxzoom - block.tile.z
    side_px = TILE_SIZE_PX << levels
    window = warp.TargetWindow(
        context.maxzoom, block.tile.x * side_px, block.tile.y * side_px, side_px, side_px
    )
    heights = warp.warp(block.files, _worker.datasets, window, context.parameters, threads=context.threads)
    if context.io_sleep_s:
        time.sleep(context.io_sleep_s)
    _clip(heights, block, block.tile, levels)
    extent = _extent(heights, window.col_off, window.row_off)
    if extent is None:
        return Made(BlockRecord(block.tile, block.key, 0, 0, None, None), ())
    tiles, quarter = overview.pyramid(heights, block.tile, context.maxzoom, context.minzoom, context.encoder)
    packed = overview.packed(quarter) if block.tile.z > context.minzoom else None
    return _made(block.tile, block.key, extent, packed, tiles)


def build_part(part: BlockPart) -> PartMade:
    """Return the tiles of a quarter of a block, and what it leaves for the block's own tile."""
    assert _worker is not None, "start() has not run in this process"
    context, block = _worker.context, part.block
    levels = context.maxzoom - block.tile.z
    whole_px, side_px = TILE_SIZE_PX << levels, (TILE_SIZE_PX << levels) // 2
    window = warp.TargetWindow(
        context.maxzoom, block.tile.x * whole_px, block.tile.y * whole_px, whole_px, whole_px
    )
    place = warp.TargetWindow(context.maxzoom, part.tile.x * side_px, part.tile.y * side_px, side_px, side_px)
    warp.configure_gdal(max(context.gdal_cache_mib // 4, 1), context.threads)
    try:
        heights = warp.warp(
            block.files, _worker.datasets, window, context.parameters, part=place, threads=context.threads
        )
    finally:
        warp.configure_gdal(context.gdal_cache_mib, context.threads)
    if context.io_sleep_s:
        time.sleep(context.io_sleep_s / 4)
    if levels:
        _clip(heights, block, part.tile, levels - 1)
    extent = _extent(heights, place.col_off, place.row_off)
    if extent is None:
        return PartMade((), None, None)
    if not levels:  # the quarter is less than a tile
        return PartMade((), overview.packed(heights), extent)
    tiles, quarter = overview.pyramid(heights, part.tile, context.maxzoom, context.minzoom, context.encoder)
    return PartMade(tuple(tiles), overview.packed(quarter), extent)


def build_joined(join: BlockJoin) -> Made:
    """Return a block from its quarters, as `build_block` makes it at once."""
    assert _worker is not None, "start() has not run in this process"
    context, block = _worker.context, join.block
    extent = united([part.extent for part in join.parts])
    if extent is None:
        return Made(BlockRecord(block.tile, block.key, 0, 0, None, None), ())
    quarters = [None if part.quarter is None else overview.unpacked(part.quarter) for part in join.parts]
    heights, tiles = overview.joined(quarters), join.tiles
    wanted = block.tile.z >= context.minzoom
    data = overview.encode_tile(heights, block.tile.z, context.encoder) if wanted else None
    if data is not None:
        tiles.append((block.tile, data))
    packed = overview.packed(resample.halve(heights)) if block.tile.z > context.minzoom else None
    return _made(block.tile, block.key, extent, packed, tiles)


def build_parent(task: ParentTask) -> Made:
    """Return the one tile above four children, from their unrounded heights."""
    assert _worker is not None, "start() has not run in this process"
    quarters = [None if packed is None else overview.unpacked(packed) for packed, _ in task.children]
    extent = united([extent for _, extent in task.children])
    if extent is None:
        return Made(BlockRecord(task.tile, task.key, 0, 0, None, None), ())
    heights = overview.joined(quarters)
    data = overview.encode_tile(heights, task.tile.z, _worker.context.encoder)
    tiles = [] if data is None else [(task.tile, data)]
    above = task.tile.z > _worker.context.minzoom
    packed = overview.packed(resample.halve(heights)) if above else None
    return _made(task.tile, task.key, extent, packed, tiles)


def _made(
    tile: Tile,
    key: str,
    extent: Extent,
    packed: bytes | None,
    tiles: Sequence[tuple[Tile, bytes]],
) -> Made:
    size = sum(len(data) for _, data in tiles)
    return Made(BlockRecord(tile, key, len(tiles), size, extent, packed, digests_of(tiles)), tuple(tiles))


def _clip(heights: Heights, block: Block, tile: Tile, levels: int) -> None:
    """Drop the base tiles that the area asked for does not touch.

    `heights` fill `tile`, which is `levels` above the base.
    """
    if block.clip is None:
        return
    left, top = tile.x << levels, tile.y << levels
    keep = np.zeros((1 << levels, 1 << levels), dtype=bool)
    for first_col, first_row, last_col, last_row in block.clip:
        rows = slice(max(first_row - top, 0), max(last_row - top, 0))
        keep[rows, max(first_col - left, 0) : max(last_col - left, 0)] = True
    for row, col in np.argwhere(~keep).tolist():
        heights[
            row * TILE_SIZE_PX : (row + 1) * TILE_SIZE_PX, col * TILE_SIZE_PX : (col + 1) * TILE_SIZE_PX
        ] = np.nan


def _extent(heights: Heights, col_off: int, row_off: int) -> Extent | None:
    """Return the global pixel box of the valid heights, or None where there is none."""
    valid = ~np.isnan(heights)
    rows = np.flatnonzero(valid.any(axis=1))
    if not len(rows):
        return None
    cols = np.flatnonzero(valid.any(axis=0))
    return (
        col_off + int(cols[0]),
        row_off + int(rows[0]),
        col_off + int(cols[-1]) + 1,
        row_off + int(rows[-1]) + 1,
    )
