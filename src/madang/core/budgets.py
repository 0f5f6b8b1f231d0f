"""Disruption budgets: how many members may be down at once, and how many may still be taken down.

A member that should run and does not is down, whoever's doing it was: waiting, starting, being
asked to leave, ended before its gang. So what is broken already counts before anybody is stopped
on purpose, as in Kubernetes' PodDisruptionBudget. A gang is down as a whole. Whoever stops
somebody of his own accord (moved aside, moved, reclaimed) asks here first; users, time limits and
faults ask nobody.
"""

from collections.abc import Collection, Mapping
from copy import copy

from madang.core.live import LiveJob
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason
from madang.core.settings import DisruptionBudget
from madang.core.snapshot import Snapshot

# What the scheduler does of its own accord, and may leave undone.
BY_CHOICE = frozenset({ReleaseReason.PREEMPTED, ReleaseReason.RECLAIMED, ReleaseReason.MOVED})


def budget_of(budgets: Mapping[str, DisruptionBudget], job: Job) -> str:
    """The budget that the job counts under, "" for none: one of its own project."""
    budget = budgets.get(job.budget) if job.budget else None
    return job.budget if budget is not None and budget.project == job.project else ""


def members_of(job: Job, allocation: Allocation | None) -> int:
    """How many members of the job should run: as many as it got, or waits for."""
    return len(allocation.seats) if allocation is not None else job.members_min or job.members


def up_of(allocation: Allocation) -> int:
    """The members that are up, and down once it is ended."""
    if allocation.state is not AllocationState.RUNNING:
        return 0
    return len(allocation.seats) - allocation.ended.bit_count()


def down_of(live: LiveJob, allocation: Allocation | None, *, leaving: bool = False) -> int:
    """How many of the job's members do not run, or are about to be stopped."""
    if live.standing.stop_asked:
        return 0  # nobody expects them to run any more
    members = members_of(live.job, allocation)
    if allocation is None or leaving or allocation.state is not AllocationState.RUNNING:
        return members
    return allocation.ended.bit_count()


def down_by_budget(
    budgets: Mapping[str, DisruptionBudget],
    jobs: Collection[LiveJob],
    allocations: Mapping[str, Allocation],
    releasing: Collection[str] = (),
) -> dict[str, int]:
    """Members that are down under each budget."""
    down = dict.fromkeys(budgets, 0)
    for live in jobs if budgets else ():
        if id := budget_of(budgets, live.job):
            allocation = allocations.get(live.allocation) if live.allocation else None
            down[id] += down_of(live, allocation, leaving=live.allocation in releasing)
    return down


class Allowance:
    """How many members of each budget may still be taken down, as a plan goes on."""

    def __init__(self, snapshot: Snapshot, releasing: Collection[str]) -> None:
        self._budgets = snapshot.settings.budgets
        jobs = snapshot.jobs.values()
        down = down_by_budget(self._budgets, jobs, snapshot.allocations, releasing)
        self.left = {id: budget.down_max - down[id] for id, budget in self._budgets.items()}

    def copy(self) -> "Allowance":
        """One for a what-if."""
        other = copy(self)
        other.left = dict(self.left)
        return other

    def budget(self, job: Job) -> str:
        """The budget the job counts under, "" for none."""
        return budget_of(self._budgets, job)

    def allows(self, job: Job, allocation: Allocation) -> bool:
        """True iff the allocation may be ended by choice now."""
        id = self.budget(job)
        return not id or up_of(allocation) <= self.left[id]

    def charge(self, job: Job, allocation: Allocation) -> None:
        """It is being ended."""
        if id := self.budget(job):
            self.left[id] -= up_of(allocation)
