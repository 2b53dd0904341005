"""A picture of an archive as text, which the pages of Dagster can show without a server for it.

Heights are shaded, lineage is in the colours of its legend.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import dagster as dg
from PIL import Image

from fusi_pipeline.lineage_files import is_lineage
from fusi_pipeline.preview import preview_png
from fusi_pipeline.tiles.open import open_archive

_LARGE_PX = 400
_SMALL_PX = (112, 96, 64, 32)
_SMALL_QUALITIES = (60, 40, 20)
_LARGE_QUALITY = 85
_EXACT = 0
"""In place of a quality: every pixel as it is, so that colours are those of the legend."""
_SHOWN_AT_ONCE = 1000
"""Markdown shorter than this is shown in a table of metadata, longer behind a link."""


def pictures(path: Path) -> dict[str, dg.MarkdownMetadataValue]:
    """Return a small picture of an archive, shown at once, and a larger one behind a link.

    Only one where the larger one can be shown at once too.
    """
    with open_archive(path) as reader:
        in_colours = is_lineage(reader.metadata)
    with Image.open(io.BytesIO(preview_png(path, max_px=_LARGE_PX))) as drawn:
        picture = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn.convert("RGBA"))
    resampling = Image.Resampling.NEAREST if in_colours else Image.Resampling.LANCZOS
    qualities = (_EXACT, *_SMALL_QUALITIES) if in_colours else _SMALL_QUALITIES
    large = _markdown(picture, _LARGE_PX, _EXACT if in_colours else _LARGE_QUALITY, resampling)
    if len(large) < _SHOWN_AT_ONCE:
        return {"picture": dg.MetadataValue.md(large)}
    small = next(
        (
            text
            for side in _SMALL_PX
            for quality in qualities
            if len(text := _markdown(picture, side, quality, resampling)) < _SHOWN_AT_ONCE
        ),
        large,
    )
    return {"picture": dg.MetadataValue.md(small), "large picture": dg.MetadataValue.md(large)}


def _markdown(picture: Image.Image, side: int, quality: int, resampling: Image.Resampling) -> str:
    """Return a picture as Markdown, no side longer than `side` pixels."""
    shown = picture.convert("RGB")
    shown.thumbnail((side, side), resampling)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", lossless=quality == _EXACT, quality=quality or 100, method=6)
    return f"![](data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()})"
