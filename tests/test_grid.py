"""The tile grid against mercantile, and its own laws."""

from __future__ import annotations

import mercantile
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import HALF_WORLD_M, MAX_LATITUDE_DEG, Bounds, Tile, XYBounds

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@st.composite
def tiles(draw: st.DrawFn, lowest: int = 0, highest: int = 24) -> Tile:
    z = draw(st.integers(lowest, highest))
    return Tile(z, draw(st.integers(0, (1 << z) - 1)), draw(st.integers(0, (1 << z) - 1)))


longitudes = st.floats(-180, 179.999999)
latitudes = st.floats(-85.05, 85.05)


def theirs(tile: Tile) -> mercantile.Tile:
    return mercantile.Tile(tile.x, tile.y, tile.z)


@given(tiles())
def test_bounds_are_mercantiles(tile: Tile) -> None:
    ours, wanted = grid.bounds(tile), mercantile.bounds(theirs(tile))
    assert (ours.west, ours.south, ours.east, ours.north) == pytest.approx(
        (wanted.west, wanted.south, wanted.east, wanted.north), abs=1e-9
    )


@given(tiles())
def test_projected_bounds_are_mercantiles(tile: Tile) -> None:
    ours, wanted = grid.xy_bounds(tile), mercantile.xy_bounds(theirs(tile))
    assert (ours.left, ours.bottom, ours.right, ours.top) == pytest.approx(
        (wanted.left, wanted.bottom, wanted.right, wanted.top), abs=1e-6
    )


@given(tiles(lowest=1))
def test_parents_are_mercantiles(tile: Tile) -> None:
    wanted = mercantile.parent(theirs(tile))
    assert grid.parent(tile) == Tile(wanted.z, wanted.x, wanted.y)


@given(tiles())
def test_children_are_mercantiles_from_north_west_to_south_east(tile: Tile) -> None:
    ours = grid.children(tile)
    assert set(ours) == {Tile(one.z, one.x, one.y) for one in mercantile.children(theirs(tile))}
    assert [(one.y, one.x) for one in ours] == sorted((one.y, one.x) for one in ours)
    assert {grid.parent(child) for child in ours} == {tile}


@given(tiles(highest=20), st.integers(0, 5))
def test_an_ancestor_is_the_parent_so_many_times(tile: Tile, levels: int) -> None:
    assume(levels <= tile.z)
    wanted = tile
    for _ in range(levels):
        wanted = grid.parent(wanted)
    assert grid.parent(tile, levels) == wanted


@given(longitudes, latitudes, st.integers(0, 22))
def test_the_tile_at_a_position_is_mercantiles(lon: float, lat: float, z: int) -> None:
    ours, wanted = grid.tile_at(lon, lat, z), mercantile.tile(lon, lat, z)
    if ours != Tile(wanted.z, wanted.x, wanted.y):  # on an edge, to rounding
        box = grid.bounds(ours)
        slack = 1e-9
        assert box.west - slack <= lon <= box.east + slack
        assert box.south - slack <= lat <= box.north + slack


@pytest.mark.parametrize("z", [0, 1, 5])
def test_positions_on_the_far_edges_belong_to_the_last_tile(z: int) -> None:
    last = (1 << z) - 1
    assert grid.tile_at(180, -90, z) == Tile(z, last, last)
    assert grid.tile_at(-180, 90, z) == Tile(z, 0, 0)


@given(longitudes, longitudes, latitudes, latitudes, st.integers(0, 7))
def test_a_covering_is_mercantiles(a: float, b: float, c: float, d: float, z: int) -> None:
    west, east, south, north = min(a, b), max(a, b), min(c, d), max(c, d)
    assume(east - west > 1e-6 and north - south > 1e-6)
    wanted = {Tile(one.z, one.x, one.y) for one in mercantile.tiles(west, south, east, north, z)}
    ours = set(grid.covering(grid.projected(Bounds(west, south, east, north)), z))
    for tile in ours ^ wanted:  # only such as the box touches with an edge, to rounding
        box = grid.bounds(tile)
        overlap = min(
            min(east, box.east) - max(west, box.west), min(north, box.north) - max(south, box.south)
        )
        assert overlap < 1e-6


