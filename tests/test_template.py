"""Templates: what shows, where the block lies, what comes back, pixel by pixel."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from layer_generation import template as templates
from layer_generation.endpoints.base import EndpointPermanent, EndpointRetryable
from layer_generation.errors import ImageInvalid
from layer_generation.pictures import Pixels, decoded, png
from layer_generation.plan import extend, plan

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

BLOCKS = [(2, 2), (1, 2), (2, 1), (1, 1)]
NEAR = list(product(range(-2, 4), range(-2, 4)))
finished_sets = st.sets(st.sampled_from(NEAR))


def source(x: int, y: int) -> Pixels:
    """Return a picture in which every pixel of the map is different."""
    rows, cols = np.mgrid[0:512, 0:512]
    return np.stack(
        [(rows + 31 * x) % 199, (cols + 17 * y) % 197, np.full((512, 512), (7 * x + 13 * y) % 100)], axis=-1
    ).astype(np.uint8)


def finished(x: int, y: int) -> Pixels:
    return (255 - source(x, y)).astype(np.uint8)


@given(st.sampled_from(BLOCKS), finished_sets)
def test_a_window_holds_its_block_and_counts_what_it_shows(
    size: tuple[int, int], done: set[tuple[int, int]]
) -> None:
    columns, rows = size
    own = set(product(range(columns), range(rows)))
    done -= own
    placed = templates.place(0, 0, columns, rows, done)
    across, down = placed.block[1], placed.block[0]
    assert 0 <= across.start < across.stop <= placed.width
    assert 0 <= down.start < down.stop <= placed.height
    shown = {
        (qx, qy)
        for qx, qy in product(range(-3, 5), range(-3, 5))
        if qx * 512 < placed.left + placed.width and (qx + 1) * 512 > placed.left
        and qy * 512 < placed.top + placed.height and (qy + 1) * 512 > placed.top
    }  # fmt: skip
    assert set(placed.context) | set(placed.padding) | own == shown
    assert set(placed.context) <= done
    assert not set(placed.padding) & done


@pytest.mark.parametrize(
    ("size", "done", "left", "top"),
    [
        ((2, 2), [], 0, 0),
        ((1, 2), [(-1, 0), (-1, 1), (1, 0), (1, 1)], -256, 0),
        ((1, 2), [(-1, 0), (-1, 1)], -512, 0),
        ((1, 2), [(1, 0), (1, 1)], 0, 0),
        ((2, 1), [(0, -1), (1, -1), (0, 1), (1, 1)], 0, -256),
        ((2, 1), [(0, 1), (1, 1)], 0, 0),
        ((1, 1), [one for one in product((-1, 0, 1), (-1, 0, 1)) if one != (0, 0)], -256, -256),
        ((1, 1), [(-1, 0), (-1, -1), (0, -1)], -512, -512),
        ((1, 1), [(1, 0), (1, 1), (0, 1)], 0, 0),
        ((1, 1), [(-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0)], -256, -512),
    ],
)
def test_a_block_lies_between_its_finished_neighbours(
    size: tuple[int, int], done: list[tuple[int, int]], left: int, top: int
) -> None:
    placed = templates.place(0, 0, *size, done)
    assert (placed.left, placed.top) == (left, top)
    assert placed.seams == 0
    assert placed.padding == ()


def test_a_block_without_finished_neighbours_is_shown_alone() -> None:
    for columns, rows in BLOCKS:
        placed = templates.place(5, -7, columns, rows, [(50, 50)])
        assert (placed.width, placed.height) == (columns * 512, rows * 512)
        assert placed.context == ()


def test_the_template_shows_source_in_the_block_and_finished_pixels_around_it() -> None:
    placed = templates.place(0, 0, 1, 2, [(-1, 0), (-1, 1), (1, 0), (1, 1)])
    made = templates.template(placed, source, finished)
    assert made.image.shape == (1024, 1024, 3)
    np.testing.assert_array_equal(made.image[:512, 256:768], source(0, 0))
    np.testing.assert_array_equal(made.image[512:, 256:768], source(0, 1))
    np.testing.assert_array_equal(made.image[:512, :256], finished(-1, 0)[:, 256:])
    np.testing.assert_array_equal(made.image[512:, 768:], finished(1, 1)[:, :256])
    known = np.ones((1024, 1024), dtype=bool)
    known[:, 256:768] = False
    np.testing.assert_array_equal(made.known, known)


def test_outside_of_the_map_the_block_is_mirrored() -> None:
    """A quadrant whose neighbours are finished but for corners that the map has not."""
    done = [(-1, 0), (1, 0), (0, -1)]
    placed = templates.place(0, 0, 1, 1, done)
    assert set(placed.padding) & {(-1, -1), (1, -1)}
    made = templates.template(placed, lambda x, y: source(x, y) if (x, y) == (0, 0) else None, finished)
    rows, cols = placed.block
    np.testing.assert_array_equal(made.image[rows, cols], source(0, 0))
    turned = source(0, 0)[::-1, ::-1]
    beside = made.image[: rows.start, : cols.start]
    np.testing.assert_array_equal(beside, turned[512 - rows.start :, 512 - cols.start :])
    assert not made.known[: rows.start, : cols.start].any()
    with pytest.raises(EndpointPermanent, match="no picture at 0,0"):
        templates.template(placed, lambda x, y: None, finished)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_frame_is_drawn_inside_the_block_and_never_comes_back(width: int) -> None:
    placed = templates.place(0, 0, 1, 1, [(-1, 0), (-1, -1), (0, -1)])
    made = templates.template(placed, source, finished, frame_px=width)
    red = (made.image == (255, 0, 0)).all(axis=-1)
    rows, cols = placed.block
    inner = np.zeros_like(red)
    inner[rows, cols] = True
    inner[rows.start + width : rows.stop - width, cols.start + width : cols.stop - width] = False
    np.testing.assert_array_equal(red, inner)
    np.testing.assert_array_equal(made.clean[rows, cols], source(0, 0))
    np.testing.assert_array_equal(made.image[~inner], made.clean[~inner])


def _striped(axis: int, size: int) -> Pixels:
    """Return a picture of stripes, rows of one colour where `axis` is 0."""
    where = np.arange(1024).reshape((-1, 1) if axis == 0 else (1, -1)) // size
    return np.broadcast_to(where[..., None] * 37 % 200, (1024, 1024, 3)).astype(np.uint8)


def _lined(colour: tuple[int, int, int]) -> Pixels:
    """Return a picture with a line of one colour just inside the block's upper edge."""
    picture = np.full((1024, 1024, 3), 90, dtype=np.uint8)
    picture[512:514] = colour
    return picture


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize(
    "picture",
    [
        _striped(0, 1),
        _striped(1, 3),
        _striped(0, 4),
        _lined((30, 60, 200)),
        np.full((1024, 1024, 3), 9, np.uint8),
    ],
    ids=["rows", "columns", "pixel art", "a shore", "flat"],
)
def test_lines_of_the_picture_along_the_edge_of_a_block_are_no_frame(picture: Pixels, width: int) -> None:
    placed = templates.place(0, 0, 1, 1, [(-1, 0), (-1, -1), (0, -1)])
    made = templates.template(placed, source, finished, frame_px=width)
    ((_, drawn),) = templates.kept(made, picture).quadrants
    np.testing.assert_array_equal(drawn, picture[placed.block])


