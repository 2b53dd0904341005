"""Pictures of many quadrants at once: a pyramid of 512 px tiles that is made as it is looked at, and kept.

A tile of level n shows 2^n by 2^n quadrants. Level 0 is the stored picture. Tiles
above are WebP and lie in a cache beside the map, which may be removed at any
time; each knows its map, the newest of its quadrants and how many there were,
so that it is made again after any change.
"""

from __future__ import annotations

import io
import sqlite3
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from layer_generation.camera import QUADRANT_PX
from layer_generation.errors import ImageInvalid
from layer_generation.pictures import decoded
from layer_generation.web.items import Quadrant
from layer_generation.web.shelf import Pictures

FILENAME = ".fusi-app-cache.db"
MOST_LEVEL = 12
SOON = 4
"""Pictures that are read while somebody waits for a tile."""
CHUNK = 24
"""Pictures that are read at a time where nobody waits."""
_FLAT = (138, 144, 138, 255)
"""Of quadrants that have a picture, and no overview yet."""
_FLAT_LEVELS = 5
_LAYOUT = 2
"""Of the cache's table."""
_BUSY_TIMEOUT_S = 10.0
_SMALLEST_PART_PX = 16
_MOST_PARTS = 16
"""Tiles that a part of one is put together from."""
_QUALITY = 82
_EFFORT = 2

Stamp = tuple[int, int]
"""The newest version among the quadrants of a tile, and how many there are; (0, 0) for none."""


class NotYet(Exception):
    """A tile needs more pictures than somebody should wait for; it is being made meanwhile."""


@dataclass(frozen=True, slots=True)
class Made:
    """A tile as bytes."""

    data: bytes
    stamp: Stamp
    identity: str
    """Of the map; a stamp says nothing without it."""


class Stamps:
    """The stamps of every tile of some pictures, level by level."""

    def __init__(self, versions: Mapping[Quadrant, int], identity: str = "") -> None:
        """Take a number for every quadrant with a picture, and the identity of the map that they are of."""
        self.identity = identity
        self.levels: list[dict[Quadrant, Stamp]] = [{one: (version, 1) for one, version in versions.items()}]
        while len(self.levels) <= MOST_LEVEL and len(self.levels[-1]) > 1:
            above: dict[Quadrant, Stamp] = {}
            for (x, y), (newest, count) in self.levels[-1].items():
                known, there = above.get((x >> 1, y >> 1), (-1, 0))
                above[(x >> 1, y >> 1)] = (max(known, newest), there + count)
            self.levels.append(above)

    def of(self, level: int, x: int, y: int) -> Stamp:
        """Return the stamp of a tile."""
        if level < len(self.levels):
            return self.levels[level].get((x, y), (0, 0))
        newest, count = 0, 0
        side = level - len(self.levels) + 1
        for (column, row), (version, there) in self.levels[-1].items():
            if (column >> side, row >> side) == (x, y):
                newest, count = max(newest, version), count + there
        return newest, count

    @property
    def top(self) -> int:
        """The lowest level at which one tile shows all."""
        return len(self.levels) - 1


class Overviews:
    """The cache of a map's tiles. Threads may share it."""

    def __init__(self, folder: Path, identity: str) -> None:
        """Open the cache of a folder; one of another map is emptied, one that cannot be used begun anew."""
        self._path = folder / FILENAME
        self._lock = threading.Lock()
        try:
            self._db = _opened(self._path, identity)
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._db = _opened(self._path, identity)

    def tile(
        self, pictures: Pictures, stamps: Stamps, level: int, x: int, y: int, most: int = SOON
    ) -> Made | None:
        """Return a tile of level 1 or above, None where it shows nothing.

        Raises NotYet where that takes more than `most` pictures to be read.
        """
        return _Making(self, pictures, stamps, most).tile(level, x, y)

    def partial(self, pictures: Pictures, stamps: Stamps, level: int, x: int, y: int) -> bytes:
        """Return a tile drawn from what the cache has of the levels below, with a flat colour for the rest.

        The largest parts come first, and not more of them than is quick.
        """
        canvas = _flat(stamps, level, x, y)
        left = _MOST_PARTS
        tiles = deque([(level, x, y, 0, 0)])
        while tiles and left:
            at, column, row, across, down = tiles.popleft()
            side = QUADRANT_PX >> (level - at)
            if not (stamps.of(at, column, row)[1] and at and side >= _SMALLEST_PART_PX):
                continue
            data = self.kept(stamps, pictures.id, at, column, row)
            if data is not None:
                image = _read(data)
                canvas.paste(image if side == QUADRANT_PX else image.resize((side, side)), (across, down))
                left -= 1
                continue
            half = side // 2
            tiles.extend(
                (at - 1, 2 * column + right, 2 * row + lower, across + right * half, down + lower * half)
                for lower in (0, 1)
                for right in (0, 1)
            )
        return _webp(canvas)

    def shown(self, pictures: Pictures, stamps: Stamps, level: int, x: int, y: int) -> tuple[int, int]:
        """Return how many quadrants of a tile overviews show already, and of how many."""
        side = 1 << (level - 1)
        left, top = x * side, y * side
        with self._lock:
            kept = {
                (at, column, row): (newest, count)
                for at, column, row, newest, count in self._db.execute(
                    "SELECT level, x, y, newest, quadrants FROM tiles"
                    " WHERE map = ? AND layer = ? AND level = 1 AND x >= ? AND x < ? AND y >= ? AND y < ?",
                    (stamps.identity, pictures.id, left, left + side, top, top + side),
                )
            }
        done = sum(stamp[1] for place, stamp in kept.items() if stamps.of(*place) == stamp)
        return done, stamps.of(level, x, y)[1]

    def kept(self, stamps: Stamps, name: str, level: int, x: int, y: int) -> bytes | None:
        """Return a tile of the cache, None where there is none or an older one."""
        with self._lock:
            row = self._db.execute(
                "SELECT data FROM tiles"
                " WHERE (map, layer, level, x, y, newest, quadrants) = (?, ?, ?, ?, ?, ?, ?)",
                (stamps.identity, name, level, x, y, *stamps.of(level, x, y)),
            ).fetchone()
        return None if row is None else bytes(row[0])

    def keep(self, name: str, level: int, x: int, y: int, made: Made) -> None:
        """Put a tile into the cache; where that cannot be written, it is made again next time."""
        with self._lock:
            try:
                self._db.execute(
                    "INSERT OR REPLACE INTO tiles VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (made.identity, name, level, x, y, *made.stamp, made.data),
                )
            except sqlite3.OperationalError:
                return

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()


