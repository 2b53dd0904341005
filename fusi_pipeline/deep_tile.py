"""What is wrong with one tile, or between two, in the words of a finding.

`tile_laws` has the measures, `archive_rules` what an archive owes; here both
meet a decoded tile, and whatever is found gets its place on the ground.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fusi_pipeline import tile_laws
from fusi_pipeline.archive_rules import ArchiveRules
from fusi_pipeline.findings import Finding, ZoomTally
from fusi_pipeline.tile_laws import HALF_PX, Border, Likeness, Mask
from fusi_pipeline.tiles import grid, terrarium, webp
from fusi_pipeline.tiles.grid import TILE_SIZE_PX, Tile
from fusi_pipeline.tiles.image import ImageInvalid, decode_webp
from fusi_pipeline.tiles.resample import Heights

Scalar = TypeVar("Scalar", bound=np.generic)
Pixels = npt.NDArray[np.uint8]

_LEAST_COMPARED = 1024
_SLACK_M = 0.002
"""What float32 cannot tell of heights on Earth."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with a tile by itself."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class TileView:
    """A tile as it was decoded, once."""

    tile: Tile
    heights: Heights | None
    """Shape (512, 512); None where it does not decode, or is no terrain."""
    sources: Pixels | None
    """Its lineage, shape (512, 512, 3), where there is one."""
    troubles: tuple[Trouble, ...]


def decoded(data: bytes, rules: ArchiveRules, troubles: list[Trouble]) -> Pixels | None:
    """Return the pixels of a tile; notes what is wrong, and returns None where nothing else can be told."""
    try:
        facts = webp.facts(data)
        pixels = decode_webp(data)
    except (webp.WebPInvalid, ImageInvalid) as error:
        troubles.append(
            Trouble("image", f"it {error}" if isinstance(error, webp.WebPInvalid) else str(error))
        )
        return None
    if pixels.shape[:2] != (TILE_SIZE_PX, TILE_SIZE_PX):
        size = f"{pixels.shape[1]} x {pixels.shape[0]} px"
        troubles.append(Trouble("image", f"it is {size}, not {TILE_SIZE_PX} x {TILE_SIZE_PX}"))
        return None
    if not facts.lossless:
        troubles.append(Trouble("image", "it is not lossless, so its heights are not exact"))
    besides = [name.strip() for name in facts.chunks if name != "VP8L"]
    if facts.lossless and besides and (rules.ours or rules.final):
        troubles.append(Trouble("image", f"it holds more than the picture: {', '.join(besides)}"))
    if pixels.shape[2] == 4 and (rules.final or rules.is_lineage):
        troubles.append(Trouble("image", "it has an alpha channel, which a final archive has not"))
    return pixels


def heights_of(pixels: Pixels, z: int, rules: ArchiveRules, troubles: list[Trouble]) -> Heights:
    """Return the heights of a tile; notes heights and alphas that fusi does not write."""
    if rules.ours:
        units = min(round(rules.step_m(z) * 256), 256)
        finer = np.uint8((units & -units) - 1)  # bits of blue that no multiple of the step has
        count = np.count_nonzero(pixels[..., 2] & finer)
        if count:
            step = f"{rules.step_m(z):g} m, the vertical step of zoom {z}"
            troubles.append(Trouble("step", f"{count} of its heights are no multiple of {step}"))
    if pixels.shape[2] == 4 and not np.isin(pixels[..., 3], (0, 255)).all():
        troubles.append(Trouble("image", "it has alpha values other than 0 and 255"))
    return terrarium.decode(pixels)


