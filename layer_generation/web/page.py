"""The page: its files, and what it is told with its first bytes."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from layer_generation.web.desk import Desk

STATIC = Path(__file__).with_name("static")
_BOOT = "<!-- boot -->"
_UNBUILT = (
    "<!doctype html><meta charset=utf-8><title>fusi app</title>"
    "<p>The page is not built: run <code>just pages app-page</code>, which needs npm. The routes below"
    " <code>/api</code> work without it."
)


def router(desk: Desk) -> APIRouter:
    """Return the route of the page."""
    routes = APIRouter()

    @routes.get("/")
    def index() -> Response:
        path = STATIC / "index.html"
        if not path.is_file():
            return HTMLResponse(_UNBUILT)
        html = path.read_text(encoding="utf-8").replace(_BOOT, boot(desk.facts()))
        return HTMLResponse(html, headers={"Cache-Control": "no-store"})

    return routes


def boot(facts: dict[str, object]) -> str:
    """Return values as a script element that a page reads: nothing in them can end it, or be run."""
    text = json.dumps(facts, ensure_ascii=True)
    for sign in "<>&'":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="boot">{text}</script>'
