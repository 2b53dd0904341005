"""The page of the generation app in Chromium, against an app that really runs: what its tests share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from layer_generation.camera import MercatorGrid
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.page import STATIC
from tests.image_server import ImageServer
from tests.layers import write_map

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = """O'Brien "x" </script><img src=x onerror=window.hit=1>"""
SIDE = 4
PATIENCE_MS = 60_000
"""For what surely comes, on a machine that is busy."""
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 780}

NEEDED = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed (the package chromium)"),
    pytest.mark.skipif(not (STATIC / "index.html").is_file(), reason="not built: just pages app-page"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless=new", "--no-sandbox"]
        )
        expect.set_options(timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with ImageServer() as server:
        yield server


@dataclass
class App:
    """An app that runs, and the pages that look at it."""

    address: str
    folder: Path
    browser: Browser
    pages: list[Page] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def page(self, size: dict[str, int] | None = None, **more: object) -> Page:
        page = self.browser.new_page(viewport=size or DESKTOP, **more)  # type: ignore[arg-type]
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("console", lambda line: self.said.append(line.text) if line.type == "error" else None)
        page.set_default_timeout(PATIENCE_MS)
        page.goto(self.address)
        page.wait_for_selector("body[data-ready=yes]")
        self.pages.append(page)
        return page


@pytest.fixture
def app(tmp_path: Path, browser: Browser, server: ImageServer) -> Iterator[App]:
    quadrants = [(x, y) for y in range(SIDE) for x in range(SIDE)]
    folder = write_map(tmp_path / "map", MercatorGrid(zoom=5), quadrants)
    url = server.config("base64").url
    models = [
        {"model_id": "negative", "name": HOSTILE, "endpoint": url, "context": "none", "prompt": "negative"},
        {"model_id": "snow", "name": "Snow", "endpoint": "builtin:pixelart", "prompt": "snow"},
        {"model_id": "far", "name": "Far", "endpoint": url, "api_key_env": "NO_SUCH_KEY"},
    ]
    (folder / "app_config.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    with running(folder, browser) as app:
        yield app


@contextmanager
def running(folder: Path, browser: Browser) -> Iterator[App]:
    """Run the app of a map; nothing may be said on the pages' consoles, and it ends as told."""
    command = [sys.executable, "-m", "fusi_pipeline.cli", "app", str(folder), "--port", "auto"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.readline()
        assert said, process.stderr.read()
        app = App(said.split()[0], folder, browser)
        try:
            yield app
            assert app.said == []
        finally:
            for page in app.pages:
                page.unroute_all(behavior="wait")  # a request under way would be the next test's error
                page.close()
            process.terminate()
            assert process.wait(30) == 0


def click(page: Page, x: int, y: int, **more: object) -> None:
    """Click the middle of a quadrant."""
    at = page.evaluate(f"fusiApp.map.latLngToContainerPoint([{y} + 0.5, {x} + 0.5])")
    page.mouse.click(at["x"], at["y"], **more)  # type: ignore[arg-type]


def rows(page: Page) -> dict[int, str]:
    """Return the items of the list with how they stand."""
    listed = page.evaluate(
        "[...document.querySelectorAll('#items li')].map((row) => [Number(row.dataset.id), row.className])"
    )
    return {number: words.split()[1] for number, words in listed}


def generated(app: App) -> set[tuple[int, int]]:
    with QuadrantStore(app.folder) as store:
        return {(x, y) for x, y in store.coordinates("generation").tolist()}
