"""A layer from rasters to its archive as one job: one run makes all of it and notes every part.

A run of assets has one partition, so this is a job of ops: the terrain, the map, the
plan, the regions in the order of the plan, the archive. What each makes is noted as
the asset it is, partition by partition; what is there is not made again.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from fusi_pipeline.errors import UsageError
from layer_generation.defs.archive import exported
from layer_generation.defs.backfill import Wanted, wanted
from layer_generation.defs.noting import LINES, Event, lines, noted
from layer_generation.defs.plans import MapConfig, planned, rendered
from layer_generation.defs.regions import Partition
from layer_generation.defs.reporting import check_asked, failure, failures, followed
from layer_generation.defs.sites import POOL, REGION_FACT, WORK_POOL, Map, Site, find_sites, map_over
from layer_generation.defs.steps import RETRIES, materialized, rest
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.layer import init_layer
from layer_generation.map_making import make_map
from layer_generation.progress import Progress
from layer_generation.settings import Places, checked_region

JOB = "layer_from_rasters"
_ARCHIVE = "terrain.pmtiles"
_Events = Iterator[Event | dg.Output[None]]
_Decorator = Callable[[Callable[..., _Events]], dg.OpDefinition]


class FromRastersConfig(dg.Config):
    """Which layer, and what it is made from where it is not there yet."""

    layer: str = Field(description="Name of the layer's folder.")
    zoom: int | None = Field(
        default=None,
        description="Zoom of the map of a layer that is not there yet, which is made for the embedded model.",
    )
    region: int | None = Field(
        default=None, description="Side of such a layer's regions in quadrants, a multiple of 3."
    )
    sources: list[str] = Field(
        default=[], description="Only these sources, by their folders' names, into an `archive` of their own."
    )
    archive: str = Field(default=_ARCHIVE, description="Name of the terrain archive, *.pmtiles.")


def from_rasters_job(places: Places, terrain: dg.OpDefinition | None, stop: Stop = NEVER) -> dg.JobDefinition:
    """Return the job; `terrain` is the op that brings sources and terrain up to date, None for no such."""
    ops = [
        _map_op(places, stop),
        _plan_op(places, stop),
        _regions_op(places, stop),
        _archive_op(places, stop),
    ]

    @dg.config_mapping
    def mapping(stated: FromRastersConfig) -> dg.RunConfig:
        configs: dict[str, Any] = {one.name: stated for one in ops}
        if terrain is not None:
            configs[terrain.name] = {"config": {"sources": stated.sources, "archive": stated.archive}}
        return dg.RunConfig(ops=configs, loggers={LINES: {}})

    @dg.graph(
        name=JOB,
        description="Rasters, terrain, map, plan, every region in order, archive: one run makes what of a "
        "layer is missing, and the layer itself where a zoom is given.",
    )
    def from_rasters() -> None:
        after = None if terrain is None else terrain()
        for one in ops:
            after = one() if after is None else one(after)

    return from_rasters.to_job(name=JOB, config=mapping, logger_defs={LINES: lines})


def _op(name: str, pool: str | None, description: str, retry: dg.RetryPolicy | None = None) -> _Decorator:
    """Return a decorator of ops that come after another and hand nothing on."""
    return dg.op(
        name=name,
        ins={"after": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        pool=pool,
        description=description,
        retry_policy=retry,
    )


def _map_op(places: Places, stop: Stop) -> dg.OpDefinition:
    @_op("layer_map", WORK_POOL, "The map, made where there is none, and the renders that it lacks.")
    def layer_map(context: dg.OpExecutionContext, config: FromRastersConfig) -> _Events:
        with stop.making(), failures():
            found = _map(places, config, context.log.info, stop)
            yield from noted(context, found.key, rendered(found, MapConfig(), context.log.info, stop))
        yield dg.Output(None)

    return layer_map


def _plan_op(places: Places, stop: Stop) -> dg.OpDefinition:
    @_op("layer_plan", None, "The plan, made where there is no layer, with blocks for all of the map.")
    def layer_plan(context: dg.OpExecutionContext, config: FromRastersConfig) -> _Events:
        with stop.making(), failures():
            site = _made_site(places, config, context.log.info)
            yield from noted(context, site.plan_key, planned(site, context.log.info, stop))
        yield dg.Output(None)

    return layer_plan


def _regions_op(places: Places, stop: Stop) -> dg.OpDefinition:
    @_op("layer_regions", POOL, "Every region of every step that is missing or failed, in order.", RETRIES)
    def layer_regions(context: dg.OpExecutionContext, config: FromRastersConfig) -> _Events:
        with stop.making(), failures():
            rest(context.retry_number, stop)
            site = _site(places, config.layer)
            todo, failed, again = wanted(context.instance, site), set[Partition](), False
            context.log.info(f"{len(todo.partitions)} of {len(list(site.regions))} partitions are to be made")
            for one in in_turn(todo, failed):
                check_asked(stop)
                try:
                    result = materialized(site, one, context.log.info, stop)
                except dg.Failure as error:
                    check_asked(stop)
                    context.log.warning(error.description)
                    failed.add(one)
                    again = again or error.allow_retries
                else:
                    yield from noted(context, site.stage_key(one.stage), result, one.region)
            if failed:
                names = ", ".join(site.told(one) for one in sorted(failed))
                raise failure(f"not materialized: {names}; the run's log says why", allow_retries=again)
        yield dg.Output(None)

    return layer_regions


def _archive_op(places: Places, stop: Stop) -> dg.OpDefinition:
    @_op("layer_pmtiles", WORK_POOL, "The finished layer as one PMTiles.")
    def layer_pmtiles(context: dg.OpExecutionContext, config: FromRastersConfig) -> _Events:
        with stop.making(), failures():
            site = _site(places, config.layer)
            if wanted(context.instance, site).archive:
                yield from noted(context, site.archive_key, exported(site, context.log.info, stop))
            else:
                context.log.info(f"{site.output}: is as it should be")
        yield dg.Output(None)

    return layer_pmtiles


def in_turn(todo: Wanted, failed: set[Partition]) -> Iterator[Partition]:
    """Yield partitions in order, but for those that wait for a failed one: these have failed, too."""
    for partition in todo.partitions:
        if failed & todo.site.regions.before[partition]:
            failed.add(partition)
        else:
            yield partition


def _map(places: Places, config: FromRastersConfig, log: Callable[[str], object], stop: Stop) -> Map:
    """Return the map of a layer, made over the archive where there is none. Raises UsageError."""
    terrain = places.output_dir / config.archive
    site = next((one for one in find_sites(places) if one.folder.name == config.layer), None)
    folder = _map_folder(places, config)
    if site is None and not (folder / "quadrants.db").exists():
        if config.zoom is None:
            raise UsageError(
                f"layer {config.layer!r}: not in {places.layers_dir.absolute()}; give a zoom to have it made"
            )
        followed(make_map(folder, terrain, config.zoom), log, stop)
    found = site.map if site is not None else map_over(folder)
    if found is None or found.terrain != terrain.absolute():
        raise UsageError(
            f"layer {config.layer!r}: its map does not lie over {terrain}; `just layer-backfill` makes it"
        )
    return found


def _map_folder(places: Places, config: FromRastersConfig) -> Path:
    return places.layers_dir / f"{config.layer}-map"


def _made_site(places: Places, config: FromRastersConfig, log: Callable[[str], object]) -> Site:
    """Return a layer, made over its map where there is none."""
    folder = places.layers_dir / config.layer
    if not any(one.folder == folder for one in find_sites(places)):
        report = init_layer(
            folder, name=config.layer, generation_dir=_map_folder(places, config), source_layer="renders"
        )
        log(f"{folder}: {report.calls} blocks for {report.quadrants} quadrants")
        if config.region is not None:
            with Progress(folder) as progress:
                progress.set_fact(REGION_FACT, str(checked_region(config.region)))
    return _site(places, config.layer)


def _site(places: Places, name: str) -> Site:
    found = next((one for one in find_sites(places) if one.folder.name == name), None)
    if found is None:
        raise UsageError(f"layer {name!r}: is not in {places.layers_dir.absolute()}, or cannot be read")
    return found
