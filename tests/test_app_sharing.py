"""One map, one queue, several who use it: apps with models of their own, the same thing wanted twice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from layer_generation.camera import MercatorGrid
from layer_generation.errors import ItemInvalid, ItemSettled
from layer_generation.map_making import new_store
from layer_generation.owners import own_name
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import Item, NewItem
from layer_generation.web.lanes import Lanes, checked
from layer_generation.web.models import AppConfig, app_config_from
from layer_generation.web.opening import opened
from layer_generation.web.painters import NumpyPainter
from layer_generation.web.wishes import Wish, wish, wish_renders
from tests.command import Fusi, fusi  # noqa: F401 - a fixture
from tests.layers import write_map

ALL = tuple((x, y) for y in range(4) for x in range(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map", MercatorGrid(zoom=5), ALL)


def config(*names: str) -> AppConfig:
    models = [{"model_id": name, "name": name, "endpoint": "builtin:pixelart"} for name in names]
    return app_config_from({"models": models}, Path("app_config.json"), {})


def row_of_another_program(queue: GenerationQueue, model_id: str) -> int:
    connection = sqlite3.connect(queue.path)
    number = connection.execute(
        "INSERT INTO generation_queue (quadrants, model_id) VALUES ('[[0,0]]', ?)", (model_id,)
    ).lastrowid
    connection.commit()
    connection.close()
    assert number is not None
    return number


def end_of(queue: GenerationQueue, number: int) -> tuple[str, str]:
    item = queue.get(number).item
    return item.status, item.error_message


def test_a_row_of_a_model_of_another_app_is_left_to_that_app(folder: Path) -> None:
    mine, other = config("mine"), config("theirs")
    with GenerationQueue(folder) as queue:
        queue.offer(f"{own_name()}:1", ["mine", "render"])
        queue.offer(f"{own_name()}:2", ["theirs", "render"])
        number = row_of_another_program(queue, "theirs")
        nonsense = row_of_another_program(queue, "nobody's")
        assert queue.screen(checked(mine, queue.models_of_others)) == 2
        assert queue.get(number).item.status == "pending"
        assert end_of(queue, nonsense) == ("error", 'model_id = "nobody\'s": expected one of mine')
        assert queue.claim("mine", "w", 60) is None
        assert queue.screen(checked(other, queue.models_of_others)) == 0
        claimed = queue.claim("theirs", "w", 60)
        assert claimed is not None
        assert claimed.id == number


def test_a_lane_is_no_model_whatever_a_row_says(folder: Path) -> None:
    with GenerationQueue(folder) as queue:
        queue.offer(f"{own_name()}:1", ["mine", "render"])
        number = row_of_another_program(queue, "render")
        queue.screen(checked(config("mine"), queue.models_of_others))
        assert queue.get(number).item.status == "error"


def test_a_row_waits_for_an_app_that_ended_and_pages_say_so(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        host, _, started = own_name().split(":")
        with GenerationQueue(folder) as queue:
            gone = f"{host}:{process.pid}:{started}:x"  # of that number, but another start
            queue.offer(gone, ["theirs", "render"])
            assert queue.lanes_worked_at() == frozenset()
            queue.offer(f"{own_name()}:y", ["mine", "render"])
            assert queue.models_of_others() == {"mine", "theirs"}
            assert queue.lanes_worked_at() == {"mine", "render"}
        process.communicate(b"\n")
    document = '{"models": [{"model_id": "mine", "name": "Mine", "endpoint": "builtin:pixelart"}]}'
    (folder / "app_config.json").write_text(document, encoding="utf-8")
    site = opened(folder, environment={}, generates=False)
    with GenerationQueue(folder) as queue:
        row_of_another_program(queue, "theirs")
        queue.screen(checked(config("mine"), queue.models_of_others))
        lanes = site.desk.lanes_json({"theirs": 1}, {}, queue.lanes_worked_at())
        queue.withdraw(f"{own_name()}:y")
        assert queue.lanes_worked_at() == frozenset()
    site.desk.close()
    assert [(one["lane"], one["paused"]) for one in lanes] == [
        ("mine", None),
        ("render", None),
        ("theirs", "no app that runs now draws with it"),
    ]


def test_two_apps_with_models_of_their_own_draw_each_its_rows(folder: Path) -> None:
    apps = [Lanes(folder, config(name), {}, NumpyPainter()) for name in ("one", "two")]
    for app in apps:
        app.start()
    try:
        with GenerationQueue(folder) as queue:
            numbers = [
                queue.add([NewItem(item_type="generate", quadrants=((x, 0),), model_id=name)])[0]
                for x, name in ((0, "two"), (1, "one"), (2, "two"), (3, "one"))
            ]
            _wait(queue, numbers)
            assert [end_of(queue, number)[0] for number in numbers] == ["complete"] * 4
    finally:
        for app in apps:
            app.close()


def _wait(queue: GenerationQueue, numbers: Sequence[int]) -> None:
    deadline = time.monotonic() + 60
    while any(queue.get(number).item.status in ("pending", "processing") for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_no_render_is_queued_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with GenerationQueue(folder) as queue, GenerationQueue(folder) as other, QuadrantStore(folder) as store:
        assert wish_renders(queue, store, ALL[:4], overwrite=True).items == (1,)
        with pytest.raises(ItemInvalid, match="is in the queue already"):
            wish_renders(queue, store, ALL[:2], overwrite=True)
        assert wish_renders(queue, store, ALL[:6], overwrite=True).skipped == ALL[:4]
        assert [one.quadrants for one in queue.active()] == [ALL[:4], ALL[4:6]]
        active, times = queue.active, [1]

        def overtaken() -> list[Item]:
            found = active()
            if times and times.pop():
                wish_renders(other, store, ALL[6:8], overwrite=True)
            return found

        monkeypatch.setattr(queue, "active", overtaken)
        assert wish_renders(queue, store, ALL[6:9], overwrite=True).skipped == ALL[6:8]
        drawn = [place for item in active() for place in item.quadrants]
        assert sorted(drawn) == sorted(ALL[:9])


def test_a_render_that_would_keep_what_is_there_is_not_the_one_that_draws_it_anew(folder: Path) -> None:
    with GenerationQueue(folder) as queue, QuadrantStore(folder) as store:
        store.put("render", [(0, 0, None)])
        queue.add([NewItem(item_type="render", quadrants=((0, 0), (1, 0)))])
        queued = wish_renders(queue, store, [(0, 0), (1, 0)], overwrite=True)
        assert queued.skipped == ((0, 0),)
        assert queue.get(queued.items[0]).item.quadrants == ((1, 0),)


def test_a_generation_waits_for_its_render_and_one_that_is_missing_is_queued_before(tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    with new_store(folder, MercatorGrid(zoom=5), {}) as store:
        store.add(ALL)
        with GenerationQueue(folder) as queue:
            wish_renders(queue, store, [(0, 0)], overwrite=True)
            wanted = Wish(quadrants=((0, 0), (1, 0)), renders_missing=True)
            queued = wish(queue, store, config("mine"), wanted)
            listed = {one.item.id: one for one in queue.of(queued.items)[1]}
            assert [(one.item.item_type, one.item.quadrants) for one in listed.values()] == [
                ("render", ((1, 0),)),
                ("generate", ((0, 0), (1, 0))),
            ]
            assert listed[3].waits_for == (1, 2)
            alone = wish(queue, store, config("mine"), Wish(quadrants=((3, 3),)))
            assert queue.get(alone.items[0]).waits_for == ()


def test_a_retry_draws_nothing_that_another_item_draws_by_now(folder: Path) -> None:
    with GenerationQueue(folder) as queue:
        first, second, third = queue.add(
            [NewItem(item_type="generate", quadrants=((x, 0),), model_id="mine") for x in (0, 0, 1)]
        )
        for number in (first, second, third):
            queue.cancel(number)
        queue.retry(second)
        with pytest.raises(ItemSettled, match="item 2 draws what item 1 would"):
            queue.retry(first)
        queue.retry(third)
        queue.screen(checked(config("mine")))
        assert queue.claim("mine", "w", 60) is not None
        queue.fail(second, "w", "no")
        queue.retry(first)
        assert queue.retry_failed() == 0
        queue.cancel(first)
        assert queue.retry_failed() == 1


def test_the_command_queues_missing_renders_too_and_nothing_twice(tmp_path: Path, fusi: Fusi) -> None:  # noqa: F811
    folder = tmp_path / "bare"
    with new_store(folder, MercatorGrid(zoom=5), {}) as store:
        store.add(ALL)
    first = fusi("app", "enqueue", folder, "--box", "0,0,1,1", "--json")
    assert (first.code, first.json["items"], first.json["skipped"]) == (0, [1, 2], [])
    again = fusi("app", "enqueue", folder, "--box", "0,0,1,1")
    assert again.code == 2
    assert "is in the queue already" in again.err
    renders = fusi("app", "enqueue", folder, "--box", "0,0,2,1", "--render", "--json")
    assert (len(renders.json["items"]), len(renders.json["skipped"])) == (1, 4)
    unknown = fusi("app", "enqueue", folder, "--quadrants", "3,3", "--model", "nobody")
    assert unknown.code != 0
    assert "model_id = 'nobody': expected one of" in unknown.err
