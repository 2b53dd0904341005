"""The inner loops of the VP8L encoder that predict pixels and choose how.

Written for numba like `kernels`, which says how. A pixel is one number, as
`vp8l_colors` has it. Within a formula its four channels
lie 16 bits apart, "spread", so that one operation does for all of them.
Source: RFC 9649, "WebP Image Format", section 4.1.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64, njit, types

from fusi_pipeline.tiles.vp8l_colors import HASH

TABLE_BITS = 12
"""Residuals are counted by the first bits of their hash."""
_ONE = 0x0001000100010001
_LOW = 0x00FF00FF00FF00FF
_BIAS = 0x0100010001000100
_BLACK = 0x00FF000000000000
"""Opaque black, spread: what the first pixel is predicted to be."""

_u8 = types.CPointer(types.uint8)
_u16 = types.CPointer(types.uint16)
_u32 = types.CPointer(types.uint32)
_int = types.int64
_inline = njit(nogil=True, error_model="numpy")


@_inline
def _spread(color):
    return (color & 0x00FF00FF) | ((color & 0xFF00FF00) << 24)


@_inline
def _joined(spread):
    return (spread & 0x00FF00FF) | ((spread >> 24) & 0xFF00FF00)


@_inline
def _difference(pixel, prediction):
    return _joined((pixel + _BIAS - prediction) & _LOW)


@_inline
def _average(a, b):
    return ((a + b) >> 1) & _LOW


@_inline
def _clamped(biased):
    """Limit channels to 0..255; each is given with 256 added to it."""
    over = (biased >> 9) & _ONE
    inside = (biased >> 8) & _ONE
    return (biased & ((inside << 8) - inside)) | ((over << 8) - over)


@_inline
def _half_gradient(left, top, corner):
    """ClampAddSubtractHalf of the average: a + (a - corner) / 2, the quotient rounded towards 0."""
    mean = _average(left, top)
    biased = mean + _BIAS - corner
    negative = ((biased >> 8) & _ONE) ^ _ONE
    return _clamped(mean + (((biased + negative) >> 1) & 0x01FF01FF01FF01FF) + (_BIAS >> 1))


@_inline
def _distance(a, b):
    """Sum over the channels of how far two colours are apart."""
    biased = a + _BIAS - b
    above = (biased >> 8) & _ONE
    below = _ONE - above
    each = ((biased & _LOW) ^ ((below << 8) - below)) + below
    each += each >> 32
    return (each + (each >> 16)) & 0xFFFF


@_inline
def _select(left, top, corner):
    return left if _distance(top, corner) < _distance(left, corner) else top


@_inline
def _prediction(mode, left, top, right, corner):
    """Return what a mode predicts from the left, top, top right and top left neighbours of a pixel."""
    if mode == 12:
        return _clamped(left + top + _BIAS - corner)
    if mode == 11:
        return _select(left, top, corner)
    if mode == 1:
        return left
    if mode == 2:
        return top
    if mode == 3:
        return right
    if mode == 4:
        return corner
    if mode == 5:
        return _average(_average(left, right), top)
    if mode == 6:
        return _average(left, corner)
    if mode == 7:
        return _average(left, top)
    if mode == 8:
        return _average(corner, top)
    if mode == 9:
        return _average(top, right)
    if mode == 10:
        return _average(_average(left, corner), _average(top, right))
    if mode == 13:
        return _half_gradient(left, top, corner)
    return _BLACK


@_inline
def _bucket(residual):
    return ((residual * HASH) & 0xFFFFFFFF) >> (32 - TABLE_BITS)


@_inline
def _samples(rows, step):
    """How many rows are looked at, every `step`th; numba's ranges of any step can raise errors."""
    return (rows - (step // 2 + 1) + step - 1) // step if rows > step // 2 + 1 else 0


@_inline
def _count_sampled(image, rows, cols, step, crossed, counts):
    """Count residuals of left, top and gradient on every `step`th row; where `crossed` of the corner too."""
    for sample in range(_samples(rows, step)):
        row = step // 2 + 1 + sample * step
        line = row * cols
        corner = _spread(int64(image[line - cols]))
        left = _spread(int64(image[line]))
        for col in range(1, cols):
            top = _spread(int64(image[line - cols + col]))
            pixel = _spread(int64(image[line + col]))
            counts[_bucket(_difference(pixel, left))] += 1
            counts[_bucket(_difference(pixel, top))] += 1
            counts[_bucket(_difference(pixel, _clamped(left + top + _BIAS - corner)))] += 2
            if crossed:
                counts[_bucket(_difference(pixel, corner))] += 4
            corner = top
            left = pixel


@_inline
def log2_fixed(value):
    """Return the base 2 logarithm of a whole number of at least 1, in 1/256."""
    whole = 0
    scaled = value
    while scaled > 1:
        scaled >>= 1
        whole += 1
    mantissa = (value << 30) >> whole
    result = whole
    for _ in range(8):
        mantissa = (mantissa * mantissa) >> 30
        result <<= 1
        if mantissa >= 1 << 31:
            mantissa >>= 1
            result += 1
    return result


@_inline
def _count_costs(counts, costs):
    """Turn counts into what each bucket costs in 1/16 bit, and clear them."""
    total = 0
    for i in range(1 << TABLE_BITS):
        total += counts[i]
    whole = log2_fixed(4 * total + (4 << TABLE_BITS) // 4)
    last, cost = 0, (whole >> 4)
    for i in range(1 << TABLE_BITS):
        count = int64(counts[i])
        if count != last:
            last = count
            cost = (whole - log2_fixed(4 * count + 1)) >> 4
        elif count == 0:
            cost = whole >> 4
        costs[i] = cost
        counts[i] = 0


def _cost_with(mode):
    """Return the function that says what the residuals of a block cost with a mode, in 1/16 bit."""

    @_inline
    def cost(image, cols, first_row, end_row, step, first_col, end_col, costs, most):
        total = 0
        for sample in range((end_row - first_row + step - 1) // step):
            row = first_row + sample * step
            line = row * cols
            above = line - cols
            corner = _spread(int64(image[above + first_col - 1]))
            left = _spread(int64(image[line + first_col - 1]))
            top = _spread(int64(image[above + first_col]))
            for col in range(first_col, end_col):
                right = _spread(int64(image[above + col + 1]))
                pixel = _spread(int64(image[line + col]))
                total += costs[_bucket(_difference(pixel, _prediction(mode, left, top, right, corner)))]
                corner = top
                top = right
                left = pixel
            if total >= most:
                break
        return total

    return cost


_left_cost = _cost_with(1)
_top_cost = _cost_with(2)
_corner_cost = _cost_with(4)
_smooth_cost = _cost_with(5)
_mean_cost = _cost_with(7)
_select_cost = _cost_with(11)
_gradient_cost = _cost_with(12)
_half_cost = _cost_with(13)


@_inline
def _best_mode(image, cols, span, more, costs, before, floor):
    """Choose the mode of a block, given as rows, step and columns; `floor` is what no mode can go below."""
    mode, least = 12, _gradient_cost(image, cols, *span, costs, _ANY) + (_CHANGE if before != 12 else 0)
    cost = _left_cost(image, cols, *span, costs, least) + (_CHANGE if before != 1 else 0)
    if cost < least:
        mode, least = 1, cost
    if least <= floor:
        return mode
    cost = _top_cost(image, cols, *span, costs, least) + (_CHANGE if before != 2 else 0)
    if cost < least:
        mode, least = 2, cost
    if least <= floor:
        return mode
    cost = _select_cost(image, cols, *span, costs, least) + (_CHANGE if before != 11 else 0)
    if cost < least:
        mode, least = 11, cost
    if more > 1:
        cost = _corner_cost(image, cols, *span, costs, least) + (_CHANGE if before != 4 else 0)
        if cost < least:
            mode, least = 4, cost
    if more != 1 or least <= floor:
        return mode
    cost = _half_cost(image, cols, *span, costs, least) + (_CHANGE if before != 13 else 0)
    if cost < least:
        mode, least = 13, cost
    cost = _mean_cost(image, cols, *span, costs, least) + (_CHANGE if before != 7 else 0)
    if cost < least:
        mode, least = 7, cost
    cost = _smooth_cost(image, cols, *span, costs, least) + (_CHANGE if before != 5 else 0)
    return 5 if cost < least else mode


@_inline
def _choose(image, rows, cols, bits, step, more, costs, modes, zero):
    """Choose the mode of each block by what its residuals on every `step`th row cost."""
    side = 1 << bits
    across = (cols + side - 1) >> bits
    free = int64(costs[0])
    for block_row in range((rows + side - 1) >> bits):
        first_row = max(block_row << bits, 1)
        end_row = min((block_row + 1) << bits, rows)
        before = 12
        for block_col in range(across):
            first_col = max(block_col << bits, 1)
            end_col = min((block_col + 1) << bits, cols)
            sampled = (end_row - first_row + step - 1) // step * (end_col - first_col)
            at = block_row * across + block_col
            if zero[at] == 0:
                span = (first_row, end_row, step, first_col, end_col)
                before = _best_mode(image, cols, span, more, costs, before, sampled * free)
            elif before == 5:
                before = 12  # what lies top right of a flat block may be of another colour
            modes[at] = before


_FLAT = 2
"""Of a block in which no mode leaves a residual, while others are looked for."""
_ANY = 1 << 60
_CHANGE = 48
"""What a mode other than the block's on the left costs in the image of modes, in 1/16 bit."""


@_inline
def _flat(image, rows, cols, bits, zero):
    """Mark blocks of one colour that is also the colour left of them and above them."""
    side = 1 << bits
    across = (cols + side - 1) >> bits
    for block_row in range((rows + side - 1) >> bits):
        for block_col in range(across):
            color = int64(image[(block_row << bits) * cols + (block_col << bits)])
            same = 1
            row = max((block_row << bits) - 1, 0)
            first_col = max((block_col << bits) - 1, 0)
            end_col = min((block_col + 1) << bits, cols)
            while same and row < min((block_row + 1) << bits, rows):
                different = 0
                for col in range(first_col, end_col):
                    different |= int64(image[row * cols + col]) ^ color
                if different:
                    same = 0
                row += 1
            zero[block_row * across + block_col] = same


@_inline
def _count_chosen(image, rows, cols, bits, step, modes, zero, counts):
    """Count the residuals of every `step`th row, predicted by the modes chosen."""
    across = (cols + (1 << bits) - 1) >> bits
    for sample in range(_samples(rows, step)):
        row = step // 2 + 1 + sample * step
        line = row * cols
        for block_col in range(across):
            at = (row >> bits) * across + block_col
            if zero[at]:
                counts[0] += min((block_col + 1) << bits, cols) - (block_col << bits)
                continue
            mode = int64(modes[at])
            for col in range(max(block_col << bits, 1), min((block_col + 1) << bits, cols)):
                i = line + col
                counts[_bucket(_residual(image, i, cols, mode))] += 1


@_inline
def _residual(image, i, cols, mode):
    left = _spread(int64(image[i - 1]))
    top = _spread(int64(image[i - cols]))
    right = _spread(int64(image[i - cols + 1]))
    corner = _spread(int64(image[i - cols - 1]))
    return _difference(_spread(int64(image[i])), _prediction(mode, left, top, right, corner))


def predictors(image, rows, cols, bits, more, effort, counts, costs, modes, zero):
    """Fill `modes` with the predictor of each block of 1 << `bits` pixels, and `zero` with which are flat.

    Residuals are counted on a few rows, whose entropy is what later residuals
    are taken to cost; then blocks choose the cheapest mode, twice. `more` of 1 adds
    averages, which suit whole numbers without a fraction, of 2 the corner. `counts` and `costs` hold
    a number for each bucket.
    """
    for i in range(1 << TABLE_BITS):
        counts[i] = 0
    _flat(image, rows, cols, bits, zero)
    _count_sampled(image, rows, cols, 16, more > 1, counts)
    _count_costs(counts, costs)
    if effort > 0:
        _choose(image, rows, cols, bits, 4, more, costs, modes, zero)
        _count_chosen(image, rows, cols, bits, 4, modes, zero, counts)
        _count_costs(counts, costs)
    _choose(image, rows, cols, bits, 2 if effort > 0 else 4, more, costs, modes, zero)


def _residuals_with(mode):
    """Return the function that writes the residuals of one row of a block under a mode."""

    @_inline
    def residuals(image, line, cols, first_col, end_col, out):
        above = line - cols
        corner = _spread(int64(image[above + first_col - 1]))
        left = _spread(int64(image[line + first_col - 1]))
        top = _spread(int64(image[above + first_col]))
        seen = 0
        for col in range(first_col, end_col):
            right = _spread(int64(image[above + col + 1]))
            pixel = _spread(int64(image[line + col]))
            value = _difference(pixel, _prediction(mode, left, top, right, corner))
            out[line + col] = value
            seen |= value
            corner = top
            top = right
            left = pixel
        return seen

    return residuals


_left_residuals = _residuals_with(1)
_top_residuals = _residuals_with(2)
_select_residuals = _residuals_with(11)
_gradient_residuals = _residuals_with(12)


@_inline
def _row_residuals(image, line, cols, first_col, end_col, mode, out):
    if mode == 12:
        return _gradient_residuals(image, line, cols, first_col, end_col, out)
    if mode == 11:
        return _select_residuals(image, line, cols, first_col, end_col, out)
    if mode == 1:
        return _left_residuals(image, line, cols, first_col, end_col, out)
    if mode == 2:
        return _top_residuals(image, line, cols, first_col, end_col, out)
    seen = 0
    for col in range(first_col, end_col):
        value = _residual(image, line + col, cols, mode)
        out[line + col] = value
        seen |= value
    return seen


def residuals(image, rows, cols, bits, modes, zero, out):
    """Fill `out` with the residuals of an image, and `zero` with which blocks have none but 0.

    Blocks where `zero` is set already, as `predictors` left it, have none whatever their mode.
    Of the first row each pixel is predicted by the one on its left, of the first
    column by the one above it, whatever the mode (RFC 9649, section 4.1).
    """
    across = (cols + (1 << bits) - 1) >> bits
    blocks = ((rows + (1 << bits) - 1) >> bits) * across
    for i in range(blocks):
        zero[i] = _FLAT if zero[i] else 1
    out[0] = _difference(_spread(int64(image[0])), _BLACK)
    if out[0] != 0:
        zero[0] = 0
    for col in range(1, cols):
        out[col] = _difference(_spread(int64(image[col])), _spread(int64(image[col - 1])))
        if out[col] != 0:
            zero[col >> bits] = 0
    for row in range(1, rows):
        line = row * cols
        out[line] = _difference(_spread(int64(image[line])), _spread(int64(image[line - cols])))
        first = (row >> bits) * across
        if out[line] != 0:
            zero[first] = 0
        for block_col in range(across):
            first_col = max(block_col << bits, 1)
            end_col = min((block_col + 1) << bits, cols)
            if zero[first + block_col] == _FLAT:
                for i in range(line + first_col, line + end_col):
                    out[i] = 0
                continue
            mode = int64(modes[first + block_col])
            if _row_residuals(image, line, cols, first_col, end_col, mode, out) != 0:
                zero[first + block_col] = 0
    for i in range(blocks):
        zero[i] = 1 if zero[i] else 0


SIGNATURES = {
    "predictors": types.void(_u32, _int, _int, _int, _int, _int, _u32, _u16, _u8, _u8),
    "residuals": types.void(_u32, _int, _int, _int, _u8, _u8, _u32),
}
"""What `native` compiles, with the types of its arguments."""
