"""The renderer without a browser: what a view shows, the queue and its restarts, other processes at it."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusi_pipeline.errors import ArchiveMissing, UsageError
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.hillshade import ReliefStyle
from layer_generation import settings as environment
from layer_generation.camera import IsometricCamera, LatLon, MercatorGrid
from layer_generation.defs.plans import map_asset
from layer_generation.defs.sites import Map
from layer_generation.errors import (
    RendererBusy,
    RendererStopped,
    RendererUnavailable,
    RenderFailed,
    RenderTimeout,
    ViewInvalid,
)
from layer_generation.map_making import make_isometric_map, make_map
from layer_generation.map_rendering import render_map
from layer_generation.quadrants import QuadrantStore
from layer_generation.renderer import browser as browsers
from layer_generation.renderer import scratch, service
from layer_generation.renderer.client import RemoteRenderer, shared_renderer
from layer_generation.renderer.process import ProcessBroken
from layer_generation.renderer.projection import HIGHEST_M, Detail, Frame, Relief, detail_of, visible_tiles
from layer_generation.renderer.relief import relief, with_margin
from layer_generation.renderer.scene import Ground, Scene
from layer_generation.renderer.server import shared
from layer_generation.renderer.service import FILENAME, Rendered, Renderer, Ticket
from layer_generation.renderer.terrain import Terrain
from layer_generation.renderer.views import (
    CELL_PX,
    IsometricPlane,
    View,
    Window,
    camera_view,
    quadrants_view,
    view_from,
    view_json,
)
from layer_generation.settings import Places
from layer_generation.web.painters import BrowserPainter
from tests import served
from tests.layers import done, told

STYLE = ReliefStyle(exaggeration=3.0, low_m=-20.0, high_m=900.0)
WAIT_S = 20.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.write_source(tmp_path_factory.mktemp("terrain"), range(4, 9))


# What a view shows

cameras = st.builds(
    IsometricCamera,
    seed_lat=st.floats(-70, 70),
    seed_lon=st.floats(-180, 180),
    azimuth_deg=st.floats(-180, 180),
    elevation_deg=st.floats(-90, -8),
    view_height_m=st.floats(200, 100_000),
    width_px=st.sampled_from([512, 1024, 1000]),
    height_px=st.sampled_from([512, 1024]),
    tile_step=st.sampled_from([0.5, 1.0]),
)


def plane_of(camera: IsometricCamera) -> IsometricPlane:
    plane = quadrants_view(Path("a"), camera, STYLE, 0, 0).plane
    assert isinstance(plane, IsometricPlane)
    return plane


@given(cameras, st.integers(-40, 40), st.integers(-40, 40))
def test_a_quadrant_is_a_square_of_the_plane_with_the_corners_that_the_camera_says(
    camera: IsometricCamera, x: int, y: int
) -> None:
    view = quadrants_view(Path("a"), camera, STYLE, x, y)
    frame = Frame.of(plane_of(camera))
    seed = LatLon(camera.seed_lat, camera.seed_lon)
    found = []
    for corner in camera.corners(x, y):
        east = (corner.lon - seed.lon) * 111_111 * math.cos(math.radians(seed.lat))
        north = (corner.lat - seed.lat) * 111_111
        right = frame.right_east * east + frame.right_north * north
        found.append((right, -(frame.up_east * east + frame.up_north * north)))
    left, top = view.left_px, view.top_px
    expected = [(left, top), (left + 512, top), (left + 512, top + 512), (left, top + 512)]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_camera_has_its_seed_in_the_middle() -> None:
    camera = IsometricCamera(seed_lat=44.2, seed_lon=6.5, width_px=800, height_px=600)
    view = camera_view(Path("a"), camera, STYLE)
    assert (view.left_px, view.top_px, view.width_px, view.height_px) == (-400, -300, 800, 600)
    assert isinstance(view.plane, IsometricPlane)
    assert view.plane.up_m == camera.metres_per_px


@given(st.integers(-5000, 5000), st.integers(-5000, 5000), st.integers(1, 2000), st.integers(1, 2000))
def test_cells_cover_a_view_and_no_more(left: int, top: int, width: int, height: int) -> None:
    view = replace(
        quadrants_view(Path("a"), MercatorGrid(zoom=8), STYLE, 0, 0),
        left_px=left, top_px=top, width_px=width, height_px=height,
    )  # fmt: skip
    count = np.zeros((height, width), dtype=np.int8)
    for cell_left, cell_top, window in view.cells():
        assert cell_left % CELL_PX == cell_top % CELL_PX == 0
        assert min(window.left, window.top) >= 0
        assert max(window.left + window.width, window.top + window.height) <= CELL_PX
        row, col = cell_top + window.top - top, cell_left + window.left - left
        count[row : row + window.height, col : col + window.width] += 1
    assert (count == 1).all()


@given(cameras)
def test_pixels_of_tiles_are_about_as_large_as_those_of_the_picture(camera: IsometricCamera) -> None:
    plane = plane_of(camera)
    detail = detail_of(plane, 0, 12)
    texel_m = grid.resolution_m(detail.zoom) * math.cos(math.radians(plane.seed_lat))
    finest = min(plane.right_m, plane.up_m)
    assert detail.base == min(detail.zoom, 12)
    if detail.zoom < 16:  # the deepest that an archive of 12 zooms is enlarged to
        assert finest / 1.42 <= texel_m <= finest * 1.42


@settings(deadline=None)
@given(cameras, st.integers(-3, 3), st.integers(-3, 3), st.integers(0, 2**31))
def test_no_tile_is_left_out_that_has_a_point_in_the_cell(
    camera: IsometricCamera, across: int, down: int, seed: int
) -> None:
    plane = plane_of(camera)
    detail = detail_of(plane, 0, 11)
    side = 1 << (detail.zoom - detail.base)

    def height_of(x: int, y: int) -> float:
        """Return the one height of a tile: mountains and plains by chance."""
        return float(np.random.default_rng((seed, x & 0xFFFF, y)).choice([0.0, 15.0, 900.0, 8800.0]))

    def relief_of(x: int, y: int) -> Relief:
        high = np.array([[height_of(x * side + c, y * side + r) for c in range(side)] for r in range(side)])
        return high, high, np.ones((side, side), dtype=bool)

    left, top = across * CELL_PX, down * CELL_PX
    try:
        found = set(visible_tiles(plane, detail, Window(left, top, CELL_PX, CELL_PX), relief_of))
    except ViewInvalid:
        assume(False)
    frame, rng = Frame.of(plane), np.random.default_rng(seed)
    inverse = np.linalg.inv([[frame.right_east, frame.right_north], [frame.up_east, frame.up_north]])
    for _ in range(60):
        height = float(rng.choice([0.0, 15.0, 900.0, 8800.0]))
        right, up = left + CELL_PX * rng.random(), -top - CELL_PX * rng.random()
        east, north = inverse @ np.array([right, up - frame.up_height * height])
        lat = plane.seed_lat + north / 111_111
        lon = plane.seed_lon + east / (111_111 * math.cos(math.radians(plane.seed_lat)))
        if abs(lat) > 84 or abs(lon - plane.seed_lon) > 170:
            continue
        half = 0.5 / 512  # a mesh runs from middle to middle of pixels
        x = math.floor((lon + 180) / 360 * 2**detail.zoom - half)
        rows = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2
        y = math.floor(rows * 2**detail.zoom - half)
        if 0 <= y < 1 << detail.zoom and height_of(x, y) == height:
            assert (x, y) in found


def test_a_level_sea_takes_no_tile_from_outside_of_the_cell() -> None:
    plane = plane_of(IsometricCamera(seed_lat=44, seed_lon=6, view_height_m=3000))
    detail = detail_of(plane, 0, 14)
    level = np.zeros((1 << (detail.zoom - detail.base),) * 2)
    seen = visible_tiles(plane, detail, Window(0, 0, 512, 512), lambda x, y: (level, level, level == 0))
    assert 2 <= len(seen) <= 12


def test_views_along_the_ground_are_refused() -> None:
    with pytest.raises(ViewInvalid, match="1 degree"):
        plane_of(IsometricCamera(seed_lat=0, seed_lon=0, elevation_deg=-0.5))
    plane = plane_of(IsometricCamera(seed_lat=44, seed_lon=6, elevation_deg=-1.1, view_height_m=100))
    level = np.full((16, 16), HIGHEST_M)
    with pytest.raises(ViewInvalid, match="steeply"):
        visible_tiles(
            plane,
            Detail(zoom=18, base=14),
            Window(0, 0, 512, 512),
            lambda x, y: (0 * level, level, level > 0),
        )


@given(cameras, st.sampled_from(["sea", "hole"]))
def test_a_view_survives_json(camera: IsometricCamera, missing: Any) -> None:
    for geometry in (camera, MercatorGrid(zoom=7)):
        view = quadrants_view(Path("/a/b.pmtiles"), geometry, STYLE, -3, 5, missing=missing)
        assert view_from(json.loads(json.dumps(view_json(view)))) == view


@pytest.mark.parametrize(
    "change",
    [
        {"width_px": 0}, {"width_px": 9000}, {"height_px": 2.5}, {"left_px": 1 << 50}, {"missing": "fog"},
        {"plane": {"type": "isometric"}}, {"plane": 3}, {"style": {}}, {"terrain": 5}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_view_that_cannot_be_is_refused_in_a_line(change: dict[str, Any]) -> None:
    known = view_json(quadrants_view(Path("a"), MercatorGrid(zoom=7), STYLE, 0, 0))
    with pytest.raises(ViewInvalid) as error:
        view_from({**known, **change})
    assert "\n" not in str(error.value)


# What the page is given


def parts_of(data: bytes) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    points = 257 * 257
    mesh = np.frombuffer(data, "<f4", points).reshape(257, 257)
    return mesh, np.frombuffer(data, np.uint8, offset=4 * points).reshape(513, 513, 4)


@pytest.mark.parametrize("zoom", [8, 10])
def test_a_drape_is_the_numpy_picture_and_meshes_share_their_edges(archive: Path, zoom: int) -> None:
    tile = grid.tile_at(7.0, 44.4, zoom)
    scene = Scene(Ground(archive), STYLE)
    mesh, drape = parts_of(scene.tile(zoom, tile.x, tile.y))
    with Terrain(archive, zoom) as terrain:
        expected = relief(with_margin(tile.x, tile.y, terrain.heights), tile.y, zoom, STYLE)
        heights = terrain.heights(tile.x, tile.y)
    assert np.array_equal(drape[:512, :512, :3], expected)
    assert heights is not None
    assert np.array_equal(mesh[:256, :256], heights[::2, ::2], equal_nan=True)
    right_mesh, right_drape = parts_of(scene.tile(zoom, tile.x + 1, tile.y))
    below_mesh, below_drape = parts_of(scene.tile(zoom, tile.x, tile.y + 1))
    assert np.array_equal(mesh[:, -1], right_mesh[:, 0], equal_nan=True)
    assert np.array_equal(mesh[-1], below_mesh[0], equal_nan=True)
    assert np.array_equal(drape[:, -1], right_drape[:, 0])
    assert np.array_equal(drape[-1], below_drape[0])


def test_heights_stay_within_what_is_told_of_them(archive: Path) -> None:
    ground, detail = Ground(archive), Detail(zoom=10, base=8)
    tile = grid.tile_at(7.0, 44.4, 8)
    low, high, there = ground.relief(detail, tile.x, tile.y)
    assert there.any()
    for row in range(4):
        for col in range(4):
            heights = ground.around(10, tile.x * 4 + col, tile.y * 4 + row, 0, 1)
            assert there[row, col] or np.isnan(heights).all()
            level = np.where(heights > 0, heights, 0)
            assert low[row, col] <= level.min() <= level.max() <= high[row, col]


# The queue


class Fake:
    """Stands in for the drawing process: it draws cells of one colour, or what a script says."""

    script: Callable[[Mapping[str, Any]], dict[str, Any] | None] = staticmethod(lambda request: None)  # type: ignore[assignment]
    running: int = 0
    started: int = 0
    drawn: list[str]
    starts: Callable[[], None] = staticmethod(lambda: None)
    version = "0"
    pid = 1

    def __init__(self, browser: Path, environment: Mapping[str, str]) -> None:
        Fake.started += 1
        Fake.running += 1
        self.killed, self.ended = threading.Event(), threading.Event()

    def wait(self, timeout_s: float) -> None:
        Fake.starts()

    def kill(self) -> None:
        self.killed.set()

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> tuple[dict[str, Any], bytes]:
        if self.killed.is_set():
            raise ProcessBroken("it ended")
        if "ping" not in request:
            Fake.drawn.append(request["view"]["terrain"])
        answer = Fake.script(request)
        if self.killed.is_set():
            raise ProcessBroken("it ended")
        return answer or {"tiles": 1}, bytes([7]) * request["window"].width * request[
            "window"
        ].height * 4 if "window" in request else b""

    def end(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            Fake.running -= 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    monkeypatch.setattr(service, "DrawingProcess", Fake)
    monkeypatch.setattr(service, "_FIRST_REST_S", 0.01)
    monkeypatch.setattr(Fake, "script", staticmethod(lambda request: None))
    monkeypatch.setattr(Fake, "starts", staticmethod(lambda: None))
    Fake.running, Fake.started, Fake.drawn = 0, 0, []
    yield Fake
    assert Fake.running == 0


def view(name: str = "a", side: int = 512) -> View:
    one = quadrants_view(Path(name), MercatorGrid(zoom=8), STYLE, 0, 0)
    return replace(one, width_px=side, height_px=side)


class Gate:
    """Holds the first picture until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, request: Mapping[str, Any]) -> None:
        if "ping" not in request:
            self.reached.set()
            assert self.opened.wait(WAIT_S)


