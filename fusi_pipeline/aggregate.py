"""The whole way: sources scanned where stale, built one after another, merged into one archive."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusi_pipeline.build import BuildReport, build
from fusi_pipeline.build_groups import PROCESSES
from fusi_pipeline.cost import BuildCost, Estimate, workers_for
from fusi_pipeline.disk_space import when_there_is_room
from fusi_pipeline.errors import (
    OutputExists,
    RasterUnusable,
    SeveralUnfinished,
    SourceEmpty,
    SourcesBroken,
    UsageError,
    WorkerLost,
    WorkUnfinished,
)
from fusi_pipeline.fresh_process import ProcessGone, in_fresh_process
from fusi_pipeline.groups import Group, GroupRule, group_estimates, grouped
from fusi_pipeline.plan import BuildOptions, SourcePlan, estimate, plan_source
from fusi_pipeline.progress import Ahead, Progress, followed_by
from fusi_pipeline.publish import MergeReport, check_output, merge_archives
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import (
    SourceIndex,
    forget_scan,
    is_current,
    raster_entries,
    read_config,
    source_folder,
)
from fusi_pipeline.tiles.files import file_state, writable_folder
from fusi_pipeline.workload import BuildLoad, merge_ahead, rough_ahead

if TYPE_CHECKING:
    from fusi_pipeline.scan import ScanReport, Seen


_WORK_MARK = ".fusi-work"
_MOST_ATTEMPTS = 3
"""How often the process of a merge may be ended from outside."""
_SCAN_CACHE_MIB = 64
"""A scan reads every pixel once, and so has little use for a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateReport:
    """What became of each source, and of all together."""

    builds: tuple[BuildReport, ...]
    merge: MergeReport


def index_source(
    name: str,
    settings: Settings,
    *,
    skip_broken: bool = False,
    always: bool = False,
    foresee: Callable[[Seen], Ahead] | None = None,
) -> Generator[Progress, None, ScanReport | None]:
    """Scan a source where its index is stale, or `always`; return the report of a scan that was needed.

    `foresee` tells from what a scan has seen what comes after it. Raises
    SourceMissing, SourceEmpty, SourcesBroken.
    """
    folder = source_folder(settings.source_store, name)
    index_path = settings.index_path(name)
    if not always and is_current(folder, index_path) and (skip_broken or not _broken(index_path)):
        forget_scan(index_path)
        return None
    scan = partial(_scan, name, folder, settings, skip_broken, foresee)
    return (yield from when_there_is_room(scan, index_path, settings))


def build_source(
    name: str,
    settings: Settings,
    options: BuildOptions | None = None,
    *,
    skip_broken: bool = False,
    overwrite: bool = False,
    anew: bool = False,
    groups: Sequence[Group] = (),
    resume_from: int | None = None,
) -> Generator[Progress, None, BuildReport]:
    """Build the MBTiles of one source, scanned first where its index is stale (see `build`)."""
    yield from index_source(name, settings, skip_broken=skip_broken)
    folder = source_folder(settings.source_store, name)
    output = settings.archive_path(name)
    work = partial(
        build,
        name,
        folder,
        read_config(folder),
        settings.index_path(name),
        output,
        options or BuildOptions(),
        settings,
        overwrite=overwrite,
        anew=anew,
        groups=groups,
        resume_from=resume_from,
    )
    return (yield from when_there_is_room(work, output, settings))


def build_sources(
    names: Sequence[str],
    settings: Settings,
    options: BuildOptions | None = None,
    rule: GroupRule | None = None,
    *,
    skip_broken: bool = False,
    overwrite: bool = False,
    anew: bool = False,
    ahead: Ahead = (),
) -> Generator[Progress, None, tuple[BuildReport, ...]]:
    """Build the MBTiles of several sources, one after another, in groups where there is a `rule`.

    A source of which something could not be made does not hold up the others.
    `ahead` is what comes after them all.
    Raises WorkUnfinished at the end where there is one.
    """
    groups = {}
    if rule is not None:
        groups = yield from _all_groups(names, settings, options, rule, skip_broken=skip_broken)
    reports: list[BuildReport] = []
    unfinished: list[WorkUnfinished] = []
    for number, name in enumerate(names):
        later = tuple(
            one for other in names[number + 1 :] for one in _build_ahead(other, settings, options, anew)
        )
        work = build_source(
            name,
            settings,
            options,
            skip_broken=skip_broken,
            overwrite=overwrite,
            anew=anew,
            groups=groups.get(name, ()),
            resume_from=None if rule is None else rule.resume_from,
        )
        try:
            reports.append((yield from followed_by(work, later + ahead)))
        except WorkUnfinished as error:
            unfinished.append(error)
    if len(unfinished) > 1:
        raise SeveralUnfinished(unfinished)
    if unfinished:
        raise unfinished[0]
    return tuple(reports)


