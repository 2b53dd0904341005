"""Layers materialized in this process, region by region in order: Dagster without daemon and pages."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from layer_generation.defs import registry
from layer_generation.defs.backfill import Wanted, wanted
from layer_generation.defs.instance import INTERRUPTED
from layer_generation.defs.regions import Partition
from layer_generation.defs.sites import Site, find_sites
from layer_generation.settings import Places

Say = Callable[[str], object]


def materialize(instance: dg.DagsterInstance, places: Places, name: str, say: Say) -> list[str]:
    """Bring a layer from its map to its archive; return what was not materialized.

    What waits for a failed partition is left out, everything else is made.
    """
    site = _site(places, name)
    location = _Location(instance, registry.layers(places), say)
    keys = [*([site.map.key] if site.map is not None else []), site.plan_key]
    failed = next(([key.to_user_string()] for key in keys if not location.made(key)), [])
    if failed:
        return failed
    site = _site(places, name)  # the plan may have grown
    location = _Location(instance, registry.layers(places), say)
    todo = wanted(instance, site)
    failed = draw(location.made, todo)
    if not failed and not location.made(site.archive_key):
        failed = [site.archive_key.to_user_string()]
    return failed


def draw(made: Callable[[dg.AssetKey, str], bool], todo: Wanted) -> list[str]:
    """Materialize partitions in order; return those that failed and those that wait for them."""
    failed: set[Partition] = set()
    for partition in todo.partitions:
        held = failed & todo.site.regions.before[partition]
        if held or not made(todo.site.stage_key(partition.stage), partition.region):
            failed.add(partition)
    return [todo.site.told(one) for one in sorted(failed)]


def _site(places: Places, name: str) -> Site:
    return next(one for one in find_sites(places) if one.folder.name == name)


class _Location:
    """Runs of one asset each, in this process, on an instance."""

    def __init__(self, instance: dg.DagsterInstance, definitions: dg.Definitions, say: Say) -> None:
        self._instance, self._say = instance, say
        self._job = definitions.resolve_implicit_global_asset_job_def()

    def made(self, key: dg.AssetKey, partition: str | None = None) -> bool:
        """Materialize an asset, or one partition of it; say what came of it; tell whether it is made.

        Raises INTERRUPTED where the process was asked to stop.
        """
        result = self._job.execute_in_process(
            instance=self._instance,
            asset_selection=[key],
            partition_key=partition,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        )
        failures = [event for event in result.all_events if event.is_step_failure]
        if not result.success and not failures:
            raise INTERRUPTED  # it was asked to stop between two events of the step
        name = f"{key.to_user_string()} {partition or ''}".strip()
        for event in result.all_events:
            if event.is_step_materialization:
                self._say(f"{name}: {_facts(event.step_materialization_data.materialization)}")
            elif event.is_step_failure:
                data = event.step_failure_data
                if INTERRUPTED.__name__ in str(data.error):
                    raise INTERRUPTED
                told = data.user_failure_data.description if data.user_failure_data else str(data.error)
                self._say(f"{name}: {told}")
            elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                check = event.asset_check_evaluation_data
                verdict = "passed" if check.passed else check.severity.value.lower()
                self._say(f"{name}: {check.check_name}: {verdict}: {check.description}")
        return result.success


def _facts(made: dg.AssetMaterialization) -> str:
    """Return the figures of an asset that was made."""
    names = (
        "renders",
        "drawn now",
        "calls",
        "blocks",
        "blocks drawn now",
        "tiles",
        "bytes",
        "seconds",
        "path",
    )
    values = {name: value.value for name, value in made.metadata.items()}
    return ", ".join(f"{name} {values[name]}" for name in names if name in values)
