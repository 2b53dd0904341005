"""The page in a browser: what it draws, what it says, and that it asks nobody but its server.

Needs Chromium (Debian's package) and the bundle (`just pages viewer`).
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from fusi_pipeline.at import PlaceReport, at
from fusi_pipeline.tiles.grid import Bounds
from fusi_pipeline.viewer.page import STATIC
from tests import served
from tests.test_serve import running

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
VIEW = "map=8/44.4/7.0"
"""A place with terrain of both sources around its middle."""
MIDDLE = (7.0, 44.4)
DESKTOP = {"width": 720, "height": 440}
PHONE = {"width": 390, "height": 760}
WAIT_MS = 60_000

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed (the package chromium)"),
    pytest.mark.skipif(not (STATIC / "index.html").is_file(), reason="not built: just pages viewer"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    served.write_merged(folder)
    served.write_source(folder)
    across = Bounds(179.0, 43.5, -179.0, 45.0)
    tiles = {
        tile: served.encoded(served.hills(tile), tile.z) for tile in served.tiles_of(across, range(5, 8))
    }
    facts = served.metadata(range(5, 8), name="Across the antimeridian", bounds=across)
    served.write_pmtiles(folder / "across.pmtiles", tiles, facts)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with running(folder / "hills.pmtiles", folder / "source.mbtiles", folder / "across.pmtiles") as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Shown:
    """The page, and everything about it that should not be."""

    page: Page
    address: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """Wait until the map is drawn and at rest."""
        self.until("Boolean(window.viewer?.map?.loaded())")
        self.page.evaluate("new Promise((done) => viewer.map.once('idle', done).triggerRepaint())")

    def until(self, condition: str) -> None:
        """Wait for a condition; not by the page's own eval, which its policy forbids."""
        for _ in range(WAIT_MS // 50):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"{condition} did not come true; the page said {self.said}")

    def switch(self, name: str) -> None:
        self.page.locator(f"#{name}").click()
        self.page.wait_for_timeout(700 if name == "terrain" else 50)
        self.settle()

    def pixels(self) -> npt.NDArray[np.int16]:
        """Return the middle of the map as it is seen, shape (200, 200, 3)."""
        size = self.page.viewport_size
        assert size is not None
        clip = {"x": size["width"] / 2 - 100, "y": size["height"] / 2 - 100, "width": 200, "height": 200}
        data = self.page.screenshot(clip=clip, scale="css")  # type: ignore[arg-type]
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB")).astype(np.int16)

    def place(self) -> dict[str, str]:
        """Return the rows of the popup by name."""
        popup = self.page.locator(".place")
        popup.wait_for(timeout=WAIT_MS)
        return dict(
            zip(popup.locator("dt").all_inner_texts(), popup.locator("dd").all_inner_texts(), strict=True)
        )


@pytest.fixture
def show(browser: Browser, address: str) -> Iterator[Any]:
    """Open the page; at the end it has said nothing and asked nobody else."""
    opened: list[Shown] = []

    def opening(link: str = "", **how: Any) -> Shown:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **how})
        context.set_default_timeout(WAIT_MS)
        shown = Shown(context.new_page(), address)
        opened.append(shown)
        shown.page.on("console", lambda message: shown.said.append(f"{message.type}: {message.text}"))
        shown.page.on("pageerror", lambda error: shown.said.append(str(error)))
        shown.page.on("request", lambda request: shown.asked.append(request.url))
        shown.page.goto(f"{address}/#{link}")
        shown.settle()
        return shown

    yield opening
    for shown in opened:
        shown.page.context.close()
        assert shown.said == []
        elsewhere = [url for url in shown.asked if not url.startswith((f"{address}/", "data:", "blob:"))]
        assert elsewhere == []


def test_the_map_shows_all_of_the_archive_and_says_who_made_it(show: Any) -> None:
    shown = show()
    west, south, east, north = shown.page.evaluate("viewer.map.getBounds().toArray().flat()")
    box = served.BOX
    assert west < box.west < box.east < east
    assert south < box.south < box.north < north
    assert shown.page.title() == "Hills"
    assert "© somebody" in shown.page.locator(".maplibregl-ctrl-attrib").inner_text()
    assert shown.page.locator("#alert").is_hidden()
    assert shown.page.locator(".maplibregl-ctrl-scale").is_visible()
    assert re.match(r"#map=[\d.]+/[\d.]+/[\d.]+", shown.page.evaluate("location.hash"))


