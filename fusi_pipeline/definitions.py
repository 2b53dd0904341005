"""The one Dagster code location of fusi: what each half of it registers, merged.

Assets run in the process of their run, for the engine has bounded workers of
its own; Dagster's runs carry whole partitions.
"""

from __future__ import annotations

import dagster as dg

from fusi_pipeline.defs import registry
from fusi_pipeline.defs.from_rasters import terrain_from_rasters

__all__ = ["defs", "terrain_from_rasters"]

defs = dg.Definitions.merge(registry.terrain, dg.Definitions(executor=dg.in_process_executor))
