"""Which source each pixel of a merged tile is from: pixels, legend and colours.

A lineage tile has the shape of its terrain tile, uint8 RGB: red is the index of
the pixel's source, 0 where no source has a height; green is the index of the
source blended under it, 0 where none is; blue is that second source's share of
the height, in 1/255. Indices count from 1 in the order of precedence; the
legend of the archive says what they stand for.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.archive import ArchiveMetadata

ENCODING = "lineage"
MOST_SOURCES = 255
"""What one channel can tell apart."""
SHARE_UNITS = 255
"""The blue that stands for a share of 1."""
_GOLDEN_TURN = 0.61803398875
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """What one index of a lineage archive stands for."""

    index: int
    name: str
    attribution: str = ""
    license: str = ""
    website: str = ""
    resolution_m: float | None = None
    """Ground size of a pixel at the source's base zoom and the middle of its area, in metres."""
    vertical_datum: str = ""
    color: str = ""
    """`#rrggbb`."""


def encode(first: Pixels, second: Pixels, share: npt.NDArray[np.float32]) -> Pixels:
    """Return lineage pixels, shape (rows, cols, 3), from indices and the second source's share in 0..1.

    A share is rounded to 1/255, but never to 0, as that would say that nothing is blended.
    """
    blue = np.where(second > 0, np.maximum(np.rint(share * SHARE_UNITS), 1), 0)
    return np.stack([first, second, blue.astype(np.uint8)], axis=-1)


def decode(pixels: Pixels) -> tuple[Pixels, Pixels, npt.NDArray[np.float32]]:
    """Return (first, second, share of the second in 0..1), arrays of shape (rows, cols)."""
    share = pixels[..., 2].astype(np.float32) / np.float32(SHARE_UNITS)
    return pixels[..., 0], pixels[..., 1], share.astype(np.float32)


def color(index: int) -> str:
    """Return the colour of an index as `#rrggbb`: neighbours in the order differ most."""
    hue = (index - 1) * _GOLDEN_TURN % 1
    lightness, saturation = ((0.45, 0.75), (0.65, 0.65), (0.33, 0.6))[(index - 1) // 7 % 3]
    channels = colorsys.hls_to_rgb(hue, lightness, saturation)
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in channels)


def legend(metadata: ArchiveMetadata) -> tuple[LegendEntry, ...]:
    """Return the legend that an archive states, by index; empty where it states none that can be read."""
    stated = metadata.extra.get("legend")
    entries: list[LegendEntry] = []
    for one in stated if isinstance(stated, Sequence) and not isinstance(stated, str) else ():
        if not isinstance(one, Mapping):
            continue
        index, resolution = one.get("index"), one.get("resolution_m")
        if isinstance(index, int) and 1 <= index <= MOST_SOURCES:
            texts = {key: str(one.get(key) or "") for key in _TEXTS}
            texts["color"] = texts["color"] if _COLOR.fullmatch(texts["color"]) else color(index)
            number = float(resolution) if isinstance(resolution, int | float) else None
            entries.append(LegendEntry(index=index, resolution_m=number, **texts))
    return tuple(sorted(entries, key=lambda entry: entry.index))


_TEXTS = ("name", "attribution", "license", "website", "vertical_datum", "color")


def picture(pixels: Pixels, entries: Sequence[LegendEntry]) -> Pixels:
    """Return a picture of lineage pixels in the legend's colours, shape (rows, cols, 4).

    Blended pixels are mixed by their share; pixels without a source are transparent.
    An index that is not among the entries has its own `color`.
    """
    colors = {index: color(index) for index in range(1, MOST_SOURCES + 1)}
    colors.update({entry.index: entry.color for entry in entries})
    table = np.zeros((MOST_SOURCES + 1, 3), dtype=np.float32)
    for index, text in colors.items():
        table[index] = tuple(bytes.fromhex(text.removeprefix("#")))
    first, second, share = decode(pixels)
    mixed = table[first] + (table[second] - table[first]) * share[..., None]
    alpha = np.where(first > 0, 255, 0)[..., None]
    return np.concatenate([np.rint(mixed), alpha], axis=-1).astype(np.uint8)
