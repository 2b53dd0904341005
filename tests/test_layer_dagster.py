"""Layers through Dagster: regions in the order of their neighbours, failures contained, backfills exact."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.partitions.utils import get_builtin_partition_mapping_types
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._serdes import deserialize_value, serialize_value
from hypothesis import given, settings
from hypothesis import strategies as st

from fusi_pipeline import definitions as terrain_location
from fusi_pipeline.defs import terrain
from fusi_pipeline.errors import SettingInvalid, UsageError
from fusi_pipeline.settings import settings_from
from fusi_pipeline.tiles.open import open_archive
from layer_generation import launch
from layer_generation.camera import MercatorGrid
from layer_generation.defs import automation, backfill, drawing, headless, registry, seams, sites, steps
from layer_generation.defs.backfill import Wanted, chosen_sites, request, under_way, wanted
from layer_generation.defs.regions import (
    Partition,
    Regions,
    Stage,
    region_box,
    region_name,
    regions_of,
)
from layer_generation.defs.sites import Site, find_sites
from layer_generation.defs.waiting import waits_table
from layer_generation.endpoints.base import EditRequest, EditResult, EndpointPermanent, Stop
from layer_generation.errors import EndpointsExhausted
from layer_generation.layer import init_layer, status_of
from layer_generation.plan import Plan, extend, plan
from layer_generation.progress import BlockRow, Progress
from layer_generation.quadrants import QuadrantStore
from layer_generation.settings import REGION_QUADRANTS, Places, places_from
from tests.layers import picture, png, write_map

SILENT = {"telemetry": {"enabled": False}}
"""As in dagster.yaml; an instance of a test does not read it."""
ORIGIN = 96
"""Of the map of the tests: 5 x 8 quadrants in six regions of 3 x 3."""
COLUMNS, ROWS = 5, 8
PX = 512


class Model:
    """A model server in this process that refuses some blocks and remembers the order of the others.

    Blocks are known by their seeds.
    """

    name = "one"
    takes_mask = True
    size_multiple = 8

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.drawn: list[int] = []
        self.lock = threading.Lock()

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Invert a picture where it may be drawn."""
        assert request.seed is not None
        if request.seed in self.refused:
            raise EndpointPermanent("I will not draw this")
        with self.lock:
            self.drawn.append(request.seed)
        where = np.ones(request.image.shape[:2], dtype=bool) if request.mask is None else request.mask
        return EditResult(image=np.where(where[..., None], 255 - request.image, request.image))

    def probe(self) -> None:
        """Say that all is well."""

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(settings=SILENT) as one:
        yield one


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance on disk, for backfills and schedules have no other."""
    folder = tmp_path / "instance"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder), overrides=SILENT) as one:
        yield one


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model server that every layer of a test is drawn by."""
    one = Model()
    monkeypatch.setattr(drawing, "open_endpoint", lambda config, keys, folder: one)
    return one


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    quadrants = [(ORIGIN + x, ORIGIN + y) for y in range(ROWS) for x in range(COLUMNS)]
    write_map(folder / "map", MercatorGrid(zoom=8), quadrants)
    init_layer(folder / "layers" / "snow", name="Snow", generation_dir=folder / "map", source_layer="renders")
    return folder


@pytest.fixture
def places(made_once: Path, tmp_path: Path) -> Places:
    """Places with one layer of which nothing is drawn."""
    shutil.copytree(made_once, tmp_path / "made")
    made = tmp_path / "made"
    return Places(layers_dir=made / "layers", output_dir=made / "output", region_quadrants=3)


@pytest.fixture
def site(places: Places) -> Site:
    (one,) = find_sites(places)
    return one


def make(
    instance: dg.DagsterInstance, places: Places, key: dg.AssetKey, partition: str | None = None
) -> dg.ExecuteInProcessResult:
    """Materialize one asset, or one partition of it."""
    job = registry.layers(places).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(
        instance=instance, asset_selection=[key], partition_key=partition, raise_on_error=False
    )


def make_all(instance: dg.DagsterInstance, todo: Wanted) -> tuple[list[Partition], list[str]]:
    """Draw what is wanted in order; return the partitions that ran and what is not made in the end."""
    ran: list[Partition] = []
    stages = {todo.site.stage_key(stage): stage for stage in todo.site.regions.stages}

    def made(key: dg.AssetKey, region: str) -> bool:
        ran.append(Partition(stages[key], region))
        return make(instance, todo.site.places, key, region).success

    return ran, headless.draw(made, todo)


