"""What somebody needs who does not see the page, cannot tell colours, or has no mouse.

`rules.js` runs in the page: names of controls, references between elements, headings, tables,
landmarks, and the contrast of every text against what is really behind it, as WCAG 2.2 reckons it.
"""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.double import Double
from tests.browser.golden import largest, of_phase
from tests.browser.invented import Yard

pytestmark = pytest.mark.browser

RULES = (Path(__file__).parent / "rules.js").read_text(encoding="utf-8")


def pages_of(yard: Yard) -> dict[str, str]:
    job = f"/jobs/{largest(yard)['id']}"
    return {
        "fleet": "/",
        "fleet-table": "/?view=table",
        "queue": "/queue",
        "jobs": "/jobs",
        "usage": "/usage",
        "job": job,
        "job-diagnose": f"{job}/diagnose",
        "job-diagnose-table": f"{job}/diagnose?view=table",
        "job-metrics": f"{job}/metrics",
        "job-logs": f"{job}/logs",
        "job-events": f"{job}/events",
        "job-config": f"{job}/config",
        "job-waiting": f"/jobs/{of_phase(yard, 'waiting')['id']}",
        "job-failed": f"/jobs/{of_phase(yard, 'failed')['id']}",
    }


NAMES = tuple(pages_of(Yard(256)))


@pytest.fixture(scope="module")
def yard256() -> Any:
    with Double(Yard(256)) as running:
        yield running


def rest(page: Page) -> None:
    expect(page.locator("#content:not([aria-busy])")).to_be_visible()
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    page.wait_for_timeout(300)


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("name", NAMES)
def test_every_page_has_names_roles_and_contrast(
    browser: Browser, yard256: Double, name: str, theme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        color_scheme="dark" if theme == "dark" else "light",
        locale="en-US",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(yard256.url + pages_of(yard256.yard)[name])
    rest(page)
    found = page.evaluate(RULES)
    context.close()

    assert found == []


def test_the_rules_find_what_is_wrong(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/jobs")
    rest(page)
    page.evaluate(
        """() => document.querySelector('main').insertAdjacentHTML('beforeend',
          '<button></button><p id=search>twice</p><p class=faint>faint</p><i tabindex=3>x</i>')"""
    )
    page.locator(".faint").evaluate("node => { node.style.color = '#777'; }")
    page.locator(".faint").evaluate("node => { node.style.background = '#888'; }")
    found = " ".join(page.evaluate(RULES))

    for words in ("has no name", "id twice: search", "contrast 1.", "jumps the order"):
        assert words in found


def test_with_less_motion_squares_do_not_fly(browser: Browser, yard256: Double) -> None:
    for motion, flies in (("reduce", False), ("no-preference", True)):
        page = browser.new_page(reduced_motion=motion)  # type: ignore[arg-type]
        page.goto(yard256.url)
        expect(page.locator(".map .label").first).to_be_visible()
        page.wait_for_timeout(500)
        page.evaluate(
            """() => { window.flown = false; new MutationObserver(() => {
              if (document.querySelector('.map.moving')) window.flown = true;
            }).observe(document.body, { subtree: true, attributes: true, childList: true }); }"""
        )
        page.keyboard.press("2")
        expect(page.get_by_role("button", name="Job", exact=True)).to_have_attribute(
            "aria-pressed", "true"
        )
        page.wait_for_timeout(400)
        assert page.evaluate("window.flown") is flies, motion
        page.close()


def test_the_table_of_a_strip_tells_what_the_strip_shows(page: Page, double: Double) -> None:
    job = largest(double.yard)
    page.goto(f"{double.url}/jobs/{job['id']}/diagnose?view=table")
    rows = page.locator(".heat-table tbody tr:not(.spacer)")
    expect(rows.first).to_be_visible()

    table = page.locator(".heat-table table")
    devices = job["members"] * job["gpus"]
    assert int(table.get_attribute("aria-rowcount") or 0) - 1 == devices
    expect(page.locator(".heat-table th")).to_contain_text(
        ["Rank", "Node", "Device", "Utilization"]
    )


def test_a_strip_is_walked_by_keys_and_says_where_one_is(page: Page, double: Double) -> None:
    job = largest(double.yard)
    page.goto(f"{double.url}/jobs/{job['id']}/diagnose?order=rank")
    page.locator(".heat-pointer").first.focus()
    page.keyboard.press("ArrowDown")
    first = page.locator(".heat-tip .mono").first
    expect(first).to_contain_text("rank 0")
    before = first.inner_text()
    page.keyboard.press("ArrowDown")
    expect(first).not_to_have_text(before)


def test_rows_of_a_table_are_walked_by_keys(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/jobs")
    expect(page.locator(".row-link").first).to_be_visible()
    page.locator(".table-box").focus()
    for _ in range(30):  # beyond what exists at once
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(40)
    focused = page.evaluate("document.activeElement.closest('tr')?.getAttribute('aria-rowindex')")
    assert int(focused) > 12
    page.keyboard.press("d")
    expect(page.locator(".tabs a[aria-current]")).to_have_text("Diagnose")
