"""A model server in this process that speaks every protocol, paints by a function, misbehaves on demand.

    with ImageServer() as server:
        server.fail(status(500), times=2)
        endpoint = open_endpoint(server.config("a1111"), {})

What it paints is a pure function of the request (`paint`), by default the
negative of the picture where the mask says, so every pixel of an answer is known.
"""

from __future__ import annotations

import email.policy
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.parser import BytesParser
from http.server import ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from layer_generation.layer_config import EndpointConfig
from tests.image_faults import (
    BOMB,
    CLOSE,
    DRIBBLE,
    DRIBBLE_HEADERS,
    HALF_IMAGE,
    HANG,
    HUGE,
    LOOP,
    NOT_IMAGE,
    TEXT_ONLY,
    TRUNCATED,
    Fault,
    bomb,
    later,
    png,
    slow,
    status,
    unpacked,
    wrong_size,
)
from tests.image_protocols import PAGES, Drawing, Job, PaidCall, Protocols

__all__ = [
    "BOMB", "CLOSE", "DRIBBLE", "DRIBBLE_HEADERS", "HALF_IMAGE", "HANG", "HUGE", "LOOP", "NODES", "NOT_IMAGE",
    "ROUTES", "TEXT_ONLY", "TRUNCATED", "WORKFLOW", "Drawing", "Fault", "ImageServer", "PaidCall", "Seen",
    "bomb", "later", "negative", "png", "slow", "status", "unpacked", "wrong_size",
]  # fmt: skip

Pixels = npt.NDArray[np.uint8]
ROUTES = {
    "base64": "/edit-b64",
    "multipart": "/edit",
    "openai": "/v1",
    "a1111": "",
    "comfyui": "",
    "sdcpp": "",
    "fusi": "",
}
WORKFLOW = {
    "10": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "11": {"class_type": "LoadImageMask", "inputs": {"image": "example.png", "channel": "red"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "steps": 20, "latent_image": ["10", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}
NODES = {
    "image": ["10", "image"], "mask": ["11", "image"], "prompt": ["6", "text"],
    "seed": ["3", "seed"], "steps": ["3", "steps"], "output": "9",
}  # fmt: skip
_PARAMS: dict[str, dict[str, Any]] = {
    "base64": {"mask_field": "mask_b64"},
    "multipart": {"mask_field": "mask"},
    "comfyui": {"workflow": WORKFLOW, "nodes": NODES, "poll_s": 0.01},
    "sdcpp": {"poll_s": 0.01},
    "fusi": {"poll_s": 0.01},
}


def negative(drawing: Drawing) -> Pixels:
    """Return the negative of the picture where the mask says, or everywhere without one."""
    image = drawing.image
    return 255 - image if drawing.mask is None else np.where(drawing.mask[..., None], 255 - image, image)


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    fields: Mapping[str, Any]


class ImageServer:
    """The server; use it as a context manager. It listens on loopback, on a port of its own."""

    def __init__(
        self, paint: Callable[[Drawing], Pixels] = negative, *, key: str = "", polls: int = 2
    ) -> None:
        self.paint = paint
        self.key = key
        """Key that every request must bring: `Bearer ...` or `Basic ...` as a whole."""
        self.polls = polls
        """How often a job is asked for before it is done."""
        self.always: Fault | None = None
        """What goes wrong with every picture."""
        self.seen: list[Seen] = []
        self.drawings: list[Drawing] = []
        self.calls: list[PaidCall] = []
        """Every picture that was asked for, whatever became of it."""
        self.takes_s: Callable[[], float] = lambda: 0.0
        """How long it draws at the next picture."""
        self.cancelled: list[str] = []
        self.task: str | None = None
        """What `a1111` is drawing."""
        self.connections = 0
        self.lose_jobs = 0
        """How many jobs to forget as soon as they are there."""
        self.end_jobs = ""
        """How jobs end, if not well: `failed` or `cancelled`."""
        self.poll_faults: deque[Fault] = deque()
        """What goes wrong when jobs are asked for."""
        self._faults: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._files: dict[str, bytes] = {}
        self._redirects: dict[str, tuple[int, bytes, str]] = {}
        self._number = 0
        self._closing = threading.Event()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        port = self._http.server_address[1]
        return f"http://127.0.0.1:{port}"

    def config(self, protocol: str, **fields: Any) -> EndpointConfig:
        """Return the configuration of an endpoint that speaks to it."""
        params = {**_PARAMS.get(protocol, {}), **fields.pop("params", {})}
        given = {"name": protocol, "url": self.url + ROUTES[protocol], "timeout_s": 30.0, **fields}
        return EndpointConfig(protocol=protocol, params=params, **given)

    def fail(self, fault: Fault, times: int = 1) -> None:
        """Let the next pictures go wrong."""
        with self._lock:
            self._faults.extend([fault] * times)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def drop(self) -> None:
        """Close every connection that is open now."""
        self._http.drop()

    def stop(self) -> None:
        """Stop listening; connections that wait are closed."""
        if not self._closing.is_set():
            self._closing.set()
            self._http.shutdown()
            self._http.server_close()
            self._http.drop()
            self._thread.join()

    def _fault(self) -> Fault | None:
        with self._lock:
            return self._faults.popleft() if self._faults else self.always

    def _next(self, prefix: str) -> str:
        with self._lock:
            self._number += 1
            return f"{prefix}-{self._number}"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    owner: ImageServer

    def __init__(self, *arguments: Any) -> None:
        self._open: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.connections += 1
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def drop(self) -> None:
        """Close every connection."""
        for request in list(self._open):
            self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves is part of the tests."""


class _Handler(Protocols):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    @property
    def owner(self) -> ImageServer:  # type: ignore[override]
        """The server whose requests these are."""
        return self.server.owner

    def do_GET(self) -> None:  # noqa: N802 - so http.server calls it
        self._answer("GET")

    def do_POST(self) -> None:  # noqa: N802 - so http.server calls it
        self._answer("POST")

    def do_DELETE(self) -> None:  # noqa: N802 - so http.server calls it
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        parts = urlsplit(self.path)
        fields = self._fields()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.owner.seen.append(Seen(method, self.path, headers, fields))
        if self.owner.key and headers.get("authorization") != self.owner.key:
            self._send_json(
                {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}, 401
            )
            return
        if "origin" in headers:
            self._send(b"", 403)
            return
        for route, reply in PAGES:
            verb, path = route.split()
            if verb == method and (
                parts.path == path or (path.endswith("/") and parts.path.startswith(path))
            ):
                rest = parts.path.removeprefix(path)
                self.call = None
                reply(self, rest if path.endswith("/") else "", fields)
                if self.call is not None:
                    self.call.answered = time.monotonic()
                return
        known = any(route.split()[1] == parts.path for route, _ in PAGES)
        self._send_json({"detail": "Method Not Allowed" if known else "Not Found"}, 405 if known else 404)

    def _fields(self) -> dict[str, Any]:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.headers.get("content-type", "")
        if kind.startswith("application/json"):
            document = json.loads(body)
            return document if isinstance(document, dict) else {}
        if not kind.startswith("multipart/form-data"):
            return {}
        message = BytesParser(policy=email.policy.HTTP).parsebytes(
            b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
        )
        fields: dict[str, Any] = {}
        for part in message.iter_parts():
            name = str(part.get_param("name", header="content-disposition"))
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            fields[name] = data.decode() if part.get_filename() is None else data
            if part.get_filename() is not None:
                fields[f"{name}.filename"] = part.get_filename()
        return fields
