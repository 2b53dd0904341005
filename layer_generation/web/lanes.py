"""The queue at work: a lane for each model and one for renders, serial inside, parallel across.

Every lane is a thread that claims its next item, makes it, stores the pictures in
the map and marks it complete. A picture is stored only while the item is still
the lane's own, so that a cancelled one stays cancelled. Retried is only what may
pass on another try. While a model cannot be used at all its lane rests, and its
items wait.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fusi_pipeline.errors import FusiError
from layer_generation.endpoints.base import (
    Endpoint,
    EndpointBusy,
    EndpointCancelled,
    EndpointError,
    EndpointRetryable,
    EndpointUnavailable,
    Stop,
)
from layer_generation.errors import EndpointInvalid, ImageInvalid, ItemInvalid, ItemUnknown
from layer_generation.owners import own_name
from layer_generation.quadrants import QuadrantStore
from layer_generation.received import Answers
from layer_generation.web.drawing import Drawing
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import PENDING, RENDER, RENDER_LANE, Item, Quadrant, checked_item
from layer_generation.web.models import AppConfig, Model
from layer_generation.web.painters import Painter

MOST_ATTEMPTS = 4
"""Of an item, when the model failed at it."""
_LEASE_S = 90.0
_RENEW_S = 20.0
_LOOK_S = 0.5
"""How often a lane looks for what other programs queued."""
_CANCEL_LOOK_S = 0.25
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 300.0
_LONGEST_REST_S = 60.0
_CYCLES_LOOK_S = 2.0

Log = Callable[[str], None]


def checked(
    config: AppConfig, of_others: Callable[[], Collection[str]] = frozenset
) -> Callable[[sqlite3.Row], tuple[Item, str]]:
    """Return what checks a row of the queue against the models, and names its lane.

    `of_others` returns the models that other apps of the map have: rows of those are theirs.
    """

    def check(row: sqlite3.Row) -> tuple[Item, str]:
        item = checked_item(row)
        if item.item_type == RENDER:
            return item, RENDER_LANE
        model = config.model(item.model_id)
        if model is not None:
            return replace(item, model_id=model.model_id), model.model_id
        if item.model_id is not None and item.model_id in of_others():
            return item, item.model_id
        known = ", ".join(one.model_id for one in config.models)
        raise ItemInvalid(f"model_id = {item.model_id!r}: expected one of {known}")

    return check


class Lanes:
    """All lanes of an app. `start` begins, `close` ends; what is under way then is given back."""

    def __init__(
        self,
        folder: Path,
        config: AppConfig,
        environment: Mapping[str, str],
        painter: Painter,
        log: Log = lambda line: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the map's folder; `changed` is called when items begin and end."""
        self._folder = folder
        self._config = config
        self._environment = environment
        self._painter = painter
        self._log = log
        self._changed = changed
        self._name = f"{own_name()}:{secrets.token_hex(4)}"
        self._closing = threading.Event()
        self._wake = threading.Condition()
        self._rounds = 0
        self._rests = {lane: Rest() for lane in (*(model.model_id for model in config.models), RENDER_LANE)}
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"lane {lane}", daemon=True)
            for lane in self._rests
        ]

    def start(self) -> None:
        """Take up what an earlier app left, and begin."""
        with GenerationQueue(self._folder) as queue:
            queue.offer(self._name, self._rests.keys())
            back = queue.recover()
            if back:
                self._log(f"{back} items that an earlier app was at are made again")
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Have the lanes look at once."""
        with self._wake:
            self._rounds += 1
            self._wake.notify_all()

    def paused(self, lane: str) -> str | None:
        """Return why a lane rests; None where it does not, or is another app's."""
        rest = self._rests.get(lane)
        return rest.reason or None if rest else None

    def _rouse(self) -> None:
        """Have the lanes that rest try again now: there is a new wish, or a retry."""
        for rest in self._rests.values():
            rest.end()
        self.wake()

    def close(self, patience_s: float = 10.0) -> None:
        """Begin nothing more, give back what is under way, and wait for the lanes to end."""
        self._closing.set()
        self.wake()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(patience_s)
        with suppress(FusiError), GenerationQueue(self._folder) as queue:
            queue.withdraw(self._name)

    # A lane

    def _run(self, lane: str) -> None:
        worker = f"{own_name()}:{lane}"
        while not self._closing.is_set():
            try:
                with GenerationQueue(self._folder) as queue, QuadrantStore(self._folder) as store:
                    self._lane(_Bench(self, lane, worker, queue, store))
            except FusiError as error:  # a full disk, a locked file: said, and tried again
                self._log(f"{lane}: {error}")
            except Exception:  # noqa: BLE001 - recorded; no lane ends before the app does
                self._log(f"{lane}: {traceback.format_exc()}")
            self._closing.wait(_FIRST_WAIT_S)

    def _lane(self, bench: _Bench) -> None:
        try:
            while not self._closing.is_set():
                rounds = self._rounds
                if bench.queue.screen(checked(self._config, bench.queue.models_of_others)):
                    self._rouse()
                rests = bench.rest.goes_on()
                item = None if rests else bench.queue.claim(bench.lane, bench.worker, _LEASE_S)
                if item is None:
                    if not rests:
                        bench.rest.over()  # what it rested for was taken away
                    bench.look_for_cycles()
                    with self._wake:
                        if self._rounds == rounds and not self._closing.is_set():
                            self._wake.wait(_LOOK_S)
                    continue
                self._changed()
                bench.make(item)
                self._changed()
                self.wake()
        finally:
            bench.close()


