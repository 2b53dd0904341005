"""The steps of a layer as assets: a partition is a region, its blocks are drawn by the worker.

What waits for what is told to Dagster as static mappings of regions, made from the
plan. An asset does not rely on that order: what its blocks wait for and nobody drew it
draws first, block by block; what failed it waits for. It looks for itself whether
all its own blocks are complete in the end.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable

import dagster as dg

from fusi_pipeline.errors import FusiError, UsageError
from layer_generation.defs.automation_condition import NEIGHBOURS_READY
from layer_generation.defs.drawing import State, drawn, first_of, state_of, unfinished
from layer_generation.defs.pictures import region_picture
from layer_generation.defs.regions import Partition, Regions, Stage
from layer_generation.defs.reporting import Metadata, check_asked, failure, failures, table
from layer_generation.defs.sites import POOL, Site
from layer_generation.defs.stopping import NEVER, Stop
from layer_generation.defs.waiting import waits_table
from layer_generation.progress import Progress
from layer_generation.worker import RunReport

RETRIES = dg.RetryPolicy(max_retries=2)
"""For servers that are gone for a while; a block that failed has had its attempts and waits for a person."""
REST_S = 10.0
"""Before the second try, and twice that before the third. Dagster's own delay cannot be interrupted."""
_SAYS = {
    1: "Blocks of 2x2 quadrants with nothing finished beside them.",
    2: "Strips of two quadrants between finished blocks.",
    3: "Single quadrants between finished blocks.",
}
_TURN = " Those that wait for blocks of their own or a later step in another region: turn {}."
_FIRST_ERRORS = 10


def step_assets(site: Site, stop: Stop = NEVER) -> list[dg.AssetsDefinition]:
    """Return an asset for each stage of a layer's plan."""
    return [step_asset(site, stage, stop) for stage in site.regions.stages]


def step_asset(site: Site, stage: Stage, stop: Stop = NEVER) -> dg.AssetsDefinition:
    """Return the asset of one stage."""
    regions = site.regions
    turn = _TURN.format(stage.number + 1) if stage.number else ""

    @dg.asset(
        key=site.stage_key(stage),
        partitions_def=dg.StaticPartitionsDefinition(list(regions.partitions[stage])),
        deps=[site.plan_key, *step_deps(site, stage)],
        group_name=site.prefix,
        kinds={"png"},
        pool=POOL,
        retry_policy=RETRIES,
        automation_condition=NEIGHBOURS_READY,
        description=f"{_SAYS[stage.step]}{turn} A partition is a region of "
        f"{site.side} x {site.side} quadrants.",
    )
    def step(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        with stop.making():
            rest(context.retry_number, stop)
            return materialized(site, Partition(stage, context.partition_key), context.log.info, stop)

    return step


def step_deps(site: Site, stage: Stage) -> list[dg.AssetDep]:
    """Return which regions of which stages a stage waits for: the rules of neighbours, region by region."""
    return [
        dg.AssetDep(
            site.stage_key(before),
            partition_mapping=dg.StaticPartitionMapping({key: list(those) for key, those in regions.items()}),
        )
        for (waiting, before), regions in sorted(site.regions.waits.items())
        if waiting == stage
    ]


def rest(retry: int, stop: Stop) -> None:
    """Wait before a further try, unless asked to stop."""
    if retry:
        stop.wait(REST_S * 2 ** (retry - 1))


def materialized(
    site: Site, partition: Partition, log: Callable[[str], object], stop: Stop = NEVER
) -> dg.MaterializeResult[None]:
    """Draw a partition, and verify it. Raises Failure where it has to wait, or is not whole in the end."""
    started = time.monotonic()
    trouble: FusiError | None = None
    report: RunReport | None = None
    with failures():
        regions = site.read_regions()
        ids, first = regions.blocks(partition), first_of(site.folder, regions, partition)
        if not ids:
            raise UsageError(f"{site.told(partition)}: the plan has no such blocks; reload the location")
        outside = {one: of for one, of in regions.outside(partition).items() if one not in first}
        _check_ready(site, partition, outside)
        check_asked(stop)
        if first:
            log(
                f"{len(first)} blocks of {site.named(set(first.values()))} are drawn first: it waits for them"
            )
        try:
            report = drawn(site.folder, [*first, *ids], list(outside), log, stop)
        except FusiError as error:
            trouble = error
        state = state_of(site.folder, ids)
        if not state.whole:
            check_asked(stop)
            _check_ready(site, partition, regions.outside(partition))
            raise _incomplete(site, partition, state, trouble)
    quadrants = [quadrant for block in state.blocks for quadrant in block.quadrants]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(_version(site, ids)),
        metadata={
            **region_picture(site.folder, quadrants),
            "blocks": len(ids),
            "quadrants": len(quadrants),
            **({"blocks of other regions drawn first": len(first)} if first else {}),
            **_run_facts(report),
            "seconds": round(time.monotonic() - started, 1),
            "endpoints": _by_endpoint(state),
            "waited for": _waited_for(site, regions, partition),
            "which block waited for which": waits_table(regions, partition, state.blocks),
        },
    )


