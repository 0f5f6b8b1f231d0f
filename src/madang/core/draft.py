"""A plan in the making: the snapshot, the decisions so far, and the pool they leave behind."""

from collections.abc import Sequence

from madang.core.events import (
    AllocationBound,
    Decision,
    JobNominated,
    NominationDropped,
    ReleaseAsked,
)
from madang.core.gangs import least_members
from madang.core.model import UNLIMITED, Allocation, AllocationState, Job, ReleaseReason, Seat
from madang.core.ordering import Key, ordered
from madang.core.pool import Place, Pool
from madang.core.seating import Seated
from madang.core.snapshot import Snapshot


class Draft:
    """Passes read the snapshot and write only through these verbs.

    `pool` and `usage_milli` show the yard as the decisions so far will leave it. Devices of a
    release that was only asked stay taken. `pool` may be written to; who only looks takes `view`,
    which costs no copy while nothing has been taken.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.decisions: list[Decision] = []
        self._scratch: Pool | None = None
        self._order: Sequence[tuple[Key, str]] | None = None
        self.usage_milli = dict(snapshot.usage_milli)
        self.releasing: set[str] = set()
        self.bound: set[str] = set()
        self.promised: set[str] = set(snapshot.nominations)

    @property
    def order(self) -> Sequence[tuple[Key, str]]:
        """(key, job id) of the jobs that waited when the turn began, whose turn is first first."""
        if self._order is None:
            self._order = ordered(self.snapshot)
        return self._order

    @property
    def pool(self) -> Pool:
        """What is free, to take from."""
        if self._scratch is None:
            self._scratch = self.snapshot.pool.scratch()
        return self._scratch

    @property
    def view(self) -> Pool:
        """What is free, to look at."""
        return self.snapshot.pool if self._scratch is None else self._scratch

    def add(self, decision: Decision) -> None:
        """A decision that takes no device."""
        self.decisions.append(decision)

    def release(self, allocation: str, reason: ReleaseReason, grace_ms: int) -> None:
        """Ask an allocation to end, once a plan."""
        if allocation in self.releasing:
            return
        self.releasing.add(allocation)
        self.decisions.append(ReleaseAsked(allocation, reason, grace_ms))

    def within_quota(self, job: Job) -> bool:
        """True iff the job fits in what its project may still hold."""
        quota_milli = self.snapshot.projects[job.project].quota_milli
        if quota_milli == UNLIMITED:
            return True
        return self.usage_milli.get(job.project, 0) + job.milli <= quota_milli

    def bind(self, job: Job, seated: Seated) -> None:
        """Give the job these places, one per member in rank order."""
        shape, places = seated.shape, seated.places
        assert least_members(job) <= len(places), f"a gang is placed whole: {job} {places}"
        assert len(places) <= job.members, f"more members than asked: {job} {places}"
        self.bound.add(job.id)
        attempt = self.snapshot.jobs[job.id].standing.attempt + 1
        self.pool.take(places, shape)
        milli = len(places) * shape.milli
        self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + milli
        self.decisions.append(
            AllocationBound(
                Allocation(
                    id=f"{job.id}.{attempt}",
                    job=job.id,
                    project=job.project,
                    attempt=attempt,
                    shape=shape,
                    seats=tuple(Seat(self.snapshot.node_ids[row], gpus) for row, gpus in places),
                    state=AllocationState.BOUND,
                    bound_ms=self.snapshot.now_ms,
                )
            )
        )

    def nominate(self, job: Job, seated: Seated) -> None:
        """Promise the job these places, which others still hold; nobody else gets them."""
        self.decisions.append(
            JobNominated(
                job.id,
                tuple(Seat(self.snapshot.node_ids[row], gpus) for row, gpus in seated.places),
            )
        )
        self.keep_promise(job, seated)

    def keep_promise(self, job: Job, seated: Seated) -> None:
        """Keep what is free of the promised places from everyone else, and charge the project."""
        self.promised.add(job.id)
        self.pool.block(seated.places, seated.shape)
        milli = len(seated.places) * seated.shape.milli
        self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + milli

    def drop_nomination(self, job: str) -> None:
        """The promise cannot be kept."""
        self.promised.discard(job)
        self.decisions.append(NominationDropped(job))

    def may_start(self, job_id: str) -> bool:
        """True iff the job waits for nothing but devices, and has none promised."""
        live = self.snapshot.jobs[job_id]
        if job_id in self.bound or job_id in self.promised or live.standing.stop_asked:
            return False
        if self.snapshot.still_runs(job_id):
            return False
        due = live.standing.not_before_ms <= self.snapshot.now_ms
        return due and self.within_quota(live.job)

    def places_of(self, seats: Sequence[Seat]) -> list[Place]:
        """Seats as places in the pool; a device that is ill is not in the pool at all."""
        places: list[Place] = []
        for seat in seats:
            live = self.snapshot.nodes[seat.node]
            usable = live.node.usable
            places.append((live.row, tuple([gpu for gpu in seat.gpus if usable >> gpu & 1])))
        return places

    def held_places(self, allocation: Allocation) -> list[Place]:
        """What the allocation's members that have not ended hold of the pool."""
        held = [seat for rank, seat in enumerate(allocation.seats) if allocation.holds(rank)]
        return self.places_of(held)
