"""One row of the generation queue as a value; what programs write there is checked here."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from layer_generation.errors import ItemInvalid
from layer_generation.plan import LIMIT

GENERATE, RENDER = "generate", "render"
TYPES = (GENERATE, RENDER)
PENDING, PROCESSING, COMPLETE, ERROR, CANCELLED = STATUSES = (
    "pending",
    "processing",
    "complete",
    "error",
    "cancelled",
)
FINISHED = (COMPLETE, ERROR, CANCELLED)
RENDER_LANE = "render"
MOST_GENERATED = 4
"""Quadrants of one picture at most: two by two."""
MOST_RENDERED = 256
"""Quadrants of one render item at most."""
MOST_TEXT = 20_000
"""Characters of a prompt at most."""
MOST_SEED = 2**31 - 1
MOST_COUNT = 1000
"""Of attempts that a row may say it had."""
NUMBERS = ("steps", "num_inference_steps", "guidance", "strength", "max_drift")
"""Parameters that are numbers, whatever the protocol."""
_NOT_UTF8 = "\N{REPLACEMENT CHARACTER}"

Quadrant = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewItem:
    """Work that is to be queued."""

    item_type: str
    quadrants: tuple[Quadrant, ...]
    model_id: str | None = None
    """None: the default model's; renders have none."""
    prompt: str = ""
    """Empty: the model's own."""
    negative_prompt: str = ""
    seed: int | None = None
    """None: derived from the place."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Further fields, as the model's protocol has them."""
    overwrite: bool = False
    """Whether pictures that are there already are drawn anew."""
    waits_for: tuple[int, ...] = ()
    """Items that have to be complete before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item of the queue."""

    id: int
    item_type: str
    quadrants: tuple[Quadrant, ...]
    model_id: str | None
    prompt: str
    negative_prompt: str
    seed: int | None
    parameters: Mapping[str, Any]
    overwrite: bool
    status: str
    uid: str
    """Names the item in the map, which remembers what drew a picture."""
    attempts: int
    progress: Mapping[str, Any] | None
    created_at: float | None
    started_at: float | None
    completed_at: float | None
    error_message: str
    result_message: str

    @property
    def lane(self) -> str:
        """What it is made by: a model, or the renderer."""
        return RENDER_LANE if self.item_type == RENDER else (self.model_id or "")

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Leftmost x, top y, columns and rows of its quadrants."""
        xs, ys = [x for x, _ in self.quadrants], [y for _, y in self.quadrants]
        return min(xs), min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1

    def __str__(self) -> str:
        return f"item {self.id} ({self.item_type} of {shown(self.quadrants)})"


def shown(quadrants: Sequence[Quadrant], most: int = 4) -> str:
    """Return quadrants as words."""
    words = ", ".join(f"({x}, {y})" for x, y in quadrants[:most])
    return f"{words} and {len(quadrants) - most} more" if len(quadrants) > most else words


def item_of(row: sqlite3.Row) -> Item:
    """Return a row as an item, whatever was written into it: what cannot be read is left out.

    `checked_item` says what is wrong with it.
    """
    quadrants: tuple[Quadrant, ...] = ()
    with suppress(ItemInvalid):
        quadrants = quadrants_of(_json(row["quadrants"], "quadrants"))
    parameters = _object(row["parameters"])
    return Item(
        id=int(row["id"]),
        item_type=str(row["item_type"]),
        quadrants=quadrants,
        model_id=None if row["model_id"] is None else str(row["model_id"]),
        prompt=_text(row["prompt"]),
        negative_prompt=_text(row["negative_prompt"]),
        seed=row["seed"] if type(row["seed"]) is int else None,
        parameters=parameters or {},
        overwrite=bool(row["overwrite"]),
        status=str(row["status"]),
        uid=_text(row["uid"]) or f"row {row['id']}",
        attempts=row["attempts"] if type(row["attempts"]) is int else 0,
        progress=_object(row["progress"]),
        created_at=_number(row["created_at"]),
        started_at=_number(row["started_at"]),
        completed_at=_number(row["completed_at"]),
        error_message=_text(row["error_message"]),
        result_message=_text(row["result_message"]),
    )


def checked_item(row: sqlite3.Row) -> Item:
    """Return a row that any program may have written as an item. Raises ItemInvalid."""
    if row["item_type"] not in TYPES:
        raise ItemInvalid(f"item_type = {row['item_type']!r:.60}: expected {' or '.join(TYPES)}")
    quadrants = quadrants_of(_json(row["quadrants"], "quadrants"))
    for name in ("prompt", "negative_prompt"):
        if _NOT_UTF8 in checked_text(name, row[name] if row[name] is not None else ""):
            raise ItemInvalid(f"{name}: is not UTF-8")
    checked_seed(row["seed"])
    if row["parameters"] not in (None, "") and _object(row["parameters"]) is None:
        raise ItemInvalid("parameters: expected a JSON object of finite numbers and text in UTF-8")
    checked_parameters(_object(row["parameters"]) or {})
    _checked_numbers(row)
    if row["item_type"] == GENERATE:
        one_picture(quadrants)
    elif len(quadrants) > MOST_RENDERED:
        raise ItemInvalid(f"{len(quadrants)} quadrants: expected at most {MOST_RENDERED} to a render item")
    return item_of(row)


def _checked_numbers(row: sqlite3.Row) -> None:
    """Raise ItemInvalid where a count or a time of a row is none."""
    for name in ("attempts", "lost"):
        if type(row[name]) is not int or not 0 <= row[name] <= MOST_COUNT:
            raise ItemInvalid(f"{name} = {row[name]!r:.60}: expected a whole number of 0..{MOST_COUNT}")
    for name in ("created_at", "not_before", "started_at", "completed_at"):
        if row[name] is not None and _number(row[name]) is None:
            raise ItemInvalid(f"{name} = {row[name]!r:.60}: expected seconds since 1970")


def quadrants_of(stated: object) -> tuple[Quadrant, ...]:
    """Return quadrants given as [[x, y], ...] or [{"x": x, "y": y}, ...]. Raises ItemInvalid."""
    if not isinstance(stated, Sequence) or isinstance(stated, str) or not stated:
        raise ItemInvalid("quadrants: expected a list of [x, y], not empty")
    found = tuple(quadrant_of(one) for one in stated)
    if len(set(found)) != len(found):
        raise ItemInvalid(f"quadrants: {shown(found)} names one twice")
    return found


def quadrant_of(stated: object) -> Quadrant:
    """Return a quadrant given as [x, y] or {"x": x, "y": y}. Raises ItemInvalid."""
    if isinstance(stated, Mapping):
        stated = [stated.get("x"), stated.get("y")]
    if isinstance(stated, Sequence) and not isinstance(stated, str) and len(stated) == 2:
        x, y = stated
        if type(x) is int and type(y) is int and max(abs(x), abs(y)) <= LIMIT:
            return x, y
    raise ItemInvalid(f"quadrant {stated!r:.60}: expected [x, y], two whole numbers of at most {LIMIT}")


def one_picture(quadrants: Sequence[Quadrant]) -> None:
    """Raise ItemInvalid where quadrants are not a rectangle of at most two by two."""
    columns, rows = {x for x, _ in quadrants}, {y for _, y in quadrants}
    filled = len(columns) * len(rows) == len(quadrants)
    near = max(columns) - min(columns) < 2 and max(rows) - min(rows) < 2
    if not (filled and near):
        raise ItemInvalid(
            f"{shown(quadrants)}: expected a rectangle of one or two by one or two quadrants for one picture"
        )


def checked_text(name: str, value: object) -> str:
    """Return a prompt. Raises ItemInvalid."""
    if not isinstance(value, str):
        raise ItemInvalid(f"{name}: expected a text")
    if len(value) > MOST_TEXT:
        raise ItemInvalid(f"{name}: {len(value)} characters; expected at most {MOST_TEXT}")
    return value


def checked_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise ItemInvalid where a parameter that has to be a number is none, or cannot be that number."""
    for name in NUMBERS:
        value = parameters.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ItemInvalid(f"parameters: {name} = {value!r:.60}: expected a number")
    for name in ("steps", "num_inference_steps"):
        value = parameters.get(name)
        if value is not None and (value < 1 or value != int(value)):
            raise ItemInvalid(f"parameters: {name} = {value!r:.60}: expected a whole number of at least 1")
    for name in ("guidance", "strength", "max_drift"):
        value = parameters.get(name)
        if value is not None and not 0 <= value < math.inf:
            raise ItemInvalid(f"parameters: {name} = {value!r:.60}: expected a number from 0")


def checked_seed(value: object) -> int | None:
    """Return a seed. Raises ItemInvalid."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= MOST_SEED:
        raise ItemInvalid(f"seed = {value!r}: expected a whole number of 0..{MOST_SEED}")
    return value


def rectangle(first: Quadrant, second: Quadrant) -> Iterable[Quadrant]:
    """Yield the quadrants between two opposite corners, both included, row by row."""
    (x, y), (to_x, to_y) = first, second
    for row in range(min(y, to_y), max(y, to_y) + 1):
        for column in range(min(x, to_x), max(x, to_x) + 1):
            yield column, row


def _json(text: object, name: str) -> object:
    if not isinstance(text, str):
        raise ItemInvalid(f"{name}: expected JSON text")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ItemInvalid(f"{name}: is no JSON") from error


def _object(text: object) -> dict[str, Any] | None:
    try:
        value = _json(text, "")
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ItemInvalid, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
