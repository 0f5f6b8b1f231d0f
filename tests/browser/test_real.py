"""The page before the real daemon: the login link, devices, a job's whole life, and a restart."""

import json
import re
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.look import listen
from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.browser

# Reports and writes a line for each line of the file that the test appends to: no clock decides.
PROGRAM = """
import madang, os, sys, time
path, step = sys.argv[1], 0
print("begun", flush=True)
while not madang.should_stop():
    for word in open(path).read().split()[step:]:
        step += 1
        if word == "end":
            sys.exit(3)
        madang.report(step=step, loss=1 / step, accuracy=step / 10)
        print(f"line {step} {word}", flush=True)
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory) -> Iterator[LiveYard]:
    with LiveYard(tmp_path_factory.mktemp("yard") / "state", devices=3) as running:
        yield running


@pytest.fixture
def page(browser: Browser, yard: LiveYard) -> Iterator[Page]:
    """Logged in by the link; an error in the page's console fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    page = context.new_page()
    problems = listen(page)
    page.set_default_timeout(20_000)
    expect.set_options(timeout=20_000)
    page.goto(yard.ask("POST", "/v1/login-links", {})["url"])
    yield page
    context.close()
    left = [view["id"] for view in yard.ask("GET", "/v1/jobs?phase=live")["jobs"]]
    for job in left:
        yard.ask("POST", f"/v1/jobs/{job}/stop", {"grace": "0s"})
    yard.wait_ended(left)
    assert [p for p in problems if "ERR_" not in p] == []


def count(page: Page, state: str):
    return page.locator(".states-list > button", has_text=state).locator("b")


def test_without_the_login_link_nothing_is_told(browser: Browser, yard: LiveYard) -> None:
    page = browser.new_page(locale="en-US")
    page.goto(yard.url)

    expect(page.locator(".empty")).to_contain_text("madang web")
    page.close()


def test_a_job_lives_its_life_before_ones_eyes(page: Page, yard: LiveYard, tmp_path) -> None:
    expect(page.locator(".top-name")).to_contain_text("3 CPU slots on 1 node")
    expect(page.locator(".live")).to_have_text("Live")
    expect(count(page, "Free")).to_have_text("3")
    words = tmp_path / "words"
    words.write_text("one\n")
    command = [sys.executable, "-c", PROGRAM, str(words)]
    job = yard.ask("POST", "/v1/jobs", {"name": "life", "command": command})["id"]

    expect(count(page, "Running")).to_have_text("1")
    expect(count(page, "Free")).to_have_text("2")
    page.get_by_role("link", name=job).first.click()
    expect(page.locator(".job-head .pill")).to_contain_text("Running")
    page.get_by_role("link", name="Logs", exact=True).first.click()
    expect(page.locator(".log-line").last).to_contain_text("line 1 one")
    with words.open("a") as more:
        more.write("two three\n")
    expect(page.locator(".log-line").last).to_contain_text("line 3 three")

    page.get_by_role("link", name="Metrics").click()
    expect(page.locator(".plot-card h2")).to_have_text(["loss", "accuracy"])
    expect(page.locator(".plot-card").first).to_contain_text("0.3333")
    with words.open("a") as more:
        more.write("four\n")
    expect(page.locator(".plot-card").first).to_contain_text("0.25")

    with words.open("a") as more:
        more.write("end\n")
    expect(page.locator(".job-head .pill")).to_have_text("Failed, exit 3")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".why")).to_contain_text("member 0 exited with 3")
    page.get_by_role("link", name="Fleet").click()
    expect(count(page, "Free")).to_have_text("3")
    expect(page.locator(".side")).to_contain_text(job)


def test_the_queue_says_why_and_moves_when_devices_are_freed(page: Page, yard: LiveYard) -> None:
    sleep = {"command": ["sleep", "600"], "gpus": 2, "grace": "0s"}
    first, second = (yard.ask("POST", "/v1/jobs", sleep)["id"] for _ in range(2))
    page.goto(f"{yard.url}/queue")
    row = page.locator(".table tbody tr.link")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(second)
    expect(row).to_contain_text("needs 2 CPU slots; 1 of 3 such CPU slots are free")

    page.goto(f"{yard.url}/jobs/{first}")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(page.locator(".job-head .pill")).to_have_text("Stopped")
    page.goto(f"{yard.url}/jobs/{second}")
    expect(page.locator(".job-head .pill")).to_contain_text("Running")
    yard.ask("POST", f"/v1/jobs/{second}/stop", {})
    expect(page.locator(".job-head .pill")).to_have_text("Stopped")


def test_every_address_of_the_page_survives_a_reload(page: Page, yard: LiveYard) -> None:
    job = yard.ask("POST", "/v1/jobs", {"command": ["true"], "name": "short"})["id"]
    yard.wait_ended([job])
    tabs = [f"/jobs/{job}{tab}" for tab in ("", "/metrics", "/logs", "/events", "/config")]
    for path in ("/", "/jobs", "/queue", "/usage", *tabs):
        answer = page.goto(yard.url + path)
        assert answer is not None
        assert answer.status == 200, path
        expect(page.locator("#content:not([aria-busy])")).to_be_visible()
        expect(page.locator(".live")).to_have_text("Live")


def test_a_page_left_open_finds_the_daemon_after_its_restart(page: Page, yard: LiveYard) -> None:
    job = yard.ask("POST", "/v1/jobs", {"command": ["sleep", "600"], "grace": "0s"})["id"]
    expect(count(page, "Running")).to_have_text("1")
    yard.kill()
    expect(page.locator(".live")).to_contain_text("Not reachable")
    yard.start()

    expect(page.locator(".live")).to_have_text("Live")
    expect(count(page, "Running")).to_have_text("1")
    yard.ask("POST", f"/v1/jobs/{job}/stop", {})
    expect(count(page, "Running")).to_have_text("0")
    assert json.dumps(page.context.cookies()) != "[]"
    assert re.match(r"madang-\d+", page.context.cookies()[0].get("name", ""))
