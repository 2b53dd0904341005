"""The renderer of another process, used like one's own: the pictures queue there with everybody's."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Self

import httpx
import numpy as np
from PIL import Image

from layer_generation.errors import RendererStopped, RenderTimeout
from layer_generation.renderer.service import FILENAME, LONGEST_WAIT_S, Rendered, RendererStatus, restored
from layer_generation.renderer.views import View, view_json

_CONNECT_S = 2.0
_GRACE_S = 10.0
"""The other side keeps the time; this is for its answer to arrive."""


class RemoteRenderer:
    """A renderer at an address. Use it as a context manager; safe among threads."""

    def __init__(self, address: str, word: str) -> None:
        self._client = httpx.Client(
            base_url=address,
            headers={"authorization": f"Bearer {word}"},
            timeout=httpx.Timeout(LONGEST_WAIT_S + _GRACE_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    def render(self, view: View, timeout_s: float | None = None) -> Rendered:
        """Return a picture when it is drawn; raises as `Renderer.render`."""
        wait_s = min(timeout_s or LONGEST_WAIT_S, LONGEST_WAIT_S)
        try:
            answer = self._client.post(
                "/render",
                params={"timeout_s": wait_s},
                json=view_json(view),
                timeout=httpx.Timeout(wait_s + _GRACE_S, connect=_CONNECT_S),
            )
        except httpx.TimeoutException:
            raise RenderTimeout(wait_s) from None
        except httpx.HTTPError:
            raise RendererStopped from None
        if answer.status_code != 200:
            raise _error_of(answer)
        with Image.open(io.BytesIO(answer.content), formats=["PNG"]) as image:
            return Rendered(np.asarray(image), **json.loads(answer.headers["fusi-rendered"]))

    def status(self) -> RendererStatus:
        """Return how the renderer is. Raises RendererStopped where it does not answer."""
        try:
            answer = self._client.get("/status", timeout=_CONNECT_S)
        except httpx.HTTPError:
            raise RendererStopped from None
        if answer.status_code != 200:
            raise _error_of(answer)
        return RendererStatus(**answer.json())

    def close(self) -> None:
        """Let the connections go; the renderer stays."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def shared_renderer(folder: Path) -> RemoteRenderer | None:
    """Return the renderer that a process shares for a map's folder; None where none answers."""
    try:
        stated = json.loads((folder / FILENAME).read_text(encoding="utf-8"))
        found = RemoteRenderer(str(stated["address"]), str(stated["word"]))
    except (OSError, ValueError, KeyError, TypeError, httpx.InvalidURL):
        return None
    try:
        found.status()
    except RendererStopped:
        found.close()
        return None
    return found


def _error_of(answer: httpx.Response) -> Exception:
    try:
        stated = answer.json()
        return restored(str(stated["error"]), str(stated["reason"]))
    except (ValueError, KeyError, TypeError):
        return RendererStopped()
