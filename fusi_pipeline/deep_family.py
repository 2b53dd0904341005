"""What is wrong between a tile and one of its children, as findings with a place.

Every pixel of a parent is held against its children by the strongest law that
binds it: one by one where they are known to be means of the same heights, else
as a whole by tile, those of one kind together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusi_pipeline import tile_laws
from fusi_pipeline.archive_rules import ArchiveRules
from fusi_pipeline.deep_tile import Pixels, TileView, place, quarter_of
from fusi_pipeline.findings import DeepAnswer, Finding, ZoomTally
from fusi_pipeline.lineage import MOST_SOURCES, SHARE_UNITS
from fusi_pipeline.tile_laws import HALF_PX, Likeness, Mask, Straying
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.resample import Heights, halve

_LEAST_COMPARED = 1024
"""Pixels that make a median of a kind reliable: a 64th of a quarter."""
_LEAST_STRAYING = 64
"""Fewer are judged too, down to this, if they lie outside by all of their children's range."""
_SPREADS = 2.0
"""A middle twice as far off as differences are spread is a shift, and no noise."""
_RELIEF_SHARE = 0.5
"""A mean of four heights is farther from their middle than half their range only if it is not theirs."""
_ENLARGED_SHARE = 0.25
"""Enlarging smooths: means of enlarged pixels stray from the original by a quarter of the range or so."""
_STRAYING_SHARE = 0.25
"""Of the children's range, that parents may lie outside of it: sources differ from pixel to pixel."""
_BLEND_BOUNDS = 3.0
"""Blended heights are rounded before and after; where they differ by less than a step, none are blended."""
_APART_UNITS = 13
"""Shares, a twentieth in 1/255, farther apart than the edge of a band makes them from zoom to zoom."""
_SLACK_M = 0.002
"""What float32 cannot tell of heights on Earth."""
_ENCLOSED = 3
"""Neighbours of four around a missing tile, which no source's edge leaves out like that."""
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_MOST_WEIGHT = 1e9
"""A lost tile is worse than any difference."""
_HALF = round(SHARE_UNITS / 2)
"""The share of the second source in the mean of two."""

Around = Callable[[], Sequence[tuple[str, TileView]]]
"""Gives the neighbours of a tile that there are, with the side at which each lies."""


