"""The scheduler as one object without I/O: facts in, events out.

The daemon and the simulator are two callers of the same `step`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from madang.core.admission import judge
from madang.core.events import Decision, Event, Fact, JobRejected, JobSubmitted
from madang.core.plan import plan
from madang.core.state import State


@dataclass(frozen=True, slots=True)
class Step:
    """What one turn changed: facts that were news, then decisions, in the order they were folded."""

    events: tuple[Event, ...]
    decisions: tuple[Decision, ...]


class Controller:
    """Owns the state. `step` is the only way to change it."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state if state is not None else State()

    def step(self, facts: Iterable[Fact], now_ms: int) -> Step:
        """Fold the facts, plan once, fold the decisions."""
        events: list[Event] = []
        rejections: list[Decision] = []
        for fact in facts:
            if isinstance(fact, JobSubmitted) and (rejection := self._rejection(fact)):
                rejections.append(rejection)
                events.append(rejection)
            elif self.state.apply(fact, now_ms):
                events.append(fact)
        decisions = plan(self.state.snapshot(now_ms))
        for decision in decisions:
            news = self.state.apply(decision, now_ms)
            assert news, f"a decision must change the state: {decision}"
        return Step((*events, *decisions), (*rejections, *decisions))

    def _rejection(self, fact: JobSubmitted) -> JobRejected | None:
        job, state = fact.job, self.state
        rejected = judge(state.pool, state.models, state.projects, job)
        if rejected is None:
            return None
        return JobRejected(job.id, job.project, rejected.code, rejected.numbers)
