"""What happens by itself: sources that come and go are noted and, if switched on, refreshed at night.

No work starts here unless a person switched `nightly_refresh` on.
"""

import time
from collections.abc import Iterator, Sequence

import dagster as dg

from fusi_pipeline.defs.coverage import chosen_coverage, terrain_coverage
from fusi_pipeline.defs.history import DATA_VERSION_TAG, latest, observed_version
from fusi_pipeline.defs.sources import PARTITIONS, SOURCES, source_files, source_index, source_mbtiles
from fusi_pipeline.defs.terrain import LINEAGE, TERRAIN, chosen, is_merged, terrain_pmtiles
from fusi_pipeline.defs.versions import folder_version
from fusi_pipeline.errors import FusiError
from fusi_pipeline.settings import Settings
from fusi_pipeline.sources import find_sources, is_current, source_folder

REFRESH_TAG = "fusi/refresh"
"""Marks the runs of sources that one tick of the schedule asked for, with the time of the tick."""
_SCHEDULE_TAG = "dagster/schedule_name"
"""Dagster's own mark on every run that a schedule asked for."""
_REST_PER_WORK = 50
"""Looking through folders takes at most a fiftieth of the time, however many files they hold."""

refresh = dg.define_asset_job(
    "refresh",
    selection=[source_index, source_mbtiles, terrain_pmtiles, terrain_coverage],
    description="Bring a source up to date, or the terrain after its sources.",
)


@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def new_sources(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.SensorResult | dg.SkipReason:
    """Make a partition of each folder of the source store, drop those of folders that went, note changes.

    Starts no run. What was made of a source that went stays where it is.
    """
    if not settings.source_store.is_dir():
        return dg.SkipReason(f"no source store at {settings.source_store.absolute()}")
    if (started := time.time()) < float(context.cursor or 0):
        return dg.SkipReason("looking through the folders took a while; not again so soon")
    found, known = find_sources(settings.source_store), context.instance.get_dynamic_partitions(PARTITIONS)
    added, gone = sorted(set(found) - set(known)), sorted(set(known) - set(found))
    events = list(changes(context.instance, settings, found))
    requests: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = []
    requests += [SOURCES.build_add_request(added)] if added else []
    requests += [SOURCES.build_delete_request(gone)] if gone else []
    now = time.time()
    return dg.SensorResult(
        skip_reason=None if requests or events else f"nothing new in {len(found)} sources",
        dynamic_partitions_requests=requests,
        asset_events=events,
        cursor=str(now + _REST_PER_WORK * (now - started)),
    )


def changes(
    instance: dg.DagsterInstance, settings: Settings, names: Sequence[str]
) -> Iterator[dg.AssetObservation]:
    """Yield an observation of each source whose folder is not as it was when last looked at."""
    for name in names:
        try:
            version = folder_version(settings.source_store, name)
        except FusiError:
            continue  # a source.toml that cannot be read: the run of the source says so
        if observed_version(instance, source_files.key, name) != version:
            folder = (settings.source_store / name).absolute()
            yield dg.AssetObservation(
                source_files.key,
                partition=name,
                metadata={"path": dg.MetadataValue.path(folder)},
                tags={DATA_VERSION_TAG: version},
            )


@dg.schedule(job=refresh, cron_schedule="0 2 * * *", default_status=dg.DefaultScheduleStatus.STOPPED)
def nightly_refresh(
    context: dg.ScheduleEvaluationContext, settings: dg.ResourceParam[Settings]
) -> list[dg.RunRequest] | dg.SkipReason:
    """Ask at 02:00 UTC for a run of each source that is new or changed; a merge of all follows them."""
    tick = f"{context.scheduled_execution_time:%Y-%m-%d %H:%M}"
    names = find_sources(settings.source_store)
    context.instance.add_dynamic_partitions(PARTITIONS, names)
    changed = [name for name in names if is_stale(context.instance, settings, name)]
    if changed:
        return [_source_request(tick, name) for name in changed]
    if names and not is_merged(context.instance, settings):
        return [terrain_request(context.instance, tick)]
    return dg.SkipReason(f"none of {len(names)} sources changed")


@dg.sensor(job=refresh, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def terrain_after_refresh(
    context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]
) -> dg.RunRequest | dg.SkipReason:
    """Ask for a merge once the runs of `nightly_refresh` have ended, if they changed anything."""
    instance = context.instance
    scheduled = dg.RunsFilter(tags={_SCHEDULE_TAG: nightly_refresh.name})
    tick = next((run.tags.get(REFRESH_TAG) for run in instance.get_runs(scheduled, limit=1)), None)
    if tick is None:
        return dg.SkipReason("no nightly refresh of sources has gone before")
    runs = instance.get_runs(dg.RunsFilter(tags={REFRESH_TAG: tick}))
    waiting = sum(not run.is_finished for run in runs)
    if waiting:
        return dg.SkipReason(f"{waiting} of {len(runs)} runs of {tick} are under way")
    key = f"{tick} after {len(runs)}"
    if context.cursor == key:
        return dg.SkipReason(f"the refresh of {tick} is done with")
    context.update_cursor(key)
    if is_merged(instance, settings):
        return dg.SkipReason(f"the refresh of {tick} left the terrain as it was")
    return terrain_request(instance, key)


def is_stale(instance: dg.DagsterInstance, settings: Settings, name: str) -> bool:
    """Tell whether a source changed since it was scanned, or was scanned again since it was tiled."""
    index, archive = settings.index_path(name), settings.archive_path(name)
    try:
        if not is_current(source_folder(settings.source_store, name), index) or not archive.exists():
            return True
    except FusiError:
        return True
    last = latest(instance, source_mbtiles.key, name)
    return last is None or last.at < index.stat().st_mtime


def terrain_request(instance: dg.DagsterInstance, run_key: str) -> dg.RunRequest:
    """Return the request for a merge like the last one, and for coverage where that was ever made."""
    keys = [TERRAIN, LINEAGE]
    configs: dict[str, dg.Config] = {terrain_pmtiles.op.name: chosen(instance)}
    if (covered := chosen_coverage(instance)) is not None:
        keys.append(terrain_coverage.key)
        configs[terrain_coverage.op.name] = covered
    return dg.RunRequest(run_key=run_key, asset_selection=keys, run_config=dg.RunConfig(ops=configs))


def _source_request(tick: str, name: str) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"{tick} {name}",
        partition_key=name,
        asset_selection=[source_index.key, source_mbtiles.key],
        tags={REFRESH_TAG: tick},
    )