def family(
    rules: ArchiveRules,
    parent: tuple[Tile, TileView | None],
    child: tuple[Tile, TileView | None],
    number: int,
    answer: DeepAnswer,
    around: Around,
) -> list[Finding]:
    """Compare a tile with one of its children; adds to the figures of an answer, returns what is wrong.

    At least one of the two is there; `number` counts children NW, NE, SW, SE.
    `around` is asked for the neighbours of a child that is not there.
    """
    (tile, above), (child_tile, below) = parent, child
    if above is None:
        if not rules.reaches_up_to(tile.z):
            return []
        text = f"tile {tile} is missing, and its child {child_tile} is there"
        return [Finding("parent", tile, text, _MOST_WEIGHT)]
    if below is None:
        return [] if above.heights is None else _lost_child(rules, above, child_tile, number, around, answer)
    if above.heights is None or below.heights is None:
        return []
    tally = answer.tally(tile.z)
    pair = _Pair(rules, tile, child_tile, number, quarter_of(above.heights, number), below.heights)
    missing = tile_laws.missing_differs(pair.quarter, pair.child) if rules.exact else 0
    if missing:
        return [_void(pair, missing)]
    if rules.merged and above.sources is not None and below.sources is not None:
        return _with_lineage(pair, quarter_of(above.sources, number), below.sources, tally)
    mask, strict = _known(pair)
    like = tile_laws.likeness(pair.quarter, pair.child, pair.bound, mask)
    _count(tally, like)
    mean = halve(pair.child)
    held = np.isfinite(pair.quarter) & np.isfinite(mean)
    if rules.merged:
        held &= (pair.quarter != 0) | (mean != 0)
    tally.not_compared += int(np.count_nonzero(held)) - like.compared
    return _judged(pair, like, strict)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A quarter of a tile and the child under it."""

    rules: ArchiveRules
    tile: Tile
    child_tile: Tile
    number: int
    quarter: Heights
    """Shape (256, 256)."""
    child: Heights
    """Shape (512, 512)."""

    @property
    def bound(self) -> float:
        """How far a parent may lie from the mean of its children."""
        return tile_laws.bound_m(self.rules.step_m(self.tile.z), self.rules.step_m(self.child_tile.z))

    def place(self, row: int, col: int) -> str:
        """Return where a pixel of the quarter is."""
        return place(self.tile, row + (self.number // 2) * HALF_PX, col + (self.number % 2) * HALF_PX)


def _known(pair: _Pair) -> tuple[Mask | None, bool]:
    """Return which pixels of a quarter to compare without a lineage, None for all, and if strictly.

    In a merged archive a child of 0 m may be a missing one, which is no part of the mean.
    """
    rules = pair.rules
    if rules.exact or not rules.merged:
        return None, rules.exact
    zero = [pair.child[row::2, col::2] == 0 for row in (0, 1) for col in (0, 1)]
    none, some = zero[0] & zero[1] & zero[2] & zero[3], zero[0] | zero[1] | zero[2] | zero[3]
    strict = len(rules.sources) == 1 and all(rules.binds(index, pair.tile.z) for index in rules.sources)
    return ~some | (none & (pair.quarter != 0)), strict


def _with_lineage(pair: _Pair, above: Pixels, below: Pixels, tally: ZoomTally) -> list[Finding]:
    """Compare a quarter with its child where the sources of each pixel are known.

    `above`, shape (256, 256, 3), and `below`, shape (512, 512, 3), are their lineage.
    """
    kinds = _Kinds.of(pair, above, below)
    child = np.where(below[..., 0] > 0, pair.child, np.float32(np.nan))
    own = np.where(kinds.alike, child, np.float32(np.nan))
    bound, found = pair.bound, _gaps(pair, kinds)
    for mask, allowed in ((kinds.single, bound), (kinds.mean, 2 * bound)):
        like = tile_laws.likeness(pair.quarter, own, allowed, mask)
        _count(tally, like)
        found += _judged(pair, like, strict=True, bound=allowed)
    loose = tile_laws.likeness(pair.quarter, child, bound, kinds.enlarged)
    rest = [kinds.blended, kinds.mixed]
    if loose.compared >= _LEAST_COMPARED:
        tally.judged += loose.compared
        found += _judged(pair, loose, strict=False)
    else:
        rest.append(kinds.enlarged)
    if any(0 < np.count_nonzero(one) < _LEAST_COMPARED for one in rest):
        rest = [np.logical_or.reduce(rest)]
    shares = _shares(above, below)
    for mask in rest:
        slack = tile_laws.blend_slack_m(child, *shares, mask & kinds.kin)
        stray = tile_laws.straying(pair.quarter, child, mask)
        if stray is not None and stray.pixels >= _LEAST_STRAYING:
            tally.judged += stray.pixels
            found += _strayed(pair, stray, slack)
        elif stray is not None:
            tally.not_compared += stray.pixels
    free = kinds.begun | kinds.apart
    tally.not_compared += int(np.count_nonzero(free))
    return found + _blank(pair, child, free)


def _shares(above: Pixels, below: Pixels) -> tuple[Heights, Heights]:
    """Return the second source's share, 0..1, of parents and children."""
    units = np.float32(SHARE_UNITS)
    return above[..., 2].astype(np.float32) / units, below[..., 2].astype(np.float32) / units


@dataclass(frozen=True, slots=True, eq=False)
class _Kinds:
    """By which law each pixel of a quarter is held against its child, masks of shape (256, 256)."""

    alike: Mask
    """Children from the same sources as their parent, shape (512, 512)."""
    single: Mask
    """Of one source, and the mean of its pixels below."""
    mean: Mask
    """The mean of the same two sources as all pixels below."""
    enlarged: Mask
    """Of one source like all pixels below, which are not its own there."""
    blended: Mask
    """Blended of two sources, or over one that is, in no law above."""
    kin: Mask
    """Of these, those of the same two sources as all pixels below, or of the first of them alone."""
    apart: Mask
    """Blended otherwise than below: a void of one pixel makes a band at one zoom and none above it."""
    mixed: Mask
    """Of another source than some pixel below."""
    begun: Mask
    """Over pixels of a source that begins at the child's zoom, so that no law binds."""
    lost: Mask
    """Missing over pixels that are there, or the other way round, against the law."""

    @classmethod
    def of(cls, pair: _Pair, above: Pixels, below: Pixels) -> _Kinds:
        """Return the kinds of pixels, by their lineage."""
        rules, z = pair.rules, pair.tile.z
        indices = range(MOST_SOURCES + 1)
        binds = np.array([rules.binds(one, z) for one in indices])
        means = np.array([rules.means(one, z) for one in indices])
        begins = np.array([one in rules.sources and rules.sources[one].minzoom > z for one in indices])
        first, second = above[..., 0], above[..., 1]
        under = [below[row::2, col::2] for row in (0, 1) for col in (0, 1)]
        alike = (below[..., :2] == np.repeat(np.repeat(above[..., :2], 2, 0), 2, 1)).all(axis=-1)
        same = [alike[row::2, col::2] for row in (0, 1) for col in (0, 1)]
        void = [one[..., 0] == 0 for one in under]
        there = first > 0
        under_it = [_lies_under(rules, one, first) for one in under]
        all_same, any_same = np.logical_and.reduce(same), np.logical_or.reduce(same)
        covered = ~np.logical_and.reduce(void)
        lone = there & (second == 0)
        known = [a | b for a, b in zip(same, under_it, strict=True)]
        single = lone & ((all_same & binds[first]) | (np.logical_and.reduce(known) & any_same & means[first]))
        shares = [one[..., 2] == _HALF for one in under]
        halves = [a & b | c for a, b, c in zip(same, shares, void, strict=True)]
        mean = there & (second > 0) & (above[..., 2] == _HALF) & means[first] & means[second]
        mean &= np.logical_and.reduce(halves) & any_same & (rules.mode == "mean")
        left = there & covered & ~single & ~mean
        enlarged = left & lone & all_same
        begun = left & np.logical_or.reduce([begins[one[..., 0]] | begins[one[..., 1]] for one in under])
        left &= ~enlarged & ~begun
        kin = _are_kin(above, under)
        units = sum((one[..., 2].astype(np.int32) for one in under), np.int32(0))
        far = np.abs(4 * above[..., 2].astype(np.int32) - units) > 4 * _APART_UNITS
        blended = left & ((second > 0) | np.logical_or.reduce([one[..., 1] > 0 for one in under]))
        apart = blended & ((kin & far) | (~kin & (rules.mode == "feather")))
        blended &= ~apart
        left &= ~apart
        lost = there & ~covered & means[first]
        lost |= ~there & np.logical_or.reduce([means[one[..., 0]] for one in under])
        return cls(
            alike=alike, single=single, mean=mean, enlarged=enlarged, blended=blended,
            kin=blended & kin, apart=apart, mixed=left & ~blended, begun=begun, lost=lost,
        )  # fmt: skip


