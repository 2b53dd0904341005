"""Maps of known projects and folders of pictures, taken into a map of ours."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from fusi_pipeline.errors import UsageError
from layer_generation.advance import Advance
from layer_generation.camera import QUADRANT_PX, Geometry, MercatorGrid, geometry_from
from layer_generation.errors import GeometryInvalid, ImageInvalid, MapMissing, MapUnreadable
from layer_generation.map_making import new_store
from layer_generation.pictures import decoded, png, resized
from layer_generation.quadrants import FILENAME, FLAGS, KINDS, Kind, QuadrantRow, QuadrantStore

CONFIG = "generation_config.json"
_BATCH = 64
_NAME = re.compile(r"(-?\d{1,9})_(-?\d{1,9})\.(?:png|webp|jpe?g)", re.IGNORECASE)
_COPIED = ("quadrant_x", "quadrant_y", "lat", "lng", "render", "generation", "notes", *FLAGS)
_DERIVED = ("tile_row", "tile_col", "quadrant_index", "is_generated")


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was left out, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import came to."""

    map: Path
    quadrants: int = 0
    """Quadrants taken in from a map."""
    renders: int = 0
    """Pictures written, of either kind."""
    generations: int = 0
    unchanged: int = 0
    """Pictures that the map had already, byte for byte."""
    skipped: tuple[Skipped, ...] = ()
    columns_left_out: tuple[str, ...] = ()
    """Columns of the map that came from which ours has no place for."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What else the map that came from says of itself."""


def import_map(source: Path, folder: Path) -> Generator[Advance, None, ImportReport]:
    """Make a map of a known project's: its pictures, flags, notes and camera; absent or complete.

    `source` is a folder with a `quadrants.db`, or that file; columns that older
    ones lack are empty. A picture that is none of 512 px is left out. Raises
    MapMissing, MapExists, MapUnreadable, GeometryInvalid.
    """
    database = source if source.is_file() else source / FILENAME
    if not database.is_file():
        raise MapMissing(source)
    with _opened(database) as connection:
        columns = [str(row[1]) for row in connection.execute("PRAGMA table_xinfo (quadrants)")]
        if not {"quadrant_x", "quadrant_y"} <= set(columns):
            raise MapUnreadable(database, "has no table of quadrants")
        stated = _metadata(connection)
        geometry, config = _geometry(database, stated)
        facts: dict[str, object] = {"generation_config": config} if config else {}
        (total,) = connection.execute("SELECT count(*) FROM quadrants").fetchone()
        with new_store(folder, geometry, facts) as store:
            kept, skipped = [0, 0], list[Skipped]()
            yield from _copied(connection, columns, store, total, kept, skipped)
    left_out = [one for one in columns if one not in (*_COPIED, *_DERIVED)]
    return ImportReport(
        map=folder,
        quadrants=total,
        renders=kept[0],
        generations=kept[1],
        skipped=tuple(skipped),
        columns_left_out=tuple(left_out),
        metadata={
            key: value for key, value in stated.items() if key not in ("geometry", "generation_config")
        },
    )


def _copied(
    connection: sqlite3.Connection,
    columns: Sequence[str],
    store: QuadrantStore,
    total: int,
    kept: list[int],
    skipped: list[Skipped],
) -> Generator[Advance, None, None]:
    """Copy quadrants in batches; count the pictures in `kept`, name those left out in `skipped`."""
    chosen = [one if one in columns else f"NULL AS {one}" for one in _COPIED]
    rows = connection.execute(f"SELECT {', '.join(chosen)} FROM quadrants ORDER BY quadrant_y, quadrant_x")
    done = 0
    yield Advance("import", 0, total, "quadrants")
    while batch := rows.fetchmany(_BATCH):
        found = []
        for x, y, lat, lng, render, generation, notes, *flags in batch:
            pictures = {"render": render, "generation": generation}
            for place, kind in enumerate(KINDS):
                reason = None if pictures[kind] is None else _unfit(pictures[kind])
                if reason is not None:
                    skipped.append(Skipped(f"{kind} of {x},{y}", reason))
                    pictures[kind] = None
                kept[place] += pictures[kind] is not None
            marks = {name: int(flag or 0) for name, flag in zip(FLAGS, flags, strict=True)}
            found.append(QuadrantRow(x=x, y=y, lat=lat, lng=lng, notes=notes, flags=marks, **pictures))
        store.load(found)
        done += len(batch)
        yield Advance("import", done, total, "quadrants")


def import_images(
    pictures: Path,
    folder: Path,
    *,
    kind: Kind = "render",
    resize: bool = False,
    overwrite: bool = False,
    skip_broken: bool = False,
) -> Generator[Advance, None, ImportReport]:
    """Take pictures named `{x}_{y}.png` (or .webp, .jpg) into a map as renders or generations.

    Pictures of 512 px stay as they are; others are an error, or resampled
    (`resize`). What is there and differs stays, unless `overwrite`. A picture that
    does not decode is an error, or left out (`skip_broken`). Nothing is written
    before every name and size was looked at. Raises ImageInvalid and UsageError.
    """
    with QuadrantStore(folder) as store:
        skipped: list[Skipped] = []
        files = _named(pictures, store.geometry, skipped)
        if not resize:
            files = [one for one in files if _fits(one[2], skip_broken, skipped)]
        written = unchanged = 0
        yield Advance("import", 0, len(files), "pictures")
        for start in range(0, len(files), _BATCH):
            batch: list[tuple[int, int, bytes | None]] = []
            for x, y, path in files[start : start + _BATCH]:
                data = _picture(path, resize, skip_broken, skipped)
                if data is None:
                    continue
                before = store.image(kind, x, y)
                if before == data:
                    unchanged += 1
                elif before is not None and not overwrite:
                    skipped.append(Skipped(path.name, f"there is another {kind}; --overwrite replaces it"))
                else:
                    batch.append((x, y, data))
            store.put(kind, batch)
            written += len(batch)
            yield Advance("import", min(start + _BATCH, len(files)), len(files), "pictures")
    return ImportReport(
        map=folder,
        renders=written if kind == "render" else 0,
        generations=written if kind == "generation" else 0,
        unchanged=unchanged,
        skipped=tuple(skipped),
    )