class _Making:
    """One tile on its way, with those below it."""

    def __init__(self, overviews: Overviews, pictures: Pictures, stamps: Stamps, most: int) -> None:
        self._overviews = overviews
        self._pictures = pictures
        self._stamps = stamps
        self._left = most

    def tile(self, level: int, x: int, y: int) -> Made | None:
        found = self._tile(level, x, y)
        return None if found is None else found[0]

    def _tile(self, level: int, x: int, y: int) -> tuple[Made, Image.Image | None] | None:
        """Return a tile, and its pixels where it was drawn just now."""
        stamp = self._stamps.of(level, x, y)
        if not stamp[1]:
            return None
        known = self._overviews.kept(self._stamps, self._pictures.id, level, x, y)
        if known is not None:
            return Made(known, stamp, self._stamps.identity), None
        drawn = self._drawn(level, x, y)
        made = Made(_webp(drawn), stamp, self._stamps.identity)
        self._overviews.keep(self._pictures.id, level, x, y, made)
        return made, drawn

    def _drawn(self, level: int, x: int, y: int) -> Image.Image:
        """Return a tile from the four below it."""
        canvas = Image.new("RGBA", (QUADRANT_PX, QUADRANT_PX))
        half = QUADRANT_PX // 2
        for down in (0, 1):
            for right in (0, 1):
                part = self._image(level - 1, 2 * x + right, 2 * y + down)
                if part is not None:
                    canvas.paste(part.reduce(2), (right * half, down * half))
        return canvas

    def _image(self, level: int, x: int, y: int) -> Image.Image | None:
        if level:
            found = self._tile(level, x, y)
            if found is None:
                return None
            made, drawn = found
            return _read(made.data) if drawn is None else drawn
        if not self._stamps.of(0, x, y)[1]:
            return None
        if self._left <= 0:
            raise NotYet
        self._left -= 1
        data = self._pictures.read(x, y)
        return None if data is None else _quadrant(data, f"{self._pictures.name} {x},{y}")


def _flat(stamps: Stamps, level: int, x: int, y: int) -> Image.Image:
    """Return a tile that shows where quadrants have pictures, and not which."""
    canvas = Image.new("RGBA", (QUADRANT_PX, QUADRANT_PX))
    at = max(0, level - _FLAT_LEVELS)
    across = 1 << (level - at)
    side = QUADRANT_PX // across
    for row in range(across):
        for column in range(across):
            if stamps.of(at, x * across + column, y * across + row)[1]:
                left, top = column * side, row * side
                canvas.paste(_FLAT, (left, top, left + side, top + side))
    return canvas


def _quadrant(data: bytes, what: str) -> Image.Image | None:
    """Return a stored picture at its size; one that does not decode shows nothing."""
    try:
        image = Image.fromarray(decoded(data, what))
    except ImageInvalid:
        return None
    if image.size != (QUADRANT_PX, QUADRANT_PX):
        image = image.resize((QUADRANT_PX, QUADRANT_PX), Image.Resampling.BILINEAR)
    return image


def _read(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGBA")


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=_EFFORT)
    return buffer.getvalue()


def _opened(path: Path, identity: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    if connection.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
        connection.execute("DROP TABLE IF EXISTS tiles")
        connection.execute(f"PRAGMA user_version = {_LAYOUT}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS tiles (map TEXT, layer TEXT, level INTEGER, x INTEGER, y INTEGER,"
        " newest INTEGER, quadrants INTEGER, data BLOB, PRIMARY KEY (layer, level, x, y))"
    )
    connection.execute("DELETE FROM tiles WHERE map <> ?", (identity,))
    return connection
