"""Who makes single pictures: the embedded stylizer, a server of the image API, any other model server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from fusi_pipeline.errors import FusiError
from layer_generation.endpoints.adapter import stated
from layer_generation.endpoints.base import (
    EditRequest,
    Endpoint,
    EndpointBusy,
    EndpointCancelled,
    EndpointUnreached,
    Mask,
    Pixels,
    Stop,
)
from layer_generation.endpoints.fusi import Fusi
from layer_generation.endpoints.generations import Drawing, Told
from layer_generation.endpoints.payload import base64_png, white_mask

SEEDS = 1 << 32
_FIRST_BUSY_S = 2.0
_LONGEST_BUSY_S = 60.0


class CannotMake(FusiError):
    """A server cannot do what is asked, or does something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for; None leaves it to whoever draws."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    seed: int | None = None
    sampler: str | None = None
    model: str | None = None
    count: int = 1
    image: Pixels | None = None
    """What to start from, shape (height, width, 3)."""
    mask: Mask | None = None
    """True where to draw, shape (height, width)."""
    strength: float | None = None

    def seeds(self) -> tuple[int | None, ...]:
        """Return the seed of each picture: of the first as asked, then one more each."""
        if self.seed is None:
            return (None,) * self.count
        return tuple((self.seed + number) % SEEDS for number in range(self.count))


Heard = Callable[[Told], None]


class Maker(Protocol):
    """Makes pictures."""

    name: str

    def make(self, wanted: Wanted, stop: Stop, heard: Heard) -> tuple[Drawing, ...]:
        """Return as many pictures as asked for. Raises EndpointError and FusiError."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class ServerMaker:
    """A server of the image API."""

    def __init__(self, endpoint: Fusi, timeout_s: float) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._timeout_s = timeout_s

    def make(self, wanted: Wanted, stop: Stop, heard: Heard) -> tuple[Drawing, ...]:
        """Return the pictures. A server at work on others is asked again when it says so.

        What it has taken once is never sent again, unless it says that it knows nothing of it.
        """
        until = time.monotonic() + self._timeout_s
        fields = _fields(wanted)
        while True:
            jobs = self._endpoint.generations(wanted.count, heard)
            try:
                return self._endpoint.draw(fields, jobs, stop)
            except EndpointUnreached:
                raise
            except EndpointBusy as error:
                wait_s = min(max(error.retry_after_s or _FIRST_BUSY_S, 0.1), _LONGEST_BUSY_S)
                if jobs.submitted or time.monotonic() + wait_s >= until:
                    raise
            heard(Told("busy"))
            if stop.wait(wait_s):
                raise EndpointCancelled("stopped while the server was busy")

    def close(self) -> None:
        """Release connections."""
        self._endpoint.close()


def _fields(wanted: Wanted) -> dict[str, Any]:
    """Return a request as the API has it; what is not asked for is not sent."""
    return stated(
        prompt=wanted.prompt,
        negativePrompt=wanted.negative_prompt or None,
        width=wanted.width,
        height=wanted.height,
        steps=wanted.steps,
        cfgScale=wanted.cfg_scale,
        seed=wanted.seed,
        sampler=wanted.sampler,
        model=wanted.model,
        count=wanted.count if wanted.count > 1 else None,
        image=None if wanted.image is None else base64_png(wanted.image),
        mask=None if wanted.mask is None else base64_png(white_mask(wanted.mask)),
        strength=wanted.strength,
    )


class EditMaker:
    """A model server of another protocol, which redraws pictures one by one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint

    def make(self, wanted: Wanted, stop: Stop, heard: Heard) -> tuple[Drawing, ...]:
        """Return the pictures."""
        if wanted.image is None:
            raise CannotMake(f"endpoint {self.name!r}: it redraws pictures; name one with --image")
        for option, value in (("--sampler", wanted.sampler), ("--model", wanted.model)):
            if value is not None:
                raise CannotMake(
                    f"endpoint {self.name!r}: {option}: its protocol has no such field; "
                    "put it into the endpoint's params"
                )
        if wanted.mask is not None and not self._endpoint.takes_mask:
            raise CannotMake(f"endpoint {self.name!r}: --mask: its protocol cannot say where to draw")
        drawings = []
        for number, seed in enumerate(wanted.seeds()):
            heard(Told("in_progress", 100 * number / wanted.count, image=number + 1))
            request = EditRequest(
                image=wanted.image,
                mask=wanted.mask,
                prompt=wanted.prompt,
                negative_prompt=wanted.negative_prompt,
                steps=wanted.steps,
                guidance=wanted.cfg_scale,
                strength=wanted.strength,
                seed=seed,
            )
            answer = self._endpoint.edit(request, stop)
            drawings.append(Drawing(answer.image, answer.seed if answer.seed is not None else seed))
        return tuple(drawings)

    def close(self) -> None:
        """Release connections."""
        self._endpoint.close()


class BuiltinMaker:
    """The embedded stylizer, in this process."""

    name = "builtin:pixelart"
    _defaults: Mapping[str, Any] = {"steps": 20, "cfg_scale": 7.5, "strength": 0.75}

    def make(self, wanted: Wanted, stop: Stop, heard: Heard) -> tuple[Drawing, ...]:
        """Return the pictures."""
        from layer_generation.image_api.backend import Picture, Stage
        from layer_generation.image_api.pixelart_backend import PixelArtBackend

        backend = PixelArtBackend()
        if wanted.sampler is not None or wanted.model is not None:
            raise CannotMake("--sampler and --model mean nothing to builtin:pixelart; leave them out")
        width, height = (512, 512) if wanted.image is None else wanted.image.shape[1::-1]
        base = Picture(
            prompt=wanted.prompt,
            negative_prompt=wanted.negative_prompt,
            width=wanted.width or width,
            height=wanted.height or height,
            seed=0,
            sampler=backend.samplers[0],
            model=backend.models[0],
            image=wanted.image,
            mask=wanted.mask,
            **{name: _or(getattr(wanted, name), value) for name, value in self._defaults.items()},
        )
        drawings = []
        for number, seed in enumerate(wanted.seeds()):

            def report(stage: Stage, done: int, total: int, number: int = number) -> None:
                if stop.is_set():
                    raise EndpointCancelled("stopped before the picture")
                part = done / total if stage == "diffusion" and total else 0.0
                heard(Told("in_progress", 100 * (number + part) / wanted.count, stage, number + 1))

            used = int(np.random.default_rng().integers(1 << 31)) if seed is None else seed
            drawings.append(Drawing(backend.draw(replace(base, seed=used), report), used))
        return tuple(drawings)

    def close(self) -> None:
        """Do nothing: it holds nothing."""


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
