"""The page: what is drawn, what waits and what was drawn, and a form to try a prompt."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from layer_generation.image_api.answers import PLAIN
from layer_generation.image_api.refusals import NotFound

PREFIX = "/page/"
_FOLDER = Path(__file__).with_name("assets")
_KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_ALONE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""The page loads nothing from elsewhere and runs nothing that is not in its own files."""


def index(_request: Request) -> Response:
    """Send the page."""
    return _sent("index.html")


def file(request: Request) -> Response:
    """Send a file of the page. Raises NotFound."""
    return _sent(request.path_params["file"])


def _sent(name: str) -> Response:
    if name not in _KINDS:
        raise NotFound("Not found")
    headers = {**PLAIN, **_ALONE, "Content-Type": _KINDS[name], "Cache-Control": "no-cache"}
    return Response((_FOLDER / name).read_bytes(), headers=headers)
