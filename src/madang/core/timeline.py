"""What will be free when, as far as expected ends tell: reservations and who may start beside them.

A job that does not fit can be given the earliest time at which it will, judged by the expected ends
of what runs (estimates.py). Another starts now if it has ended by then, or if the reservation still
fits beside it (EASY: Lifka, JSSPP 1995; with many reservations conservative: Mu'alem & Feitelson,
TPDS 2001). Calendar reservations (passes/calendar.py) stand in the same line. All of it at the
granularity of single devices, and only for this plan: the next one reckons anew.

Promises: who starts beside a reservation delays it only if somebody outruns an estimate.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from madang.core.budgets import is_protected
from madang.core.estimates import NEVER_MS, Estimate, left
from madang.core.events import AllocationBound
from madang.core.gangs import least_members
from madang.core.lifecycle import LIVELY
from madang.core.model import WHOLE_GPU_MILLI, Allocation, Job, Shape
from madang.core.placement import Unplaced
from madang.core.pool import Need, Place, Pool
from madang.core.seating import Gaps, seat
from madang.core.snapshot import Snapshot

if TYPE_CHECKING:
    from madang.core.draft import Draft

RESERVATIONS_MAX = 64  # queue reservations a plan makes; each costs a look at all expected ends
KEEP_CLEAR_MS = 600_000  # who can be moved aside starts before a calendar window unless it is near


@dataclass(frozen=True, slots=True)
class Stay:
    """Who holds or will hold what, from when until when. `calendar`: the reservation's id."""

    begin_ms: int
    end_ms: int
    places: tuple[Place, ...]
    shape: Shape
    calendar: str = ""

    @property
    def milli(self) -> int:
        """GPU-milli of all of it."""
        return self.shape.gpu_milli * sum([len(gpus) for _, gpus in self.places])


def stay_of(snapshot: Snapshot, job: Job) -> Estimate:
    """How long a waiting job will hold what it gets: the careful side of what is known."""
    live = snapshot.jobs.get(job.id)
    before_ms = live.standing.attained_ms if live is not None else 0
    permille = snapshot.policy.stay_permille
    return left(snapshot.settings.runs, permille, job, before_ms=before_ms)


def left_of(snapshot: Snapshot, allocation: Allocation) -> Estimate:
    """How much longer an allocation holds its devices."""
    live = snapshot.jobs[allocation.job]
    begin_ms = allocation.running_ms or allocation.bound_ms
    return left(
        snapshot.settings.runs,
        snapshot.policy.end_permille,
        live.job,
        before_ms=live.standing.attained_ms,
        ran_ms=max(0, snapshot.now_ms - begin_ms),
    )


def steps_aside(snapshot: Snapshot, job: Job, begin_ms: int) -> bool:
    """True iff the job, started now, can be asked to leave for a window that opens then.

    Also by its least run time; and no disruption budget may stand against it, which nobody can
    foresee.
    """
    if not (job.preemptible and job.checkpoints):
        return False
    if is_protected(snapshot.settings, snapshot.jobs[job.id]):
        return False
    least_ms = max(KEEP_CLEAR_MS, snapshot.policy.run_ms_min, job.run_ms_min)
    return begin_ms - snapshot.now_ms >= least_ms