def test_pictures_are_drawn_in_the_order_in_which_they_are_asked_for(fake: type[Fake]) -> None:
    gate = Gate()
    fake.script = staticmethod(gate)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        tickets = [renderer.submit(view(str(number))) for number in range(100)]
        assert gate.reached.wait(WAIT_S)
        assert renderer.status().state == "drawing"
        assert renderer.status().waiting == 99
        gate.opened.set()
        assert [ticket.result(WAIT_S).tiles for ticket in tickets] == [1] * 100
        assert renderer.status().rendered == 100
        assert renderer.status().restarts == 0
    assert fake.drawn == [str(number) for number in range(100)]


def test_threads_and_tasks_share_the_queue(fake: type[Fake]) -> None:
    with Renderer(Path("b")) as renderer:
        found: list[Rendered] = []
        threads = [
            threading.Thread(target=lambda: found.append(renderer.render(view(), WAIT_S))) for _ in range(8)
        ]

        async def asked() -> list[Rendered]:
            return await asyncio.gather(*(asyncio.wrap_future(renderer.submit(view())) for _ in range(8)))

        for thread in threads:
            thread.start()
        found += asyncio.run(asked())
        for thread in threads:
            thread.join()
    assert len(found) == 16
    assert all((one.pixels == 7).all() and one.pixels.shape == (512, 512, 3) for one in found)


