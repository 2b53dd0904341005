"""The queue of the generation app: order, lanes, claims, leases, foreign rows, revisions."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from layer_generation.errors import ItemInvalid, ItemSettled, ItemUnknown
from layer_generation.owners import own_name
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import Item, NewItem, checked_item
from layer_generation.web.queue_leases import MOST_LOST

MODELS = ("a", "b")


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def check(row: sqlite3.Row) -> tuple[Item, str]:
    item = checked_item(row)
    if item.item_type == "render":
        return item, "render"
    if item.model_id not in MODELS:
        raise ItemInvalid(f"model_id = {item.model_id!r}")
    return item, str(item.model_id)


def one(x: int = 0, model: str = "a", waits_for: tuple[int, ...] = ()) -> NewItem:
    return NewItem(item_type="generate", quadrants=((x, 0),), model_id=model, waits_for=waits_for)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Iterator[GenerationQueue]:
    with GenerationQueue(tmp_path, clock) as opened:
        yield opened


def claimed(queue: GenerationQueue, lane: str = "a", worker: str = "w", lease_s: float = 60) -> int | None:
    queue.screen(check)
    item = queue.claim(lane, worker, lease_s)
    return None if item is None else item.id


def statuses(queue: GenerationQueue) -> list[str]:
    return [listed.item.status for listed in queue.listed()[1]]


def test_a_lane_is_serial_and_in_the_order_of_ids_and_lanes_are_parallel(queue: GenerationQueue) -> None:
    queue.add([one(0), one(1), one(2, "b"), NewItem(item_type="render", quadrants=((9, 9),))])
    assert claimed(queue) == 1
    assert claimed(queue) is None
    assert (claimed(queue, "b"), claimed(queue, "render")) == (3, 4)
    assert queue.complete(1, "w", "done")
    assert claimed(queue) == 2


def test_an_item_waits_for_those_it_names_and_a_failed_one_holds_back_its_dependants_only(
    queue: GenerationQueue,
) -> None:
    first, second, third, free = queue.add([one(0), one(1, "b", (-1,)), one(2, "b", (-2,)), one(3, "b")])
    assert claimed(queue) == first
    assert claimed(queue, "b") == free
    queue.complete(free, "w")
    assert claimed(queue, "b") is None
    queue.fail(first, "w", "no")
    held = {listed.item.id: (listed.held, listed.waits_for) for listed in queue.listed()[1]}
    assert held[second] == (True, (first,))
    assert held[third] == (True, (second,))
    assert queue.retry(first).item.status == "pending"
    assert claimed(queue) == first
    queue.complete(first, "w")
    assert claimed(queue, "b") == second


def test_rows_of_any_program_are_taken_and_bad_ones_stop_nothing(
    queue: GenerationQueue, tmp_path: Path
) -> None:
    foreign = sqlite3.connect(queue.path)
    rows: list[tuple[object, ...]] = [
        ("generate", "[[0,0],[1,0]]", "a", "pending"),
        ("generate", "not json", "a", "pending"),
        ("paint", "[[0,0]]", "a", "pending"),
        ("generate", "[[0,0]]", "none of ours", "pending"),
        ("generate", "[[0,0],[5,5]]", "a", "pending"),
        ("generate", '[{"x":3,"y":-4}]', "a", "processing"),
        ("generate", b"\xff\x00", "a", "pending"),
        ("generate", "[" * 100_000, "a", "pending"),
        ("generate", "[[1e99,0]]", "a", "pending"),
        ("generate", "[[7,7]]", "a", "pending"),
    ]
    foreign.executemany(
        "INSERT INTO generation_queue (item_type, quadrants, model_id, status) VALUES (?, ?, ?, ?)", rows
    )
    foreign.commit()
    foreign.close()
    assert queue.screen(check) == len(rows)
    assert statuses(queue) == ["pending", *["error"] * 4, "pending", *["error"] * 3, "pending"]
    order = []
    while (number := claimed(queue)) is not None:
        order.append(number)
        queue.complete(number, "w")
    assert order == [1, 6, 10]
    assert queue.get(6).item.quadrants == ((3, -4),)


def test_no_status_but_those_of_the_schema_can_be_written(queue: GenerationQueue) -> None:
    foreign = sqlite3.connect(queue.path)
    with pytest.raises(sqlite3.IntegrityError):
        foreign.execute("INSERT INTO generation_queue (quadrants, status) VALUES ('[[0,0]]', 'running')")
    foreign.close()


def test_cancelling_sticks(queue: GenerationQueue) -> None:
    queue.add([one(0), one(1)])
    assert claimed(queue) == 1
    assert queue.cancel(1).item.status == "cancelled"
    assert queue.cancel(1).item.status == "cancelled"
    assert not queue.begin_storing(1, "w")
    assert not queue.complete(1, "w", "done")
    assert not queue.fail(1, "w", "no")
    assert not queue.requeue(1, "w")
    assert queue.get(1).item.status == "cancelled"
    assert claimed(queue) == 2
    assert queue.begin_storing(2, "w")
    with pytest.raises(ItemSettled, match="being stored"):
        queue.cancel(2)
    queue.complete(2, "w")
    with pytest.raises(ItemSettled, match="complete"):
        queue.cancel(2)
    with pytest.raises(ItemUnknown):
        queue.cancel(99)


def test_a_lease_that_ran_out_gives_the_item_to_another(queue: GenerationQueue, clock: Clock) -> None:
    queue.add([one()])
    assert claimed(queue, worker="first", lease_s=60) == 1
    clock.now += 59
    assert claimed(queue, worker="second") is None
    assert queue.renew(1, "first", 60)
    clock.now += 59
    assert claimed(queue, worker="second") is None
    clock.now += 2
    assert claimed(queue, worker="second") == 1
    assert not queue.complete(1, "first")
    assert queue.complete(1, "second")
    assert queue.get(1).item.attempts == 1


def test_what_a_dead_process_held_is_taken_at_once_and_what_a_live_one_holds_is_not(
    queue: GenerationQueue,
) -> None:
    queue.add([one(0), one(1, "b")])
    dead = f"{socket.gethostname()}:{_unused_pid()}:1.00:a"
    assert claimed(queue, "b", worker=f"{own_name()}:b") == 2
    assert claimed(queue, worker=dead) == 1
    assert queue.recover() == 1
    assert statuses(queue) == ["pending", "processing"]


def _unused_pid() -> int:
    return next(number for number in range(2**22 - 1, 1, -1) if not psutil.pid_exists(number))


def test_an_item_that_kills_its_workers_is_given_up(queue: GenerationQueue, clock: Clock) -> None:
    queue.add([one()])
    for _ in range(MOST_LOST + 1):
        assert claimed(queue) == 1
        clock.now += 61
    assert claimed(queue) is None
    assert queue.get(1).item.status == "error"
    assert "vanished" in queue.get(1).item.error_message


def test_retried_items_wait_and_removed_ones_take_their_dependants_along(
    queue: GenerationQueue, clock: Clock
) -> None:
    queue.add([one(0), one(1, "a", (-1,))])
    assert claimed(queue) == 1
    queue.requeue(1, "w", message="busy", after_s=30)
    assert claimed(queue) is None
    assert queue.get(1).item.error_message == "busy"
    clock.now += 31
    assert claimed(queue) == 1
    assert queue.get(1).item.attempts == 2
    with pytest.raises(ItemSettled):
        queue.remove(1)
    queue.fail(1, "w", "no")
    queue.remove(1)
    assert [(one.item.id, one.item.status) for one in queue.listed()[1]] == [(2, "cancelled")]
    assert queue.remove_finished() == 1


def test_positions_count_those_that_wait_in_a_lane(queue: GenerationQueue) -> None:
    queue.add([one(0), one(1), one(2, "b"), one(3)])
    assert claimed(queue) == 1
    assert [listed.position for listed in queue.listed()[1]] == [0, 1, 1, 2]


def test_pages_learn_of_every_change_since_any_revision(queue: GenerationQueue, tmp_path: Path) -> None:
    seen: dict[int, str] = {}
    revision = 0

    def look() -> None:
        nonlocal revision
        with GenerationQueue(tmp_path) as another:
            revision, changed, removed = another.changed_since(revision)
        seen.update({listed.item.id: listed.item.status for listed in changed})
        for number in removed:
            seen.pop(number, None)

    look()
    queue.add([one(0), one(1)])
    look()
    assert claimed(queue) == 1
    queue.complete(1, "w")
    look()
    assert seen == {1: "complete", 2: "pending"}
    queue.remove(1)
    queue.cancel(2)
    look()
    assert seen == {2: "cancelled"}
    assert queue.changed_since(revision) == (revision, [], [])


def test_many_workers_never_share_an_item(tmp_path: Path) -> None:
    with GenerationQueue(tmp_path) as queue:
        queue.add([one(number) for number in range(40)])
        queue.screen(check)
    taken: list[int] = []
    lock = threading.Lock()

    def work(name: str) -> None:
        with GenerationQueue(tmp_path) as mine:
            while len(taken) < 40:
                item = mine.claim("a", name, 60)
                if item is not None:
                    with lock:
                        taken.append(item.id)
                    assert mine.complete(item.id, name)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == list(range(1, 41))


class QueueMachine(RuleBasedStateMachine):
    """Whatever people and workers do in whatever order, the queue obeys its laws."""

    items = Bundle("items")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ["PYTEST_QUEUE_FOLDER"]) / str(id(self))
        self.clock = Clock()
        self.queue = GenerationQueue(self.folder, self.clock)
        self.held: dict[str, int] = {}
        self.final: dict[int, str] = {}

    def teardown(self) -> None:
        self.queue.close()

    @rule(target=items, model=st.sampled_from(MODELS), after=st.one_of(st.none(), items))
    def add(self, model: str, after: int | None) -> int:
        there = {listed.item.id for listed in self.queue.listed()[1]}
        return self.queue.add([one(0, model, (after,) if after in there and after is not None else ())])[0]

    @rule(lane=st.sampled_from(MODELS))
    def claim(self, lane: str) -> None:
        self.queue.screen(check)
        item = self.queue.claim(lane, f"w-{lane}", 60)
        if item is not None:
            assert lane not in self.held
            self.held[lane] = item.id

    @rule(lane=st.sampled_from(MODELS), how=st.sampled_from(("complete", "fail", "requeue")))
    def end(self, lane: str, how: str) -> None:
        number = self.held.pop(lane, None)
        if number is None:
            return
        worker = f"w-{lane}"
        was_own = self.queue.is_own(number, worker)
        done = {
            "complete": lambda: self.queue.complete(number, worker),
            "fail": lambda: self.queue.fail(number, worker, "no"),
            "requeue": lambda: self.queue.requeue(number, worker),
        }[how]()
        assert done == was_own
        if done and how == "complete":
            self.final[number] = "complete"

    @rule(number=items, how=st.sampled_from(("cancel", "retry", "remove")))
    def touch(self, number: int, how: str) -> None:
        try:
            getattr(self.queue, how)(number)
        except (ItemSettled, ItemUnknown):
            return
        if how == "remove":
            self.final.pop(number, None)
        if how == "cancel":
            self.held = {lane: other for lane, other in self.held.items() if other != number}

    @invariant()
    def lanes_are_serial_and_complete_stays(self) -> None:
        listed = {one.item.id: one for one in self.queue.listed(1000)[1]}
        processing = [one.item.lane for one in listed.values() if one.item.status == "processing"]
        assert len(processing) == len(set(processing))
        for number, status in self.final.items():
            assert listed[number].item.status == status
        for one_ in listed.values():
            if one_.item.status == "processing":
                assert not one_.waits_for


def test_laws_hold_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_QUEUE_FOLDER", str(tmp_path))
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        QueueMachine, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
