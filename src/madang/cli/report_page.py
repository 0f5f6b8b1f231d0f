"""`madang report --html`: a usage report as one page that fetches and runs nothing.

Beside each picture a sentence says what happened. `parts` are the same window grouped in the ways
one looks at a yard; `main` is what was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from madang.cli.report import COLUMNS, hours, percent, wait_words
from madang.sim.plot import Bars, Chart, Section, Series, Table, page

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from typing import Any

    Document = dict[str, Any]

BARS_MAX = 20  # what is less than the twentieth is one bar
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NAMES = {
    "project": "Projects",
    "model": "GPU models",
    "size": "Sizes of jobs (GPUs of all members)",
    "zone": "Zones",
    "provisioning": "Provisioning",
    "category": "Categories",
    "day": "Days",
}


def usage_page(main: Document, parts: Mapping[str, Document]) -> str:
    """The whole HTML document."""
    total = main["total"]
    sections: list[Section] = [_yard(main)]
    sections += [_days(parts["day"]), _bars(parts["project"], "project")]
    sections += [
        _bars(parts[name], name) for name in ("model", "size", "zone") if _many(parts[name], name)
    ]
    sections += [_waits(parts[name], name) for name in ("size", "model", "project")]
    sections += [
        _waits(parts[name], name)
        for name in ("provisioning", "category")
        if _many(parts[name], name)
    ]
    sections.append(_lost(total))
    sections.append(_whole(main))
    facts = {
        "GPU·hours asked, held": f"{hours(total['asked_gpu_h'])}, {hours(total['held_gpu_h'])}",
        "of the capacity": percent(total["held_pct"]),
        "measured utilisation": percent(total["util_pct"]),
        "jobs submitted, ended, waiting at the end": (
            f"{total['submitted']}, {total['ended']}, {total['waiting']}"
        ),
        "records begin": _when(main["begins_ms"]),
    }
    about = f"{_when(main['since_ms'])} to {_when(main['until_ms'])}, UTC. {_headline(total)}"
    return page("Usage of the yard", about, facts, sections)


def _headline(total: Document) -> str:
    words = f"{hours(total['held_gpu_h'])} GPU·hours were held"
    if total["held_pct"] is not None:
        words += f", {percent(total['held_pct'])} of what there was"
    if total["waits"]["count"]:
        words += f"; half of the jobs waited at most {wait_words(total, 'p50_ms')}"
        words += f", nine of ten at most {wait_words(total, 'p90_ms')}"
    return words + "."


def _when(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_ms / 1000))


def _many(part: Document, name: str) -> bool:
    """True iff there is something to compare; `(any)` is what a job that waits does not know."""
    known = [line for line in part["lines"] if line["group"][name] != "(any)"]
    return len(known) > 1


# -- over time -----------------------------------------------------------------------------------


def _yard(main: Document) -> Chart:
    """GPUs there are, held, and free in too small pieces."""
    points, since_ms = main["points"], main["since_ms"]
    by_days = main["until_ms"] - since_ms > 3 * DAY_MS
    unit_ms = DAY_MS if by_days else HOUR_MS

    def curve(name: str, value: Any) -> Series:
        drawn = [((p["at_ms"] - since_ms) / unit_ms, round(value(p), 3)) for p in points]
        if drawn:
            drawn.append(((main["until_ms"] - since_ms) / unit_ms, drawn[-1][1]))
        return Series(name, tuple(drawn), in_steps=True)

    return Chart(
        title="GPUs over time",
        about=_fragments(points, main["until_ms"]),
        x_label=f"{'days' if by_days else 'hours'} since {_when(since_ms)}",
        y_label="GPUs",
        series=(
            curve("in service", lambda p: p["gpus"]),
            curve("held", lambda p: p["gpus"] - p["free"]),
            curve("free, in too small pieces", lambda p: p["stuck"]),
        ),
    )


def _fragments(points: Sequence[Document], until_ms: int) -> str:
    """What share of the free GPUs could not be used, on average over time."""
    ends = [*(point["at_ms"] for point in points[1:]), until_ms][: len(points)]
    spans = [end_ms - point["at_ms"] for point, end_ms in zip(points, ends, strict=True)]
    free = sum(point["free"] * span for point, span in zip(points, spans, strict=True))
    stuck = sum(point["stuck"] * span for point, span in zip(points, spans, strict=True))
    if not free:
        return "No GPU was free."
    return (
        f"On average {100 * stuck / free:.0f} % of the free GPUs lay in pieces that a job of the "
        "recent mix could not use (FGD's measure of fragmentation)."
    )


def _days(part: Document) -> Bars:
    rows = [(line["group"]["day"], _parts(line)) for line in part["lines"]][-62:]
    return Bars(
        title="Day by day",
        about="What was asked for on each day (UTC): what was given, and what was waited for.",
        unit="GPU·hours",
        parts=PARTS,
        rows=tuple(rows),
    )


# -- who -----------------------------------------------------------------------------------------

PARTS = ("held", "held, measured idle", "wasted or failed", "waited for")


def _parts(line: Document) -> tuple[float, ...]:
    """What was held, apart by what became of it, and what was waited for."""
    left = line["held_gpu_h"]
    idle = min(line["measured_gpu_h"] - line["used_gpu_h"], left)
    lost = min(line["wasted_gpu_h"] + line["failed_gpu_h"], left - idle)
    return (left - idle - lost, idle, lost, line["waited_gpu_h"])


def _bars(part: Document, name: str) -> Bars:
    lines = list(part["lines"])
    if name != "size":
        lines.sort(key=lambda line: -line["asked_gpu_h"])
    rows = [(line["group"][name], _parts(line)) for line in lines[:BARS_MAX]]
    if rest := lines[BARS_MAX:]:
        sums = [_parts(line) for line in rest]
        rows.append((f"{len(rest)} others", tuple(map(sum, zip(*sums, strict=True)))))
    return Bars(
        title=NAMES[name],
        about="Waited for is GPUs asked × the time until they were given.",
        unit="GPU·hours",
        parts=PARTS,
        rows=tuple(rows),
    )


def _waits(part: Document, name: str) -> Table:
    lines = [line for line in part["lines"] if line["waits"]["count"] or line["waiting"]]
    longest = max(lines, key=lambda line: line["waits"]["p90_ms"], default=None)
    about = "Nobody started."
    if longest is not None and longest["waits"]["count"]:
        about = (
            f"{longest['group'][name]} waited longest: one of ten for more than "
            f"{wait_words(longest, 'p90_ms')}. From submission to the first start."
        )
    names = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
    return Table(
        title=f"Waiting by {name}",
        about=about,
        columns=(name, "started", "mean", "median", "90 %", "99 %", "longest", "wait still"),
        rows=tuple(
            (
                line["group"][name],
                str(line["waits"]["count"]),
                *(wait_words(line, each) for each in names),
                str(line["waiting"]),
            )
            for line in lines
        ),
    )


def _lost(total: Document) -> Table:
    return Table(
        title="What was stopped, and what it cost",
        about=(
            f"{hours(total['wasted_gpu_h'])} GPU·hours of work were thrown away by stops, "
            f"{hours(total['failed_gpu_h'])} by jobs that failed, and "
            f"{hours(total['stranded_gpu_h'])} stood on lost nodes."
        ),
        columns=("cause", "stops"),
        rows=tuple(
            (words, str(total[key]))
            for words, key in (
                ("preempted for another job", "preemptions"),
                ("moved to make room", "moves"),
                ("reclaimed because idle", "reclaims"),
                ("put back by a person", "requeues"),
                ("lost with a node", "node_losses"),
                ("broken by the job itself", "failures"),
            )
        ),
    )


def _whole(main: Document) -> Table:
    """The lines as they were asked for."""
    by = main["by"]
    return Table(
        title=f"By {', '.join(by)}",
        about="As `madang report` prints it.",
        columns=(*by, *(title.lower() for title, _ in COLUMNS)),
        rows=tuple(
            (
                *(line["group"].get(name, "total") for name in by),
                *(cell(line) for _, cell in COLUMNS),
            )
            for line in [*main["lines"], main["total"]]
        ),
        words=len(by),
    )
