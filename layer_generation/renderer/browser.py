"""The browser: found by its name, opened once without a window, with the one page that draws."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layer_generation.errors import RendererUnavailable
from layer_generation.renderer.page_server import STATIC

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
"""What Chromium and its kin are called, in the order of preference."""
INSTALL = 'install it with `pip install "fusi[browser]"` and a Chromium (Debian\'s package `chromium`)'
START_TIMEOUT_S = 60.0
_ARGUMENTS = (
    "--headless=new",
    # Software drawing everywhere: the same bytes on every machine, with a graphics card or without.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    # Nothing but the page's own server is reached, and nothing is sent home.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--disable-breakpad",
    "--disable-crash-reporter",
    "--disable-gpu-watchdog",
    "--disable-dev-shm-usage",
)


def browser_path(stated: str | None, folders: Sequence[Path] = ()) -> Path:
    """Return the browser that a setting names, or the first that is installed.

    `folders` are where playwright puts browsers of its own. Raises
    RendererUnavailable, also where playwright or the built page is missing.
    """
    if importlib.util.find_spec("playwright") is None:
        raise RendererUnavailable(f"the Python package playwright is missing; {INSTALL}")
    if not (STATIC / "renderer.js").is_file():
        raise RendererUnavailable("its page is not built; run `just pages renderer-page`, which takes npm")
    if stated:
        named = shutil.which(stated)
        if named is None:
            raise RendererUnavailable(f"FUSI_CHROMIUM names {stated!r}, which is no program on this machine")
        return Path(named)
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return Path(found)
    for folder in folders:
        for path in sorted(folder.glob("chromium-*/chrome-*/chrome"), reverse=True):
            return path
    raise RendererUnavailable(f"no Chromium is installed; {INSTALL}, or name one by FUSI_CHROMIUM")


@dataclass(frozen=True, slots=True)
class Drawing:
    """An open page that draws."""

    page: Page
    version: str
    said: list[str]
    """What the page complained of since it was opened."""


@contextmanager
def open_page(path: Path, address: str) -> Iterator[Drawing]:
    """Yield the page at an address in a browser of its own; both are closed at the end.

    playwright's own errors come through. The browser's temporary files are
    where the process has its own.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=list(_ARGUMENTS),
            chromium_sandbox=False,  # it opens one page, which is ours, and reaches no other
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
            timeout=START_TIMEOUT_S * 1000,
        )
        page = browser.new_page(viewport={"width": 64, "height": 64})
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.goto(address, timeout=START_TIMEOUT_S * 1000)
        page.wait_for_function("window.renderer !== undefined", timeout=START_TIMEOUT_S * 1000)
        yield Drawing(page, browser.version, said)
        browser.close()
