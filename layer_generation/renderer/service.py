"""The one renderer of an owner: `start`, `render`, `stop`; pictures in the order in which they are asked for.

    renderer = new_renderer()                        # of `renderer.open`, as the settings have it
    with renderer:                                   # starts a process with a browser, ends both
        rendered = renderer.render(quadrants_view(terrain, geometry, style, x, y), timeout_s=60)
        rendered.png()

`render` blocks and may be called from any thread; `submit` returns a
`concurrent.futures.Future` that may be cancelled, for `asyncio.wrap_future`
too. Who cancels or no longer waits leaves the queue. All callers of one
machine share a renderer through `renderer.server` and `renderer.client`.

The browser lives in a process of its own, which lives as long as the
`Renderer`. If it dies, hangs or loses its graphics context, it is ended and
started again, after a pause that grows; the picture in hand is tried once more.
Everyone who waits is answered, at the latest by `stop`.
"""

from __future__ import annotations

import atexit
import collections
import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline import errors as pipeline_errors
from fusi_pipeline.errors import FusiError
from layer_generation import errors
from layer_generation.errors import RendererBusy, RendererStopped, RenderFailed, RenderTimeout
from layer_generation.pictures import png
from layer_generation.renderer.process import DrawingProcess, ProcessBroken
from layer_generation.renderer.views import View, view_json

State = Literal["stopped", "starting", "resting", "ready", "drawing"]
FILENAME = "renderer.json"
"""In the folder of a map: where a renderer is that other processes may use."""
LONGEST_WAIT_S = 3600.0
"""That another process may wait for a picture."""
MOST_WAITING = 256
CELL_TIMEOUT_S = 60.0
"""A cell takes well under a second; the first ones of an archive with slow reads a few."""
START_TIMEOUT_S = 90.0
HEALTH_INTERVAL_S = 15.0
_HEALTH_TIMEOUT_S = 20.0
_FIRST_REST_S, _LONGEST_REST_S = 0.5, 30.0
_RECENT = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture that was drawn."""

    pixels: npt.NDArray[np.uint8]
    """RGB, shape (rows, cols, 3); RGBA, shape (rows, cols, 4), where the terrain may have holes."""
    waited_s: float
    """Seconds in the queue."""
    drawn_s: float
    """Seconds of drawing, with restarts."""
    tiles: int
    """Tiles that were drawn."""

    def png(self) -> bytes:
        """Return the picture as PNG."""
        return png(self.pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class RendererStatus:
    """How a renderer is."""

    state: State
    """`resting` is the pause before another start."""
    waiting: int
    """Pictures in the queue, without the one in hand."""
    rendered: int
    failed: int
    """Pictures that were answered with an error of the renderer's own."""
    cancelled: int
    restarts: int
    pid: int | None
    """Of the process that draws."""
    browser: str | None
    """Its version."""
    mean_wait_s: float | None
    """Of the last hundred pictures."""
    mean_drawn_s: float | None
    last_failure: str | None
    """Why the renderer was last started again, or did not start."""


