"""All sources together: merged pixel by pixel into the terrain, and its lineage from the same pass."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field

from fusi_pipeline.defs.facts import CONFIG_KEY, SAMPLE, Metadata, index_facts, sound_check, unsound
from fusi_pipeline.defs.history import DATA_VERSION_TAG, latest
from fusi_pipeline.defs.merged_facts import lineage_metadata, merge_metadata
from fusi_pipeline.defs.progress import failures, followed
from fusi_pipeline.defs.sources import GROUP, PARTITIONS, POOL, source_mbtiles
from fusi_pipeline.defs.versions import merged_version
from fusi_pipeline.errors import FusiError, UsageError
from fusi_pipeline.merge import MODES
from fusi_pipeline.plan import CODE_VERSION
from fusi_pipeline.progress import Progress
from fusi_pipeline.publish import MergeReport, merge_archives
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.image import encoder_version
from fusi_pipeline.verify import verify

TERRAIN = dg.AssetKey("terrain_pmtiles")
LINEAGE = dg.AssetKey("terrain_lineage_pmtiles")
FORMATS = ("pmtiles", "mbtiles", "none")
"""Of the lineage; `none` for a merge without one."""
FILENAME = "terrain.pmtiles"
CHECKS = {TERRAIN: "terrain_sound", LINEAGE: "lineage_sound"}
_CHECKED = "The archive is whole: structure, metadata, and a sample of its tiles decoded."

_Results = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]


class TerrainConfig(dg.Config):
    """What is merged, and which height wins where sources overlap."""

    order: list[str] = Field(
        default=[],
        description="Sources with precedence, first first; the others follow, finest pixels first.",
    )
    mode: str = Field(default=MODES[0], description=f"One of {', '.join(MODES)}.")
    feather_m: float = Field(
        default=0.0, description="Width in metres over which mode feather blends the edge of a source."
    )
    lineage: str = Field(
        default=FORMATS[0],
        description=f"Archive that names the source of each pixel: one of {', '.join(FORMATS)}.",
    )
    skip_missing: bool = Field(
        default=False, description="Leave out sources that have no MBTiles, instead of failing."
    )


def _spec(key: dg.AssetKey, description: str, *, skippable: bool = False) -> dg.AssetSpec:
    return dg.AssetSpec(
        key,
        deps=[dg.AssetDep(source_mbtiles, partition_mapping=dg.AllPartitionMapping())],
        description=description,
        group_name=GROUP,
        kinds={"pmtiles"},
        code_version=CODE_VERSION,
        skippable=skippable,
    )


@dg.multi_asset(
    name=TERRAIN.to_user_string(),
    specs=[
        _spec(
            TERRAIN,
            "Every source, merged pixel by pixel into one PMTiles that maps can use. Every source must have "
            "its MBTiles; one that was tiled before its files changed is taken as it is. Made in one step "
            "with `terrain_lineage_pmtiles`.",
        ),
        _spec(
            LINEAGE,
            "Which source each pixel of `terrain_pmtiles` is from: an archive of the same tiles, with a "
            "legend. Made in the same pass; whichever of the two is asked for, both are written.",
            skippable=True,
        ),
    ],
    check_specs=[dg.AssetCheckSpec(name, asset=key, description=_CHECKED) for key, name in CHECKS.items()],
    can_subset=True,
    pool=POOL,
)
def terrain_pmtiles(
    context: dg.AssetExecutionContext, config: TerrainConfig, settings: dg.ResourceParam[Settings]
) -> _Results:
    """Merge every source into the terrain and its lineage, and verify both."""
    log, pause_s = context.log.info, settings.progress_interval_s
    if not context.selected_asset_keys:
        yield from _checked_again(context, settings)
        return
    with failures():
        names = merged_names(context.instance, config, settings)
        inputs = [settings.archive_path(name) for name in names]
        log(f"priority: {', '.join(names)}; mode: {config.mode}")
        report = followed(merged(inputs, config, settings), log, pause_s)
        paths = {TERRAIN: report.path} | ({LINEAGE: report.lineage} if report.lineage else {})
        reports = {key: followed(verify(path, sample=SAMPLE), log, pause_s) for key, path in paths.items()}
    checks = {key: sound_check(CHECKS[key], found, key) for key, found in reports.items()}
    for key, found in reports.items():
        if not found.sound:
            yield from _wanted(context, checks[key])
            raise unsound(found)
    version = rule_version(inputs, config, settings)
    yield from _told(context, TERRAIN, version, merge_metadata(report, names, config.model_dump()), checks)
    if report.lineage is not None:
        yield from _told(context, LINEAGE, version, lineage_metadata(report), checks)


def merged(
    inputs: Sequence[Path], config: TerrainConfig, settings: Settings, archive: str = FILENAME
) -> Generator[Progress, None, MergeReport]:
    """Merge archives into the terrain, or another archive beside it, and its lineage."""
    return merge_archives(
        inputs,
        settings.output_dir / archive,
        settings,
        mode=config.mode,
        feather_m=config.feather_m,
        lineage_output=lineage_path(settings, config, archive),
    )


def _checked_again(context: dg.AssetExecutionContext, settings: Settings) -> Iterator[dg.AssetCheckResult]:
    """Yield the checks of the archives as they are, where only checks were asked for."""
    paths = {TERRAIN: terrain_path(settings), LINEAGE: lineage_path(settings, chosen(context.instance))}
    for key, path in paths.items():
        if path is not None and key in {asked.asset_key for asked in context.selected_asset_check_keys}:
            with failures():
                work = verify(path, sample=SAMPLE)
                report = followed(work, context.log.info, settings.progress_interval_s)
            yield sound_check(CHECKS[key], report, key)


def _told(
    context: dg.AssetExecutionContext,
    key: dg.AssetKey,
    version: str,
    metadata: Metadata,
    checks: dict[dg.AssetKey, dg.AssetCheckResult],
) -> _Results:
    """Yield the result of an archive that was written; note it where it was not asked for but came along."""
    if key in context.selected_asset_keys:
        yield dg.MaterializeResult(asset_key=key, data_version=dg.DataVersion(version), metadata=metadata)
    else:
        context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags={DATA_VERSION_TAG: version}))
    yield from _wanted(context, checks[key])


def _wanted(context: dg.AssetExecutionContext, check: dg.AssetCheckResult) -> Iterator[dg.AssetCheckResult]:
    """Yield the result of a check if it was asked for."""
    if any(check.check_name == asked.name for asked in context.selected_asset_check_keys):
        yield check


def terrain_path(settings: Settings) -> Path:
    """Return where the merged archive is."""
    return settings.output_dir / FILENAME


def lineage_path(settings: Settings, config: TerrainConfig, archive: str = FILENAME) -> Path | None:
    """Return where the lineage of a merged archive is; None for a merge without one."""
    name = f"{Path(archive).stem}_lineage.{config.lineage}"
    return None if config.lineage == "none" else settings.output_dir / name


def rule_version(inputs: Sequence[Path], config: TerrainConfig, settings: Settings) -> str:
    """Return the data version of what comes of archives by a configuration."""
    rule = (config.mode, config.feather_m, config.lineage)
    return merged_version(inputs, *rule, encoder_version(settings.encoder))


def chosen(instance: dg.DagsterInstance) -> TerrainConfig:
    """Return how the terrain was last merged, without sources that are gone; else the defaults."""
    last = latest(instance, TERRAIN)
    stated = None if last is None else last.metadata.get(CONFIG_KEY)
    config = TerrainConfig(**stated) if isinstance(stated, dict) else TerrainConfig()
    known = set(instance.get_dynamic_partitions(PARTITIONS))
    return config.model_copy(update={"order": [name for name in config.order if name in known]})


def is_merged(instance: dg.DagsterInstance, settings: Settings) -> bool:
    """Tell whether the archives are there and were merged from what the sources are now."""
    last, config = latest(instance, TERRAIN), chosen(instance)
    wanted = (terrain_path(settings), lineage_path(settings, config))
    if last is None or not all(path is None or path.exists() for path in wanted):
        return False
    try:
        names = merged_names(instance, config, settings)
        inputs = [settings.archive_path(name) for name in names]
        return last.data_version == rule_version(inputs, config, settings)
    except FusiError:
        return False


def merged_names(instance: dg.DagsterInstance, config: TerrainConfig, settings: Settings) -> list[str]:
    """Return the sources to merge, those with precedence first.

    Raises UsageError for an unknown mode, format or name, and where an archive is missing or there is none.
    """
    for key, value, known in (("mode", config.mode, MODES), ("lineage", config.lineage, FORMATS)):
        if value not in known:
            raise UsageError(f"{key} {value!r}: expected one of {', '.join(known)}")
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