def _check_ready(site: Site, partition: Partition, outside: dict[int, Partition]) -> None:
    """Raise Failure where a block that the partition waits for is not complete, naming the partitions."""
    waiting = unfinished(site.folder, outside)
    if not waiting:
        return
    missing = Counter(outside[one] for one in waiting)
    known = Counter(outside.values())
    raise failure(
        f"{site.told(partition)}: waits for {len(waiting)} blocks of {site.named(missing)}; "
        f"{site.backfill_command(partition.region)} makes these first",
        {
            "waits for": table(
                ("asset", "region", "blocks missing ", "of "),
                [
                    (site.stage_key(one.stage).to_user_string(), one.region, missing[one], known[one])
                    for one in sorted(missing)
                ],
            )
        },
        allow_retries=False,
    )


def _incomplete(site: Site, partition: Partition, state: State, trouble: FusiError | None) -> dg.Failure:
    """Return the failure of a partition whose blocks are not all complete."""
    counts = {name: count for name, count in state.counts.items() if count and name != "complete"}
    first = str(trouble) if trouble is not None else next((one.error_message for one in state.failed), None)
    said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    missing = len(state.blocks) - state.counts["complete"]
    metadata: Metadata = dict(state.counts)
    if state.failed:
        metadata["errors"] = table(
            ("block ", "at", "attempts ", "message"),
            [
                (one.id, f"{one.x},{one.y} {one.width}x{one.height}", one.attempts, one.error_message or "")
                for one in state.failed[:_FIRST_ERRORS]
            ],
        )
    return failure(
        f"{site.told(partition)}: {missing} of {len(state.blocks)} blocks are not complete ({said})"
        f"{f': {first}' if first else ''}; materialize it again to try these once more",
        metadata,
        allow_retries=trouble is not None and not isinstance(trouble, UsageError),
    )


def _run_facts(report: RunReport | None) -> Metadata:
    if report is None:
        return {}
    return {
        "blocks drawn now": report.completed,
        "calls now": report.calls,
        "received before": report.adopted,
    }


def _by_endpoint(state: State) -> dg.MarkdownMetadataValue:
    found = Counter(one.model_name or "-" for one in state.blocks)
    return table(("endpoint", "blocks "), sorted(found.items()))


def _waited_for(site: Site, regions: Regions, partition: Partition) -> dg.MarkdownMetadataValue:
    before = sorted(regions.before.get(partition, ()))
    return table(
        ("asset", "region"), [(site.stage_key(one.stage).to_user_string(), one.region) for one in before]
    )


def _version(site: Site, ids: Iterable[int]) -> str:
    """Return a hash of how the blocks of a partition were drawn, which differs when one is drawn anew."""
    digest, wanted = hashlib.blake2b(digest_size=16), set(ids)
    with Progress(site.folder) as progress:
        for block, model, provenance in progress.provenance():
            if block in wanted:
                digest.update(f"{block}|{model}|{provenance}\n".encode())
    return digest.hexdigest()
