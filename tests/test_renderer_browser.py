"""The renderer with its browser: what it draws, and that it outlives whatever happens to it.

Needs Chromium (Debian's package) and the page's bundle (`just pages renderer-page`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from fusi_pipeline.errors import ArchiveMissing, TileCorrupt
from fusi_pipeline.tiles import grid
from fusi_pipeline.tiles.grid import Bounds, Tile
from fusi_pipeline.tiles.hillshade import ReliefStyle
from layer_generation.camera import IsometricCamera, MercatorGrid
from layer_generation.errors import RendererUnavailable, RenderFailed
from layer_generation.map_making import make_isometric_map, make_map
from layer_generation.map_rendering import render_map
from layer_generation.pictures import Pixels, decoded
from layer_generation.quadrants import QuadrantStore
from layer_generation.renderer.browser import browser_path, open_page
from layer_generation.renderer.open import new_renderer
from layer_generation.renderer.page_server import PageServer
from layer_generation.renderer.process import DrawingProcess
from layer_generation.renderer.relief import relief, with_margin
from layer_generation.renderer.service import Renderer
from layer_generation.renderer.terrain import Terrain
from layer_generation.renderer.views import CELL_PX, View, camera_view, quadrants_view, view_json
from layer_generation.settings import browser_folders, browser_program, renderer_environment
from tests import served
from tests.layers import done, told

STYLE = ReliefStyle(exaggeration=3.0, low_m=-20.0, high_m=900.0)
WAIT_S = 60.0
MIDDLE = (44.4, 7.0)
CAMERA = IsometricCamera(seed_lat=44.4, seed_lon=7.0, view_height_m=120_000)
"""Pixels of 117 m over an archive of 218 m: its tiles are enlarged once."""


def reason() -> str | None:
    try:
        browser_path(browser_program(), browser_folders())
    except RendererUnavailable as error:
        return str(error)
    return None


pytestmark = pytest.mark.skipif(reason() is not None, reason=str(reason()))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served.write_source(tmp_path_factory.mktemp("terrain"), range(4, 9))


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with new_renderer() as renderer:
        yield renderer


def own(**how: Any) -> Renderer:
    browser = browser_path(browser_program(), browser_folders())
    return Renderer(browser, renderer_environment(), **how)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


# What it draws


def test_quadrants_alone_are_the_picture_of_all(renderer: Renderer, archive: Path) -> None:
    whole = renderer.render(quadrants_view(archive, CAMERA, STYLE, 0, 0, 2, 2), WAIT_S).pixels
    assert whole.std() > 20
    for row in range(2):
        for col in range(2):
            part = renderer.render(quadrants_view(archive, CAMERA, STYLE, col, row), WAIT_S).pixels
            expected = whole[row * 512 : row * 512 + 512, col * 512 : col * 512 + 512]
            assert np.array_equal(part, expected)


def test_a_pixel_does_not_depend_on_the_window_it_is_drawn_in(archive: Path) -> None:
    """The page is asked past the cells, which are all that a view is put together from."""
    process = DrawingProcess(browser_path(browser_program(), browser_folders()), renderer_environment())
    try:
        process.wait(WAIT_S)
        stated = view_json(quadrants_view(archive, CAMERA, STYLE, 0, 0))

        def drawn(left: int, top: int) -> npt.NDArray[np.int16]:
            request = {"id": 1, "view": stated, "left": left, "top": top, "window": (0, 0, 512, 512)}
            data = process.ask(request, WAIT_S)[1]
            return np.frombuffer(data, np.uint8).reshape(CELL_PX, CELL_PX, 4).astype(np.int16)

        whole = np.block([[[drawn(x, y)] for x in (-512, 0)] for y in (-512, 0)])
        for right, down in ((256, 256), (101, 410)):
            differing = np.abs(drawn(right - 512, down - 512) - whole[down : down + 512, right : right + 512])
            assert differing.max() <= 1
            assert (differing > 0).mean() < 0.001
    finally:
        process.end()


def test_the_same_request_gives_the_same_bytes_of_another_browser_of_which_nothing_is_left(
    renderer: Renderer, archive: Path
) -> None:
    view = camera_view(archive, replace(CAMERA, width_px=300, height_px=200, view_height_m=40_000), STYLE)
    first = renderer.render(view, WAIT_S)
    assert first.pixels.shape == (200, 300, 3)
    assert first.png() == renderer.render(view, WAIT_S).png()
    with own() as other:
        assert first.png() == other.render(view, WAIT_S).png()
        process = other._process
        assert process is not None
        below = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert process.scratch.exists()
    assert not process.scratch.exists()
    assert not any(one.is_running() for one in below)


@pytest.mark.parametrize("zoom", [7, 9])
def test_top_down_views_are_those_of_the_numpy_renderer(renderer: Renderer, archive: Path, zoom: int) -> None:
    tile = grid.tile_at(7.0, 44.4, zoom)
    drawn = renderer.render(quadrants_view(archive, MercatorGrid(zoom=zoom), STYLE, tile.x, tile.y), WAIT_S)
    with Terrain(archive, zoom) as terrain:
        expected = relief(with_margin(tile.x, tile.y, terrain.heights), tile.y, zoom, STYLE)
    assert np.array_equal(drawn.pixels, expected)


def peak_archive(folder: Path, height_m: float, zoom: int = 11) -> Path:
    """Write a plain at 10 m with one column of rock, 5 x 5 pixels, in the middle of a tile."""
    middle = grid.tile_at(7.0, 44.4, zoom)
    tiles = {}
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            heights = np.full((512, 512), 10.0, dtype=np.float32)
            if dx == dy == 0:
                heights[254:259, 254:259] = height_m
            tiles[Tile(zoom, middle.x + dx, middle.y + dy)] = served.encoded(heights, zoom)
    corners = [grid.bounds(Tile(zoom, middle.x + d, middle.y + d)) for d in (-3, 3)]
    box = Bounds(corners[0].west, corners[1].south, corners[1].east, corners[0].north)
    facts = served.metadata([zoom], bounds=box)
    return served.write_pmtiles(folder / f"peak{height_m:g}.pmtiles", tiles, facts)


def seed_at_peak(zoom: int = 11) -> tuple[float, float]:
    box = grid.xy_bounds(grid.tile_at(7.0, 44.4, zoom))
    size = grid.resolution_m(zoom)
    lon, lat = grid.unproject(box.left + 256.5 * size, box.top - 256.5 * size)
    return lat, lon


@pytest.mark.parametrize(("azimuth", "elevation"), [(-15.0, -45.0), (130.0, -30.0), (0.0, -90.0)])
def test_a_peak_is_drawn_where_the_camera_says(
    renderer: Renderer, tmp_path: Path, azimuth: float, elevation: float
) -> None:
    lat, lon = seed_at_peak()
    camera = IsometricCamera(
        seed_lat=lat, seed_lon=lon, azimuth_deg=azimuth, elevation_deg=elevation,
        view_height_m=512 * 50.0, width_px=512, height_px=512, tile_step=1.0,
    )  # fmt: skip
    height_m = 4000.0
    path = peak_archive(tmp_path, height_m)
    picture = renderer.render(camera_view(path, camera, STYLE), WAIT_S).pixels.astype(int)
    up = (height_m * np.cos(np.radians(elevation))) / camera.metres_per_px
    row, col = round(256 - up), 256
    plain = picture[500, 10]
    assert np.abs(picture[row, col] - plain).max() > 20, "the top"
    assert np.abs(picture[row - 12, col] - plain).max() < 4, "above it"
    if up > 20:
        assert np.abs(picture[row + 20, col] - plain).max() > 20, "its face"
        assert np.abs(picture[266, col] - plain).max() < 4, "before its foot"


def test_a_peak_outside_of_a_quadrant_leans_into_it(renderer: Renderer, tmp_path: Path) -> None:
    lat, lon = seed_at_peak()
    camera = IsometricCamera(
        seed_lat=lat, seed_lon=lon, azimuth_deg=0, view_height_m=512 * 10.0, width_px=512, height_px=512,
        tile_step=1.0,
    )  # fmt: skip
    path = peak_archive(tmp_path, 8500.0)  # 601 px up: the foot is two quadrants below its top
    own_ground = renderer.render(camera_view(path, camera, STYLE), WAIT_S).pixels
    above = replace(camera_view(path, camera, STYLE), top_px=-256 - 512)
    leaning = renderer.render(above, WAIT_S).pixels
    column = leaning[:, 256].astype(int)
    plain = leaning[5, 5].astype(int)
    rocks = np.flatnonzero(np.abs(column - plain).max(axis=1) > 20)
    assert abs(rocks.min() - (512 + 256 - round(8500 * np.sqrt(0.5) / 10))) <= 6
    assert rocks.max() == 511
    assert np.abs(own_ground[0, 256].astype(int) - plain).max() > 20


def test_a_picture_is_what_rays_meet(renderer: Renderer, archive: Path) -> None:
    """An oracle: each ray is followed down from 1,500 m through the heights until it is below them."""
    view = quadrants_view(archive, CAMERA, STYLE, 0, 0)
    picture = renderer.render(view, WAIT_S).pixels.astype(float)
    zoom = 9
    first = grid.tile_at(5.0, 45.6, zoom)
    with Terrain(archive, zoom) as terrain:
        tiles = range(6)
        parts = [[terrain.heights(first.x + x, first.y + y) for x in tiles] for y in tiles]
        nothing = np.full((512, 512), np.nan, dtype=np.float32)
        heights = np.block([[nothing if one is None else one for one in row] for row in parts])
        drape = np.block(
            [
                [[relief(with_margin(first.x + x, y, terrain.heights), y, zoom, STYLE)] for x in tiles]
                for y in range(first.y, first.y + 6)
            ]
        )
    ground = np.where(heights > 0, heights, 0)
    rng = np.random.default_rng(5)
    rows, cols = rng.integers(0, 512, 300), rng.integers(0, 512, 300)
    differing = []
    for row, col in zip(rows, cols, strict=True):
        right, up = view.left_px + col + 0.5, -(view.top_px + row + 0.5)
        for height in np.arange(1500.0, -2.0, -2.0):
            place = CAMERA.place(right, up - height * np.cos(np.pi / 4) / CAMERA.metres_per_px)
            x, y = grid.project(place.lon, place.lat)
            size = grid.resolution_m(zoom)
            at_col = int((x + grid.HALF_WORLD_M) / size) - first.x * 512
            at_row = int((grid.HALF_WORLD_M - y) / size) - first.y * 512
            if 0 <= at_row < 3072 and 0 <= at_col < 3072 and ground[at_row, at_col] >= height:
                differing.append(np.abs(picture[row, col] - drape[at_row, at_col]).max())
                break
    assert len(differing) > 280
    assert np.median(differing) <= 4
    assert np.percentile(differing, 90) <= 16


def test_what_is_missing_is_sea_or_a_hole(renderer: Renderer, archive: Path) -> None:
    camera = replace(CAMERA, seed_lat=44.3, seed_lon=6.2, azimuth_deg=0)  # its left is beyond the data
    sea = renderer.render(quadrants_view(archive, camera, STYLE, 0, 0), WAIT_S).pixels
    hole = renderer.render(quadrants_view(archive, camera, STYLE, 0, 0, missing="hole"), WAIT_S).pixels
    assert (sea.shape, hole.shape) == ((512, 512, 3), (512, 512, 4))
    there = hole[..., 3] == 255
    assert (hole[~there & (hole[..., 3] == 0), :3] == 0).all()
    assert 0.2 < there.mean() < 0.9
    water = sea[300, 0].astype(int)
    assert water[2] > water[0] + 20
    assert (hole[200:, :100, 3] == 0).all()
    assert np.abs(sea[there].astype(int) - hole[there][:, :3]).max() <= 60
    assert (sea[there] == hole[there][:, :3]).mean() > 0.98


def test_views_go_on_across_the_antimeridian(renderer: Renderer, tmp_path: Path) -> None:
    box = Bounds(179.0, 43.5, -179.0, 45.0)
    tiles = {tile: served.encoded(served.hills(tile), tile.z) for tile in served.tiles_of(box, range(5, 8))}
    path = served.write_pmtiles(tmp_path / "a.pmtiles", tiles, served.metadata(range(5, 8), bounds=box))
    pictures = []
    for lon in (180.0, -180.0):
        camera = IsometricCamera(
            seed_lat=44.2, seed_lon=lon, view_height_m=120_000, width_px=512, height_px=512
        )
        pictures.append(renderer.render(camera_view(path, camera, STYLE), WAIT_S).pixels)
    assert np.array_equal(*pictures)
    halves = pictures[0][:, :256], pictures[0][:, 256:]
    assert all(half.std() > 15 for half in halves)


def test_an_archive_that_is_replaced_is_drawn_anew(renderer: Renderer, tmp_path: Path) -> None:
    lat, lon = seed_at_peak()
    camera = IsometricCamera(
        seed_lat=lat, seed_lon=lon, view_height_m=25_600, width_px=512, height_px=512, tile_step=1.0
    )
    path = tmp_path / "one.pmtiles"
    peak_archive(tmp_path, 3000.0).rename(path)
    before = renderer.render(camera_view(path, camera, STYLE), WAIT_S).pixels
    peak_archive(tmp_path, 20.0).rename(path)
    after = renderer.render(camera_view(path, camera, STYLE), WAIT_S).pixels
    assert not np.array_equal(before, after)


def test_what_is_wrong_with_an_archive_is_told_and_the_browser_stays(
    renderer: Renderer, archive: Path, tmp_path: Path
) -> None:
    pid = renderer.status().pid
    with pytest.raises(ArchiveMissing):
        renderer.render(quadrants_view(tmp_path / "none", CAMERA, STYLE, 0, 0), WAIT_S)
    tile = grid.tile_at(7.0, 44.4, 8)
    broken = served.write_pmtiles(tmp_path / "b.pmtiles", {tile: b"no picture"}, served.metadata([8]))
    with pytest.raises(TileCorrupt):
        renderer.render(quadrants_view(broken, CAMERA, STYLE, 0, 0), WAIT_S)
    assert renderer.render(quadrants_view(archive, CAMERA, STYLE, 0, 0), WAIT_S).tiles
    assert renderer.status().pid == pid


# What it outlives


def flat(archive: Path, number: int) -> View:
    """Return a small view that costs little; each number another."""
    view = quadrants_view(archive, MercatorGrid(zoom=8), STYLE, *_corner())
    return replace(view, left_px=view.left_px + number, width_px=8, height_px=8)


def _corner() -> tuple[int, int]:
    tile = grid.tile_at(7.0, 44.4, 8)
    return tile.x, tile.y


def browsers_of(renderer: Renderer) -> list[psutil.Process]:
    """Return the processes below the drawing one that are Chromium's."""
    pid = renderer.status().pid
    found = []
    for process in psutil.Process(pid).children(recursive=True) if pid else ():
        try:
            if "chrom" in process.name():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_two_hundred_in_order_with_a_crash_in_the_middle(archive: Path) -> None:
    finished: list[int] = []
    with own() as renderer:
        expected = renderer.render(replace(flat(archive, 0), width_px=256), WAIT_S).pixels
        tickets = []
        for number in range(200):
            ticket = renderer.submit(flat(archive, number))
            ticket.add_done_callback(lambda _, number=number: finished.append(number))  # type: ignore[misc]
            tickets.append(ticket)
        tickets[100].result(WAIT_S)
        browsers_of(renderer)[0].kill()
        pictures = [ticket.result(WAIT_S).pixels for ticket in tickets]
        status = renderer.status()
    assert finished == list(range(200))
    for number, picture in enumerate(pictures):
        assert np.array_equal(picture[:, : 256 - number], expected[:, number : number + 8])
    assert (status.rendered, status.restarts, status.failed) == (201, 1, 0)


