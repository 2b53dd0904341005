"""A build cut into groups that run one after another, each in a new process. Pure.

A block is warped once and makes its tiles of all its zooms in one go, so zooms
of the blocks cannot be parted; what can be is the blocks, into sets, and the
zooms above them, into ranges. A group is a stretch of the plan, so that the
ledger tells which groups are finished.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fusi_pipeline.cost import BuildCost, GroupEstimate
from fusi_pipeline.errors import UsageError
from fusi_pipeline.plan import SourcePlan
from fusi_pipeline.sources import SourceIndex


@dataclass(frozen=True, slots=True)
class _Pattern:
    """How a build is cut."""

    blocks: int | None
    """Blocks in a group, at most; all where None."""
    zooms: int | None
    """Zooms above the blocks in a group; all where None."""


PATTERNS = {
    "balanced": _Pattern(1024, None),
    "safe": _Pattern(256, 3),
    "fast": _Pattern(None, None),
    "incremental": _Pattern(1024, 1),
    "single": _Pattern(None, None),
}
"""`single` is one group; the others have the zooms above the blocks in groups of their own."""
_RANGES = re.compile(r"\d{1,2}(-\d{1,2})?(,\d{1,2}(-\d{1,2})?)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRule:
    """How a run is cut into groups."""

    split: str = "fast"
    """A name in PATTERNS, or ranges of zooms such as `0-12,13-15,16`."""
    group_blocks: int | None = None
    """Blocks in a group; what the pattern says where None."""
    resume_from: int | None = None
    """Number of the group to begin with; those before have to be finished."""


@dataclass(frozen=True, slots=True)
class Group:
    """A stretch of the plan of a source."""

    number: int
    """Counted from 1 through all sources of a run."""
    source: str
    minzoom: int
    maxzoom: int
    start: int
    """Position in the plan of its first block (or tile above the blocks)."""
    stop: int
    """Position behind its last."""

    def __str__(self) -> str:
        zooms = f"{self.minzoom}..{self.maxzoom}" if self.minzoom < self.maxzoom else f"{self.maxzoom}"
        return f"group {self.number} ({self.source}, zooms {zooms}, {self.stop - self.start} blocks)"


def is_split(text: str) -> bool:
    """Tell whether a text looks like a way to split."""
    return text in PATTERNS or _RANGES.fullmatch(text) is not None


def check_split(text: str) -> str:
    """Return what says how to split, as it was given. Raises UsageError."""
    if text not in PATTERNS:
        _ranges(text)
    return text


def grouped(plan: SourcePlan, rule: GroupRule, first_number: int = 1) -> list[Group]:
    """Return the groups of a plan, in order. Raises UsageError where ranges do not fit its zooms."""
    blocks = len(plan.coordinates)
    lowest_base = max(plan.block_zoom, plan.minzoom)
    if rule.split == "single" and rule.group_blocks is None:
        total = blocks + sum(_level_sizes(plan).values())
        return [Group(first_number, plan.name, plan.minzoom, plan.maxzoom, 0, total)]
    pattern = PATTERNS.get(rule.split, _Pattern(None, None))
    size = rule.group_blocks or pattern.blocks or blocks
    count = -(-blocks // size)
    edges = [blocks * part // count for part in range(count + 1)]
    cuts = [(lowest_base, plan.maxzoom, *span) for span in pairwise(edges)]
    start = blocks
    sizes = _level_sizes(plan)
    for low, high in _ranges_above(plan, rule.split, pattern):
        stop = start + sum(sizes[z] for z in range(low, high + 1))
        cuts.append((low, high, start, stop))
        start = stop
    return [Group(number, plan.name, *cut) for number, cut in enumerate(cuts, first_number)]


def group_estimates(
    plan: SourcePlan, index: SourceIndex, groups: Sequence[Group], cost: BuildCost
) -> list[GroupEstimate]:
    """Return what each group of a plan will take."""
    blocks = len(plan.coordinates)
    tiles = np.fromiter((sum(counts.values()) for counts in plan.block_tile_counts(index)), np.int64, blocks)
    sums = np.concatenate([[0], np.cumsum(tiles)])
    estimates = []
    for group in groups:
        in_blocks = int(sums[min(group.stop, blocks)] - sums[min(group.start, blocks)])
        count = in_blocks + max(group.stop, blocks) - max(group.start, blocks)
        estimates.append(
            GroupEstimate(
                number=group.number,
                source=group.source,
                minzoom=group.minzoom,
                maxzoom=group.maxzoom,
                blocks=group.stop - group.start,
                tiles=count,
                bytes=cost.bytes_of(count),
                memory_mib=cost.memory_mib,
                seconds=cost.seconds_of(count),
            )
        )
    return estimates


def _level_sizes(plan: SourcePlan) -> dict[int, int]:
    """Return how many tiles there are at each zoom above the blocks."""
    sizes: dict[int, int] = {}
    coordinates = plan.coordinates
    for z in range(plan.block_zoom - 1, plan.minzoom - 1, -1):
        coordinates = np.unique(coordinates >> 1, axis=0)
        sizes[z] = len(coordinates)
    return sizes


def _ranges_above(plan: SourcePlan, split: str, pattern: _Pattern) -> list[tuple[int, int]]:
    """Return the (lowest, highest) zooms of the groups above the blocks, the deepest first."""
    top = plan.block_zoom - 1
    if split not in PATTERNS:
        ranges = _ranges(split)
        covered = {z for low, high in ranges for z in range(low, high + 1)}
        missing = [z for z in range(plan.minzoom, plan.maxzoom + 1) if z not in covered]
        if missing:
            raise UsageError(
                f"--split {split}: zoom {missing[0]} of source {plan.name!r}, which has zooms "
                f"{plan.minzoom}..{plan.maxzoom}, is in no range; add it to one"
            )
        cut = ((max(low, plan.minzoom), min(high, top)) for low, high in ranges)
        return [(low, high) for low, high in cut if low <= high]
    if top < plan.minzoom:
        return []
    step = pattern.zooms or top - plan.minzoom + 1
    return [(max(high - step + 1, plan.minzoom), high) for high in range(top, plan.minzoom - 1, -step)]


def _ranges(text: str) -> list[tuple[int, int]]:
    """Return (lowest, highest) of each range, the deepest first. Raises UsageError."""
    wrong = f"--split {text}: expected {', '.join(PATTERNS)}, or ranges of zooms such as 0-12,13-15,16"
    if not _RANGES.fullmatch(text):
        raise UsageError(wrong)
    ranges = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        ranges.append((int(low), int(high or low)))
    ranges.sort(reverse=True)
    if any(low > high for low, high in ranges):
        raise UsageError(f"{wrong}; a range goes from the lower zoom to the higher")
    for (lowest, _), (_, below) in pairwise(ranges):
        if below >= lowest:
            raise UsageError(f"--split {text}: zoom {below} is in two ranges; name it once")
    return ranges
