"""The predictor transform: fourteen predictions of a pixel, and the residuals that they leave.

Within a formula the four channels of a pixel lie 16 bits apart, "spread", so that one operation
does for all of them. Source: RFC 9649, section 3.5.1.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import INT, U8, U32, VOID, inline

_ONE = 0x0001000100010001
_LOW = 0x00FF00FF00FF00FF
_BIAS = 0x0100010001000100
_BLACK = 0x00FF000000000000
"""Opaque black, spread: what the first pixel is predicted to be."""
_FLAT = 2
"""Of a block that has no residual under any mode, while those of others are found."""


@inline
def spread(color):
    """Return a colour with its channels 16 bits apart."""
    return (color & 0x00FF00FF) | ((color & 0xFF00FF00) << 24)


@inline
def _joined(spread):
    """Return a colour from its spread channels."""
    return (spread & 0x00FF00FF) | ((spread >> 24) & 0xFF00FF00)


@inline
def without(pixel, prediction):
    """Return the residual, a colour, of a pixel and its prediction, both spread: differences modulo 256."""
    return _joined((pixel + _BIAS - prediction) & _LOW)


@inline
def _average(a, b):
    """Average2: channel by channel, rounded down."""
    return ((a + b) >> 1) & _LOW


@inline
def _clamped(biased):
    """Clamp: limit channels to 0..255; each is given with 256 added to it."""
    over = (biased >> 9) & _ONE
    inside = (biased >> 8) & _ONE
    return (biased & ((inside << 8) - inside)) | ((over << 8) - over)


@inline
def gradient(left, top, corner):
    """ClampAddSubtractFull: the plane through three neighbours."""
    return _clamped(left + top + _BIAS - corner)


@inline
def _half_gradient(left, top, corner):
    """ClampAddSubtractHalf of the average: a + (a - corner) / 2, the quotient rounded towards 0."""
    mean = _average(left, top)
    biased = mean + _BIAS - corner
    negative = ((biased >> 8) & _ONE) ^ _ONE
    return _clamped(mean + (((biased + negative) >> 1) & 0x01FF01FF01FF01FF) + (_BIAS >> 1))


@inline
def _distance(a, b):
    """Sum over the channels of how far two colours are apart."""
    biased = a + _BIAS - b
    above = (biased >> 8) & _ONE
    below = _ONE - above
    each = ((biased & _LOW) ^ ((below << 8) - below)) + below
    each += each >> 32
    return (each + (each >> 16)) & 0xFFFF


@inline
def _select(left, top, corner):
    """Select: of left and top the one that is nearer to the gradient."""
    return left if _distance(top, corner) < _distance(left, corner) else top


@inline
def prediction(mode, left, top, right, corner):
    """Return what one of the modes 0 to 13 predicts from the left, top, top right and top left neighbours."""
    if mode == 12:
        return gradient(left, top, corner)
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


@inline
def residual(image, i, cols, mode):
    """Return the residual of pixel `i`, in neither the first row nor the first column, under any mode."""
    left = spread(int64(image[i - 1]))
    top = spread(int64(image[i - cols]))
    right = spread(int64(image[i - cols + 1]))
    corner = spread(int64(image[i - cols - 1]))
    return without(spread(int64(image[i])), prediction(mode, left, top, right, corner))


def _residuals_with(mode):
    """Return the function that writes the residuals of one row of a block under a mode."""

    @inline
    def residuals(image, line, cols, first_col, end_col, out):
        above = line - cols
        corner = spread(int64(image[above + first_col - 1]))
        left = spread(int64(image[line + first_col - 1]))
        top = spread(int64(image[above + first_col]))
        seen = 0
        for col in range(first_col, end_col):
            right = spread(int64(image[above + col + 1]))
            pixel = spread(int64(image[line + col]))
            value = without(pixel, prediction(mode, left, top, right, corner))
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


@inline
def _row_residuals(image, line, cols, first_col, end_col, mode, out):
    """Write the residuals of one row of a block; return a number that is 0 where all of them are."""
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
        value = residual(image, line + col, cols, mode)
        out[line + col] = value
        seen |= value
    return seen


def residuals(image, rows, cols, bits, modes, zero, out):
    """Fill `out` with the residuals of an image, and `zero` with which blocks have none but 0.

    Section 3.5.1. `image` and `out` hold rows * cols colours, `modes` and `zero` a number for each block of
    1 << `bits` pixels a side. Blocks where `zero` is set already, as `predictors` left it, have no residual
    under any mode. Whatever the mode, the first row is predicted from the left, the first column from above.
    """
    across = (cols + (1 << bits) - 1) >> bits
    blocks = ((rows + (1 << bits) - 1) >> bits) * across
    for i in range(blocks):
        zero[i] = _FLAT if zero[i] else 1
    out[0] = without(spread(int64(image[0])), _BLACK)
    if out[0] != 0:
        zero[0] = 0
    for col in range(1, cols):
        out[col] = without(spread(int64(image[col])), spread(int64(image[col - 1])))
        if out[col] != 0:
            zero[col >> bits] = 0
    for row in range(1, rows):
        line = row * cols
        out[line] = without(spread(int64(image[line])), spread(int64(image[line - cols])))
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
    "residuals": VOID(U32, INT, INT, INT, U8, U8, U32),
}
"""What `native` compiles, with the types of its arguments."""