class Ticket(Future[Rendered]):
    """A picture in the queue. `cancel` takes it out; one in hand is given up at its next cell."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view
        self.asked = time.monotonic()
        self.given_up = False

    def cancel(self) -> bool:
        """Give the picture up. True where it had not been begun."""
        self.given_up = True
        return super().cancel()


class Renderer:
    """See the module. Use it as a context manager, or `start` and `stop` it; it may be started again."""

    def __init__(
        self,
        browser: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        *,
        most_waiting: int = MOST_WAITING,
        cell_timeout_s: float = CELL_TIMEOUT_S,
        health_interval_s: float = HEALTH_INTERVAL_S,
    ) -> None:
        """`environment` is the drawing process's, from `settings.renderer_environment`."""
        self._browser, self._environment = browser, dict(environment)
        self._most_waiting = most_waiting
        self._cell_timeout_s, self._health_interval_s = cell_timeout_s, health_interval_s
        self._changed = threading.Condition()
        self._queue: collections.deque[Ticket] = collections.deque()
        self._in_hand: Ticket | None = None
        self._thread: threading.Thread | None = None
        self._process: DrawingProcess | None = None
        self._ending = False
        self._state: State = "stopped"
        self._failures = 0
        self._started = self._rendered = self._failed = self._cancelled = self._numbers = 0
        self._last_failure: str | None = None
        self._times: collections.deque[tuple[float, float]] = collections.deque(maxlen=_RECENT)

    def start(self) -> None:
        """Begin to start the browser, and to take requests. Does nothing where that is done."""
        with self._changed:
            if self._thread is not None:
                return
            self._ending, self._failures, self._started = False, 0, 0
            self._state = "starting"
            self._thread = threading.Thread(target=self._work, name="renderer", daemon=True)
            self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the browser; answer everyone who waits with RendererStopped. Return when both are done."""
        with self._changed:
            thread = self._thread
            self._ending = True
            waiting = list(self._queue)
            self._queue.clear()
            process = self._process
            self._changed.notify_all()
        for ticket in waiting:
            if ticket.set_running_or_notify_cancel():
                ticket.set_exception(RendererStopped())
        if process is not None:
            process.kill()  # which wakes the thread, if it waits for an answer
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._changed:
            self._thread = None
        atexit.unregister(self.stop)

    def submit(self, view: View) -> Ticket:
        """Queue a picture. Raises RendererStopped and RendererBusy."""
        ticket = Ticket(view)
        with self._changed:
            if self._thread is None or self._ending:
                raise RendererStopped
            if len(self._queue) >= self._most_waiting:
                raise RendererBusy(len(self._queue))
            self._queue.append(ticket)
            self._changed.notify_all()
        ticket.add_done_callback(self._left)
        return ticket

    def render(self, view: View, timeout_s: float | None = None) -> Rendered:
        """Return a picture when its turn has come and it is drawn.

        Raises RenderTimeout after `timeout_s`, RenderFailed, RendererStopped,
        RendererBusy, and what is wrong with the view or its archive.
        """
        ticket = self.submit(view)
        try:
            return ticket.result(timeout_s)
        except FutureTimeout:
            raise RenderTimeout(timeout_s or 0) from None
        except CancelledError:
            raise RendererStopped from None
        finally:
            if not ticket.done():
                ticket.cancel()

    def status(self) -> RendererStatus:
        """Return how the renderer is now."""
        with self._changed:
            process = self._process
            waits, draws = [one for one, _ in self._times], [one for _, one in self._times]
            return RendererStatus(
                state=self._state,
                waiting=len(self._queue),
                rendered=self._rendered,
                failed=self._failed,
                cancelled=self._cancelled,
                restarts=max(self._started - 1, 0),
                pid=process.pid if process else None,
                browser=(process.version or None) if process else None,
                mean_wait_s=round(sum(waits) / len(waits), 3) if waits else None,
                mean_drawn_s=round(sum(draws) / len(draws), 3) if draws else None,
                last_failure=self._last_failure,
            )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _left(self, ticket: Future[Rendered]) -> None:
        """Take a cancelled ticket out of the queue."""
        if not ticket.cancelled():
            return
        with self._changed:
            self._cancelled += 1
            if ticket in self._queue:
                self._queue.remove(ticket)  # type: ignore[arg-type]

    # The thread

    def _work(self) -> None:
        try:
            while not self._ending:
                try:
                    ticket = self._next()
                    if ticket is not None:
                        self._serve(ticket)
                    elif self._process is None:
                        self._ready()
                    else:
                        self._asked({"ping": True}, _HEALTH_TIMEOUT_S)
                except ProcessBroken as error:
                    self._broken(error)
        finally:
            self._drop()
            with self._changed:
                self._state = "stopped"

    def _next(self) -> Ticket | None:
        """Return the first of the queue once there is one; None after an interval without.

        Without a process there is no waiting: it is to be started.
        """
        with self._changed:
            if self._process is not None:
                self._state = "ready"
                self._changed.wait_for(lambda: self._queue or self._ending, self._health_interval_s)
            while self._queue and not self._ending:
                ticket = self._queue.popleft()
                if ticket.set_running_or_notify_cancel():
                    return ticket
        return None

    def _serve(self, ticket: Ticket) -> None:
        """Draw a picture, a second time after a restart, and answer its caller whatever comes."""
        begun = time.monotonic()
        try:
            try:
                rendered = self._drawn(ticket, begun)
            except ProcessBroken as error:
                self._broken(error)
                rendered = self._drawn(ticket, begun)
        except ProcessBroken as error:
            self._answered(ticket, RendererStopped() if self._ending else RenderFailed(str(error)))
            raise
        except FusiError as error:
            self._answered(ticket, error)
        except BaseException:
            self._answered(ticket, RenderFailed("it is at fault itself"))
            raise
        else:
            with self._changed:
                self._rendered += 1
                self._failures = 0
                self._times.append((rendered.waited_s, rendered.drawn_s))
            ticket.set_result(rendered)

    def _answered(self, ticket: Ticket, error: FusiError) -> None:
        with self._changed:
            self._failed += isinstance(error, RenderFailed)
        ticket.set_exception(error)

    def _drawn(self, ticket: Ticket, begun: float) -> Rendered:
        """Return a picture put together from its cells. Raises ProcessBroken and what the process answers."""
        self._ready()
        with self._changed:
            self._state = "drawing"
        view = ticket.view
        bands = 4 if view.missing == "hole" else 3
        pixels = np.empty((view.height_px, view.width_px, bands), dtype=np.uint8)
        stated, tiles = view_json(view), 0
        for left, top, window in view.cells():
            if ticket.given_up:
                with self._changed:
                    self._cancelled += 1
                raise RendererStopped
            self._numbers += 1
            request = {"id": self._numbers, "view": stated, "left": left, "top": top, "window": window}
            facts, data = self._asked(request, self._cell_timeout_s)
            if "error" in facts:
                raise restored(facts["error"], facts["reason"])
            tiles += int(facts["tiles"])
            part = np.frombuffer(data, dtype=np.uint8).reshape(window.height, window.width, 4)
            row, col = top + window.top - view.top_px, left + window.left - view.left_px
            pixels[row : row + window.height, col : col + window.width] = part[..., :bands]
        return Rendered(pixels, begun - ticket.asked, time.monotonic() - begun, tiles)

    def _asked(self, request: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        process = self._process
        if process is None or self._ending:
            raise ProcessBroken("it is stopped")
        return process.ask(request, timeout_s)

    def _ready(self) -> None:
        """Start the process where there is none, after a pause if it failed before. Raises ProcessBroken."""
        if self._process is not None:
            return
        if self._failures:
            rest_s = min(_FIRST_REST_S * 2 ** (self._failures - 1), _LONGEST_REST_S)
            with self._changed:
                self._state = "resting"
                self._changed.wait_for(lambda: self._ending, rest_s)
        if self._ending:
            raise ProcessBroken("it is stopped")
        with self._changed:
            self._state = "starting"
            self._started += 1
        process = DrawingProcess(self._browser, self._environment)
        with self._changed:
            self._process = process
            stopped = self._ending
        if stopped:
            raise ProcessBroken("it is stopped")
        process.wait(START_TIMEOUT_S)

    def _broken(self, error: ProcessBroken) -> None:
        self._drop()
        if not self._ending:
            _log.warning("the renderer has to be started again: %s", error)
            with self._changed:
                self._failures += 1
                self._last_failure = str(error)

    def _drop(self) -> None:
        with self._changed:
            process, self._process = self._process, None
        if process is not None:
            process.end()


def restored(name: str, reason: str) -> FusiError:
    """Return the error that the drawing process, or the renderer of another process, names."""
    kind = getattr(errors, name, None) or getattr(pipeline_errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, FusiError)):
        kind = FusiError
    error = kind.__new__(kind)
    error.args = (reason,)
    return error