def _are_kin(above: Pixels, under: list[Pixels]) -> Mask:
    """Tell where parents and their four children are of one first source, and of one second or none."""
    second = np.maximum.reduce([above[..., 1], *(one[..., 1] for one in under)])
    kin: Mask = (above[..., 1] == second) | (above[..., 1] == 0)
    for one in under:
        kin &= (one[..., 0] == above[..., 0]) & ((one[..., 1] == 0) | (one[..., 1] == second))
    return kin


def _lies_under(rules: ArchiveRules, child: Pixels, first: npt.NDArray[np.uint8]) -> Mask:
    """Tell where a child shows that its parent's source has no height there.

    No source has, or, where precedence decides, one that comes after it has taken its place.
    """
    void: Mask = child[..., 0] == 0
    return void if rules.picks else void | (child[..., 0] > first)


def _gaps(pair: _Pair, kinds: _Kinds) -> list[Finding]:
    """Return the finding for pixels that are missing by the lineage and valid by the law, or otherwise."""
    count = int(np.count_nonzero(kinds.lost)) if pair.rules.ours else 0
    return [_void(pair, count)] if count else []


def _void(pair: _Pair, count: int) -> Finding:
    text = (
        f"tile {pair.tile}: {count} pixels over its child {pair.child_tile} are missing where the child has "
        "heights, or have heights where it has none"
    )
    return Finding("parent", pair.tile, text, float(count))


def _count(tally: ZoomTally, like: Likeness) -> None:
    tally.compared += like.compared
    tally.within += like.within
    tally.largest_m = max(tally.largest_m, like.largest_m)
    tally.total_m += like.total_m
    tally.uneven += like.uneven


def _judged(pair: _Pair, like: Likeness, strict: bool, bound: float | None = None) -> list[Finding]:
    """Return what is wrong by a comparison with the mean of the children."""
    rules, z = pair.rules, pair.tile.z
    allowed = pair.bound if bound is None else bound
    if _is_off(rules, z, like, allowed, strict):
        certain = not strict or rules.rounded_once or like.largest_m > allowed + pair.bound + _SLACK_M
        return [_unlike(pair, like, allowed, certain=certain)]
    if not strict and like.compared >= _LEAST_COMPARED and _is_odd(rules, z, like):
        return [_unlike(pair, like, allowed, certain=False)]
    return []


def _unlike(pair: _Pair, like: Likeness, bound: float, *, certain: bool) -> Finding:
    text = (
        f"tile {pair.tile}: {like.compared - like.within} of {like.compared} pixels are more than {bound:g} m"
        f" from the mean of its child {pair.child_tile}, {like.largest_m:.6g} m at worst "
        f"(at {pair.place(*like.worst)}), {like.shift_m:+.4g} m in the middle"
    )
    suspect = not (certain and pair.rules.ours)
    return Finding("likeness" if suspect else "parent", pair.tile, text, like.largest_m, suspect=suspect)


