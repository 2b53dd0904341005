"""The generations that the server knows, in memory: their states, how long they are kept, which come first.

It knows no clock and no backend. It is used by one event loop, and no method
waits, so whatever one of them decides is decided at once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from layer_generation.image_api.contract import TERMINAL, Status
from layer_generation.image_api.order import Order
from layer_generation.image_api.refusals import AlreadyTerminal, Busy, KeyReused, NotFound

MOST_FINISHED = 10_000
_STAGE_SHARES = {"loading": (0.0, 0.05), "diffusion": (0.05, 0.95), "decoding": (0.95, 1.0)}
"""Where in a picture, 0..1, each stage begins and ends."""
_NEARLY = 99.9
_LONGEST_RETRY_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A finished picture."""

    base64: str
    seed: int
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """How far a generation is."""

    stage: str
    step: int
    steps: int
    percentage: float
    image: int
    """Counted from 1."""


@dataclass(slots=True, kw_only=True, eq=False)
class Generation:
    """A generation. Only the registry changes it."""

    id: str
    order: Order | None
    """What to draw; forgotten at its end."""
    count: int
    size: tuple[int, int]
    model: str
    created_ms: int
    updated_ms: int
    status: Status = "pending"
    started_ms: int | None = None
    advance: Advance | None = None
    drawings: tuple[Drawing, ...] = ()
    taken_ms: int = 0
    failure: tuple[str, str] | None = None
    """Message and code."""
    key: str | None = None
    first_answer: dict[str, Any] = field(default_factory=dict)

    @property
    def is_terminal(self) -> bool:
        """Tell whether it has ended."""
        return self.status in TERMINAL

    @property
    def stored_bytes(self) -> int:
        """How much its pictures take."""
        return sum(len(drawing.base64) for drawing in self.drawings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the registry keeps, and how much it takes on."""

    ttl_ms: int = 300_000
    """From the last change of a finished generation."""
    stored_bytes: int = 512 << 20
    """Of pictures; the oldest finished go first, but never the newest."""
    finished: int = MOST_FINISHED
    queue_depth: int = 0
    """How many may wait behind the one that is drawn."""
    taken_bytes: int = 256 << 20
    """Of pictures in the requests that wait or are drawn."""


class Registry:
    """All generations, in the order in which they were accepted."""

    def __init__(self, limits: Limits, now_ms: Callable[[], int]) -> None:
        self.limits = limits
        self._now_ms = now_ms
        self._all: dict[str, Generation] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._waiting: list[str] = []
        self._running: set[str] = set()
        self._stored_bytes = 0
        self._finished: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Generation]:
        return iter(tuple(self._all.values()))

    @property
    def stored_bytes(self) -> int:
        """How much all pictures take."""
        return self._stored_bytes

    @property
    def waiting(self) -> int:
        """How many are pending."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many are in progress."""
        return len(self._running)

    def replay(self, key: str, digest: str) -> dict[str, Any] | None:
        """Return the first answer to a key, None where it is new. Raises KeyReused."""
        known = self._keys.get(key)
        if known is None or self.find(known[0]) is None:
            return None
        if not secrets.compare_digest(known[1], digest):
            raise KeyReused("This Idempotency-Key was used for another request")
        return dict(self._all[known[0]].first_answer)

    def accept(self, order: Order, key: str | None = None, digest: str = "") -> Generation:
        """Add a generation. Raises Busy, where as many are under way as may be."""
        now = self._now_ms()
        if len(self._waiting) + len(self._running) > self.limits.queue_depth:
            depth, retry_s = self.limits.queue_depth, self._retry_s(now)
            if depth:
                raise Busy(f"Server is busy, and its queue of {depth} is full", retry_s)
            raise Busy(retry_s=retry_s)
        taken = sum(one.order.taken_bytes for one in self._all.values() if one.order is not None)
        if taken and taken + order.taken_bytes > self.limits.taken_bytes:
            raise Busy("Server is busy with requests of large pictures", self._retry_s(now))
        generation = Generation(
            id=f"gen_{secrets.token_hex(16)}", order=order, count=order.count, size=order.size,
            model=order.model, created_ms=now, updated_ms=now, key=key,
        )  # fmt: skip
        self._all[generation.id] = generation
        self._waiting.append(generation.id)
        generation.first_answer = {"id": generation.id, "status": "pending", "createdAt": now}
        if (position := self.position(generation)) and (position > 1 or self._running):
            generation.first_answer["position"] = position
        if key is not None:
            self._keys[key] = (generation.id, digest)
        return generation

    def _retry_s(self, now_ms: int) -> int:
        """Return when to ask again: how long what is drawn will take on, by how far it has got."""
        for name in self._running:
            one = self._all[name]
            if one.started_ms is not None and one.advance is not None and one.advance.percentage > 0:
                taken_s = (now_ms - one.started_ms) / 1000
                left_s = taken_s * (100 / one.advance.percentage - 1)
                return min(max(round(left_s), 1), _LONGEST_RETRY_S)
        return 1

    def find(self, name: str) -> Generation | None:
        """Return a generation, None where it is unknown or expired."""
        generation = self._all.get(name)
        if generation is None or self._is_expired(generation, self._now_ms()):
            return None
        return generation

    def found(self, name: str) -> Generation:
        """Return a generation. Raises NotFound."""
        generation = self.find(name)
        if generation is None:
            raise NotFound("Generation not found", "Finished generations are kept for some minutes only")
        return generation

    def newest(self, limit: int) -> tuple[Sequence[Generation], int]:
        """Return (the newest generations, how many there are in all)."""
        now = self._now_ms()
        known = [one for one in self._all.values() if not self._is_expired(one, now)]
        return known[: -limit - 1 : -1], len(known)

    def position(self, generation: Generation) -> int | None:
        """Return the place of a generation among those that wait, from 1; None where it does not."""
        return self._waiting.index(generation.id) + 1 if generation.status == "pending" else None

    def begin_next(self) -> Generation | None:
        """Begin the generation that has waited longest, if there is one; return it."""
        if not self._waiting:
            return None
        generation = self._all[self._waiting.pop(0)]
        self._running.add(generation.id)
        generation.status = "in_progress"
        generation.started_ms = generation.updated_ms = self._now_ms()
        return generation

    def advance(self, generation: Generation, image: int, stage: str, step: int, steps: int) -> None:
        """Note how far a generation is; `image` is counted from 0. What has ended stays as it is."""
        if generation.status != "in_progress":
            return
        image = min(max(image, 0), generation.count - 1)
        begin, end = _STAGE_SHARES[stage]
        step = min(max(step, 0), max(steps, 0))
        within = begin + (end - begin) * (step / steps if steps > 0 else 0.0)
        percentage = min(round((image + within) / generation.count * 100, 2), _NEARLY)
        before = generation.advance.percentage if generation.advance else 0.0
        generation.advance = Advance(
            stage=stage, step=step, steps=max(steps, 0), percentage=max(percentage, before), image=image + 1
        )
        generation.updated_ms = self._now_ms()

    def complete(self, generation: Generation, drawings: Sequence[Drawing]) -> None:
        """Keep the pictures of a generation. What has ended stays as it is."""
        if not generation.is_terminal:
            generation.drawings = tuple(drawings)
            self._stored_bytes += generation.stored_bytes
            self._end(generation, "complete")

    def fail(self, generation: Generation, message: str, code: str) -> None:
        """Note why a generation failed. What has ended stays as it is."""
        if not generation.is_terminal:
            generation.failure = (message, code)
            self._end(generation, "error")

    def cancel(self, generation: Generation) -> None:
        """Cancel a generation, which may be cancelled already. Raises AlreadyTerminal."""
        if generation.status in ("complete", "error"):
            ended = "complete" if generation.status == "complete" else "failed"
            raise AlreadyTerminal(f"Generation is already {ended} and cannot be cancelled")
        if generation.status != "cancelled":
            self._end(generation, "cancelled")

    def clean_up(self) -> int:
        """Forget what has expired; return how many."""
        now = self._now_ms()
        expired = [name for name in self._finished if self._is_expired(self._all[name], now)]
        for name in expired:
            self._forget(name)
        return len(expired)

    def enforce(self) -> list[str]:
        """Forget the oldest finished generations that are too much to keep; return their ids.

        Of those without pictures only the number counts.
        """
        gone: list[str] = []
        while len(self._finished) > self.limits.finished:
            gone.append(next(iter(self._finished)))
            self._forget(gone[-1])
        for name in [name for name in self._finished if self._all[name].drawings][:-1]:
            if self._stored_bytes <= self.limits.stored_bytes:
                break
            gone.append(name)
            self._forget(name)
        return gone

    def _end(self, generation: Generation, status: Status) -> None:
        now = self._now_ms()
        if generation.id in self._waiting:
            self._waiting.remove(generation.id)
        self._running.discard(generation.id)
        generation.status = status
        generation.updated_ms = now
        generation.taken_ms = now - (now if generation.started_ms is None else generation.started_ms)
        generation.order = None
        self._finished[generation.id] = None

    def _is_expired(self, generation: Generation, now_ms: int) -> bool:
        return generation.is_terminal and now_ms - generation.updated_ms > self.limits.ttl_ms

    def _forget(self, name: str) -> None:
        generation = self._all.pop(name)
        self._finished.pop(name, None)
        self._stored_bytes -= generation.stored_bytes
        if generation.key is not None and self._keys.get(generation.key, ("",))[0] == name:
            del self._keys[generation.key]
