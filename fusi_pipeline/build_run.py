"""One build under way: what is committed stays, what is missing is made, in the order of the plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusi_pipeline.block_parts import join_of, parts_of
from fusi_pipeline.build_before import BuildBefore
from fusi_pipeline.build_ledger import BuildLedger, forget_ahead
from fusi_pipeline.build_metadata import source_metadata
from fusi_pipeline.cost import workers_for
from fusi_pipeline.disk_space import RoomWatch
from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, SourceEmpty
from fusi_pipeline.plan import Block, SourcePlan
from fusi_pipeline.progress import Progress, Work
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SourceIndex
from fusi_pipeline.tasks import BuildContext, Extent, Made, ParentTask, WarpParameters, united
from fusi_pipeline.tiles import grid, native
from fusi_pipeline.tiles.files import file_state
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import BlockRecord
from fusi_pipeline.tiles.mbtiles import MBTilesReader
from fusi_pipeline.tiles.mbtiles_writer import MBTilesWriter, partial_path
from fusi_pipeline.worker_pool import WorkerPool
from fusi_pipeline.workers import WINDOW_PER_WORKER, Lost, Smaller, in_order, process_pool
from fusi_pipeline.workload import BuildLoad

_STALE_SUFFIX = ".stale"
_WORKER = "fusi_pipeline.block_worker"
_IN_QUARTERS = Smaller(
    parts=parts_of, work=f"{_WORKER}:build_part", joined=join_of, join_work=f"{_WORKER}:build_joined"
)
_CHECK_STRIDE = 64
"""Blocks checked between two values of progress."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What became of blocks."""

    built: int = 0
    reused: int = 0
    """Taken over from an earlier archive."""
    resumed: int = 0
    """Committed by an interrupted run."""
    removed: int = 0
    """Of the archive before, that are no more."""
    tiles_built: int = 0
    tiles_removed: int = 0
    bytes_built: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)
    """What could not be made, and why."""
    held_back: int = 0
    """Tiles above what could not be made."""

    def add(self, other: Tally) -> None:
        """Count in what became of other blocks."""
        for name in ("built", "reused", "resumed", "removed", "tiles_built", "tiles_removed", "bytes_built"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lost += other.lost
        self.held_back += other.held_back


class BuildRun:
    """One build under way."""

    def __init__(
        self,
        plan: SourcePlan,
        index: SourceIndex,
        folder: Path,
        output: Path,
        settings: Settings,
        anew: bool,
    ) -> None:
        self.plan = plan
        self.anew = anew
        self.index = index
        self.folder = folder
        self.output = output
        self.settings = settings
        self.levels = _parent_levels(plan)
        self.total = len(plan.coordinates) + sum(len(tiles) for tiles in self.levels)
        box = index.bounds()
        self.crosses = box.left > box.right
        self.tally = Tally()
        self.bytes_written = self.tiles_written = 0
        self.load: BuildLoad | None = None
        """How much work there is; None where nobody asked (see `weigh`)."""
        self.room = RoomWatch(output, len(plan.coordinates))

    def weigh(self, workers: int) -> None:
        """Find out from the index how much work there is, so that progress says how much of it is done."""
        self.load = BuildLoad(self.plan, self.index, self.total - len(self.plan.coordinates), workers)

    def work_at(self, position: int) -> Work | None:
        """Return how much work is done when the first `position` blocks are."""
        return None if self.load is None else self.load.at(position)

    def is_current(self) -> Generator[Progress, None, bool]:
        """Tell whether the finished archive is, byte for byte, what this plan would write.

        Its bytes are compared with the hashes in its ledger only where nothing is
        noted of the file; where its size or time are not those noted, it is not
        trusted, and what is whole of it is taken over into a new one.
        """
        try:
            reader = MBTilesReader(self.output)
        except (ArchiveMissing, ArchiveUnreadable):
            return False
        with reader:
            try:
                if not self._is_planned(reader):
                    return False
                noted = self.index.whole(self.output)
                if noted is not None:
                    return noted == file_state(self.output)
                for done, sound in enumerate(reader.sound_blocks(), 1):
                    if not sound:
                        return False
                    if done % _CHECK_STRIDE == 0:
                        yield Progress("build", done, self.total, "blocks", subject=self.plan.name)
                return reader.integrity_problem(indices=True) is None
            except ArchiveUnreadable:
                return False

    def _is_planned(self, reader: MBTilesReader) -> bool:
        """Tell whether ledger and metadata of the finished archive are those of this plan."""
        if not reader.has_ledger:
            return False
        extents: list[Extent] = []
        records = reader.ledger()
        for entry in self._entries():
            record = next(records, None)
            if record is None or (record.tile, record.key) != entry:
                return False
            extents = self._with(extents, record)
        if next(records, None) is not None or not extents:
            return False
        return reader.states(source_metadata(self.plan, extents))

    def forget_unfinished(self) -> None:
        """Remove what interrupted runs left that wanted something else than the finished archive is."""
        if partial_path(self.output).exists():
            with MBTilesWriter(self.output, self.settings.pace) as writer:
                writer.discard()
        forget_ahead(self.output, self.settings.pace)
        _stale_path(self.output).unlink(missing_ok=True)

    def committed(self) -> int:
        """Return how many blocks of this plan are committed, from the first on.

        The partial file of an interrupted run that is not the beginning of this
        plan is moved away; what it holds is reused block by block like that of a
        finished archive.
        """
        if not partial_path(self.output).exists():
            return 0
        with MBTilesWriter(self.output, self.settings.pace) as writer:
            entries = self._entries()
            if all((record.tile, record.key) == next(entries, None) for record in writer.ledger()):
                return writer.count
            writer.set_aside(_stale_path(self.output))
        return 0

    def go(self, start: int, stop: int) -> Generator[Progress, None, Tally]:
        """Commit the blocks from one position of the plan to another; finish the archive where that is all.

        What is committed must be of this plan (see `committed`). Blocks that
        cannot be made are left out, and what is above them.
        """
        with ExitStack() as stack:
            ledger = stack.enter_context(BuildLedger(self.output, self.settings.pace))
            places = () if self.anew else (self.output, _stale_path(self.output))
            before = BuildBefore(places, self.plan, stack)
            yield from self._commit_all(stack, ledger, before, max(start, ledger.count), stop)
            if ledger.count < self.total:
                return self.tally
            extents: list[Extent] = []
            for record in ledger.main.ledger():
                extents = self._with(extents, record)
            if not extents:
                ledger.main.discard()
                ledger.closed_gap()
                raise SourceEmpty(self.plan.name, "no valid pixel in the area and zooms asked for")
            ledger.main.finish(source_metadata(self.plan, extents))
            ledger.closed_gap()
            self.tally.removed, self.tally.tiles_removed = before.removed(self.output)
        _stale_path(self.output).unlink(missing_ok=True)
        return self.tally

    def _with(self, extents: list[Extent], record: BlockRecord) -> list[Extent]:
        """Return extents with that of a block added: one that holds all, or all, across the antimeridian."""
        if record.extent is None or record.tile.z != self.plan.block_zoom:
            return extents
        if self.crosses:
            return [*extents, record.extent]
        together = united([*extents, record.extent])
        return extents if together is None else [together]

    def _entries(self) -> Iterator[tuple[Tile, str]]:
        """Yield the tile and key of every row of the finished ledger, in order."""
        keys: dict[Tile, str] = {}
        for block in self.plan.blocks(self.index):
            keys[block.tile] = block.key
            yield block.tile, block.key
        for tiles in self.levels:
            for tile in tiles:
                keys[tile] = self.plan.parent_key(tile, keys)
                yield tile, keys[tile]

    def _commit_all(
        self, stack: ExitStack, ledger: BuildLedger, before: BuildBefore, start: int, stop: int
    ) -> Generator[Progress, None, None]:
        settings = self.settings
        workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
        if not native.is_compiled():
            yield Progress(
                "build", start, self.total, "blocks", subject=self.plan.name, note=native.COMPILING
            )
        pool = stack.enter_context(
            process_pool(workers, _WORKER, self._context(), settings.child_environment(), settings.limits)
        )
        work = _Work(pool, workers * WINDOW_PER_WORKER, ledger, before)
        blocks = len(self.plan.coordinates)
        if self.load is not None and before.has_any:
            known = (work.knows(tile, key) for tile, key in self._entries())
            self.load.taken_over(np.flatnonzero(np.fromiter(known, np.bool_, self.total)).tolist())
        if start < blocks:
            tasks = self._block_tasks(work, start, min(stop, blocks))
            yield from self._commit_each(work, tasks, f"{_WORKER}:build_block", _IN_QUARTERS)
        first = blocks
        for tiles in self.levels:
            wanted = range(max(start, first), min(stop, first + len(tiles)))
            parents = self._parent_tasks(work, tiles, first, wanted)
            yield from self._commit_each(work, parents, f"{_WORKER}:build_parent", None)
            first += len(tiles)

    def _commit_each(
        self, work: _Work, tasks: Iterator[tuple[Any, bool]], function: str, smaller: Smaller | None
    ) -> Generator[Progress, None, None]:
        """Commit what each task comes to, whether made, taken over or waiting behind a gap."""
        answers = in_order(work.pool, function, tasks, work.window, smaller=smaller, keep_going=True)
        for task, answer in answers:
            position, made = work.positions.popleft(), answer
            taken = None if made is not None else self._taken(work, task)
            if made is None and taken is None:
                if isinstance(task, ParentTask):
                    task = self._parent_task(work, task.tile, task.key)
                made = _now(work.pool, function, task, smaller)
            yield from self._notes(work.pool, position)
            if isinstance(made, Lost):
                self.tally.lost.append((made.what, made.reason))
                continue
            yield self._commit(work.ledger, position, taken or made, new=taken is None)
            yield from self.room.wrote(position + 1, (taken or made).record.size_bytes)
        yield from self._notes(work.pool, work.ledger.count)

    def _taken(self, work: _Work, task: Block | ParentTask) -> Made | None:
        """Return a block that waits behind a gap, or one of an earlier archive."""
        waiting = work.ledger.waiting(task.tile, task.key)
        if waiting is not None:
            self.tally.resumed += 1
            return waiting
        earlier = work.before.block(task.tile, task.key)
        if earlier is not None:
            self.tally.reused += 1
        return earlier

    def _block_tasks(self, work: _Work, start: int, stop: int) -> Iterator[tuple[Block, bool]]:
        blocks = self.plan.blocks(self.index, start)
        for position, block in zip(range(start, stop), blocks, strict=False):
            work.positions.append(position)
            yield block, not work.knows(block.tile, block.key)

    def _parent_tasks(
        self, work: _Work, tiles: list[Tile], first: int, wanted: range
    ) -> Iterator[tuple[ParentTask, bool]]:
        planned = self._planned_below(tiles[0].z) if tiles else frozenset()
        for position in wanted:
            tile = tiles[position - first]
            keys = {child: work.ledger.key(child) for child in grid.children(tile) if child in planned}
            if None in keys.values():
                self.tally.held_back += 1
                continue
            key = self.plan.parent_key(tile, {child: known or "" for child, known in keys.items()})
            work.positions.append(position)
            if work.knows(tile, key):
                yield ParentTask(tile, key, ()), False
            else:
                yield self._parent_task(work, tile, key), True

    def _planned_below(self, z: int) -> frozenset[Tile]:
        """Return the tiles of the plan one zoom below `z`."""
        if z + 1 == self.plan.block_zoom:
            return frozenset(Tile(z + 1, x, y) for x, y in self.plan.coordinates.tolist())
        return frozenset(self.levels[self.plan.block_zoom - z - 2])

    def _parent_task(self, work: _Work, tile: Tile, key: str) -> ParentTask:
        """Return a tile above the blocks, with what its committed children left for it."""
        left = (work.ledger.left_for_parent(child) for child in grid.children(tile))
        return ParentTask(tile, key, tuple(left))

    def _commit(self, ledger: BuildLedger, position: int, made: Made, *, new: bool) -> Progress:
        """Write one block; return how far this is."""
        ledger.commit(position, made)
        if new:
            self.tally.built += 1
            self.tally.tiles_built += made.record.tiles
            self.tally.bytes_built += made.record.size_bytes
        self.bytes_written += made.record.size_bytes
        self.tiles_written += made.record.tiles
        return Progress(
            "build", position + 1, self.total, "blocks", self.bytes_written, self.plan.name,
            tiles=self.tiles_written, work=self.work_at(position + 1),
        )  # fmt: skip

    def _notes(self, pool: WorkerPool, position: int) -> Iterator[Progress]:
        """Yield what a person should know of the workers."""
        while pool.notes:
            text = f"{self.plan.name}: {pool.notes.popleft()}"
            yield Progress("build", position, self.total, "blocks", subject=self.plan.name, note=text)

    def _context(self) -> BuildContext:
        config, settings = self.plan.config, self.settings
        return BuildContext(
            folder=self.folder,
            minzoom=self.plan.minzoom,
            maxzoom=self.plan.maxzoom,
            parameters=WarpParameters(
                config.resampling,
                config.unit_factor,
                config.offset_m,
                self.plan.averaged,
                self.plan.vertical,
            ),
            threads=settings.warp_threads,
            io_sleep_s=settings.io_sleep_s,
            gdal_cache_mib=settings.gdal_cache_mib,
            encoder=self.plan.encoder,
        )


@dataclass(slots=True)
class _Work:
    """What blocks are made with, and the positions in the plan of those under way."""

    pool: WorkerPool
    window: int
    ledger: BuildLedger
    before: BuildBefore
    positions: deque[int] = field(default_factory=deque)

    def knows(self, tile: Tile, key: str) -> bool:
        """Tell whether a block need not be made, as far as is known without reading it."""
        return self.ledger.waits(tile, key) or self.before.has(tile, key)


def _now(pool: WorkerPool, function: str, task: Block | ParentTask, smaller: Smaller | None) -> Made | Lost:
    """Return what a worker makes of one task, waiting for it."""
    ((_, made),) = in_order(pool, function, [(task, True)], 1, smaller=smaller, keep_going=True)
    assert isinstance(made, Made | Lost)
    return made


def _parent_levels(plan: SourcePlan) -> list[list[Tile]]:
    """Return the tiles above the blocks, zoom by zoom upwards, row by row."""
    levels: list[list[Tile]] = []
    coordinates = plan.coordinates
    for z in range(plan.block_zoom - 1, plan.minzoom - 1, -1):
        rows_first = np.unique(coordinates[:, ::-1] >> 1, axis=0)
        coordinates = rows_first[:, ::-1]
        levels.append([Tile(z, x, y) for x, y in coordinates.tolist()])
    return levels


def _stale_path(output: Path) -> Path:
    return output.with_name(output.name + _STALE_SUFFIX)
