"""Takes pictures of every page, to be looked at. Not a test: run it, then open the files.

python -m tests.browser.look OUT [--only fleet-1024-dark ...]
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.double import Double
from tests.browser.invented import Yard

# Chromium without its background calls; software GL, as a remote desktop or CI has it.
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]
IDLE_AFTER_MS = 61_000


@contextmanager
def chromium(flags: list[str] | None = None) -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no chromium on the PATH: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS if flags is None else flags)
        try:
            yield browser
        finally:
            browser.close()


def settled(page: Page) -> None:
    page.wait_for_selector("#content:not([aria-busy])")
    page.wait_for_timeout(1200)


Act = Callable[[Page], None]


def shot(
    browser: Browser, double: Double, path: str, out: Path, theme: str, act: Act | None = None
) -> None:
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        device_scale_factor=1,
        color_scheme="light" if theme == "light" else "dark",
        locale="ko-KR" if "-ko" in out.name else "en-US",
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(double.url + path)
    settled(page)
    if act:
        act(page)
        page.wait_for_timeout(900)
    page.screenshot(path=out)
    for problem in problems:
        print(f"{out.name}: {problem}")
    context.close()


def a_job(double: Double, phase: str, members: int = 1) -> str:
    fits = [
        job
        for job in double.yard.jobs.values()
        if job["phase"] == phase and job["members"] >= members
    ]
    return str(min(fits, key=lambda job: job["members"])["id"])


def hover_middle(page: Page) -> None:
    box = page.locator(".map-pointer").bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.31, box["y"] + box["height"] * 0.4)


def wait_for_idle(page: Page) -> None:
    page.wait_for_timeout(IDLE_AFTER_MS + 3_000)


def select_first(page: Page) -> None:
    page.locator(".side button.item").first.click()


def plan(sizes: dict[int, Double]) -> dict[str, tuple[Double, str, str, Act | None]]:
    big, mid, small = sizes[5120], sizes[1024], sizes[16]
    views: dict[str, tuple[Double, str, str, Act | None]] = {}
    for theme in ("dark", "light"):
        views |= {
            f"fleet-5120-{theme}": (big, "/", theme, hover_middle),
            f"fleet-5120-job-{theme}": (big, "/?group=job", theme, None),
            f"fleet-5120-project-{theme}": (big, "/?group=project&color=project", theme, None),
            f"fleet-1024-{theme}": (mid, "/", theme, select_first),
            f"fleet-1024-job-{theme}": (mid, "/?group=job", theme, None),
            f"fleet-1024-state-{theme}": (mid, "/?group=state", theme, None),
            f"fleet-1024-project-{theme}": (mid, "/?group=project", theme, None),
            f"fleet-1024-table-{theme}": (mid, "/?view=table&where=state:faulty", theme, None),
            f"fleet-16-{theme}": (small, "/", theme, None),
            f"fleet-4-empty-{theme}": (sizes[4], "/", theme, None),
            f"queue-{theme}": (mid, "/queue", theme, None),
            f"jobs-{theme}": (mid, "/jobs", theme, None),
            f"usage-{theme}": (mid, "/usage", theme, None),
        }
        gang = a_job(mid, "running", 4)
        for tab in ("", "/diagnose", "/metrics", "/logs", "/events", "/config"):
            views[f"job{tab.replace('/', '-')}-{theme}"] = (mid, f"/jobs/{gang}{tab}", theme, None)
        waiting, failed = a_job(mid, "waiting"), a_job(mid, "failed")
        views[f"job-waiting-{theme}"] = (mid, f"/jobs/{waiting}", theme, None)
        views[f"job-failed-{theme}"] = (mid, f"/jobs/{failed}", theme, None)
    views["fleet-1024-ko"] = (mid, "/", "dark", None)
    views["queue-ko"] = (mid, "/queue", "light", None)
    views["jobs-empty"] = (sizes[4], "/jobs", "dark", None)
    views["queue-empty"] = (sizes[4], "/queue", "light", None)
    return views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--idle", action="store_true", help="wait until idle devices are known")
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    yards = {n: Double(Yard(n)) for n in (16, 1024, 5120)}
    yards[4] = Double(Yard(4, per_node=4, slots=True, calm=True))
    for double in yards.values():
        double.__enter__()
    with chromium() as browser:
        for name, (double, path, theme, act) in plan(yards).items():
            if words.only and not any(name.startswith(only) for only in words.only):
                continue
            acts: list[Act] = [wait_for_idle] if words.idle else []
            acts += [act] if act else []
            started = time.monotonic()

            def do(page: Page, acts: list[Act] = acts) -> None:
                for one in acts:
                    one(page)

            shot(browser, double, path, words.out / f"{name}.png", theme, do)
            print(f"{name} {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
