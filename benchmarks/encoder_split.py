"""Where the CPU of fusi's WebP encoder goes, by kernel, in milliseconds a tile.

Every kernel is timed at each call, of `rounds` encodings of a tile the least counts; what is
left of the whole is Python, with the clock.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles import native, vp8l

Pixels = npt.NDArray[np.uint8]


def split(tiles: list[Pixels], rounds: int) -> dict[str, float]:
    """Return milliseconds a tile by kernel, the most first; "python" is the rest."""
    spent: dict[str, float] = defaultdict(float)

    @cache
    def timed(name: str) -> Callable[..., Any]:
        kernel = native.kernel(name)

        def call(*arguments: Any) -> Any:
            started = time.thread_time()
            result = kernel(*arguments)
            spent[name] += time.thread_time() - started
            return result

        return call

    sums: dict[str, float] = defaultdict(float)
    with patch.object(vp8l, "kernel", timed):
        for pixels in tiles:
            for name, least_s in _least(pixels, rounds, spent).items():
                sums[name] += least_s
    ordered = sorted(sums.items(), key=lambda one: -one[1])
    return {name: round(1000 * seconds / len(tiles), 3) for name, seconds in ordered}


def _least(pixels: Pixels, rounds: int, spent: dict[str, float]) -> dict[str, float]:
    """Return seconds by kernel, of each the least over the rounds."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        spent.clear()
        started = time.thread_time()
        vp8l.encode(pixels, any_picture=True)
        spent["python"] = time.thread_time() - started - sum(spent.values())
        for name, seconds in spent.items():
            least[name] = min(least.get(name, seconds), seconds)
    return least
