"""The generation app at work: what is drawn, what is retried, what survives; over HTTP models of the test."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_generation.camera import MercatorGrid
from layer_generation.errors import AppConfigInvalid, ItemInvalid
from layer_generation.pictures import decoded
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import NewItem
from layer_generation.web.lanes import Lanes
from layer_generation.web.models import AppConfig, app_config_from, read_app_config
from layer_generation.web.painters import NumpyPainter
from layer_generation.web.planning import pictures
from layer_generation.web.queue_views import Listed
from layer_generation.web.wishes import Wish, wish
from tests.image_server import HANG, ImageServer, slow, status
from tests.layers import picture, write_map

SIDE = 5
ALL = tuple((x, y) for y in range(SIDE) for x in range(SIDE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map", MercatorGrid(zoom=5), ALL)


def config(server: ImageServer, *names: str, **more: object) -> AppConfig:
    stated = server.config("base64")
    models = [
        {"model_id": name, "name": name.title(), "endpoint": stated.url, "context": "none", **more}
        for name in names or ("negative",)
    ]
    return app_config_from({"models": models}, Path("app_config.json"), {})


@contextmanager
def working(folder: Path, models: AppConfig) -> Iterator[GenerationQueue]:
    lanes = Lanes(folder, models, {}, NumpyPainter())
    lanes.start()
    try:
        with GenerationQueue(folder) as queue:
            yield queue
    finally:
        lanes.close()


def until(
    queue: GenerationQueue, holds: Callable[[list[Listed]], bool], within_s: float = 20
) -> list[Listed]:
    deadline = time.monotonic() + within_s
    while True:
        listed = queue.listed()[1]
        if holds(listed):
            return listed
        assert time.monotonic() < deadline, [
            (one.item.id, one.item.status, one.item.error_message) for one in listed
        ]
        time.sleep(0.02)


def finished(listed: list[Listed]) -> bool:
    return all(one.item.status in ("complete", "error", "cancelled") for one in listed)


def generations(folder: Path) -> dict[tuple[int, int], bytes]:
    with QuadrantStore(folder) as store:
        found = {(x, y): store.image("generation", x, y) for x, y in store.coordinates("generation").tolist()}
    return {one: data for one, data in found.items() if data is not None}


def test_a_rectangle_is_drawn_as_layers_are_each_quadrant_once_and_every_pixel_as_the_model_paints_it(
    folder: Path,
) -> None:
    with ImageServer() as server, working(folder, config(server)) as queue:
        with QuadrantStore(folder) as store:
            queued = wish(queue, store, config(server), Wish(quadrants=ALL))
        listed = until(queue, finished)
        assert {one.item.status for one in listed} == {"complete"}
        assert sorted(quadrant for one in listed for quadrant in one.item.quadrants) == sorted(ALL)
        assert len(server.seen) == len(queued.items)
    for (x, y), data in generations(folder).items():
        assert np.array_equal(decoded(data, "it"), 255 - picture(x, y))


def test_models_work_in_parallel_and_each_at_one_picture(folder: Path) -> None:
    with ImageServer() as server:
        server.fail(slow(0.3), times=8)
        models = config(server, "one", "two")
        with working(folder, models) as queue:
            for x, name in ((0, "one"), (2, "one"), (0, "two"), (2, "two")):
                y = 0 if name == "one" else 3
                queue.add([NewItem(item_type="generate", quadrants=((x, y),), model_id=name)])
            most: dict[str, int] = {}

            def watched(listed: list[Listed]) -> bool:
                now = [one.item.model_id for one in listed if one.item.status == "processing"]
                most["all"] = max(most.get("all", 0), len(now))
                most["each"] = max(most.get("each", 0), *(now.count(name) for name in ("one", "two")), 0)
                return finished(listed)

            until(queue, watched)
    assert most == {"all": 2, "each": 1}


def test_what_may_pass_is_tried_again_and_what_cannot_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layer_generation.web.lanes._FIRST_WAIT_S", 0.05)
    with ImageServer() as server, working(folder, config(server)) as queue:
        server.fail(status(500), times=2)
        queue.add([NewItem(item_type="generate", quadrants=((0, 0),), model_id="negative")])
        (first,) = until(queue, finished)
        assert (first.item.status, first.item.attempts, len(server.seen)) == ("complete", 3, 3)
        server.fail(status(400), times=1)
        queue.add([NewItem(item_type="generate", quadrants=((2, 0),), model_id="negative")])
        second = until(queue, finished)[1]
        assert (second.item.status, second.item.attempts, len(server.seen)) == ("error", 1, 4)


def test_a_failed_step_holds_back_its_dependants_and_a_retry_releases_them(folder: Path) -> None:
    with ImageServer() as server, working(folder, config(server)) as queue:
        server.fail(status(400), times=1)
        first, second, third = queue.add(
            [
                NewItem(item_type="generate", quadrants=((0, 0),), model_id="negative"),
                NewItem(item_type="generate", quadrants=((1, 0),), model_id="negative", waits_for=(-1,)),
                NewItem(item_type="generate", quadrants=((4, 4),), model_id="negative"),
            ]
        )
        until(queue, lambda listed: listed[2].item.status == "complete")
        assert queue.get(first).item.status == "error"
        assert queue.get(second).held
        queue.retry(first)
        until(queue, finished)
        assert queue.get(second).item.status == "complete"
        assert queue.get(third).item.status == "complete"


def test_cancelling_ends_the_call_and_stores_nothing(folder: Path) -> None:
    with ImageServer() as server, working(folder, config(server)) as queue:
        server.fail(HANG, times=1)
        queue.add([NewItem(item_type="generate", quadrants=((0, 0),), model_id="negative")])
        until(queue, lambda listed: listed[0].item.status == "processing" and bool(server.seen))
        queue.cancel(1)
        queue.add([NewItem(item_type="generate", quadrants=((2, 2),), model_id="negative")])
        until(queue, finished)
        assert [one.item.status for one in queue.listed()[1]] == ["cancelled", "complete"]
    assert list(generations(folder)) == [(2, 2)]


def test_reasons_that_come_up_meanwhile_are_told_and_the_lane_goes_on(folder: Path) -> None:
    with QuadrantStore(folder) as store:
        store.put("render", [(0, 0, None)])
        store.put("generation", [(1, 1, store.image("render", 1, 1))])
        store.put("render", [(2, 2, b"no picture")])
    with ImageServer() as server, working(folder, config(server)) as queue:
        foreign = sqlite3.connect(queue.path)
        for quadrants in ("[[0,0]]", "[[1,1]]", "[[2,2]]", "[[70,70]]", "[[4,0]]"):
            foreign.execute("INSERT INTO generation_queue (quadrants) VALUES (?)", (quadrants,))
        foreign.commit()
        foreign.close()
        listed = until(queue, lambda found: finished(found) and len(found) == 5, 60)
    told = [one.item.error_message for one in listed]
    assert "no render" in told[0]
    assert "generation already" in told[1]
    assert "does not decode" in told[2]
    assert "no such quadrant" in told[3]
    assert listed[4].item.status == "complete"


def test_an_app_that_is_killed_loses_no_picture_and_pays_for_none_twice(folder: Path, tmp_path: Path) -> None:
    """SIGKILL at many moments: calls = items + calls under way at the kills; pictures as from one run."""
    with ImageServer() as server:
        server.fail(slow(0.02), times=1000)
        stated = server.config("base64")
        (folder / "app_config.json").write_text(
            json.dumps(
                {"models": [{"model_id": "negative", "name": "N", "endpoint": stated.url, "context": "none"}]}
            ),
            encoding="utf-8",
        )
        models = read_app_config(None, folder, {})
        with GenerationQueue(folder) as queue, QuadrantStore(folder) as store:
            wish(queue, store, models, Wish(quadrants=ALL))
        kills = 0
        for pause_s in (0.05, 0.17, 0.0):
            with _app(folder) as process:
                assert process.stdout is not None
                process.stdout.readline()
                time.sleep(pause_s)
                process.kill()
                kills += 1
        with _app(folder) as process, GenerationQueue(folder) as queue:
            listed = until(queue, finished, 60)
            process.terminate()
            assert process.wait(20) == 0
        assert {one.item.status for one in listed} == {"complete"}
        assert len(listed) <= len(server.seen) <= len(listed) + kills
    for (x, y), data in generations(folder).items():
        assert np.array_equal(decoded(data, "it"), 255 - picture(x, y))
    assert not list(folder.glob(".fusi-received/*"))


@contextmanager
def _app(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "fusi_pipeline.cli", "app", str(folder), "--port", "auto"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_choice_is_planned_once_each_after_its_neighbours(data: st.DataObject) -> None:
    places = st.sets(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), max_size=40)
    wanted, others = data.draw(places), data.draw(places) - set()
    finished_, queued = set(), set()
    for number, quadrant in enumerate(sorted(others - wanted)):
        (finished_ if number % 2 else queued).add(quadrant)
    planned = pictures(wanted, finished_, queued)
    drawn = [quadrant for one in planned for quadrant in one.quadrants]
    assert sorted(drawn) == sorted(wanted)
    owner = {quadrant: number for number, one in enumerate(planned) for quadrant in one.quadrants}
    before: list[set[int]] = []
    for number, one in enumerate(planned):
        assert all(other < number for other in one.waits_for)
        before.append(set(one.waits_for).union(*(before[other] for other in one.waits_for)))
        beside = {
            (x + right, y + down)
            for x, y in one.quadrants
            for right, down in ((1, 0), (-1, 0), (0, 1), (0, -1))
        }
        for quadrant in beside & queued:
            assert quadrant in one.after
        for quadrant in beside & set(owner):
            other = owner[quadrant]
            assert other >= number or other in before[number]
        if len(one.quadrants) == 4 and not one.reason:
            assert not beside & (finished_ | queued)


def test_wishes_that_cannot_be_done_say_why(folder: Path, tmp_path: Path) -> None:
    models = read_app_config(None, folder, {})
    with GenerationQueue(folder) as queue, QuadrantStore(folder) as store:
        with pytest.raises(ItemInvalid, match="expected one of pixelart-summer"):
            wish(queue, store, models, Wish(quadrants=((0, 0),), model_id="gone"))
        with pytest.raises(ItemInvalid, match="no such quadrant"):
            wish(queue, store, models, Wish(quadrants=((99, 0),)))
        wish(queue, store, models, Wish(quadrants=((0, 0),)))
        with pytest.raises(ItemInvalid, match="in the queue already"):
            wish(queue, store, models, Wish(quadrants=((0, 0),)))
        beside = wish(queue, store, models, Wish(quadrants=((1, 0),)))
        assert queue.get(beside.items[0]).waits_for == (1,)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "expected a JSON object"),
        ({}, "models: expected a list"),
        ({"models": [{}]}, "model_id = None"),
        ({"models": [{"model_id": "a", "name": ""}]}, "name: expected"),
        ({"models": [{"model_id": "a", "name": "A"}]}, "endpoint: expected the address"),
        ({"models": [{"model_id": "a", "name": "A", "endpoint_env": "WHERE"}]}, "variable WHERE"),
        ({"models": [{"model_id": "render", "name": "A"}]}, "not render"),
        ({"models": [{"model_id": "a", "name": "A", "endpoint": "http://h", "api_key": "s"}]}, "api_key_env"),
        ({"models": [{"model_id": "a", "name": "A", "endpoint": "http://h", "colour": 1}]}, "'colour'"),
        ({"models": [{"model_id": "a", "name": "A", "endpoint": "ftp://h"}]}, "http://"),
        ({"models": [{"model_id": "a", "name": "A", "endpoint": "http://h", "model_type": "oxen"}]}, "oxen"),
        ({"models": [{"model_id": "a", "name": "A", "endpoint": "http://h"}] * 2}, "twice"),
        (
            {"models": [{"model_id": "a", "name": "A", "endpoint": "http://h"}], "default_model_id": "b"},
            "default_model_id = 'b'",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_by_name(document: object, said: str) -> None:
    with pytest.raises(AppConfigInvalid) as refused:
        app_config_from(document, Path("app_config.json"), {})
    assert said in str(refused.value)
    assert str(refused.value).startswith("app_config.json: ")


def test_words_of_known_configurations_are_understood() -> None:
    stated = {
        "models": [
            {"model_id": "m", "name": "M", "model_type": "url", "endpoint_env": "WHERE", "use_base64": False,
             "num_inference_steps": 14, "prompt": "p", "api_key_env": "KEY"},
        ]
    }  # fmt: skip
    (model,) = app_config_from(stated, Path("c"), {"WHERE": "http://127.0.0.1:9/edit"}).models
    assert (model.endpoint.url, model.endpoint.protocol) == ("http://127.0.0.1:9/edit", "multipart")
    assert model.parameters == {"steps": 14}
    assert "KEY" in model.reason({}, Path())
    assert model.reason({"KEY": "k"}, Path()) == ""
    assert "http" not in json.dumps(model.public(""))


def test_a_parameter_of_a_model_that_cannot_be_is_named() -> None:
    stated = {
        "models": [
            {"model_id": "m", "name": "M", "endpoint": "builtin:pixelart", "parameters": {"strength": -1}}
        ]
    }
    with pytest.raises(AppConfigInvalid, match=r"strength = -1: expected a number from 0"):
        app_config_from(stated, Path("c"), {})