def test_hillshade_and_colours_change_what_is_seen(show: Any) -> None:
    shown = show(VIEW)
    both = shown.pixels()
    shown.switch("hillshade")
    colours = shown.pixels()
    shown.switch("colours")
    neither = shown.pixels()
    shown.switch("hillshade")
    shading = shown.pixels()
    assert np.abs(both - colours).mean() > 3
    assert np.abs(colours - neither).mean() > 20
    assert np.abs(shading - neither).mean() > 3
    assert neither.std(axis=(0, 1)).max() < 15, "nothing but the grid is left"


def test_land_sea_and_no_data_look_different(show: Any) -> None:
    shown = show("map=8/43.9/7.8&show=colours")
    land, sea, nothing = ((7.8, 44.3), (7.8, 43.6), (8.2, 43.9))

    def colour(lon: float, lat: float) -> npt.NDArray[np.int16]:
        x, y = shown.page.evaluate(f"(({{x, y}}) => [x, y])(viewer.map.project([{lon}, {lat}]))")
        clip = {"x": x - 4, "y": y - 4, "width": 8, "height": 8}
        with Image.open(io.BytesIO(shown.page.screenshot(clip=clip, scale="css"))) as image:
            return np.median(np.asarray(image.convert("RGB")), axis=(0, 1)).astype(np.int16)

    red, _, blue = colour(*sea)
    assert blue > red + 40
    red, green, blue = colour(*land)
    assert green > blue
    np.testing.assert_allclose(colour(*nothing), (0xDF, 0xE6, 0xEA), atol=3)


def test_the_legend_of_colours_follows_the_place(show: Any) -> None:
    shown = show("map=8/44.9/7.0")
    shown.until("document.querySelectorAll('#ramp .ticks span').length === 3")
    before = shown.page.locator("#ramp .ticks").inner_text()
    shown.page.evaluate("viewer.map.jumpTo({center: [7.0, 43.85], zoom: 10})")
    shown.settle()
    shown.until(f"document.querySelector('#ramp .ticks').innerText !== {before!r}")


@pytest.mark.parametrize("link", [VIEW, f"{VIEW}&archive=source"])
def test_a_click_tells_what_fusi_at_tells(show: Any, folder: Path, link: str) -> None:
    shown = show(link)
    shown.page.mouse.click(DESKTOP["width"] / 2, DESKTOP["height"] / 2)
    told = shown.place()
    lat, lon = re.findall(r"[\d.]+", shown.page.locator(".place h2").inner_text())
    file = "source.mbtiles" if "archive" in link else "hills.pmtiles"
    (report,) = at([folder / file], float(lon), float(lat))
    assert told["Height"] == height(report)
    assert told["Source"] == report.source
    assert told["Zoom"] == str(report.zoom)
    assert told["Vertical step"] == "1 m"
    if report.second_source:
        assert told["Blended with"] == f"{report.second_source}, {round((report.second_share or 0) * 100)} %"
    assert f"at={float(lon):.5f},{float(lat):.5f}" in shown.page.evaluate("location.hash")


def height(report: PlaceReport) -> str:
    assert report.height_m is not None
    return f"{report.height_m:,.2f}".rstrip("0").rstrip(".") + " m"


def test_a_link_opens_the_place_and_the_view_again(show: Any) -> None:
    shown = show(f"{VIEW}&show=hillshade,lineage&opacity=0.35&at=6.50000,44.40000")
    assert shown.place()["Source"] == "Lidar"
    assert shown.page.locator("#lineage").is_checked()
    assert not shown.page.locator("#colours").is_checked()
    assert shown.page.locator("#opacity").input_value() == "0.35"
    assert shown.page.evaluate("viewer.map.getZoom()") == pytest.approx(8)
    shown.page.locator(".maplibregl-popup-close-button").click()
    assert "at=" not in shown.page.evaluate("location.hash")


def test_the_pointer_is_followed_by_position_and_height(show: Any, folder: Path) -> None:
    shown = show(VIEW)
    shown.page.mouse.move(DESKTOP["width"] / 2 + 5, DESKTOP["height"] / 2)
    shown.page.mouse.move(DESKTOP["width"] / 2, DESKTOP["height"] / 2)
    (report,) = at([folder / "hills.pmtiles"], *MIDDLE)
    shown.until(f"document.getElementById('readout').innerText.includes({height(report)!r})")
    assert "44.4000° N, 7.0000° E" in shown.page.locator("#readout").inner_text()


