"""The studio: takes orders, has them drawn one after another, and knows what became of each."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from layer_generation.image_api.artist import Abilities, Artist, BackendConfig
from layer_generation.image_api.backend import BackendFailed, Cancelled, Stage
from layer_generation.image_api.journal import note, now_ms, where
from layer_generation.image_api.order import Order
from layer_generation.image_api.refusals import ShuttingDown
from layer_generation.image_api.registry import Drawing, Generation, Limits, Registry

_COLLECT_S = 5.0
"""How long the last result may still be asked for while the server ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudioConfig:
    """How generations are kept and drawn."""

    backend: BackendConfig
    limits: Limits = field(default_factory=Limits)
    cleanup_ms: int = 60_000
    """Between two times that what has expired is forgotten."""
    deadline_s: float = 600.0
    """For a generation, from the moment that the backend is there to its last picture."""


class Studio:
    """Generations and the backend that draws them. For one event loop; see `opened`."""

    def __init__(self, config: StudioConfig, registry: Registry, artist: Artist, has: Abilities) -> None:
        self.config = config
        self.registry = registry
        self.has = has
        self._artist = artist
        self._wake = asyncio.Event()
        self._stops: dict[str, asyncio.Event] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._collected = asyncio.Event()
        self._last: str | None = None
        self.is_closing = False

    @property
    def is_busy(self) -> bool:
        """Whether a picture is drawn, or one that was cancelled still has to stop."""
        return self.registry.running > 0 or not self._idle.is_set()

    def accept(self, order: Order, key: str | None = None, digest: str = "") -> tuple[dict[str, Any], bool]:
        """Take an order, or find that its key has been here before; return (the answer, whether it had).

        Nothing else happens meanwhile: of requests that come together the first
        one wins. Raises Busy, ShuttingDown, KeyReused.
        """
        if key is not None and (first := self.registry.replay(key, digest)) is not None:
            return first, True
        if self.is_closing:
            raise ShuttingDown
        generation = self.registry.accept(order, key, digest)
        note(
            "accepted", id=generation.id, count=order.count, width=order.size[0], height=order.size[1],
            steps=order.request.steps, model=order.model, position=self.registry.position(generation),
            from_image=bool(order.image), masked=bool(order.mask),
        )  # fmt: skip
        self._wake.set()
        return generation.first_answer, False

    def cancel(self, name: str) -> Generation:
        """Cancel a generation. Raises NotFound and AlreadyTerminal."""
        generation = self.registry.found(name)
        if generation.status != "cancelled":
            self.registry.cancel(generation)
            self._ended(generation)
            if name in self._stops:
                self._stops[name].set()
        return generation

    def collected(self, generation: Generation) -> None:
        """Note that somebody was told how a generation ended."""
        if generation.is_terminal and generation.id == self._last:
            self._collected.set()

    async def drain(self, grace_s: float) -> None:
        """Take no more orders, cancel those that wait, let the one that is drawn end or cancel it too."""
        self.is_closing = True
        note("stopping", waiting=self.registry.waiting, running=self.registry.running)
        for generation in self.registry:
            if generation.status == "pending":
                self.cancel(generation.id)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        for generation in self.registry:
            if not generation.is_terminal:
                self.cancel(generation.id)
        last = None if self._last is None else self.registry.find(self._last)
        if last is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_COLLECT_S - (now_ms() - last.updated_ms) / 1000):
                    await self._collected.wait()
        note("stopped")

    async def work(self) -> None:
        """Draw what is accepted, for ever."""
        while True:
            generation = self.registry.begin_next()
            if generation is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._idle.clear()
            self._last = generation.id
            self._collected.clear()
            stop = self._stops[generation.id] = asyncio.Event()
            try:
                await self._draw(generation, stop)
            except Exception as error:  # noqa: BLE001 - one generation fails, and the next one is drawn
                note("failed", logging.ERROR, id=generation.id, **where(error))
                self.registry.fail(generation, "The server failed", "INTERNAL_ERROR")
            finally:
                del self._stops[generation.id]
                self._idle.set()

    async def clean_up(self) -> None:
        """Forget what has expired, every now and then, for ever."""
        while True:
            await asyncio.sleep(self.config.cleanup_ms / 1000)
            if gone := self.registry.clean_up():
                note("expired", generations=gone, stored_bytes=self.registry.stored_bytes)

    async def _draw(self, generation: Generation, stop: asyncio.Event) -> None:
        """Draw the pictures of a generation, and note how that ended."""
        order = generation.order
        assert order is not None
        note("begun", id=generation.id, waited_ms=now_ms() - generation.created_ms)
        drawings: list[Drawing] = []
        try:
            await self._artist.ready()
            async with asyncio.timeout(self.config.deadline_s):
                for number in range(order.count):
                    drawings.append(await self._drawing(generation, order, number, stop))
        except TimeoutError:
            message = f"No picture within {self.config.deadline_s:g} s"
            self._fail(generation, len(drawings), message, "TIMEOUT_ERROR")
        except BackendFailed as error:
            self._fail(generation, len(drawings), str(error), error.code)
        except Cancelled:
            self._cancelled(generation)
        else:
            self.registry.complete(generation, drawings)
            self._ended(generation)

    async def _drawing(
        self, generation: Generation, order: Order, number: int, stop: asyncio.Event
    ) -> Drawing:
        def heard(stage: Stage, done: int, total: int) -> None:
            self.registry.advance(generation, number, stage, done, total)

        heard("loading", 0, order.request.steps)
        if stop.is_set():
            raise Cancelled
        png = await self._artist.draw(order.job(number), heard, stop)
        text = await asyncio.to_thread(lambda: base64.b64encode(png).decode("ascii"))
        width, height = order.size
        return Drawing(base64=text, seed=order.seeds[number], width=width, height=height)

    def _fail(self, generation: Generation, number: int, message: str, code: str) -> None:
        """Note a failure, and of several pictures which one it was."""
        if generation.count > 1:
            message = f"Generation failed on image {number + 1} of {generation.count}: {message}"
        if not generation.is_terminal:
            self.registry.fail(generation, message, code)
            self._ended(generation)

    def _cancelled(self, generation: Generation) -> None:
        if not generation.is_terminal:
            self.registry.cancel(generation)
            self._ended(generation)

    def _ended(self, generation: Generation) -> None:
        """Log how a generation ended, and make room."""
        code = None if generation.failure is None else generation.failure[1]
        note(generation.status, id=generation.id, taken_ms=generation.taken_ms, code=code,
             bytes=generation.stored_bytes or None)  # fmt: skip
        for name in self.registry.enforce():
            note("evicted", id=name, stored_bytes=self.registry.stored_bytes)


@asynccontextmanager
async def opened(config: StudioConfig) -> AsyncIterator[Studio]:
    """Begin the backend and yield a studio that works; leave nothing behind. Raises BackendFailed."""
    artist = Artist(config.backend)
    has = await artist.start()
    studio = Studio(config, Registry(config.limits, now_ms), artist, has)
    tasks = [asyncio.create_task(studio.work()), asyncio.create_task(studio.clean_up())]
    try:
        yield studio
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await artist.close()