def lineage_troubles(
    pixels: Pixels, indices: frozenset[int], heights: Heights | None = None
) -> list[Trouble]:
    """Return what is wrong with the lineage of a tile, also beside its heights."""
    if pixels.shape[2] != 3:
        return []
    found = []
    first, second, share = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    strangers = sorted(set(np.unique(pixels[..., :2]).tolist()) - indices - {0})
    if strangers:
        found.append(f"the legend has no index {', '.join(str(index) for index in strangers[:5])}")
    if np.any(share[second == 0]):
        found.append("it gives a share to a second source where there is none")
    if np.any(second[first == 0]):
        found.append("it names a second source where there is no first")
    if heights is not None:
        stray = (first == 0) & (heights != 0)
        if stray.any():
            count = np.count_nonzero(stray)
            found.append(f"{count} pixels are of no source by the lineage and have a height other than 0 m")
    return [Trouble("lineage", text) for text in found]


def place(tile: Tile, row: float, col: float) -> str:
    """Return the position of a pixel's centre as a person writes it."""
    lon, lat = lonlat(tile, row, col)
    return f"{lon:.6f},{lat:.6f}"


def lonlat(tile: Tile, row: float, col: float) -> tuple[float, float]:
    """Return (lon, lat) of the centre of a pixel."""
    box = grid.xy_bounds(tile)
    pixel_m = (box.right - box.left) / TILE_SIZE_PX
    return grid.unproject(box.left + (col + 0.5) * pixel_m, box.top - (row + 0.5) * pixel_m)


def beyond_earth(view: TileView) -> Finding:
    """Return the finding for a tile with heights that no place on Earth has."""
    assert view.heights is not None
    wrong = tile_laws.beyond_earth(view.heights)
    count = np.count_nonzero(wrong)
    far = np.where(wrong, np.abs(view.heights), 0)
    row, col = divmod(int(np.argmax(far)), TILE_SIZE_PX)
    text = (
        f"tile {view.tile}: {count} pixels are below {tile_laws.LOWEST_M:g} or above "
        f"{tile_laws.HIGHEST_M:g} m; the worst, at {place(view.tile, row, col)} (pixel {col},{row}), "
        f"is {view.heights[row, col]:g} m"
    )
    return Finding("range", view.tile, text, float(far[row, col]))


def spikes(view: TileView, rules: ArchiveRules) -> list[Finding]:
    """Return the suspected spikes of a tile: heights far from those of the same source around them."""
    assert view.heights is not None
    _, lat = lonlat(view.tile, TILE_SIZE_PX / 2, TILE_SIZE_PX / 2)
    pixel_m = grid.resolution_m(view.tile.z) * math.cos(math.radians(lat))
    found = []
    for heights in _layers(view, rules):
        for row, col, excess in tile_laws.spikes(heights, pixel_m):
            text = (
                f"tile {view.tile}: {view.heights[row, col]:g} m at {place(view.tile, row, col)} "
                f"(pixel {col},{row}) is {excess:+.4g} m from what is around it"
            )
            found.append(Finding("spike", view.tile, text, abs(excess), suspect=True))
    return found


def _layers(view: TileView, rules: ArchiveRules) -> Iterator[Heights]:
    """Yield the heights of a tile source by source, as far as that is known, NaN elsewhere."""
    assert view.heights is not None
    if view.sources is not None:
        origin = view.sources[..., 0]
        for index in np.flatnonzero(np.bincount(origin.ravel())).tolist():
            if index:
                yield np.where(origin == index, view.heights, np.float32(np.nan))
    elif rules.final:
        yield np.where(view.heights == 0, np.float32(np.nan), view.heights)
    else:
        yield view.heights


