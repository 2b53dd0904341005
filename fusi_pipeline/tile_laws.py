"""What holds between a tile, its parent and its neighbours, and which heights stand out.

Arrays in, figures out. Heights are float32 metres, NaN where missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.grid import TILE_SIZE_PX
from fusi_pipeline.tiles.resample import Heights, halve

Scalar = TypeVar("Scalar", bound=np.generic)
Mask = npt.NDArray[np.bool_]

HALF_PX = TILE_SIZE_PX // 2
STRIP_PX = 3
"""Lines of a tile along its edge that a border is judged by."""
LOWEST_M, HIGHEST_M = -11_100.0, 8_900.0
"""Below the deepest sea floor and above the highest summit there are no heights."""

_DEVIATIONS = 1.4826
"""Standard deviations in a median absolute deviation, of what is normally distributed."""
_LEAST_ROWS = 64
_CORRELATED_PX = 16
"""Pixels along a border that tell no more than one: terrain is alike over some distance."""
_BLEND_MARGIN = 1.5
"""On top of what the shares explain: the sources are not everywhere equally far apart."""
_BLEND_BLOCK_PX = 16
"""Far enough to level out relief, near enough for the sources to lie apart to the same side."""
_SHARE_STEP = 1 / 255
"""What shares are rounded to."""
_ROUNDED_BEND = 1.0
"""Of a vertical step: twice what rounding makes of the bends of a straight line."""
_SPIKE_FLOOR_M = 25.0
_SPIKE_SCALES = 10.0
_SPIKE_REACH = 2
_SPIKE_WINDOW = 8
_MOST_CANDIDATES = 200
_MOST_SPIKES = 100


def bound_m(parent_step_m: float, child_step_m: float) -> float:
    """Return how far a parent may lie from the mean of its children: half a vertical step of each."""
    return (parent_step_m + child_step_m) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How a quarter of a parent and the child under it agree, over the pixels compared."""

    compared: int
    within: int
    """Pixels no farther apart than the bound, and what float32 cannot tell."""
    largest_m: float
    """Largest difference, absolute."""
    worst: tuple[int, int]
    """(row, column) in the quarter where it is."""
    total_m: float
    """Sum of the differences, parent less children, where the four children are not all equal."""
    uneven: int
    """Number of these pixels."""
    median_m: float
    """Median of the absolute differences."""
    shift_m: float
    """Median of the differences, with their sign."""
    spread_m: float
    """How far the differences usually are from that: 1.4826 times their median distance, as a deviation."""
    range_m: float
    """Median over the pixels of highest less lowest child."""


def likeness(quarter: Heights, child: Heights, bound: float, mask: Mask | None = None) -> Likeness:
    """Compare a quarter of a parent, shape (256, 256), with the child under it, shape (512, 512).

    A pixel is compared where both have a height and `mask`, shape (256, 256), allows it.
    """
    mean = halve(child)
    low, high = _square_limits(child)
    compared = np.isfinite(quarter) & np.isfinite(mean)
    if mask is not None:
        compared &= mask
    rows, cols = np.nonzero(compared)
    if not len(rows):
        return Likeness(
            compared=0, within=0, largest_m=0.0, worst=(0, 0), total_m=0.0, uneven=0,
            median_m=0.0, shift_m=0.0, spread_m=0.0, range_m=0.0,
        )  # fmt: skip
    parents = quarter[compared].astype(np.float64)
    difference = parents - mean[compared]
    ranges = (high - low)[compared]
    allowed = bound + 2 * np.spacing(np.abs(parents).astype(np.float32)).astype(np.float64)
    size = np.abs(difference)
    worst = int(np.argmax(size - allowed))
    shift = float(np.median(difference))
    uneven = ranges > 0
    return Likeness(
        compared=len(rows),
        within=int((size <= allowed).sum()),
        largest_m=float(size.max()),
        worst=(int(rows[worst]), int(cols[worst])),
        total_m=float(difference[uneven].sum()),
        uneven=int(uneven.sum()),
        median_m=float(np.median(size)),
        shift_m=shift,
        spread_m=_DEVIATIONS * float(np.median(np.abs(difference - shift))),
        range_m=float(np.median(ranges)),
    )


@dataclass(frozen=True, slots=True)
class Straying:
    """How far a quarter of a parent lies outside what its child has there, over the pixels of one kind."""

    pixels: int
    beyond_m: float
    """Median of how far parents lie below the least or above the greatest of their four children."""
    shift_m: float
    """Median of parent less mean of the children."""
    range_m: float
    """Median of highest less lowest child."""
    largest_m: float
    """Largest difference from the mean, absolute."""
    worst: tuple[int, int]
    """(row, column) in the quarter where it is."""


