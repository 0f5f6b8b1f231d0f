"""A page left open: does its heap stay flat, and is every tick of the live line accounted for?

    python -m benchmarks.soak [--minutes 60] [--speed 10] [--gpus 1024] [--json F] [--markdown F]
        [--snapshots DIR]

A real daemon with a virtual fleet that runs `--speed` times as fast, jobs that come and go, and one
page in headless Chromium that somebody uses: every half minute it groups anew, opens a job's
strips, the queue, the usage, and comes back. Once a minute, on the same page, garbage is collected
until no more goes and the heap is read by CDP: objects of the script, and what lies in its typed
arrays, which the browser's own counter leaves out; and how many nodes and listeners the document
has. Flat means: of each of these the median of the last tenth of the samples is within 10 % of that
of the first tenth after warm-up. What the browser keeps beside them (`document`: nodes, layout, its
own lists) is told, and is not judged: it holds the list of all requests that the tools of this
benchmark have the browser keep (`NetworkResourcesData::ResourceData` in a snapshot), which nobody's
own browser keeps.
With --snapshots the heap is written out at both ends, to see what moved.

Ticks are counted twice, and must agree: in the messages that reached the browser, and by the page,
which says what it has shown last and what it has passed over for a snapshot.

Exit status 1 if the heap moved by more than 10 %, or a tick is missing.
"""

import argparse
import contextlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, WebSocket

from benchmarks.browser import real
from madang.api.live.frames import TABLE, TICK, frames_in
from tests.browser.look import chromium
from tests.e2e.yard import LiveYard, Unreachable

HEAP_CHANGE_MAX = 0.10
WARM_SHARE = 0.15  # of the run: code is compiled and caches are filled
STEP_S = 30.0
SAMPLE_S = 60.0
BATCH = 12
COLLECTIONS = 10


@dataclass(slots=True)
class Ticks:
    """What the browser was sent. `lost` are holes that no snapshot explains."""

    first: int = -1
    last: int = -1
    received: int = 0
    skipped: int = 0
    lost: int = 0
    messages: int = 0
    sent_bytes: int = 0
    lines: int = 0
    ended: bool = False  # what comes while the page is closed, nobody could show

    def hear(self, payload: str | bytes) -> None:
        """One message of the live line."""
        if isinstance(payload, str) or self.ended:
            return
        self.messages += 1
        self.sent_bytes += len(payload)
        frames = list(frames_in(payload))
        whole = any(frame.kind == TABLE for frame in frames)
        for frame in frames:
            if frame.kind != TICK:
                continue
            if self.first < 0:
                self.first = frame.tick
            hole = frame.tick - self.last - 1 if self.last >= 0 else 0
            if whole:
                self.skipped += max(0, hole)
            else:
                self.lost += abs(hole)
            if frame.tick != self.last:  # a snapshot of other columns may tell the same again
                self.received += 1
            self.last = frame.tick


@dataclass(slots=True)
class Result:
    """What came of it. Heaps are MB after a forced collection: the script's objects and arrays, of
    these the arrays, and what the browser holds for the document.
    """

    minutes: float
    speed: int
    gpus: int
    heap_mb: list[float] = field(default_factory=list)
    document_mb: list[float] = field(default_factory=list)
    arrays_mb: list[float] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    listeners: list[int] = field(default_factory=list)
    ticks: Ticks = field(default_factory=Ticks)
    shown_tick: int = -1
    shown_skipped: int = -1
    errors: list[str] = field(default_factory=list)

    @property
    def change(self) -> float:
        """How much the heap moved, from when it was warm to the end."""
        return moved(self.heap_mb)

    @property
    def unaccounted(self) -> int:
        """Ticks that were sent and neither came nor were passed over knowingly."""
        ticks = self.ticks
        sent = ticks.last - ticks.first + 1
        unseen = abs(sent - ticks.received - ticks.skipped)
        behind = max(0, ticks.last - self.shown_tick)
        return ticks.lost + unseen + behind

    @property
    def holds(self) -> bool:
        """Whether both promises were kept."""
        of_document = (moved(self.nodes), moved(self.listeners))
        is_flat = all(abs(one) <= HEAP_CHANGE_MAX for one in (self.change, *of_document))
        return is_flat and not self.unaccounted and not self.errors