def test_a_page_that_hangs_is_ended_at_the_deadline_and_drawn_again(archive: Path) -> None:
    with own(cell_timeout_s=8.0) as renderer:
        first = renderer.render(flat(archive, 3), WAIT_S).pixels
        for process in browsers_of(renderer):
            process.suspend()
        again = renderer.render(flat(archive, 3), WAIT_S).pixels
        status = renderer.status()
    assert np.array_equal(first, again)
    assert status.restarts == 1
    assert status.last_failure is not None
    assert "in time" in status.last_failure


@pytest.mark.parametrize("driver", [False, True])
def test_a_drawing_process_that_is_killed_takes_its_browser_along(archive: Path, driver: bool) -> None:
    with own() as renderer:
        first = renderer.render(flat(archive, 3), WAIT_S).pixels
        before = browsers_of(renderer)
        pid = renderer.status().pid
        assert pid is not None
        assert before
        os.kill(psutil.Process(pid).children()[0].pid if driver else pid, signal.SIGKILL)
        assert np.array_equal(renderer.render(flat(archive, 3), WAIT_S).pixels, first)
        assert renderer.status().restarts == 1
        until(lambda: not any(process.is_running() for process in before))
        left = browsers_of(renderer)
    assert not any(process.is_running() for process in left)


def test_a_browser_that_never_answers_fails_the_picture_and_stop_does_not_wait(
    archive: Path, tmp_path: Path
) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    with Renderer(program, renderer_environment()) as renderer:
        with pytest.raises(RenderFailed):
            renderer.render(flat(archive, 0), WAIT_S)
        assert renderer.status().rendered == 0
    program.write_text("#!/bin/sh\nsleep 1000\n")
    renderer = Renderer(program, renderer_environment())
    renderer.start()
    until(lambda: renderer.status().pid is not None)
    began = time.monotonic()
    renderer.stop()
    assert time.monotonic() - began < 30


