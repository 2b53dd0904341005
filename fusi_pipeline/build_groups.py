"""A build group by group, each in a new process: its memory is given back when it ends."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusi_pipeline.build_run import BuildRun, Tally
from fusi_pipeline.cost import workers_for
from fusi_pipeline.disk_space import scratch_space
from fusi_pipeline.errors import SourceIndexInvalid, UsageError, WorkerLost
from fusi_pipeline.fresh_process import ProcessGone, in_fresh_process
from fusi_pipeline.groups import Group
from fusi_pipeline.plan import BuildOptions, plan_source
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SourceConfig, SourceIndex
from fusi_pipeline.tiles.files import file_state

_MOST_ATTEMPTS = 3
"""How often a group may end without having committed anything."""
PROCESSES = 3
"""Those beside the workers: the run, the group, the fork server."""


@dataclass(frozen=True, slots=True)
class GroupJob:
    """What all groups of a build have in common."""

    name: str
    folder: Path
    config: SourceConfig
    index_path: Path
    output: Path
    options: BuildOptions
    settings: Settings
    anew: bool
    index_state: str = ""
    """By what the index can be told to be that of the plan."""


def run_groups(
    run: BuildRun, job: GroupJob, groups: Sequence[Group], resume_from: int | None
) -> Generator[Progress, None, None]:
    """Run the groups that are not finished, in order.

    Raises UsageError where one before number `resume_from` is not finished.
    """
    settings = job.settings
    workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib, processes=PROCESSES)
    job = replace(
        job, settings=settings.with_options(workers=workers), index_state=file_state(job.index_path)
    )
    waiting = [group for group in groups if group.stop > run.tally.resumed]
    if resume_from is not None and waiting and waiting[0].number < resume_from:
        raise UsageError(f"--resume-from {resume_from}: {waiting[0]} is not finished; leave the option out")
    for group in waiting:
        goes_on = group.start < run.tally.resumed
        yield _said(run, group, f"{group} {'goes on' if goes_on else 'begins'}")
        run.tally.add((yield from _one(run, job, group)))


def _one(run: BuildRun, job: GroupJob, group: Group) -> Generator[Progress, None, Tally]:
    """Run one group in a new process, again where something from outside ends it."""
    failures, reached, written, tiles = 0, group.start, 0, 0
    while True:
        environment = job.settings.child_environment()
        work = in_fresh_process(environment, f"{__name__}:commit_group", job, group)
        try:
            while True:
                try:
                    moment = next(work)
                except StopIteration as end:
                    tally: Tally = end.value
                    run.bytes_written += written
                    run.tiles_written += tiles
                    return tally
                if moment.done > reached and not moment.note:
                    reached, failures = moment.done, 0
                yield replace(
                    moment,
                    bytes_written=run.bytes_written + moment.bytes_written,
                    tiles=run.tiles_written + moment.tiles,
                    work=run.work_at(moment.done),
                )
                written, tiles = moment.bytes_written or written, moment.tiles or tiles
        except ProcessGone as gone:
            failures += 1
            if failures == _MOST_ATTEMPTS:
                raise WorkerLost(str(group), str(gone)) from None
            yield _said(run, group, f"{group}: its process {gone}; begun again where it stopped")
        finally:
            work.close()


def commit_group(job: GroupJob, group: Group) -> Generator[Progress, None, Tally]:
    """Commit the blocks of a group, in a new process; who asks has looked at what is committed before."""
    if file_state(job.index_path) != job.index_state:
        raise SourceIndexInvalid(job.index_path, "changed while the source was built; run the command again")
    with scratch_space(job.settings), SourceIndex(job.index_path) as index:
        plan = plan_source(
            job.name, job.config, index, job.options, folder=job.folder, encoder=job.settings.encoder
        )
        run = BuildRun(plan, index, job.folder, job.output, job.settings, job.anew)
        return (yield from run.go(group.start, group.stop))


def _said(run: BuildRun, group: Group, text: str) -> Progress:
    return Progress("build", group.start, run.total, "blocks", subject=run.plan.name, note=text)
