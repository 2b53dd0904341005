"""The application: what each path answers.

/                                the page
/archives.json                   what is served
/archives/FILE                   an archive itself, by ranges
/NAME.json                       TileJSON
/NAME/Z/X/Y.webp                 a tile as it is stored, in the archive's own format
/NAME/Z/X/Y.png                  a lineage tile in colours
/NAME/surface/Z/X/Y.webp         a terrain tile without gaps
/NAME/at?lon=&lat=               what is at a position
/NAME/legend.json                what the colours of lineage mean
/NAME/relief.json?bbox=W,S,E,N   the heights of a place
/health
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fusi_pipeline.errors import FusiError
from fusi_pipeline.viewer import page
from fusi_pipeline.viewer.answers import Answers
from fusi_pipeline.viewer.guard import LOOPBACK_ORIGIN, LoopbackOnly
from fusi_pipeline.viewer.responses import failure, refusal
from fusi_pipeline.viewer.shelf import Shelf

_READABLE_ELSEWHERE = ("ETag", "Content-Range", "Content-Length", "Accept-Ranges", "Last-Modified")
_log = logging.getLogger(__name__)


def application(
    shelf: Shelf,
    *,
    missing: int = 404,
    loopback_only: bool = True,
    origins: Sequence[str] = (),
    static: Path = page.STATIC,
) -> Starlette:
    """Return the application that serves a shelf, which stays open as long as it is used.

    `missing` is the status of a tile that an archive does not have.
    `loopback_only` refuses requests for another host's name. Pages of this
    machine may read answers, and those of `origins` (`*` for any). `static`
    holds the bundle of the page.
    """
    guard = [Middleware(LoopbackOnly)] if loopback_only else []
    readable = Middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_origin_regex=LOOPBACK_ORIGIN,
        allow_methods=["GET", "HEAD"],
        allow_headers=["Range", "If-None-Match", "If-Range", "If-Modified-Since"],
        expose_headers=list(_READABLE_ELSEWHERE),
    )
    return Starlette(
        routes=_routes(Answers(shelf, missing), page.Page(static)),
        middleware=[*guard, readable],
        exception_handlers={HTTPException: _refused, FusiError: _failed, Exception: _broken},
    )


def _routes(answers: Answers, files: page.Page) -> list[Route]:
    return [
        Route("/", files.index),
        Route("/static/{file}", files.file),
        Route("/health", answers.health),
        Route("/archives.json", answers.archives),
        Route("/archives/{file}", answers.archive),
        Route("/{name}.json", answers.tilejson),
        Route("/{name}/at", answers.at),
        Route("/{name}/legend.json", answers.legend),
        Route("/{name}/relief.json", answers.relief),
        Route("/{name}/surface/{z}/{x}/{y}", answers.surface),
        Route("/{name}/gaps/{z}/{x}/{y}", answers.gaps),
        Route("/{name}/{z}/{x}/{y}", answers.tile),
    ]


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    answer = failure(request, error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, FusiError)
    refused = refusal(error)
    if refused.status_code >= 500:
        _log.error("%s: %s", request.url.path, error)
    return _refused(request, refused)


def _broken(request: Request, error: Exception) -> Response:
    return failure(request, 500, f"the server failed ({type(error).__name__}); its log says how")
