"""Lossless WebP made for terrain: an encoder of VP8L that tries only what pays on heights.

Parts of the format, in the order of a file: a palette where there are few
colours; a predictor for each block; a colour cache, by which green and blue,
the digits of one number, are coded together and red costs nothing; groups of
prefix codes for blocks of like content; copies of the pixel on the left. See
DESIGN, "Encoder of terrain", for what each is worth. Source: RFC 9649.

Calls release the GIL. The same pixels are the same bytes on every machine.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import kernel, pointer

VERSION = 1
"""Raised whenever a change of the code changes the bytes of a file; part of every tile's key."""
LARGEST_SIDE = 1 << 14
"""Pixels along a side that the format can say."""
_SIGNATURE = 0x2F
_PREDICTOR, _COLOR_INDEXING = 0, 3
"""Numbers of transforms."""
_BLOCK_BITS, _BUNDLED_BLOCK_BITS = 4, 6
"""Blocks of 16 px; of 64 where a pixel holds several of a picture of few colours, as lineage has."""
_GROUP = 3136
_GREENS = 2328
_CACHE = 280
_LANES = 8
_BUCKETS = 4096
_COSTS = 4096
_LEAVES = 4096
"""Sizes that the kernels count on; a test compares them."""
_LARGEST_PX = 1 << 24
"""Pixels of the largest picture encoded here, 4096 x 4096; memory is 30 bytes a pixel."""
_SAMPLE = 61
"""Of so many pixels, one is looked at to tell terrain from other pictures; prime, so that columns differ."""
_MOST_REDS = 48
_MOST_CHANGES = 0.3
"""With more reds in the sample, and more changes of red from pixel to pixel, it is no terrain."""
_BLOCKS_OF_BITS = ((40, 8), (90, 9))
"""Up to so many blocks with residuals a colour cache of so many bits is best; 10 bits above."""
_MOST_CACHE_BITS = 10
_BLOCKS_PER_GROUP = 48
"""A group of codes pays for its own lengths from about so many blocks on."""

