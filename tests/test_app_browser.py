"""The page of the generation app as a person uses it: in Chromium, against an app that really runs."""

from __future__ import annotations

from playwright.sync_api import expect

from layer_generation.quadrants import QuadrantStore
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import NewItem
from tests import app_pages
from tests.app_pages import HOSTILE, NEEDED, PHONE, App, click, generated, rows
from tests.image_faults import status
from tests.image_server import HANG, ImageServer, slow

pytestmark = NEEDED
app, browser, server = app_pages.app, app_pages.browser, app_pages.server


def test_a_person_selects_chooses_a_model_generates_and_watches_it_complete(app: App) -> None:
    page = app.page()
    expect(page.locator("#generate")).to_be_disabled()
    assert page.locator("#model option").all_inner_texts() == [HOSTILE, "Snow", "\u2068Far\u2069 (not ready)"]
    click(page, 1, 1)
    click(page, 2, 1)
    expect(page.locator("#chosen")).to_have_text("2 quadrants selected")
    page.select_option("#model", "snow")
    page.click("#generate")
    expect(page.locator("#items li")).to_have_class("item complete")
    assert generated(app) == {(1, 1), (2, 1)}
    page.keyboard.press("2")
    page.wait_for_function("fusiApp.state.layer === 'generation'")
    page.wait_for_selector("#map img[src^=blob]")
    click(page, 1, 1)
    expect(page.locator("#about")).to_contain_text("Snow")
    assert page.evaluate("window.hit") is None


def test_everything_can_be_done_by_keyboard(app: App) -> None:
    page = app.page()
    page.locator("#map").focus()
    for key in ("ArrowRight", "ArrowDown", " ", "f", "Escape", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#chosen")).to_have_text("Quadrant 3, 2 selected")
    page.keyboard.press("g")
    expect(page.locator("#items li")).to_have_class("item complete")
    page.keyboard.press("n")
    expect(page.locator("#about")).to_contain_text("flagged")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#chosen")).to_contain_text("2 quadrants selected")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()


def test_a_reload_in_the_middle_changes_nothing_and_cancelling_sticks(app: App, server: ImageServer) -> None:
    server.fail(HANG, times=1)
    page = app.page()
    page.keyboard.down("Shift")
    ends = [page.evaluate(f"fusiApp.map.latLngToContainerPoint([{at}, {at}])") for at in (0.5, 2.5)]
    page.mouse.move(ends[0]["x"], ends[0]["y"])
    page.mouse.down()
    page.mouse.move(ends[1]["x"], ends[1]["y"], steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    expect(page.locator("#chosen")).to_have_text("9 quadrants selected")
    page.click("#generate")
    expect(page.locator("#items li.processing")).to_have_count(1)
    before = rows(page)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    assert rows(page) == before
    page.locator("#items li.processing button[title=Cancel]").click()
    expect(page.locator("#items li.cancelled")).to_have_count(1)
    expect(page.locator("#items li.held")).to_have_count(len(before) - 1)
    page.locator("#items li.cancelled button[title=Retry]").click()
    expect(page.locator("#items li.complete")).to_have_count(len(before))
    assert len(generated(app)) == 9


def test_all_that_failed_is_retried_and_what_ended_is_taken_off_by_a_click(
    app: App, server: ImageServer
) -> None:
    server.fail(status(400), times=2)
    page = app.page()
    for x in (0, 3):
        click(page, x, 0)
        page.click("#generate")
        page.keyboard.press("Escape")
    expect(page.locator("#items li.error")).to_have_count(2)
    assert generated(app) == set()
    page.click("#retryFailed")
    expect(page.locator("#items li.complete")).to_have_count(2)
    expect(page.locator("#retryFailed")).to_be_hidden()
    assert generated(app) == {(0, 0), (3, 0)}
    page.locator("#items li.complete button[title='Take off the list']").first.click()
    expect(page.locator("#items li")).to_have_count(1)
    assert generated(app) == {(0, 0), (3, 0)}


def test_two_pages_and_other_programs_see_the_same(app: App, server: ImageServer) -> None:
    server.fail(slow(0.5), times=20)
    first, second = app.page(), app.page(PHONE, has_touch=True, color_scheme="dark")
    with GenerationQueue(app.folder) as queue:
        queue.add(
            [NewItem(item_type="generate", quadrants=((3, 3),)), NewItem(item_type="paint", quadrants=())]
        )
    for page in (first, second):
        expect(page.locator("#items li.error .status")).to_contain_text("item_type = 'paint'")
        expect(page.locator("#items li.complete")).to_have_count(1)
    second.click("#fold")
    second.click("#clearFinished")
    expect(first.locator("#items li")).to_have_count(0)


def test_a_phone_folds_the_panel_and_selects_by_touch(app: App) -> None:
    page = app.page(PHONE, has_touch=True)
    expect(page.locator("#work")).to_be_hidden()
    at = page.evaluate("fusiApp.map.latLngToContainerPoint([0.5, 0.5])")
    page.touchscreen.tap(at["x"], at["y"])
    page.click("#fold")
    expect(page.locator("#chosen")).to_have_text("Quadrant 0, 0 selected")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]


def test_notes_flags_and_deleting_ask_before_what_cannot_be_taken_back(app: App) -> None:
    page = app.page()
    click(page, 0, 0)
    page.select_option("#model", "snow")
    page.click("#generate")
    expect(page.locator("#items li.complete")).to_have_count(1)
    click(page, 0, 0)
    page.keyboard.press("e")
    page.locator("#edit textarea").fill(HOSTILE)
    page.get_by_text("Keep the note").click()
    page.locator("#edit").get_by_role("button", name="Close").click()
    expect(page.locator("#about")).to_contain_text(HOSTILE)
    page.locator("#map").focus()
    page.keyboard.press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="No").click()
    assert generated(app) == {(0, 0)}
    page.keyboard.press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#chosen")).to_have_text("Quadrant 0, 0 selected")
    assert generated(app) == set()


def test_a_question_right_after_another_has_its_own_answer(app: App) -> None:
    """A browser tells that a dialog was closed only with its next frame: that answers no later question."""
    with QuadrantStore(app.folder) as store:
        store.put("generation", [(0, 0, store.image("render", 0, 0))])
    page = app.page()
    click(page, 0, 0)
    page.evaluate(
        """() => {
            const press = () => document.getElementById("map").dispatchEvent(
                new KeyboardEvent("keydown", { key: "Delete", bubbles: true }));
            const say = (word) => [...document.querySelectorAll("dialog[open] button")]
                .find((button) => button.textContent === word).click();
            press();
            say("No");
            press();
            return new Promise((over) => requestAnimationFrame(() => setTimeout(over, 100)));
        }"""
    )
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#chosen")).to_have_text("Quadrant 0, 0 selected")
    assert generated(app) == set()


def test_a_model_that_cannot_be_used_says_why_before_anything_is_queued(app: App) -> None:
    page = app.page()
    page.select_option("#model", "far")
    expect(page.locator("#unready")).to_contain_text("NO_SUCH_KEY")
