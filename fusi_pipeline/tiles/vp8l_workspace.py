"""Memory of the VP8L encoder: the arrays its kernels work in, one set a thread, kept between pictures.

Fresh memory costs more than what is done in it. Addresses are taken once for
each array, as that is most of what a call of a kernel costs in Python.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import pointer
from fusi_pipeline.tiles.vp8l_alphabets import GREENS, GROUP, LANES, LARGEST_CACHE

BUCKETS = 4096
LEAVES = 4096
COSTS = 4096
_LARGEST_PALETTE = 256


class Workspace(threading.local):
    """Named arrays, and in `at` the address of each."""

    def __init__(self) -> None:
        self.room = 0
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "state": np.zeros(4, np.int64),
            "counts": np.empty(BUCKETS, np.uint32),
            "bucket_costs": np.empty(BUCKETS, np.uint16),
            "histogram": np.empty(LANES * GROUP, np.uint32),
            "histogram of one": np.empty(GROUP, np.uint32),
            "table": np.empty(LANES * GROUP, np.uint32),
            "costs": np.empty(LANES * GROUP, np.uint16),
            "sums": np.empty(LANES, np.uint32),
            "cache": np.empty(LARGEST_CACHE, np.uint32),
            "work": np.empty(8 * LEAVES, np.int64),
            "lengths": np.empty(GREENS, np.uint8),
            "tokens": np.empty(GREENS, np.uint16),
            "small": np.empty(64, np.uint32),
            "short": np.empty(32, np.uint8),
            "hashed": np.empty(2048, np.uint32),
            "palette": np.empty(_LARGEST_PALETTE + 1, np.uint32),
            "no zero": np.zeros(1, np.uint8),
            "one group": np.zeros(1, np.uint8),
        }
        self.hold(_LARGEST_PALETTE)

    def hold(self, count: int) -> None:
        """Make room for `count` pixels."""
        if count <= self.room:
            return
        self.room = count
        self._arrays |= {
            "colors": np.empty(count + 1, np.uint32),
            "indexed": np.empty(count + 1, np.uint32),
            "residuals": np.empty(count + 1, np.uint32),
            "values": np.empty(count, np.uint32),
            "symbols": np.empty(count, np.uint16),
            "parameters": np.empty(count, np.uint32),
            "parameter values": np.empty(count, np.uint32),
            "parameter symbols": np.empty(count, np.uint16),
            "modes": np.empty(count, np.uint8),
            "zero": np.empty(count, np.uint8),
            "groups": np.empty(count, np.uint8),
            "order": np.empty(COSTS + count, np.uint32),
            "out": np.empty(2 * count + 16384, np.uint32),
        }
        self.at = {name: pointer(array) for name, array in self._arrays.items()}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]
