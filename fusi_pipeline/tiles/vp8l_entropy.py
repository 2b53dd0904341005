"""What symbols cost, in whole numbers: a choice that rests on it is the same on every machine."""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from fusi_pipeline.tiles.kernel_types import inline


@inline
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
