"""What is answered: documents of generations, of the server, and of errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.responses import Response

from layer_generation.image_api.refusals import Refusal
from layer_generation.image_api.registry import Generation, Registry
from layer_generation.image_api.studio import Studio

_PIECE = 1 << 17
PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


def answered(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a value as JSON."""
    data = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(data, status, {**PLAIN, **(headers or {})}, "application/json")


def refused(refusal: Refusal) -> Response:
    """Return what a refusal is answered with."""
    return answered(refusal.document(), refusal.status, refusal.headers)


def state(generation: Generation, registry: Registry) -> dict[str, Any]:
    """Return a generation as a poll is told of it."""
    told = _common(generation, registry)
    if generation.status == "complete":
        images = [
            {"image": one.base64, "seed": one.seed, "width": one.width, "height": one.height}
            for one in generation.drawings
        ]
        told["result"] = {"images": images, "format": "png", "timeTaken": generation.taken_ms}
    return told


def state_pieces(generation: Generation, registry: Registry) -> tuple[int, Iterator[bytes]]:
    """Return (bytes in all, the pieces) of what `state` says of a complete generation.

    The pictures are never copied as a whole, however many clients read them slowly.
    """
    head = json.dumps(_common(generation, registry), separators=(",", ":"))[:-1] + ',"result":{"images":['
    parts: list[str] = [head]
    for number, one in enumerate(generation.drawings):
        facts = json.dumps(
            {"seed": one.seed, "width": one.width, "height": one.height}, separators=(",", ":")
        )
        parts += [',{"image":"' if number else '{"image":"', one.base64, f'",{facts[1:]}']
    parts.append(f'],"format":"png","timeTaken":{generation.taken_ms}}}}}')

    def pieces() -> Iterator[bytes]:
        for part in parts:
            for start in range(0, len(part), _PIECE):
                yield part[start : start + _PIECE].encode("ascii")

    return sum(map(len, parts)), pieces()


def summary(generation: Generation, registry: Registry) -> dict[str, Any]:
    """Return a generation without its pictures."""
    width, height = generation.size
    facts = {"count": generation.count, "width": width, "height": height, "model": generation.model}
    return {**_common(generation, registry), **facts}


def _common(generation: Generation, registry: Registry) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": generation.id,
        "status": generation.status,
        "createdAt": generation.created_ms,
        "updatedAt": generation.updated_ms,
    }
    if (position := registry.position(generation)) is not None:
        told["position"] = position
    advance = generation.advance
    if generation.status == "in_progress" and advance is not None:
        told["progress"] = {
            "currentStep": advance.step,
            "totalSteps": advance.steps,
            "stage": advance.stage,
            "percentage": advance.percentage,
        }
        if generation.count > 1:
            told["progress"] |= {"currentImage": advance.image, "totalImages": generation.count}
    if generation.status == "error" and generation.failure is not None:
        told["error"] = {"message": generation.failure[0], "code": generation.failure[1]}
    return told


def health(studio: Studio) -> dict[str, Any]:
    """Return how the server is."""
    return {
        "status": "stopping" if studio.is_closing else "ok",
        "busy": studio.is_busy,
        "queued": studio.registry.waiting,
        "queueDepth": studio.config.limits.queue_depth,
        "backend": studio.has.name,
    }


def models(studio: Studio) -> dict[str, Any]:
    """Return the models that a request may name."""
    has = studio.has
    listed = [
        {
            "id": name, "object": "model", "backend": has.name, "samplers": list(has.samplers),
            "default": number == 0,
        }
        for number, name in enumerate(has.models)
    ]  # fmt: skip
    return {"object": "list", "data": listed}
