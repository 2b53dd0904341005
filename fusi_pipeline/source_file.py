"""The record of one raster of a source, and how its numbers become heights.

Pure: arrays and values; a raster is never opened here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.grid import XYBounds

AUTO_MAXZOOM_CAP = 17
"""The highest zoom that is chosen without being asked for."""
_BAND_ROWS = 256
HUGE = 1e30
"""Beyond this no number is a height; a nodata this large matches every number as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One usable raster of a source, as the scan found it."""

    filename: str
    """Relative to the source folder, posix."""
    size_bytes: int
    mtime_ns: int
    fingerprint: str
    """SHA-256 (hex) of the content of the file and of `parts`."""
    crs: str
    """The horizontal CRS as WKT."""
    transform: tuple[float, float, float, float, float, float]
    """Affine a, b, c, d, e, f: x = a*col + b*row + c, y = d*col + e*row + f."""
    width: int
    height: int
    dtype: str
    nodata: float | None
    """Effective number for absence, in the unit of the file; see `missing`."""
    scale: float
    """Band scale and offset: value = number * scale + offset."""
    offset: float
    has_mask: bool
    """The file has a mask band or an alpha band of its own."""
    valid_pixels: int
    minimum: float
    """Least height in metres, after scale, unit factor and offset, before a conversion to another vertical
    CRS; nan when no pixel is valid."""
    maximum: float
    box: XYBounds
    """Clamped to the web-mercator square; left > right across the antimeridian."""
    maxzoom: int
    """Zoom whose pixels are no larger than the file's, capped at AUTO_MAXZOOM_CAP."""
    warnings: tuple[str, ...] = ()
    parts: tuple[tuple[str, int, int], ...] = ()
    """Sidecars and members: (path as from the source folder, bytes, mtime_ns)."""
    vertical_crs: str = ""
    """What the file's own CRS says that heights are counted from, as a code or WKT; empty for nothing."""
    sketch: str = "1x1:f0"
    """Where in the file there is anything, and where that is flat (see `sketch`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenFile:
    """One file of a source that cannot be used, and why."""

    filename: str
    problem: str
    size_bytes: int
    mtime_ns: int


def missing(raw: npt.NDArray[Any], nodata: float | None) -> npt.NDArray[np.bool_] | None:
    """Return where numbers of a file stand for absence, in the shape of `raw`; None for nowhere.

    NaN and infinity are always absent. A nodata that the type cannot hold
    matches nothing; one beyond HUGE matches every number that large with its
    sign, for -3.4e38 is written with any number of digits.
    """
    if raw.dtype.kind in "iub":
        number = representable(nodata, raw.dtype)
        return None if number is None else np.equal(raw, number)
    absent: npt.NDArray[np.bool_] = ~np.isfinite(raw)
    if nodata is None or math.isnan(nodata):
        return absent
    if abs(nodata) >= HUGE:
        absent |= raw >= HUGE if nodata > 0 else raw <= -HUGE
    else:
        with np.errstate(over="ignore"):
            absent |= raw == raw.dtype.type(nodata)
    return absent


def representable(nodata: float | None, dtype: np.dtype[Any]) -> float | int | None:
    """Return a nodata as a number that an array of `dtype` can hold, or None."""
    if nodata is None or dtype.kind == "f":
        return nodata
    if not math.isfinite(nodata) or nodata != int(nodata):
        return None
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(np.uint8)
    return int(nodata) if limits.min <= nodata <= limits.max else None


def heights_m(
    raw: npt.NDArray[Any],
    mask: npt.NDArray[np.uint8] | None,
    file: SourceFile,
    unit_factor: float = 1.0,
    offset_m: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Return the heights in metres of numbers read from a file, NaN where absent.

    `mask` is the file's own mask band in the shape of `raw`, 0 where absent.
    """
    gain, shift = metres_per_number(file.scale, file.offset, unit_factor, offset_m)
    absent = missing(raw, file.nodata)
    with np.errstate(over="ignore", invalid="ignore"):
        if gain == 1.0 and shift == 0.0:
            heights = raw.astype(np.float32)
        else:
            heights = np.empty(raw.shape, dtype=np.float32)
            for row in range(0, raw.shape[0], _BAND_ROWS):  # in bands, for float64 takes memory
                band = slice(row, row + _BAND_ROWS)
                heights[band] = raw[band].astype(np.float64) * gain + shift
    if absent is not None:
        heights[absent] = np.nan
    if mask is not None:
        heights[mask == 0] = np.nan
    return heights


def metres_per_number(
    scale: float, offset: float, unit_factor: float, offset_m: float
) -> tuple[float, float]:
    """Return (gain, shift): height = number * gain + shift, in metres."""
    return scale * unit_factor, offset * unit_factor + offset_m
