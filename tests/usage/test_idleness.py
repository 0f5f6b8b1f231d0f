"""The evaluation afterwards: what was asked, used, idle, and taken back, per project."""

from madang.core import events as ev
from madang.core.model import (
    Allocation,
    AllocationState,
    Job,
    Node,
    Phase,
    Project,
    ReleaseReason,
    Seat,
    Shape,
)
from madang.core.usage.books import Books
from madang.core.usage.idleness import Idleness, Reclaimed, evaluations
from madang.core.usage.report import report

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
BEGIN_MS = 100 * HOUR_MS


def told(*story: tuple[int, ev.Event]) -> tuple[Books, Idleness]:
    """Both readings of a journal; times are minutes from the begin."""
    books, idleness = Books(), Idleness()
    for minute, event in story:
        for reader in (books, idleness):
            reader.apply(event, BEGIN_MS + minute * MINUTE_MS)
    return books, idleness


def begins(job: str, project: str, gpus: int) -> list[tuple[int, ev.Event]]:
    seats = (Seat("n1", tuple(range(gpus))),)
    held = Allocation(
        f"{job}.1", job, project, 1, Shape(gpus), seats, AllocationState.BOUND, BEGIN_MS
    )
    return [
        (0, ev.JobSubmitted(Job(job, 1, project, Shape(gpus), submitted_ms=BEGIN_MS))),
        (0, ev.AllocationBound(held)),
        (0, ev.MemberStarted(held.id, 0, BEGIN_MS)),
    ]


def window(job: str, until: int, util_pct: int, busiest_pct: int) -> tuple[int, ev.Event]:
    """Ten minutes of sensors that ended at the minute."""
    at_ms = BEGIN_MS + until * MINUTE_MS
    return until, ev.JobMeasured(job, util_pct, 10 * MINUTE_MS, at_ms, busiest_pct)


YARD: list[tuple[int, ev.Event]] = [
    (0, ev.ProjectSet(Project("vision"))),
    (0, ev.ProjectSet(Project("speech"))),
    (0, ev.NodeSeen(Node("n1", 8, 64_000, 1_024, "H100"))),
]


def test_what_was_idle_is_told_apart_from_what_was_little_used_and_from_the_unknown():
    books, idleness = told(
        *YARD,
        *begins("a", "vision", 2),
        window("a", 10, 0, 0),  # idle: 2 GPUs × 10 min
        window("a", 20, 5, 10),  # little, not idle
        window("a", 40, 0, 4),  # idle; the ten minutes before are unknown
        window("a", 40, 0, 4),  # told twice
    )
    usage = report(books, BEGIN_MS, BEGIN_MS + HOUR_MS, ("project",))
    found = {one.project: one for one in evaluations(usage, idleness)}

    assert found["vision"].held_gpu_ms == 2 * HOUR_MS
    assert found["vision"].measured_gpu_ms == 2 * 30 * MINUTE_MS
    assert found["vision"].idle_gpu_ms == 2 * 20 * MINUTE_MS
    assert found["vision"].used_gpu_ms == 2 * 10 * MINUTE_MS * 5 // 100
    assert found["vision"].reclaimed == ()


def test_what_was_taken_is_told_with_its_warning_and_how_long_it_was_idle():
    books, idleness = told(
        *YARD,
        *begins("a", "vision", 4),
        window("a", 10, 60, 90),
        window("a", 20, 0, 0),
        window("a", 30, 0, 0),
        (30, ev.JobWarned("a", "idle", BEGIN_MS + 40 * MINUTE_MS)),
        window("a", 40, 0, 0),
        (40, ev.ReleaseAsked("a.1", ReleaseReason.RECLAIMED, 0, "idleness", 4 * 40 * MINUTE_MS)),
        (41, ev.JobEnded("a", Phase.STOPPED, "reclaimed")),
    )
    usage = report(books, BEGIN_MS, BEGIN_MS + HOUR_MS, ("project",))
    (found,) = [one for one in evaluations(usage, idleness) if one.project == "vision"]

    assert found.warned == 1
    assert found.reclaimed == (
        Reclaimed(
            "a",
            "vision",
            4_000,
            idle_since_ms=BEGIN_MS + 10 * MINUTE_MS,
            warned_ms=BEGIN_MS + 30 * MINUTE_MS,
            taken_ms=BEGIN_MS + 40 * MINUTE_MS,
        ),
    )
    assert found.idle_gpu_ms == 4 * 30 * MINUTE_MS


def test_a_window_cuts_what_lies_across_it_and_forgets_what_is_old():
    books, idleness = told(*YARD, *begins("a", "vision", 1), window("a", 10, 0, 0))
    half_ms = BEGIN_MS + 5 * MINUTE_MS
    usage = report(books, half_ms, BEGIN_MS + HOUR_MS, ("project",))
    (found,) = [one for one in evaluations(usage, idleness) if one.project == "vision"]
    assert found.idle_gpu_ms == 5 * MINUTE_MS

    assert idleness.rows() == 1
    idleness.forget(BEGIN_MS + HOUR_MS)
    assert idleness.rows() == 0
