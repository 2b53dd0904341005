"""The ground of a layer as assets: the renders of its map, and its plan."""

import hashlib
import time
from collections.abc import Callable, Mapping

import dagster as dg
from pydantic import Field

from layer_generation.debug_map import FILENAME as DEBUG_MAP
from layer_generation.debug_map import write_debug_map
from layer_generation.defs.regions import Regions
from layer_generation.defs.reporting import failures, followed, table
from layer_generation.defs.sites import TERRAIN, WORK_POOL, Map, Site, terrain_archive
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.defs.waiting import plan_picture
from layer_generation.layer import extend_layer
from layer_generation.map_making import extend_map
from layer_generation.map_rendering import render_map
from layer_generation.progress import Progress
from layer_generation.settings import Places, workers

_RELOAD = "reload the code location: Dagster still knows the partitions of the plan before"


class MapConfig(dg.Config):
    """What is done to a map."""

    grow: bool = Field(default=False, description="Add quadrants where the terrain has heights by now.")
    redraw: bool = Field(
        default=False,
        description="Draw every render again, for a terrain that changed. Finished blocks stay.",
    )


def map_asset(found: Map, places: Places, stop: Stop = NEVER) -> dg.AssetsDefinition:
    """Return the asset of a map's renders, behind the location's terrain if it lies over that."""
    ours = found.terrain == terrain_archive(places).absolute()

    @dg.asset(
        key=found.key,
        deps=[TERRAIN] if ours else [],
        group_name=found.prefix,
        kinds={"sqlite"},
        pool=WORK_POOL,
        description=f"The shaded relief of {found.terrain.name} in the map {found.folder.name}: "
        "quadrants without a render are drawn.",
    )
    def layer_map(context: dg.AssetExecutionContext, config: MapConfig) -> dg.MaterializeResult[None]:
        with stop.making():
            return rendered(found, config, context.log.info, stop)

    return layer_map


def rendered(
    found: Map, config: MapConfig, log: Callable[[str], object], stop: Stop = NEVER
) -> dg.MaterializeResult[None]:
    """Render what a map has no render of. Raises Failure."""
    started = time.monotonic()
    with failures():
        if config.grow:
            followed(extend_map(found.folder, found.terrain), log, stop)
        work = render_map(found.folder, archive=found.terrain, overwrite=config.redraw, workers=workers())
        report = followed(work, log, stop)
    return dg.MaterializeResult(
        metadata={
            "renders": report.rendered + report.kept,
            "drawn now": report.rendered,
            "terrain": dg.MetadataValue.path(found.terrain),
            "path": dg.MetadataValue.path(found.folder),
            "seconds": round(time.monotonic() - started, 1),
        }
    )


def plan_asset(site: Site, stop: Stop = NEVER) -> dg.AssetsDefinition:
    """Return the asset of a layer's plan."""

    @dg.asset(
        key=site.plan_key,
        deps=[] if site.map is None else [site.map.key],
        group_name=site.prefix,
        kinds={"sqlite"},
        description=f"Which blocks cover the map of {site.config.name}, in which order. Quadrants that came "
        "into the map are added behind; then the location has to be reloaded, to know their partitions.",
    )
    def layer_plan(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with stop.making():
            return planned(site, context.log.info, stop)

    return layer_plan


def planned(site: Site, log: Callable[[str], object], stop: Stop = NEVER) -> dg.MaterializeResult[None]:
    """Plan what came into the map of a layer. Raises Failure."""
    started = time.monotonic()
    with failures():
        report = extend_layer(site.folder)
        page = followed(write_debug_map(site.folder, site.folder / DEBUG_MAP), log, stop)
        regions = site.read_regions()
        with Progress(site.folder) as progress:
            blocks = list(progress.blocks())
    stale = regions.waits != site.regions.waits or regions.partitions != site.regions.partitions
    if stale:
        log(f"{site.plan_key.to_user_string()}: {_RELOAD}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(_version(regions)),
        metadata={
            "quadrants": report.quadrants,
            "calls": report.calls,
            "blocks by step": table(("step", "blocks "), report.by_step.items()),
            "blocks added now": report.added,
            **_reasons(report.reasons),
            "reload": _RELOAD if stale else "not needed",
            "partitions": table(("asset", "partitions "), _stages(site, regions)),
            **plan_picture(regions, blocks, site.side),
            "waits": table(("asset", "region", "waits for"), _waits(site, regions)),
            "map of the blocks": dg.MetadataValue.path(page.path.absolute()),
            "seconds": round(time.monotonic() - started, 1),
        },
    )


def _reasons(reasons: Mapping[str, int]) -> dict[str, dg.MarkdownMetadataValue]:
    """Return how many blocks have less context than they should, and why; nothing where none has."""
    rows = [(count, reason) for reason, count in reasons.items()]
    return {"blocks with less context": table(("blocks ", "why"), rows)} if rows else {}


def _stages(site: Site, regions: Regions) -> list[tuple[str, int]]:
    return [
        (site.stage_key(stage).to_user_string(), len(names)) for stage, names in regions.partitions.items()
    ]


def _waits(site: Site, regions: Regions) -> list[tuple[str, str, str]]:
    return [
        (one.stage.name, one.region, ", ".join(map(str, sorted(regions.before[one]))))
        for one in regions
        if regions.before[one]
    ]


def _version(regions: Regions) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (regions.ids, regions.stage, regions.region, regions.edges):
        digest.update(part.tobytes() + b"|")
    return digest.hexdigest()
