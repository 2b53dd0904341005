"""Feathered merges and their lineage, against the rule computed over whole zooms at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt

from fusi_pipeline import feather, lineage, merge
from fusi_pipeline.errors import UsageError
from fusi_pipeline.publish import merge_archives
from fusi_pipeline.tiles import grid, terrarium
from fusi_pipeline.tiles.distance import distance_px
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import decode_webp
from fusi_pipeline.tiles.open import open_archive
from tests.test_build import finish, settings
from tests.test_publish import Place, all_tiles, all_zooms, decoded
from tests.test_publish import place as place  # the fixture

Array = npt.NDArray[np.float64]
WIDTH_M = 4000.0


@pytest.fixture(scope="module")
def feathered(place: Place) -> tuple[Path, Path]:
    folder = place.folder / "feathered"
    terrain, names = folder / "out.pmtiles", folder / "names.mbtiles"
    work = merge_archives(
        (place.fine, place.coarse), terrain, settings(folder),
        mode="feather", feather_m=WIDTH_M, lineage_output=names,
    )  # fmt: skip
    finish(work)
    return terrain, names


def assembled(path: Path, z: int, window: tuple[int, int, int, int]) -> Array:
    """Return the heights of all tiles of a window of columns and rows, NaN where missing."""
    left, top, right, bottom = window
    out = np.full(((bottom - top) * 512, (right - left) * 512), np.nan)
    for tile in all_tiles(path, z):
        heights = decoded(path, tile)
        if heights is not None and left <= tile.x < right and top <= tile.y < bottom:
            row, col = (tile.y - top) * 512, (tile.x - left) * 512
            out[row : row + 512, col : col + 512] = heights
    return out


def window_of(path: Path, z: int) -> tuple[int, int, int, int]:
    """Return the columns and rows of a zoom with a ring of one tile around them."""
    tiles = all_tiles(path, z)
    xs, ys = [tile.x for tile in tiles], [tile.y for tile in tiles]
    return min(xs) - 1, min(ys) - 1, max(xs) + 2, max(ys) + 2


def ground_m(z: int, top: int, rows: int) -> Array:
    """Return the ground size of the pixels of rows that start at tile row `top`."""
    size = 40075016.685578488 / (512 << z)
    y = 20037508.342789244 - (top * 512 + np.arange(rows) + 0.5) * size
    latitude = 2 * np.arctan(np.exp(y / 6378137.0)) - np.pi / 2
    return np.asarray(size * np.cos(latitude))


def by_the_rule(high: Array, low: Array, ground: Array, step_m: float) -> tuple[Array, Array]:
    """Return the feathered heights and the low layer's share, over a whole zoom."""
    distance = np.asarray(distance_transform_edt(~np.isnan(high)))
    t = np.minimum(distance * ground[:, None] / WIDTH_M, 1)
    weight = t * t * (3 - 2 * t)
    blended = ~np.isnan(high) & ~np.isnan(low) & (np.abs(high - low) > step_m) & (weight < 1)
    heights = np.where(np.isnan(high), low, high)
    heights[blended] = (weight * high + (1 - weight) * low)[blended]
    return heights, np.where(blended, 1 - weight, 0)


@pytest.mark.parametrize("z", [5, 6, 7, 8])
def test_every_pixel_is_blended_by_its_distance_to_the_edge_in_metres(
    place: Place, feathered: tuple[Path, Path], z: int
) -> None:
    terrain, names = feathered
    window = window_of(terrain, z)
    high, low = assembled(place.fine, z, window), assembled(place.coarse, z, window)
    step = terrarium.step_m(z)
    wanted, share = by_the_rule(high, low, ground_m(z, window[1], high.shape[0]), step)
    ours = assembled(terrain, z, window)
    known = ~np.isnan(wanted)
    assert np.abs(ours - wanted)[known].max() <= step / 2 + 1e-3
    assert (ours[~known & ~np.isnan(ours)] == 0).all()
    if z == 8:
        assert (share > 0).sum() > 5000
    first = np.where(~np.isnan(high), 1, np.where(~np.isnan(low), 2, 0))
    for tile in all_tiles(names, z):
        with open_archive(names) as reader:
            pixels = decode_webp(reader.read(tile) or b"")
        row, col = (tile.y - window[1]) * 512, (tile.x - window[0]) * 512
        part = (slice(row, row + 512), slice(col, col + 512))
        red, green, blue = (pixels[..., channel].astype(float) for channel in range(3))
        np.testing.assert_array_equal(red, first[part])
        np.testing.assert_array_equal(green, np.where(share[part] > 0, 2, 0))
        assert np.abs(blue - share[part] * 255).max() <= 1
        assert pixels.shape == (512, 512, 3)


