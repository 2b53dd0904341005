"""The application: what each path answers.

/                                the page
/v1/images/generations           POST begins a generation; GET lists those that are known
/v1/images/generations/ID        GET says how far it is, and gives its pictures; DELETE cancels it
/v1/models                       the models that a request may name
/health
/openapi.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from layer_generation.image_api import answers, document, page
from layer_generation.image_api.artist import Abilities
from layer_generation.image_api.body import Intake, Lingering
from layer_generation.image_api.contract import (
    Accepted,
    Cancelled,
    Health,
    Listing,
    Models,
    State,
)
from layer_generation.image_api.guard import Access, Guard
from layer_generation.image_api.order import Order, ordered, parsed
from layer_generation.image_api.refusals import (
    AlreadyTerminal,
    Broken,
    Busy,
    KeyReused,
    MethodNotAllowed,
    NotFound,
    NotJson,
    Refusal,
    RequestInvalid,
    TooLarge,
    TooSlow,
)
from layer_generation.image_api.studio import Studio

_ROUTE = "/v1/images/generations"
_SMALL_BYTES = 1 << 12
"""A body of at most so many bytes is understood at once; others are in a thread."""
_SMALL_ANSWER_BYTES = 1 << 20
"""More is sent piece by piece, as the client takes it."""
_THREADS = 2
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same request under the same key has the first answer again, as long as its "
        "generation is known.",
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$", "type": "string"},
    ),
]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]


def application(studio: Studio, access: Access | None = None, intake: Intake | None = None) -> FastAPI:
    """Return the application of a studio, which stays open as long as it is used."""
    access, intake = access or Access(), intake or Intake()
    app = FastAPI(
        title="fusi image API",
        version="1",
        openapi_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Lingering), Middleware(Guard, access=access)],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _http,
            RequestValidationError: _invalid,
            Exception: _broken,
        },
    )
    limiter = anyio.CapacityLimiter(_THREADS)
    _add_creation(app, studio, intake, limiter)
    _add_generations(app, studio, limiter)
    _add_facts(app, studio)
    app.router.routes.append(Route("/", page.index, methods=["GET"]))
    app.router.routes.append(Route(page.PREFIX + "{file}", page.file, methods=["GET"]))
    app.state.studio = studio
    described = document.described(app, studio.has, bool(access.token))
    app.router.routes.append(
        Route("/openapi.json", lambda _request: answers.answered(described), methods=["GET"])
    )
    return app


def _add_creation(app: FastAPI, studio: Studio, intake: Intake, limiter: anyio.CapacityLimiter) -> None:
    @app.post(
        _ROUTE,
        status_code=201,
        response_model=Accepted,
        openapi_extra=document.REQUEST_BODY,
        responses=document.refusals(RequestInvalid, TooSlow, TooLarge, NotJson, KeyReused, Busy),
        summary="Begin a generation",
        operation_id="createGeneration",
    )
    async def create(request: Request, idempotency_key: Key = None) -> Response:
        key = _checked_key(request)
        async with intake.read(request) as body:
            if len(body) <= _SMALL_BYTES:
                order, digest = _understood(body, studio.has)
            else:
                order, digest = await anyio.to_thread.run_sync(_understood, body, studio.has, limiter=limiter)
        first, is_known = studio.accept(order, key, digest)
        headers = {"Location": f"{_ROUTE}/{first['id']}"}
        return answers.answered(
            first, 201, {**headers, "Idempotent-Replayed": "true"} if is_known else headers
        )


def _add_generations(app: FastAPI, studio: Studio, limiter: anyio.CapacityLimiter) -> None:
    registry = studio.registry

    @app.get(
        _ROUTE,
        response_model=Listing,
        responses=document.refusals(RequestInvalid),
        summary="List generations, newest first",
        operation_id="listGenerations",
    )
    async def listing(limit: Limit = 20) -> Response:
        known, total = registry.newest(limit)
        data = [answers.summary(one, registry) for one in known]
        return answers.answered({"object": "list", "data": data, "total": total})

    @app.get(
        f"{_ROUTE}/{{id}}",
        response_model=State,
        responses=document.refusals(NotFound),
        summary="Say how far a generation is",
        operation_id="getGeneration",
    )
    async def state(id: str) -> Response:  # noqa: A002 - the name in the path
        generation = registry.found(id)
        studio.collected(generation)
        if generation.stored_bytes <= _SMALL_ANSWER_BYTES:
            return answers.answered(answers.state(generation, registry))
        size, pieces = answers.state_pieces(generation, registry)
        headers = {**answers.PLAIN, "Content-Length": str(size)}
        return StreamingResponse(_one_by_one(pieces), headers=headers, media_type="application/json")

    @app.delete(
        f"{_ROUTE}/{{id}}",
        response_model=Cancelled,
        responses=document.refusals(NotFound, AlreadyTerminal),
        summary="Cancel a generation",
        operation_id="cancelGeneration",
    )
    async def cancel(id: str) -> Response:  # noqa: A002 - the name in the path
        generation = studio.cancel(id)
        return answers.answered({"id": generation.id, "status": generation.status})


def _add_facts(app: FastAPI, studio: Studio) -> None:
    @app.get(
        "/v1/models", response_model=Models, summary="List the models", operation_id="listModels",
        responses=document.refusals(),
    )  # fmt: skip
    async def models() -> Response:
        return answers.answered(answers.models(studio))

    @app.get(
        "/health", response_model=Health, summary="Say how the server is", operation_id="getHealth",
        responses=document.refusals(),
    )  # fmt: skip
    async def health() -> Response:
        return answers.answered(answers.health(studio))


async def _one_by_one(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces without a thread for each."""
    for piece in pieces:
        yield piece


def _understood(body: bytes, has: Abilities) -> tuple[Order, str]:
    """Return (what a body asks for, what tells it from others, however it is written)."""
    document_ = parsed(body)
    order = ordered(document_, has)
    canonical = json.dumps(document_, sort_keys=True, separators=(",", ":")).encode()
    return order, hashlib.sha256(canonical).hexdigest()


def _checked_key(request: Request) -> str | None:
    stated = request.headers.getlist("idempotency-key")
    if not stated:
        return None
    if len(stated) > 1 or not _KEY.fullmatch(stated[0]):
        raise RequestInvalid("Idempotency-Key must be one text of 1 to 255 visible ASCII characters")
    return stated[0]


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return answers.refused(error)


async def _http(request: Request, error: Exception) -> Response:
    """Answer what the router says: no such address, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = sorted({method for route in _matching(request) for method in route.methods or ()})
        methods = ", ".join(allowed)
        return answers.refused(
            MethodNotAllowed(f"This address answers {methods}", headers={"Allow": methods})
        )
    if error.status_code == 404:
        return answers.refused(NotFound("Not found", "The addresses are in /openapi.json"))
    return answers.refused(RequestInvalid("The request cannot be understood"))


def _matching(request: Request) -> list[Any]:
    path = request.url.path
    return [
        one for one in request.app.router.routes if getattr(one, "path_regex", re.compile("$.")).match(path)
    ]


async def _invalid(_request: Request, error: Exception) -> Response:
    """Answer what FastAPI says of a query."""
    assert isinstance(error, RequestValidationError)
    names = ", ".join(dict.fromkeys(str(found["loc"][-1]) for found in error.errors()))
    return answers.refused(RequestInvalid(f"{names} must be as /openapi.json says"))


async def _broken(_request: Request, _error: Exception) -> Response:
    return answers.refused(Broken("The server failed; its log says where"))
