"""One source at a time: its folder, its index, its MBTiles. A partition is a source, by its folder's name."""

import time
from collections.abc import Callable, Iterator

import dagster as dg
from pydantic import Field

from fusi_pipeline.aggregate import build_source, index_source
from fusi_pipeline.defs.facts import (
    SAMPLE,
    build_metadata,
    files_check,
    index_facts,
    index_metadata,
    sound_check,
    unsound,
)
from fusi_pipeline.defs.progress import failures, followed
from fusi_pipeline.defs.versions import archive_version
from fusi_pipeline.plan import CODE_VERSION
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import SCHEMA_VERSION, is_current, source_folder
from fusi_pipeline.verify import verify

PARTITIONS = "source"
SOURCES = dg.DynamicPartitionsDefinition(name=PARTITIONS)
GROUP = "terrain"
POOL = "gdal"
"""The engine has workers of its own: as many assets at a time as this pool allows, one by default."""

source_files = dg.AssetSpec(
    "source_files",
    description="The folder of a source in the source store: rasters and, where there is one, a "
    "`source.toml`. Not made here: the sensor `new_sources` looks at what is there and notes what changed.",
    partitions_def=SOURCES,
    group_name=GROUP,
    kinds={"geotiff"},
)


class ScanConfig(dg.Config):
    """How a scan takes files that cannot be used."""

    skip_broken: bool = Field(
        default=False, description="Leave out files that cannot be used, instead of failing."
    )


@dg.asset(
    partitions_def=SOURCES,
    deps=[source_files],
    group_name=GROUP,
    kinds={"sqlite"},
    code_version=str(SCHEMA_VERSION),
    check_specs=[
        dg.AssetCheckSpec(
            "source_index_files",
            asset="source_index",
            description="Every file of the source can be used, and nothing about one is odd.",
        )
    ],
)
def source_index(
    context: dg.AssetExecutionContext, config: ScanConfig, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.MaterializeResult[None]]:
    """Index a source: every raster opened, checked, hashed and read through once.

    Files that did not change are not read again.
    """
    yield indexed(context.partition_key, config, settings, context.log.info)


def indexed(
    name: str, config: ScanConfig, settings: Settings, log: Callable[[str], object]
) -> dg.MaterializeResult[None]:
    """Bring the index of a source up to date. Raises Failure."""
    started, path = time.monotonic(), settings.index_path(name)
    with failures():
        scan = index_source(name, settings, skip_broken=config.skip_broken)
        report = followed(scan, log, settings.progress_interval_s)
        log("unchanged" if report is None else f"{report.reused} files were known")
        facts = index_facts(path)
        if not is_current(source_folder(settings.source_store, name), path):
            raise dg.Failure(f"source {name!r}: files changed while they were scanned; materialize it again")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(facts.version),
        metadata=index_metadata(facts, time.monotonic() - started),
        check_results=[files_check(facts)],
    )


@dg.asset(
    partitions_def=SOURCES,
    deps=[source_index],
    group_name=GROUP,
    kinds={"mbtiles", "sqlite"},
    pool=POOL,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            "mbtiles_sound",
            asset="source_mbtiles",
            description="The archive is whole: structure, metadata, and a sample of its tiles decoded.",
        )
    ],
)
def source_mbtiles(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Tile a source: Terrarium WebP in one MBTiles, transparent where there is no data.

    Only blocks whose files changed are computed; an interrupted run goes on at the next block.
    """
    yield from tiled(context.partition_key, settings, context.log.info)


def tiled(
    name: str, settings: Settings, log: Callable[[str], object]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Bring the MBTiles of a source up to date, and verify it. Raises Failure."""
    pause_s = settings.progress_interval_s
    with failures():
        folder = source_folder(settings.source_store, name)
        approved = is_current(folder, settings.index_path(name))
        report = followed(build_source(name, settings, skip_broken=approved), log, pause_s)
        log(f"{report.built} blocks built, {report.reused} reused, {report.resumed} resumed")
        checked = followed(verify(report.path, sample=SAMPLE), log, pause_s)
    check = sound_check("mbtiles_sound", checked)
    if not check.passed:
        yield check
        raise unsound(checked)
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(archive_version(report.path)),
        metadata=build_metadata(report),
        check_results=[check],
    )
