"""An app put together: its map, its models, who draws its renders, and its server."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layer_generation.camera import Geometry, MercatorGrid
from layer_generation.errors import RendererUnavailable
from layer_generation.quadrants import QuadrantStore
from layer_generation.renderer.open import new_renderer
from layer_generation.web.app import application
from layer_generation.web.desk import Desk, DeskConfig
from layer_generation.web.lanes import Log
from layer_generation.web.models import read_app_config
from layer_generation.web.painters import BrowserPainter, NoPainter, NumpyPainter, Painter
from layer_generation.web.server import serve


@dataclass(frozen=True, slots=True)
class Site:
    """An app that is ready to be served."""

    desk: Desk

    def serve(
        self, listener: socket.socket, started: Callable[[], None], *, loopback_only: bool, token: str = ""
    ) -> None:
        """Answer requests and work at the queue until told to end."""
        app = application(self.desk, loopback_only=loopback_only, token=token)
        serve(app, self.desk, listener, started)


def opened(
    folder: Path,
    *,
    config: Path | None = None,
    layers_dirs: Sequence[Path] = (),
    environment: Mapping[str, str],
    generates: bool = True,
    log: Log = lambda line: None,
) -> Site:
    """Return the app of a map. Raises MapMissing, MapUnreadable, AppConfigInvalid."""
    with QuadrantStore(folder) as store:
        store.require_own()
        geometry = store.geometry
    models = read_app_config(config, folder, environment)
    given = DeskConfig(
        folder=folder,
        config=models,
        environment=environment,
        layer_folders=tuple(layers_dirs),
        generates=generates,
    )
    return Site(Desk(given, _painter(geometry, folder), log))


def _painter(geometry: Geometry, folder: Path) -> Painter:
    """Return who draws a map; where no browser is installed, isometric maps are only looked at."""
    if isinstance(geometry, MercatorGrid):
        return NumpyPainter()
    try:
        return BrowserPainter(new_renderer(), folder)
    except RendererUnavailable as error:
        return NoPainter(str(error))
