"""The inner loops, written for numba: plain loops over flat memory, no Python objects.

Imported only to be compiled; `native` keeps the machine code and calls it.
Every array is a pointer to its first element with its sizes beside it, rows
first. Heights are float32, NaN where missing (tested as `x != x`). Rules are
those of GDAL's warper, see `resample`.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

import math

from numba import njit, types

_ROUNDING = 1.5 * 2.0**52
"""Added to a float64 and taken away again, it leaves the nearest whole number, of two the even one."""
EDGE = 1e-7
"""Source pixels by which a coordinate may miss a pixel's edge, for rounding in the projection."""

_f32 = types.CPointer(types.float32)
_f64 = types.CPointer(types.float64)
_u8 = types.CPointer(types.uint8)
_int = types.int64
_inline = njit(nogil=True, error_model="numpy")


@_inline
def _pixel(coordinate, size):
    return min(max(int(math.floor(coordinate + EDGE)), 0), size - 1)


@_inline
def _bilinear(source, height, width, x, y):
    j = int(math.floor(x - 0.5))
    i = int(math.floor(y - 0.5))
    fx = x - 0.5 - j
    fy = y - 0.5 - i
    if i >= 0 and j >= 0 and i < height - 1 and j < width - 1:
        at = i * width + j
        top = source[at] * (1.0 - fx) + source[at + 1] * fx
        bottom = source[at + width] * (1.0 - fx) + source[at + width + 1] * fx
        value = top * (1.0 - fy) + bottom * fy
        if value == value:
            return value
    return _bilinear_at_edge(source, height, width, x, y)


@_inline
def _bilinear_at_edge(source, height, width, x, y):
    """Bilinear where one of the four pixels is missing or outside."""
    nearest = float(source[_pixel(y, height) * width + _pixel(x, width)])
    if nearest != nearest:
        return math.nan
    j = int(math.floor(x - 0.5))
    i = int(math.floor(y - 0.5))
    fx = x - 0.5 - j
    fy = y - 0.5 - i
    total = 0.0
    weight = 0.0
    for row in range(max(i, 0), min(i + 2, height)):
        wy = fy if row > i else 1.0 - fy
        for col in range(max(j, 0), min(j + 2, width)):
            value = source[row * width + col]
            if value == value:
                share = wy * (fx if col > j else 1.0 - fx)
                total += share * value
                weight += share
    if weight <= 1e-9:
        return nearest
    return total / weight


@_inline
def _catmull_rom(a, b, c, d, t):
    return b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))


@_inline
def _cubic(source, height, width, x, y):
    """Cubic convolution (a = -1/2); bilinear where one of the 16 pixels is missing, as GDAL has it."""
    j = int(math.floor(x - 0.5)) - 1
    i = int(math.floor(y - 0.5)) - 1
    if i >= 0 and j >= 0 and i + 3 < height and j + 3 < width:
        fx = x - 0.5 - (j + 1)
        fy = y - 0.5 - (i + 1)
        p = i * width + j
        q = p + width
        r = q + width
        s = r + width
        value = _catmull_rom(
            _catmull_rom(source[p], source[p + 1], source[p + 2], source[p + 3], fx),
            _catmull_rom(source[q], source[q + 1], source[q + 2], source[q + 3], fx),
            _catmull_rom(source[r], source[r + 1], source[r + 2], source[r + 3], fx),
            _catmull_rom(source[s], source[s + 1], source[s + 2], source[s + 3], fx),
            fy,
        )
        if value == value:
            return value
    return _bilinear(source, height, width, x, y)


@_inline
def _spline_weight(distance):
    """Cubic B-spline at a distance in pixels."""
    d = abs(distance)
    if d < 1.0:
        return (4.0 + d * d * (3.0 * d - 6.0)) / 6.0
    if d < 2.0:
        return (2.0 - d) ** 3 / 6.0
    return 0.0


