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

import numba
import numpy as np
import numpy.typing as npt

Heights = npt.NDArray[np.float32]
Coordinates = npt.NDArray[np.float64]

KERNELS = {"nearest": 0, "bilinear": 1, "cubic": 2, "cubicspline": 3, "average": 4}
RADIUS_PX = {"nearest": 1, "bilinear": 1, "cubic": 2, "cubicspline": 2, "average": 1}
"""Source pixels that a method needs beyond the coordinate, on each side."""

_EDGE = 1e-7
"""Source pixels by which a coordinate may miss a pixel's edge, for rounding in the projection."""


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

    `period` is the width of the whole world in source columns, 0 where columns
    do not wrap. Rows are shared among `threads` threads; the result does not
    depend on how many.
    """
    rows = out.shape[0]
    kernel = KERNELS[method]
    arguments = (source, lattice.x, lattice.y, lattice.spacing, kernel, period, out)
    if threads <= 1 or rows < 2 * threads:
        _sample_rows(*arguments, 0, rows)
        return
    edges = [rows * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for future in [
            pool.submit(_sample_rows, *arguments, first, last)
            for first, last in zip(edges, edges[1:], strict=False)
        ]:
            future.result()


def interpolate(lattice: Lattice, column: float, row: float) -> tuple[float, float]:
    """Return the source (x, y) of one position of the target window, as `sample` sees it."""
    x, y = _at(lattice.x, lattice.y, lattice.spacing, float(column), float(row))
    return float(x), float(y)


def halve(heights: Heights) -> Heights:
    """Return the mean of the valid pixels of each 2 x 2 square; shape (rows / 2, cols / 2)."""
    out = np.empty((heights.shape[0] // 2, heights.shape[1] // 2), dtype=np.float32)
    _halve(heights, out)
    return out


def enlarge(source: Heights, factor: int, left: float, top: float, size: int, method: str) -> Heights:
    """Return a square of `size` px whose pixels are `factor` times finer than the source's.

    (`left`, `top`) is the square's corner in source pixels.
    """
    cells = (size + 1) // 2
    corner = np.arange(0, 2 * cells + 1, cells, dtype=np.float64) / factor
    x, y = np.meshgrid(left + corner, top + corner)
    out = np.full((size, size), np.nan, dtype=np.float32)
    sample(source, Lattice(cells, x, y), method, out)
    return out


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _quadratic(a: float, b: float, c: float) -> tuple[float, float]:
    """Return the linear and square coefficients through a, b, c at 0, 1, 2."""
    return (4.0 * b - 3.0 * a - c) * 0.5, (a - 2.0 * b + c) * 0.5


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _at(grid_x, grid_y, spacing, column, row):  # type: ignore[no-untyped-def]
    cell_i = min(int(row // (2 * spacing)), (grid_x.shape[0] - 3) // 2)
    cell_j = min(int(column // (2 * spacing)), (grid_x.shape[1] - 3) // 2)
    v = row / spacing - 2 * cell_i
    u = column / spacing - 2 * cell_j
    x, y = 0.0, 0.0
    lv = ((v - 1) * (v - 2) * 0.5, -v * (v - 2), v * (v - 1) * 0.5)
    lu = ((u - 1) * (u - 2) * 0.5, -u * (u - 2), u * (u - 1) * 0.5)
    for i in range(3):
        for j in range(3):
            x += lv[i] * lu[j] * grid_x[2 * cell_i + i, 2 * cell_j + j]
            y += lv[i] * lu[j] * grid_y[2 * cell_i + i, 2 * cell_j + j]
    return x, y


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _row_coefficients(grid_x, grid_y, spacing, row, coefficients):  # type: ignore[no-untyped-def]
    """Fill (cells, 6) with the quadratics in column of x and y along one target row."""
    cell_i = min(int(row // (2 * spacing)), (grid_x.shape[0] - 3) // 2)
    v = row / spacing - 2 * cell_i
    l0, l1, l2 = (v - 1) * (v - 2) * 0.5, -v * (v - 2), v * (v - 1) * 0.5
    i = 2 * cell_i
    for cell in range(coefficients.shape[0]):
        j = 2 * cell
        x0 = l0 * grid_x[i, j] + l1 * grid_x[i + 1, j] + l2 * grid_x[i + 2, j]
        x1 = l0 * grid_x[i, j + 1] + l1 * grid_x[i + 1, j + 1] + l2 * grid_x[i + 2, j + 1]
        x2 = l0 * grid_x[i, j + 2] + l1 * grid_x[i + 1, j + 2] + l2 * grid_x[i + 2, j + 2]
        y0 = l0 * grid_y[i, j] + l1 * grid_y[i + 1, j] + l2 * grid_y[i + 2, j]
        y1 = l0 * grid_y[i, j + 1] + l1 * grid_y[i + 1, j + 1] + l2 * grid_y[i + 2, j + 1]
        y2 = l0 * grid_y[i, j + 2] + l1 * grid_y[i + 1, j + 2] + l2 * grid_y[i + 2, j + 2]
        coefficients[cell, 0] = x0
        coefficients[cell, 1], coefficients[cell, 2] = _quadratic(x0, x1, x2)
        coefficients[cell, 3] = y0
        coefficients[cell, 4], coefficients[cell, 5] = _quadratic(y0, y1, y2)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _wrapped(x, width, period):  # type: ignore[no-untyped-def]
    if period > 0.0:
        if x < 0.0:
            x += period
        elif x >= width:
            x -= period
    return x


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _sample_rows(source, grid_x, grid_y, spacing, kernel, period, out, first, last):  # type: ignore[no-untyped-def]
    height, width = source.shape
    cols = out.shape[1]
    cells = (grid_x.shape[1] - 1) // 2
    here = np.empty((cells, 6), dtype=np.float64)
    below = np.empty((cells, 6), dtype=np.float64)
    for row in range(first, last):
        if kernel == 4:
            _row_coefficients(grid_x, grid_y, spacing, float(row), here)
            _row_coefficients(grid_x, grid_y, spacing, float(row + 1), below)
        else:
            _row_coefficients(grid_x, grid_y, spacing, row + 0.5, here)
        for cell in range(cells):
            start = cell * 2 * spacing
            stop = min(start + 2 * spacing, cols)
            for col in range(start, stop):
                if out[row, col] == out[row, col]:
                    continue
                u = (col + 0.5 - start) / spacing
                if kernel == 4:
                    u = (col - start) / spacing
                    w = (col + 1 - start) / spacing
                    x_0 = here[cell, 0] + u * (here[cell, 1] + u * here[cell, 2])
                    y_0 = here[cell, 3] + u * (here[cell, 4] + u * here[cell, 5])
                    x_1 = below[cell, 0] + w * (below[cell, 1] + w * below[cell, 2])
                    y_1 = below[cell, 3] + w * (below[cell, 4] + w * below[cell, 5])
                    shift = _wrapped(0.5 * (x_0 + x_1), width, period) - 0.5 * (x_0 + x_1)
                    out[row, col] = _mean(source, x_0 + shift, y_0, x_1 + shift, y_1)
                    continue
                x = here[cell, 0] + u * (here[cell, 1] + u * here[cell, 2])
                y = here[cell, 3] + u * (here[cell, 4] + u * here[cell, 5])
                x = _wrapped(x, width, period)
                if not (x >= -_EDGE and x < width + _EDGE and y >= -_EDGE and y < height + _EDGE):
                    continue
                if kernel == 1:
                    out[row, col] = _bilinear(source, x, y)
                elif kernel == 0:
                    out[row, col] = source[_pixel(y, height), _pixel(x, width)]
                elif kernel == 2:
                    out[row, col] = _cubic(source, x, y)
                else:
                    out[row, col] = _spline(source, x, y)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _pixel(coordinate, size):  # type: ignore[no-untyped-def]
    return min(max(int(np.floor(coordinate + _EDGE)), 0), size - 1)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _bilinear(source, x, y):  # type: ignore[no-untyped-def]
    height, width = source.shape
    j = int(np.floor(x - 0.5))
    i = int(np.floor(y - 0.5))
    fx = x - 0.5 - j
    fy = y - 0.5 - i
    if i >= 0 and j >= 0 and i < height - 1 and j < width - 1:
        top = source[i, j] * (1.0 - fx) + source[i, j + 1] * fx
        bottom = source[i + 1, j] * (1.0 - fx) + source[i + 1, j + 1] * fx
        value = top * (1.0 - fy) + bottom * fy
        if value == value:
            return value
    nearest = source[_pixel(y, height), _pixel(x, width)]
    if nearest != nearest:
        return np.nan
    total = 0.0
    weight = 0.0
    for di in range(2):
        for dj in range(2):
            row, col = i + di, j + dj
            if row < 0 or col < 0 or row >= height or col >= width:
                continue
            height_m = source[row, col]
            if height_m != height_m:
                continue
            share = (fy if di else 1.0 - fy) * (fx if dj else 1.0 - fx)
            total += share * height_m
            weight += share
    if weight <= 1e-9:
        return nearest
    return total / weight


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _catmull_rom(f0, f1, f2, f3, d):  # type: ignore[no-untyped-def]
    return f1 + 0.5 * d * (
        f2 - f0 + d * (2.0 * f0 - 5.0 * f1 + 4.0 * f2 - f3 + d * (3.0 * (f1 - f2) + f3 - f0))
    )


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _cubic(source, x, y):  # type: ignore[no-untyped-def]
    """Cubic convolution (a = -1/2); bilinear where one of the 16 pixels is missing, as GDAL has it."""
    height, width = source.shape
    j = int(np.floor(x - 0.5)) - 1
    i = int(np.floor(y - 0.5)) - 1
    if i < 0 or j < 0 or i + 3 >= height or j + 3 >= width:
        return _bilinear(source, x, y)
    fx = x - 0.5 - (j + 1)
    fy = y - 0.5 - (i + 1)
    a = _catmull_rom(source[i, j], source[i, j + 1], source[i, j + 2], source[i, j + 3], fx)
    b = _catmull_rom(source[i + 1, j], source[i + 1, j + 1], source[i + 1, j + 2], source[i + 1, j + 3], fx)
    c = _catmull_rom(source[i + 2, j], source[i + 2, j + 1], source[i + 2, j + 2], source[i + 2, j + 3], fx)
    d = _catmull_rom(source[i + 3, j], source[i + 3, j + 1], source[i + 3, j + 2], source[i + 3, j + 3], fx)
    value = _catmull_rom(a, b, c, d, fy)
    if value == value:
        return value
    return _bilinear(source, x, y)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _spline_weight(d):  # type: ignore[no-untyped-def]
    """Cubic B-spline at distance `d` pixels."""
    d = abs(d)
    if d < 1.0:
        return (4.0 + d * d * (3.0 * d - 6.0)) / 6.0
    if d < 2.0:
        return (2.0 - d) ** 3 / 6.0
    return 0.0


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _spline(source, x, y):  # type: ignore[no-untyped-def]
    height, width = source.shape
    nearest = source[_pixel(y, height), _pixel(x, width)]
    if nearest != nearest:
        return np.nan
    j = int(np.floor(x - 0.5)) - 1
    i = int(np.floor(y - 0.5)) - 1
    total = 0.0
    weight = 0.0
    for row in range(max(i, 0), min(i + 4, height)):
        wy = _spline_weight(y - 0.5 - row)
        for col in range(max(j, 0), min(j + 4, width)):
            height_m = source[row, col]
            if height_m == height_m:
                share = wy * _spline_weight(x - 0.5 - col)
                total += share * height_m
                weight += share
    return total / weight


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _mean(source, x_0, y_0, x_1, y_1):  # type: ignore[no-untyped-def]
    """Mean of the valid pixels under a footprint, each weighted by the share of it that is covered."""
    height, width = source.shape
    left, right = min(x_0, x_1), max(x_0, x_1)
    top, bottom = min(y_0, y_1), max(y_0, y_1)
    if not (right > 0.0 and left < width and bottom > 0.0 and top < height):
        return np.nan
    left, top = max(left, 0.0), max(top, 0.0)
    right, bottom = min(right, float(width)), min(bottom, float(height))
    total = 0.0
    weight = 0.0
    for row in range(int(np.floor(top + _EDGE)), min(int(np.ceil(bottom - _EDGE)), height)):
        wy = min(bottom, row + 1.0) - max(top, float(row))
        for col in range(int(np.floor(left + _EDGE)), min(int(np.ceil(right - _EDGE)), width)):
            height_m = source[row, col]
            if height_m == height_m:
                share = wy * (min(right, col + 1.0) - max(left, float(col)))
                total += share * height_m
                weight += share
    if weight <= 0.0:
        return np.nan
    return total / weight


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _halve(heights, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            a, b = heights[2 * i, 2 * j], heights[2 * i, 2 * j + 1]
            c, d = heights[2 * i + 1, 2 * j], heights[2 * i + 1, 2 * j + 1]
            mean = (np.float64(a) + b + c + d) * 0.25
            if mean != mean:
                total = 0.0
                count = 0
                for value in (a, b, c, d):
                    if value == value:
                        total += value
                        count += 1
                mean = total / count if count else np.nan
            out[i, j] = mean


def warm_up() -> None:
    """Compile (or load from the cache) every kernel, so that no task waits for it."""
    source = np.zeros((8, 8), dtype=np.float32)
    for method in KERNELS:
        enlarge(source, 2, 2.0, 2.0, 4, method)
    halve(source)
