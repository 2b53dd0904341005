"""The one Dagster code location: the terrain, and behind it the layers there are when it is loaded."""

from __future__ import annotations

import dagster as dg

from fusi_pipeline import definitions as terrain
from layer_generation.defs import registry
from layer_generation.settings import places_from

defs = dg.Definitions.merge(terrain.defs, registry.layers(places_from()))
