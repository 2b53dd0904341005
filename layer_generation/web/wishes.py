"""What people want drawn -> items of the queue, checked against the map and against what is queued."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layer_generation.errors import ItemInvalid
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import GENERATE, MOST_RENDERED, RENDER, Item, NewItem, Quadrant, shown
from layer_generation.web.models import AppConfig
from layer_generation.web.planning import pictures

_MOST_PLANS = 5
"""Times that a wish is planned when others queue pictures at the same place meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Generations that a person wants."""

    quadrants: tuple[Quadrant, ...]
    model_id: str | None = None
    """None for the default model."""
    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    parameters: Mapping[str, Any] | None = None
    regenerate: bool = False
    """Whether generations that are there are drawn anew; else they are context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """What became of a wish."""

    items: tuple[int, ...]
    skipped: tuple[Quadrant, ...]
    """Quadrants that have a generation already, or are queued."""
    without_context: tuple[str, ...] = ()
    """Why some pictures have no legal context, a line each."""


def wish(queue: GenerationQueue, store: QuadrantStore, config: AppConfig, wanted: Wish) -> Queued:
    """Queue generations: planned as layers are, each picture after its neighbours.

    Raises ItemInvalid where nothing of it can be done.
    """
    model = config.model(wanted.model_id)
    if model is None:
        known = ", ".join(one.model_id for one in config.models)
        raise ItemInvalid(f"model_id = {wanted.model_id!r}: expected one of {known}")
    chosen = _known(store, wanted.quadrants)
    for _ in range(_MOST_PLANS):
        queued = _wish(queue, store, model.model_id, chosen, wanted)
        if queued is not None:
            return queued
    raise ItemInvalid(f"{shown(chosen)}: others queue pictures there all the time; try again")


def _wish(
    queue: GenerationQueue, store: QuadrantStore, model_id: str, chosen: Sequence[Quadrant], wanted: Wish
) -> Queued | None:
    """Plan and queue; None where others queued something there meanwhile. Raises ItemInvalid."""
    active = _drawn_by(queue.active())
    generated = {(x, y) for x, y in store.coordinates("generation").tolist()}
    new = [one for one in chosen if one not in active and (wanted.regenerate or one not in generated)]
    if not new:
        busy = [one for one in chosen if one in active]
        if busy:
            raise ItemInvalid(f"{shown(busy)}: is in the queue already")
        raise ItemInvalid(f"{shown(chosen)}: has a generation already; delete it, or say `regenerate`")
    planned = pictures(new, generated - set(new) - set(active), set(active))
    near = {(x + right, y + down) for x, y in new for right in (-1, 0, 1) for down in (-1, 0, 1)}
    ids = queue.add(
        [
            NewItem(
                item_type=GENERATE,
                quadrants=one.quadrants,
                model_id=model_id,
                prompt=wanted.prompt,
                negative_prompt=wanted.negative_prompt,
                seed=wanted.seed,
                parameters=wanted.parameters or {},
                overwrite=wanted.regenerate,
                waits_for=(
                    *(-other - 1 for other in one.waits_for),
                    *dict.fromkeys(active[quadrant] for quadrant in one.after),
                ),
            )
            for one in planned
        ],
        unless=lambda items: not near.isdisjoint(_drawn_by(items).keys() - active.keys()),
    )
    if not ids:
        return None
    taken = set(new)
    return Queued(
        items=ids,
        skipped=tuple(one for one in chosen if one not in taken),
        without_context=tuple(f"{shown(one.quadrants)}: {one.reason}" for one in planned if one.reason),
    )


def _drawn_by(items: Sequence[Item]) -> dict[Quadrant, int]:
    """Return the quadrants that items are about to draw, each with the item."""
    return {one: item.id for item in items if item.item_type == GENERATE for one in item.quadrants}


def wish_renders(
    queue: GenerationQueue, store: QuadrantStore, quadrants: Sequence[Quadrant], *, overwrite: bool
) -> Queued:
    """Queue renders. Raises ItemInvalid where nothing of it can be done."""
    chosen = _known(store, quadrants)
    there: Collection[Quadrant] = set()
    if not overwrite:
        there = {(x, y) for x, y in store.coordinates("render").tolist()}
    new = [one for one in chosen if one not in there]
    if not new:
        raise ItemInvalid(f"{shown(chosen)}: has a render already; say `overwrite` to draw it again")
    parts = [new[start : start + MOST_RENDERED] for start in range(0, len(new), MOST_RENDERED)]
    ids = queue.add([NewItem(item_type=RENDER, quadrants=tuple(part), overwrite=overwrite) for part in parts])
    return Queued(items=ids, skipped=tuple(one for one in chosen if one in there))


def _known(store: QuadrantStore, quadrants: Sequence[Quadrant]) -> list[Quadrant]:
    """Return the quadrants of the map among those chosen. Raises ItemInvalid where there are none."""
    there = {(x, y) for x, y in store.coordinates().tolist()}
    chosen = [one for one in quadrants if one in there]
    if not chosen:
        raise ItemInvalid(f"{shown(quadrants)}: the map has no such quadrant")
    return chosen
