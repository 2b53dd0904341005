"""Where the 2x2 blocks of a map go at first: along bands, each run of a band in its own phase.

A band is two rows of quadrants, cut into runs by the shape of the map. Along a run
2x2 blocks follow each other a quadrant apart. Several sets of bands are tried, what
room they leave for further blocks is used, and the cheapest is taken for each island.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from layer_generation.plan_cells import Cells, Indices, Mask, runs
from layer_generation.plan_filling import calls

_ALL_SLACKS_BELOW = 300_000


def allowed_corners(cells: Cells, finished: Mask) -> Mask:
    """Return (n + 1,) where a 2x2 may have its north-west quadrant.

    All four quadrants belong to the map, none is finished, and none of the eight beside it is.
    """
    corners = np.arange(cells.n)
    open_cells = cells.everywhere() & ~finished
    fits = np.all([open_cells[part] for part in cells.square(corners)], axis=0)
    fits &= ~np.any([finished[side] for side in cells.around_square(corners)], axis=0)
    return np.append(fits, False)


def banded(cells: Cells, finished: Mask, island: Indices) -> tuple[Indices, Indices]:
    """Return the corners of the cheapest banded packing of each island, and (islands,) what it costs."""
    allowed = allowed_corners(cells, finished)
    count = int(island.max()) + 1
    best = np.full(count, np.iinfo(np.int64).max)
    kept = np.zeros(cells.n, dtype=bool)
    slacks = (0, 1, 2) if cells.n < _ALL_SLACKS_BELOW else (0,)
    for rows in _row_choices(cells, finished, island):
        for slack in slacks:
            placed = _completed(cells, allowed, _band_corners(cells, finished, allowed, rows, slack))
            cost = _island_costs(cells, placed, finished, island, count)
            better = cost < best
            best = np.where(better, cost, best)
            mine = better[island]
            kept[mine] = False
            kept[placed[mine[placed]]] = True
    return np.flatnonzero(kept), best


def _island_costs(cells: Cells, corners: Indices, finished: Mask, island: Indices, count: int) -> Indices:
    """Return (count,) what each island costs."""
    price = calls(cells, corners, finished)
    return np.bincount(island, weights=price, minlength=count).astype(np.int64)


def _row_choices(cells: Cells, finished: Mask, island: Indices) -> list[Mask]:
    """Return (n,) masks of the quadrants in upper rows of bands: three lattices and one fitted."""
    lattices = [cells.y % 3 == phase for phase in range(3)]
    return [*lattices, _fitted_rows(cells, finished, island)]


def _band_corners(cells: Cells, finished: Mask, allowed: Mask, rows: Mask, slack: int) -> Indices:
    """Return corners a quadrant apart along the runs of all bands.

    A run that is longer than its blocks need has one or two quadrants to spare: at its end
    (`slack` 0), at its start (1), or, of two, one at each (2).
    """
    usable = cells.everywhere() & ~finished
    for side in (cells.east, cells.west, cells.north):
        usable &= ~finished[side]
    column = usable & usable[cells.south] & ~finished[cells.south[cells.south]]
    column[:-1] &= rows
    found, starts, lengths = runs(cells, column)
    spare = (lengths + 1) % 3
    first = np.repeat(np.choose(slack, [0 * spare, spare, spare // 2]), lengths)
    place = np.arange(len(found)) - np.repeat(starts, lengths) - first
    corners: Indices = found[(place >= 0) & (place % 3 == 0) & allowed[found]]
    return corners


def _completed(cells: Cells, allowed: Mask, corners: Indices) -> Indices:
    """Return the corners and more of them, until no further 2x2 fits."""
    taken = np.zeros(cells.n + 1, dtype=bool)
    taken[np.concatenate(cells.square(corners))] = True
    more = [corners]
    candidates = np.flatnonzero(allowed)
    candidates = candidates[_is_free(cells, taken, candidates)]
    for across in range(3):
        for down in range(3):
            turn = candidates[(cells.x[candidates] % 3 == across) & (cells.y[candidates] % 3 == down)]
            turn = turn[_is_free(cells, taken, turn)]
            taken[np.concatenate(cells.square(turn))] = True
            more.append(turn)
    return np.sort(np.concatenate(more))


def _is_free(cells: Cells, taken: Mask, corners: Indices) -> Mask:
    """Return at which corners a 2x2 neither covers nor touches by an edge what is taken."""
    free: Mask = ~np.any(taken[corner_reach(cells, corners)], axis=0)
    return free


def corner_reach(cells: Cells, corners: Indices) -> Indices:
    """Return (12, k) the four quadrants of the 2x2 at each corner, then the eight beside it."""
    return np.stack([*cells.square(corners), *cells.around_square(corners)])


def _fitted_rows(cells: Cells, finished: Mask, island: Indices) -> Mask:
    """Return (n,) the upper rows of the bands that cost least by a count of runs, for each island.

    Rows are cut into bands of two and gaps of one, never two bands without a gap. The cost of a
    band is that of its runs alone and of a gap likewise, so this is a first guess.
    """
    lines, line = np.unique(island * (int(cells.y.max()) + 2) + cells.y, return_inverse=True)
    open_cells = cells.everywhere() & ~finished
    band, gap = np.zeros(len(lines)), np.zeros(len(lines))
    column = open_cells & open_cells[cells.south]
    found, starts, lengths = runs(cells, column)
    np.add.at(band, line[found[starts]], lengths - (lengths + 1) // 3 - 2 * lengths)
    found, starts, lengths = runs(cells, open_cells)
    np.add.at(gap, line[found[starts]], lengths - (lengths + 1) // 3)
    size = np.bincount(line[found], minlength=len(lines))
    together = np.append(np.diff(lines) == 1, False)
    band += size + np.where(together, np.roll(size, -1), 0)
    return _cheapest_bands(band, gap, together)[line]


def _cheapest_bands(band: NDArray[np.float64], gap: NDArray[np.float64], together: Mask) -> Mask:
    """Return which lines begin a band in the cheapest cut of all lines into bands and gaps.

    `band` is (lines,) the cost of a band of a line and the next, `together` whether these touch.
    """
    bands, gaps, joins = band.tolist(), gap.tolist(), [False, *together.tolist()]
    after_gap, after_band = [0.0], [math.inf]
    for line, cost in enumerate(gaps):
        after_gap.append(min(after_gap[line], after_band[line]) + cost)
        above = line - 1
        if joins[line]:
            start = after_gap[above] if joins[above] else min(after_gap[above], after_band[above])
            after_band.append(start + bands[above])
        else:
            after_band.append(math.inf)
    begins = np.zeros(len(bands), dtype=bool)
    line, gap_only = len(gaps), False
    while line > 0:
        if gap_only or after_gap[line] <= after_band[line]:
            line, gap_only = line - 1, False
        else:
            line -= 2
            begins[line] = True
            gap_only = joins[line]
    return begins
