"""Pyramids of arrays: which tiles there are, and that heights are rounded once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fusi_pipeline import overview
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import decode_webp
from fusi_pipeline.tiles.resample import halve
from tests import rasters

Heights = npt.NDArray[np.float32]
BLOCK = Tile(9, 270, 180)


@pytest.fixture(scope="module")
def heights() -> Heights:
    """The heights of a block of 4 x 4 tiles, with a ragged hole and one tile wholly missing."""
    side = 2048
    heights = np.where(rasters.hole(side, side, share=0.2), np.nan, rasters.cone(side, side, slope_m=1.3))
    heights[-512:, -512:] = np.nan
    return heights.astype(np.float32)


def decoded(data: bytes) -> Heights:
    return terrarium.decode(decode_webp(data))


def test_a_pyramid_has_every_tile_that_is_not_wholly_missing(heights: Heights) -> None:
    tiles, _ = overview.pyramid(heights, BLOCK, 11, 0)
    wanted = {
        Tile(11, (BLOCK.x << 2) + col, (BLOCK.y << 2) + row)
        for row in range(4)
        for col in range(4)
        if not np.isnan(heights[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]).all()
    }
    assert Tile(11, (BLOCK.x << 2) + 3, (BLOCK.y << 2) + 3) not in wanted
    assert {tile for tile, _ in tiles if tile.z == 11} == wanted
    assert len([tile for tile, _ in tiles if tile.z == 10]) == 4
    assert [tile for tile, _ in tiles if tile.z == 9] == [BLOCK]
    assert len({tile for tile, _ in tiles}) == len(tiles)


def test_every_level_is_the_unrounded_level_below_halved_and_rounded_once(heights: Heights) -> None:
    tiles, quarter = overview.pyramid(heights, BLOCK, 11, 0)
    level = heights
    for z in (11, 10, 9):
        for tile, data in tiles:
            if tile.z == z:
                row, col = tile.y - (BLOCK.y << z - 9), tile.x - (BLOCK.x << z - 9)
                part = level[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
                pixels = terrarium.encode(np.ascontiguousarray(part), z)
                assert pixels is not None
                np.testing.assert_array_equal(decode_webp(data), pixels)
        level = halve(level)
    np.testing.assert_array_equal(quarter, level)
    assert quarter.shape == (256, 256)


def test_an_average_of_averages_does_not_drift() -> None:
    # Half a metre everywhere: were a level made from rounded ones, it would be 0 or 1 throughout.
    heights = np.tile(np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), (512, 512))
    tiles, quarter = overview.pyramid(heights, Tile(4, 3, 3), 5, 0)
    assert (quarter == 0.5).all()
    below = overview.joined([quarter] * 4)
    data = overview.encode_tile(below, 12)
    assert data is not None
    assert (decoded(data) == 0.5).all()
    assert len(tiles) == 5


@pytest.mark.parametrize("minzoom", [10, 11])
def test_tiles_below_the_lowest_zoom_are_left_out_and_the_rest_is_the_same(
    heights: Heights, minzoom: int
) -> None:
    every, quarter = overview.pyramid(heights, BLOCK, 11, 0)
    some, same = overview.pyramid(heights, BLOCK, 11, minzoom)
    assert some == [(tile, data) for tile, data in every if tile.z >= minzoom]
    np.testing.assert_array_equal(same, quarter)


def test_a_block_may_be_one_tile() -> None:
    tiles, quarter = overview.pyramid(rasters.plane(512, 512).astype(np.float32), Tile(3, 1, 1), 3, 0)
    assert [tile for tile, _ in tiles] == [Tile(3, 1, 1)]
    assert quarter.shape == (256, 256)


def test_tiles_come_row_by_row_and_wholly_missing_ones_not_at_all() -> None:
    heights = np.full((1024, 1536), np.nan, np.float32)
    heights[0, 0] = heights[700, 600] = heights[100, 1535] = 5
    found = [tile for tile, _ in overview.tiles_of(heights, Tile(7, 10, 20))]
    assert found == [Tile(7, 10, 20), Tile(7, 12, 20), Tile(7, 11, 21)]


def test_a_wholly_missing_tile_is_none() -> None:
    assert overview.encode_tile(np.full((512, 512), np.nan, np.float32), 9) is None


def test_quarters_are_joined_in_their_places_and_absent_ones_are_missing() -> None:
    quarters = [np.full((256, 256), value, np.float32) for value in (1, 2, 3)]
    joined = overview.joined([quarters[0], None, quarters[1], quarters[2]])
    assert (joined[:256, :256] == 1).all()
    assert np.isnan(joined[:256, 256:]).all()
    assert (joined[256:, :256] == 2).all()
    assert (joined[256:, 256:] == 3).all()


@given(
    arrays.arrays(
        np.float32, (256, 2),
        elements=st.one_of(st.floats(width=32, allow_nan=False), st.just(float("nan"))),
    )
)  # fmt: skip
def test_packing_keeps_every_bit_of_a_height(columns: Heights) -> None:
    quarter = np.tile(columns, (1, 128))
    back = overview.unpacked(overview.packed(quarter))
    np.testing.assert_array_equal(back, quarter)
    assert back.dtype == np.float32