def _all_groups(
    names: Sequence[str],
    settings: Settings,
    options: BuildOptions | None,
    rule: GroupRule,
    *,
    skip_broken: bool,
) -> Generator[Progress, None, dict[str, list[Group]]]:
    """Return the groups of every source, counted through; sources are scanned where that is needed."""
    groups: dict[str, list[Group]] = {}
    count = 0
    for name in names:
        yield from index_source(name, settings, skip_broken=skip_broken)
        groups[name] = grouped(_plan(name, settings, options), rule, count + 1)
        count += len(groups[name])
    if rule.resume_from is not None and rule.resume_from > count:
        raise UsageError(f"--resume-from {rule.resume_from}: there are {count} groups")
    return groups


def estimate_source(
    name: str,
    settings: Settings,
    options: BuildOptions | None = None,
    rule: GroupRule | None = None,
    *,
    skip_broken: bool = False,
    first_group: int = 1,
) -> Generator[Progress, None, Estimate]:
    """Return what building a source will take, and each of its groups where there is a `rule`.

    The source is scanned first where its index is stale.
    """
    yield from index_source(name, settings, skip_broken=skip_broken)
    cache_mib = settings.gdal_cache_mib
    plan = _plan(name, settings, options)
    with SourceIndex(settings.index_path(name)) as index:
        processes = 2 if rule is None else PROCESSES
        workers = workers_for(settings.memory_mb, settings.workers, cache_mib, processes=processes)
        whole = estimate(plan, index, workers, cache_mib)
        if rule is None:
            return whole
        cost = BuildCost.of(workers, cache_mib, processes=processes)
        parts = group_estimates(plan, index, grouped(plan, rule, first_group), cost)
        return replace(whole, memory_mib=cost.memory_mib, groups=tuple(parts))


def aggregate(
    names: Sequence[str],
    output: Path,
    settings: Settings,
    options: BuildOptions | None = None,
    rule: GroupRule | None = None,
    *,
    mode: str = "priority",
    feather_m: float = 0.0,
    lineage_output: Path | None = None,
    keep_ledger: bool = True,
    keep_intermediates: bool = True,
    skip_broken: bool = False,
    overwrite: bool = False,
) -> Generator[Progress, None, AggregateReport]:
    """Build every named source and merge them, the first with precedence, into one PMTiles.

    With a `rule` each group of blocks, and the merge, has a process of its own.
    Without `keep_intermediates` the archives of the sources are removed once the
    merged one is whole.
    """
    if len(set(names)) != len(names):
        raise UsageError(f"sources {', '.join(names)}: name each source once")
    check_output(output, [], overwrite)
    for name in names:
        source_folder(settings.source_store, name)
    for name in names:
        others = [other for other in names if other != name]
        foresee = partial(_foreseen, _bytes_of(others, settings), settings.workers)
        yield from index_source(name, settings, skip_broken=skip_broken, foresee=foresee)
        _plan(name, settings, options)  # so that what cannot be built is known before anything is
    builds = yield from build_sources(
        names, settings, options, rule, skip_broken=skip_broken, overwrite=overwrite,
        ahead=_merge_ahead(names, settings, options, lineage_output is not None),
    )  # fmt: skip
    merge = partial(
        merge_archives if rule is None else _merge_apart,
        [report.path for report in builds],
        output,
        settings,
        mode=mode,
        feather_m=feather_m,
        lineage_output=lineage_output,
        overwrite=overwrite,
        keep_ledger=keep_ledger,
    )
    merged: MergeReport = yield from when_there_is_room(merge, output, settings)
    if not keep_intermediates:
        for report in builds:
            report.path.unlink(missing_ok=True)
    return AggregateReport(builds=builds, merge=merged)


def _merge_apart(
    inputs: Sequence[Path], output: Path, settings: Settings, **how: Any
) -> Generator[Progress, None, MergeReport]:
    """Merge archives in a new process (see `merge_archives`), again where something from outside ends it."""
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        work = in_fresh_process(
            settings.child_environment(),
            "fusi_pipeline.publish:merge_archives",
            inputs,
            output,
            settings,
            **how,
        )
        try:
            report: MergeReport = yield from work
        except ProcessGone as gone:
            if attempt == _MOST_ATTEMPTS:
                raise WorkerLost("the merge", str(gone)) from None
            yield Progress(
                "merge", 0, 0, "cells", note=f"merge: its process {gone}; begun again where it stopped"
            )
        else:
            return report
    raise AssertionError("unreachable")


