"""What the pixels of one raster hold: how many are valid, how high, and what cannot be a height.

Pure: arrays in, figures and sentences out. Each number is looked at once or
twice where a file is in order; only numbers that look like fill cost more.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.source_file import HUGE, missing, representable

LOWEST_M, HIGHEST_M = -12_000.0, 9_500.0
"""No place on Earth is lower or higher, with room for datums and noise."""
FILLS = (-9999.0, -32768.0, -32767.0, 32767.0, -99999.0, -999999.0)
"""Numbers that files are filled with, tagged or not."""
_ALONE = 500.0
"""A fill number is a height after all where others lie within this many units of it."""
_NEAR_ZERO_M = 50.0

Array = npt.NDArray[Any]


class Census:
    """Figures of the numbers of one file, fed window by window.

    `nodata` is in the unit of the file; height = number * `gain` + `shift`.
    """

    def __init__(self, nodata: float | None, gain: float, shift: float) -> None:
        self.pixels = 0
        self.valid = 0
        self._nodata = nodata
        self._gain, self._shift = gain, shift
        ends = sorted((metres - shift) / gain for metres in (LOWEST_M, HIGHEST_M))
        self._least, self._most = ends
        self._low, self._high = math.inf, -math.inf
        self._masked = False
        self._beyond: Counter[float] = Counter()
        """Of the numbers beyond any height, the commonest of each window."""
        self._beyond_total = 0
        self._fills: Counter[float] = Counter()
        self._beside_fill: set[float] = set()
        self._zeros = 0
        self._near_zero = False
        self._unheld = ""

    def feed(self, raw: Array, mask: npt.NDArray[np.uint8] | None) -> None:
        """Count one window: `raw` of any shape, `mask` in the same shape and 0 where absent."""
        self.pixels += raw.size
        if self._nodata is not None and representable(self._nodata, raw.dtype) is None:
            self._unheld = f", which {raw.dtype} cannot hold"
        self._masked |= mask is not None
        values, low, high = _valid(raw, mask, self._nodata)
        if values.size == 0:
            return
        self.valid += values.size
        self._low, self._high = min(self._low, low), max(self._high, high)
        for number in FILLS:
            if low - _ALONE <= number <= high + _ALONE:
                self._count_fill(values, number)
        if low < self._least or high > self._most:
            beyond = values[(values < self._least) | (values > self._most)]
            numbers, counts = np.unique(beyond, return_counts=True)
            self._beyond[float(numbers[counts.argmax()])] += int(counts.max())
            self._beyond_total += beyond.size
        if self._nodata is None and mask is None and not self._near_zero:
            self._count_zeros(values, low, high)

    @property
    def heights_m(self) -> tuple[float, float]:
        """The least and the greatest height in metres; nan where no pixel is valid."""
        if not self.valid:
            return math.nan, math.nan
        low, high = sorted(end * self._gain + self._shift for end in (self._low, self._high))
        return low, high

    def problem(self) -> str | None:
        """Return what is wrong with the heights, in one clause with its remedy, or None."""
        if self._beyond:
            number, count = self._beyond.most_common(1)[0]
            if number in FILLS or abs(number) >= HUGE or 2 * count >= self._beyond_total > 1:
                return self._untagged(number, count)
            low, high = self.heights_m
            return (
                f"heights run from {low:g} to {high:g} m, beyond any on Earth: "
                "set nodata, unit_factor or offset_m in source.toml"
            )
        for number, count in self._fills.most_common():
            if number not in self._beside_fill:
                return self._untagged(number, count)
        return None

    def suspicion(self) -> str | None:
        """Return a warning where 0 looks like fill that no nodata tag declares, or None."""
        if self._nodata is not None or self._masked or self._near_zero or not 0 < self._zeros < self.valid:
            return None
        return (
            f"0 looks like fill ({_share(self._zeros, self.pixels)} of the pixels, no other height within "
            f"{_NEAR_ZERO_M:g} m): set nodata = 0 in source.toml if so"
        )

    def _untagged(self, number: float, count: int) -> str:
        tag = (
            "there is no nodata tag" if self._nodata is None else f"nodata is {self._nodata:g}{self._unheld}"
        )
        text = f"{number:.8g}"
        return (
            f"pixels hold {text} ({_share(count, self.pixels)} of them) but {tag}: set nodata in source.toml"
        )

    def _count_fill(self, values: Array, number: float) -> None:
        equal = int(np.count_nonzero(values == number))
        if equal:
            self._fills[number] += equal
        if number not in self._beside_fill:
            around = np.count_nonzero((values >= number - _ALONE) & (values <= number + _ALONE))
            if around > equal:
                self._beside_fill.add(number)

    def _count_zeros(self, values: Array, low: float, high: float) -> None:
        limit = _NEAR_ZERO_M / abs(self._gain)
        if low > 0 or high < 0:
            self._near_zero = min(abs(low), abs(high)) <= limit
            return
        zeros = int(np.count_nonzero(values == 0))
        around = np.count_nonzero((values >= -limit) & (values <= limit))
        self._zeros += zeros
        self._near_zero = bool(around > zeros)


def _valid(raw: Array, mask: Array | None, nodata: float | None) -> tuple[Array, float, float]:
    """Return the valid numbers of a window with their least and greatest.

    The window itself comes back, uncopied, where all of it is valid.
    """
    low, high = float(raw.min()), float(raw.max())
    if mask is None or mask.all():
        absent = missing(raw, nodata) if _may_be_missing(raw, low, high, nodata) else None
        if absent is None or not absent.any():
            return raw, low, high
    else:
        absent = missing(raw, nodata)
        absent = mask == 0 if absent is None else absent | (mask == 0)
    values = raw[~absent]
    if values.size == 0:
        return values, math.nan, math.nan
    return values, float(values.min()), float(values.max())


def _may_be_missing(raw: Array, low: float, high: float, nodata: float | None) -> bool:
    """Tell, from its extremes, whether a window can hold an absent number."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return True
    number = representable(nodata, raw.dtype)
    if number is None or math.isnan(number):
        return False
    slack = abs(number) * 1e-6  # a nodata is rounded to the type of the array
    return low - slack <= number <= high + slack or max(-low, high) >= HUGE


def _share(count: int, total: int) -> str:
    percent = 100 * count / total
    return f"{percent:.1f} %" if percent >= 0.05 else "under 0.1 %"
