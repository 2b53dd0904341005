"""Who draws the renders that an app is asked for.

Web-mercator maps are drawn with numpy in this process. Isometric ones need the
browser that stays open; where there is none, everything else of the app works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from layer_generation.errors import GeometryInvalid
from layer_generation.map_rendering import paint
from layer_generation.web.items import Quadrant


class Painter(Protocol):
    """Draws quadrants from the terrain. Threads may share it."""

    kind: str
    """`numpy`, `browser` or `none`."""

    def paint(self, folder: Path, quadrants: Sequence[Quadrant]) -> Iterator[tuple[int, int, bytes]]:
        """Yield quadrants with their pictures as PNG. Raises FusiError where one cannot be drawn."""
        ...

    def status(self) -> dict[str, object]:
        """Return how it stands: `kind`, `state`, `reason`, `waiting`."""
        ...

    def close(self) -> None:
        """End what it runs."""
        ...


class NumpyPainter:
    """Draws web-mercator maps."""

    kind = "numpy"

    def paint(self, folder: Path, quadrants: Sequence[Quadrant]) -> Iterator[tuple[int, int, bytes]]:
        """Yield quadrants with their pictures as PNG."""
        return paint(folder, quadrants)

    def status(self) -> dict[str, object]:
        """Return that it is ready."""
        return {"kind": self.kind, "state": "ready", "reason": "", "waiting": 0}

    def close(self) -> None:
        """Nothing is open."""


class NoPainter:
    """Stands where nothing can draw a map, and says why."""

    kind = "none"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def paint(self, folder: Path, quadrants: Sequence[Quadrant]) -> Iterator[tuple[int, int, bytes]]:
        """Raise GeometryInvalid."""
        raise GeometryInvalid(f"{folder}: {self._reason}")

    def status(self) -> dict[str, object]:
        """Return why nothing is drawn."""
        return {"kind": self.kind, "state": "missing", "reason": self._reason, "waiting": 0}

    def close(self) -> None:
        """Nothing is open."""