def straying(quarter: Heights, child: Heights, mask: Mask) -> Straying | None:
    """Measure how far parents, shape (256, 256), lie outside the range of their children, shape (512, 512).

    Looks at the pixels that `mask` allows and both have; None where there are none.
    """
    low, high = _square_limits(child)
    looked_at = mask & np.isfinite(quarter) & np.isfinite(low)
    rows, cols = np.nonzero(looked_at)
    if not len(rows):
        return None
    parents = quarter[looked_at].astype(np.float64)
    least, most = low[looked_at], high[looked_at]
    difference = parents - halve(child)[looked_at]
    worst = int(np.argmax(np.abs(difference)))
    return Straying(
        pixels=len(rows),
        beyond_m=float(np.median(np.maximum(np.maximum(least - parents, parents - most), 0))),
        shift_m=float(np.median(difference)),
        range_m=float(np.median(most - least)),
        largest_m=float(np.abs(difference[worst])),
        worst=(int(rows[worst]), int(cols[worst])),
    )


def blend_slack_m(child: Heights, above: Heights, below: Heights, mask: Mask) -> float:
    """Return how far parents may lie from their children because both blend two sources in other shares.

    `above`, shape (256, 256), and `below`, shape (512, 512), are the second
    source's shares, 0..1, for parents and the heights `child`; 0 where only the
    first counts. How far the sources lie apart follows, in blocks of 16 x 16, from
    how heights and shares change together within 2 x 2 pixels; slopes along the
    band make that too large rather than too small.
    """
    mean_m, mean_share = halve(child), halve(below)
    rows, cols = np.nonzero(mask & np.isfinite(mean_m))
    if not len(rows):
        return 0.0
    blocks = rows // _BLEND_BLOCK_PX * HALF_PX + cols // _BLEND_BLOCK_PX
    along, squares = np.zeros(len(rows)), 0.0
    for row in (0, 1):
        for col in (0, 1):
            rise_m = np.nan_to_num(child[row::2, col::2][rows, cols] - mean_m[rows, cols])
            change = (below[row::2, col::2] - mean_share)[rows, cols].astype(np.float64)
            along += rise_m * change
            squares += float(change @ change)
    apart_m = float(np.abs(np.bincount(blocks, along)).sum()) / squares if squares else 0.0
    return _BLEND_MARGIN * apart_m * float(np.abs((above - mean_share)[rows, cols]).mean() + _SHARE_STEP)


def _square_limits(heights: Heights) -> tuple[Heights, Heights]:
    """Return the least and the greatest valid height of each 2 x 2 square, NaN where it has none."""
    one, two, three, four = (heights[row::2, col::2] for row in (0, 1) for col in (0, 1))
    low: Heights = np.fmin(np.fmin(one, two), np.fmin(three, four))
    high: Heights = np.fmax(np.fmax(one, two), np.fmax(three, four))
    return low, high


