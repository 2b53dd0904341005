"""One source -> its MBTiles: bounded workers, one writer, blocks committed in order.

A build resumes at the first block that is not committed, and takes every block
whose key an earlier archive of the source already holds from there, byte for
byte. Since blocks are committed in the order of the plan, whatever happened
before, the file is the same as that of an undisturbed build.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fusi_pipeline.errors import ArchiveUnreadable, FusiError, OutputExists, SourceEmpty
from fusi_pipeline.plan import Block, BuildOptions, SourcePlan, plan_source, workers_for
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SourceConfig, SourceIndex, union
from fusi_pipeline.tasks import BuildContext, Extent, Made, ParentTask, WarpParameters, united
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.archive import GENERATOR, ArchiveMetadata
from fusi_pipeline.tiles.files import scratch_folder
from fusi_pipeline.tiles.grid import Bounds, Tile, XYBounds
from fusi_pipeline.tiles.mbtiles import BlockRecord, MBTilesReader, MBTilesWriter, partial_path
from fusi_pipeline.workers import WINDOW_PER_WORKER, in_order, process_pool

_STALE_SUFFIX = ".stale"
_WORKER = "fusi_pipeline.block_worker"


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
        plan = plan_source(name, config, index, options)
        run = _Run(plan, index, folder, output, settings, anew)
        yield Progress("build", 0, run.total, "blocks", subject=name)
        if not overwrite:
            _refuse_foreign(output)
        if not anew and run.is_current():
            _stale_path(output).unlink(missing_ok=True)
            return run.report(0, run.total, 0, time.monotonic() - started)
        yield from run.go()
    return run.report(run.built, run.reused, run.resumed, time.monotonic() - started)


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
        self.built = self.reused = self.resumed = 0
        self.bytes_written = 0

    def is_current(self) -> bool:
        """Tell whether the finished archive is exactly what this plan would write."""
        if not self.output.exists() or partial_path(self.output).exists():
            return False
        try:
            reader = MBTilesReader(self.output)
        except ArchiveUnreadable:
            return False
        with reader:
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
            return reader.metadata == self.metadata(extents)

    def go(self) -> Generator[Progress, None, None]:
        """Commit every block that is not committed, then finish the archive."""
        self._set_aside_if_other()
        with ExitStack() as stack:
            stack.enter_context(scratch_folder(self.settings.scratch_dir))
            writer = stack.enter_context(MBTilesWriter(self.output, self.settings.pace))
            earlier = [
                stack.enter_context(reader)
                for reader in map(_reusable, (self.output, _stale_path(self.output)))
                if reader is not None and not self.anew
            ]
            yield from self._commit_all(stack, writer, earlier)
            extents: list[Extent] = []
            for record in writer.ledger():
                extents = self._with(extents, record)
            if not extents:
                raise SourceEmpty(self.plan.name, "no valid pixel in the area and zooms asked for")
            writer.finish(self.metadata(extents))
        _stale_path(self.output).unlink(missing_ok=True)

    def report(self, built: int, reused: int, resumed: int, seconds: float) -> BuildReport:
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
            built=built,
            reused=reused,
            resumed=resumed,
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
        for key in ("license", "website", "vertical_datum"):
            if getattr(config, key):
                extra[key] = getattr(config, key)
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
        self, stack: ExitStack, writer: MBTilesWriter, earlier: list[MBTilesReader]
    ) -> Generator[Progress, None, None]:
        self.resumed = done = sum(1 for _ in writer.ledger())
        settings = self.settings
        workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
        executor = stack.enter_context(
            process_pool(workers, _WORKER, self._context(), settings.child_environment())
        )
        window = workers * WINDOW_PER_WORKER
        blocks = self._block_tasks(done, earlier)
        for block, made in in_order(executor, f"{_WORKER}:build_block", blocks, window):
            yield self._commit(writer, block.tile, block.key, made, earlier)
        done = max(done - len(self.plan.coordinates), 0)
        for tiles in self.levels:
            for tile in tiles[:done]:
                self._parent_key(tile)
            parents = self._parent_tasks(tiles[done:], writer, earlier)
            for task, made in in_order(executor, f"{_WORKER}:build_parent", parents, window):
                yield self._commit(writer, task.tile, task.key, made, earlier)
            done = max(done - len(tiles), 0)

    def _block_tasks(self, done: int, earlier: list[MBTilesReader]) -> Iterator[tuple[Block, bool]]:
        for position, block in enumerate(self._blocks()):
            if position >= done:
                yield block, _find(earlier, block.tile, block.key) is None

    def _parent_tasks(
        self, tiles: list[Tile], writer: MBTilesWriter, earlier: list[MBTilesReader]
    ) -> Iterator[tuple[ParentTask, bool]]:
        for tile in tiles:
            key = self._parent_key(tile)
            if _find(earlier, tile, key) is not None:
                yield ParentTask(tile, key, ()), False
            else:
                children = tuple(writer.left_for_parent(child) for child in grid.children(tile))
                yield ParentTask(tile, key, children), True

    def _commit(
        self,
        writer: MBTilesWriter,
        tile: Tile,
        key: str,
        made: Made | None,
        earlier: list[MBTilesReader],
    ) -> Progress:
        """Write one block, made now or copied from an earlier archive; return how far this is."""
        if made is None:
            found = _find(earlier, tile, key)
            assert found is not None, f"{tile} was in an earlier archive a moment ago"
            reader, record = found
            writer.commit(record, _tiles_of_block(reader, tile, self.plan))
            self.reused += 1
        else:
            record = made.record
            writer.commit(record, made.tiles)
            self.built += 1
        self.bytes_written += record.size_bytes
        done = self.built + self.reused + self.resumed
        return Progress("build", done, self.total, "blocks", self.bytes_written, self.plan.name)

    def _context(self) -> BuildContext:
        config, settings = self.plan.config, self.settings
        return BuildContext(
            folder=self.folder,
            minzoom=self.plan.minzoom,
            maxzoom=self.plan.maxzoom,
            parameters=WarpParameters(
                config.resampling, config.unit_factor, config.offset_m, self.plan.averaged
            ),
            threads=settings.warp_threads,
            io_sleep_s=settings.io_sleep_s,
            gdal_cache_mib=settings.gdal_cache_mib,
        )


def _find(earlier: list[MBTilesReader], tile: Tile, key: str) -> tuple[MBTilesReader, BlockRecord] | None:
    """Return the first earlier archive that holds a block, and its ledger row."""
    for reader in earlier:
        record = reader.block(tile, key)
        if record is not None:
            return reader, record
    return None


def _tiles_of_block(reader: MBTilesReader, block: Tile, plan: SourcePlan) -> Iterator[tuple[Tile, bytes]]:
    """Yield the tiles that a block (or a tile above the blocks) put into an archive, in writing order."""
    deepest = plan.maxzoom if block.z == plan.block_zoom else block.z
    for z in range(deepest, max(block.z, plan.minzoom) - 1, -1):
        yield from reader.square(block, z)


def _parent_levels(plan: SourcePlan) -> list[list[Tile]]:
    """Return the tiles above the blocks, zoom by zoom upwards, row by row."""
    levels: list[list[Tile]] = []
    coordinates = plan.coordinates
    for z in range(plan.block_zoom - 1, plan.minzoom - 1, -1):
        rows_first = np.unique(coordinates[:, ::-1] >> 1, axis=0)
        coordinates = rows_first[:, ::-1]
        levels.append([Tile(z, x, y) for x, y in coordinates.tolist()])
    return levels


def _refuse_foreign(output: Path) -> None:
    """Raise OutputExists where a file is in the way that fusi did not write."""
    if not output.exists():
        return
    try:
        with MBTilesReader(output) as reader:
            ours = reader.has_ledger
    except FusiError:
        ours = False
    if not ours:
        raise OutputExists(output)


def _reusable(path: Path) -> MBTilesReader | None:
    """Return an earlier archive of fusi's to take blocks from, if there is one."""
    if not path.is_file():
        return None
    try:
        reader = MBTilesReader(path)
    except ArchiveUnreadable:
        return None
    if reader.has_ledger:
        return reader
    reader.close()
    return None


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
