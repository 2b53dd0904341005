"""Quadrants that a person chose -> pictures to be drawn, each after its neighbours: the rules of layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from layer_generation.plan import CORNER_UNFINISHED, Plan, extend, plan
from layer_generation.web.items import Quadrant

_REACH = 3
"""Finished quadrants so near have a say in the plan."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a plan: a rectangle of one or two by one or two quadrants."""

    quadrants: tuple[Quadrant, ...]
    waits_for: tuple[int, ...]
    """Earlier pictures of the plan, by number from 0."""
    after: tuple[Quadrant, ...]
    """Queued quadrants beside it: the items that draw those come before."""
    reason: str
    """Why it has no legal context when its turn comes; empty where it has."""


def pictures(
    wanted: Collection[Quadrant], finished: Collection[Quadrant], queued: Collection[Quadrant] = ()
) -> list[Picture]:
    """Return pictures that cover the wanted quadrants, each once, in order.

    `finished` have a picture that stays, `queued` will have one; neither may be wanted.
    Raises QuadrantsInvalid.
    """
    if not wanted:
        return []
    known = _near(wanted, {*finished, *queued})
    if _is_alone(wanted, known):
        return [Picture(tuple(sorted(wanted, key=lambda one: one[::-1])), (), (), "")]
    whole = extend(_singles(known), np.array(sorted(wanted), dtype=np.int64))
    first = len(known)
    waits: Mapping[int, list[int]] = {number: [] for number in range(first, len(whole))}
    for block, other in whole.waits_for.tolist():
        waits[block].append(other)
    to_come = set(queued)
    return [
        Picture(
            quadrants=_covered(whole, number),
            waits_for=tuple(other - first for other in waits[number] if other >= first),
            after=tuple(known[other] for other in waits[number] if other < first and known[other] in to_come),
            reason=_without_context(whole.reason.get(number, "")),
        )
        for number in range(first, len(whole))
    ]


def _without_context(reason: str) -> str:
    """Return why a picture has no legal context; empty where all it lacks is a corner."""
    return "" if reason == CORNER_UNFINISHED else reason


def _is_alone(wanted: Collection[Quadrant], known: Collection[Quadrant]) -> bool:
    """Tell whether the wanted fit into one picture with nothing beside them: no seam can come of it."""
    columns, rows = {x for x, _ in wanted}, {y for _, y in wanted}
    fits = max(columns) - min(columns) < 2 and max(rows) - min(rows) < 2
    beside = any(
        min(columns) - 1 <= x <= max(columns) + 1 and min(rows) - 1 <= y <= max(rows) + 1 for x, y in known
    )
    return fits and len(columns) * len(rows) == len(set(wanted)) and not beside


def _near(wanted: Collection[Quadrant], others: Collection[Quadrant]) -> list[Quadrant]:
    """Return the others that lie within reach of the box of what is wanted."""
    xs, ys = [x for x, _ in wanted], [y for _, y in wanted]
    return sorted(
        (x, y)
        for x, y in others
        if min(xs) - _REACH <= x <= max(xs) + _REACH and min(ys) - _REACH <= y <= max(ys) + _REACH
    )


def _singles(quadrants: list[Quadrant]) -> Plan:
    """Return a plan of quadrants that are finished, one to a block, in the order given."""
    n = len(quadrants)
    places = np.array(quadrants, dtype=np.int32).reshape(-1, 2)
    one, zero = np.ones(n, np.int32), np.zeros(n, np.int32)
    return Plan(
        step=one * 3,
        wave=zero,
        x=places[:, 0],
        y=places[:, 1],
        width=one,
        height=one,
        extension=zero,
        waits_for=np.zeros((0, 2), np.int32),
        reason={},
        summary=plan(np.zeros((0, 2), np.int64)).summary,
    )


def _covered(whole: Plan, number: int) -> tuple[Quadrant, ...]:
    x, y = int(whole.x[number]), int(whole.y[number])
    return tuple(
        (column, row)
        for row in range(y, y + int(whole.height[number]))
        for column in range(x, x + int(whole.width[number]))
    )
