"""The keyboard map, the help that lists it, and that a reload gives the same picture."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import golden
from tests.browser.double import Double

pytestmark = pytest.mark.browser


def test_the_help_lists_every_key_and_closes(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/queue")
    expect(page.locator(".page-head")).to_be_visible()
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog")
    for word in ("/", "?", "Esc", "Enter", "Space", "[", "]", "d", "I", "K", "1 … 5"):
        expect(
            sheet.locator("kbd", has_text=re.compile(f"^{re.escape(word)}$")).first
        ).to_be_visible()
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()


def test_brackets_step_in_time_and_space_stops_and_follows(page: Page, double: Double) -> None:
    job = golden.largest(double.yard)
    page.goto(f"{double.url}/jobs/{job['id']}/diagnose?last=15m")
    expect(page.locator(".heat-cells").first).to_be_visible()
    page.keyboard.press("[")
    expect(page).to_have_url(re.compile("from="))
    page.keyboard.press("]")
    expect(page).not_to_have_url(re.compile("from="))
    page.keyboard.press("Space")
    expect(page).to_have_url(re.compile("from="))
    page.keyboard.press("Space")
    expect(page).not_to_have_url(re.compile("from="))


def test_keys_are_places_on_the_keyboard_where_letters_would_move(
    page: Page, double: Double
) -> None:
    """As an AZERTY keyboard sends them: its `[` is a `^`, its digits are letters with accents."""
    job = golden.largest(double.yard)
    page.goto(f"{double.url}/jobs/{job['id']}/diagnose?last=15m")
    expect(page.locator(".heat-cells").first).to_be_visible()
    send = (
        "([code, key]) => document.body.dispatchEvent(new KeyboardEvent('keydown',"
        " { code, key, bubbles: true, cancelable: true }))"
    )
    page.evaluate(send, ["BracketLeft", "^"])
    expect(page).to_have_url(re.compile("from="))
    page.goto(double.url)
    expect(page.locator(".map .label").first).to_be_visible()
    page.evaluate(send, ["Digit2", "é"])
    expect(page).to_have_url(re.compile("group=job"))


def test_panning_keys_move_what_scrolls(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/?view=table")
    expect(page.locator(".table tbody tr:not(.spacer)").first).to_be_visible()
    page.evaluate("document.querySelector('.table-box').style.maxHeight = '300px'")
    page.keyboard.press("k")
    expect(page.locator(".table-box")).to_have_js_property("scrollTop", 120)
    page.keyboard.press("i")
    expect(page.locator(".table-box")).to_have_js_property("scrollTop", 0)


def test_dragging_over_a_strip_chooses_a_time_and_escape_lets_go(
    page: Page, double: Double
) -> None:
    job = golden.largest(double.yard)
    page.goto(f"{double.url}/jobs/{job['id']}/diagnose?last=15m")
    strip = page.locator(".heat-pointer").first
    expect(strip).to_be_visible()
    box = strip.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 30, steps=4)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"from=\d+&to=\d+"))
    chosen = re.search(r"from=(\d+)&to=(\d+)", page.url)
    assert chosen
    assert int(chosen[2]) - int(chosen[1]) == pytest.approx(7.5 * 60_000, rel=0.25)
    page.mouse.move(2, 2)
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("from="))


VIEWS = {
    "fleet": ("/", ("2", "Shift+Digit4")),
    "queue": ("/queue?span=7d", ()),
    "usage": ("/usage?since=24h&by=owner", ()),
    "jobs": ("/jobs?show=failed", ()),
    "diagnose": ("JOB/diagnose?metric=gpu_power_w&order=node&x=gpu_util_percent", ("[",)),
    "metrics": ("JOB/metrics?metrics=gpu_temperature_c,gpu_util_percent&how=max", ("[",)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_reload_gives_the_same_picture(browser: Browser, name: str) -> None:
    path, keys = VIEWS[name]
    with golden.frozen(256) as double:
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, locale="en-US", reduced_motion="reduce"
        )
        page = context.new_page()
        page.clock.set_fixed_time(golden.FROZEN_MS / 1000)
        job = f"/jobs/{golden.largest(double.yard)['id']}"
        page.goto(double.url + path.replace("JOB", job))
        golden.still(page)
        for key in keys:
            page.keyboard.press(key)
        before = golden.still(page)
        page.reload()
        after = golden.still(page)
        context.close()

    assert golden.differing(before, after) < 0.0005