@_inline
def _spline(source, height, width, x, y):
    nearest = source[_pixel(y, height) * width + _pixel(x, width)]
    if nearest != nearest:
        return math.nan
    j = int(math.floor(x - 0.5)) - 1
    i = int(math.floor(y - 0.5)) - 1
    total = 0.0
    weight = 0.0
    for row in range(max(i, 0), min(i + 4, height)):
        wy = _spline_weight(y - 0.5 - row)
        for col in range(max(j, 0), min(j + 4, width)):
            value = source[row * width + col]
            if value == value:
                share = wy * _spline_weight(x - 0.5 - col)
                total += share * value
                weight += share
    return total / weight


@_inline
def _mean(source, height, width, x_0, y_0, x_1, y_1):
    """Mean of the valid pixels under a footprint, each weighted by the share of it that is covered."""
    left = max(min(x_0, x_1), 0.0)
    right = min(max(x_0, x_1), float(width))
    top = max(min(y_0, y_1), 0.0)
    bottom = min(max(y_0, y_1), float(height))
    if not (right > left and bottom > top):
        return math.nan
    total = 0.0
    weight = 0.0
    for row in range(int(math.floor(top + EDGE)), min(int(math.ceil(bottom - EDGE)), height)):
        wy = min(bottom, row + 1.0) - max(top, float(row))
        for col in range(int(math.floor(left + EDGE)), min(int(math.ceil(right - EDGE)), width)):
            value = source[row * width + col]
            if value == value:
                share = wy * (min(right, col + 1.0) - max(left, float(col)))
                total += share * value
                weight += share
    if weight <= 0.0:
        return math.nan
    return total / weight


@_inline
def _along_row(grid, grid_cols, cell_i, v, cells, out):
    """Fill (cells, 3) with the coefficients of the quadratics in column along one target row."""
    l_0, l_1, l_2 = (v - 1.0) * (v - 2.0) * 0.5, -v * (v - 2.0), v * (v - 1.0) * 0.5
    first = 2 * cell_i * grid_cols
    for cell in range(cells):
        at = first + 2 * cell
        a = l_0 * grid[at] + l_1 * grid[at + grid_cols] + l_2 * grid[at + 2 * grid_cols]
        at += 1
        b = l_0 * grid[at] + l_1 * grid[at + grid_cols] + l_2 * grid[at + 2 * grid_cols]
        at += 1
        c = l_0 * grid[at] + l_1 * grid[at + grid_cols] + l_2 * grid[at + 2 * grid_cols]
        out[3 * cell] = a
        out[3 * cell + 1] = (4.0 * b - 3.0 * a - c) * 0.5
        out[3 * cell + 2] = (a - 2.0 * b + c) * 0.5


