"""A layer at work: every pixel predictable, every failure contained, nothing lost and nothing paid twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fusi_pipeline.errors import FusiError
from layer_generation.camera import MercatorGrid
from layer_generation.endpoints.base import (
    EditRequest,
    EditResult,
    EndpointCancelled,
    EndpointError,
    EndpointPermanent,
    EndpointRetryable,
    EndpointUnavailable,
    Stop,
)
from layer_generation.errors import EndpointsExhausted
from layer_generation.layer_config import EndpointConfig, LayerConfig, write_layer
from layer_generation.pictures import Pixels, decoded, png
from layer_generation.pool import Pool, PoolLimits
from layer_generation.progress import NewBlock, Progress
from layer_generation.quadrants import QuadrantStore
from layer_generation.worker import LayerRun, RunOptions, RunReport

QUADRANTS = [(x, y) for y in range(-1, 4) for x in range(-2, 3)]
"""A map of five by five: four 2x2, four strips, one single in the middle."""
BLOCKS = [
    NewBlock(1, 0, -2, -1, 2, 2), NewBlock(1, 0, 1, -1, 2, 2),
    NewBlock(1, 0, -2, 2, 2, 2), NewBlock(1, 0, 1, 2, 2, 2),
    NewBlock(2, 0, 0, -1, 1, 2), NewBlock(2, 0, 0, 2, 1, 2),
    NewBlock(2, 0, -2, 1, 2, 1), NewBlock(2, 0, 1, 1, 2, 1),
    NewBlock(3, 0, 0, 1, 1, 1),
]  # fmt: skip
EDGES = np.array(
    [(4, 0), (4, 1), (5, 2), (5, 3), (6, 0), (6, 2), (7, 1), (7, 3), *((8, other) for other in range(8))]
)


def source(x: int, y: int) -> Pixels:
    rows, cols = np.mgrid[0:512, 0:512]
    picture = np.stack([(rows // 3 + 31 * x) % 199, (cols + 17 * y) % 197, (rows + cols) % 251], axis=-1)
    return picture.astype(np.uint8)


def painted(x: int, y: int) -> Pixels:
    return (255 - source(x, y)).astype(np.uint8)


class Model:
    """A model server in this process that paints a known picture: the source inverted where it may draw."""

    size_multiple = 8

    def __init__(
        self, name: str, takes_mask: bool = True, trouble: Callable[[int], None] | None = None
    ) -> None:
        self.name = name
        self.takes_mask = takes_mask
        self.trouble = trouble
        self.requests: list[EditRequest] = []
        self.lock = threading.Lock()

    def edit(self, request: EditRequest, stop: Stop) -> EditResult:
        with self.lock:
            self.requests.append(request)
            number = len(self.requests)
        if self.trouble is not None:
            self.trouble(number)
        where = np.ones(request.image.shape[:2], dtype=bool) if request.mask is None else request.mask
        if request.mask is None:
            where &= ~(request.image == (255, 0, 0)).all(axis=-1)
        return EditResult(
            image=np.where(where[..., None], 255 - request.image, request.image), seed=request.seed
        )

    def probe(self) -> None:
        """Say that all is well."""

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def layer_dir(tmp_path: Path) -> Path:
    return made_layer(tmp_path)


def made_layer(folder: Path, **params: object) -> Path:
    with QuadrantStore.create(folder / "map", MercatorGrid(zoom=10)) as store:
        store.put("render", [(x, y, png(source(x, y))) for x, y in QUADRANTS])
    layer = folder / "layer"
    layer.mkdir()
    with Progress.create(layer) as progress:
        progress.add(BLOCKS, EDGES)
    config(layer, "one", **params)
    return layer


def config(layer: Path, *names: str, context: str = "", **params: object) -> LayerConfig:
    endpoints = tuple(EndpointConfig(name=name, url="http://127.0.0.1:9", context=context) for name in names)
    found = LayerConfig(
        name="inverted", generation_dir="../map", source_layer="renders",
        model_endpoints=endpoints, generation_params=params,
    )  # fmt: skip
    write_layer(layer, found)
    return found


def run(
    layer: Path,
    *models: Model,
    slots: int = 1,
    options: RunOptions | None = None,
    context: str = "",
    **params: object,
) -> RunReport:
    limits = PoolLimits(first_rest_s=0.01, longest_rest_s=0.02, give_up_s=0.2, quarantine_s=5)
    pool = Pool([(model, slots) for model in models], limits)
    work = LayerRun(
        layer, config(layer, *(one.name for one in models), context=context, **params), pool, options
    )
    for _ in work.run(0.1):
        pass
    return work.report(0.0)


def pictures(layer: Path) -> dict[tuple[int, int], Pixels]:
    found = {}
    for path in (layer / "generations").glob("*.png"):
        x, y = path.stem.split("_")
        found[(int(x), int(y))] = decoded(path.read_bytes(), path)
    return found


def hashes(layer: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (layer / "generations").glob("*.png")
    }


@pytest.mark.parametrize("context", ["mask", "frame", "none"])
def test_every_pixel_is_what_the_model_paints(layer_dir: Path, context: str) -> None:
    model = Model("one", takes_mask=context == "mask")
    report = run(layer_dir, model, context=context)
    assert report.whole
    assert (report.completed, report.calls, report.failed) == (9, 9, 0)
    found = pictures(layer_dir)
    assert sorted(found) == sorted(QUADRANTS)
    for (x, y), picture in found.items():
        assert not (picture == (255, 0, 0)).all(axis=-1).any(), "no frame is left"
        if context == "frame" and (x == 0 or y == 1):
            inside = np.zeros((512, 512), dtype=bool)
            inside[2:-2, 2:-2] = True
            np.testing.assert_array_equal(picture[inside], painted(x, y)[inside])
        else:
            np.testing.assert_array_equal(picture, painted(x, y))


def test_the_model_sees_its_finished_neighbours(layer_dir: Path) -> None:
    model = Model("one")
    run(layer_dir, model)
    shapes = [request.image.shape[:2] for request in model.requests]
    assert shapes == [(1024, 1024)] * 9
    by_mask = [0 if one.mask is None else int(one.mask.sum()) for one in model.requests]
    assert sorted(by_mask) == [0] * 4 + [512 * 512] + [1024 * 512] * 4
    single = next(one for one in model.requests if one.mask is not None and one.mask.sum() == 512 * 512)
    np.testing.assert_array_equal(single.image[256:768, 256:768], source(0, 1))
    np.testing.assert_array_equal(single.image[:256, :256], painted(-1, 0)[256:, 256:])
    np.testing.assert_array_equal(single.image[768:, 256:768], painted(0, 2)[:256])


def test_a_bare_context_shows_the_block_alone(layer_dir: Path) -> None:
    model = Model("one")
    run(layer_dir, model, context="none")
    assert all(one.mask is None for one in model.requests)
    assert sorted(one.image.shape[:2] for one in model.requests) == sorted(
        [(1024, 1024)] * 4 + [(1024, 512)] * 2 + [(512, 1024)] * 2 + [(512, 512)]
    )


@pytest.mark.parametrize("slots", [1, 3])
def test_bytes_do_not_depend_on_who_draws_what(tmp_path: Path, slots: int) -> None:
    one, other = made_layer(tmp_path / "a"), made_layer(tmp_path / "b")
    run(one, Model("one"))
    run(other, Model("one"), Model("two"), slots=slots)
    assert hashes(one) == hashes(other)


def test_every_block_says_how_it_was_made(layer_dir: Path) -> None:
    run(layer_dir, Model("one"), prompt="invert it", seed=7)
    with Progress(layer_dir) as progress:
        facts = [(name, json.loads(text)) for _, name, text in progress.provenance()]
    assert len(facts) == 9
    for name, fact in facts:
        assert name == fact["endpoint"] == "one"
        assert fact["prompt_sha256"] == hashlib.sha256(b"invert it").hexdigest()
        assert fact["attempt"] == 1
        assert 0 <= fact["seed"] < 1 << 31
        assert "invert it" not in json.dumps(fact)
    assert len({fact["seed"] for _, fact in facts}) == 9


def failing(error: Callable[[], EndpointError], *numbers: int) -> Callable[[int], None]:
    def trouble(number: int) -> None:
        if number in numbers:
            raise error()

    return trouble


def test_what_may_pass_on_another_try_is_tried_again(layer_dir: Path) -> None:
    model = Model("one", trouble=failing(lambda: EndpointRetryable("HTTP 500"), 2, 5, 6))
    report = run(layer_dir, model)
    assert report.whole
    assert report.calls == 12
    with Progress(layer_dir) as progress:
        assert sum(block.attempts for block in progress.blocks()) >= 10


def test_a_refused_block_holds_back_its_dependants_only(layer_dir: Path) -> None:
    model = Model("one", trouble=failing(lambda: EndpointPermanent("not this one"), 1))
    report = run(layer_dir, model)
    assert (report.failed, report.blocked, report.remaining) == (1, 3, 3)
    assert report.completed == 5
    with Progress(layer_dir) as progress:
        (bad,) = [block for block in progress.blocks() if block.status == "error"]
        assert "not this one" in (bad.error_message or "")
        progress.retry_errors()
    assert run(layer_dir, Model("one")).whole
    for quadrant, picture in pictures(layer_dir).items():
        np.testing.assert_array_equal(picture, painted(*quadrant))


def test_attempts_come_to_an_end(layer_dir: Path) -> None:
    model = Model("one", trouble=failing(lambda: EndpointRetryable("HTTP 502"), *range(1, 400)))
    with pytest.raises(EndpointsExhausted, match="HTTP 502"):
        run(layer_dir, model, max_attempts=2)
    assert len(model.requests) < 100


def test_a_dead_server_does_not_stop_the_others(layer_dir: Path) -> None:
    dead = Model("dead", trouble=failing(lambda: EndpointUnavailable("HTTP 401"), *range(1, 400)))
    report = run(layer_dir, dead, Model("alive"), slots=2)
    assert report.whole
    assert report.by_endpoint == {"alive": 9}


def test_all_dead_ends_with_the_reasons(layer_dir: Path) -> None:
    models = [
        Model(name, trouble=failing(lambda: EndpointUnavailable("HTTP 403 no key"), *range(1, 99)))
        for name in ("one", "two")
    ]
    with pytest.raises(EndpointsExhausted, match="one: HTTP 403 no key; two: HTTP 403 no key"):
        run(layer_dir, *models)
    with Progress(layer_dir) as progress:
        assert all(block.status == "pending" for block in progress.blocks())


@pytest.mark.parametrize(
    "answer",
    [np.zeros((1024, 512, 3), np.uint8), np.zeros((1, 1, 3), np.uint8)],
    ids=["other shape", "tiny"],
)
def test_an_answer_of_the_wrong_shape_fails_its_block(layer_dir: Path, answer: npt.NDArray[np.uint8]) -> None:
    class Wrong(Model):
        def edit(self, request: EditRequest, stop: Stop) -> EditResult:
            super().edit(request, stop)
            return EditResult(image=answer)

    with suppress(EndpointsExhausted):  # where it took longer than the patience with a server that fails
        run(layer_dir, Wrong("one"))
    with Progress(layer_dir) as progress:
        failed = [block for block in progress.blocks() if block.status == "error"]
    assert failed
    assert all("1024 x 1024 were asked for" in (block.error_message or "") for block in failed)
    assert not pictures(layer_dir)


def test_a_part_of_the_work_may_be_asked_for(layer_dir: Path) -> None:
    report = run(layer_dir, Model("one"), options=RunOptions(max_items=3))
    assert (report.completed, report.remaining) == (3, 6)
    report = run(layer_dir, Model("one"), options=RunOptions(step=1))
    assert (report.completed, report.remaining) == (1, 5)
    assert run(layer_dir, Model("one"), options=RunOptions(strict_steps=True)).whole


def test_lost_pictures_are_made_again(layer_dir: Path) -> None:
    run(layer_dir, Model("one"))
    before = hashes(layer_dir)
    (layer_dir / "generations" / "-2_-1.png").unlink()
    report = run(layer_dir, Model("one"))
    assert (report.completed, report.whole) == (1, True)
    assert hashes(layer_dir) == before


def test_a_quadrant_missing_from_the_map_fails_its_block_by_name(layer_dir: Path) -> None:
    with QuadrantStore(layer_dir.parent / "map") as store:
        store.put("render", [(0, 1, None)])
    report = run(layer_dir, Model("one"))
    assert (report.failed, report.completed) == (1, 8)
    with Progress(layer_dir) as progress:
        (bad,) = [block for block in progress.blocks() if block.status == "error"]
    assert "0,1" in (bad.error_message or "")


def test_what_was_received_before_a_crash_is_not_paid_for_again(
    layer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> bool:
        raise SystemError("power")

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "finish", crash)
        with pytest.raises(SystemError):
            run(layer_dir, Model("one"))
        assert not pictures(layer_dir)
    with Progress(layer_dir) as progress:
        progress.reclaim(lambda _: True)
    model = Model("one")
    report = run(layer_dir, model)
    assert (report.whole, report.adopted, report.calls) == (True, 1, 8)
    for quadrant, picture in pictures(layer_dir).items():
        np.testing.assert_array_equal(picture, painted(*quadrant))


def test_two_runs_at_once_share_the_work(layer_dir: Path) -> None:
    models = [Model("one"), Model("one")]
    found = config(layer_dir, "one")
    runs = [LayerRun(layer_dir, found, Pool([(model, 2)])) for model in models]
    threads = [threading.Thread(target=lambda one=one: list(one.run(0.1))) for one in runs]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(len(model.requests) for model in models) == 9
    assert runs[0].report(0.0).whole


def test_stopping_finishes_what_is_under_way(layer_dir: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(number: int) -> None:
        begun.set()
        assert go_on.wait(30)

    model = Model("one", trouble=slow)
    work = LayerRun(layer_dir, config(layer_dir, "one"), Pool([(model, 1)]))

    def stop() -> None:
        assert begun.wait(30)
        work.stop()
        go_on.set()

    thread = threading.Thread(target=stop)
    thread.start()
    list(work.run(0.1))
    thread.join()
    report = work.report(0.0)
    assert (report.completed, report.interrupted, report.remaining) == (1, True, 8)


def test_giving_back_leaves_the_block_for_another_run(layer_dir: Path) -> None:
    begun = threading.Event()

    class Hanging(Model):
        def edit(self, request: EditRequest, stop: Stop) -> EditResult:
            begun.set()
            stop.wait(30)
            raise EndpointCancelled("stopped")

    work = LayerRun(layer_dir, config(layer_dir, "one"), Pool([(Hanging("one"), 1)]))
    thread = threading.Thread(target=lambda: (begun.wait(30), work.give_back()))
    thread.start()
    list(work.run(0.1))
    thread.join()
    assert work.report(0.0).remaining == 9
    with Progress(layer_dir) as progress:
        assert all((block.status, block.attempts) == ("pending", 0) for block in progress.blocks())


def test_trouble_in_a_thread_is_not_swallowed(layer_dir: Path) -> None:
    (layer_dir.parent / "map" / "quadrants.db").unlink()
    with pytest.raises(FusiError, match="quadrants"):
        run(layer_dir, Model("one"))


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    assert not [
        thread for thread in threading.enumerate() if "_work" in thread.name or "_renew" in thread.name
    ]
