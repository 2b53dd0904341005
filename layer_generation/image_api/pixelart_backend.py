"""`pixelart`: the embedded stylizer as a backend, which runs anywhere and needs no model.

With a picture to start from it redraws that in the colours that the prompt
names, as `builtin:pixelart` does; without one it first makes up a coast with
hills, which follows from prompt and seed alone. Sampler, cfgScale and strength
mean nothing to it; a step is a band of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from layer_generation.endpoints.pixelart import CELL_PX, PALETTES, palette_of, stylized
from layer_generation.image_api.backend import SAMPLERS, Picture, Pixels, Report

Field = npt.NDArray[np.float32]

_GRIDS = (3, 6, 12, 24, 48)
"""Cells across the longer side of each octave of the made-up heights."""
_SEA = 0.46
_WATER = np.array([[18, 52, 92], [52, 118, 158], [140, 200, 208]], dtype=np.float32)
_LAND = np.array(
    [[222, 208, 160], [110, 156, 78], [62, 112, 58], [120, 100, 76], [150, 146, 140], [246, 248, 250]],
    dtype=np.float32,
)


class PixelArtBackend:
    """Draws without a model; the same picture asked for twice is drawn the same."""

    name = "pixelart"
    models = ("pixelart",)
    samplers = SAMPLERS

    def draw(self, picture: Picture, report: Report) -> Pixels:
        """Return the picture, shape (height, width, 3)."""
        report("loading", 0, 1)
        source = picture.image if picture.image is not None else scene(picture)
        report("loading", 1, 1)
        palette = PALETTES[palette_of(picture.prompt)]
        drawn = np.empty_like(source)
        edges = np.linspace(0, -(-picture.height // CELL_PX), picture.steps + 1).astype(int) * CELL_PX
        for step, (top, bottom) in enumerate(pairwise(edges.tolist())):
            report("diffusion", step, picture.steps)
            if bottom > top:
                rows = slice(top, bottom)
                mask = None if picture.mask is None else picture.mask[rows]
                drawn[rows] = stylized(source[rows], mask, palette, picture.seed, CELL_PX, (0, top))
        report("diffusion", picture.steps, picture.steps)
        report("decoding", 0, 1)
        return drawn


def opened(_options: Mapping[str, object]) -> PixelArtBackend:
    """Return the backend; it has no options."""
    return PixelArtBackend()


def scene(picture: Picture) -> Pixels:
    """Return a coast with hills that follows from prompt and seed, shape (height, width, 3)."""
    told = f"{picture.seed}\0{picture.prompt}\0{picture.negative_prompt}".encode()
    key = np.frombuffer(hashlib.blake2b(told, digest_size=32).digest(), dtype=np.uint32)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key.tolist())))
    heights = _heights(picture.height, picture.width, random)
    rise = np.gradient(heights, axis=0) + np.gradient(heights, axis=1) if min(heights.shape) > 1 else 0
    shade = np.clip(1 - np.asarray(rise, dtype=np.float32) * np.float32(max(heights.shape) * 0.35), 0.55, 1.3)
    land = heights > _SEA
    color = _ramp(_WATER, heights / np.float32(_SEA))
    color[land] = (_ramp(_LAND, (heights - _SEA) / np.float32(1 - _SEA)) * shade[..., None])[land]
    out: Pixels = np.clip(color, 0, 255).astype(np.uint8)
    return out


def _heights(rows: int, cols: int, random: np.random.Generator) -> Field:
    """Return smooth random heights of 0..1, shape (rows, cols), as a sum of octaves."""
    total = np.zeros((rows, cols), dtype=np.float32)
    longer = max(rows, cols)
    for octave, cells in enumerate(_GRIDS):
        grid = random.random((cells + 2, cells + 2), dtype=np.float32)
        y, x = (np.arange(count, dtype=np.float32) * np.float32(cells / longer) for count in (rows, cols))
        total += _smooth(grid, y, x) * np.float32(0.5**octave)
    low, high = total.min(), total.max()
    scaled: Field = (total - low) / max(high - low, np.float32(1e-6))
    return scaled


def _smooth(grid: Field, y: Field, x: Field) -> Field:
    """Return a grid sampled at rows y and columns x, eased between its points, shape (len(y), len(x))."""
    row, col = y.astype(np.intp), x.astype(np.intp)
    v, u = (part * part * (3 - 2 * part) for part in (y - row, x - col))
    upper = grid[row] * (1 - v)[:, None] + grid[row + 1] * v[:, None]
    sampled: Field = upper[:, col] * (1 - u) + upper[:, col + 1] * u
    return sampled


def _ramp(colors: Field, place: Field) -> Field:
    """Return the colours at places of 0..1 along a ramp of shape (n, 3), shape (..., 3)."""
    where = np.clip(place, 0, 1) * (len(colors) - 1)
    low = np.minimum(where.astype(np.intp), len(colors) - 2)
    part = (where - low)[..., None].astype(np.float32)
    ramp: Field = colors[low] * (1 - part) + colors[low + 1] * part
    return ramp
