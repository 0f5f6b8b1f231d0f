"""report, advise pool: what the yard was used for, and what sharing it better would free."""

from __future__ import annotations

import os

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.cli.show import Column, clean, duration, table

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Document = dict[str, Any]

SINCE = "30d"
# What a page shows besides what was asked for: the ways one looks at a yard.
PAGE_BY = ("project", "model", "size", "zone", "provisioning", "category", "day")


def report_verb(given: Given, desk: Desk) -> int:
    """GPU·hours, waits and what was lost, as a table, JSON, CSV or a page."""
    since, until = given.text("since") or SINCE, given.text("until")
    by = given.text("by") or "project"
    path = writable(given, "html")
    if given.flag("csv") and (given.flag("json") or path):
        raise UsageError("--csv and --json or --html contradict each other", code="usage")
    if given.flag("idle"):
        return _idle(given, desk, since, until)
    found = desk.client.usage_report(since, until, by)
    if path:
        from madang.cli.report_page import usage_page

        # All of one window: "30d before now" would move between two questions.
        ends = (str(found["since_ms"]), str(found["until_ms"]))
        parts = {name: desk.client.usage_report(*ends, name) for name in PAGE_BY}
        write(path, usage_page(found, parts))
        desk.answer({"html": path, "since_ms": found["since_ms"]}, path)
    elif given.flag("csv"):
        from madang.wire.reports import csv_of

        print("".join(csv_of(found)), end="")
    else:
        desk.answer(found, "" if desk.is_json else usage_text(found))
        if found["begins_ms"] > found["since_ms"]:
            desk.note("the records begin later than the window: the journal was pruned")
    return 0


def _idle(given: Given, desk: Desk, since: str, until: str) -> int:
    if given.text("by") or given.flag("csv") or given.text("html"):
        raise UsageError("--idle is by project, as a table or --json", code="usage")
    found = desk.client.idle_report(since, until)
    desk.answer(found, "" if desk.is_json else idle_text(found))
    return 0


def idle_text(found: Document) -> str:
    """Projects, and under them each job whose GPUs were taken."""
    columns = [
        Column("PROJECT", shrinks=True),
        *(Column(title, right=True) for title in ("ASKED GPU·H", "HELD", "USED", "IDLE")),
        *(Column(title, right=True) for title in ("WASTED", "WARNED", "TAKEN")),
    ]
    rows = [
        [
            clean(one["project"]),
            *(hours(one[f"{name}_gpu_h"]) for name in ("asked", "held", "used", "idle", "wasted")),
            str(one["warned"]),
            str(len(one["reclaimed"])),
        ]
        for one in found["projects"]
    ]
    taken = [
        f"{clean(job['job'])} lost {job['gpus']:g} GPUs after "
        f"{duration(job['taken_ms'] - job['idle_since_ms'])} idle, "
        f"{duration(job['taken_ms'] - job['warned_ms'])} after the warning"
        for one in found["projects"]
        for job in one["reclaimed"]
    ]
    return "\n".join([table(columns, rows), *([""] if taken else []), *taken])


def usage_text(found: Document) -> str:
    """The lines of a report, widest numbers first, and the total."""
    by = found["by"]
    columns = [
        *(Column(name.upper(), shrinks=at == 0) for at, name in enumerate(by)),
        *(Column(title, right=True) for title, _ in COLUMNS),
    ]
    lines = sorted(found["lines"], key=lambda line: 0 if "day" in by else -line["asked_gpu_h"])
    rows = [
        [
            *(clean(line["group"].get(name, "total")) for name in by),
            *(cell(line) for _, cell in COLUMNS),
        ]
        for line in [*lines, found["total"]]
    ]
    return table(columns, rows)