def test_who_cancels_or_no_longer_waits_leaves_the_queue(fake: type[Fake]) -> None:
    gate = Gate()
    fake.script = staticmethod(gate)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        first = renderer.submit(view("first"))
        assert gate.reached.wait(WAIT_S)
        cancelled, last = renderer.submit(view("cancelled")), renderer.submit(view("last"))
        with pytest.raises(RenderTimeout, match=r"0\.05 s"):
            renderer.render(view("timeout"), 0.05)

        async def hung_up() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(renderer.submit(view("task"))), 0.05)

        asyncio.run(hung_up())
        assert cancelled.cancel()
        assert renderer.status().waiting == 1
        gate.opened.set()
        first.result(WAIT_S)
        last.result(WAIT_S)
        assert renderer.status().cancelled == 3
    assert fake.drawn == ["first", "last"]


def test_a_picture_in_hand_that_nobody_waits_for_is_given_up_at_its_next_cell(fake: type[Fake]) -> None:
    gate = Gate()
    fake.script = staticmethod(gate)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        large = renderer.submit(view("large", 2048))
        assert gate.reached.wait(WAIT_S)
        large.cancel()
        gate.opened.set()
        renderer.render(view("next"), WAIT_S)
    assert fake.drawn == ["large", "next"]


def test_the_queue_has_an_end(fake: type[Fake]) -> None:
    gate = Gate()
    fake.script = staticmethod(gate)  # type: ignore[assignment]
    with Renderer(Path("b"), most_waiting=2) as renderer:
        tickets = [renderer.submit(view())]
        assert gate.reached.wait(WAIT_S)
        tickets += [renderer.submit(view()) for _ in range(2)]
        with pytest.raises(RendererBusy, match="2 pictures wait"):
            renderer.submit(view())
        gate.opened.set()
        for ticket in tickets:
            ticket.result(WAIT_S)


