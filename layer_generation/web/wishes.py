"""What people want drawn -> items of the queue, checked against the map and against what is queued."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layer_generation.errors import ItemInvalid
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.items import GENERATE, MOST_RENDERED, RENDER, NewItem, Quadrant, shown
from layer_generation.web.models import AppConfig
from layer_generation.web.planning import pictures
from layer_generation.web.queue import GenerationQueue


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
    active = {
        quadrant: item.id
        for item in queue.active()
        if item.item_type == GENERATE
        for quadrant in item.quadrants
    }
    generated = {(x, y) for x, y in store.coordinates("generation").tolist()}
    new = [one for one in chosen if one not in active and (wanted.regenerate or one not in generated)]
    if not new:
        busy = [one for one in chosen if one in active]
        if busy:
            raise ItemInvalid(f"{shown(busy)}: is in the queue already")
        raise ItemInvalid(f"{shown(chosen)}: has a generation already; delete it, or say `regenerate`")
    planned = pictures(new, generated - set(new) - set(active), set(active))
    ids = queue.add(
        [
            NewItem(
                item_type=GENERATE,
                quadrants=one.quadrants,
                model_id=model.model_id,
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
        ]
    )
    return Queued(
        items=ids,
        skipped=tuple(one for one in chosen if one not in set(new)),
        without_context=tuple(f"{shown(one.quadrants)}: {one.reason}" for one in planned if one.reason),
    )


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
