"""What moves, holes and reclaimed GPUs promise, held against a whole scenario as it goes by.

Budgets of disruption are never broken, nobody gets what is kept for a hole, and nobody loses GPUs
without having been warned, or while really using them.
"""

from collections.abc import Sequence

from madang.core.events import (
    AllocationBound,
    Event,
    HoleAsked,
    HoleDropped,
    HoleMade,
    JobRequeued,
    JobWarned,
    ReleaseAsked,
    SettingDropped,
)
from madang.core.idle import NoRule, rule_of
from madang.core.model import Allocation, ReleaseReason, Seat
from madang.core.night import DEFRAGMENT, NEVER_MS, night_begin_ms
from madang.core.state import State
from madang.engines.virtual import FleetModel


class BrokenPromise(AssertionError):
    """Upkeep did what it must not; the message holds the objects."""


class Upkeep:
    """Follows a scenario turn by turn."""

    def __init__(self, model: FleetModel) -> None:
        self.model = model
        self.moves = self.warnings = self.reclaims = self.holes = 0
        self._moved_ms: dict[str, int] = {}
        self._spent: dict[int, int] = {}
        self._warned_ms: dict[str, int] = {}
        self._kept: dict[str, tuple[Seat, ...]] = {}
        self._holes: set[str] = set()

    def look(self, now_ms: int, events: Sequence[Event], state: State) -> None:
        """After each turn, with what it changed."""
        dropped = {event.hole for event in events if isinstance(event, HoleDropped)}
        dropped |= {event.key for event in events if isinstance(event, SettingDropped)}
        for event in events:
            match event:
                case ReleaseAsked(reason=ReleaseReason.MOVED):
                    self._look_at_move(now_ms, event, state)
                case ReleaseAsked(reason=ReleaseReason.RECLAIMED):
                    self._look_at_reclaim(now_ms, event, state)
                case JobWarned(job=job):
                    self.warnings += 1
                    self._warned_ms[job] = now_ms
                case JobRequeued(job=job):
                    self._warned_ms.pop(job, None)
                case HoleAsked(hole=asked):
                    self._holes.add(asked.id)
                case HoleMade(hole=hole, seats=seats):
                    self.holes += 1
                    self._kept[hole] = seats
                case AllocationBound(allocation):
                    self._look_at_start(allocation, dropped)
        for hole in set(self._kept) - set(state.settings.holes):
            del self._kept[hole]

    def _look_at_move(self, now_ms: int, event: ReleaseAsked, state: State) -> None:
        if event.by != DEFRAGMENT and event.by not in self._holes:
            return  # an elastic gang that grows starts anew where it can
        self.moves += 1
        allocation, policy = state.allocations[event.allocation], state.policy
        job = state.jobs[allocation.job].job
        _require(job.checkpoints and job.preemptible, "moved, though it must not be", job)
        _require(job.id in state.nominations, "moved to nowhere", event)
        last_ms = self._moved_ms.get(job.id)
        rested = last_ms is None or now_ms - last_ms >= policy.move_rest_ms
        _require(rested, "moved again too soon", event, last_ms)
        self._moved_ms[job.id] = now_ms
        if event.by != DEFRAGMENT:
            return
        begin_ms = night_begin_ms(policy, now_ms)
        _require(begin_ms != NEVER_MS, "tidied up by day", now_ms, event)
        self._spent[begin_ms] = self._spent.get(begin_ms, 0) + event.bill_gpu_ms
        _require(self._spent[begin_ms] <= policy.night_gpu_ms, "over the night's budget", event)

    def _look_at_reclaim(self, now_ms: int, event: ReleaseAsked, state: State) -> None:
        """It was warned, has had its grace, and nothing of it used a device at all."""
        self.reclaims += 1
        job = state.jobs[state.allocations[event.allocation].job].job
        rule = rule_of(state.policy, job)
        _require(not isinstance(rule, NoRule), "taken without a rule", job)
        assert not isinstance(rule, NoRule), "as was required"
        _require(rule.takes, "taken, though the rule only warns", job)
        warned_ms = self._warned_ms.get(job.id)
        _require(warned_ms is not None, "taken without a warning", job)
        assert warned_ms is not None, "as was required"
        _require(now_ms - warned_ms >= rule.grace_ms, "taken within its grace", job, warned_ms)
        stay = self.model.stays.get(event.allocation)
        if stay is not None and all(member.runs for member in stay.members):
            _require(stay.script.temper == "idle", "taken while it was busy", stay)

    def _look_at_start(self, allocation: Allocation, dropped: set[str]) -> None:
        """While a hole is kept nobody gets what is kept for it."""
        got = {(seat.node, gpu) for seat in allocation.seats for gpu in seat.gpus}
        if allocation.shape.gpu_milli < 1000:
            return  # a share may sit beside a hole of shares
        for hole, seats in self._kept.items():
            kept = {(seat.node, gpu) for seat in seats for gpu in seat.gpus}
            _require(hole in dropped or not got & kept, "a hole was stolen", hole, allocation)


def _require(claim: bool, *what: object) -> None:
    if not claim:
        raise BrokenPromise(" | ".join(map(str, what)))
