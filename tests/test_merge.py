"""Laws of merging arrays, on any arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusi_pipeline import merge

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

Heights = npt.NDArray[np.float32]
SHAPE = (3, 4)
PLAIN_MODES = ("priority", "max", "min", "mean")

heights = arrays.arrays(
    np.float32,
    SHAPE,
    elements=st.one_of(
        st.just(np.float32("nan")),
        st.sampled_from([0.0, -0.0, -430.5, 8848.0]),
        st.floats(-11000, 9000, width=32),
    ),
)
stacks = st.lists(heights, min_size=1, max_size=5)


@given(heights, st.sampled_from(PLAIN_MODES))
def test_one_layer_merged_is_itself(layer: Heights, mode: str) -> None:
    np.testing.assert_array_equal(merge.combined([layer], mode).heights, layer)


@given(heights, st.sampled_from(PLAIN_MODES), st.integers(2, 4))
def test_a_layer_merged_with_itself_is_itself(layer: Heights, mode: str, times: int) -> None:
    np.testing.assert_array_equal(merge.combined([layer] * times, mode).heights, layer)


@given(stacks, st.sampled_from(PLAIN_MODES))
def test_a_pixel_is_missing_only_where_it_is_missing_in_every_layer(stack: list[Heights], mode: str) -> None:
    everywhere = np.isnan(np.stack(stack)).all(axis=0)
    np.testing.assert_array_equal(np.isnan(merge.combined(stack, mode).heights), everywhere)


@given(stacks)
def test_priority_takes_each_pixel_from_the_first_layer_that_has_it(stack: list[Heights]) -> None:
    merged = merge.combined(stack, "priority").heights
    for at in np.ndindex(SHAPE):
        known = [layer[at] for layer in stack if not np.isnan(layer[at])]
        if known:
            assert merged[at] == known[0]


@given(stacks)
def test_max_min_and_mean_are_those_of_the_valid_pixels(stack: list[Heights]) -> None:
    found = {mode: merge.combined(stack, mode).heights for mode in ("max", "min", "mean")}
    for at in np.ndindex(SHAPE):
        known = [float(layer[at]) for layer in stack if not np.isnan(layer[at])]
        if known:
            assert found["max"][at] == max(known)
            assert found["min"][at] == min(known)
            assert found["mean"][at] == np.float32(sum(known) / len(known))


@given(stacks, st.randoms(use_true_random=False), st.sampled_from(["max", "min"]))
def test_the_order_of_layers_matters_to_priority_only(
    stack: list[Heights], chance: object, mode: str
) -> None:
    shuffled = list(stack)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(merge.combined(stack, mode).heights, merge.combined(shuffled, mode).heights)


@given(stacks, st.sampled_from(PLAIN_MODES))
def test_layers_are_not_written_to(stack: list[Heights], mode: str) -> None:
    before = [layer.copy() for layer in stack]
    merge.combined(stack, mode).heights[:] = 1
    for layer, kept in zip(stack, before, strict=True):
        np.testing.assert_array_equal(layer, kept)


def test_layers_below_a_complete_one_are_not_asked_for() -> None:
    asked = []

    def layers() -> Iterator[Heights]:
        for number, layer in enumerate((np.array([1, np.nan]), np.array([2, 2]), np.array([3, 3]))):
            asked.append(number)
            yield layer.astype(np.float32)

    np.testing.assert_array_equal(merge.filled(layers()).heights, [1, 2])
    assert asked == [0, 1]


def test_nothing_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="no layers"):
        merge.filled([])


def test_an_unknown_mode_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'median'.*priority, max, min, mean"):
        merge.combined([np.zeros(SHAPE, np.float32)], "median")
