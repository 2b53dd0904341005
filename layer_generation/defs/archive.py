"""The finished layer as an asset: one PMTiles, when every block of every region is complete."""

import time
from collections.abc import Callable, Iterator

import dagster as dg

from fusi_pipeline.errors import FusiError
from fusi_pipeline.tiles.open import open_archive
from fusi_pipeline.tiles.structure import problems
from layer_generation.defs.automation_condition import NEIGHBOURS_READY
from layer_generation.defs.pictures import archive_picture
from layer_generation.defs.reporting import Metadata, failure, failures, followed, table
from layer_generation.defs.seams import MOST_RATIO, seams_of
from layer_generation.defs.sites import WORK_POOL, Site
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.export import ExportReport, export_layer
from layer_generation.export_metadata import PROVENANCE
from layer_generation.progress import BlockRow, Progress
from layer_generation.quadrants import Kind, QuadrantStore
from layer_generation.settings import workers

COVERED = "layer_covered"
SEAMS = "layer_seams"


def archive_asset(site: Site, stop: Stop = NEVER) -> dg.AssetsDefinition:
    """Return the asset of a finished layer."""
    key = site.archive_key

    @dg.asset(
        key=key,
        deps=[
            dg.AssetDep(site.stage_key(stage), partition_mapping=dg.AllPartitionMapping())
            for stage in site.regions.stages
        ],
        group_name=site.prefix,
        kinds={"pmtiles"},
        pool=WORK_POOL,
        automation_condition=NEIGHBOURS_READY,
        description=f"The layer {site.config.name} as one PMTiles with overviews.",
        check_specs=[
            dg.AssetCheckSpec(COVERED, asset=key, description="Every quadrant of the map is in the archive."),
            dg.AssetCheckSpec(SEAMS, asset=key, description="Borders between blocks cannot be seen."),
        ],
    )
    def layer_pmtiles(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        with stop.making():
            yield exported(site, context.log.info, stop)

    return layer_pmtiles


def exported(site: Site, log: Callable[[str], object], stop: Stop = NEVER) -> dg.MaterializeResult[None]:
    """Write the finished layer, and check it. Raises Failure where blocks are missing."""
    started = time.monotonic()
    with failures():
        with Progress(site.folder) as progress:
            blocks = list(progress.blocks())
        _check_complete(site, blocks)
        report = followed(export_layer(site.folder, site.output, workers=workers()), log, stop)
        if wrong := problems(report.path):
            raise FusiError(f"{report.path}: not sound: {wrong[0]}; remove it and materialize it again")
        checks = [_covered(site, report), _seams(site, blocks)]
    return dg.MaterializeResult(metadata=_facts(report, time.monotonic() - started), check_results=checks)


def _check_complete(site: Site, blocks: list[BlockRow]) -> None:
    """Raise Failure where a block is not complete, naming the partitions that have some."""
    missing = [one.id for one in blocks if one.status != "complete"]
    if missing:
        names = site.named(site.read_regions().holding(missing))
        raise failure(
            f"{site.archive_key.to_user_string()}: {len(missing)} of {len(blocks)} blocks are not complete, "
            f"in {names}; {site.backfill_command()} makes these first",
            {"blocks missing": len(missing)},
            allow_retries=False,
        )


def _facts(report: ExportReport, seconds: float) -> Metadata:
    """Return the figures of an archive, a picture of it, and where it comes from."""
    with open_archive(report.path) as reader:
        provenance = reader.metadata.extra.get(PROVENANCE)
        counts = reader.counts()
    return {
        **archive_picture(report.path),
        "kind": report.kind,
        "quadrants": report.quadrants,
        "tiles": report.tiles,
        "bytes": report.bytes,
        "tiles by zoom": table(("zoom ", "tiles "), sorted(counts.items())),
        "models": table(("model", "blocks "), report.models.items()),
        "provenance": dg.MetadataValue.json(provenance if isinstance(provenance, dict) else {}),
        "seconds": round(seconds, 1),
        "path": dg.MetadataValue.path(report.path.absolute()),
    }


def _covered(site: Site, report: ExportReport) -> dg.AssetCheckResult:
    """Return whether every quadrant that the map has a picture of is in the archive."""
    kind: Kind = "render" if site.config.source_layer == "renders" else "generation"
    with QuadrantStore(site.config.map_folder(site.folder)) as store:
        found = store.coordinates(kind)
    if site.config.bounds is not None:
        left, top, right, bottom = site.config.bounds
        found = found[((found >= (left, top)) & (found <= (right, bottom))).all(axis=1)]
    missing = max(0, len(found) - report.quadrants)
    remedy = f"; materialize {site.plan_key.to_user_string()} to plan them" if missing else ""
    return dg.AssetCheckResult(
        check_name=COVERED,
        asset_key=site.archive_key,
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{report.quadrants} of {len(found)} quadrants of the map{remedy}",
        metadata={"quadrants of the map": len(found), "quadrants": report.quadrants, "missing": missing},
    )


def _seams(site: Site, blocks: list[BlockRow]) -> dg.AssetCheckResult:
    """Return whether pixels step further where blocks meet than inside them."""
    found = seams_of(site.folder, blocks)
    return dg.AssetCheckResult(
        check_name=SEAMS,
        asset_key=site.archive_key,
        passed=found.ratio <= MOST_RATIO,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"steps between blocks are {found.ratio:.2f} times those within them, "
        f"by {found.borders} borders; more than {MOST_RATIO:g} can be seen",
        metadata={
            "borders looked at": found.borders,
            "ratio": round(found.ratio, 3),
            "step between blocks (levels)": round(found.between, 3),
            "step within blocks (levels)": round(found.within, 3),
        },
    )
