"""Which block of a plan waits for which: every earlier block that it touches."""

from __future__ import annotations

import numpy as np

from layer_generation.plan_cells import Cells, Indices, Mask


def waits(cells: Cells, block: Indices, single: Mask, first: int) -> Indices:
    """Return (m, 2) sorted pairs: a block, from `first` on, and an earlier one that it waits for.

    `block` is (n,) the number of each quadrant's block, in the order they are made; `single` is (n,).
    Blocks that share an edge wait, the later for the earlier. A single's picture reaches over its
    corners too, so it also waits for what it touches by a corner; the pictures of strips do not.
    """
    pairs = []
    for number, side in enumerate(cells.ring()):
        here = np.flatnonzero((side[:-1] < cells.n) & (block >= first))
        if number >= 4:
            here = here[single[here]]
        later, sooner = block[here], block[side[here]]
        waiting = sooner < later
        pairs.append(later[waiting] * (int(block.max()) + 1) + sooner[waiting])
    key = np.unique(np.concatenate(pairs))
    return np.stack(np.divmod(key, int(block.max()) + 1), axis=1)
