"""What holds between tiles, on arrays with a known answer."""

from __future__ import annotations

import io
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusi_pipeline import tile_laws
from fusi_pipeline.overview import encode_tile
from fusi_pipeline.tiles import terrarium, webp
from fusi_pipeline.tiles.image import decode_webp, encode_webp
from fusi_pipeline.tiles.resample import enlarge, halve
from tests import rasters

Heights = npt.NDArray[np.float32]
SIZE = 512


def rounded(heights: Heights, z: int) -> Heights:
    """Return heights as a tile of a zoom has them."""
    data = encode_tile(heights, z)
    assert data is not None
    return terrarium.decode(decode_webp(data))


@cache
def ground(phase: float = 0.0, relief_m: float = 300.0) -> Heights:
    return rasters.terrain(2 * SIZE, 2 * SIZE, phase=phase, relief_m=relief_m).astype(np.float32)


@given(
    phase=st.sampled_from([0.0, 1.0, 2.0]),
    z=st.integers(5, 18),
    share=st.floats(0, 0.9),
    base=st.floats(-4000, 8000),
)
@settings(deadline=None, max_examples=15)
def test_the_rounded_mean_is_within_the_bound_of_the_rounded_children(
    phase: float, z: int, share: float, base: float
) -> None:
    child = ground(phase)[:SIZE, :SIZE] + np.float32(base)
    child[rasters.hole(SIZE, SIZE, share=share)] = np.nan
    parent = np.full((SIZE, SIZE), np.nan, dtype=np.float32)
    parent[:256, :256] = halve(child)
    quarter, below = rounded(parent, z)[:256, :256], rounded(child, z + 1)
    like = tile_laws.likeness(quarter, below, tile_laws.bound_m(terrarium.step_m(z), terrarium.step_m(z + 1)))
    assert like.within == like.compared == np.isfinite(quarter).sum()
    assert tile_laws.missing_differs(quarter, below) == 0


def test_a_parent_off_by_more_than_the_bound_is_told_by_how_much_and_where() -> None:
    child = rounded(ground()[:SIZE, :SIZE], 13)
    quarter = halve(child)
    quarter[17, 40] += 9
    like = tile_laws.likeness(quarter, child, 0.5)
    assert (like.compared, like.within, like.worst) == (256**2, 256**2 - 1, (17, 40))
    assert like.largest_m == pytest.approx(9, abs=1e-3)
    moved = tile_laws.likeness(quarter + np.float32(5), child, 0.5)
    assert moved.shift_m == pytest.approx(5, abs=1e-3)
    assert moved.spread_m < 0.01
    assert moved.total_m / moved.uneven == pytest.approx(5, abs=0.01)
    assert tile_laws.likeness(quarter, child, 0.5, np.zeros((256, 256), dtype=bool)).compared == 0


ALL = np.ones((256, 256), dtype=bool)


def test_what_lies_within_its_children_does_not_stray() -> None:
    child = ground()[:SIZE, :SIZE]
    least, most = (
        function([child[row::2, col::2] for row in (0, 1) for col in (0, 1)])
        for function in (np.minimum.reduce, np.maximum.reduce)
    )
    for quarter in (least, most, halve(child)):
        stray = tile_laws.straying(quarter, child, ALL)
        assert stray is not None
        assert (stray.pixels, stray.beyond_m) == (256**2, 0)
    stray = tile_laws.straying(most + np.float32(30), child, ALL)
    assert stray is not None
    assert stray.beyond_m == pytest.approx(30, abs=1e-3)
    assert stray.shift_m > 30
    assert tile_laws.straying(most, child, ~ALL) is None
    assert tile_laws.straying(most, np.full_like(child, np.nan), ALL) is None


