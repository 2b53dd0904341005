"""The application: routes, errors as JSON, who may ask, the page."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from fusi_pipeline.errors import FusiError
from layer_generation.errors import (
    ImageInvalid,
    ItemInvalid,
    ItemSettled,
    ItemUnknown,
    NothingBeneath,
    PicturesMissing,
    PicturesThere,
)
from layer_generation.web import page
from layer_generation.web.body import Bounded
from layer_generation.web.desk import Desk
from layer_generation.web.events import TooManyListeners
from layer_generation.web.guard import Guard, problem
from layer_generation.web.routes import MOST_BODY, Absent, router

_STATUSES: dict[type[Exception], tuple[int, str]] = {
    ItemInvalid: (400, "INVALID_REQUEST"),
    ImageInvalid: (400, "INVALID_REQUEST"),
    ItemUnknown: (404, "NOT_FOUND"),
    Absent: (404, "NOT_FOUND"),
    ItemSettled: (409, "CONFLICT"),
    NothingBeneath: (409, "CONFLICT"),
    PicturesMissing: (409, "CONFLICT"),
    PicturesThere: (409, "CONFLICT"),
    TooManyListeners: (503, "TOO_MANY_PAGES"),
}


def application(desk: Desk, *, loopback_only: bool = True, token: str = "") -> FastAPI:
    """Return the application of an open desk."""
    app = FastAPI(
        title="fusi app",
        openapi_url=None,
        redirect_slashes=False,
        middleware=[
            Middleware(Guard, loopback_only=loopback_only, token=token),
            Middleware(Bounded, most_bytes=MOST_BODY),
        ],
    )
    for kind in _STATUSES:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(FusiError, _failed)
    app.add_exception_handler(Exception, _broken)
    app.include_router(router(desk))
    app.include_router(page.router(desk))
    if page.STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=page.STATIC))
    return app


def _refused(_request: Request, error: Exception) -> Response:
    status, code = _STATUSES[type(error)]
    return problem(status, code, str(error) or type(error).__name__)


def _failed(_request: Request, error: Exception) -> Response:
    return problem(500, "FAILED", str(error))


def _broken(_request: Request, _error: Exception) -> Response:
    return problem(500, "INTERNAL_ERROR", "the app failed; its log says why")


def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED", 413: "TOO_LARGE"}
    code = codes.get(error.status_code, "INVALID_REQUEST")
    return problem(error.status_code, code, str(error.detail), dict(error.headers or {}))


def _invalid(_request: Request, error: Exception) -> Response:
    """Say which field of a request is wrong, and how."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem(400, "INVALID_REQUEST", "the body is no JSON")
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    message = str(first["msg"]).removeprefix("Value error, ")
    return problem(400, "INVALID_REQUEST", f"{where}: {message}" if where else message)
