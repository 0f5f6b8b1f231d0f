"""Backfill: the head of the queue gets a start time, and others may start if that time holds.

The first `policy.reservations` jobs that do not fit are given the earliest time at which they will,
judged by the expected ends of what runs. A job behind them starts now if it has ended by then, or
if the reservation still fits beside it (EASY: Lifka, JSSPP 1995; with many reservations
conservative: Mu'alem & Feitelson, TPDS 2001). At the granularity of single devices.
"""

from bisect import insort
from dataclasses import dataclass

import numpy as np

from madang.core.draft import Draft
from madang.core.events import AllocationBound
from madang.core.lifecycle import LIVELY
from madang.core.model import WHOLE_GPU_MILLI, Job, Shape
from madang.core.passes.start import BINDS_PER_TURN_MAX
from madang.core.placement import Unplaced
from madang.core.policy import Misfit
from madang.core.pool import Need, Place, Pool
from madang.core.seating import Gaps, fits_when_empty, likeness, seat

NEVER_MS = np.iinfo(np.int64).max
OVERDUE_FACTOR = 2  # what has outrun its estimate is expected to take as long again


@dataclass(frozen=True, slots=True)
class Stay:
    """Who holds or will hold what, from when until when."""

    begin_ms: int
    end_ms: int
    places: tuple[Place, ...]
    shape: Shape

    @property
    def milli(self) -> int:
        """GPU-milli of all of it."""
        return self.shape.gpu_milli * sum([len(gpus) for _, gpus in self.places])


def backfill(draft: Draft) -> None:
    """Emit AllocationBound for the head of the queue and for whoever does not delay it."""
    policy = draft.snapshot.policy
    if policy.misfit is not Misfit.RESERVE:
        return
    timeline = Timeline(draft)
    for _, job_id in draft.order:
        if not draft.may_start(job_id):
            continue
        job = draft.snapshot.jobs[job_id].job
        if timeline.start_now(job):
            if len(draft.decisions) >= BINDS_PER_TURN_MAX:
                return
        elif (
            len(timeline.reservations) < policy.reservations
            and not timeline.reserve(job)
            and fits_when_empty(draft.snapshot, job)
        ):
            return  # nobody knows when it can start, so nobody knows who would delay it


def expected_ms(job: Job) -> int:
    """How long the job is expected to run: its estimate, else its time limit; 0 if nobody knows."""
    return job.estimate_ms or job.time_limit_ms


def expected_end_ms(job: Job, begin_ms: int, now_ms: int) -> int:
    """When a job that began then is expected to end, NEVER_MS if nobody knows; after now."""
    length_ms = expected_ms(job)
    if not length_ms:
        return NEVER_MS
    ran_ms = now_ms - begin_ms
    if ran_ms >= length_ms:
        length_ms = ran_ms * OVERDUE_FACTOR + 1
        if job.time_limit_ms:
            length_ms = max(min(length_ms, job.time_limit_ms), ran_ms + 1)
    return begin_ms + length_ms


