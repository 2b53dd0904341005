"""The inner loops of the VP8L encoder from residuals to groups of codes.

Residuals become symbols: literals, entries of the colour cache, and copies of
the pixel on the left. Blocks of like content share a group of prefix codes.
Written for numba like `kernels`, which says how. Source: RFC 9649, sections 5 and 6.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64, njit, types

from fusi_pipeline.tiles.vp8l_colors import HASH
from fusi_pipeline.tiles.vp8l_prediction import log2_fixed

LITERALS = 256
LENGTHS = 24
"""Prefix symbols of the lengths of copies; they follow the literals."""
CACHE = LITERALS + LENGTHS
"""Entries of the colour cache follow the lengths."""
GREENS = CACHE + 2048
RED = GREENS
BLUE = RED + 256
ALPHA = BLUE + 256
DISTANCE = ALPHA + 256
GROUP = DISTANCE + 40
"""Numbers of a group of five codes in one row: green with lengths and cache, red, blue, alpha, distance."""
LANES = 8
"""The most groups of codes; costs of all groups lie side by side."""
COVERED = 0xFFFF
"""In place of the symbol of a pixel that a copy covers."""
LONGEST_COPY = 4096
SHORTEST_COPY = 8
"""Of a copy among residuals with a colour cache, in which a repeated one is cheap."""
_SHORTEST_REPEAT = 3
_FROM_ABOVE, _FROM_LEFT, _FROM_TOP_LEFT, _FROM_TOP_RIGHT = 0, 1, 2, 3
"""Prefix symbols of the distances 1 to 4, which are codes of these neighbours (RFC 9649, section 5.2.2)."""
_RARE = 12 << 4
"""What a symbol that a group has not seen costs at least, in 1/16 bit; an empty group must not be cheap."""
_UNSEEN = 3 << 4
"""What a symbol that a group has not seen costs more than one that it has seen once, in 1/16 bit."""

_u8 = types.CPointer(types.uint8)
_u16 = types.CPointer(types.uint16)
_u32 = types.CPointer(types.uint32)
_int = types.int64
_inline = njit(nogil=True, error_model="numpy")


@_inline
def prefix(value):
    """Return the prefix symbol of a length or distance of at least 1, and its number of extra bits."""
    if value <= 4:
        return value - 1, 0
    rest = value - 1
    top = 2
    while rest >> (top + 1):
        top += 1
    return 2 * top + ((rest >> (top - 1)) & 1), top - 1


@_inline
def _copy_length(residuals, i, count, before, zero, across, cols, bits):
    """Length of the copy that pays at pixel `i`, whose left neighbour is `before`; 0 where none does."""
    end = min(count, i + SHORTEST_COPY)
    if end - i < SHORTEST_COPY:
        return 0
    for j in range(i + 1, end):
        if residuals[j] != before:
            return 0
    if zero[((end - 1) // cols >> bits) * across + ((end - 1) % cols >> bits)]:
        return 0  # a block of nothing but 0 costs nothing anyway
    limit = min(count, i + LONGEST_COPY)
    while end < limit and residuals[end] == before:
        end += 1
    return end - i


def copies(residuals, rows, cols, bits, zero, out):
    """Fill `out` with the symbols of copies of the pixel on the left, and with literals elsewhere.

    A copy leaves its distance symbol << 16 | length in place of its first residual, and COVERED
    in place of the symbols behind it. Symbols in blocks where `zero` is set mean nothing.
    """
    count = rows * cols
    across = (cols + (1 << bits) - 1) >> bits
    before = -1
    covered = 0
    for row in range(rows):
        for block_col in range(across):
            first = row * cols + (block_col << bits)
            end = row * cols + min((block_col + 1) << bits, cols)
            if zero[(row >> bits) * across + block_col]:
                before = 0
                continue
            for i in range(max(first, covered), end):
                if i < covered:
                    continue
                value = int64(residuals[i])
                if value == before:
                    length = _copy_length(residuals, i, count, before, zero, across, cols, bits)
                    if length:
                        out[i] = LITERALS + prefix(length)[0]
                        residuals[i] = (_FROM_LEFT << 16) | length
                        covered = i + length
                        for j in range(i + 1, covered):
                            out[j] = COVERED
                        continue
                before = value
                out[i] = (value >> 8) & 255


def cached(residuals, rows, cols, bits, zero, cache_bits, cache, out):
    """Put entries of a colour cache in place of literals in `out`, and literals in place of other entries.

    `cache` holds 1 << `cache_bits` colours. What a copy covers is the colour before it, which the cache has.
    """
    across = (cols + (1 << bits) - 1) >> bits
    shift = 32 - cache_bits
    for i in range(1 << cache_bits):
        cache[i] = 0
    for row in range(rows):
        for block_col in range(across):
            if zero[(row >> bits) * across + block_col]:
                cache[0] = 0
                continue
            first = row * cols + (block_col << bits)
            for i in range(first, row * cols + min((block_col + 1) << bits, cols)):
                one = int64(out[i])
                if one == COVERED or LITERALS <= one < CACHE:
                    continue
                value = int64(residuals[i])
                if cache_bits:
                    slot = ((value * HASH) & 0xFFFFFFFF) >> shift
                    if cache[slot] == value:
                        out[i] = CACHE + slot
                        continue
                    cache[slot] = value
                out[i] = (value >> 8) & 255


@_inline
def _repeated(image, i, count, distance):
    """How many pixels from `i` on are those at a distance before them."""
    if i < distance:
        return 0
    limit = min(count, i + LONGEST_COPY)
    end = i
    while end < limit and image[end] == image[end - distance]:
        end += 1
    return end - i


@_inline
def _best_copy(image, i, count, cols, diagonal):
    """Return the length of the longest copy at pixel `i` from one of its neighbours, and which of them."""
    best, source = _repeated(image, i, count, cols), _FROM_ABOVE
    if best < LONGEST_COPY:
        length = _repeated(image, i, count, 1)
        if length > best:
            best, source = length, _FROM_LEFT
    if diagonal and best < LONGEST_COPY:
        length = _repeated(image, i, count, cols + 1)
        if length > best:
            best, source = length, _FROM_TOP_LEFT
        length = _repeated(image, i, count, max(cols - 1, 1))
        if length > best:
            best, source = length, _FROM_TOP_RIGHT
    return best, source


def repeats(image, rows, cols, diagonal, values, out):
    """Fill `out` with symbols, without a cache, and `values` with what goes with them, as `symbols` does.

    At each pixel the longest copy of what lies on its left or above is taken, from 3 px on; where
    `diagonal` is set, also of what lies above on the left or right.
    """
    count = rows * cols
    i = 0
    while i < count:
        length, source = _best_copy(image, i, count, cols, diagonal)
        if length < _SHORTEST_REPEAT:
            values[i] = image[i]
            out[i] = (int64(image[i]) >> 8) & 255
            i += 1
            continue
        values[i] = (source << 16) | length
        out[i] = LITERALS + prefix(length)[0]
        for j in range(i + 1, i + length):
            out[j] = COVERED
        i += length


@_inline
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


@_inline
def histograms(residuals, symbol, rows, cols, bits, zero, groups, group_count, histogram):
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


@_inline
def _part_costs(histogram, at, part, end, lane, costs):
    """Costs of one code's symbols in 1/16 bit, by their share of all."""
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


