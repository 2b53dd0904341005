"""How long a layer takes with four model servers, of which one is slow and one dies, against the ideal.

Prints one JSON line for each map and number of slots: in simulated time with the pool of the runner, and,
with `--real`, drawn by the runner itself from servers that sleep. The ideal is what a scheduler reaches that
knows every speed and the death beforehand and keeps to what the blocks wait for. Below it lies a bound: the
time in which the servers could draw so many pictures, or the longest chain of blocks at the fastest of them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from layer_generation.camera import MercatorGrid
from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointBusy,
    EndpointCancelled,
    EndpointError,
    EndpointRetryable,
    Stop,
)
from layer_generation.layer import init_layer
from layer_generation.layer_config import EndpointConfig, read_layer
from layer_generation.pictures import png
from layer_generation.plan import Plan, plan
from layer_generation.pool import Pool, Slot
from layer_generation.quadrants import QuadrantStore
from layer_generation.worker import LayerRun

Quadrants = NDArray[np.int64]
_IDLE_S = 0.5
_LONGEST_IDLE_S = 2.0


@dataclass(frozen=True, slots=True)
class Speed:
    """How a server behaves."""

    name: str
    slots: int
    picture_s: float
    dies_s: float = math.inf
    """From then on it cannot be reached, and what is under way is lost."""


def main() -> None:
    """Draw maps and print how long it took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", action="store_true", help="draw with the runner too, in real time")
    parser.add_argument(
        "--picture-s", type=float, default=2.0, help="a picture of the fast servers, with --real"
    )
    options = parser.parse_args()
    for name, quadrants in maps():
        planned = plan(quadrants)
        for slots in (1, 2):
            _print(map=name, slots=slots, **simulated(planned, servers(len(planned), slots, 10.0)))
    if options.real:
        quadrants = disc(8)
        planned = plan(quadrants)
        for slots in (1, 2):
            speeds = servers(len(planned), slots, options.picture_s)
            _print(map="disc of radius 8, real", slots=slots, **real(quadrants, planned, speeds))


