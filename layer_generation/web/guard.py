"""Who may ask: this app's own pages, and no other page through a person's browser.

On the loopback a request must name it as its Host, else DNS rebinding would make
any page the same origin. One that changes something must come from a page of the
app (Origin, Sec-Fetch-Site) or from no page at all. Beyond the loopback a token is
wanted besides: as a bearer, or in the cookie that `/?token=...` leaves.
"""

from __future__ import annotations

import hmac
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from layer_generation.listening import is_loopback

_SAFE = ("GET", "HEAD", "OPTIONS")
_COOKIE = "fusi_app"
_TOLD = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
        " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error as every route answers it."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


class Guard:
    """Lets pass who may ask, and says what every answer says."""

    def __init__(self, app: ASGIApp, *, loopback_only: bool, token: str = "") -> None:
        self._app = app
        self._loopback_only = loopback_only
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        await (self._app if refusal is None else refusal)(scope, receive, _telling(send))

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if self._loopback_only and not is_loopback(headers.get("host", "")):
            return problem(421, "MISDIRECTED_REQUEST", "use the address that was printed")
        if scope["method"] not in _SAFE and not _is_own(headers):
            return problem(403, "FORBIDDEN", "only pages of this app may ask for that")
        if not self._token or scope["path"] == "/health":
            return None
        stated = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and self._is_token(stated):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(_COOKIE, stated, httponly=True, samesite="strict")
            return answer
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(_COOKIE, "")
        if self._is_token(cookie) or (scheme.lower() == "bearer" and self._is_token(bearer.strip())):
            return None
        return problem(
            401, "UNAUTHORIZED", "open the address with ?token=...", {"WWW-Authenticate": "Bearer"}
        )

    def _is_token(self, stated: str) -> bool:
        return hmac.compare_digest(stated.encode("utf-8", "replace"), self._token)


def _is_own(headers: Headers) -> bool:
    """Tell whether a request comes from a page of this very server, or from no page."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin, host = headers.get("origin", "").lower(), headers.get("host", "").lower()
    return not origin or origin in (f"http://{host}", f"https://{host}")


def _telling(send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", ())))
            for name, value in _TOLD.items():
                headers.setdefault(name, value)
            message = {**message, "headers": headers.raw}
        await send(message)

    return told
