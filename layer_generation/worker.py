"""A layer under way: claim a block, show its template to a model, keep what comes back.

One thread for each slot of each model server. progress.db decides who owns a
block; pictures are written beside their names and get them in the transaction
that marks the block complete, so that a crash leaves no half picture and loses no
finished one.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shutil
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from fusi_pipeline.errors import FusiError
from fusi_pipeline.tiles.files import sync
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
from layer_generation.pictures import decoded, png, resized
from layer_generation.pool import Pool, Slot
from layer_generation.progress import BlockRow, Progress
from layer_generation.quadrants import Kind, QuadrantStore
from layer_generation.template import Kept, Template, kept, place, template, without_context

GENERATIONS = "generations"
_SPOOL = ".fusi-finished"
"""Folder in `generations/` where the pictures of a block wait for their names."""
_LEASE_S = 120.0
_RENEW_S = 30.0
_IDLE_S = 0.5
_KEPT_PICTURES = 64
_KNOWN_PARAMS = ("prompt", "negative_prompt", "steps", "num_inference_steps", "guidance", "strength", "seed",
                 "match_colors", "max_drift", "max_attempts")  # fmt: skip
DEFAULT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What of a layer to run, and how."""

    max_items: int | None = None
    """Blocks to begin at most; None for all."""
    step: int | None = None
    blocks: Sequence[int] | None = None
    """Only these blocks, by id."""
    strict_steps: bool = False
    """Whether a step waits for all blocks of the steps before, not only for those it touches."""
    max_concurrent: int | None = None
    """Requests under way at most; None for what the endpoints take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did, and what is left."""

    completed: int
    """Blocks finished in this run."""
    adopted: int
    """Of these, blocks whose pictures an interrupted run had received already."""
    calls: int
    """Requests that were sent to models."""
    failed: int
    """Blocks in error now, from this run or earlier ones."""
    blocked: int
    """Blocks that wait for one in error."""
    remaining: int
    """Blocks that are neither complete nor in error, the blocked ones among them."""
    interrupted: bool
    seconds: float
    by_endpoint: dict[str, int] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every block is complete."""
        return not self.failed and not self.remaining


@dataclass(slots=True)
class _Tally:
    """What the threads of a run have done together."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: int = 0
    completed: int = 0
    adopted: int = 0
    calls: int = 0
    by_endpoint: dict[str, int] = field(default_factory=dict)
    trouble: BaseException | None = None

    def finished(self, endpoint: str, adopted: bool) -> None:
        """Count a block."""
        with self.lock:
            self.completed += 1
            self.adopted += adopted
            self.by_endpoint[endpoint] = self.by_endpoint.get(endpoint, 0) + 1