def _strayed(pair: _Pair, stray: Straying, slack_m: float) -> list[Finding]:
    """Return the finding for pixels of several sources that as a whole lie outside of their children's."""
    share = _STRAYING_SHARE if stray.pixels >= _LEAST_COMPARED else 1.0
    if stray.beyond_m <= _BLEND_BOUNDS * pair.bound + slack_m + share * stray.range_m:
        return []
    text = (
        f"tile {pair.tile}: {stray.pixels} pixels of several sources lie outside of what its child "
        f"{pair.child_tile} has there, {stray.shift_m:+.4g} m from its mean in the middle, "
        f"{stray.largest_m:.6g} m at worst (at {pair.place(*stray.worst)})"
    )
    suspect = not pair.rules.ours
    return [
        Finding("likeness" if suspect else "parent", pair.tile, text, abs(stray.shift_m), suspect=suspect)
    ]


def _blank(pair: _Pair, child: Heights, mask: Mask) -> list[Finding]:
    """Return the suspicion that pixels without a law are all of one height, over children of many."""
    stray = tile_laws.straying(pair.quarter, child, mask)
    if stray is None or stray.pixels < _LEAST_COMPARED or np.ptp(pair.quarter[mask]) > 0:
        return []
    if stray.beyond_m <= _BLEND_BOUNDS * pair.bound + stray.range_m:
        return []
    text = (
        f"tile {pair.tile}: {stray.pixels} pixels over its child {pair.child_tile} are all of one height, "
        f"{stray.shift_m:+.4g} m from its mean in the middle"
    )
    return [Finding("likeness", pair.tile, text, abs(stray.shift_m), suspect=True)]


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
    least = max(bound, _SPREADS * like.spread_m, like.range_m * _ENLARGED_SHARE if enlarged else 0)
    return abs(like.shift_m) > least or like.median_m > like.range_m * (1 if enlarged else _RELIEF_SHARE)


def _is_odd(rules: ArchiveRules, z: int, like: Likeness) -> bool:
    """Tell whether most pixels disagree where only those at the edge of a source have a reason to."""
    expected = rules.ends_at(z) or rules.begins_at(z + 1) or rules.picks
    return not expected and like.within < like.compared / 2


def _lost_child(
    rules: ArchiveRules, parent: TileView, child_tile: Tile, number: int, around: Around, answer: DeepAnswer
) -> list[Finding]:
    """Return the finding for a tile without a child that it should have, or seems to have lost.

    Notes the child where nothing but a lineage could tell.
    """
    assert parent.heights is not None
    quarter = quarter_of(parent.heights, number)
    count = _owed(rules, parent.tile.z, parent, quarter, number)
    if count:
        text = f"tile {child_tile} is missing: {count} pixels of its parent {parent.tile} have heights there"
        return [Finding("parent", parent.tile, text, _MOST_WEIGHT)]
    if rules.merged and parent.sources is not None:
        return []  # what is there is of sources that end above
    seen = _seen(rules, quarter)
    lines = [_line(rules, view, _OPPOSITE[side]) for side, view in around()] if seen else []
    going_on = sum(tile_laws.is_detailed(one, rules.step_m(child_tile.z)) for one in lines if one is not None)
    if not going_on and len(lines) < _ENCLOSED:
        answer.ends += [child_tile] if any(one is not None for one in lines) else []
        return []
    text = (
        f"tile {child_tile} may be missing: {seen} pixels of its parent {parent.tile} have heights there, "
        f"{len(lines)} of its neighbours are there, and {going_on} of them end in detail at its border"
    )
    return [Finding("missing", child_tile, text, float(len(lines) + going_on), suspect=True)]


def _line(rules: ArchiveRules, view: TileView, side: str) -> Heights | None:
    """Return the heights along a side of a tile, shape (512,); None where one of them is missing."""
    if view.heights is None:
        return None
    line: Heights = tile_laws.edge(view.heights, side)[:, 0]
    held = np.isfinite(line) & ((line != 0) | (not rules.merged))
    return line if held.all() else None


def _seen(rules: ArchiveRules, quarter: Heights) -> int:
    """Return how many pixels of a quarter surely have a height."""
    return int(np.count_nonzero(np.isfinite(quarter) & ((quarter != 0) | (not rules.merged))))


def _owed(rules: ArchiveRules, z: int, parent: TileView, quarter: Heights, number: int) -> int:
    """Return how many pixels of a quarter must have children, by the law of the archive."""
    if rules.exact:
        return tile_laws.missing_differs(quarter, None)
    if rules.merged and parent.sources is not None:
        above = quarter_of(parent.sources, number)[..., 0]
        own = [index for index, one in rules.sources.items() if one.has(z) and one.has(z + 1)]
        return int(np.isin(above, own).sum())
    if rules.merged and rules.ours and rules.all_have(z) and rules.all_have(z + 1):
        return int(np.count_nonzero(quarter))
    return 0
