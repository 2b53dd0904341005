"""What a model is shown for a block, and what of its answer is kept. Arrays in, arrays out.

A template is a window of two by two quadrants around the block: source pixels
where it is to be drawn, finished neighbours around that. The window is placed so
that it shows finished quadrants only, and so that no finished quadrant lies just
beyond it beside the block, where a seam would show.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from layer_generation.camera import QUADRANT_PX
from layer_generation.endpoints.base import EndpointPermanent, EndpointRetryable
from layer_generation.pictures import Pixels, resized

WINDOW_PX = 2 * QUADRANT_PX
FRAME_COLOR = (255, 0, 0)
_HALF_PX = QUADRANT_PX // 2
_RATIO_TOLERANCE = 0.01
"""How far width : height of an answer may be from what was asked."""
_SMALLEST_SHARE = 0.25
"""An answer of less width than that part of what was asked is none that could be enlarged."""
_FRAME_TOLERANCE = 48
"""How far a channel of what a model left of the frame may be from its colour."""
_LINE_TOLERANCE = 16
_LINE_SHARE = 0.9
"""Pixels of which such a part has one colour, which hardly any just inside them has, are of a frame."""
_BAND_PX = 64
"""Known pixels so near the block tell how the answer's colours differ."""

Quadrant = tuple[int, int]
PictureOf = Callable[[int, int], Pixels]
SourceOf = Callable[[int, int], Pixels | None]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the window of a block lies, in pixels of the map, and what it shows."""

    left: int
    top: int
    width: int
    height: int
    x: int
    """Block's top left quadrant and size."""
    y: int
    columns: int
    rows: int
    context: tuple[Quadrant, ...]
    """Finished quadrants that it shows a part of."""
    padding: tuple[Quadrant, ...]
    """Unfinished quadrants that it shows a part of, or places outside the map: drawn with the block, and
    thrown away."""
    seams: int
    """Finished quadrants that lie beside the block just beyond the window."""

    @property
    def block(self) -> tuple[slice, slice]:
        """Rows and columns of the window that the block takes."""
        row, col = self.y * QUADRANT_PX - self.top, self.x * QUADRANT_PX - self.left
        return slice(row, row + self.rows * QUADRANT_PX), slice(col, col + self.columns * QUADRANT_PX)


def bare(x: int, y: int, columns: int, rows: int) -> Placement:
    """Return a window of just the block."""
    return Placement(
        x * QUADRANT_PX,
        y * QUADRANT_PX,
        columns * QUADRANT_PX,
        rows * QUADRANT_PX,
        x,
        y,
        columns,
        rows,
        (),
        (),
        0,
    )


def place(x: int, y: int, columns: int, rows: int, finished: Collection[Quadrant]) -> Placement:
    """Return the best window for a block among finished quadrants.

    Along an axis that the block does not fill, it lies in the middle where both
    sides are finished, else at the end away from the finished side. Where no
    window shows finished quadrants only, the one with the least else.
    """
    margins = {1: (_HALF_PX, QUADRANT_PX, 0), 2: (0,)}
    alone = sum(one in finished for one in _beside(x, y, columns, rows))
    choices = [replace(bare(x, y, columns, rows), seams=alone)] + [
        _placed(x, y, columns, rows, left, top, finished)
        for left, top in product(margins[columns], margins[rows])
    ]
    return min(choices, key=_worth)


def _worth(one: Placement) -> tuple[int, int, int, int, int]:
    """Return what makes a window worse.

    Best are windows without seams that show finished quadrants only, then those
    without seams of which at most half is to be drawn, then those with fewer seams,
    then with less unfinished, then with more context, then with the block amid.
    """
    row, col = one.block[0].start, one.block[1].start
    off = abs(2 * col + one.columns * QUADRANT_PX - one.width) + abs(
        2 * row + one.rows * QUADRANT_PX - one.height
    )
    drawn = one.columns * one.rows * QUADRANT_PX**2 + sum(_shown_px(one, other) for other in one.padding)
    rank = 2
    if not one.seams:
        rank = 0 if not one.padding else int(2 * drawn > one.width * one.height) + 1
    return rank, one.seams, len(one.padding), -len(one.context), off