@given(st.floats(90, 179.9), st.floats(-179.9, -90), latitudes, latitudes, st.integers(0, 6))
def test_a_covering_across_the_antimeridian_is_that_of_both_sides(
    west: float, east: float, c: float, d: float, z: int
) -> None:
    assume(abs(c - d) > 1e-6)
    south, north = min(c, d), max(c, d)
    box = grid.projected(Bounds(west, south, east, north))
    halves = (Bounds(west, south, 180, north), Bounds(-180, south, east, north))
    wanted = {tile for half in halves for tile in grid.covering(grid.projected(half), z)}
    assert set(grid.covering(box, z)) == wanted
    assert {Tile(z, 0, tile.y) for tile in wanted} <= wanted
    assert {Tile(z, (1 << z) - 1, tile.y) for tile in wanted} <= wanted


@given(tiles(highest=14))
def test_a_tile_is_covered_by_itself_alone(tile: Tile) -> None:
    assert list(grid.covering(grid.xy_bounds(tile), tile.z)) == [tile]
    if tile.z:
        assert list(grid.covering(grid.xy_bounds(tile), tile.z - 1)) == [grid.parent(tile)]
    assert set(grid.covering(grid.xy_bounds(tile), tile.z + 1)) == set(grid.children(tile))


def test_a_covering_goes_row_by_row() -> None:
    box = XYBounds(-1e7, -1e7, 1e7, 1e7)
    found = list(grid.covering(box, 4))
    assert found == sorted(found, key=lambda tile: (tile.y, tile.x))


@given(longitudes, latitudes)
def test_projecting_is_mercantiles_and_can_be_undone(lon: float, lat: float) -> None:
    x_m, y_m = grid.project(lon, lat)
    assert (x_m, y_m) == pytest.approx(mercantile.xy(lon, lat), abs=1e-6)
    assert grid.unproject(x_m, y_m) == pytest.approx((lon, lat), abs=1e-9)


def test_the_square_is_cut_off_where_it_is_square() -> None:
    assert grid.project(180, MAX_LATITUDE_DEG) == pytest.approx((HALF_WORLD_M, HALF_WORLD_M))
    assert grid.project(0, 90) == grid.project(0, MAX_LATITUDE_DEG)
    assert pytest.approx(85.0511287798) == MAX_LATITUDE_DEG


@pytest.mark.parametrize("z", range(23))
def test_a_zoom_is_chosen_by_pixels_no_larger_than_the_datas(z: int) -> None:
    size = grid.resolution_m(z)
    assert grid.resolution_m(0) == pytest.approx(78271.516964 * 2 / 2)
    assert grid.zoom_for_resolution(size) == z
    assert grid.zoom_for_resolution(size * 1.01) == z
    assert grid.zoom_for_resolution(size * 0.99) == z + 1


@given(st.integers(0, 12), st.data())
def test_neighbours_along_the_hilbert_curve_are_neighbours_on_the_grid(z: int, data: st.DataObject) -> None:
    side = min(1 << z, 16)
    left, top = (data.draw(st.integers(0, ((1 << z) - side) // side)) * side for _ in range(2))
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(left, left + side), np.arange(top, top + side)))
    index = grid.hilbert_indices(z, x, y)
    order = np.argsort(index)
    steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
    assert (np.diff(index[order].astype(np.int64)) == 1).all(), "a square is one stretch of the curve"
    assert (steps == 1).all()


@given(st.floats(-2e7, 2e7), st.floats(-2e7, 2e7), st.floats(1, 1e6), st.floats(1, 1e6))
def test_a_box_intersects_itself_and_not_its_neighbours(
    x: float, y: float, width: float, height: float
) -> None:
    box = XYBounds(x, y, x + width, y + height)
    assert box.intersects(box)
    assert not box.intersects(XYBounds(box.right, y, box.right + width, y + height))
    assert not box.intersects(XYBounds(x, box.top, box.right, box.top + height))


def test_a_box_across_the_antimeridian_has_two_parts() -> None:
    assert XYBounds(1, 2, 3, 4).parts() == [XYBounds(1, 2, 3, 4)]
    west, east = XYBounds(1.9e7, -1, -1.9e7, 1).parts()
    assert (west.left, west.right) == (1.9e7, HALF_WORLD_M)
    assert (east.left, east.right) == (-HALF_WORLD_M, -1.9e7)
