"""How fast the page is, in headless Chromium with software GL, and the same page on deck.gl.

    python -m benchmarks.browser [--deckgl] [--json FILE] [--markdown FILE] [--gpus N ...]

`shown`: from navigation until the squares and their names are on the screen: what one came for;
median of 5 loads, each in a fresh context (nothing cached). `regroup`: times between animation
frames while squares fly (600 ms, six regroupings); 16.7 ms is the screen's own pace. `key`: from
the key until the first frame of the new grouping. `first load` is gzipped JS and CSS.

Before a real daemon with a virtual fleet whose GPUs are held to 90 %; with --double before the
stand-in of the tests, on which deck.gl is compared. Needs the built page (`npm --prefix web run
build`), and npm for --deckgl.
"""

import argparse
import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.browser.double import PAGE, Double
from tests.browser.invented import Yard
from tests.browser.look import chromium
from tests.e2e.yard import LiveYard

ROOT = Path(__file__).resolve().parents[1]
DECKGL = ROOT / "benchmarks" / "deckgl"
SIZES = (5_120, 10_240, 102_400)
COMPARED = (1_024, 5_120, 10_240)
LOADS = 5
VIEWS = ("2", "1", "3", "1", "5", "1")
FLIGHT_MS = 600
GPUS_PER_NODE = 8
FILL = 0.9
GANG = 64  # nodes; with some small jobs beside
WAIT_MS = 120_000

# Runs before the page's own code: notes when the map has names and the frame with them is out.
SHOWN = """() => {
  window.__shown = new Promise(done => {
    const look = () => {
      const canvas = document.querySelector('.map-canvas canvas');
      if (!canvas || !document.querySelector('.map .label')) return requestAnimationFrame(look);
      requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
    };
    requestAnimationFrame(look);
  });
}"""
WATCH = """ms => new Promise(done => {
  const times = [];
  const began = performance.now();
  const step = now => { times.push(now); now - began < ms ? requestAnimationFrame(step)
    : done({ first: times[0] - began, frames: times.slice(1).map((t, i) => t - times[i]) }); };
  requestAnimationFrame(step);
})"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One page with one fleet; times in ms."""

    page: str
    gpus: int
    renderer: str
    first_load_bytes: int
    shown_ms: float
    shown_worst_ms: float
    frame_p50_ms: float
    frame_p95_ms: float
    key_ms: float
    heap_mb: float


@dataclass(frozen=True, slots=True)
class Goal:
    """What was promised, and what was measured."""

    text: str
    most: float
    measured: float

    @property
    def holds(self) -> bool:
        """Whether it is kept."""
        return self.measured <= self.most


def first_load_bytes(folder: Path) -> int:
    """Gzipped JS and CSS that index.html names, and what that imports statically."""
    names: set[str] = set()

    def visit(name: str) -> None:
        if name in names:
            return
        names.add(name)
        if name.endswith(".js"):
            text = (folder / name).read_text(encoding="utf-8")
            for found in re.findall(r'(?:from|import)\s*"\./([^"]+\.js)"', text):
                visit(f"assets/{found}")

    for name in re.findall(
        r'(?:src|href)="/(assets/[^"]+\.(?:js|css))"', (folder / "index.html").read_text()
    ):
        visit(name)
    return sum(len(gzip.compress((folder / name).read_bytes(), 9)) for name in names)


def shown_ms(browser: Browser, url: str, storage: Any) -> float:
    """One load in a fresh context."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=storage)
    try:
        page = context.new_page()
        page.add_init_script(f"({SHOWN})()")
        page.goto(url, wait_until="commit", timeout=WAIT_MS)
        return float(page.evaluate("window.__shown"))
    finally:
        context.close()


def regroup(page: Page) -> tuple[list[float], list[float]]:
    """Frame times of six regroupings, and for each the time from the key to its first frame."""
    frames: list[float] = []
    firsts: list[float] = []
    for key in VIEWS:
        before = page.evaluate("performance.now()")
        page.keyboard.press(key)
        now = page.evaluate("performance.now()")
        seen = page.evaluate(WATCH, FLIGHT_MS)
        firsts.append(now - before + seen["first"])
        frames += seen["frames"]
        page.wait_for_timeout(400)
    return frames, firsts


def measure(
    browser: Browser, url: str, what: str, gpus: int, folder: Path, login: str = ""
) -> Figures:
    """All figures of one page."""
    storage: Any = None
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    if login:
        page.goto(login)
        storage = context.storage_state()
    loads = sorted(shown_ms(browser, url, storage) for _ in range(LOADS))
    page.goto(url, timeout=WAIT_MS)
    page.wait_for_selector(".map .label", timeout=WAIT_MS)
    page.wait_for_timeout(2_500)
    frames, firsts = regroup(page)
    frames.sort()
    kind = page.locator(".map-canvas canvas").first.get_attribute("data-renderer") or ""
    by = page.locator(".map-canvas canvas").first.get_attribute("data-drawn-by") or kind
    heap = float(page.evaluate("performance.memory.usedJSHeapSize")) / 1e6
    context.close()
    return Figures(
        page=what,
        gpus=gpus,
        renderer=by,
        first_load_bytes=first_load_bytes(folder),
        shown_ms=round(statistics.median(loads), 0),
        shown_worst_ms=round(loads[-1], 0),
        frame_p50_ms=round(statistics.median(frames), 1),
        frame_p95_ms=round(frames[int(len(frames) * 0.95)], 1),
        key_ms=round(statistics.median(firsts), 1),
        heap_mb=round(heap, 1),
    )


@contextmanager
def real(gpus: int, speed: int = 1) -> Iterator[LiveYard]:
    """A daemon with a virtual fleet of so many GPUs, held to 90 %."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        fleet = Path(folder, "fleet.yaml")
        nodes = gpus // GPUS_PER_NODE
        fleet.write_text(
            f"seed: 7\nspeed: {speed}\nnodes:\n  - {{count: {nodes}, model: H100, gpus: 8, "
            "gpu_memory_mib: 81559, cpus: 96, memory_mib: 2063000, "
            f"blocks: {max(1, nodes // 64)}, nodes_per_leaf: 8}}\n"
            "times:\n  start: 1s\n  stop: 1s\n"
        )
        yard = LiveYard(Path(folder, "state"))
        yard.arguments = ("--fleet", str(fleet))
        yard.start()
        try:
            fill(yard, nodes)
            yield yard
        finally:
            try:
                yard.stop()
            except subprocess.TimeoutExpired:
                yard.kill()