def test_everyone_who_waits_is_answered_when_it_stops(fake: type[Fake]) -> None:
    reached = threading.Event()
    renderer = Renderer(Path("b"))

    def hang(request: Mapping[str, Any]) -> None:
        reached.set()
        process = renderer._process
        assert isinstance(process, Fake)
        assert process.killed.wait(WAIT_S)

    fake.script = staticmethod(hang)  # type: ignore[assignment]
    with pytest.raises(RendererStopped):
        renderer.submit(view())
    renderer.start()
    tickets = [renderer.submit(view()) for _ in range(5)]
    assert reached.wait(WAIT_S)
    renderer.stop()
    for ticket in tickets:
        assert isinstance(ticket.exception(WAIT_S), RendererStopped)
    with pytest.raises(RendererStopped):
        renderer.render(view())
    assert renderer.status().state == "stopped"
    fake.script = staticmethod(lambda request: None)  # type: ignore[assignment]
    with renderer:
        assert renderer.render(view(), WAIT_S).tiles == 1


def test_the_picture_in_hand_is_tried_once_more(fake: type[Fake]) -> None:
    failing = {"3": 1, "7": 1, "9": 2}

    def script(request: Mapping[str, Any]) -> None:
        name = request.get("view", {}).get("terrain")
        if failing.get(name):
            failing[name] -= 1
            raise ProcessBroken("it died")

    fake.script = staticmethod(script)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        tickets = [renderer.submit(view(str(number))) for number in range(12)]
        outcomes = [ticket.exception(WAIT_S) for ticket in tickets]
        status = renderer.status()
    assert [number for number, one in enumerate(outcomes) if one is not None] == [9]
    assert isinstance(outcomes[9], RenderFailed)
    assert "it died" in str(outcomes[9])
    assert fake.drawn == [*"0123345677899", "10", "11"]
    assert (status.rendered, status.failed, status.restarts) == (11, 1, 4)
    assert status.last_failure == "it died"


