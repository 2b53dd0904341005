"""Markdown for an asset's page: tables, lists and colours, from texts that people wrote."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import dagster as dg
import numpy as np

from fusi_pipeline.tiles.image import encode_webp

_MOST_LISTED = 100
_SWATCH_PX = 16
_MOST_TEXT = 120
_KEPT_TOGETHER = "\N{NO-BREAK SPACE}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> dg.MarkdownMetadataValue:
    """Return a table; a column whose name ends in a blank is set to the right, as numbers are."""
    rule = ["--:" if name.endswith(" ") else "---" for name in header]
    lines = [_row(name.strip() for name in header), _row(rule), *(_row(map(str, row)) for row in rows)]
    return dg.MetadataValue.md("\n".join(lines))


def listed(name: str, lines: Sequence[str]) -> dict[str, dg.MarkdownMetadataValue]:
    """Return lines under a name; nothing where there is none."""
    if not lines:
        return {}
    more = [f"- and {len(lines) - _MOST_LISTED} more"] if len(lines) > _MOST_LISTED else []
    shown = [f"- {line}" for line in lines[:_MOST_LISTED]]
    return {name: dg.MetadataValue.md("\n".join(shown + more))}


def cell(text: object) -> str:
    """Return a text that stays within its cell, cut where it is long; a dash where there is none."""
    words = " ".join(str(text).split()).replace("|", "\\|")
    return (words if len(words) <= _MOST_TEXT else f"{words[:_MOST_TEXT]} ...") or "-"


def swatch(color: str) -> str:
    """Return a square of a colour, given as `#rrggbb`, which is also its text."""
    channels = tuple(bytes.fromhex(color.removeprefix("#")))
    square = np.broadcast_to(np.array(channels, dtype=np.uint8), (_SWATCH_PX, _SWATCH_PX, 3))
    data = base64.b64encode(encode_webp(np.ascontiguousarray(square))).decode()
    return f"![{color}](data:image/webp;base64,{data})"


def together(text: str) -> str:
    """Return a text that is not broken into lines, as a number and its unit should not be."""
    return text.replace(" ", _KEPT_TOGETHER)


def percent(share: float) -> str:
    """Return a share; never 0% of something nor 100% of not all."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
