"""The page of a layer's blocks: what is in the file, and what a browser makes of it.

In the browser with Debian's Chromium, with Leaflet where it is bundled (`just pages layer-page`) and without.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from fusi_pipeline.errors import OutputExists
from fusi_pipeline.tiles import grid
from layer_generation import debug_map
from layer_generation.camera import Geometry, IsometricCamera, MercatorGrid
from layer_generation.debug_map import STATIC, write_debug_map
from layer_generation.layer import init_layer
from layer_generation.progress import BlockRow, NewBlock, Progress
from tests.layers import done, told, write_layer, write_map

CHROMIUM = Path("/usr/bin/chromium")
NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & 'é'"
GRID = MercatorGrid(zoom=10)
CAMERA = IsometricCamera(seed_lat=40.7484, seed_lon=-73.9857)
SHAPES: dict[str, tuple[Geometry, list[tuple[int, int]]]] = {
    "mercator": (GRID, [(x, y) for x in range(530, 538) for y in range(370, 378)]),
    "isometric": (CAMERA, [(x, y) for x in range(-4, 4) for y in range(-3, 5)]),
}
browsers = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="Chromium is not installed (the package chromium)"
)
bundled = pytest.mark.skipif(
    not (STATIC / "leaflet.js").is_file(), reason="Leaflet is not bundled: just pages layer-page"
)


def outcome(block: BlockRow) -> str | None:
    return f"one: 500 {NASTY}" if block.id in (2, 5) else None


@pytest.fixture(scope="module", params=list(SHAPES))
def layer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer with blocks of every status."""
    geometry, quadrants = SHAPES[request.param]
    base = tmp_path_factory.mktemp(request.param)
    write_map(base / "map", geometry, quadrants, terrain={"attribution": f"© <b>one</b> {NASTY}"})
    layer = write_layer(base / "layer", base / "map", name=f"snow {NASTY}", blocks=12, outcome=outcome)
    with Progress(layer) as progress:
        progress.claim("worker", 1000)
    return layer


def document(page: Path) -> dict[str, Any]:
    """Return what the page is told."""
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S
    )
    assert found
    value: dict[str, Any] = json.loads(found[1])
    return value


# The file