class LayerRun:
    """One process's work on a layer.

    `stop` makes it begin nothing more and end when what is under way has ended;
    `give_back` leaves what is under way, too, for another run.
    """

    def __init__(
        self,
        layer_dir: Path,
        config: LayerConfig,
        pool: Pool,
        options: RunOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.layer_dir = layer_dir
        self.config = config
        self.pool = pool
        self.options = options or RunOptions()
        self.stopping = False
        self._halt = threading.Event()
        self._abandon = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}:{_started()}"
        self.events: queue.Queue[str] = queue.Queue()
        """A line for each thing that a person watching wants to know."""
        self._clock = clock
        self._tally = _Tally()
        self._changed = threading.Condition()
        self._endpoints = {one.name: one for one in config.model_endpoints}

    def counts(self) -> dict[int, dict[str, int]]:
        """Return the number of blocks by step and status."""
        with Progress(self.layer_dir, self._clock) as progress:
            return progress.counts()

    def run(self, every_s: float = 1.0) -> Iterator[dict[int, dict[str, int]]]:
        """Work until nothing is left that could be done, yielding the counts of blocks now and then.

        Raises EndpointsExhausted where no model server could go on.
        """
        self._prepare()
        if self.options.max_concurrent is not None:
            self.pool.limit_to(self.options.max_concurrent)
        slots = self.pool.slots()
        threads = [threading.Thread(target=self._work, args=(slot,), daemon=True) for slot in slots]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                deadline = time.monotonic() + every_s
                for thread in threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
                yield self.counts()
        finally:
            self._halt.set()
            self._wake()
            if any(thread.is_alive() for thread in threads):
                self._abandon.set()
            for thread in threads:
                thread.join()
        if self._tally.trouble is not None:
            raise self._tally.trouble
        if not self.stopping:
            self._check_left()
        yield self.counts()

    def stop(self) -> None:
        """Begin nothing more; what is under way is finished."""
        self.stopping = True
        self._halt.set()

    def give_back(self) -> None:
        """Begin nothing more, and leave what is under way."""
        self.stop()
        self._abandon.set()

    def report(self, seconds: float) -> RunReport:
        """Return what was done, and what is left."""
        counts, tally = self.counts(), self._tally
        total = {status: sum(step[status] for step in counts.values()) for status in counts[1]}
        return RunReport(
            completed=tally.completed,
            adopted=tally.adopted,
            calls=tally.calls,
            failed=total["error"],
            blocked=total["blocked"],
            remaining=total["pending"] + total["blocked"] + total["in_progress"],
            interrupted=self.stopping,
            seconds=seconds,
            by_endpoint=dict(tally.by_endpoint),
        )

    # Before the work

    def _prepare(self) -> None:
        """Give back what dead workers hold, and what is complete but has lost its pictures."""
        folder = self.layer_dir / GENERATIONS
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(self.layer_dir, self._clock) as progress:
            progress.reclaim(_is_dead)
            complete = [block for block in progress.blocks() if block.status == "complete"]
            there = {entry.name for entry in os.scandir(folder)}
            lost = [
                block.id for block in complete if any(f"{x}_{y}.png" not in there for x, y in block.quadrants)
            ]
            if lost:
                progress.reopen(lost)
                self.events.put(f"{len(lost)} finished blocks have lost pictures and are made again")

    def _check_left(self) -> None:
        """Raise EndpointsExhausted where blocks are left because no server could go on."""
        counts = self.counts()
        if any(step["pending"] for step in counts.values()) and self.pool.exhausted() is not None:
            self.pool.check()

    # A thread

    def _work(self, slot: Slot) -> None:
        worker = f"{self.name}:{slot.name}:{slot.number}"
        try:
            with ExitStack() as stack:
                progress = stack.enter_context(Progress(self.layer_dir, self._clock))
                source = stack.enter_context(QuadrantStore(self.config.map_folder(self.layer_dir)))
                desk = _Desk(self, progress, source, slot, worker)
                self._loop(slot, progress, desk)
        except BaseException as error:  # noqa: BLE001 - handed to the caller, and the other threads end
            with self._tally.lock:
                self._tally.trouble = self._tally.trouble or error
            self._halt.set()
        finally:
            self._wake()

    def _loop(self, slot: Slot, progress: Progress, desk: _Desk) -> None:
        while not self._halt.is_set():
            if self.pool.exhausted() is not None:
                return
            wait_s = slot.acquire()
            if wait_s > 0:
                if not self._left(progress):
                    return
                self._rest(min(wait_s, _IDLE_S * 4))
                continue
            block = None
            if slot.helps(progress.pending(step=self.options.step, blocks=self.options.blocks)):
                block = self._claim(progress, desk.worker)
            if block is None:
                slot.release()
                if not self._left(progress) or self._begun_all():
                    return
                self._rest(_IDLE_S)
                continue
            desk.make(block)
            self._wake()

    def _claim(self, progress: Progress, worker: str) -> BlockRow | None:
        options = self.options
        with self._tally.lock:
            if options.max_items is not None and self._tally.begun >= options.max_items:
                return None
            block = progress.claim(
                worker, _LEASE_S, step=options.step, blocks=options.blocks, strict_steps=options.strict_steps
            )
            self._tally.begun += block is not None
        return block

    def _begun_all(self) -> bool:
        return self.options.max_items is not None and self._tally.begun >= self.options.max_items

    def _left(self, progress: Progress) -> bool:
        """Tell whether a block may still become ready, here or elsewhere."""
        return progress.is_open(step=self.options.step, blocks=self.options.blocks)

    def _rest(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Desk:
    """Where one thread makes blocks."""

    def __init__(
        self, run: LayerRun, progress: Progress, source: QuadrantStore, slot: Slot, worker: str
    ) -> None:
        self.run = run
        self.progress = progress
        self.source = source
        self.slot = slot
        self.worker = worker
        self.folder = run.layer_dir / GENERATIONS
        self.endpoint_config = run._endpoints.get(slot.name) or EndpointConfig(name=slot.name, url="")
        self._pictures: OrderedDict[tuple[int, int], Pixels] = OrderedDict()

    def make(self, block: BlockRow) -> None:
        """Make one claimed block: finish it, fail it or give it back, and report to the slot."""
        with _Renewal(self.run, block, self.worker):
            try:
                request, shown = self._request(block)
            except (EndpointPermanent, FusiError) as error:
                self.slot.release()
                self._fail(block, str(error))
                return
            digest = _digest(request, shown)
            adopted = _spooled(self.folder, block, digest)
            if adopted is not None:
                self.slot.release()
                self._finish(block, adopted, adopted=True)
                return
            self._call(block, request, shown, digest)

    def _call(self, block: BlockRow, request: EditRequest, shown: Template, digest: str) -> None:
        config, params = self.run.config, self.run.config.generation_params
        started = time.monotonic()
        with self.run._tally.lock:
            self.run._tally.calls += 1
        try:
            answer = self.slot.endpoint.edit(request, self.run._abandon)
            seconds = time.monotonic() - started
            result = kept(
                shown,
                answer.image,
                match_colors=bool(params.get("match_colors", False)),
                max_drift=params.get("max_drift"),
            )
        except EndpointCancelled as error:
            self.slot.failed(error, block.id)
            self.progress.requeue(block.id, self.worker, counts=False)
            return
        except (EndpointError, ImageInvalid) as error:
            self._failed(block, error)
            return
        self.slot.succeeded(seconds)
        facts = {
            "endpoint": self.slot.name,
            "model": self.endpoint_config.model,
            "prompt_sha256": hashlib.sha256(request.prompt.encode()).hexdigest(),
            "seed": request.seed if answer.seed is None else answer.seed,
            "attempt": block.attempts,
            "seconds": round(seconds, 3),
            "context": _context(self.endpoint_config, self.slot),
            "neighbours": len(shown.placement.context),
            "drift": round(result.drift, 3),
            "source": config.source_layer,
        }
        spool = _spool(self.folder, block, digest, result, facts)
        self._finish(block, spool, adopted=False)

    def _failed(self, block: BlockRow, error: EndpointError | ImageInvalid) -> None:
        if isinstance(error, ImageInvalid):
            error = EndpointRetryable(str(error))
        verdict = self.slot.failed(error, block.id)
        most = int(self.run.config.generation_params.get("max_attempts", DEFAULT_ATTEMPTS))
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
        self.run.events.put(f"{block}: {message}; tried again")

    def _fail(self, block: BlockRow, message: str) -> None:
        self.progress.fail(block.id, self.worker, message, model_name=self.slot.name)
        self.run.events.put(f"{block}: {message}")

    def _finish(self, block: BlockRow, spool: Path, *, adopted: bool) -> None:
        facts = json.loads((spool / "facts.json").read_text(encoding="utf-8"))

        def publish() -> None:
            for x, y in block.quadrants:
                os.replace(spool / f"{x}_{y}.png", self.folder / f"{x}_{y}.png")
            sync(self.folder)

        done = self.progress.finish(
            block.id,
            self.worker,
            model_name=str(facts["endpoint"]),
            provenance=json.dumps(facts, sort_keys=True),
            publish=publish,
        )
        shutil.rmtree(spool, ignore_errors=True)
        if done:
            self.run._tally.finished(str(facts["endpoint"]), adopted)

    # What the model is shown

    def _request(self, block: BlockRow) -> tuple[EditRequest, Template]:
        config, endpoint = self.run.config, self.endpoint_config
        context = _context(endpoint, self.slot)
        shows = set(self.progress.quadrants_waited_for(block.id))
        placement = place(block.x, block.y, block.width, block.height, shows)
        if context == "none":
            placement = without_context(placement)
        shown = template(
            placement, self._source, self._finished, endpoint.frame_px if context == "frame" else 0
        )
        mask = ~shown.known if context == "mask" and shown.known.any() else None
        params = config.generation_params
        steps = params.get("steps", params.get("num_inference_steps"))
        further = {key: value for key, value in params.items() if key not in _KNOWN_PARAMS}
        request = EditRequest(
            image=shown.image,
            mask=mask,
            prompt=endpoint.prompt or config.prompt,
            negative_prompt=str(params.get("negative_prompt") or ""),
            steps=steps,
            guidance=params.get("guidance"),
            strength=params.get("strength"),
            seed=_seed(params.get("seed", 0), block),
            params={**further, **endpoint.params, "left_px": placement.left, "top_px": placement.top},
        )
        return request, shown

    def _source(self, x: int, y: int) -> Pixels:
        kind: Kind = "render" if self.run.config.source_layer == "renders" else "generation"
        data = self.source.image(kind, x, y)
        if data is None:
            raise EndpointPermanent(f"the map has no {kind} at {x},{y}; fill it in and use --retry-errors")
        return _of_size(decoded(data, f"{kind} {x},{y} of {self.source.path}"))

    def _finished(self, x: int, y: int) -> Pixels:
        if (x, y) in self._pictures:
            self._pictures.move_to_end((x, y))
            return self._pictures[(x, y)]
        path = self.folder / f"{x}_{y}.png"
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

    def __init__(self, run: LayerRun, block: BlockRow, worker: str) -> None:
        self._run, self._block, self._worker = run, block, worker
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def _renew(self) -> None:
        while not self._over.wait(_RENEW_S):
            with suppress(FusiError), Progress(self._run.layer_dir, self._run._clock) as progress:
                if not progress.renew(self._block.id, self._worker, _LEASE_S):
                    return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()


def _context(config: EndpointConfig, slot: Slot) -> str:
    """Return how an endpoint is shown finished neighbours: as it was told, else as it can be."""
    return config.context or ("mask" if slot.endpoint.takes_mask else "frame")


def _seed(base: object, block: BlockRow) -> int:
    """Return the seed of a block: the same whenever and by whomever it is drawn."""
    words = f"{base}|{block.x}|{block.y}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=4).digest(), "big") & 0x7FFFFFFF


def _of_size(picture: Pixels) -> Pixels:
    if picture.shape[:2] == (QUADRANT_PX, QUADRANT_PX):
        return picture
    return resized(picture, QUADRANT_PX, QUADRANT_PX)


def _digest(request: EditRequest, shown: Template) -> str:
    """Return a hash of all that a model is asked."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(request.image.tobytes() + shown.known.tobytes())
    words: Mapping[str, Any] = {
        "prompt": request.prompt, "negative": request.negative_prompt, "steps": request.steps,
        "guidance": request.guidance, "strength": request.strength, "seed": request.seed,
        "params": dict(request.params),
    }  # fmt: skip
    digest.update(json.dumps(words, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _spool(folder: Path, block: BlockRow, digest: str, result: Kept, facts: Mapping[str, object]) -> Path:
    """Write the pictures of a block beside their names, whole and on the disk; return their folder."""
    target = folder / _SPOOL / f"{block.id}-{digest}"
    scratch = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for (x, y), picture in result.quadrants:
        path = scratch / f"{x}_{y}.png"
        path.write_bytes(png(picture))
        sync(path)
    (scratch / "facts.json").write_text(json.dumps(facts, sort_keys=True), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(scratch, target)
    sync(target.parent)
    return target


def _spooled(folder: Path, block: BlockRow, digest: str) -> Path | None:
    """Return the folder of pictures that a run received for this very request before it died."""
    target = folder / _SPOOL / f"{block.id}-{digest}"
    names = [*(f"{x}_{y}.png" for x, y in block.quadrants), "facts.json"]
    return target if all((target / name).is_file() for name in names) else None


def _started() -> str:
    """Return when this process started, to tell it from a later one of the same number."""
    return f"{psutil.Process().create_time():.2f}"


def _is_dead(worker: str) -> bool:
    """Tell whether the process of a worker, by the worker's name, is no more on this machine."""
    host, pid, started, *_ = [*worker.split(":"), "", "", ""]
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def cleared_spool(layer_dir: Path, progress: Progress) -> None:
    """Remove what interrupted runs left of blocks that are complete."""
    folder = layer_dir / GENERATIONS / _SPOOL
    if not folder.is_dir():
        return
    complete = {block.id for block in progress.blocks() if block.status == "complete"}
    for entry in folder.iterdir():
        block = entry.name.split("-")[0]
        if entry.name.endswith(".part") or (block.isdigit() and int(block) in complete):
            shutil.rmtree(entry, ignore_errors=True)
    with suppress(OSError):
        folder.rmdir()
