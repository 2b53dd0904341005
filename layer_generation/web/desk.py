"""What an app works with: its map, its queue, its models, its lanes. Routes ask it; it knows no HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.errors import FusiError
from layer_generation.camera import MercatorGrid, calculate_quadrant_corners
from layer_generation.quadrants import KINDS, QuadrantStore
from layer_generation.web.events import Board
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import MOST_GENERATED, RENDER_LANE
from layer_generation.web.lanes import Lanes, Log
from layer_generation.web.models import AppConfig
from layer_generation.web.overviews import CHUNK, MOST_LEVEL, SOON, Made, NotYet, Overviews, Stamps
from layer_generation.web.painters import Painter
from layer_generation.web.shelf import Pictures, Shelf

_Tile = tuple[str, int, int, int]
"""Layer, level, column and row."""
_LOOK_S = 0.2
_FRESH_S = 12.0
"""Pages ask again within this time for what they still show."""
_MAKERS = 2
"""Threads that make overviews."""

_ABANDONED = "no app that runs now draws with it"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskConfig:
    """What an app is of."""

    folder: Path
    """The map's."""
    config: AppConfig
    environment: Mapping[str, str]
    """Variables that models may name for their keys."""
    layer_folders: Sequence[Path] = ()
    generates: bool = True
    """Whether the queue is worked at, or only looked at."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A tile that somebody waits for."""

    pictures: Pictures
    stamps: Stamps
    far: int
    """Tiles between it and the middle of what is looked at."""
    asked_s: float

    @property
    def haste(self) -> tuple[bool, int, float]:
        """What is looked at now comes first, from the middle on; then what was, newest first."""
        is_old = time.monotonic() - self.asked_s > _FRESH_S
        return is_old, 0 if is_old else self.far, -self.asked_s


