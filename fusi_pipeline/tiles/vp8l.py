"""Lossless WebP made for terrain: an encoder of VP8L that tries only what pays on heights.

The functions stand in the order of a file (RFC 9649, section 3.8): the container and the header,
the transforms, the image data. Their loops are kernels, in modules named after the specification:

    2.6, 3.4   container, header        here
    3.5.4      color indexing           vp8l_color_indexing
    3.5.1      predictor                vp8l_predictor, vp8l_predictor_choice
    3.6.2.2    LZ77                     vp8l_backward_references
    3.6.2.3    color cache              vp8l_color_cache
    3.7.2.2    meta prefix codes        vp8l_meta_prefix
    3.7.2.1    prefix codes             vp8l_prefix_codes
    3.7.2.3    entropy-coded data       vp8l_image_data

Blocks are squares of pixels that share a predictor and a group of codes; what belongs to them has
one number for each, row by row. Those without a residual ("zero") take no bits at all. See DESIGN,
"Encoder of terrain", for what each part is worth.

Calls release the GIL. The same pixels are the same bytes on every machine.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import kernel, pointer
from fusi_pipeline.tiles.vp8l_alphabets import CACHE
from fusi_pipeline.tiles.vp8l_workspace import Workspace
from fusi_pipeline.tiles.vp8l_writer import Writer

VERSION = 3
"""Raised whenever a change of the code changes the bytes of a file; part of every tile's key."""
LARGEST_SIDE = 1 << 14
"""Pixels along a side that the format can say."""
_LARGEST_PX = 1 << 24
"""Pixels of the largest picture encoded here, 4096 x 4096; memory is 45 bytes a pixel."""
_SIGNATURE = 0x2F
_PREDICTOR, _COLOR_INDEXING = 0, 3
"""Numbers of transforms."""
_LARGEST_PALETTE = 256
_CODES_PER_GROUP = 5
_ONLY_SYMBOL_0 = 0b0001
"""A code in four bits: it is a simple one, of one symbol, which has one bit, and is 0."""
_BLOCK_BITS = 4
"""Predictors and groups of codes are chosen for blocks of 16 x 16 px."""
_ONE_BLOCK_BITS = 20
"""Blocks of a side that holds any image: there is one."""
_SAMPLE = 61
"""Of so many pixels, one is looked at to tell terrain from other pictures; prime, so that columns differ."""
_MOST_REDS = 48
_MOST_CHANGES = 0.3
"""With more reds in the sample, and more changes of red from pixel to pixel, it is no terrain."""
_MOST_CACHE_BITS = 10
_CACHES = ((64, (0, 5, 8, 10)), (256, (8, 10)))
"""Up to so many blocks with residuals, caches of so many bits are tried; above, the largest is best."""
_GROUPS = ((11, 1), (64, 3), (256, 6))
"""Up to so many blocks with residuals, so many groups of codes are tried besides one."""
_FEW_BLOCKS = 128
"""With at most so many blocks that have residuals, a file without a predictor is made too."""

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


_workspace = Workspace()


def encode(pixels: Pixels, effort: str = "default", *, any_picture: bool = False) -> bytes:
    """Return a lossless WebP of uint8 pixels of shape (rows, cols, 3), or (rows, cols, 4) with alpha.

    Colour under alpha 0 is kept. Raises Unsuitable where the pixels are no
    terrain, unless `any_picture` is set, and where they are very many;
    ValueError for shapes that the format cannot hold.
    """
    rows, cols, channels = pixels.shape
    if not (1 <= rows <= LARGEST_SIDE and 1 <= cols <= LARGEST_SIDE and channels in (3, 4)):
        raise ValueError(f"{cols} x {rows} x {channels}: no picture that a lossless WebP can hold")
    if rows * cols > _LARGEST_PX or not (any_picture or is_terrain(pixels)):
        raise Unsuitable(f"{cols} x {rows} x {channels}: not like terrain")
    pixels = np.ascontiguousarray(pixels)
    space = _workspace
    space.hold(rows * cols)
    at = space.at
    opaque = kernel("colors")(pointer(pixels), rows * cols, channels, at["colors"])
    count = kernel("palette")(at["colors"], rows * cols, at["hashed"], at["palette"])
    if count == 1:
        return _flat(rows, cols, int(space["palette"][0]))
    return _file(rows, cols, count, not opaque, effort)


