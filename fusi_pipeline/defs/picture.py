"""A shaded picture of an archive as text, which the pages of Dagster can show without a server for it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import dagster as dg
from PIL import Image

from fusi_pipeline.preview import preview_png

_LARGE_PX = 400
_SMALL_PX = (112, 96, 64, 32)
_SMALL_QUALITIES = (60, 40, 20)
_SHOWN_AT_ONCE = 1000
"""Markdown shorter than this is shown in a table of metadata, longer behind a link."""


def pictures(path: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Return a small picture of an archive, shown at once, and a larger one behind a link."""
    with Image.open(io.BytesIO(preview_png(path, max_px=_LARGE_PX))) as drawn:
        picture = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn.convert("RGBA"))
    large = _markdown(picture, _LARGE_PX, 85)
    small = next(
        (
            text
            for side in _SMALL_PX
            for quality in _SMALL_QUALITIES
            if len(text := _markdown(picture, side, quality)) < _SHOWN_AT_ONCE
        ),
        large,
    )
    return {"picture": dg.MetadataValue.md(small), "large picture": dg.MetadataValue.md(large)}


def _markdown(picture: Image.Image, side: int, quality: int) -> str:
    """Return a picture as Markdown, no side longer than `side` pixels."""
    shown = picture.convert("RGB")
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=quality, method=6)
    return f"![](data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()})"