def _print(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def maps() -> Iterator[tuple[str, Quadrants]]:
    """Yield maps that are large, small and narrow."""
    luck = np.random.default_rng(1)
    yield "disc of radius 8", disc(8)
    square = np.argwhere(np.ones((30, 30), dtype=bool))
    yield "30 x 30, 2 % holes", square[luck.random(len(square)) > 0.02]
    yield "disc of radius 20", disc(20)
    yield "7 x 7", np.argwhere(np.ones((7, 7), dtype=bool))
    yield "60 x 1", np.argwhere(np.ones((60, 1), dtype=bool))
    yield "60 x 3", np.argwhere(np.ones((60, 3), dtype=bool))


def disc(radius: int) -> Quadrants:
    """Return the quadrants of a disc."""
    side = 2 * radius + 1
    found = np.argwhere(np.ones((side, side), dtype=bool)) - radius
    return found[(found**2).sum(axis=1) <= radius * radius]


def servers(blocks: int, slots: int, picture_s: float) -> list[Speed]:
    """Return three fast servers, of which one dies when about a third is done, and one five times slower."""
    dies_s = max(picture_s * 1.5, blocks / 3 / (3.2 * slots) * picture_s)
    return [
        Speed("first", slots, picture_s),
        Speed("second", slots, picture_s),
        Speed("slow", slots, 5 * picture_s),
        Speed("dying", slots, picture_s, dies_s),
    ]


# The ideal


def bound_s(planned: Plan, speeds: Sequence[Speed]) -> float:
    """Return a time that no order of the blocks falls below."""
    chain = np.ones(len(planned), dtype=np.int64)
    for block, other in planned.waits_for.tolist():
        chain[block] = max(chain[block], chain[other] + 1)
    longest_s = int(chain.max(initial=0)) * min(one.picture_s for one in speeds)
    moments = sorted(
        {
            number * one.picture_s
            for one in speeds
            for number in range(1, len(planned) + 1)
            if number * one.picture_s <= one.dies_s
        }
    )
    drawn = [
        (moment, sum(one.slots * int(min(moment, one.dies_s) / one.picture_s + 1e-9) for one in speeds))
        for moment in moments
    ]
    return max(longest_s, next(moment for moment, pictures in drawn if pictures >= len(planned)))


def foreseen_s(planned: Plan, speeds: Sequence[Speed]) -> float:
    """Return the shortest time that a scheduler found that knows every speed, and the death, beforehand."""
    step_s = min(one.picture_s for one in speeds) / 2
    low_s = bound_s(planned, speeds)
    late = next(number for number in count() if _in_time(planned, speeds, low_s + number * step_s))
    return low_s + late * step_s


def _in_time(planned: Plan, speeds: Sequence[Speed], limit_s: float) -> bool:
    """Tell whether the plan is done by then, if each slot takes only what it ends in time for what follows.

    The slowest slots choose first and take what has most time, the fastest what has least.
    """
    followers, waiting = _graph(planned)
    tail = [1] * len(planned)
    for block in reversed(range(len(planned))):
        tail[block] = 1 + max((tail[one] for one in followers[block]), default=0)
    fast_s = min(one.picture_s for one in speeds)
    latest = [limit_s - (length - 1) * fast_s + 1e-6 for length in tail]
    slots = sorted((one for one in speeds for _ in range(one.slots)), key=lambda one: -one.picture_s)
    busy: list[tuple[float, int, int]] = []
    free = set(range(len(slots)))
    ready = {block for block in range(len(planned)) if not waiting[block]}
    now, left = 0.0, len(planned)
    while True:
        for number in sorted(free):
            end = now + slots[number].picture_s
            able = [block for block in ready if end <= latest[block]] if end <= slots[number].dies_s else []
            if able:
                choose = max if slots[number].picture_s > fast_s else min
                block = choose(able, key=lambda one: (latest[one], one))
                ready.remove(block)
                free.remove(number)
                heapq.heappush(busy, (end, number, block))
        if not busy:
            return left == 0
        now, number, block = heapq.heappop(busy)
        free.add(number)
        left -= 1
        for follower in followers[block]:
            waiting[follower] -= 1
            if not waiting[follower]:
                ready.add(follower)


def _graph(planned: Plan) -> tuple[list[list[int]], list[int]]:
    """Return of each block those that wait for it, and for how many it waits."""
    followers: list[list[int]] = [[] for _ in range(len(planned))]
    waiting = [0] * len(planned)
    for block, other in planned.waits_for.tolist():
        followers[other].append(block)
        waiting[block] += 1
    return followers, waiting


# In simulated time


class _Named:
    """A server that is only a name."""

    size_multiple = 1
    takes_mask = True

    def __init__(self, name: str) -> None:
        self.name = name

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Draw nothing."""
        raise NotImplementedError

    def probe(self) -> None:
        """Say that all is well."""

    def close(self) -> None:
        """Nothing to release."""


def simulated(planned: Plan, speeds: Sequence[Speed], seed: int = 1) -> dict[str, float | int]:
    """Draw a plan as the runner's threads do, in simulated time."""
    now = [0.0]
    pool = Pool(
        [(_Named(one.name), one.slots) for one in speeds],
        clock=lambda: now[0],
        chance=random.Random(seed).random,  # noqa: S311 - rests, no secrets
    )
    by_name = {one.name: one for one in speeds}
    followers, waiting = _graph(planned)
    ready = [block for block in range(len(planned)) if not waiting[block]]
    heapq.heapify(ready)
    later: list[tuple[float, int]] = []
    order = count()
    events: list[tuple[float, int, Slot, int | None, EndpointError | None, float]] = [
        (0.0, next(order), slot, None, None, 0.0) for slot in pool.slots()
    ]
    pending, left, calls = len(planned), len(planned), 0
    while left:
        now[0], _, slot, block, error, took = heapq.heappop(events)
        if block is not None and error is None:
            slot.succeeded(took)
            left -= 1
            for follower in followers[block]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(ready, follower)
        elif block is not None and error is not None:
            heapq.heappush(later, (now[0] + slot.failed(error, block).retry_after_s, block))
            pending += 1
        if block is not None:  # whoever rests is woken
            woken = [(now[0] if one[3] is None else one[0], *one[1:]) for one in events]
            events = woken
            heapq.heapify(events)
        while later and later[0][0] <= now[0]:
            heapq.heappush(ready, heapq.heappop(later)[1])
        wait_s = slot.acquire()
        if wait_s == 0.0 and not (slot.helps(pending) and ready):
            slot.release()
            wait_s = _IDLE_S
        if wait_s > 0:
            at = now[0] + min(wait_s, _LONGEST_IDLE_S)
            heapq.heappush(events, (at, next(order), slot, None, None, 0.0))
            continue
        claimed = heapq.heappop(ready)
        pending, calls = pending - 1, calls + 1
        speed = by_name[slot.name]
        end = now[0] + speed.picture_s
        if now[0] >= speed.dies_s:
            heapq.heappush(events, (now[0] + 0.01, next(order), slot, claimed, EndpointBusy("gone"), 0.0))
        elif end > speed.dies_s:
            heapq.heappush(
                events,
                (speed.dies_s, next(order), slot, claimed, EndpointRetryable("the connection broke"), 0.0),
            )
        else:
            heapq.heappush(events, (end, next(order), slot, claimed, None, speed.picture_s))
    return _facts(planned, speeds, now[0], calls)


def _facts(planned: Plan, speeds: Sequence[Speed], took_s: float, calls: int) -> dict[str, float | int]:
    ideal = foreseen_s(planned, speeds)
    return {
        "blocks": len(planned),
        "calls": calls,
        "seconds": round(took_s, 1),
        "ideal_s": round(ideal, 1),
        "bound_s": round(bound_s(planned, speeds), 1),
        "ratio": round(took_s / ideal, 3),
    }


# In real time


class _Sleeper(_Named):
    """A server that takes its time and answers with what it is shown."""

    def __init__(self, speed: Speed, began: float) -> None:
        super().__init__(speed.name)
        self._speed = speed
        self._dies = began + speed.dies_s
        self._lock = threading.Lock()
        self.calls = 0

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        """Return the picture as it is, after a while."""
        with self._lock:
            self.calls += 1
        left_s = self._dies - time.monotonic()
        if left_s <= 0:
            raise EndpointBusy("cannot be reached")
        if stop.wait(min(self._speed.picture_s, left_s)):
            raise EndpointCancelled("stopped")
        if left_s < self._speed.picture_s:
            raise EndpointRetryable("the connection broke")
        return EditResult(image=request.image)


def real(quadrants: Quadrants, planned: Plan, speeds: Sequence[Speed]) -> dict[str, float | int]:
    """Draw a map with the runner, in a folder that goes afterwards."""
    grey = png(np.full((512, 512, 3), 128, dtype=np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with QuadrantStore.create(root / "map", MercatorGrid(zoom=12)) as store:
            store.put("render", ((x, y, grey) for x, y in quadrants.tolist()))
        configs = [EndpointConfig(name=one.name, url="http://127.0.0.1:9", context="mask") for one in speeds]
        init_layer(
            root / "layer",
            name="bench",
            generation_dir=root / "map",
            source_layer="renders",
            endpoints=configs,
        )
        began = time.monotonic()
        sleepers = [_Sleeper(one, began) for one in speeds]
        pool = Pool([(sleeper, one.slots) for sleeper, one in zip(sleepers, speeds, strict=True)])
        run = LayerRun(root / "layer", read_layer(root / "layer"), pool)
        for _ in run.run():
            pass
        took_s = time.monotonic() - began
        if not run.report(took_s).whole:
            raise SystemExit("the layer is not whole")
    return _facts(planned, speeds, took_s, sum(one.calls for one in sleepers))


if __name__ == "__main__":
    main()
