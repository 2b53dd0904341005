"""The page's own server: its files, the tiles that it asks for, the pixels that it brings back.

It listens on a port of the loopback that the system chooses, and answers only
below a word that nobody else knows.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fusi_pipeline.errors import FusiError
from layer_generation.renderer.scene import Ground, Scene, signature_of
from layer_generation.renderer.views import CELL_PX, View, Window

STATIC = Path(__file__).parent / "static"
_FILES = {"": "text/html; charset=utf-8", "renderer.js": "text/javascript; charset=utf-8"}
_CELL_BYTES = CELL_PX * CELL_PX * 4
_GROUNDS = 2
"""Open archives; the tiles of each that are kept may take 160 MiB."""
_log = logging.getLogger(__name__)


class Scenes:
    """The scene that is drawn, under a number that tells the page what it knows; safe among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._grounds: OrderedDict[Path, Ground] = OrderedDict()
        self._numbers: dict[object, int] = {}
        self._scenes: dict[int, Scene] = {}
        self.failure: FusiError | None = None
        """What a tile failed with."""

    def job(self, view: View, left_px: int, top_px: int, window: Window) -> tuple[int, dict[str, object]]:
        """Return the number of a view's scene and what the page has to draw. Raises as `Scene.job`."""
        with self._lock:
            self.failure = None
            ground = self._ground(view.terrain)
            key = view.terrain, ground.signature, view.style
            number = self._numbers.setdefault(key, len(self._numbers) + 1)
            scene = Scene(ground, view.style)
            self._scenes = {number: scene}  # one is drawn at a time
            return number, scene.job(view, left_px, top_px, window)

    def tile(self, number: int, zoom: int, x: int, y: int) -> bytes | None:
        """Return a tile of a scene for the page; None where it failed, which `failure` then tells."""
        with self._lock:
            try:
                return self._scenes[number].tile(zoom, x, y)
            except FusiError as error:
                self.failure = error
                return None

    def _ground(self, path: Path) -> Ground:
        """Return the open archive of a path, opened again where the file is another by now."""
        known = self._grounds.pop(path, None)
        if known is not None and known.signature != signature_of(path):
            known.close()
            known = None
        ground = known or Ground(path)
        self._grounds[path] = ground
        while len(self._grounds) > _GROUNDS:
            self._grounds.popitem(last=False)[1].close()
        return ground


class PageServer:
    """The server, in threads of its own. Use it as a context manager."""

    def __init__(self) -> None:
        self.scenes = Scenes()
        self._cells: dict[int, bytes] = {}
        word = secrets.token_urlsafe(16)
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), _handler(f"/{word}/", self.scenes, self._cells.__setitem__)
        )
        self._server.daemon_threads = True
        self.path = f"/{word}/"
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}{self.path}"

    def taken(self, number: int) -> bytes:
        """Return the pixels that the page brought for a cell."""
        return self._cells.pop(number)

    def __enter__(self) -> PageServer:
        threading.Thread(target=self._server.serve_forever, name="page-server", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(below: str, scenes: Scenes, keep: Callable[[int, bytes], None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers GET of files and tiles, and POST of pixels."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            """Answer a file of the page, or a tile: tiles/SCENE/Z/X/Y."""
            words = self._words()
            if words[0] == "tiles" and len(words) == 5:
                data = scenes.tile(*map(int, words[1:]))
                if data is None:
                    self._answer(500, str(scenes.failure).encode(), "text/plain")
                else:
                    self._answer(200, data, "application/octet-stream")
            elif len(words) == 1 and words[0] in _FILES:
                name = words[0] or "index.html"
                self._answer(200, (STATIC / name).read_bytes(), _FILES[words[0]])
            else:
                self._answer(404, b"not found", "text/plain")

        def do_POST(self) -> None:
            """Take the pixels of a cell: cells/NUMBER."""
            words = self._words()
            length = int(self.headers.get("content-length", "0"))
            if words[0] != "cells" or len(words) != 2 or not 0 < length <= _CELL_BYTES:
                self.close_connection = True
                self._answer(400, b"expected the pixels of a cell", "text/plain")
                return
            keep(int(words[1]), self.rfile.read(length))
            self._answer(200, b"", "text/plain")

        def _words(self) -> list[str]:
            return self.path.removeprefix(below).split("/") if self.path.startswith(below) else ["?"]

        def _answer(self, status: int, data: bytes, kind: str) -> None:
            self.send_response_only(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.send_header("cache-control", "no-store")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Log at the lowest level."""
            _log.debug(format, *args)

    return Handler
