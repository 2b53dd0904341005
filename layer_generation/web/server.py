"""The app served: uvicorn on a socket until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable
from types import FrameType

from starlette.types import ASGIApp

from layer_generation.serving import QuietServer
from layer_generation.web.desk import Desk

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
    if record.msg.startswith("Cancel %s running task"):
        return False
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)


class Server(QuietServer):
    """A server that, told to end, first ends the streams of events."""

    def __init__(self, app: ASGIApp, desk: Desk, started: Callable[[], None]) -> None:
        super().__init__(app, started, timeout_keep_alive=_KEEP_ALIVE_S)
        logging.getLogger("uvicorn.error").addFilter(_is_trouble)
        self._desk = desk

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; a second signal does not wait for answers."""
        self.force_exit = self.should_exit
        self.should_exit = True
        threading.Thread(target=self._desk.board.close, daemon=True).start()
