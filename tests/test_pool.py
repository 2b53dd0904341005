"""The pool of model servers: laws of its circuit breakers, and whole runs in simulated time."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointBusy,
    EndpointCancelled,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    EndpointUnavailable,
    Stop,
)
from layer_generation.errors import EndpointsExhausted
from layer_generation.pool import (
    CLOSED,
    HALF_OPEN,
    OPEN,
    QUARANTINE,
    Pool,
    PoolLimits,
    Slot,
)

LIMITS = PoolLimits()
ERRORS: dict[str, Callable[[], EndpointError]] = {
    "500": lambda: EndpointRetryable("fails (HTTP 500)"),
    "refused": lambda: EndpointBusy("cannot be reached"),
    "429": lambda: EndpointBusy("is busy (HTTP 429)", 5.0),
    "429 for long": lambda: EndpointBusy("is busy (HTTP 429)", 4000.0),
    "400": lambda: EndpointPermanent("refuses the request (HTTP 400)"),
    "401": lambda: EndpointUnavailable("the key is refused (HTTP 401)"),
}


@dataclass
class Named:
    """A server that is only a name."""

    name: str
    size_multiple: int = 1
    takes_mask: bool = True
    closed: bool = False

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        raise NotImplementedError

    def probe(self) -> None:
        """Answer well."""

    def close(self) -> None:
        self.closed = True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pool_of(
    *servers: tuple[str, int], limits: PoolLimits = LIMITS, chance: float | None = None
) -> tuple[Pool, Clock]:
    clock, luck = Clock(), random.Random(1)
    pool = Pool(
        [(Named(name), slots) for name, slots in servers],
        limits,
        clock=clock,
        chance=luck.random if chance is None else lambda: chance,
    )
    return pool, clock


def one_slot(**options: float) -> tuple[Pool, Clock, Slot]:
    pool, clock = pool_of(("a", 1), **options)  # type: ignore[arg-type]
    (slot,) = pool.slots()
    return pool, clock, slot


def state_of(pool: Pool, name: str = "a") -> str:
    (found,) = (one.state for one in pool.states() if one.name == name)
    return found


# One server


def test_a_server_that_works_is_asked_again_at_once() -> None:
    pool, clock, slot = one_slot()
    for _ in range(5):
        assert slot.acquire() == 0.0
        clock.now += 2
        slot.succeeded(2.0)
    (state,) = pool.states()
    assert (state.state, state.succeeded, state.failed, state.in_flight, state.mean_s) == (
        CLOSED,
        5,
        0,
        0,
        2.0,
    )


def test_some_failures_in_a_row_open_the_circuit_and_a_trial_closes_it() -> None:
    pool, clock, slot = one_slot(chance=1.0)
    for expected in (CLOSED, CLOSED, OPEN):
        assert slot.acquire() == 0.0
        slot.failed(EndpointRetryable("fails"), "block")
        assert state_of(pool) == expected
        if expected == CLOSED:
            clock.now += slot.acquire()
    assert slot.acquire() == LIMITS.first_rest_s
    clock.now += LIMITS.first_rest_s
    assert state_of(pool) == HALF_OPEN
    assert slot.acquire() == 0.0
    slot.succeeded(1.0)
    assert state_of(pool) == CLOSED
    assert slot.acquire() == 0.0


def test_each_rest_may_be_twice_as_long_up_to_a_limit() -> None:
    _, clock, slot = one_slot(chance=1.0)
    for _ in range(LIMITS.failures_to_open - 1):
        assert slot.acquire() == 0.0
        slot.failed(EndpointRetryable("fails"))
        clock.now += slot.acquire()
    rests = []
    for _ in range(10):
        assert slot.acquire() == 0.0
        slot.failed(EndpointRetryable("fails"))
        rests.append(slot.acquire())
        clock.now += rests[-1]
    assert rests == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60, 60])


@given(st.floats(0, 1), st.integers(1, 12))
def test_rests_are_random_below_their_limit(chance: float, failures: int) -> None:
    pool, clock, slot = one_slot(chance=chance)
    for _ in range(LIMITS.failures_to_open - 1 + failures):
        clock.now += slot.acquire()
        if slot._permit is None:
            assert slot.acquire() == 0.0
        slot.failed(EndpointRetryable("fails"))
    limit = min(LIMITS.longest_rest_s, 2.0 ** (failures - 1))
    (state,) = pool.states()
    assert 0 < state.rests_s <= limit + 1e-9
    assert state.rests_s == pytest.approx((0.1 + 0.9 * chance) * limit)


def test_a_half_open_server_is_tried_by_one_slot() -> None:
    pool, clock = pool_of(("a", 3), chance=1.0)
    slots = pool.slots()
    assert [slot.acquire() for slot in slots] == [0.0, 0.0, 0.0]
    for slot in slots:
        slot.failed(EndpointRetryable("fails"))
    clock.now += LIMITS.longest_rest_s
    assert [slot.acquire() == 0.0 for slot in slots] == [True, False, False]
    slots[0].release()
    assert [slot.acquire() == 0.0 for slot in slots[::-1]] == [True, False, False]
    slots[2].succeeded(1.0)
    assert [slot.acquire() for slot in slots] == [0.0, 0.0, 0.0]


def test_older_requests_do_not_prolong_the_rest() -> None:
    pool, _ = pool_of(("a", 6), chance=1.0)
    slots = pool.slots()
    for slot in slots:
        assert slot.acquire() == 0.0
    for slot in slots[:3]:
        slot.failed(EndpointRetryable("fails"))
    (before,) = pool.states()
    for slot in slots[3:]:
        slot.failed(EndpointRetryable("fails"))
    (after,) = pool.states()
    assert before.state == after.state == OPEN
    assert before.rests_s == after.rests_s == LIMITS.first_rest_s


@pytest.mark.parametrize("asked_s", [0.0, 3.0, 500.0])
def test_a_server_is_left_alone_for_as_long_as_it_asks(asked_s: float) -> None:
    pool, clock = pool_of(("a", 2), chance=0.0)
    first, second = pool.slots()
    assert first.acquire() == 0.0
    verdict = first.failed(EndpointBusy("is busy", asked_s), "block")
    assert not verdict.counts_as_attempt
    assert not verdict.permanent
    assert verdict.retry_after_s >= asked_s
    assert second.acquire() >= asked_s
    clock.now += max(asked_s, 0.2)
    assert second.acquire() == 0.0


def test_a_server_that_asks_for_days_is_not_waited_for() -> None:
    pool, _, slot = one_slot()
    assert slot.acquire() == 0.0
    slot.failed(EndpointBusy("is busy", 86400.0))
    assert slot.acquire() == LIMITS.longest_retry_after_s
    assert pool.exhausted() == "a: is busy"


def test_a_server_that_refuses_the_key_is_in_quarantine() -> None:
    pool, clock, slot = one_slot()
    assert slot.acquire() == 0.0
    verdict = slot.failed(EndpointUnavailable("the key is refused (HTTP 401)"), "block")
    assert not verdict.counts_as_attempt
    assert state_of(pool) == QUARANTINE
    assert slot.acquire() == LIMITS.quarantine_s
    with pytest.raises(EndpointsExhausted, match="a: the key is refused"):
        pool.check()
    clock.now += LIMITS.quarantine_s
    assert slot.acquire() == 0.0
    slot.succeeded(1.0)
    assert state_of(pool) == CLOSED
    pool.check()


def test_a_stopped_request_is_no_failure() -> None:
    pool, _, slot = one_slot()
    for _ in range(10):
        assert slot.acquire() == 0.0
        verdict = slot.failed(EndpointCancelled("stopped"), "block")
        assert (verdict.retry_after_s, verdict.counts_as_attempt, verdict.permanent) == (0.0, False, False)
    (state,) = pool.states()
    assert (state.state, state.failed, state.reason) == (CLOSED, 0, "")


def test_a_refusal_ends_a_picture_only_where_all_refused_it() -> None:
    pool, _ = pool_of(("a", 1), ("b", 1))
    a, b = pool.slots()
    for slot in (a, b):
        assert slot.acquire() == 0.0
        slot.succeeded(7.0)
    assert a.acquire() == 0.0
    assert a.failed(EndpointPermanent("refuses"), "other block").retry_after_s == 0.0, "the other one is free"
    pool._clock.now += 1  # type: ignore[attr-defined]
    assert a.acquire() == b.acquire() == 0.0
    first = a.failed(EndpointPermanent("refuses"), "block")
    assert not first.permanent
    assert first.retry_after_s == 7.0 / 4, "part of the other one's time for a picture"
    assert b.failed(EndpointPermanent("refuses"), "block").permanent


def test_slots_are_those_of_all_servers_in_turn() -> None:
    pool, _ = pool_of(("a", 1), ("b", 3), ("c", 2))
    assert [f"{slot.name}{slot.number}" for slot in pool.slots()] == ["a1", "b1", "c1", "b2", "c2", "b3"]


def test_closing_closes_each_server() -> None:
    named = [Named("a"), Named("b")]
    Pool([(one, 2) for one in named]).close()
    assert all(one.closed for one in named)


def test_an_empty_pool_is_exhausted() -> None:
    assert Pool([]).exhausted() == "no endpoint is configured"


def test_a_slow_server_takes_no_picture_that_others_would_have_done_before() -> None:
    pool, _ = pool_of(("fast", 2), ("slow", 1))
    fast, slow, other = pool.slots()
    assert slow.helps(1), "nothing is known yet"
    for slot, seconds in ((fast, 2.0), (slow, 11.0)):
        assert slot.acquire() == 0.0
        slot.succeeded(seconds)
    assert [slow.helps(left) for left in (1, 8, 9, 100)] == [False, False, True, True]
    assert fast.helps(1)
    for slot in (fast, other, fast):
        pool._clock.now += 10  # type: ignore[attr-defined]
        assert slot.acquire() == 0.0
        slot.failed(EndpointRetryable("fails"))
    assert slow.helps(1), "the others rest"


def test_a_pool_may_be_limited_across_its_servers() -> None:
    pool, _ = pool_of(("a", 3), ("b", 3))
    pool.limit_to(2)
    slots = pool.slots()
    assert [slot.acquire() == 0.0 for slot in slots] == [True, True, False, False, False, False]
    slots[0].failed(EndpointUnavailable("the key is refused"))
    assert [slot.acquire() == 0.0 for slot in slots[2:]] == [False, True, False, False], (
        "another server goes on"
    )


# Laws


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from(["ask", "good", "release", "wait", "cancelled", *ERRORS]),
            st.floats(0, 200),
        ),
        max_size=120,
    )
)
def test_the_laws_of_permits(steps: Sequence[tuple[int, str, float]]) -> None:
    """Whatever happens: no permit while a server rests, one while it is tried, and counts that add up."""
    pool, clock = pool_of(("a", 3), ("b", 2))
    slots = pool.slots()
    held: set[int] = set()
    good = bad = 0
    for number, step, seconds in steps:
        slot = slots[number]
        if step == "wait":
            clock.now += seconds
        elif number not in held:
            (before,) = (one for one in pool.states() if one.name == slot.name)
            wait_s = slot.acquire()
            assert wait_s >= before.rests_s
            if wait_s == 0.0:
                held.add(number)
                assert before.rests_s == 0
                assert before.state in (CLOSED, HALF_OPEN)
            assert math.isfinite(wait_s)
        elif step != "ask":
            held.discard(number)
            if step == "good":
                slot.succeeded(seconds)
                good += 1
                assert state_of(pool, slot.name) == CLOSED
            elif step == "release":
                slot.release()
            elif step == "cancelled":
                slot.failed(EndpointCancelled("stopped"), number)
            else:
                verdict = slot.failed(ERRORS[step](), number)
                bad += 1
                assert 0 <= verdict.retry_after_s <= max(LIMITS.longest_retry_after_s, 200)
        in_flight = {name: sum(slots[one].name == name for one in held) for name in ("a", "b")}
        assert {one.name: one.in_flight for one in pool.states()} == in_flight
        if held:
            assert pool.exhausted() is None
    assert sum(one.succeeded for one in pool.states()) == good
    assert sum(one.failed for one in pool.states()) == bad


# Whole runs in simulated time

Behaviour = Callable[[float, int], tuple[float, EndpointError | None]]
"""(time, picture) to (seconds it takes, what goes wrong)."""


@dataclass
class Run:
    """How a run ended."""

    seconds: float = 0.0
    done: dict[str, int] = field(default_factory=dict)
    given_up: list[int] = field(default_factory=list)
    attempts: dict[int, int] = field(default_factory=dict)
    calls: int = 0
    exhausted: str | None = None


def simulated(
    servers: dict[str, tuple[int, Behaviour]],
    pictures: int,
    *,
    limits: PoolLimits = LIMITS,
    max_attempts: int = 3,
    seed: int = 1,
) -> Run:
    """Draw pictures as the runner's threads do, in simulated time."""
    clock, luck, order = Clock(), random.Random(seed), count()
    pool = Pool(
        [(Named(name), slots) for name, (slots, _) in servers.items()],
        limits,
        clock=clock,
        chance=luck.random,
    )
    waiting = [(0.0, number) for number in range(pictures)]
    run = Run()
    events: list[tuple[float, int, Slot, int | None, EndpointError | None, float]] = []
    for slot in pool.slots():
        heapq.heappush(events, (clock.now, next(order), slot, None, None, 0.0))
    start, left = clock.now, pictures
    while left and events:
        clock.now, _, slot, picture, error, took = heapq.heappop(events)
        if picture is not None and error is None:
            slot.succeeded(took)
            run.done[slot.name] = run.done.get(slot.name, 0) + 1
            left -= 1
        elif picture is not None and error is not None:
            verdict = slot.failed(error, picture)
            run.attempts[picture] = run.attempts.get(picture, 0) + verdict.counts_as_attempt
            if verdict.permanent or run.attempts[picture] >= max_attempts:
                run.given_up.append(picture)
                left -= 1
            else:
                heapq.heappush(waiting, (clock.now + verdict.retry_after_s, picture))
        run.exhausted = pool.exhausted()
        if run.exhausted:
            break
        wait_s = slot.acquire()
        ready = bool(waiting) and waiting[0][0] <= clock.now and slot.helps(len(waiting))
        if wait_s == 0.0 and not ready:
            slot.release()
            wait_s = 0.5
        if wait_s > 0:
            heapq.heappush(events, (clock.now + min(wait_s, 1.0), next(order), slot, None, None, 0.0))
            continue
        _, claimed = heapq.heappop(waiting)
        run.calls += 1
        took, wrong = servers[slot.name][1](clock.now - start, claimed)
        heapq.heappush(events, (clock.now + took, next(order), slot, claimed, wrong, took))
    run.seconds = clock.now - start
    return run