@given(apart_m=st.floats(5, 200), width_px=st.integers(20, 400), late_px=st.floats(0, 1.5))
@settings(deadline=None, max_examples=20)
def test_shares_that_differ_explain_the_heights_that_differ(
    apart_m: float, width_px: int, late_px: float
) -> None:
    """Two level sources blended along a band, which begins a little later in the parent."""

    def share(columns: npt.NDArray[Any]) -> Heights:
        t = np.clip(columns / width_px, 0, 1)
        return np.broadcast_to((1 - t * t * (3 - 2 * t)).astype(np.float32), (len(columns), len(columns)))

    below = share(np.arange(SIZE) + 0.5)
    above = share(2 * np.arange(256) + 1 - late_px)
    child, quarter = (np.float32(100) - np.float32(apart_m) * one for one in (below, above))
    band = ALL & (np.arange(256) < width_px // 2)
    slack = tile_laws.blend_slack_m(child, above, below, band)
    assert slack >= np.median(np.abs(quarter - halve(child))[band]) - 1e-3
    assert slack <= apart_m * (2 * late_px / width_px * 1.5 + 0.02)
    assert tile_laws.blend_slack_m(child, above, below, ~ALL) == 0


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_detail_is_told_from_what_was_enlarged(levels: int) -> None:
    rough = np.random.default_rng(7).normal(500, 60, (64, 64)).astype(np.float32)
    enlarged = enlarge(rough, 1 << levels, 8, 8, min(SIZE, 40 << levels), "bilinear")
    for line in (enlarged[3], enlarged[:, 9]):
        assert not tile_laws.is_detailed(np.round(line / 0.25) * np.float32(0.25), 0.25)
    assert tile_laws.is_detailed(np.random.default_rng(8).normal(500, 3, SIZE).astype(np.float32), 0.25)
    assert not tile_laws.is_detailed(np.arange(SIZE, dtype=np.float32) * 7, 0.25)


def test_missing_pixels_are_those_of_all_four_children() -> None:
    child = np.zeros((SIZE, SIZE), dtype=np.float32)
    child[0:2, 0:2] = np.nan
    child[2:4, 2:3] = np.nan
    quarter = halve(child)
    assert tile_laws.missing_differs(quarter, child) == 0
    quarter[0, 0], quarter[9, 9] = 1, np.nan
    assert tile_laws.missing_differs(quarter, child) == 2
    assert tile_laws.missing_differs(quarter, None) == 256**2 - 1


def sides(left: Heights, right: Heights) -> tuple[Heights, Heights]:
    return tile_laws.edge(left, "right"), tile_laws.edge(right, "left")


@pytest.mark.parametrize("relief_m", [0.0, 20.0, 300.0, 2000.0])
@pytest.mark.parametrize("z", [9, 13, 16])
def test_tiles_of_one_ground_meet_in_both_directions(relief_m: float, z: int) -> None:
    heights = rounded(ground(relief_m=relief_m), z)
    quarters = [heights[:SIZE, :SIZE], heights[:SIZE, SIZE:], heights[SIZE:, :SIZE]]
    for found in (
        tile_laws.border(*sides(quarters[0], quarters[1]), terrarium.step_m(z)),
        tile_laws.border(
            tile_laws.edge(quarters[0], "bottom"), tile_laws.edge(quarters[2], "top"), terrarium.step_m(z)
        ),
    ):
        assert found is not None
        assert not found.stands_out
        assert found.rows == SIZE
        assert found.across_m <= 2 * found.inside_m + SIZE * terrarium.step_m(z)


@pytest.mark.parametrize("shift_m", [5.0, -5.0])
def test_a_shifted_tile_stands_out_by_its_shift(shift_m: float) -> None:
    heights = rounded(ground(relief_m=100), 13)
    found = tile_laws.border(*sides(heights[:SIZE, :SIZE], heights[:SIZE, SIZE:] + np.float32(shift_m)), 0.25)
    assert found is not None
    assert found.stands_out
    assert found.jump_m == pytest.approx(shift_m, abs=0.6)


def test_a_tile_of_another_place_stands_out() -> None:
    one, other = ground(), ground(phase=2.0)
    found = tile_laws.border(*sides(one[:SIZE, :SIZE], other[:SIZE, SIZE:]), 0.25)
    assert found is not None
    assert found.stands_out


def test_a_plane_meets_itself_however_steep_and_a_border_of_few_pixels_is_not_judged() -> None:
    heights = rasters.plane(SIZE, 2 * SIZE, east_m=80, south_m=-30).astype(np.float32)
    left, right = sides(heights[:, :SIZE], heights[:, SIZE:])
    found = tile_laws.border(left, right, 1.0)
    assert found is not None
    assert not found.stands_out
    assert found.across_m == pytest.approx(found.inside_m)
    few = np.zeros(SIZE, dtype=bool)
    few[:20] = True
    assert tile_laws.border(left, right, 1.0, few) is None


def test_edges_begin_at_the_border() -> None:
    pixels = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    for side, outermost in (
        ("left", pixels[:, 0]),
        ("right", pixels[:, -1]),
        ("top", pixels[0]),
        ("bottom", pixels[-1]),
    ):
        lines = tile_laws.edge(pixels, side)
        assert lines.shape == (SIZE, 3)
        assert np.array_equal(lines[:, 0], outermost)


@given(
    row=st.integers(0, SIZE - 3),
    col=st.integers(0, SIZE - 3),
    size=st.integers(1, 2),
    excess=st.sampled_from([-400.0, 300.0, 5000.0]),
    steep=st.floats(0, 8),
)
@settings(deadline=None, max_examples=25)
def test_a_pixel_or_a_small_group_that_sticks_out_is_found(
    row: int, col: int, size: int, excess: float, steep: float
) -> None:
    heights = rasters.plane(SIZE, SIZE, east_m=steep, south_m=-steep / 2).astype(np.float32)
    assert tile_laws.spikes(heights, 10) == []
    heights[row : row + size, col : col + size] += np.float32(excess)
    ((found_row, found_col, found),) = tile_laws.spikes(heights, 10)
    assert row <= found_row < row + size
    assert col <= found_col < col + size
    assert found == pytest.approx(excess, abs=40)


def test_summits_and_rough_ground_are_no_spikes() -> None:
    assert tile_laws.spikes(rasters.cone(SIZE, SIZE, slope_m=9).astype(np.float32), 10) == []
    assert tile_laws.spikes(ground()[:SIZE, :SIZE], 10) == []
    noise = np.random.default_rng(1).normal(0, 300, (SIZE, SIZE)).astype(np.float32)
    assert tile_laws.spikes(noise, 10) == []
    assert tile_laws.spikes(np.full((SIZE, SIZE), np.nan, dtype=np.float32), 10) == []


def test_heights_of_no_place_on_earth_are_told_and_missing_ones_are_not() -> None:
    heights = np.array([[-11_200, -10_900, np.nan, 8_848, 8_950]], dtype=np.float32)
    assert tile_laws.beyond_earth(heights).tolist() == [[True, False, False, False, True]]


# -- WebP


def picture(channels: int = 3, **options: Any) -> bytes:
    pixels = np.random.default_rng(2).integers(0, 256, (40, 30, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return buffer.getvalue()


def test_the_chunks_of_a_webp_are_read() -> None:
    plain = webp.facts(encode_webp(np.zeros((40, 30, 3), dtype=np.uint8)))
    assert (plain.chunks, plain.width, plain.height, plain.alpha) == (("VP8L",), 30, 40, False)
    assert plain.lossless
    assert webp.facts(picture(4, lossless=True)).alpha
    assert not webp.facts(picture(quality=50)).lossless
    profiled = webp.facts(picture(lossless=True, icc_profile=b"x" * 33, exif=b"Exif\0\0" + bytes(20)))
    assert profiled.chunks == ("VP8X", "ICCP", "VP8L", "EXIF")
    assert profiled.lossless


@given(cut=st.integers(1, 400), extra=st.binary(max_size=3))
def test_a_webp_that_does_not_fill_its_bytes_is_refused(cut: int, extra: bytes) -> None:
    whole = picture(lossless=True, exif=b"Exif\0\0" + bytes(20))
    with pytest.raises(webp.WebPInvalid):
        webp.facts(whole[:-cut])
    if extra:
        with pytest.raises(webp.WebPInvalid):
            webp.facts(whole + extra)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_webp_or_a_named_error(data: bytes) -> None:
    for some in (data, b"RIFF" + len(data).to_bytes(4, "little") + b"WEBP" + data):
        with suppress(webp.WebPInvalid):
            webp.facts(some)
