"""What a worker process does in a deep check: tiles decoded once, each held against parent and neighbours.

A block of tiles is walked depth first, so that children and neighbours are
still in a bounded cache when they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np

from fusi_pipeline import deep_family, deep_tile, tile_laws
from fusi_pipeline.archive_rules import rules_of
from fusi_pipeline.deep_tile import TileView, Trouble
from fusi_pipeline.errors import ArchiveUnreadable
from fusi_pipeline.findings import DeepAnswer, DeepBlock, DeepContext, DeepPlaces, Finding
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.open import open_archive

_CACHED_TILES = 64
"""Decoded tiles kept, 1 MiB each and as much again where there is a lineage."""
_STANDING_OUT = 3
"""Borders of a tile out of line that make the tile itself suspicious."""


class _Worker:
    """A worker's own state: the open archives, and the tiles decoded last."""

    def __init__(self, context: DeepContext) -> None:
        self._stack = ExitStack()
        self.terrain = self._stack.enter_context(open_archive(context.archive))
        self.rules = rules_of(self.terrain.metadata)
        self.lineage = None
        if context.lineage is not None:
            self.lineage = self._stack.enter_context(open_archive(context.lineage))
            self.indices = rules_of(self.lineage.metadata).indices
        else:
            self.indices = self.rules.indices
        self._views: OrderedDict[Tile, TileView | None] = OrderedDict()

    def view(self, tile: Tile) -> TileView | None:
        """Return a decoded tile, or None where the archive has none."""
        if tile in self._views:
            self._views.move_to_end(tile)
            return self._views[tile]
        view = self._decoded(tile)
        self._views[tile] = view
        if len(self._views) > _CACHED_TILES:
            self._views.popitem(last=False)
        return view

    def _decoded(self, tile: Tile) -> TileView | None:
        troubles: list[Trouble] = []
        try:
            data = self.terrain.read(tile)
        except ArchiveUnreadable as error:
            return TileView(tile, None, None, (Trouble("image", str(error)),))
        if data is None:
            return None
        pixels = deep_tile.decoded(data, self.rules, troubles)
        if pixels is None:
            return TileView(tile, None, None, tuple(troubles))
        if self.rules.is_lineage:
            troubles += deep_tile.lineage_troubles(pixels, self.indices)
            return TileView(tile, None, pixels, tuple(troubles))
        heights = deep_tile.heights_of(pixels, tile.z, self.rules, troubles)
        sources = self._sources(tile, troubles)
        if sources is not None:
            troubles += deep_tile.lineage_troubles(sources, self.indices, heights)
        return TileView(tile, heights, sources, tuple(troubles))

    def _sources(self, tile: Tile, troubles: list[Trouble]) -> deep_tile.Pixels | None:
        """Return the lineage of a tile; a tile that it lacks is for the comparison of both sets of tiles."""
        if self.lineage is None:
            return None
        try:
            data = self.lineage.read(tile)
        except ArchiveUnreadable as error:
            troubles.append(Trouble("lineage", f"its lineage: {error}"))
            return None
        found: list[Trouble] = []
        pixels = None if data is None else deep_tile.decoded(data, rules_of(self.lineage.metadata), found)
        troubles += [Trouble("lineage", f"its lineage {one.text}") for one in found]
        return pixels


_worker: _Worker | None = None


def start(context: DeepContext) -> None:
    """Prepare this process for the blocks of one archive."""
    global _worker
    _worker = _Worker(context)


def check(task: DeepBlock | DeepPlaces) -> DeepAnswer:
    """Return what is true of the tiles of a task."""
    assert _worker is not None, "start() has not run in this process"
    desk = _Desk(_worker)
    if isinstance(task, DeepPlaces):
        for tile in task.tiles:
            desk.place(tile)
    else:
        desk.block(task)
    return desk.answer


