"""The server: a socket that listens, and uvicorn on it until it is told to end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from fusi_pipeline.errors import AddressUnavailable
from fusi_pipeline.viewer.guard import is_loopback

_BACKLOG = 128
_LAST_ANSWERS_S = 3


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the first address of a host; port 0 picks a free one.

    Raises AddressUnavailable.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
    except (OSError, UnicodeError) as error:
        raise AddressUnavailable(host, port, getattr(error, "strerror", None) or str(error)) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise AddressUnavailable(host, port, getattr(error, "strerror", None) or str(error)) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the address of a socket for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = "localhost"
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def on_loopback(listener: socket.socket) -> bool:
    """Tell whether only this machine reaches a socket."""
    host = listener.getsockname()[0]
    return is_loopback(f"[{host}]" if ":" in host else host)


def serve(app: ASGIApp, listener: socket.socket, started: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C or SIGTERM; call `started` once the first can be answered."""
    try:
        Server(app, started).run(sockets=[listener])
    finally:
        listener.close()


class Server(uvicorn.Server):
    """uvicorn in one process; being told to end is no failure. `should_exit` ends it too."""

    def __init__(self, app: ASGIApp, started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_ANSWERS_S,
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
