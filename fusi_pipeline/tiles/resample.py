"""Arrays sampled at coordinates, averaged over footprints, and halved.

Heights are float32 with NaN where missing. Coordinates are in pixels of the
array they point into, counted from the outer corner of its first pixel, so the
centre of the first pixel is (0.5, 0.5). Rules are those of GDAL's warper: a
result is valid where the pixel that holds the coordinate is valid; missing or
absent neighbours lose their weight and the rest are renormalised.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import kernel, pointer

Heights = npt.NDArray[np.float32]
Coordinates = npt.NDArray[np.float64]

KERNELS = {"nearest": 0, "bilinear": 1, "cubic": 2, "cubicspline": 3, "average": 4}
RADIUS_PX = {"nearest": 1, "bilinear": 1, "cubic": 2, "cubicspline": 2, "average": 1}
"""Source pixels that a method needs beyond the coordinate, on each side."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Source coordinates at regularly spaced corners of a target window.

    `x` and `y` have shape (2m+1, 2n+1): the source column and row, in pixels, at
    target row `i * spacing` and column `j * spacing`. Between them coordinates
    are interpolated quadratically in both directions, cell by cell of 2 x 2
    spacings.
    """

    spacing: int
    x: Coordinates
    y: Coordinates

    def at(self, cols: Coordinates, rows: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Return the source (x, y) of positions in the target window, arrays of one shape (n,)."""
        i, v = self._cells(rows, self.x.shape[0])
        j, u = self._cells(cols, self.x.shape[1])
        near = (i[:, None, None] + np.arange(3)[:, None], j[:, None, None] + np.arange(3))
        weights = _lagrange(v)[:, :, None] * _lagrange(u)[:, None, :]
        return (self.x[near] * weights).sum(axis=(1, 2)), (self.y[near] * weights).sum(axis=(1, 2))

    def _cells(self, positions: Coordinates, corners: int) -> tuple[npt.NDArray[np.int64], Coordinates]:
        cell = np.minimum(positions // (2 * self.spacing), (corners - 3) // 2).astype(np.int64)
        return 2 * cell, positions / self.spacing - 2 * cell


def sample(
    source: Heights,
    lattice: Lattice,
    method: str,
    out: Heights,
    *,
    period: float = 0.0,
    threads: int = 1,
) -> None:
    """Fill the missing pixels of `out`, shape (rows, cols), from `source` at the lattice's coordinates.

    `out` may be a window of a larger array. `period` is the width of the whole
    world in source columns, 0 where columns do not wrap. Rows are shared among
    `threads` threads; the result does not depend on how many.
    """
    source = np.ascontiguousarray(source)
    x, y = np.ascontiguousarray(lattice.x), np.ascontiguousarray(lattice.y)
    run = kernel("sample")

    def rows(first: int, last: int) -> None:
        curves = np.empty((4, 3 * ((x.shape[1] - 1) // 2)), dtype=np.float64)
        run(
            pointer(source), *source.shape, pointer(x), pointer(y), *x.shape, lattice.spacing,
            KERNELS[method], period, pointer(out), out.strides[0] // out.itemsize, out.shape[1],
            first, last, *(pointer(curve) for curve in curves),
        )  # fmt: skip

    if threads <= 1 or out.shape[0] < 2 * threads:
        rows(0, out.shape[0])
        return
    edges = [out.shape[0] * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(rows, *span) for span in pairwise(edges)]:
            future.result()


def halve(heights: Heights) -> Heights:
    """Return the mean of the valid pixels of each 2 x 2 square; shape (rows / 2, cols / 2)."""
    heights = np.ascontiguousarray(heights)
    out = np.empty((heights.shape[0] // 2, heights.shape[1] // 2), dtype=np.float32)
    kernel("halve")(pointer(heights), *heights.shape, pointer(out))
    return out


def enlarge(source: Heights, factor: int, left: float, top: float, size: int, method: str) -> Heights:
    """Return a square of `size` px whose pixels are `factor` times finer than the source's.

    (`left`, `top`) is the square's corner in source pixels.
    """
    spacing = (size + 1) // 2
    corner = np.arange(3, dtype=np.float64) * spacing / factor
    x, y = np.meshgrid(left + corner, top + corner)
    out = np.full((size, size), np.nan, dtype=np.float32)
    sample(source, Lattice(spacing, x, y), method, out)
    return out


def _lagrange(t: Coordinates) -> Coordinates:
    """Return the weights at 0, 1, 2 for positions `t`, shape (n, 3)."""
    return np.stack([(t - 1) * (t - 2) / 2, -t * (t - 2), t * (t - 1) / 2], axis=1)
