"""A shaded picture of heights: hypsometric tint under light from several directions. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.resample import Heights

_LIGHTS_DEG = ((225.0, 0.15), (270.0, 0.25), (315.0, 0.4), (360.0, 0.2))
"""Azimuth of each light and its share; after the multidirectional shading of Mark (1992)."""
_ALTITUDE_DEG = 40.0
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


def shade(heights: Heights, pixel_m: float, exaggeration: float | None = None) -> npt.NDArray[np.uint8]:
    """Return a picture of heights, shape (rows, cols, 4): RGB and alpha 0 where missing.

    `heights` has shape (rows, cols) in metres, NaN where missing; `pixel_m` is
    the ground length of a pixel. Without an `exaggeration` one is chosen so that
    the relief can be seen.
    """
    valid = ~np.isnan(heights)
    picture = np.zeros((*heights.shape, 4), dtype=np.uint8)
    if not valid.any():
        return picture
    surface = np.where(valid, heights, np.float32(np.nanmean(heights))).astype(np.float64)
    down, right = np.gradient(surface, pixel_m)
    slope = np.hypot(down, right)
    if exaggeration is None:
        steep = float(np.percentile(slope[valid], 90))
        exaggeration = float(np.clip(0.6 / steep, 1.0, 25.0)) if steep > 0 else 1.0
    light = _light(-right * exaggeration, down * exaggeration)
    tint = _tint(surface, valid)
    shaded = tint * (0.35 + 0.85 * light[..., None])
    picture[..., :3] = np.clip(np.rint(shaded), 0, 255)
    picture[..., 3] = np.where(valid, 255, 0)
    return picture


def _light(east: Any, north: Any) -> npt.NDArray[np.float64]:
    """Return the light on a surface of given (east, north) normal components, 0..1."""
    length = np.sqrt(east * east + north * north + 1.0)
    altitude = np.radians(_ALTITUDE_DEG)
    total = np.zeros(east.shape)
    for azimuth_deg, share in _LIGHTS_DEG:
        azimuth = np.radians(azimuth_deg)
        towards = (
            east * np.sin(azimuth) * np.cos(altitude)
            + north * np.cos(azimuth) * np.cos(altitude)
            + np.sin(altitude)
        )
        total += share * np.maximum(towards / length, 0.0)
    return total


def _tint(surface: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the colour of each height, shape (rows, cols, 3); 0 m and below as water."""
    low, high = np.percentile(surface[valid], (1, 99.5))
    base = max(float(low), 0.0)
    share = np.clip((surface - base) / max(float(high) - base, 1.0), 0.0, 1.0)
    tint = np.stack([np.interp(share, _RAMP[:, 0], _RAMP[:, band]) for band in (1, 2, 3)], axis=-1)
    below = surface <= 0
    if below.any():
        depth = np.clip(1.0 - surface / min(float(low), -1.0), 0.0, 1.0)
        water = np.stack(
            [np.interp(depth, _WATER_RAMP[:, 0], _WATER_RAMP[:, band]) for band in (1, 2, 3)], axis=-1
        )
        tint[below] = water[below]
    return tint