def convert(
    raster: Path,
    output: Path,
    settings: Settings,
    options: BuildOptions | None = None,
    *,
    overwrite: bool = False,
) -> Generator[Progress, None, AggregateReport]:
    """Make a PMTiles of one raster file.

    What is needed on the way lies in a folder beside the output, from which an
    interrupted run goes on; it is removed at the end.
    """
    if not raster.is_file():
        raise UsageError(f"{raster}: no such file")
    check_output(output, [], overwrite)
    work = output.with_name(f"{output.name}.work")
    if work.exists() and not (work / _WORK_MARK).exists():
        raise OutputExists(work)
    name = raster.stem.lstrip(".") or "raster"
    folder = writable_folder(work / "source-store" / name)
    (work / _WORK_MARK).touch()
    for link in folder.iterdir():
        if link.is_symlink():
            link.unlink()  # an earlier run may have been given another raster of the same name
    for path in filter(Path.exists, _with_sidecars(raster)):
        (folder / path.name).symlink_to(path.resolve())
    inner = settings.with_options(source_store=work / "source-store", output_dir=work)
    try:
        report = yield from aggregate([name], output, inner, options, overwrite=overwrite, keep_ledger=False)
    except SourcesBroken as error:
        shutil.rmtree(work)
        raise RasterUnusable(raster, error.problems[0][1]) from error
    except (SourceEmpty, UsageError):
        shutil.rmtree(work)  # another run with this raster would fail likewise
        raise
    shutil.rmtree(work)
    return report


def _with_sidecars(raster: Path) -> list[Path]:
    """Return a raster's path and those where GDAL looks for what belongs to it."""
    beside = [raster.with_name(raster.name + suffix) for suffix in (".aux.xml", ".msk", ".ovr")]
    return [raster, *beside, *(raster.with_suffix(suffix) for suffix in (".tfw", ".wld", ".prj", ".hdr"))]


def _plan(name: str, settings: Settings, options: BuildOptions | None) -> SourcePlan:
    """Return the plan of a source that has an index (see `plan_source`)."""
    folder = source_folder(settings.source_store, name)
    with SourceIndex(settings.index_path(name)) as index:
        config, wanted = read_config(folder), options or BuildOptions()
        return plan_source(name, config, index, wanted, folder=folder, encoder=settings.encoder)


def _bytes_of(names: Sequence[str], settings: Settings) -> int:
    """Return the bytes of the files of sources."""
    return sum(one.size_bytes for name in names for one in raster_entries(settings.source_store / name))


def _foreseen(other_bytes: int, workers: int, seen: Seen) -> Ahead:
    """Return what comes after the scan of a source, from what that has seen, if other sources are alike."""
    if not seen.share:
        return ()
    tiles = seen.base_tiles / seen.share * (1 + other_bytes / max(seen.bytes, 1))
    return rough_ahead(tiles, workers, several=other_bytes > 0)


def _build_ahead(name: str, settings: Settings, options: BuildOptions | None, anew: bool) -> Ahead:
    """Return what building a source will take; nothing where it is made, or not scanned yet."""
    if not is_current(source_folder(settings.source_store, name), settings.index_path(name)):
        return ()
    plan, output = _plan(name, settings, options), settings.archive_path(name)
    with SourceIndex(settings.index_path(name)) as index:
        if not anew and output.exists() and index.whole(output) == file_state(output):
            return ()
        return (("build", BuildLoad(plan, index, 0, settings.workers).seconds()),)


def _merge_ahead(
    names: Sequence[str], settings: Settings, options: BuildOptions | None, lineage: bool
) -> Ahead:
    """Return what merging sources that are scanned will take."""
    with ExitStack() as stack:
        plans = [
            (_plan(name, settings, options), stack.enter_context(SourceIndex(settings.index_path(name))))
            for name in names
        ]
        return merge_ahead(plans, lineage, settings.workers)


def _broken(index_path: Path) -> bool:
    """Tell whether an index was written with files left out."""
    with SourceIndex(index_path) as index:
        return any(True for _ in index.broken())


def _scan(
    name: str, folder: Path, settings: Settings, skip_broken: bool, foresee: Callable[[Seen], Ahead] | None
) -> Generator[Progress, None, ScanReport]:
    from fusi_pipeline.scan import scan

    return (
        yield from scan(
            folder,
            settings.index_path(name),
            name=name,
            workers=settings.workers,
            skip_broken=skip_broken,
            cache_mib=min(settings.gdal_cache_mib, _SCAN_CACHE_MIB),
            foresee=foresee,
        )
    )
