"""The generation app against what nobody means to do: rows of any content, races, servers that are away."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from layer_generation.camera import MercatorGrid
from layer_generation.errors import AppConfigInvalid, ItemInvalid
from layer_generation.owners import is_gone, own_name
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.answers import listed_json
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import Item, NewItem
from layer_generation.web.lanes import Lanes, checked
from layer_generation.web.models import AppConfig, app_config_from, read_app_config
from layer_generation.web.painters import NumpyPainter
from layer_generation.web.wishes import Wish, wish
from tests.image_server import ImageServer, status
from tests.layers import write_map

ALL = tuple((x, y) for y in range(4) for x in range(4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map", MercatorGrid(zoom=5), ALL)


def config(*addresses: str, **more: object) -> AppConfig:
    models = [
        {"model_id": f"m{number}", "name": "M", "endpoint": address, "context": "none", **more}
        for number, address in enumerate(addresses or ("builtin:pixelart",))
    ]
    return app_config_from({"models": models}, Path("app_config.json"), {})


def new(x: int = 0, waits_for: tuple[int, ...] = ()) -> NewItem:
    return NewItem(item_type="generate", quadrants=((x, 0),), model_id="m0", waits_for=waits_for)


def ended(queue: GenerationQueue, number: int, within_s: float = 20) -> Item:
    deadline = time.monotonic() + within_s
    while (item := queue.get(number).item).status not in ("complete", "error"):
        assert time.monotonic() < deadline, item
        time.sleep(0.02)
    return item


def test_tidying_up_leaves_what_something_waits_for(folder: Path) -> None:
    with GenerationQueue(folder) as queue:
        failed, held, lone, gone, after = queue.add([new(0), new(1, (-1,)), new(2), new(3), new(0, (-4,))])
        queue.screen(checked(config()))
        assert queue.claim("m0", "w", 60) is not None
        queue.fail(failed, "w", "no")
        queue.cancel(gone)
        queue.cancel(lone)
        assert queue.remove_finished() == 1
        assert {one.item.id: (one.item.status, one.held) for one in queue.listed()[1]} == {
            failed: ("error", False),
            held: ("pending", True),
            gone: ("cancelled", False),
            after: ("pending", True),
        }


def test_two_wishes_at_once_draw_no_quadrant_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = config()
    with GenerationQueue(folder) as queue, GenerationQueue(folder) as other, QuadrantStore(folder) as store:
        active, times = queue.active, [1]

        def overtaken() -> list[Item]:
            found = active()
            if times and times.pop():
                wish(other, store, models, Wish(quadrants=((0, 0), (1, 0))))
            return found

        monkeypatch.setattr(queue, "active", overtaken)
        queued = wish(queue, store, models, Wish(quadrants=ALL, regenerate=True))
        assert set(queued.skipped) == {(0, 0), (1, 0)}
        drawn = [one for item in active() for one in item.quadrants]
        assert sorted(drawn) == sorted(ALL)
        monkeypatch.setattr(queue, "active", list)
        with pytest.raises(ItemInvalid, match="try again"):
            wish(queue, store, models, Wish(quadrants=ALL))


HOSTILE = (
    ("prompt", "CAST(x'ff41' AS TEXT)"),
    ("quadrants", "CAST(x'ff' AS TEXT)"),
    ("quadrants", "'[]'"),
    ("lost", "'many'"),
    ("lost", "9e999"),
    ("attempts", "'many'"),
    ("attempts", str(2**63 - 1)),
    ("not_before", "'later'"),
    ("not_before", "9e999"),
    ("created_at", "9e999"),
    ("created_at", "x'00'"),
    ("started_at", "'noon'"),
    ("seed", "'seven'"),
    ("seed", "9e999"),
    ("parameters", "'{\"steps\": NaN}'"),
    ("parameters", '\'{"max_drift": "x"}\''),
    ("parameters", "'{\"steps\": true}'"),
    ("parameters", "'{\"strength\": -1}'"),
    ("parameters", '\'{"words": "\\ud800"}\''),
    ("model_id", "CAST(x'ff' AS TEXT)"),
)


@pytest.mark.parametrize("lane", ["NULL", "'m0'"])
def test_a_row_with_anything_in_any_column_is_marked_and_stops_nothing(folder: Path, lane: str) -> None:
    foreign = sqlite3.connect(folder / "generation_queue.db", isolation_level=None)
    with GenerationQueue(folder) as queue:
        for column, value in HOSTILE:
            names, values = ("quadrants", "'[[3,3]]'") if column != "quadrants" else ("model_id", "'m0'")
            foreign.execute(
                f"INSERT INTO generation_queue ({names}, {column}, lane, status, worker, lease_until)"
                f" VALUES ({values}, {value}, {lane}, 'processing', 'elsewhere:1:1', 9e999)"
            )
        progress = '\'{"stage": "\\ud800", "percentage": NaN}\''
        foreign.execute(
            "INSERT INTO generation_queue (quadrants, lane, status, worker, lease_until, progress)"
            f" VALUES ('[[0,0]]', {lane}, 'processing', 'elsewhere:1:1', 4e12, {progress})"
        )
        for one in queue.listed()[1]:
            assert one.item.progress is None
        queue.screen(checked(config()))
        rows = queue.listed()[1]
        assert {one.item.status for one in rows[: len(HOSTILE)]} == {"error"}
        assert all(one.item.error_message and listed_json(one) for one in rows[:-1])
        assert rows[-1].item.status == "pending"
        item = queue.claim("m0", "w", 60)
        assert item is not None
        assert item.quadrants == ((0, 0),)
        foreign.execute(
            "UPDATE generation_queue SET lost = 'x', lease_until = 4e12 WHERE status = 'processing'"
        )
        assert queue.recover() == 1
    foreign.close()


def test_the_largest_id_of_sqlite_ends_no_queue(folder: Path) -> None:
    with GenerationQueue(folder) as queue:
        queue.add([new()])
        with sqlite3.connect(queue.path) as foreign:
            foreign.execute(f"INSERT INTO generation_queue (id, quadrants) VALUES ({2**63 - 1}, '[[0,0]]')")
        foreign.close()
        assert queue.add([new()]) == (3,)
        assert "leave the id to the queue" in queue.get(2).item.error_message


def test_what_waits_for_itself_fails_and_the_rest_goes_on(folder: Path) -> None:
    with GenerationQueue(folder) as queue:
        first, second, after, free = queue.add([new(0), new(1, (-1,)), new(2, (-2,)), new(3)])
        with sqlite3.connect(queue.path) as foreign:
            foreign.execute("INSERT INTO queue_edges VALUES (?, ?)", (first, second))
        foreign.close()
        assert queue.break_cycles() == 2
        assert [one.item.status for one in queue.listed()[1]] == ["error", "error", "pending", "pending"]
        assert queue.get(first).item.error_message.startswith("waits for itself")
        assert (queue.get(after).held, queue.get(free).held) == (True, False)


def test_a_lane_outlives_whatever_is_raised_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layer_generation.web.lanes._FIRST_WAIT_S", 0.01)
    screen, times = GenerationQueue.screen, [1, 1]

    def broken(self: GenerationQueue, check: object) -> int:
        if times:
            times.pop()
            raise ValueError("a fault")
        return screen(self, check)  # type: ignore[arg-type]

    monkeypatch.setattr(GenerationQueue, "screen", broken)
    said: list[str] = []
    lanes = Lanes(folder, config(), {}, NumpyPainter(), said.append)
    lanes.start()
    with GenerationQueue(folder) as queue:
        (number,) = queue.add([new()])
        assert ended(queue, number).status == "complete"
    lanes.close()
    assert any("a fault" in line for line in said)


def test_a_model_that_cannot_be_used_burns_no_item_and_its_lane_says_why(folder: Path) -> None:
    with ImageServer() as server:
        models = config(server.config("base64").url, server.config("base64").url, api_key_env="NO_SUCH_KEY")
        lanes = Lanes(folder, models, {}, NumpyPainter())
        lanes.start()
        with GenerationQueue(folder) as queue:
            queue.add([new(0), new(1)])
            while lanes.paused("m0") is None:
                time.sleep(0.02)
            assert "NO_SUCH_KEY" in str(lanes.paused("m0"))
            assert lanes.paused("m1") is None
            time.sleep(0.1)
            assert {(one.item.status, one.item.attempts) for one in queue.listed()[1]} == {("pending", 0)}
        lanes.close()


def test_a_wish_wakes_a_lane_that_rests(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layer_generation.web.lanes._FIRST_WAIT_S", 600.0)
    monkeypatch.setattr("layer_generation.web.lanes._LONGEST_REST_S", 600.0)
    with ImageServer() as server:
        server.fail(status(403), times=1)
        url = server.config("base64").url
        lanes = Lanes(folder, config(url), {}, NumpyPainter())
        lanes.start()
        with GenerationQueue(folder) as queue:
            (first,) = queue.add([new(0)])
            while (reason := lanes.paused("m0")) is None:
                time.sleep(0.02)
            assert url not in reason
            (second,) = queue.add([new(1)])
            assert {ended(queue, number).status for number in (first, second)} == {"complete"}
            assert lanes.paused("m0") is None
        lanes.close()


def test_names_of_workers_may_be_anything() -> None:
    host = own_name().split(":")[0]
    for name in (f"{host}:²:1", f"{host}:{'9' * 5000}:1", f"{host}:-1:1", "", "::", f"{host}::"):
        assert is_gone(name) is False


@pytest.mark.parametrize(
    "stated",
    [
        '{"parameters": {"strength": NaN}}',
        '{"parameters": {"strength": 1e999}}',
        '{"prompt": "\\ud800"}',
        '{"parameters": {"more": {"api_key": "sesame"}}}',
        '{"endpoint": "http://host/\\nevil"}',
    ],
)
def test_a_configuration_of_numbers_that_are_none_or_secrets_is_refused(tmp_path: Path, stated: str) -> None:
    path = tmp_path / "app_config.json"
    own = '{"model_id": "a", "name": "A", "endpoint": "http://127.0.0.1:1/", '
    path.write_text('{"models": [' + own + stated[1:] + "]}", encoding="utf-8-sig")
    with pytest.raises(AppConfigInvalid) as refused:
        read_app_config(path, tmp_path, {})
    assert "sesame" not in str(refused.value)
    path.write_text('{"models": [' + own.rstrip(", ") + "}]}", encoding="utf-8-sig")
    assert read_app_config(path, tmp_path, {}).default_model_id == "a"


def test_only_what_changed_is_told_and_what_waits_for_it(folder: Path) -> None:
    with GenerationQueue(folder) as queue:
        first, after, *_ = queue.add([new(0), new(1, (-1,)), *(new(2) for _ in range(20))])
        queue.screen(checked(config()))
        revision = queue.revision
        queue.cancel(first)
        _, changed, removed = queue.changed_since(revision)
        assert ([one.item.id for one in changed], removed) == ([first, after], [])
        assert queue.retry_failed() == 0
