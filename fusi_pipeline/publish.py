"""Several archives -> one PMTiles: merged cell by cell, then packed in one pass.

Merged tiles wait in a work file beside the output, with a ledger, so that an
interrupted merge goes on at the next cell; tiles that are copied are read from
their archive again while packing.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fusi_pipeline.errors import ArchiveUnsuitable, FusiError, OutputExists, TileCorrupt, UsageError
from fusi_pipeline.pack import is_ours
from fusi_pipeline.plan import workers_for
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import union
from fusi_pipeline.tasks import CHOICE, COPIED, MergeCell, MergeContext
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata, TileReader
from fusi_pipeline.tiles.files import scratch_folder, writable_folder
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Bounds, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp
from fusi_pipeline.tiles.mbtiles import BlockRecord, MBTilesReader, MBTilesWriter, partial_path
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.pmtiles import PMTilesReader, tile_ids
from fusi_pipeline.tiles.pmtiles_writer import PMTilesWriter
from fusi_pipeline.tiles.structure import problems
from fusi_pipeline.workers import WINDOW_PER_WORKER, in_order, process_pool

_WORKER = "fusi_pipeline.merge_worker"
_CELL_LEVELS = 3
"""A cell is 2^3 = 8 tiles wide."""
_VERSION = "merge-2"
_PACK_STRIDE = 64
_SOURCE_FACTS = ("license", "website", "vertical_datum")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    path: Path
    metadata: ArchiveMetadata
    changed: bool
    """Whether anything was written; False where the archive already was what was asked for."""
    tiles: int
    merged: int
    """Tiles encoded anew, because more than one archive or a missing pixel was involved."""
    copied: int
    """Tiles taken over byte for byte."""
    bytes: int
    """Size of the archive."""
    seconds: float


def merge_archives(
    inputs: Sequence[Path],
    output: Path,
    settings: Settings,
    *,
    mode: str = "priority",
    name: str | None = None,
    overwrite: bool = False,
) -> Generator[Progress, None, MergeReport]:
    """Merge archives, the one with precedence first, into one PMTiles, yielding progress.

    Raises ArchiveUnsuitable for an input that is not 512 px Terrarium,
    TileCorrupt for a tile that does not decode, OutputExists, DiskFull.
    """
    started = time.monotonic()
    if not inputs:
        raise UsageError("nothing to merge: name at least one archive")
    check_output(output, inputs, overwrite)
    with ExitStack() as stack:
        readers = [stack.enter_context(open_archive(path)) for path in inputs]
        for reader in readers:
            _check_input(reader)
        run = _Merge(readers, output, settings, mode, name or output.stem)
        if run.is_current():
            return run.report(time.monotonic() - started, changed=False)
        writable_folder(output.parent)
        stack.enter_context(scratch_folder(settings.scratch_dir))
        with MBTilesWriter(run.work_path, settings.pace) as writer:
            same = run.has_begun(writer)
            if not same:
                writer.discard()
        with MBTilesWriter(run.work_path, settings.pace) as writer:
            yield from run.merge(writer)
            yield from run.pack(writer)
            writer.discard()
    return run.report(time.monotonic() - started, changed=True)


class _Merge:
    """One merge under way."""

    def __init__(
        self, readers: Sequence[TileReader], output: Path, settings: Settings, mode: str, name: str
    ) -> None:
        self.readers = readers
        self.output = output
        self.settings = settings
        self.mode = mode
        self.work_path = output.with_name(f"{output.name}.merge")
        identities = [_identity(reader) for reader in readers]
        self.digest = hashlib.blake2b(repr((_VERSION, mode, identities)).encode(), digest_size=16)
        inputs = [reader.metadata for reader in readers]
        self.metadata = _metadata(name, inputs, mode, self.digest.hexdigest())
        counts = [reader.counts() for reader in readers]
        self.zooms = sorted(set().union(*counts))
        self.tiles = 0
        self.copied = 0

    def is_current(self) -> bool:
        """Tell whether the output already is what this merge would write, by what it states."""
        if not self.output.exists() or partial_path(self.work_path).exists():
            return False
        written_ns = self.output.stat().st_mtime_ns
        if any(reader.path.stat().st_mtime_ns > written_ns for reader in self.readers):
            return False
        try:
            with PMTilesReader(self.output) as reader:
                return reader.metadata == self.metadata and not problems(self.output)
        except FusiError:
            return False

    def report(self, seconds: float, *, changed: bool) -> MergeReport:
        """Return what was done, with the figures of the finished archive."""
        with PMTilesReader(self.output) as reader:
            tiles = sum(reader.counts().values())
        return MergeReport(
            path=self.output,
            metadata=self.metadata,
            changed=changed,
            tiles=tiles,
            merged=tiles - self.copied if changed else 0,
            copied=self.copied,
            bytes=self.output.stat().st_size,
            seconds=seconds,
        )

    def has_begun(self, writer: MBTilesWriter) -> bool:
        """Tell whether the work file is the beginning of this very merge."""
        keys = ((cell.tile, cell.key) for cell in self._cells())
        return all((record.tile, record.key) == next(keys, None) for record in writer.ledger())

    def merge(self, writer: MBTilesWriter) -> Generator[Progress, None, None]:
        """Commit the tiles of every cell that is not committed yet."""
        settings = self.settings
        total = sum(self._cell_count(z) for z in self.zooms)
        done = sum(1 for _ in writer.ledger())
        yield Progress("merge", done, total, "cells")
        workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
        context = MergeContext(tuple(reader.path for reader in self.readers), self.mode)
        with process_pool(workers, _WORKER, context, settings.child_environment()) as executor:
            tasks = ((cell, True) for number, cell in enumerate(self._cells()) if number >= done)
            size = 0
            for _, made in in_order(executor, f"{_WORKER}:merge_cell", tasks, workers * WINDOW_PER_WORKER):
                writer.commit(made.record, made.tiles)
                done += 1
                size += made.record.size_bytes
                yield Progress("merge", done, total, "cells", size)

    def pack(self, writer: MBTilesWriter) -> Generator[Progress, None, None]:
        """Write the archive in tile order, from the work file and the inputs."""
        records = writer.ledger(overviews=True)
        self.tiles = sum(len(self._coordinates(z)) for z in self.zooms)
        done = size = 0
        with PMTilesWriter(self.output, self.metadata, self.tiles) as archive:
            for z in self.zooms:
                coordinates, choices = self._choices(z, records)
                order = np.argsort(tile_ids(z, coordinates[:, 0], coordinates[:, 1]), kind="stable")
                for (x, y), choice in zip(coordinates[order].tolist(), choices[order].tolist(), strict=True):
                    tile = Tile(z, x, y)
                    source = writer if choice < COPIED else self.readers[choice - COPIED]
                    data = source.read(tile)
                    if data is None:
                        raise ArchiveUnsuitable(self.output, f"tile {tile} vanished during the merge")
                    archive.write(tile, data)
                    done += 1
                    size += len(data)
                    self.copied += choice >= COPIED
                    if done % _PACK_STRIDE == 0 or done == self.tiles:
                        yield Progress("pack", done, self.tiles, "tiles", size)

    def _cells(self) -> Iterator[MergeCell]:
        for z in self.zooms:
            coordinates = self._coordinates(z)
            levels = min(_CELL_LEVELS, z)
            cells = coordinates >> levels
            borders = np.flatnonzero((cells[1:] != cells[:-1]).any(axis=1)) + 1
            for part in np.split(coordinates, borders):
                tile = Tile(z - levels, int(part[0, 0]) >> levels, int(part[0, 1]) >> levels)
                digest = self.digest.copy()
                digest.update(f"{z}|{tile}".encode())
                yield MergeCell(tile, z, digest.hexdigest(), part)

    def _cell_count(self, z: int) -> int:
        return len(np.unique(self._coordinates(z) >> min(_CELL_LEVELS, z), axis=0))

    def _coordinates(self, z: int) -> npt.NDArray[np.int64]:
        """Return the columns and rows of all tiles of a zoom, shape (n, 2), cell by cell."""
        known = [reader.coordinates(z) for reader in self.readers if z <= reader.metadata.maxzoom]
        found = np.unique(np.concatenate(known).astype(np.int64), axis=0)
        x, y = found[:, 0], found[:, 1]
        levels = min(_CELL_LEVELS, z)
        return found[np.lexsort((x, y, x >> levels, y >> levels))]

    def _choices(
        self, z: int, records: Iterator[BlockRecord]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
        """Return the tiles of a zoom and how each came about, in the order of the cells."""
        coordinates = self._coordinates(z)
        parts: list[npt.NDArray[np.uint16]] = []
        length = 0
        while length < len(coordinates):
            parts.append(np.frombuffer(next(records).overview or b"", dtype=CHOICE))
            length += len(parts[-1])
        return coordinates, np.concatenate(parts)


def check_output(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Raise UsageError or OutputExists where a PMTiles archive must not be written to `output`."""
    if output.suffix != ".pmtiles" or output.is_dir():
        raise UsageError(f"{output}: the output is a PMTiles file; give a name that ends in .pmtiles")
    if any(path.exists() and output.exists() and path.samefile(output) for path in inputs):
        raise UsageError(f"{output}: is also an input; choose another name for the output")
    if output.exists() and not overwrite and not is_ours(output):
        raise OutputExists(output)


