"""A plan in the making: the snapshot, the decisions so far, and the pool they leave behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from madang.core.asks import Ask, seat_most, sizes
from madang.core.cells.promises import book_of
from madang.core.cells.room import is_firm
from madang.core.events import (
    AllocationBound,
    Decision,
    JobNominated,
    NominationDropped,
    ReleaseAsked,
)
from madang.core.gangs import at_size, least_members
from madang.core.lanes import Lanes
from madang.core.lifecycle import LIVELY
from madang.core.model import (
    UNLIMITED,
    WHOLE_GPU_MILLI,
    Allocation,
    AllocationState,
    Job,
    ReleaseReason,
    Seat,
    Shape,
)
from madang.core.placement import Unplaced
from madang.core.pool import Place, Pool
from madang.core.quotas import Book, open_to
from madang.core.seating import Seated, claimed, fits_when_empty, likeness, seat
from madang.core.settings import ANY, Reservation
from madang.core.snapshot import Snapshot
from madang.core.timeline import Timeline

Kept = tuple[Place, Shape]
Find = Callable[[Snapshot, Pool, Job], Seated | Unplaced]  # `seat`, `claimed`


class Draft:
    """Passes read the snapshot and write only through these verbs.

    `pool` and `usage_milli` show the yard as the decisions so far will leave it. Devices of a
    release that was only asked stay taken. `pool` may be written to; who only looks takes `view`,
    which costs no copy while nothing has been taken.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        if snapshot.cells is not None:
            snapshot = replace(snapshot, cells=snapshot.cells.scratch())
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
        self._timeline: Timeline | None = None
        self._bare: Snapshot | None = None
        # Calendar reservation whose window is open → its free places, that its own jobs get.
        self.kept: dict[str, list[Kept]] = {}

    @property
    def pool(self) -> Pool:
        """What is free, to take from."""
        if self._scratch is None:
            self._scratch = self.snapshot.pool.scratch().followed(self.snapshot.pool)
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

    @property
    def timeline(self) -> Timeline:
        """What will be free when, and what of it is reserved."""
        if self._timeline is None:
            self._timeline = Timeline(self)
        return self._timeline

    def room_for(self, job: Job) -> Pool:
        """`view`, less the machine groups where a limit has no room for the job, with as few
        members as it starts with.

        For a job inside a reservation whose window is open it is what is kept for that.
        """
        full = self.book.full_groups(job, least_members(job) * job.shape.milli)
        return open_to(self.snapshot, self.ground_of(job), full)

    def ground_of(self, job: Job) -> Pool:
        """Where the job is looked for at all: `view`, or what is kept for its open window."""
        return self.view if self.window_of(job) is None else self._kept_for(job)

    # -- quotas: what a job may ask for ----------------------------------------------------------

    def within_quota(self, job: Job, members: int = 0) -> bool:
        """True iff so many members (0: the fewest that it starts with) fit in what its project and
        its workspace may still hold."""
        milli = (members or least_members(job)) * job.shape.milli
        room_milli = self._room_milli(job)
        if room_milli is not None and milli > max(0, room_milli):
            return False
        return self.book.short_of(job, milli) is None

    def _room_milli(self, job: Job) -> int | None:
        """What the quota of the job's project leaves; None if it has none."""
        quota_milli = self.snapshot.projects[job.project].quota_milli
        if quota_milli == UNLIMITED:
            return None
        return quota_milli - self.usage_milli.get(job.project, 0)

    def asks(self, job: Job, *, entitled: bool = False) -> Iterator[Ask]:
        """What the job may ask for under its quotas, the most members first; nothing if it may not.

        Args:
            entitled: as one within a guarantee, of which it asks for what is covered and no more.
        """
        if not self.within_quota(job):
            return
        for members in sizes(self.book, job, self._room_milli(job), entitled=entitled):
            groups = self.book.entitled_groups(job, members) if entitled else (ANY,)
            if groups:
                full = self.book.full_groups(job, members * job.shape.milli)
                yield Ask(at_size(job, members), full, groups)

    def modest_ask(self, job: Job, *, entitled: bool = False) -> Ask:
        """The last of `asks`: fewest members, most machine groups. For whom others must leave: it
        has room wherever any of the asks has. The job is within its quotas."""
        *_, last = self.asks(job, entitled=entitled)
        return last

    def seated(self, job: Job, find: Find = seat, *, entitled: bool = False) -> Seated | Unplaced:
        """Where the job would sit now, with as many members as quotas and room allow."""
        ground = self.ground_of(job)
        return self._seat_in(ground, job, find, entitled=entitled)

    def _seat_in(
        self, pool: Pool, job: Job, find: Find = seat, *, entitled: bool = False
    ) -> Seated | Unplaced:
        return seat_most(
            self.asks(job, entitled=entitled),
            lambda ask: find(self.snapshot, ask.opened(self.snapshot, pool), ask.job),
        )

    def seat_anew(self, job: Job, allocation: Allocation) -> Seated | Unplaced:
        """Where the job would sit if its allocation ended now: its devices and quotas are free."""
        held, milli = self.held_places(allocation), allocation.shape.milli
        trial = self.view.scratch()
        for place in held:
            trial.give(place, allocation.shape)
        self._charge(job, held, -milli)
        seated = self._seat_in(trial, job)
        self._charge(job, held, milli)
        return seated

    def window_of(self, job: Job) -> Reservation | None:
        """The reservation that the job runs inside; None if it has none, or that is over."""
        if not job.reservation:
            return None
        found = self.snapshot.settings.reservations.get(job.reservation)
        return found if found is not None and self.snapshot.now_ms < found.end_ms else None

    def _kept_for(self, job: Job) -> Pool:
        pool = self.view.scratch()
        pool.gpu_free[:] = 0
        pool.whole_free[:] = 0
        for place, shape in self.kept.get(job.reservation, ()):
            pool.give(place, shape)
        return pool

    def _unkeep(self, job: Job, places: Sequence[Place]) -> None:
        """The job takes of what was kept for its reservation: that much is not kept any more."""
        rows = {row for row, _ in places}
        kept = self.kept[job.reservation]
        for place, shape in [one for one in kept if one[0][0] in rows]:
            self.pool.give(place, shape)
        self.kept[job.reservation] = [one for one in kept if one[0][0] not in rows]

    def _keep_again(self, job: Job, places: Sequence[Place], before: list[Kept]) -> None:
        """What the job left on its nodes of what was kept there stays kept."""
        taken = {(row, gpu) for row, gpus in places for gpu in gpus}
        rows = {row for row, _ in places}
        for (row, gpus), shape in before:
            rest = tuple([gpu for gpu in gpus if (row, gpu) not in taken])
            if row in rows and rest:
                small = replace(shape, gpus=len(rest), cpu_milli=0, memory_mib=0)
                self.pool.take([(row, rest)], small)
                self.kept[job.reservation].append(((row, rest), small))

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

    def _charge(self, job: Job, places: Sequence[Place], milli: int) -> None:
        """Count so much a place for the job's project, at once: others' turns depend on it."""
        total_milli = len(places) * milli
        self.usage_milli[job.project] = self.usage_milli.get(job.project, 0) + total_milli
        if not self.book.quotas:
            return
        parts: dict[str, int] = {}
        for row, _ in places:
            group = self.snapshot.nodes[self.snapshot.node_ids[row]].node.group
            parts[group] = parts.get(group, 0) + milli
        self.book.take(job, parts)

    def bind(self, job: Job, seated: Seated) -> None:
        """Give the job these places, one per member in rank order."""
        shape, places = seated.shape, seated.places
        assert least_members(job) <= len(places), f"a gang is placed whole: {job} {places}"
        assert len(places) <= job.members, f"more members than asked: {job} {places}"
        self.bound.add(job.id)
        attempt = self.snapshot.jobs[job.id].standing.attempt + 1
        inside = self.window_of(job) is not None and job.reservation in self.kept
        before = self.kept[job.reservation] if inside else []
        if inside:
            self._unkeep(job, places)
        self.pool.take(places, shape)
        self._note_cells(job, seated)
        if inside:
            self._keep_again(job, places, before)
        self._charge(job, places, shape.milli)
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
                    cells=seated.cells,
                )
            )
        )

    def _note_cells(self, job: Job, seated: Seated) -> None:
        """What is firm, or claims promised cells, is in the book of cells from now on."""
        book = self.snapshot.cells
        if book is not None and (seated.cells or is_firm(job)):
            book.take(seated.places, seated.shape, seated.cells)

    def nominate(self, job: Job, seated: Seated) -> None:
        """Promise the job these places, which others still hold; nobody else gets them."""
        self.decisions.append(
            JobNominated(
                job.id,
                tuple(Seat(self.snapshot.node_ids[row], gpus) for row, gpus in seated.places),
            )
        )
        self.keep_promise(job, seated)

    def move(self, job: Job, seated: Seated) -> None:
        """Promise a running job another place, free now. It is charged for the one it leaves."""
        assert self.snapshot.jobs[job.id].allocation is not None, f"has nothing to leave: {job}"
        self.nominate(job, seated)

    def keep_promise(self, job: Job, seated: Seated) -> None:
        """Keep what is free of the promised places from everyone else, and charge the project.

        A job that moves is charged here only for what it does not hold any more elsewhere.
        """
        self.promised.add(job.id)
        self.pool.block(seated.places, seated.shape)
        self._note_cells(job, seated)
        self._charge(job, seated.places, seated.shape.milli)
        live = self.snapshot.jobs[job.id]
        if live.allocation is not None:
            held = self.snapshot.allocations[live.allocation]
            self._charge(job, self.held_places(held), -held.shape.milli)

    def drop_nomination(self, job: str) -> None:
        """The promise cannot be kept."""
        self.promised.discard(job)
        self.decisions.append(NominationDropped(job))

    def is_taken(self, places: Sequence[Place], shape: Shape) -> bool:
        """True iff somebody who stays holds a device of these, beside whom there is no room."""
        wanted = {(row, gpu) for row, gpus in places for gpu in gpus}
        nodes = {self.snapshot.node_ids[row] for row, _ in places}
        held: dict[tuple[int, int], int] = {}
        for id, allocation in self.snapshot.allocations.items():
            if allocation.state not in LIVELY or id in self.releasing:
                continue
            if any(seat.node in nodes for seat in allocation.seats):
                for row, gpus in self.held_places(allocation):
                    for gpu in gpus:
                        if (row, gpu) in wanted:
                            held[row, gpu] = held.get((row, gpu), 0) + allocation.shape.gpu_milli
        return any(milli + shape.gpu_milli > WHOLE_GPU_MILLI for milli in held.values())

    def is_due(self, job_id: str) -> bool:
        """True iff the job waits for devices or a quota alone, and has no devices promised."""
        live = self.snapshot.jobs[job_id]
        if job_id in self.bound or job_id in self.promised or live.standing.stop_asked:
            return False
        if self.snapshot.still_runs(job_id):
            return False
        window = self.window_of(live.job)
        if window is not None and self.snapshot.now_ms < window.begin_ms:
            return False
        return live.standing.not_before_ms <= self.snapshot.now_ms

    def may_start(self, job_id: str, members: int = 0) -> bool:
        """True iff the job waits for nothing but devices, and has none promised: with so many
        members, 0: with the fewest."""
        job = self.snapshot.jobs[job_id].job
        return self.is_due(job_id) and self.within_quota(job, members)

    def who_could_start(self) -> Iterator[str]:
        """The jobs that wait and could start if enough were free, in the order of the queue."""
        failed: set[object] = set()
        for _, id in self.snapshot.queue:
            job = self.snapshot.jobs[id].job
            alike = (job.project, job.provisioning, likeness(job))
            if alike in failed or not self.may_start(id):
                continue
            if self.fits_when_empty(job):
                yield id
            else:
                failed.add(alike)

    def fits_when_empty(self, job: Job) -> bool:
        """True iff the job would have room if nobody else held anything, beside all the cells that
        are promised to others: that is what it waits for, and for no node and no promise."""
        pool, snapshot = self.room_for(job), self.snapshot
        allowed = snapshot if pool is self.view else replace(snapshot, pool=pool)
        if not fits_when_empty(allowed, job):
            return False
        if snapshot.cells is None or not is_firm(job):
            return True
        if self._bare is None:
            self._bare = replace(snapshot, pool=self._emptied(), allocations={})
            self._bare = replace(self._bare, cells=book_of(self._bare))
        bare, empty = self._bare, self._bare.pool.with_open(pool.open)
        return any(isinstance(find(bare, empty, job), Seated) for find in (seat, claimed))

    def _emptied(self) -> Pool:
        pool = self.snapshot.pool.scratch()
        for allocation in self.snapshot.allocations.values():
            for place in self.held_places(allocation):
                pool.give(place, allocation.shape)
        return pool

    def hold_back(self, lanes: Lanes, holders: Sequence[tuple[int, str]]) -> None:
        """Nobody else, unless within a guarantee, shall move others aside in the lanes of those who
        hold, or who holds would wait for ever. Who is promised a place holds no longer.
        """
        self._lanes, self._holders = lanes, tuple(holders)

    def is_held_back(self, job: Job) -> bool:
        """True iff somebody who has lost patience holds what the job would displace others for."""
        holders = [one for one in self._holders if one[1] not in self.promised]
        if not holders or any(id == job.id for _, id in holders):
            return False
        assert self._lanes is not None, "lanes are held back, but which?"
        mine = self._lanes.of(job)
        return any(bits & mine for bits, _ in holders) and not self.book.entitled_groups(job)

    def places_of(self, seats: Sequence[Seat]) -> list[Place]:
        """Seats as places in the pool; a device that is ill is not in the pool at all."""
        places: list[Place] = []
        for one in seats:
            live = self.snapshot.nodes[one.node]
            usable, gpus = live.node.usable, one.gpus
            # By far the most are on nodes in good health; one may have got smaller.
            if usable != (1 << live.node.gpus) - 1 or max(gpus, default=-1) >= live.node.gpus:
                gpus = tuple([gpu for gpu in gpus if usable >> gpu & 1])
            places.append((live.row, gpus))
        return places

    def held_places(self, allocation: Allocation) -> list[Place]:
        """What the allocation's members that have not ended hold of the pool."""
        if not allocation.ended:
            return self.places_of(allocation.seats)
        held = [seat for rank, seat in enumerate(allocation.seats) if allocation.holds(rank)]
        return self.places_of(held)
