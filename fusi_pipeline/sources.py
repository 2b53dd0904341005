"""Sources: the index that finds a source's files by place, and what a source is made of.

Pure: a raster is never opened here. `scan` reads rasters and writes the index;
everything after it asks the index which files touch a box. The records are in
`source_file`, the folder and its `source.toml` in `source_folder`; what others
need of them can be imported from here.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from fusi_pipeline.errors import DiskFull, SourceIndexInvalid
from fusi_pipeline.source_file import (
    AUTO_MAXZOOM_CAP,
    BrokenFile,
    SourceFile,
    heights_m,
    metres_per_number,
    missing,
)
from fusi_pipeline.source_folder import (
    RESAMPLINGS,
    RasterEntry,
    SourceConfig,
    config_digest,
    find_sources,
    raster_entries,
    raster_files,
    read_config,
    reading_digest,
    source_folder,
)
from fusi_pipeline.tiles.files import file_state, free_mib, replacing
from fusi_pipeline.tiles.grid import HALF_WORLD_M, XYBounds

__all__ = [
    "AUTO_MAXZOOM_CAP",
    "RESAMPLINGS",
    "SCHEMA_VERSION",
    "BrokenFile",
    "FileStore",
    "RasterEntry",
    "SourceConfig",
    "SourceFile",
    "SourceIndex",
    "config_digest",
    "find_sources",
    "heights_m",
    "is_current",
    "is_unchanged",
    "metres_per_number",
    "missing",
    "note_whole",
    "part_state",
    "raster_entries",
    "raster_files",
    "read_config",
    "reading_digest",
    "source_folder",
    "union",
    "write_index",
]

SCHEMA_VERSION = 3
"""Raised when the schema or what a scan finds changes; older indexes are then stale."""

_WHOLE = "whole:"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE crs (id INTEGER PRIMARY KEY, wkt TEXT NOT NULL UNIQUE);
CREATE TABLE files (
    id INTEGER PRIMARY KEY, filename TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, parts TEXT NOT NULL,
    crs INTEGER NOT NULL REFERENCES crs (id), record TEXT NOT NULL
);
CREATE TABLE broken (
    filename TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, problem TEXT NOT NULL
);
CREATE VIRTUAL TABLE boxes USING rtree (id, left, right, bottom, top, +file INTEGER);
"""
_ROWS = "SELECT files.filename, size_bytes, mtime_ns, parts, wkt, record FROM files JOIN crs ON crs.id = crs"
_TOUCHING = """
SELECT files.filename, size_bytes, mtime_ns, parts, wkt, record
FROM boxes CROSS JOIN files ON files.id = boxes.file CROSS JOIN crs ON crs.id = files.crs
WHERE boxes.right >= :left AND boxes.left <= :right AND boxes.top >= :bottom AND boxes.bottom <= :top
"""
_STATES = """
SELECT filename, size_bytes, mtime_ns, parts FROM files
UNION ALL SELECT filename, size_bytes, mtime_ns, '[]' FROM broken ORDER BY filename
"""


class FileStore:
    """Records of source files in one SQLite file: the index, or the memory of a scan under way."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def create(cls, connection: sqlite3.Connection) -> Self:
        """Make the tables in an empty database."""
        connection.executescript(f"{_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
        return cls(connection)

    def meta(self, key: str) -> str | None:
        """Return a value kept under a key."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, **values: str) -> None:
        """Keep values under their keys."""
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def file(self, filename: str) -> SourceFile | None:
        """Return the record of one file."""
        row = self._connection.execute(f"{_ROWS} WHERE filename = ?", (filename,)).fetchone()
        return None if row is None else _file(row)

    def put(self, file: SourceFile) -> int:
        """Keep the record of a file, in place of an older one; return its row id."""
        self._connection.execute("INSERT OR IGNORE INTO crs (wkt) VALUES (?)", (file.crs,))
        record = asdict(file)
        named = [record.pop(name) for name in ("filename", "size_bytes", "mtime_ns", "parts", "crs")]
        named[3] = json.dumps(named[3])
        cursor = self._connection.execute(
            "INSERT OR REPLACE INTO files (filename, size_bytes, mtime_ns, parts, crs, record) "
            "VALUES (?, ?, ?, ?, (SELECT id FROM crs WHERE wkt = ?), ?)",
            (*named, json.dumps(record)),
        )
        return int(cursor.lastrowid or 0)

    def commit(self) -> None:
        """Commit what was put."""
        self._connection.commit()