def seed_of(block: BlockRow) -> int:
    """Return the seed that a block is always drawn with, by which the model server knows it."""
    words = f"0|{block.x}|{block.y}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "big") & 0x7FFFFFFF


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Return what a failed run says."""
    (event,) = (event for event in result.all_events if event.is_step_failure)
    data = event.step_failure_data.user_failure_data
    assert data is not None, event.step_failure_data.error
    return str(data.description)


def dependants(regions: Regions, first: Partition) -> set[Partition]:
    """Return a partition and all that wait for it, directly or not."""
    return {one for one in regions if first in regions.upstream([one])}


# Regions


positions = st.tuples(st.integers(-9, 9), st.integers(-9, 9))
boxes = st.tuples(positions, st.integers(1, 9), st.integers(1, 9))


@st.composite
def maps(draw: st.DrawFn) -> set[tuple[int, int]]:
    """Draw a map: boxes, with single quadrants added and taken away."""
    held = {
        (x + dx, y + dy)
        for (x, y), width, height in draw(st.lists(boxes, min_size=1, max_size=3))
        for dx in range(width)
        for dy in range(height)
    }
    return held ^ set(draw(st.lists(positions, max_size=12)))


def regions_of_plan(found: Plan, side: int) -> Regions:
    columns = (np.arange(1, len(found) + 1), found.step, found.x, found.y)
    ids, step, x, y = (column.astype(np.int64) for column in columns)
    return regions_of(ids, step, x, y, found.waits_for.astype(np.int64), side)


@given(maps(), maps(), st.sampled_from([3, 6, 12]))
@settings(max_examples=25, deadline=None)
def test_partitions_cover_every_edge_of_a_plan(
    first: set[tuple[int, int]], later: set[tuple[int, int]], side: int
) -> None:
    planned = extend(plan(sorted(first)), sorted(later)) if later else plan(sorted(first))
    check_edges(planned, side)


def check_edges(planned: Plan, side: int) -> None:
    """Check that each block waits for blocks of its own partition or of other assets, and mappings say so."""
    regions = regions_of_plan(planned, side)
    held = {one: regions.blocks(one) for one in regions}
    owner = {block: one for one, blocks in held.items() for block in blocks}
    assert sorted(block for blocks in held.values() for block in blocks) == list(range(1, len(planned) + 1))
    order = {one: number for number, one in enumerate(regions)}
    for block, before in (planned.waits_for + 1).tolist():
        one, other = owner[block], owner[before]
        assert one == other or (
            one.stage > other.stage
            and order[one] > order[other]
            and one.region in regions.waits[(one.stage, other.stage)][other.region]
            and other in regions.before[one]
            and regions.outside(one)[before] == other
        )
    pairs = {(owner[block], owner[before]) for block, before in (planned.waits_for + 1).tolist()}
    told = {
        (Partition(stage, region), Partition(before, name))
        for (stage, before), names in regions.waits.items()
        for name, those in names.items()
        for region in those
    }
    assert told == {(one, other) for one, other in pairs if one != other}
    for one, blocks in held.items():
        min_x, min_y, max_x, max_y = region_box(one.region, side)
        for block in blocks:
            x, y, step = (int(column[block - 1]) for column in (planned.x, planned.y, planned.step))
            assert min_x <= x <= max_x
            assert min_y <= y <= max_y
            assert step == one.stage.step


SHAPES: dict[str, Callable[[int, int], bool]] = {
    "checkerboard": lambda x, y: (x + y) % 2 == 0,
    "line": lambda x, y: y == 0,
    "column": lambda x, y: x == 7,
    "ring": lambda x, y: max(abs(x - 9), abs(y - 9)) in (8, 9) or max(abs(x - 9), abs(y - 9)) == 4,
    "thin ring": lambda x, y: max(abs(x - 9), abs(y - 9)) == 7,
    "comb": lambda x, y: y < 2 or x % 2 == 0,
    "stairs": lambda x, y: y in (x, x + 1),
    "disc": lambda x, y: (x - 9) ** 2 + (y - 9) ** 2 < 81,
}


@pytest.mark.parametrize("side", [3, 6])
@pytest.mark.parametrize("shape", SHAPES)
def test_edges_of_odd_shapes_are_between_assets(shape: str, side: int) -> None:
    held = [(x, y) for y in range(20) for x in range(20) if SHAPES[shape](x, y)]
    later = [(x, y) for y in range(-2, 20) for x in range(20, 23) if (x * y) % 5]
    planned = plan(held)
    check_edges(planned, side)
    check_edges(extend(planned, later), side)


@given(maps(), st.sampled_from([3, 6]))
@settings(max_examples=30, deadline=None)
def test_dagster_maps_a_region_to_all_that_it_waits_for(held: set[tuple[int, int]], side: int) -> None:
    if not held:
        return
    regions = regions_of_plan(plan(sorted(held)), side)
    definitions = {
        stage: dg.StaticPartitionsDefinition(list(names)) for stage, names in regions.partitions.items()
    }
    for (stage, before), table in regions.waits.items():
        mapping = dg.StaticPartitionMapping({key: list(those) for key, those in table.items()})
        for region in regions.partitions[stage]:
            found = mapping.get_upstream_mapped_partitions_result_for_partitions(
                definitions[stage].subset_with_partition_keys([region]),
                definitions[stage],
                definitions[before],
            )
            wanted = {one.region for one in regions.before[Partition(stage, region)] if one.stage == before}
            assert set(found.partitions_subset.get_partition_keys()) == wanted


@pytest.mark.parametrize(("width", "height"), [(32, 32), (29, 41), (26, 26)])
def test_a_rectangle_needs_no_second_turn(width: int, height: int) -> None:
    quadrants = [(x, y) for y in range(height) for x in range(width)]
    regions = regions_of_plan(plan(quadrants), 12)
    assert [stage.name for stage in regions.stages] == ["layer_blocks_2x2", "layer_strips", "layer_corners"]


def test_keys_of_regions_are_read_back() -> None:
    assert region_name(3, -2) == "r+003_c-002"
    assert region_box("r+003_c-002", 36) == (-72, 108, -37, 143)
    assert Stage(turn=4, step=2, number=2).name == "layer_strips_3"


def test_a_plan_that_waits_for_itself_is_refused() -> None:
    ones = np.ones(2, dtype=np.int64)
    with pytest.raises(ValueError, match="in a circle"):
        regions_of(np.arange(2), ones * 2, np.array([0, 3]), ones, np.array([[0, 1], [1, 0]]), 3)


# The location


def test_nothing_is_defined_without_layers(tmp_path: Path) -> None:
    found = registry.layers(Places(layers_dir=tmp_path / "none", output_dir=tmp_path))
    assert not list(found.resolve_asset_graph().get_all_asset_keys())
    dg.Definitions.validate_loadable(dg.Definitions.merge(terrain_location.defs, found))


def test_a_layer_is_five_kinds_of_assets(places: Places) -> None:
    location = dg.Definitions.merge(terrain_location.defs, registry.layers(places))
    dg.Definitions.validate_loadable(location)
    keys = {key.to_user_string() for key in location.resolve_asset_graph().get_all_asset_keys()}
    names = ("layer_plan", "layer_blocks_2x2", "layer_strips", "layer_corners", "layer_pmtiles")
    assert {f"snow/{name}" for name in names} <= keys
    assert "terrain_pmtiles" in keys


@pytest.mark.filterwarnings("ignore:Property .ScheduleDefinition.environment_vars.:DeprecationWarning")
def test_every_mapping_survives_the_daemon(places: Places) -> None:
    """A custom mapping silently becomes identity in the daemon: only built-in ones are in the snapshot."""
    location = dg.Definitions.merge(terrain_location.defs, registry.layers(places))
    snap = RepositorySnap.from_def(location.get_repository_def())
    snap = deserialize_value(serialize_value(snap), RepositorySnap)
    graph = location.resolve_asset_graph()
    seen = 0
    for node in snap.asset_nodes:
        local = graph.get(node.asset_key).partition_mappings
        for edge in node.parent_edges:
            if edge.parent_asset_key in local:
                mapping = local[edge.parent_asset_key]
                assert isinstance(mapping, get_builtin_partition_mapping_types())
                assert edge.partition_mapping == mapping
                seen += isinstance(mapping, dg.StaticPartitionMapping)
    (site,) = find_sites(places)
    assert seen == len(site.regions.waits) >= 3


def test_a_broken_layer_is_left_out_and_named(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    logging.disable(logging.NOTSET)
    for name, config in (("half", "{"), ("bare", None)):
        (places.layers_dir / name).mkdir()
        if config is not None:
            (places.layers_dir / name / "layer_config.json").write_text(config)
    shutil.copytree(places.layers_dir / "snow", places.layers_dir / "no plan")
    (places.layers_dir / "no plan" / "progress.db").write_bytes(b"no database")
    shutil.copytree(places.layers_dir / "snow", places.layers_dir / "snow.backup-1")
    assert [one.folder.name for one in find_sites(places)] == ["snow"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert any("half" in line and "layer_config.json" in line for line in told)


def test_names_of_layers_are_made_fit_for_dagster(places: Places) -> None:
    for name in ("Schnee ü", "Schnee_ä", "Schnee ö"):
        shutil.copytree(places.layers_dir / "snow", places.layers_dir / name)
    found = find_sites(places)
    assert len({one.prefix for one in found}) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", one.prefix) for one in found)
    dg.Definitions.validate_loadable(registry.layers(places))
    assert [one.folder.name for one in chosen_sites(found, ["Schnee ö"])] == ["Schnee ö"]


def test_settings_say_where_layers_are() -> None:
    assert places_from({}) == Places(
        layers_dir=Path("layers"), output_dir=Path("output"), region_quadrants=REGION_QUADRANTS
    )
    stated = places_from({"FUSI_LAYERS_DIR": "/a", "FUSI_OUTPUT_DIR": "/b", "FUSI_LAYER_REGION": "12"})
    assert (str(stated.layers_dir), str(stated.output_dir), stated.region_quadrants) == ("/a", "/b", 12)
    for wrong in ("4", "0", "-3", "x", "3003", "3.0"):
        with pytest.raises(SettingInvalid, match="FUSI_LAYER_REGION"):
            places_from({"FUSI_LAYER_REGION": wrong})


def test_the_terrain_is_that_of_the_other_half(tmp_path: Path) -> None:
    stated = {"FUSI_OUTPUT_DIR": str(tmp_path)}
    assert sites.TERRAIN == terrain.TERRAIN
    assert terrain.POOL == sites.WORK_POOL
    assert sites.terrain_archive(places_from(stated)) == terrain.terrain_path(settings_from(stated))


# Whole runs


def test_a_layer_is_made_region_by_region(instance: dg.DagsterInstance, site: Site, model: Model) -> None:
    assert make(instance, site.places, site.plan_key).success
    ran, failed = make_all(instance, wanted(instance, site))
    assert not failed
    assert ran == list(site.regions)
    with Progress(site.folder) as progress:
        blocks, edges = list(progress.blocks()), progress.edges()
    assert sorted(model.drawn) == sorted(seed_of(one) for one in blocks)
    place = {one.id: model.drawn.index(seed_of(one)) for one in blocks}
    assert all(place[block] > place[before] for block, before in edges.tolist())
    result = make(instance, site.places, site.archive_key)
    assert result.success
    checks = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert checks["layer_covered"].passed
    (made,) = result.asset_materializations_for_node(result.all_node_events[0].node_name)
    assert made.metadata["quadrants"].value == COLUMNS * ROWS
    assert "data:image/webp;base64," in str(made.metadata["picture"].value)
    assert isinstance(made.metadata["provenance"].value, dict)
    with open_archive(site.output) as reader:
        assert reader.counts()[8] == COLUMNS * ROWS
    assert not wanted(instance, site)


def test_a_partition_says_what_it_did(instance: dg.DagsterInstance, site: Site, model: Model) -> None:
    first = next(iter(site.regions))
    result = make(instance, site.places, site.stage_key(first.stage), first.region)
    (made,) = result.asset_materializations_for_node("snow__layer_blocks_2x2")
    values = {name: value.value for name, value in made.metadata.items()}
    assert values["blocks"] == values["calls now"] == len(site.regions.blocks(first)) == len(model.drawn)
    assert "data:image/webp;base64," in values["picture"]
    assert len(values["picture"]) < 1000
    assert "| one |" in values["endpoints"]
    version = (made.tags or {})["dagster/data_version"]
    again = make(instance, site.places, site.stage_key(first.stage), first.region)
    (made,) = again.asset_materializations_for_node("snow__layer_blocks_2x2")
    assert made.metadata["calls now"].value == 0, "what is finished is not paid for again"
    assert (made.tags or {})["dagster/data_version"] == version


def test_a_partition_says_which_blocks_have_less_context(site: Site) -> None:
    """In the table of which block waited for which, and only there where some have."""
    last = list(site.regions)[-1]
    with Progress(site.folder) as progress:
        blocks = [one for one in progress.blocks() if one.id in site.regions.blocks(last)]
    assert "less context" not in str(waits_table(site.regions, last, blocks).value)
    told = str(waits_table(site.regions, last, [replace(blocks[0], reason="a hole"), *blocks[1:]]).value)
    assert told.count("a hole") == 1
    assert "less context" in told


def needed(site: Site, partition: Partition) -> set[int]:
    """Return a partition's blocks and all that they wait for, block by block, by id."""
    before: dict[int, list[int]] = {}
    for block, other in site.regions.edges.tolist():
        before.setdefault(int(site.regions.ids[block]), []).append(int(site.regions.ids[other]))
    found, open_ones = set(), list(site.regions.blocks(partition))
    while open_ones:
        one = open_ones.pop()
        if one not in found:
            found.add(one)
            open_ones.extend(before.get(one, ()))
    return found


