"""Backfill: the head of the queue gets a start time, and others may start if that time holds.

The first `policy.reservations` jobs that do not fit are given the earliest time at which they will,
judged by the expected ends of what runs. A job behind them starts now if it has ended by then, or
if the reservation still fits beside it (EASY: Lifka, JSSPP 1995; with many reservations
conservative: Mu'alem & Feitelson, TPDS 2001). At the granularity of single devices.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.draft import Draft
from madang.core.lifecycle import LIVELY
from madang.core.model import WHOLE_GPU_MILLI, Job, Shape
from madang.core.ordering import ordered
from madang.core.passes.start import BINDS_PER_TURN_MAX, model_codes
from madang.core.placement import Unplaced, eligible_rows, place
from madang.core.policy import Misfit
from madang.core.pool import Place, Pool
from madang.core.snapshot import Snapshot

NEVER_MS = np.iinfo(np.int64).max
OVERDUE_FACTOR = 2  # what has outrun its estimate is expected to take as long again


@dataclass(frozen=True, slots=True)
class Stay:
    """Who holds or will hold what, from when until when."""

    begin_ms: int
    end_ms: int
    places: tuple[Place, ...]
    shape: Shape


def backfill(draft: Draft) -> None:
    """Emit AllocationBound for the head of the queue and for whoever does not delay it."""
    policy = draft.snapshot.policy
    if policy.misfit is not Misfit.RESERVE:
        return
    timeline = Timeline(draft)
    unplaced: set[object] = set()
    for _, job_id in ordered(draft.snapshot):
        if not draft.may_start(job_id):
            continue
        job = draft.snapshot.jobs[job_id].job
        shape = (job.shape, job.members, job.estimate_ms)
        if shape in unplaced:
            continue
        if timeline.start_now(job):
            if len(draft.decisions) >= BINDS_PER_TURN_MAX:
                return
            continue
        if len(timeline.reservations) < policy.reservations:
            timeline.reserve(job)
        else:
            unplaced.add(shape)


def expected_end_ms(job: Job, begin_ms: int, now_ms: int) -> int:
    """When a job that began then is expected to end: by its estimate, else by its time limit."""
    expected_ms = job.estimate_ms or job.time_limit_ms
    if not expected_ms:
        return NEVER_MS
    ran_ms = now_ms - begin_ms
    if ran_ms >= expected_ms:
        expected_ms = ran_ms * OVERDUE_FACTOR + 1
        if job.time_limit_ms:
            expected_ms = max(min(expected_ms, job.time_limit_ms), ran_ms + 1)
    return begin_ms + expected_ms


class Timeline:
    """What will be free when, as far as the expected ends tell."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.now_ms = draft.snapshot.now_ms
        self.reservations: list[Stay] = []
        self._beside: list[Pool] = []  # per reservation: what is left at its beginning
        self._stays: list[Stay] | None = None  # built when the first reservation needs it

    def start_now(self, job: Job) -> bool:
        """Bind the job if there is room that no reservation needs."""
        end_ms = expected_end_ms(job, self.now_ms, self.now_ms)
        held = [at for at, r in enumerate(self.reservations) if r.begin_ms < end_ms]
        pool = self.draft.view
        for at in held:
            pool = _least(pool, self._beside[at])
        eligible = eligible_rows(pool, model_codes(self.draft.snapshot, job))
        places = place(pool, job.shape, job.members, eligible)
        if isinstance(places, Unplaced):
            return False
        self.draft.bind(job, places)
        for at in held:
            self._beside[at].take(places, job.shape)
        if self._stays is not None:
            self._stays.append(Stay(self.now_ms, end_ms, places, job.shape))
        return True

    def reserve(self, job: Job) -> Stay | None:
        """The earliest stay that the job can be promised; None if nobody can say when."""
        if self._stays is None:
            self._stays = _running(self.draft)
        length_ms = (job.estimate_ms or job.time_limit_ms) or NEVER_MS - self.now_ms
        eligible = eligible_rows(self.draft.view, model_codes(self.draft.snapshot, job))
        ends = sorted({s.end_ms for s in (*self._stays, *self.reservations)} - {NEVER_MS})
        for begin_ms in ends:
            end_ms = min(begin_ms + length_ms, NEVER_MS)
            pool = self._free_through(begin_ms, end_ms)
            places = place(pool, job.shape, job.members, eligible)
            if isinstance(places, Unplaced):
                continue
            stay = Stay(begin_ms, end_ms, places, job.shape)
            self._keep(stay)
            return stay
        return None

    def _keep(self, stay: Stay) -> None:
        self.reservations.append(stay)
        self._beside = [self._free_through(r.begin_ms, r.begin_ms + 1) for r in self.reservations]

    def _free_through(self, begin_ms: int, end_ms: int) -> Pool:
        """What is free from `begin_ms` until `end_ms`, given the ends and the reservations."""
        assert self._stays is not None, "reservations come after the stays were read"
        pool = self.draft.view.scratch()
        for stay in self._stays:
            if stay.end_ms <= begin_ms:
                for one in stay.places:
                    pool.give(one, stay.shape)
        for kept in self.reservations:
            if kept.begin_ms < end_ms and begin_ms < kept.end_ms:
                pool.block(kept.places, kept.shape)
        return pool


def _running(draft: Draft) -> list[Stay]:
    """The stays of everything that holds devices in this draft."""
    snapshot: Snapshot = draft.snapshot
    stays = []
    for allocation in snapshot.allocations.values():
        live = snapshot.jobs.get(allocation.job)
        if live is None or live.allocation != allocation.id:
            continue
        begin_ms = allocation.running_ms or allocation.bound_ms
        end_ms = expected_end_ms(live.job, begin_ms, snapshot.now_ms)
        if allocation.state not in LIVELY:
            end_ms = allocation.releasing_ms + live.job.grace_ms
        places = tuple(draft.held_places(allocation))
        stays.append(Stay(begin_ms, max(end_ms, snapshot.now_ms + 1), places, allocation.shape))
    return stays


def _least(one: Pool, other: Pool) -> Pool:
    """What is free in both."""
    both = one.scratch()
    np.minimum(one.gpu_free, other.gpu_free, out=both.gpu_free)
    np.minimum(one.cpu_free, other.cpu_free, out=both.cpu_free)
    np.minimum(one.memory_free, other.memory_free, out=both.memory_free)
    both.whole_free[:] = (both.gpu_free == WHOLE_GPU_MILLI).sum(axis=1)
    return both
