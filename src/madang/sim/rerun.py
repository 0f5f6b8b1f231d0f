"""Replay a platform's own journal through the very controller, under its policy or another.

Arrivals, nodes, projects and settings come when the journal says; each job does what its course
says, wherever and whenever it runs. Starts and stops take what they took (the job's own times, else
the journal's median). A member on a lost node is not seen to end until the node is back. Who is
stopped by the scheduler goes on from the last checkpoint there was a record of, or (none on record)
where it was, and pays a restart; who does not checkpoint begins anew.
"""

import heapq
from copy import deepcopy
from dataclasses import dataclass, field, replace

from madang.core import events as ev
from madang.core.classes import Preemptible, class_of
from madang.core.controller import Controller, Step
from madang.core.model import Allocation, AllocationState, Exit, Job, NodeState
from madang.core.policy import Policy
from madang.core.usage.books import restart_ms
from madang.sim.history import FOREVER_MS, STOPPED_BY_OTHERS, History, Run
from madang.sim.stage import Stage

TERMINATED = Exit(0, signal=15)
DONE = Exit(0)


@dataclass(slots=True)
class _Life:
    """How far a job is: which of its runs, how much of it is done, a restart it owes."""

    run: int = 0
    done_ms: int = 0
    restart_ms: int = 0


@dataclass(slots=True)
class _Stay:
    allocation: Allocation
    run: Run
    done_ms: int
    restart_ms: int
    left: int = 0  # bits of the ranks that were seen to end
    running_ms: int = -1
    is_leaving: bool = False  # the scheduler has asked it to end
    is_over: bool = False  # the run came to an end of its own


@dataclass(slots=True)
class Marks:
    """When each job first started and ended, and how often it was stopped for others."""

    started_ms: dict[str, int] = field(default_factory=dict)
    ended_ms: dict[str, int] = field(default_factory=dict)
    rejected: int = 0


