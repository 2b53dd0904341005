"""The colour cache: a residual that was seen lately is one symbol instead of four.

Its places are found by a hash, whose multiplier the format sets. Source: RFC 9649, section 3.6.2.3.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import INT, U8, U16, U32, VOID, inline
from fusi_pipeline.tiles.vp8l_alphabets import CACHE, COVERED, LITERALS

HASH = 0x1E35A7BD
"""The multiplier of the hash."""


@inline
def hashed(color, bits):
    """Return the first `bits` of a colour's hash."""
    return ((color * HASH) & 0xFFFFFFFF) >> (32 - bits)


def cached(residuals, rows, cols, bits, zero, cache_bits, cache, out):
    """Put entries of a colour cache in place of literals in `out`, and literals in place of other entries.

    Section 3.6.2.3. `residuals` and `out` hold rows * cols numbers, `zero` one for each block of 1 << `bits`
    pixels a side, whose symbols mean nothing where it is set; `cache` 1 << `cache_bits` colours, and with
    0 bits there is no cache. What a copy covers is the colour before it, which the cache has.
    """
    across = (cols + (1 << bits) - 1) >> bits
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
                    slot = hashed(value, cache_bits)
                    if cache[slot] == value:
                        out[i] = CACHE + slot
                        continue
                    cache[slot] = value
                out[i] = (value >> 8) & 255


SIGNATURES = {
    "cached": VOID(U32, INT, INT, INT, U8, INT, U32, U16),
}
"""What `native` compiles, with the types of its arguments."""
