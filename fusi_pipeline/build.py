"""One source -> its MBTiles: bounded workers, one writer, blocks committed in order.

A build resumes at the first block that is not committed, and takes every block
whose key an earlier archive of the source already holds from there, byte for
byte, after a look at its hashes. Since blocks are committed in the order of the plan, whatever happened
before, the file is the same as that of an undisturbed build.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusi_pipeline.build_before import BuildBefore, refuse_foreign
from fusi_pipeline.errors import ArchiveMissing, ArchiveUnreadable, SourceEmpty
from fusi_pipeline.plan import Block, BuildOptions, SourcePlan, plan_source, workers_for
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SourceConfig, SourceIndex, note_whole, union
from fusi_pipeline.tasks import BuildContext, Extent, Made, ParentTask, WarpParameters, united
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata
from fusi_pipeline.tiles.files import file_state, scratch_folder
from fusi_pipeline.tiles.grid import Bounds, Tile, XYBounds
from fusi_pipeline.tiles.mbtiles import BlockRecord, MBTilesReader, MBTilesWriter, partial_path
from fusi_pipeline.workers import WINDOW_PER_WORKER, in_order, process_pool

_STALE_SUFFIX = ".stale"
_WORKER = "fusi_pipeline.block_worker"
_CHECK_STRIDE = 64
"""Blocks checked between two values of progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did."""

    name: str
    path: Path
    metadata: ArchiveMetadata
    tiles: int
    bytes: int
    """Size of all tiles."""
    blocks: int
    built: int
    """Blocks computed in this run."""
    reused: int
    """Blocks copied from an earlier archive of the source."""
    resumed: int
    """Blocks an interrupted run had already committed."""
    removed: int
    """Blocks of the archive before that are no more."""
    tiles_built: int
    """Tiles of the blocks computed in this run."""
    tiles_reused: int
    """Tiles of all other blocks."""
    tiles_removed: int
    """Tiles of the archive before that are no more."""
    bytes_built: int
    """Size of the tiles of the blocks computed in this run."""
    bytes_reused: int
    """Size of the tiles of all other blocks."""
    seconds: float


def build(
    name: str,
    folder: Path,
    config: SourceConfig,
    index_path: Path,
    output: Path,
    options: BuildOptions,
    settings: Settings,
    *,
    overwrite: bool = False,
    anew: bool = False,
) -> Generator[Progress, None, BuildReport]:
    """Build the MBTiles of a source from its index, yielding progress.

    `overwrite` allows to replace an archive that fusi did not write; `anew`
    takes nothing over from a finished one. Raises OutputExists where `output` is
    not an archive that fusi wrote, DiskFull and WorkerLost with everything
    committed kept.
    """
    started = time.monotonic()
    with SourceIndex(index_path) as index:
        plan = plan_source(name, config, index, options, folder=folder)
        run = _Run(plan, index, folder, output, settings, anew)
        yield Progress("build", 0, run.total, "blocks", subject=name)
        if not overwrite:
            refuse_foreign(output)
        if not anew and (yield from run.is_current()):
            run.forget_unfinished()
            run.reused = run.total
        else:
            yield from run.go()
    if index.whole(output) != file_state(output):
        note_whole(index_path, output)
    return run.report(time.monotonic() - started)


class _Run:
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
        self.keys: dict[Tile, str] = {}
        self.built = self.reused = self.resumed = self.removed = 0
        self.tiles_built = self.tiles_removed = self.bytes_built = 0
        self.bytes_written = 0

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
        return reader.states(self.metadata(extents))

    def forget_unfinished(self) -> None:
        """Remove what interrupted runs left that wanted something else than the finished archive is."""
        if partial_path(self.output).exists():
            with MBTilesWriter(self.output, self.settings.pace) as writer:
                writer.discard()
        _stale_path(self.output).unlink(missing_ok=True)

    def go(self) -> Generator[Progress, None, None]:
        """Commit every block that is not committed, then finish the archive."""
        self._set_aside_if_other()
        with ExitStack() as stack:
            stack.enter_context(scratch_folder(self.settings.scratch_dir))
            writer = stack.enter_context(MBTilesWriter(self.output, self.settings.pace))
            places = () if self.anew else (self.output, _stale_path(self.output))
            before = BuildBefore(places, self.plan, stack)
            yield from self._commit_all(stack, writer, before)
            extents: list[Extent] = []
            for record in writer.ledger():
                extents = self._with(extents, record)
            if not extents:
                writer.discard()
                raise SourceEmpty(self.plan.name, "no valid pixel in the area and zooms asked for")
            writer.finish(self.metadata(extents))
            self.removed, self.tiles_removed = before.removed(self.output)
        _stale_path(self.output).unlink(missing_ok=True)

    def report(self, seconds: float) -> BuildReport:
        """Return what was done, with the figures of the finished archive."""
        with MBTilesReader(self.output) as reader:
            tiles = sum(reader.counts().values())
            size = sum(record.size_bytes for record in reader.ledger())
            metadata = reader.metadata
        return BuildReport(
            name=self.plan.name,
            path=self.output,
            metadata=metadata,
            tiles=tiles,
            bytes=size,
            blocks=self.total,
            built=self.built,
            reused=self.reused,
            resumed=self.resumed,
            removed=self.removed,
            tiles_built=self.tiles_built,
            tiles_reused=tiles - self.tiles_built,
            tiles_removed=self.tiles_removed,
            bytes_built=self.bytes_built,
            bytes_reused=size - self.bytes_built,
            seconds=seconds,
        )

    def _with(self, extents: list[Extent], record: BlockRecord) -> list[Extent]:
        """Return extents with that of a block added: one that holds all, or all, across the antimeridian."""
        if record.extent is None or record.tile.z != self.plan.block_zoom:
            return extents
        if self.crosses:
            return [*extents, record.extent]
        together = united([*extents, record.extent])
        return extents if together is None else [together]

    def metadata(self, extents: list[Extent]) -> ArchiveMetadata:
        """Return what the finished archive says of itself."""
        plan, config = self.plan, self.plan.config
        extra: dict[str, object] = {
            "generator": GENERATOR,
            "source": plan.name,
            "resampling": config.resampling,
            "vertical_step_m": {str(z): terrarium.step_m(z) for z in range(plan.minzoom, plan.maxzoom + 1)},
            "height_error_m": "at most half the vertical step, beyond resampling",
        }
        extra |= {key: text for key, text in _facts(plan).items() if text}
        return ArchiveMetadata(
            name=config.name,
            minzoom=plan.minzoom,
            maxzoom=plan.maxzoom,
            bounds=_data_bounds(extents, plan.maxzoom),
            description=f"Elevation of {config.name} as Terrarium tiles; transparent where there is no data",
            attribution=config.attribution,
            extra=extra,
        )

    def _entries(self) -> Iterator[tuple[Tile, str]]:
        """Yield the tile and key of every row of the finished ledger, in order, noting them on the way."""
        for block in self._blocks():
            yield block.tile, block.key
        for tiles in self.levels:
            for tile in tiles:
                yield tile, self._parent_key(tile)

    def _blocks(self) -> Iterator[Block]:
        for block in self.plan.blocks(self.index):
            self.keys[block.tile] = block.key
            yield block

    def _parent_key(self, tile: Tile) -> str:
        self.keys[tile] = key = self.plan.parent_key(tile, self.keys)
        return key

    def _set_aside_if_other(self) -> None:
        """Move the partial file of an interrupted run away if it is not the beginning of this plan.

        What it holds is reused block by block like that of a finished archive.
        """
        partial = partial_path(self.output)
        if not partial.exists():
            return
        with MBTilesWriter(self.output, self.settings.pace) as writer:
            entries = self._entries()
            same = all((record.tile, record.key) == next(entries, None) for record in writer.ledger())
            if not same:
                writer.set_aside(_stale_path(self.output))

    def _commit_all(
        self, stack: ExitStack, writer: MBTilesWriter, before: BuildBefore
    ) -> Generator[Progress, None, None]:
        self.resumed = done = sum(1 for _ in writer.ledger())
        settings = self.settings
        workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
        executor = stack.enter_context(
            process_pool(workers, _WORKER, self._context(), settings.child_environment())
        )
        window = workers * WINDOW_PER_WORKER
        work = f"{_WORKER}:build_block"
        for block, made in in_order(executor, work, self._block_tasks(done, before), window):
            taken = None if made is not None else before.block(block.tile, block.key)
            if made is None and taken is None:
                made = _now(executor, work, block)
            yield self._commit(writer, made, taken)
        done = max(done - len(self.plan.coordinates), 0)
        work = f"{_WORKER}:build_parent"
        for tiles in self.levels:
            for tile in tiles[:done]:
                self._parent_key(tile)
            parents = self._parent_tasks(tiles[done:], writer, before)
            for task, made in in_order(executor, work, parents, window):
                taken = None if made is not None else before.block(task.tile, task.key)
                if made is None and taken is None:
                    made = _now(executor, work, _parent_task(writer, task.tile, task.key))
                yield self._commit(writer, made, taken)
            done = max(done - len(tiles), 0)

    def _block_tasks(self, done: int, before: BuildBefore) -> Iterator[tuple[Block, bool]]:
        for position, block in enumerate(self._blocks()):
            if position >= done:
                yield block, not before.has(block.tile, block.key)

    def _parent_tasks(
        self, tiles: list[Tile], writer: MBTilesWriter, before: BuildBefore
    ) -> Iterator[tuple[ParentTask, bool]]:
        for tile in tiles:
            key = self._parent_key(tile)
            if before.has(tile, key):
                yield ParentTask(tile, key, ()), False
            else:
                yield _parent_task(writer, tile, key), True

    def _commit(self, writer: MBTilesWriter, made: Made | None, taken: Made | None) -> Progress:
        """Write one block, made now or taken over from an earlier archive; return how far this is."""
        one = taken or made
        assert one is not None, "what is not taken over is made"
        writer.commit(one.record, one.tiles)
        if taken is None:
            self.built += 1
            self.tiles_built += one.record.tiles
            self.bytes_built += one.record.size_bytes
        else:
            self.reused += 1
        self.bytes_written += one.record.size_bytes
        done = self.built + self.reused + self.resumed
        return Progress("build", done, self.total, "blocks", self.bytes_written, self.plan.name)

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
        )


def _facts(plan: SourcePlan) -> dict[str, str]:
    """Return what a source says of its rights and its heights, empty where it says nothing."""
    config, heights = plan.config, plan.vertical
    factored = config.unit_factor != 1 or config.offset_m != 0
    return {
        "license": config.license,
        "website": config.website,
        "vertical_datum": config.vertical_datum or heights.datum,
        "vertical_crs": heights.crs,
        "vertical_conversion": heights.description,
        "height_formula_m": f"value * {config.unit_factor!r} + {config.offset_m!r}" if factored else "",
    }


def _parent_task(writer: MBTilesWriter, tile: Tile, key: str) -> ParentTask:
    """Return a tile above the blocks, with what its committed children left for it."""
    return ParentTask(tile, key, tuple(writer.left_for_parent(child) for child in grid.children(tile)))


def _now(executor: Executor, work: str, task: Block | ParentTask) -> Made:
    """Return what a worker makes of one task, waiting for it."""
    ((_, made),) = in_order(executor, work, [(task, True)], 1)
    assert isinstance(made, Made)
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


def _data_bounds(extents: list[Extent], z: int) -> Bounds:
    """Return the geographic box of extents on a zoom's pixel grid, across the antimeridian if need be."""
    size = grid.resolution_m(z)
    boxes = [
        XYBounds(
            left * size - grid.HALF_WORLD_M,
            grid.HALF_WORLD_M - bottom * size,
            right * size - grid.HALF_WORLD_M,
            grid.HALF_WORLD_M - top * size,
        )
        for left, top, right, bottom in extents
    ]
    box = grid.geographic(union(boxes))
    return Bounds(*(round(value, 7) for value in (box.west, box.south, box.east, box.north)))
