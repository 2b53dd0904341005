"""What each path of the generation app answers: statuses, errors, who may ask, tiles, edits, events."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from layer_generation.camera import MercatorGrid
from layer_generation.listening import listen, url_of
from layer_generation.pictures import decoded, png
from layer_generation.quadrants import QuadrantStore
from layer_generation.web import editing, events
from layer_generation.web.app import application
from layer_generation.web.desk import Desk
from layer_generation.web.events import Cursor
from layer_generation.web.items import NewItem
from layer_generation.web.opening import opened
from layer_generation.web.overviews import NotYet, Stamps
from layer_generation.web.page import boot
from layer_generation.web.painters import _sentence
from layer_generation.web.server import Server
from tests.layers import picture, write_map

SIDE = 4
ALL = [[x, y] for y in range(-1, SIDE - 1) for x in range(-1, SIDE - 1)]
HOSTILE = """O'Brien "the </script><script>alert(1)</script> & <!-- \u2028"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    folder = write_map(tmp_path / "map", MercatorGrid(zoom=5), [(x, y) for x, y in ALL])
    document = {
        "models": [
            {"model_id": "snow", "name": HOSTILE, "endpoint": "builtin:pixelart", "prompt": "snow"},
            {"model_id": "far", "name": "Far", "endpoint": "http://127.0.0.1:9/x", "api_key_env": "FAR_KEY"},
        ]
    }
    (folder / "app_config.json").write_text(json.dumps(document), encoding="utf-8")
    site = opened(folder, environment={}, generates=False)
    yield site.desk
    site.desk.close()


@contextmanager
def served(desk: Desk, token: str = "") -> Iterator[httpx.Client]:
    """Serve an app on a free port, as the command does, but for the lanes."""
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = Server(application(desk, token=token), desk, ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        with httpx.Client(base_url=url_of(listener), timeout=30, follow_redirects=True) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@pytest.fixture
def client(desk: Desk) -> Iterator[httpx.Client]:
    with served(desk) as opened_:
        yield opened_


def error_of(answer: httpx.Response) -> tuple[int, str]:
    document = answer.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"code", "message"}
    return answer.status_code, document["error"]["code"]


def test_the_page_is_told_of_models_without_keys_or_addresses(client: httpx.Client) -> None:
    facts = client.get("/api/config").json()
    assert facts["map"]["bounds"] == [-1, -1, 2, 2]
    assert [(one["model_id"], one["ready"]) for one in facts["models"]] == [("snow", True), ("far", False)]
    assert "FAR_KEY" in facts["models"][1]["reason"]
    assert "127.0.0.1:9" not in json.dumps(facts)


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner)))
def test_nothing_in_the_bootstrap_can_end_it(value: Any) -> None:
    text = boot({"it": value, "name": HOSTILE})
    inside = text.removeprefix('<script type="application/json" id="boot">').removesuffix("</script>")
    assert not set(inside) & set("<>&'")
    assert json.loads(inside) == {"it": value, "name": HOSTILE}


def test_generate_plans_queues_and_refuses_by_name(client: httpx.Client) -> None:
    answer = client.post("/api/generate", json={"quadrants": [[0, 0], [1, 0], [0, 1], [1, 1]]})
    assert answer.status_code == 202
    (item,) = answer.json()["items"]
    assert (item["status"], item["model_id"], item["position"]) == ("pending", "snow", 1)
    rest = client.post("/api/generate", json={"top_left": [-1, -1], "bottom_right": [2, 2], "seed": 7})
    assert rest.status_code == 202
    quadrants = [quadrant for one in rest.json()["items"] for quadrant in one["quadrants"]]
    assert sorted(quadrants + item["quadrants"]) == sorted(ALL)
    assert all(item["id"] in one["waits_for"] for one in rest.json()["items"][:1])
    for body in (
        {"quadrants": [[0, 0]]},
        {"quadrants": [[0, 0]], "model_id": "gone"},
        {"quadrants": []},
        {"quadrants": [[0, 0, 0]]},
        {"quadrants": [[0, 0.5]]},
        {"quadrants": [[True, 0]]},
        {"quadrants": "all"},
        {"quadrants": [[99, 99]]},
        {"top_left": [0, 0]},
        {"top_left": [0, 0], "bottom_right": [2**30, 2**30]},
        {"quadrants": [[0, 0]], "seed": -1},
        {"quadrants": [[0, 0]], "colour": "red"},
        {"quadrants": [[0, 0]], "regenerate": "yes"},
        {},
        [],
        None,
    ):
        assert error_of(client.post("/api/generate", json=body)) == (400, "INVALID_REQUEST"), body
    nonsense = client.post("/api/generate", content=b"{", headers={"content-type": "application/json"})
    assert error_of(nonsense) == (400, "INVALID_REQUEST")


