"""A renderer for other processes of this machine: HTTP on the loopback, found by a file in the map's folder.

POST /render?timeout_s=   a view as JSON; answers the picture as PNG
GET /status               how the renderer is

Every request names the word that the file holds, which only its owner may
read. Who hangs up leaves the queue.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fusi_pipeline.errors import FusiError, UsageError
from fusi_pipeline.tiles.files import replacing
from layer_generation.errors import RendererBusy, RendererStopped, RenderTimeout, ViewInvalid
from layer_generation.renderer.service import FILENAME, LONGEST_WAIT_S, Renderer, Ticket
from layer_generation.renderer.views import view_from

_LONGEST_VIEW = 1 << 16
_LOOK_S = 0.25
_LAST_ANSWERS_S = 2


@contextmanager
def shared(renderer: Renderer, folder: Path) -> Iterator[str]:
    """Let other processes use a renderer while the block runs; yield its address.

    The file in `folder` tells them of it. Raises OutputUnwritable.
    """
    word = secrets.token_urlsafe(24)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            application(renderer, word),
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_ANSWERS_S,
        )
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="renderer-server", daemon=True
    )
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    path = folder / FILENAME
    stated = {"address": address, "word": word, "pid": os.getpid()}
    thread.start()
    try:
        with replacing(path) as part:
            part.touch(mode=0o600)
            part.write_text(json.dumps(stated), encoding="utf-8")
        yield address
    finally:
        with suppress(OSError, ValueError):
            if json.loads(path.read_text(encoding="utf-8")) == stated:
                path.unlink()
        server.should_exit = True
        thread.join()
        listener.close()


def application(renderer: Renderer, word: str) -> Starlette:
    """Return the application that answers those who know a word."""

    def known(answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            stated = request.headers.get("authorization", "")
            if not secrets.compare_digest(stated.encode(), f"Bearer {word}".encode()):
                return JSONResponse({"error": "refused", "reason": "the word is missing or wrong"}, 401)
            try:
                return await answer(request)
            except FusiError as error:
                return JSONResponse({"error": type(error).__name__, "reason": str(error)}, _status_of(error))

        return checked

    async def status(_request: Request) -> Response:
        return JSONResponse(asdict(renderer.status()))

    async def render(request: Request) -> Response:
        timeout_s = _timeout_of(request)
        ticket = renderer.submit(view_from(await _stated(request)))
        try:
            if not await _awaited(ticket, request, timeout_s):
                return Response(status_code=499)  # nobody is there to read it
        finally:
            if not ticket.done():
                ticket.cancel()
        rendered = ticket.result()
        facts = {"waited_s": rendered.waited_s, "drawn_s": rendered.drawn_s, "tiles": rendered.tiles}
        picture = await asyncio.to_thread(rendered.png)
        return Response(picture, media_type="image/png", headers={"fusi-rendered": json.dumps(facts)})

    return Starlette(
        routes=[
            Route("/status", known(status), methods=["GET"]),
            Route("/render", known(render), methods=["POST"]),
        ]
    )


async def _awaited(ticket: Ticket, request: Request, timeout_s: float) -> bool:
    """Wait for a picture; tell whether it is there. False where the caller hung up; raises RenderTimeout."""
    clock = asyncio.get_running_loop().time
    end = clock() + timeout_s
    there = asyncio.Event()
    loop = asyncio.get_running_loop()
    ticket.add_done_callback(lambda _: loop.call_soon_threadsafe(there.set))
    while not ticket.done():
        if await request.is_disconnected():
            return False
        if clock() >= end:
            raise RenderTimeout(timeout_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(there.wait(), _LOOK_S)
    if ticket.cancelled():
        raise RendererStopped
    return True


async def _stated(request: Request) -> dict[str, object]:
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _LONGEST_VIEW:
            raise ViewInvalid(f"a view of more than {_LONGEST_VIEW} bytes")
    try:
        stated = json.loads(data)
    except ValueError as error:
        raise ViewInvalid(f"a view is no JSON ({error})") from error
    if not isinstance(stated, dict):
        raise ViewInvalid("a view: expected a JSON object")
    return stated


def _timeout_of(request: Request) -> float:
    stated = request.query_params.get("timeout_s", str(LONGEST_WAIT_S))
    try:
        timeout_s = float(stated)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s <= LONGEST_WAIT_S:
        raise ViewInvalid(f"timeout_s={stated}: expected more than 0 and at most {LONGEST_WAIT_S:g}")
    return timeout_s


def _status_of(error: FusiError) -> int:
    if isinstance(error, UsageError):
        return 400
    if isinstance(error, RendererBusy | RendererStopped):
        return 503
    return 504 if isinstance(error, RenderTimeout) else 500