def test_a_lost_graphics_context_is_told(archive: Path) -> None:
    browser = browser_path(browser_program(), browser_folders())
    with PageServer() as server, open_page(browser, server.address) as drawing:
        view = flat(archive, 0)
        scene, job = server.scenes.job(view, *next(iter(view.cells())))
        job |= {"tiles_at": f"{server.path}tiles/{scene}/", "answer": f"{server.path}cells/1"}
        draw = "(job) => window.renderer.draw(job)"
        drawing.page.evaluate(draw, job)
        drawing.page.evaluate("window.renderer.webgl.forceContextLoss()")
        with pytest.raises(Exception, match="context is lost"):
            drawing.page.evaluate(draw, job)


OWNER = """
import sys, time
from pathlib import Path
from layer_generation.renderer.open import new_renderer
renderer = new_renderer()
renderer.start()
while renderer.status().state != "ready":
    time.sleep(0.05)
print(renderer.status().pid, renderer._process.scratch, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("hung", [False, True], ids=["at rest", "hung"])
def test_nothing_is_left_when_the_owner_is_killed(hung: bool) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner:
        pid, folder = owner.stdout.readline().split()
        below = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
        assert any("chrom" in one.name() for one in below)
        if hung:
            for process in below[2:]:
                process.suspend()
        owner.kill()
    until(lambda: not any(process.is_running() for process in below))
    until(lambda: not Path(folder).exists())


# The map


def test_an_isometric_map_is_filled_goes_on_and_is_the_same_every_time(archive: Path, tmp_path: Path) -> None:
    pictures: list[dict[tuple[int, int], Pixels]] = []
    for name in ("one", "two"):
        make_isometric_map(tmp_path / name, CAMERA, (0, 0, 1, 0), archive)
    done(render_map(tmp_path / "one", workers=2))
    work = render_map(tmp_path / "two", workers=2)
    next(work)
    work.close()
    threads = threading.active_count()
    report = done(render_map(tmp_path / "two"))
    assert threading.active_count() <= threads
    assert (report.rendered, report.renderer) == (2, "browser")
    for name in ("one", "two"):
        with QuadrantStore(tmp_path / name) as store:
            every = [(int(x), int(y)) for x, y in store.coordinates()]
            pictures.append({(x, y): decoded(store.image("render", x, y) or b"", "") for x, y in every})
    assert all(np.array_equal(pictures[0][one], pictures[1][one]) for one in pictures[0])
    assert done(render_map(tmp_path / "two")).rendered == 0


def test_the_command_takes_either_renderer(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tile = grid.tile_at(7.0, 44.4, 8)
    box = grid.bounds(tile)
    inside = Bounds(box.west + 0.1, box.south + 0.1, box.east - 0.1, box.north - 0.1)
    for name in ("numpy", "browser"):
        done(make_map(tmp_path / name, archive, 8, inside))
        words = ("map", "render", "--map-dir", tmp_path / name, "--renderer", name, "--json")
        assert told(capsys, *words).json["renderer"] == name
    with QuadrantStore(tmp_path / "numpy") as one, QuadrantStore(tmp_path / "browser") as two:
        assert one.image("render", tile.x, tile.y) == two.image("render", tile.x, tile.y)
    again = told(capsys, "map", "render", "--map-dir", tmp_path / "browser", "--missing", "hole")
    assert (again.code, "--overwrite" in again.said[-1]) == (2, True)