def hours(value: float | None) -> str:
    """GPU·hours in as many digits as one reads."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


COLUMNS: tuple[tuple[str, Callable[[Document], str]], ...] = (
    ("ASKED GPU·H", lambda line: hours(line["asked_gpu_h"])),
    ("HELD", lambda line: hours(line["held_gpu_h"])),
    ("OF CAPACITY", lambda line: percent(line["held_pct"])),
    ("UTIL", lambda line: percent(line["util_pct"])),
    ("WASTED", lambda line: hours(line["wasted_gpu_h"])),
    ("FAILED", lambda line: hours(line["failed_gpu_h"])),
    ("JOBS", lambda line: str(line["submitted"])),
    ("WAIT MEDIAN", lambda line: wait_words(line, "p50_ms")),
    ("90 %", lambda line: wait_words(line, "p90_ms")),
    ("99 %", lambda line: wait_words(line, "p99_ms")),
    ("PREEMPTED", lambda line: str(line["preemptions"])),
)


def wait_words(line: Document, name: str) -> str:
    """A wait in words; "–" where nobody started."""
    return duration(line["waits"][name]) if line["waits"]["count"] else "–"


# -- advise pool ---------------------------------------------------------------------------------


def advise_pool_verb(given: Given, desk: Desk) -> int:
    """What pooling private zones into the public one would free."""
    share = given.count("share")
    if share is not None and not 1 <= share <= 100:
        raise UsageError("--share is a percentage", code="usage", given=str(share), allowed="1-100")
    found = desk.client.pool_advice(given.text("since") or SINCE, given.text("wait"), share)
    desk.answer(found, "" if desk.is_json else pool_text(found))
    return 0


def pool_text(found: Document) -> str:
    """The advice as tables, one a model, and how it was computed."""
    if not found["pools"]:
        return "nothing to pool: no GPU model is in more than one zone, or nothing has run there"
    parts = []
    for pool in found["pools"]:
        columns = [
            Column(f"ZONE ({clean(pool['model'])})", shrinks=True),
            *(Column(title, right=True) for title in ("HAS", "PEAK", "NEEDS", "JOBS")),
            Column("WAITED ALONE", right=True),
            Column("IN THE POOL", right=True),
        ]
        rows = [
            [
                clean(zone["zone"]),
                *(f"{zone[name]:g}" for name in ("has_gpus", "peak_gpus", "needs_gpus", "jobs")),
                duration(zone["wait_alone_h"] * 3_600_000),
                duration(zone["wait_pooled_h"] * 3_600_000),
            ]
            for zone in pool["zones"]
        ]
        rows.append(
            [
                "together",
                f"{pool['has_gpus']:g}",
                f"{pool['peak_of_sum_gpus']:g}",
                f"{pool['needs_gpus']:g}",
                str(sum(zone["jobs"] for zone in pool["zones"])),
                duration(sum(zone["wait_alone_h"] for zone in pool["zones"]) * 3_600_000),
                duration(sum(zone["wait_pooled_h"] for zone in pool["zones"]) * 3_600_000),
            ]
        )
        parts.append(table(columns, rows))
        parts.append(
            f"pooling frees {pool['freed_gpus']:g} of {pool['sum_of_needs_gpus']:g} GPUs needed "
            f"alone, and {pool['wait_saved_h']:.1f} hours of waiting\n"
        )
    return "\n".join([*parts, found["method"]])


# -- files ---------------------------------------------------------------------------------------


def writable(given: Given, key: str) -> str:
    """Where a page goes, "" if none is asked for. Said before the work if it cannot go there.

    Raises:
        UsageError: there is no such directory, or it is one.
    """
    path = given.text(key)
    if path and (os.path.isdir(path) or not os.access(os.path.dirname(path) or ".", os.W_OK)):
        raise UsageError(
            f"--{key}: cannot write there",
            code="usage",
            given=path,
            allowed="a file in a directory that exists and may be written to",
        )
    return path


def write(path: str, text: str) -> None:
    """The whole text.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as failure:
        raise UsageError(
            f"cannot write the page: {failure.strerror}", code="usage", given=path
        ) from failure
