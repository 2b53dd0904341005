"""Bits of a VP8L stream that Python writes between those of the kernels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.native import kernel
from fusi_pipeline.tiles.vp8l_workspace import Workspace


class Writer:
    """Bits of a picture, from the lowest on."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        self.handles = (space.at["state"], space.at["out"])
        space["state"][:] = 0
        self._put = kernel("put")

    def put(self, value: int, bits: int) -> None:
        """Write a number of up to 30 bits."""
        self._put(*self.handles, value, bits)

    def mark(self) -> npt.NDArray[np.int64]:
        """Return where the writer is, for `rewind`."""
        return self.space["state"].copy()

    def bits(self) -> int:
        """Return how many bits were written so far."""
        return int(32 * self.space["state"][2] + self.space["state"][1])

    def rewind(self, mark: npt.NDArray[np.int64]) -> None:
        """Go on from a mark, as if nothing had been written after it."""
        self.space["state"][:] = mark

    def written(self) -> bytes:
        """Return everything written so far."""
        size = kernel("finish")(*self.handles)
        return self.space["out"].view(np.uint8)[:size].tobytes()