def test_lineage_is_laid_over_and_its_legend_lists_the_sources(show: Any) -> None:
    shown = show(VIEW)
    assert shown.page.locator("#legend").is_hidden()
    before = shown.pixels()
    shown.switch("lineage")
    entries = shown.page.locator("#legend li")
    assert [one.split("\n")[0] for one in entries.all_inner_texts()] == ["Lidar", "Satellites"]
    first = entries.nth(0)
    assert "© The City" in first.inner_text(), "credits are text here"
    assert "CC BY 4.0" in first.inner_text()
    assert first.locator("a").get_attribute("href") == "https://example.org/lidar"
    over = shown.pixels()
    assert np.abs(over - before).mean() > 20
    west, east = over[:, :60].mean(axis=(0, 1)), over[:, -60:].mean(axis=(0, 1))
    assert np.abs(west - east).max() > 40, "two sources in two colours"
    shown.page.locator("#opacity").fill("0.1")
    shown.settle()
    assert np.abs(shown.pixels() - before).mean() < np.abs(over - before).mean() / 2


def test_terrain_rises_and_lies_down_again(show: Any) -> None:
    shown = show(f"{VIEW}&show=colours")
    flat = shown.pixels()
    shown.switch("terrain")
    assert shown.page.evaluate("viewer.map.getTerrain()")["exaggeration"] == 1.5
    assert shown.page.evaluate("viewer.map.getPitch()") == pytest.approx(60)
    shown.page.locator("#exaggeration").fill("3")
    shown.settle()
    assert shown.page.evaluate("viewer.map.getTerrain()")["exaggeration"] == 3
    assert shown.page.evaluate("viewer.map.queryTerrainElevation(viewer.map.getCenter())") > 300
    assert np.abs(shown.pixels() - flat).mean() > 5
    shown.switch("terrain")
    assert shown.page.evaluate("viewer.map.getTerrain()") is None
    assert shown.page.evaluate("viewer.map.getPitch()") == pytest.approx(0)


def test_everything_can_be_done_from_the_keyboard(show: Any) -> None:
    shown = show(VIEW)
    for key, name in (("h", "hillshade"), ("c", "colours"), ("l", "lineage")):
        before = shown.page.locator(f"#{name}").is_checked()
        shown.page.keyboard.press(key)
        assert shown.page.locator(f"#{name}").is_checked() is not before
    shown.page.locator("canvas.maplibregl-canvas").focus()
    shown.page.keyboard.press("Enter")
    assert shown.place()["Zoom"] == "8"
    shown.page.keyboard.press("Escape")
    shown.page.locator(".place").wait_for(state="detached")


def test_another_archive_can_be_chosen(show: Any) -> None:
    shown = show(VIEW)
    shown.page.locator("#archive").select_option(index=1)
    shown.until("Boolean(viewer.map.getSource('heights')?.tiles?.[0].includes('source'))")
    shown.settle()
    assert shown.page.title() == "One source"
    assert shown.page.locator("#sources").is_hidden()
    assert "archive=source" in shown.page.evaluate("location.hash")
    assert shown.pixels().std() > 10


@pytest.mark.parametrize("index", range(2))
def test_a_link_brings_back_an_archive_of_any_name(
    browser: Browser, folder: Path, tmp_path: Path, index: int
) -> None:
    name = ("a%2Fb & c=#d", "50%+é")[index]
    shutil.copy(folder / "hills.pmtiles", tmp_path / f"{name}.pmtiles")
    with running(folder / "source.mbtiles", tmp_path / f"{name}.pmtiles") as address:
        context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")  # type: ignore[arg-type]
        shown = Shown(context.new_page(), address)
        shown.page.on("console", lambda message: shown.said.append(message.text))
        shown.page.goto(f"{address}/#{VIEW}")
        shown.settle()
        shown.page.locator("#archive").select_option(index=1)
        shown.until("document.title === 'Hills'")
        shown.settle()
        shown.page.evaluate("viewer.map.jumpTo({center: [6.5, 44.25], zoom: 9, bearing: 20, pitch: 30})")
        shown.until("location.hash.includes('map=9/44.25/6.5/20/30')")
        shown.page.reload()
        shown.settle()
        assert shown.page.title() == "Hills"
        assert shown.page.locator("#archive").evaluate("one => one.selectedIndex") == 1
        assert shown.page.evaluate("viewer.map.getZoom()") == pytest.approx(9)
        assert shown.page.evaluate("viewer.map.getPitch()") == pytest.approx(30)
        assert shown.pixels().std() > 10
        assert shown.said == []
        context.close()


def test_a_view_that_is_typed_into_the_address_is_shown(show: Any) -> None:
    shown = show(VIEW)
    shown.page.evaluate("location.hash = '#map=7/44/6.5'")
    shown.until("viewer.map.getZoom() === 7")


