"""One source -> its MBTiles: bounded workers, one writer, blocks committed in order.

A build resumes at the first block that is not committed, and takes every block
whose key an earlier archive of the source already holds from there, byte for
byte, after a look at its hashes. Since blocks are committed in the order of the plan, whatever happened
before, the file is the same as that of an undisturbed build.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusi_pipeline.build_before import refuse_foreign
from fusi_pipeline.build_groups import GroupJob, run_groups
from fusi_pipeline.build_run import BuildRun, Tally
from fusi_pipeline.disk_space import check_room, scratch_space
from fusi_pipeline.errors import WorkUnfinished
from fusi_pipeline.groups import Group
from fusi_pipeline.plan import BuildOptions, plan_source
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SourceConfig, SourceIndex, note_whole
from fusi_pipeline.tiles.archive import ArchiveMetadata
from fusi_pipeline.tiles.files import file_state
from fusi_pipeline.tiles.mbtiles import MBTilesReader


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
    groups: Sequence[Group] = (),
    resume_from: int | None = None,
) -> Generator[Progress, None, BuildReport]:
    """Build the MBTiles of a source from its index, yielding progress.

    `overwrite` allows to replace an archive that fusi did not write; `anew`
    takes nothing over from a finished one. With `groups` the work is done group
    by group, each in a new process; those before number `resume_from` have to be
    finished. Raises OutputExists where `output` is not an archive that fusi
    wrote, DiskFull with everything committed kept, and WorkUnfinished when all
    is done but what no worker could do.
    """
    started = time.monotonic()
    with scratch_space(settings), SourceIndex(index_path) as index:
        plan = plan_source(name, config, index, options, folder=folder, encoder=settings.encoder)
        run = BuildRun(plan, index, folder, output, settings, anew)
        yield Progress("build", 0, run.total, "blocks", subject=name)
        if not overwrite:
            refuse_foreign(output)
        if not anew and (yield from run.is_current()):
            run.forget_unfinished()
            run.tally.reused = run.total
        else:
            run.tally.resumed = done = run.committed()
            if done:
                text = f"{name}: {done} of {run.total} blocks are there from an earlier run; going on"
                yield Progress("build", done, run.total, "blocks", subject=name, note=text)
            yield from check_room(output, plan.expected_bytes * (1 - done / run.total), settings)
            run.weigh(settings.workers)
            if groups:
                job = GroupJob(name, folder, config, index_path, output, options, settings, anew)
                yield from run_groups(run, job, groups, resume_from)
            else:
                yield from run.go(0, run.total)
        if run.tally.lost:
            raise WorkUnfinished(f"source {name!r}", "blocks", run.tally.lost, run.tally.held_back)
    if index.whole(output) != file_state(output):
        note_whole(index_path, output)
    return _report(output, name, run.total, run.tally, time.monotonic() - started)


def _report(output: Path, name: str, blocks: int, tally: Tally, seconds: float) -> BuildReport:
    """Return what was done, with the figures of the finished archive."""
    with MBTilesReader(output) as reader:
        tiles = sum(reader.counts().values())
        size = sum(record.size_bytes for record in reader.ledger())
        metadata = reader.metadata
    return BuildReport(
        name=name,
        path=output,
        metadata=metadata,
        tiles=tiles,
        bytes=size,
        blocks=blocks,
        built=tally.built,
        reused=tally.reused,
        resumed=tally.resumed,
        removed=tally.removed,
        tiles_built=tally.tiles_built,
        tiles_reused=tiles - tally.tiles_built,
        tiles_removed=tally.tiles_removed,
        bytes_built=tally.bytes_built,
        bytes_reused=size - tally.bytes_built,
        seconds=seconds,
    )
