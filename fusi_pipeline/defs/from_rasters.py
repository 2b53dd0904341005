"""The whole terrain as one op, for a run that goes on with it: sources one by one, then all of them merged.

It does and notes what the assets do, each source as a partition; a run of assets could
not, for it has one partition.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from fusi_pipeline.defs.automation import changes
from fusi_pipeline.defs.facts import SAMPLE, sound_check, unsound
from fusi_pipeline.defs.history import DATA_VERSION_TAG
from fusi_pipeline.defs.merged_facts import lineage_metadata, merge_metadata
from fusi_pipeline.defs.progress import failures, followed
from fusi_pipeline.defs.sources import (
    PARTITIONS,
    POOL,
    ScanConfig,
    indexed,
    source_index,
    source_mbtiles,
    tiled,
)
from fusi_pipeline.defs.terrain import (
    CHECKS,
    FILENAME,
    LINEAGE,
    TERRAIN,
    TerrainConfig,
    chosen,
    in_order,
    merged,
    merged_names,
    rule_version,
)
from fusi_pipeline.errors import UsageError
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import find_sources, source_folder
from fusi_pipeline.verify import verify

_Result = dg.MaterializeResult[None] | dg.AssetCheckResult
_Event = dg.AssetMaterialization | dg.AssetCheckEvaluation


class RastersConfig(dg.Config):
    """Which sources, and which archive they go into."""

    sources: list[str] = Field(
        default=[], description="Only these sources, by their folders' names, into an `archive` of their own."
    )
    archive: str = Field(
        default=FILENAME, description="Name of the merged archive in the folder of outputs, *.pmtiles."
    )


@dg.op(
    out=dg.Out(dg.Nothing),
    pool=POOL,
    description="Sources indexed and tiled where they changed, then merged into one archive and its lineage.",
)
def terrain_from_rasters(
    context: dg.OpExecutionContext, config: RastersConfig, settings: dg.ResourceParam[Settings]
) -> Iterator[_Event | dg.Output[None]]:
    """Bring sources and what is merged of them up to date."""
    instance, log = context.instance, context.log.info
    with failures():
        names = _names(config, settings)
        instance.add_dynamic_partitions(PARTITIONS, names)
        for event in changes(instance, settings, names):
            instance.report_runless_asset_event(event)
        for name in names:
            yield from _noted(context, source_index.key, [indexed(name, ScanConfig(), settings, log)], name)
            yield from _noted(context, source_mbtiles.key, tiled(name, settings, log), name)
        how = chosen(instance)
        if config.sources:
            how, inputs = TerrainConfig(), in_order(config.sources, config.sources, settings)
        else:
            inputs = merged_names(instance, how, settings)
        yield from _merged(context, inputs, how, config.archive, settings)
    yield dg.Output(None)


def _names(config: RastersConfig, settings: Settings) -> list[str]:
    """Return the sources to bring up to date. Raises UsageError."""
    if Path(config.archive).name != config.archive or not config.archive.endswith(".pmtiles"):
        raise UsageError(f"archive {config.archive!r}: expected the name of a file that ends in .pmtiles")
    if bool(config.sources) != (config.archive != FILENAME):
        raise UsageError(f"sources and archive go together: {FILENAME} is made of all sources")
    names = config.sources or find_sources(settings.source_store)
    if not names:
        raise UsageError(f"{settings.source_store.absolute()}: no source; put a folder of rasters there")
    for name in names:
        source_folder(settings.source_store, name)
    return names


def _merged(
    context: dg.OpExecutionContext, names: Sequence[str], how: TerrainConfig, archive: str, settings: Settings
) -> Iterator[_Event]:
    """Merge sources, verify both archives, and note them; another archive than the terrain under its name."""
    inputs = [settings.archive_path(name) for name in names]
    prefix = [] if archive == FILENAME else [Path(archive).stem]
    pause_s = settings.progress_interval_s
    report = followed(merged(inputs, how, settings, archive), context.log.info, pause_s)
    facts = {TERRAIN: (report.path, merge_metadata(report, list(names), how.model_dump()))}
    if report.lineage is not None:
        facts[LINEAGE] = (report.lineage, lineage_metadata(report))
    version = dg.DataVersion(rule_version(inputs, how, settings))
    for known, (path, metadata) in facts.items():
        key = dg.AssetKey([*prefix, *known.path])
        found = followed(verify(path, sample=SAMPLE), context.log.info, pause_s)
        check = sound_check(CHECKS[known], found, key)
        if not found.sound:
            yield from _noted(context, key, [check])
            raise unsound(found)
        made: dg.MaterializeResult[None] = dg.MaterializeResult(
            data_version=version, metadata=metadata, check_results=[check]
        )
        yield from _noted(context, key, [made])


def _noted(
    context: dg.OpExecutionContext, key: dg.AssetKey, results: Iterable[_Result], partition: str | None = None
) -> Iterator[_Event]:
    """Yield what was made of an asset, and what its checks say, as a run of the asset would."""
    for one in results:
        checks = [one] if isinstance(one, dg.AssetCheckResult) else one.check_results
        if isinstance(one, dg.MaterializeResult):
            version = one.data_version
            yield dg.AssetMaterialization(
                key,
                partition=partition,
                metadata=one.metadata,
                tags={} if version is None else {DATA_VERSION_TAG: version.value},
            )
            context.log.info(f"{' '.join([key.to_user_string(), *filter(None, [partition])])}: made")
        for check in checks or ():
            yield dg.AssetCheckEvaluation(
                asset_key=key,
                check_name=str(check.check_name),
                passed=check.passed,
                metadata=check.metadata,
                severity=check.severity,
                description=check.description,
                partition=partition,
            )
