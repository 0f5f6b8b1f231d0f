"""When a waiting job will start, and what has to happen first.

The very controller that decides is run ahead on a copy of the yard, with the expected ends of what
runs for facts (estimates.py): whatever the policy does with quotas, order, reservations and those
who are moved aside, the forecast does too. Several futures are run, in which jobs take other
quantiles of what the history knows, and the middle one is told: half of the jobs outlive a median,
but of a hundred that run together many end long before it. It knows of nobody who is yet to come,
and nodes neither fail nor come. Pure, deterministic, and bounded: far ahead, ends are taken
together, so that the number of turns grows with the logarithm of the time looked ahead.
"""

import heapq
from dataclasses import dataclass, field, replace

from madang.core.controller import Controller
from madang.core.estimates import (
    HISTORY,
    MOVED,
    NEVER_MS,
    UNKNOWN,
    Ending,
    Estimate,
    Expected,
    left,
)
from madang.core.events import (
    AllocationBound,
    Decision,
    Fact,
    MemberEnded,
    MemberStarted,
    ReleaseAsked,
)
from madang.core.explain import Why, why
from madang.core.explain_time import expected_words
from madang.core.keys import attained_ms
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation, Exit, Job, NodeState
from madang.core.restore import restored
from madang.core.snapshot import Snapshot
from madang.core.state import State

TURNS_MAX = 1_000  # a future that has not come to it by then says "not before"
WORK_MAX = 1_000_000  # turns × (jobs + nodes), of all futures: who asks waits seconds, not minutes
TURNS_WORTH_IT = 16  # with fewer the answer would be "not before" anyway
WAITS_FOR_DEVICES = frozenset({"capacity", "behind", "network", "quota", "reserved"})
TOGETHER_MS = 1_000  # ends this close are one turn; further ahead a share of the time looked ahead
TOGETHER_SHARE = 32
# (how many futures are looked at, if each can have so many turns): odd primes, see permille_of. If
# that does not suffice to come to the middle one, the next fewer.
FUTURES = ((7, 128), (3, 64), (1, 0))
MEDIAN_PERMILLE = 500  # half of the jobs are expected to have ended: what one would bet on
_WORD = (1 << 64) - 1
_DONE, _MOVED = Exit(0), Exit(0, signal=15)


