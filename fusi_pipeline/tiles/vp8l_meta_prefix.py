"""Meta prefix codes: blocks of like content share a group of prefix codes.

What the entropy image says of each block is chosen here. Source: RFC 9649, section 3.7.2.2.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import INT, U8, U16, U32, inline
from fusi_pipeline.tiles.vp8l_alphabets import (
    ALPHA,
    BLUE,
    CACHE,
    COVERED,
    DISTANCE,
    GROUP,
    LANES,
    LITERALS,
    RED,
)
from fusi_pipeline.tiles.vp8l_entropy import log2_fixed

_RARE = 12 << 4
"""What a symbol that a group has not seen costs at least, in 1/16 bit; an empty group must not be cheap."""
_UNSEEN = 3 << 4
"""What a symbol that a group has not seen costs more than one that it has seen once, in 1/16 bit."""
_SWITCH = 40
"""What a group other than that of the block on the left costs in the entropy image, in 1/16 bit."""
_COST_LEVELS = 4096
"""By so many levels of their costs blocks are first split."""


@inline
def _count(residuals, symbol, i, histogram, at):
    """Count one symbol, and what goes with it, in the group that starts at `at`."""
    histogram[at + symbol] += 1
    if symbol < LITERALS:
        value = int64(residuals[i])
        histogram[at + RED + ((value >> 16) & 255)] += 1
        histogram[at + BLUE + (value & 255)] += 1
        histogram[at + ALPHA + (value >> 24)] += 1
    elif symbol < CACHE:
        histogram[at + DISTANCE + (int64(residuals[i]) >> 16)] += 1


@inline
def _histograms(residuals, symbol, rows, cols, bits, zero, groups, group_count, histogram):
    """Count the symbols of each group; the group of `zero` blocks counts a single black one."""
    across = (cols + (1 << bits) - 1) >> bits
    for i in range(group_count * GROUP):
        histogram[i] = 0
    for row in range(rows):
        for block_col in range(across):
            block = (row >> bits) * across + block_col
            at = groups[block] * GROUP
            if zero[block]:
                continue
            first = row * cols + (block_col << bits)
            for i in range(first, row * cols + min((block_col + 1) << bits, cols)):
                one = int64(symbol[i])
                if one != COVERED:
                    _count(residuals, one, i, histogram, at)
    for block in range(((rows + (1 << bits) - 1) >> bits) * across):
        if zero[block]:
            at = groups[block] * GROUP
            for part in (0, RED, BLUE, ALPHA):
                histogram[at + part] = 1


@inline
def _part_costs(histogram, at, part, end, lane, costs):
    """Fill a lane of `costs` with what one code's symbols cost in 1/16 bit, by their share of all."""
    total = 0
    used = 0
    for i in range(part, end):
        if histogram[at + i] != 0:
            total += histogram[at + i]
            used += 1
    whole = log2_fixed(max(total, 1)) >> 4
    last, cost = 0, 0
    for i in range(part, end):
        count = int64(histogram[at + i])
        if count == 0:
            costs[i * LANES + lane] = max(whole + _UNSEEN, _RARE)
            continue
        if count != last:
            last = count
            cost = 0 if used == 1 else max(16, whole - (log2_fixed(count) >> 4))
        costs[i * LANES + lane] = cost


@inline
def _costs(histogram, first, group_count, greens, costs):
    """Fill `costs` with what each symbol costs in each group from `first` on, one lane a group."""
    for lane in range(LANES):
        if lane < first or lane >= group_count:
            for part, end in ((0, greens), (RED, BLUE), (BLUE, ALPHA), (ALPHA, DISTANCE)):
                for i in range(part, end):
                    costs[i * LANES + lane] = 1000
            continue
        at = lane * GROUP
        for part, end in ((0, greens), (RED, BLUE), (BLUE, ALPHA), (ALPHA, DISTANCE)):
            _part_costs(histogram, at, part, end, lane, costs)


