"""A request that was understood: what to draw, picture by picture."""

from __future__ import annotations

import difflib
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError

from layer_generation.image_api.artist import Abilities, Job
from layer_generation.image_api.contract import FRESH_SEED, SEEDS, GenerationRequest
from layer_generation.image_api.reference import (
    ReferenceInvalid,
    Size,
    mask_of,
    picture_of,
    png_bytes,
    size_of,
)
from layer_generation.image_api.refusals import RequestInvalid

_FRESH_SEEDS = (1 << 31) - 1
_MOST_REASONS = 5
_MOST_DIGITS = 400
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a generation draws."""

    request: GenerationRequest
    size: Size
    model: str
    sampler: str
    seeds: tuple[int, ...]
    image: bytes = b""
    mask: bytes = b""

    @property
    def count(self) -> int:
        """How many pictures."""
        return len(self.seeds)

    @property
    def taken_bytes(self) -> int:
        """How much its pictures take."""
        return len(self.image) + len(self.mask)

    def job(self, number: int) -> Job:
        """Return the picture of a number, counted from 0."""
        asked = self.request
        facts = {
            "prompt": asked.prompt,
            "negative_prompt": asked.negativePrompt,
            "width": self.size[0],
            "height": self.size[1],
            "steps": asked.steps,
            "cfg_scale": float(asked.cfgScale),
            "seed": self.seeds[number],
            "sampler": self.sampler,
            "strength": float(asked.strength),
            "model": self.model,
        }
        return Job(facts=facts, image=self.image, mask=self.mask)


def parsed(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body (RFC 8259), without what readers differ on. Raises RequestInvalid."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestInvalid("The body is not UTF-8") from error
    try:
        document = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_number, parse_int=_int, parse_float=_float
        )
    except RecursionError as error:
        raise RequestInvalid("The body is JSON of too many levels") from error
    except ValueError as error:
        place = f" (character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestInvalid(f"The body is not valid JSON{place}", "Send a JSON object") from error
    if not isinstance(document, dict):
        raise RequestInvalid("The body must be a JSON object", 'Send for example {"prompt": "a harbour"}')
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RequestInvalid(f"The body names a field twice: {_shown(name)}")
        found[name] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise RequestInvalid(f"The body is not valid JSON: {text} is no number there")


def _int(text: str) -> int | float:
    if len(text) > _MOST_DIGITS:
        raise RequestInvalid(f"The body has a number of {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= _MOST_DIGITS else math.inf
    if not math.isfinite(value):
        raise RequestInvalid("The body has a number that is too large or too long")
    return value


def ordered(document: Mapping[str, Any], has: Abilities) -> Order:
    """Return what a request asks of a backend. Raises RequestInvalid, which names the field."""
    try:
        request = GenerationRequest.model_validate(dict(document))
    except ValidationError as error:
        raise RequestInvalid(*_reasons(error)) from None
    model = _one_of("model", request.model, "model" in document, has.models)
    sampler = _one_of("sampler", request.sampler, "sampler" in document, has.samplers)
    for name in ("mask", "strength"):
        if name in document and "image" not in document:
            raise RequestInvalid(
                f"{name} needs image", f"Leave out {name}, or send the picture to start from"
            )
    image, mask, size = b"", b"", (request.width, request.height)
    if "image" in document:
        image, size = _image(request, document)
    if "mask" in document:
        try:
            mask = png_bytes(request.mask)
            mask_of(mask, "mask", size)
        except ReferenceInvalid as error:
            raise RequestInvalid(f"mask {error}") from error
    return Order(
        request=request.model_copy(update={"image": "", "mask": ""}),
        size=size, model=model, sampler=sampler, seeds=_seeds(request), image=image, mask=mask,
    )  # fmt: skip


def _image(request: GenerationRequest, document: Mapping[str, Any]) -> tuple[bytes, Size]:
    """Return the picture to start from, and its size, which is that of the order."""
    try:
        image = png_bytes(request.image)
        width, height = size_of(image)
        stated = request.width if "width" in document else width
        size = (stated, request.height if "height" in document else height)
        picture_of(image, "image", size)
    except ReferenceInvalid as error:
        raise RequestInvalid(f"image {error}") from error
    if any(side % 8 or side < 16 for side in size):
        raise RequestInvalid(
            f"image is {width} x {height} px, and must be {GenerationRequest.expected['width']}"
        )
    return image, size


def _one_of(name: str, value: str, is_stated: bool, known: Sequence[str]) -> str:
    if not is_stated:
        return known[0]
    if value not in known:
        raise RequestInvalid(f"{name} must be one of {', '.join(known)}")
    return value


def _seeds(request: GenerationRequest) -> tuple[int, ...]:
    """Return the seed of each picture."""
    if request.seed != FRESH_SEED:
        return tuple((request.seed + number) % SEEDS for number in range(request.count))
    fresh: list[int] = []
    while len(fresh) < request.count:
        seed = secrets.randbelow(_FRESH_SEEDS)
        if seed not in fresh:
            fresh.append(seed)
    return tuple(fresh)


def _reasons(error: ValidationError) -> tuple[str, str]:
    """Return what to say of what pydantic found: the fields and what they must be, never their values."""
    reasons: list[str] = []
    suggestion = ""
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        name = str(found["loc"][0]) if found["loc"] else ""
        if found["type"] == "missing":
            reasons.append(f"Missing required field: {name}")
        elif name in GenerationRequest.expected:
            reasons.append(f"{name} must be {GenerationRequest.expected[name]}")
        else:
            reasons.append(f"Unknown field: {_shown(name)}")
            near = difflib.get_close_matches(name, list(GenerationRequest.expected), n=1)
            suggestion = (
                f"Did you mean {near[0]}?" if near else f"Fields: {', '.join(GenerationRequest.expected)}"
            )
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    return "; ".join(reasons[:_MOST_REASONS]) + more, suggestion


def _shown(name: str) -> str:
    """Return a field's name for a message."""
    text = ascii(name[:_LONGEST_NAME])[1:-1]
    return text + ("..." if len(name) > _LONGEST_NAME else "")
