"""What layers put into the code location."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from layer_generation.defs.archive import archive_asset
from layer_generation.defs.automation import backfill_job, backfill_schedule, neighbours_sensor
from layer_generation.defs.from_rasters import from_rasters_job
from layer_generation.defs.plans import map_asset, plan_asset
from layer_generation.defs.sites import Site, find_sites
from layer_generation.defs.steps import step_assets
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.settings import Places


def layers(
    places: Places,
    sites: Sequence[Site] | None = None,
    *,
    terrain: dg.OpDefinition | None = None,
    stop: Stop = NEVER,
) -> dg.Definitions:
    """Return the assets of every layer there is now, and what can happen by itself.

    `terrain` is the op that a layer from rasters begins with; `stop` ends what is driven from a shell.
    """
    found = find_sites(places) if sites is None else sites
    whole = from_rasters_job(places, terrain, stop)
    if not found:
        return dg.Definitions(jobs=[whole])
    maps = {site.map.key: site.map for site in found if site.map is not None}
    job = backfill_job(places)
    return dg.Definitions(
        assets=[
            *(map_asset(one, places, stop) for one in maps.values()),
            *(plan_asset(site, stop) for site in found),
            *(asset for site in found for asset in step_assets(site, stop)),
            *(archive_asset(site, stop) for site in found),
        ],
        jobs=[job, whole],
        schedules=[backfill_schedule(job)],
        sensors=[neighbours_sensor(found)],
    )
