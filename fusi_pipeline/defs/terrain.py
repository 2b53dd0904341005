"""All sources together: merged pixel by pixel into `terrain.pmtiles`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from fusi_pipeline.defs.facts import CONFIG_KEY, SAMPLE, index_facts, merge_metadata, sound_check, unsound
from fusi_pipeline.defs.history import latest
from fusi_pipeline.defs.progress import failures, followed
from fusi_pipeline.defs.sources import GROUP, PARTITIONS, POOL, source_mbtiles
from fusi_pipeline.defs.versions import merged_version
from fusi_pipeline.errors import FusiError, UsageError
from fusi_pipeline.merge import MODES
from fusi_pipeline.plan import CODE_VERSION
from fusi_pipeline.publish import merge_archives
from fusi_pipeline.settings import Settings
from fusi_pipeline.verify import verify

_FILENAME = "terrain.pmtiles"


class TerrainConfig(dg.Config):
    """What is merged, and which height wins where sources overlap."""

    order: list[str] = Field(
        default=[],
        description="Sources with precedence, first first; the others follow, finest pixels first.",
    )
    mode: str = Field(default=MODES[0], description=f"One of {', '.join(MODES)}.")
    skip_missing: bool = Field(
        default=False, description="Leave out sources that have no MBTiles, instead of failing."
    )


@dg.asset(
    deps=[dg.AssetDep(source_mbtiles, partition_mapping=dg.AllPartitionMapping())],
    group_name=GROUP,
    kinds={"pmtiles"},
    pool=POOL,
    code_version=CODE_VERSION,
    check_specs=[
        dg.AssetCheckSpec(
            "terrain_sound",
            asset="terrain_pmtiles",
            description="The archive is whole: structure, metadata, and a sample of its tiles decoded.",
        )
    ],
)
def terrain_pmtiles(
    context: dg.AssetExecutionContext, config: TerrainConfig, settings: dg.ResourceParam[Settings]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Merge every source, pixel by pixel, into one PMTiles that maps can use.

    Every source must have its MBTiles. Where one was tiled before its files changed, it is taken as it is.
    """
    log, pause_s = context.log.info, settings.progress_interval_s
    with failures():
        names = merged_names(context.instance, config, settings)
        log(f"priority: {', '.join(names)}; mode: {config.mode}")
        inputs = [settings.archive_path(name) for name in names]
        work = merge_archives(inputs, terrain_path(settings), settings, mode=config.mode)
        report = followed(work, log, pause_s)
        checked = followed(verify(report.path, sample=SAMPLE), log, pause_s)
    check = sound_check("terrain_sound", checked)
    if not check.passed:
        yield check
        raise unsound(checked)
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(merged_version(inputs, config.mode)),
        metadata=merge_metadata(report, names, config.model_dump()),
        check_results=[check],
    )


def terrain_path(settings: Settings) -> Path:
    """Return where the merged archive is."""
    return settings.output_dir / _FILENAME


def chosen(instance: dg.DagsterInstance) -> TerrainConfig:
    """Return how the terrain was last merged, without sources that are gone; else the defaults."""
    last = latest(instance, terrain_pmtiles.key)
    stated = None if last is None else last.metadata.get(CONFIG_KEY)
    config = TerrainConfig(**stated) if isinstance(stated, dict) else TerrainConfig()
    known = set(instance.get_dynamic_partitions(PARTITIONS))
    return config.model_copy(update={"order": [name for name in config.order if name in known]})


def is_merged(instance: dg.DagsterInstance, settings: Settings) -> bool:
    """Tell whether the archive is there and was merged from what the sources are now."""
    last = latest(instance, terrain_pmtiles.key)
    if last is None or not terrain_path(settings).exists():
        return False
    config = chosen(instance)
    try:
        names = merged_names(instance, config, settings)
        inputs = [settings.archive_path(name) for name in names]
        return last.data_version == merged_version(inputs, config.mode)
    except FusiError:
        return False


def merged_names(instance: dg.DagsterInstance, config: TerrainConfig, settings: Settings) -> list[str]:
    """Return the sources to merge, those with precedence first.

    Raises UsageError for an unknown mode or name, and where an archive is missing or there is none.
    """
    if config.mode not in MODES:
        raise UsageError(f"mode {config.mode!r}: expected one of {', '.join(MODES)}")
    names = in_order(instance.get_dynamic_partitions(PARTITIONS), config.order, settings)
    missing = [name for name in names if not settings.archive_path(name).exists()]
    if missing and not config.skip_missing:
        raise UsageError(
            f"source_mbtiles is missing for {', '.join(missing)}; materialize it first, "
            "or leave it out with skip_missing in the configuration of the run"
        )
    found = [name for name in names if name not in missing]
    if not found:
        raise UsageError(
            f"no source to merge: put folders of rasters into {settings.source_store.absolute()}"
        )
    return found


def in_order(names: Sequence[str], order: Sequence[str], settings: Settings) -> list[str]:
    """Return sources in the order of precedence: those of `order`, then the finest pixels, then by name.

    Raises UsageError for an unknown or repeated name in `order`.
    """
    if unknown := [name for name in order if name not in names]:
        raise UsageError(f"order names {', '.join(unknown)}; the sources are {', '.join(sorted(names))}")
    if len(set(order)) != len(order):
        raise UsageError(f"order {', '.join(order)}: name each source once")
    others = sorted(set(names) - set(order))
    others.sort(key=lambda name: _pixel_m(name, settings))
    return [*order, *others]


def _pixel_m(name: str, settings: Settings) -> float:
    """Return the mean pixel width of a source; infinite where it has no index."""
    path = settings.index_path(name)
    return index_facts(path).pixel_m if path.exists() else float("inf")
