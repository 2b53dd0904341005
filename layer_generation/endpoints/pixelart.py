"""`builtin:pixelart`: an embedded image-to-image stylizer, so that a layer can be drawn without any model.

Every cell of some pixels gets one colour of a small palette, which depends on
nothing but the mean colour of the cell's own source and on its place. So blocks
that are drawn apart meet without a seam.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layer_generation.endpoints.base import (
    PLACE,
    EditRequest,
    EditResult,
    EndpointCancelled,
    EndpointPermanent,
    Pixels,
    Stop,
)
from layer_generation.errors import EndpointInvalid

Colors = npt.NDArray[np.float32]

CELL_PX = 4
_CELLS_PX = (1, 2, 4, 8, 16)
"""Divisors of a quadrant: a cell never lies on two of them."""
_LUMA = (0.299, 0.587, 0.114)
_WEIGHTS = (0.9, 1.2, 0.7)
"""How much a difference in red, green and blue is seen."""
_SPREAD = 0.09
"""How far dithering moves a colour before the nearest of the palette is taken, of 0..1."""
_GRAIN = 0.3
"""How far the seed moves the threshold of a cell, of 1."""
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """A season or a light."""

    colors: str
    """Hexadecimal, separated by blanks."""
    words: tuple[str, ...]
    """What a prompt says for it."""
    saturation: float = 1.0
    gain: float = 1.0
    """Of all channels, after the gamma."""
    gamma: float = 1.0
    cover: str = ""
    """Colour that lies on the land, hexadecimal."""
    covered: float = 0.0
    """How much of the land's own colour it hides, 0..1."""


PALETTES: Mapping[str, Palette] = {
    "summer": Palette(
        colors="17324f 24557d 3f86b0 7fbcd4 b8dfe6 1c3522 2f572c 4f7f35 7dab45 aecd68 d9e6a0"
        " 4f3a2b 7f6140 b08c58 dcbf86 34343a 66666b 9b9a95 d2cfc4 f8f4e8",
        words=("summer", "sunny", "green", "day"),
        saturation=1.25,
    ),
    "spring": Palette(
        colors="1d3f5a 2f6b93 5aa0c4 9fd0e0 24452c 3f6f37 69a04a 9cc86a cfe69a f3d9e2 e8a8c0 c87a9c"
        " 5a4636 927656 c9ab80 eadbb8 45454a 8a8a8c c6c4be fbf8f0",
        words=("spring", "blossom", "blossoms", "bloom", "cherry"),
        saturation=1.15,
        gain=1.06,
    ),
    "autumn": Palette(
        colors="182c3d 2f566e 6792a0 a9c3c4 33190f 5f2a14 93421a c4632a e2923a f0bf5c f8e09a"
        " 45401e 766c2c a89a48 2b2626 625751 9e9184 d6c9b6 f7eedd",
        words=("autumn", "fall", "october", "harvest", "foliage"),
        saturation=1.2,
        cover="c9742c",
        covered=0.68,
    ),
    "winter": Palette(
        colors="132238 294464 527699 92b4d0 c2d8e6 262f38 434e59 6b7884 97a4af bfcad4 dce5ed f0f5f9"
        " ffffff 463c3a 8c807c",
        words=("winter", "snow", "snowy", "ice", "icy", "frost", "frozen", "december", "january"),
        saturation=0.6,
        gain=1.12,
        cover="f4f8fc",
        covered=0.8,
    ),
    "night": Palette(
        colors="04060d 0a1022 121c3a 1c2c56 2a447a 4268a4 6f94c8 a9c4e4 081613 102a24 1d4436 31624a"
        " 151019 2a2130 473a4c 6b5a6c f6c667 fde7a8",
        words=("night", "midnight", "moonlight", "moonlit", "dark", "nocturnal"),
        saturation=0.8,
        gain=0.62,
        gamma=1.25,
    ),
    "sepia": Palette(
        colors="1b120a 352415 523a22 745433 977148 b89264 d2b288 e6d0ac f4e6cb fdf6e6",
        words=("sepia", "vintage", "antique", "parchment", "old"),
        saturation=0.0,
    ),
    "desert": Palette(
        colors="20384c 41708a 8ab4b8 3a2418 663c22 94592f c07c42 dca25e ecc486 f7e2b4 fdf3d8 5c6a38"
        " 8c9450 3c3532 75685e aa9c8c",
        words=("desert", "arid", "sand", "sandy", "dune", "dunes"),
        cover="e2b878",
        covered=0.5,
    ),
}
DEFAULT_PALETTE = "summer"
_WORDS = {word: name for name, palette in PALETTES.items() for word in palette.words}


