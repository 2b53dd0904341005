from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fusi_pipeline.errors import UsageError
from layer_generation.errors import QuadrantsInvalid
from layer_generation.plan import LIMIT, Plan, extend, plan
from layer_generation.plan_cells import cells_of, islands, sorted_positions
from tests.plan_checker import faults, fewest_blocks

Quadrants = NDArray[np.int64]


def rectangle(width: int, height: int, x: int = 0, y: int = 0) -> Quadrants:
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([columns.ravel() + x, rows.ravel() + y], axis=1)


def disc(radius: int) -> Quadrants:
    square = rectangle(2 * radius + 1, 2 * radius + 1, -radius, -radius)
    return square[(square**2).sum(axis=1) <= radius**2]


def punched(side: int, share: float, seed: int) -> Quadrants:
    square = rectangle(side, side)
    return square[np.random.default_rng(seed).random(len(square)) >= share]


def ring(outer: int, inner: int) -> Quadrants:
    whole = disc(outer)
    return whole[(whole**2).sum(axis=1) > inner**2]


def checkerboard(side: int, square: int) -> Quadrants:
    whole = rectangle(side, side)
    return whole[(whole // square).sum(axis=1) % 2 == 0]


def staircase(length: int) -> Quadrants:
    step = np.arange(length)
    return np.stack([(step + 1) // 2, step // 2], axis=1)


def assert_same(one: Plan, two: Plan) -> None:
    for name in ("step", "wave", "x", "y", "width", "height", "extension", "waits_for"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert one.reason == two.reason
    assert one.summary == two.summary


SHAPES: dict[str, Quadrants] = {
    "one": rectangle(1, 1),
    "two": rectangle(2, 1),
    "square": rectangle(2, 2),
    "row": rectangle(17, 1),
    "column": rectangle(1, 16),
    "two wide": rectangle(2, 13),
    "L": np.concatenate([rectangle(4, 15), rectangle(13, 5, 4, 10)]),
    "cross": np.concatenate([rectangle(20, 5, -8, 7), rectangle(4, 7), rectangle(4, 9, 0, 12)]),
    "ring": ring(12, 6),
    "thin ring": ring(9, 8),
    "checkerboard": checkerboard(12, 1),
    "checkerboard of 2": checkerboard(12, 2),
    "checkerboard of 3": checkerboard(12, 3),
    "staircase": staircase(30),
    "wide staircase": np.unique(np.concatenate([staircase(30), staircase(30) + np.array([1, 0])]), axis=0),
    "comb": np.concatenate([rectangle(21, 2), *(rectangle(1, 6, x, 2) for x in range(0, 21, 2))]),
    "comb of 2": np.concatenate([rectangle(21, 2), *(rectangle(2, 6, x, 2) for x in range(0, 21, 3))]),
    "dumb-bell": np.concatenate([rectangle(14, 14), rectangle(14, 3, 14, 5), rectangle(14, 14, 28, 1)]),
    "far apart": np.concatenate([rectangle(5, 5, -LIMIT, LIMIT - 4), rectangle(4, 7, LIMIT - 3, -LIMIT)]),
    "islands": np.concatenate([rectangle(4, 4, 7 * i, 6 * (i % 3)) for i in range(6)]),
    "touching corners": np.concatenate([rectangle(5, 5), rectangle(5, 5, 5, 5), rectangle(3, 3, 10, 2)]),
    "disc": disc(12),
    "few holes": punched(30, 0.02, 3),
    "holes": punched(24, 0.1, 1),
    "many holes": punched(24, 0.3, 2),
    "dust": punched(24, 0.6, 4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_rule_holds_whatever_the_shape(name: str) -> None:
    assert faults(plan(SHAPES[name]), SHAPES[name].tolist()) == []


positions = st.tuples(st.integers(-9, 9), st.integers(-9, 9))
boxes = st.tuples(positions, st.integers(1, 9), st.integers(1, 9))


@st.composite
def maps(draw: st.DrawFn) -> Quadrants:
    """Boxes laid together, then single quadrants struck out or set beside them."""
    parts = [rectangle(w, h, *at) for at, w, h in draw(st.lists(boxes, min_size=1, max_size=4))]
    held = {tuple(position) for position in np.concatenate(parts).tolist()}
    held ^= set(draw(st.lists(positions, max_size=12)))
    return np.array(sorted(held), dtype=np.int64).reshape(-1, 2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(maps())
def test_every_rule_holds_on_random_maps(quadrants: Quadrants) -> None:
    assert faults(plan(quadrants), quadrants.tolist()) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(maps(), maps(), maps())
def test_extensions_keep_the_blocks_and_every_rule(one: Quadrants, two: Quadrants, three: Quadrants) -> None:
    before = plan(one)
    after = extend(extend(before, two), three)
    assert faults(after, np.concatenate([one, two, three]).tolist()) == []
    count = len(before)
    for name in ("step", "wave", "x", "y", "width", "height"):
        assert np.array_equal(getattr(after, name)[:count], getattr(before, name))
    assert np.array_equal(after.waits_for[: len(before.waits_for)], before.waits_for)
    assert {number: why for number, why in after.reason.items() if number < count} == before.reason


@settings(max_examples=20, deadline=None)
@given(maps(), st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_order_repeats_and_place_do_not_matter(quadrants: Quadrants, dx: int, dy: int) -> None:
    shuffled = np.concatenate([quadrants, quadrants[::3]])
    shuffled = shuffled[np.random.default_rng(5).permutation(len(shuffled))]
    first = plan(quadrants)
    assert_same(first, plan(shuffled))
    if len(quadrants):
        moved = plan(quadrants + np.array([dx, dy]))
        assert np.array_equal(moved.x - dx, first.x)
        assert np.array_equal(moved.y - dy, first.y)
        assert np.array_equal(moved.waits_for, first.waits_for)


@pytest.mark.parametrize(
    ("quadrants", "calls"),
    [
        (rectangle(60, 60), 1600),
        (rectangle(10, 10), 49),
        (rectangle(7, 7), 25),
        (rectangle(4, 4), 9),
        (rectangle(3, 3), 4),
        (rectangle(2, 2), 1),
        (rectangle(59, 59), 1521),
    ],
)
def test_full_maps_take_the_calls_of_the_square_lattice(quadrants: Quadrants, calls: int) -> None:
    assert plan(quadrants).summary.calls == calls


@pytest.mark.parametrize(("radius", "size", "known"), [(12, 441, 208), (20, 1257, 583), (60, 11289, 5091)])
def test_discs_take_fewer_calls_than_bands_with_a_phase_for_each_run(
    radius: int, size: int, known: int
) -> None:
    quadrants = disc(radius)
    assert len(quadrants) == size
    summary = plan(quadrants).summary
    assert summary.calls < known
    assert summary.calls < 1.12 * summary.lower_bound


@pytest.mark.parametrize("seed", range(4))
def test_a_map_with_two_percent_holes_stays_near_the_lattice(seed: int) -> None:
    assert plan(punched(60, 0.02, seed)).summary.calls_per_quadrant < 0.465


@pytest.mark.parametrize("side", [2, 5, 8, 29, 62])
def test_the_bound_is_reached_on_squares_of_whole_lattices(side: int) -> None:
    summary = plan(rectangle(side, side)).summary
    assert summary.calls == summary.lower_bound == ((2 * side - 1) // 3) ** 2


@pytest.mark.parametrize(
    "quadrants",
    [
        rectangle(3, 3),
        rectangle(4, 4),
        rectangle(5, 3),
        rectangle(4, 5),
        rectangle(5, 5),
        np.concatenate([rectangle(2, 5), rectangle(3, 2, 2, 3)]),
        np.concatenate([rectangle(5, 2), rectangle(2, 3, 0, 2), rectangle(2, 3, 3, 2)]),
    ],
)
def test_small_maps_take_as_few_calls_as_any_plan(quadrants: Quadrants) -> None:
    summary = plan(quadrants).summary
    assert summary.lower_bound <= fewest_blocks(quadrants.tolist()) == summary.calls


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=4))
def test_nothing_is_below_the_bound(corners: list[tuple[int, int]]) -> None:
    quadrants = np.unique(np.concatenate([rectangle(2, 2, *corner) for corner in corners]), axis=0)
    try:
        fewest = fewest_blocks(quadrants.tolist())
    except ValueError:
        return  # no plan is legal throughout, as on two squares that touch by half a side
    assert plan(quadrants).summary.lower_bound <= fewest


def test_blocks_without_context_say_why() -> None:
    line = plan(rectangle(5, 1))
    assert line.summary.calls == line.summary.without_context == line.summary.lower_bound == 5
    assert all("no 2x2 quadrants" in why for why in line.reason.values())
    halves = plan(np.concatenate([rectangle(2, 2), rectangle(2, 2, 2, 1)]))
    assert faults(halves, halves.quadrants().tolist()) == []
    assert any("fitted beside" in why for why in halves.reason.values())


def test_a_full_map_needs_few_waves() -> None:
    assert plan(rectangle(60, 60)).summary.waves_per_step == (1, 3, 4)
    assert max(plan(punched(40, 0.3, 7)).summary.waves_per_step) <= 20


def test_an_empty_map_has_an_empty_plan() -> None:
    empty = plan(np.zeros((0, 2), dtype=np.int64))
    assert len(empty) == empty.summary.calls == empty.summary.lower_bound == 0
    assert empty.summary.calls_per_quadrant == 0
    assert extend(empty, []) is empty
    assert_same(extend(empty, rectangle(4, 4)), plan(rectangle(4, 4)))


def test_what_is_covered_already_adds_nothing() -> None:
    before = plan(rectangle(6, 6))
    assert extend(before, rectangle(3, 3, 1, 1)) is before


@pytest.mark.parametrize(
    ("quadrants", "complaint"),
    [
        ([1, 2, 3], "shape"),
        ([[1, 2, 3]], "shape"),
        ([[0.5, 1.0]], "whole numbers"),
        ([[0, LIMIT + 1]], r"quadrant \(0, 1073741825\)"),
        ([[-LIMIT - 1, 0]], "from -1073741824 to 1073741824"),
    ],
)
def test_what_is_no_position_is_refused(quadrants: list[list[float]], complaint: str) -> None:
    with pytest.raises(QuadrantsInvalid, match=complaint) as refused:
        plan(quadrants)
    assert isinstance(refused.value, UsageError)


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6])
def test_islands_are_those_of_an_image(corners: bool, share: float) -> None:
    quadrants = sorted_positions(punched(40, share, 11))
    picture = np.zeros((40, 40), dtype=bool)
    picture[quadrants[:, 1], quadrants[:, 0]] = True
    labels, count = ndimage.label(picture, ndimage.generate_binary_structure(2, 2 if corners else 1))
    found = islands(cells_of(quadrants), corners)
    pairs = set(zip(found.tolist(), labels[quadrants[:, 1], quadrants[:, 0]].tolist(), strict=True))
    assert len(pairs) == count == len(np.unique(found))


def test_what_an_extension_adds_sees_what_was_there() -> None:
    """A row beside a finished map is strips with context, not a map of its own."""
    after = extend(plan(rectangle(8, 8)), rectangle(8, 1, 0, 8))
    added = after.extension == 1
    assert not any(number >= 25 for number in after.reason)
    assert after.step[added].tolist() == [2, 2, 2, 3, 3]
    assert faults(after, after.quadrants().tolist()) == []