def test_items_are_cancelled_retried_and_taken_off_with_the_right_statuses(client: httpx.Client) -> None:
    client.post("/api/generate", json={"quadrants": [[0, 0]]})
    assert client.post("/api/queue/1/cancel").json()["status"] == "cancelled"
    assert client.post("/api/queue/1/cancel").status_code == 200
    assert client.post("/api/queue/1/retry").json()["status"] == "pending"
    assert error_of(client.post("/api/queue/1/retry")) == (409, "CONFLICT")
    assert error_of(client.delete("/api/queue/1")) == (409, "CONFLICT")
    assert client.post("/api/queue/clear", json={}).json() == {"cancelled": 1, "removed": 0}
    assert client.delete("/api/queue/1").status_code == 204
    for answer in (
        client.get("/api/queue/1"),
        client.delete("/api/queue/1"),
        client.post("/api/queue/1/cancel"),
        client.get("/nothing"),
        client.get("/api/quadrants/99/99"),
        client.get("/pictures/generation/0/0.png"),
        client.get("/tiles/layer:none/0/0/0"),
    ):
        assert error_of(answer) == (404, "NOT_FOUND")
    assert error_of(client.put("/api/queue")) == (405, "METHOD_NOT_ALLOWED")


def test_only_pages_of_the_app_and_programs_may_change_anything(desk: Desk, client: httpx.Client) -> None:
    body = {"quadrants": [[0, 0]], "flag": "flagged"}
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        assert error_of(client.post("/api/flag", json=body, headers=headers)) == (403, "FORBIDDEN")
    assert error_of(client.get("/api/queue", headers={"host": "evil.example"}))[0] == 421
    own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert client.post("/api/flag", json=body, headers=own).json() == {"changed": 1}
    plain = client.post("/api/flag", content=json.dumps(body), headers={"content-type": "text/plain"})
    assert plain.status_code == 400
    with served(desk, "secret") as guarded:
        assert error_of(guarded.get("/api/queue")) == (401, "UNAUTHORIZED")
        assert guarded.get("/health").status_code == 200
        assert guarded.get("/api/queue", headers={"authorization": "Bearer secret"}).status_code == 200
        assert guarded.get("/?token=wrong").status_code == 401
        assert guarded.get("/?token=secret").status_code == 200
        assert guarded.get("/api/queue").status_code == 200


