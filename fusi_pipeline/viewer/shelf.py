"""The archives that are being served: opened once, each under a name of its own.

A file that is replaced while it is served (as every fusi command replaces its
output) is opened anew at the next request, and what was open before is closed
when the last request that reads it is answered. Nothing is answered from a
file that is no longer the one of its name. Readers may be asked by many
threads at once.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from fusi_pipeline import lineage_files
from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, FusiError
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.archive import ArchiveMetadata, TileReader
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles import PMTilesReader

_RESERVED = frozenset({"archives", "health", "static"})
"""First parts of the server's own paths, which no archive is named."""
_log = logging.getLogger(__name__)


class OneAtATime:
    """A reader whose file takes one question at a time, asked by many threads."""

    def __init__(self, reader: TileReader) -> None:
        self.path = reader.path
        self._reader = reader
        self._lock = threading.Lock()

    @property
    def metadata(self) -> ArchiveMetadata:
        """What the archive says of itself."""
        with self._lock:
            return self._reader.metadata

    @property
    def states_bounds(self) -> bool:
        """Whether it states bounds that can be right."""
        with self._lock:
            return self._reader.states_bounds

    def read(self, tile: Tile) -> bytes | None:
        """Return a tile's bytes, or None where the archive has none."""
        with self._lock:
            return self._reader.read(tile)

    def coordinates(self, z: int) -> npt.NDArray[np.uint32]:
        """Return the (x, y) of every tile at a zoom, shape (n, 2), in any order."""
        with self._lock:
            return self._reader.coordinates(z)

    def counts(self) -> dict[int, int]:
        """Return the number of tiles at each zoom that has some."""
        with self._lock:
            return self._reader.counts()

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Served:
    """One archive under its name, as it was when it was opened."""

    name: str
    """Its part of the server's paths."""
    path: Path
    """The file."""
    reader: TileReader
    """Answers many threads."""
    version: tuple[int, int, int]
    """(inode, bytes, modification time in ns) of the file that `reader` has open."""

    @cached_property
    def metadata(self) -> ArchiveMetadata:
        """What the archive says of itself."""
        return self.reader.metadata

    @cached_property
    def zooms(self) -> tuple[int, int]:
        """(lowest, highest) zoom that has tiles; as stated where there is no tile at all."""
        counts = self.reader.counts()
        stated = self.metadata.minzoom, self.metadata.maxzoom
        return (min(counts), max(counts)) if counts else stated

    @property
    def file(self) -> str:
        """The name of the file under `/archives/`."""
        return self.name + self.path.suffix

    @property
    def is_terrain(self) -> bool:
        """Whether its tiles hold heights."""
        return self.metadata.encoding in terrarium.DECODERS

    @property
    def is_lineage(self) -> bool:
        """Whether its tiles hold indices of sources."""
        return lineage_files.is_lineage(self.metadata)


class Shelf:
    """Archives open for serving. Use it as a context manager."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open archives, and beside each terrain archive the lineage that it names.

        Raises ArchiveMissing and ArchiveUnreadable for archives that are
        given; a lineage that is only named is left out where it cannot be read.
        """
        self._lock = threading.Lock()
        self._served: dict[str, Served] = {}
        self._failing: dict[str, str] = {}
        try:
            for path in paths:
                self._add(path)
            for one in self:
                with suppress(FusiError):
                    companion = lineage_files.beside(one.path, one.metadata) if one.is_terrain else None
                    if companion is not None:
                        self._add(companion)
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path) -> None:
        if any(path.exists() and path.samefile(one.path) for one in self):
            return
        name = _distinct(path.stem, {*self._served, *_RESERVED})
        self._served[name] = _opened(name, path)

    def __iter__(self) -> Iterator[Served]:
        return iter(list(self._served.values()))

    def find(self, name: str) -> Served | None:
        """Return the archive of a name, opened anew where its file was replaced; None without one.

        Raises ArchiveMissing where the file is gone, ArchiveUnreadable where
        it cannot be opened or is no archive any more.
        """
        if name not in self._served:
            return None
        with self._lock:
            try:
                served = self._served[name] = _current(self._served[name])
            except FusiError as error:
                if self._failing.get(name) != str(error):
                    _log.error("%s is not served: %s", name, error)
                self._failing[name] = str(error)
                raise
            if self._failing.pop(name, None):
                _log.warning("%s is served again", name)
            return served

    def lineage_of(self, terrain: Served) -> Served | None:
        """Return the lineage that belongs to a terrain archive.

        It is the one that either of the two names, or the only one where only
        one terrain archive is served. Raises ArchiveUnreadable where it cannot
        be read; one whose file is gone is none.
        """
        alone = sum(one.is_terrain for one in self) == 1
        known: list[Served] = []
        for one in self:
            if not one.is_lineage or not (alone or _name_each_other(terrain, one)):
                continue
            with suppress(ArchiveMissing):
                found = self.find(one.name)
                if found and found.is_lineage and lineage_files.belong(terrain.metadata, found.metadata):
                    known.append(found)
        named = [one for one in known if _name_each_other(terrain, one)]
        if named:
            return named[0]
        return known[0] if alone and len(known) == 1 else None

    def close(self) -> None:
        """Release every file."""
        for one in self:
            one.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _opened(name: str, path: Path) -> Served:
    """Return an archive; its file is closed with the last reference to what is returned."""
    version = _version(path)
    reader = open_archive(path)
    shared = reader if isinstance(reader, PMTilesReader) else OneAtATime(reader)
    try:
        served = Served(name, path, shared, version)
        served.metadata, served.zooms  # noqa: B018 - read now, so that what is unreadable shows at once
    except BaseException:
        shared.close()
        raise
    weakref.finalize(served, shared.close)
    return served


def _current(served: Served) -> Served:
    """Return an archive as its file is now: itself, or opened anew."""
    return served if _version(served.path) == served.version else _opened(served.name, served.path)


def _version(path: Path) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ArchiveMissing(path) from None
    except OSError as error:
        raise ArchiveUnreadable(path, error.strerror or str(error)) from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _name_each_other(terrain: Served, sources: Served) -> bool:
    """Tell whether a terrain archive names a lineage, or the lineage the terrain."""
    to = lineage_files.named(terrain.path, terrain.metadata, lineage_files.LINEAGE_KEY)
    back = lineage_files.named(sources.path, sources.metadata, lineage_files.TERRAIN_KEY)
    return _same(to, sources.path) or _same(back, terrain.path)


def _same(named: Path | None, path: Path) -> bool:
    return named is not None and named.absolute() == path.absolute()


def _distinct(stem: str, taken: set[str]) -> str:
    """Return a stem, numbered from 2 on where it is taken."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name
