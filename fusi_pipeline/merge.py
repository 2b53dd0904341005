"""Heights of several sources over one tile -> one array, pixel by pixel. Arrays in, arrays out.

Every array has one shape and NaN where its source has no height; 0 m is a
height like any other. Beside the heights comes where they are from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.resample import Heights

MODES = ("priority", "max", "min", "mean", "feather")

Numbers = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Merged:
    """One array of heights, and which layers each pixel is from; arrays of one shape."""

    heights: Heights
    first: Numbers
    """Number of the layer a pixel is from, counted from 1; 0 where no layer has a height.

    Where several take part, the first of them in order.
    """
    second: Numbers
    """Number of the layer that has a share in the pixel beside the first; 0 where none has."""
    share: npt.NDArray[np.float32]
    """The second layer's share of the height, 0..1."""

    says: tuple[int, ...]
    """In how many pixels each layer has a share, however small; layers that were not asked are left out."""


def filled(layers: Iterable[Heights]) -> Merged:
    """Return the first layer with its missing pixels filled from the next, and so on.

    Layers are taken one at a time, and no more once every pixel is valid.
    """
    out: Heights | None = None
    first = np.empty(0, dtype=np.uint16)
    for number, layer in enumerate(layers, 1):
        if out is None:
            out = layer.copy()
            missing = np.isnan(out)
            first = np.where(missing, 0, number).astype(np.uint16)
        else:
            taken = np.isnan(out) & ~np.isnan(layer)
            out[taken] = layer[taken]
            first[taken] = number
            missing = np.isnan(out)
        if not missing.any():
            break
    if out is None:
        raise ValueError("no layers to merge")
    return _unshared(out, first, number)


def combined(layers: Sequence[Heights], mode: str) -> Merged:
    """Return the largest, smallest or mean valid height of each pixel; NaN where no layer has one.

    `mode` is `priority` (see `filled`), `max`, `min` or `mean`. Of equal heights
    the first layer's counts. Means are taken in float64.
    """
    if mode == "priority":
        return filled(layers)
    if mode in ("max", "min"):
        return _extreme(layers, np.greater if mode == "max" else np.less)
    if mode != "mean":
        raise ValueError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    shape = layers[0].shape
    total, count = np.zeros(shape, dtype=np.float64), np.zeros(shape, dtype=np.int32)
    first, second = np.zeros(shape, dtype=np.uint16), np.zeros(shape, dtype=np.uint16)
    for number, layer in enumerate(layers, 1):
        valid = ~np.isnan(layer)
        total[valid] += layer[valid]
        count += valid
        second[valid & (first > 0) & (second == 0)] = number
        first[valid & (first == 0)] = number
    with np.errstate(invalid="ignore", divide="ignore"):
        heights = (total / count).astype(np.float32)
        share = np.where(second > 0, 1 / count, 0).astype(np.float32)
    says = tuple(int(np.count_nonzero(~np.isnan(layer))) for layer in layers)
    return Merged(heights, first, second, share, says)


def _extreme(layers: Sequence[Heights], beats: np.ufunc) -> Merged:
    out = layers[0].copy()
    first = (~np.isnan(out)).astype(np.uint16)
    for number, layer in enumerate(layers[1:], 2):
        taken = beats(layer, out) | (np.isnan(out) & ~np.isnan(layer))
        out[taken] = layer[taken]
        first[taken] = number
    return _unshared(out, first, len(layers))


def feathered(
    layers: Sequence[Heights], weights: Sequence[npt.NDArray[np.float64] | None], agreement_m: float
) -> Merged:
    """Return the layers laid over each other from the last to the first, each fading out at its edge.

    `weights[i]` is the share, 0..1, that layer i has over all that lie below it,
    None for 1 everywhere. Where nothing below is valid, or what is below differs
    by no more than `agreement_m`, the layer is taken as it is.
    """
    below = filled(layers[-1:])
    shared = [np.zeros(layers[0].shape, dtype=bool) for _ in layers]
    shared[-1] = below.first > 0
    heights, second, share = below.heights, below.second, below.share
    first = np.where(below.first > 0, len(layers), 0).astype(np.uint16)
    for index in range(len(layers) - 2, -1, -1):
        layer, weight = layers[index], weights[index]
        valid = ~np.isnan(layer)
        second, share = np.where(valid, 0, second), np.where(valid, 0, share)
        under = heights
        heights = np.where(valid, layer, under)
        if weight is not None:
            with np.errstate(invalid="ignore"):
                blend = (np.abs(layer - under) > agreement_m) & (weight < 1)
            part = weight[blend]
            heights[blend] = part * layer[blend] + (1 - part) * under[blend]
            second[blend], share[blend] = first[blend], 1 - part
            alone = valid & ~blend
        else:
            alone = valid
        for other in shared[index + 1 :]:
            other &= ~alone
        shared[index] = valid
        first = np.where(valid, index + 1, first).astype(np.uint16)
    says = tuple(int(np.count_nonzero(one)) for one in shared)
    return Merged(heights, first, second.astype(np.uint16), share.astype(np.float32), says)


def fade(distance_m: npt.NDArray[np.float64], width_m: float) -> npt.NDArray[np.float64]:
    """Return a layer's share at distances from its edge: smoothstep from 0 there to 1 at `width_m`."""
    t = np.minimum(distance_m / width_m, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float64)


def _unshared(heights: Heights, first: Numbers, layers: int) -> Merged:
    says = tuple(np.bincount(first.ravel(), minlength=layers + 1)[1:].tolist())
    return Merged(heights, first, np.zeros_like(first), np.zeros(heights.shape, dtype=np.float32), says)
