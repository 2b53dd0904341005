"""Every tile of an archive held against its parents, its neighbours and its lineage, by several processes."""

from __future__ import annotations

import heapq
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import numpy.typing as npt

from fusi_pipeline import tile_laws
from fusi_pipeline.archive_rules import ArchiveRules, rules_of
from fusi_pipeline.cost import workers_for
from fusi_pipeline.findings import (
    DeepAnswer,
    DeepBlock,
    DeepContext,
    DeepPlaces,
    Finding,
    ZoomTally,
)
from fusi_pipeline.progress import Progress
from fusi_pipeline.settings import Settings
from fusi_pipeline.tiles.archive import TileReader
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.workers import WINDOW_PER_WORKER, in_order, process_pool

_WORKER = "fusi_pipeline.deep_worker"
_BLOCK_LEVELS = 3
"""A block is 2^3 = 8 tiles wide at its highest zoom."""
_PLACES_PER_TASK = 4
_LISTED = 25
"""Findings of one kind that are listed, the worst; the others are counted."""
_DRIFT_SHARE = 0.8
"""Of the bound, that the mean of all differences must not reach: only a shift of all pixels does."""
_ODD_DRIFT_SHARE = 0.5
"""Of the bound, beyond which the mean is a suspect: roundings cancel out over many pixels."""
_LEAST_DRIFT_PX = 65536
"""A quarter of a tile; the mean of fewer may be far off by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoomFigures:
    """What was measured at one zoom."""

    zoom: int
    tiles: int
    step_m: float
    """Vertical step of its heights."""
    bound_m: float | None
    """How far a parent may lie from the mean of its children; None at the highest zoom."""
    compared: int
    """Pixels compared with the mean of their four children."""
    within: float | None
    """Share of them that are within the bound; None where none was compared."""
    judged: int
    """Pixels of parents that were held against their children not one by one, but as a whole by tile."""
    not_compared: int
    """Pixels of parents, over children with heights, that were held against nothing."""
    largest_m: float
    """Largest difference, absolute."""
    drift_m: float | None
    """Mean of parent less children, where the children differ among each other."""
    borders: int
    """Pixels along tile borders that were compared."""
    across_m: float | None
    """Mean absolute step across a tile border."""
    ratio: float | None
    """The step across tile borders by the step one pixel beside them; near 1 where tiles meet."""


@dataclass(slots=True)
class DeepResult:
    """What a deep check amounts to, summed up over the answers of the workers."""

    tiles: int = 0
    minimum_m: float = float("inf")
    maximum_m: float = float("-inf")
    tallies: dict[int, ZoomTally] = field(default_factory=dict)
    winners: dict[int, int] = field(default_factory=dict)
    ends: set[Tile] = field(default_factory=set)
    problems: Listing = field(default_factory=lambda: Listing())
    suspects: Listing = field(default_factory=lambda: Listing())

    def add(self, answer: DeepAnswer) -> None:
        """Take in what a worker found."""
        self.tiles += answer.tiles
        self.minimum_m = min(self.minimum_m, answer.minimum_m)
        self.maximum_m = max(self.maximum_m, answer.maximum_m)
        for z, tally in answer.tallies.items():
            self.tallies.setdefault(z, ZoomTally()).add(tally)
        self.ends.update(answer.ends)
        for index, pixels in answer.winners.items():
            self.winners[index] = self.winners.get(index, 0) + pixels
        for finding in answer.findings:
            (self.suspects if finding.suspect else self.problems).add(finding)


class Listing:
    """Findings by kind: the worst of each kept, all counted."""

    def __init__(self) -> None:
        self._kept: dict[str, list[tuple[float, int, Finding]]] = {}
        self._counts: dict[str, int] = {}
        self._serial = count()

    def add(self, finding: Finding) -> None:
        """Take in one; the same tile may be noted again for the same reason, and is listed once."""
        kept = self._kept.setdefault(finding.kind, [])
        if any(one.text == finding.text for _, _, one in kept):
            return
        self._counts[finding.kind] = self._counts.get(finding.kind, 0) + 1
        entry = (finding.weight, -next(self._serial), finding)
        if len(kept) < _LISTED:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds met, in the order in which they were first met."""
        return tuple(self._kept)

    def lines(self) -> Iterator[str]:
        """Yield a sentence for each finding that is listed, the worst first, and for those that are not."""
        for kind, kept in self._kept.items():
            for _, _, finding in sorted(kept, reverse=True, key=lambda entry: entry[:2]):
                yield finding.text
            hidden = self._counts[kind] - len(kept)
            if hidden > 0:
                yield f"and {hidden} more of this kind ({kind}) that are not listed"


