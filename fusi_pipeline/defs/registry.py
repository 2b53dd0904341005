"""What the terrain half puts into the code location."""

from __future__ import annotations

import dagster as dg

from fusi_pipeline.defs.automation import new_sources, nightly_refresh, refresh, terrain_after_refresh
from fusi_pipeline.defs.coverage import terrain_coverage
from fusi_pipeline.defs.deep import deep
from fusi_pipeline.defs.resources import settings
from fusi_pipeline.defs.sources import source_files, source_index, source_mbtiles
from fusi_pipeline.defs.terrain import terrain_pmtiles

terrain = dg.Definitions(
    assets=[source_files, source_index, source_mbtiles, terrain_pmtiles, terrain_coverage],
    asset_checks=[deep],
    jobs=[refresh],
    schedules=[nightly_refresh],
    sensors=[new_sources, terrain_after_refresh],
    resources={"settings": settings},
)
