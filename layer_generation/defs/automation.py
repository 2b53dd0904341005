"""What can happen by itself, all of it off until a person switches it on.

A schedule that asks for a backfill of what is missing or failed, and a sensor that
draws each partition as soon as those it waits for are there.
"""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from layer_generation.defs.backfill import chosen_sites, request, under_way, wanted
from layer_generation.defs.reporting import failures
from layer_generation.defs.sites import Site, find_sites
from layer_generation.settings import Places

JOB = "layer_backfill"
SENSOR = "layers_neighbours_ready"
SCHEDULE = "nightly_layers"


class BackfillConfig(dg.Config):
    """What is asked for."""

    layers: list[str] = Field(default=[], description="Only these layers, by their folders' names.")
    regions: list[str] = Field(default=[], description="Only these regions, and what they wait for.")
    from_sources: bool = Field(
        default=False, description="Bring sources, terrain, maps and plans up to date before."
    )


def backfill_job(places: Places) -> dg.JobDefinition:
    """Return the job that asks for a backfill of what is missing or failed of layers."""

    @dg.op(description="Ask for one backfill of what is missing or failed; the daemon runs it.")
    def request_backfill(context: dg.OpExecutionContext, config: BackfillConfig) -> None:
        instance, log = context.instance, context.log.info
        with failures():
            those = []
            for site in chosen_sites(find_sites(places), config.layers):
                if running := under_way(instance, site):
                    log(f"layer {site.folder.name}: backfill {running} has not ended")
                    continue
                those.append(wanted(instance, site, config.regions))
            graph = context.repository_def.asset_graph
            asked = request(instance, graph, those, from_sources=config.from_sources)
        if asked is None:
            log("nothing is missing")
        else:
            log(f"backfill {asked.backfill_id}: {asked.partitions} partitions of {', '.join(asked.layers)}")

    @dg.job(
        name=JOB,
        executor_def=dg.in_process_executor,
        description="Ask for a backfill of what is missing or failed of the layers.",
    )
    def layer_backfill() -> None:
        request_backfill()

    return layer_backfill


def backfill_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Return the schedule that runs the job at 03:00 UTC."""
    return dg.ScheduleDefinition(
        name=SCHEDULE,
        job=job,
        cron_schedule="0 3 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Ask at 03:00 UTC for a backfill of what is missing or failed of the layers.",
    )


def neighbours_sensor(sites: Sequence[Site]) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that draws partitions as soon as all they wait for is there."""
    keys = [
        key
        for site in sites
        for key in (*(site.stage_key(stage) for stage in site.regions.stages), site.archive_key)
    ]
    return dg.AutomationConditionSensorDefinition(
        SENSOR,
        target=dg.AssetSelection.assets(*keys),
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=30,
        description="Draws each region of a layer as soon as the regions it waits for are there.",
    )