def fill(yard: LiveYard, nodes: int) -> None:
    """Gangs of 64, 16 and 4 nodes and single ones, until 90 % is held."""
    left = int(nodes * FILL)
    asked = left * GPUS_PER_NODE
    jobs: list[dict[str, Any]] = []
    sizes = (GANG, 16, 16, 4, 4, 4, 1, 1, 1, 1)
    while left > 0:
        size = min(sizes[len(jobs) % len(sizes)], left)
        left -= size
        jobs.append(
            {
                "name": f"train-{size}",
                "command": ["python", "train.py"],
                "members": size,
                "gpus": 8,
                "env": {"MADANG_VIRTUAL_SECONDS": "2000000"},
            }
        )
    for first in range(0, len(jobs), 500):
        yard.ask("POST", "/v1/jobs:batch", {"jobs": jobs[first : first + 500]})
    held = asked * 0.98
    yard.wait_until(lambda: yard.ask("GET", "/v1/overview")["gpus"]["held"] >= held, 300)
    time.sleep(3)  # members start, sensors are read


def measure_real(browser: Browser, gpus: int) -> Figures:
    """The product before its own daemon."""
    with real(gpus) as yard:
        login = yard.ask("POST", "/v1/login-links", {})["url"]
        return measure(browser, yard.url + "/", "madang", gpus, PAGE, login)


def measure_double(browser: Browser, gpus: int, what: str, folder: Path) -> Figures:
    """A page before the stand-in."""
    with Double(Yard(gpus), folder=folder) as double:
        return measure(browser, double.url + "/", what, gpus, folder)


def build_deckgl() -> Path:
    """Installs and builds the comparison; its folder."""
    for words in (["npm", "install", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        subprocess.run(words, cwd=DECKGL, check=True, stdout=subprocess.DEVNULL)
    return DECKGL / "dist"


def goals(figures: list[Figures]) -> list[Goal]:
    """Each promise of the page that was measured this time."""
    found = []
    for one in figures:
        if one.page != "madang":
            continue
        if one.gpus == 10_240:
            found.append(Goal("shown at 10,240 GPUs, ms", 1_000, one.shown_ms))
        if one.gpus == 5_120:
            found.append(Goal("regroup at 5,120: median frame, ms", 33.4, one.frame_p50_ms))
            found.append(Goal("first load, bytes", 90_000, one.first_load_bytes))
        if one.gpus == 102_400:
            found.append(Goal("regroup at 102,400: median frame, ms", 150, one.frame_p50_ms))
    return found


def markdown(figures: list[Figures], promises: list[Goal]) -> str:
    """The figures as tables for docs/benchmarks/browser.md."""
    head = ["page", "GPUs", "drawn by", "first load", "shown: median, worst of 5"]
    head += ["regroup: frame p50 / p95", "key to frame", "heap"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [
        f"| {one.page} | {one.gpus:,} | {one.renderer} | {one.first_load_bytes / 1000:.1f} kB "
        f"| {one.shown_ms:.0f} ms, {one.shown_worst_ms:.0f} ms | {one.frame_p50_ms} / "
        f"{one.frame_p95_ms} ms | {one.key_ms:.0f} ms | {one.heap_mb:.0f} MB |"
        for one in figures
    ]
    lines += ["", "| goal | at most | measured | kept |", "|---|---|---|---|"]
    for goal in promises:
        kept = "yes" if goal.holds else "**no**"
        lines.append(f"| {goal.text} | {goal.most:,} | {goal.measured:,} | {kept} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, write; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, nargs="*", default=list(SIZES))
    parser.add_argument("--double", action="store_true", help="before the stand-in only")
    parser.add_argument("--deckgl", action="store_true", help="measure the page on deck.gl too")
    parser.add_argument("--compared", type=int, nargs="*", default=list(COMPARED))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    words = parser.parse_args()
    figures: list[Figures] = []
    dist = build_deckgl() if words.deckgl else None
    with chromium() as browser:
        for gpus in words.gpus:
            figures.append(
                measure_double(browser, gpus, "madang", PAGE)
                if words.double
                else measure_real(browser, gpus)
            )
            print(figures[-1], file=sys.stderr, flush=True)
        for gpus in words.compared if dist else ():
            for what, folder in (("madang, stand-in", PAGE), ("on deck.gl, stand-in", dist)):
                assert folder is not None
                figures.append(measure_double(browser, gpus, what, folder))
                print(figures[-1], file=sys.stderr, flush=True)
        version = browser.version
    promises = goals(figures)
    print(markdown(figures, promises))
    record = {
        "machine": {
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "kernel": platform.release(),
            "chromium": version,
        },
        "figures": [asdict(one) for one in figures],
        "goals": [asdict(one) | {"holds": one.holds} for one in promises],
    }
    if words.json:
        words.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if words.markdown:
        words.markdown.write_text(markdown(figures, promises), encoding="utf-8")
    return 0 if all(one.holds for one in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
