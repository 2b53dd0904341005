"""LZ77 backward references: copies of pixels on the left or above.

The distances used are the codes 1 to 4, of neighbours; others gain nothing on terrain.
Source: RFC 9649, section 3.6.2.2.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import INT, U8, U16, U32, VOID, inline
from fusi_pipeline.tiles.vp8l_alphabets import COVERED, LITERALS

LONGEST_COPY = 4096
SHORTEST_COPY = 8
"""Of a copy among residuals with a colour cache, in which a repeated one is cheap."""
_SHORTEST_REPEAT = 3
_FROM_ABOVE, _FROM_LEFT, _FROM_TOP_LEFT, _FROM_TOP_RIGHT = 0, 1, 2, 3
"""Prefix symbols of the distances 1 to 4, which are codes of these neighbours (section 3.6.2.2.1)."""


@inline
def prefix(value):
    """Return the prefix symbol of a length or distance of at least 1, and its number of extra bits."""
    if value <= 4:
        return value - 1, 0
    rest = value - 1
    top = 2
    while rest >> (top + 1):
        top += 1
    return 2 * top + ((rest >> (top - 1)) & 1), top - 1


@inline
def _copy_length(residuals, i, count, before, zero, across, cols, bits):
    """Return the length of the copy that pays at pixel `i`, behind `before`; 0 where none does."""
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

    `residuals` and `out` hold rows * cols numbers, `zero` one for each block of 1 << `bits` pixels a side.
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


@inline
def _repeated(image, i, count, distance):
    """Return how many pixels from `i` on are those at a distance before them."""
    if i < distance:
        return 0
    limit = min(count, i + LONGEST_COPY)
    end = i
    while end < limit and image[end] == image[end - distance]:
        end += 1
    return end - i


@inline
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
    """Fill `out` with literals and copies, and `values` with colours and, of copies, what `copies` leaves.

    `image`, `values` and `out` hold rows * cols numbers. At each pixel the longest copy of what lies on
    its left or above is taken, from 3 px on; where `diagonal` is set, also of what lies above on the left
    or right.
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


SIGNATURES = {
    "copies": VOID(U32, INT, INT, INT, U8, U16),
    "repeats": VOID(U32, INT, INT, INT, U32, U16),
}
"""What `native` compiles, with the types of its arguments."""
