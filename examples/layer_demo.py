"""A layer from a real elevation model to one PMTiles, through Dagster, in one run and without a server.

Makes the two sources of `demo.py` and their terrain archive, a map of shaded relief
over it, and a layer for the embedded model; then Dagster materializes map, plan, every
region in the order that the plan asks for, and the archive, in this process.
"""

from __future__ import annotations

import time
from pathlib import Path

from demo import SOURCES, write_sources

from fusi_pipeline import aggregate
from fusi_pipeline.console import duration, run, size
from fusi_pipeline.settings import settings_from
from layer_generation import console
from layer_generation.defs.headless import materialize
from layer_generation.defs.instance import opened
from layer_generation.defs.sites import find_sites
from layer_generation.layer import init_layer, status_of
from layer_generation.layer_config import read_layer
from layer_generation.map_making import make_map
from layer_generation.map_rendering import render_map
from layer_generation.settings import Places, places_from

ZOOM = 13
"""Some 90 quadrants."""
REGION = 6
"""Quadrants a side, so that a small map has several regions."""
NAME = "demo"


def main() -> None:
    """Make terrain, map and layer; say what came of it."""
    started = time.monotonic()
    settings, places = settings_from(), places_from()
    places = Places(layers_dir=places.layers_dir, output_dir=places.output_dir, region_quadrants=REGION)
    terrain = settings.output_dir / "demo.pmtiles"
    write_sources(settings.source_store)
    run(
        aggregate.aggregate(
            SOURCES, terrain, settings, lineage_output=terrain.with_name("demo_lineage.pmtiles")
        ),
        settings.progress_interval_s,
    )
    folder = places.layers_dir / NAME
    prepare(folder, places.layers_dir / f"{NAME}-map", terrain, settings.progress_interval_s)
    with opened() as instance:
        failed = materialize(instance, places, NAME, print)
    if failed:
        raise SystemExit(f"not materialized: {', '.join(failed)}")
    summary(folder, places)
    print(f"all in {duration(time.monotonic() - started)}")


def prepare(folder: Path, map_folder: Path, terrain: Path, interval_s: float) -> None:
    """Make the map and the layer, unless they are there."""
    if not (map_folder / "quadrants.db").exists():
        console.run(make_map(map_folder, terrain, ZOOM), interval_s)
        console.run(render_map(map_folder, workers=2), interval_s)
    if not (folder / "layer_config.json").exists():
        init_layer(folder, name="Demo", generation_dir=map_folder, source_layer="renders")
    read_layer(folder)


def summary(folder: Path, places: Places) -> None:
    """Print what was made, and what to do with it."""
    (site,) = (one for one in find_sites(places) if one.folder == folder)
    status = status_of(folder)
    print(f"\n{status.name}: {status.complete} blocks, {status.quadrants} quadrants, {status.by_endpoint}")
    for stage, regions in site.regions.partitions.items():
        print(f"  {stage.name:<20} {len(regions)} regions")
    print(f"{site.output}: {size(site.output.stat().st_size)}")
    print(f"next: fusi serve {places.output_dir / 'demo.pmtiles'}, and `just dev` for the regions in Dagster")


if __name__ == "__main__":
    main()
