"""Replay a queueing trace through the very controller the daemon runs, on a virtual clock.

Each job arrives when the trace says and holds its GPUs for as long as the trace says; one that is
moved aside goes on later where it was, and pays for the restart. Nothing here decides anything.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from madang.core.controller import Controller
from madang.core.estimates import NEVER_MS
from madang.core.events import (
    Fact,
    JobSubmitted,
    MemberEnded,
    MemberStarted,
    NodeSeen,
    ProjectSet,
    ReleaseAsked,
)
from madang.core.forecast import MEDIAN_PERMILLE, expected_start
from madang.core.history import guess
from madang.core.model import WHOLE_GPU_MILLI, Allocation, Exit, Job, Node, Project, Shape
from madang.core.policies import PACKED
from madang.core.policy import Policy
from madang.sim.stage import Stage

GPUS_PER_NODE = 8
PROJECT = Project("trace")
DONE = Exit(0)
MOVED = Exit(0, signal=15)


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One line of a trace. `estimate_ms` is what the scheduler is told (0: nothing)."""

    submit_ms: int
    duration_ms: int
    gpus: int
    estimate_ms: int = 0
    owner: str = ""


@dataclass(slots=True)
class Progress:
    """How far a job has come: work and restarts still to do, and where it runs since when."""

    left_ms: int
    restart_ms: int = 0
    allocation: str = ""
    began_ms: int = 0


@dataclass(slots=True)
class Outcome:
    """What a replay measured. Times are ms; `ended_ms` is per job, in trace order.

    `held` is (when, GPUs more or, if negative, fewer) in order of time: what was in use when.
    `expected_ms` is when each job that was asked about was expected to start, as `madang why` would
    have said at its submission (estimates.NEVER_MS: nobody could say); `guessed_ms` how long each
    job was expected to run when it came, of those that the history knew anything about.
    """

    ended_ms: list[int]
    preemptions: int = 0
    wasted_gpu_ms: int = 0
    turns: int = 0
    first_start_ms: dict[int, int] = field(default_factory=dict)
    held: list[tuple[int, int]] = field(default_factory=list)
    expected_ms: dict[int, int] = field(default_factory=dict)
    guessed_ms: dict[int, int] = field(default_factory=dict)


def restart_cost_ms(gpus: int) -> int:
    """Work lost by a preemption: 7 s for one GPU, 30 s up to a node, 60 s beyond."""
    if gpus == 1:
        return 7_000
    return 30_000 if gpus <= GPUS_PER_NODE else 60_000


def members_of(gpus: int, per_node: int = GPUS_PER_NODE) -> tuple[int, int]:
    """(members, GPUs of each): one node's worth as one member, more as equal parts of nodes."""
    if gpus <= per_node:
        return 1, gpus
    each = per_node
    while gpus % each:
        each -= 1
    return gpus // each, each