class Rest:
    """A pause of a lane whose model cannot be used now; each is twice as long as the one before."""

    def __init__(self) -> None:
        self.reason = ""
        """Why the lane rests; empty where it does not."""
        self._times = 0
        self._until_s = 0.0

    def begin(self, reason: str, asked_s: float | None = None) -> bool:
        """Rest as long as the server asks, else longer than last; tell whether the reason is a new one."""
        doubled_s = min(_FIRST_WAIT_S * 2 ** min(self._times, 10), _LONGEST_REST_S)
        self._times += 1
        self._until_s = time.monotonic() + min(asked_s or doubled_s, _LONGEST_WAIT_S)
        is_new, self.reason = reason != self.reason, reason
        return is_new

    def goes_on(self) -> bool:
        """Tell whether it is too early to try again."""
        return time.monotonic() < self._until_s

    def end(self) -> None:
        """Try again now."""
        self._until_s = 0.0

    def over(self) -> None:
        """Say that the model answered."""
        self.reason, self._times, self._until_s = "", 0, 0.0


class _Bench:
    """Where a lane makes its items."""

    def __init__(
        self, lanes: Lanes, lane: str, worker: str, queue: GenerationQueue, store: QuadrantStore
    ) -> None:
        self.lane = lane
        self.worker = worker
        self.queue = queue
        self.rest = lanes._rests[lane]
        self._cycles_at_s = -_CYCLES_LOOK_S
        self._lanes = lanes
        self._store = store
        self._answers = Answers(lanes._folder)
        self._endpoint: Endpoint | None = None

    def make(self, item: Item) -> None:
        """Make an item: complete it, fail it, or give it back."""
        with _Watch(self._lanes, item, self.worker) as stop:
            try:
                if item.item_type == RENDER:
                    self._render(item, stop)
                else:
                    self._generate(item, stop)
            except EndpointCancelled:
                self.queue.requeue(item.id, self.worker, counts=False)  # no effect where it was cancelled
            except (EndpointInvalid, EndpointUnavailable, EndpointBusy) as error:
                self._rested(item, error)
            except (EndpointError, ImageInvalid) as error:
                self.rest.over()
                self._failed(item, error)
            except FusiError as error:
                self.queue.fail(item.id, self.worker, str(error))
                raise
            except Exception as error:  # noqa: BLE001 - recorded; the lane goes on with the next item
                self.queue.fail(item.id, self.worker, f"internal error: {type(error).__name__}")
                self._lanes._log(f"{item}: {traceback.format_exc()}")
        if not self.queue.is_own(item.id, self.worker):
            self._answers_end(item)

    def _answers_end(self, item: Item) -> None:
        """Forget what was received for an item that needs it no more."""
        with suppress(ItemUnknown):
            if self.queue.get(item.id).item.status == PENDING:
                return
        self._answers.forget(item.id)

    def _generate(self, item: Item, stop: Stop) -> None:
        model = self._lanes._config.model(item.model_id)
        assert model is not None, "items are checked before they are claimed"
        drawing = Drawing(self._store, self._answers, item, model)
        if drawing.was_stored():
            self.queue.complete(item.id, self.worker, f"{len(item.quadrants)} drawn")
            return
        reason = drawing.refused()
        if reason:
            self.queue.fail(item.id, self.worker, reason)
            return
        self.queue.tell(item.id, self.worker, "generating")
        drawn = drawing.draw(self._opened(model), stop, self._to_come(item))
        self.rest.over()
        if self.queue.begin_storing(item.id, self.worker):
            self._store.store("generation", drawn.pictures, item.uid, drawn.facts)
            self.queue.complete(item.id, self.worker, drawn.message)

    def _render(self, item: Item, stop: Stop) -> None:
        todo = [one for one in item.quadrants if item.overwrite or not self._store.has("render", *one)]
        drawn: list[tuple[int, int, bytes]] = []
        painter = self._lanes._painter
        for number, (x, y, picture) in enumerate(painter.paint(self._lanes._folder, todo), 1):
            drawn.append((x, y, picture))
            self.queue.tell(item.id, self.worker, "rendering", 100.0 * number / len(todo))
            if stop.is_set():
                raise EndpointCancelled("cancelled")
        if self.queue.begin_storing(item.id, self.worker):
            self._store.store("render", drawn, item.uid, {"item": item.id, "painter": painter.kind})
            kept = len(item.quadrants) - len(drawn)
            self.queue.complete(
                item.id, self.worker, f"{len(drawn)} rendered" + (f", {kept} were there" if kept else "")
            )

    def _to_come(self, item: Item) -> set[Quadrant]:
        """Return the quadrants that other items are about to draw."""
        others: Sequence[Item] = [one for one in self.queue.active() if one.id != item.id]
        return {quadrant for one in others if one.item_type != RENDER for quadrant in one.quadrants}

    def _opened(self, model: Model) -> Endpoint:
        if self._endpoint is None:
            self._endpoint = model.open(self._lanes._environment, self._lanes._config.path.parent)
        return self._endpoint

    def look_for_cycles(self) -> None:
        """Now and then, when nothing can be made, fail what waits for itself."""
        now_s = time.monotonic()
        if now_s - self._cycles_at_s >= _CYCLES_LOOK_S and self.queue.is_stuck():
            self._cycles_at_s = now_s
            self.queue.break_cycles()

    def _rested(self, item: Item, error: FusiError | EndpointError) -> None:
        """Give an item back that no server was at, and let the lane rest: the next would fare the same."""
        model = self._lanes._config.model(item.model_id)
        reason = str(error) if model is None else model.told(str(error))
        self.queue.requeue(item.id, self.worker, message=reason, counts=False)
        if self.rest.begin(reason, getattr(error, "retry_after_s", None)):
            self._lanes._log(f"{self.lane} rests: {error}")

    def _failed(self, item: Item, error: FusiError | EndpointError) -> None:
        passes = isinstance(error, EndpointRetryable | ImageInvalid)
        if not passes or item.attempts >= MOST_ATTEMPTS:
            tries = f" (attempt {item.attempts} of {MOST_ATTEMPTS})" if passes else ""
            self.queue.fail(item.id, self.worker, f"{error}{tries}")
            self._lanes._log(f"{item}: {error}")
            return
        asked_s = getattr(error, "retry_after_s", None)
        wait_s = min(asked_s or _FIRST_WAIT_S * 2 ** (item.attempts - 1), _LONGEST_WAIT_S)
        message = f"{error}; tried again in {wait_s:.0f} s"
        self.queue.requeue(item.id, self.worker, message=message, after_s=wait_s)

    def close(self) -> None:
        """Release the model's connections."""
        if self._endpoint is not None:
            self._endpoint.close()


class _Watch:
    """Renews the lease of an item while it is made, and tells when to stop: cancelled, lost, or closing."""

    def __init__(self, lanes: Lanes, item: Item, worker: str) -> None:
        self._lanes, self._item, self._worker = lanes, item, worker
        self._stop = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        since_s = 0.0
        while not self._over.is_set():
            with suppress(FusiError, sqlite3.Error), GenerationQueue(self._lanes._folder) as queue:
                while not self._over.wait(_CANCEL_LOOK_S):
                    since_s += _CANCEL_LOOK_S
                    mine = queue.is_own(self._item.id, self._worker)
                    if mine and since_s >= _RENEW_S:
                        mine, since_s = queue.renew(self._item.id, self._worker, _LEASE_S), 0.0
                    if not mine or self._lanes._closing.is_set():
                        self._stop.set()
                        return
            self._over.wait(_CANCEL_LOOK_S)

    def __enter__(self) -> threading.Event:
        self._thread.start()
        return self._stop

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