def expected_start(snapshot: Snapshot, job_id: str) -> Expected:
    """When the waiting job is expected to start: in the middle one of several futures.

    Raises:
        KeyError: the job is not live.
    """
    live = snapshot.jobs[job_id]
    if live.allocation is not None:
        return Expected(snapshot.now_ms, True)
    turns, found = turns_max(snapshot), Expected(snapshot.now_ms, False)
    for futures, least in FUTURES:
        if turns >= futures * least:
            found = _middle(snapshot, job_id, futures, min(TURNS_MAX, turns // futures))
            if found.is_known or found.start_ms == NEVER_MS:
                break  # else fewer are looked at, each further ahead
    return found


def _middle(snapshot: Snapshot, job_id: str, futures: int, turns: int) -> Expected:
    """The middle one of so many futures, each of so many turns."""
    middle = futures // 2
    found: list[Expected] = []
    for future in range(futures):
        # What starts after the middle one of those so far moves the middle no more.
        known = sorted(one.start_ms for one in found if one.is_known)
        until_ms = known[middle] if len(known) > middle else NEVER_MS
        ahead = _Ahead(snapshot, future, futures)
        found.append(ahead.until(job_id, turns, until_ms))
        if not ahead.has_guessed:
            return found[0]  # what was said, and limits, are the same in every future
    found.sort(key=lambda one: (not one.is_known, one.start_ms))
    return replace(found[middle], futures=futures)


def permille_of(job: Job, future: int, futures: int) -> int:
    """Which quantile of its run time a job is given in a future.

    Every job meets all of them once, the middles of as many equal parts, each in an order of its
    own: a Latin hypercube, without randomness. Ends of several jobs are then as far apart as ends
    are; were all given the median, whoever needs any one of them to end would be told too late.
    """
    mixed = (job.seq + 1) * 0x9E3779B97F4A7C15 & _WORD
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _WORD
    mixed ^= mixed >> 31
    step, first = 1 + mixed % (futures - 1) if futures > 1 else 0, (mixed >> 32) % futures
    part = (first + step * future) % futures
    return (2 * part + 1) * 1000 // (2 * futures)


def why_and_when(snapshot: Snapshot, job_id: str) -> Why:
    """Why a live job does not run, and when it is expected to, with what that rests on.

    Raises:
        KeyError: the job is not live.
    """
    found = why(snapshot, job_id)
    if found.code not in WAITS_FOR_DEVICES or turns_max(snapshot) < TURNS_WORTH_IT:
        return found
    expected = expected_start(snapshot, job_id)
    if not expected.is_known:
        return found
    return replace(found, earliest_ms=expected.start_ms, basis=expected_words(expected))


def turns_max(snapshot: Snapshot) -> int:
    """How many turns a forecast takes at most: fewer, the more there is to look at in each."""
    return WORK_MAX // (1 + len(snapshot.jobs) + len(snapshot.nodes))


def twin(snapshot: Snapshot) -> State:
    """A state of its own that goes on from the snapshot as the one it was taken of would."""
    return restored(
        [snapshot.nodes[id] for id in snapshot.node_ids],
        snapshot.projects.values(),
        snapshot.jobs.values(),
        snapshot.allocations.values(),
        snapshot.nominations.items(),
        [*snapshot.settings, snapshot.policy],
    )


@dataclass(slots=True)
class _Ahead:
    """A yard that is run ahead. `totals_ms` is how long each job runs in all, once it was asked."""

    snapshot: Snapshot
    future: int
    futures: int
    now_ms: int = 0
    state: State = field(init=False)
    controller: Controller = field(init=False)
    ends: list[tuple[int, str]] = field(default_factory=list)
    estimates: dict[str, Estimate] = field(default_factory=dict)
    totals_ms: dict[str, int] = field(default_factory=dict)
    freed: dict[tuple[str, int], Ending] = field(default_factory=dict)
    found: Expected | None = None

    def __post_init__(self) -> None:
        self.now_ms = self.snapshot.now_ms
        self.state = twin(self.snapshot)
        self.controller = Controller(self.state)

    def until(self, job_id: str, turns: int, until_ms: int) -> Expected:
        """Run until the job starts, nothing more happens, or it has been looked far enough."""
        facts = self._begin()
        for _ in range(turns):
            facts = self._turn(facts, job_id)
            if self.found is not None:
                return self.found
            if job_id not in self.state.jobs:
                break
            if facts or self.controller.due_ms(self.now_ms) == self.now_ms:
                continue
            next_ms = self._next_ms()
            if next_ms is None:
                return Expected(NEVER_MS, False)
            if next_ms >= until_ms:
                break
            ahead_ms = next_ms - self.snapshot.now_ms
            together_ms = min(TOGETHER_MS, ahead_ms) + ahead_ms // TOGETHER_SHARE
            self.now_ms = next_ms + together_ms // 2
            facts = self._ended(next_ms + together_ms)
        return Expected(self.now_ms, False)

    @property
    def has_guessed(self) -> bool:
        """True iff the end of some job was told by the history."""
        return any(one.source is HISTORY for one in self.estimates.values())

    def _begin(self) -> list[Fact]:
        facts: list[Fact] = []
        for allocation in list(self.state.allocations.values()):
            if self._is_out_of_sight(allocation):
                continue
            if allocation.state not in LIVELY:
                facts += self._all_end(allocation, _MOVED)
                continue
            facts += [
                MemberStarted(allocation.id, rank, self.now_ms)
                for rank in range(len(allocation.seats))
                if not (allocation.started | allocation.ended) >> rank & 1
            ]
            self._expect(allocation)
        return facts

    def _is_out_of_sight(self, allocation: Allocation) -> bool:
        nodes = self.state.nodes
        return any(nodes[seat.node].state is NodeState.LOST for seat in allocation.seats)

    def _expect(self, allocation: Allocation) -> None:
        """Note when the allocation, which has just begun or goes on, will have ended."""
        live = self.state.jobs[allocation.job]
        attained = attained_ms(live, self.now_ms)
        job_id = live.job.id
        if job_id not in self.totals_ms:
            before_ms = live.standing.attained_ms
            estimate = left(
                self.state.settings.runs,
                permille_of(live.job, self.future, self.futures),
                live.job,
                before_ms=before_ms,
                ran_ms=attained - before_ms,
            )
            self.estimates[job_id] = estimate
            known = estimate.source is not UNKNOWN
            self.totals_ms[job_id] = attained + estimate.left_ms if known else NEVER_MS
        total_ms = self.totals_ms[job_id]
        if total_ms != NEVER_MS:
            end_ms = self.now_ms + max(1, total_ms - attained)
            heapq.heappush(self.ends, (end_ms, allocation.id))

    def _next_ms(self) -> int | None:
        while self.ends and self._is_stale(self.ends[0][1]):
            heapq.heappop(self.ends)
        times = [self.ends[0][0]] if self.ends else []
        due_ms = self.controller.due_ms(self.now_ms)
        if due_ms is not None:
            times.append(due_ms)
        return min(times) if times else None

    def _is_stale(self, allocation_id: str) -> bool:
        allocation = self.state.allocations.get(allocation_id)
        return allocation is None or allocation.state not in LIVELY

    def _ended(self, until_ms: int) -> list[Fact]:
        """Those who end by then end now."""
        facts: list[Fact] = []
        while self.ends and self.ends[0][0] <= until_ms:
            at_ms, id = heapq.heappop(self.ends)
            if not self._is_stale(id):
                allocation = self.state.allocations[id]
                self._free(
                    allocation, Ending(allocation.job, at_ms, self.estimates[allocation.job])
                )
                facts += self._all_end(allocation, _DONE)
        return facts

    def _all_end(self, allocation: Allocation, how: Exit) -> list[Fact]:
        return [
            MemberEnded(allocation.id, rank, how, self.now_ms)
            for rank in range(len(allocation.seats))
            if allocation.holds(rank)
        ]

    def _free(self, allocation: Allocation, ending: Ending) -> None:
        for seat in allocation.seats:
            for gpu in seat.gpus:
                self.freed[seat.node, gpu] = ending

    def _turn(self, facts: list[Fact], job_id: str) -> list[Fact]:
        """One turn, and what comes of its decisions at once."""
        step = self.controller.step(facts, self.now_ms)
        self.state.forget_ended()
        self.state.take_changed()
        more: list[Fact] = []
        for decision in step.decisions:
            more += self._carry_out(decision, job_id)
        return more

    def _carry_out(self, decision: Decision, job_id: str) -> list[Fact]:
        match decision:
            case AllocationBound(allocation=allocation):
                if allocation.job == job_id:
                    self.found = Expected(self.now_ms, True, self._after(allocation))
                started: list[Fact] = [
                    MemberStarted(allocation.id, rank, self.now_ms)
                    for rank in range(len(allocation.seats))
                ]
                self._expect(allocation)
                return started
            case ReleaseAsked(allocation=id):
                allocation = self.state.allocations[id]
                if self._is_out_of_sight(allocation):
                    return []
                self._free(allocation, Ending(allocation.job, self.now_ms, Estimate(0, MOVED)))
                return self._all_end(allocation, _MOVED)
            case _:
                return []

    def _after(self, allocation: Allocation) -> tuple[Ending, ...]:
        places = [(seat.node, gpu) for seat in allocation.seats for gpu in seat.gpus]
        endings = {self.freed[one].job: self.freed[one] for one in places if one in self.freed}
        return tuple(sorted(endings.values(), key=lambda one: (-one.at_ms, one.job)))