@_inline
def _costs(histogram, first, group_count, greens, costs):
    for lane in range(LANES):
        if lane < first or lane >= group_count:
            for part, end in ((0, greens), (RED, BLUE), (BLUE, ALPHA), (ALPHA, DISTANCE)):
                for i in range(part, end):
                    costs[i * LANES + lane] = 1000
            continue
        at = lane * GROUP
        for part, end in ((0, greens), (RED, BLUE), (BLUE, ALPHA), (ALPHA, DISTANCE)):
            _part_costs(histogram, at, part, end, lane, costs)


@_inline
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


_SWITCH = 40
"""What a group other than that of the block on the left costs in the entropy image, in 1/16 bit."""


@_inline
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


@_inline
def _spread_by_cost(
    residuals, symbol, rows, cols, bits, zero, first, group_count, costs, sums, groups, order
):
    """Give blocks groups by what they cost with the one code for all: as many cheap ones as dear ones."""
    across = (cols + (1 << bits) - 1) >> bits
    for i in range(4096):
        order[i] = 0
    blocks = 0
    for block_row in range((rows + (1 << bits) - 1) >> bits):
        for block_col in range(across):
            block = block_row * across + block_col
            if zero[block]:
                continue
            _block_sums(residuals, symbol, rows, cols, bits, block_row, block_col, 2, costs, sums)
            cost = min(int64(sums[first]) >> 3, 4095)
            order[4096 + block] = cost
            order[cost] += 1
            blocks += 1
    seen = 0
    for i in range(4096):
        here = int64(order[i])
        order[i] = first + (seen + here // 2) * (group_count - first) // max(blocks, 1)
        seen += here
    for block in range(((rows + (1 << bits) - 1) >> bits) * across):
        if not zero[block]:
            groups[block] = order[order[4096 + block]]


@_inline
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
    group that suits them best. `greens` is the size of the green alphabet. `costs`
    holds GROUP * LANES numbers, `sums` LANES, `order` 4096 and one for each block.
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
    histograms(residuals, symbol, rows, cols, bits, zero, groups, count, histogram)
    if wanted < 2 or busy < 4 * wanted:
        return count
    _costs(histogram, first, count, greens, costs)
    count = first + wanted
    _spread_by_cost(residuals, symbol, rows, cols, bits, zero, first, count, costs, sums, groups, order)
    for _ in range(rounds):
        histograms(residuals, symbol, rows, cols, bits, zero, groups, count, histogram)
        _costs(histogram, first, count, greens, costs)
        _assign(residuals, symbol, rows, cols, bits, zero, 1, first, count, costs, sums, groups)
    count = _renumber(groups, blocks, count, order)
    histograms(residuals, symbol, rows, cols, bits, zero, groups, count, histogram)
    return count


SIGNATURES = {
    "copies": types.void(_u32, _int, _int, _int, _u8, _u16),
    "cached": types.void(_u32, _int, _int, _int, _u8, _int, _u32, _u16),
    "repeats": types.void(_u32, _int, _int, _int, _u32, _u16),
    "cluster": _int(_u32, _u16, _int, _int, _int, _u8, _int, _int, _int, _u32, _u16, _u32, _u32, _u8),
}
"""What `native` compiles, with the types of its arguments."""
