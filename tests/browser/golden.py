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
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, Request

from tests.browser.double import Double
from tests.browser.invented import Job, Yard
from tests.browser.look import chromium, listen

FOLDER = Path(__file__).parent / "golden"
FROZEN_MS = 1_795_233_840_000  # 2026-11-21 04:04 UTC: four past one in Seoul
SIZES = (1024, 5120)
THEMES = ("dark", "light")
BYTES_MAX = 150_000
LEVELS_MAX = 48  # of 255, in any channel: antialiasing
SHARE_MAX = 0.004  # of all pixels may differ by more
STILL_TRIES = 80  # 20 s: a busy machine

Pixels = NDArray[np.uint8]


def clock() -> int:
    """Time that stands still."""
    return FROZEN_MS


@dataclass(frozen=True, slots=True)
class View:
    """One page to take: its address, and what to do before the shot."""

    path: str
    act: Callable[[Page], None] | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: a view of a yard, as somebody with this window, theme and language sees it."""

    name: str
    yard: str
    view: str
    theme: str
    locale: str = "en-US"
    window: tuple[int, int] = (1440, 900)


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


def others(yard: Yard) -> dict[str, View]:
    """Views that not every yard has."""
    found = {
        name: View(path)
        for name, path in (
            ("fleet", "/"),
            ("fleet-job", "/?group=job"),
            ("fleet-project", "/?group=project&color=project"),
            ("queue", "/queue"),
            ("jobs", "/jobs"),
            ("usage", "/usage"),
        )
    }
    breaking = [job for job in yard.jobs.values() if job.get("broken")]
    if breaking:
        found["job"] = View(f"/jobs/{breaking[0]['id']}")
        found["fleet-chosen"] = View(f"/?select=job:{breaking[0]['id']}")
    running = [job for job in yard.jobs.values() if job["phase"] == "running"]
    if running:
        found["job-viewer"] = View(f"/jobs/{largest(yard)['id']}/config")
    return found


NAMES = tuple(views(Yard(1024, clock=clock)))
PHONE = (390, 844)
YARDS: dict[str, Callable[[], Yard]] = {
    **{str(size): partial(Yard, size, clock=clock) for size in SIZES},
    "rules": partial(Yard, 1024, rules=True, clock=clock),
    "ten": partial(Yard, 10, clock=clock),
    "empty": partial(Yard, 64, calm=True, clock=clock),
    "viewer": partial(Yard, 64, role="viewer", user="sora", clock=clock),
}


def shots() -> tuple[Shot, ...]:
    """Every page at both sizes in both themes, and in Korean; what few yards have; a phone."""
    found = [
        Shot(f"{name}-{size}-{theme}", str(size), name, theme)
        for size in SIZES
        for name in NAMES
        for theme in THEMES
    ]
    for at, name in enumerate(NAMES):
        theme = THEMES[at % 2]
        found.append(Shot(f"{name}-ko-{theme}", "1024", name, theme, locale="ko-KR"))
    for yard, names in (
        ("rules", ("fleet", "fleet-job", "fleet-chosen", "jobs", "job")),
        ("ten", ("fleet", "fleet-job", "fleet-project")),
        ("empty", ("fleet", "jobs", "queue", "usage")),
        ("viewer", ("job-viewer",)),
    ):
        for name in names:
            found += [Shot(f"{yard}-{name}-{theme}", yard, name, theme) for theme in THEMES]
    for at, name in enumerate(("fleet", "queue", "jobs", "usage", "job", "job-diagnose", "help")):
        locale = ("en-US", "ko-KR")[at % 2]
        found.append(Shot(f"phone-{name}", "1024", name, THEMES[at % 2], locale, PHONE))
    return tuple(found)


SHOTS = shots()


@contextmanager
def frozen(yard: str) -> Iterator[Double]:
    """A stand-in whose yard stands still."""
    with Double(YARDS[yard]()) as double:
        yield double


def take(browser: Browser, double: Double, shot: Shot) -> Pixels:
    """(height, width, RGB) of the page as it looks now.

    Raises:
        AssertionError: it never came to rest, or its console has an error or a warning.
    """
    known = views(double.yard) if shot.yard.isdigit() else others(double.yard)
    view = known[shot.view]
    act = None if shot.window == PHONE and view.act is point else view.act
    context = browser.new_context(
        viewport={"width": shot.window[0], "height": shot.window[1]},
        device_scale_factor=1,
        color_scheme="dark" if shot.theme == "dark" else "light",
        reduced_motion="reduce",
        locale=shot.locale,
        timezone_id="Asia/Seoul",
    )
    try:
        page = context.new_page()
        said, asked = listen(page), asking(page)
        page.clock.set_fixed_time(FROZEN_MS / 1000)
        page.goto(double.url + view.path)
        page.wait_for_selector("#content:not([aria-busy])")
        page.evaluate("document.fonts.ready")
        if act:
            page.wait_for_timeout(1_000)
            act(page)
        pixels = still(page, asked)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert not said, f"{shot.name}: {said}"
        assert wide <= 0, f"{shot.name} is {wide} px wider than its window"
        return pixels
    finally:
        context.close()


def asking(page: Page) -> set[str]:
    """What was asked for and not answered once, from now on; what is polled anew does not count."""
    open_ones: set[str] = set()
    answered: set[str] = set()

    def begun(one: Request) -> None:
        if one.url not in answered:
            open_ones.add(one.url)

    def over(one: Request) -> None:
        answered.add(one.url)
        open_ones.discard(one.url)

    page.on("request", begun)
    page.on("requestfinished", over)
    page.on("requestfailed", over)
    return open_ones


def still(page: Page, asked: Collection[str] = ()) -> Pixels:
    """The page at rest: nothing is busy or asked for, and two shots in a row are equal."""
    last = b""
    for _ in range(STILL_TRIES):
        page.wait_for_timeout(250)
        if asked or page.locator("[aria-busy=true]").count():
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
    # More effort takes 40 times as long, and a picture becomes 4 % smaller.
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=80, method=4)
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
        for yard in YARDS:
            wanted = [shot for shot in SHOTS if shot.yard == yard and asked(shot, words.only)]
            if not wanted:
                continue
            with frozen(yard) as double:
                for shot in wanted:
                    began = time.monotonic()
                    text, same = compared(shot, take(browser, double, shot), words)
                    bad += not same
                    print(f"{text} ({time.monotonic() - began:.1f} s)", flush=True)
    return 1 if bad else 0


def asked(shot: Shot, only: list[str]) -> bool:
    return not only or any(shot.name.startswith(one) for one in only)


def compared(shot: Shot, now: Pixels, words: argparse.Namespace) -> tuple[str, bool]:
    """What to say of a picture, and whether it is as it was or kept anew."""
    known = (FOLDER / f"{shot.name}.webp").is_file()
    share = differing(kept(shot.name), now) if known else 1.0
    text = f"{shot.name}: {share:.3%} differ"
    if words.renew and share > SHARE_MAX / 8:
        return f"{text}, kept anew, {keep(shot.name, now) // 1000} kB", True
    if share > SHARE_MAX and words.differences:
        words.differences.mkdir(exist_ok=True, parents=True)
        path = words.differences / f"{shot.name}.png"
        if known:
            beside(kept(shot.name), now, path)
        else:
            Image.fromarray(now).save(path)
    return text, share <= SHARE_MAX


if __name__ == "__main__":
    sys.exit(main())
