"""A daemon in small: a controller whose every turn is committed to a ledger."""

from collections.abc import Sequence
from dataclasses import replace

from madang.core import events as ev
from madang.core.controller import Controller, Step
from madang.core.model import Allocation, Exit, Job, Node, Project, Shape
from madang.core.restore import restored, with_recent
from madang.core.state import State
from madang.ledger import Ledger, Loaded, NewJob, turn_of


def state_of(loaded: Loaded) -> State:
    """The state of what a ledger has."""
    state = restored(
        loaded.nodes,
        loaded.projects,
        loaded.jobs,
        loaded.allocations,
        loaded.nominations,
        loaded.settings,
    )
    return with_recent(state, loaded.recent)


class Yard:
    """A controller whose every turn is committed: the smallest daemon there is."""

    def __init__(self, ledger: Ledger, holder: str = "test") -> None:
        self.ledger = ledger
        self.epoch = ledger.take_lead(holder)
        loaded = ledger.load()
        self.controller = Controller(state_of(loaded))
        self.now_ms = max(loaded.last_ms, 1_000)
        self.next_n = loaded.next_n
        self.spans: list[tuple[int, int]] = []

    def turn(self, *facts: ev.Fact, memos: Sequence[tuple[str, str]] = (), key: str = "") -> Step:
        """Step and commit. A job submitted with a key has `key`, its owner is `ada`."""
        self.now_ms += 10
        step = self.controller.step(facts, self.now_ms)
        asked = [event.job for event in step.events if isinstance(event, ev.JobSubmitted)]
        turn = turn_of(
            self.controller.state,
            step.events,
            epoch=self.epoch,
            at_ms=self.now_ms,
            new=[NewJob(job.id, "ada", f'{{"command":["{job.id}"]}}', key) for job in asked],
            memos=memos,
        )
        self.spans.append(self.ledger.commit(turn))
        self.controller.state.forget_ended()
        return step

    def job(self, name: str = "digits", **changes: object) -> Job:
        """A job of one GPU, numbered."""
        n, self.next_n = self.next_n, self.next_n + 1
        job = Job(f"{name}-{n}", n, "vision", Shape(1), submitted_ms=self.now_ms)
        return replace(job, **changes)  # type: ignore[arg-type]

    def open(self, nodes: int = 1) -> "Yard":
        """A project and some nodes of 8 GPUs."""
        self.turn(
            ev.ProjectSet(Project("vision")),
            *[ev.NodeSeen(Node(f"n{i}", 8, 64_000, 512_000, "H100")) for i in range(nodes)],
        )
        return self

    def run(self, *jobs: Job) -> list[str]:
        """Submit, and let what was bound start; ids of the allocations."""
        step = self.turn(*[ev.JobSubmitted(job) for job in jobs])
        bound = [e.allocation for e in step.decisions if isinstance(e, ev.AllocationBound)]
        self.turn(*[ev.MemberStarted(a.id, r, self.now_ms) for a in bound for r in ranks(a)])
        return [allocation.id for allocation in bound]

    def end(self, *allocations: str, code: int = 0) -> Step:
        """All members end."""
        live = self.controller.state.allocations
        return self.turn(
            *[
                ev.MemberEnded(id, rank, Exit(code), self.now_ms)
                for id in allocations
                for rank in ranks(live[id])
            ]
        )


def ranks(allocation: Allocation) -> range:
    return range(len(allocation.seats))
