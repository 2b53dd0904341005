"""Which predictor each block of pixels has: the one whose residuals will take the fewest bits.

A residual costs what its symbol will cost, not its size: residuals of a few rows are counted, by
hash, and their entropy is the table for the choice. Source of the transform: RFC 9649, section 3.5.1.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import INT, U8, U16, U32, VOID, inline
from fusi_pipeline.tiles.vp8l_color_cache import hashed
from fusi_pipeline.tiles.vp8l_entropy import log2_fixed
from fusi_pipeline.tiles.vp8l_predictor import gradient, prediction, residual, spread, without

TABLE_BITS = 12
"""Residuals are counted by so many first bits of their hash, in buckets."""
_ANY = 1 << 60
"""More than a block can cost."""
_CHANGE = 48
"""What a mode other than the block's on the left costs in the image of modes, in 1/16 bit."""


@inline
def _bucket(residual):
    """Return where a residual is counted; rare ones may share the place of others."""
    return hashed(residual, TABLE_BITS)


@inline
def _samples(rows, step):
    """How many rows are looked at, every `step`th; numba's ranges of any step can raise errors."""
    return (rows - (step // 2 + 1) + step - 1) // step if rows > step // 2 + 1 else 0


@inline
def _count_sampled(image, rows, cols, step, crossed, counts):
    """Count residuals of left, top and gradient on every `step`th row; where `crossed` of the corner too."""
    for sample in range(_samples(rows, step)):
        row = step // 2 + 1 + sample * step
        line = row * cols
        corner = spread(int64(image[line - cols]))
        left = spread(int64(image[line]))
        for col in range(1, cols):
            top = spread(int64(image[line - cols + col]))
            pixel = spread(int64(image[line + col]))
            counts[_bucket(without(pixel, left))] += 1
            counts[_bucket(without(pixel, top))] += 1
            counts[_bucket(without(pixel, gradient(left, top, corner)))] += 2
            if crossed:
                counts[_bucket(without(pixel, corner))] += 4
            corner = top
            left = pixel


@inline
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

    @inline
    def cost(image, cols, first_row, end_row, step, first_col, end_col, costs, most):
        total = 0
        for sample in range((end_row - first_row + step - 1) // step):
            row = first_row + sample * step
            line = row * cols
            above = line - cols
            corner = spread(int64(image[above + first_col - 1]))
            left = spread(int64(image[line + first_col - 1]))
            top = spread(int64(image[above + first_col]))
            for col in range(first_col, end_col):
                right = spread(int64(image[above + col + 1]))
                pixel = spread(int64(image[line + col]))
                total += costs[_bucket(without(pixel, prediction(mode, left, top, right, corner)))]
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


@inline
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


@inline
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


@inline
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


@inline
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
                counts[_bucket(residual(image, i, cols, mode))] += 1


def predictors(image, rows, cols, bits, more, effort, counts, costs, modes, zero):
    """Fill `modes` with the predictor of each block, and `zero` with which blocks are flat.

    Residuals are counted on a few rows, whose entropy is what later residuals are taken to cost; then
    blocks choose the cheapest mode, twice where `effort` is 1. `more` of 1 adds averages, which suit whole
    numbers without a fraction, of 2 the corner. `image` holds rows * cols colours, `modes` and `zero` a
    number for each block of 1 << `bits` pixels a side, `counts` and `costs` one for each bucket.
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


SIGNATURES = {
    "predictors": VOID(U32, INT, INT, INT, INT, INT, U32, U16, U8, U8),
}
"""What `native` compiles, with the types of its arguments."""