def test_a_browser_that_never_starts_fails_pictures_and_waits_longer_each_time(fake: type[Fake]) -> None:
    def refuse() -> None:
        raise ProcessBroken("it does not start")

    fake.starts = staticmethod(refuse)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        with pytest.raises(RenderFailed, match="does not start"):
            renderer.render(view(), WAIT_S)
        assert fake.started < 12
        fake.starts = staticmethod(lambda: None)  # type: ignore[assignment]
        assert renderer.render(view(), WAIT_S).tiles == 1


def test_the_log_has_all_that_a_failure_says(fake: type[Fake], caplog: pytest.LogCaptureFixture) -> None:
    failing = [ProcessBroken("its browser failed\nBrowser logs: no GPU")]

    def script(request: Mapping[str, Any]) -> None:
        if failing:
            raise failing.pop()

    fake.script = staticmethod(script)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        renderer.render(view(), WAIT_S)
    (line,) = [one.getMessage() for one in caplog.records if one.name.startswith("layer_generation")]
    assert line.endswith("started again: its browser failed\nBrowser logs: no GPU")


def test_what_is_wrong_with_a_view_is_its_callers_and_costs_no_restart(fake: type[Fake]) -> None:
    def script(request: Mapping[str, Any]) -> dict[str, Any]:
        return {"error": "ArchiveMissing", "reason": "x: no such archive"}

    fake.script = staticmethod(script)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer:
        with pytest.raises(ArchiveMissing, match="no such archive"):
            renderer.render(view(), WAIT_S)
        assert renderer.status().restarts == renderer.status().failed == 0


