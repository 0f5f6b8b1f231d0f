"""What a person sees and does, in Chromium: the page as it is built, under the daemon's policy."""

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.double import Double
from tests.browser.invented import Yard

pytestmark = pytest.mark.browser


def job_of(double: Double, phase: str, members: int = 1) -> dict[str, Any]:
    return next(
        job
        for job in double.yard.jobs.values()
        if job["phase"] == phase and job["members"] >= members
    )


def legend(page: Page, state: str) -> int:
    text = page.locator(".states-list > button", has_text=state).locator("b").inner_text()
    return int(text.replace(",", ""))


BLUE_AND_NOT_EMPTY = """async bytes => {
  const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
  const context = new OffscreenCanvas(image.width, image.height).getContext('2d');
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  let blue = 0, drawn = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b] = [data[i], data[i + 1], data[i + 2]];
    if (Math.abs(r - data[0]) + Math.abs(g - data[1]) + Math.abs(b - data[2]) > 24) drawn++;
    if (b > r + 60) blue++;
  }
  return [drawn / data.length * 4, blue / data.length * 4];
}"""


def seen(page: Page) -> tuple[float, float]:
    """Shares of the map that are drawn at all, and that are the blue of running devices."""
    expect(page.locator(".map .label").first).to_be_visible()
    page.mouse.move(2, 2)
    page.wait_for_timeout(900)  # the blend of looks, and the first readings
    picture = list(page.locator(".map").screenshot())
    drawn, blue = page.evaluate(BLUE_AND_NOT_EMPTY, picture)
    return drawn, blue


def test_the_fleet_shows_every_device_once_and_counts_states(page: Page, double: Double) -> None:
    page.goto(double.url)

    expect(page.locator(".top-name")).to_contain_text("64 GPUs on 8 nodes")
    expect(page.locator(".live")).to_have_text("Live")
    counts = page.locator(".states-list > button b").all_inner_texts()
    assert sum(int(text) for text in counts) == 64
    assert page.locator(".map-canvas canvas").get_attribute("data-renderer") == "webgl2"


def test_without_webgl_the_plain_canvas_draws_the_same_map(browser: Browser) -> None:
    """Colours by project, so that no reading changes between the two pictures."""
    no_gl = (
        "const ask = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...more) {"
        "  return kind === 'webgl2' ? null : ask.call(this, kind, ...more); };"
    )
    found = {}
    with Double(Yard(1024)) as double:
        for kind in ("webgl2", "canvas2d"):
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="dark")
            if kind == "canvas2d":
                page.add_init_script(no_gl)
            page.goto(f"{double.url}/?group=job&color=project")
            canvas = page.locator(".map-canvas canvas")
            expect(canvas).to_have_attribute("data-renderer", kind)
            found[kind] = seen(page)
            page.close()

    assert found["webgl2"][0] > 0.3
    assert found["webgl2"][1] > 0.02
    assert found["canvas2d"] == pytest.approx(found["webgl2"], abs=0.03)


def test_a_lost_gl_context_falls_back_to_the_plain_canvas(page: Page, double: Double) -> None:
    page.goto(double.url)
    expect(page.locator(".map-canvas canvas")).to_have_attribute("data-renderer", "webgl2")
    page.evaluate(
        "document.querySelector('.map-canvas canvas').getContext('webgl2')"
        ".getExtension('WEBGL_lose_context').loseContext()"
    )

    expect(page.locator(".map-canvas canvas")).to_have_attribute("data-renderer", "canvas2d")