class Timeline:
    """See the module's docstring. It costs nothing until something is reserved."""

    def __init__(self, draft: "Draft") -> None:
        self.draft = draft
        self.now_ms = draft.snapshot.now_ms
        self.reservations: list[Stay] = []
        self._needs: list[Need] = []  # per reservation
        # What is left at the beginning of those that were kept together, and which of it is whose.
        self._beside: list[tuple[int, Pool]] = []
        self._among: list[int] = []
        self._stays: list[Stay] = []  # by their end
        self._has_stays = False  # read when the first reservation needs them
        # By the reservations that matter: what is free beside them; dropped when that changes.
        self._free_beside: dict[tuple[int, ...], Pool] = {}

    def held_for(self, job: Job) -> tuple[int, ...]:
        """Which of the reservations the job would still be there for, if it started now."""
        if not self.reservations:
            return ()
        end_ms = stay_of(self.draft.snapshot, job).end_ms(self.now_ms)
        snapshot = self.draft.snapshot
        return tuple(
            [
                at
                for at, kept in enumerate(self.reservations)
                if kept.begin_ms < end_ms
                and not (kept.calendar and steps_aside(snapshot, job, kept.begin_ms))
            ]
        )

    def beside(self, held: tuple[int, ...], pool: Pool) -> Pool:
        """What of the pool is free now, and at the beginning of each of these reservations."""
        if not held:
            return pool
        kept = self._free_beside.get(held)
        if kept is None:
            kept = self.draft.view
            for among in dict.fromkeys([self._among[at] for at in held]):
                kept = _least(kept, self._beside[among][1])
            self._free_beside[held] = kept
        return kept if pool is self.draft.view else kept.with_open(pool.open)

    def clear_of(self, job: Job, pool: Pool) -> Pool:
        """The pool without the nodes on which the job would be in the way of a calendar window."""
        rows = [
            row
            for at in self.held_for(job)
            if self.reservations[at].calendar
            for row, _ in self.reservations[at].places
        ]
        if not rows:
            return pool
        still_open = pool.open.copy()
        still_open[rows] = False
        return pool.with_open(still_open)

    def started(self, job: Job, places: tuple[Place, ...], shape: Shape) -> None:
        """The draft has bound the job there."""
        self._free_beside.clear()
        for among in {self._among[at] for at in self.held_for(job)}:
            # A place that only a job which steps aside could take is not free beside it.
            self._beside[among][1].block(places, shape)
        if not self._has_stays:
            return
        end_ms = stay_of(self.draft.snapshot, job).end_ms(self.now_ms)
        if end_ms != NEVER_MS:
            insort(self._stays, Stay(self.now_ms, end_ms, places, shape), key=_end_ms)

    def reserve(self, job: Job) -> bool:
        """Keep the job the earliest stay that it can be promised; False if nobody can say when."""
        if len(self.reservations) >= RESERVATIONS_MAX:
            return False
        length = stay_of(self.draft.snapshot, job)
        job = self.draft.modest_ask(job).job
        free, given = self.draft.room_for(job).scratch(), 0
        gaps, free_milli = Gaps(self.draft.snapshot, free, job), int(free.gpu_free.sum())
        least_milli = least_members(job) * job.shape.milli
        stays = self._ending()
        for begin_ms in self._ends():
            while given < len(stays) and stays[given].end_ms <= begin_ms:
                gaps.give(stays[given].places, stays[given].shape)
                free_milli += stays[given].milli
                given += 1
            if gaps.missing > 0 or free_milli - self._reserved_milli(begin_ms) < least_milli:
                continue
            end_ms = length.end_ms(begin_ms)
            pool = self._without_reservations(free, begin_ms, end_ms)
            seated = seat(self.draft.snapshot, pool, job)
            if not isinstance(seated, Unplaced):
                self.keep([Stay(begin_ms, end_ms, seated.places, seated.shape)], free)
                return True
        return False

    def keep(self, stays: Sequence[Stay], free: Pool) -> None:
        """Add these, which begin together: windows, or one start time. `free` is what has been
        given back by then."""
        needs = [free.need_of(stay.places, stay.shape) for stay in stays]
        for begin_ms, beside in self._beside:
            beside.block_all(
                [
                    need
                    for stay, need in zip(stays, needs, strict=True)
                    if stay.begin_ms <= begin_ms < stay.end_ms
                ]
            )
        begin_ms = stays[0].begin_ms
        left_then = self._without_reservations(free, begin_ms, begin_ms + 1).scratch()
        left_then.block_all(needs)
        self._among += [len(self._beside)] * len(stays)
        self._beside.append((begin_ms, left_then))
        self.reservations += stays
        self._needs += needs
        self._free_beside.clear()

    def add_end(self, stay: Stay) -> None:
        """Something that the draft holds back gives its places back at its end."""
        self._ending()
        insort(self._stays, stay, key=_end_ms)

    def _ending(self) -> list[Stay]:
        if not self._has_stays:
            self._stays, self._has_stays = _stays(self.draft), True
        return self._stays

    def _ends(self) -> list[int]:
        """When something ends, in order."""
        ends = {stay.end_ms for stay in (*self._stays, *self.reservations)}
        return sorted(ends - {NEVER_MS})

    def _reserved_milli(self, at_ms: int) -> int:
        """What start times hold at that time: of them nothing overlaps, and all of it is free.

        Windows may count on who still has to be asked.
        """
        then = [one for one in self.reservations if one.begin_ms <= at_ms < one.end_ms]
        return sum([one.milli for one in then if not one.calendar])

    def _without_reservations(self, free: Pool, begin_ms: int, end_ms: int) -> Pool:
        """What is free of this without what is reserved for some time between."""
        needs = [
            need
            for kept, need in zip(self.reservations, self._needs, strict=True)
            if kept.begin_ms < end_ms and begin_ms < kept.end_ms
        ]
        if not needs:
            return free
        pool = free.scratch()
        pool.block_all(needs)
        return pool


def _end_ms(stay: Stay) -> int:
    return stay.end_ms


def _stays(draft: "Draft") -> list[Stay]:
    """What holds devices in this draft and is expected to end, by its end.

    What is promised to somebody is not free when those who hold it leave.
    """
    snapshot = draft.snapshot
    promised = {
        (row, gpu)
        for id in snapshot.nominations
        if id in draft.promised and id not in draft.bound
        for row, gpus in draft.places_of(snapshot.nominations[id])
        for gpu in gpus
    }
    running = [
        allocation
        for id, allocation in snapshot.allocations.items()
        if (live := snapshot.jobs.get(allocation.job)) is not None and live.allocation == id
    ]
    bound = [one.allocation for one in draft.decisions if isinstance(one, AllocationBound)]
    stays = []
    for allocation in (*running, *bound):
        end_ms = _expected_end_ms(draft, allocation)
        if end_ms == NEVER_MS:
            continue
        places = tuple(
            [
                (row, tuple([gpu for gpu in gpus if (row, gpu) not in promised]))
                for row, gpus in draft.held_places(allocation)
            ]
        )
        begin_ms = allocation.running_ms or allocation.bound_ms
        stays.append(Stay(begin_ms, end_ms, places, allocation.shape))
    stays.sort(key=_end_ms)
    return stays


def _expected_end_ms(draft: "Draft", allocation: Allocation) -> int:
    """After now."""
    snapshot = draft.snapshot
    if allocation.state in LIVELY and allocation.id not in draft.releasing:
        return left_of(snapshot, allocation).end_ms(snapshot.now_ms)
    asked_ms = allocation.releasing_ms or snapshot.now_ms
    grace_ms = snapshot.jobs[allocation.job].job.grace_ms
    return max(asked_ms + grace_ms, snapshot.now_ms + 1)


def _least(one: Pool, other: Pool) -> Pool:
    """What is free in both."""
    both = one.scratch()
    np.minimum(one.gpu_free, other.gpu_free, out=both.gpu_free)
    np.minimum(one.cpu_free, other.cpu_free, out=both.cpu_free)
    np.minimum(one.memory_free, other.memory_free, out=both.memory_free)
    np.maximum(one.tenants, other.tenants, out=both.tenants)
    both.whole_free[:] = (both.gpu_free == WHOLE_GPU_MILLI).sum(axis=1)
    return both
