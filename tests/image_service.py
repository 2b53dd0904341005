"""The image server in a thread of this process, on a port of its own, and a client of it."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import numpy.typing as npt
from PIL import Image

from layer_generation.image_api.app import application
from layer_generation.image_api.artist import BackendConfig
from layer_generation.image_api.body import Intake
from layer_generation.image_api.guard import Access
from layer_generation.image_api.registry import Limits
from layer_generation.image_api.server import Server
from layer_generation.image_api.studio import Studio, StudioConfig, opened
from layer_generation.listening import listen, url_of

PATH = {"PYTHONPATH": str(Path(__file__).parent.parent)}
"""Where a backend's process finds the backends of the tests."""
ROUTE = "/v1/images/generations"
TERMINAL = ("complete", "error", "cancelled")
SMALL = {"width": 16, "height": 16, "steps": 2}


@dataclass
class Service:
    """A server that runs."""

    url: str
    client: httpx.Client
    studio: Studio

    def post(self, **fields: Any) -> httpx.Response:
        return self.client.post(ROUTE, json={"prompt": "a coast", **SMALL, **fields})

    def begin(self, **fields: Any) -> str:
        answer = self.post(**fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def poll(self, name: str) -> dict[str, Any]:
        answer = self.client.get(f"{ROUTE}/{name}")
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def until(self, name: str, *statuses: str) -> dict[str, Any]:
        """Poll until a generation has one of some states, the terminal ones by default."""
        for _ in range(3000):
            told = self.poll(name)
            if told["status"] in (statuses or TERMINAL):
                return told
            time.sleep(0.005)
        raise AssertionError(f"{name} stays {told['status']}")

    def finished(self, **fields: Any) -> dict[str, Any]:
        return self.until(self.begin(**fields))

    def cancel(self, name: str) -> httpx.Response:
        return self.client.delete(f"{ROUTE}/{name}")


@contextmanager
def service(
    factory: str = "tests.image_artists:opened",
    options: Mapping[str, object] | None = None,
    *,
    queue_depth: int = 0,
    limits: Limits | None = None,
    access: Access | None = None,
    intake: Intake | None = None,
    deadline_s: float = 60.0,
    cleanup_ms: int = 60_000,
    start_s: float = 60.0,
    stop_s: float = 0.5,
    log: Path | None = None,
) -> Iterator[Service]:
    """Run a server meanwhile."""
    config = StudioConfig(
        backend=BackendConfig(
            factory=factory, options=options or {}, start_s=start_s, stop_s=stop_s, log=log
        ),
        limits=limits or Limits(queue_depth=queue_depth),
        cleanup_ms=cleanup_ms,
        deadline_s=deadline_s,
    )
    listener = listen("127.0.0.1", 0)
    url = url_of(listener)
    ready = threading.Event()
    held: dict[str, Any] = {}

    async def run() -> None:
        async with opened(config) as studio:
            app = application(studio, access, intake)
            held["server"] = Server(app, ready.set, lambda: studio.drain(0))
            held["studio"] = studio
            await held["server"].serve(sockets=[listener])

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            held["error"] = error
        finally:
            ready.set()

    thread = threading.Thread(target=body)
    with mock.patch.dict("os.environ", PATH):
        yield from _while_it_runs(thread, ready, held, url, access)
    listener.close()


def _while_it_runs(
    thread: threading.Thread, ready: threading.Event, held: Mapping[str, Any], url: str, access: Access | None
) -> Iterator[Service]:
    thread.start()
    assert ready.wait(60)
    try:
        if "error" in held:
            raise held["error"]
        token = {} if access is None or not access.token else {"Authorization": f"Bearer {access.token}"}
        with httpx.Client(base_url=url, timeout=60, trust_env=False, headers=token) as client:
            yield Service(url, client, held["studio"])
    finally:
        if "server" in held:
            held["server"].should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def png(pixels: npt.NDArray[Any], **options: Any) -> str:
    """Return an array as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return base64.b64encode(buffer.getvalue()).decode()


def pixels_of(image: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Return a picture of a result as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["image"], validate=True))))


def noise(width: int, height: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
