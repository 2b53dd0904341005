"""The one Dagster code location: the terrain, and behind it the layers there are when it is loaded."""

from __future__ import annotations

import dagster as dg

from fusi_pipeline import definitions as terrain
from layer_generation.defs import registry
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.settings import places_from


def location(stop: Stop = NEVER) -> dg.Definitions:
    """Return what is defined now; `stop` ends what of the layers is driven from a shell."""
    layers = registry.layers(places_from(), terrain=terrain.terrain_from_rasters, stop=stop)
    return dg.Definitions.merge(terrain.defs, layers)


defs = location()
