"""How far the pixels of an array are from its nearest invalid one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import kernel, pointer


def distance_px(
    valid: npt.NDArray[np.bool_], top: int, left: int, height: int, width: int
) -> npt.NDArray[np.float64]:
    """Return the exact Euclidean distance, centre to centre, of a window's pixels to the nearest invalid one.

    The window of shape (height, width) starts at row `top` and column `left` of
    `valid`. 0 where invalid, infinite where all is valid.
    """
    rows, cols = valid.shape
    flags = np.ascontiguousarray(valid, dtype=np.uint8)
    above = np.empty(cols, dtype=np.float64)
    column = np.empty((height, cols), dtype=np.float64)
    sites, breaks = np.empty((2, cols + 1), dtype=np.float64)
    out = np.empty((height, width), dtype=np.float64)
    kernel("distance")(
        pointer(flags), rows, cols, top, left, height, width,
        pointer(above), pointer(column), pointer(sites), pointer(breaks), pointer(out),
    )  # fmt: skip
    return out
