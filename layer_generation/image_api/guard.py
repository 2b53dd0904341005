"""Who may ask: the Host check, the token, and pages of other origins.

A page from elsewhere can have its name resolve to 127.0.0.1 and can send
requests here without being allowed to read the answers; a picture would be drawn
all the same. So a loopback server wants to be called by its own name, and what
changes anything wants to come from its own page, from a page that was allowed,
or from no page at all.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from layer_generation.image_api.answers import PLAIN, refused
from layer_generation.image_api.journal import note
from layer_generation.image_api.page import PREFIX
from layer_generation.image_api.refusals import Misdirected, OriginRefused, Refusal, Unauthorized
from layer_generation.listening import is_loopback

_OPEN = ("/", "/health")
"""What needs no token: the page itself, which holds nothing, and whether the server is there."""
_LONGEST_PATH = 80
_SAFE = ("GET", "HEAD", "OPTIONS")
_METHODS = "GET, POST, DELETE"
_HEADERS = "Authorization, Content-Type, Idempotency-Key"
_EXPOSED = "Location, Retry-After, Idempotent-Replayed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask."""

    loopback_only: bool = True
    """Whether the Host header has to name this machine's loopback."""
    token: str = ""
    """What a client has to know; nothing by default."""
    origins: tuple[str, ...] = ()
    """Pages that may ask and read, besides the server's own; `*` for any."""


class Guard:
    """Lets pass who may ask, and says what every answer says."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._token = access.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        told = self._telling(scope, headers.get("origin", ""), send)
        if scope["method"] == "OPTIONS" and self._allows(headers.get("origin", "")):
            await told({"type": "http.response.start", "status": 204, "headers": _preflight()})
            await told({"type": "http.response.body", "body": b""})
            return
        refusal = self._refusal(scope, headers)
        answer = self._app if refusal is None else refused(refusal)
        await answer(scope, receive, told)

    def _refusal(self, scope: Scope, headers: Headers) -> Refusal | None:
        if self._access.loopback_only and not is_loopback(headers.get("host", "")):
            return Misdirected("The Host header does not name this machine's loopback")
        origin = headers.get("origin", "")
        if origin and scope["method"] not in _SAFE and not self._is_known(origin, headers.get("host", "")):
            return OriginRefused("Pages of this origin may not ask")
        is_open = scope["path"] in _OPEN or scope["path"].startswith(PREFIX)
        return None if is_open or self._knows_token(headers) else Unauthorized()

    def _is_known(self, origin: str, host: str) -> bool:
        return self._allows(origin) or origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())

    def _allows(self, origin: str) -> bool:
        """Tell whether the command named an origin as one that may ask."""
        origins = self._access.origins
        return bool(origin) and ("*" in origins or origin.lower() in origins)

    def _knows_token(self, headers: Headers) -> bool:
        if not self._token:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(token.strip().encode("latin-1", "replace"), self._token)
        return scheme.lower() == "bearer" and same

    def _telling(self, scope: Scope, origin: str, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400:
                    path = scope["path"][:_LONGEST_PATH]
                    note("refused", method=scope["method"], path=path, status=message["status"])
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                for name, value in PLAIN.items():
                    headers.setdefault(name, value)
                if self._access.origins:
                    headers.add_vary_header("Origin")
                    if self._allows(origin):
                        headers["Access-Control-Allow-Origin"] = origin
                        headers["Access-Control-Expose-Headers"] = _EXPOSED
                message = {**message, "headers": headers.raw}
            await send(message)

        return told


def _preflight() -> list[tuple[bytes, bytes]]:
    told = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _HEADERS,
        "Access-Control-Max-Age": "600",
    }
    return [(name.lower().encode(), value.encode()) for name, value in told.items()]
