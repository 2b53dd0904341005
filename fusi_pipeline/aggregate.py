"""The whole way: sources scanned where stale, built one after another, merged into one archive."""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fusi_pipeline.build import BuildReport, build
from fusi_pipeline.errors import OutputExists, RasterUnusable, SourceEmpty, SourcesBroken, UsageError
from fusi_pipeline.plan import BuildOptions, Estimate, SourcePlan, estimate, plan_source, workers_for
from fusi_pipeline.progress import Progress
from fusi_pipeline.publish import MergeReport, check_output, merge_archives
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SourceIndex, forget_scan, is_current, read_config, source_folder
from fusi_pipeline.tiles.files import writable_folder

if TYPE_CHECKING:
    from fusi_pipeline.scan import ScanReport


_WORK_MARK = ".fusi-work"
_SCAN_CACHE_MIB = 64
"""A scan reads every pixel once, and so has little use for a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateReport:
    """What became of each source, and of all together."""

    builds: tuple[BuildReport, ...]
    merge: MergeReport


def index_source(
    name: str, settings: Settings, *, skip_broken: bool = False, always: bool = False
) -> Generator[Progress, None, ScanReport | None]:
    """Scan a source where its index is stale, or `always`; return the report of a scan that was needed.

    Raises SourceMissing, SourceEmpty, SourcesBroken.
    """
    folder = source_folder(settings.source_store, name)
    index_path = settings.index_path(name)
    if not always and is_current(folder, index_path) and (skip_broken or not _broken(index_path)):
        forget_scan(index_path)
        return None
    return (yield from _scan(name, folder, settings, skip_broken))


def build_source(
    name: str,
    settings: Settings,
    options: BuildOptions | None = None,
    *,
    skip_broken: bool = False,
    overwrite: bool = False,
    anew: bool = False,
) -> Generator[Progress, None, BuildReport]:
    """Build the MBTiles of one source, scanned first where its index is stale (see `build`)."""
    yield from index_source(name, settings, skip_broken=skip_broken)
    folder = source_folder(settings.source_store, name)
    return (
        yield from build(
            name,
            folder,
            read_config(folder),
            settings.index_path(name),
            settings.archive_path(name),
            options or BuildOptions(),
            settings,
            overwrite=overwrite,
            anew=anew,
        )
    )


def estimate_source(
    name: str, settings: Settings, options: BuildOptions | None = None, *, skip_broken: bool = False
) -> Generator[Progress, None, Estimate]:
    """Return what building a source will take, scanned first where its index is stale."""
    yield from index_source(name, settings, skip_broken=skip_broken)
    cache_mib = settings.gdal_cache_mib
    plan = _plan(name, settings, options)
    with SourceIndex(settings.index_path(name)) as index:
        workers = workers_for(settings.memory_mb, settings.workers, cache_mib)
        return estimate(plan, index, workers, cache_mib)


def aggregate(
    names: Sequence[str],
    output: Path,
    settings: Settings,
    options: BuildOptions | None = None,
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

    Without `keep_intermediates` the archives of the sources are removed once the
    merged one is whole.
    """
    if len(set(names)) != len(names):
        raise UsageError(f"sources {', '.join(names)}: name each source once")
    check_output(output, [], overwrite)
    for name in names:
        source_folder(settings.source_store, name)
    for name in names:
        yield from index_source(name, settings, skip_broken=skip_broken)
        _plan(name, settings, options)  # so that what cannot be built is known before anything is
    builds = []
    for name in names:
        builds.append(
            (yield from build_source(name, settings, options, skip_broken=skip_broken, overwrite=overwrite))
        )
    merged = yield from merge_archives(
        [report.path for report in builds],
        output,
        settings,
        mode=mode,
        feather_m=feather_m,
        lineage_output=lineage_output,
        overwrite=overwrite,
        keep_ledger=keep_ledger,
    )
    if not keep_intermediates:
        for report in builds:
            report.path.unlink(missing_ok=True)
    return AggregateReport(builds=tuple(builds), merge=merged)


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
        return plan_source(name, read_config(folder), index, options or BuildOptions(), folder=folder)


def _broken(index_path: Path) -> bool:
    """Tell whether an index was written with files left out."""
    with SourceIndex(index_path) as index:
        return any(True for _ in index.broken())


def _scan(
    name: str, folder: Path, settings: Settings, skip_broken: bool
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
        )
    )
