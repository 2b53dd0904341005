"""Who draws the renders that an app is asked for.

Web-mercator maps are drawn with numpy in this process. Isometric ones are drawn by
the one renderer of the app, a browser that stays open and that commands and
Dagster use too while the app runs; where there is none, everything else works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from layer_generation.errors import GeometryInvalid
from layer_generation.map_rendering import paint
from layer_generation.renderer.server import shared
from layer_generation.renderer.service import Renderer
from layer_generation.web.items import Quadrant

_MOST_REASON = 300
"""Characters of a reason."""


class Painter(Protocol):
    """Draws quadrants from the terrain. Threads may share it."""

    kind: str
    """`numpy`, `browser` or `none`."""

    def paint(self, folder: Path, quadrants: Sequence[Quadrant]) -> Iterator[tuple[int, int, bytes]]:
        """Yield quadrants with their pictures as PNG. Raises FusiError where one cannot be drawn."""
        ...

    def start(self) -> None:
        """Start what it runs."""
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

    def start(self) -> None:
        """Nothing is to be started."""

    def status(self) -> dict[str, object]:
        """Return that it is ready."""
        return {"kind": self.kind, "state": "ready", "reason": "", "waiting": 0}

    def close(self) -> None:
        """Nothing is open."""


class BrowserPainter:
    """Draws isometric maps with the renderer, which lives as long as the app and is shared with others."""

    kind = "browser"

    def __init__(self, renderer: Renderer, folder: Path) -> None:
        """Take a renderer that is not started, and the folder by which other processes find it."""
        self._renderer = renderer
        self._folder = folder
        self._open = ExitStack()

    def start(self) -> None:
        """Start the browser, and let other processes use it."""
        self._open.enter_context(self._renderer)
        self._open.enter_context(shared(self._renderer, self._folder))

    def paint(self, folder: Path, quadrants: Sequence[Quadrant]) -> Iterator[tuple[int, int, bytes]]:
        """Yield quadrants with their pictures as PNG, in the order in which everybody asked."""
        return paint(folder, quadrants, self._renderer)

    def status(self) -> dict[str, object]:
        """Return how the renderer is, with its figures."""
        now = self._renderer.status()
        reason = _sentence(now.last_failure or "")
        return {"kind": self.kind, **asdict(now), "reason": reason, "last_failure": reason or None}

    def close(self) -> None:
        """End the browser; who waits is told."""
        self._open.close()


def _sentence(failure: str) -> str:
    """Return what a failure says first: what a browser wrote follows it and is for the log."""
    first = failure.split("\n", 1)[0].split("Browser logs:", 1)[0].strip()
    return first if len(first) <= _MOST_REASON else f"{first[:_MOST_REASON]}…"


class NoPainter:
    """Stands where nothing can draw a map, and says why."""

    kind = "none"

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def paint(self, folder: Path, quadrants: Sequence[Quadrant]) -> Iterator[tuple[int, int, bytes]]:
        """Raise GeometryInvalid."""
        raise GeometryInvalid(f"{folder}: {self._reason}")

    def start(self) -> None:
        """Nothing is to be started."""

    def status(self) -> dict[str, object]:
        """Return why nothing is drawn."""
        return {"kind": self.kind, "state": "missing", "reason": self._reason, "waiting": 0}

    def close(self) -> None:
        """Nothing is open."""