@given(finished_sets)
def test_a_single_quadrant_is_shown_every_finished_neighbour(done: set[tuple[int, int]]) -> None:
    """On up to four sides, and never more than half of the picture is drawn where all four are."""
    beside = {(-1, 0), (1, 0), (0, -1), (0, 1)} & done
    placed = templates.place(0, 0, 1, 1, done - {(0, 0)})
    assert beside <= set(placed.context)
    assert placed.seams == 0
    if len(beside) == 4:
        assert templates.template(placed, source, finished).known.mean() >= 0.5


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.sampled_from(list(product(range(9), range(9)))), min_size=1), st.integers(0, 81))
def test_no_window_of_a_plan_leaves_a_seam(quadrants: set[tuple[int, int]], first: int) -> None:
    """Whatever the shape of the map, and where the map grew; what is finished is what a block waits for."""
    known = sorted(quadrants)
    made = extend(plan(known[:first]), known)
    before: dict[int, set[tuple[int, int]]] = {number: set() for number in range(len(made))}
    x, y, width, height = (getattr(made, name).tolist() for name in ("x", "y", "width", "height"))
    for block, other in made.waits_for.tolist():
        before[block] |= set(product(range(x[other], x[other] + width[other]),
                                     range(y[other], y[other] + height[other])))  # fmt: skip
    for number, finished_ones in before.items():
        placed = templates.place(x[number], y[number], width[number], height[number], finished_ones)
        assert placed.seams == 0
        assert bool(placed.padding) <= (number in made.reason)