@_inline
def _row_curves(grid_x, grid_y, grid_rows, grid_cols, spacing, row, curves_x, curves_y):
    cell_i = min(int(row / (2.0 * spacing)), (grid_rows - 3) // 2)
    v = row / spacing - 2.0 * cell_i
    cells = (grid_cols - 1) // 2
    _along_row(grid_x, grid_cols, cell_i, v, cells, curves_x)
    _along_row(grid_y, grid_cols, cell_i, v, cells, curves_y)


@_inline
def _wrapped(x, width, period):
    if period > 0.0:
        if x < 0.0:
            return x + period
        if x >= width:
            return x - period
    return x


@_inline
def _bilinear_cell(source, height, width, x_curve, y_curve, spacing, period, start, end, line, out):
    """Fill the missing pixels of one row of a lattice's cell; the usual case, of four valid pixels, first.

    What it computes is `_bilinear`, in the same order.
    """
    a_0, a_1, a_2 = x_curve
    b_0, b_1, b_2 = y_curve
    exact = spacing & (spacing - 1) == 0  # then the product is the quotient to the last bit
    inverse = 1.0 / spacing
    last_x = width - 1.0
    last_y = height - 1.0
    for col in range(start, end):
        known = out[line + col]
        if known == known:
            continue
        u = (col + 0.5 - start) * inverse if exact else (col + 0.5 - start) / spacing
        x = a_0 + u * (a_1 + u * a_2)
        y = b_0 + u * (b_1 + u * b_2)
        near_x = x - 0.5
        near_y = y - 0.5
        if near_x >= 0.0 and near_y >= 0.0 and near_x < last_x and near_y < last_y:
            j = int(near_x)
            i = int(near_y)
            fx = near_x - j
            fy = near_y - i
            at = i * width + j
            top = source[at] * (1.0 - fx) + source[at + 1] * fx
            bottom = source[at + width] * (1.0 - fx) + source[at + width + 1] * fx
            value = top * (1.0 - fy) + bottom * fy
            if value == value:
                out[line + col] = value
                continue
        x = _wrapped(x, width, period)
        if x >= -EDGE and x < width + EDGE and y >= -EDGE and y < height + EDGE:
            out[line + col] = _bilinear(source, height, width, x, y)


def sample(
    source, height, width, grid_x, grid_y, grid_rows, grid_cols, spacing, kernel, period,
    out, out_stride, cols, first, last, x_curves, y_curves, x_below, y_below,
):  # fmt: skip
    """Fill the missing pixels of rows `first` to `last` of `out` from `source` at a lattice's coordinates."""
    cells = (grid_cols - 1) // 2
    for row in range(first, last):
        line = row * out_stride
        _row_curves(
            grid_x, grid_y, grid_rows, grid_cols, spacing, row + 0.5 if kernel != 4 else float(row),
            x_curves, y_curves,
        )  # fmt: skip
        if kernel == 4:
            _row_curves(grid_x, grid_y, grid_rows, grid_cols, spacing, row + 1.0, x_below, y_below)
        for cell in range(cells):
            start = cell * 2 * spacing
            a_0, a_1, a_2 = x_curves[3 * cell], x_curves[3 * cell + 1], x_curves[3 * cell + 2]
            b_0, b_1, b_2 = y_curves[3 * cell], y_curves[3 * cell + 1], y_curves[3 * cell + 2]
            end = min(start + 2 * spacing, cols)
            if kernel == 1:
                curves = ((a_0, a_1, a_2), (b_0, b_1, b_2))
                _bilinear_cell(source, height, width, *curves, spacing, period, start, end, line, out)
                continue
            for col in range(start, end):
                known = out[line + col]
                if known == known:
                    continue
                u = (col + 0.5 - start) / spacing
                if kernel == 4:
                    u = (col - start) / spacing
                    w = (col + 1.0 - start) / spacing
                    x_0 = a_0 + u * (a_1 + u * a_2)
                    y_0 = b_0 + u * (b_1 + u * b_2)
                    x_1 = x_below[3 * cell] + w * (x_below[3 * cell + 1] + w * x_below[3 * cell + 2])
                    y_1 = y_below[3 * cell] + w * (y_below[3 * cell + 1] + w * y_below[3 * cell + 2])
                    shift = 0.0
                    if max(x_0, x_1) <= 0.0:
                        shift = period
                    elif min(x_0, x_1) >= width:
                        shift = -period
                    out[line + col] = _mean(source, height, width, x_0 + shift, y_0, x_1 + shift, y_1)
                    continue
                x = _wrapped(a_0 + u * (a_1 + u * a_2), width, period)
                y = b_0 + u * (b_1 + u * b_2)
                if not (x >= -EDGE and x < width + EDGE and y >= -EDGE and y < height + EDGE):
                    continue
                if kernel == 0:
                    out[line + col] = source[_pixel(y, height) * width + _pixel(x, width)]
                elif kernel == 2:
                    out[line + col] = _cubic(source, height, width, x, y)
                else:
                    out[line + col] = _spline(source, height, width, x, y)


def halve(heights, rows, cols, out):
    """Fill `out`, (rows / 2, cols / 2), with the mean of the valid pixels of each 2 x 2 square."""
    for i in range(rows // 2):
        above = 2 * i * cols
        for j in range(cols // 2):
            at = above + 2 * j
            a, b = float(heights[at]), float(heights[at + 1])
            c, d = float(heights[at + cols]), float(heights[at + cols + 1])
            mean = (a + b + c + d) * 0.25
            if mean != mean:
                total = 0.0
                count = 0
                for value in (a, b, c, d):
                    if value == value:
                        total += value
                        count += 1
                mean = total / count if count > 0 else math.nan
            out[i * (cols // 2) + j] = mean


def encode(heights, stride, rows, cols, units, channels, out):
    """Fill `out`, (rows, cols, channels), with Terrarium pixels; return how many heights are missing.

    With 3 channels there is no pixel for a missing one: the first ends it, with 1.
    """
    missing = 0
    scale = 256.0 / units
    low = float(-32768 * 256 // units)
    high = float((32768 * 256 - 1) // units)
    for row in range(rows):
        for col in range(cols):
            height = heights[row * stride + col]
            alpha = 255
            code = 0
            if height != height:
                missing += 1
                alpha = 0
                if channels == 3:
                    return missing
            else:
                code = int(min(max(height * scale, low), high) + _ROUNDING - _ROUNDING) * units
            code += 32768 * 256
            at = (row * cols + col) * channels
            out[at] = code >> 16
            out[at + 1] = (code >> 8) & 255
            out[at + 2] = code & 255
            if channels == 4:
                out[at + 3] = alpha
    return missing


def distance(valid, rows, cols, top, left, height, width, above, column, sites, breaks, out):
    """Fill `out`, (height, width), with each window pixel's distance in pixels to the nearest invalid one.

    The window starts at (`top`, `left`) of `valid`, (rows, cols), 0 where invalid;
    infinite where there is no invalid pixel. `above` holds (cols,) numbers, `column`
    (height, cols), `sites` and `breaks` (cols + 1,). Source: Felzenszwalb and
    Huttenlocher, "Distance transforms of sampled functions".
    """
    far = math.inf
    for col in range(cols):
        above[col] = -far
    for row in range(min(rows, top + height)):
        for col in range(cols):
            if valid[row * cols + col] == 0:
                above[col] = row
            if row >= top:
                column[(row - top) * cols + col] = row - above[col]
    for col in range(cols):
        above[col] = far
    for row in range(rows - 1, top - 1, -1):
        for col in range(cols):
            if valid[row * cols + col] == 0:
                above[col] = row
            if row < top + height:
                at = (row - top) * cols + col
                column[at] = min(column[at], above[col] - row)
    for row in range(height):
        line = row * cols
        last = -1
        for col in range(cols):
            if column[line + col] == far:
                continue
            f = column[line + col] * column[line + col] + float(col) * col
            start = -far
            while last >= 0:
                site = int(sites[last])
                g = column[line + site] * column[line + site] + float(site) * site
                start = (f - g) / (2.0 * (col - site))
                if start > breaks[last]:
                    break
                last -= 1
                start = -far
            last += 1
            sites[last] = col
            breaks[last] = start
        breaks[last + 1] = far
        at = 0
        for col in range(left, left + width):
            if last < 0:
                out[row * width + col - left] = far
                continue
            while breaks[at + 1] < col:
                at += 1
            site = int(sites[at])
            across = float(col - site)
            down = column[line + site]
            out[row * width + col - left] = math.sqrt(across * across + down * down)


def decode(pixels, count, channels, out):
    """Fill `out`, `count` heights, from Terrarium pixels; return how many are missing."""
    missing = 0
    for index in range(count):
        at = index * channels
        code = (int(pixels[at]) << 16) | (int(pixels[at + 1]) << 8) | int(pixels[at + 2])
        if channels == 4 and pixels[at + 3] == 0:
            missing += 1
            out[index] = math.nan
        else:
            out[index] = code * 0.00390625 - 32768.0
    return missing


_window = (_f32, _int, _int)
_lattice = (_f64, _f64, _int, _int, _int)
SIGNATURES = {
    "sample": types.void(
        *_window, *_lattice, _int, types.float64, *_window, _int, _int, _f64, _f64, _f64, _f64
    ),
    "halve": types.void(*_window, _f32),
    "encode": types.int64(*_window, _int, _int, _int, _u8),
    "distance": types.void(_u8, *(_int,) * 6, _f64, _f64, _f64, _f64, _f64),
    "decode": types.int64(_u8, _int, _int, _f32),
}
"""What `native` compiles, with the types of its arguments."""
