"""The map that layers are drawn over: `quadrants.db`, pictures of 512 px by (x, y).

Each quadrant has a `render` (what the ground looks like) and may have a
`generation` (what a model made of it), both as image bytes, and flags and notes.
Columns have the names that known maps use; x and y may be negative.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline.tiles.files import writable_folder
from fusi_pipeline.tiles.sqlite import sqlite_errors
from layer_generation.camera import Geometry, geometry_from, geometry_json
from layer_generation.errors import GeometryInvalid, MapExists, MapMissing, MapUnreadable
from layer_generation.quadrant_tables import (
    FACTS,
    FLAGS,
    KINDS,
    KNOWN_MIGRATIONS,
    MIGRATIONS,
    PAGE_SIZE,
    Kind,
    QuadrantFacts,
    QuadrantRow,
    QuadrantState,
    connected,
    identity_of,
    migrated,
)  # fmt: skip

__all__ = [
    "FACTS", "FILENAME", "FLAGS", "KINDS", "Kind", "QuadrantFacts", "QuadrantRow", "QuadrantState",
    "QuadrantStore",
]  # fmt: skip

FILENAME = "quadrants.db"
_FEW = 200
"""Changed quadrants that are looked at one by one."""
_FACTS_OF = f"quadrant_x, quadrant_y, render IS NOT NULL, generation IS NOT NULL, notes, {', '.join(FLAGS)}"


class QuadrantStore:
    """An open map. Use it as a context manager; one object is for one thread."""

    def __init__(self, folder: Path) -> None:
        """Open the map of a folder. Raises MapMissing and MapUnreadable."""
        self.folder = folder
        self.path = folder / FILENAME
        if not self.path.is_file():
            raise MapMissing(folder)
        with self._readable():
            self._db = connected(self.path)
            known = self._db["quadrants"].exists()
            applied = {one.name for one in MIGRATIONS.applied(self._db)} if known else set()
            later = applied - KNOWN_MIGRATIONS
            self.is_ours = "quadrants_and_metadata" in applied
            if self.is_ours and not later:
                migrated(self._db)
        if later:
            self._db.close()
            raise MapUnreadable(
                self.path, f"was written by a newer fusi ({', '.join(sorted(later))}); use that"
            )
        if not known:
            self._db.close()
            raise MapUnreadable(self.path, "has no table of quadrants")

    @classmethod
    def create(cls, folder: Path, geometry: Geometry, facts: dict[str, object] | None = None) -> Self:
        """Make an empty map. Raises MapExists."""
        path = folder / FILENAME
        if path.exists():
            raise MapExists(folder)
        writable_folder(folder)
        with sqlite_errors(path):
            db = connected(path)
            db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            db.execute("PRAGMA journal_mode = WAL")
            migrated(db)
            values = {"geometry": geometry_json(geometry), **(facts or {})}
            with db.atomic():
                db.conn.executemany(
                    "INSERT INTO metadata VALUES (?, ?)",
                    [(key, json.dumps(value, sort_keys=True)) for key, value in values.items()],
                )
            db.close()
        return cls(folder)

    def require_own(self) -> None:
        """Raise MapUnreadable where the map is another program's, which fusi only reads."""
        if not self.is_ours:
            raise MapUnreadable(self.path, "is not of fusi and only read; see `fusi layer map import`")

    def one(self, x: int, y: int) -> QuadrantFacts:
        """Return what is known of a quadrant."""
        with self._readable():
            row = self._db.execute(
                f"SELECT {_FACTS_OF} FROM quadrants WHERE quadrant_x = ? AND quadrant_y = ?", (x, y)
            ).fetchone()
        return QuadrantFacts(x, y, False, False, frozenset(), "") if row is None else _facts(*row)

    @property
    def geometry(self) -> Geometry:
        """Where the quadrants lie. Raises GeometryInvalid."""
        stated = self.fact("geometry") or self.fact("generation_config")
        if not isinstance(stated, dict):
            raise GeometryInvalid(f"{self.path}: states no geometry")
        return geometry_from(stated)

    def fact(self, key: str) -> object:
        """Return a value of the metadata, None where there is none."""
        with self._readable():
            row = self._db.execute("SELECT value FROM metadata WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            return json.loads(row[0])
        except (TypeError, ValueError):
            return str(row[0])

    def set_fact(self, key: str, value: object) -> None:
        """Set a value of the metadata."""
        with self._writable():
            self._db.execute(
                "INSERT OR REPLACE INTO metadata (key, value) VALUES (?, ?)",
                (key, json.dumps(value, sort_keys=True)),
            )

    def coordinates(self, kind: Kind | None = None) -> npt.NDArray[np.int64]:
        """Return the (x, y) of all quadrants, or of those with a picture, shape (n, 2), row by row."""
        where = "" if kind is None else f"WHERE {_column(kind)} IS NOT NULL"
        with self._readable():
            rows = self._db.execute(
                f"SELECT quadrant_x, quadrant_y FROM quadrants {where} ORDER BY quadrant_y, quadrant_x"
            ).fetchall()
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def image(self, kind: Kind, x: int, y: int) -> bytes | None:
        """Return a quadrant's picture, None where it has none."""
        with self._readable():
            row = self._db.execute(
                f"SELECT {_column(kind)} FROM quadrants WHERE quadrant_x = ? AND quadrant_y = ?", (x, y)
            ).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def holds(self, x: int, y: int) -> bool:
        """Tell whether the map has a quadrant, with or without pictures."""
        with self._readable():
            row = self._db.execute(
                "SELECT 1 FROM quadrants WHERE quadrant_x = ? AND quadrant_y = ?", (x, y)
            ).fetchone()
        return row is not None

    def has(self, kind: Kind, x: int, y: int) -> bool:
        """Tell whether a quadrant has a picture."""
        with self._readable():
            row = self._db.execute(
                f"SELECT {_column(kind)} IS NOT NULL FROM quadrants WHERE quadrant_x = ? AND quadrant_y = ?",
                (x, y),
            ).fetchone()
        return row is not None and bool(row[0])

    def put(self, kind: Kind, images: Iterable[tuple[int, int, bytes | None]]) -> None:
        """Set pictures of quadrants, in one transaction; None takes a picture away."""
        column = _column(kind)
        with self._writable():
            self._db.conn.executemany(
                f"INSERT INTO quadrants (quadrant_x, quadrant_y, {column}) VALUES (?, ?, ?)"
                f" ON CONFLICT (quadrant_x, quadrant_y) DO UPDATE SET {column} = excluded.{column}",
                images,
            )

    def store(
        self, kind: Kind, images: Sequence[tuple[int, int, bytes]], item: str, facts: Mapping[str, object]
    ) -> None:
        """Set pictures of quadrants and what made them, in one transaction."""
        text = json.dumps(dict(facts), sort_keys=True)
        with self._writable():
            self.put(kind, images)
            self._db.conn.executemany(
                "INSERT OR REPLACE INTO made (kind, x, y, item, facts) VALUES (?, ?, ?, ?, ?)",
                [(_column(kind), x, y, item, text) for x, y, _ in images],
            )

    def store_over(
        self,
        kind: Kind,
        images: Sequence[tuple[int, int, bytes]],
        versions: Mapping[tuple[int, int], int],
        facts: Mapping[str, object],
    ) -> bool:
        """Set pictures made from others; store nothing where one of those is of another version by now.

        Return whether they were stored. `versions` are of all quadrants that were looked at.
        """
        with self._writable():
            self._db.conn.execute("DELETE FROM made WHERE 0")  # takes the lock before it is looked
            if any(self.version(kind, x, y) != version for (x, y), version in versions.items()):
                return False
            self.store(kind, images, "", facts)
        return True

    def made(self, kind: Kind, x: int, y: int) -> tuple[str, dict[str, object]] | None:
        """Return the item that made a picture and what is known of that, None where nothing is."""
        with self._readable():
            row = self._db.execute(
                "SELECT item, facts FROM made WHERE (kind, x, y) = (?, ?, ?)", (_column(kind), x, y)
            ).fetchone()
        return None if row is None else (str(row[0]), json.loads(row[1]))

    @property
    def revision(self) -> int:
        """The number of the newest change."""
        with self._readable():
            return int(
                self._db.execute("SELECT coalesce(max(revision), 0) FROM quadrant_changes").fetchone()[0]
            )

    @property
    def identity(self) -> str:
        """What tells the map from every other, one made at the same place included."""
        with self._readable():
            try:
                return identity_of(self._db, self.path)
            except FileNotFoundError:
                raise MapMissing(self.folder) from None

    def version(self, kind: Kind, x: int, y: int) -> int:
        """Return the revision of a picture's newest change."""
        with self._readable():
            row = self._db.execute(
                "SELECT revision FROM quadrant_changes WHERE (kind, x, y) = (?, ?, ?)", (_column(kind), x, y)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def versions(self, kind: Kind) -> dict[tuple[int, int], int]:
        """Return the revision of the newest change of every picture of a kind, by quadrant."""
        column = _column(kind)
        with self._readable():
            known = {
                (int(x), int(y)): int(revision)
                for x, y, revision in self._db.execute(
                    "SELECT x, y, revision FROM quadrant_changes WHERE kind = ?", (kind,)
                )
            }
            return {
                (int(x), int(y)): known.get((int(x), int(y)), 0)
                for x, y in self._db.execute(
                    f"SELECT quadrant_x, quadrant_y FROM quadrants WHERE {column} IS NOT NULL"
                )
            }

    def states(self, since: int | None = None) -> list[QuadrantState]:
        """Return what there is of every quadrant, or of those that changed after a revision, row by row.

        One that was taken out of the map since then is not there, and has nothing.
        """
        with self._readable():
            versions = {
                (int(x), int(y)): int(version)
                for x, y, version in self._db.execute(
                    "SELECT x, y, max(revision) FROM quadrant_changes WHERE revision > ? GROUP BY x, y",
                    (-1 if since is None else since,),
                )
            }
            if since is not None and len(versions) < _FEW:
                return [self._state(x, y, version) for (x, y), version in sorted(versions.items(), key=_row)]
            having = {
                kind: {
                    (int(x), int(y))
                    for x, y in self._db.execute(
                        f"SELECT quadrant_x, quadrant_y FROM quadrants WHERE {where}"
                    )
                }
                for kind, where in (
                    ("render", "render IS NOT NULL"),
                    ("generation", "generation IS NOT NULL"),
                    ("notes", "notes <> ''"),
                )
            }
            rows = self._db.execute(
                f"SELECT quadrant_x, quadrant_y, {', '.join(FLAGS)} FROM quadrants INDEXED BY marks"
                " ORDER BY quadrant_y, quadrant_x"
            ).fetchall()
        return [
            QuadrantState(
                x,
                y,
                (x, y) in having["render"],
                (x, y) in having["generation"],
                frozenset(name for name, flag in zip(FLAGS, flags, strict=True) if flag and flag > 0),
                (x, y) in having["notes"],
                versions.get((x, y), 0),
            )
            for x, y, *flags in rows
            if since is None or (x, y) in versions
        ]

    def _state(self, x: int, y: int, version: int) -> QuadrantState:
        row = self._db.execute(
            f"SELECT render IS NOT NULL, generation IS NOT NULL, notes <> '', {', '.join(FLAGS)}"
            " FROM quadrants WHERE quadrant_x = ? AND quadrant_y = ?",
            (x, y),
        ).fetchone()
        if row is None:
            return QuadrantState(x, y, False, False, frozenset(), False, version, is_there=False)
        flags = frozenset(name for name, flag in zip(FLAGS, row[3:], strict=True) if flag and flag > 0)
        return QuadrantState(x, y, bool(row[0]), bool(row[1]), flags, bool(row[2]), version)

    def data_version(self) -> int:
        """Return a number that changes when another connection has written."""
        with self._readable():
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def add(self, quadrants: Iterable[tuple[int, int]]) -> None:
        """Add quadrants without pictures; those that there are stay as they are."""
        with self._writable():
            self._db.conn.executemany(
                "INSERT OR IGNORE INTO quadrants (quadrant_x, quadrant_y) VALUES (?, ?)", quadrants
            )

    def load(self, rows: Iterable[QuadrantRow]) -> None:
        """Add quadrants with all that is known of them, in one transaction, in place of those there."""
        columns = ("quadrant_x", "quadrant_y", "lat", "lng", "render", "generation", "notes", *FLAGS)
        with self._writable():
            self._db.conn.executemany(
                f"INSERT OR REPLACE INTO quadrants ({', '.join(columns)})"
                f" VALUES ({', '.join('?' * len(columns))})",
                (
                    (one.x, one.y, one.lat, one.lng, one.render, one.generation, one.notes,
                     *(one.flags.get(flag, 0) for flag in FLAGS))
                    for one in rows
                ),
            )  # fmt: skip

    def mark(self, flag: str, quadrants: Sequence[tuple[int, int]], value: bool = True) -> int:
        """Set or clear a flag of quadrants; return how many there were."""
        if flag not in FLAGS:
            raise ValueError(f"flag {flag!r}: expected one of {', '.join(FLAGS)}")
        return self._update(flag, int(value), quadrants)

    def note(self, quadrants: Sequence[tuple[int, int]], text: str) -> int:
        """Set the note of quadrants; return how many there were."""
        return self._update("notes", text, quadrants)

    def _update(self, column: str, value: object, quadrants: Sequence[tuple[int, int]]) -> int:
        with self._writable():
            return self._db.conn.executemany(
                f"UPDATE quadrants SET {column} = ? WHERE quadrant_x = ? AND quadrant_y = ?",
                [(value, x, y) for x, y in quadrants],
            ).rowcount

    def facts(self) -> Iterator[QuadrantFacts]:
        """Yield what is known of every quadrant, row by row."""
        with self._readable():
            for row in self._db.execute(f"SELECT {_FACTS_OF} FROM quadrants ORDER BY quadrant_y, quadrant_x"):
                yield _facts(*row)

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise MapUnreadable(self.path, f"cannot be read ({error})") from error

    @contextmanager
    def _writable(self) -> Iterator[None]:
        self.require_own()
        with sqlite_errors(self.path), self._db.atomic():
            yield


def _facts(
    x: int, y: int, render: object, generation: object, notes: str | None, *flags: int | None
) -> QuadrantFacts:
    marked = frozenset(name for name, flag in zip(FLAGS, flags, strict=True) if flag and flag > 0)
    return QuadrantFacts(x, y, bool(render), bool(generation), marked, notes or "")


def _row(one: tuple[tuple[int, int], int]) -> tuple[int, int]:
    return one[0][1], one[0][0]


def _column(kind: Kind) -> str:
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    return kind