def test_the_readout_of_one_archive_is_gone_with_it(show: Any) -> None:
    shown = show(VIEW)
    shown.page.mouse.move(DESKTOP["width"] / 2 + 5, DESKTOP["height"] / 2)
    shown.page.mouse.move(DESKTOP["width"] / 2, DESKTOP["height"] / 2)
    shown.until("!document.getElementById('readout').hidden")
    shown.page.evaluate("viewer.show(1, true)")
    shown.until("document.title === 'One source'")
    shown.settle()
    assert shown.page.locator("#readout").is_hidden()


def test_terrain_switched_on_while_another_archive_is_chosen_is_on(show: Any) -> None:
    shown = show(VIEW, reduced_motion="no-preference")
    for pause_ms in (0, 20, 200):
        for index, on in ((1, True), (0, False)):
            shown.page.keyboard.press("t")
            shown.page.wait_for_timeout(pause_ms)
            shown.page.evaluate(f"void viewer.show({index}, true)")
            shown.until(f"document.title === {['Hills', 'One source'][index]!r}")
            shown.settle()
            shown.page.wait_for_timeout(700)
            assert shown.page.locator("#terrain").is_checked() is on
            assert shown.page.evaluate("Boolean(viewer.map.getTerrain())") is on
            assert shown.page.evaluate("viewer.map.getPitch()") == pytest.approx(60 if on else 0)
    shown.page.evaluate("void viewer.show(1, true)")
    shown.page.keyboard.press("t")
    shown.until("document.title === 'One source'")
    shown.page.wait_for_timeout(700)
    shown.settle()
    assert shown.page.evaluate("Boolean(viewer.map.getTerrain())")
    assert shown.page.evaluate("viewer.map.getPitch()") == pytest.approx(60)


def test_an_archive_that_is_gone_leaves_the_other_on_the_map(
    browser: Browser, folder: Path, tmp_path: Path
) -> None:
    path = shutil.copy(folder / "hills.pmtiles", tmp_path / "gone.pmtiles")
    with running(folder / "source.mbtiles", path) as address:
        page = browser.new_context(viewport=DESKTOP).new_page()  # type: ignore[arg-type]
        page.goto(f"{address}/")
        shown = Shown(page, address)
        shown.settle()
        path.unlink()
        page.locator("#archive").select_option(index=1)
        page.locator("#alert").wait_for(timeout=WAIT_MS)
        assert "no such archive" in page.locator("#alert").inner_text()
        assert page.locator("#archive").evaluate("one => one.selectedIndex") == 0
        assert page.title() == "One source"
        page.context.close()


def test_an_archive_across_the_antimeridian_is_shown_where_it_is(show: Any) -> None:
    shown = show("archive=across&show=hillshade,colours")
    lon = shown.page.evaluate("viewer.map.getCenter().lng")
    assert abs(lon) == pytest.approx(180, abs=0.1)
    assert shown.page.evaluate("viewer.map.getZoom()") > 5
    seen = shown.pixels()
    assert seen[:, :80].std() > 5
    assert seen[:, -80:].std() > 5
    shown.until("document.querySelectorAll('#ramp .ticks span').length === 3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_the_map_and_the_panel(show: Any, scheme: str) -> None:
    shown = show(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2, color_scheme=scheme)
    assert shown.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    panel = shown.page.locator("#panel")
    assert panel.bounding_box()["height"] < 60
    panel.locator("summary").tap()
    shown.page.locator("#hillshade").tap()
    box = panel.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    assert box["height"] < 0.65 * PHONE["height"]
    panel.locator("summary").tap()
    shown.settle()
    shown.page.touchscreen.tap(PHONE["width"] / 2, PHONE["height"] / 2)
    assert shown.place()["Height"].endswith(" m")
    popup = shown.page.locator(".maplibregl-popup-content").bounding_box()
    assert popup["x"] >= 0
    assert popup["x"] + popup["width"] <= PHONE["width"]


def test_a_server_that_ends_is_said_so(browser: Browser, folder: Path) -> None:
    with running(folder / "source.mbtiles") as address:
        page = browser.new_context(viewport=DESKTOP).new_page()  # type: ignore[arg-type]
        page.goto(f"{address}/")
        Shown(page, address).settle()
    page.evaluate("viewer.map.jumpTo({center: [6.5, 44.0], zoom: 9})")
    page.locator("#alert").wait_for(timeout=WAIT_MS)
    assert page.locator("#alert").inner_text()
    page.context.close()
