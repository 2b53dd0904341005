"""One merge from its inputs to its archives: what is to be made is made, the rest is taken over."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace

from fusi_pipeline.contributions import Contributions, Contributors, LikelyCopies, TileIndex
from fusi_pipeline.cost import workers_for
from fusi_pipeline.errors import ArchiveUnsuitable, WorkUnfinished
from fusi_pipeline.merge_before import MergeBefore, OutdatedError
from fusi_pipeline.merge_cells import Cell, cell_count, cells, quarters, together
from fusi_pipeline.merge_ledger import (
    LINEAGE,
    NO_DIGEST,
    TERRAIN,
    MergeWork,
    TileRecord,
    ledger_path,
    work_path,
)
from fusi_pipeline.merge_metadata import differing_datums, missing_zooms
from fusi_pipeline.merge_output import MergeOutput, check_inputs
from fusi_pipeline.merge_report import MergeReport, MergeTally
from fusi_pipeline.merge_request import MergeRequest
from fusi_pipeline.merge_reuse import MergeReuse
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tasks import ABSENT, COPIED, ENCODED, MergeContext, MergeTask, TileMade
from fusi_pipeline.tiles import native
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.ledger import digest_of
from fusi_pipeline.tiles.pmtiles import PMTilesReader
from fusi_pipeline.worker_pool import WorkerPool
from fusi_pipeline.workers import WINDOW_PER_WORKER, Lost, Smaller, in_order, process_pool
from fusi_pipeline.workload import MergeLoad, pack_seconds

_WORKER = "fusi_pipeline.merge_worker"
_IN_QUARTERS = Smaller(parts=quarters, work=f"{_WORKER}:merge_tiles", joined=together)


class MergeRun:
    """One merge under way."""

    def __init__(self, request: MergeRequest, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._work_path = work_path(request.output)
        self._ledger_path = ledger_path(request.output)
        self._tally = MergeTally(len(request.inputs))

    def is_asked_again(self) -> bool:
        """Tell whether the last merge was asked for the very same; needs no index of the inputs."""
        return self._has(self._request.bytes_of_the_same())

    def take(self, indexes: Sequence[TileIndex]) -> None:
        """Take in the tiles of the inputs, without which nothing can be merged."""
        request, rule = self._request, self._request.rule
        self._indexes = indexes
        self._key = request.content_key(indexes)
        version = f"{request.version}|{rule.mode}"
        self._contributors = Contributors(request.inputs, indexes, version, rule.feather_m)

    def is_current(self) -> bool:
        """Tell whether the outputs already are what this merge would write."""
        return self._has(self._request.bytes_of_current(self._key))

    def _has(self, size: int | None) -> bool:
        self._tally.bytes_reused = size or 0
        return size is not None

    def forget_unfinished(self) -> None:
        """Remove what an interrupted merge left that wanted something else than the outputs are."""
        if self._work_path.exists():
            with MergeWork(self._work_path, self._settings.pace.checkpoint_interval) as work:
                work.discard()

    def report(self, seconds: float, *, changed: bool) -> MergeReport:
        """Return what was done, with the figures of the finished archive."""
        request, tally = self._request, self._tally
        with PMTilesReader(request.output) as reader:
            zooms, metadata = reader.counts(), reader.metadata
        tiles = sum(zooms.values())
        warnings = [differing_datums(request.legend), missing_zooms(zooms)]
        return MergeReport(
            path=request.output,
            lineage=request.rule.lineage,
            metadata=metadata,
            changed=changed,
            tiles=tiles,
            merged=tally.merged,
            copied=tally.copied,
            reused=tally.reused if changed else tiles,
            removed=tally.removed,
            bytes=request.output.stat().st_size,
            bytes_merged=tally.bytes_merged,
            bytes_copied=tally.bytes_copied,
            bytes_reused=tally.bytes_reused,
            warnings=tuple(one for one in warnings if one),
            seconds=seconds,
        )

    def go(self, keep_ledger: bool) -> Generator[Progress, None, None]:
        """Merge what is to be merged and write the archives.

        Where bytes that were to be taken over turn out to be damaged, all are
        looked at before they are, and where even that fails, none are.
        """
        try:
            yield from self._go(keep_ledger, careful=False)
            return
        except OutdatedError:
            pass
        try:
            yield from self._go(keep_ledger, careful=True)
        except OutdatedError:
            self._ledger_path.unlink(missing_ok=True)
            self.forget_unfinished()
            yield from self._go(keep_ledger, careful=True)

    def _go(self, keep_ledger: bool, *, careful: bool) -> Generator[Progress, None, None]:
        request, tally = self._request, MergeTally(len(self._request.inputs))
        self._tally = tally
        with ExitStack() as stack:
            work = stack.enter_context(MergeWork(self._work_path, self._settings.pace.checkpoint_interval))
            before = MergeBefore(request.output, request.rule.lineage, self._ledger_path, self._key, stack)
            has_lineage = request.rule.lineage is not None
            reuse = MergeReuse(self._contributors, work, before, request.rule.mode, has_lineage, careful)
            yield from self._merge(reuse)
            tally.removed = before.tiles - tally.kept
            check_inputs(request, work)
            if not tally.tiles:
                work.discard()
                raise ArchiveUnsuitable(
                    request.output,
                    "there is no valid pixel to put into it; look at the options of the inputs",
                )
            output = MergeOutput(request, self._indexes, self._key, self._settings, work, before)
            yield from output.write(tally)
            if not keep_ledger:
                work.discard()
                return
            facts = {
                "content_key": self._key,
                "tiles": str(tally.total),
                "bytes": str(tally.bytes_merged + tally.bytes_copied + tally.bytes_reused),
                "states": request.output_states(),
                "request": request.key(),
            }
            work.finish(self._ledger_path, ((z, cell) for z, cell, _ in cells(self._indexes)), facts)

    def _merge(self, reuse: MergeReuse) -> Generator[Progress, None, None]:
        """Commit what became of the tiles of every cell."""
        settings, request = self._settings, self._request
        total = cell_count(self._indexes)
        done = size = tiles = 0
        workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
        likely = LikelyCopies(self._indexes)
        load = MergeLoad(likely.copies, likely.others, reuse.has_lineage, workers)
        ahead = (("pack", pack_seconds((likely.copies + likely.others) * len(request.outputs))),)
        yield Progress("merge", done, total, "cells", work=load.work, ahead=ahead)
        options, rule = tuple(one.options for one in request.inputs), request.rule
        context = MergeContext(options, request.states, rule.mode, rule.feather_m, settings.encoder)
        waiting: deque[Cell] = deque()
        lost: list[tuple[str, str]] = []
        environment = settings.child_environment()
        if not native.is_compiled():
            yield Progress("merge", done, total, "cells", note=native.COMPILING)
        with process_pool(workers, _WORKER, context, environment, settings.limits) as pool:
            answers = in_order(
                pool, f"{_WORKER}:merge_tiles", self._tasks(reuse, waiting),
                workers * WINDOW_PER_WORKER, smaller=_IN_QUARTERS, keep_going=True,
            )  # fmt: skip
            for _, made in answers:
                cell = waiting.popleft()
                yield from _notes(pool, done, total)
                if isinstance(made, Lost):
                    lost.append((made.what, made.reason))
                    continue
                size += self._commit(reuse.work, cell, made or ())
                done += 1
                tiles += len(cell.contributions)
                cell.count(load, likely)
                yield Progress("merge", done, total, "cells", size, tiles=tiles, work=load.work, ahead=ahead)
            yield from _notes(pool, done, total)
        if lost:
            raise WorkUnfinished(f"{request.output}", "cells", lost)

    def _tasks(self, reuse: MergeReuse, waiting: deque[Cell]) -> Iterator[tuple[MergeTask, bool]]:
        for z, cell, tiles in cells(self._indexes):
            waiting.append(reuse.cell(z, cell, tiles))
            yield waiting[-1].task, bool(waiting[-1].task.tiles)

    def _commit(self, work: MergeWork, cell: Cell, made: Sequence[TileMade]) -> int:
        """Commit a cell where the work file does not hold it as it is; return the bytes that were encoded."""
        tally = self._tally
        tasks = {task.tile: (task, one) for task, one in zip(cell.task.tiles, made, strict=True)}
        records: list[TileRecord] = []
        blobs: list[tuple[int, Tile, bytes]] = []
        for wanted in cell.contributions:
            record = cell.known.get(wanted.tile)
            if wanted.tile in tasks:
                task, one = tasks[wanted.tile]
                if record is None:
                    record = self._record(wanted, one)
                    tally.merged += one.choice == ENCODED
                    tally.copied += one.choice >= COPIED
                    tally.bytes_copied += one.size if one.choice >= COPIED else 0
                elif record.choice != ABSENT:
                    tally.reused += 1
                if one.terrain is not None and task.terrain:
                    blobs.append((TERRAIN, wanted.tile, one.terrain))
                    tally.bytes_merged += len(one.terrain)
                if one.lineage is not None:
                    blobs.append((LINEAGE, wanted.tile, one.lineage))
                    record = replace(record, lineage=digest_of(one.lineage))
            else:
                assert record is not None, "what is not made is known"
                tally.reused += record.choice != ABSENT
            records.append(record)
            tally.count(record)
            tally.kept += record.choice != ABSENT and record.tile in cell.was
        if {record.tile: record for record in records} != cell.committed or blobs:
            work.commit(cell.cell, records, blobs)
        return sum(len(data) for _, _, data in blobs)

    def _record(self, wanted: Contributions, made: TileMade) -> TileRecord:
        inputs, terrain = wanted.numbers, NO_DIGEST
        if made.choice >= COPIED:
            terrain = self._contributors.digest(inputs[made.choice - COPIED], wanted.tile) or NO_DIGEST
        elif made.terrain is not None:
            terrain = digest_of(made.terrain)
        return TileRecord(
            wanted.tile, wanted.key, wanted.rule, made.choice, made.disjoint, inputs, wanted.parts,
            made.counts, terrain, NO_DIGEST,
        )  # fmt: skip


def _notes(pool: WorkerPool, done: int, total: int) -> Iterator[Progress]:
    """Yield what a person should know of the workers."""
    while pool.notes:
        yield Progress("merge", done, total, "cells", note=f"merge: {pool.notes.popleft()}")