@inline
def _block_sums(residuals, symbol, rows, cols, bits, block_row, block_col, step, costs, sums):
    """Sum up what a block's symbols cost in each group, on every `step`th row."""
    a = b = c = d = e = f = g = h = 0
    end_row = min((block_row + 1) << bits, rows)
    for sample in range((end_row - (block_row << bits) + step - 1) // step):
        row = (block_row << bits) + sample * step
        first = row * cols + (block_col << bits)
        for i in range(first, row * cols + min((block_col + 1) << bits, cols)):
            one = int64(symbol[i])
            if one == COVERED:
                continue
            at = one * LANES
            a += costs[at]
            b += costs[at + 1]
            c += costs[at + 2]
            d += costs[at + 3]
            e += costs[at + 4]
            f += costs[at + 5]
            g += costs[at + 6]
            h += costs[at + 7]
            if one < LITERALS:
                value = int64(residuals[i])
                for part in (
                    RED + ((value >> 16) & 255),
                    BLUE + (value & 255),
                    ALPHA + (value >> 24),
                ):
                    at = part * LANES
                    a += costs[at]
                    b += costs[at + 1]
                    c += costs[at + 2]
                    d += costs[at + 3]
                    e += costs[at + 4]
                    f += costs[at + 5]
                    g += costs[at + 6]
                    h += costs[at + 7]
    sums[0], sums[1], sums[2], sums[3] = a, b, c, d
    sums[4], sums[5], sums[6], sums[7] = e, f, g, h


@inline
def _assign(residuals, symbol, rows, cols, bits, zero, step, first, group_count, costs, sums, groups):
    """Give each block the group in which it is cheapest; return the bits of all, in 1/16."""
    across = (cols + (1 << bits) - 1) >> bits
    total = 0
    for block_row in range((rows + (1 << bits) - 1) >> bits):
        before = -1
        for block_col in range(across):
            block = block_row * across + block_col
            if zero[block]:
                continue
            _block_sums(residuals, symbol, rows, cols, bits, block_row, block_col, step, costs, sums)
            best, least = first, 1 << 60
            for lane in range(first, group_count):
                cost = int64(sums[lane]) + (_SWITCH if before >= 0 and lane != before else 0)
                if cost < least:
                    best, least = lane, cost
            groups[block] = best
            before = best
            total += least
    return total


@inline
def _spread_by_cost(
    residuals, symbol, rows, cols, bits, zero, first, group_count, costs, sums, groups, order
):
    """Give blocks groups by what they cost with the one code for all: as many cheap ones as dear ones."""
    across = (cols + (1 << bits) - 1) >> bits
    for i in range(_COST_LEVELS):
        order[i] = 0
    blocks = 0
    for block_row in range((rows + (1 << bits) - 1) >> bits):
        for block_col in range(across):
            block = block_row * across + block_col
            if zero[block]:
                continue
            _block_sums(residuals, symbol, rows, cols, bits, block_row, block_col, 2, costs, sums)
            cost = min(int64(sums[first]) >> 3, _COST_LEVELS - 1)
            order[_COST_LEVELS + block] = cost
            order[cost] += 1
            blocks += 1
    seen = 0
    for i in range(_COST_LEVELS):
        here = int64(order[i])
        order[i] = first + (seen + here // 2) * (group_count - first) // max(blocks, 1)
        seen += here
    for block in range(((rows + (1 << bits) - 1) >> bits) * across):
        if not zero[block]:
            groups[block] = order[order[_COST_LEVELS + block]]


@inline
def _renumber(groups, blocks, count, numbers):
    """Give groups that have blocks numbers without a gap; return how many there are."""
    for lane in range(count):
        numbers[lane] = 0
    for block in range(blocks):
        numbers[groups[block]] = 1
    used = 0
    for lane in range(count):
        here = numbers[lane]
        numbers[lane] = used
        used += here
    for block in range(blocks):
        groups[block] = numbers[groups[block]]
    return used


def cluster(
    residuals, symbol, rows, cols, bits, zero, greens, wanted, rounds,
    histogram, costs, sums, order, groups,
):  # fmt: skip
    """Fill `groups` with each block's group of codes, and `histogram` by group; return how many there are.

    Blocks where `zero` is set are group 0. The others are split by what they cost
    with one code for all, into `wanted` groups, and then go `rounds` times to the
    group that suits them best. `greens` is the size of the green alphabet. `residuals` and
    `symbol` hold rows * cols numbers, `zero` and `groups` one for each block of 1 << `bits`
    pixels a side, `histogram` and `costs` GROUP * LANES, `sums` LANES, `order` _COST_LEVELS
    and one for each block.
    """
    across = (cols + (1 << bits) - 1) >> bits
    blocks = ((rows + (1 << bits) - 1) >> bits) * across
    first = 0
    for block in range(blocks):
        if zero[block]:
            first = 1
    busy = 0
    for block in range(blocks):
        groups[block] = 0 if zero[block] else first
        busy += 1 - zero[block]
    count = first + (1 if busy else 0)
    _histograms(residuals, symbol, rows, cols, bits, zero, groups, count, histogram)
    if wanted < 2 or busy < 4 * wanted:
        return count
    _costs(histogram, first, count, greens, costs)
    count = first + wanted
    _spread_by_cost(residuals, symbol, rows, cols, bits, zero, first, count, costs, sums, groups, order)
    for _ in range(rounds):
        _histograms(residuals, symbol, rows, cols, bits, zero, groups, count, histogram)
        _costs(histogram, first, count, greens, costs)
        _assign(residuals, symbol, rows, cols, bits, zero, 1, first, count, costs, sums, groups)
    count = _renumber(groups, blocks, count, order)
    _histograms(residuals, symbol, rows, cols, bits, zero, groups, count, histogram)
    return count


SIGNATURES = {
    "cluster": INT(U32, U16, INT, INT, INT, U8, INT, INT, INT, U32, U16, U32, U32, U8),
}
"""What `native` compiles, with the types of its arguments."""
