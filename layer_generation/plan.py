"""The plan of a layer: which blocks cover a map, in which order, after which neighbours.

Step 1 has 2x2 blocks that touch no other by an edge, step 2 strips (1x2, 2x1) beside
finished blocks, step 3 single quadrants. Within a step, blocks of one wave touch nothing of
each other's picture, so all of them may be under way at once. A plan is a value; it
knows no database, model or file. The rules of the blocks are in `plan_filling`,
where the 2x2 go is found by `plan_packing` and
`plan_search`, and `plan_bound` says how few calls there can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layer_generation.errors import QuadrantsInvalid
from layer_generation.plan_bound import fewest_calls
from layer_generation.plan_cells import Cells, Indices, Mask, cells_of, islands, sorted_positions
from layer_generation.plan_filling import filled, in_window
from layer_generation.plan_order import waits
from layer_generation.plan_packing import banded
from layer_generation.plan_search import searched

LIMIT = 2**30
TYPES = ("2x2", "1x2", "2x1", "1x1")

Numbers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a plan costs. A call is one block.

    `calls_per_step` and `waves_per_step` are for steps 1, 2, 3, `calls_by_type` for the names in
    `TYPES`. No plan of blocks with context has fewer than `lower_bound` calls; blocks that an
    earlier plan has fixed count in full. `without_context` blocks have a reason; so have those that
    see a corner unfinished, which are not counted here.
    """

    quadrants: int
    calls: int
    calls_per_step: tuple[int, int, int]
    calls_by_type: Mapping[str, int]
    waves_per_step: tuple[int, int, int]
    lower_bound: int
    without_context: int

    @property
    def calls_per_quadrant(self) -> float:
        """Return calls by quadrants, 0 for an empty map; 4/9 is the least on an endless map."""
        return self.calls / self.quadrants if self.quadrants else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Blocks in the order they are made: by extension, step, wave, then row by row.

    All arrays but `waits_for` are (blocks,). `x`, `y` are a block's north-west quadrant, `width`
    and `height` its size in quadrants. `wave` counts from 0 within a step, `extension` is 0 for
    what was planned first. `waits_for` is (m, 2): a block and one it waits for, sorted; the latter
    has the smaller number. `reason` says, by number, why a block has no context when its turn comes, or
    sees something unfinished beside it. It speaks of the map as it was planned: an extension leaves it.
    """

    step: Numbers
    wave: Numbers
    x: Numbers
    y: Numbers
    width: Numbers
    height: Numbers
    extension: Numbers
    waits_for: Numbers
    reason: Mapping[int, str]
    summary: Summary

    def __len__(self) -> int:
        return len(self.step)

    def quadrants(self) -> Indices:
        """Return (n, 2) positions of all quadrants, block by block."""
        return _quadrants(self.x, self.y, self.width, self.height)[0]


CORNER_UNFINISHED = (
    "a quadrant at its corner was not in the map when planned, or is drawn after it: its picture shows"
    " that unfinished"
)
"""The reason of a single that has context on all sides, but for a corner."""
_NO_WINDOW = (
    "the map had no 2x2 quadrants around this one when planned, so nothing can be its context on two sides"
)
_NO_SEED = (
    "no 2x2 that would finish three quadrants of a window around this one fitted beside its neighbours"
    " when planned"
)


class _Blocks(NamedTuple):
    """Blocks by the number of their first quadrant."""

    first: Indices
    step: Indices
    wave: Indices
    width: Indices
    height: Indices
    legal: Mask
    whole: Mask


def plan(quadrants: ArrayLike) -> Plan:
    """Return the plan of a map.

    `quadrants` are (n, 2) whole numbers x, y from -2^30 to 2^30, in any order; twice is once. The same
    set gives the same plan, and a moved map the moved plan. Raises QuadrantsInvalid.
    """
    return extend(_empty(), quadrants)


def extend(earlier: Plan, quadrants: ArrayLike) -> Plan:
    """Return the earlier plan and, behind it, blocks for those quadrants that it does not cover.

    Blocks keep their numbers. The new ones take the earlier for finished: they wait for those they
    touch and have them as context. Raises QuadrantsInvalid.
    """
    old = earlier.quadrants()
    positions = sorted_positions(np.concatenate([old, _checked(quadrants)]))
    if len(positions) == len(old):
        return earlier
    origin = positions.min(axis=0)
    cells = cells_of(positions - origin)
    finished = cells.mask(_places(positions, old))
    blocks = _in_order(cells, _covering(cells, finished))
    return _behind(earlier, cells, finished, blocks, origin)


def _empty() -> Plan:
    none = np.zeros(0, dtype=np.int32)
    nothing = Summary(0, 0, (0, 0, 0), dict.fromkeys(TYPES, 0), (0, 0, 0), 0, 0)
    return Plan(none, none, none, none, none, none, none, np.zeros((0, 2), np.int32), {}, nothing)


def _checked(quadrants: ArrayLike) -> Indices:
    """Return the positions as an array. Raises QuadrantsInvalid."""
    positions = np.asarray(quadrants)
    if positions.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise QuadrantsInvalid(f"an array of shape {positions.shape}", "rows of x and y")
    if positions.dtype.kind not in "iu":
        raise QuadrantsInvalid(f"an array of {positions.dtype}", "whole numbers")
    far = np.any((positions < -LIMIT) | (positions > LIMIT), axis=1)
    if far.any():
        x, y = positions[np.argmax(far)].tolist()
        raise QuadrantsInvalid(f"quadrant ({x}, {y})", f"x and y from {-LIMIT} to {LIMIT}")
    return positions.astype(np.int64)


def _places(positions: Indices, wanted: Indices) -> Indices:
    """Return where the wanted positions are among the sorted ones."""
    span = int(np.ptp(positions[:, 0])) + 1
    origin = positions.min(axis=0)

    def key(some: Indices) -> Indices:
        across, down = (some - origin).T
        keys: Indices = down * span + across
        return keys

    return np.searchsorted(key(positions), key(wanted))


def _quadrants(x: Numbers, y: Numbers, width: Numbers, height: Numbers) -> tuple[Indices, Indices]:
    """Return (n, 2) positions of the quadrants of blocks, block by block, and (n,) the block of each."""
    found, owners = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for right in (0, 1):
        for down in (0, 1):
            held = np.flatnonzero((width > right) & (height > down))
            found.append(
                np.stack([x[held].astype(np.int64) + right, y[held].astype(np.int64) + down], axis=1)
            )
            owners.append(held)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(found)[order], owner[order]


def _covering(cells: Cells, finished: Mask) -> _Blocks:
    """Return blocks for all unfinished quadrants; each island has its bands along rows or columns."""
    island = islands(cells)
    along_rows, row_cost = banded(cells, finished, island)
    along_columns, column_cost = banded(cells.transposed(), finished, island)
    by_rows = (row_cost <= column_cost)[island]
    parts = []
    for turned, corners, members in ((False, along_rows, by_rows), (True, along_columns, ~by_rows)):
        numbers = np.flatnonzero(members)
        if len(numbers):
            part = cells if members.all() else cells_of(np.stack([cells.x, cells.y], axis=1)[numbers])
            mine = part.mask(np.searchsorted(numbers, corners[members[corners]]))
            blocks = _part_blocks(part, np.append(finished[numbers], False), mine, turned)
            parts.append(blocks._replace(first=numbers[blocks.first]))
    return _Blocks(
        first=np.concatenate([part.first for part in parts]),
        step=np.concatenate([part.step for part in parts]),
        wave=np.concatenate([part.wave for part in parts]),
        width=np.concatenate([part.width for part in parts]),
        height=np.concatenate([part.height for part in parts]),
        legal=np.concatenate([part.legal for part in parts]),
        whole=np.concatenate([part.whole for part in parts]),
    )


def _part_blocks(cells: Cells, finished: Mask, corners: Mask, turned: bool) -> _Blocks:
    """Return blocks for islands whose bands run along rows, or along columns if `turned`."""
    unfinished = ~finished[:-1]
    windowed = in_window(cells)[unfinished]
    floor = fewest_calls(np.stack([cells.x, cells.y], axis=1)[unfinished], windowed)
    floor += int(np.count_nonzero(~windowed))
    seen = cells.transposed() if turned else cells
    squares = searched(seen, finished, np.flatnonzero(corners[:-1]), floor)
    rest = filled(seen, squares, finished)
    tall = rest.vertical ^ turned
    counts = [len(squares), len(rest.strips), len(rest.singles)]
    return _Blocks(
        first=np.concatenate([squares, rest.strips, rest.singles]),
        step=np.repeat([1, 2, 3], counts),
        wave=np.concatenate([np.zeros(counts[0], np.int64), rest.strip_waves, rest.single_waves]),
        width=np.concatenate([np.full(counts[0], 2), np.where(tall, 1, 2), np.ones(counts[2], np.int64)]),
        height=np.concatenate([np.full(counts[0], 2), np.where(tall, 2, 1), np.ones(counts[2], np.int64)]),
        legal=np.concatenate([np.ones(counts[0] + counts[1], bool), rest.legal]),
        whole=np.concatenate([np.ones(counts[0] + counts[1], bool), rest.whole]),
    )


def _in_order(cells: Cells, blocks: _Blocks) -> _Blocks:
    """Return the blocks by step, wave, row and column."""
    order = np.lexsort((cells.x[blocks.first], cells.y[blocks.first], blocks.wave, blocks.step))
    return _Blocks(
        first=blocks.first[order],
        step=blocks.step[order],
        wave=blocks.wave[order],
        width=blocks.width[order],
        height=blocks.height[order],
        legal=blocks.legal[order],
        whole=blocks.whole[order],
    )


def _behind(earlier: Plan, cells: Cells, finished: Mask, blocks: _Blocks, origin: Indices) -> Plan:
    """Return a plan of the earlier blocks and the new ones behind them; `origin` is added to positions."""

    def column(before: Numbers, added: Indices) -> Numbers:
        both = np.concatenate([before, added]).astype(np.int32)
        both.setflags(write=False)
        return both

    extension = int(earlier.extension.max(initial=-1)) + 1
    step, wave = column(earlier.step, blocks.step), column(earlier.wave, blocks.wave)
    x = column(earlier.x, cells.x[blocks.first] + origin[0])
    y = column(earlier.y, cells.y[blocks.first] + origin[1])
    width, height = column(earlier.width, blocks.width), column(earlier.height, blocks.height)
    grid = np.stack([cells.x, cells.y], axis=1)
    held, owner = _quadrants(x, y, width, height)
    block = np.empty(cells.n, dtype=np.int64)
    block[_places(grid, held - origin)] = owner
    added_waits = waits(cells, block, step[block] == 3, len(earlier))
    reason = {**earlier.reason, **_reasons(cells, blocks, len(earlier))}
    without_context = sum(why != CORNER_UNFINISHED for why in reason.values())
    unfinished = ~finished[:-1]
    bound = len(earlier) + fewest_calls(grid[unfinished], in_window(cells)[unfinished])
    return Plan(
        step=step,
        wave=wave,
        x=x,
        y=y,
        width=width,
        height=height,
        extension=column(earlier.extension, np.full(len(blocks.first), extension)),
        waits_for=column(earlier.waits_for, added_waits),
        reason=reason,
        summary=_summary(step, wave, width, height, bound, without_context),
    )


def _reasons(cells: Cells, blocks: _Blocks, offset: int) -> dict[int, str]:
    """Return why blocks have no context, or less than all, by their number in the plan."""
    less = np.flatnonzero(~blocks.whole)
    windowed, legal = in_window(cells)[blocks.first[less]], blocks.legal[less]
    return {
        int(number) + offset: CORNER_UNFINISHED if seen else _NO_SEED if inside else _NO_WINDOW
        for number, inside, seen in zip(less, windowed, legal, strict=True)
    }


def _summary(
    step: Numbers, wave: Numbers, width: Numbers, height: Numbers, bound: int, without_context: int
) -> Summary:
    kinds = {name: (width == int(name[0])) & (height == int(name[2])) for name in TYPES}
    return Summary(
        quadrants=int(np.sum(width * height)),
        calls=len(step),
        calls_per_step=_of_steps(np.bincount(step, minlength=4).tolist()),
        calls_by_type={name: int(np.count_nonzero(kind)) for name, kind in kinds.items()},
        waves_per_step=_of_steps([len(np.unique(wave[step == number])) for number in range(4)]),
        lower_bound=bound,
        without_context=without_context,
    )


def _of_steps(figures: Sequence[int]) -> tuple[int, int, int]:
    return figures[1], figures[2], figures[3]
