"""The Fleet page on live columns, before a real daemon over a virtual fleet of 32 GPUs."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.look import listen
from tests.browser.staged import Staged
from tests.browser.test_real import count

pytestmark = pytest.mark.browser

SMALL = Path(__file__).parents[2] / "examples" / "fleets" / "small.yaml"
LONG = {"MADANG_VIRTUAL_SECONDS": "100000"}


@pytest.fixture(scope="module")
def yard(tmp_path_factory) -> Iterator[Staged]:
    with Staged(tmp_path_factory.mktemp("fleet") / "state", SMALL) as running:
        assert running.gpus() == 32
        yield running


# A test cuts the line, and another breaks a message: both are told, and nothing else is.
MEANT = ("ERR_", "live data did not fit, beginning anew")


@pytest.fixture
def page(browser: Browser, yard: Staged) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    page = context.new_page()
    said = listen(page)
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    page.goto(yard.login_url())
    expect(page.locator(".live")).to_have_text("Live")
    yield page
    context.close()
    left = [view["id"] for view in yard.ask("GET", "/v1/jobs?phase=live")["jobs"]]
    for job in left:
        yard.ask("POST", f"/v1/jobs/{job}/stop", {"grace": "0s"})
    yard.wait_ended(left)
    assert [one for one in said if not any(word in one for word in MEANT)] == []


def run(yard: Staged, name: str, gpus: int, **more: object) -> str:
    body = {"name": name, "gpus": gpus, "command": ["true"], "env": LONG, **more}
    return str(yard.ask("POST", "/v1/jobs", body)["id"])


def test_the_map_fills_and_empties_without_asking_for_the_list_of_nodes(page, yard) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    expect(count(page, "Free")).to_have_text("32")
    job = run(yard, "eight", 8)

    expect(count(page, "Running")).to_have_text("8")
    expect(count(page, "Free")).to_have_text("24")
    yard.ask("POST", f"/v1/jobs/{job}/stop", {"grace": "0s"})
    expect(count(page, "Free")).to_have_text("32")
    assert not [url for url in asked if url.endswith(("/v1/nodes", "/v1/top"))]


def test_space_holds_the_picture_still_and_lets_it_go_on(page, yard) -> None:
    first = run(yard, "first", 4)
    expect(count(page, "Running")).to_have_text("4")
    page.keyboard.press("Space")
    expect(page.locator(".live")).to_have_text("Held still")
    run(yard, "second", 4)
    running = page.locator(".kpi", has_text="Running").locator(".kpi-value")
    expect(running).to_have_text("2")  # the rest of the page goes on

    expect(count(page, "Running")).to_have_text("4")
    page.keyboard.press("Space")
    expect(count(page, "Running")).to_have_text("8")
    expect(page.locator(".live")).to_have_text("Live")
    assert first


def test_a_line_that_is_cut_is_taken_up_again_by_itself(page, yard) -> None:
    page.evaluate("""() => {
      window.made = [];
      const Real = window.WebSocket;
      window.WebSocket = class extends Real {
        constructor(url) { super(url); window.made.push(String(url)); }
      };
    }""")
    # The daemon is gone and back: the line has to be made anew, whatever its state was.
    yard.kill()
    expect(page.locator(".live")).to_contain_text("Not reachable")
    yard.start()
    expect(page.locator(".live")).to_have_text("Live")
    run(yard, "after", 2)
    expect(count(page, "Running")).to_have_text("2")
    tried = page.evaluate("window.made")
    assert any(re.search(r"since=\d+", url) for url in tried), tried


def test_the_last_day_is_replayed_by_keys_and_the_url_holds_the_moment(page, yard) -> None:
    drag = page.locator(".band-head", has_text="Drag to replay")
    expect(drag).to_be_visible(timeout=90_000)  # a first moment is kept
    page.keyboard.press("[")

    expect(page.locator(".live")).to_have_text("Replay")
    assert re.search(r"[?&]at=\d+", page.url)
    expect(page.locator(".band-past")).to_contain_text("running")
    # Nothing of now beside a moment of then.
    expect(page.locator(".kpis")).not_to_contain_text("Waiting")
    expect(page.locator(".side")).not_to_contain_text("Next in queue")
    page.reload()
    expect(page.locator(".live")).to_have_text("Replay")
    page.get_by_role("button", name="Back to live").click()
    expect(page.locator(".live")).to_have_text("Live")
    assert "at=" not in page.url


def test_the_legend_filters_by_a_range_that_is_drawn_on_it(page, yard) -> None:
    run(yard, "busy", 8)
    bins = page.locator(".legend svg")
    expect(bins).to_be_visible()
    box = bins.bounding_box()
    assert box
    page.mouse.move(box["x"] + 2, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 10)
    page.mouse.up()

    assert re.search(r"where=util%3A\d+-\d+", page.url), page.url
    expect(page.locator(".legend .brush")).to_be_visible()
    page.mouse.click(box["x"] + 5, box["y"] + 10)
    expect(page.locator(".legend .brush")).to_have_count(0)


def test_a_broken_message_is_not_shown_but_asked_for_anew(page, yard) -> None:
    """Half a message on the line: the page begins again with a snapshot, and says nothing wrong."""
    page.evaluate("""() => {
      const Real = window.WebSocket;
      let broken = false;
      window.WebSocket = class extends Real {
        set onmessage(take) {
          super.onmessage = (event) => {
            if (broken || typeof event.data === 'string') return take(event);
            broken = true;
            take(new MessageEvent('message', { data: event.data.slice(0, 15) }));
          };
        }
      };
    }""")
    with page.expect_websocket() as second:
        yard.kill()
        yard.start()
    assert "/v1/live" in second.value.url
    run(yard, "whole", 3)

    expect(page.locator(".live")).to_have_text("Live")
    expect(count(page, "Running")).to_have_text("3")


def test_a_daemon_that_answers_nothing_but_the_line_still_gives_the_map(browser, yard) -> None:
    """The map needs the line alone: nothing else of the API has to answer first."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    page = context.new_page()
    page.goto(yard.login_url())

    def never(route: Route) -> None:
        pass

    for path in ("overview", "jobs**", "projects"):
        page.route(f"**/v1/{path}", never)
    page.goto(yard.url)

    expect(page.locator(".map .label").first).to_be_visible()
    expect(count(page, "Free")).to_have_text(re.compile(r"\d+"))
    context.close()