def test_nothing_shows_at_tile_borders(place: Place, feathered: tuple[Path, Path]) -> None:
    z, seen = 10, 0
    window = window_of(feathered[0], z)
    heights, high = assembled(feathered[0], z, window), assembled(place.fine, z, window)
    band = np.asarray(distance_transform_edt(~np.isnan(high))) * 100 < WIDTH_M * 1.2
    for axis in (0, 1):
        steps = np.moveaxis(np.abs(np.diff(heights, axis=axis)), axis, 0)
        inside = np.moveaxis(np.where(np.isnan(high), np.nan, np.where(band, 1, np.nan)), axis, 0)
        both = ~np.isnan(inside[1:] + inside[:-1])
        border = np.zeros_like(both)
        border[511::512] = True
        seen += int((both & border).sum())
        assert steps[both & border].max() <= steps[both & ~border].max()
    assert seen > 200


def test_the_share_at_the_edge_is_the_same_at_every_zoom(place: Place) -> None:
    """A pixel a given number of metres from a straight edge has the same share at any zoom."""

    def valid_of(tile: Tile) -> npt.NDArray[np.bool_]:
        edge = (1 << tile.z) * 512 * 0.53
        return np.broadcast_to(tile.x * 512 + np.arange(512) + 0.5 > edge, (512, 512))

    for z in (9, 10, 11):
        tile = grid.tile_at(360 * 0.53 - 180 + 1e-9, 45.0, z)
        shares = feather.weights(tile, 3000.0, valid_of)
        assert shares is not None
        col = int((1 << z) * 512 * 0.53) - tile.x * 512
        metres = (np.arange(512) - col + 0.5) * feather.ground_m(tile)[256]
        near = (np.arange(512) > col) & (metres < 3000)
        t = metres[near] / 3000
        size = feather.ground_m(tile)[256] / 3000
        assert np.abs(shares[256][near] - t * t * (3 - 2 * t)).max() < 1.6 * size


def test_tiles_beside_each_other_and_around_the_world_are_taken_into_account() -> None:
    def valid_of(tile: Tile) -> npt.NDArray[np.bool_] | None:
        return None if tile.x == 7 else np.ones((512, 512), dtype=bool)

    left = feather.weights(Tile(3, 0, 4), 500_000.0, valid_of)
    assert left is not None
    assert (np.diff(left, axis=1) >= 0).all()
    assert (left[:, 0] < 0.2).all()
    assert feather.weights(Tile(3, 3, 4), 500_000.0, valid_of) is None


def test_beyond_the_edge_of_the_map_nothing_is_missing() -> None:
    everywhere = np.ones((512, 512), dtype=bool)
    assert feather.weights(Tile(2, 0, 0), 100_000.0, lambda _: everywhere) is None
    assert feather.weights(Tile(0, 0, 0), 100_000.0, lambda _: everywhere) is None


@given(arrays.arrays(np.bool_, (9, 14)), st.integers(0, 4), st.integers(0, 6))
def test_distances_are_those_of_scipy(valid: npt.NDArray[np.bool_], top: int, left: int) -> None:
    ours = distance_px(valid, top, left, 5, 8)
    if valid.all():
        assert np.isinf(ours).all()
        return
    wanted = np.asarray(distance_transform_edt(valid))[top : top + 5, left : left + 8]
    np.testing.assert_allclose(ours, wanted, rtol=1e-12)


HEIGHTS = arrays.arrays(
    np.float32, (3, 4), elements=st.one_of(st.just(np.float32("nan")), st.floats(-500, 4000, width=32))
)
SHARES = arrays.arrays(np.float64, (3, 4), elements=st.floats(0, 1))