def test_a_browser_that_dies_while_nobody_asks_is_started_again(fake: type[Fake]) -> None:
    asked = threading.Event()

    def script(request: Mapping[str, Any]) -> None:
        if "ping" in request and not asked.is_set():
            asked.set()
            raise ProcessBroken("it died")

    fake.script = staticmethod(script)  # type: ignore[assignment]
    with Renderer(Path("b"), health_interval_s=0.02) as renderer:
        assert asked.wait(WAIT_S)
        end = time.monotonic() + WAIT_S
        while renderer.status().restarts < 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert renderer.status().restarts == 1


# Other processes


def test_other_processes_use_it_by_a_file_in_the_folder(fake: type[Fake], tmp_path: Path) -> None:
    assert shared_renderer(tmp_path) is None
    with Renderer(Path("b")) as renderer, shared(renderer, tmp_path):
        path = tmp_path / FILENAME
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = shared_renderer(tmp_path)
        assert found is not None
        with found:
            rendered = found.render(view(), WAIT_S)
            assert (rendered.pixels == 7).all()
            assert found.status() == renderer.status()
            fake.script = staticmethod(  # type: ignore[assignment]
                lambda request: {"error": "ArchiveMissing", "reason": "x: no such archive"}
            )
            with pytest.raises(ArchiveMissing, match="no such archive"):
                found.render(view(), WAIT_S)
        kept = json.loads(path.read_text())
    assert not path.exists()
    with RemoteRenderer(kept["address"], kept["word"]) as gone, pytest.raises(RendererStopped):
        gone.render(view(), WAIT_S)
    path.write_text(json.dumps(kept))
    assert shared_renderer(tmp_path) is None


def test_who_does_not_know_the_word_is_refused(fake: type[Fake], tmp_path: Path) -> None:
    with Renderer(Path("b")) as renderer, shared(renderer, tmp_path) as address:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = httpx.post(f"{address}/render", json=view_json(view()), headers=headers, trust_env=False)
            assert answer.status_code == 401
        word = json.loads((tmp_path / FILENAME).read_text())["word"]
        known = {"authorization": f"Bearer {word}"}
        for body in (b"", b"[]", b"{", b"{}", b" " * 100_000):
            answer = httpx.post(f"{address}/render", content=body, headers=known, trust_env=False)
            assert (answer.status_code, answer.json()["error"]) == (400, "ViewInvalid")
        answer = httpx.post(
            f"{address}/render", params={"timeout_s": "x"}, json={}, headers=known, trust_env=False
        )
        assert answer.status_code == 400
        answer = httpx.post(f"{address}/render", json=view_json(view()), headers=known, trust_env=False)
        with Image.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("PNG", (512, 512))
    assert fake.drawn == ["a"]


