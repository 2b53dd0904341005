"""The app served: uvicorn on a socket until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from layer_generation.web.desk import Desk

_LAST_ANSWERS_S = 3
_KEEP_ALIVE_S = 30


def serve(app: ASGIApp, desk: Desk, listener: socket.socket, started: Callable[[], None]) -> None:
    """Answer requests and work at the queue until Ctrl-C or SIGTERM.

    `started` is called once the first request can be answered. What is under way at
    the end is given back.
    """
    desk.start()
    try:
        Server(app, desk, started).run(sockets=[listener])
    finally:
        listener.close()
        desk.close()


def _is_trouble(record: logging.LogRecord) -> bool:
    """Tell whether a line of uvicorn's is worth a person's time: not that the end cut an answer short."""
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


class Server(uvicorn.Server):
    """uvicorn in this process; told to end, it first ends the streams of events."""

    def __init__(self, app: ASGIApp, desk: Desk, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                ws="none",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_trouble)
        self._desk = desk
        self._listening = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, then say so."""
        await super().startup(sockets)
        if self.started:
            self._listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; a second signal does not wait for answers."""
        self.force_exit = self.should_exit
        self.should_exit = True
        threading.Thread(target=self._desk.board.close, daemon=True).start()

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
