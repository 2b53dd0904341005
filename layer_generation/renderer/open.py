"""The renderer for a map: the one that a process shares, or one of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from layer_generation import settings
from layer_generation.renderer.browser import browser_path
from layer_generation.renderer.service import FILENAME, Rendered, Renderer, RendererStatus
from layer_generation.renderer.views import View


class Renders(Protocol):
    """What a renderer of this process and one of another have in common."""

    def render(self, view: View, timeout_s: float | None = None) -> Rendered:
        """Return a picture when its turn has come and it is drawn."""
        ...

    def status(self) -> RendererStatus:
        """Return how the renderer is."""
        ...


def new_renderer() -> Renderer:
    """Return a renderer as the settings have it, not started. Raises RendererUnavailable."""
    browser = browser_path(settings.browser_program(), settings.browser_folders())
    return Renderer(browser, settings.renderer_environment())


@contextmanager
def open_renderer(folder: Path) -> Iterator[Renders]:
    """Yield the renderer of a map's folder while the block runs. Raises RendererUnavailable."""
    found = None
    if (folder / FILENAME).is_file():
        from layer_generation.renderer.client import shared_renderer

        found = shared_renderer(folder)
    if found is not None:
        with found:
            yield found
    else:
        with new_renderer() as own:
            yield own
