"""One picture for the map: what a model is asked for an item of the queue, and what is kept of its answer.

What a model is shown is decided when the item is made, from the pictures that
are there then. A finished neighbour that another item is about to draw anew is
no context.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from layer_generation.camera import QUADRANT_PX
from layer_generation.endpoints.base import (
    EditRequest,
    Endpoint,
    EndpointError,
    EndpointPermanent,
    Pixels,
    Stop,
)
from layer_generation.errors import ImageInvalid
from layer_generation.layer_config import DEFAULT_PROMPT
from layer_generation.pictures import decoded, png, resized
from layer_generation.quadrants import Kind, QuadrantStore
from layer_generation.received import Answers, Received
from layer_generation.template import Kept, Template, kept, place, template, without_context
from layer_generation.web.items import Item, Quadrant, shown
from layer_generation.web.models import Model

_OWN_PARAMETERS = ("steps", "num_inference_steps", "guidance", "strength", "match_colors", "max_drift")
_AROUND = 2
"""Quadrants beside an item that its window can show."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn."""

    pictures: tuple[tuple[int, int, bytes], ...]
    """Column, row and PNG of each quadrant."""
    facts: Mapping[str, object]
    """How they came about."""
    message: str
    """What a person should know of it."""


class Drawing:
    """One item on its way to pictures."""

    def __init__(self, store: QuadrantStore, answers: Answers, item: Item, model: Model) -> None:
        self._store = store
        self._answers = answers
        self._item = item
        self._model = model
        self._parameters = {**model.endpoint.params, **model.parameters, **item.parameters}

    def refused(self) -> str:
        """Return why the item cannot be made as things are now; empty where it can."""
        absent = [one for one in self._item.quadrants if not self._store.holds(*one)]
        if absent:
            return f"no such quadrant: {shown(absent)}; the map has none there"
        missing = [one for one in self._item.quadrants if not self._store.has("render", *one)]
        if missing:
            return f"{shown(missing)}: the map has no render there; render first, then retry"
        if not self._item.overwrite:
            there = [one for one in self._item.quadrants if self._store.has("generation", *one)]
            if there:
                return f"{shown(there)}: has a generation already; delete it, or say `regenerate`"
        return ""

    def was_stored(self) -> bool:
        """Tell whether the pictures of this very item are in the map, stored by a process that then died."""
        made = [self._store.made("generation", *one) for one in self._item.quadrants]
        return bool(made) and all(one is not None and one[0] == self._item.uid for one in made)

    def draw(self, endpoint: Endpoint, stop: Stop, to_come: Collection[Quadrant]) -> Drawn:
        """Return the pictures. `to_come` are quadrants that other items are about to draw.

        Raises the errors of `endpoints.base` and ImageInvalid.
        """
        request, seen, context = self._request(endpoint, to_come)
        key = _key(request, seen)
        for received in self._answers.of(self._item.id):
            if received.key == key:
                with suppress(EndpointError):
                    return self._drawn(seen, received)
        started = time.monotonic()
        answer = endpoint.edit(request, stop)
        facts = {
            "model": self._model.model_id,
            "prompt": request.prompt,
            "seed": request.seed if answer.seed is None else answer.seed,
            "seconds": round(time.monotonic() - started, 3),
            "context": context,
            "neighbours": len(seen.placement.context),
            "item": self._item.id,
            "at": round(time.time(), 3),
        }
        return self._drawn(seen, self._answers.keep(self._item.id, key, answer.image, facts))

    def _drawn(self, seen: Template, received: Received) -> Drawn:
        result: Kept = kept(
            seen,
            received.image,
            match_colors=bool(self._parameters.get("match_colors", False)),
            max_drift=self._parameters.get("max_drift"),
        )
        pictures = tuple((x, y, png(picture)) for (x, y), picture in result.quadrants)
        seams = seen.placement.seams
        message = f"{len(pictures)} drawn in {received.facts['seconds']:.1f} s"
        if seams:
            message += f"; {seams} finished neighbours could not be shown, a seam is likely there"
        return Drawn(pictures, {**received.facts, "drift": round(result.drift, 3)}, message)

    def _request(
        self, endpoint: Endpoint, to_come: Collection[Quadrant]
    ) -> tuple[EditRequest, Template, str]:
        config, parameters = self._model.endpoint, self._parameters
        x, y, columns, rows = self._item.box
        context = config.context or ("mask" if endpoint.takes_mask else "frame")
        placement = place(x, y, columns, rows, self._finished_around(to_come))
        if context == "none":
            placement = without_context(placement)
        frame_px = config.frame_px if context == "frame" else 0
        seen = template(placement, self._render, self._generation, frame_px)
        further = {name: value for name, value in parameters.items() if name not in _OWN_PARAMETERS}
        request = EditRequest(
            image=seen.image,
            mask=~seen.known if context == "mask" and seen.known.any() else None,
            prompt=self._item.prompt or self._model.prompt or DEFAULT_PROMPT,
            negative_prompt=self._item.negative_prompt or self._model.negative_prompt,
            steps=parameters.get("steps", parameters.get("num_inference_steps")),
            guidance=parameters.get("guidance"),
            strength=parameters.get("strength"),
            seed=_seed(x, y) if self._item.seed is None else self._item.seed,
            params={**further, "left_px": placement.left, "top_px": placement.top},
        )
        return request, seen, context

    def _finished_around(self, to_come: Collection[Quadrant]) -> set[Quadrant]:
        x, y, columns, rows = self._item.box
        around = {
            (column, row)
            for row in range(y - _AROUND, y + rows + _AROUND)
            for column in range(x - _AROUND, x + columns + _AROUND)
        }
        return {
            one
            for one in around - set(self._item.quadrants) - set(to_come)
            if self._store.has("generation", *one)
        }

    def _render(self, x: int, y: int) -> Pixels | None:
        return self._picture("render", x, y)

    def _generation(self, x: int, y: int) -> Pixels:
        picture = self._picture("generation", x, y)
        if picture is None:
            raise EndpointPermanent(f"the generation at ({x}, {y}) was deleted while this was made; retry")
        return picture

    def _picture(self, kind: Kind, x: int, y: int) -> Pixels | None:
        data = self._store.image(kind, x, y)
        if data is None:
            return None
        try:
            picture = decoded(data, f"{kind} {x},{y} of {self._store.path}")
        except ImageInvalid as error:
            raise EndpointPermanent(str(error)) from error
        if picture.shape[:2] != (QUADRANT_PX, QUADRANT_PX):
            picture = resized(picture, QUADRANT_PX, QUADRANT_PX)
        return picture


def _seed(x: int, y: int) -> int:
    """Return the seed of a place: the same whenever it is drawn."""
    digest = hashlib.blake2b(f"{x}|{y}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0x7FFFFFFF


def _key(request: EditRequest, seen: Template) -> str:
    """Return a hash of all that a model is asked."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(request.image.tobytes() + seen.known.tobytes())
    words: dict[str, Any] = {
        "prompt": request.prompt,
        "negative": request.negative_prompt,
        "numbers": [request.steps, request.guidance, request.strength, request.seed],
        "params": dict(request.params),
    }
    digest.update(json.dumps(words, sort_keys=True, default=str).encode())
    return digest.hexdigest()
