"""Heights to Terrarium pixels and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusi_pipeline.tiles import terrarium

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

Heights = npt.NDArray[np.float32]
ZOOMS = range(24)

heights = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.one_of(
        st.floats(-12000, 9000, width=32), st.sampled_from([0.0, -0.0, -400.0, 8848.0, float("nan")])
    ),
)


def round_trip(elevation_m: Heights, z: int) -> Heights:
    pixels = terrarium.encode(elevation_m, z)
    assert pixels is not None
    return terrarium.decode(pixels)


def nearest_step(elevation_m: Heights, z: int) -> npt.NDArray[np.float64]:
    """Return heights rounded to the zoom's step, ties to even, clamped; NaN where missing."""
    step = terrarium.step_m(z)
    lowest, highest = np.ceil(terrarium.MINIMUM_M / step), np.floor(terrarium.MAXIMUM_M / step)
    return np.clip(np.rint(elevation_m.astype(np.float64) / step), lowest, highest) * step


def test_the_step_is_mapterhorns_and_never_above_a_metre() -> None:
    steps = {z: terrarium.step_m(z) for z in ZOOMS}
    for z, step in steps.items():
        assert step == min(max(2.0 ** (19 - z) / 256, 1 / 256), 1.0)
    assert (steps[0], steps[11], steps[12], steps[17], steps[19]) == (1, 1, 0.5, 4 / 256, 1 / 256)


@given(heights, st.sampled_from(ZOOMS))
def test_a_height_survives_to_the_nearest_step(elevation_m: Heights, z: int) -> None:
    if np.isnan(elevation_m).all():
        assert terrarium.encode(elevation_m, z) is None
        return
    np.testing.assert_array_equal(round_trip(elevation_m, z), nearest_step(elevation_m, z))


@given(heights, st.sampled_from(ZOOMS))
def test_what_was_encoded_once_is_encoded_the_same_again(elevation_m: Heights, z: int) -> None:
    pixels = terrarium.encode(elevation_m, z)
    if pixels is not None:
        again = terrarium.encode(terrarium.decode(pixels), z)
        np.testing.assert_array_equal(again, pixels)


@given(heights, st.sampled_from(ZOOMS))
def test_alpha_is_there_only_where_a_pixel_is_missing(elevation_m: Heights, z: int) -> None:
    pixels = terrarium.encode(elevation_m, z)
    missing = np.isnan(elevation_m)
    if pixels is None:
        assert missing.all()
    elif missing.any():
        assert pixels.shape[2] == 4
        np.testing.assert_array_equal(pixels[..., 3], np.where(missing, 0, 255))
        assert (pixels[missing] == (128, 0, 0, 0)).all()
    else:
        assert pixels.shape[2] == 3


@pytest.mark.parametrize("z", ZOOMS)
def test_sea_polder_and_summit_are_exact_at_every_zoom(z: int) -> None:
    known = np.array([[0, -400, 8848, -1, 1]], np.float32)
    np.testing.assert_array_equal(round_trip(known, z), known)


def test_halves_are_rounded_to_the_even_step() -> None:
    halves = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5]], np.float32)
    np.testing.assert_array_equal(round_trip(halves, 5), [[0, 2, 2, 0, -2, -2, 4]])
    np.testing.assert_array_equal(round_trip(halves / 2, 12), np.array([[0, 2, 2, 0, -2, -2, 4]]) / 2)


@pytest.mark.parametrize("z", ZOOMS)
def test_heights_beyond_the_format_are_clamped(z: int) -> None:
    beyond = np.array([[-40000, 40000, -3e38, 3e38]], np.float32)
    low, high, lowest, highest = round_trip(beyond, z)[0]
    assert low == lowest == terrarium.MINIMUM_M
    assert high == highest == 32768 - terrarium.step_m(z)


def test_decoding_is_the_formula_for_every_colour() -> None:
    codes = np.arange(1 << 24, dtype=np.uint32)[:: 1 << 3]
    pixels = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8)[None]
    red, green, blue = (pixels[0, :, channel].astype(np.float64) for channel in range(3))
    exact = red * 256 + green + blue / 256 - 32768
    np.testing.assert_array_equal(terrarium.decode(pixels)[0].astype(np.float64), exact)


def test_decoding_takes_alpha_0_alone_for_missing() -> None:
    pixels = np.array([[[128, 5, 0, 0], [128, 5, 0, 1], [128, 5, 0, 255]]], np.uint8)
    np.testing.assert_array_equal(terrarium.decode(pixels), [[np.nan, 5, 5]])


WHOLE = (np.arange(24 * 40).reshape(24, 40) - 300).astype(np.float32)


@pytest.mark.parametrize(
    "view",
    [
        WHOLE[3:20, 5:31], WHOLE[:, ::2], WHOLE[::3], WHOLE[::-1], WHOLE[:, ::-1], WHOLE.T,
        WHOLE[:1, 4:9], WHOLE[:, :1], np.broadcast_to(WHOLE[0], (5, 40)), np.asfortranarray(WHOLE),
    ],
)  # fmt: skip
def test_windows_of_larger_arrays_are_encoded_as_their_copies(view: Heights) -> None:
    np.testing.assert_array_equal(terrarium.encode(view, 15), terrarium.encode(view.copy(order="C"), 15))
    np.testing.assert_array_equal(round_trip(view, 15), view)


def test_windows_of_larger_pixel_arrays_are_decoded_as_their_copies() -> None:
    pixels = terrarium.encode(WHOLE, 15)
    assert pixels is not None
    np.testing.assert_array_equal(terrarium.decode(pixels[2:9, 3:30]), WHOLE[2:9, 3:30])
    np.testing.assert_array_equal(terrarium.decode(pixels[::-1, ::2]), WHOLE[::-1, ::2])


def test_the_array_given_is_not_written_to() -> None:
    before = WHOLE.copy()
    terrarium.encode(WHOLE, 3)
    np.testing.assert_array_equal(WHOLE, before)