@given(st.lists(st.tuples(HEIGHTS, SHARES), min_size=1, max_size=4), st.sampled_from([0.0, 1.0, 100.0]))
def test_a_feathered_pixel_lies_between_its_sources(
    stack: list[tuple[npt.NDArray[np.float32], Array]], agreement_m: float
) -> None:
    layers, shares = [layer for layer, _ in stack], [share for _, share in stack]
    merged = merge.feathered(layers, shares, agreement_m)
    all_layers = np.stack(layers)
    np.testing.assert_array_equal(np.isnan(merged.heights), np.isnan(all_layers).all(axis=0))
    for at in np.ndindex(3, 4):
        known = [(number, layer[at]) for number, layer in enumerate(layers, 1) if not np.isnan(layer[at])]
        if not known:
            assert (merged.first[at], merged.second[at]) == (0, 0)
            continue
        values = [float(value) for _, value in known]
        assert min(values) - 1e-3 <= merged.heights[at] <= max(values) + 1e-3
        assert merged.first[at] == known[0][0]
        if merged.second[at] == 0:
            assert merged.heights[at] == known[0][1]
            assert merged.share[at] == 0
        else:
            assert merged.second[at] in [number for number, _ in known[1:]]


@given(HEIGHTS, HEIGHTS)
def test_a_layer_with_full_weight_is_priority(
    high: npt.NDArray[np.float32], low: npt.NDArray[np.float32]
) -> None:
    ours = merge.feathered([high, low], [None, None], 0.0)
    wanted = merge.filled([high, low])
    np.testing.assert_array_equal(ours.heights, wanted.heights)
    np.testing.assert_array_equal(ours.first, wanted.first)


@pytest.mark.parametrize("mode", ["priority", "max", "min", "mean"])
def test_lineage_names_the_source_of_every_pixel_in_every_mode(
    place: Place, tmp_path: Path, mode: str
) -> None:
    terrain, names = tmp_path / "out.pmtiles", tmp_path / "names.pmtiles"
    inputs = (place.fine, place.coarse)
    finish(merge_archives(inputs, terrain, settings(tmp_path), mode=mode, lineage_output=names))
    assert all_zooms(names) == all_zooms(terrain)
    for z in (5, 7, 8):
        assert all_tiles(names, z) == all_tiles(terrain, z)
        for tile in all_tiles(names, z):
            nothing = np.full((512, 512), np.nan, dtype=np.float32)
            layers = [heights if (heights := decoded(path, tile)) is not None else nothing for path in inputs]
            valid = ~np.isnan(np.stack(layers))
            with open_archive(names) as reader:
                first, second, share = lineage.decode(decode_webp(reader.read(tile) or b""))
            one, two = np.nan_to_num(layers[0], nan=-1e9), np.nan_to_num(layers[1], nan=-1e9)
            if mode == "min":
                one, two = -np.nan_to_num(layers[0], nan=1e9), -np.nan_to_num(layers[1], nan=1e9)
            wins = valid[0] if mode in ("priority", "mean") else valid[0] & (one >= two)
            np.testing.assert_array_equal(first, np.where(wins, 1, np.where(valid[1], 2, 0)))
            shared = valid.all(axis=0) & (mode == "mean")
            np.testing.assert_array_equal(second, np.where(shared, 2, 0))
            assert np.abs(share - 0.5 * shared).max() <= 0.5 / 255 + 1e-6


def test_the_legend_and_the_terrain_name_each_other(feathered: tuple[Path, Path]) -> None:
    terrain, names = feathered
    with open_archive(terrain) as reader, open_archive(names) as second:
        facts, said = reader.metadata, second.metadata
    assert (said.encoding, said.extra["terrain"], facts.extra["lineage"]) == (
        "lineage", "out.pmtiles", "names.mbtiles",
    )  # fmt: skip
    assert [entry.index for entry in lineage.legend(said)] == [1, 2]
    assert facts.extra["feather_m"] == WIDTH_M
    assert all(one["pixels"] > 0 for one in facts.extra["sources"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "feather"}, "--feather-m"),
        ({"mode": "priority", "feather_m": 5.0}, "--mode feather"),
        ({"mode": "feather", "feather_m": 1e7}, "pixels at zoom"),
        ({"mode": "median"}, "median"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused(
    place: Place, tmp_path: Path, options: dict[str, object], word: str
) -> None:
    inputs = (place.fine, place.coarse)
    work = merge_archives(inputs, tmp_path / "a.pmtiles", settings(tmp_path), **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=word):
        finish(work)
