"""A shaded picture of heights: hypsometric tint under light from several directions. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.resample import Heights

_LIGHTS_DEG = ((225.0, 0.15), (270.0, 0.25), (315.0, 0.4), (360.0, 0.2))
"""Azimuth of each light and its share; after the multidirectional shading of Mark (1992)."""
_ALTITUDE_DEG = 40.0
_DIFFUSE, _AMBIENT = 0.85, 0.35
_SHALLOW_M = -100.0
"""Water that is nowhere deeper does not get the darkest blue."""
_RAMP = np.array(
    [
        (0.00, 112, 148, 112),
        (0.15, 160, 182, 126),
        (0.35, 222, 210, 158),
        (0.60, 190, 156, 116),
        (0.80, 160, 134, 120),
        (1.00, 246, 246, 246),
    ]
)
_WATER_RAMP = np.array([(0.0, 28, 58, 104), (0.7, 84, 132, 176), (1.0, 150, 190, 214)])


def shade(
    heights: Heights,
    pixel_m: float,
    exaggeration: float | None = None,
    span_m: tuple[float, float] | None = None,
) -> npt.NDArray[np.uint8]:
    """Return a picture of heights, shape (rows, cols, 4): RGB and alpha 0 where missing.

    `heights` has shape (rows, cols) in metres, NaN where missing; `pixel_m` is
    the ground length of a pixel. Without an `exaggeration` or a `span_m`, the
    heights of the lowest and highest tint, those that suit the heights are
    chosen: pictures to be compared are given the same.
    """
    valid = ~np.isnan(heights)
    picture = np.zeros((*heights.shape, 4), dtype=np.uint8)
    if not valid.any():
        return picture
    surface = _filled(heights, valid)
    down, right = _slopes(surface, pixel_m)
    if exaggeration is None:
        exaggeration = _suiting(down, right, valid)
    down *= np.float32(exaggeration)
    right *= np.float32(-exaggeration)
    light = _light(right, down)
    light *= np.float32(_DIFFUSE)
    light += np.float32(_AMBIENT)
    tint = _tint(surface, span_of(heights) if span_m is None else span_m)
    for band in range(3):
        picture[..., band] = np.clip(np.rint(tint[..., band] * light), 0, 255)
    picture[..., 3] = np.where(valid, 255, 0)
    return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliefStyle:
    """What pictures of neighbouring places have in common, so that nothing shows where they meet."""

    exaggeration: float
    """Factor of heights in the shading."""
    low_m: float
    """Height of the lowest tint; below 0 that of the deepest water."""
    high_m: float
    """Height of the highest tint."""


def style_of(samples: Iterable[tuple[Heights, float]]) -> ReliefStyle:
    """Return the style that suits places, of which samples are given with the ground length of a pixel."""
    surfaces, slopes = [], []
    for heights, pixel_m in samples:
        valid = ~np.isnan(heights)
        if valid.any():
            surface = _filled(heights, valid)
            surfaces.append(heights[valid])
            slopes.append(np.hypot(*_slopes(surface, pixel_m))[valid & (surface > 0)])
    if not surfaces:
        return ReliefStyle(exaggeration=1.0, low_m=0.0, high_m=1.0)
    known, steep = np.concatenate(surfaces), np.concatenate(slopes)
    land = known[known > 0]
    low = float(np.percentile(known, 1))
    high = float(np.percentile(land, 99.5)) if land.size else 1.0
    relief = _suiting_slopes(steep) if steep.size else 1.0
    return ReliefStyle(
        exaggeration=round(relief, 2), low_m=round(low, 1), high_m=round(max(high, low + 1), 1)
    )


def shade_within(
    heights: Heights, pixel_m: npt.NDArray[np.float32], style: ReliefStyle
) -> npt.NDArray[np.uint8]:
    """Return the picture, shape (rows, cols, 3), of what lies inside a margin of one pixel.

    `heights` has shape (rows + 2, cols + 2) in metres, NaN where missing;
    `pixel_m`, shape (rows,), is the ground length of a pixel in each row inside.
    Each pixel depends on the 3 x 3 heights around it, its row and the style
    and on nothing else. Heights of 0 m and below and missing ones are level
    water, and ground goes on level where it meets that: a hole in the data
    shows no cliff.
    """
    inside = heights[1:-1, 1:-1]
    ground = np.where(heights > 0, heights, np.float32(np.nan))
    down, right = _slopes_within(ground, pixel_m[:, None])
    light = _light(right * np.float32(-style.exaggeration), down * np.float32(style.exaggeration))
    light[~(inside > 0)] = math.sin(math.radians(_ALTITUDE_DEG))
    light *= np.float32(_DIFFUSE)
    light += np.float32(_AMBIENT)
    surface = np.nan_to_num(inside, nan=0.0)
    tint = _tint(surface, (style.low_m, style.high_m), min(style.low_m, _SHALLOW_M))
    picture: npt.NDArray[np.uint8] = np.clip(np.rint(tint * light[..., None]), 0, 255).astype(np.uint8)
    return picture


def exaggeration_of(heights: Heights, pixel_m: float) -> float:
    """Return the exaggeration that shows the relief of heights; 1 where there are none."""
    valid = ~np.isnan(heights)
    if not valid.any():
        return 1.0
    down, right = _slopes(_filled(heights, valid), pixel_m)
    return _suiting(down, right, valid)


def span_of(heights: Heights) -> tuple[float, float]:
    """Return the heights of the lowest and highest tint, extremes left out; (0, 1) where there are none."""
    valid = heights[~np.isnan(heights)]
    if not valid.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(valid, (1, 99.5)))
    return low, high


def _filled(heights: Heights, valid: npt.NDArray[np.bool_]) -> Heights:
    """Return heights with their mean where they are missing."""
    return np.where(valid, heights, np.float32(np.nanmean(heights)))


def _slopes(surface: Heights, pixel_m: float) -> tuple[Heights, Heights]:
    """Return the rise per metre down and to the right."""
    down, right = np.gradient(surface, np.float32(pixel_m))
    return np.asarray(down), np.asarray(right)


def _slopes_within(surface: Heights, pixel_m: npt.NDArray[np.float32]) -> tuple[Heights, Heights]:
    """Return the rise per metre down and to the right inside a margin of one pixel, by Horn's differences.

    A missing neighbour counts as high as the pixel itself.
    """
    inside = surface[1:-1, 1:-1]
    rows, cols = inside.shape
    around = {
        (row, col): surface[1 + row : 1 + row + rows, 1 + col : 1 + col + cols]
        for row in (-1, 0, 1)
        for col in (-1, 0, 1)
    }
    if np.isnan(surface).any():
        around = {place: np.where(np.isnan(one), inside, one) for place, one in around.items()}
    two, eight = np.float32(2), np.float32(8)
    right = (around[-1, 1] - around[-1, -1]) + two * (around[0, 1] - around[0, -1])
    right += around[1, 1] - around[1, -1]
    down = (around[1, -1] - around[-1, -1]) + two * (around[1, 0] - around[-1, 0])
    down += around[1, 1] - around[-1, 1]
    return down / (eight * pixel_m), right / (eight * pixel_m)


def _suiting(down: Heights, right: Heights, valid: npt.NDArray[np.bool_]) -> float:
    """Return the exaggeration by which slopes can be seen."""
    return _suiting_slopes(np.hypot(down, right)[valid])


def _suiting_slopes(slopes: Heights) -> float:
    steep = float(np.percentile(slopes, 90))
    return float(np.clip(0.6 / steep, 1.0, 25.0)) if steep > 0 else 1.0


def _light(east: Heights, north: Heights) -> Heights:
    """Return the light on a surface of given (east, north) normal components, 0..1."""
    length = np.sqrt(east * east + north * north + np.float32(1))
    altitude = math.radians(_ALTITUDE_DEG)
    total = np.zeros(east.shape, dtype=np.float32)
    for azimuth_deg, share in _LIGHTS_DEG:
        azimuth = math.radians(azimuth_deg)
        towards = east * np.float32(math.sin(azimuth) * math.cos(altitude))
        towards += north * np.float32(math.cos(azimuth) * math.cos(altitude))
        towards += np.float32(math.sin(altitude))
        towards /= length
        total += np.float32(share) * np.maximum(towards, 0)
    return total


def _tint(
    surface: Heights, span_m: tuple[float, float], deepest_m: float | None = None
) -> npt.NDArray[np.uint8]:
    """Return the colour of each height, shape (rows, cols, 3); 0 m and below as water.

    The darkest water is at `deepest_m`, or else at the lowest height of the span.
    """
    low, high = span_m
    base = max(low, 0.0)
    tint = _colours(_RAMP)[_levels((surface - np.float32(base)) / np.float32(max(high - base, 1.0)))]
    water = surface <= 0
    if water.any():
        depth = 1 - surface[water] / np.float32(min(low, -1.0) if deepest_m is None else deepest_m)
        tint[water] = _colours(_WATER_RAMP)[_levels(depth)]
    return tint


def _levels(share: Heights) -> npt.NDArray[np.uint8]:
    """Return shares of 0..1 as indices into a table of 256 colours."""
    levels: npt.NDArray[np.uint8] = np.clip(share * np.float32(255), 0, 255).astype(np.uint8)
    return levels


def _colours(ramp: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return a ramp as a table, shape (256, 3)."""
    share = np.linspace(0, 1, 256)
    columns = [np.interp(share, ramp[:, 0], ramp[:, band]) for band in (1, 2, 3)]
    return np.rint(np.stack(columns, axis=-1)).astype(np.uint8)