def good(seconds: float) -> Behaviour:
    return lambda now, picture: (seconds, None)


def broken(kind: str, seconds: float = 0.05) -> Behaviour:
    return lambda now, picture: (seconds, ERRORS[kind]())


def dies(at: float, kind: str, before: Behaviour) -> Behaviour:
    return lambda now, picture: before(now, picture) if now < at else broken(kind)(now, picture)


def test_faster_servers_do_more() -> None:
    run = simulated({"fast": (1, good(1.0)), "slow": (1, good(9.0))}, 200)
    assert run.done["fast"] / run.done["slow"] == pytest.approx(9, rel=0.1)
    assert run.seconds <= 200 / (1 + 1 / 9) + 3


@pytest.mark.parametrize("kind", ERRORS)
def test_four_servers_of_which_one_is_slow_and_one_dies_come_near_the_ideal(kind: str) -> None:
    servers = {
        "first": (2, good(10.0)),
        "second": (2, good(10.0)),
        "slow": (1, good(60.0)),
        "dying": (2, dies(100.0, kind, good(10.0))),
    }
    run = simulated(servers, 400)
    assert run.exhausted is None
    assert not run.given_up
    assert sum(run.done.values()) == 400
    living = 2 / 10 + 2 / 10 + 1 / 60
    ideal = 100 + (400 - 100 * (living + 2 / 10)) / living
    assert run.seconds <= ideal * 1.05 + 20, "the last picture does not go to the slow one"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(ERRORS)), st.integers(1, 4), st.floats(0.01, 30)), max_size=4),
    st.integers(1, 3),
    st.integers(0, 1000),
)
def test_dead_servers_never_stop_the_map_while_another_lives(
    dead: list[tuple[str, int, float]], slots: int, seed: int
) -> None:
    servers = {f"dead {n}": (k, broken(kind, s)) for n, (kind, k, s) in enumerate(dead)}
    run = simulated({**servers, "living": (slots, good(20.0))}, 30, seed=seed)
    assert run.exhausted is None
    assert run.done == {"living": 30}
    assert not run.given_up
    longest = max((seconds for _, _, seconds in dead), default=0.0)
    assert run.seconds <= 20 * math.ceil(30 / slots) * 1.5 + 60 + 10 * longest


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ERRORS)), st.integers(1, 4), st.floats(0.01, 30)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 1000),
)
def test_when_all_are_dead_it_ends_in_finite_time_with_the_reasons(
    dead: list[tuple[str, int, float]], seed: int
) -> None:
    servers = {f"dead {n}": (k, broken(kind, s)) for n, (kind, k, s) in enumerate(dead)}
    run = simulated(servers, 1000, seed=seed)
    assert run.exhausted is not None
    for name, (_, behaviour) in servers.items():
        assert f"{name}: {behaviour(0.0, 0)[1]}" in run.exhausted
    longest = max(seconds for _, _, seconds in dead)
    assert run.seconds <= LIMITS.give_up_s + 6 * (LIMITS.longest_rest_s + longest)
    assert run.calls <= 400