def test_who_hangs_up_is_not_drawn_for(fake: type[Fake], tmp_path: Path) -> None:
    gate = Gate()
    fake.script = staticmethod(gate)  # type: ignore[assignment]
    with Renderer(Path("b")) as renderer, shared(renderer, tmp_path) as address:
        first = renderer.submit(view("first"))
        assert gate.reached.wait(WAIT_S)
        word = json.loads((tmp_path / FILENAME).read_text())["word"]
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{address}/render", json=view_json(view("gone")), timeout=0.3, trust_env=False,
                headers={"authorization": f"Bearer {word}"},
            )  # fmt: skip
        with RemoteRenderer(address, word) as other, pytest.raises(RenderTimeout):
            other.render(view("late"), 0.05)
        end = time.monotonic() + WAIT_S
        while renderer.status().waiting and time.monotonic() < end:
            time.sleep(0.02)
        assert renderer.status().cancelled == 2
        gate.opened.set()
        first.result(WAIT_S)
    assert fake.drawn == ["first"]


# What is there to start


def test_a_browser_is_found_by_setting_by_name_and_where_playwright_puts_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "ms" / "chromium-1" / "chrome-linux" / "chrome"
    named = tmp_path / "bin" / "chromium"
    for path in (own, named):
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setattr(browsers, "STATIC", tmp_path)
    with pytest.raises(RendererUnavailable, match="just pages renderer-page"):
        browsers.browser_path(None)
    (tmp_path / "renderer.js").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RendererUnavailable, match=r'pip install "fusi\[browser\]".*`chromium`'):
        browsers.browser_path(None)
    assert browsers.browser_path(None, [tmp_path / "ms"]) == own
    assert browsers.browser_path(str(named)) == named
    monkeypatch.setenv("PATH", str(named.parent))
    assert browsers.browser_path(None, [tmp_path / "ms"]) == named
    with pytest.raises(RendererUnavailable, match="FUSI_CHROMIUM names 'netscape'"):
        browsers.browser_path("netscape")
    monkeypatch.setattr(browsers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RendererUnavailable, match="playwright is missing"):
        browsers.browser_path(None)


def test_the_process_is_told_no_keys() -> None:
    stated = {"PATH": "/bin", "HOME": "/root", "MY_API_KEY": "secret", "FUSI_CHROMIUM": "chrome"}
    assert environment.renderer_environment(stated) == {"PATH": "/bin", "HOME": "/root"}
    assert environment.browser_program(stated) == "chrome"
    assert environment.browser_folders(stated) == (Path("/root/.cache/ms-playwright"),)
    assert environment.browser_program({}) is None


def test_folders_of_renderers_that_are_no_more_are_removed(tmp_path: Path) -> None:
    mine = scratch.new_scratch(tmp_path)
    dead = tmp_path / f"fusi-renderer-{os.getpid()}-1-abc"  # the number is taken, but by another
    foreign = tmp_path / "fusi-renderer-of-mine"
    for folder in (dead, foreign):
        folder.mkdir()
        (folder / "a").touch()
    other = scratch.new_scratch(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, other, foreign])


# The command


