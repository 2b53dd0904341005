"""progress.db: a block is claimed once, in its turn, and only its owner may finish it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from layer_generation.errors import LayerMissing, MapUnreadable
from layer_generation.progress import BlockRow, NewBlock, Progress

STRIP = [NewBlock(1, 0, 0, 0, 2, 2), NewBlock(1, 0, 3, 0, 2, 2), NewBlock(2, 0, 2, 0, 1, 2)]
EDGES = np.array([[2, 0], [2, 1]])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def progress(tmp_path: Path, clock: Clock) -> Iterator[Progress]:
    with Progress.create(tmp_path / "layer", clock) as store:
        store.add(STRIP, EDGES)
        yield store


def claimed(progress: Progress, worker: str = "w", **choice: object) -> BlockRow:
    block = progress.claim(worker, 60, **choice)  # type: ignore[arg-type]
    assert block is not None
    return block


def finish(progress: Progress, block: BlockRow, worker: str = "w") -> bool:
    return progress.finish(block.id, worker, model_name="m", provenance="{}", publish=lambda: None)


def test_a_strip_waits_for_both_its_sides(progress: Progress) -> None:
    first, second = claimed(progress), claimed(progress)
    assert progress.claim("w", 60) is None
    assert finish(progress, first)
    assert progress.claim("w", 60) is None
    assert finish(progress, second)
    strip = claimed(progress)
    assert (strip.step, strip.quadrants) == (2, ((2, 0), (2, 1)))
    assert progress.owner(2, 1) == strip


def test_a_failed_block_holds_back_its_dependants_and_retrying_releases_them(progress: Progress) -> None:
    first, second = claimed(progress), claimed(progress)
    finish(progress, first)
    assert progress.fail(second.id, "w", "no such model", model_name="m")
    assert progress.blocked() == {3}
    counts = progress.counts()
    assert (counts[1]["error"], counts[2]["blocked"], counts[2]["pending"]) == (1, 1, 0)
    assert progress.retry_errors() == 1
    again = claimed(progress)
    assert (again.id, again.attempts, again.error_message) == (second.id, 1, None)
    finish(progress, again)
    assert claimed(progress).id == 3
    assert progress.blocked() == set()


def test_a_lease_that_ran_out_lets_another_worker_on(progress: Progress, clock: Clock) -> None:
    block = claimed(progress, "slow")
    clock.now += 61
    assert claimed(progress, "quick").id == block.id
    published: list[str] = []
    assert not progress.finish(
        block.id, "slow", model_name="m", provenance="{}", publish=lambda: published.append("slow")
    )
    assert not progress.fail(block.id, "slow", "late")
    assert not progress.renew(block.id, "slow", 60)
    assert published == []
    assert progress.renew(block.id, "quick", 60)
    clock.now += 50
    assert finish(progress, block, "quick")


def test_a_block_given_back_waits_its_time(progress: Progress, clock: Clock) -> None:
    block = claimed(progress, step=1)
    progress.requeue(block.id, "w", after_s=30, note="busy")
    other = claimed(progress)
    assert other.id != block.id
    assert progress.claim("w", 60) is None
    assert progress.next_at() == clock.now + 30
    clock.now += 30
    again = claimed(progress)
    assert (again.id, again.attempts) == (block.id, 2)
    progress.requeue(again.id, "w", counts=False)
    assert claimed(progress).attempts == 2


def test_blocks_of_dead_workers_are_given_back_at_once(progress: Progress) -> None:
    claimed(progress, "dead")
    claimed(progress, "alive")
    assert progress.reclaim(lambda worker: worker == "dead") == 1
    assert claimed(progress, "new").id == 1
    assert progress.claim("new", 60) is None


def test_nothing_is_complete_where_its_pictures_could_not_be_named(progress: Progress) -> None:
    block = claimed(progress)

    def publish() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        progress.finish(block.id, "w", model_name="m", provenance="{}", publish=publish)
    assert progress.counts()[1]["in_progress"] == 1
    assert finish(progress, block)


def test_steps_may_be_kept_strictly_apart(tmp_path: Path) -> None:
    with Progress.create(tmp_path) as progress:
        progress.add([*STRIP, NewBlock(2, 0, 9, 9, 1, 2)], EDGES)
        first, second = claimed(progress, strict_steps=True), claimed(progress, strict_steps=True)
        assert progress.claim("w", 60, strict_steps=True) is None
        finish(progress, first)
        progress.fail(second.id, "w", "no")
        assert claimed(progress, strict_steps=True).id == 4
        assert progress.claim("w", 60, strict_steps=True) is None


def test_what_waits_for_a_failed_block_does_not_hold_up_the_next_step(tmp_path: Path) -> None:
    with Progress.create(tmp_path) as progress:
        progress.add([*STRIP, NewBlock(3, 0, 9, 9, 1, 1)], EDGES)
        progress.fail(claimed(progress, strict_steps=True).id, "w", "no")
        finish(progress, claimed(progress, strict_steps=True))
        assert claimed(progress, strict_steps=True).id == 4


def test_an_extension_comes_after_all_steps_before_it(tmp_path: Path) -> None:
    with Progress.create(tmp_path) as progress:
        single = NewBlock(3, 0, 2, 2, 1, 1)
        progress.add([single], np.empty((0, 2), dtype=np.int64))
        progress.add([NewBlock(2, 0, 2, 3, 1, 2, extension=1)], np.array([[0, -1]]))
        finish(progress, claimed(progress, strict_steps=True))
        assert claimed(progress, strict_steps=True).id == 2


def test_a_choice_of_blocks_is_kept_to(progress: Progress) -> None:
    assert claimed(progress, blocks=[2, 3]).id == 2
    assert progress.claim("w", 60, blocks=[2, 3]) is None


def test_an_extension_waits_for_blocks_that_were_there(progress: Progress) -> None:
    for _ in range(2):
        finish(progress, claimed(progress))
    progress.add(
        [NewBlock(2, 0, 0, 2, 2, 1), NewBlock(3, 0, 2, 2, 1, 1)], np.array([[0, -1], [1, 0], [1, -3]])
    )
    assert claimed(progress).id == 3
    new = claimed(progress)
    assert (new.id, new.quadrants) == (4, ((0, 2), (1, 2)))
    assert progress.claim("w", 60) is None
    assert progress.finished_around(0, 0, 6, 6) == {(x, y) for x in (0, 1, 3, 4) for y in (0, 1)}


def test_a_quadrant_belongs_to_one_block(progress: Progress) -> None:
    with pytest.raises(Exception, match="UNIQUE"):
        progress.add([NewBlock(3, 0, 2, 1, 1, 1)], np.empty((0, 2), dtype=np.int64))
    assert len(list(progress.blocks())) == 3


def test_many_workers_never_get_the_same_block(tmp_path: Path) -> None:
    blocks = [NewBlock(1, 0, 3 * number, 0, 2, 2) for number in range(120)]
    with Progress.create(tmp_path) as progress:
        progress.add(blocks, np.empty((0, 2), dtype=np.int64))
    got: list[int] = []

    def work(name: str) -> None:
        with Progress(tmp_path) as mine:
            while (block := mine.claim(name, 600)) is not None:
                got.append(block.id)
                mine.finish(block.id, name, model_name="m", provenance="{}", publish=lambda: None)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, 121))


def test_what_is_no_progress_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(LayerMissing, match="fusi layer init"):
        Progress(tmp_path)
    (tmp_path / "progress.db").write_text("text that is long enough to be no database" * 10)
    with pytest.raises(MapUnreadable):
        Progress(tmp_path)


class Life(RuleBasedStateMachine):
    """Any order of claims, failures, crashes and time keeps the promises."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.progress = Progress.create(Path(self.folder.name), self.clock)
        blocks = [NewBlock(1, 0, 3 * n, 0, 2, 2) for n in range(3)]
        blocks += [NewBlock(2, 0, 3 * n + 2, 0, 1, 2) for n in range(2)]
        self.progress.add(blocks, np.array([[3, 0], [3, 1], [4, 1], [4, 2]]))
        self.waits = {4: {1, 2}, 5: {2, 3}}
        self.complete: set[int] = set()
        self.held: dict[int, tuple[str, float]] = {}

    @rule(worker=st.sampled_from("abc"), lease=st.sampled_from([5, 50]))
    def claim(self, worker: str, lease: int) -> None:
        block = self.progress.claim(worker, lease)
        if block is None:
            return
        assert block.id not in self.complete
        assert self.waits.get(block.id, set()) <= self.complete
        owner = self.held.get(block.id)
        assert owner is None or owner[1] < self.clock.now
        self.held[block.id] = (worker, self.clock.now + lease)

    @rule(
        block=st.integers(1, 5),
        worker=st.sampled_from("abc"),
        how=st.sampled_from(["finish", "fail", "back"]),
    )
    def end(self, block: int, worker: str, how: str) -> None:
        mine = self.held.get(block, ("", 0.0))[0] == worker
        if how == "finish":
            done = self.progress.finish(
                block, worker, model_name="m", provenance="{}", publish=lambda: self.complete.add(block)
            )
        elif how == "fail":
            done = self.progress.fail(block, worker, "bad")
        else:
            done = self.progress.requeue(block, worker, after_s=3)
        assert not done or mine
        if done:
            del self.held[block]

    @rule(seconds=st.sampled_from([1, 10, 100]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def retry(self) -> None:
        self.progress.retry_errors()

    @invariant()
    def waiting_is_true(self) -> None:
        done = {row.id for row in self.progress.blocks() if row.status == "complete"}
        assert done == self.complete
        counts = self.progress.counts()
        assert sum(sum(step.values()) for step in counts.values()) == 5

    def teardown(self) -> None:
        self.progress.close()
        self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
