"""The same archive by each encoder, on the map in Chromium: the same heights, the same picture.

MapLibre GL decodes the tiles as every map page has it: a picture by the browser, heights from its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from playwright.sync_api import Browser, sync_playwright

from fusi_pipeline.at import at
from fusi_pipeline.tiles import terrarium
from fusi_pipeline.tiles.grid import Tile
from fusi_pipeline.tiles.image import encode_webp
from fusi_pipeline.viewer.page import STATIC
from tests import served
from tests.test_serve import running
from tests.test_viewer_browser import ARGUMENTS, CHROMIUM, DESKTOP, WAIT_MS, Shown

pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed (the package chromium)"),
    pytest.mark.skipif(not (STATIC / "index.html").is_file(), reason="not built: just pages viewer"),
]
ZOOMS = range(9)
VIEW = "map=8/44.3/7.0&show=hillshade,colours"
PLACES = [(lon, lat) for lat in (44.0, 44.2, 44.4, 44.6) for lon in (6.5, 6.8, 7.1, 7.4)]
HEIGHTS = """(places) => places.map(
  (place) => viewer.map.queryTerrainElevation(place) / viewer.map.getTerrain().exaggeration
)"""


def tile_by(encoder: str, tile: Tile) -> bytes:
    """Return a tile whose heights are missing outside the box and in a hole."""
    x, y = served.coordinates(tile)
    hole = np.hypot(x - 790_000, y - 5_560_000) < 15_000
    heights = np.where(served.within(tile, served.BOX) & ~hole, served.hills(tile), np.float32(np.nan))
    pixels = terrarium.encode(heights, tile.z)
    assert pixels is not None
    return encode_webp(pixels, encoder)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encoded")
    return {
        name: served.write_pmtiles(
            folder / f"{name}.pmtiles",
            {tile: tile_by(name, tile) for tile in served.tiles_of(served.BOX, ZOOMS)},
            served.metadata(ZOOMS),
        )
        for name in ("fusi", "libwebp")
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def seen(browser: Browser, archive: Path) -> tuple[list[float], npt.NDArray[np.int16]]:
    """Return the heights that the map knows of the places, and what it shows around its middle."""
    with running(archive) as address:
        context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")  # type: ignore[arg-type]
        context.set_default_timeout(WAIT_MS)
        shown = Shown(context.new_page(), address)
        shown.page.on("console", lambda message: shown.said.append(message.text))
        shown.page.goto(f"{address}/#{VIEW}")
        shown.settle()
        picture = shown.pixels()
        shown.switch("terrain")
        heights_m: list[float] = shown.page.evaluate(HEIGHTS, PLACES)
        assert shown.said == []
        context.close()
    return heights_m, picture


def test_the_map_has_the_same_heights_and_the_same_picture(
    browser: Browser, archives: dict[str, Path]
) -> None:
    heights_m, picture = seen(browser, archives["libwebp"])
    for (lon, lat), height_m in zip(PLACES, heights_m, strict=True):
        (report,) = at([archives["fusi"]], lon, lat)
        assert height_m == pytest.approx(report.height_m or 0.0, abs=25)
    assert np.ptp(heights_m) > 300
    own_m, own = seen(browser, archives["fusi"])
    assert own_m == heights_m
    assert np.abs(own - picture).mean() < 1
