"""Disruption budgets: how many members may be down at once, and how many may still be taken down.

A member that should run and does not is down, whoever's doing it was: waiting, starting, being
asked to leave, ended before its gang. So what is broken already counts before anybody is stopped
on purpose, as in Kubernetes' PodDisruptionBudget. A gang is down as a whole. *Shields* are such
budgets of others: their keeper counts who is down and tells how many may still go. Whoever stops
somebody of his own accord (moved aside, moved, reclaimed) asks here first; users, time limits and
faults ask nobody.
"""

from collections.abc import Collection, Mapping
from copy import copy

from madang.core.live import LiveJob
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason
from madang.core.settings import DisruptionBudget, Settings
from madang.core.snapshot import Snapshot

# What the scheduler does of its own accord, and may leave undone.
BY_CHOICE = frozenset({ReleaseReason.PREEMPTED, ReleaseReason.RECLAIMED, ReleaseReason.MOVED})

Key = tuple[str, str]  # the kind of setting, and its key
BUDGETS, SHIELDS = "budgets", "shields"


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


def counts_of(settings: Settings, live: LiveJob, members: int) -> tuple[tuple[Key, int], ...]:
    """The budget and the shields that the job is under, and how many of so many of its members each
    of them counts."""
    found: list[tuple[Key, int]] = []
    if id := budget_of(settings.budgets, live.job):
        found.append(((BUDGETS, id), members))
    for id, covered in live.standing.shields:
        if id in settings.shields:
            found.append(((SHIELDS, id), min(covered, members)))
    return tuple(found)


def is_protected(settings: Settings, live: LiveJob) -> bool:
    """True iff a budget or a shield may stand against its end."""
    return bool(live.job.budget or live.standing.shields) and bool(counts_of(settings, live, 0))


def leaving_by_shield(
    shields: Collection[str],
    jobs: Collection[LiveJob],
    allocations: Mapping[str, Allocation],
    releasing: Collection[str] = (),
) -> dict[str, int]:
    """Members under each shield that have been asked to end and have not yet."""
    leaving = dict.fromkeys(shields, 0)
    for live in jobs if shields else ():
        allocation = allocations.get(live.allocation) if live.allocation else None
        if not live.standing.shields or allocation is None:
            continue
        if allocation.state is AllocationState.RELEASING or allocation.id in releasing:
            held = len(allocation.seats) - allocation.ended.bit_count()
            for id, covered in live.standing.shields:
                if id in leaving:
                    leaving[id] += min(covered, held)
    return leaving


class Allowance:
    """How many members of each budget and shield may still be taken down, as a plan goes on."""

    def __init__(self, snapshot: Snapshot, releasing: Collection[str]) -> None:
        self._settings, self._jobs = snapshot.settings, snapshot.jobs
        budgets, shields = snapshot.settings.budgets, snapshot.settings.shields
        jobs = snapshot.jobs.values()
        down = down_by_budget(budgets, jobs, snapshot.allocations, releasing)
        leaving = leaving_by_shield(shields, jobs, snapshot.allocations, releasing)
        self.left: dict[Key, int] = {
            (BUDGETS, id): budget.down_max - down[id] for id, budget in budgets.items()
        }
        for id, shield in shields.items():
            self.left[SHIELDS, id] = shield.allowed - leaving[id]

    def copy(self) -> "Allowance":
        """One for a what-if."""
        other = copy(self)
        other.left = dict(self.left)
        return other

    def counts(self, allocation: Allocation) -> tuple[tuple[Key, int], ...]:
        """What counts how many of its members that are up."""
        live = self._jobs.get(allocation.job)
        if not self.left or live is None:
            return ()
        return counts_of(self._settings, live, up_of(allocation))

    def held_by(self, allocation: Allocation) -> tuple[Key, ...]:
        """What does not allow its end now."""
        return tuple(key for key, up in self.counts(allocation) if up > self.left[key])

    def allows(self, allocation: Allocation) -> bool:
        """True iff the allocation may be ended by choice now."""
        return not self.held_by(allocation)

    def charge(self, allocation: Allocation) -> None:
        """It is being ended."""
        for key, up in self.counts(allocation):
            self.left[key] -= up