class _Desk:
    """The check of one task."""

    def __init__(self, worker: _Worker) -> None:
        self.worker = worker
        self.rules = worker.rules
        self.answer = DeepAnswer()

    def block(self, task: DeepBlock) -> None:
        """Check the tiles of a block."""
        for tile in _depth_first(task.square, task.high):
            if task.low <= tile.z <= task.high:
                self.own(tile)
                for side, other in _neighbours(tile):
                    if side in ("right", "bottom"):
                        self.meet(tile, other, side)
            if max(task.square.z, self.rules.minzoom) <= tile.z < task.high:
                self.family(tile)

    def place(self, tile: Tile) -> None:
        """Check one tile, its parent and children, and all its borders."""
        self.own(tile)
        for side, other in _neighbours(tile):
            if side in ("right", "bottom"):
                self.meet(tile, other, side)
            else:
                self.meet(other, tile, "right" if side == "left" else "bottom")
        if tile.z > self.rules.minzoom:
            self.family(grid.parent(tile))
        if tile.z < self.rules.maxzoom:
            self.family(tile)

    def own(self, tile: Tile) -> None:
        """Check a tile by itself."""
        view = self.worker.view(tile)
        if view is None:
            return
        answer = self.answer
        answer.tiles += 1
        answer.tally(tile.z).tiles += 1
        for trouble in view.troubles:
            answer.findings.append(Finding(trouble.kind, tile, f"tile {tile}: {trouble.text}"))
        if view.sources is not None:
            counts = np.bincount(view.sources[..., :2].ravel())
            for index in np.flatnonzero(counts).tolist():
                answer.winners[index] = answer.winners.get(index, 0) + int(counts[index])
        if view.heights is None:
            return
        low, high = np.fmin.reduce(view.heights, axis=None), np.fmax.reduce(view.heights, axis=None)
        if np.isfinite(low):
            answer.minimum_m = min(answer.minimum_m, float(low))
            answer.maximum_m = max(answer.maximum_m, float(high))
            if low < tile_laws.LOWEST_M or high > tile_laws.HIGHEST_M:
                answer.findings.append(deep_tile.beyond_earth(view))
        if all(self.worker.view(child) is None for child in self._children(tile)):
            answer.findings += deep_tile.spikes(view, self.rules)

    def _children(self, tile: Tile) -> list[Tile]:
        return grid.children(tile) if tile.z < self.rules.maxzoom else []

    def family(self, tile: Tile) -> None:
        """Check that a tile is the mean of its children, quarter by quarter."""
        if self.rules.is_lineage:
            return
        parent = self.worker.view(tile)
        children = [(one, self.worker.view(one)) for one in grid.children(tile)]
        for number, (child_tile, child) in enumerate(children):
            if parent is None and child is None:
                continue
            self.answer.findings += deep_family.family(
                self.rules,
                (tile, parent),
                (child_tile, child),
                number,
                self.answer,
                partial(self._around, child_tile, children),
            )

    def _around(self, tile: Tile, siblings: list[tuple[Tile, TileView | None]]) -> list[tuple[str, TileView]]:
        """Return the neighbours of a tile that there are, with their sides; none without any sibling."""
        if all(view is None for _, view in siblings):
            return []
        found = [(side, self.worker.view(other)) for side, other in _neighbours(tile)]
        return [(side, view) for side, view in found if view is not None]

    def meet(self, first: Tile, second: Tile, side: str) -> None:
        """Check how a tile and the one at its `right` or `bottom` meet."""
        if self.rules.is_lineage:
            return
        views = self.worker.view(first), self.worker.view(second)
        found = deep_tile.meeting(self.rules, *views, side)
        if found is None:
            return
        tally = self.answer.tally(first.z)
        tally.across_m += found.across_m
        tally.inside_m += found.inside_m
        tally.border_px += found.rows
        if not found.stands_out:
            return
        self.answer.findings.append(deep_tile.seam(first, second, side, found))
        for tile in (first, second):
            self._alone(tile)

    def _alone(self, tile: Tile) -> None:
        """Note a tile that meets none of its neighbours, where no parent or child vouches for it."""
        judged = out = 0
        jumps = []
        for side, other in _neighbours(tile):
            pair = (tile, other, side) if side in ("right", "bottom") else (other, tile, _OPPOSITE[side])
            found = deep_tile.meeting(
                self.rules, self.worker.view(pair[0]), self.worker.view(pair[1]), pair[2]
            )
            if found is not None:
                judged += 1
                out += found.stands_out
                jumps.append(found.jump_m if pair[1] == tile else -found.jump_m)
        if out < min(_STANDING_OUT, max(judged, 2)) or self._vouched(tile):
            return
        jump = float(np.median(jumps))
        text = f"tile {tile}: does not meet its neighbours at {out} of {judged} borders (about {jump:+.4g} m)"
        suspect = not self.rules.exact
        kind = "seam" if suspect else "border"
        self.answer.findings.append(Finding(kind, tile, text, 1e6 + abs(jump), suspect=suspect))

    def _vouched(self, tile: Tile) -> bool:
        """Tell whether the archive has a parent or a child of a tile, by which it is judged anyway."""
        above = [grid.parent(tile)] if tile.z > self.rules.minzoom else []
        return any(self.worker.view(one) is not None for one in (*above, *self._children(tile)))


_OPPOSITE = {"left": "right", "top": "bottom"}


def _neighbours(tile: Tile) -> Iterator[tuple[str, Tile]]:
    """Yield (side, tile) of the neighbours; columns go on across the antimeridian."""
    side = 1 << tile.z
    if side > 1:
        yield "right", Tile(tile.z, (tile.x + 1) % side, tile.y)
        yield "left", Tile(tile.z, (tile.x - 1) % side, tile.y)
    if tile.y + 1 < side:
        yield "bottom", Tile(tile.z, tile.x, tile.y + 1)
    if tile.y > 0:
        yield "top", Tile(tile.z, tile.x, tile.y - 1)


def _depth_first(tile: Tile, high: int) -> Iterator[Tile]:
    """Yield a tile's descendants down to zoom `high` and the tile itself, children before their parent."""
    if tile.z < high:
        for child in grid.children(tile):
            yield from _depth_first(child, high)
    yield tile
