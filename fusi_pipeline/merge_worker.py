"""What a worker process does in a merge: tiles copied, merged or flattened, and their lineage.

Importing this module compiles (or loads) every kernel, as that of `block_worker` does.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from functools import cache

import numpy as np
import numpy.typing as npt

from fusi_pipeline import feather, lineage, merge
from fusi_pipeline.tasks import ABSENT, COPIED, ENCODED, MergeContext, MergeTask, TileMade, TileTask
from fusi_pipeline.terrain_input import Cache, TerrainInput
from fusi_pipeline.tiles import native, terrarium
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.tiles.resample import Heights

native.warm_up()


class _Worker:
    """A worker's own state: the open archives."""

    def __init__(self, context: MergeContext) -> None:
        self.context = context
        self._stack = ExitStack()
        decoded: Cache = OrderedDict()
        self.inputs = [
            self._stack.enter_context(TerrainInput(options, number, decoded))
            for number, options in enumerate(context.inputs)
        ]

    def check_inputs(self) -> None:
        """Raise ArchiveUnsuitable where an input is not the file that the merge began with."""
        for one, state in zip(self.inputs, self.context.states, strict=True):
            one.check_unchanged(state)


_worker: _Worker | None = None


def start(context: MergeContext) -> None:
    """Prepare this process for the tiles of one merge."""
    global _worker
    _worker = _Worker(context)


def merge_tiles(task: MergeTask) -> tuple[TileMade, ...]:
    """Return what became of each tile, in order."""
    assert _worker is not None, "start() has not run in this process"
    _worker.check_inputs()
    return tuple(_tile_made(_worker, one) for one in task.tiles)


def _tile_made(worker: _Worker, task: TileTask) -> TileMade:
    layers, ordinals = [], []
    for ordinal, (number, levels) in enumerate(task.contributors):
        heights = worker.inputs[number].layer(task.tile, levels)
        if heights is None:
            continue
        layers.append(heights)
        ordinals.append(ordinal)
        if worker.context.mode == "priority" and not np.isnan(heights).any():
            break
    if not layers:
        return TileMade(ABSENT, (0,) * len(task.contributors), True, 0, None, None)
    merged = _merged(worker, task, layers, ordinals)
    counts = [0] * len(task.contributors)
    for ordinal, count in zip(ordinals, merged.says, strict=False):
        counts[ordinal] = count
    if not any(counts):
        return TileMade(ABSENT, tuple(counts), True, 0, None, None)
    choice = _choice(worker, task, counts, merged.heights)
    encoder, wanted = worker.context.encoder, choice == ENCODED and task.terrain
    terrain = _terrain(merged.heights, task.tile, encoder) if wanted else None
    numbers = [task.contributors[one][0] for one in ordinals]
    made = _lineage(merged, numbers, encoder) if task.lineage else None
    size = _copied_size(worker, task, choice) if choice >= COPIED else len(terrain or b"")
    return TileMade(choice, tuple(counts), _disjoint(task, layers, ordinals, merged), size, terrain, made)


def _copied_size(worker: _Worker, task: TileTask, choice: int) -> int:
    number, _ = task.contributors[choice - COPIED]
    return len(worker.inputs[number].reader.read(task.tile) or b"")


def _disjoint(task: TileTask, layers: list[Heights], ordinals: list[int], merged: merge.Merged) -> bool:
    """Tell whether no pixel is valid in two contributors; False where that was not looked at."""
    last = len(task.contributors) - 1
    if last == 0:
        return True
    if ordinals[-1] < last and not np.isnan(layers[-1]).any():
        return False  # there was no need to look further
    valid = sum(int(np.count_nonzero(~np.isnan(layer))) for layer in layers)
    return valid == int(np.count_nonzero(merged.first))


def _merged(worker: _Worker, task: TileTask, layers: list[Heights], ordinals: list[int]) -> merge.Merged:
    mode, width_m = worker.context.mode, worker.context.feather_m
    if mode != "feather":
        return merge.combined(layers, mode)
    if len(layers) == 1:
        return merge.filled(layers)
    shares = [
        _shares(
            worker.inputs[task.contributors[ordinal][0]],
            task.tile,
            width_m,
            layers[index],
            layers[index + 1 :],
        )
        for index, ordinal in enumerate(ordinals[:-1])
    ]
    return merge.feathered(layers, [*shares, None], terrarium.step_m(task.tile.z))


def _shares(
    one: TerrainInput, tile: Tile, width_m: float, layer: Heights, below: list[Heights]
) -> npt.NDArray[np.float64] | None:
    """Return the share of a layer over those below it, pixel by pixel; None for 1 everywhere."""
    valid = ~np.isnan(layer)
    if not any((valid & ~np.isnan(other)).any() for other in below):
        return None

    def valid_of(other: Tile) -> npt.NDArray[np.bool_] | None:
        if other == tile:
            return valid
        heights = one.layer(other)
        return None if heights is None else ~np.isnan(heights)

    return feather.weights(tile, width_m, valid_of)


def _choice(worker: _Worker, task: TileTask, counts: list[int], heights: Heights) -> int:
    """Return whether a tile may be copied: one input alone decides every pixel, as it is stored."""
    taking_part = [ordinal for ordinal, count in enumerate(counts) if count]
    if len(taking_part) == 1 and counts[taking_part[0]] == TILE_SIZE_PX**2:
        number, levels = task.contributors[taking_part[0]]
        if not levels and worker.inputs[number].copyable(task.tile, heights):
            return COPIED + taking_part[0]
    return ENCODED


def _terrain(heights: Heights, tile: Tile, encoder: str) -> bytes:
    pixels = terrarium.encode(np.nan_to_num(heights, nan=0.0), tile.z)
    assert pixels is not None, "no pixel is missing once 0 m has taken its place"
    return encode_webp(pixels, encoder)


def _lineage(merged: merge.Merged, numbers: list[int], encoder: str) -> bytes:
    """Return a lineage tile; `numbers` are the inputs that the layers stand for."""
    if len(numbers) == 1 and merged.first.all():
        return _uniform_lineage(numbers[0] + 1, encoder)
    indices = np.array([0, *(number + 1 for number in numbers)], dtype=np.uint8)
    pixels = lineage.encode(indices[merged.first], indices[merged.second], merged.share)
    return encode_webp(pixels, encoder)


@cache
def _uniform_lineage(index: int, encoder: str) -> bytes:
    """Return the lineage tile that names one source everywhere."""
    pixels = np.zeros((TILE_SIZE_PX, TILE_SIZE_PX, 3), dtype=np.uint8)
    pixels[..., 0] = index
    return encode_webp(pixels, encoder)
