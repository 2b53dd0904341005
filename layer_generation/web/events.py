"""What changed, for pages: a thread that looks at the databases, and server-sent events from any moment on.

An event's id names the map and its queue and holds the revisions of both, so that a
page that was away, even over a restart of the app, is told all that it missed and
nothing twice; one that knows another map, or none, is told to begin anew.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fusi_pipeline.errors import FusiError
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.answers import listed_json, state_json
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.overviews import Stamps
from layer_generation.web.shelf import LAYER, Pictures, Shelf

_LOOK_S = 0.25
_LAYERS_LOOK_S = 1.0
_HEARTBEAT_S = 15.0
_MOST_LISTENERS = 100
MOST_REVISION = 2**63 - 1
"""What SQLite counts to."""


class TooManyListeners(Exception):
    """More pages than anybody opens listen for events."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a page is."""

    site: str
    """Which map and queue its revisions are of."""
    queue: int
    quadrants: int
    layers: dict[str, int] = field(default_factory=dict)
    """Not part of the id: layers are told anew to a page that comes back."""

    @classmethod
    def of(cls, text: str) -> Cursor | None:
        """Return the cursor of an event's id, None where it is none."""
        site, _, revisions = text.partition("-")
        queue, _, quadrants = revisions.partition(".")
        if not (site and text.isascii() and queue.isdigit() and quadrants.isdigit() and len(text) < 80):
            return None
        at = cls(site, int(queue), int(quadrants))
        return at if max(at.queue, at.quadrants) <= MOST_REVISION else None

    def __str__(self) -> str:
        return f"{self.site}-{self.queue}.{self.quadrants}"


class Board:
    """What the databases hold, looked at by one thread for all pages. `start`, then `close`."""

    def __init__(self, folder: Path, shelf: Shelf) -> None:
        self._folder = folder
        self._shelf = shelf
        self._closing = threading.Event()
        self._nudged = threading.Event()
        self._lock = threading.Lock()
        self._stamps: dict[str, tuple[object, Stamps, int]] = {}
        self._layer_revision = time.time_ns() // 1_000_000
        self._listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End, and with it every stream of events."""
        self._closing.set()
        self._nudged.set()
        self._tell()
        if self._thread.ident is not None:
            self._thread.join()

    def nudge(self) -> None:
        """Look at once: this app has just changed something."""
        self._nudged.set()

    @property
    def listeners(self) -> int:
        """How many pages listen."""
        return len(self._listeners)

    # Pictures

    def stamps(self, pictures: Pictures) -> tuple[Stamps, int]:
        """Return the stamps of all tiles of some pictures, and a number that grows with every change."""
        state = self._state(pictures)
        with self._lock:
            known = self._stamps.get(pictures.id)
            if known is not None and known[0] == state:
                return known[1], known[2]
        with QuadrantStore(self._folder) as store:
            identity = store.identity
        stamps = Stamps(pictures.versions(), identity)
        with self._lock:
            self._layer_revision += 1
            self._stamps[pictures.id] = (state, stamps, self._layer_revision)
            return stamps, self._layer_revision

    def _state(self, pictures: Pictures) -> object:
        """Return what changes when a picture does."""
        if not pictures.id.startswith(LAYER):
            with QuadrantStore(self._folder) as store:
                return store.identity, store.revision
        folder = getattr(pictures, "folder", self._folder) / "generations"
        try:
            return folder.stat().st_mtime_ns
        except OSError:
            return None

    # Events

    async def events(self, cursor: Cursor | None, *, is_new: bool = True) -> AsyncIterator[str]:
        """Yield server-sent events: from the cursor on, or from now on for None.

        The first is `hello` to a page that is new, `reset` to one that comes back and cannot say from where.
        """
        if len(self._listeners) >= _MOST_LISTENERS:
            raise TooManyListeners
        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        mine = (loop, changed)
        self._listeners.add(mine)
        try:
            at = cursor if cursor is not None else await asyncio.to_thread(self.now)
            if cursor is None:
                yield _event(at, "hello" if is_new else "reset", {})
            while not self._closing.is_set():
                changed.clear()
                texts, at = await asyncio.to_thread(self._since, at)
                for text in texts:
                    yield text
                try:
                    await asyncio.wait_for(changed.wait(), _HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self._listeners.discard(mine)

    def now(self) -> Cursor:
        """Return the cursor of a page that knows all."""
        with GenerationQueue(self._folder) as queue, QuadrantStore(self._folder) as store:
            return Cursor(_site(queue, store), queue.revision, store.revision, self._layer_revisions())

    def site(self) -> str:
        """Return what tells this map and its queue from all others."""
        with GenerationQueue(self._folder) as queue, QuadrantStore(self._folder) as store:
            return _site(queue, store)

    def _layer_revisions(self) -> dict[str, int]:
        return {one.id: self.stamps(one)[1] for one in self._shelf.all() if one.id.startswith(LAYER)}

    def _since(self, cursor: Cursor) -> tuple[list[str], Cursor]:
        """Return the events after a cursor, and the cursor behind them."""
        with GenerationQueue(self._folder) as queue, QuadrantStore(self._folder) as store:
            newest, listed, removed = queue.changed_since(cursor.queue)
            revision, site = store.revision, _site(queue, store)
            is_other = cursor.site != site or newest < cursor.queue or revision < cursor.quadrants
            if is_other:  # another database lies there now
                after = self.now()
                return [_event(after, "reset", {})], after
            states = store.states(cursor.quadrants) if revision != cursor.quadrants else []
        layers = self._layer_revisions()
        after = Cursor(site, newest, revision, layers)
        texts = []
        if newest != cursor.queue:
            data = {"revision": newest, "items": [listed_json(one) for one in listed], "removed": removed}
            texts.append(_event(after, "queue", data))
        if revision != cursor.quadrants:
            told = {"revision": revision, "quadrants": [state_json(one) for one in states]}
            texts.append(_event(after, "quadrants", told))
        for name, number in layers.items():
            if cursor.layers.get(name) != number:
                texts.append(_event(after, "layer", {"layer": name, "revision": number}))
        return texts, after

    def _watch(self) -> None:
        """Look for changes by whichever program, and tell all listeners."""
        while not self._closing.is_set():
            with (
                suppress(FusiError),
                GenerationQueue(self._folder) as queue,
                QuadrantStore(self._folder) as store,
            ):
                self._compare(queue, store)
            self._closing.wait(_LOOK_S)

    def _compare(self, queue: GenerationQueue, store: QuadrantStore) -> None:
        before: object = None
        layers_at = 0.0
        layers: dict[str, int] = {}
        while not self._closing.is_set():
            self._nudged.wait(_LOOK_S)
            self._nudged.clear()
            if time.monotonic() - layers_at >= _LAYERS_LOOK_S:
                layers, layers_at = self._layer_revisions(), time.monotonic()
            now = (queue.data_version(), store.data_version(), dict(layers))
            if now != before:
                before = now
                self._tell()

    def _tell(self) -> None:
        for loop, changed in list(self._listeners):
            with suppress(RuntimeError):  # the loop of that page has ended
                loop.call_soon_threadsafe(changed.set)


def _site(queue: GenerationQueue, store: QuadrantStore) -> str:
    return store.identity + queue.identity


def _event(cursor: Cursor, name: str, data: object) -> str:
    return f"id: {cursor}\nevent: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
