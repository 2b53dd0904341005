"""Who may ask: the Host check of a server that only this machine should reach.

A page from elsewhere can have its own name resolve to 127.0.0.1 (DNS
rebinding) and would then count as the same origin; its requests still carry
that name.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from fusi_pipeline.viewer.responses import failure

LOOPBACK_ORIGIN = r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"
"""Pages of this machine, as a pattern of their Origin."""
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:\d{1,5})?")


class LoopbackOnly:
    """Refuses requests whose Host header names anything but this machine's loopback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421."""
        if scope["type"] == "http":
            request = Request(scope)
            if not is_loopback(request.headers.get("host", "")):
                reason = (
                    "the Host header does not name this machine's loopback; use the address that was printed"
                )
                await failure(request, 421, reason)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Tell whether a host, with or without a port, is a name or an address of the loopback."""
    match = _HOST.fullmatch(host.strip().lower())
    if match is None:
        return False
    name = match[1].strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
