"""Sampling, averaging and halving of arrays, against GDAL and plain numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from fusi_pipeline.tiles import resample
from fusi_pipeline.tiles.resample import Lattice
from tests import rasters

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

Heights = npt.NDArray[np.float32]
POINT_METHODS = {
    "nearest": Resampling.nearest,
    "bilinear": Resampling.bilinear,
    "cubic": Resampling.cubic,
    "cubicspline": Resampling.cubic_spline,
}
SOURCE = rasters.terrain(40, 50).astype(np.float32)
HOLED = np.where(rasters.hole(40, 50, share=0.15), np.nan, SOURCE).astype(np.float32)


def linear(
    rows: int, cols: int, left: float, top: float, step_x: float, step_y: float, spacing: int = 16
) -> Lattice:
    """Return a lattice of evenly spaced coordinates."""
    count_x, count_y = 2 * -(-cols // (2 * spacing)) + 1, 2 * -(-rows // (2 * spacing)) + 1
    x, y = np.meshgrid(
        left + np.arange(float(count_x)) * spacing * step_x,
        top + np.arange(float(count_y)) * spacing * step_y,
    )
    return Lattice(spacing, x, y)


def sampled(
    source: Heights,
    rows: int,
    cols: int,
    lattice: Lattice,
    method: str,
    *,
    period: float = 0.0,
    threads: int = 1,
) -> Heights:
    out = np.full((rows, cols), np.nan, np.float32)
    resample.sample(source, lattice, method, out, period=period, threads=threads)
    return out


def gdal(
    source: Heights, rows: int, cols: int, place: tuple[float, float, float, float], kind: Resampling
) -> Heights:
    """Return the same from GDAL: `place` is (left, top, step_x, step_y) in source pixels."""
    left, top, step_x, step_y = place
    out = np.full((rows, cols), np.nan, np.float32)
    unit = Affine(100, 0, 0, 0, -100, 0)
    reproject(
        source, out, src_transform=unit, src_crs="EPSG:3857", src_nodata=np.nan,
        dst_transform=unit @ Affine.translation(left, top) @ Affine.scale(step_x, step_y),
        dst_crs="EPSG:3857", dst_nodata=np.nan, resampling=kind, XSCALE=1, YSCALE=1,
    )  # fmt: skip
    return out


PLACES = {
    "shifted": (3.3, 5.6, 1.0, 1.0),
    "twice as fine": (1.1, 2.2, 0.5, 0.5),
    "uneven": (-2.7, -3.1, 0.37, 0.83),
    "beyond every edge": (-5.3, -4.2, 0.9, 0.8),
}


@pytest.mark.parametrize("source", [SOURCE, HOLED], ids=["whole", "with a hole"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", POINT_METHODS)
def test_agrees_with_gdal(source: Heights, method: str, place: str) -> None:
    ours = sampled(source, 70, 75, linear(70, 75, *PLACES[place]), method)
    theirs = gdal(source, 70, 75, PLACES[place], POINT_METHODS[method])
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("method", [*POINT_METHODS, "average"])
def test_the_source_at_its_own_coordinates_is_itself(method: str) -> None:
    same = sampled(HOLED, 40, 50, linear(40, 50, 0, 0, 1, 1), method)
    np.testing.assert_array_equal(np.isnan(same), np.isnan(HOLED))
    if method != "cubicspline":  # which smooths
        np.testing.assert_allclose(same, HOLED, atol=1e-4)


@pytest.mark.parametrize("method", POINT_METHODS)
def test_a_result_is_valid_where_the_pixel_that_holds_the_coordinate_is(method: str) -> None:
    step, left, top = 0.31, 0.07, 0.11
    ours = sampled(HOLED, 120, 150, linear(120, 150, left, top, step, step), method)
    rows = np.floor(top + (np.arange(120) + 0.5) * step).astype(int)
    cols = np.floor(left + (np.arange(150) + 0.5) * step).astype(int)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(HOLED[np.ix_(rows, cols)]))


@pytest.mark.parametrize("method", [*POINT_METHODS, "average"])
def test_no_result_leaves_the_range_of_a_constant(method: str) -> None:
    flat = np.where(np.isnan(HOLED), np.nan, 123.25).astype(np.float32)
    ours = sampled(flat, 60, 60, linear(60, 60, -1.7, -2.1, 0.77, 0.69), method)
    np.testing.assert_allclose(ours[~np.isnan(ours)], 123.25, atol=1e-4)


def areas(source: Heights, place: tuple[float, float, float, float], rows: int, cols: int) -> Heights:
    """Return means weighted by the share of each valid pixel under a footprint."""
    left, top, step_x, step_y = place

    def shares(start: float, step: float, count: int, size: int) -> npt.NDArray[np.float64]:
        edges = start + np.arange(count + 1) * step
        low, high = edges[:-1, None], edges[1:, None]
        at = np.arange(size)[None, :]
        return np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)

    down, across = shares(top, step_y, rows, source.shape[0]), shares(left, step_x, cols, source.shape[1])
    valid = ~np.isnan(source)
    weight = down @ valid.astype(np.float64) @ across.T
    total = down @ np.where(valid, source, 0).astype(np.float64) @ across.T
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.nan).astype(np.float32)


@pytest.mark.parametrize("source", [SOURCE, HOLED], ids=["whole", "with a hole"])
@pytest.mark.parametrize(
    "place", [(0.0, 0.0, 2.0, 2.0), (-3.1, -2.2, 3.7, 2.9), (5.25, 1.5, 1.3, 6.1), (2, 2, 0.4, 0.4)]
)
def test_an_average_weighs_pixels_by_their_area(
    source: Heights, place: tuple[float, float, float, float]
) -> None:
    ours = sampled(source, 20, 24, linear(20, 24, *place), "average")
    wanted = areas(source, place, 20, 24)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(wanted))
    np.testing.assert_allclose(ours, wanted, atol=1e-3)


@pytest.mark.parametrize("method", [*POINT_METHODS, "average"])
def test_only_missing_pixels_are_filled(method: str) -> None:
    out = np.full((30, 30), np.nan, np.float32)
    out[5:9, 3:20] = -77
    resample.sample(SOURCE, linear(30, 30, 1, 1, 1, 1), method, out)
    assert (out[5:9, 3:20] == -77).all()
    assert not np.isnan(out).any()


@pytest.mark.parametrize("method", [*POINT_METHODS, "average"])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_do_not_change_a_result(method: str, threads: int) -> None:
    lattice = linear(61, 75, -1.3, -2.2, 0.71, 0.66)
    np.testing.assert_array_equal(
        sampled(HOLED, 61, 75, lattice, method, threads=threads), sampled(HOLED, 61, 75, lattice, method)
    )


@pytest.mark.parametrize("method", [*POINT_METHODS, "average"])
def test_a_window_of_an_array_is_filled_and_nothing_beside_it(method: str) -> None:
    whole = np.full((50, 60), np.nan, np.float32)
    lattice = linear(20, 30, 2.2, 3.3, 0.9, 0.9)
    resample.sample(SOURCE, lattice, method, whole[10:30, 20:50])
    np.testing.assert_array_equal(whole[10:30, 20:50], sampled(SOURCE, 20, 30, lattice, method))
    whole[10:30, 20:50] = np.nan
    assert np.isnan(whole).all()


@pytest.mark.parametrize("method", [*POINT_METHODS, "average"])
@pytest.mark.parametrize("turns", [-1, 1])
def test_columns_wrap_round_the_world(method: str, turns: int) -> None:
    world = 200.0
    here = linear(30, 40, 4.2, 3.3, 0.9, 0.9)
    there = Lattice(here.spacing, here.x + turns * world, here.y)
    np.testing.assert_allclose(
        sampled(SOURCE, 30, 40, there, method, period=world),
        sampled(SOURCE, 30, 40, here, method, period=world), atol=1e-4,
    )  # fmt: skip


@pytest.mark.parametrize("period", [0.0, 400.0])
def test_an_average_at_the_edge_takes_what_is_inside_whether_columns_wrap_or_not(period: float) -> None:
    place = (-0.9, 0.0, 1.3, 2.0)
    ours = sampled(SOURCE, 10, 41, linear(10, 41, *place), "average", period=period)
    np.testing.assert_allclose(ours, areas(SOURCE, place, 10, 41), atol=1e-3)


def test_coordinates_that_are_nowhere_give_nothing() -> None:
    lattice = linear(20, 20, 1, 1, 1, 1)
    nowhere = Lattice(lattice.spacing, np.full_like(lattice.x, np.inf), lattice.y)
    for method in POINT_METHODS:
        assert np.isnan(sampled(SOURCE, 20, 20, nowhere, method)).all()


@given(
    arrays.arrays(np.float64, (2, 6), elements=st.floats(-50, 50)),
    st.sampled_from([1, 2, 8, 32]),
    st.integers(0, 2**32 - 1),
)
def test_a_lattice_is_exact_for_quadratics(terms: npt.NDArray[np.float64], spacing: int, seed: int) -> None:
    def value(which: int, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        a, b, c, d, e, f = terms[which]
        u, v = u / 100, v / 100
        return a + b * u + c * v + d * u * v + e * u * u + f * v * v

    corners = np.meshgrid(np.arange(7.0) * spacing, np.arange(5.0) * spacing)
    lattice = Lattice(spacing, value(0, *corners), value(1, *corners))
    chance = np.random.default_rng(seed)
    cols, rows = chance.uniform(0, 6 * spacing, 50), chance.uniform(0, 4 * spacing, 50)
    x, y = lattice.at(cols, rows)
    np.testing.assert_allclose(x, value(0, cols, rows), atol=1e-8)
    np.testing.assert_allclose(y, value(1, cols, rows), atol=1e-8)


def test_sampling_uses_the_coordinates_of_the_lattice() -> None:
    ramp = np.tile(np.arange(200, dtype=np.float32), (200, 1))
    corners = np.meshgrid(np.arange(9.0) * 8, np.arange(9.0) * 8)
    bent = Lattice(8, 3 + corners[0] + corners[0] ** 2 / 300 + corners[1] / 9, 5 + corners[1] * 1.1)
    rows, cols = np.mgrid[0:64, 0:64] + 0.5
    x, _ = bent.at(cols.ravel(), rows.ravel())
    ours = sampled(ramp, 64, 64, bent, "bilinear")
    np.testing.assert_allclose(ours, x.reshape(64, 64) - 0.5, atol=1e-3)


halvable = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: arrays.arrays(
        np.float32, (2 * shape[0], 2 * shape[1]),
        elements=st.one_of(st.floats(-11000, 9000, width=32), st.just(float("nan"))),
    )
)  # fmt: skip


@given(halvable)
def test_halving_is_the_mean_of_the_valid_pixels(heights: Heights) -> None:
    squares = heights.astype(np.float64).reshape(heights.shape[0] // 2, 2, heights.shape[1] // 2, 2)
    known = (~np.isnan(squares)).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        wanted = np.nansum(squares, axis=(1, 3)) / known
    ours = resample.halve(heights)
    np.testing.assert_array_equal(np.isnan(ours), known == 0)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-4)


def test_halving_takes_windows_of_larger_arrays() -> None:
    np.testing.assert_array_equal(
        resample.halve(SOURCE[4:20, 6:30]), resample.halve(SOURCE[4:20, 6:30].copy())
    )


@given(st.sampled_from([2, 4, 8, 16]), st.integers(0, 3), st.integers(0, 3))
def test_enlarged_squares_side_by_side_are_one_enlarged_square(factor: int, row: int, col: int) -> None:
    size = 32
    side = size / factor

    def part(i: int, j: int) -> Heights:
        return resample.enlarge(SOURCE, factor, 4 + j * side, 3 + i * side, size, "bilinear")

    whole = resample.enlarge(SOURCE, factor, 4 + col * side, 3 + row * side, 2 * size, "bilinear")
    parts = np.block([[part(row, col), part(row, col + 1)], [part(row + 1, col), part(row + 1, col + 1)]])
    np.testing.assert_allclose(parts, whole, atol=1e-3)


@pytest.mark.parametrize("factor", [2, 4, 64])
def test_an_enlarged_plane_is_the_plane(factor: int) -> None:
    plane = rasters.plane(20, 20, corner_m=0, east_m=3, south_m=-2).astype(np.float32)
    ours = resample.enlarge(plane, factor, 2.0, 3.0, 128, "bilinear")
    at = (np.arange(128) + 0.5) / factor
    x, y = 2 + at[None, :] - 0.5, 3 + at[:, None] - 0.5
    inside = (x < 19) & (y < 19)
    np.testing.assert_allclose(ours[inside], (3 * x - 2 * y)[inside], atol=1e-3)
