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
from madang.core.lanes import Lanes
from madang.core.model import UNLIMITED, Allocation, AllocationState, Job, ReleaseReason, Seat
from madang.core.pool import Place, Pool
from madang.core.quotas import Book, open_to
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
        self.usage_milli = dict(snapshot.usage_milli)
        self.releasing: set[str] = set()
        self.bound: set[str] = set()
        self.promised: set[str] = set(snapshot.nominations)
        self._book: Book | None = None
        self._lanes: Lanes | None = None
        self._holders: tuple[tuple[int, str], ...] = ()

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

    @property
    def book(self) -> Book:
        """Quotas, and what is held of them once the plan is carried out."""
        if self._book is None:
            self._book = Book(self.snapshot)
        return self._book

    def room_for(self, job: Job) -> Pool:
        """`view`, less the machine groups where a limit has no room for the job."""
        full = self.book.full_groups(job, job.milli)
        return open_to(self.snapshot, self.view, full) if full else self.view

    def add(self, decision: Decision) -> None:
        """A decision that takes no device."""
        self.decisions.append(decision)

    def release(
        self,
        allocation: str,
        reason: ReleaseReason,
        grace_ms: int,
        *,
        by: str = "",
        bill_gpu_ms: int = 0,
    ) -> None:
        """Ask an allocation to end, once a plan: for whom, and what work it throws away."""
        if allocation in self.releasing:
            return
        self.releasing.add(allocation)
        self.decisions.append(ReleaseAsked(allocation, reason, grace_ms, by, bill_gpu_ms))

    def within_quota(self, job: Job) -> bool:
        """True iff the job fits in what its project and its workspace may still hold."""
        quota_milli = self.snapshot.projects[job.project].quota_milli
        would_hold_milli = self.usage_milli.get(job.project, 0) + job.milli
        if quota_milli != UNLIMITED and would_hold_milli > quota_milli:
            return False
        return self.book.short_of(job, job.milli) is None

    def _charge(self, job: Job, seated: Seated) -> None:
        """Count what the job gets for its project, at once: others' turns depend on it."""
        milli = len(seated.places) * seated.shape.milli
        self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + milli
        if not self.book.quotas:
            return
        parts: dict[str, int] = {}
        for row, _ in seated.places:
            group = self.snapshot.nodes[self.snapshot.node_ids[row]].node.group
            parts[group] = parts.get(group, 0) + seated.shape.milli
        self.book.take(job, parts)

    def bind(self, job: Job, seated: Seated) -> None:
        """Give the job these places, one per member in rank order."""
        shape, places = seated.shape, seated.places
        assert least_members(job) <= len(places), f"a gang is placed whole: {job} {places}"
        assert len(places) <= job.members, f"more members than asked: {job} {places}"
        self.bound.add(job.id)
        attempt = self.snapshot.jobs[job.id].standing.attempt + 1
        self.pool.take(places, shape)
        self._charge(job, seated)
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
        self._charge(job, seated)

    def drop_nomination(self, job: str) -> None:
        """The promise cannot be kept."""
        self.promised.discard(job)
        self.decisions.append(NominationDropped(job))

    def is_due(self, job_id: str) -> bool:
        """True iff the job waits for devices or a quota alone, and has no devices promised."""
        live = self.snapshot.jobs[job_id]
        if job_id in self.bound or job_id in self.promised or live.standing.stop_asked:
            return False
        if self.snapshot.still_runs(job_id):
            return False
        return live.standing.not_before_ms <= self.snapshot.now_ms

    def may_start(self, job_id: str) -> bool:
        """True iff the job waits for nothing but devices, and has none promised."""
        job = self.snapshot.jobs[job_id].job
        return self.is_due(job_id) and self.within_quota(job) and not self._is_held_back(job)

    def hold_back(self, lanes: Lanes, holders: Sequence[tuple[int, str]]) -> None:
        """From here on nobody else, unless within a guarantee, may start in the lanes of those who
        hold: not by moving others aside either, or who holds would wait for ever. Who is promised a
        place holds no longer.
        """
        self._lanes, self._holders = lanes, tuple(holders)

    def _is_held_back(self, job: Job) -> bool:
        holders = [one for one in self._holders if one[1] not in self.promised]
        if not holders or any(id == job.id for _, id in holders):
            return False
        assert self._lanes is not None, "lanes are held back, but which?"
        mine = self._lanes.of(job)
        return any(bits & mine for bits, _ in holders) and not self.book.entitled_groups(job)

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