Pixels = npt.NDArray[np.uint8]
Colors = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is tried."""

    passes: int
    """0: predictors are chosen once, on every fourth row; 1: twice, at last on every second."""
    groups: int
    """The most groups of codes, besides that of blocks without a residual."""
    rounds: int
    """How often blocks choose their group anew."""


EFFORTS = {"default": Effort(1, 6, 3), "fast": Effort(0, 3, 1)}
"""By name; what each costs and gains stands in DESIGN."""


class Unsuitable(ValueError):
    """Pixels that are no terrain: this encoder would make a larger file of them than others."""


class _Workspace(threading.local):
    """Arrays of one thread, kept between pictures: fresh memory costs more than what is done in it."""

    def __init__(self) -> None:
        self.room = 0
        self.counts = np.empty(_BUCKETS, np.uint32)
        self.bucket_costs = np.empty(_BUCKETS, np.uint16)
        self.histogram = np.empty(_LANES * _GROUP, np.uint32)
        self.table = np.empty(_LANES * _GROUP, np.uint32)
        self.costs = np.empty(_LANES * _GROUP, np.uint16)
        self.sums = np.empty(_LANES, np.uint32)
        self.cache = np.empty(2048, np.uint32)
        self.work = np.empty(8 * _LEAVES, np.int64)
        self.lengths = np.empty(_GREENS, np.uint8)
        self.tokens = np.empty(_GREENS, np.uint16)
        self.small = np.empty(64, np.uint32)
        self.short = np.empty(32, np.uint8)
        self.hashed = np.empty(2048, np.uint32)
        self.palette = np.empty(257, np.uint32)

    def hold(self, count: int) -> None:
        """Make room for `count` pixels."""
        if count <= self.room:
            return
        self.room = count
        self.colors = np.empty(count + 1, np.uint32)
        self.indexed = np.empty(count + 1, np.uint32)
        self.residuals = np.empty(count, np.uint32)
        self.symbols = np.empty(count, np.uint16)
        self.out = np.empty(2 * count + 16384, np.uint32)
        self.modes = np.empty(count, np.uint8)
        self.zero = np.empty(count, np.uint8)
        self.groups = np.empty(count, np.uint8)
        self.order = np.empty(_COSTS + count, np.uint32)


_workspace = _Workspace()


def encode(pixels: Pixels, effort: str = "default") -> bytes:
    """Return a lossless WebP of uint8 pixels of shape (rows, cols, 3), or (rows, cols, 4) with alpha.

    Colour under alpha 0 is kept. Raises Unsuitable where the pixels are no
    terrain, ValueError for shapes that the format cannot hold.
    """
    rows, cols, channels = pixels.shape
    if not (1 <= rows <= LARGEST_SIDE and 1 <= cols <= LARGEST_SIDE and channels in (3, 4)):
        raise ValueError(f"{cols} x {rows} x {channels}: no picture that a lossless WebP can hold")
    if rows * cols > _LARGEST_PX or _is_picture(pixels):
        raise Unsuitable(f"{cols} x {rows} x {channels}: not like terrain")
    pixels = np.ascontiguousarray(pixels)
    space = _workspace
    space.hold(rows * cols)
    kernel("colors")(pointer(pixels), rows * cols, channels, pointer(space.colors))
    count = kernel("palette")(
        pointer(space.colors), rows * cols, pointer(space.hashed), pointer(space.palette)
    )
    if count == 1:
        return _flat(rows, cols, int(space.palette[0]), effort)
    alpha = channels == 4 and bool((pixels[..., 3] != 255).any())
    return _file(rows, cols, count, alpha, effort)


@lru_cache(maxsize=256)
def _flat(rows: int, cols: int, color: int, effort: str) -> bytes:
    """Return the file of the one colour that the workspace holds: many tiles are the same sea."""
    return _file(rows, cols, 1, color >> 24 != 255, effort)


def _file(rows: int, cols: int, count: int, alpha: bool, effort: str) -> bytes:
    """Return the file of the `count` colours that the workspace holds (section 3.4)."""
    writer = _Writer(_workspace)
    writer.put(_SIGNATURE, 8)
    writer.put(cols - 1, 14)
    writer.put(rows - 1, 14)
    writer.put(alpha, 1)
    writer.put(0, 3)
    _picture(writer, rows, cols, count, EFFORTS[effort])
    return _riff(writer.finish())


def _is_picture(pixels: Pixels) -> bool:
    """Tell whether red, the digit of 256 m, changes as often as it does in a photograph or in noise."""
    reds = pixels.reshape(-1, pixels.shape[2])[:, 0]
    here, before = reds[1::_SAMPLE], reds[:-1:_SAMPLE]
    if np.count_nonzero(here != before) <= _MOST_CHANGES * len(here):
        return False
    return int(np.count_nonzero(np.bincount(here, minlength=256))) > _MOST_REDS


def _riff(data: bytes) -> bytes:
    """Return a WebP file of one VP8L chunk (RFC 9649, section 2.6)."""
    padding = b"\0" * (len(data) % 2)
    head = struct.pack("<4sI4s4sI", b"RIFF", 12 + len(data) + len(padding), b"WEBP", b"VP8L", len(data))
    return head + data + padding


class _Writer:
    """Bits of a picture, from the lowest on."""

    def __init__(self, space: _Workspace) -> None:
        self.space = space
        self.state = np.zeros(4, np.int64)
        self.handles = (pointer(self.state), pointer(space.out))
        self.block_bits = _BLOCK_BITS
        self._put = kernel("put")

    def put(self, value: int, bits: int) -> None:
        """Write a number of up to 30 bits."""
        self._put(*self.handles, value, bits)

    def finish(self) -> bytes:
        """Return everything written."""
        size = kernel("finish")(*self.handles)
        return self.space.out.view(np.uint8)[:size].tobytes()


def _picture(writer: _Writer, rows: int, cols: int, count: int, effort: Effort) -> None:
    """Write transforms and the transformed picture (sections 4 and 5.1)."""
    space = writer.space
    image = space.colors
    if count <= 256:
        bits = 3 if count <= 2 else 2 if count <= 4 else 1 if count <= 16 else 0
        _put_palette(writer, count)
        kernel("indexed")(pointer(image), rows, cols, pointer(space.hashed), bits, pointer(space.indexed))
        image = space.indexed
        cols = (cols + (1 << bits) - 1) >> bits
        writer.block_bits = _BUNDLED_BLOCK_BITS if bits else _BLOCK_BITS
    more = _more_modes(image[: rows * cols], cols)
    if more == 2:
        effort = EFFORTS["fast"]  # what is left of a chessboard is noise; no second look finds more in it
    _predict(writer, image, rows, cols, more, effort)
    writer.put(0, 1)
    _body(writer, rows, cols, effort)


def _more_modes(image: Colors, cols: int) -> int:
    """Return which predictors are worth trying besides left, top, select and gradient.

    1: averages, where blue is the same everywhere; an average of coarse fractions
    is none of them. 2: top left, where pixels are more like it than like the
    one on the left, as on a chessboard.
    """
    sample = image[cols + 1 :: _SAMPLE].astype(np.int64)
    corner, left = image[: -cols - 1 : _SAMPLE], image[cols:-1:_SAMPLE]
    if np.abs(sample - corner).sum() < np.abs(sample - left).sum() // 2:
        return 2
    blues = image[::_SAMPLE] & 0xFF
    return int((blues == blues[0]).all())


def _put_palette(writer: _Writer, count: int) -> None:
    """Write the palette, each colour as its difference from the one before (section 4.4)."""
    writer.put(1, 1)
    writer.put(_COLOR_INDEXING, 2)
    writer.put(count - 1, 8)
    channels = writer.space.palette[:count].view(np.uint8).reshape(-1, 4)
    differences = np.diff(channels, axis=0, prepend=np.zeros((1, 4), np.uint8))
    _put_image(writer, np.ascontiguousarray(differences).view(np.uint32).reshape(1, -1))


def _predict(writer: _Writer, image: Colors, rows: int, cols: int, more: int, effort: Effort) -> None:
    """Choose and write the predictor of each block; leave residuals and blocks without any (section 4.1)."""
    space = writer.space
    blocks = _blocks(rows, cols, writer.block_bits)
    kernel("predictors")(
        pointer(image), rows, cols, writer.block_bits, more, effort.passes, pointer(space.counts),
        pointer(space.bucket_costs), pointer(space.modes), pointer(space.zero),
    )  # fmt: skip
    kernel("residuals")(
        pointer(image), rows, cols, writer.block_bits, pointer(space.modes), pointer(space.zero),
        pointer(space.residuals),
    )  # fmt: skip
    modes = space.modes[: blocks[0] * blocks[1]].astype(np.uint32).reshape(blocks)
    writer.put(1, 1)
    writer.put(_PREDICTOR, 2)
    writer.put(writer.block_bits - 2, 3)
    _put_image(writer, modes << np.uint32(8))


def _blocks(rows: int, cols: int, bits: int) -> tuple[int, int]:
    """Return the rows and columns of blocks of 1 << `bits` pixels."""
    return -(-rows >> bits), -(-cols >> bits)


def _cache_bits(busy: int) -> int:
    """Return the size of the colour cache that suits so many blocks with residuals."""
    return next((bits for blocks, bits in _BLOCKS_OF_BITS if busy <= blocks), _MOST_CACHE_BITS)


def _body(writer: _Writer, rows: int, cols: int, effort: Effort) -> None:
    """Write the residuals as symbols in groups of codes (sections 5 and 6)."""
    space = writer.space
    blocks = _blocks(rows, cols, writer.block_bits)
    shape = (rows, cols, writer.block_bits)
    zero, groups = pointer(space.zero), pointer(space.groups)
    pixels = (pointer(space.residuals), pointer(space.symbols))
    busy = blocks[0] * blocks[1] - int(np.count_nonzero(space.zero[: blocks[0] * blocks[1]]))
    cache_bits = _cache_bits(busy)
    greens = _CACHE + (1 << cache_bits)
    kernel("symbols")(pixels[0], *shape, zero, cache_bits, pointer(space.cache), pixels[1])
    group_count = kernel("cluster")(
        *pixels, *shape, zero, greens, min(effort.groups, busy // _BLOCKS_PER_GROUP), effort.rounds,
        pointer(space.histogram), pointer(space.costs), pointer(space.sums), pointer(space.order), groups,
    )  # fmt: skip
    writer.put(1, 1)
    writer.put(cache_bits, 4)
    writer.put(group_count > 1, 1)
    if group_count > 1:
        writer.put(writer.block_bits - 2, 3)
        histogram = space.histogram[: group_count * _GROUP].copy()
        _put_image(
            writer, space.groups[: blocks[0] * blocks[1]].astype(np.uint32).reshape(blocks) << np.uint32(8)
        )
        space.histogram[: group_count * _GROUP] = histogram
    _put_codes(writer, group_count, greens)
    kernel("data")(*writer.handles, *pixels, *shape, zero, groups, pointer(space.table))


def _put_codes(writer: _Writer, group_count: int, greens: int) -> None:
    space = writer.space
    kernel("codes")(
        *writer.handles, pointer(space.histogram), group_count, greens, pointer(space.work),
        pointer(space.lengths), pointer(space.tokens), pointer(space.small), pointer(space.short),
        pointer(space.table),
    )  # fmt: skip


_ONE_BLOCK_BITS = 20
"""Blocks of a side that holds any image: there is one."""


def _put_image(writer: _Writer, image: Colors) -> None:
    """Write an image of parameters: one group of codes, no cache, runs of equal pixels (section 5.1)."""
    space = writer.space
    rows, cols = image.shape
    residuals = np.ascontiguousarray(image)
    symbols = np.empty(image.size, np.uint16)
    zero, groups = np.zeros(1, np.uint8), np.zeros(1, np.uint8)
    shape = (rows, cols, _ONE_BLOCK_BITS)
    kernel("symbols")(pointer(residuals), *shape, pointer(zero), 0, pointer(space.cache), pointer(symbols))
    kernel("cluster")(
        pointer(residuals), pointer(symbols), *shape, pointer(zero), _CACHE, 1, 0,
        pointer(space.histogram), pointer(space.costs), pointer(space.sums), pointer(space.order),
        pointer(groups),
    )  # fmt: skip
    writer.put(0, 1)
    _put_codes(writer, 1, _CACHE)
    kernel("data")(
        *writer.handles, pointer(residuals), pointer(symbols), *shape, pointer(zero), pointer(groups),
        pointer(space.table),
    )  # fmt: skip
