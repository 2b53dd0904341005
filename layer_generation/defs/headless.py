"""Layers materialized in this process, region by region in order: Dagster without daemon and pages."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from fusi_pipeline.errors import Interrupted
from layer_generation.defs import registry
from layer_generation.defs.backfill import Wanted, wanted
from layer_generation.defs.from_rasters import JOB, FromRastersConfig, in_turn
from layer_generation.defs.noting import figures, verdict
from layer_generation.defs.regions import Partition
from layer_generation.defs.sites import Site, find_sites
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.settings import Places

Say = Callable[[str], object]


def materialize(
    instance: dg.DagsterInstance, places: Places, name: str, say: Say, stop: Stop = NEVER
) -> list[str]:
    """Bring a layer from its map to its archive; return what was not materialized.

    What waits for a failed partition is left out, everything else is made. Raises
    Interrupted where it was asked to stop; what was under way then is finished.
    """
    site = _site(places, name)
    location = _Location(instance, registry.layers(places, stop=stop), say, stop)
    keys = [*([site.map.key] if site.map is not None else []), site.plan_key]
    failed = next(([key.to_user_string()] for key in keys if not location.made(key)), [])
    if failed:
        return failed
    site = _site(places, name)  # the plan may have grown
    location = _Location(instance, registry.layers(places, stop=stop), say, stop)
    todo = wanted(instance, site)
    failed = draw(location.made, todo)
    if not failed and not location.made(site.archive_key):
        failed = [site.archive_key.to_user_string()]
    return failed


def draw(made: Callable[[dg.AssetKey, str], bool], todo: Wanted) -> list[str]:
    """Materialize partitions in order; return those that failed and those that wait for them."""
    failed: set[Partition] = set()
    for partition in in_turn(todo, failed):
        if not made(todo.site.stage_key(partition.stage), partition.region):
            failed.add(partition)
    return [todo.site.told(one) for one in sorted(failed)]


def from_rasters(instance: dg.DagsterInstance, location: dg.Definitions, config: FromRastersConfig) -> bool:
    """Make a layer from rasters to its archive in one run, in this process; tell whether it is made."""
    result = location.resolve_job_def(JOB).execute_in_process(
        instance=instance, run_config=config.model_dump(), raise_on_error=False
    )
    return result.success


def _site(places: Places, name: str) -> Site:
    return next(one for one in find_sites(places) if one.folder.name == name)


class _Location:
    """Runs of one asset each, in this process, on an instance."""

    def __init__(
        self, instance: dg.DagsterInstance, definitions: dg.Definitions, say: Say, stop: Stop
    ) -> None:
        self._instance, self._say, self._stop = instance, say, stop
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def made(self, key: dg.AssetKey, partition: str | None = None) -> bool:
        """Materialize an asset, or one partition of it; say what came of it; tell whether it is made.

        Raises Interrupted where it was asked to stop, before or meanwhile.
        """
        self._check_asked()
        result = self._job.execute_in_process(
            instance=self._instance,
            asset_selection=[key],
            partition_key=partition,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        name = f"{key.to_user_string()} {partition or ''}".strip()
        for event in result.all_events:
            if event.is_step_materialization:
                self._say(f"{name}: {figures(event.step_materialization_data.materialization)}")
            elif event.is_step_failure:
                data = event.step_failure_data
                told = data.user_failure_data.description if data.user_failure_data else str(data.error)
                self._say(f"{name}: {told}")
            elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                self._say(f"{name}: {verdict(event.asset_check_evaluation_data)}")
        self._check_asked()
        return result.success

    def _check_asked(self) -> None:
        if self._stop.asked:
            raise Interrupted