def test_a_server_that_comes_back_goes_on() -> None:
    outage: Behaviour = lambda now, picture: broken("refused")(now, picture) if 50 < now < 90 else (5.0, None)  # noqa: E731
    run = simulated({"a": (2, outage)}, 40)
    assert run.exhausted is None
    assert run.done == {"a": 40}
    assert run.seconds <= 40 * 5 / 2 + 40 + LIMITS.longest_rest_s


def test_a_picture_that_no_model_can_do_is_given_up_and_the_others_are_done() -> None:
    poison: Behaviour = lambda now, picture: (2.0, ERRORS["500"]() if picture == 7 else None)  # noqa: E731
    run = simulated({"a": (1, poison), "b": (1, poison)}, 50)
    assert run.given_up == [7]
    assert sum(run.done.values()) == 49


def test_a_picture_that_one_model_refuses_is_done_by_the_other() -> None:
    picky: Behaviour = lambda now, picture: (0.5, ERRORS["400"]() if picture % 5 == 0 else None)  # noqa: E731
    run = simulated({"picky": (1, picky), "patient": (1, good(4.0))}, 60)
    assert not run.given_up
    assert sum(run.done.values()) == 60


def test_a_flaky_server_is_used_and_costs_no_picture() -> None:
    luck = random.Random(5)
    flaky: Behaviour = lambda now, picture: (2.0, ERRORS["500"]() if luck.random() < 0.3 else None)  # noqa: E731
    run = simulated({"flaky": (2, flaky), "other": (1, good(2.0))}, 300, max_attempts=5)
    assert sum(run.done.values()) == 300
    assert run.done["flaky"] > 50