def quarter_of(parent: npt.NDArray[Scalar], number: int) -> npt.NDArray[Scalar]:
    """Return the part of a parent that a child lies under; children count NW, NE, SW, SE."""
    row, col = (number // 2) * HALF_PX, (number % 2) * HALF_PX
    return parent[row : row + HALF_PX, col : col + HALF_PX]


def family(
    rules: ArchiveRules,
    parent: tuple[Tile, TileView | None],
    child: tuple[Tile, TileView | None],
    number: int,
    tally: ZoomTally,
) -> list[Finding]:
    """Compare a tile with one of its children; adds to the figures, returns what is wrong.

    At least one of the two is there; `number` counts children NW, NE, SW, SE.
    """
    (tile, above), (child_tile, below) = parent, child
    if above is None or below is None:
        return _relative_missing(rules, tile, above, child_tile, number)
    if above.heights is None or below.heights is None:
        return []
    quarter = quarter_of(above.heights, number)
    missing = tile_laws.missing_differs(quarter, below.heights) if rules.exact else 0
    if missing:
        text = (
            f"tile {tile}: {missing} pixels over its child {child_tile} are missing where the child has "
            "heights, or have heights where it has none"
        )
        return [Finding("parent", tile, text, float(missing))]
    bound = tile_laws.bound_m(rules.step_m(tile.z), rules.step_m(child_tile.z))
    found = []
    for position, (mask, strict) in enumerate(_masks(rules, tile.z, above, below, number)):
        like = tile_laws.likeness(quarter, below.heights, bound, mask)
        if position == 0:
            _count(tally, like)
        if _is_off(rules, tile.z, like, bound, strict):
            certain = not strict or rules.rounded_once or like.largest_m > 2 * bound + _SLACK_M
            found.append(_unlike(rules, tile, child_tile, number, like, bound, certain=certain))
        elif not strict and like.compared >= _LEAST_COMPARED and _is_odd(rules, tile.z, like):
            found.append(_unlike(rules, tile, child_tile, number, like, bound, certain=False))
    return found


def _count(tally: ZoomTally, like: Likeness) -> None:
    tally.compared += like.compared
    tally.within += like.within
    tally.largest_m = max(tally.largest_m, like.largest_m)
    tally.total_m += like.total_m
    tally.uneven += like.uneven


def _unlike(
    rules: ArchiveRules, tile: Tile, child: Tile, number: int, like: Likeness, bound: float, *, certain: bool
) -> Finding:
    row, col = like.worst[0] + (number // 2) * HALF_PX, like.worst[1] + (number % 2) * HALF_PX
    text = (
        f"tile {tile}: {like.compared - like.within} of {like.compared} pixels are more than {bound:g} m "
        f"from the mean of its child {child}, {like.largest_m:.6g} m at worst (at {place(tile, row, col)}), "
        f"{like.shift_m:+.4g} m in the middle"
    )
    suspect = not (certain and rules.ours)
    return Finding("likeness" if suspect else "parent", tile, text, like.largest_m, suspect=suspect)


def _is_off(rules: ArchiveRules, z: int, like: Likeness, bound: float, strict: bool) -> bool:
    """Tell whether parent and child disagree more than their kind of archive allows.

    Without a law for each pixel a child is judged as a whole: where the middle of
    the differences is beyond the bound, it is off if that is beyond what its own
    relief explains, or if the differences are much alike, which makes a shift.
    """
    if strict:
        return like.within < like.compared
    if like.compared < _LEAST_COMPARED or like.median_m <= bound or rules.begins_at(z + 1):
        return False
    enlarged = rules.ends_at(z)
    least = max(bound, 2 * like.spread_m, like.range_m / 4 if enlarged else 0)
    return abs(like.shift_m) > least or like.median_m > like.range_m * (1 if enlarged else 0.5)


def _is_odd(rules: ArchiveRules, z: int, like: Likeness) -> bool:
    """Tell whether most pixels disagree where only those at the edge of a source have a reason to."""
    expected = rules.ends_at(z) or rules.begins_at(z + 1) or rules.picks
    return not expected and like.within < like.compared / 2


def _masks(
    rules: ArchiveRules, z: int, parent: TileView, child: TileView, number: int
) -> list[tuple[Mask | None, bool]]:
    """Return which pixels of a quarter to compare, None for all, and whether each has to obey the law.

    With a lineage they are those of one source: strictly where it has tiles of
    its own, loosely where it is enlarged. Without one, a child of 0 m may be a
    missing one, which is no part of the mean.
    """
    if rules.exact:
        return [(None, True)]
    if not rules.merged or parent.heights is None or child.heights is None:
        return [(None, False)]
    if parent.sources is not None and child.sources is not None:
        own = np.zeros(256, dtype=bool)
        own[[index for index in rules.sources if rules.binds(index, z)]] = True
        above = quarter_of(parent.sources, number)
        pure = (above[..., 0] > 0) & (above[..., 1] == 0)
        for row in (0, 1):
            for col in (0, 1):
                below = child.sources[row::2, col::2]
                pure &= (below[..., 0] == above[..., 0]) & (below[..., 1] == 0)
        by_itself = own[above[..., 0]]
        return [(pure & by_itself, True), (pure & ~by_itself, False)]
    zero = [child.heights[row::2, col::2] == 0 for row in (0, 1) for col in (0, 1)]
    none, some = zero[0] & zero[1] & zero[2] & zero[3], zero[0] | zero[1] | zero[2] | zero[3]
    known = ~some | (none & (quarter_of(parent.heights, number) != 0))
    return [(known, len(rules.sources) == 1 and all(rules.binds(index, z) for index in rules.sources))]


def _relative_missing(
    rules: ArchiveRules, tile: Tile, parent: TileView | None, child_tile: Tile, number: int
) -> list[Finding]:
    """Return the finding for a parent without a child that it should have, or the other way round."""
    if parent is None:
        if not rules.reaches_up_to(tile.z):
            return []
        text = f"tile {tile} is missing, and its child {child_tile} is there"
        return [Finding("parent", tile, text, 1e9)]
    if parent.heights is None:
        return []
    quarter = quarter_of(parent.heights, number)
    count = 0
    if rules.exact:
        count = tile_laws.missing_differs(quarter, None)
    elif rules.merged and parent.sources is not None:
        above = quarter_of(parent.sources, number)[..., 0]
        own = [index for index, one in rules.sources.items() if one.has(tile.z) and one.has(child_tile.z)]
        count = int(np.isin(above, own).sum())
    elif rules.merged and rules.ours and rules.all_have(tile.z) and rules.all_have(child_tile.z):
        count = int(np.count_nonzero(quarter))
    if not count:
        return []
    text = f"tile {child_tile} is missing: {count} pixels of its parent {tile} have heights there"
    return [Finding("parent", tile, text, 1e9)]


def meeting(rules: ArchiveRules, first: TileView | None, second: TileView | None, side: str) -> Border | None:
    """Compare a tile with the one at its `right` or `bottom`; None where they cannot be compared.

    In a merged archive lines with pixels of 0 m, which may be missing, are left
    out, and with a lineage those of several sources.
    """
    if first is None or second is None or first.heights is None or second.heights is None:
        return None
    other = {"right": "left", "bottom": "top"}[side]
    a, b = tile_laws.edge(first.heights, side), tile_laws.edge(second.heights, other)
    mask: Mask | None = None
    if first.sources is not None and second.sources is not None:
        around = np.concatenate(
            [tile_laws.edge(first.sources, side), tile_laws.edge(second.sources, other)], axis=1
        )
        origin = around[..., 0]
        mask = (origin == origin[:, :1]).all(axis=1) & (origin[:, 0] > 0) & (around[..., 1] == 0).all(axis=1)
    elif rules.merged:
        zeros = np.concatenate([a, b], axis=1) == 0
        mask = ~zeros.any(axis=1) | zeros.all(axis=1)
    return tile_laws.border(a, b, rules.step_m(first.tile.z), mask)


def seam(first: Tile, second: Tile, side: str, found: Border) -> Finding:
    """Return the finding for a border that stands out."""
    row, col = (TILE_SIZE_PX / 2, TILE_SIZE_PX - 0.5)
    if side == "bottom":
        row, col = col, row
    text = (
        f"tiles {first} and {second}: the step across their border, near {place(first, row, col)}, is "
        f"{found.across_m / found.rows:.4g} m, beside it {found.inside_m / found.rows:.4g} m"
        f" ({found.jump_m:+.4g} m beyond what the slopes let expect)"
    )
    return Finding("seam", first, text, abs(found.jump_m), suspect=True)
