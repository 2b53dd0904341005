"""A small grey picture of a whole map, to lie under something else."""

from __future__ import annotations

import io
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from layer_generation.advance import Advance
from layer_generation.errors import ImageInvalid
from layer_generation.layer_config import LayerConfig
from layer_generation.map_making import box_of
from layer_generation.pictures import decoded
from layer_generation.quadrants import Kind, QuadrantStore
from layer_generation.renderer.terrain import Box

_MOST_PX = 2048
_MOST_BYTES = 2_000_000
_QUALITIES = (60, 40, 20, 5)
_PAPER = 0.45
"""How far the picture is lightened towards white, so that colours over it can be told apart."""


@dataclass(frozen=True, slots=True)
class MapPicture:
    """A picture of a map."""

    data: bytes
    """WebP."""
    box: Box
    """Quadrants that it shows."""


def map_picture(store: QuadrantStore, config: LayerConfig) -> Generator[Advance, None, MapPicture | None]:
    """Return a picture of at most 2048 px and 2 MB of what a layer is drawn from, None where that is nothing.

    It is transparent where no quadrant is or its picture does not decode.
    """
    kind: Kind = "generation" if config.source_kind == "generation" else "render"
    coordinates = store.coordinates(kind)
    box = box_of(coordinates)
    if box is None:
        return None
    columns, rows = box[2] - box[0] + 1, box[3] - box[1] + 1
    size = min(max(_MOST_PX // max(columns, rows), 1), 256)
    if max(columns, rows) * size > 2 * _MOST_PX:
        return None
    canvas = np.zeros((rows * size, columns * size, 2), dtype=np.uint8)
    for done, (x, y) in enumerate(coordinates.tolist(), 1):
        part = _small(store.image(kind, x, y), size)
        if part is not None:
            row, col = (y - box[1]) * size, (x - box[0]) * size
            canvas[row : row + size, col : col + size, 0] = part
            canvas[row : row + size, col : col + size, 1] = 255
        if done % 64 == 0 or done == len(coordinates):
            yield Advance("picture", done, len(coordinates), "quadrants")
    return MapPicture(_encoded(Image.fromarray(canvas)), box)


def _small(data: bytes | None, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
    try:
        pixels = decoded(data or b"", "")
    except ImageInvalid:
        return None
    grey = Image.fromarray(pixels).convert("L").resize((size, size), Image.Resampling.BOX)
    light = np.asarray(grey).astype(np.float32)
    return np.rint(light + (255 - light) * _PAPER).astype(np.uint8)


def _encoded(picture: Image.Image) -> bytes:
    """Return a picture as WebP of at most 2 MB, if need be a rough one."""
    data = b""
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=4)
        data = buffer.getvalue()
        if len(data) <= _MOST_BYTES:
            break
    return data
