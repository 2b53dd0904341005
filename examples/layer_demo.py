"""A layer from a real elevation model to one PMTiles: one Dagster run, in this process, without a server.

Writes the two sources of `demo.py`; then the job `layer_from_rasters` indexes, tiles and
merges them, draws a map of shaded relief over the terrain, plans a layer for the
embedded model, draws every region in the order of the plan, and writes the archive.
What is there from an earlier run is not made again. In the end it draws a picture of it.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
from demo import SOURCES, write_sources
from PIL import Image

from fusi_pipeline.console import duration, size
from fusi_pipeline.settings import settings_from
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive
from layer_generation import launch
from layer_generation.defs.sites import Site, find_sites
from layer_generation.layer import status_of
from layer_generation.settings import places_from

ZOOM = 13
"""Some 90 quadrants."""
REGION = 6
"""Quadrants a side, so that a small map has several regions."""
NAME = "demo"
_PICTURE_PX = 1600


def main() -> None:
    """Make terrain, map and layer in one run; say what came of it."""
    started = time.monotonic()
    write_sources(settings_from().source_store)
    words = ["from-rasters", NAME, "--zoom", ZOOM, "--region", REGION, "--archive", f"{NAME}.pmtiles"]
    for source in SOURCES:
        words += ["--source", source]
    try:
        launch.main([str(word) for word in words])
    except SystemExit as end:
        if end.code:
            raise
    (site,) = (one for one in find_sites(places_from()) if one.folder.name == NAME)
    summary(site)
    print(f"all in {duration(time.monotonic() - started)}")


def summary(site: Site) -> None:
    """Print what was made, and what to do with it."""
    status = status_of(site.folder)
    print(f"\n{status.name}: {status.complete} blocks, {status.quadrants} quadrants, {status.by_endpoint}")
    for stage, regions in site.regions.partitions.items():
        print(f"  {stage.name:<20} {len(regions)} regions")
    print(f"{site.output}: {size(site.output.stat().st_size)}")
    picture = draw(site.output, site.output.with_suffix(".png"))
    print(f"{picture}: a picture of it")
    print("next: `just dev` for the regions in Dagster")


def draw(archive: Path, picture: Path) -> Path:
    """Draw the tiles of the highest zoom that fits into one picture."""
    with open_archive(archive) as reader:
        for zoom in sorted(reader.counts(), reverse=True):
            x, y = reader.coordinates(zoom).astype(np.int64).T
            columns, rows = int(np.ptp(x)) + 1, int(np.ptp(y)) + 1
            side = min(512, _PICTURE_PX // max(columns, rows))
            if side >= 128:
                break
        whole = Image.new("RGB", (columns * side, rows * side), "white")
        for one, other in zip(x.tolist(), y.tolist(), strict=True):
            data = reader.read(Tile(zoom, one, other))
            tile = Image.open(io.BytesIO(data or b"")).convert("RGBA").resize((side, side))
            whole.paste(tile, ((one - int(x.min())) * side, (other - int(y.min())) * side), tile)
    whole.save(picture)
    return picture


if __name__ == "__main__":
    main()
