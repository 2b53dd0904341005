"""The image server's page in a browser: pictures appear, nothing is from elsewhere or becomes markup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from layer_generation.image_api.guard import Access
from tests.image_service import Service, service

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
MARKUP = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def embedded() -> Iterator[Service]:
    with service(factory="layer_generation.image_api.pixelart_backend:opened", queue_depth=20) as running:
        yield running


def opened(browser: Browser, url: str, said: list[str], width: int = 1280) -> Page:
    """Return the page, which may load nothing but from its server; `said` takes what goes wrong."""
    page = browser.new_page(viewport={"width": width, "height": 860})

    def check(route: Route) -> None:
        if not route.request.url.startswith((url, "blob:", "data:")):
            said.append(route.request.url)
        route.continue_()

    page.route("**/*", check)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    return page


def test_a_prompt_becomes_pictures_and_no_markup(browser: Browser, embedded: Service) -> None:
    said: list[str] = []
    page = opened(browser, embedded.url, said)
    title = page.title()
    expect(page.locator("#health")).to_contain_text("pixelart")
    expect(page.locator("#empty")).to_be_visible()
    page.fill("#prompt", f"winter {MARKUP}")
    for name, value in {"count": "2", "seed": "7", "width": "64", "height": "64"}.items():
        page.fill(f"#{name}", value)
    page.click("#draw")
    expect(page.locator(".shot img")).to_have_count(2)
    expect(page.locator(".card h3")).to_have_text(f"winter {MARKUP}")
    expect(page.locator(".shot figcaption span").first).to_have_text("seed 7")
    assert page.locator(".shot img").first.evaluate("image => image.naturalWidth") == 64
    assert page.title() == title
    page.click(".shot >> nth=1 >> text=Start from")
    expect(page.locator("#easel")).to_be_visible()
    page.locator("#brush").click()
    page.fill("#prompt", "autumn")
    page.fill("#count", "1")
    page.click("#draw")
    expect(page.locator(".card >> nth=0 >> .shot img")).to_have_count(1)
    newest = embedded.client.get("/v1/images/generations").json()["data"][0]
    drawn, source = (embedded.poll(one)["result"]["images"] for one in (newest["id"], page_id(page, 1)))
    assert drawn[0]["image"] != source[1]["image"]
    assert said == []
    page.close()


def page_id(page: Page, place: int) -> str:
    return str(page.locator(".card").nth(place).get_attribute("data-id"))


def test_what_others_ask_for_is_shown_and_can_be_cancelled(browser: Browser) -> None:
    said: list[str] = []
    with service() as running:
        page = opened(browser, running.url, said)
        name = running.begin(prompt="slow", steps=150, count=3)
        expect(page.locator(".card h3")).to_have_text("asked for elsewhere")
        expect(page.locator(".card .hint")).to_contain_text("picture 1 of 3")
        page.fill("#prompt", "x")
        page.click("#draw")
        expect(page.locator("#said")).to_contain_text("busy")
        page.click(".card >> text=Cancel")
        expect(page.locator(".badge")).to_have_text("cancelled")
        assert running.poll(name)["status"] == "cancelled"
        running.finished(prompt="fails")
        expect(page.locator(".card >> nth=0 >> .wrong")).to_have_text("no such colour (BACKEND_ERROR)")
        page.close()
    assert [one for one in said if "503" not in one] == []


def test_a_token_is_asked_for(browser: Browser) -> None:
    with service(access=Access(token="s3cret")) as running:
        page = opened(browser, running.url, [])
        page.fill("#token", "s3cret")
        page.click("#entry button")
        expect(page.locator("#model option")).to_have_count(2)
        expect(page.locator("#entry")).to_be_hidden()
        page.close()


def test_it_fits_a_phone(browser: Browser, embedded: Service) -> None:
    said: list[str] = []
    embedded.until(embedded.begin(prompt="w" * 300))
    page = opened(browser, embedded.url, said, width=360)
    expect(page.locator(".shot img").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert said == []
    page.close()


def test_the_page_states_what_it_may_do(embedded: Service) -> None:
    answer: httpx.Response = embedded.client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for name in ("page.css", "page.js", "icon.svg"):
        assert embedded.client.get(f"/page/{name}").status_code == 200
        assert f"page/{name}" in answer.text
