"""Bits of a VP8L stream: the first one written is the lowest one of the first byte.

The state is three numbers: bits not written yet, how many, and the next place in `out`, which
holds 32 bits a place. Source: RFC 9649, section 3.2.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from fusi_pipeline.tiles.kernel_types import I64, INT, U32, VOID, inline


@inline
def put_bits(state, out, value, bits):
    """Write a number of up to 30 bits."""
    state[0] |= value << state[1]
    state[1] += bits
    if state[1] >= 32:
        out[state[2]] = state[0] & 0xFFFFFFFF
        state[2] += 1
        state[0] >>= 32
        state[1] -= 32


def put(state, out, value, bits):
    """Write a number of up to 30 bits, from Python."""
    put_bits(state, out, value, bits)


def finish(state, out):
    """Write what is left of the bits; return how many bytes there are in all."""
    size = 4 * state[2] + ((state[1] + 7) >> 3)
    out[state[2]] = state[0] & 0xFFFFFFFF
    return size


SIGNATURES = {
    "put": VOID(I64, U32, INT, INT),
    "finish": INT(I64, U32),
}
"""What `native` compiles, with the types of its arguments."""
