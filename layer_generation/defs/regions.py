"""A plan cut into partitions: squares of quadrants, in stages whose blocks wait for earlier stages only.

Dagster orders partitions of different assets, never those of one. So where a block
waits for one of the same step in another region, it belongs to a later turn of that
step, which is an asset of its own. Waiting within a region is the worker's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from layer_generation.errors import MapUnreadable
from layer_generation.progress import Progress

Numbers = npt.NDArray[np.int64]
STEPS = {1: "layer_blocks_2x2", 2: "layer_strips", 3: "layer_corners"}
"""Assets of the steps; further turns have their number behind."""


@dataclass(frozen=True, slots=True, order=True)
class Stage:
    """What one asset makes: a step's blocks that can be drawn in one turn. In order, they can be drawn."""

    turn: int
    """0 for what waits for no block of its own or a later step in another region, then 1, 2, ..."""
    step: int
    number: int = 0
    """How many stages of its step come before it."""

    @property
    def name(self) -> str:
        """The asset's name."""
        return STEPS[self.step] + (f"_{self.number + 1}" if self.number else "")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """The blocks of one stage in one region."""

    stage: Stage
    region: str

    def __str__(self) -> str:
        return f"{self.stage.name} {self.region}"


@dataclass(frozen=True)
class Regions:
    """A plan's blocks by stage and region; the arrays are (blocks,), in the order of the plan.

    `stage` and `region` are places in `stages` and `names`. `edges` is (m, 2): the place of
    a block and that of one it waits for.
    """

    ids: Numbers
    stage: Numbers
    region: Numbers
    edges: Numbers
    stages: tuple[Stage, ...]
    names: tuple[str, ...]

    @cached_property
    def partitions(self) -> Mapping[Stage, tuple[str, ...]]:
        """The regions that each stage has blocks in, north to south, west to east."""
        found: dict[Stage, list[str]] = {stage: [] for stage in self.stages}
        for key in sorted(self._places):
            partition = self._partition(key)
            found[partition.stage].append(partition.region)
        return {stage: tuple(names) for stage, names in found.items()}

    @cached_property
    def waits(self) -> Mapping[tuple[Stage, Stage], Mapping[str, tuple[str, ...]]]:
        """By (a stage, one it waits for): for each region of the latter the regions of the former."""
        found: dict[tuple[Stage, Stage], dict[str, list[str]]] = {}
        for one, other in self._pairs:
            block, before = self._partition(one), self._partition(other)
            regions = found.setdefault((block.stage, before.stage), {})
            regions.setdefault(before.region, []).append(block.region)
        return {
            pair: {name: tuple(those) for name, those in sorted(regions.items())}
            for pair, regions in found.items()
        }

    @cached_property
    def before(self) -> Mapping[Partition, frozenset[Partition]]:
        """The partitions that each partition waits for."""
        found: dict[Partition, set[Partition]] = {one: set() for one in self}
        for one, other in self._pairs:
            found[self._partition(one)].add(self._partition(other))
        return {one: frozenset(those) for one, those in found.items()}

    def __iter__(self) -> Iterator[Partition]:
        """Yield every partition in an order in which they can be drawn."""
        for stage, names in self.partitions.items():
            yield from (Partition(stage, name) for name in names)

    def blocks(self, partition: Partition) -> list[int]:
        """Return the ids of a partition's blocks; none where the plan has no such partition."""
        return [int(self.ids[place]) for place in self._within(partition)]

    def outside(self, partition: Partition) -> dict[int, Partition]:
        """Return the blocks of other partitions that a partition's blocks wait for, by id."""
        within = np.zeros(len(self.ids), dtype=bool)
        within[self._within(partition)] = True
        places = np.unique(self.edges[within[self.edges[:, 0]] & ~within[self.edges[:, 1]], 1])
        return {int(self.ids[place]): self._partition(int(self._key[place])) for place in places}

    def first(self, partition: Partition, complete: Iterable[int]) -> dict[int, Partition]:
        """Return the blocks of other partitions that are to be drawn before a partition's can be, by id.

        All that these wait for, directly or not, but for complete blocks and what only those wait for.
        """
        done = np.isin(self.ids, np.fromiter(complete, dtype=np.int64))
        own = np.zeros(len(self.ids), dtype=bool)
        own[self._within(partition)] = True
        seen = own & ~done
        found = -1
        while found != (found := int(np.count_nonzero(seen))):
            before = self.edges[seen[self.edges[:, 0]], 1]
            seen[before[~done[before]]] = True
        return {
            int(self.ids[place]): self._partition(int(self._key[place]))
            for place in np.flatnonzero(seen & ~own)
        }

    def holding(self, ids: Iterable[int]) -> set[Partition]:
        """Return the partitions that blocks, by id, are in."""
        wanted = np.fromiter(ids, dtype=np.int64)
        return {self._partition(int(key)) for key in np.unique(self._key[np.isin(self.ids, wanted)])}

    def upstream(self, partitions: Iterable[Partition]) -> set[Partition]:
        """Return the partitions that some wait for, directly or not, and these themselves."""
        found: set[Partition] = set()
        open_ones = list(partitions)
        while open_ones:
            one = open_ones.pop()
            if one not in found:
                found.add(one)
                open_ones.extend(self.before.get(one, ()))
        return found

    @cached_property
    def _key(self) -> Numbers:
        """For each block its partition as one number."""
        return self.stage * max(len(self.names), 1) + self.region

    @cached_property
    def _places(self) -> Mapping[int, Numbers]:
        """The places of the blocks of each partition that has any."""
        order = np.argsort(self._key, kind="stable")
        keys, starts = np.unique(self._key[order], return_index=True)
        return dict(zip(keys.tolist(), np.split(order, starts[1:]), strict=True)) if len(keys) else {}

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        """Which partition, as a number, waits for which other."""
        pairs = np.unique(self._key[self.edges], axis=0).tolist()
        return [(one, other) for one, other in pairs if one != other]

    def _partition(self, key: int) -> Partition:
        stage, region = divmod(key, len(self.names))
        return Partition(self.stages[stage], self.names[region])

    def _within(self, partition: Partition) -> Numbers:
        if partition.stage not in self.stages or partition.region not in self.names:
            return np.zeros(0, dtype=np.int64)
        key = self.stages.index(partition.stage) * len(self.names) + self.names.index(partition.region)
        return self._places.get(key, np.zeros(0, dtype=np.int64))