def _shown_px(one: Placement, quadrant: Quadrant) -> int:
    """Return how many pixels of a quadrant a window shows."""
    sides = (
        (quadrant[0] * QUADRANT_PX - one.left, one.width),
        (quadrant[1] * QUADRANT_PX - one.top, one.height),
    )
    across, down = (max(0, min(at + QUADRANT_PX, size) - max(at, 0)) for at, size in sides)
    return across * down


def _placed(
    x: int, y: int, columns: int, rows: int, left: int, top: int, finished: Collection[Quadrant]
) -> Placement:
    """Return the window that begins so many pixels to the left of and above a block."""
    first_x, first_y = x * QUADRANT_PX - left, y * QUADRANT_PX - top
    own = set(product(range(x, x + columns), range(y, y + rows)))
    shown = [
        (qx, qy)
        for qy in range(first_y // QUADRANT_PX, -(-(first_y + WINDOW_PX) // QUADRANT_PX))
        for qx in range(first_x // QUADRANT_PX, -(-(first_x + WINDOW_PX) // QUADRANT_PX))
        if (qx, qy) not in own
    ]
    return Placement(
        first_x,
        first_y,
        WINDOW_PX,
        WINDOW_PX,
        x,
        y,
        columns,
        rows,
        tuple(one for one in shown if one in finished),
        tuple(one for one in shown if one not in finished),
        sum(one in finished and one not in shown for one in _beside(x, y, columns, rows)),
    )


def _beside(x: int, y: int, columns: int, rows: int) -> Iterator[Quadrant]:
    """Yield the quadrants that share an edge with a block."""
    for row in range(y, y + rows):
        yield from ((x - 1, row), (x + columns, row))
    for column in range(x, x + columns):
        yield from ((column, y - 1), (column, y + rows))


@dataclass(frozen=True, slots=True)
class Template:
    """What a model is shown."""

    placement: Placement
    image: Pixels
    """Shape (rows, cols, 3); with a frame drawn where one was asked for."""
    known: npt.NDArray[np.bool_]
    """Where the picture is finished already, shape (rows, cols)."""
    clean: Pixels
    """The image without a frame."""
    frame_px: int = 0
    """Width of the frame; 0 where there is none."""

    @property
    def framed(self) -> tuple[slice, slice]:
        """Rows and columns that a frame is drawn around.

        All that is to be drawn where that is a rectangle, else the block.
        """
        rows, cols = (np.flatnonzero(~self.known.all(axis=axis)) for axis in (1, 0))
        area = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1)
        return self.placement.block if self.known[area].any() else area


def template(
    placement: Placement, source_of: SourceOf, finished_of: PictureOf, frame_px: int = 0
) -> Template:
    """Return the template of a window.

    `source_of` and `finished_of` return the picture of a quadrant, shape (512, 512, 3). Where the map has
    none beside the block, the block's own is mirrored. Raises EndpointPermanent for a block without one.
    """
    image = np.empty((placement.height, placement.width, 3), dtype=np.uint8)
    known = np.zeros(image.shape[:2], dtype=bool)
    own = {
        (x, y): _own_source(source_of, x, y)
        for y in range(placement.y, placement.y + placement.rows)
        for x in range(placement.x, placement.x + placement.columns)
    }
    for quadrant, picture in own.items():
        _lay(image, placement, quadrant, picture)
    for quadrant in placement.padding:
        beside = source_of(*quadrant)
        _lay(image, placement, quadrant, _mirrored(own, *quadrant) if beside is None else beside)
    for quadrant in placement.context:
        rows, cols = _lay(image, placement, quadrant, finished_of(*quadrant))
        known[rows, cols] = True
    plain = Template(placement, image, known, image)
    if not frame_px or not known.any():
        return plain
    framed = image.copy()
    _draw_frame(framed[plain.framed], frame_px)
    return replace(plain, image=framed, frame_px=frame_px)


def _own_source(source_of: SourceOf, x: int, y: int) -> Pixels:
    picture = source_of(x, y)
    if picture is None:
        raise EndpointPermanent(f"the map has no picture at {x},{y}; fill it in and use --retry-errors")
    return picture


def _mirrored(own: Mapping[Quadrant, Pixels], x: int, y: int) -> Pixels:
    """Return the nearest of a block's pictures, mirrored where it meets the quadrant at (x, y)."""
    near = min(own, key=lambda one: (abs(one[0] - x) + abs(one[1] - y), one))
    down, across = (-1 if near[1] != y else 1), (-1 if near[0] != x else 1)
    return own[near][::down, ::across]


def _lay(image: Pixels, placement: Placement, quadrant: Quadrant, picture: Pixels) -> tuple[slice, slice]:
    """Put the part of a quadrant's picture that shows into the window; return where it is."""
    row, col = quadrant[1] * QUADRANT_PX - placement.top, quadrant[0] * QUADRANT_PX - placement.left
    rows = slice(max(row, 0), min(row + QUADRANT_PX, placement.height))
    cols = slice(max(col, 0), min(col + QUADRANT_PX, placement.width))
    image[rows, cols] = picture[rows.start - row : rows.stop - row, cols.start - col : cols.stop - col]
    return rows, cols


def _draw_frame(part: Pixels, width_px: int) -> None:
    """Draw a frame inside the edge of a part of a picture."""
    inside = part[width_px:-width_px, width_px:-width_px].copy()
    part[:] = FRAME_COLOR
    part[width_px:-width_px, width_px:-width_px] = inside


@dataclass(frozen=True, slots=True)
class Kept:
    """What of an answer is kept."""

    quadrants: tuple[tuple[Quadrant, Pixels], ...]
    """The block's quadrants, each of shape (512, 512, 3)."""
    drift: float
    """Mean difference of the answer from the known pixels, 0..255; 0 where nothing was known."""


def kept(
    one: Template, answer: Pixels, *, match_colors: bool = False, max_drift: float | None = None
) -> Kept:
    """Return the block's quadrants of a model's answer.

    Of the known pixels nothing is kept: they stay as they are in their own pictures.
    An answer of another size is resampled where width and height have the same
    ratio. What the model left of a frame goes. Raises EndpointPermanent for another
    ratio or a tiny answer, EndpointRetryable for an answer that differs from the
    known pixels by more than `max_drift`.
    """
    placement = one.placement
    answer = _fitted(answer, placement.width, placement.height)
    if one.frame_px:
        answer = _unframed(answer, one.framed, one.frame_px)
    drift = 0.0
    if one.known.any():
        drift = _drift(answer, one)
        if max_drift is not None and drift > max_drift:
            raise EndpointRetryable(
                f"the answer differs from the finished neighbours by {drift:.1f} of 255 on average,"
                f" more than max_drift = {max_drift:g}"
            )
        if match_colors:
            answer = _matched(answer, one)
    rows, cols = placement.block
    block = answer[rows, cols]
    return Kept(tuple(_split(block, placement)), drift)


def _drift(answer: Pixels, one: Template) -> float:
    """Return the mean difference of an answer from the known pixels, of which there are some."""
    off = np.maximum(answer, one.clean) - np.minimum(answer, one.clean)
    off *= one.known[..., np.newaxis]
    return float(off.sum(dtype=np.int64)) / (3 * int(np.count_nonzero(one.known)))


def _fitted(answer: Pixels, width: int, height: int) -> Pixels:
    rows, cols = answer.shape[:2]
    if (rows, cols) == (height, width):
        return answer
    if abs(cols * height / (rows * width) - 1) > _RATIO_TOLERANCE:
        raise EndpointPermanent(
            f"the answer is {cols} x {rows} px where {width} x {height} were asked for,"
            " a shape that the model cannot do"
        )
    if cols < width * _SMALLEST_SHARE:
        raise EndpointPermanent(
            f"the answer is {cols} x {rows} px where {width} x {height} were asked for, too small to enlarge"
        )
    return resized(answer, width, height)


def _unframed(answer: Pixels, framed: tuple[slice, slice], width_px: int) -> Pixels:
    """Return the answer with what is left of the frame replaced by the pixels just inside it.

    Left of it is the whole frame where it has one colour, whichever, that hardly
    any pixel just inside has, as of a model that changes all colours alike; else
    each side of it that has the frame's own colour. A line that a model drew along
    one side of it in another colour is a part of the picture.
    """
    out = answer.copy()
    block = out[framed]
    left = _frame_left(block, width_px)
    for side, frame in zip(_sides(block), _sides(left), strict=True):
        inner = side[width_px]
        for line, part in zip(side[:width_px], frame[:width_px], strict=True):
            line[part] = inner[part]
    return out


def _frame_left(block: Pixels, width_px: int) -> Mask:
    """Return which pixels inside a frame are left of it, shape (rows, cols)."""
    ring, inside = np.ones(block.shape[:2], dtype=bool), np.zeros(block.shape[:2], dtype=bool)
    ring[width_px:-width_px, width_px:-width_px] = False
    inside[width_px:-width_px, width_px:-width_px] = True
    inside[width_px + 1 : -width_px - 1, width_px + 1 : -width_px - 1] = False
    alike = _near(block, np.median(block[ring], axis=0), _LINE_TOLERANCE)
    if alike[ring].mean() >= _LINE_SHARE and alike[inside].mean() <= 1 - _LINE_SHARE:
        return alike & ring
    red, left = _near(block, FRAME_COLOR, _FRAME_TOLERANCE), np.zeros_like(ring)
    for colours, frame in zip(_sides(red), _sides(left), strict=True):
        lines, inner = colours[:width_px], colours[width_px]
        if lines.mean() >= _LINE_SHARE and inner.mean() <= 1 - _LINE_SHARE:
            frame[:width_px] |= lines
    return left


def _sides(pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Return views of an array of shape (rows, cols, ...) whose first rows are each of its sides."""
    turned = pixels.swapaxes(0, 1)
    return pixels, pixels[::-1], turned, turned[::-1]


def _near(pixels: Pixels, colour: npt.ArrayLike, tolerance: int) -> Mask:
    """Tell which pixels are of a colour."""
    off = np.abs(pixels.astype(np.int16) - np.asarray(colour, dtype=np.int16))
    return np.asarray((off <= tolerance).all(axis=-1))


def _matched(answer: Pixels, one: Template) -> Pixels:
    """Return the answer with each channel stretched so that it fits the known pixels near the block."""
    rows, cols = one.placement.block
    near = np.zeros_like(one.known)
    near[
        max(rows.start - _BAND_PX, 0) : rows.stop + _BAND_PX,
        max(cols.start - _BAND_PX, 0) : cols.stop + _BAND_PX,
    ] = True
    near &= one.known
    out = answer.astype(np.float64)
    for channel in range(3):
        got, wanted = out[..., channel][near], one.clean[..., channel][near].astype(np.float64)
        spread = got.std()
        gain = np.clip(wanted.std() / spread, 0.5, 2.0) if spread > 1 else 1.0
        out[..., channel] = (out[..., channel] - got.mean()) * gain + wanted.mean()
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def _split(block: Pixels, placement: Placement) -> Iterator[tuple[Quadrant, Pixels]]:
    for row, col in product(range(placement.rows), range(placement.columns)):
        part = block[row * QUADRANT_PX : (row + 1) * QUADRANT_PX, col * QUADRANT_PX : (col + 1) * QUADRANT_PX]
        yield (placement.x + col, placement.y + row), np.ascontiguousarray(part)


def without_context(one: Placement) -> Placement:
    """Return the window of just the block, for models that are not shown their neighbours."""
    return replace(bare(one.x, one.y, one.columns, one.rows), seams=one.seams + len(one.context))