def is_terrain(pixels: Pixels) -> bool:
    """Tell whether red, the digit of 256 m, changes more seldom than in a photograph or in noise."""
    reds = pixels.reshape(-1, pixels.shape[2])[:, 0]
    here, before = reds[1::_SAMPLE], reds[:-1:_SAMPLE]
    if np.count_nonzero(here != before) <= _MOST_CHANGES * len(here):
        return True
    return int(np.count_nonzero(np.bincount(here, minlength=256))) <= _MOST_REDS


@lru_cache(maxsize=256)
def _flat(rows: int, cols: int, color: int) -> bytes:
    """Return the file of the one colour that the workspace holds: many tiles are the same sea.

    Each of the five codes has one symbol, 0, which takes no bits (section 3.7.2.1):
    after them the picture is over.
    """
    writer = _opened(rows, cols, color >> 24 != 255)
    _put_palette(writer, rows, cols, 1, 3)
    writer.put(0, 1)  # no more transforms
    writer.put(0, 1)  # no cache
    writer.put(0, 1)  # one group
    for _ in range(_CODES_PER_GROUP):
        writer.put(_ONLY_SYMBOL_0, 4)
    return _riff(writer.written())


def _file(rows: int, cols: int, count: int, alpha: bool, effort: str) -> bytes:
    """Return the file of the `count` colours that the workspace holds."""
    return _riff(_picture(_opened(rows, cols, alpha), rows, cols, count, EFFORTS[effort]))


def _opened(rows: int, cols: int, alpha: bool) -> Writer:
    """Return a writer behind the header of a picture (section 3.4)."""
    writer = Writer(_workspace)
    writer.put(_SIGNATURE, 8)
    writer.put(cols - 1, 14)
    writer.put(rows - 1, 14)
    writer.put(alpha, 1)
    writer.put(0, 3)
    return writer


def _riff(data: bytes) -> bytes:
    """Return a WebP file of one VP8L chunk (section 2.6)."""
    padding = b"\0" * (len(data) % 2)
    head = struct.pack("<4sI4s4sI", b"RIFF", 12 + len(data) + len(padding), b"WEBP", b"VP8L", len(data))
    return head + data + padding


def _picture(writer: Writer, rows: int, cols: int, count: int, effort: Effort) -> bytes:
    """Write transforms and the transformed picture; return all that was written (sections 3.5 and 3.6).

    Where little is to be said, copies of colours as they are may be the smaller file.
    """
    start = writer.mark()
    few = True
    if count <= _LARGEST_PALETTE:
        bits = 3 if count <= 2 else 2 if count <= 4 else 1 if count <= 16 else 0
        _put_palette(writer, rows, cols, count, bits)
        if bits:
            _put_repeats(writer, "indexed", rows, -(-cols >> bits), diagonal=False)
        else:
            few = _put_predicted(writer, "indexed", rows, cols, effort) <= _FEW_BLOCKS
    else:
        few = _put_predicted(writer, "colors", rows, cols, effort) <= _FEW_BLOCKS
    found = [writer.written()]
    if few:
        writer.rewind(start)
        _put_repeats(writer, "colors", rows, cols, diagonal=True)
        found.append(writer.written())
    return min(found, key=len)


def _put_predicted(writer: Writer, source: str, rows: int, cols: int, effort: Effort) -> int:
    """Write predictors and residuals; return how many blocks have any."""
    effort = _predict(writer, source, rows, cols, effort)
    _find_copies(writer.space, rows, cols)
    busy = _busy(writer.space, rows, cols)
    cache_bits, groups = _best_codes(writer, rows, cols, busy, effort)
    _put_residuals(writer, rows, cols, cache_bits, groups, effort.rounds)
    return busy


