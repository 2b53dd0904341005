"""The server: pictures drawn and requests answered until it is told to end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from types import FrameType
from typing import Any

from starlette.types import ASGIApp

from layer_generation.image_api.app import application
from layer_generation.image_api.connection import Connection
from layer_generation.image_api.guard import Access
from layer_generation.image_api.studio import Studio, StudioConfig, opened
from layer_generation.serving import QuietServer

_HEAD_BYTES = 1 << 14
_KEEP_ALIVE_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What is served, to whom, and how it ends."""

    studio: StudioConfig
    access: Access
    grace_s: float = 30.0
    """For the picture that is drawn when the server is told to end."""


def serve(config: ServerConfig, listener: socket.socket, started: Callable[[Studio], None]) -> None:
    """Draw pictures until Ctrl-C or SIGTERM; call `started` once the first request can be answered.

    A second signal ends it at once. Raises BackendFailed where the backend does not begin.
    """
    asyncio.run(_serve(config, listener, started))


async def _serve(config: ServerConfig, listener: socket.socket, started: Callable[[Studio], None]) -> None:
    try:
        async with opened(config.studio) as studio:
            app = application(studio, config.access)
            server = Server(app, lambda: started(studio), lambda: studio.drain(config.grace_s))
            await server.serve(sockets=[listener])
    finally:
        listener.close()


class Server(QuietServer):
    """A server that, told to end, first lets work end."""

    def __init__(
        self,
        app: ASGIApp,
        started: Callable[[], None],
        drain: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(
            app,
            started,
            loop="asyncio",
            http=Connection,
            timeout_keep_alive=_KEEP_ALIVE_S,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None
        self._signals = 0

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to leave: after the work that was under way at the first signal."""
        leave = await super().on_tick(counter)
        if self._signals and self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        if leave and self._draining is not None:
            self._draining.cancel()
        return leave or (self._draining is not None and self._draining.done())

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal: the first asks to end, the second to end at once."""
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True
