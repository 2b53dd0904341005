"""The layers of a location: every folder of the layers' folder that can be read, with its plan in regions."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from fusi_pipeline.errors import FusiError
from layer_generation import layer_config
from layer_generation.defs.regions import Partition, Regions, Stage, read_regions
from layer_generation.layer_config import LayerConfig, read_layer
from layer_generation.progress import Progress
from layer_generation.quadrants import QuadrantStore
from layer_generation.settings import Places, checked_region

POOL = "image_endpoint"
"""A region at a time is drawn by all model servers of its layer; more, if this pool allows more."""
WORK_POOL = "gdal"
"""What fills the processors, as the assets of the terrain do, is done one at a time."""
REGION_FACT = "region_quadrants"
"""What a layer's progress.db says of the side of its regions, if it has its own."""
TERRAIN = dg.AssetKey("terrain_pmtiles")
"""The asset of the terrain, which is not of this package; `terrain_archive` is its file."""
_MOST_NAMED = 3
_BACKUP = re.compile(r"\.backup-\d+$")
_log = logging.getLogger("fusi.layers")


@dataclass(frozen=True, kw_only=True)
class Map:
    """A map that layers lie over and that fusi renders from a terrain archive."""

    prefix: str
    folder: Path
    terrain: Path
    """The archive that the map says it lies over."""

    @property
    def key(self) -> dg.AssetKey:
        """The asset of its renders."""
        return dg.AssetKey([self.prefix, "layer_map"])


@dataclass(frozen=True, kw_only=True)
class Site:
    """A layer as the location knows it: its plan is that of the moment when the location was loaded."""

    prefix: str
    """The folder's name, as Dagster takes names."""
    folder: Path
    config: LayerConfig
    regions: Regions
    map: Map | None
    """The map, where it is rendered from a terrain archive."""
    places: Places
    side: int
    """Side of its regions in quadrants: its own, or that of the places."""

    def key(self, name: str) -> dg.AssetKey:
        """Return the key of one of the layer's assets."""
        return dg.AssetKey([self.prefix, name])

    def stage_key(self, stage: Stage) -> dg.AssetKey:
        """Return the asset of a stage."""
        return self.key(stage.name)

    def told(self, partition: Partition) -> str:
        """Return how a partition is called in messages."""
        return f"{self.stage_key(partition.stage).to_user_string()} {partition.region}"

    def named(self, partitions: Iterable[Partition]) -> str:
        """Return how some partitions are called in messages, the first of many."""
        names = [self.told(one) for one in sorted(partitions)]
        more = len(names) - _MOST_NAMED
        return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

    def backfill_command(self, region: str | None = None) -> str:
        """Return the command that makes what is missing of the layer, or of a region and all it waits for."""
        words = ["just", "layer-backfill", self.folder.name, *(["--region", region] if region else [])]
        return f"`{shlex.join(words)}`"

    @property
    def plan_key(self) -> dg.AssetKey:
        """The asset of the plan."""
        return self.key("layer_plan")

    @property
    def archive_key(self) -> dg.AssetKey:
        """The asset of the finished layer."""
        return self.key("layer_pmtiles")

    @property
    def output(self) -> Path:
        """Where the finished layer is."""
        return self.places.output_dir / "layers" / f"{self.folder.name}.pmtiles"

    def read_regions(self) -> Regions:
        """Return the plan as it is now."""
        return read_regions(self.folder, self.side)


def find_sites(places: Places) -> list[Site]:
    """Return the layers there are, by name; one that cannot be read is left out, and the log says so."""
    taken: set[str] = set()
    maps: dict[Path, Map] = {}
    found = []
    for folder in _folders(places.layers_dir):
        try:
            config = read_layer(folder)
            side = _side(folder, places)
            regions = read_regions(folder, side)
        except (FusiError, OSError) as error:
            _log.warning("layer %s is left out of the location: %s", folder.name, error)
            continue
        found.append(
            Site(
                prefix=_free(folder.name, taken),
                folder=folder,
                config=config,
                regions=regions,
                map=_map_of(config.map_folder(folder), maps),
                places=places,
                side=side,
            )
        )
    return found


def terrain_archive(places: Places) -> Path:
    """Return the archive that the location's terrain is merged into."""
    return places.output_dir / "terrain.pmtiles"


def _folders(layers_dir: Path) -> Iterator[Path]:
    """Yield the folders that hold a layer, but for those put aside or unfinished."""
    if not layers_dir.is_dir():
        return
    for folder in sorted(layers_dir.iterdir()):
        if folder.name.startswith(".") or _BACKUP.search(folder.name):
            continue
        if (folder / layer_config.FILENAME).is_file():
            yield folder


def _side(layer_dir: Path, places: Places) -> int:
    """Return the side of a layer's regions."""
    with Progress(layer_dir) as progress:
        stated = progress.fact(REGION_FACT)
    return places.region_quadrants if stated is None else checked_region(stated)


def map_over(folder: Path) -> Map | None:
    """Return the map of a folder, None where it does not say which terrain it lies over."""
    return _map_of(folder, {})


def _map_of(folder: Path, known: dict[Path, Map]) -> Map | None:
    """Return the map of a folder, if it says which terrain it lies over; the same one for all layers."""
    whole = Path(os.path.normpath(folder.absolute()))
    if whole in known:
        return known[whole]
    try:
        with QuadrantStore(whole) as store:
            stated = store.fact("terrain")
    except FusiError as error:
        _log.warning("map %s cannot be read: %s", whole, error)
        return None
    if not isinstance(stated, dict) or not stated.get("archive"):
        return None
    prefix = _free(whole.name, {one.prefix for one in known.values()})
    terrain = Path(os.path.normpath(whole / str(stated["archive"])))
    known[whole] = Map(prefix=prefix, folder=whole, terrain=terrain)
    return known[whole]


def _free(name: str, taken: set[str]) -> str:
    """Return a name as Dagster takes names, with a number behind it where that is taken; and take it."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    number, free = 1, plain
    while free in taken:
        number += 1
        free = f"{plain}_{number}"
    taken.add(free)
    return free