def test_without_a_browser_isometric_maps_say_what_to_install(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = IsometricCamera(seed_lat=44.2, seed_lon=6.5, view_height_m=60_000)
    make_isometric_map(tmp_path / "iso", camera, (0, 0, 0, 0))
    done(make_map(tmp_path / "flat", archive, 6))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FUSI_CHROMIUM", raising=False)
    monkeypatch.setattr(browsers, "STATIC", tmp_path)
    (tmp_path / "renderer.js").touch()
    said = told(capsys, "map", "render", "--map-dir", tmp_path / "iso", "--terrain", archive)
    assert (said.code, "pip install" in said.said[-1], "`chromium`" in said.said[-1]) == (2, True, True)
    assert told(capsys, "map", "render", "--map-dir", tmp_path / "flat", "--json").json["renderer"] == "numpy"


def test_a_shared_renderer_draws_isometric_maps_in_parallel_and_goes_on(
    fake: type[Fake], archive: Path, tmp_path: Path
) -> None:
    camera = IsometricCamera(seed_lat=44.2, seed_lon=6.5, view_height_m=60_000)
    make_isometric_map(tmp_path, camera, (-1, -1, 1, 1))
    with Renderer(Path("b")) as renderer, shared(renderer, tmp_path):
        work = render_map(tmp_path, archive=archive, workers=3)
        next(work)
        work.close()
        report = done(render_map(tmp_path, workers=3))
        assert (report.rendered, report.kept, report.renderer) == (9, 0, "browser")
        assert done(render_map(tmp_path, workers=3)).rendered == 0
        assert renderer.status().rendered == 9


def test_an_app_draws_with_a_renderer_that_it_shares(fake: type[Fake], archive: Path, tmp_path: Path) -> None:
    camera = IsometricCamera(seed_lat=44.2, seed_lon=6.5, view_height_m=60_000)
    make_isometric_map(tmp_path, camera, (-1, -1, 1, 1), archive)
    painter = BrowserPainter(Renderer(Path("b")), tmp_path)
    painter.start()
    try:
        drawn = list(painter.paint(tmp_path, [(0, 0), (1, -1)]))
        assert [one[:2] for one in drawn] == [(0, 0), (1, -1)]
        assert {"kind", "state", "reason", "waiting"} <= set(painter.status())
        assert done(render_map(tmp_path)).rendered == 9  # by the same browser
        assert painter.status()["rendered"] == 11
    finally:
        painter.close()
    assert not (tmp_path / FILENAME).exists()


def test_tickets_are_futures() -> None:
    ticket = Ticket(view())
    assert ticket.cancel()
    assert ticket.given_up


def test_a_map_with_holes_stays_one_and_a_map_without_quadrants_has_no_style_yet(
    fake: type[Fake], archive: Path, tmp_path: Path
) -> None:
    camera = IsometricCamera(seed_lat=44.2, seed_lon=6.5, view_height_m=60_000)
    make_isometric_map(tmp_path / "none", camera, None, archive)
    assert done(render_map(tmp_path / "none")).rendered == 0
    with QuadrantStore(tmp_path / "none") as store:
        assert store.fact("relief") is None
    folder = tmp_path / "flat"
    done(make_map(folder, archive, 5))
    with Renderer(Path("b")) as renderer, shared(renderer, folder):
        assert done(render_map(folder, missing="hole")).renderer == "browser"
        assert done(render_map(folder, overwrite=True)).renderer == "browser"
    with pytest.raises(UsageError, match="map with holes"):
        done(render_map(folder, renderer="numpy"))
    with pytest.raises(UsageError, match="--overwrite"):
        done(render_map(folder, missing="sea"))


def test_the_asset_of_an_isometric_map_is_drawn_by_the_browser(
    fake: type[Fake], archive: Path, tmp_path: Path
) -> None:
    make_isometric_map(tmp_path, IsometricCamera(seed_lat=44.2, seed_lon=6.5), (0, 0, 1, 0), archive)
    found = Map(prefix="iso", folder=tmp_path, terrain=archive)
    places = Places(layers_dir=tmp_path, output_dir=tmp_path)
    with Renderer(Path("b")) as renderer, shared(renderer, tmp_path):
        result = dg.materialize([map_asset(found, places)])
    (made,) = result.asset_materializations_for_node("iso__layer_map")
    assert made.metadata["drawn now"].value == 2
    assert len(fake.drawn) == 2
