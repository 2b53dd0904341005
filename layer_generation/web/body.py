"""A bound on what a request may send, counted while it arrives."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from layer_generation.web.guard import problem

_MOST_JSON = 8 << 20


class Bounded:
    """Refuses bodies of too many bytes, JSON at less than pictures."""

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self._most_bytes if headers.get("content-type", "").startswith("image/") else _MOST_JSON
        stated = headers.get("content-length", "")
        if stated.isdigit() and int(stated[:20]) > most:
            await _refusal(most)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > most:
                raise HTTPException(413, f"a request of more than {most} bytes", {"Connection": "close"})
            return message

        await self._app(scope, counted, send)


def _refusal(most: int) -> ASGIApp:
    return problem(413, "TOO_LARGE", f"a request of more than {most} bytes", {"Connection": "close"})
