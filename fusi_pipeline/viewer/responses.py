"""Answers of the server: bytes with a tag, JSON, and parts of a file."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fusi_pipeline.errors import ArchiveMissing, ArchiveUnsuitable, FusiError, UsageError
from fusi_pipeline.viewer import ranges

_CHUNK_BYTES = 1 << 20
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the system says while it has no more files or memory to give."""
_MORE_FILES = "ask again, and give the server more open files (`ulimit -n`) if it stays so"
_FRESH = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
"""Keep it, and ask whether it is still so: the archive may be replaced at any time."""
_log = logging.getLogger(__name__)


def content(
    request: Request, data: bytes, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return bytes under a strong tag of their content, or 304 where the client has them."""
    etag = f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'
    told = {**_FRESH, "ETag": etag, **(headers or {})}
    if ranges.matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=told)
    if request.method == "HEAD":
        return Response(headers={**told, "Content-Length": str(len(data))}, media_type=media_type)
    return Response(data, headers=told, media_type=media_type)


def document(request: Request, value: object, status: int = 200) -> Response:
    """Return a value as JSON."""
    data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    if status == 200:
        return content(request, data, "application/json")
    body = b"" if request.method == "HEAD" else data
    headers = {**_FRESH, "Content-Length": str(len(data))}
    return Response(body, status, headers, "application/json")


def failure(request: Request, status: int, reason: str) -> Response:
    """Return what went wrong, as JSON."""
    return document(request, {"error": reason}, status)


def refusal(error: FusiError) -> HTTPException:
    """Return what an error is answered with."""
    if _is_scarcity(error.__cause__):
        return HTTPException(503, f"{error}; {_MORE_FILES}", {"Retry-After": "1"})
    if isinstance(error, ArchiveMissing | ArchiveUnsuitable):
        return HTTPException(404, str(error))
    return HTTPException(400 if isinstance(error, UsageError) else 500, str(error))


def _is_scarcity(error: BaseException | None) -> bool:
    """Tell whether a file could not be opened for want of something that may be there later."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM)
    return isinstance(error, OSError) and error.errno in _SCARCE


class FilePart(Response):
    """A file, or the one range of it that the request asks for.

    Everything is said of, and read from, one open file: replacing it meanwhile
    changes nothing of the answer.
    """

    def __init__(self, path: Path, media_type: str) -> None:
        super().__init__(media_type=media_type)
        self._path = path
        self.media_type = media_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send status, headers and bytes."""
        request = Request(scope)
        try:
            file = await anyio.to_thread.run_sync(lambda: os.open(self._path, os.O_RDONLY))
        except OSError as error:
            _log.error("%s: %s", self._path, error.strerror)
            await _unopened(request, self._path, error)(scope, receive, send)
            return
        try:
            answer, first, end = _answer(request, os.fstat(file), self.media_type or "")
            if first == end:
                await answer(scope, receive, send)
                return
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                await self._send(file, answer, (first, end), send)
                group.cancel_scope.cancel()
        finally:
            os.close(file)

    async def _send(self, file: int, answer: Response, part: tuple[int, int], send: Send) -> None:
        start = {"type": "http.response.start", "status": answer.status_code}
        await send({**start, "headers": answer.raw_headers})
        first, end = part
        while first < end:
            data = await anyio.to_thread.run_sync(os.pread, file, min(_CHUNK_BYTES, end - first), first)
            if not data:
                raise EOFError(f"{self._path}: became shorter while it was sent")
            first += len(data)
            await send({"type": "http.response.body", "body": data, "more_body": first < end})


def _unopened(request: Request, path: Path, error: OSError) -> Response:
    if _is_scarcity(error):
        answer = failure(request, 503, f"{path}: {error.strerror}; {_MORE_FILES}")
        answer.headers["Retry-After"] = "1"
        return answer
    return failure(request, 404 if error.errno == errno.ENOENT else 500, f"{path}: {error.strerror}")


async def _until_gone(receive: Receive, sending: anyio.CancelScope) -> None:
    """Stop sending when the client is gone: nobody else would read the rest of the file to its end."""
    while (await receive())["type"] != "http.disconnect":
        pass
    sending.cancel()


def _answer(request: Request, status: os.stat_result, media_type: str) -> tuple[Response, int, int]:
    """Return the head of the answer and the half-open range of bytes that follows it."""
    size = status.st_size
    etag = f'"{status.st_ino:x}-{size:x}-{status.st_mtime_ns:x}"'
    modified = formatdate(status.st_mtime, usegmt=True)
    headers = {**_FRESH, "ETag": etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
    if ranges.matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers), 0, 0
    part = None
    if ranges.still_valid(request.headers.get("if-range"), etag, modified):
        try:
            part = ranges.span(request.headers.get("range"), size)
        except ranges.RangeUnsatisfiable:
            answer = failure(request, 416, f"the archive has {size} bytes")
            answer.headers["Content-Range"] = f"bytes */{size}"
            return answer, 0, 0
    first, end = part or (0, size)
    if part:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - first)
    answer = Response(status_code=206 if part else 200, headers=headers, media_type=media_type)
    return answer, first, first if request.method == "HEAD" else end