def _check_input(reader: TileReader) -> None:
    """Raise ArchiveUnsuitable unless the first tile of an archive is 512 px Terrarium WebP."""
    metadata = reader.metadata
    if metadata.encoding != "terrarium":
        stated = f"encoding {metadata.encoding!r}" if metadata.encoding else "no encoding"
        raise ArchiveUnsuitable(reader.path, f"is not terrain: its metadata states {stated}, not terrarium")
    counts = reader.counts()
    if not counts:
        raise ArchiveUnsuitable(reader.path, "holds no tile")
    z = min(counts)
    x, y = reader.coordinates(z)[0].tolist()
    data = reader.read(Tile(z, x, y)) or b""
    try:
        rows, cols = decode_webp(data).shape[:2]
    except ImageInvalid as error:
        if data[:4] == b"RIFF":
            raise TileCorrupt(reader.path, Tile(z, x, y), str(error)) from error
        raise ArchiveUnsuitable(reader.path, f"tile {Tile(z, x, y)} is no WebP image") from error
    if (rows, cols) != (TILE_SIZE_PX, TILE_SIZE_PX):
        raise ArchiveUnsuitable(
            reader.path, f"its tiles are {cols} x {rows} px; a merge takes {TILE_SIZE_PX} x {TILE_SIZE_PX}"
        )


