"""Where a raster holds anything, and where that is flat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusi_pipeline.sketch import Cell, Sketcher, cells


def sketch_of(heights: np.ndarray, window_px: int = 700, nodata: float | None = -9999) -> str:
    one = Sketcher(heights.shape[1], heights.shape[0], nodata)
    for row in range(0, heights.shape[0], window_px):
        for col in range(0, heights.shape[1], window_px):
            one.feed(heights[row : row + window_px, col : col + window_px], None, col, row)
    return one.text()


def rough(rows: int, cols: int) -> np.ndarray:
    y, x = np.mgrid[0:rows, 0:cols]
    return (x * 0.7 + y * 0.3).astype(np.float32)


def test_rough_ground_water_and_nothing_are_told_apart_by_place() -> None:
    heights = rough(2048, 3072)
    heights[:, 1024:2048] = 0
    heights[1024:, 2048:] = -9999
    found = list(cells(sketch_of(heights)))
    assert found == [
        Cell(0, 1 / 3, 0, 0.5, 1, 0),
        Cell(1 / 3, 2 / 3, 0, 0.5, 0, 1),
        Cell(2 / 3, 1, 0, 0.5, 1, 0),
        Cell(0, 1 / 3, 0.5, 1, 1, 0),
        Cell(1 / 3, 2 / 3, 0.5, 1, 0, 1),
    ]


@pytest.mark.parametrize("absent", [np.nan, -9999.0])
def test_a_file_without_a_height_has_no_cell(absent: float) -> None:
    assert list(cells(sketch_of(np.full((50, 60), absent, np.float32)))) == []


def test_a_mask_counts() -> None:
    one = Sketcher(64, 64, None)
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    one.feed(rough(64, 64), mask, 0, 0)
    (cell,) = cells(one.text())
    assert (cell.rough, cell.flat) == (pytest.approx(0.5, abs=0.04), 0)


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([97, 512, 1 << 20]))
def test_shares_do_not_depend_on_the_windows(rows: int, cols: int, window_px: int) -> None:
    heights = np.zeros((rows, cols), np.int16)
    heights[:, cols // 2 :] = -9999
    whole = list(cells(sketch_of(heights, 1 << 20)))
    parts = list(cells(sketch_of(heights, window_px)))
    assert all(0 <= cell.flat + cell.rough <= 1 + 1 / 15 for cell in parts)
    if window_px >= 512:
        share = [sum((c.right - c.left) * (c.bottom - c.top) * c.flat for c in one) for one in (whole, parts)]
        assert share[0] == pytest.approx(share[1], abs=0.15)


def test_the_sketch_of_a_large_file_is_short() -> None:
    one = Sketcher(400_000, 300_000, None)
    assert len(one.text()) <= 6 + 2 * 16 * 16
