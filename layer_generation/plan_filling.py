"""What is left of a map once its 2x2 blocks are placed: strips, then single quadrants.

A strip (1x2 or 2x1) is as wide as the picture sent to the model in one direction. So
its short ends must touch nothing finished, one long side must be finished, and the
other must be wholly finished or not at all, or a finished neighbour would lie outside
the picture and show as a seam. A single needs a 2x2 window whose other three
quadrants are finished. Where one at its corner is not, between two that are, its
picture shows that one unfinished, since it shows all that is finished beside it.

Blocks are placed in passes; those of one pass do not touch. A block's wave is one
more than that of the latest block of its step that it touches, so waves keep the
order of all that touch and are as few as that order allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from layer_generation.plan_cells import Cells, Indices, Mask

_STRIP_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Filling:
    """Strips and singles over a map whose 2x2 blocks are placed.

    `strips` are the (s,) north-west quadrants, `vertical` says which go downwards, and
    `strip_waves` count from 0. `singles` are (k,), with `single_waves`; `legal` says which of
    them have a window of three finished quadrants when their turn comes, `whole` which of them
    have a picture that shows all their finished neighbours and nothing unfinished.
    """

    strips: Indices
    vertical: Mask
    strip_waves: Indices
    singles: Indices
    single_waves: Indices
    legal: Mask
    whole: Mask


def filled(cells: Cells, corners: Indices, finished: Mask) -> Filling:
    """Return strips and singles for all that neither `corners` nor `finished` cover.

    `corners` are the north-west quadrants of the 2x2 blocks; `finished` is an (n + 1,) mask of
    quadrants that earlier blocks cover.
    """
    done = finished.copy()
    done[np.concatenate(cells.square(corners))] = True
    wave = np.full(cells.n + 1, -1)
    strips, vertical = [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for downwards, heads in _strip_passes(cells, done):
        tails = (cells.south if downwards else cells.east)[heads]
        wave[heads] = wave[tails] = 1 + np.maximum(_latest(cells, wave, heads), _latest(cells, wave, tails))
        strips.append(heads)
        vertical.append(np.full(len(heads), downwards))
    heads = np.concatenate(strips)
    return Filling(heads, np.concatenate(vertical), wave[heads], *_singles(cells, done))


def calls(cells: Cells, corners: Indices, finished: Mask) -> Indices:
    """Return (n,) what each quadrant adds to the price of a map, one for each block's first quadrant.

    A single without context costs two, so that a search prefers maps that need none.
    """
    done = finished.copy()
    done[np.concatenate(cells.square(corners))] = True
    price = np.where(done[:-1], 0, 1)
    price[corners] = 1
    for downwards, heads in _strip_passes(cells, done):
        price[(cells.south if downwards else cells.east)[heads]] = 0
    left = np.flatnonzero(~done[:-1])
    while len(left):
        fits = _has_window(cells, done, left)
        if not fits.any():
            break
        done[left[fits]] = True
        left = left[~fits]
    price[left] = 2
    return price


def _latest(cells: Cells, wave: Indices, numbers: Indices) -> Indices:
    """Return the latest wave among what shares an edge with each quadrant, -1 for none."""
    sides = (cells.east, cells.west, cells.south, cells.north)
    latest: Indices = np.max([wave[side[numbers]] for side in sides], axis=0)
    return latest


def _strip_passes(cells: Cells, done: Mask) -> Iterator[tuple[bool, Indices]]:
    """Yield (downwards, first quadrants) of strips that can be placed next, and mark them in `done`."""
    rest = np.flatnonzero(~done[:-1])
    for _ in range(_STRIP_ROUNDS):
        before = len(rest)
        for downwards in (True, False):
            ahead = cells.south if downwards else cells.east
            line = cells.x if downwards else cells.y
            for parity in (0, 1):
                heads = _strips(cells, done, rest[(line[rest] & 1) == parity], downwards)
                if len(heads):
                    done[heads] = done[ahead[heads]] = True
                    yield downwards, heads
        rest = rest[~done[rest]]
        if len(rest) == before:
            return


def _strips(cells: Cells, done: Mask, heads: Indices, downwards: bool) -> Indices:
    """Return the first quadrants of as many strips along lines as there is room for."""
    if downwards:
        ahead, back, left, right, rank = cells.south, cells.north, cells.west, cells.east, cells.column_rank
    else:
        ahead, back, left, right, rank = cells.east, cells.west, cells.north, cells.south, cells.row_rank
    tails = ahead[heads]
    room = (tails < cells.n) & ~done[heads] & ~done[tails] & ~done[back[heads]] & ~done[ahead[tails]]
    heads, tails = heads[room], tails[room]
    if not len(heads):
        return heads
    left_head, left_tail = done[left[heads]], done[left[tails]]
    right_head, right_tail = done[right[heads]], done[right[tails]]
    left_all, right_all = left_head & left_tail, right_head & right_tail
    sides = (left_all & (right_all | ~(right_head | right_tail))) | (right_all & ~(left_head | left_tail))
    heads = heads[sides]
    heads = heads[np.argsort(rank[heads], kind="stable")]
    line, place = (cells.x, cells.y) if downwards else (cells.y, cells.x)
    return heads[_spaced(line[heads], place[heads])]


def _spaced(line: Indices, place: Indices) -> Mask:
    """Choose places on each line, three or more apart, from the first on; both are sorted."""
    if not len(line):
        return np.zeros(0, dtype=bool)
    unbroken = (line[1:] == line[:-1]) & (place[1:] == place[:-1] + 1)
    starts = np.flatnonzero(np.append(True, ~unbroken))
    run = np.cumsum(np.append(True, ~unbroken)) - 1
    chosen: Mask = (np.arange(len(line)) - starts[run]) % 3 == 0
    while True:
        kept = np.flatnonzero(chosen)
        close = (line[kept][1:] == line[kept][:-1]) & (place[kept][1:] - place[kept][:-1] < 3)
        late = np.flatnonzero(close) + 1
        if not len(late):
            return chosen
        chosen[kept[late[np.append(True, np.diff(late) > 1)]]] = False


def _quarters(cells: Cells) -> tuple[tuple[Indices, Indices, Indices], ...]:
    """Return, for each 2x2 window of a quadrant: its neighbour sideways, up or down, and across."""
    return (
        (cells.east, cells.south, cells.southeast),
        (cells.west, cells.south, cells.southwest),
        (cells.east, cells.north, cells.northeast),
        (cells.west, cells.north, cells.northwest),
    )


def _has_window(cells: Cells, done: Mask, numbers: Indices) -> Mask:
    """Return which quadrants have a 2x2 window whose other three are done."""
    found = np.zeros(len(numbers), dtype=bool)
    for sideways, upright, across in _quarters(cells):
        found |= done[sideways[numbers]] & done[upright[numbers]] & done[across[numbers]]
    return found


def _seamless(cells: Cells, done: Mask, numbers: Indices) -> Mask:
    """Return which quadrants can be in a picture together with all that is done beside them."""
    fits = np.ones(len(numbers), dtype=bool)
    for sideways, upright, across in _quarters(cells):
        both = done[sideways[numbers]] & done[upright[numbers]]
        fits &= ~both | done[across[numbers]]
    fits &= done[cells.east[numbers]] | done[cells.west[numbers]]
    fits &= done[cells.south[numbers]] | done[cells.north[numbers]]
    return fits


def in_window(cells: Cells) -> Mask:
    """Return (n,) which quadrants lie in some 2x2 window of the map."""
    return _has_window(cells, cells.everywhere(), np.arange(cells.n))


def _singles(cells: Cells, done: Mask) -> tuple[Indices, Indices, Mask, Mask]:
    """Return all that is not done as singles in an order that gives context; their waves, `legal`, `whole`.

    Seamless ones go first, then those with any window, then, only where none is left, the ones
    nearest to having one. Quadrants in no window of the map come last.
    """
    rest = np.flatnonzero(~done[:-1])
    wave = np.full(cells.n + 1, -1)
    placed, legal, whole = [np.zeros(0, np.int64)], [np.zeros(0, bool)], [np.zeros(0, bool)]
    while len(rest):
        ready = _has_window(cells, done, rest)
        turn = ready & _seamless(cells, done, rest)
        whole_turn = bool(turn.any())
        if not turn.any():
            turn = ready if ready.any() else _nearest(cells, done, rest)
        chosen = _apart(cells, rest[turn])
        wave[chosen] = 1 + np.max([wave[side[chosen]] for side in cells.ring()], axis=0)
        done[chosen] = True
        placed.append(chosen)
        legal.append(np.full(len(chosen), ready.any()))
        whole.append(np.full(len(chosen), whole_turn))
        rest = rest[~done[rest]]
    singles = np.concatenate(placed)
    return singles, wave[singles], np.concatenate(legal), np.concatenate(whole)


def _apart(cells: Cells, numbers: Indices) -> Indices:
    """Choose quadrants that do not touch, not even by a corner, and leave none that could be added."""
    taken = np.zeros(cells.n + 1, dtype=bool)
    for parity in range(4):
        turn = numbers[(cells.x[numbers] & 1) + 2 * (cells.y[numbers] & 1) == parity]
        touches = np.any([taken[side[turn]] for side in cells.ring()], axis=0)
        taken[turn[~touches]] = True
    return numbers[taken[numbers]]


def _nearest(cells: Cells, done: Mask, rest: Indices) -> Mask:
    """Return which quadrants lack least for a window, or all where none can ever have one."""
    exists = cells.everywhere()
    lack = np.full(len(rest), 4)
    for window in _quarters(cells):
        whole = np.all([exists[side[rest]] for side in window], axis=0)
        missing = np.sum([~done[side[rest]] for side in window], axis=0)
        lack = np.where(whole, np.minimum(lack, missing), lack)
    least: Mask = lack == lack.min()
    return least
