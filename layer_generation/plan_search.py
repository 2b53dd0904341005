"""A cheaper place for the 2x2 blocks of a map, by packing small windows anew.

Windows lie apart on a lattice that moves from round to round. In each, the blocks whose
corner its core holds are taken out and packed again from one of eight directions, some
places left out. What is not dearer is kept, so the search also walks along plateaus.
What looks random is a hash of the round and the place: a map has one plan.
"""

from __future__ import annotations

import numpy as np

from layer_generation.plan_cells import Cells, Indices, Mask
from layer_generation.plan_filling import calls
from layer_generation.plan_packing import allowed_corners, corner_reach

_PERIOD = 12
_CORE = (3, 8)
_SEARCH_CELLS = 6_000_000
_SEARCH_ROUNDS = (25, 1000)
_PATIENCE = (25, 100)


def searched(cells: Cells, finished: Mask, corners: Indices, floor: int) -> Indices:
    """Return corners that are not dearer than `corners`.

    The search ends when it has found nothing for a while, or at the price `floor`, which nothing can
    be below. Its length goes by the number of quadrants, never by a clock; maps too large for a few
    rounds are not searched.
    """
    allowed, reach = allowed_corners(cells, finished), corner_reach(cells, np.arange(cells.n))
    price = calls(cells, corners, finished)
    placed = cells.mask(corners)
    since, patience = 0, int(np.clip(cells.n // 5, *_PATIENCE))
    few, many = _SEARCH_ROUNDS
    rounds = min(many, _SEARCH_CELLS // cells.n)
    for round_number in range(rounds if rounds >= few else 0):
        if price.sum() <= floor or since > patience:
            break
        windows, inside, order = _windows(cells, round_number)
        trial = _repacked(allowed, reach, placed, inside, order)
        tried, cost = _kept(cells, finished, placed, trial, windows, price)
        since = 0 if cost.sum() < price.sum() else since + 1
        placed, price = tried, cost
    return np.flatnonzero(placed[:-1])


def _noise(numbers: Indices, salt: int) -> Indices:
    """Return 62 bits that look random for each number (splitmix64), the same on every machine."""
    z = numbers.astype(np.uint64) + np.uint64(salt + 1) * np.full(1, 0x9E3779B97F4A7C15, np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    noise: Indices = ((z ^ (z >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)
    return noise


def _windows(cells: Cells, salt: int) -> tuple[Indices, Indices, Indices]:
    """Return (n,) the window of each quadrant, the (k,) quadrants to pack anew, and their order, (k,).

    Quadrants of one window have different places in the order, or -1 where they are left out.
    """
    shift_x, shift_y = (_noise(np.arange(2), salt) % _PERIOD).tolist()
    x, y = cells.x + shift_x, cells.y + shift_y
    key = (y // _PERIOD) * (int(x.max()) // _PERIOD + 1) + x // _PERIOD
    window = key if key.max() < 4 * cells.n + 64 else np.unique(key, return_inverse=True)[1]
    dice = _noise(window, salt)
    low, high = _CORE
    width, height = low + dice % (high - low), low + (dice >> 8) % (high - low)
    across, down = x % _PERIOD - (_PERIOD - width) // 2, y % _PERIOD - (_PERIOD - height) // 2
    inside = np.flatnonzero((across >= 0) & (across < width) & (down >= 0) & (down < height))
    dice, across, down = dice[inside], across[inside], down[inside]
    across = np.where(dice >> 16 & 1, across, _PERIOD - across)
    down = np.where(dice >> 17 & 1, down, _PERIOD - down)
    order = np.where(dice >> 18 & 1, across * _PERIOD * 2 + down, down * _PERIOD * 2 + across)
    left_out = _noise(inside, salt) % 100 < np.array([0, 15, 40])[(dice >> 20) % 3]
    return window, inside, np.where(left_out, -1, order)


def _repacked(allowed: Mask, reach: Indices, placed: Mask, inside: Indices, order: Indices) -> Mask:
    """Return (n + 1,) corners after those inside are taken out and packed again in order.

    `reach` is (12, n), for each corner what its 2x2 covers and touches.
    """
    trial = placed.copy()
    trial[inside] = False
    taken = np.zeros_like(trial)
    taken[reach[:4, np.flatnonzero(trial)]] = True
    turn = np.flatnonzero((order >= 0) & allowed[inside])
    turn = turn[np.argsort(order[turn], kind="stable")]
    for candidates in np.split(inside[turn], np.flatnonzero(np.diff(order[turn])) + 1):
        fits = candidates[~taken[reach[:, candidates]].any(axis=0)]
        trial[fits] = True
        taken[reach[:4, fits]] = True
    return trial


def _kept(
    cells: Cells, finished: Mask, placed: Mask, trial: Mask, window: Indices, price: Indices
) -> tuple[Mask, Indices]:
    """Return the corners and prices after all windows of the trial that are not dearer are taken over.

    Strips reach out of their window, so windows that are cheaper alone may be dearer together; those
    that are, and those beside them, are left as they were.
    """
    count = int(window.max()) + 1
    cost = calls(cells, np.flatnonzero(trial[:-1]), finished)
    taken = np.bincount(window, weights=cost - price, minlength=count) <= 0
    for _ in range(4):
        mixed = trial
        if not taken.all():
            mixed = placed.copy()
            mixed[:-1] = np.where(taken[window], trial[:-1], placed[:-1])
            cost = calls(cells, np.flatnonzero(mixed[:-1]), finished)
        if cost.sum() <= price.sum():
            return mixed, cost
        dearer = np.append((np.bincount(window, weights=cost - price, minlength=count) > 0)[window], False)
        taken[window[dearer[:-1]]] = False
        for side in cells.ring():
            taken[window[dearer[side[:-1]]]] = False
    return placed, price
