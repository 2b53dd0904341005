"""Backfills of layers: what of a plan is missing or failed, by progress.db, asked of the daemon as one.

Built on the objects that the pages' own button uses, which Dagster does not promise
to keep; a test runs them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus, PartitionBackfill
from dagster._core.utils import make_new_backfill_id

from fusi_pipeline.errors import UsageError
from layer_generation.defs.regions import Partition
from layer_generation.defs.sites import Site
from layer_generation.progress import Progress
from layer_generation.worker import GENERATIONS

TAG = "fusi/layer/"
"""Marks, with the layer's name behind it, the backfills of a layer."""
_OPEN = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a layer is to be made."""

    site: Site
    plan: bool
    partitions: tuple[Partition, ...]
    """In an order in which they can be drawn."""
    archive: bool

    def __bool__(self) -> bool:
        return bool(self.plan or self.partitions or self.archive)


@dataclass(frozen=True, slots=True)
class Requested:
    """A backfill that was asked for."""

    backfill_id: str
    layers: tuple[str, ...]
    partitions: int
    """Partitions, and assets that have none."""


def chosen_sites(sites: Sequence[Site], names: Collection[str]) -> list[Site]:
    """Return the layers of some names, all where none is named. Raises UsageError for an unknown name."""
    known = ", ".join(one.folder.name for one in sites) or "none"
    for name in names:
        if not any(name in (one.folder.name, one.prefix) for one in sites):
            raise UsageError(f"layer {name!r}: not among the layers of this location ({known})")
    return [one for one in sites if not names or one.folder.name in names or one.prefix in names]


def wanted(instance: dg.DagsterInstance, site: Site, regions: Collection[str] = ()) -> Wanted:
    """Return what of a layer is missing or failed: by progress.db, and what the instance never saw made.

    With `regions`, what is missing of these, and of all that they wait for, and nothing else.
    Raises UsageError for an unknown region.
    """
    plan = site.regions
    for name in regions:
        if name not in plan.names:
            raise UsageError(f"region {name!r}: the plan of {site.folder.name} has {_some(plan.names)}")
    with Progress(site.folder) as progress:
        open_ones = [one.id for one in progress.blocks() if one.status != "complete"]
    missing = plan.holding(open_ones)
    if regions:
        needed = plan.upstream(one for one in plan if one.region in regions)
        return Wanted(site, False, tuple(one for one in plan if one in needed & missing), False)
    for stage, names in plan.partitions.items():
        made = instance.get_materialized_partitions(site.stage_key(stage))
        missing |= {Partition(stage, name) for name in names if name not in made}
    return Wanted(
        site=site,
        plan=instance.get_latest_materialization_event(site.plan_key) is None,
        partitions=tuple(one for one in plan if one in missing),
        archive=bool(missing)
        or not _is_current(site)
        or instance.get_latest_materialization_event(site.archive_key) is None,
    )


def _is_current(site: Site) -> bool:
    """Tell whether the finished layer is there and nothing was drawn since."""
    pictures = site.folder / GENERATIONS
    if not (site.output.exists() and pictures.exists()):
        return False
    return site.output.stat().st_mtime_ns >= pictures.stat().st_mtime_ns


def request(
    instance: dg.DagsterInstance,
    graph: BaseAssetGraph,  # type: ignore[type-arg]
    those: Iterable[Wanted],
    *,
    from_sources: bool = False,
) -> Requested | None:
    """Ask the instance for one backfill of what is wanted; the daemon runs it. None where that is nothing.

    `from_sources` puts before it all that the layers are made from, rasters first.
    Raises UsageError where the location does not know a partition.
    """
    asked = [one for one in those if one or from_sources]
    if not asked:
        return None
    subset = _nodes({}, set())
    for one in asked:
        subset |= _subset(graph, one)
        if from_sources:
            subset |= _before(instance, graph, one.site)
    names = tuple(one.site.folder.name for one in asked)
    backfill = PartitionBackfill.from_asset_graph_subset(
        backfill_id=make_new_backfill_id(),
        backfill_timestamp=time.time(),
        tags={f"{TAG}{one.site.prefix}": "yes" for one in asked},
        dynamic_partitions_store=instance,
        asset_graph_subset=subset,
        title=f"layers: {', '.join(names)}",
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return Requested(backfill.backfill_id, names, subset.num_partitions_and_non_partitioned_assets)


def under_way(instance: dg.DagsterInstance, site: Site) -> str | None:
    """Return the id of a backfill of a layer that has not ended."""
    found = instance.get_backfills(
        BulkActionsFilter(statuses=_OPEN, tags={f"{TAG}{site.prefix}": "yes"}), limit=1
    )
    return found[0].backfill_id if found else None


def _subset(graph: BaseAssetGraph, one: Wanted) -> AssetGraphSubset:  # type: ignore[type-arg]
    """Return what is wanted as keys and partitions of the graph."""
    keys: dict[dg.AssetKey, list[str]] = {}
    for partition in one.partitions:
        keys.setdefault(one.site.stage_key(partition.stage), []).append(partition.region)
    partitions = {}
    for key, names in keys.items():
        definition = graph.get(key).partitions_def if graph.has(key) else None
        if definition is None or not set(names) <= set(definition.get_partition_keys()):
            raise UsageError(f"{key.to_user_string()}: the plan has grown; reload the code location first")
        partitions[key] = definition.subset_with_partition_keys(names)
    whole = {one.site.plan_key} if one.plan else set()
    return _nodes(partitions, whole | ({one.site.archive_key} if one.archive else set()))


def _before(instance: dg.DagsterInstance, graph: BaseAssetGraph, site: Site) -> AssetGraphSubset:  # type: ignore[type-arg]
    """Return all that a layer's plan is made from, back to the rasters, and the plan and the archive."""
    keys, open_ones = {site.archive_key}, [site.plan_key]
    while open_ones:
        key = open_ones.pop()
        if key not in keys and graph.has(key) and graph.get(key).is_materializable:
            keys.add(key)
            open_ones.extend(graph.get(key).parent_keys)
    partitions = {}
    for key in keys:
        definition = graph.get(key).partitions_def
        if definition is not None:
            names = definition.get_partition_keys(dynamic_partitions_store=instance)
            partitions[key] = definition.subset_with_partition_keys(names)
    return _nodes(partitions, keys - set(partitions))


def _nodes(partitions: Mapping[dg.AssetKey, Any], whole: Set[dg.AssetKey]) -> AssetGraphSubset:
    """Return partitions of assets, and assets that have none, as Dagster takes them."""
    return AssetGraphSubset(partitions, whole)  # type: ignore[call-arg]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown or "no region"
