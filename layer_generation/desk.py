"""Where one thread makes blocks: what a model is asked for a block, and what becomes of its answer."""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fusi_pipeline.errors import FusiError
from layer_generation.blocks import BlockRow
from layer_generation.camera import QUADRANT_PX
from layer_generation.endpoints.base import (
    EditRequest,
    EndpointCancelled,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    Pixels,
)
from layer_generation.errors import ImageInvalid
from layer_generation.layer_config import EndpointConfig, LayerConfig
from layer_generation.pictures import decoded, resized
from layer_generation.pool import Slot
from layer_generation.progress import Progress
from layer_generation.quadrants import Kind, QuadrantStore
from layer_generation.received import Answers, Received
from layer_generation.template import Kept, Template, kept, place, template, without_context

GENERATIONS = "generations"
LEASE_S = 120.0
_RENEW_S = 30.0
_KEPT_PICTURES = 64
_KNOWN_PARAMS = ("prompt", "negative_prompt", "steps", "num_inference_steps", "guidance", "strength", "seed",
                 "match_colors", "max_drift", "max_attempts")  # fmt: skip
DEFAULT_ATTEMPTS = 5


@dataclass(slots=True)
class Tally:
    """What the threads of a run have done together."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: int = 0
    completed: int = 0
    adopted: int = 0
    calls: int = 0
    by_endpoint: dict[str, int] = field(default_factory=dict)
    trouble: BaseException | None = None

    def called(self) -> None:
        """Count a request to a model."""
        with self.lock:
            self.calls += 1

    def finished(self, endpoint: str, adopted: bool) -> None:
        """Count a block."""
        with self.lock:
            self.completed += 1
            self.adopted += adopted
            self.by_endpoint[endpoint] = self.by_endpoint.get(endpoint, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What the threads of a run have in common."""

    layer_dir: Path
    config: LayerConfig
    clock: Callable[[], float]
    tally: Tally = field(default_factory=Tally)
    abandon: threading.Event = field(default_factory=threading.Event)
    """Set when requests under way are to end."""
    events: queue.Queue[str] = field(default_factory=queue.Queue)
    """A line for each thing that a person watching wants to know."""

    def endpoint(self, name: str) -> EndpointConfig | None:
        """Return the configuration of an endpoint."""
        return next((one for one in self.config.model_endpoints if one.name == name), None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a model is asked for a block."""

    request: EditRequest
    shown: Template
    context: str
    key: str
    """A hash of all that decides about the answer."""


class Desk:
    """Where one thread makes blocks. It has connections of its own, which it does not close."""

    def __init__(
        self, shared: Shared, progress: Progress, source: QuadrantStore, slot: Slot, worker: str
    ) -> None:
        self.shared = shared
        self.progress = progress
        self.source = source
        self.slot = slot
        self.worker = worker
        self._answers = Answers(shared.layer_dir / GENERATIONS)
        self._endpoint = shared.endpoint(slot.name) or EndpointConfig(name=slot.name, url="")
        self._pictures: OrderedDict[tuple[int, int], Pixels] = OrderedDict()

    def make(self, block: BlockRow) -> None:
        """Make one claimed block: finish it, fail it or give it back, and report to the slot."""
        with _Renewal(self.shared, block, self.worker):
            try:
                context = self._endpoint.context or ("mask" if self.slot.endpoint.takes_mask else "frame")
                asked = self._asked(block, self._endpoint, context)
                adopted = self._adopted(block)
            except (EndpointPermanent, FusiError) as error:
                self.slot.release()
                self._fail(block, str(error))
                return
            if adopted is not None:
                self.slot.release()
                self._finish(block, *adopted, adopted=True)
                return
            self._call(block, asked)

    def _call(self, block: BlockRow, asked: _Asked) -> None:
        started = time.monotonic()
        self.shared.tally.called()
        try:
            answer = self.slot.endpoint.edit(asked.request, self.shared.abandon)
            seconds = time.monotonic() - started
            seed = asked.request.seed if answer.seed is None else answer.seed
            facts = self._facts(block, asked, seed, seconds)
            received = self._answers.keep(block.id, asked.key, answer.image, facts)
            result = self._kept(asked, received)
        except EndpointCancelled as error:
            self.slot.failed(error, block.id)
            self.progress.requeue(block.id, self.worker, counts=False)
            return
        except (EndpointError, ImageInvalid) as error:
            self._answers.forget(block.id)
            self._failed(block, error)
            return
        self.slot.succeeded(seconds)
        self._finish(block, result, received, adopted=False)

    def _facts(self, block: BlockRow, asked: _Asked, seed: int | None, seconds: float) -> dict[str, object]:
        return {
            "endpoint": self.slot.name,
            "model": self._endpoint.model,
            "prompt_sha256": hashlib.sha256(asked.request.prompt.encode()).hexdigest(),
            "seed": seed,
            "attempt": block.attempts,
            "seconds": round(seconds, 3),
            "context": asked.context,
            "neighbours": len(asked.shown.placement.context),
            "source": self.shared.config.source_layer,
        }

    def _kept(self, asked: _Asked, received: Received) -> Kept:
        """Return what of an answer is kept. Raises EndpointError where it cannot be used."""
        params = self.shared.config.generation_params
        return kept(
            asked.shown,
            received.image,
            match_colors=bool(params.get("match_colors", False)),
            max_drift=params.get("max_drift"),
        )

    def _adopted(self, block: BlockRow) -> tuple[Kept, Received] | None:
        """Return what another run received for this very block before it died, where it can be used."""
        for received in self._answers.of(block.id):
            endpoint = self.shared.endpoint(str(received.facts.get("endpoint")))
            if endpoint is None:
                continue
            asked = self._asked(block, endpoint, str(received.facts.get("context")))
            if asked.key != received.key:
                continue  # of another prompt, or of a source that changed
            with suppress(EndpointError):
                return self._kept(asked, received), received
        return None

    def _failed(self, block: BlockRow, error: EndpointError | ImageInvalid) -> None:
        if isinstance(error, ImageInvalid):
            error = EndpointRetryable(str(error))
        verdict = self.slot.failed(error, block.id)
        most = int(self.shared.config.generation_params.get("max_attempts", DEFAULT_ATTEMPTS))
        message = f"{self.slot.name}: {error}"
        if verdict.permanent or (verdict.counts_as_attempt and block.attempts >= most):
            tries = "" if verdict.permanent else f" (attempt {block.attempts} of {most})"
            self._fail(block, message + tries)
            return
        self.progress.requeue(
            block.id,
            self.worker,
            after_s=verdict.retry_after_s,
            counts=verdict.counts_as_attempt,
            note=message,
        )
        self.shared.events.put(f"{block}: {message}; tried again")

    def _fail(self, block: BlockRow, message: str) -> None:
        self.progress.fail(block.id, self.worker, message, model_name=self.slot.name)
        self.shared.events.put(f"{block}: {message}")

    def _finish(self, block: BlockRow, result: Kept, received: Received, *, adopted: bool) -> None:
        folder = self._answers.prepare(block.id, result.quadrants)
        endpoint = str(received.facts["endpoint"])
        try:
            done = self.progress.finish(
                block.id,
                self.worker,
                model_name=endpoint,
                provenance=json.dumps({**received.facts, "drift": round(result.drift, 3)}, sort_keys=True),
                publish=lambda: self._answers.publish(folder, block.quadrants),
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._answers.forget(block.id)
        if done:
            self.shared.tally.finished(endpoint, adopted)

    # What the model is asked

    def _asked(self, block: BlockRow, endpoint: EndpointConfig, context: str) -> _Asked:
        config, params = self.shared.config, self.shared.config.generation_params
        shows = set(self.progress.quadrants_waited_for(block.id))
        placement = place(block.x, block.y, block.width, block.height, shows)
        if context == "none":
            placement = without_context(placement)
        shown = template(
            placement, self._source, self._finished, endpoint.frame_px if context == "frame" else 0
        )
        further = {key: value for key, value in params.items() if key not in _KNOWN_PARAMS}
        request = EditRequest(
            image=shown.image,
            mask=~shown.known if context == "mask" and shown.known.any() else None,
            prompt=endpoint.prompt or config.prompt,
            negative_prompt=str(params.get("negative_prompt") or ""),
            steps=params.get("steps", params.get("num_inference_steps")),
            guidance=params.get("guidance"),
            strength=params.get("strength"),
            seed=seed_of(params.get("seed", 0), block),
            params={**further, **endpoint.params, "left_px": placement.left, "top_px": placement.top},
        )
        return _Asked(request, shown, context, _key(request, shown, endpoint))

    def _source(self, x: int, y: int) -> Pixels | None:
        kind: Kind = "render" if self.shared.config.source_layer == "renders" else "generation"
        data = self.source.image(kind, x, y)
        if data is None:
            return None
        return _of_size(decoded(data, f"{kind} {x},{y} of {self.source.path}"))

    def _finished(self, x: int, y: int) -> Pixels:
        if (x, y) in self._pictures:
            self._pictures.move_to_end((x, y))
            return self._pictures[(x, y)]
        path = self._answers.generations / f"{x}_{y}.png"
        try:
            picture = _of_size(decoded(path.read_bytes(), path))
        except OSError as error:
            raise ImageInvalid(
                path, f"{error.strerror or error}; run the command again to have it remade"
            ) from error
        self._pictures[(x, y)] = picture
        if len(self._pictures) > _KEPT_PICTURES:
            self._pictures.popitem(last=False)
        return picture


class _Renewal:
    """Prolongs the lease of a block while it is being made."""

    def __init__(self, shared: Shared, block: BlockRow, worker: str) -> None:
        self._shared, self._block, self._worker = shared, block, worker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def _renew(self) -> None:
        while not self._over.wait(_RENEW_S):
            with suppress(FusiError), Progress(self._shared.layer_dir, self._shared.clock) as progress:
                if not progress.renew(self._block.id, self._worker, LEASE_S):
                    return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()


def seed_of(base: object, block: BlockRow) -> int:
    """Return the seed of a block: the same whenever and by whomever it is drawn."""
    words = f"{base}|{block.x}|{block.y}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "big") & 0x7FFFFFFF


def _of_size(picture: Pixels) -> Pixels:
    if picture.shape[:2] == (QUADRANT_PX, QUADRANT_PX):
        return picture
    return resized(picture, QUADRANT_PX, QUADRANT_PX)


def _key(request: EditRequest, shown: Template, endpoint: EndpointConfig) -> str:
    """Return a hash of all that decides about an answer."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(request.image).data)
    digest.update(np.ascontiguousarray(shown.known).data)
    words: Mapping[str, Any] = {
        "prompt": request.prompt, "negative": request.negative_prompt, "steps": request.steps,
        "guidance": request.guidance, "strength": request.strength, "seed": request.seed,
        "params": dict(request.params), "endpoint": endpoint.name, "model": endpoint.model,
    }  # fmt: skip
    digest.update(json.dumps(words, sort_keys=True, default=str).encode())
    return digest.hexdigest()
