"""Entropy-coded image data: the symbols of an image, each in the codes of its block.

Source: RFC 9649, section 3.7.2.3.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import I64, INT, U8, U16, U32, VOID
from fusi_pipeline.tiles.vp8l_alphabets import ALPHA, BLUE, CACHE, COVERED, DISTANCE, GROUP, LITERALS, RED
from fusi_pipeline.tiles.vp8l_backward_references import prefix


def data(state, out, residuals, symbol, rows, cols, bits, zero, groups, table):
    """Write the symbols of an image, each in the codes of its block's group.

    `residuals` and `symbol` hold rows * cols numbers, as `copies` and `cached` or `repeats` leave them,
    `zero` and `groups` one for each block of 1 << `bits` pixels a side, `table` what `codes` leaves.
    Blocks where `zero` is set take no bits: their codes have one symbol.
    """
    across = (cols + (1 << bits) - 1) >> bits
    held, size, place = state[0], state[1], state[2]
    for row in range(rows):
        for block_col in range(across):
            block = (row >> bits) * across + block_col
            if zero[block]:
                continue
            at = groups[block] * GROUP
            first = row * cols + (block_col << bits)
            for i in range(first, row * cols + min((block_col + 1) << bits, cols)):
                one = int64(symbol[i])
                if one == COVERED:
                    continue
                code = int64(table[at + one])
                held |= (code & 0xFFFF) << size
                size += code >> 16
                if one < LITERALS:
                    value = int64(residuals[i])
                    code = int64(table[at + RED + ((value >> 16) & 255)])
                    held |= (code & 0xFFFF) << size
                    size += code >> 16
                    if size >= 32:
                        out[place] = held & 0xFFFFFFFF
                        place += 1
                        held >>= 32
                        size -= 32
                    code = int64(table[at + BLUE + (value & 255)])
                    held |= (code & 0xFFFF) << size
                    size += code >> 16
                    code = int64(table[at + ALPHA + (value >> 24)])
                    held |= (code & 0xFFFF) << size
                    size += code >> 16
                elif one < CACHE:
                    length = int64(residuals[i]) & 0xFFFF
                    extra = prefix(length)[1]
                    held |= ((length - 1) & ((1 << extra) - 1)) << size
                    size += extra
                    code = int64(table[at + DISTANCE + (int64(residuals[i]) >> 16)])
                    held |= (code & 0xFFFF) << size
                    size += code >> 16
                if size >= 32:
                    out[place] = held & 0xFFFFFFFF
                    place += 1
                    held >>= 32
                    size -= 32
    state[0], state[1], state[2] = held, size, place


SIGNATURES = {
    "data": VOID(I64, U32, U32, U16, INT, INT, INT, U8, U8, U32),
}
"""What `native` compiles, with the types of its arguments."""
