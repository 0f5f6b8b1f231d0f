"""Golden pictures of every page: taken of a frozen yard, kept in `golden/`, compared by pixels.

    python -m tests.browser.golden            what differs from the pictures that are kept
    python -m tests.browser.golden --renew    keep what the pages look like now; then LOOK at them

A picture is the same twice: the yard comes from a seed, its clock and the page's stand still, fonts
are the page's own, and the shot is taken when two in a row are equal. It is kept as it is (WebP, of
150 kB at most); small differences of a pixel are none, so that another build of Chromium passes.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

from tests.browser.double import Double
from tests.browser.invented import Job, Yard
from tests.browser.look import chromium

FOLDER = Path(__file__).parent / "golden"
FROZEN_MS = 1_795_233_840_000  # 2026-11-21 04:04 UTC: four past one in Seoul
SIZES = (1024, 5120)
THEMES = ("dark", "light")
BYTES_MAX = 150_000
LEVELS_MAX = 48  # of 255, in any channel: antialiasing
SHARE_MAX = 0.004  # of all pixels may differ by more
STILL_TRIES = 24

Pixels = NDArray[np.uint8]


def clock() -> int:
    """Time that stands still."""
    return FROZEN_MS


@dataclass(frozen=True, slots=True)
class View:
    """One page to take: its address, and what to do before the shot."""

    path: str
    act: Callable[[Page], None] | None = None


def largest(yard: Yard) -> Job:
    running = [job for job in yard.jobs.values() if job["phase"] == "running"]
    return max(running, key=lambda job: (job["members"] * job["gpus"], -job["n"]))


def of_phase(yard: Yard, phase: str) -> Job:
    return next(job for job in yard.jobs.values() if job["phase"] == phase)


def point(page: Page) -> None:
    """The card of a device under the pointer."""
    box = page.locator(".map-pointer").bounding_box()
    assert box
    for step in range(40):  # between two squares there is none
        page.mouse.move(box["x"] + box["width"] * 0.31 + step, box["y"] + 120 + step / 2)
        page.wait_for_timeout(20)
        if page.locator(".card").count():
            return
    raise AssertionError("no device under the pointer")


def cross(page: Page) -> None:
    """The cursor on a strip, with what was read there."""
    box = page.locator(".heat-pointer").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + min(40, box["height"] * 0.3))


def open_help(page: Page) -> None:
    page.keyboard.press("?")


def views(yard: Yard) -> dict[str, View]:
    """Every page there is."""
    job = f"/jobs/{largest(yard)['id']}"
    return {
        "fleet": View("/", point),
        "fleet-job": View("/?group=job"),
        "fleet-project": View("/?group=project&color=project"),
        "fleet-table": View("/?view=table&where=state:faulty"),
        "queue": View("/queue"),
        "jobs": View("/jobs"),
        "usage": View("/usage"),
        "job": View(job),
        "job-diagnose": View(f"{job}/diagnose", cross),
        "job-metrics": View(f"{job}/metrics"),
        "job-logs": View(f"{job}/logs"),
        "job-events": View(f"{job}/events"),
        "job-config": View(f"{job}/config"),
        "job-waiting": View(f"/jobs/{of_phase(yard, 'waiting')['id']}"),
        "job-failed": View(f"/jobs/{of_phase(yard, 'failed')['id']}"),
        "help": View("/jobs", open_help),
    }


NAMES = tuple(views(Yard(1024, clock=clock)))


@contextmanager
def frozen(size: int) -> Iterator[Double]:
    """A stand-in whose yard stands still."""
    with Double(Yard(size, clock=clock)) as double:
        yield double


def take(browser: Browser, double: Double, name: str, theme: str) -> Pixels:
    """(height, width, RGB) of the page as it looks now."""
    view = views(double.yard)[name]
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        device_scale_factor=1,
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
        locale="en-US",
        timezone_id="Asia/Seoul",
    )
    try:
        page = context.new_page()
        page.clock.set_fixed_time(FROZEN_MS / 1000)
        page.goto(double.url + view.path)
        page.wait_for_selector("#content:not([aria-busy])")
        page.evaluate("document.fonts.ready")
        if view.act:
            page.wait_for_timeout(1_000)
            view.act(page)
        return still(page)
    finally:
        context.close()


def still(page: Page) -> Pixels:
    """The page when it has come to rest: nothing is busy, and two shots in a row are equal."""
    last = b""
    for _ in range(STILL_TRIES):
        page.wait_for_timeout(250)
        if page.locator("[aria-busy=true]").count():
            continue
        shot = page.screenshot(animations="disabled", caret="hide")
        if shot == last:
            return decoded(shot)
        last = shot
    raise AssertionError(f"{page.url} did not come to rest")


def decoded(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def kept(name: str) -> Pixels:
    return decoded((FOLDER / f"{name}.webp").read_bytes())


def keep(name: str, pixels: Pixels) -> int:
    """Writes the picture; its size in bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=100, method=6)
    if file.tell() > BYTES_MAX:  # much noise: what is lost then is far below what counts
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "WEBP", quality=82, method=6)
    lost = differing(pixels, decoded(file.getvalue()))
    assert file.tell() <= BYTES_MAX, f"{name} takes {file.tell()} bytes"
    assert lost < SHARE_MAX / 4, f"{name} loses {lost:.2%} of its pixels"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.webp").write_bytes(file.getvalue())
    return file.tell()


def differing(a: Pixels, b: Pixels) -> float:
    """The share of the pixels that differ visibly; 1 where the sizes differ."""
    if a.shape != b.shape:
        return 1.0
    far = np.abs(a.astype(np.int16) - b.astype(np.int16)).max(axis=2)
    return float((far > LEVELS_MAX).mean())


def beside(a: Pixels, b: Pixels, path: Path) -> None:
    """What was kept, what is, and where they differ, as one picture to look at."""
    height = min(len(a), len(b))
    a, b = a[:height], b[:height]
    far = np.abs(a.astype(np.int16) - b.astype(np.int16)).max(axis=2) > LEVELS_MAX
    marked = (b // 3).astype(np.uint8)
    marked[far] = (255, 60, 160)
    Image.fromarray(np.concatenate([a, b, marked], axis=0)).save(path)


def main() -> int:
    """Compare, or renew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--renew", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of names")
    parser.add_argument("--differences", type=Path, help="a folder for pictures of what differs")
    words = parser.parse_args()
    bad = 0
    with chromium() as browser:
        for size in SIZES:
            with frozen(size) as double:
                for name in NAMES:
                    for theme in THEMES:
                        full = f"{name}-{size}-{theme}"
                        if words.only and not any(full.startswith(one) for one in words.only):
                            continue
                        began = time.monotonic()
                        now = take(browser, double, name, theme)
                        known = (FOLDER / f"{full}.webp").is_file()
                        share = differing(kept(full), now) if known else 1.0
                        text = f"{full}: {share:.3%} differ"
                        if words.renew and share > SHARE_MAX / 8:
                            text += f", kept anew, {keep(full, now) // 1000} kB"
                        elif share > SHARE_MAX:
                            bad += 1
                            if words.differences and known:
                                words.differences.mkdir(exist_ok=True, parents=True)
                                beside(kept(full), now, words.differences / f"{full}.png")
                        print(f"{text} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