class Rerun(Stage):
    """One history, one policy (none: the recorded ones, as they were set)."""

    def __init__(self, history: History, policy: Policy | None, *, oracle: bool = False) -> None:
        state = history.state()
        # Classes are given at submission: a table that is not the recorded one gives others.
        rows = policy.classes if policy is not None else state.policy.classes
        self._classes = rows if rows != state.policy.classes else None
        if policy is not None:
            state.apply(ev.PolicySet(policy), history.since_ms)
            state.take_changed()
        super().__init__(Controller(state))
        self.history = history
        self.books = deepcopy(history.books)
        self.marks = Marks()
        self._keeps_policy = policy is not None
        self._oracle = oracle
        self._lives: dict[str, _Life] = {}
        self._stays: dict[str, _Stay] = {}
        self._heap: list[tuple[int, int, str, str, int]] = []  # when, order, what, allocation, n
        self._order = 0
        self._next = 0
        for allocation in list(state.allocations.values()):
            if state.is_newest(allocation):
                self._adopt(allocation)

    def run(self) -> "Rerun":
        """Replay the window. Returns itself."""
        self.play(self.history.since_ms)
        return self

    # -- the stage -----------------------------------------------------------------------------

    def next_ms(self, now_ms: int) -> int | None:
        times = [self._heap[0][0]] if self._heap else []
        if self._next < len(self.history.facts):
            times.append(self.history.facts[self._next][0])
        due_ms = self.controller.due_ms(now_ms)
        if due_ms is not None:
            times.append(due_ms)
        next_ms = max(now_ms, min(times)) if times else None
        return next_ms if next_ms is not None and next_ms < self.history.until_ms else None

    def happened(self, now_ms: int) -> list[ev.Fact]:
        facts: list[ev.Fact] = []
        recorded = self.history.facts
        while self._next < len(recorded) and recorded[self._next][0] <= now_ms:
            facts += self._outside(recorded[self._next][1])
            self._next += 1
        while self._heap and self._heap[0][0] <= now_ms:
            _, _, what, id, number = heapq.heappop(self._heap)
            if id in self._stays:
                facts += self._inside(what, self._stays[id], number, now_ms)
        return facts

    def turn(self, facts: list[ev.Fact], now_ms: int) -> Step:
        step = super().turn(facts, now_ms)
        for event in step.events:
            self.books.apply(event, now_ms)
            match event:
                case ev.AllocationBound(allocation):
                    self.marks.started_ms.setdefault(allocation.job, now_ms)
                case ev.JobEnded(job):
                    self.marks.ended_ms[job] = now_ms
                    self._lives.pop(job, None)
                case ev.JobRejected():
                    self.marks.rejected += 1
        return step

    def begin(self, allocation: Allocation, now_ms: int) -> list[ev.Fact]:
        life = self._life(allocation.job)
        stay = self._stay_of(allocation, life)
        self._at(now_ms + self._start_ms(allocation.job), "start", allocation.id)
        stay.restart_ms, life.restart_ms = life.restart_ms, 0
        return []

    def leave(self, asked: ev.ReleaseAsked, now_ms: int) -> list[ev.Fact]:
        stay = self._stays.get(asked.allocation)
        if stay is None or stay.is_leaving:
            return []
        stay.is_leaving = True
        job = stay.allocation.job
        if asked.reason in STOPPED_BY_OTHERS and not stay.is_over:
            self._put_back(stay, now_ms)
        gone_ms = now_ms + self._stop_ms(job)
        for rank in range(len(stay.allocation.seats)):
            if not stay.left >> rank & 1:
                self._at(gone_ms, "gone", asked.allocation, rank)
        return []

    # -- what comes from outside -----------------------------------------------------------------

    def _outside(self, fact: ev.Fact) -> list[ev.Fact]:
        match fact:
            case ev.PolicySet() if self._keeps_policy:
                return []
            case ev.JobSubmitted(job):
                return [ev.JobSubmitted(self._as_submitted(job))]
            case _:
                return [fact]

    def _as_submitted(self, job: Job) -> Job:
        """The job as it would have been submitted under the policy: its class may be another."""
        if self._classes is not None:
            of = class_of(self._classes, job.provisioning, job.category, job.purpose)
            checkpointed = of.preemptible is Preemptible.CHECKPOINTED and job.checkpoints
            job = replace(
                job,
                priority=of.priority,
                preemptible=checkpointed or of.preemptible is Preemptible.ALWAYS,
                head_start_ms=of.head_start_ms,
                run_ms_min=of.run_ms_min,
            )
        if self._oracle:
            length_ms = sum(run.length_ms for run in self.history.courses[job.id].runs)
            told_ms = length_ms if length_ms < FOREVER_MS else job.estimate_ms
            job = replace(job, estimate_ms=max(1, told_ms))
        return job

    # -- what happens inside ----------------------------------------------------------------------

    def _inside(self, what: str, stay: _Stay, number: int, now_ms: int) -> list[ev.Fact]:
        if what == "gone":
            return self._end(stay, number, TERMINATED, now_ms)
        if stay.is_leaving:
            return []
        match what:
            case "start":
                return self._start(stay, now_ms)
            case "end":
                end = stay.run.ends[number][1] if self._keeps_ranks(stay) else DONE
                return self._end(stay, number, end, now_ms)
            case "note":
                note = stay.run.notes[number][1]
                assert isinstance(note, ev.CheckpointSaved | ev.JobMeasured), f"no note: {note}"
                return [replace(note, at_ms=now_ms)]
            case _:
                return [ev.JobStopAsked(stay.allocation.job, "record")]

    def _start(self, stay: _Stay, now_ms: int) -> list[ev.Fact]:
        """All members run: from now on the run goes on."""
        stay.running_ms = now_ms
        self._schedule(stay)
        allocation = stay.allocation
        return [
            ev.MemberStarted(allocation.id, rank, now_ms)
            for rank in range(len(allocation.seats))
            if not self._out_of_sight(allocation.seats[rank].node)
        ]

    def _schedule(self, stay: _Stay) -> None:
        """Everything that the run does by itself from where it is."""
        id, run = stay.allocation.id, stay.run
        zero_ms = stay.running_ms + stay.restart_ms - stay.done_ms  # when the run would have begun
        now_ms = max(stay.running_ms, self.history.since_ms)
        for number, (at_ms, _) in enumerate(run.notes):
            if at_ms > stay.done_ms and zero_ms + at_ms >= now_ms:
                self._at(zero_ms + at_ms, "note", id, number)
        if run.length_ms >= FOREVER_MS:
            return
        if run.by_user:
            self._at(max(now_ms, zero_ms + run.length_ms), "user", id)
            return
        for rank in range(len(stay.allocation.seats)):
            at_ms = run.ends[rank][0] if self._keeps_ranks(stay) else run.length_ms
            if at_ms >= 0 and not stay.left >> rank & 1:
                self._at(max(now_ms, zero_ms + at_ms), "end", id, rank)

    @staticmethod
    def _keeps_ranks(stay: _Stay) -> bool:
        """True iff the record knows an end for each rank of this gang."""
        return len(stay.run.ends) == len(stay.allocation.seats)

    def _end(self, stay: _Stay, rank: int, end: Exit, now_ms: int) -> list[ev.Fact]:
        allocation = stay.allocation
        if stay.left >> rank & 1 or self._out_of_sight(allocation.seats[rank].node):
            return []  # what nobody sees is found out when the node is back
        stay.left |= 1 << rank
        all_left = stay.left == allocation.all_ranks
        if not (stay.is_over or stay.is_leaving) and (all_left or not end.ok):
            stay.is_over = True
            life = self._life(allocation.job)
            life.run, life.done_ms = life.run + 1, 0
        if all_left:
            del self._stays[allocation.id]
        return [ev.MemberEnded(allocation.id, rank, end, now_ms)]

    def _put_back(self, stay: _Stay, now_ms: int) -> None:
        """The job is stopped for others: how much of its run is kept."""
        life, job = self._life(stay.allocation.job), self.history.courses[stay.allocation.job].job
        worked_ms = stay.done_ms
        if stay.running_ms >= 0:
            worked_ms += max(0, now_ms - stay.running_ms - stay.restart_ms)
        saved = [at for at, note in stay.run.notes if isinstance(note, ev.CheckpointSaved)]
        if saved:
            worked_ms = max((at for at in saved if at <= worked_ms), default=0)
        life.done_ms = worked_ms if job.checkpoints else 0
        milli = len(stay.allocation.seats) * stay.allocation.shape.milli
        life.restart_ms = job.restart_ms or restart_ms(milli) if job.checkpoints else 0

    # -- parts -----------------------------------------------------------------------------------

    def _adopt(self, allocation: Allocation) -> None:
        """What was there when the window began goes on."""
        course = self.history.courses.get(allocation.job)
        if course is None:
            return
        run, done_ms = course.attempts.get(allocation.id, (0, 0))
        life = self._lives[allocation.job] = _Life(min(run, len(course.runs) - 1), done_ms)
        stay = self._stay_of(allocation, life)
        stay.left = allocation.ended
        since_ms = self.history.since_ms
        match allocation.state:
            case AllocationState.RELEASING:
                stay.is_leaving = True
                gone_ms = since_ms + self._stop_ms(allocation.job)
                for rank in range(len(allocation.seats)):
                    if allocation.holds(rank):
                        self._at(gone_ms, "gone", allocation.id, rank)
            case AllocationState.RUNNING:
                stay.running_ms = allocation.running_ms
                self._schedule(stay)
            case AllocationState.BOUND:
                start_ms = allocation.bound_ms + self._start_ms(allocation.job)
                self._at(max(since_ms, start_ms), "start", allocation.id)
            case _:
                pass

    def _life(self, job: str) -> _Life:
        """Where the job is. One that waited when the window began goes on as the record did."""
        life = self._lives.get(job)
        if life is None:
            course = self.history.courses[job]
            live = self.controller.state.jobs.get(job)
            attempt = live.standing.attempt if live is not None else 0
            run, done_ms = course.attempts.get(f"{job}.{attempt}", (0, 0))
            life = self._lives[job] = _Life(run, done_ms)
        return life

    def _stay_of(self, allocation: Allocation, life: _Life) -> _Stay:
        runs = self.history.courses[allocation.job].runs
        run = runs[min(life.run, len(runs) - 1)]
        stay = _Stay(allocation, run, life.done_ms, life.restart_ms)
        self._stays[allocation.id] = stay
        return stay

    def _start_ms(self, job: str) -> int:
        own_ms = self.history.courses[job].start_ms
        return own_ms if own_ms >= 0 else self.history.start_ms

    def _stop_ms(self, job: str) -> int:
        own_ms = self.history.courses[job].stop_ms
        return own_ms if own_ms >= 0 else self.history.stop_ms

    def _out_of_sight(self, node: str) -> bool:
        live = self.controller.state.nodes.get(node)
        return live is None or live.state in (NodeState.LOST, NodeState.REMOVED)

    def _at(self, at_ms: int, what: str, allocation: str, number: int = 0) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, what, allocation, number))
