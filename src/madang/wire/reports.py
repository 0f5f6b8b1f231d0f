"""What the API answers about usage, and the same as CSV.

Times are ms since 1970, amounts GPU·hours. A window is asked for in words: `30d` (that long before
now), `2026-11-01`, `2026-11-01T08:00` (UTC), or ms since 1970.
"""

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from madang.wire.jobs import duration_ms

SINCE_DEFAULT = "30d"
MOMENT_CHARS_MAX = 40
MS_LEAST = 10**11  # a number this large is a time in ms, a smaller one no time at all
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would calculate


def moment_ms(text: str, now_ms: int) -> int:
    """The moment that the words name; "" and `now` are now.

    Raises:
        ValueError: they name none; says what is allowed.
    """
    words = text.strip()
    if words in ("", "now"):
        return now_ms
    if words.isascii() and words.isdigit() and int(words) >= MS_LEAST:
        return int(words)
    try:
        found = datetime.fromisoformat(words)
    except ValueError:
        pass
    else:
        aware = found if found.tzinfo else found.replace(tzinfo=UTC)
        return round(aware.timestamp() * 1000)
    try:
        return now_ms - int(duration_ms(words if words.isascii() else ""))
    except (ValueError, TypeError):
        raise ValueError(
            f"{text!r} is no moment; write 30d (before now), 2026-11-01, 2026-11-01T08:00 (UTC) "
            "or milliseconds since 1970"
        ) from None


class WaitsOfJobs(BaseModel):
    """How long the jobs waited that started for the first time in the window, in ms.

    Quantiles are exact: each is a wait that there was.
    """

    count: int
    mean_ms: int
    p50_ms: int
    p90_ms: int
    p99_ms: int
    max_ms: int


class UsageLine(BaseModel):
    """One group. `asked` = `held` + `waited`; `used` is of the `measured` part of what was held."""

    group: dict[str, str] = Field(examples=[{"project": "vision", "size": "8"}])
    asked_gpu_h: float = Field(description="Held, and wished for while waiting.")
    held_gpu_h: float = Field(description="In allocations, from the decision to the observed end.")
    waited_gpu_h: float = Field(description="GPUs asked × time waited for them.")
    measured_gpu_h: float = Field(description="The part of `held` whose utilisation was measured.")
    used_gpu_h: float = Field(description="`measured` × its utilisation.")
    util_pct: float | None = Field(description="used / measured; null if nothing was measured.")
    wasted_gpu_h: float = Field(
        description="Work thrown away by preemptions, moves, reclaims, requeues, lost nodes."
    )
    failed_gpu_h: float = Field(description="Held by attempts that the jobs themselves broke.")
    stranded_gpu_h: float = Field(
        description="On lost nodes after their jobs had left: charged to nobody, offered to nobody."
    )
    capacity_gpu_h: float | None = Field(
        description="Healthy GPUs on nodes in sight; null where a free GPU is of no such group."
    )
    held_pct: float | None = Field(description="(held + stranded) / capacity.")
    submitted: int
    ended: int
    waiting: int = Field(description="Jobs that wait at the end of the window.")
    jct_mean_ms: int = Field(description="From submission to the end, of the jobs that ended.")
    preemptions: int
    moves: int
    reclaims: int
    requeues: int
    node_losses: int
    failures: int
    waits: WaitsOfJobs


class YardPoint(BaseModel):
    """The yard at a moment, in GPUs. `stuck` of the `free` ones are in too small pieces."""

    at_ms: int
    gpus: float
    free: float
    stuck: float


class UsageReportView(BaseModel):
    """Who held what, who waited how long, what was lost."""

    since_ms: int
    until_ms: int
    begins_ms: int = Field(
        description="When the records begin; later than `since_ms` if the journal was pruned."
    )
    by: list[str] = Field(examples=[["project", "size"]])
    total: UsageLine
    lines: list[UsageLine]
    points: list[YardPoint] = Field(description="At most 400 over the window.")


class ZoneAdvice(BaseModel):
    """One zone's GPUs of one model. GPUs needed: those at which the waiting-time target holds."""

    zone: str
    jobs: int
    has_gpus: float
    peak_gpus: float = Field(description="The most wanted at once if nobody waited.")
    needs_gpus: float
    wait_alone_h: float = Field(description="All its jobs' waits with what it has, alone.")
    wait_pooled_h: float = Field(description="The same jobs' waits in the pool of all.")
    wait_saved_h: float


class PoolAdvice(BaseModel):
    """All zones of one model, alone and together."""

    model: str
    zones: list[ZoneAdvice]
    has_gpus: float
    sum_of_peaks_gpus: float
    peak_of_sum_gpus: float
    sum_of_needs_gpus: float
    needs_gpus: float = Field(description="All together.")
    freed_gpus: float = Field(description="What they need more alone than together.")
    wait_saved_h: float


class PoolAdviceView(BaseModel):
    """What pooling private zones into the public one would free, by past demand."""

    since_ms: int
    until_ms: int
    begins_ms: int
    target_ms: int = Field(description="The waiting-time target …")
    share_pct: int = Field(description="… and the share of the jobs that must keep it.")
    pools: list[PoolAdvice]
    freed_gpus: float
    wait_saved_h: float
    method: str = Field(description="How it was computed, in words.")


class JournalPage(BaseModel):
    """Lines of the journal as they were committed: [seq, at_ms, line]."""

    first_seq: int = Field(description="The oldest line that is kept.")
    last_seq: int = Field(description="The newest.")
    lines: list[tuple[int, int, str]]


def csv_of(report: dict[str, Any]) -> Iterator[str]:
    """A usage report's document as CSV: a heading, a line for each group, the total last."""
    by = report["by"]
    total = report["total"]
    numbers = [name for name in total if name not in ("group", "waits")]
    waits = list(total["waits"])
    yield _csv([*by, *numbers, *(f"wait_{name}" for name in waits)])
    for line in [*report["lines"], total]:
        words = [line["group"].get(name, "(total)") for name in by]
        cells = [line[name] for name in numbers] + [line["waits"][name] for name in waits]
        yield _csv([*map(cell, words), *("" if one is None else one for one in cells)])


def cell(word: str) -> str:
    """A word that no spreadsheet takes for a formula."""
    return f"'{word}" if word.startswith(_FORMULA) else word


def _csv(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


class ReclaimedView(BaseModel):
    """GPUs that were taken because they were idle."""

    job: str
    gpus: float
    idle_since_ms: int
    warned_ms: int
    taken_ms: int


class IdleProjectView(BaseModel):
    """A project's window. `wasted` is work that was thrown away for others or by a lost node."""

    project: str
    asked_gpu_h: float = Field(description="Held, and wished for while waiting.")
    held_gpu_h: float
    measured_gpu_h: float = Field(description="Of what was held, as far as sensors spoke.")
    used_gpu_h: float
    idle_gpu_h: float = Field(description="Measured with the busiest GPU of the job under 5 %.")
    wasted_gpu_h: float
    warned: int
    reclaimed: list[ReclaimedView]


class IdleReportView(BaseModel):
    """What projects asked for and did not use, the most idle first."""

    since_ms: int
    until_ms: int
    begins_ms: int = Field(description="When the records begin, if later than the window.")
    projects: list[IdleProjectView]
