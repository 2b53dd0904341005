"""One merge from its inputs to its archives: what is to be made is made, the rest is taken over."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from fusi_pipeline.archive_writer import archive_writer
from fusi_pipeline.contributions import (
    Contributions,
    Contributors,
    LikelyCopies,
    TileIndex,
    carried_over,
    tiles_of,
)
from fusi_pipeline.cost import workers_for
from fusi_pipeline.errors import ArchiveUnsuitable, WorkUnfinished
from fusi_pipeline.merge_before import MergeBefore, OutdatedError, checked
from fusi_pipeline.merge_ledger import (
    LINEAGE,
    NO_DIGEST,
    TERRAIN,
    MergeWork,
    TileRecord,
    ledger_path,
    opened,
    work_path,
)
from fusi_pipeline.merge_metadata import (
    differing_datums,
    legend_of,
    lineage_metadata,
    missing_zooms,
    terrain_metadata,
)
from fusi_pipeline.pack import pack
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tasks import ABSENT, COPIED, ENCODED, MergeContext, MergeTask, TileMade, TileTask
from fusi_pipeline.terrain_input import TerrainInput
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.files import file_state
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import encoder_version
from fusi_pipeline.tiles.ledger import digest_of
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.pmtiles import PMTilesReader, tile_ids
from fusi_pipeline.worker_pool import WorkerPool
from fusi_pipeline.workers import WINDOW_PER_WORKER, Lost, Smaller, in_order, process_pool
from fusi_pipeline.workload import MergeLoad, pack_seconds

_WORKER = "fusi_pipeline.merge_worker"
_CELL_LEVELS = 3
"""A cell is 2^3 = 8 tiles wide."""
MERGE_VERSION = "merge-4"
"""Part of every key: raised whenever a change of the code changes the bytes of a merged tile."""
_PACK_STRIDE = 64


def _quarters(task: MergeTask) -> list[MergeTask]:
    """Return a cell's tiles in four parts; none where there is but one tile."""
    count = min(4, len(task.tiles))
    edges = [len(task.tiles) * part // count for part in range(count + 1)]
    return [MergeTask(task.cell, task.tiles[a:b]) for a, b in pairwise(edges)] if count > 1 else []


def _together(_: MergeTask, parts: Sequence[tuple[TileMade, ...]]) -> tuple[TileMade, ...]:
    return tuple(made for part in parts for made in part)


_IN_QUARTERS = Smaller(parts=_quarters, work=f"{_WORKER}:merge_tiles", joined=_together)


def _notes(pool: WorkerPool, done: int, total: int) -> Iterator[Progress]:
    """Yield what a person should know of the workers."""
    while pool.notes:
        yield Progress("merge", done, total, "cells", note=f"merge: {pool.notes.popleft()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    path: Path
    lineage: Path | None
    metadata: ArchiveMetadata
    changed: bool
    """Whether anything was written; False where the archive already was what was asked for."""
    tiles: int
    merged: int
    """Tiles encoded anew, because more than one archive or a missing pixel was involved."""
    copied: int
    """Tiles taken over from an input byte for byte."""
    reused: int
    """Tiles whose contributors are those of the merge before, or that an interrupted run had made."""
    removed: int
    """Tiles of the merge before that are no more."""
    bytes: int
    """Size of the archive."""
    bytes_merged: int
    """Size of the tiles encoded anew."""
    bytes_copied: int
    """Size of the tiles taken over from an input."""
    bytes_reused: int
    """Size of the tiles that were reused."""
    warnings: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class MergeRule:
    """What is asked for, apart from the inputs."""

    mode: str
    feather_m: float
    lineage: Path | None
    name: str


@dataclass(frozen=True, slots=True)
class _Cell:
    """One cell of the merge: what is known of its tiles, and what is to be made."""

    cell: Tile
    contributions: tuple[Contributions, ...]
    known: dict[Tile, TileRecord]
    """Records whose terrain may be taken over."""
    task: MergeTask
    """The tiles of which anything is to be made."""
    committed: dict[Tile, TileRecord]
    """What the work file holds of the cell."""
    was: frozenset[Tile]
    """Tiles that the merge before had."""

    def count(self, load: MergeLoad, likely: LikelyCopies) -> None:
        """Note in the work of the merge that this cell is done."""
        tasks = {one.tile for one in self.task.tiles}
        made = [one.tile in likely for one in self.contributions if one.tile in tasks]
        load.made(sum(made), len(made) - sum(made))
        known = [one.tile in likely for one in self.contributions if one.tile not in tasks]
        load.taken_over(sum(known), len(known) - sum(known))


class MergeRun:
    """One merge under way."""

    def __init__(
        self,
        inputs: Sequence[TerrainInput],
        output: Path,
        settings: Settings,
        rule: MergeRule,
    ) -> None:
        self.inputs = inputs
        self.states = tuple(one.state() for one in inputs)
        self.output = output
        self.settings = settings
        self.rule = rule
        self.version = MERGE_VERSION + encoder_version(settings.encoder)
        self.work_path = work_path(output)
        self.ledger_path = ledger_path(output)
        self.legend = legend_of(inputs)
        self.careful = False
        self._reset()

    def take(self, indexes: Sequence[TileIndex]) -> None:
        """Take in the tiles of the inputs, without which nothing can be merged."""
        rule = self.rule
        self.indexes = indexes
        self.key = self._content_key()
        self.contributors = Contributors(self.inputs, indexes, f"{self.version}|{rule.mode}", rule.feather_m)
        self.zooms = sorted(set().union(*(index.zooms for index in indexes)))

    def _reset(self) -> None:
        self.merged = self.copied = self.reused = self.removed = 0
        self.bytes_merged = self.bytes_copied = self.bytes_reused = 0
        self.pixels = [0] * len(self.inputs)
        self._kept = 0
        self.tiles: dict[int, int] = {}

    def _content_key(self) -> str:
        rule = self.rule
        facts: list[object] = [self.version, rule.mode, rule.feather_m, rule.name, self.legend]
        facts += [rule.lineage and (rule.lineage.name, self.output.name)]
        for one, index in zip(self.inputs, self.indexes, strict=True):
            facts += [one.options.digest(), one.kind, one.maxzoom, one.is_exact, one.bounds]
            facts += [index.identity()]
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    @property
    def outputs(self) -> list[Path]:
        """The archives to write."""
        return [self.output] if self.rule.lineage is None else [self.output, self.rule.lineage]

    def is_current(self) -> bool:
        """Tell whether the outputs already are what this merge would write.

        That is so where the ledger says that it was written for them, and nobody
        wrote to them or to an input since.
        """
        ledger = opened(self.ledger_path)
        if ledger is None:
            return False
        with ledger:
            facts = ledger.facts
        if facts.get("content_key") != self.key or not all(path.exists() for path in self.outputs):
            return False
        if facts.get("states") != self._states():
            return False
        written_ns = min(path.stat().st_mtime_ns for path in self.outputs)
        if any(one.path.stat().st_mtime_ns > written_ns for one in self.inputs):
            return False
        self.bytes_reused = int(facts["bytes"])
        return True

    def forget_unfinished(self) -> None:
        """Remove what an interrupted merge left that wanted something else than the outputs are."""
        if self.work_path.exists():
            with MergeWork(self.work_path, self.settings.pace.checkpoint_interval) as work:
                work.discard()

    def is_asked_again(self) -> bool:
        """Tell whether the last merge was asked for the very same of the very same files, by sizes and times.

        Needs no index of the inputs.
        """
        ledger = opened(self.ledger_path)
        if ledger is None:
            return False
        with ledger:
            facts = ledger.facts
        if facts.get("request") != self._request() or not all(path.exists() for path in self.outputs):
            return False
        if facts.get("states") != self._states():
            return False
        self.bytes_reused = int(facts["bytes"])
        return True

    def _request(self) -> str:
        """Return a hash of what is asked for, and of the state of the files it is asked of."""
        rule = self.rule
        facts: list[object] = [self.version, rule.mode, rule.feather_m, rule.name, self.legend]
        facts += [self.states, [str(path.resolve()) for path in self.outputs]]
        facts += [(str(one.path.resolve()), one.options.digest(), one.maxzoom) for one in self.inputs]
        return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()

    def _states(self) -> str:
        """Return by what it can be told that an output was changed."""
        return "|".join(file_state(path) for path in self.outputs)

    def report(self, seconds: float, *, changed: bool) -> MergeReport:
        """Return what was done, with the figures of the finished archive."""
        with PMTilesReader(self.output) as reader:
            zooms, metadata = reader.counts(), reader.metadata
        tiles = sum(zooms.values())
        warnings = [differing_datums(self.legend), missing_zooms(zooms)]
        return MergeReport(
            path=self.output,
            lineage=self.rule.lineage,
            metadata=metadata,
            changed=changed,
            tiles=tiles,
            merged=self.merged,
            copied=self.copied,
            reused=self.reused if changed else tiles,
            removed=self.removed,
            bytes=self.output.stat().st_size,
            bytes_merged=self.bytes_merged,
            bytes_copied=self.bytes_copied,
            bytes_reused=self.bytes_reused,
            warnings=tuple(one for one in warnings if one),
            seconds=seconds,
        )

    def go(self, keep_ledger: bool) -> Generator[Progress, None, None]:
        """Merge what is to be merged and write the archives.

        Where bytes that were to be taken over turn out to be damaged, all are
        looked at before they are, and where even that fails, none are.
        """
        try:
            yield from self._go(keep_ledger)
            return
        except OutdatedError:
            self._reset()
            self.careful = True
        try:
            yield from self._go(keep_ledger)
        except OutdatedError:
            self._reset()
            self.ledger_path.unlink(missing_ok=True)
            self.forget_unfinished()
            yield from self._go(keep_ledger)

    def _go(self, keep_ledger: bool) -> Generator[Progress, None, None]:
        with ExitStack() as stack:
            work = stack.enter_context(MergeWork(self.work_path, self.settings.pace.checkpoint_interval))
            before = MergeBefore(self.output, self.rule.lineage, self.ledger_path, self.key, stack)
            yield from self._merge(work, before)
            self._check_inputs(work)
            if not self.tiles:
                work.discard()
                raise ArchiveUnsuitable(
                    self.output, "there is no valid pixel to put into it; look at the options of the inputs"
                )
            yield from self._pack(work, before)
            if not keep_ledger:
                work.discard()
                return
            facts = {
                "content_key": self.key,
                "tiles": str(sum(self.tiles.values())),
                "bytes": str(self.bytes_merged + self.bytes_copied + self.bytes_reused),
                "states": self._states(),
                "request": self._request(),
            }
            work.finish(self.ledger_path, ((z, cell) for z, cell, _ in self._cells()), facts)

    def _merge(self, work: MergeWork, before: MergeBefore) -> Generator[Progress, None, None]:
        """Commit what became of the tiles of every cell."""
        settings = self.settings
        total = sum(self._cell_count(z) for z in self.zooms)
        done = size = tiles = 0
        workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
        likely = LikelyCopies(self.indexes)
        load = MergeLoad(likely.copies, likely.others, self.rule.lineage is not None, workers)
        ahead = (("pack", pack_seconds((likely.copies + likely.others) * len(self.outputs))),)
        yield Progress("merge", done, total, "cells", work=load.work, ahead=ahead)
        options = tuple(one.options for one in self.inputs)
        context = MergeContext(options, self.states, self.rule.mode, self.rule.feather_m, settings.encoder)
        waiting: deque[_Cell] = deque()
        lost: list[tuple[str, str]] = []
        environment = settings.child_environment()
        with process_pool(workers, _WORKER, context, environment, settings.limits) as pool:
            answers = in_order(
                pool, f"{_WORKER}:merge_tiles", self._tasks(work, before, waiting),
                workers * WINDOW_PER_WORKER, smaller=_IN_QUARTERS, keep_going=True,
            )  # fmt: skip
            for _, made in answers:
                cell = waiting.popleft()
                yield from _notes(pool, done, total)
                if isinstance(made, Lost):
                    lost.append((made.what, made.reason))
                    continue
                size += self._commit(work, cell, made or ())
                done += 1
                tiles += len(cell.contributions)
                cell.count(load, likely)
                yield Progress("merge", done, total, "cells", size, tiles=tiles, work=load.work, ahead=ahead)
            yield from _notes(pool, done, total)
        if lost:
            raise WorkUnfinished(f"{self.output}", "cells", lost)
        self.removed = before.tiles - self._kept

    def _tasks(
        self, work: MergeWork, before: MergeBefore, waiting: deque[_Cell]
    ) -> Iterator[tuple[MergeTask, bool]]:
        for z, cell, tiles in self._cells():
            waiting.append(self._cell(work, before, z, cell, tiles))
            yield waiting[-1].task, bool(waiting[-1].task.tiles)

    def _cell(self, work: MergeWork, before: MergeBefore, z: int, cell: Tile, tiles: list[Tile]) -> _Cell:
        """Return what is known of a cell's tiles, and what is to be made."""
        contributions = tuple(self.contributors.of(tile) for tile in tiles)
        committed, earlier = work.cell(z, cell), before.cell(z, cell)
        known: dict[Tile, TileRecord] = {}
        tasks = []
        for one in contributions:
            record = self._known(work, before, one, committed.get(one.tile), earlier.get(one.tile))
            if record is not None:
                known[one.tile] = record
            wants_lineage = self.rule.lineage is not None and (
                record is None or (record.lineage == NO_DIGEST and record.choice != ABSENT)
            )
            if record is None or wants_lineage:
                tasks.append(TileTask(one.tile, one.inputs, record is None, wants_lineage))
        was = frozenset(tile for tile, record in earlier.items() if record.choice != ABSENT)
        return _Cell(cell, contributions, known, MergeTask(cell, tuple(tasks)), committed, was)

    def _known(
        self, work: MergeWork, before: MergeBefore, wanted: Contributions, *records: TileRecord | None
    ) -> TileRecord | None:
        """Return a record by which a tile may be taken over; without lineage where that is to be made."""
        for earlier in records:
            record = None if earlier is None else carried_over(earlier, wanted, self.rule.mode)
            if record is None:
                continue
            if record.choice == ENCODED and not self._at_hand(work, before, TERRAIN, record.terrain, record):
                continue
            has_lineage = (
                self.rule.lineage is not None
                and record.lineage != NO_DIGEST
                and self._at_hand(work, before, LINEAGE, record.lineage, record)
            )
            return record if has_lineage else replace(record, lineage=NO_DIGEST)
        return None

    def _at_hand(
        self, work: MergeWork, before: MergeBefore, kind: int, digest: bytes, record: TileRecord
    ) -> bool:
        """Tell whether the bytes of a tile can be had; if there is doubt, by a look at them."""
        if not self.careful:
            return work.has(kind, record.tile) or before.has(kind)
        try:
            checked(digest, work, before, kind, record.tile)
        except OutdatedError:
            return False
        return True

    def _commit(self, work: MergeWork, cell: _Cell, made: Sequence[TileMade]) -> int:
        """Commit a cell where the work file does not hold it as it is; return the bytes that were encoded."""
        tasks = {task.tile: (task, one) for task, one in zip(cell.task.tiles, made, strict=True)}
        records: list[TileRecord] = []
        blobs: list[tuple[int, Tile, bytes]] = []
        for wanted in cell.contributions:
            record = cell.known.get(wanted.tile)
            if wanted.tile in tasks:
                task, one = tasks[wanted.tile]
                if record is None:
                    record = self._record(wanted, one)
                    self.merged += one.choice == ENCODED
                    self.copied += one.choice >= COPIED
                    self.bytes_copied += one.size if one.choice >= COPIED else 0
                elif record.choice != ABSENT:
                    self.reused += 1
                if one.terrain is not None and task.terrain:
                    blobs.append((TERRAIN, wanted.tile, one.terrain))
                    self.bytes_merged += len(one.terrain)
                if one.lineage is not None:
                    blobs.append((LINEAGE, wanted.tile, one.lineage))
                    record = replace(record, lineage=digest_of(one.lineage))
            else:
                assert record is not None, "what is not made is known"
                self.reused += record.choice != ABSENT
            records.append(record)
            self._count(record)
            self._kept += record.choice != ABSENT and record.tile in cell.was
        if {record.tile: record for record in records} != cell.committed or blobs:
            work.commit(cell.cell, records, blobs)
        return sum(len(data) for _, _, data in blobs)

    def _record(self, wanted: Contributions, made: TileMade) -> TileRecord:
        inputs, terrain = wanted.numbers, NO_DIGEST
        if made.choice >= COPIED:
            terrain = self.contributors.digest(inputs[made.choice - COPIED], wanted.tile) or NO_DIGEST
        elif made.terrain is not None:
            terrain = digest_of(made.terrain)
        return TileRecord(
            wanted.tile, wanted.key, wanted.rule, made.choice, made.disjoint, inputs, wanted.parts,
            made.counts, terrain, NO_DIGEST,
        )  # fmt: skip

    def _count(self, record: TileRecord) -> None:
        if record.choice == ABSENT:
            return
        self.tiles[record.tile.z] = self.tiles.get(record.tile.z, 0) + 1
        for number, count in zip(record.inputs, record.counts, strict=True):
            self.pixels[number] += count

    def _pack(self, work: MergeWork, before: MergeBefore) -> Generator[Progress, None, None]:
        """Write the outputs in tile order, from the work file, the inputs and the last merge."""
        rule = self.rule
        metadata = terrain_metadata(
            rule.name, self.inputs, self.pixels, sorted(self.tiles),
            mode=rule.mode, feather_m=rule.feather_m, key=self.key,
            lineage_name="" if rule.lineage is None else rule.lineage.name,
        )  # fmt: skip
        total = sum(self.tiles.values())
        targets = [self._written_first(path) for path in self.outputs]
        done = size = 0
        made = self.bytes_merged + self.bytes_copied
        with ExitStack() as stack:
            terrain = stack.enter_context(archive_writer(targets[0], metadata, total))
            second = None
            if rule.lineage is not None:
                facts = lineage_metadata(metadata, self.inputs, self.output)
                second = stack.enter_context(archive_writer(targets[1], facts, total))
            for z, cell, tiles in self._cells():
                records = work.cell(z, cell)
                for tile in tiles:
                    record = records[tile]
                    if record.choice == ABSENT:
                        continue
                    data = self._terrain_bytes(work, before, record)
                    terrain.write(tile, data)
                    if second is not None:
                        second.write(tile, checked(record.lineage, work, before, LINEAGE, tile))
                    done += 1
                    size += len(data)
                    self.bytes_reused = size - made
                    if done % _PACK_STRIDE == 0 or done == total:
                        yield Progress("pack", done, total, "tiles", size)
            self._check_inputs(work)
        for target, path in zip(targets, self.outputs, strict=True):
            yield from self._packed_by_command(target, path)

    def _written_first(self, path: Path) -> Path:
        """Return where an archive is written: in its place, or to an MBTiles for the `pmtiles` command."""
        by_command = self.settings.packer == "cli" and path.suffix == ".pmtiles"
        return path.with_name(f".{path.name}.packing.mbtiles") if by_command else path

    def _packed_by_command(self, target: Path, path: Path) -> Generator[Progress, None, None]:
        """Pack what was written elsewhere first, and remove it."""
        if target == path:
            return
        try:
            with MBTilesReader(target) as reader:
                environment = self.settings.process_environment()
                yield from pack(reader, path, packer="cli", overwrite=True, environment=environment)
        finally:
            target.unlink(missing_ok=True)

    def _check_inputs(self, work: MergeWork) -> None:
        """Raise ArchiveUnsuitable, and forget what was done, where an input changed meanwhile."""
        for one, state in zip(self.inputs, self.states, strict=True):
            try:
                one.check_unchanged(state)
            except ArchiveUnsuitable:
                work.discard()
                raise

    def _terrain_bytes(self, work: MergeWork, before: MergeBefore, record: TileRecord) -> bytes:
        if record.choice == ENCODED:
            return checked(record.terrain, work, before, TERRAIN, record.tile)
        one = self.inputs[record.inputs[record.choice - COPIED]]
        data = one.reader.read(record.tile)
        if data is None or digest_of(data) != record.terrain:
            raise ArchiveUnsuitable(
                one.path,
                f"tile {record.tile} is not what it was when the merge began, or what the ledger says of it;"
                " make the archive anew, or run the command again",
            )
        return data

    def _cells(self) -> Iterator[tuple[int, Tile, list[Tile]]]:
        """Yield (zoom, cell, tiles) of all cells, cells and tiles in the order of tile ids."""
        for z in self.zooms:
            places = tiles_of(self.indexes, z)
            places = places[np.argsort(tile_ids(z, places[:, 0], places[:, 1]), kind="stable")]
            levels = min(_CELL_LEVELS, z)
            cells = places >> levels
            borders = np.flatnonzero((cells[1:] != cells[:-1]).any(axis=1)) + 1
            for part in np.split(places, borders):
                tiles = [Tile(z, x, y) for x, y in part.tolist()]
                yield z, grid.parent(tiles[0], levels), tiles

    def _cell_count(self, z: int) -> int:
        return len(np.unique(tiles_of(self.indexes, z) >> min(_CELL_LEVELS, z), axis=0))
