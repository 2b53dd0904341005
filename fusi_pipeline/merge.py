"""Heights of several sources over one tile -> one array, pixel by pixel. Arrays in, arrays out.

Every array has one shape and NaN where its source has no height; 0 m is a
height like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np

from fusi_pipeline.tiles.resample import Heights

MODES = ("priority", "max", "min", "mean")


def filled(layers: Iterable[Heights]) -> Heights:
    """Return the first layer with its missing pixels filled from the next, and so on.

    Layers are taken one at a time, and no more once every pixel is valid.
    """
    out: Heights | None = None
    for layer in layers:
        if out is None:
            out = layer.copy()
        else:
            np.copyto(out, layer, where=np.isnan(out))
        if not np.isnan(out).any():
            break
    if out is None:
        raise ValueError("no layers to merge")
    return out


def combined(layers: Sequence[Heights], mode: str) -> Heights:
    """Return the largest, smallest or mean valid height of each pixel; NaN where no layer has one.

    `mode` is one of MODES; `priority` is `filled`. Means are taken in float64.
    """
    if mode == "priority":
        return filled(layers)
    if mode == "max":
        return cast(Heights, np.fmax.reduce(layers))
    if mode == "min":
        return cast(Heights, np.fmin.reduce(layers))
    if mode != "mean":
        raise ValueError(f"mode {mode!r}: expected one of {', '.join(MODES)}")
    total = np.zeros(layers[0].shape, dtype=np.float64)
    count = np.zeros(layers[0].shape, dtype=np.int32)
    for layer in layers:
        valid = ~np.isnan(layer)
        total[valid] += layer[valid]
        count += valid
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / count).astype(np.float32)
