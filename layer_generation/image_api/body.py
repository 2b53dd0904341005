"""The body of a request: read within limits of bytes and of time, counted while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from layer_generation.image_api.refusals import Busy, NotJson, RequestInvalid, TooLarge, TooSlow

LARGEST_BYTES = 48 << 20
"""A picture of 2048 px square that does not compress, its mask, and their base64."""
ARRIVAL_S = 60.0
_TOGETHER_BYTES = 256 << 20
"""Of all bodies that arrive at a time."""
_LINGER_S = 2.0
_LINGER_BYTES = 4 * LARGEST_BYTES


class Intake:
    """Reads bodies. For one event loop."""

    def __init__(
        self,
        largest_bytes: int = LARGEST_BYTES,
        arrival_s: float = ARRIVAL_S,
        together_bytes: int = _TOGETHER_BYTES,
    ) -> None:
        self.largest_bytes = largest_bytes
        self._arrival_s = arrival_s
        self._together_bytes = together_bytes
        self.held_bytes = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the body of a JSON request; its bytes count until the end of the block.

        Raises NotJson, TooLarge, TooSlow, Busy, RequestInvalid.
        """
        _check_kind(request.headers)
        stated = request.headers.get("content-length", "")
        if stated.isdigit() and int(stated[:20]) > self.largest_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(self._arrival_s):
                    await self._fill(body, request)
            except TimeoutError:
                raise TooSlow(f"The body did not arrive within {self._arrival_s:g} s") from None
            except ClientDisconnect:
                raise RequestInvalid("The body ended early") from None
            yield bytes(body)
        finally:
            self.held_bytes -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        async for piece in request.stream():
            if len(body) + len(piece) > self.largest_bytes:
                raise self._too_large()
            if self.held_bytes + len(piece) > self._together_bytes:
                raise Busy("Server is busy receiving other requests")
            body += piece
            self.held_bytes += len(piece)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body has more than {self.largest_bytes} bytes")


def _check_kind(headers: Headers) -> None:
    """Raise NotJson where a body is said to be something else; what says nothing is taken for JSON."""
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    is_json = kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    if not is_json:
        raise NotJson("The body must be JSON")
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise NotJson("The body must not be compressed", "Send it without Content-Encoding")


class Lingering:
    """Ends connections whose body was not read, but not before the client could read why.

    A connection that is closed with unread bytes is reset, and the answer may be
    lost with it. So after the answer some of the body is taken in and thrown away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; look after what is left of its body."""
        if scope["type"] != "http" or not _has_body(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        ended = False

        async def heard() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def told(message: Message) -> None:
            if ended:
                await send(message)
            elif message["type"] == "http.response.start":
                await send({**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]})
            elif message.get("more_body", False):
                await send(message)
            else:
                await send({**message, "more_body": True})
                await _drop(heard, lambda: ended)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, heard, told)


async def _drop(receive: Receive, is_over: object) -> None:
    """Take in and throw away what arrives, within limits."""
    assert callable(is_over)
    dropped = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while not is_over() and dropped < _LINGER_BYTES:
                dropped += len((await receive()).get("body", b""))


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
