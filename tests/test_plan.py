"""Plans: blocks that cover a source, keys that change with what bytes depend on, bounds on cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline.errors import AreaEmpty, BudgetTooSmall, ZoomInvalid
from fusi_pipeline.plan import BuildOptions, SourcePlan, estimate, plan_source, worker_mib, workers_for
from fusi_pipeline.sources import SourceConfig, SourceFile, SourceIndex, write_index
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import HALF_WORLD_M, Bounds, Tile, XYBounds

CONFIG = SourceConfig(name="alps")


def file(name: str, box: XYBounds, *, pixel_m: float = 100.0, **facts: object) -> SourceFile:
    """Return the record of a file in EPSG:3857."""
    width_m = sum(part.right - part.left for part in box.parts())
    whole: dict[str, object] = {
        "filename": name,
        "size_bytes": 1,
        "mtime_ns": 1,
        "fingerprint": f"hash of {name}",
        "crs": "EPSG:3857",
        "transform": (pixel_m, 0.0, box.left, 0.0, -pixel_m, box.top),
        "width": round(width_m / pixel_m),
        "height": round((box.top - box.bottom) / pixel_m),
        "dtype": "float32",
        "nodata": None,
        "scale": 1.0,
        "offset": 0.0,
        "has_mask": False,
        "valid_pixels": 1,
        "minimum": 0.0,
        "maximum": 1.0,
        "box": box,
        "maxzoom": grid.zoom_for_resolution(pixel_m),
    }
    return SourceFile(**{**whole, **facts})  # type: ignore[arg-type]


ALPS = XYBounds(780_000, 5_780_000, 900_000, 5_900_000)
NEXT = XYBounds(900_000, 5_780_000, 1_500_000, 5_900_000)
FIJI = XYBounds(HALF_WORLD_M - 200_000, -2_200_000, -HALF_WORLD_M + 100_000, -2_000_000)


class Planned:
    """A plan together with the index it reads."""

    def __init__(
        self,
        place: Path,
        files: Sequence[SourceFile],
        options: BuildOptions | None = None,
        config: SourceConfig = CONFIG,
    ) -> None:
        place.mkdir(exist_ok=True)
        path = place / "index.db"
        write_index(path, files, name="alps", config=config)
        with SourceIndex(path) as index:
            self.plan: SourcePlan = plan_source("alps", config, index, options or BuildOptions())
            self.blocks = list(self.plan.blocks(index))
            self.counts = self.plan.base_tile_counts(index)
            self.estimate = estimate(self.plan, index, 2, 128)

    @property
    def keys(self) -> dict[Tile, str]:
        return {block.tile: block.key for block in self.blocks}


def test_the_blocks_are_the_tiles_two_zooms_above_the_base_that_files_touch(tmp_path: Path) -> None:
    planned = Planned(tmp_path, [file("a", ALPS), file("b", FIJI)])
    assert planned.plan.maxzoom == grid.zoom_for_resolution(100.0)
    assert planned.plan.block_zoom == planned.plan.maxzoom - 2
    wanted = {*grid.covering(ALPS, planned.plan.block_zoom), *grid.covering(FIJI, planned.plan.block_zoom)}
    assert set(planned.keys) == wanted
    tiles = [block.tile for block in planned.blocks]
    assert tiles == sorted(tiles, key=lambda tile: (tile.y, tile.x))


def test_a_block_names_the_files_that_reach_into_it(tmp_path: Path) -> None:
    planned = Planned(tmp_path, [file("a", ALPS), file("b", NEXT)])
    margin = XYBounds(
        -planned.plan.margin_m, -planned.plan.margin_m, planned.plan.margin_m, planned.plan.margin_m
    )
    for block in planned.blocks:
        box = grid.xy_bounds(block.tile)
        grown = XYBounds(
            box.left + margin.left, box.bottom + margin.bottom, box.right + margin.right, box.top + margin.top
        )
        wanted = {name for name, one in (("a", ALPS), ("b", NEXT)) if one.intersects(grown)}
        assert {one.filename for one in block.files} == wanted


def test_the_same_source_has_the_same_keys(tmp_path: Path) -> None:
    assert Planned(tmp_path / "1", [file("a", ALPS)]).keys == Planned(tmp_path / "2", [file("a", ALPS)]).keys


def test_size_and_time_of_a_file_do_not_change_a_key_but_its_content_does(tmp_path: Path) -> None:
    before = Planned(tmp_path / "1", [file("a", ALPS)]).keys
    touched = Planned(tmp_path / "2", [file("a", ALPS, mtime_ns=99, size_bytes=99)]).keys
    changed = Planned(tmp_path / "3", [file("a", ALPS, fingerprint="other")]).keys
    assert touched == before
    assert not set(changed.values()) & set(before.values())


def test_a_file_changes_the_keys_of_its_blocks_alone(tmp_path: Path) -> None:
    before = Planned(tmp_path / "1", [file("a", ALPS), file("b", NEXT)])
    after = Planned(tmp_path / "2", [file("a", ALPS), file("b", NEXT, fingerprint="other")])
    differing = {tile for tile, key in before.keys.items() if after.keys[tile] != key}
    assert differing == {
        block.tile for block in before.blocks if "b" in {one.filename for one in block.files}
    }
    assert 0 < len(differing) < len(before.keys)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (replace(CONFIG, resampling="cubic"), BuildOptions()),
        (replace(CONFIG, nodata=-1.0), BuildOptions()),
        (replace(CONFIG, unit_factor=0.3048), BuildOptions()),
        (replace(CONFIG, offset_m=1.0), BuildOptions()),
        (CONFIG, BuildOptions(minzoom=3)),
        (CONFIG, BuildOptions(maxzoom=9)),
    ],
)
def test_whatever_bytes_depend_on_changes_every_key(
    tmp_path: Path, config: SourceConfig, options: BuildOptions
) -> None:
    before = Planned(tmp_path / "1", [file("a", ALPS)]).keys
    after = Planned(tmp_path / "2", [file("a", ALPS)], options, config).keys
    assert not set(before.values()) & set(after.values())


@pytest.mark.parametrize(
    "config",
    [replace(CONFIG, attribution="x"), replace(CONFIG, name="x"), replace(CONFIG, vertical_datum="x")],
)
def test_what_only_the_metadata_says_changes_no_key(tmp_path: Path, config: SourceConfig) -> None:
    before = Planned(tmp_path / "1", [file("a", ALPS)]).keys
    assert Planned(tmp_path / "2", [file("a", ALPS)], config=config).keys == before


def test_a_parents_key_follows_its_children(tmp_path: Path) -> None:
    plan = Planned(tmp_path, [file("a", ALPS)]).plan
    tile = Tile(3, 4, 2)
    keys = dict.fromkeys(grid.children(tile), "same")
    before = plan.parent_key(tile, keys)
    assert plan.parent_key(tile, dict(keys)) == before
    for child in grid.children(tile):
        assert plan.parent_key(tile, {**keys, child: "other"}) != before
        assert plan.parent_key(tile, {one: key for one, key in keys.items() if one != child}) != before


# Area and zooms


@given(st.floats(6, 9), st.floats(0.01, 2), st.floats(45, 47), st.floats(0.01, 1), st.integers(4, 12))
def test_a_box_keeps_the_base_tiles_that_it_touches(
    tmp_path_factory: pytest.TempPathFactory, west: float, width: float, south: float, height: float, z: int
) -> None:
    bbox = Bounds(west, south, west + width, south + height)
    everything = file("a", XYBounds(0, 0, 3_000_000, 7_000_000), pixel_m=1000)
    planned = Planned(tmp_path_factory.mktemp("plan"), [everything], BuildOptions(maxzoom=z, bbox=bbox))
    kept = set()
    for block in planned.blocks:
        side = 1 << (z - block.tile.z)
        left, top = block.tile.x * side, block.tile.y * side
        for part in block.clip or ((left, top, left + side, top + side),):
            kept |= {Tile(z, x, y) for x in range(part[0], part[2]) for y in range(part[1], part[3])}
    assert kept == set(grid.covering(grid.projected(bbox), z))
    assert planned.counts[z] == len(kept)


def test_a_box_across_the_antimeridian_keeps_both_sides_even_within_one_block(tmp_path: Path) -> None:
    options = BuildOptions(maxzoom=2, bbox=Bounds(178.5, -19, -179.5, -18))
    (block,) = Planned(tmp_path, [file("a", FIJI)], options).blocks
    assert block.clip is not None
    assert sorted((part[0], part[2]) for part in block.clip) == [(0, 1), (3, 4)]


def test_zooms_come_from_the_options_then_the_configuration_then_the_data(tmp_path: Path) -> None:
    own = grid.zoom_for_resolution(100.0)
    asked = replace(CONFIG, max_zoom=7)
    assert Planned(tmp_path / "1", [file("a", ALPS)]).plan.maxzoom == own
    assert Planned(tmp_path / "2", [file("a", ALPS)], config=asked).plan.maxzoom == 7
    assert Planned(tmp_path / "3", [file("a", ALPS)], BuildOptions(maxzoom=8), asked).plan.maxzoom == 8
    assert Planned(tmp_path / "4", [file("a", ALPS, maxzoom=25)]).plan.maxzoom == 17


@pytest.mark.parametrize(
    "options", [BuildOptions(minzoom=20), BuildOptions(minzoom=5, maxzoom=4), BuildOptions(maxzoom=31)]
)
def test_an_empty_or_impossible_zoom_range_is_refused(tmp_path: Path, options: BuildOptions) -> None:
    with pytest.raises(ZoomInvalid):
        Planned(tmp_path, [file("a", ALPS)], options)


def test_a_box_that_touches_no_file_is_refused_even_within_the_bounds_of_all(tmp_path: Path) -> None:
    files = [file("a", XYBounds(0, 0, 1e6, 1e6)), file("b", XYBounds(5e6, 0, 6e6, 1e6))]
    with pytest.raises(AreaEmpty, match="does not touch the data"):
        Planned(tmp_path, files, BuildOptions(bbox=Bounds(20, 2, 25, 5)))


@pytest.mark.parametrize(("coarser", "averaged"), [(1.0, False), (1.4, False), (1.5, True), (8.0, True)])
def test_a_grid_is_averaged_where_the_base_is_clearly_coarser(
    tmp_path: Path, coarser: float, averaged: bool
) -> None:
    z = 9
    planned = Planned(
        tmp_path, [file("a", ALPS, pixel_m=grid.resolution_m(z) / coarser)], BuildOptions(maxzoom=z)
    )
    assert bool(planned.plan.averaged) == averaged


def test_only_the_finer_grid_of_two_is_averaged(tmp_path: Path) -> None:
    files = [file("a", ALPS, pixel_m=100), file("b", NEXT, pixel_m=1000)]
    averaged = Planned(tmp_path, files, BuildOptions(maxzoom=8)).plan.averaged
    assert [key[1] for key in averaged] == ["100"]


# Cost


def test_tiles_are_counted_zoom_by_zoom(tmp_path: Path) -> None:
    planned = Planned(tmp_path, [file("a", ALPS), file("b", NEXT), file("c", FIJI)])
    for z in range(planned.plan.maxzoom + 1):
        wanted = {tile for box in (ALPS, NEXT, FIJI) for tile in grid.covering(box, z)}
        assert planned.counts[z] == len(wanted), z


def test_an_estimate_grows_with_the_source(tmp_path: Path) -> None:
    small = Planned(tmp_path / "1", [file("a", ALPS)]).estimate
    large = Planned(tmp_path / "2", [file("a", ALPS), file("b", NEXT)]).estimate
    assert small.files < large.files
    assert small.tiles < large.tiles
    assert small.bytes < large.bytes <= large.scratch_bytes
    assert small.seconds < large.seconds
    assert small.memory_mib == large.memory_mib


def test_as_many_workers_as_fit_and_no_more_than_wanted() -> None:
    each = worker_mib(128)
    for budget in np.linspace(2 * each, 20 * each, 20):
        workers = workers_for(int(budget), 8, 128)
        assert 1 <= workers <= 8
        assert workers * each <= budget
    assert workers_for(1_000_000, 5, 128) == 5


def test_a_budget_that_holds_no_worker_says_what_one_needs() -> None:
    with pytest.raises(BudgetTooSmall) as caught:
        workers_for(100, 4, 128)
    needed = int(str(caught.value).split("needs ")[1].split(" ")[0])
    assert workers_for(needed, 4, 128) == 1
    with pytest.raises(BudgetTooSmall):
        workers_for(needed - 1, 4, 128)