def test_the_legend_filters_and_the_url_holds_the_view(page: Page, double: Double) -> None:
    page.goto(double.url)
    page.locator(".states-list > button", has_text="Free").click()
    page.keyboard.press("2")
    page.keyboard.press("Shift+Digit4")

    expect(page).to_have_url(re.compile(r"where=state%3Afree"))
    expect(page).to_have_url(re.compile(r"group=job"))
    expect(page).to_have_url(re.compile(r"color=power"))

    page.reload()
    expect(page.get_by_role("button", name="Job", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.keyboard.press("Escape")
    expect(page).not_to_have_url(re.compile("where="))


def test_the_table_holds_the_same_query_as_the_map(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/?view=table&where=state:free")
    expect(page.locator(".table tbody tr:not(.spacer)").first).to_be_visible()

    rows = int(page.locator(".table").get_attribute("aria-rowcount") or 0) - 1
    assert rows == legend(page, "Free")


def test_an_event_reaches_the_page_without_a_reload(page: Page, double: Double) -> None:
    page.goto(double.url)
    expect(page.locator(".live")).to_have_text("Live")
    before = legend(page, "Free")
    job = job_of(double, "running")
    freed = job["members"] * job["gpus"]
    with double.yard.news:
        double.yard.end(job, "succeeded", 0)
        double.yard.tell("job", job)

    expect(page.locator(".states-list > button", has_text="Free").locator("b")).to_have_text(
        str(before + freed)
    )
    # Only what changed was sent: the line was made once, and the list of nodes never asked for.
    assert sum(path.startswith("/v1/live?") for path in double.yard.asked) == 1
    assert "/v1/nodes" not in double.yard.asked


def test_a_daemon_that_comes_back_is_found_again_and_events_resume(browser: Browser) -> None:
    yard = Yard(16)
    with Double(yard) as first:
        port = first.server.server_address[1]
        page = browser.new_page()
        page.goto(first.url)
        expect(page.locator(".live")).to_have_text("Live")
        with yard.news:
            yard.tell("job", job_of(first, "running"))
        page.wait_for_timeout(600)
        first.stop_streams()
    expect(page.locator(".live")).to_contain_text("Not reachable")
    missed = next(job for job in yard.jobs.values() if job["phase"] == "running")
    with yard.news:
        yard.end(missed, "failed", 3)
        yard.tell("job", missed)
    with Double(yard, port):
        expect(page.locator(".live")).to_have_text("Live", timeout=20_000)

        expect(page.locator(".side")).to_contain_text(missed["id"], timeout=10_000)
    page.close()


def test_arrows_walk_the_map_and_enter_opens_the_job(page: Page, double: Double) -> None:
    page.goto(double.url)
    page.locator(".map-pointer").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".card")).to_contain_text("gpu1")
    job_id = page.locator(".card-job").inner_text()
    page.keyboard.press("Enter")

    expect(page.locator("h1")).to_have_text(job_id)


def test_search_jumps_to_a_job(page: Page, double: Double) -> None:
    job = job_of(double, "waiting")
    page.goto(double.url)
    expect(page.locator(".kpis")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type(job["id"])
    page.keyboard.press("Enter")

    expect(page.locator("h1")).to_have_text(job["id"])
    expect(page.locator(".why")).to_contain_text("GPUs are free")


def test_go_keys_open_the_pages(page: Page, double: Double) -> None:
    page.goto(double.url)
    for key, path in (("j", "/jobs"), ("q", "/queue"), ("u", "/usage"), ("f", "/")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        expect(page).to_have_url(double.url + path)


def test_the_queue_says_who_waits_why_and_until_when(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/queue")
    rows = page.locator(".table tbody tr.link")

    expect(rows).to_have_count(len(double.yard.waiting()))
    first = double.yard.waiting()[0]
    expect(rows.first).to_contain_text(first["id"])
    expect(rows.first).to_contain_text(first["waits"]["text"])
    expect(rows.first).to_contain_text("in 20 m")


def test_jobs_are_listed_and_filtered_by_phase_and_text(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/jobs")
    expect(page.locator(".page-head p")).to_have_text(f"{len(double.yard.jobs)} jobs")
    page.get_by_role("button", name="Failed").click()
    failed = [job for job in double.yard.jobs.values() if job["phase"] == "failed"]
    expect(page.locator(".table tbody tr.link")).to_have_count(len(failed))

    page.goto(f"{double.url}/jobs?where={failed[0]['id']}")
    expect(page.locator(".table tbody tr.link")).to_have_count(1)


def test_ten_thousand_ended_jobs_scroll_in_pages(page: Page, double: Double) -> None:
    for i in range(10_000):
        double.yard._ended("succeeded", 2 + i)
    page.goto(f"{double.url}/jobs?show=ended")
    expect(page.locator(".table tbody tr.link").first).to_be_visible()
    assert page.locator(".table tbody tr").count() < 100
    for _ in range(3):
        page.locator(".table-box").evaluate("box => box.scrollTop = box.scrollHeight")
        page.wait_for_timeout(500)

    pages = [path for path in double.yard.asked if "phase=ended&limit=200" in path]
    assert 3 <= len(pages) <= 8
    assert page.locator(".table tbody tr").count() < 100


def test_a_job_shows_members_metrics_and_events(page: Page, double: Double) -> None:
    job = job_of(double, "running", members=1)
    page.goto(f"{double.url}/jobs/{job['id']}")
    expect(page.locator(".members tbody tr:not(.spacer)")).to_have_count(job["members"])

    page.get_by_role("link", name="Metrics").click()
    expect(page.locator(".plot-card h2")).to_have_text(
        ["loss", "grad_norm", "lr", "tokens_per_s", "val_accuracy"]
    )
    expect(page.locator(".plot canvas").first).to_be_visible()
    page.get_by_role("link", name="Events").click()
    expect(page.locator(".events li")).to_have_count(3)
    page.get_by_role("link", name="Config").click()
    expect(page.locator(".paper")).to_contain_text("WANDB_MODE")
    expect(page.locator(".paper")).not_to_contain_text("offline")


def test_stop_asks_first_and_then_stops(page: Page, double: Double) -> None:
    job = job_of(double, "running")
    page.goto(f"{double.url}/jobs/{job['id']}")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("dialog")).to_contain_text("SIGTERM")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert not any(path.startswith("POST") for path in double.yard.asked)

    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    expect(page.locator(".job-head .pill")).to_have_text("Stopped")
    assert f"POST /v1/jobs/{job['id']}/stop" in double.yard.asked


def test_the_log_follows_pauses_when_scrolled_and_finds(page: Page, double: Double) -> None:
    job = job_of(double, "running")
    page.goto(f"{double.url}/jobs/{job['id']}/logs")
    last = page.locator(".log-line").last
    expect(last).to_be_visible()
    before = last.inner_text()
    expect(page.locator(".log-line").last).not_to_have_text(before)  # it goes on
    expect(page.locator(".log .fg6").first).to_be_visible()

    page.locator(".log").evaluate("log => log.scrollTop = 0")
    expect(page.locator(".log-end")).to_be_visible()
    at = page.locator(".log").evaluate("log => log.scrollTop")
    expect(page.locator(".log-end")).to_contain_text("Paused;")
    assert page.locator(".log").evaluate("log => log.scrollTop") == at
    page.locator(".log-end").click()
    expect(page.locator(".log-end")).to_be_hidden()

    page.get_by_role("searchbox").fill("checkpoint")
    expect(page.locator(".find")).to_contain_text(" of ")
    expect(page.locator(".log-line.target mark")).to_have_text("checkpoint")


def test_a_failed_job_says_how_it_ended(page: Page, double: Double) -> None:
    job = job_of(double, "failed")
    page.goto(f"{double.url}/jobs/{job['id']}")

    expect(page.locator(".why")).to_contain_text(job["reason"])
    expect(page.locator(".job-head .pill")).to_have_text("Failed, exit 1")
    expect(page.locator(".log-preview")).to_contain_text("RuntimeError")


def test_an_unknown_job_and_an_unknown_page_say_so(page: Page, double: Double) -> None:
    page.goto(f"{double.url}/jobs/ghost-1")
    expect(page.locator(".empty h2")).to_have_text("There is no job ghost-1")
    page.goto(f"{double.url}/nowhere")
    expect(page.locator(".empty h2")).to_have_text("There is no such page")


def test_without_a_login_the_page_says_what_to_type(page: Page, double: Double) -> None:
    double.yard.logged_in = False
    page.goto(double.url)
    expect(page.locator(".empty")).to_contain_text("madang web")

    double.yard.logged_in = True
    page.get_by_role("button", name="I have done so").click()
    expect(page.locator(".kpis")).to_be_visible()


def test_a_machine_without_gpus_and_jobs_says_what_to_type(browser: Browser) -> None:
    with Double(Yard(4, per_node=4, slots=True, calm=True)) as double:
        page = browser.new_page(locale="en-US")
        page.goto(double.url)

        expect(page.locator(".top-name")).to_contain_text("4 CPU slots on 1 node")
        expect(page.locator(".below")).to_contain_text("madang run -- python train.py")
        page.close()


def test_korean_by_the_browser_and_by_the_switch(browser: Browser, double: Double) -> None:
    page = browser.new_page(locale="ko-KR")
    page.goto(double.url)
    expect(page.locator(".rail")).to_contain_text("대기열")
    page.get_by_role("button", name="언어").click()
    expect(page.locator(".rail")).to_contain_text("Queue")
    page.reload()
    expect(page.locator(".rail")).to_contain_text("Queue")
    page.close()


def test_the_theme_switch_is_kept(page: Page, double: Double) -> None:
    page.goto(double.url)
    root = page.locator("html")
    for wanted in ("dark", "light"):
        page.get_by_role("button", name=re.compile("^Theme")).click()
        expect(root).to_have_attribute("data-theme", wanted)
    page.reload()
    expect(root).to_have_attribute("data-theme", "light")


def test_a_hundred_thousand_devices_are_drawn_as_nodes(browser: Browser) -> None:
    with Double(Yard(102_400, calm=True)) as double:
        page = browser.new_page(viewport={"width": 1440, "height": 900}, locale="en-US")
        page.goto(double.url, timeout=60_000)

        expect(page.locator(".map-note")).to_contain_text("One square is one node", timeout=60_000)
        page.close()


@pytest.mark.parametrize("noun", ["project", "setting"])
def test_what_operators_set_is_on_the_usage_page_at_once(
    page: Page, double: Double, noun: str
) -> None:
    page.goto(f"{double.url}/usage")
    expect(page.locator(".usage li").first).to_be_visible()
    with double.yard.news:
        project = double.yard.projects()[0]["id"]
        double.yard.quotas[project] = 777
        double.yard.tell(noun)

    expect(page.locator(".usage li", has_text=project).first).to_contain_text("777")
