"""The scheduler as one object without I/O: facts in, events out.

The daemon and the simulator are two callers of the same `step`. A turn without anything to decide
costs no plan: the state tells what may need one.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from madang.core.admission import Rejected, judge
from madang.core.cells.promises import judge_quota
from madang.core.events import (
    Decision,
    Event,
    Fact,
    JobRejected,
    JobSubmitted,
    QuotaSet,
    ReservationSet,
)
from madang.core.model import Job
from madang.core.night import has_night, next_look_ms
from madang.core.ordering import next_change_ms
from madang.core.passes.calendar import windows_ms
from madang.core.passes.grow import looks_ms
from madang.core.passes.start import BINDS_PER_TURN_MAX
from madang.core.plan import plan
from madang.core.reserving import refusal
from madang.core.settings import Reservation
from madang.core.state import State

_NEVER_PLANNED = -1
# All that is said of a job but which one it is.
_LIKENESS = attrgetter(*(set(Job.__dataclass_fields__) - {"id", "seq", "submitted_ms"}))


@dataclass(frozen=True, slots=True)
class Step:
    """What one turn changed: facts that were news, then decisions, in the order of the fold."""

    events: tuple[Event, ...]
    decisions: tuple[Decision, ...]


class Controller:
    """Owns the state. `step` is the only way to change it."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state if state is not None else State()
        # What the last plan had seen; a plan of the same would decide nothing.
        self._planned_stirs = _NEVER_PLANNED
        self._planned_ms = 0

    def step(self, facts: Iterable[Fact], now_ms: int) -> Step:
        """Fold the facts, plan once, fold the decisions."""
        events: list[Event] = []
        rejections: list[Decision] = []
        admitted: set[object] = set()
        for fact in facts:
            if isinstance(fact, JobSubmitted):
                if rejection := self._rejection(fact, admitted):
                    rejections.append(rejection)
                    events.append(rejection)
                elif self.state.apply(fact, now_ms):
                    events.append(fact)
                continue
            admitted.clear()
            if isinstance(fact, QuotaSet) and judge_quota(self.state, fact.quota) is not None:
                continue  # it lost a race against another promise of cells
            elif isinstance(fact, ReservationSet) and self.refusal(fact.reservation, now_ms):
                continue  # what cannot coexist is no news; who asked is told why
            elif self.state.apply(fact, now_ms):
                events.append(fact)
        decisions = self._plan(now_ms)
        for decision in decisions:
            news = self.state.apply(decision, now_ms)
            assert news, f"a decision must change the state: {decision}"
        return Step((*events, *decisions), (*rejections, *decisions))

    def due_ms(self, now_ms: int) -> int | None:
        """When the next turn is needed if no fact comes before: `now_ms` if at once, None if never.

        Back-offs, time limits and waits for few switches end without any fact; what one turn
        decides (a job back in the queue) may be for the next to go on with.
        """
        state = self.state
        if state.stirs != self._planned_stirs or state.needs_attention:
            return now_ms
        due = [state.deadlines[0][0]] if state.deadlines else []
        after = bisect_right(state.backoffs, (self._planned_ms, "\U0010ffff"))
        if after < len(state.backoffs):
            due.append(state.backoffs[after][0])
        if state.insisting:
            after = bisect_right(state.insisting, (self._planned_ms, "\U0010ffff"))
            due += [until_ms for until_ms, _ in state.insisting[after : after + 1]]
        if state.short:
            due += self._may_grow_ms()
        if (change_ms := next_change_ms(state, self._planned_ms)) is not None:
            due.append(change_ms)
        due += [hole.until_ms for hole in state.settings.holes.values()]
        if has_night(state.policy) and state.allocations:
            due.append(next_look_ms(state.policy, state.planned_ms, now_ms))
        if state.settings.reservations:
            due += windows_ms(state.settings.reservations.values(), self._planned_ms)
        return max(now_ms, min(due)) if due else None

    def _may_grow_ms(self) -> list[int]:
        """When gangs that run short may first be worth a new start, after the last plan."""
        state = self.state
        running = [state.allocations[id] for id in state.short]
        times = [at_ms for one in running for at_ms in looks_ms(state.jobs[one.job].job, one)]
        return [at_ms for at_ms in times if at_ms > self._planned_ms]

    def _plan(self, now_ms: int) -> list[Decision]:
        due_ms = self.due_ms(now_ms)
        if due_ms is None or due_ms > now_ms:
            return []
        state, stirs = self.state, self.state.stirs
        decisions = plan(state.snapshot(now_ms))
        was_cut = len(decisions) >= BINDS_PER_TURN_MAX
        self._planned_stirs = _NEVER_PLANNED if was_cut else stirs
        self._planned_ms = now_ms
        state.planned(now_ms)
        return decisions

    def refusal(self, reservation: Reservation, now_ms: int) -> Rejected | None:
        """Why the reservation cannot be made; None if it can."""
        return refusal(self.state.view(now_ms), reservation)

    def judge(self, job: Job) -> Rejected | None:
        """Why the job could never run here; None if it may wait its turn."""
        return judge(self.state.view(0), job)

    def _rejection(self, fact: JobSubmitted, admitted: set[object]) -> JobRejected | None:
        """`admitted` has whose like was, since anything but a submission was folded."""
        job = fact.job
        if self.state.knows_job(job.id):
            return None  # a repeat: it has been judged
        # Whether one may ever run is asked of the nodes and limits there are, not of other jobs;
        # only reservations and waits for switches are a matter of when it was asked.
        like = None if job.reservation or job.switches else _LIKENESS(job)
        if like in admitted:
            return None
        rejected = self.judge(job)
        if rejected is None:
            if like is not None:
                admitted.add(like)
            return None
        return JobRejected(job.id, job.project, rejected.code, rejected.numbers)
