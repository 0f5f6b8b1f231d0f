"""How fast the page is, in headless Chromium with software GL: first picture, regrouping.

    python -m benchmarks.browser [--gpus 5120 10240]

A frame is the time between two animation frames while squares fly (600 ms); 16.7 ms is the
screen's own pace. `shown` is from navigation until the map has its names.
Needs the built page.
"""

import argparse
import statistics

from playwright.sync_api import Page

from tests.browser.double import Double
from tests.browser.invented import Yard
from tests.browser.look import chromium

VIEWS = ("2", "1", "3", "1", "5", "1")

WATCH = """() => new Promise(done => {
  const times = [];
  const step = now => { times.push(now); times.at(-1) - times[0] < 800 ? requestAnimationFrame(step)
    : done(times.slice(1).map((t, i) => t - times[i])); };
  requestAnimationFrame(step);
})"""


def shown_ms(page: Page, url: str) -> float:
    page.goto(url, wait_until="commit")
    page.wait_for_selector(".map .label", timeout=60_000)
    return float(page.evaluate("performance.now()"))


def frames_ms(page: Page) -> list[float]:
    found: list[float] = []
    for key in VIEWS:
        page.keyboard.press(key)
        found += page.evaluate(WATCH)
        page.wait_for_timeout(300)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="*", default=[1024, 5120, 10_240])
    words = parser.parse_args()
    print(
        f"{'GPUs':>8} {'renderer':>9} {'shown ms':>9} {'frame p50':>10} {'p95':>7} {'heap MB':>8}"
    )
    with chromium() as browser:
        for gpus in words.gpus:
            with Double(Yard(gpus)) as double:
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                first = statistics.median(shown_ms(page, double.url) for _ in range(3))
                page.wait_for_timeout(1500)
                frames = sorted(frames_ms(page))
                kind = page.locator(".map-canvas canvas").get_attribute("data-renderer")
                heap = page.evaluate("performance.memory.usedJSHeapSize / 1e6")
                p95 = frames[int(len(frames) * 0.95)]
                p50 = statistics.median(frames)
                print(f"{gpus:>8} {kind:>9} {first:>9.0f} {p50:>10.1f} {p95:>7.1f} {heap:>8.1f}")
                page.close()


if __name__ == "__main__":
    main()