class PixelArt:
    """The embedded stylizer. The same request has the same answer."""

    size_multiple = 1
    takes_mask = True

    def __init__(self, name: str, params: Mapping[str, Any] | None = None) -> None:
        """Take what of the requests is always the same. Raises EndpointInvalid."""
        self.name = name
        self._params = dict(params or {})
        wrong = _wrong_params(self._params)
        if wrong:
            raise EndpointInvalid(name, f"params: {wrong}")

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture redrawn; what the mask leaves out is returned as it is."""
        if stop.is_set():
            raise EndpointCancelled("stopped before the picture")
        params = {**self._params, **request.params}
        palette = params.get("palette") or palette_of(request.prompt)
        cell_px = params.get("cell_px", CELL_PX)
        left, top = (params.get(name, 0) for name in PLACE)
        wrong = _wrong_params(params)
        if wrong:
            raise EndpointPermanent(wrong)
        if type(left) is not int or type(top) is not int:
            raise EndpointPermanent(f"{', '.join(PLACE)} = {left!r}, {top!r}: expected whole numbers")
        seed = request.seed or 0
        image = stylized(request.image, request.mask, PALETTES[palette], seed, cell_px, (left, top))
        return EditResult(image=image, seed=seed)

    def probe(self) -> None:
        """Do nothing: it is always there."""

    def close(self) -> None:
        """Do nothing: it holds nothing."""


def _wrong_params(params: Mapping[str, Any]) -> str:
    """Return what of a palette and a size of cells cannot be; nothing where all can."""
    palette, cell_px = params.get("palette"), params.get("cell_px", CELL_PX)
    if palette and not (isinstance(palette, str) and palette in PALETTES):
        return f"palette = {palette!r}: expected one of {', '.join(PALETTES)}"
    if cell_px not in _CELLS_PX or isinstance(cell_px, bool):
        return f"cell_px = {cell_px!r}: expected one of {', '.join(map(str, _CELLS_PX))}"
    return ""


def palette_of(prompt: str) -> str:
    """Return the palette that the first word known of a prompt asks for."""
    return next(
        (_WORDS[word] for word in re.findall(r"[a-z]+", prompt.lower()) if word in _WORDS), DEFAULT_PALETTE
    )


def stylized(
    image: Pixels,
    mask: npt.NDArray[np.bool_] | None,
    palette: Palette,
    seed: int = 0,
    cell_px: int = CELL_PX,
    origin: tuple[int, int] = (0, 0),
) -> Pixels:
    """Return the image of shape (rows, cols, 3) in a palette's colours where the mask says.

    `origin` is the place (x, y) of its first pixel on the map, in pixels: cells
    and their pattern lie on the map, not in the picture. The seed changes the
    grain, not the colours, so that blocks of different seeds meet as well.
    """
    rows, cols = image.shape[:2]
    left, top = origin[0] % cell_px, origin[1] % cell_px
    height, width = -(-(rows + top) // cell_px), -(-(cols + left) // cell_px)
    weight = np.zeros((height * cell_px, width * cell_px, 1), dtype=np.float32)
    weight[top : top + rows, left : left + cols, 0] = True if mask is None else mask
    padded = np.zeros((*weight.shape[:2], 3), dtype=np.float32)
    padded[top : top + rows, left : left + cols] = image
    cells = (height, cell_px, width, cell_px, -1)
    sums = (padded * weight).reshape(cells).sum(axis=(1, 3))
    means = sums / np.maximum(weight.reshape(cells).sum(axis=(1, 3)), 1) / 255
    pattern = _pattern(height, width, seed, (origin[0] // cell_px, origin[1] // cell_px))
    colors = _nearest(_graded(means, palette) + _SPREAD * pattern[..., None], _rgb(palette.colors))
    drawn = colors.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[top : top + rows, left : left + cols]
    if mask is None:
        return np.ascontiguousarray(drawn)
    return np.where(mask[..., None], drawn, image)


def _graded(colors: Colors, palette: Palette) -> Colors:
    """Return colours of shape (rows, cols, 3), 0..1, in a palette's light, before it is applied."""
    light = _weighted(colors, _LUMA)[..., None]
    out = light + (colors - light) * np.float32(palette.saturation)
    if palette.covered:
        water = np.clip((colors[..., 2:] - colors[..., :2].max(axis=-1, keepdims=True)) * 6 + 0.2, 0, 1)
        share = np.float32(palette.covered) * (1 - water)
        cover = _rgb(palette.cover).astype(np.float32)[0] / 255 * (0.6 + 0.55 * light)
        out += (cover - out) * share
    graded: Colors = np.clip(out, 0, 1) ** np.float32(palette.gamma) * np.float32(palette.gain)
    return graded


def _weighted(colors: Colors, weights: tuple[float, float, float]) -> Colors:
    """Return the weighted sum of the channels, shape (rows, cols)."""
    red, green, blue = (colors[..., channel] * np.float32(weights[channel]) for channel in range(3))
    total: Colors = red + green + blue
    return total


def _pattern(height: int, width: int, seed: int, first: tuple[int, int]) -> Colors:
    """Return the threshold of each cell, -0.5..0.5, shape (height, width), by its place on the map."""
    y, x = np.arange(height) + first[1], np.arange(width) + first[0]
    bayer = _BAYER[np.ix_(y % 4, x % 4)] / np.float32(16) - np.float32(0.47)
    pattern: Colors = bayer + np.float32(_GRAIN) * _random(y, x, seed)
    return pattern


def _random(y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], seed: int) -> Colors:
    """Return a number of -0.5..0.5 for each place, shape (len(y), len(x)), by a hash of place and seed."""
    mixed = (x & 0xFFFFFFFF).astype(np.uint32) * np.uint32(0x9E3779B1)
    mixed = (mixed ^ np.uint32(seed & 0xFFFFFFFF))[None, :] + (
        (y & 0xFFFFFFFF).astype(np.uint32) * np.uint32(0x85EBCA77)
    )[:, None]
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39), (15, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    random: Colors = (mixed >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)
    return random


def _nearest(colors: Colors, palette: Pixels) -> Pixels:
    """Return of a palette, shape (n, 3), the colours nearest to some, shape (rows, cols, 3)."""
    best = np.full(colors.shape[:2], np.inf, dtype=np.float32)
    chosen = np.zeros(colors.shape[:2], dtype=np.intp)
    for number, color in enumerate(palette.astype(np.float32) / 255):
        distance = _weighted((colors - color) ** 2, _WEIGHTS)
        nearer = distance < best
        best[nearer] = distance[nearer]
        chosen[nearer] = number
    return palette[chosen]


def _rgb(colors: str) -> Pixels:
    """Return colours in hexadecimal as an array of shape (n, 3)."""
    return np.array([list(bytes.fromhex(one)) for one in colors.split()], dtype=np.uint8)