def test_the_frame_is_around_all_that_is_to_be_drawn_where_that_is_a_rectangle() -> None:
    """A model draws what is inside, and takes all outside for finished."""
    placed = templates.place(0, 0, 1, 1, [(-1, 0), (-1, 1)])
    assert placed.padding == ((0, 1),)
    made = templates.template(placed, source, finished, frame_px=3)
    red = (made.image == (255, 0, 0)).all(axis=-1)
    assert red[:3, 512:].all()
    assert red[-3:, 512:].all()
    assert red.sum() == 2 * 3 * 512 + 2 * 3 * (1024 - 6)
    ((_, drawn),) = templates.kept(made, made.image).quadrants
    assert not (drawn == (255, 0, 0)).all(axis=-1).any()


@given(st.sampled_from(BLOCKS), finished_sets)
def test_what_a_model_paints_into_the_block_is_kept_exactly(
    size: tuple[int, int], done: set[tuple[int, int]]
) -> None:
    columns, rows = size
    own = list(product(range(columns), range(rows)))
    placed = templates.place(0, 0, columns, rows, done - set(own))
    made = templates.template(placed, source, finished)
    answer = made.image ^ np.uint8(0x55)
    found = dict(templates.kept(made, answer).quadrants)
    assert sorted(found) == sorted(own)
    for quadrant in own:
        np.testing.assert_array_equal(found[quadrant], source(*quadrant) ^ np.uint8(0x55))


def test_an_answer_of_another_size_is_resampled_only_where_the_ratio_fits() -> None:
    placed = templates.place(0, 0, 2, 2, [])
    made = templates.template(
        placed, lambda x, y: np.full((512, 512, 3), 40 * (x + 2 * y), np.uint8), finished
    )
    half = made.image[::2, ::2]
    found = dict(templates.kept(made, half).quadrants)
    assert (found[(1, 1)][20:-20, 20:-20] == 120).all()
    with pytest.raises(EndpointPermanent, match="1024 x 512"):
        templates.kept(made, made.image[:512])


def test_the_known_pixels_tell_how_far_an_answer_drifted() -> None:
    placed = templates.place(0, 0, 1, 2, [(-1, 0), (-1, 1)])
    made = templates.template(placed, source, finished)
    answer = np.clip(made.image.astype(int) + 10, 0, 255).astype(np.uint8)
    assert templates.kept(made, answer).drift == pytest.approx(10, abs=1)
    with pytest.raises(EndpointRetryable, match="max_drift"):
        templates.kept(made, answer, max_drift=5)


def test_colours_are_matched_to_the_neighbours_when_asked() -> None:
    placed = templates.place(0, 0, 1, 2, [(-1, 0), (-1, 1), (1, 0), (1, 1)])
    made = templates.template(placed, source, source)
    answer = np.rint(made.image * 0.8 + 20).astype(np.uint8)
    plain = dict(templates.kept(made, answer).quadrants)[(0, 0)]
    matched = dict(templates.kept(made, answer, match_colors=True).quadrants)[(0, 0)]
    wanted = source(0, 0).astype(int)
    assert np.abs(plain - wanted).mean() > 8
    assert np.abs(matched.astype(int) - wanted)[..., :2].mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK"])
def test_pictures_of_any_mode_become_rgb(mode: str) -> None:
    if mode == "CMYK":
        buffer = io.BytesIO()
        Image.new("CMYK", (8, 6), (0, 0, 0, 0)).save(buffer, "TIFF")
        data = buffer.getvalue()
    else:
        buffer = io.BytesIO()
        Image.new(mode, (8, 6), 1 if mode == "1" else None).save(buffer, "PNG")
        data = buffer.getvalue()
    assert decoded(data, "x").shape == (6, 8, 3)


def test_what_is_transparent_shows_white() -> None:
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2] = (10, 20, 30, 255)
    out = decoded(png(pixels), "x")
    assert (out[2:] == 255).all()
    assert (out[:2] == (10, 20, 30)).all()


@pytest.mark.parametrize("data", [b"", b"no picture", png(np.zeros((9, 9, 3), np.uint8))[:40]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageInvalid):
        decoded(data, "answer")


def test_a_bomb_is_not_decoded() -> None:
    with pytest.raises(ImageInvalid, match="more than"):
        decoded(png(np.zeros((200, 200, 3), np.uint8)), "answer", most_pixels=10_000)