class Replay(Stage):
    """One cluster of equal nodes, one trace, one policy.

    `ask_every`: of the jobs that do not start as they come, every so many is asked about when it
    will (0: none).
    """

    def __init__(
        self,
        jobs: Sequence[TraceJob],
        nodes: int,
        per_node: int,
        policy: Policy,
        *,
        ask_every: int = 0,
    ) -> None:
        self.jobs = jobs
        self.ask_every = ask_every
        self._asked = 0
        self._fresh: tuple[range, int] = (range(0), 0)  # who came last, and when
        self.per_node = per_node
        super().__init__(Controller())
        # Nodes are equal and GPUs are all there is: what is compared is the order.
        self.controller.state.policy = replace(policy, placement=PACKED)
        self.outcome = Outcome([0] * len(jobs))
        self.progress = [Progress(job.duration_ms) for job in jobs]
        # (time, order, what): ends of allocations; an entry whose allocation has moved is stale.
        self._ends: list[tuple[int, int, str]] = []
        self._next = 0
        width = len(str(nodes))
        seen = [NodeSeen(Node(f"n{n:0{width}}", per_node, 0, 0)) for n in range(nodes)]
        self.controller.step([ProjectSet(PROJECT), *seen], 0)

    def run(self) -> Outcome:
        """Replay to the end.

        Raises:
            AssertionError: a job never ends, or turns do not come to rest: a bug of ours.
        """
        self.play()
        self._ask()
        self.outcome.turns = self.turns
        live = self.controller.state.jobs
        assert not live, f"never end: {list(live)[:10]}"
        return self.outcome

    def _ask(self) -> None:
        """What those who came last would be told: how long they run and when they start."""
        numbers, at_ms = self._fresh
        self._fresh = (range(0), at_ms)
        state, outcome = self.controller.state, self.outcome
        for number in numbers if self.ask_every else ():
            live = state.jobs.get(f"j-{number}")
            if live is not None:
                guessed = guess(state.settings.runs, live.job, MEDIAN_PERMILLE)
                if guessed is not None:
                    outcome.guessed_ms[number] = guessed.ms
            if number in outcome.first_start_ms:
                outcome.expected_ms[number] = at_ms
                continue
            self._asked += 1
            if self._asked % self.ask_every == 0:
                expected = expected_start(state.view(at_ms), f"j-{number}")
                known = expected.is_known
                outcome.expected_ms[number] = expected.start_ms if known else NEVER_MS

    def next_ms(self, now_ms: int) -> int | None:
        """When something happens next; None once there is nothing left to happen."""
        times = []
        if self._next < len(self.jobs):
            times.append(self.jobs[self._next].submit_ms)
        while self._ends and self._is_stale(self._ends[0]):
            heapq.heappop(self._ends)
        if self._ends:
            times.append(self._ends[0][0])
        due_ms = self.controller.due_ms(now_ms)
        if due_ms is not None and times:
            times.append(due_ms)
        return min(times) if times else None

    def happened(self, now_ms: int) -> list[Fact]:
        self._ask()  # nothing has happened since those before came to rest
        first = self._next
        facts = [*self._ended(now_ms), *self._arrived(now_ms)]
        self._fresh = (range(first, self._next), now_ms)
        return facts

    def _is_stale(self, end: tuple[int, int, str]) -> bool:
        return self.progress[end[1]].allocation != end[2]

    def _arrived(self, now_ms: int) -> list[Fact]:
        facts: list[Fact] = []
        while self._next < len(self.jobs) and self.jobs[self._next].submit_ms <= now_ms:
            job, number = self.jobs[self._next], self._next
            members, gpus = members_of(job.gpus, self.per_node)
            facts.append(
                JobSubmitted(
                    Job(
                        id=f"j-{number}",
                        seq=number,
                        project=PROJECT.id,
                        shape=Shape(gpus),
                        members=members,
                        submitted_ms=job.submit_ms,
                        grace_ms=0,
                        estimate_ms=job.estimate_ms,
                        checkpoints=True,
                        owner=job.owner,
                    )
                )
            )
            self._next += 1
        return facts

    def _ended(self, now_ms: int) -> list[Fact]:
        facts: list[Fact] = []
        while self._ends and self._ends[0][0] <= now_ms:
            end = heapq.heappop(self._ends)
            if self._is_stale(end):
                continue
            self.progress[end[1]].allocation = ""
            self.outcome.ended_ms[end[1]] = end[0]
            self.outcome.held.append((end[0], -self.jobs[end[1]].gpus))
            facts += self._all_end(end[2], DONE, end[0])
        return facts

    def _all_end(self, allocation_id: str, how: Exit, at_ms: int) -> list[Fact]:
        allocation = self.controller.state.allocations[allocation_id]
        return [
            MemberEnded(allocation_id, rank, how, at_ms) for rank in range(len(allocation.seats))
        ]

    def begin(self, allocation: Allocation, now_ms: int) -> list[Fact]:
        number = int(allocation.job[2:])
        progress = self.progress[number]
        progress.allocation, progress.began_ms = allocation.id, now_ms
        self.outcome.first_start_ms.setdefault(number, now_ms)
        self.outcome.held.append((now_ms, self.jobs[number].gpus))
        end_ms = now_ms + progress.restart_ms + progress.left_ms
        heapq.heappush(self._ends, (end_ms, number, allocation.id))
        return [MemberStarted(allocation.id, rank, now_ms) for rank in range(len(allocation.seats))]

    def leave(self, asked: ReleaseAsked, now_ms: int) -> list[Fact]:
        """Who is asked to leave leaves at once, and goes on later where it was."""
        allocation_id = asked.allocation
        allocation = self.controller.state.allocations[allocation_id]
        number = int(allocation.job[2:])
        progress, job = self.progress[number], self.jobs[number]
        ran_ms = now_ms - progress.began_ms
        paid_ms = min(ran_ms, progress.restart_ms)
        progress.left_ms -= ran_ms - paid_ms
        progress.restart_ms += restart_cost_ms(job.gpus) - paid_ms
        progress.allocation = ""
        self.outcome.preemptions += 1
        self.outcome.held.append((now_ms, -job.gpus))
        self.outcome.wasted_gpu_ms += restart_cost_ms(job.gpus) * job.gpus
        return self._all_end(allocation_id, MOVED, now_ms)


assert WHOLE_GPU_MILLI == 1000, "traces count whole GPUs"