def region_name(row: int, column: int) -> str:
    """Return the key of a region: its row and column, counted from quadrant (0, 0)."""
    return f"r{row:+04d}_c{column:+04d}"


def region_box(name: str, side: int) -> tuple[int, int, int, int]:
    """Return the quadrants of a region: (min_x, min_y, max_x, max_y), inclusive."""
    row, column = (int(part[1:]) for part in name.split("_"))
    return column * side, row * side, column * side + side - 1, row * side + side - 1


def read_regions(layer_dir: Path, side: int) -> Regions:
    """Return the partitions of a layer's plan, with regions of so many quadrants a side.

    Raises LayerMissing and MapUnreadable.
    """
    with Progress(layer_dir) as progress:
        blocks = np.array(
            [(one.id, one.step, one.x, one.y) for one in progress.blocks()], dtype=np.int64
        ).reshape(-1, 4)
        edges = progress.edges()
    ids, step, x, y = blocks.T
    if len(edges) and not np.isin(edges, ids).all():
        raise MapUnreadable(layer_dir, "its plan names blocks that are not there")
    try:
        return regions_of(ids, step, x, y, np.searchsorted(ids, edges), side)
    except ValueError as error:
        raise MapUnreadable(layer_dir, str(error)) from error


def regions_of(ids: Numbers, step: Numbers, x: Numbers, y: Numbers, edges: Numbers, side: int) -> Regions:
    """Return the partitions of blocks; a block is in the region of its north-west quadrant.

    Raises ValueError for blocks that wait for each other in a circle.
    """
    cells, region = np.unique(np.stack([y // side, x // side], axis=1), axis=0, return_inverse=True)
    region = region.reshape(-1)
    turn = _turns(step, region, edges)
    found, stage = np.unique(np.stack([turn, step], axis=1), axis=0, return_inverse=True)
    return Regions(
        ids=ids,
        stage=stage.reshape(-1),
        region=region,
        edges=edges,
        stages=_stages(found),
        names=tuple(region_name(row, column) for row, column in cells.tolist()),
    )


def _stages(found: Numbers) -> tuple[Stage, ...]:
    """Return stages by (turn, step) in order, shape (n, 2), numbered within their steps."""
    seen: dict[int, int] = {}
    stages = []
    for turn, step in found.tolist():
        stages.append(Stage(turn, step, seen.get(step, 0)))
        seen[step] = seen.get(step, 0) + 1
    return tuple(stages)


def _turns(step: Numbers, region: Numbers, edges: Numbers) -> Numbers:
    """Return, for each block, the first turn of its step in which all it waits for is in earlier stages.

    Or in its own, within its own region.
    """
    block, before = edges[:, 0], edges[:, 1]
    elsewhere = region[block] != region[before]
    later = (step[block] < step[before]) | ((step[block] == step[before]) & elsewhere)
    turn = np.zeros(len(step), dtype=np.int64)
    for _ in range(len(step) + 1):
        raised = turn.copy()
        np.maximum.at(raised, block, turn[before] + later)
        if np.array_equal(raised, turn):
            return turn
        turn = raised
    raise ValueError("its plan has blocks that wait for each other in a circle")
