"""What an archive that anyone may have written says of itself, as far as it is sound.

What can be done without is never a reason to refuse an archive: a statement
that makes no sense counts as not made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fusi_pipeline.tiles.grid import MAX_ZOOM, Bounds

WORLD = Bounds(-180.0, -85.051129, 180.0, 85.051129)
"""Stands for bounds that are not stated (MBTiles 1.3)."""
_MARGIN_DEG = 1e-6
"""Bounds may be this far outside the world, from rounding."""
_MOST_DIGITS = 9


def box(values: Sequence[object]) -> Bounds | None:
    """Return the box that four numbers (west, south, east, north) are, None where they are none.

    A box lies within the world and has an area; west > east is one across the antimeridian.
    """
    try:
        numbers = [float(value) for value in values if isinstance(value, (int, float, str))]
    except (ValueError, OverflowError):
        return None
    if len(numbers) != 4 or len(values) != 4 or not all(map(math.isfinite, numbers)):
        return None
    west, south, east, north = numbers
    inside = max(abs(west), abs(east)) <= 180 + _MARGIN_DEG and max(-south, north) <= 90 + _MARGIN_DEG
    if not inside or south >= north or west == east:
        return None
    return Bounds(max(west, -180.0), max(south, -90.0), min(east, 180.0), min(north, 90.0))


def number(value: object) -> int | None:
    """Return a whole number that is not negative, also from its digits; None for anything else."""
    digits = text(value).strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS else None


def zoom(value: object) -> int | None:
    """Return a zoom of the grid, also from its digits; None for anything else."""
    found = number(value)
    return found if found is not None and found <= MAX_ZOOM else None


def text(value: object) -> str:
    """Return text, of bytes what they are in UTF-8, of a number its digits; empty for anything else."""
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("utf-8", "replace")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    try:
        return str(value)
    except ValueError:  # of more digits than Python writes
        return ""


def encoding(value: object) -> str:
    """Return how pixels carry heights, in lower case as MapLibre names it."""
    return text(value).strip().lower()
