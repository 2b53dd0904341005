"""HTTP whose every wait ends: at a deadline, or soon after its caller wants to stop.

httpx counts its time out anew for every piece that arrives, so that a server
which sends a byte now and then holds a caller for ever; and a read under way
cannot be given up. Here every read is cut into short waits, between which the
deadline and the wish of the calling thread are looked at.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import httpcore
import httpx

from layer_generation.endpoints.base import Stop

_SLICE_S = 0.1
"""Longest wait before the deadline and the caller's wish are looked at."""
_WRITE_BYTES = 1 << 16
_CONNECT_S = 10.0
_IDLE_S = 30.0
"""Until an unused connection is closed."""


class DeadlineOver(Exception):
    """The time for a request is over."""


class Stopped(Exception):
    """The caller of a request wants to stop."""


class Limits(threading.local):
    """When the requests of the calling thread are to end."""

    deadline: float | None = None
    stop: Stop | None = None

    @contextmanager
    def of(self, deadline: float, stop: Stop) -> Iterator[None]:
        """Hold the requests made within to a deadline (`time.monotonic`) and to a wish to stop."""
        before = self.deadline, self.stop
        self.deadline, self.stop = deadline, stop
        try:
            yield
        finally:
            self.deadline, self.stop = before

    def left_s(self) -> float:
        """Return the seconds that are left. Raises DeadlineOver and Stopped."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped
        if self.deadline is None:
            return _IDLE_S
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineOver
        return left


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose waits end."""

    def __init__(self, inner: httpcore.NetworkStream, limits: Limits) -> None:
        self._inner = inner
        self._limits = limits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes."""
        while True:
            wait_s = min(_SLICE_S, self._limits.left_s())
            try:
                return self._inner.read(max_bytes, wait_s)
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes; also to a server that does not read them."""
        connection: socket.socket = self._inner.get_extra_info("socket")
        rest = memoryview(buffer)
        try:
            while rest:
                connection.settimeout(min(_SLICE_S, self._limits.left_s()))
                with suppress(TimeoutError):  # nothing of the piece was sent
                    rest = rest[connection.send(rest[:_WRITE_BYTES]) :]
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the connection encrypted."""
        wait_s = min(_CONNECT_S, self._limits.left_s())
        return _BoundedStream(self._inner.start_tls(ssl_context, server_hostname, wait_s), self._limits)

    def get_extra_info(self, info: str) -> Any:
        """Return what is known of the connection."""
        return self._inner.get_extra_info(info)


class _BoundedNetwork(httpcore.NetworkBackend):
    """The network, with connections whose waits end."""

    def __init__(self, limits: Limits) -> None:
        self._inner = httpcore.SyncBackend()
        self._limits = limits

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection."""
        wait_s = min(_CONNECT_S, self._limits.left_s())
        stream = self._inner.connect_tcp(host, port, wait_s, local_address, socket_options)
        return _BoundedStream(stream, self._limits)


@cache
def _certificates() -> ssl.SSLContext:
    """Return whom to trust; reading it takes long."""
    return httpx.create_ssl_context()


class BoundedTransport(httpx.BaseTransport):
    """A transport for httpx that keeps connections for reuse, and to `limits`. Threads may share it."""

    def __init__(self, limits: Limits) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=_certificates(),
            max_connections=None,
            keepalive_expiry=_IDLE_S,
            network_backend=_BoundedNetwork(limits),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the answer's body is still to be read. Raises what httpx raises."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with _as_httpx(request):
            answer = self._pool.handle_request(
                httpcore.Request(request.method, url, headers=request.headers.raw, content=request.read())
            )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer, request))

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """The body of an answer, as it arrives."""

    def __init__(self, answer: httpcore.Response, request: httpx.Request) -> None:
        self._answer = answer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx(self._request):
            yield from self._answer.iter_stream()

    def close(self) -> None:
        """Give the connection back, or close it where something is unread."""
        self._answer.close()


_ERRORS: tuple[tuple[type[Exception], Callable[..., httpx.TransportError]], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout),
    (httpcore.ConnectError, httpx.ConnectError),
    (httpcore.TimeoutException, httpx.ReadTimeout),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError),
    (httpcore.ProtocolError, httpx.LocalProtocolError),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol),
    (httpcore.NetworkError, httpx.ReadError),
)


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Turn the errors of httpcore into those of httpx."""
    try:
        yield
    except tuple(one for one, _ in _ERRORS) as error:
        kind = next(other for one, other in _ERRORS if isinstance(error, one))
        raise kind(str(error), request=request) from error