def moved(samples: Sequence[float]) -> float:
    """The share by which they moved from the first tenth after warm-up to the last."""
    warm = samples[int(len(samples) * WARM_SHARE) :]
    part = max(1, len(warm) // 10)
    return statistics.median(warm[-part:]) / statistics.median(warm[:part]) - 1


def take_heap(cdp: CDPSession, result: Result) -> None:
    """Collect garbage until no more goes, and note what is still held: V8 drops the bytecode of
    functions that nobody called only when some collections have gone by."""
    for _ in range(COLLECTIONS):
        cdp.send("HeapProfiler.collectGarbage")
    used = cdp.send("Runtime.getHeapUsage")
    result.heap_mb.append(round((used["usedSize"] + used["backingStorageSize"]) / 1e6, 2))
    result.arrays_mb.append(round(used["backingStorageSize"] / 1e6, 2))
    result.document_mb.append(round(used["embedderHeapUsedSize"] / 1e6, 2))
    found = {one["name"]: one["value"] for one in cdp.send("Performance.getMetrics")["metrics"]}
    result.nodes.append(int(found["Nodes"]))
    result.listeners.append(int(found["JSEventListeners"]))


def write_out(cdp: CDPSession, path: Path) -> None:
    """The heap in the form that the browser's own tools open."""
    chunks: list[str] = []
    # Not the method itself: the library would write into its object.
    cdp.on("HeapProfiler.addHeapSnapshotChunk", lambda said: chunks.append(said["chunk"]))
    cdp.send("HeapProfiler.takeHeapSnapshot", {"reportProgress": False})
    path.write_text("".join(chunks), encoding="utf-8")


def churn(yard: LiveYard, chance: random.Random, gpus: int) -> None:
    """Some short jobs: the queue moves, squares change hands."""
    jobs: list[dict[str, Any]] = []
    for _ in range(BATCH):
        members = chance.choice((1, 1, 1, 2, 4))
        jobs.append(
            {
                "name": "short",
                "command": ["python", "train.py"],
                "members": min(members, max(1, gpus // 64)),
                "gpus": chance.choice((1, 2, 4, 8)),
                "env": {"MADANG_VIRTUAL_SECONDS": str(chance.randint(120, 1200))},
            }
        )
    # A machine that has no time for its daemon is no fault of the page.
    with contextlib.suppress(Unreachable):
        yard.ask("POST", "/v1/jobs:batch", {"jobs": jobs})


def walks(page: Page) -> list[Callable[[], None]]:
    """What somebody does with the page, and comes back to the map."""

    def go(path: str) -> None:
        page.evaluate(
            "path => { history.pushState(null, '', path); dispatchEvent(new Event('popstate')); }",
            path,
        )
        page.wait_for_timeout(1_500)

    def a_job() -> None:
        go("/jobs?show=running")
        link = page.locator(".row-link").first
        if link.count():
            href = link.get_attribute("href") or "/jobs"
            for tab in ("", "/diagnose", "/metrics", "/logs", "/events"):
                go(href + tab)

    def groups() -> None:
        for key in ("2", "3", "4", "5", "1"):
            page.keyboard.press(key)
            page.wait_for_timeout(900)

    def over() -> None:
        for at in range(40):
            page.mouse.move(200 + at * 18, 320 + at * 7)
        page.mouse.move(2, 2)

    return [
        groups,
        over,
        a_job,
        lambda: go("/queue"),
        lambda: go("/usage"),
        lambda: go("/?view=table"),
    ]


def soak(browser: Browser, yard: LiveYard, result: Result, snapshots: Path | None = None) -> Result:
    """Leave the page open for as long as `result` says, and use it."""
    minutes, gpus = result.minutes, result.gpus
    chance = random.Random(11)
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-US")
    page = context.new_page()

    def line(socket: WebSocket) -> None:
        result.ticks.lines += 1
        # Not the method itself: the library would write into its object.
        socket.on("framereceived", lambda payload: result.ticks.hear(payload))  # noqa: PLW0108

    page.on("websocket", line)
    page.on("pageerror", lambda error: result.errors.append(str(error)[:300]))
    page.goto(yard.ask("POST", "/v1/login-links", {})["url"])
    page.wait_for_selector(".map .label", timeout=60_000)
    cdp = context.new_cdp_session(page)
    cdp.send("Performance.enable")
    todo = walks(page)
    began = time.monotonic()
    sample_s = min(SAMPLE_S, minutes * 60 / 12)
    next_sample, turn = began, 0
    while time.monotonic() - began < minutes * 60:
        churn(yard, chance, gpus)
        todo[turn % len(todo)]()
        turn += 1
        page.evaluate(
            "() => { history.pushState(null, '', '/'); dispatchEvent(new Event('popstate')); }"
        )
        page.wait_for_timeout(2_000)
        if time.monotonic() >= next_sample:
            next_sample += sample_s
            take_heap(cdp, result)
            say(result, (time.monotonic() - began) / 60)
            if snapshots and len(result.heap_mb) == int(WARM_SHARE * minutes * 60 / sample_s) + 1:
                write_out(cdp, snapshots / "warm.heapsnapshot")
        rest_s = min(STEP_S, sample_s / 2) - (time.monotonic() - began) % min(STEP_S, sample_s / 2)
        page.wait_for_timeout(rest_s * 1000)
    if snapshots:
        write_out(cdp, snapshots / "end.heapsnapshot")
    settle(page, result)
    context.close()
    return result


def say(result: Result, minutes: float) -> None:
    """One line of how it goes."""
    print(
        f"{minutes:5.1f} min  {result.heap_mb[-1]:6.2f} MB and {result.document_mb[-1]:.2f} of the "
        f"document  {result.nodes[-1]} nodes  {result.listeners[-1]} listeners  "
        f"tick {result.ticks.last}  {len(result.errors)} errors",
        file=sys.stderr,
        flush=True,
    )


def settle(page: Page, result: Result) -> None:
    """What the page says it has shown, when it has taken all that came."""
    for _ in range(50):
        mark = page.locator(".live")
        result.shown_tick = int(mark.get_attribute("data-tick") or -1)
        result.shown_skipped = int(mark.get_attribute("data-skipped") or 0)
        if result.shown_tick >= result.ticks.last >= 0:
            break
        page.wait_for_timeout(20)
    result.ticks.ended = True


def self_skipped(result: Result) -> int:
    """A page that took up the line again drops what came on the old one, and says so."""
    return max(result.shown_skipped, result.ticks.skipped)


def markdown(result: Result) -> str:
    """For docs/benchmarks/browser.md."""
    ticks, heaps = result.ticks, result.heap_mb
    columns = {
        "open for": f"{result.minutes:g} min",
        "speed": f"{result.speed}×",
        "GPUs": f"{result.gpus:,}",
        "heap, first / least / most / last": (
            f"{heaps[0]} / {min(heaps)} / {max(heaps)} / {heaps[-1]} MB"
        ),
        "of it typed arrays, first / last": f"{result.arrays_mb[0]} / {result.arrays_mb[-1]} MB",
        "document, first / last": f"{result.document_mb[0]} / {result.document_mb[-1]} MB",
        "nodes, listeners": f"{moved(result.nodes):+.1%}, {moved(result.listeners):+.1%}",
        "moved": f"{result.change:+.1%}",
        "ticks sent": f"{ticks.last - ticks.first + 1:,}",
        "received": f"{ticks.received:,}",
        "messages": f"{ticks.messages:,}",
        "passed over for a snapshot, by the page": str(self_skipped(result)),
        "unaccounted": str(result.unaccounted),
        "errors": str(len(result.errors)),
    }
    rows = (columns, dict.fromkeys(columns, "---"), columns.values())
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> int:
    """Soak, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--speed", type=int, default=10)
    parser.add_argument("--gpus", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--snapshots", type=Path, help="an existing folder")
    words = parser.parse_args()
    with real(words.gpus, words.speed) as yard, chromium() as browser:
        result = Result(words.minutes, words.speed, words.gpus)
        soak(browser, yard, result, words.snapshots)
    print(markdown(result))
    for error in result.errors[:5]:
        print(error)
    if words.json:
        more = {"change": result.change, "unaccounted": result.unaccounted, "holds": result.holds}
        words.json.write_text(json.dumps(asdict(result) | more, indent=2) + "\n", encoding="utf-8")
    if words.markdown:
        words.markdown.write_text(markdown(result), encoding="utf-8")
    return 0 if result.holds else 1


if __name__ == "__main__":
    sys.exit(main())
