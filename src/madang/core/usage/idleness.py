"""What projects asked for and did not use, and what was taken back: the evaluation afterwards.

A second reading of the journal beside the books (books.py): windows in which a job's busiest GPU
was under IDLE_PCT, warnings, and GPUs that were taken. What was not measured is not idle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from madang.core import events as ev
from madang.core.model import ReleaseReason
from madang.core.usage.report import Line, Report

IDLE_PCT = 5  # the default of the rules; here for all alike, so that projects compare
_GPU_US = 1_000  # GPU·µs in a GPU·ms


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """GPUs that were taken from a job because they were idle: since when, warned and taken when."""

    job: str
    project: str
    gpu_milli: int
    idle_since_ms: int
    warned_ms: int
    taken_ms: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One project's window. `reclaimed` are the times its GPUs were taken, oldest first."""

    project: str
    asked_gpu_ms: int
    held_gpu_ms: int
    measured_gpu_ms: int
    used_gpu_ms: int
    wasted_gpu_ms: int
    idle_gpu_ms: int
    warned: int
    reclaimed: tuple[Reclaimed, ...]


@dataclass(slots=True)
class _Stay:
    project: str
    milli: int
    bound_ms: int
    measured_ms: int = 0
    idle_since_ms: int = 0
    warned_ms: int = 0


class Idleness:
    """`apply` each event of KINDS in order; the tables only grow, `forget` drops what is old."""

    def __init__(self) -> None:
        self.idle: list[tuple[str, int, int, int]] = []  # project, begin, end, milli
        self.warned: list[tuple[str, int]] = []  # project, when
        self.reclaimed: list[Reclaimed] = []
        self._stays: dict[str, _Stay] = {}  # by job: of the newest allocation

    def apply(self, event: ev.Event, at_ms: int) -> None:
        """Take in one event of the journal; of other kinds there is nothing to learn."""
        read = _READ.get(type(event))
        if read is not None:
            read(self, event, at_ms)

    def forget(self, before_ms: int) -> None:
        """Drop what was over by then."""
        self.idle = [row for row in self.idle if row[2] >= before_ms]
        self.warned = [row for row in self.warned if row[1] >= before_ms]
        self.reclaimed = [one for one in self.reclaimed if one.taken_ms >= before_ms]

    def rows(self) -> int:
        """How much it remembers."""
        return len(self.idle) + len(self.warned) + len(self.reclaimed)

    def _bound(self, event: ev.AllocationBound, at_ms: int) -> None:
        held = event.allocation
        milli = held.shape.milli * len(held.seats)
        self._stays[held.job] = _Stay(held.project, milli, at_ms)

    def _over(self, event: ev.JobEnded | ev.JobRequeued, at_ms: int) -> None:
        self._stays.pop(event.job, None)

    def _measured(self, event: ev.JobMeasured, at_ms: int) -> None:
        stay = self._stays.get(event.job)
        if stay is None:
            return
        end_ms = min(event.at_ms, at_ms)
        begin_ms = max(end_ms - event.window_ms, stay.measured_ms, stay.bound_ms)
        if end_ms <= begin_ms:
            return
        stay.measured_ms = end_ms
        busiest = event.util_pct if event.busiest_pct < 0 else event.busiest_pct
        if busiest >= IDLE_PCT:
            stay.idle_since_ms = 0
            return
        stay.idle_since_ms = stay.idle_since_ms or begin_ms
        self.idle.append((stay.project, begin_ms, end_ms, stay.milli))

    def _warned(self, event: ev.JobWarned, at_ms: int) -> None:
        stay = self._stays.get(event.job)
        if stay is not None:
            stay.warned_ms = at_ms
            self.warned.append((stay.project, at_ms))

    def _released(self, event: ev.ReleaseAsked, at_ms: int) -> None:
        job = event.allocation.rpartition(".")[0]
        stay = self._stays.get(job)
        if event.reason is not ReleaseReason.RECLAIMED or stay is None:
            return
        since_ms = stay.idle_since_ms or at_ms
        self.reclaimed.append(
            Reclaimed(job, stay.project, stay.milli, since_ms, stay.warned_ms, at_ms)
        )

    def _held(self, event: ev.ReleaseHeld, at_ms: int) -> None:
        """It was not taken after all."""
        job = event.allocation.rpartition(".")[0]
        stay = self._stays.get(job)
        if stay is not None:
            kept = [o for o in self.reclaimed if o.job != job or o.taken_ms < stay.bound_ms]
            self.reclaimed = kept


_READ: dict[type, Callable[[Idleness, Any, int], None]] = {
    ev.AllocationBound: Idleness._bound,
    ev.JobMeasured: Idleness._measured,
    ev.JobWarned: Idleness._warned,
    ev.ReleaseAsked: Idleness._released,
    ev.ReleaseHeld: Idleness._held,
    ev.JobEnded: Idleness._over,
    ev.JobRequeued: Idleness._over,
}
KINDS = tuple(kind.__name__ for kind in _READ)


def evaluations(usage: Report, idleness: Idleness) -> tuple[Evaluation, ...]:
    """Every project of a report by project, with what of it was idle; the most idle first."""
    assert usage.by == ("project",), f"not a report by project: {usage.by}"
    found = [_evaluation(line, usage, idleness) for line in usage.lines]
    return tuple(sorted(found, key=lambda one: (-one.idle_gpu_ms, one.project)))


def _evaluation(line: Line, usage: Report, idleness: Idleness) -> Evaluation:
    project, amounts = line.group[0], line.amounts
    since_ms, until_ms = usage.since_ms, usage.until_ms
    idle_milli_ms = sum(
        max(0, min(end_ms, until_ms) - max(begin_ms, since_ms)) * milli
        for of, begin_ms, end_ms, milli in idleness.idle
        if of == project
    )
    taken = [
        one
        for one in idleness.reclaimed
        if one.project == project and since_ms <= one.taken_ms < until_ms
    ]
    return Evaluation(
        project=project,
        asked_gpu_ms=amounts.asked_gpu_us // _GPU_US,
        held_gpu_ms=amounts.held_gpu_us // _GPU_US,
        measured_gpu_ms=amounts.measured_gpu_us // _GPU_US,
        used_gpu_ms=amounts.used_gpu_us // _GPU_US,
        wasted_gpu_ms=amounts.wasted_gpu_us // _GPU_US,
        idle_gpu_ms=idle_milli_ms // 1_000,
        warned=sum(of == project and since_ms <= at < until_ms for of, at in idleness.warned),
        reclaimed=tuple(taken),
    )