class Timeline:
    """What will be free when, as far as the expected ends tell."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.now_ms = draft.snapshot.now_ms
        self.reservations: list[Stay] = []
        self._needs: list[Need] = []  # per reservation
        self._beside: list[Pool] = []  # per reservation: what is left at its beginning
        self._stays: list[Stay] = []  # by their end
        self._has_stays = False  # read when the first reservation needs them
        # By the reservations that matter: what is free beside them; dropped when that changes.
        self._free_beside: dict[tuple[int, ...], Pool] = {}
        # What found no room finds none later in the turn, when less is free.
        self._unplaced: set[tuple[object, tuple[int, ...]]] = set()

    def start_now(self, job: Job) -> bool:
        """Bind the job if there is room that no reservation needs."""
        end_ms = expected_end_ms(job, self.now_ms, self.now_ms)
        held = tuple([at for at, r in enumerate(self.reservations) if r.begin_ms < end_ms])
        if (likeness(job), held) in self._unplaced:
            return False
        seated = seat(self.draft.snapshot, self._beside_all(held), job)
        if isinstance(seated, Unplaced):
            self._unplaced.add((likeness(job), held))
            return False
        self.draft.bind(job, seated)
        self._free_beside.clear()
        for at in held:
            self._beside[at].take(seated.places, seated.shape)
        if self._has_stays and end_ms != NEVER_MS:
            stay = Stay(self.now_ms, end_ms, seated.places, seated.shape)
            insort(self._stays, stay, key=_end_ms)
        return True

    def _beside_all(self, held: tuple[int, ...]) -> Pool:
        """What is free now, and at the beginning of each of these reservations."""
        pool = self._free_beside.get(held)
        if pool is None:
            pool = self.draft.view
            for at in held:
                pool = _least(pool, self._beside[at])
            self._free_beside[held] = pool
        return pool

    def reserve(self, job: Job) -> bool:
        """Keep the job the earliest stay that it can be promised; False if nobody can say when."""
        if not self._has_stays:
            self._stays, self._has_stays = _stays(self.draft), True
        length_ms = expected_ms(job) or NEVER_MS - self.now_ms
        free, given = self.draft.view.scratch(), 0
        gaps, free_milli = Gaps(self.draft.snapshot, free, job), int(free.gpu_free.sum())
        for begin_ms in self._ends():
            while given < len(self._stays) and self._stays[given].end_ms <= begin_ms:
                gaps.give(self._stays[given].places, self._stays[given].shape)
                free_milli += self._stays[given].milli
                given += 1
            if gaps.missing > 0 or free_milli - self._reserved_milli(begin_ms) < job.milli:
                continue
            end_ms = min(begin_ms + length_ms, NEVER_MS)
            pool = self._without_reservations(free, begin_ms, end_ms)
            seated = seat(self.draft.snapshot, pool, job)
            if not isinstance(seated, Unplaced):
                self._keep(Stay(begin_ms, end_ms, seated.places, seated.shape), free)
                return True
        return False

    def _ends(self) -> list[int]:
        """When something ends, in order."""
        ends = {stay.end_ms for stay in (*self._stays, *self.reservations)}
        return sorted(ends - {NEVER_MS})

    def _reserved_milli(self, at_ms: int) -> int:
        """What reservations hold at that time: of them nothing overlaps, and all of it is free."""
        return sum([r.milli for r in self.reservations if r.begin_ms <= at_ms < r.end_ms])

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

    def _keep(self, stay: Stay, free: Pool) -> None:
        """Add the reservation. `free` is what has been given back at its beginning."""
        need = free.need_of(stay.places, stay.shape)
        for kept, beside in zip(self.reservations, self._beside, strict=True):
            if stay.begin_ms <= kept.begin_ms < stay.end_ms:
                beside.block_all([need])
        left = self._without_reservations(free, stay.begin_ms, stay.begin_ms + 1).scratch()
        left.block_all([need])
        self.reservations.append(stay)
        self._needs.append(need)
        self._beside.append(left)
        self._free_beside.clear()


def _end_ms(stay: Stay) -> int:
    return stay.end_ms


def _stays(draft: Draft) -> list[Stay]:
    """What holds devices in this draft and is expected to end, by its end.

    What is promised to somebody is not free when those who hold it leave.
    """
    snapshot = draft.snapshot
    promised = {
        (row, gpu)
        for id in snapshot.nominations
        if id in draft.promised
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
        job = snapshot.jobs[allocation.job].job
        if allocation.state in LIVELY:
            begin_ms = allocation.running_ms or allocation.bound_ms
            end_ms = expected_end_ms(job, begin_ms, snapshot.now_ms)
        else:
            begin_ms = allocation.releasing_ms
            end_ms = begin_ms + job.grace_ms
        if end_ms == NEVER_MS:
            continue
        places = tuple(
            [
                (row, tuple([gpu for gpu in gpus if (row, gpu) not in promised]))
                for row, gpus in draft.held_places(allocation)
            ]
        )
        stays.append(Stay(begin_ms, max(end_ms, snapshot.now_ms + 1), places, allocation.shape))
    stays.sort(key=_end_ms)
    return stays


def _least(one: Pool, other: Pool) -> Pool:
    """What is free in both."""
    both = one.scratch()
    np.minimum(one.gpu_free, other.gpu_free, out=both.gpu_free)
    np.minimum(one.cpu_free, other.cpu_free, out=both.cpu_free)
    np.minimum(one.memory_free, other.memory_free, out=both.memory_free)
    both.whole_free[:] = (both.gpu_free == WHOLE_GPU_MILLI).sum(axis=1)
    return both
