"""Colours from pixels, and the colour indexing transform: indices into a palette instead of them.

A colour is one number, alpha << 24 | red << 16 | green << 8 | blue, as in all of the encoder.
Source: RFC 9649, section 3.5.4.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import INT, U8, U32, VOID
from fusi_pipeline.tiles.vp8l_color_cache import hashed

LARGEST_PALETTE = 256
_TABLE_BITS = 10
"""The hash table of colours has 1 << 10 places."""


def colors(pixels, count, channels, out):
    """Fill `out`, `count` colours, from pixels of 3 or 4 channels; return whether alpha is 255 everywhere."""
    if channels == 3:
        for i in range(count):
            at = 3 * i
            out[i] = (
                0xFF000000 | (int64(pixels[at]) << 16) | (int64(pixels[at + 1]) << 8) | int64(pixels[at + 2])
            )
        return 1
    alphas = 255
    for i in range(count):
        at = 4 * i
        alpha = int64(pixels[at + 3])
        alphas &= alpha
        out[i] = (
            (alpha << 24) | (int64(pixels[at]) << 16) | (int64(pixels[at + 1]) << 8) | int64(pixels[at + 2])
        )
    return 1 if alphas == 255 else 0


def palette(image, count, table, out):
    """Fill `out`, up to 256 colours, with those of an image in rising order; return how many, 257 for more.

    `table` holds 2 * 1024 numbers: a hash table of colours and whether a place is taken.
    """
    for i in range(2048):
        table[i] = 0
    found = 0
    last = -1
    for i in range(count):
        color = int64(image[i])
        if color == last:
            continue
        last = color
        at = hashed(color, _TABLE_BITS)
        while table[1024 + at] != 0 and table[at] != color:
            at = (at + 1) & 1023
        if table[1024 + at] == 0:
            if found == LARGEST_PALETTE:
                return LARGEST_PALETTE + 1
            table[at] = color
            table[1024 + at] = 1
            place = found
            while place > 0 and out[place - 1] > color:
                out[place] = out[place - 1]
                place -= 1
            out[place] = color
            found += 1
    for i in range(1024):
        if table[1024 + i] != 0:
            low, high = 0, found - 1
            while low < high:
                middle = (low + high) >> 1
                if out[middle] < table[i]:
                    low = middle + 1
                else:
                    high = middle
            table[1024 + i] = low + 1
    return found


def indexed(image, rows, cols, table, bits, out):
    """Fill `out` with palette indices as green, 1 << `bits` of a row in a pixel; `table` is `palette`'s.

    The columns of `out` are those of the image divided by 1 << `bits`, rounded up.
    """
    per_pixel = 1 << bits
    width = 8 >> bits
    at = 0
    last = -1
    index = 0
    for row in range(rows):
        col = 0
        while col < cols:
            bundle = 0
            for part in range(min(per_pixel, cols - col)):
                color = int64(image[row * cols + col + part])
                if color != last:
                    last = color
                    place = hashed(color, _TABLE_BITS)
                    while table[place] != color or table[1024 + place] == 0:
                        place = (place + 1) & 1023
                    index = int64(table[1024 + place]) - 1
                bundle |= index << (part * width)
            out[at] = 0xFF000000 | (bundle << 8)
            at += 1
            col += per_pixel


SIGNATURES = {
    "colors": INT(U8, INT, INT, U32),
    "palette": INT(U32, INT, U32, U32),
    "indexed": VOID(U32, INT, INT, U32, INT, U32),
}
"""What `native` compiles, with the types of its arguments."""