def test_a_region_that_is_launched_alone_draws_exactly_what_it_waits_for(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    """Block by block and in order; the regions of these then have nothing to pay for a second time."""
    last = list(site.regions)[-1]
    wanted_ids = needed(site, last)
    assert len(site.regions.blocks(last)) < len(wanted_ids) < len(site.regions.ids)
    result = make(instance, site.places, site.stage_key(last.stage), last.region)
    assert result.success
    (made,) = (
        event.step_materialization_data for event in result.all_events if event.is_step_materialization
    )
    others = len(wanted_ids) - len(site.regions.blocks(last))
    assert made.materialization.metadata["blocks of other regions drawn first"].value == others
    with Progress(site.folder) as progress:
        blocks, edges = list(progress.blocks()), progress.edges()
    assert {one.id for one in blocks if one.status == "complete"} == wanted_ids
    assert sorted(model.drawn) == sorted(seed_of(one) for one in blocks if one.id in wanted_ids)
    place = {one.id: model.drawn.index(seed_of(one)) for one in blocks if one.id in wanted_ids}
    assert all(place[one] > place[before] for one, before in edges.tolist() if one in wanted_ids)
    assert not make_all(instance, wanted(instance, site))[1]
    assert len(model.drawn) == len(blocks)


def test_a_region_whose_neighbours_failed_names_them_and_calls_nobody(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    waiting = next(one for one in site.regions if len(site.regions.before[one]) > 1)
    before = sorted(site.regions.before[waiting])
    with Progress(site.folder) as progress:
        failed = min(site.regions.outside(waiting))
        block = progress.claim("somebody", 60.0, blocks=[failed])
        assert block is not None
        progress.fail(block.id, "somebody", "I will not draw this")
    result = make(instance, site.places, site.stage_key(waiting.stage), waiting.region)
    assert not result.success
    told = failure_of(result)
    assert "\n" not in told
    assert told.endswith(f"; `just layer-backfill snow --region {waiting.region}` makes these first")
    assert all(site.told(one) in told for one in before[:3])
    assert not model.drawn
    assert sum(event.event_type_value == "STEP_START" for event in result.all_events) == 1, "no retry helps"


def test_a_failed_region_holds_back_exactly_its_dependants_and_a_backfill_completes_them(
    instance: dg.DagsterInstance, kept: dg.DagsterInstance, site: Site, model: Model
) -> None:
    with Progress(site.folder) as progress:
        blocks = {one.id: one for one in progress.blocks()}
    bad = blocks[site.regions.blocks(next(iter(site.regions)))[0]]
    model.refused = {seed_of(bad)}
    ran, failed = make_all(kept, wanted(kept, site))
    first = next(iter(site.regions))
    held = dependants(site.regions, first)
    assert len(held) > 1
    assert set(failed) == {site.told(one) for one in held}
    assert set(ran) == (set(site.regions) - held) | {first}
    result = make(kept, site.places, site.stage_key(first.stage), first.region)
    assert "1 error" in failure_of(result)
    assert "I will not draw this" in failure_of(result)
    assert not make(kept, site.places, site.archive_key).success
    assert not site.output.exists()
    found = set(wanted(kept, site).partitions)
    assert found == held, "a backfill after a failure is what failed and what waits for it"
    model.refused = set()
    before = len(model.drawn)
    ran, failed = make_all(kept, wanted(kept, site))
    assert not failed
    assert set(ran) == held
    assert len(model.drawn) - before == len({one for part in held for one in site.regions.blocks(part)})
    assert make(kept, site.places, site.archive_key).success


def test_a_layer_is_made_without_daemon_and_pages(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    lines: list[str] = []
    assert not headless.materialize(instance, site.places, "snow", lines.append)
    assert len(model.drawn) == status_of(site.folder).total
    made = [line.partition(":")[0] for line in lines]
    assert made[0] == "snow/layer_plan"
    assert made[1:-3] == [site.told(one) for one in site.regions]
    assert set(made[-3:]) == {"snow/layer_pmtiles"}
    with Progress(site.folder) as progress:
        bad = next(progress.blocks())
        progress.reopen([bad.id])
    model.refused = {seed_of(bad)}
    lines.clear()
    (failed,) = headless.materialize(instance, site.places, "snow", lines.append)
    assert failed == site.told(next(iter(site.regions.holding([bad.id]))))
    assert any("I will not draw this" in line for line in lines)


def test_what_the_command_line_drew_is_not_drawn_again(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    drawing.drawn(site.folder, [one for part in site.regions for one in site.regions.blocks(part)], [], str)
    calls = len(model.drawn)
    assert calls == status_of(site.folder).total
    todo = wanted(instance, site)
    assert set(todo.partitions) == set(site.regions), "Dagster has not seen them"
    _, failed = make_all(instance, todo)
    assert not failed
    assert len(model.drawn) == calls
    assert make(instance, site.places, site.plan_key).success
    assert make(instance, site.places, site.archive_key).success
    assert not wanted(instance, site)
    later = site.output.stat().st_mtime_ns + 1
    os.utime(site.folder / "generations", ns=(later, later))
    todo = wanted(instance, site)
    assert (todo.plan, todo.partitions, todo.archive) == (False, (), True)


def test_what_a_killed_run_held_is_drawn_when_its_partition_runs_again(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    first = next(iter(site.regions))
    with Progress(site.folder) as progress:
        held = progress.claim(f"{socket.gethostname()}:{2**22 + 1}:0.00:one:1", 10_000)
    assert held is not None
    assert held.id in site.regions.blocks(first)
    assert make(instance, site.places, site.stage_key(first.stage), first.region).success
    assert drawing.state_of(site.folder, site.regions.blocks(first)).whole


def test_servers_that_are_gone_for_a_while_are_tried_again(
    instance: dg.DagsterInstance, site: Site, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, tries = next(iter(site.regions)), []

    def flaky(*given: object) -> object:
        tries.append(given)
        if len(tries) == 1:
            raise EndpointsExhausted("one: connection refused")
        return drawing.drawn(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "drawn", flaky)
    monkeypatch.setattr(steps, "REST_S", 0.0)
    result = make(instance, site.places, site.stage_key(first.stage), first.region)
    assert result.success
    assert len(tries) == 2


def test_what_a_neighbour_lost_is_drawn_again_first(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    _, failed = make_all(instance, Wanted(site, False, tuple(site.regions)[:-1], False))
    assert not failed
    last = tuple(site.regions)[-1]
    outside = site.regions.outside(last)
    with Progress(site.folder) as progress:
        block = next(one for one in progress.blocks() if one.id == min(outside))
    picture_of_it = site.folder / "generations" / f"{block.x}_{block.y}.png"
    picture_of_it.unlink()
    report = drawing.drawn(site.folder, site.regions.blocks(last), list(outside), lambda _: None)
    assert report.interrupted, "nobody in this run would draw it"
    calls = len(model.drawn)
    assert make(instance, site.places, site.stage_key(last.stage), last.region).success
    assert picture_of_it.exists()
    assert len(model.drawn) - calls <= 1 + len(site.regions.blocks(last))


def test_new_quadrants_are_planned_and_the_location_is_to_be_reloaded(
    instance: dg.DagsterInstance, site: Site, model: Model
) -> None:
    result = make(instance, site.places, site.plan_key)
    assert [
        one.metadata["reload"].value for one in result.asset_materializations_for_node("snow__layer_plan")
    ] == ["not needed"]
    with QuadrantStore(site.folder.parents[1] / "map") as store:
        store.put(
            "render", [(ORIGIN + COLUMNS + x, ORIGIN + y, png(picture(x, y))) for x in (0, 1) for y in (0, 1)]
        )
    result = make(instance, site.places, site.plan_key)
    (made,) = result.asset_materializations_for_node("snow__layer_plan")
    assert "reload" in str(made.metadata["reload"].value)
    assert made.metadata["blocks added now"].value > 0
    (grown,) = find_sites(site.places)
    assert set(site.regions) < set(grown.regions) or set(site.regions) == set(grown.regions)
    _, failed = make_all(instance, wanted(instance, grown))
    assert not failed
    assert status_of(site.folder).quadrants_complete == COLUMNS * ROWS + 4


# Backfills


def test_a_region_is_backfilled_with_exactly_what_it_waits_for(
    kept: dg.DagsterInstance, site: Site, model: Model
) -> None:
    region = site.regions.partitions[site.regions.stages[-1]][0]
    todo = wanted(kept, site, [region])
    mine = [one for one in site.regions if one.region == region]
    assert set(todo.partitions) == site.regions.upstream(mine)
    assert len(todo.partitions) < len(list(site.regions))
    assert not todo.archive
    ran, failed = make_all(kept, todo)
    assert not failed
    assert ran == [one for one in site.regions if one in site.regions.upstream(mine)]
    assert not wanted(kept, site, [region]), "what is complete is not asked for again"
    with pytest.raises(UsageError, match=r"region 'r\+9'.*r\+03"):
        wanted(kept, site, ["r+9"])


def test_a_backfill_is_asked_of_the_instance_once(kept: dg.DagsterInstance, site: Site) -> None:
    graph = registry.layers(site.places).get_repository_def().asset_graph
    asked = request(kept, graph, [wanted(kept, site)])
    assert asked is not None
    assert asked.partitions == len(list(site.regions)) + 2
    (found,) = kept.get_backfills()
    assert (found.backfill_id, found.status) == (asked.backfill_id, BulkActionStatus.REQUESTED)
    data = found.get_asset_backfill_data(graph)
    for stage, names in site.regions.partitions.items():
        subset = data.target_subset.get_partitions_subset(site.stage_key(stage))
        assert set(subset.get_partition_keys()) == set(names)
    assert data.target_subset.non_partitioned_asset_keys == {site.plan_key, site.archive_key}
    assert under_way(kept, site) == asked.backfill_id
    assert request(kept, graph, [Wanted(site, False, (), False)]) is None


def test_a_location_that_is_behind_its_plan_has_to_be_reloaded(kept: dg.DagsterInstance, site: Site) -> None:
    coarse = Places(layers_dir=site.places.layers_dir, output_dir=site.places.output_dir, region_quadrants=12)
    graph = registry.layers(coarse).get_repository_def().asset_graph
    with pytest.raises(UsageError, match="reload the code location"):
        request(kept, graph, [wanted(kept, site)])
    assert not kept.get_backfills()


def with_terrain(site: Site) -> Places:
    """Say that the map of a layer lies over the terrain of the location."""
    with QuadrantStore(site.config.map_folder(site.folder)) as store:
        archive = sites.terrain_archive(site.places)
        store.set_fact("terrain", {"archive": f"../{archive.relative_to(store.folder.resolve().parent)}"})
    return site.places


def test_one_backfill_goes_from_rasters_to_the_layer(kept: dg.DagsterInstance, site: Site) -> None:
    places = with_terrain(site)
    location = dg.Definitions.merge(terrain_location.defs, registry.layers(places))
    (found,) = find_sites(places)
    kept.add_dynamic_partitions("source", ["alps", "jura"])
    graph = location.get_repository_def().asset_graph
    asked = request(kept, graph, [wanted(kept, found)], from_sources=True)
    assert asked is not None
    target = kept.get_backfills()[0].get_asset_backfill_data(graph).target_subset
    assert found.map is not None
    assert {found.map.key, found.plan_key, found.archive_key, sites.TERRAIN} == set(
        target.non_partitioned_asset_keys
    )
    sources = target.get_partitions_subset(dg.AssetKey("source_mbtiles"))
    assert set(sources.get_partition_keys()) == {"alps", "jura"}
    assert graph.get(found.map.key).parent_keys == {sites.TERRAIN}


def test_what_happens_by_itself_is_off(site: Site) -> None:
    repository = registry.layers(site.places).get_repository_def()
    schedule = repository.get_schedule_def(automation.SCHEDULE)
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == automation.JOB
    sensor = repository.get_sensor_def(automation.SENSOR)
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED


def test_the_job_of_the_schedule_asks_for_what_is_missing(kept: dg.DagsterInstance, site: Site) -> None:
    folder = Path(kept.root_directory)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {
        "DAGSTER_HOME": str(folder),
        "FUSI_LAYERS_DIR": str(site.places.layers_dir),
        "FUSI_OUTPUT_DIR": str(site.places.output_dir),
        "FUSI_LAYER_REGION": str(site.places.region_quadrants),
    }
    words = ["job", "execute", "-m", "layer_generation.definitions", "-j", automation.JOB]
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (asked,) = kept.get_backfills()
    assert asked.tags[f"{backfill.TAG}snow"] == "yes"
    assert under_way(kept, site) == asked.backfill_id


@pytest.mark.filterwarnings("ignore:Parameter .include_sources.:dagster_shared.utils.warnings.BetaWarning")
def test_neighbours_that_are_there_are_what_a_region_waits_for(
    instance: dg.DagsterInstance, site: Site
) -> None:
    location = registry.layers(site.places)
    result = dg.evaluate_automation_conditions(location, instance)
    assert result.total_requested == 0
    instance.report_runless_asset_event(dg.AssetMaterialization(site.plan_key))
    result = dg.evaluate_automation_conditions(location, instance, cursor=result.cursor)
    first, second = site.regions.stages[:2]
    assert result.get_requested_partitions(site.stage_key(first)) == set(site.regions.partitions[first])
    waiting = next(one for one in site.regions if one.stage == second and len(site.regions.before[one]) > 1)
    *most, last = sorted(site.regions.before[waiting])
    for one in most:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(site.stage_key(one.stage), partition=one.region)
        )
    result = dg.evaluate_automation_conditions(location, instance, cursor=result.cursor)
    asked = result.get_requested_partitions(site.stage_key(second))
    assert waiting.region not in asked
    assert {
        one for one in site.regions if one.stage == second and set(site.regions.before[one]) <= set(most)
    } == {Partition(second, region) for region in asked}
    instance.report_runless_asset_event(
        dg.AssetMaterialization(site.stage_key(last.stage), partition=last.region)
    )
    result = dg.evaluate_automation_conditions(location, instance, cursor=result.cursor)
    assert waiting.region in result.get_requested_partitions(site.stage_key(second))


def test_one_region_at_a_time_is_drawn(site: Site) -> None:
    graph = registry.layers(site.places).resolve_asset_graph()
    for stage in site.regions.stages:
        assert graph.get(site.stage_key(stage)).pools == {sites.POOL}
    text = (Path(__file__).parents[1] / "dagster.yaml").read_text()
    assert "granularity: op" in text


# What is told


def test_seams_are_seen_where_they_are(site: Site) -> None:
    with Progress(site.folder) as progress:
        blocks = [replace(one, status="complete") for one in progress.blocks()]
    rows, cols = np.mgrid[0:PX, 0:PX]

    def write(shift: Callable[[int], int]) -> None:
        for block in blocks:
            for x, y in block.quadrants:
                ground = (y * PX + rows) % 97 + (x * PX + cols) % 61 + shift(block.id)
                path = site.folder / "generations" / f"{x}_{y}.png"
                path.write_bytes(png(np.repeat(ground[..., None], 3, axis=2).astype(np.uint8)))

    write(lambda number: 0)
    even = seams.seams_of(site.folder, blocks)
    assert even.borders > 15
    assert even.ratio < seams.MOST_RATIO
    write(lambda number: 60 * (number % 2))
    assert seams.seams_of(site.folder, blocks).ratio > seams.MOST_RATIO
    assert seams.seams_of(site.folder, []) == seams.Seams(0, 0.0, 0.0)


def test_commands_say_what_is_wrong_in_a_line(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("FUSI_LAYERS_DIR", str(tmp_path / "none"))
    for words in (["backfill"], ["materialize"], ["backfill", "--wrong"]):
        with pytest.raises(SystemExit) as end:
            launch.cli(words)
        assert end.value.code == 2
        assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("FUSI_LAYERS_DIR", str(places.layers_dir))
    monkeypatch.delenv("DAGSTER_HOME")
    with pytest.raises(SystemExit) as end:
        launch.cli(["backfill", "snow"])
    assert end.value.code == 2
    assert "DAGSTER_HOME" in capsys.readouterr().err