def _best_codes(writer: Writer, rows: int, cols: int, busy: int, effort: Effort) -> tuple[int, int]:
    """Return the bits of the cache and the number of groups that make the file smallest.

    Where `busy`, the number of blocks with residuals, is large, that is the most of both. Codes for
    few pixels gain less than their lengths take; there the exact size decides, among caches with one
    group first.
    """
    sizes = next((sizes for blocks, sizes in _CACHES if busy <= blocks), None)
    if sizes is None:
        return _MOST_CACHE_BITS, effort.groups
    start = writer.mark()

    def size(cache_bits: int, groups: int) -> int:
        bits = _put_groups(writer, rows, cols, cache_bits, groups, effort.rounds) + writer.bits()
        writer.rewind(start)
        return bits

    with_one = {cache_bits: size(cache_bits, 1) for cache_bits in sizes}
    cache_bits = min(with_one, key=lambda one: with_one[one])
    groups = min(next(groups for blocks, groups in _GROUPS if busy <= blocks), effort.groups)
    if groups > 1 and size(cache_bits, groups) < with_one[cache_bits]:
        return cache_bits, groups
    return cache_bits, 1


def _put_palette(writer: Writer, rows: int, cols: int, count: int, bits: int) -> None:
    """Turn colours into indices, and write the palette, each colour as its difference from the one before.

    Section 3.5.4. A pixel of the result holds 1 << `bits` indices.
    """
    at = writer.space.at
    kernel("indexed")(at["colors"], rows, cols, at["hashed"], bits, at["indexed"])
    writer.put(1, 1)
    writer.put(_COLOR_INDEXING, 2)
    writer.put(count - 1, 8)
    channels = writer.space["palette"][:count].view(np.uint8).reshape(-1, 4)
    differences = np.diff(channels, axis=0, prepend=np.zeros((1, 4), np.uint8))
    _put_parameters(writer, np.ascontiguousarray(differences).view(np.uint32).reshape(1, -1))


def _predict(writer: Writer, source: str, rows: int, cols: int, effort: Effort) -> Effort:
    """Choose and write the predictor of each block; leave residuals, and which blocks have none.

    Section 3.5.1. Return the effort that is worth while for the rest.
    """
    space, at = writer.space, writer.space.at
    more = _more_modes(space[source][: rows * cols], cols)
    if more == 2:
        effort = EFFORTS["fast"]  # what is left of a chessboard is noise; no second look finds more in it
    shape = (rows, cols, _BLOCK_BITS)
    kernel("predictors")(
        at[source], *shape, more, effort.passes, at["counts"], at["bucket_costs"], at["modes"], at["zero"]
    )
    kernel("residuals")(at[source], *shape, at["modes"], at["zero"], at["residuals"])
    writer.put(1, 1)
    writer.put(_PREDICTOR, 2)
    writer.put(_BLOCK_BITS - 2, 3)
    _put_parameters(writer, _as_green(space["modes"], rows, cols))
    return effort


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


def _blocks(rows: int, cols: int) -> tuple[int, int]:
    """Return the rows and columns of blocks."""
    return -(-rows >> _BLOCK_BITS), -(-cols >> _BLOCK_BITS)


def _find_copies(space: Workspace, rows: int, cols: int) -> None:
    """Turn rows of like residuals into copies (section 3.6.2.2)."""
    at = space.at
    kernel("copies")(at["residuals"], rows, cols, _BLOCK_BITS, at["zero"], at["symbols"])


def _busy(space: Workspace, rows: int, cols: int) -> int:
    """Return how many blocks have residuals."""
    down, across = _blocks(rows, cols)
    return down * across - int(np.count_nonzero(space["zero"][: down * across]))


def _as_green(numbers: Pixels, rows: int, cols: int) -> Colors:
    """Return a number for each block as an image of parameters."""
    down, across = _blocks(rows, cols)
    return numbers[: down * across].astype(np.uint32).reshape(down, across) << np.uint32(8)


