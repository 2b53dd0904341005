"""What must be true of a plan of a layer, checked from the rules alone, quadrant by quadrant.

Slow and plain on purpose: it looks at the arrays of a plan and knows nothing of how it was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from layer_generation.plan import Plan

Position = tuple[int, int]
EDGES = ((1, 0), (-1, 0), (0, 1), (0, -1))
CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
SIZES = {1: {(2, 2)}, 2: {(1, 2), (2, 1)}, 3: {(1, 1)}}


def faults(plan: Plan, quadrants: Iterable[Position]) -> list[str]:
    """Return what is wrong with a plan of these quadrants, a line each; none if all is well."""
    wanted = {(int(x), int(y)) for x, y in quadrants}
    blocks = [
        [(int(x) + i, int(y) + j) for j in range(height) for i in range(width)]
        for x, y, width, height in zip(
            plan.x.tolist(), plan.y.tolist(), plan.width.tolist(), plan.height.tolist(), strict=True
        )
    ]
    return [
        *_coverage(blocks, wanted),
        *_shapes_and_order(plan),
        *_graph(plan, blocks),
        *_legality(plan, blocks),
        *_summary(plan, blocks),
    ]


def _coverage(blocks: list[list[Position]], wanted: set[Position]) -> Iterator[str]:
    held = Counter(position for block in blocks for position in block)
    yield from (f"{position} is covered {count} times" for position, count in held.items() if count > 1)
    yield from (f"{position} is not of the map" for position in held.keys() - wanted)
    yield from (f"{position} is not covered" for position in wanted - held.keys())


def _shapes_and_order(plan: Plan) -> Iterator[str]:
    keys = list(zip(plan.extension.tolist(), plan.step.tolist(), plan.wave.tolist(), strict=True))
    yield from (f"block {n} comes before its turn" for n in range(1, len(keys)) if keys[n] < keys[n - 1])
    for number, (step, width, height) in enumerate(
        zip(plan.step.tolist(), plan.width.tolist(), plan.height.tolist(), strict=True)
    ):
        if (width, height) not in SIZES[step]:
            yield f"block {number} of step {step} is {width}x{height}"


def _touching(blocks: list[list[Position]]) -> Iterator[tuple[int, int, bool]]:
    """Yield (earlier, later, by an edge) for each two blocks that touch, perhaps more than once."""
    owner = {position: number for number, block in enumerate(blocks) for position in block}
    for (x, y), number in owner.items():
        for shifts, edge in ((EDGES, True), (CORNERS, False)):
            for dx, dy in shifts:
                other = owner.get((x + dx, y + dy), number)
                if other < number:
                    yield other, number, edge


def _graph(plan: Plan, blocks: list[list[Position]]) -> Iterator[str]:
    waits = {(later, sooner) for later, sooner in plan.waits_for.tolist()}
    if len(waits) != len(plan.waits_for):
        yield "an edge is there twice"
    yield from (
        f"{later} waits for {sooner}, which is not before it" for later, sooner in waits if sooner >= later
    )
    touching = set(_touching(blocks))
    known = {(later, sooner) for sooner, later, _ in touching}
    yield from (f"{later} waits for {sooner}, far away" for later, sooner in waits - known)
    for sooner, later, edge in touching:
        if not edge and plan.step[later] != 3:
            continue
        if (later, sooner) not in waits:
            yield f"{later} touches {sooner} and does not wait"
        if all(a[sooner] == a[later] for a in (plan.extension, plan.step, plan.wave)):
            yield f"{sooner} and {later} touch in one wave"


def _legality(plan: Plan, blocks: list[list[Position]]) -> Iterator[str]:
    """Judge each block by what it waits for, which is what is finished whatever the others do."""
    sooner_of: dict[int, set[int]] = {}
    for later, sooner in plan.waits_for.tolist():
        sooner_of.setdefault(later, set()).add(sooner)
    for number, block in enumerate(blocks):
        done = {position for other in sooner_of.get(number, ()) for position in blocks[other]}
        fault = _block_fault(block, done)
        reason = plan.reason.get(number)
        if fault and reason is None:
            yield f"block {number} {block}: {fault}"
        if not fault and (reason is None) == (len(block) == 1 and _sees_unfinished(block[0], done)):
            yield f"block {number} {block}: all finished around it, or not, and the reason is {reason}"
        if fault and reason is not None:
            if len(block) > 1:
                yield f"block {number} of {len(block)} quadrants has no context"
            # An extension may bring a window to a quadrant that had none.
            then = {p for n, b in enumerate(blocks) if plan.extension[n] <= plan.extension[number] for p in b}
            in_a_window = any(set(window) <= then for window in _windows(block[0]))
            if in_a_window == reason.startswith("the map had no 2x2"):
                yield f"block {number}: the reason is wrong: {reason}"


def _windows(position: Position) -> Iterator[list[Position]]:
    x, y = position
    for dx, dy in CORNERS:
        yield [(x + dx, y), (x, y + dy), (x + dx, y + dy)]


def _sees_unfinished(position: Position, done: set[Position]) -> bool:
    """Tell whether every picture that shows all finished quadrants beside this one shows others, too.

    A picture of two by two quadrants begins with the quadrant, half a quadrant before it, or a whole one.
    """
    x, y = position
    beside = {(x + dx, y + dy) for dx, dy in EDGES} & done
    for across in ((0, 1), (-1, 0, 1), (-1, 0)):
        for down in ((0, 1), (-1, 0, 1), (-1, 0)):
            shown = {(x + dx, y + dy) for dx in across for dy in down} - {position}
            if beside <= shown <= done:
                return False
    return True


def _block_fault(block: list[Position], done: set[Position]) -> str | None:
    if len(block) == 1:
        return None if any(set(window) <= done for window in _windows(block[0])) else "no window is finished"
    if len(block) == 4:
        beside = {(x + dx, y + dy) for x, y in block for dx, dy in EDGES} & done
        return f"finished beside it: {beside}" if beside else None
    (x, y), (x2, y2) = block
    ends = {(2 * x - x2, 2 * y - y2), (2 * x2 - x, 2 * y2 - y)}
    if ends & done:
        return f"a short end touches {ends & done}"
    across = (y2 - y, x2 - x)
    counts = [sum((a + s * across[0], b + s * across[1]) in done for a, b in block) for s in (1, -1)]
    if 2 not in counts:
        return f"no long side is finished: {counts}"
    return f"a long side is half finished: {counts}" if 1 in counts else None


def _summary(plan: Plan, blocks: list[list[Position]]) -> Iterator[str]:
    summary = plan.summary
    kinds = Counter(f"{w}x{h}" for w, h in zip(plan.width.tolist(), plan.height.tolist(), strict=True))
    found = (summary.quadrants, summary.calls, sum(summary.calls_per_step), summary.without_context)
    without = sum("corner" not in reason for reason in plan.reason.values())
    right = (sum(map(len, blocks)), len(blocks), len(blocks), without)
    if found != right or dict(summary.calls_by_type) != {name: kinds[name] for name in summary.calls_by_type}:
        yield f"the summary says {summary}"
    if summary.lower_bound > summary.calls:
        yield f"{summary.calls} calls are fewer than the bound {summary.lower_bound}"


def fewest_blocks(quadrants: Iterable[Position], strip_waves: int = 3, single_waves: int = 2) -> int:
    """Return the fewest blocks of any legal plan with so many waves, by integer programming.

    For small maps only, all of whose quadrants lie in a 2x2 window. Raises ValueError where
    no plan is legal throughout.
    """
    wanted = {(int(x), int(y)) for x, y in quadrants}
    choices = list(_choices(wanted, strip_waves, single_waves))
    holding: dict[Position, list[tuple[int, int]]] = {position: [] for position in wanted}
    for number, (wave, block, _, _) in enumerate(choices):
        for position in block:
            holding[position].append((wave, number))
    rows: list[tuple[dict[int, int], float, float]] = [
        ({number: 1 for _, number in held}, 1, 1) for held in holding.values()
    ]
    for number, (wave, _, needed, forbidden) in enumerate(choices):
        for position in needed:
            rows.append(({number: 1, **{n: -1 for w, n in holding[position] if w < wave}}, -np.inf, 0))
        for position in forbidden & wanted:
            rows.append(({number: 1, **{n: 1 for w, n in holding[position] if w <= wave}}, -np.inf, 1))
    row = [r for r, (terms, _, _) in enumerate(rows) for _ in terms]
    column = [number for terms, _, _ in rows for number in terms]
    value = [factor for terms, _, _ in rows for factor in terms.values()]
    matrix = coo_matrix((value, (row, column)), shape=(len(rows), len(choices))).tocsr()
    limits = LinearConstraint(matrix, [low for _, low, _ in rows], [high for _, _, high in rows])
    ones = np.ones(len(choices))
    answer = milp(ones, constraints=limits, integrality=ones, bounds=Bounds(0, 1))
    if answer.x is None:
        raise ValueError(answer.message)
    return round(answer.fun)


def _choices(
    wanted: set[Position], strip_waves: int, single_waves: int
) -> Iterator[tuple[int, list[Position], set[Position], set[Position]]]:
    """Yield (wave, quadrants, those that must be finished, those that must not) of every legal block."""
    singles = range(1 + strip_waves, 1 + strip_waves + single_waves)
    for x, y in wanted:
        square = [(x, y), (x + 1, y), (x, y + 1), (x + 1, y + 1)]
        if set(square) <= wanted:
            yield 0, square, set(), {(a + dx, b + dy) for a, b in square for dx, dy in EDGES} - set(square)
        for dx, dy in ((1, 0), (0, 1)):
            strip = [(x, y), (x + dx, y + dy)]
            if not set(strip) <= wanted:
                continue
            ends = {(x - dx, y - dy), (x + 2 * dx, y + 2 * dy)}
            one, two = ({(a + s * dy, b + s * dx) for a, b in strip} for s in (1, -1))
            for needed, free in ((one | two, set()), (one, two), (two, one)):
                if needed <= wanted:
                    yield from ((wave, strip, needed, ends | free) for wave in range(1, 1 + strip_waves))
        for window in _windows((x, y)):
            if set(window) <= wanted:
                yield from ((wave, [(x, y)], set(window), set()) for wave in singles)
