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
from layer_generation.web.planning import Picture, pictures

_MOST_PLANS = 5
"""Times that a wish is planned when others queue pictures at the same place meanwhile."""

_RENDERED_BEFORE = 16
"""Quadrants of one render item that generations wait for: the first need not wait for all."""


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
    renders_missing: bool = False
    """Whether renders that are missing are queued before; else such pictures fail when their turn comes."""


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
    items = queue.active()
    active, rendering = _made_by(items, GENERATE), _made_by(items, RENDER)
    generated = {(x, y) for x, y in store.coordinates("generation").tolist()}
    new = [one for one in chosen if one not in active and (wanted.regenerate or one not in generated)]
    if not new:
        busy = [one for one in chosen if one in active]
        if busy:
            raise ItemInvalid(f"{shown(busy)}: is in the queue already")
        raise ItemInvalid(f"{shown(chosen)}: has a generation already; delete it, or say `regenerate`")
    planned = pictures(new, generated - set(new) - set(active), set(active))
    renders = _missing_renders(store, planned, rendering) if wanted.renders_missing else []
    rendered_by = {one: -number for number, part in enumerate(renders, 1) for one in part} | rendering
    near = {(x + right, y + down) for x, y in new for right in (-1, 0, 1) for down in (-1, 0, 1)}
    ids = queue.add(
        [NewItem(item_type=RENDER, quadrants=part) for part in renders]
        + [
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
                    *(-other - 1 - len(renders) for other in one.waits_for),
                    *dict.fromkeys(active[quadrant] for quadrant in one.after),
                    *dict.fromkeys(rendered_by[place] for place in one.quadrants if place in rendered_by),
                ),
            )
            for one in planned
        ],
        unless=lambda now: (
            not near.isdisjoint(_made_by(now, GENERATE).keys() - active.keys())
            or not set(new).isdisjoint(_made_by(now, RENDER).keys() - rendering.keys())
        ),
    )
    if not ids:
        return None
    taken = set(new)
    return Queued(
        items=ids,
        skipped=tuple(one for one in chosen if one not in taken),
        without_context=tuple(f"{shown(one.quadrants)}: {one.reason}" for one in planned if one.reason),
    )


def _made_by(items: Sequence[Item], item_type: str) -> dict[Quadrant, int]:
    """Return the quadrants whose generations or renders items are about to make, each with the item."""
    return {one: item.id for item in items if item.item_type == item_type for one in item.quadrants}


def _missing_renders(
    store: QuadrantStore, planned: Sequence[Picture], rendering: Collection[Quadrant]
) -> list[tuple[Quadrant, ...]]:
    """Return the quadrants of pictures that have no render and get none, in parts, in order."""
    there = {(x, y) for x, y in store.coordinates("render").tolist()}
    missing = [
        one for picture in planned for one in picture.quadrants if one not in there and one not in rendering
    ]
    return [
        tuple(missing[start : start + _RENDERED_BEFORE]) for start in range(0, len(missing), _RENDERED_BEFORE)
    ]


def wish_renders(
    queue: GenerationQueue, store: QuadrantStore, quadrants: Sequence[Quadrant], *, overwrite: bool
) -> Queued:
    """Queue renders, each quadrant once. Raises ItemInvalid where nothing of it can be done."""
    chosen = _known(store, quadrants)
    for _ in range(_MOST_PLANS):
        queued = _wish_renders(queue, store, chosen, overwrite)
        if queued is not None:
            return queued
    raise ItemInvalid(f"{shown(chosen)}: others queue renders there all the time; try again")


def _wish_renders(
    queue: GenerationQueue, store: QuadrantStore, chosen: Sequence[Quadrant], overwrite: bool
) -> Queued | None:
    """Queue renders; None where others queued some there meanwhile. Raises ItemInvalid."""
    there = {(x, y) for x, y in store.coordinates("render").tolist()}

    def queued_ones(items: Sequence[Item]) -> set[Quadrant]:
        """Return the quadrants that are drawn as this wish would have them."""
        return {
            one
            for item in items
            if item.item_type == RENDER
            for one in item.quadrants
            if item.overwrite or not overwrite or one not in there
        }

    busy = queued_ones(queue.active())
    new = [one for one in chosen if one not in busy and (overwrite or one not in there)]
    if not new:
        if not busy.isdisjoint(chosen):
            raise ItemInvalid(f"{shown([one for one in chosen if one in busy])}: is in the queue already")
        raise ItemInvalid(f"{shown(chosen)}: has a render already; say `overwrite` to draw it again")
    parts = [new[start : start + MOST_RENDERED] for start in range(0, len(new), MOST_RENDERED)]
    ids = queue.add(
        [NewItem(item_type=RENDER, quadrants=tuple(part), overwrite=overwrite) for part in parts],
        unless=lambda now: not queued_ones(now).isdisjoint(new),
    )
    taken = set(new)
    return Queued(items=ids, skipped=tuple(one for one in chosen if one not in taken)) if ids else None


def _known(store: QuadrantStore, quadrants: Sequence[Quadrant]) -> list[Quadrant]:
    """Return the quadrants of the map among those chosen. Raises ItemInvalid where there are none."""
    there = {(x, y) for x, y in store.coordinates().tolist()}
    chosen = [one for one in quadrants if one in there]
    if not chosen:
        raise ItemInvalid(f"{shown(quadrants)}: the map has no such quadrant")
    return chosen