def _named(pictures: Path, geometry: Geometry, skipped: list[Skipped]) -> list[tuple[int, int, Path]]:
    """Return (x, y, path) of the pictures of a folder, row by row. Raises UsageError."""
    try:
        paths = sorted(pictures.iterdir())
    except OSError as error:
        raise UsageError(f"{pictures}: {error.strerror or error}; name a folder of pictures") from error
    found: dict[tuple[int, int], Path] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None or not path.is_file():
            skipped.append(Skipped(path.name, "is not named {x}_{y}.png, .webp or .jpg"))
            continue
        place = int(match[1]), int(match[2])
        if isinstance(geometry, MercatorGrid) and geometry.tile(*place) is None:
            skipped.append(Skipped(path.name, f"row {place[1]} is not on the grid of zoom {geometry.zoom}"))
        elif place in found:
            raise UsageError(
                f"{path}: quadrant {place[0]},{place[1]} has {found[place].name} too; keep one of them"
            )
        else:
            found[place] = path
    if not found:
        raise UsageError(f"{pictures}: holds no picture named {{x}}_{{y}}.png, .webp or .jpg")
    return [(x, y, path) for (x, y), path in sorted(found.items(), key=lambda one: (one[0][1], one[0][0]))]


def _fits(path: Path, skip_broken: bool, skipped: list[Skipped]) -> bool:
    """Tell whether a picture is of 512 px by its header; raises ImageInvalid where it is not, or notes it."""
    reason = _unfit(path)
    if reason is None:
        return True
    if not skip_broken:
        raise ImageInvalid(path, reason)
    skipped.append(Skipped(path.name, reason))
    return False


def _unfit(picture: Path | bytes) -> str | None:
    """Return why a picture cannot be a quadrant's, as far as its header tells."""
    try:
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        return f"does not decode as a picture ({type(error).__name__})"
    if (width, height) == (QUADRANT_PX, QUADRANT_PX):
        return None
    return f"is {width} x {height} px, a quadrant {QUADRANT_PX} x {QUADRANT_PX}; --resize resamples"


def _picture(path: Path, resize: bool, skip_broken: bool, skipped: list[Skipped]) -> bytes | None:
    """Return a picture's bytes, as they are where they are of 512 px."""
    try:
        data = path.read_bytes()
        pixels = decoded(data, path)
        if pixels.shape[:2] == (QUADRANT_PX, QUADRANT_PX):
            return data
        if not resize:
            raise ImageInvalid(path, "changed while it was read")
        return png(resized(pixels, QUADRANT_PX, QUADRANT_PX))
    except OSError as error:
        raise ImageInvalid(path, error.strerror or str(error)) from error
    except ImageInvalid as error:
        if not skip_broken:
            raise
        skipped.append(Skipped(path.name, str(error).removeprefix(f"{path}: ")))
        return None


def _geometry(database: Path, stated: Mapping[str, Any]) -> tuple[Geometry, Mapping[str, Any] | None]:
    """Return the geometry of a map and the configuration that it stands in, where it does."""
    ours, config = stated.get("geometry"), stated.get("generation_config")
    beside = database.with_name(CONFIG)
    if config is None and beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MapUnreadable(beside, f"is no JSON ({error})") from error
    if isinstance(ours, dict):
        return geometry_from(ours), config
    if not isinstance(config, dict):
        raise GeometryInvalid(f"{database}: says nothing of its camera, and there is no {CONFIG} beside it")
    return geometry_from(config), config


def _metadata(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return the metadata of a map, parsed where it is JSON; nothing where there is no table."""
    try:
        rows = connection.execute("SELECT key, value FROM metadata").fetchall()
    except sqlite3.OperationalError:
        return {}
    found: dict[str, Any] = {}
    for key, value in rows:
        try:
            found[str(key)] = json.loads(value)
        except (TypeError, ValueError):
            found[str(key)] = value
    return found


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that changes nothing; raises MapUnreadable for what SQLite reports."""
    address = f"{database.absolute().as_uri()}?mode=ro"
    try:
        try:
            connection = sqlite3.connect(address, uri=True)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:  # in a folder that takes no files, as SQLite wants beside a log
            log = database.with_name(f"{database.name}-wal")
            if log.exists() and log.stat().st_size:
                raise
            connection = sqlite3.connect(f"{address}&immutable=1", uri=True)
        with closing(connection):
            yield connection
    except sqlite3.Error as error:
        raise MapUnreadable(database, f"cannot be read ({error})") from error