def _identity(reader: TileReader) -> str:
    """Return a hash of what an archive holds: of its ledger, or of all its bytes where it has none."""
    if isinstance(reader, MBTilesReader) and reader.has_ledger:
        digest = hashlib.blake2b(digest_size=16)
        for record in reader.ledger():
            digest.update(f"{record.tile}|{record.key}".encode())
        return digest.hexdigest()
    with reader.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _metadata(name: str, inputs: Sequence[ArchiveMetadata], mode: str, key: str) -> ArchiveMetadata:
    minzoom = min(one.minzoom for one in inputs)
    maxzoom = max(one.maxzoom for one in inputs)
    sources = []
    for one in inputs:
        source: dict[str, object] = {"name": one.name, "attribution": one.attribution}
        source.update({key: one.extra[key] for key in _SOURCE_FACTS if key in one.extra})
        source.update({"minzoom": one.minzoom, "maxzoom": one.maxzoom})
        sources.append(source)
    credited = dict.fromkeys(one.attribution for one in inputs if one.attribution)
    return ArchiveMetadata(
        name=name,
        minzoom=minzoom,
        maxzoom=maxzoom,
        bounds=_united([one.bounds for one in inputs]),
        description=f"Elevation as Terrarium tiles, merged from {', '.join(one.name for one in inputs)}",
        attribution=", ".join(credited),
        extra={
            "generator": GENERATOR,
            "content_key": key,
            "merge_mode": mode,
            "nodata": "0 m",
            "sources": sources,
            "vertical_step_m": {str(z): terrarium.step_m(z) for z in range(minzoom, maxzoom + 1)},
        },
    )


def _united(boxes: Sequence[Bounds]) -> Bounds:
    """Return the smallest box that holds all; across the antimeridian where they are."""
    box = grid.geographic(union([grid.projected(one) for one in boxes]))
    south, north = min(one.south for one in boxes), max(one.north for one in boxes)
    return Bounds(round(box.west, 7), south, round(box.east, 7), north)