def missing_differs(quarter: Heights, child: Heights | None) -> int:
    """Return how many pixels of a parent's quarter are missing and should not be, or the other way round."""
    missing = np.isnan(quarter)
    if child is None:
        return int(np.count_nonzero(~missing))
    four = [np.isnan(child[row::2, col::2]) for row in (0, 1) for col in (0, 1)]
    return int(np.count_nonzero(missing != (four[0] & four[1] & four[2] & four[3])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """How two neighbouring tiles meet."""

    rows: int
    """Pixels along the border that were compared."""
    across_m: float
    """Sum of the absolute steps from one tile to the other."""
    inside_m: float
    """Sum of the absolute steps one pixel inside, the mean of both tiles."""
    jump_m: float
    """Median of how far the second tile lies above what the slopes on both sides let expect."""
    stands_out: bool
    """Whether jump or roughness at the border are far from what they are inside."""


def border(first: Heights, second: Heights, step_m: float, mask: Mask | None = None) -> Border | None:
    """Compare two tiles along their common border; None where too few pixels can be compared.

    Both have shape (n, 3): the three lines nearest to the border, the outermost
    first. `mask` has the same shape (n,) as the border and tells where to look.
    A border stands out where its jump is six times what chance makes of the
    spread along it, or where the curvature across it is four times that inside.
    """
    usable = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    if mask is not None:
        usable &= mask
    rows = int(np.count_nonzero(usable))
    if rows < _LEAST_ROWS:
        return None
    a0, a1, a2 = first[usable].astype(np.float64).T
    b0, b1, b2 = second[usable].astype(np.float64).T
    excess = (b0 - a0) - ((a0 - a1) + (b1 - b0)) / 2
    jump = float(np.median(excess))
    spread = _DEVIATIONS * float(np.median(np.abs(excess - jump)))
    across = np.median(np.abs(np.concatenate([b0 - 2 * a0 + a1, b1 - 2 * b0 + a0])))
    inside = np.median(np.abs(np.concatenate([a0 - 2 * a1 + a2, b0 - 2 * b1 + b2])))
    chance = spread / np.sqrt(rows / _CORRELATED_PX)
    return Border(
        rows=rows,
        across_m=float(np.abs(b0 - a0).sum()),
        inside_m=float((np.abs(a0 - a1) + np.abs(b1 - b0)).sum() / 2),
        jump_m=jump,
        stands_out=bool(abs(jump) > 6 * chance + 2 * step_m or across > 4 * inside + 4 * step_m),
    )


def edge(pixels: npt.NDArray[Scalar], side: str) -> npt.NDArray[Scalar]:
    """Return the lines of a tile along its `left`, `right`, `top` or `bottom`, the outermost first.

    The result has shape (512, 3, ...).
    """
    match side:
        case "left":
            return pixels[:, :STRIP_PX]
        case "right":
            return pixels[:, : -STRIP_PX - 1 : -1]
        case "top":
            return pixels[:STRIP_PX].swapaxes(0, 1)
        case _:
            return pixels[: -STRIP_PX - 1 : -1].swapaxes(0, 1)


def is_detailed(line: Heights, step_m: float) -> bool:
    """Tell whether a line of pixels, shape (n,), has more detail than one enlarged bilinearly.

    Enlarged by a power of two, the step across the middle of each coarse pixel
    is the mean of the steps beside it, at every second pixel or more. False also
    where the line is too straight to tell.
    """
    steps = np.diff(line.astype(np.float64))
    bends = np.abs(steps[1:-1] - (steps[:-2] + steps[2:]) / 2)
    return bool(min(np.median(bends[::2]), np.median(bends[1::2])) > _ROUNDED_BEND * step_m)


def beyond_earth(heights: Heights) -> Mask:
    """Return where heights are lower or higher than any on Earth; shape of `heights`."""
    with np.errstate(invalid="ignore"):
        return (heights < LOWEST_M) | (heights > HIGHEST_M)


def spikes(heights: Heights, pixel_m: float) -> list[tuple[int, int, float]]:
    """Return (row, column, metres above its surroundings) of single pixels and small groups that stick out.

    A pixel is taken for one where it lies above (or below) all four pixels two
    away, by more than 25 m and by more than two pixels' width on the ground
    (`pixel_m` each), and differs from their mean ten times as much as pixels
    usually do among the surrounding 17 x 17. Groups are named by the pixel that
    sticks out most; of many only the greatest are returned.
    """
    reach = _SPIKE_REACH
    padded = np.pad(heights, reach, constant_values=np.nan)
    rows, cols = heights.shape
    ring = [
        padded[reach + dy : reach + dy + rows, reach + dx : reach + dx + cols]
        for dy, dx in ((-reach, 0), (reach, 0), (0, -reach), (0, reach))
    ]
    high = np.fmax(np.fmax(ring[0], ring[1]), np.fmax(ring[2], ring[3]))
    low = np.fmin(np.fmin(ring[0], ring[1]), np.fmin(ring[2], ring[3]))
    least = max(_SPIKE_FLOOR_M, reach * pixel_m)
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(heights - high, low - heights)
        places = np.argwhere(beyond > least)
    if len(places) > _MOST_CANDIDATES:
        order = np.argsort(-beyond[places[:, 0], places[:, 1]], kind="stable")
        places = places[order[:_MOST_CANDIDATES]]
    if not len(places):
        return []
    bends = heights - _mean(ring)
    found: list[tuple[int, int, float]] = []
    for row, col in places.tolist():
        top, left = max(row - _SPIKE_WINDOW, 0), max(col - _SPIKE_WINDOW, 0)
        around = bends[top : row + _SPIKE_WINDOW + 1, left : col + _SPIKE_WINDOW + 1]
        usual = _DEVIATIONS * float(np.median(np.abs(around[np.isfinite(around)])))
        if abs(bends[row, col]) > _SPIKE_SCALES * usual:
            found.append((row, col, float(bends[row, col])))
    return _apart(found)


def _mean(ring: list[Heights]) -> Heights:
    """Return the mean of the valid ones of several arrays of one shape, NaN where none is."""
    count = sum((np.isfinite(one).astype(np.float32) for one in ring), np.float32(0))
    total = sum((np.nan_to_num(one) for one in ring), np.float32(0))
    with np.errstate(invalid="ignore"):
        mean: Heights = np.asarray(total / count, dtype=np.float32)
    return mean


def _apart(found: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Return the pixels that stick out most, without those within two pixels of one that is returned."""
    kept: list[tuple[int, int, float]] = []
    for one in sorted(found, key=lambda spike: -abs(spike[2])):
        if all(max(abs(one[0] - row), abs(one[1] - col)) > _SPIKE_REACH for row, col, _ in kept):
            kept.append(one)
        if len(kept) >= _MOST_SPIKES:
            break
    return kept