def _file(row: tuple[Any, ...]) -> SourceFile:
    filename, size_bytes, mtime_ns, parts, wkt, text = row
    record = json.loads(text)
    record["box"] = XYBounds(**record["box"])
    record["transform"] = tuple(record["transform"])
    record["warnings"] = tuple(record["warnings"])
    return SourceFile(
        filename=filename, size_bytes=size_bytes, mtime_ns=mtime_ns, parts=_parts(parts), crs=wkt, **record
    )


def _parts(text: str) -> tuple[tuple[str, int, int], ...]:
    return tuple((str(path), int(size), int(mtime)) for path, size, mtime in json.loads(text))


class SourceIndex:
    """The index of a source, open for reading; a context manager.

    Raises SourceIndexInvalid where the file is absent, is no index, or was
    written by another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise SourceIndexInvalid(path, "no index of the source")
        self._connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)
        try:
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version != SCHEMA_VERSION:
                raise SourceIndexInvalid(path, f"is of version {version}, this fusi reads {SCHEMA_VERSION}")
            self._meta: dict[str, str] = dict(self._connection.execute("SELECT key, value FROM meta"))
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise SourceIndexInvalid(path, f"is not an index of a source ({error})") from error
        except SourceIndexInvalid:
            self._connection.close()
            raise
        self._store = FileStore(self._connection)

    @property
    def name(self) -> str:
        """The name of the source."""
        return self._meta["name"]

    @property
    def config_digest(self) -> str:
        """Hash of the configuration that was scanned with (see `config_digest`)."""
        return self._meta["config_digest"]

    @property
    def reading_digest(self) -> str:
        """Hash of the part of the configuration that pixels are read by."""
        return self._meta["reading_digest"]

    def count(self) -> int:
        """Return the number of usable files."""
        return int(self._meta["count"])

    def bounds(self) -> XYBounds:
        """Return the union of all boxes (see `union`)."""
        return XYBounds(*json.loads(self._meta["bounds"]))

    def maxzoom(self) -> int:
        """Return the highest zoom that any file asks for."""
        return int(self._meta["maxzoom"])

    def whole(self, archive: Path) -> str | None:
        """Return the state of an archive when it was last known to be whole (see `note_whole`), or None."""
        return self._meta.get(f"{_WHOLE}{archive.name}")

    def files(self) -> Iterator[SourceFile]:
        """Yield every file, by name, without loading them all."""
        yield from map(_file, self._connection.execute(f"{_ROWS} ORDER BY files.filename"))

    def file(self, filename: str) -> SourceFile | None:
        """Return one file by name."""
        return self._store.file(filename)

    def touching(self, box: XYBounds) -> list[SourceFile]:
        """Return the files whose boxes share more than an edge with a box, by name.

        Both may cross the antimeridian.
        """
        found: dict[str, SourceFile] = {}
        for part in box.parts():
            for row in self._connection.execute(_TOUCHING, asdict(part)):
                if row[0] not in found:
                    file = _file(row)
                    if any(part.intersects(piece) for piece in file.box.parts()):
                        found[file.filename] = file
        return [found[filename] for filename in sorted(found)]

    def broken(self) -> list[tuple[str, str]]:
        """Return (filename, problem) of the files that were left out, by name."""
        rows = self._connection.execute("SELECT filename, problem FROM broken ORDER BY filename")
        return [(str(filename), str(problem)) for filename, problem in rows]

    def states(self) -> Iterator[tuple[str, int, int, tuple[tuple[str, int, int], ...]]]:
        """Yield (filename, size_bytes, mtime_ns, parts) of every file, broken ones too, by name."""
        for filename, size_bytes, mtime_ns, parts in self._connection.execute(_STATES):
            yield filename, size_bytes, mtime_ns, _parts(parts)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_index(
    path: Path,
    files: Iterable[SourceFile],
    broken: Sequence[BrokenFile] = (),
    *,
    name: str,
    config: SourceConfig,
) -> None:
    """Write the index of a source, in one pass over `files`, which are not kept; absent or complete.

    Raises DiskFull or OutputUnwritable.
    """
    with replacing(path) as scratch:
        try:
            with closing(sqlite3.connect(scratch)) as connection, connection:
                connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
                _fill(FileStore.create(connection), connection, files, broken, name, config)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFull(path, free_mib(path)) from error
            raise


def _fill(
    store: FileStore,
    connection: sqlite3.Connection,
    files: Iterable[SourceFile],
    broken: Sequence[BrokenFile],
    name: str,
    config: SourceConfig,
) -> None:
    boxes: list[XYBounds] = []
    maxzoom = 0
    for file in files:
        row = store.put(file)
        for part in file.box.parts():
            connection.execute(
                "INSERT INTO boxes (left, right, bottom, top, file) VALUES (?, ?, ?, ?, ?)",
                (part.left, part.right, part.bottom, part.top, row),
            )
        boxes.append(file.box)
        maxzoom = max(maxzoom, file.maxzoom)
    connection.executemany(
        "INSERT INTO broken VALUES (?, ?, ?, ?)",
        [(one.filename, one.size_bytes, one.mtime_ns, one.problem) for one in broken],
    )
    bounds = union(boxes)
    store.set_meta(
        name=name,
        config_digest=config_digest(config),
        reading_digest=reading_digest(config),
        count=str(len(boxes)),
        maxzoom=str(maxzoom),
        bounds=json.dumps([bounds.left, bounds.bottom, bounds.right, bounds.top]),
    )


def note_whole(index_path: Path, archive: Path) -> None:
    """Note in the index that an archive made from it is whole as it is now.

    Where that cannot be noted, the next build reads the archive through instead.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(index_path)) as connection, connection:
        FileStore(connection).set_meta(**{f"{_WHOLE}{archive.name}": file_state(archive)})


