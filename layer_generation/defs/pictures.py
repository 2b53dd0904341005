"""Small pictures of a layer as text, which the pages of Dagster can show without a server for it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import numpy as np
from PIL import Image

from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive
from layer_generation.camera import QUADRANT_PX
from layer_generation.errors import ImageInvalid
from layer_generation.pictures import decoded

_LARGE_PX = 400
_SMALL = ((112, 60), (96, 40), (64, 30), (48, 20), (32, 20))
"""Sides and qualities of the small picture."""
_SHOWN_AT_ONCE = 1000
"""Markdown shorter than this is shown in a table of metadata, longer behind a link."""
_EMPTY = (236, 236, 236)


def region_picture(layer_dir: Path, quadrants: list[tuple[int, int]]) -> dict[str, dg.MarkdownMetadataValue]:
    """Return pictures of the box around quadrants, as far as it is drawn."""
    left, top = min(x for x, _ in quadrants), min(y for _, y in quadrants)
    right, bottom = max(x for x, _ in quadrants), max(y for _, y in quadrants)

    def bytes_of(column: int, row: int) -> bytes | None:
        path = layer_dir / "generations" / f"{left + column}_{top + row}.png"
        return path.read_bytes() if path.is_file() else None

    return _shown(_mosaic(right - left + 1, bottom - top + 1, bytes_of))


def archive_picture(path: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Return pictures of an archive, from the highest zoom at which a few tiles show all of it."""
    with open_archive(path) as reader:
        zooms = sorted(reader.counts())
        for zoom in reversed(zooms):
            x, y = reader.coordinates(zoom).astype(np.int64).T
            columns, rows = int(np.ptp(x)) + 1, int(np.ptp(y)) + 1
            if max(columns, rows) <= 4 or zoom == zooms[0]:
                break
        left, top = int(x.min()), int(y.min())
        return _shown(
            _mosaic(columns, rows, lambda column, row: reader.read(Tile(zoom, left + column, top + row)))
        )


def _mosaic(columns: int, rows: int, bytes_of: Callable[[int, int], bytes | None]) -> Image.Image:
    """Return pictures beside each other, each as small as the whole asks for."""
    side = max(1, min(QUADRANT_PX, _LARGE_PX // max(columns, rows)))
    whole = Image.new("RGB", (columns * side, rows * side), _EMPTY)
    for row in range(rows):
        for column in range(columns):
            data = bytes_of(column, row)
            if data is None:
                continue
            try:
                pixels = decoded(data, "")
            except ImageInvalid:
                continue
            part = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
            whole.paste(part, (column * side, row * side))
    return whole


def _shown(picture: Image.Image) -> dict[str, dg.MarkdownMetadataValue]:
    """Return a small picture, shown at once, and a larger one behind a link."""
    large = _markdown(picture, _LARGE_PX, 85)
    texts = (_markdown(picture, side, quality) for side, quality in _SMALL)
    small = next((text for text in texts if len(text) < _SHOWN_AT_ONCE), large)
    return {"picture": dg.MetadataValue.md(small), "large picture": dg.MetadataValue.md(large)}


def _markdown(picture: Image.Image, side: int, quality: int) -> str:
    """Return a picture as Markdown, no side longer than `side` pixels."""
    shown = picture.copy()
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=quality, method=6)
    return f"![](data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()})"
