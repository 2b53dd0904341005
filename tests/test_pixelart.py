"""The embedded stylizer: a pure function of each cell's own source, so blocks meet without a seam."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_generation import template
from layer_generation.camera import QUADRANT_PX
from layer_generation.endpoints.base import EditRequest, EndpointCancelled, EndpointPermanent
from layer_generation.endpoints.open import open_endpoint
from layer_generation.endpoints.pixelart import PALETTES, Palette, Pixels, palette_of, stylized
from layer_generation.layer_config import EndpointConfig

NEVER = threading.Event()
SUMMER = PALETTES["summer"]


def noise(rows: int, cols: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (rows, cols, 3), dtype=np.uint8)


def drawn(
    image: Pixels, mask: Any = None, prompt: str = "", params: dict[str, Any] | None = None, **fields: Any
) -> Pixels:
    config = EndpointConfig(
        name="pixels", url="builtin:pixelart", protocol="builtin", params=fields.pop("config", {})
    )
    endpoint = open_endpoint(config, {})
    endpoint.probe()
    request = EditRequest(image=image, mask=mask, prompt=prompt, params=params or {}, **fields)
    answer = endpoint.edit(request, NEVER)
    endpoint.close()
    return answer.image


def colors_of(palette: Palette) -> set[tuple[int, ...]]:
    return {tuple(bytes.fromhex(one)) for one in palette.colors.split()}


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1), st.sampled_from(sorted(PALETTES)))
def test_what_the_mask_leaves_out_stays_and_the_rest_is_of_the_palette(
    rows: int, cols: int, seed: int, name: str
) -> None:
    image = noise(rows, cols, seed)
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.5
    before = image.copy()
    answer = drawn(image, mask, params={"palette": name}, seed=seed)
    assert np.array_equal(image, before), "the request is not written to"
    assert np.array_equal(answer[~mask], image[~mask])
    assert {tuple(color) for color in answer[mask].tolist()} <= colors_of(PALETTES[name])


@settings(deadline=None)
@given(
    st.integers(-5000, 5000),
    st.integers(-5000, 5000),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 31),
    st.sampled_from(sorted(PALETTES)),
)
def test_a_part_looks_the_same_alone_as_in_the_whole(
    x: int, y: int, cell_px: int, seed: int, name: str
) -> None:
    """With the place that it has on the map, and cut where cells end."""
    whole = noise(96, 96)
    x, y = x // 16 * 16, y // 16 * 16
    at_once = stylized(whole, None, PALETTES[name], seed, cell_px, (x, y))
    part = stylized(whole[32:80, 16:64], None, PALETTES[name], seed, cell_px, (x + 16, y + 32))
    assert np.array_equal(part, at_once[32:80, 16:64])


@pytest.mark.parametrize("cell_px", [4, 8])
def test_the_place_of_a_part_that_is_cut_anywhere_keeps_its_cells(cell_px: int) -> None:
    whole = noise(64, 64)
    at_once = stylized(whole, None, SUMMER, 3, cell_px)
    part = stylized(whole[5:, 3:], None, SUMMER, 3, cell_px, (3, 5))
    inner = (slice(cell_px, None), slice(cell_px, None))
    assert np.array_equal(part[inner], at_once[5:, 3:][inner])


@pytest.mark.parametrize(
    "finished", [set(), {(0, 1)}, {(0, 1), (2, 1), (0, 0)}, {(x, y) for x in range(3) for y in range(3)}]
)
def test_blocks_drawn_apart_are_the_map_drawn_at_once(finished: set[tuple[int, int]]) -> None:
    """Through the templates of blocks, whatever neighbours they show."""
    whole = noise(3 * QUADRANT_PX, 3 * QUADRANT_PX)
    at_once = stylized(whole, None, PALETTES["winter"], 7)

    def part(picture: Pixels, x: int, y: int) -> Pixels:
        size = QUADRANT_PX
        return picture[y * size : (y + 1) * size, x * size : (x + 1) * size]

    place = template.place(1, 1, 1, 1, finished - {(1, 1)})
    one = template.template(place, lambda x, y: part(whole, x, y), lambda x, y: part(at_once, x, y))
    at = {"left_px": place.left, "top_px": place.top}
    answer = drawn(one.image, ~one.known, prompt="deep snow", seed=7, params=at)
    kept = template.kept(one, answer)
    assert kept.drift == 0
    assert np.array_equal(dict(kept.quadrants)[1, 1], part(at_once, 1, 1))


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_the_seed_changes_the_grain_and_not_the_colours(one: int, other: int) -> None:
    grey = np.full((256, 256, 3), 128, dtype=np.uint8)
    first, same, second = (drawn(grey, seed=seed) for seed in (one, one, other))
    assert np.array_equal(first, same)
    assert np.array_equal(first, second) == (one == other)
    assert np.abs(first.mean(axis=(0, 1)) - second.mean(axis=(0, 1))).max() < 2


@pytest.mark.parametrize(
    ("prompt", "palette"),
    [
        ("", "summer"),
        ("a quiet town", "summer"),
        ("Deep SNOW on the roofs, at night", "winter"),
        ("night, with snow", "night"),
        ("autumn foliage", "autumn"),
        ("an old parchment map", "sepia"),
        ("snowflakes", "summer"),
    ],
)
def test_the_prompt_chooses_the_palette(prompt: str, palette: str) -> None:
    assert palette_of(prompt) == palette
    image = noise(16, 16)
    assert np.array_equal(drawn(image, prompt=prompt), stylized(image, None, PALETTES[palette]))


def test_params_of_the_endpoint_hold_unless_the_request_has_its_own() -> None:
    image = noise(16, 16)
    config = {"palette": "night", "cell_px": 8}
    assert np.array_equal(
        drawn(image, prompt="snow", config=config), stylized(image, None, PALETTES["night"], 0, 8)
    )
    request = {"palette": "sepia"}
    answer = drawn(image, prompt="snow", config=config, params=request)
    assert np.array_equal(answer, stylized(image, None, PALETTES["sepia"], 0, 8))


@pytest.mark.parametrize(
    "params",
    [
        {"palette": "plaid"},
        {"cell_px": 3},
        {"cell_px": True},
        {"cell_px": "4"},
        {"left_px": 0.5},
        {"palette": ["night"]},
    ],
)
def test_params_that_cannot_be_used_are_a_permanent_error(params: dict[str, Any]) -> None:
    with pytest.raises(EndpointPermanent, match="expected"):
        drawn(noise(4, 4), params=params)


def test_it_stops_where_its_caller_does() -> None:
    stop = threading.Event()
    stop.set()
    endpoint = open_endpoint(EndpointConfig(name="p", url="builtin:pixelart", protocol="builtin"), {})
    with pytest.raises(EndpointCancelled):
        endpoint.edit(EditRequest(image=noise(4, 4), mask=None, prompt=""), stop)


@pytest.mark.parametrize("name", sorted(PALETTES))
def test_every_palette_tells_land_from_water_and_light_from_dark(name: str) -> None:
    def mean(color: tuple[int, int, int]) -> Any:
        image = np.tile(np.array(color, dtype=np.uint8), (32, 32, 1))
        return stylized(image, None, PALETTES[name]).reshape(-1, 3).mean(axis=0)

    assert np.abs(mean((40, 90, 150)) - mean((90, 130, 60))).sum() > 12
    greys = [mean((level, level, level)).sum() for level in (20, 90, 160, 230)]
    assert greys == sorted(greys)
    assert greys[-1] - greys[0] > 150
