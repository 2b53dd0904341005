"""The page of the generation app beside generating: a new map, edits, messages, keys, what is heard."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from layer_generation.camera import MercatorGrid
from layer_generation.map_making import new_store
from layer_generation.pictures import decoded, png
from layer_generation.quadrants import QuadrantStore
from layer_generation.web.generation_queue import GenerationQueue
from layer_generation.web.items import NewItem
from tests import app_pages
from tests.app_pages import NEEDED, PHONE, App, click, running
from tests.image_server import ImageServer
from tests.layers import picture

pytestmark = NEEDED
app, browser, server = app_pages.app, app_pages.browser, app_pages.server


def with_generations(app: App, *quadrants: tuple[int, int]) -> None:
    with QuadrantStore(app.folder) as store:
        store.put("generation", [(x, y, png(255 - picture(x, y))) for x, y in quadrants])


def test_a_map_without_pictures_is_seen_and_says_what_comes_first(tmp_path: Path, browser: object) -> None:
    folder = tmp_path / "bare"
    with new_store(folder, MercatorGrid(zoom=5), {}) as store:
        store.add([(x, y) for x in range(5, 9) for y in range(3)])
    with running(folder, browser) as app:  # type: ignore[arg-type]
        page = app.page()
        assert page.evaluate("fusiApp.state.quadrants.size") == 12
        expect(page.locator("#renderAll")).to_have_text("Render all 12 quadrants")
        click(page, 6, 1)
        expect(page.locator("#chosen")).to_have_text("Quadrant 6, 1 selected")
        page.click("#renderAll")
        expect(page.locator("#items li")).to_have_count(1)
        with GenerationQueue(folder) as queue:
            assert [len(one.item.quadrants) for one in queue.listed()[1]] == [12]


def test_the_dialog_takes_from_and_puts_into_the_layer_that_is_chosen(app: App, tmp_path: Path) -> None:
    with_generations(app, (1, 1), (2, 1))
    page = app.page()
    page.keyboard.press("2")
    click(page, 1, 1)
    click(page, 2, 1)
    page.keyboard.press("e")
    expect(page.locator("#editTitle")).to_have_text("2 quadrants, 1, 1 to 2, 1")
    dialog = page.locator("#edit")
    source, target = dialog.get_by_label("From layer"), dialog.get_by_label("Into layer")
    assert source.locator("option").all_inner_texts() == ["Render", "Generation"]
    assert (source.input_value(), target.input_value()) == ("generation", "generation")
    for layer, expected in (("generation", 255 - picture(2, 1)), ("render", picture(2, 1))):
        source.select_option(layer)
        with page.expect_download() as download:
            dialog.get_by_role("button", name="Download").click()
        assert download.value.suggested_filename == f"{layer}_1_1_2_1.png"
        taken = decoded(Path(download.value.path()).read_bytes(), "it")
        assert np.array_equal(taken[:, 512:], expected)
    over = np.zeros((512, 1024, 4), np.uint8)
    over[:50, 512:] = (1, 2, 3, 255)
    buffer = io.BytesIO()
    Image.fromarray(over).save(buffer, "PNG")
    target.select_option("render")
    dialog.locator("input[type=file]").set_input_files(
        {"name": "it.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    dialog.get_by_label("Change pictures that are there").check()
    dialog.get_by_role("button", name="Put it back").click()
    expect(dialog).to_be_hidden()
    with QuadrantStore(app.folder) as store:
        render, generation = (store.image(kind, 2, 1) for kind in ("render", "generation"))  # type: ignore[arg-type]
        assert store.image("render", 1, 1) == png(picture(1, 1))
    assert render is not None
    laid = picture(2, 1).copy()
    laid[:50] = (1, 2, 3)
    assert np.array_equal(decoded(render, "it"), laid)
    assert generation == png(255 - picture(2, 1))


def test_what_a_layer_shows_is_what_the_dialog_begins_with(app: App) -> None:
    page = app.page()
    page.keyboard.press("1")
    click(page, 0, 0)
    page.keyboard.press("e")
    dialog = page.locator("#edit")
    assert dialog.get_by_label("From layer").input_value() == "render"
    assert dialog.get_by_label("Into layer").input_value() == "render"


def test_an_unsaved_note_never_hides_the_one_that_is_there(app: App) -> None:
    with QuadrantStore(app.folder) as store:
        store.note([(0, 0)], "as it was")
    page = app.page()
    page.route("**/api/quadrants/0/0", lambda route: (page.wait_for_timeout(300), route.continue_()))
    click(page, 0, 0)
    page.keyboard.press("e")
    note = page.locator("#edit").get_by_label("Note")
    expect(note).to_be_enabled()
    expect(note).to_have_value("as it was")


def test_messages_in_crowds_stay_few_and_say_how_many(app: App) -> None:
    page = app.page()
    with GenerationQueue(app.folder) as queue:
        queue.add([NewItem(item_type="paint", quadrants=((0, 0),)) for _ in range(60)])
    expect(page.locator("#items li.error")).to_have_count(60)
    expect(page.locator("#toasts .bad")).to_have_count(1)
    expect(page.locator("#toasts .bad")).to_contain_text("items failed, the last: ")
    expect(page.locator("#toasts .bad")).to_contain_text("item_type = 'paint'")
    for _ in range(9):
        page.keyboard.press("Escape")
        page.keyboard.press("g")
    expect(page.get_by_text("Select quadrants first. (9 times)")).to_be_visible()
    assert page.locator("#toasts > *").count() <= 4
    box = page.locator("#toasts").bounding_box()
    assert box is not None
    assert box["y"] >= 0
    page.get_by_text("Select quadrants first.").click()
    expect(page.get_by_text("Select quadrants first.")).to_have_count(0)


def test_an_answer_that_events_overtook_changes_nothing(app: App) -> None:
    """The answer to Generate says `pending`; where the event that says `complete` came first, it stays so."""
    page = app.page()

    def late(route: object) -> None:
        answer = route.fetch()  # type: ignore[attr-defined]
        page.wait_for_selector("#items li.complete")
        route.fulfill(response=answer)  # type: ignore[attr-defined]

    page.route("**/api/generate", late)
    click(page, 1, 1)
    page.select_option("#model", "snow")
    page.click("#generate")
    expect(page.locator("#items li.complete")).to_have_count(1)
    click(page, 2, 2)  # meanwhile: it stays selected when the answer comes
    expect(page.locator("#generate")).to_have_text("Generate")
    expect(page.locator("#chosen")).to_have_text("Quadrant 2, 2 selected")
    expect(page.locator("#items li.complete")).to_have_count(1)


def test_what_has_a_generation_is_drawn_anew_only_when_asked(app: App) -> None:
    with_generations(app, (1, 1))
    page = app.page()
    click(page, 1, 1)
    page.select_option("#model", "snow")
    page.keyboard.press("g")
    page.get_by_role("dialog").get_by_role("button", name="Draw anew").click()
    expect(page.locator("#items li.complete")).to_have_count(1)
    with QuadrantStore(app.folder) as store:
        assert store.image("generation", 1, 1) != png(255 - picture(1, 1))


def test_a_rectangle_is_selected_by_two_corners_with_the_keyboard(app: App) -> None:
    page = app.page()
    page.locator("#map").focus()
    for key in ("b", " ", "ArrowRight", "ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("#chosen")).to_have_text("6 quadrants selected")
    expect(page.locator("#spoken")).to_have_text("Quadrant 2, 3: render, selected")


def unnamed(page: Page) -> list[str]:
    """Return what can be operated and has no name, as HTML."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, a[href], [tabindex="0"]')]
            .filter((one) => one.checkVisibility())
            .filter((one) => !(one.ariaLabel || one.labels?.length || one.textContent.trim()))
            .map((one) => one.outerHTML)"""
    )
    return found


@pytest.mark.parametrize("size", [None, PHONE])
def test_everything_that_can_be_operated_has_a_name_and_fits(app: App, size: dict[str, int] | None) -> None:
    page = app.page(size)
    if size:
        page.click("#fold")
    click(page, 0, 0)
    page.locator("#more").evaluate("(more) => { more.open = true; }")
    assert unnamed(page) == []
    page.keyboard.press("e")
    expect(page.locator("#edit")).to_be_visible()
    assert unnamed(page) == []
    assert page.evaluate("document.getElementById('edit').scrollWidth <= innerWidth")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_model_of_another_app_is_said_to_wait(app: App, server: ImageServer) -> None:
    with GenerationQueue(app.folder) as queue:
        queue.offer("elsewhere", ["theirs"])
        queue.withdraw("elsewhere")
        queue.add([NewItem(item_type="generate", quadrants=((0, 0),), model_id="theirs")])
    page = app.page()
    expect(page.locator("#resting")).to_contain_text("\u2068theirs\u2069 rests: ")
    expect(page.locator("#resting")).to_contain_text("no app that runs now draws with it")
    expect(page.locator("#items li.pending")).to_have_count(1)


def test_words_of_the_configuration_are_words_only(tmp_path: Path, browser: object) -> None:
    """Whatever a configuration and rows say is text on the page, and nothing that runs."""
    folder = tmp_path / "hostile"
    evil = "<img src=x onerror=window.hit=1>'\"</script><script>window.hit=1</script>`${1}` \u2028"
    with new_store(folder, MercatorGrid(zoom=5), {}) as store:
        store.put("render", [(0, 0, png(picture(0, 0)))])
    models = [
        {"model_id": f"m{number}", "name": f"{evil} {number}", "endpoint": "builtin:pixelart", "prompt": evil,
         "negative_prompt": evil, "parameters": {"steps": 3, evil: evil}}
        for number in range(40)
    ]  # fmt: skip
    (folder / "app_config.json").write_text(json.dumps({"models": models}), encoding="utf-8")
    with running(folder, browser) as app:  # type: ignore[arg-type]
        with QuadrantStore(folder) as store:
            store.note([(0, 0)], evil)
        with GenerationQueue(folder) as queue:
            queue.add([NewItem(item_type=evil, quadrants=((0, 0),), model_id=evil, prompt=evil)])
            queue.add([NewItem(item_type="generate", quadrants=((0, 0),), model_id="m1", prompt=evil)])
        page = app.page()
        expect(page.locator("#items li")).to_have_count(2)
        click(page, 0, 0)
        expect(page.locator("#about")).to_contain_text("<img src=x")
        assert page.evaluate("window.hit") is None
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        side = page.locator("#side").bounding_box()
        assert side is not None
        assert side["width"] < 400


def test_the_page_says_how_far_overviews_are_until_they_are_there(app: App) -> None:
    page = app.page()
    made: list[bool] = []

    def answer(route: Route) -> None:
        if made:
            route.continue_()
            return
        headers = {"Retry-After": "1", "Overview-Progress": "3/16"}
        route.fulfill(status=200, content_type="image/png", body=png(picture(0, 0)), headers=headers)

    page.route("**/tiles/**", answer)
    page.reload()
    page.wait_for_selector("body[data-ready=yes]")
    expect(page.locator("#drawing")).to_have_text(re.compile(r"^Drawing overviews: \d+ of \d+$"))
    made.append(True)
    expect(page.locator("#drawing")).to_be_hidden()


def test_names_turn_nothing_round_and_the_place_is_never_cut_off(app: App) -> None:
    with GenerationQueue(app.folder) as queue:
        queue.add([NewItem(item_type="generate", quadrants=((1, 2),), model_id="\u202eRTL " + "long " * 40)])
    page = app.page()
    title = page.locator("#items .title").first
    expect(title).to_contain_text("(1, 2)")
    # the number and the place are left of the name, and within the row
    row, name = title.bounding_box(), title.locator("bdi").bounding_box()
    spot = title.locator("span").first.bounding_box()
    assert row
    assert name
    assert spot
    assert row["x"] < spot["x"]
    assert spot["x"] + spot["width"] <= min(name["x"] + 1, row["x"] + row["width"])


def test_a_rectangle_stays_on_the_map(app: App) -> None:
    page = app.page()
    click(page, 2, 2)
    page.keyboard.press("Escape")
    page.focus("#map")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    assert page.evaluate("fusiApp.state.box") == [2, 2, 3, 3]
    expect(page.locator("#chosen")).to_have_text("4 quadrants selected")


def test_zoom_and_help_are_reached_on_a_phone_and_in_a_small_window(app: App) -> None:
    for size in (PHONE, {"width": 700, "height": 450}):
        page = app.page(size)
        for is_folded in (True, False):
            if page.evaluate("document.body.classList.contains('folded')") != is_folded:
                page.click("#fold")
            for name in ("zoomIn", "zoomOut"):
                page.click(f"#tools [data-do={name}]")
            page.click("#tools [data-do=help]")
            expect(page.locator("#help")).to_be_visible()
            page.keyboard.press("Escape")
            expect(page.locator("#help")).to_be_hidden()
            if size is not PHONE:
                side = page.locator("#side").bounding_box()
                assert side
                assert side["width"] <= 0.45 * size["width"]
