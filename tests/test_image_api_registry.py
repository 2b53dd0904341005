"""The registry of generations against a model of it, under a clock of the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from layer_generation.image_api.artist import Abilities
from layer_generation.image_api.order import ordered
from layer_generation.image_api.refusals import AlreadyTerminal, Busy, KeyReused, NotFound
from layer_generation.image_api.registry import Drawing, Generation, Limits, Registry

HAS = Abilities("actor", ("actor",), ("euler_a",))
TTL_MS, DEPTH, BYTES = 1000, 2, 100


def order(**fields: Any) -> Any:
    return ordered({"prompt": "x", "width": 16, "height": 16, **fields}, HAS)


def drawing(size: int) -> Drawing:
    return Drawing(base64="x" * size, seed=0, width=16, height=16)


class Clock:
    """Milliseconds, as the test says."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


class Lives(RuleBasedStateMachine):
    """Whatever happens in whatever order, the registry and the model say the same."""

    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        limits = Limits(ttl_ms=TTL_MS, stored_bytes=BYTES, queue_depth=DEPTH, finished=6)
        self.registry = Registry(limits, self.clock)
        self.known: dict[str, Generation] = {}
        self.waiting: list[str] = []
        self.ended: dict[str, tuple[str, int]] = {}
        self.running: list[str] = []
        self.percent: dict[str, float] = {}

    @rule(target=names, key=st.none() | st.sampled_from(["a", "b"]), body=st.sampled_from(["1", "2"]))
    def accept(self, key: str | None, body: str) -> str:
        before = None
        if key is not None:
            try:
                before = self.registry.replay(key, body)
            except KeyReused:
                return "nobody"
        if before is not None:
            assert before["id"] in self.known
            return str(before["id"])
        room = len(self.waiting) + len(self.running) <= DEPTH
        if not room:
            with pytest.raises(Busy) as caught:
                self.registry.accept(order(), key, body)
            assert int(caught.value.headers["Retry-After"]) >= 1
            return "nobody"
        generation = self.registry.accept(order(), key, body)
        self.known[generation.id] = generation
        self.waiting.append(generation.id)
        return generation.id

    @rule()
    def begin(self) -> None:
        begun = self.registry.begin_next() if not self.running else None
        if self.running:
            return
        assert (begun.id if begun else None) == (self.waiting[0] if self.waiting else None)
        if begun:
            self.running.append(self.waiting.pop(0))

    @rule(
        image=st.integers(-1, 9), stage=st.sampled_from(["loading", "diffusion", "decoding"]),
        step=st.integers(-3, 30), steps=st.integers(-1, 20),
    )  # fmt: skip
    def advance(self, image: int, stage: str, step: int, steps: int) -> None:
        for name in self.known:
            generation = self.known[name]
            self.registry.advance(generation, image, stage, step, steps)
            if generation.status == "in_progress":
                assert generation.advance is not None
                assert self.percent.get(name, 0) <= generation.advance.percentage < 100
                assert 1 <= generation.advance.image <= generation.count
                self.percent[name] = generation.advance.percentage

    @rule(good=st.booleans(), size=st.integers(0, 60))
    def end(self, good: bool, size: int) -> None:
        if not self.running:
            return
        name = self.running.pop()
        if good:
            self.registry.complete(self.known[name], [drawing(size)])
        else:
            self.registry.fail(self.known[name], "why", "BACKEND_ERROR")
        self.ended[name] = ("complete" if good else "error", self.clock.ms)
        self._drop(self.registry.enforce())

    @rule(name=names)
    def cancel(self, name: str) -> None:
        alive = self.registry.find(name)
        if alive is None:
            with pytest.raises(NotFound):
                self.registry.found(name)
            return
        if self.ended.get(name, ("cancelled",))[0] != "cancelled":
            with pytest.raises(AlreadyTerminal):
                self.registry.cancel(alive)
            return
        self.registry.cancel(alive)
        if name not in self.ended:
            self.ended[name] = ("cancelled", self.clock.ms)
        self.waiting = [one for one in self.waiting if one != name]
        self.running = [one for one in self.running if one != name]
        self._drop(self.registry.enforce())

    @rule(ms=st.integers(0, 1500))
    def wait(self, ms: int) -> None:
        self.clock.ms += ms

    @rule()
    def clean_up(self) -> None:
        expired = {name for name, (_, at) in self.ended.items() if self.clock.ms - at > TTL_MS}
        assert self.registry.clean_up() == len(expired)
        self._drop(list(expired))

    def _drop(self, names: list[str]) -> None:
        for name in names:
            assert name in self.ended, "what has not ended is never forgotten"
            del self.known[name], self.ended[name]

    @invariant()
    def agrees(self) -> None:
        alive = {name for name in self.known if not self._is_expired(name)}
        assert {one.id for one in self.registry.newest(100)[0]} == alive
        assert [one.id for one in self.registry.newest(2)[0]] == [n for n in self.known if n in alive][:-3:-1]
        for name in self.known:
            found = self.registry.find(name)
            assert (found is not None) == (name in alive)
            if found is not None and name in self.ended:
                assert (found.status, found.updated_ms) == self.ended[name]
                assert found.order is None
        held = [self.known[name] for name in self.ended if self.known[name].drawings]
        assert self.registry.stored_bytes == sum(one.stored_bytes for one in held)
        assert self.registry.stored_bytes <= BYTES or len(held) == 1
        assert [self.registry.position(self.known[name]) for name in self.waiting] == list(
            range(1, len(self.waiting) + 1)
        )

    def _is_expired(self, name: str) -> bool:
        return name in self.ended and self.clock.ms - self.ended[name][1] > TTL_MS


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_reading_does_not_lengthen_a_life_and_its_end_is_strict() -> None:
    clock = Clock()
    registry = Registry(Limits(ttl_ms=TTL_MS), clock)
    one = registry.accept(order())
    clock.ms += 10 * TTL_MS
    assert registry.clean_up() == 0, "what waits does not expire"
    registry.begin_next()
    clock.ms += 10 * TTL_MS
    assert registry.find(one.id) is one, "what is drawn does not expire"
    registry.complete(one, [drawing(3)])
    clock.ms += TTL_MS
    assert registry.find(one.id) is one
    assert registry.clean_up() == 0
    clock.ms += 1
    assert registry.find(one.id) is None
    assert registry.clean_up() == 1
    assert registry.stored_bytes == 0


@pytest.mark.parametrize("late", ["complete", "fail", "advance"])
def test_what_comes_late_changes_nothing(late: str) -> None:
    registry = Registry(Limits(), Clock())
    one = registry.accept(order())
    registry.begin_next()
    registry.cancel(one)
    calls: dict[str, Callable[[], object]] = {
        "complete": lambda: registry.complete(one, [drawing(5)]),
        "fail": lambda: registry.fail(one, "x", "BACKEND_ERROR"),
        "advance": lambda: registry.advance(one, 0, "diffusion", 1, 2),
    }
    calls[late]()
    assert (one.status, one.drawings, one.failure, one.advance) == ("cancelled", (), None, None)
    assert registry.stored_bytes == 0


def test_a_busy_server_says_when_to_come_again() -> None:
    clock = Clock()
    registry = Registry(Limits(), clock)
    one = registry.accept(order())
    registry.begin_next()
    clock.ms += 10_000
    registry.advance(one, 0, "diffusion", 10, 20)
    with pytest.raises(Busy) as caught:
        registry.accept(order())
    assert caught.value.headers["Retry-After"] == "10"
