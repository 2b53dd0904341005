"""Where in a raster there is anything, and where that is flat: a few shares, found while it is read through.

The raster is cut into cells. Of each, some runs of pixels along a row are looked
at: one whose pixels are equal is flat, as water is; tiles of it cost next to
nothing. Pure: arrays and values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.source_file import missing

_CELL_PX = 1024
_MOST_CELLS = 16
"""Along each side."""
_RUN_PX = 32
_EVERY_ROW = 8
_LEVELS = 15
"""Shares are kept as one hexadecimal digit."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A part of a raster, by shares of its width and height from the upper left pixel, and what is in it."""

    left: float
    right: float
    top: float
    bottom: float
    rough: float
    """Share of the cell with valid pixels that differ from their neighbours."""
    flat: float
    """Share with valid pixels that are equal."""


class Sketcher:
    """Looks at a raster, window by window."""

    def __init__(self, width: int, height: int, nodata: float | None) -> None:
        self._cols = min(-(-width // _CELL_PX), _MOST_CELLS)
        self._rows = min(-(-height // _CELL_PX), _MOST_CELLS)
        self._lefts = np.arange(self._cols + 1) * width // self._cols
        self._tops = np.arange(self._rows + 1) * height // self._rows
        self._nodata = nodata
        self._counts = np.zeros((self._rows, self._cols, 3), dtype=np.int64)
        """Runs in each cell: looked at, rough, flat."""

    def feed(
        self, raw: npt.NDArray[Any], mask: npt.NDArray[np.uint8] | None, col_off: int, row_off: int
    ) -> None:
        """Look at one window, whose upper left pixel is given; `mask` is 0 where absent."""
        rows, cols = raw.shape
        for row in _met(self._tops, row_off, rows):
            for col in _met(self._lefts, col_off, cols):
                down = slice(
                    max(self._tops[row] - row_off, 0), max(self._tops[row + 1] - row_off, 0), _EVERY_ROW
                )
                across = slice(max(self._lefts[col] - col_off, 0), max(self._lefts[col + 1] - col_off, 0))
                part = None if mask is None else mask[down, across]
                self._counts[row, col] += _runs(raw[down, across], part, self._nodata)

    def text(self) -> str:
        """Return the sketch: columns, rows and two digits for each cell, row by row."""
        looked = np.maximum(self._counts[..., :1], 1)
        shares = np.rint(self._counts[..., 1:] / looked * _LEVELS).astype(int)
        return f"{self._cols}x{self._rows}:" + "".join(f"{share:x}" for share in shares.ravel().tolist())


def cells(sketch: str) -> Iterator[Cell]:
    """Yield the cells of a sketch in which there is anything."""
    size, _, digits = sketch.partition(":")
    cols, rows = map(int, size.split("x"))
    for number in range(cols * rows):
        rough, flat = (int(digit, 16) / _LEVELS for digit in digits[2 * number : 2 * number + 2])
        row, col = divmod(number, cols)
        if rough or flat:
            yield Cell(col / cols, (col + 1) / cols, row / rows, (row + 1) / rows, rough, flat)


def _met(edges: npt.NDArray[np.int64], start: int, length: int) -> range:
    """Return the cells along one side that an interval meets."""
    first = int(edges.searchsorted(start, "right")) - 1
    return range(first, int(edges.searchsorted(start + length, "left")))


def _runs(
    raw: npt.NDArray[Any], mask: npt.NDArray[np.uint8] | None, nodata: float | None
) -> tuple[int, int, int]:
    """Return how many runs there are, how many of them are rough, and how many flat."""
    run = min(_RUN_PX, raw.shape[1])
    if not raw.size:
        return 0, 0, 0
    count = raw.shape[1] // run
    runs = raw[:, : count * run].reshape(raw.shape[0], count, run)
    first = np.ascontiguousarray(runs[..., 0])
    absent = missing(first, nodata)
    valid = np.ones(first.shape, bool) if absent is None else ~absent
    if mask is not None:
        valid &= mask[:, : count * run : run] != 0
    flat = int(np.count_nonzero(valid & (runs.max(axis=2) == runs.min(axis=2))))
    return valid.size, int(np.count_nonzero(valid)) - flat, flat