def check_tiles(
    reader: TileReader, context: DeepContext, settings: Settings, *, sample: int = 0
) -> Generator[Progress, None, DeepResult]:
    """Check all tiles of an archive, or `sample` tiles spread over it and what lies around them.

    Raises BudgetTooSmall where the memory holds no worker, WorkerLost.
    """
    rules, counts = rules_of(reader.metadata), reader.counts()
    result = DeepResult()
    total = sum(counts.values())
    if not total:
        return result
    tasks: Iterator[DeepBlock | DeepPlaces]
    if sample and sample < total:
        tasks, total = _places(reader, counts, sample), sample
    else:
        tasks = blocks(reader, min(counts), max(counts))
    workers = workers_for(settings.memory_mb, settings.workers, settings.gdal_cache_mib)
    with process_pool(workers, _WORKER, context, settings.child_environment(), settings.limits) as pool:
        yield Progress("check", 0, total, "tiles")
        work = ((task, True) for task in tasks)
        for _, answer in in_order(pool, f"{_WORKER}:check", work, workers * WINDOW_PER_WORKER):
            result.add(answer)
            yield Progress("check", min(result.tiles, total), total, "tiles")
    _note_ends(result)
    _note_drift(result, rules, certain=rules.exact or (rules.ours and context.lineage is not None))
    return result


def blocks(reader: TileReader, minzoom: int, maxzoom: int) -> Iterator[DeepBlock]:
    """Yield blocks that hold every tile of an archive once, from the highest zooms to the lowest."""
    high = maxzoom
    while True:
        top = max(high - _BLOCK_LEVELS, 0)
        last = top <= minzoom
        low = minzoom if last else top + 1
        for x, y in _squares(reader, top, low, high):
            yield DeepBlock(Tile(top, x, y), low, high)
        if last:
            return
        high = top


def _squares(reader: TileReader, top: int, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Yield the columns and rows of the tiles at zoom `top` that hold tiles of zooms `low` to `high`."""
    parts: list[npt.NDArray[np.int64]] = []
    for z in range(low, high + 1):
        columns, rows = (reader.coordinates(z).astype(np.int64) >> (z - top)).T
        parts.append(np.unique(columns << 32 | rows))
    for code in np.unique(np.concatenate(parts)).tolist():
        yield code >> 32, code & 0xFFFFFFFF


def _places(reader: TileReader, counts: dict[int, int], sample: int) -> Iterator[DeepPlaces]:
    """Yield `sample` tiles spread evenly over an archive, a few at a time."""
    wanted = np.arange(sample) * sum(counts.values()) // sample
    first = 0
    for z in sorted(counts):
        coordinates = reader.coordinates(z)
        chosen = wanted[(wanted >= first) & (wanted < first + len(coordinates))] - first
        first += len(coordinates)
        tiles = [Tile(z, x, y) for x, y in coordinates[chosen].tolist()]
        for start in range(0, len(tiles), _PLACES_PER_TASK):
            yield DeepPlaces(tuple(tiles[start : start + _PLACES_PER_TASK]))


def figures(result: DeepResult, rules: ArchiveRules) -> tuple[ZoomFigures, ...]:
    """Return the figures of each zoom of a terrain archive, from the lowest up."""
    found: list[ZoomFigures] = []
    if rules.is_lineage:
        return ()
    for z, tally in sorted(result.tallies.items()):
        bound = tile_laws.bound_m(rules.step_m(z), rules.step_m(z + 1)) if z < rules.maxzoom else None
        found.append(
            ZoomFigures(
                zoom=z,
                tiles=tally.tiles,
                step_m=rules.step_m(z),
                bound_m=bound,
                compared=tally.compared,
                within=tally.within / tally.compared if tally.compared else None,
                judged=tally.judged,
                not_compared=tally.not_compared,
                largest_m=tally.largest_m,
                drift_m=tally.total_m / tally.uneven if tally.uneven else None,
                borders=tally.border_px,
                across_m=tally.across_m / tally.border_px if tally.border_px else None,
                ratio=tally.across_m / tally.inside_m if tally.inside_m else None,
            )
        )
    return tuple(found)


def _note_ends(result: DeepResult) -> None:
    """Note in one sentence the tiles that are lost, or beyond the edge of a source: it cannot be told."""
    if not result.ends:
        return
    first = min(result.ends)
    text = (
        f"{len(result.ends)} tiles beside others may be missing, the first {first}: their parents have "
        "heights there, which at the edge of a finer source is right"
    )
    result.suspects.add(Finding("missing", first, text, -1.0, suspect=True))


def _note_drift(result: DeepResult, rules: ArchiveRules, *, certain: bool) -> None:
    """Note zooms whose heights lie above or below those of the next zoom on the whole.

    `certain` tells whether only pixels were compared that obey the law.
    """
    for one in figures(result, rules):
        tally = result.tallies[one.zoom]
        if one.drift_m is None or one.bound_m is None or tally.uneven < _LEAST_DRIFT_PX:
            continue
        if abs(one.drift_m) <= one.bound_m * _ODD_DRIFT_SHARE:
            continue
        wrong = certain and abs(one.drift_m) > one.bound_m * _DRIFT_SHARE
        text = (
            f"zoom {one.zoom}: heights lie {one.drift_m:+.4g} m from the mean of zoom {one.zoom + 1}, "
            f"over {tally.uneven} pixels"
        )
        listing = result.problems if wrong else result.suspects
        listing.add(Finding("drift", Tile(one.zoom, 0, 0), text, abs(one.drift_m), suspect=not wrong))
