"""What pages are told of items and quadrants, as JSON values."""

from __future__ import annotations

from layer_generation.quadrants import QuadrantState
from layer_generation.web.items import FINISHED
from layer_generation.web.queue_views import Listed

BITS = {
    "render": 1,
    "generation": 2,
    "flagged": 4,
    "starred": 8,
    "is_water": 16,
    "is_reference": 32,
    "note": 64,
}
"""What a quadrant has, as bits of one number."""


_MOST_LISTED = 2000
"""Characters of a text in a list; rows of other programs may hold any number."""


def listed_json(listed: Listed) -> dict[str, object]:
    """Return an item with its place in the queue. Times are milliseconds since 1970."""
    item = listed.item
    return {
        "id": item.id,
        "item_type": _cut(item.item_type),
        "quadrants": [list(one) for one in item.quadrants],
        "model_id": None if item.model_id is None else _cut(item.model_id),
        "prompt": _cut(item.prompt),
        "negative_prompt": _cut(item.negative_prompt),
        "seed": item.seed,
        "regenerate": item.overwrite,
        "status": item.status,
        "position": None if item.status in FINISHED else listed.position,
        "waits_for": list(listed.waits_for),
        "held": listed.held,
        "progress": item.progress,
        "attempts": item.attempts,
        "created_at": _ms(item.created_at),
        "started_at": _ms(item.started_at),
        "completed_at": _ms(item.completed_at),
        "error_message": _cut(item.error_message),
        "result_message": _cut(item.result_message),
    }


def state_json(state: QuadrantState) -> list[int | None]:
    """Return a quadrant as [x, y, bits, version]; the bits are None for one that is no more."""
    if not state.is_there:
        return [state.x, state.y, None, state.version]
    bits = BITS["render"] * state.has_render | BITS["generation"] * state.has_generation
    bits |= BITS["note"] * state.has_note
    for flag in state.flags:
        bits |= BITS[flag]
    return [state.x, state.y, bits, state.version]


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_LISTED else f"{text[:_MOST_LISTED]}…"


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