def test_the_page_holds_every_block(layer: Path, tmp_path: Path) -> None:
    report = done(write_debug_map(layer, tmp_path / "a.html"))
    told_of = document(tmp_path / "a.html")
    with Progress(layer) as progress:
        blocks, blocked, counts = list(progress.blocks()), progress.blocked(), progress.counts()
        edges = {tuple(one) for one in progress.edges().tolist()}
    assert report.blocks == len(blocks) == len(told_of["x"])
    assert told_of["stats"] == {str(step): found for step, found in counts.items()}
    assert blocked
    states = {one.id: one.status for one in blocks}
    for place, block in enumerate(blocks):
        kind = told_of["kind"][place]
        assert kind // 100 == block.step
        assert told_of["statuses"][kind // 10 % 10] == ("blocked" if block.id in blocked else block.status)
        assert (kind % 10 % 2 + 1, kind % 10 // 2 + 1) == (block.width, block.height)
        waits = {told_of["id"][other] for other in told_of["waits"].get(str(place), [])}
        open_ones = {other for one, other in edges if one == block.id and states[other] != "complete"}
        assert waits == (set() if block.status == "complete" else open_ones)


class _Tags(HTMLParser):
    """Collects the tags of a page and the addresses that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_names_and_errors_are_no_markup_and_nothing_is_fetched(layer: Path, tmp_path: Path) -> None:
    done(write_debug_map(layer, tmp_path / "a.html"))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert "img" not in tags.tags
    assert tags.addresses == []
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert "unsafe-inline' " not in policy[1].split("script-src")[1]
    sheets = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert not re.search(r"url\((?!#)", "".join(sheets))


def test_the_page_is_the_same_every_time(layer: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done(write_debug_map(layer, tmp_path / f"{name}.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_files_of_others_stay(layer: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("<p>mine")
    with pytest.raises(OutputExists):
        done(write_debug_map(layer, path))
    done(write_debug_map(layer, path, overwrite=True))
    done(write_debug_map(layer, path))


def test_the_command_writes_beside_the_layer(layer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(capsys, "debug-map", "--layer-dir", layer, "--no-picture", "--json")
    assert answer.code == 0
    assert answer.json["path"] == str(layer / "debug_map.html")
    assert not answer.json["picture"]
    (layer / "debug_map.html").unlink()
    missing = told(capsys, "debug-map", "--layer-dir", layer / "none")
    assert (missing.code, len(missing.said)) == (2, 1)


# The browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless=new", "--no-sandbox"]
        )
        yield browser
        browser.close()


@dataclass
class Shown:
    """The page, and everything about it that should not be."""

    page: Page
    trouble: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def told(self, text: str) -> None:
        """Note what the console says, but for a hint about the reading of pixels, which only tests do."""
        if not text.startswith("Canvas2D: Multiple readback"):
            self.trouble.append(text)

    def colour(self, wx: float, wy: float) -> list[int]:
        """Return the colour, RGBA, that is drawn at a place of the web-mercator square."""
        found: list[int] = self.page.evaluate(
            """([wx, wy]) => {
              const [x, y] = debugMap.view.screen(wx, wy), canvas = document.querySelector('#map canvas');
              const ratio = window.devicePixelRatio || 1;
              return [...canvas.getContext('2d').getImageData(x * ratio, y * ratio, 1, 1).data];
            }""",
            [wx, wy],
        )
        return found

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[[Path], Shown]]:
    pages: list[Shown] = []

    def open_page(path: Path) -> Shown:
        shown = Shown(browser.new_page(viewport={"width": 1100, "height": 760}))
        shown.page.on("console", lambda message: shown.told(message.text))
        shown.page.on("pageerror", lambda error: shown.trouble.append(str(error)))
        shown.page.on("request", lambda request: shown.asked.append(request.url))
        shown.page.goto(path.as_uri())
        shown.page.wait_for_function("window.debugMap")
        pages.append(shown)
        return shown

    yield open_page
    for shown in pages:
        assert shown.trouble == []
        assert [url for url in shown.asked if not url.startswith("data:")] == [shown.page.url]
        shown.page.close()


@pytest.fixture(params=[pytest.param("leaflet", marks=bundled), "plain"])
def view(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Whether Leaflet is in the page."""
    if request.param == "plain":
        monkeypatch.setattr(debug_map, "STATIC", tmp_path / "none")
    return str(request.param)


def middle(geometry: Geometry, block: BlockRow) -> tuple[float, float]:
    """Return the middle of a block in the web-mercator square."""
    corners = geometry.corners(block.x, block.y, block.width, block.height)
    places = [grid.project(one.lon, one.lat) for one in corners]
    x, y = np.mean(places, axis=0)
    world = 2 * grid.HALF_WORLD_M
    return float(x / world + 0.5), float(0.5 - y / world)


def geometry_of(layer: Path) -> Geometry:
    return GRID if "mercator" in str(layer) else CAMERA


@browsers
def test_blocks_are_where_they_are_on_the_ground(
    layer: Path, view: str, tmp_path: Path, show: Callable[[Path], Shown]
) -> None:
    done(write_debug_map(layer, tmp_path / "a.html"))
    shown = show(tmp_path / "a.html")
    assert shown.page.evaluate("debugMap.view.kind") == view
    with Progress(layer) as progress:
        blocks = list(progress.blocks())
    geometry = geometry_of(layer)
    for place, block in enumerate(blocks):
        drawn = np.array(shown.page.evaluate(f"debugMap.corners({place})")).reshape(4, 2)
        expected = [
            grid.project(one.lon, one.lat)
            for one in geometry.corners(block.x, block.y, block.width, block.height)
        ]
        world = 2 * grid.HALF_WORLD_M
        there = np.stack([(drawn[:, 0] - 0.5) * world, (0.5 - drawn[:, 1]) * world], axis=1)
        np.testing.assert_allclose(there, expected, atol=0.01)
        found = shown.page.evaluate("([x, y]) => debugMap.blockAt(x, y)", list(middle(geometry, block)))
        assert found == place
    assert shown.page.evaluate("debugMap.blockAt(0.01, 0.01)") == -1


@browsers
def test_colours_tell_step_and_status(
    layer: Path, view: str, tmp_path: Path, show: Callable[[Path], Shown]
) -> None:
    done(write_debug_map(layer, tmp_path / "a.html", picture=False))
    shown = show(tmp_path / "a.html")
    with Progress(layer) as progress:
        blocks, blocked = list(progress.blocks()), progress.blocked()
    steps = {1: (255, 99, 71), 2: (50, 205, 50), 3: (30, 144, 255)}
    seen: dict[tuple[int, str], list[int]] = {}
    for block in blocks:
        status = "blocked" if block.id in blocked else block.status
        wx, wy = middle(geometry_of(layer), block)
        colour = shown.colour(wx, wy)
        seen[block.step, status] = colour
        if status in ("pending", "in_progress", "complete"):
            assert np.abs(np.array(colour[:3]) - steps[block.step]).max() <= 6, (block, colour)
    assert {status for _, status in seen} == {"pending", "in_progress", "complete", "error", "blocked"}
    assert min(seen[1, "error"][:3]) > 240 or max(seen[1, "error"][:3]) < 60  # the cross, or what it lies on
    alphas = {status: colour[3] for (_, status), colour in seen.items()}
    assert alphas["pending"] < alphas["in_progress"] < alphas["complete"]


@browsers
def test_pointing_and_clicking_tell_of_a_block(
    layer: Path, view: str, tmp_path: Path, show: Callable[[Path], Shown]
) -> None:
    done(write_debug_map(layer, tmp_path / "a.html"))
    shown = show(tmp_path / "a.html")
    with Progress(layer) as progress:
        blocks, held = list(progress.blocks()), progress.blocked()
    failed = next(block for block in blocks if block.status == "error")
    waiting = next(block for block in blocks if block.id in held)
    canvas = shown.page.locator("#map").bounding_box()
    assert canvas is not None
    for block, words in (
        (failed, ["failed", "one", f"one: 500 {NASTY}"]),
        (waiting, ["blocked by a failed one", "waits for", "(failed)", f"one: 500 {NASTY}"]),
    ):
        x, y = shown.page.evaluate(
            "([x, y]) => debugMap.view.screen(x, y)", list(middle(geometry_of(layer), block))
        )
        shown.page.mouse.move(canvas["x"] + x, canvas["y"] + y)
        facts = shown.text("#block")
        assert f"{block.x}, {block.y}" in facts
        assert all(word in facts for word in words)
    shown.page.mouse.down()
    shown.page.mouse.up()
    shown.page.mouse.move(canvas["x"] + 3, canvas["y"] + 300)
    assert f"{waiting.x}, {waiting.y}" in shown.text("#block")
    shown.page.locator("#map").press("Escape")
    assert shown.page.locator("#block").is_hidden()


def test_blocks_are_reached_without_a_pointer(
    layer: Path, view: str, tmp_path: Path, show: Callable[[Path], Shown]
) -> None:
    done(write_debug_map(layer, tmp_path / "a.html"))
    shown = show(tmp_path / "a.html")
    area = shown.page.locator("#map")
    area.press("Enter")
    with Progress(layer) as progress:
        blocks = list(progress.blocks())
    at = {quadrant: block for block in blocks for quadrant in block.quadrants}
    first = next(block for block in blocks if f"{block.x}, {block.y}" in shown.text("#block"))
    area.press("ArrowRight")
    beside = at.get((first.x + first.width, first.y), first)
    assert f"{beside.x}, {beside.y}" in shown.text("#block")
    area.press("ArrowLeft")
    back = at.get((beside.x - 1, beside.y), beside)
    assert f"{back.x}, {back.y}" in shown.text("#block")


@browsers
def test_the_panel_counts_lists_and_escapes(
    layer: Path, view: str, tmp_path: Path, show: Callable[[Path], Shown]
) -> None:
    done(write_debug_map(layer, tmp_path / "a.html"))
    shown = show(tmp_path / "a.html")
    assert shown.text("#name") == f"snow {NASTY}"
    assert shown.page.title() == f"snow {NASTY}: blocks"
    with Progress(layer) as progress:
        counts, less = progress.counts(), sum(block.reason is not None for block in progress.blocks())
    assert (f"; {less} with less context" in shown.text("#what")) == bool(less)
    rows = [line.split() for line in shown.text("#stats").splitlines()]
    totals = next(row for row in rows if row[0] == "all" and len(row) > 2)
    assert [int(value) for value in totals[1:]] == [
        *(sum(counts[step].values()) for step in (1, 2, 3)),
        sum(sum(found.values()) for found in counts.values()),
    ]
    assert shown.page.locator("#legend li").count() == 8
    assert NASTY in shown.text("#errors")
    shown.page.locator("#errors button").first.click()
    assert "failed" in shown.text("#block")
    assert "© one" in shown.text("#credit")


@browsers
def test_the_picture_of_the_map_lies_under_the_blocks(
    tmp_path: Path, view: str, show: Callable[[Path], Shown]
) -> None:
    write_map(tmp_path / "map", GRID, [(x, y) for x in range(530, 536) for y in range(370, 376)])
    layer = write_layer(tmp_path / "layer", tmp_path / "map", blocks=0)
    colours = []
    for picture in (True, False):
        report = done(write_debug_map(layer, tmp_path / f"{picture}.html", picture=picture))
        assert report.picture == picture
        shown = show(tmp_path / f"{picture}.html")
        shown.page.wait_for_timeout(300)
        colours.append(shown.colour(533.5 / 1024, 373.5 / 1024))
    assert colours[0][3] == 255 > colours[1][3]


@browsers
def test_a_layer_without_blocks(tmp_path: Path, view: str, show: Callable[[Path], Shown]) -> None:
    write_map(tmp_path / "map", GRID, [(530, 370)])
    init_layer(tmp_path / "layer", name="none", generation_dir=tmp_path / "map", source_layer="renders")
    (tmp_path / "layer" / "progress.db").unlink()
    Progress.create(tmp_path / "layer").close()
    assert done(write_debug_map(tmp_path / "layer", tmp_path / "a.html")).blocks == 0
    shown = show(tmp_path / "a.html")
    assert shown.page.locator("#empty").is_visible()
    assert "0 blocks" in shown.text("#what")


@browsers
def test_a_hundred_thousand_blocks(tmp_path: Path, view: str, show: Callable[[Path], Shown]) -> None:
    write_map(tmp_path / "map", GRID, [(530, 370)])
    init_layer(tmp_path / "layer", name="large", generation_dir=tmp_path / "map", source_layer="renders")
    (tmp_path / "layer" / "progress.db").unlink()
    side = 317
    blocks = [NewBlock(1 + n % 3, 0, n % side, n // side, 1, 1) for n in range(100_000)]
    edges = np.array([(n, n - 1) for n in range(1, 100_000)], dtype=np.int64)
    with Progress.create(tmp_path / "layer") as progress:
        progress.add(blocks, edges)
        block = progress.claim("worker", 1000)
        assert block is not None
        progress.fail(block.id, "worker", "gone", model_name="one")
    report = done(write_debug_map(tmp_path / "layer", tmp_path / "a.html"))
    assert report.bytes < 12_000_000
    shown = show(tmp_path / "a.html")
    assert shown.page.evaluate("debugMap.count") == 100_000
    assert shown.page.evaluate("debugMap.blockAt(100.5 / 1024, 200.5 / 1024)") == 200 * side + 100
    assert shown.colour(100.5 / 1024, 200.5 / 1024)[3] > 0
    assert "100000 blocks" in shown.text("#what")