def _put_residuals(writer: Writer, rows: int, cols: int, cache_bits: int, groups: int, rounds: int) -> None:
    """Write the residuals with a colour cache, in groups of codes by block (sections 3.6.2.3 and 3.7.2.2)."""
    at = writer.space.at
    _put_groups(writer, rows, cols, cache_bits, groups, rounds)
    kernel("data")(
        *writer.handles, at["residuals"], at["symbols"], rows, cols, _BLOCK_BITS, at["zero"], at["groups"],
        at["table"],
    )  # fmt: skip


def _put_groups(writer: Writer, rows: int, cols: int, cache_bits: int, groups: int, rounds: int) -> int:
    """Write everything before the residuals: the cache's size, the groups and their codes.

    Return how many bits the residuals will take, besides the extra bits of copies.
    """
    space, at = writer.space, writer.space.at
    shape = (rows, cols, _BLOCK_BITS)
    greens = CACHE + (1 << cache_bits if cache_bits else 0)
    kernel("cached")(at["residuals"], *shape, at["zero"], cache_bits, at["cache"], at["symbols"])
    group_count = kernel("cluster")(
        at["residuals"], at["symbols"], *shape, at["zero"], greens, groups, rounds,
        at["histogram"], at["costs"], at["sums"], at["order"], at["groups"],
    )  # fmt: skip
    writer.put(0, 1)  # no more transforms
    writer.put(cache_bits > 0, 1)
    if cache_bits:
        writer.put(cache_bits, 4)
    writer.put(group_count > 1, 1)
    if group_count > 1:
        writer.put(_BLOCK_BITS - 2, 3)
        _put_parameters(writer, _as_green(space["groups"], rows, cols))
    return _put_codes(writer, "histogram", group_count, greens)


def _put_repeats(writer: Writer, source: str, rows: int, cols: int, *, diagonal: bool) -> None:
    """Write an image as literals and copies, without a cache, in one group of codes (section 3.6.2)."""
    writer.put(0, 1)  # no more transforms
    writer.put(0, 1)  # no cache
    writer.put(0, 1)  # one group
    _put_one_group(writer, (source, "values", "symbols"), rows, cols, diagonal=diagonal)


def _put_parameters(writer: Writer, image: Colors) -> None:
    """Write an image that belongs to a transform or to the groups (section 3.6.1, roles 2 to 5)."""
    rows, cols = image.shape
    writer.space["parameters"][: image.size] = image.reshape(-1)
    writer.put(0, 1)  # no cache
    _put_one_group(
        writer, ("parameters", "parameter values", "parameter symbols"), rows, cols, diagonal=False
    )


def _put_one_group(
    writer: Writer, names: tuple[str, str, str], rows: int, cols: int, *, diagonal: bool
) -> None:
    """Write an image in literals and copies; `names` are those of its array, and of two for its symbols."""
    at = writer.space.at
    source, values, symbols = names
    kernel("repeats")(at[source], rows, cols, diagonal, at[values], at[symbols])
    pixels = (at[values], at[symbols], rows, cols, _ONE_BLOCK_BITS, at["no zero"])
    kernel("cluster")(
        *pixels, CACHE, 1, 0,
        at["histogram of one"], at["costs"], at["sums"], at["order"], at["one group"],
    )  # fmt: skip
    _put_codes(writer, "histogram of one", 1, CACHE)
    kernel("data")(*writer.handles, *pixels, at["one group"], at["table"])


def _put_codes(writer: Writer, histogram: str, group_count: int, greens: int) -> int:
    """Write the five prefix codes of each group; leave them in the table (section 3.7.2.1)."""
    at = writer.space.at
    bits: int = kernel("codes")(
        *writer.handles, at[histogram], group_count, greens, at["work"], at["lengths"], at["tokens"],
        at["small"], at["short"], at["table"],
    )  # fmt: skip
    return bits
