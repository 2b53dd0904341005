"""uvicorn in this process, on a socket that listens: it says when it answers, and ends when it is told to."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

_LAST_ANSWERS_S = 3


class QuietServer(uvicorn.Server):
    """uvicorn without lines of its own, for whom being told to end is no failure.

    What Ctrl-C and SIGTERM do is `handle_exit`, which a server says for itself.
    """

    def __init__(self, app: ASGIApp, started: Callable[[], None], **options: Any) -> None:
        """Take an application and what to call once the first request can be answered."""
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
                **options,
            )
        )
        self._listening = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        await super().startup(sockets)
        if self.started:
            self._listening()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """End on Ctrl-C and SIGTERM, without raising them again afterwards as uvicorn does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