class Desk:
    """An open app. `start`, then `close`."""

    def __init__(self, given: DeskConfig, painter: Painter, log: Log) -> None:
        """Open the map and its queue. Raises MapMissing, MapUnreadable."""
        self.given = given
        self.painter = painter
        self.shelf = Shelf(given.folder, given.layer_folders)
        with self.store() as store:
            store.require_own()
            self.geometry = store.geometry
            identity = store.identity
        with self.queue():
            pass
        self.board = Board(given.folder, self.shelf)
        self.lanes = Lanes(given.folder, given.config, given.environment, painter, log, self.board.nudge)
        self._overviews = Overviews(given.folder, identity)
        self._wanted: dict[_Tile, _Awaited] = {}
        self._at: set[_Tile] = set()
        self._more = threading.Condition()
        self._closing = False
        self._making = [
            threading.Thread(target=self._make_tiles, name=f"overviews {number}", daemon=True)
            for number in range(_MAKERS)
        ]

    def start(self) -> None:
        """Begin to work at the queue, and to look for changes."""
        self.painter.start()
        self.board.start()
        for thread in self._making:
            thread.start()
        if self.given.generates:
            self.lanes.start()

    def close(self) -> None:
        """Give back what is under way and end."""
        self.board.close()
        if self.given.generates:
            self.lanes.close()
        with self._more:
            self._closing = True
            self._more.notify_all()
        for thread in self._making:
            if thread.ident is not None:
                thread.join()
        self._overviews.close()
        self.painter.close()

    @contextmanager
    def store(self) -> Iterator[QuadrantStore]:
        """Open the map; the board looks at it afterwards."""
        with QuadrantStore(self.given.folder) as store:
            yield store
        if hasattr(self, "board"):
            self.board.nudge()

    @contextmanager
    def queue(self) -> Iterator[GenerationQueue]:
        """Open the queue; the lanes and the board look at it afterwards."""
        with GenerationQueue(self.given.folder) as queue:
            yield queue
        if hasattr(self, "lanes"):
            self.lanes.wake()
            self.board.nudge()

    # What a page begins with

    def facts(self) -> dict[str, object]:
        """Return what a page has to know before all else; never a key or an address of a model."""
        given, config = self.given, self.given.config
        with self.store() as store:
            coordinates = store.coordinates()
        bounds = None
        if len(coordinates):
            low, high = coordinates.min(axis=0), coordinates.max(axis=0)
            bounds = [int(low[0]), int(low[1]), int(high[0]), int(high[1])]
        return {
            "map": {
                "name": given.folder.resolve().name,
                "geometry": "mercator" if isinstance(self.geometry, MercatorGrid) else "isometric",
                "quadrant_px": 512,
                "bounds": bounds,
                "quadrants": len(coordinates),
                "identity": self.board.site(),
            },
            "layers": [
                {"id": one.id, "name": one.name, "pictures": len(self.board.stamps(one)[0].levels[0])}
                for one in self.shelf.all()
            ],
            "models": [
                one.public(one.reason(given.environment, config.path.parent)) for one in config.models
            ],
            "default_model_id": config.default_model_id,
            "generates": given.generates,
            "selection_limit": MOST_GENERATED,
            "max_level": MOST_LEVEL,
            "renderer": self.painter.status(),
        }

    def quadrant(self, x: int, y: int) -> dict[str, object] | None:
        """Return all that is known of a quadrant, None where the map has none there."""
        with self.store() as store:
            if not store.holds(x, y):
                return None
            known = store.one(x, y)
            pictures: dict[str, object] = {}
            for kind in KINDS:
                data = store.image(kind, x, y)
                if data is not None:
                    made = store.made(kind, x, y)
                    facts = None if made is None else dict(made[1])
                    pictures[kind] = {"version": store.version(kind, x, y), "bytes": len(data), "made": facts}
        return {
            "x": x,
            "y": y,
            "flags": sorted(known.flags),
            "notes": known.notes,
            "corners": [[place.lat, place.lon] for place in calculate_quadrant_corners(self.geometry, x, y)],
            "pictures": pictures,
        }

    # Tiles

    def tile(self, pictures: Pictures, level: int, x: int, y: int, far: int = 0) -> Made | None:
        """Return a tile of level 1 or above, None where it shows nothing.

        Raises NotYet where it takes long; it is made meanwhile, the sooner the less `far` it is
        from the middle of what is looked at.
        """
        stamps, _ = self.board.stamps(pictures)
        key = (pictures.id, level, x, y)
        with self._more:
            is_coming = key in self._wanted or key in self._at
        try:
            return self._overviews.tile(pictures, stamps, level, x, y, most=0 if is_coming else SOON)
        except NotYet:
            with self._more:
                self._wanted[key] = _Awaited(pictures, stamps, far, time.monotonic())
                self._more.notify_all()
            raise

    def partial_tile(self, pictures: Pictures, level: int, x: int, y: int) -> tuple[bytes, int, int]:
        """Return what there is of a tile that is being made, and how many of how many quadrants it shows."""
        stamps, _ = self.board.stamps(pictures)
        shown, there = self._overviews.shown(pictures, stamps, level, x, y)
        return self._overviews.partial(pictures, stamps, level, x, y), shown, there

    def _make_tiles(self) -> None:
        """Make tiles that somebody waits for, nearest first, some pictures at a time."""
        while True:
            with self._more:
                while not self._wanted and not self._closing:
                    self._more.wait()
                if self._closing:
                    return
                free = [key for key in self._wanted if key not in self._at]
                if not free:  # another thread is at what was asked for again
                    self._more.wait(_LOOK_S)
                    continue
                key = min(free, key=lambda one: self._wanted[one].haste)
                awaited = self._wanted.pop(key)
                self._at.add(key)
            try:
                with suppress(FusiError):
                    self._make_tile(awaited.pictures, awaited.stamps, key)
            finally:
                with self._more:
                    self._at.discard(key)

    def _make_tile(self, pictures: Pictures, stamps: Stamps, key: _Tile) -> None:
        while not self._closing:
            try:
                self._overviews.tile(pictures, stamps, *key[1:], most=CHUNK)
                return
            except NotYet:
                continue

    def lanes_json(
        self, pending: Mapping[str, int], running: Mapping[str, int], worked_at: Collection[str]
    ) -> list[dict[str, object]]:
        """Return every lane with the item it is at and the number of those that wait.

        `worked_at` are lanes of apps that run now; other apps may have models that this one has not.
        """
        names = {one.model_id: one.name for one in self.given.config.models} | {RENDER_LANE: "Renders"}
        names |= {lane: lane for lane in pending if lane and lane not in names}
        return [
            {
                "lane": lane,
                "name": name,
                "running": running.get(lane),
                "pending": pending.get(lane, 0),
                "paused": _ABANDONED
                if pending.get(lane) and lane not in worked_at
                else self.lanes.paused(lane),
            }
            for lane, name in names.items()
        ]