def test_tiles_show_the_stored_pictures_at_every_level_and_follow_changes(
    desk: Desk, client: httpx.Client
) -> None:
    stored = client.get("/tiles/render/0/-1/-1")
    assert stored.content == png(picture(-1, -1))
    tag = stored.headers["etag"]
    assert client.get("/tiles/render/0/-1/-1", headers={"if-none-match": tag}).status_code == 304
    assert client.get("/tiles/generation/0/0/0").status_code == 204
    assert client.get("/tiles/render/1/77/77").status_code == 204

    def seen(level: int, x: int, y: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        with Image.open(io.BytesIO(client.get(f"/tiles/render/{level}/{x}/{y}").content)) as image:
            return np.asarray(image.convert("RGBA"))

    whole = seen(1, 0, 0).astype(int)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        part = whole[y * 256 : (y + 1) * 256, x * 256 : (x + 1) * 256]
        wanted = picture(x, y).reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
        assert np.abs(part[16:, 16:, :3] - wanted[16:, 16:]).mean() < 12
        assert (part[..., 3] == 255).all()
    top = seen(2, -1, -1)
    assert (top[:384, :384, 3] == 0).all()
    assert (top[384:, 384:, 3] == 255).all()
    with desk.store() as store:
        store.put("render", [(0, 0, png(np.zeros((512, 512, 3), np.uint8)))])
    assert seen(1, 0, 0)[:256, :256, :3].mean() < 2


@given(st.dictionaries(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), st.integers(1, 99), max_size=30))
def test_a_tile_knows_the_newest_and_the_number_of_its_quadrants(
    versions: dict[tuple[int, int], int],
) -> None:
    stamps = Stamps(versions)
    for level in range(8):
        side = 1 << level
        for x, y in {(column // side, row // side) for column, row in versions} | {(0, 0)}:
            inside = [v for (column, row), v in versions.items() if (column // side, row // side) == (x, y)]
            assert stamps.of(level, x, y) == (max(inside, default=0), len(inside))


def test_a_rectangle_goes_out_and_comes_back_the_same(desk: Desk, client: httpx.Client) -> None:
    query = {"top_left": "0,0", "bottom_right": "2,1", "layer": "render"}
    answer = client.get("/api/export", params=query)
    assert answer.headers["content-disposition"] == 'attachment; filename="render_0_0_2_1.png"'
    pixels = decoded(answer.content, "export")
    for x in range(3):
        for y in range(2):
            part = pixels[y * 512 : (y + 1) * 512, x * 512 : (x + 1) * 512]
            assert np.array_equal(part, picture(x, y))
    image = {"content-type": "image/png"}
    into = {"top_left": "-1,0", "layer": "generation"}
    assert client.post("/api/import", params=into, content=answer.content, headers=image).json() == {
        "written": 6
    }
    again = client.post("/api/import", params=into, content=answer.content, headers=image)
    assert error_of(again) == (409, "CONFLICT")
    over = client.post(
        "/api/import", params={**into, "overwrite": True}, content=answer.content, headers=image
    )
    assert over.json() == {"written": 6}
    assert client.get("/pictures/generation/-1/0.png").content == png(picture(0, 0))
    missing = client.get("/api/export", params={**query, "layer": "generation"})
    assert error_of(missing) == (409, "CONFLICT")
    partial = client.get("/api/export", params={**query, "layer": "generation", "missing": "transparent"})
    with Image.open(io.BytesIO(partial.content)) as seen:
        assert seen.mode == "RGBA"
    for content in (b"", b"no picture", png(np.zeros((100, 512, 3), np.uint8))):
        assert error_of(client.post("/api/import", params=into, content=content, headers=image))[0] == 400
    outside = client.post("/api/import", params={"top_left": "50,50"}, content=answer.content, headers=image)
    assert error_of(outside) == (400, "INVALID_REQUEST")
    assert error_of(client.get("/api/export", params={**query, "bottom_right": "900,900"}))[0] == 400


def test_an_imported_picture_is_laid_over_what_is_there(desk: Desk, client: httpx.Client) -> None:
    """Transparent pixels leave what is there, half transparent ones mix with it."""
    with desk.store() as store:
        store.put("generation", [(x, 0, png(picture(x, 0))) for x in (0, 1)])
    over = np.zeros((512, 1536, 4), np.uint8)
    over[:, :] = (255, 255, 255, 0)
    over[:100, :100] = (9, 8, 7, 255)
    over[200:300, :100] = (200, 100, 0, 128)
    buffer = io.BytesIO()
    Image.fromarray(over, "RGBA").save(buffer, "PNG")
    image = {"content-type": "image/png"}
    into = {"top_left": "0,0", "overwrite": True}
    answer = client.post("/api/import", params=into, content=buffer.getvalue(), headers=image)
    assert answer.json() == {"written": 1}
    seen = decoded(client.get("/pictures/generation/0/0.png").content, "it")
    expected = picture(0, 0).copy()
    expected[:100, :100] = (9, 8, 7)
    mixed = expected[200:300, :100] * (1 - 128 / 255) + np.array((200, 100, 0)) * (128 / 255)
    expected[200:300, :100] = np.rint(mixed)
    assert np.abs(seen.astype(int) - expected).max() <= 1
    assert np.array_equal(seen[300:], expected[300:])
    assert client.get("/pictures/generation/1/0.png").content == png(picture(1, 0))
    nothing_there = client.post(
        "/api/import", params={**into, "top_left": "-1,1"}, content=buffer.getvalue(), headers=image
    )
    assert error_of(nothing_there) == (409, "CONFLICT")
    assert "(-1, 1): is partly transparent" in nothing_there.json()["error"]["message"]
    as_render = client.post(
        "/api/import",
        params={**into, "top_left": "-1,1", "layer": "render"},
        content=buffer.getvalue(),
        headers=image,
    )
    assert as_render.json() == {"written": 1}


def test_a_change_by_hand_is_made_again_where_somebody_draws_there_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    blue = png(np.full((512, 512, 3), (0, 0, 255), np.uint8))
    plain = editing._recolored
    drawn: list[bytes] = []

    def slowly(*given: Any) -> Any:
        if not drawn:
            drawn.append(blue)
            with desk.store() as other:
                other.put("generation", [(0, 0, blue)])
        return plain(*given)

    with desk.store() as store:
        store.put("generation", [(0, 0, png(np.zeros((512, 512, 3), np.uint8)))])
        monkeypatch.setattr(editing, "_recolored", slowly)
        assert editing.recolored(store, [(0, 0)], "#0000ff", "#00ff00", 0) == 1
        data = store.image("generation", 0, 0)
    assert data is not None
    assert (decoded(data, "it") == (0, 255, 0)).all()


def test_colours_are_filled_and_replaced_softly(desk: Desk, client: httpx.Client) -> None:
    assert client.post("/api/fill", json={"quadrants": [[0, 0]], "color": "#102030"}).json() == {"changed": 1}
    body = {"quadrants": [[0, 0], [1, 1]], "color": "#102030", "replacement": "#FF0000", "softness": 0}
    assert client.post("/api/replace-color", json=body).json() == {"changed": 1}
    pixels = decoded(client.get("/pictures/generation/0/0.png").content, "it")
    assert (pixels == (255, 0, 0)).all()
    near = {**body, "color": "#F00000", "replacement": "#000000", "softness": 10}
    client.post("/api/replace-color", json=near)
    softened = decoded(client.get("/pictures/generation/0/0.png").content, "it")[0, 0]
    assert 50 < softened[0] < 200
    assert error_of(client.post("/api/fill", json={"quadrants": [[0, 0]], "color": "red"}))[0] == 400


def test_flags_notes_and_the_next_flagged(client: httpx.Client) -> None:
    client.post("/api/flag", json={"quadrants": [[0, 0], [2, 1]], "flag": "flagged"})
    client.post("/api/note", json={"quadrants": [[0, 0]], "text": HOSTILE})
    known = client.get("/api/quadrants/0/0").json()
    assert (known["flags"], known["notes"]) == (["flagged"], HOSTILE)
    assert len(known["corners"]) == 4
    steps = [("0,0", 1, [2, 1]), ("2,1", 1, [0, 0]), ("0,0", -1, [2, 1]), ("1,1", -1, [0, 0])]
    for after, direction, expected in steps:
        query = {"flag": "flagged", "after": after, "direction": direction}
        assert client.get("/api/next", params=query).json() == {"quadrant": expected}
    assert client.get("/api/next", params={"flag": "starred"}).json() == {"quadrant": None}
    since = client.get("/api/quadrants").json()["revision"]
    client.post("/api/flag", json={"quadrants": [[0, 0]], "flag": "flagged", "value": False})
    changed = client.get("/api/quadrants", params={"since": since}).json()["quadrants"]
    assert [one[:3] for one in changed] == [[0, 0, 1 | 64]]


def test_what_is_deleted_is_gone_and_can_be_generated_again(desk: Desk, client: httpx.Client) -> None:
    with desk.store() as store:
        store.store("generation", [(0, 0, png(picture(0, 0)))], "uid", {"model": "snow"})
    assert client.get("/api/quadrants/0/0").json()["pictures"]["generation"]["made"] == {"model": "snow"}
    assert error_of(client.post("/api/generate", json={"quadrants": [[0, 0]]}))[0] == 400
    body = {"quadrants": [[0, 0], [1, 0]], "what": "generation"}
    assert client.post("/api/delete", json=body).json() == {"deleted": 1}
    assert client.get("/pictures/generation/0/0.png").status_code == 404
    assert client.post("/api/generate", json={"quadrants": [[0, 0]]}).status_code == 202


def test_a_body_that_is_too_large_is_refused_while_it_arrives(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (1 << 20)

    answer = client.post("/api/generate", content=endless(), headers={"content-type": "application/json"})
    assert error_of(answer) == (413, "TOO_LARGE")


async def _heard(desk: Desk, cursor: Cursor | None, most: int) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    stream = desk.board.events(cursor)
    async for text in stream:
        fields = dict(line.split(": ", 1) for line in text.strip().splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
        if len(found) == most:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    return found


def test_a_page_that_was_away_is_told_all_it_missed_and_nothing_twice(
    desk: Desk, client: httpx.Client
) -> None:
    (hello,) = asyncio.run(_heard(desk, None, 1))
    client.post("/api/generate", json={"quadrants": [[0, 0]]})
    client.post("/api/flag", json={"quadrants": [[1, 1]], "flag": "starred"})
    missed = asyncio.run(_heard(desk, Cursor.of(hello[0]), 2))
    assert [name for _, name, _ in missed] == ["queue", "quadrants"]
    assert [one["id"] for one in missed[0][2]["items"]] == [1]
    assert [one[:2] for one in missed[1][2]["quadrants"]] == [[1, 1]]
    client.post("/api/queue/1/cancel")
    (later,) = asyncio.run(_heard(desk, Cursor.of(missed[-1][0]), 1))
    assert [one["status"] for one in later[2]["items"]] == ["cancelled"]


def test_changes_of_other_programs_reach_a_page_that_listens(desk: Desk) -> None:
    desk.board.start()

    async def listen() -> Any:
        asyncio.get_running_loop().call_later(0.6, mark)
        return await asyncio.wait_for(_heard(desk, None, 2), 10)

    def mark() -> None:
        with QuadrantStore(desk.given.folder) as store:
            store.mark("flagged", [(0, 0)])

    heard = asyncio.run(listen())
    assert [name for _, name, _ in heard] == ["hello", "quadrants"]


def test_a_page_is_told_at_once_of_what_the_app_itself_changes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_LOOK_S", 3600.0)
    desk.board.start()

    def change() -> None:
        with desk.store() as store:
            store.mark("flagged", [(0, 0)])
        with desk.queue() as queue:
            queue.add([NewItem(item_type="render", quadrants=((0, 0),))])

    async def listen() -> list[tuple[str, str, Any]]:
        asyncio.get_running_loop().call_later(0.6, change)
        return await asyncio.wait_for(_heard(desk, None, 3), 60)

    heard = asyncio.run(listen())
    assert {name for _, name, _ in heard} == {"hello", "quadrants", "queue"}


def test_an_overview_of_many_pictures_is_made_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "map"
    write_map(folder, MercatorGrid(zoom=9), [])
    small = png(np.full((512, 512, 3), 90, np.uint8))
    with QuadrantStore(folder) as store:
        store.put("render", [(x, y, small) for x in range(16) for y in range(16)])
    site = opened(folder, environment={}, generates=False)
    site.desk.start()
    try:
        with served(site.desk) as client:
            first = client.get("/tiles/render/4/0/0")
            assert first.status_code == 200
            assert first.headers["retry-after"] == "1"
            shown, there = map(int, first.headers["overview-progress"].split("/"))
            assert 0 <= shown < there == 256
            with Image.open(io.BytesIO(first.content)) as image:  # nothing looks as if it were missing
                assert (np.asarray(image.convert("RGBA"))[..., 3] == 255).all()
            deadline = time.monotonic() + 60
            while "retry-after" in (answer := client.get("/tiles/render/4/0/0")).headers:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            with Image.open(io.BytesIO(answer.content)) as image:
                assert np.abs(np.asarray(image.convert("RGB")).astype(int) - 90).max() < 4
    finally:
        site.desk.close()


def test_a_tile_that_is_being_made_costs_who_asks_again_nothing(desk: Desk) -> None:
    read: list[tuple[int, int]] = []

    class Counted:
        id = name = "counted"

        def versions(self) -> dict[tuple[int, int], int]:
            return {(x, y): 1 for x in range(8) for y in range(8)}

        def read(self, x: int, y: int) -> bytes:
            read.append((x, y))
            return png(picture(x, y))

    asked = []
    for _ in range(3):
        with pytest.raises(NotYet):
            desk.tile(Counted(), 3, 0, 0)
        asked.append(len(read))
    assert asked[0] > 0
    assert asked[1:] == asked[:1] * 2
    data, shown, there = desk.partial_tile(Counted(), 3, 0, 0)
    assert data
    assert (shown, there) == (4, 64)


def test_parameters_that_have_to_be_numbers_are(client: httpx.Client) -> None:
    for value in ("x", True, [1]):
        answer = client.post("/api/generate", json={"quadrants": [[0, 0]], "parameters": {"strength": value}})
        assert error_of(answer) == (400, "INVALID_REQUEST")
        assert "strength = " in answer.json()["error"]["message"]


def test_numbers_beyond_those_of_sqlite_are_refused_and_tags_are_compared_weakly(
    desk: Desk, client: httpx.Client
) -> None:
    huge = str(2**63)
    for path in (f"/api/queue/{huge}", f"/api/queue?since={huge}", f"/api/quadrants?since={huge}"):
        assert client.get(path).status_code in (400, 404)
    assert client.post(f"/api/queue/{huge}/cancel").status_code in (400, 404)
    assert client.get(f"/api/queue/{2**63 - 1}").status_code == 404
    assert Cursor.of("a-²2.1") is None
    assert Cursor.of(f"a-{huge}.1") is None
    assert Cursor.of("1.1") is None
    tag = client.get("/tiles/render/0/0/0").headers["etag"]
    for told in ("*", f"W/{tag}", f'"x", {tag}'):
        assert client.get("/tiles/render/0/0/0", headers={"If-None-Match": told}).status_code == 304
    for parameters in ('{"strength": NaN}', '{"strength": 1e999}', '{"words": "\\ud800"}'):
        body = '{"quadrants": [[0, 0]], "parameters": ' + parameters + "}"
        answer = client.post("/api/generate", content=body, headers={"Content-Type": "application/json"})
        assert error_of(answer) == (400, "INVALID_REQUEST")
    assert client.post("/api/queue/retry-failed", json={}).json() == {"retried": 0}
    assert {one["paused"] for one in client.get("/api/queue").json()["lanes"]} == {None}


def test_head_is_answered_where_get_is(client: httpx.Client) -> None:
    for path in ("/pictures/render/0/0.png", "/tiles/render/0/0/0", "/api/queue", "/health"):
        asked, told = client.get(path), client.head(path)
        assert (told.status_code, told.content) == (200, b"")
        assert told.headers.get("etag") == asked.headers.get("etag")


def test_a_list_repeats_no_text_of_any_length(desk: Desk, client: httpx.Client) -> None:
    with desk.queue() as queue:
        connection = sqlite3.connect(queue.path)
        with connection:
            connection.execute(
                "INSERT INTO generation_queue (quadrants, prompt) VALUES ('[[0,0]]', ?)", ("x" * 5_000_000,)
            )
        connection.close()
    answer = client.get("/api/queue")
    assert len(answer.content) < 5000
    assert answer.json()["items"][0]["prompt"] == "x" * 2000 + "…"


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", -5), ("steps", 0), ("steps", 1.5), ("guidance", -1), ("strength", -0.1), ("max_drift", -1)],
)
def test_numbers_that_no_model_can_do_are_refused(client: httpx.Client, name: str, value: float) -> None:
    body = {"quadrants": [[0, 0]], "model_id": "snow", "parameters": {name: value}}
    answer = client.post("/api/generate", json=body)
    assert error_of(answer) == (400, "INVALID_REQUEST")
    assert f"{name} = {value}" in answer.text


def test_the_reason_of_a_renderer_is_one_sentence() -> None:
    said = "the browser ended Browser logs: <launching> /usr/bin/chromium --disable-x\nmore"
    assert _sentence(said) == "the browser ended"
    assert len(_sentence("x" * 1000)) == 301