def union(boxes: Sequence[XYBounds]) -> XYBounds:
    """Return the smallest box around boxes.

    Only where they meet at the antimeridian, from both sides, may the result
    cross it: it then leaves out the widest gap between them, wherever that is.
    Raises ValueError for no box.
    """
    bottom, top = min(box.bottom for box in boxes), max(box.top for box in boxes)
    spans = sorted((part.left, part.right) for box in boxes for part in box.parts())
    left, right = spans[0][0], max(span[1] for span in spans)
    if left > -HALF_WORLD_M + 1 or right < HALF_WORLD_M - 1:
        return XYBounds(left, bottom, right, top)
    widest, reached = (0.0, left, right), spans[0][1]
    for start, stop in spans:
        if start - reached > widest[0]:
            widest = (start - reached, start, reached)
        reached = max(reached, stop)
    return XYBounds(widest[1], bottom, widest[2], top)


def scan_memory_path(index_path: Path) -> Path:
    """Return where a scan keeps what it learned, for the next one to go on if it is interrupted."""
    return index_path.with_name(f".{index_path.name}.scan")


def forget_scan(index_path: Path) -> None:
    """Remove what scans of a source remember beside its index."""
    memory = scan_memory_path(index_path)
    for suffix in ("", "-journal"):
        memory.with_name(memory.name + suffix).unlink(missing_ok=True)


def is_current(folder: Path, index_path: Path) -> bool:
    """Tell whether an index still describes its folder: same files, sizes, times and configuration.

    Content is not read. Raises SourceConfigInvalid.
    """
    try:
        index = SourceIndex(index_path)
    except SourceIndexInvalid:
        return False
    with index:
        if index.config_digest != config_digest(read_config(folder)):
            return False
        pairs = zip_longest(raster_entries(folder), index.states())
        return all(
            entry is not None and state is not None and is_unchanged(folder, entry, *state)
            for entry, state in pairs
        )


def is_unchanged(
    folder: Path,
    entry: RasterEntry,
    filename: str,
    size_bytes: int,
    mtime_ns: int,
    parts: Sequence[tuple[str, int, int]],
) -> bool:
    """Tell whether a file is still as it was recorded, with its sidecars and members."""
    if (entry.filename, entry.size_bytes, entry.mtime_ns) != (filename, size_bytes, mtime_ns):
        return False
    if not set(entry.sidecars) <= {path for path, _, _ in parts}:
        return False
    return all(part_state(folder, path) == (path, size, mtime) for path, size, mtime in parts)


def part_state(folder: Path, path: str) -> tuple[str, int, int]:
    """Return (path, bytes, mtime_ns) of a sidecar or member; -1 for what is not a local file."""
    try:
        state = os.stat(folder / path)
    except OSError:
        return (path, -1, -1)
    return (path, state.st_size, state.st_mtime_ns)
