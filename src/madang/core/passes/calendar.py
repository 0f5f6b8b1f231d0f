"""Calendar: GPUs × window, kept free in time by what is expected to end.

While a window is open, what its own jobs do not hold of it is kept from everyone else; where that
is not free yet, whoever may be stopped is asked to leave, and nobody else is, and nobody in vain.
Before it opens, nobody starts on its devices who would still be there then, save who can be moved
aside. Nothing of a reservation is stored but the reservation: each plan places all windows anew
(windows.py), so a node that dies is made up for by another.

Promises: who is started after this pass, and stays where it keeps him from by then, leaves every
window as many members as it has without him, unless an older window gains. For each time at which a
window opens, or what it lacks is there, the windows open by then are placed one after the other in
what will be free, and newcomers who stay beyond that time are kept from all of these places:
nothing else they take moves any of them. Who steps aside for windows (he saves his work, and has
had his least run time by then) is counted on as if he were not there, also when he starts, so that
he moves none either; who may be stopped but would lose his work is counted on only where a window
gets more members by it, and none before it fewer. What a window's own jobs hold they hold: where
they sit is nobody's fault but the calendar's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from madang.core.budgets import Allowance, is_protected
from madang.core.draft import Draft
from madang.core.estimates import NEVER_MS
from madang.core.events import AllocationBound, HoleDropped, HoleMade, JobNominated
from madang.core.filling import Due, Filling
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason, Seat, Shape
from madang.core.placement import Unplaced
from madang.core.pool import Need, Place, Pool
from madang.core.settings import Reservation
from madang.core.snapshot import Snapshot
from madang.core.sparing import Sparing
from madang.core.timeline import Stay, left_of
from madang.core.windows import Places, Sites, Want, turn_of, wants_of

LOOK_AGAIN_MS = 60_000


def calendar(draft: Draft) -> None:
    """Keep what is reserved now, ask for what is missing of it, and note what will be reserved."""
    snapshot = draft.snapshot
    windows = sorted(snapshot.settings.reservations.values(), key=turn_of)
    windows = [one for one in windows if snapshot.now_ms < one.end_ms]
    if not windows:
        return
    sites = Sites(snapshot)
    opened = [one for one in windows if one.begin_ms <= snapshot.now_ms]
    draft.kept.update({one.id: [] for one in opened})
    plan = _Now(draft, sites, opened)
    inside = _who_waits_inside(draft)
    if inside:
        plan.keep()
        if _start_inside(draft, inside):
            plan.let_go()
            plan = _Now(draft, sites, opened)
            plan.keep()
    else:
        plan.keep()
    plan.carry_out()
    _Ahead(draft, sites, windows, plan).note()


def windows_ms(reservations: Iterable[Reservation], after_ms: int) -> list[int]:
    """When a plan is needed next for the calendar: a window opens, is short, or closes.

    While it is open, and may still lack devices that nobody may be asked for yet, it is looked at
    again after one minute, two, four and so on.
    """
    times = []
    for reservation in reservations:
        at_ms, step_ms = reservation.begin_ms, LOOK_AGAIN_MS
        while at_ms <= after_ms and at_ms < reservation.end_ms:
            at_ms, step_ms = at_ms + step_ms, step_ms * 2
        at_ms = min(at_ms, reservation.end_ms)
        if at_ms > after_ms:
            times.append(at_ms)
    return times


def _who_waits_inside(draft: Draft) -> list[Job]:
    """Jobs inside open windows that wait for nothing but devices, in the order of the queue."""
    if not draft.kept:
        return []
    jobs = [draft.snapshot.jobs[id].job for _, id in draft.snapshot.queue]
    return [job for job in jobs if job.reservation in draft.kept and draft.may_start(job.id)]


def _start_inside(draft: Draft, jobs: Sequence[Job]) -> bool:
    """They take what is kept for them; nobody in the queue holds them back. True iff any did."""
    started = False
    for job in jobs:
        seated = draft.seated(job) if draft.may_start(job.id) else Unplaced(0, 0)
        if not isinstance(seated, Unplaced):
            draft.bind(job, seated)
            started = True
    return started


# -- who can be counted on -------------------------------------------------------------------------


def may_be_asked_ms(snapshot: Snapshot, allocation: Allocation) -> int:
    """From when on it may be stopped for a window that is open, budgets aside; NEVER_MS: never."""
    job = snapshot.jobs[allocation.job].job
    window = snapshot.settings.reservations.get(job.reservation)
    if not job.preemptible and window is None:
        return NEVER_MS
    least_ms = max(snapshot.policy.run_ms_min, job.run_ms_min)
    at_ms = (allocation.running_ms or allocation.bound_ms) + least_ms
    # Who stays on after its own window has no right to.
    return at_ms if window is None else max(at_ms, window.end_ms)


def gone_ms(snapshot: Snapshot, allocation: Allocation) -> tuple[int, int]:
    """From when on a window can count on what it holds: if who saves his work is asked, and if who
    would lose it is asked, too.

    Who counts under a disruption budget is not counted on: nobody can foresee what that allows.
    """
    end_ms = left_of(snapshot, allocation).end_ms(snapshot.now_ms)
    live = snapshot.jobs[allocation.job]
    job = live.job
    if is_protected(snapshot.settings, live):
        return end_ms, end_ms
    asked_ms = min(end_ms, may_be_asked_ms(snapshot, allocation))
    return asked_ms if job.checkpoints else end_ms, asked_ms


@dataclass(frozen=True, slots=True)
class _Holder:
    """An allocation, and of what it holds all that is not promised to somebody."""

    allocation: Allocation
    places: Places

    def give(self, pool: Pool) -> None:
        for place in self.places:
            pool.give(place, self.allocation.shape)


def _promised(draft: Draft) -> set[tuple[int, int]]:
    """(row, device) of all that somebody is promised, by this draft, too."""
    seats: list[Sequence[Seat]] = [
        seats
        for id, seats in draft.snapshot.nominations.items()
        if id in draft.promised and id not in draft.bound
    ]
    dropped = {one.hole for one in draft.decisions if isinstance(one, HoleDropped)}
    holes = draft.snapshot.settings.holes
    seats += [hole.seats for id, hole in holes.items() if id not in dropped]
    seats += [one.seats for one in draft.decisions if isinstance(one, JobNominated | HoleMade)]
    return {(row, gpu) for some in seats for row, gpus in draft.places_of(some) for gpu in gpus}


def _holders(draft: Draft) -> tuple[list[_Holder], list[_Holder]]:
    """Who leaves, and who stays for the time being, with whom this draft has bound so far."""
    snapshot, promised = draft.snapshot, _promised(draft)
    bound = [one.allocation for one in draft.decisions if isinstance(one, AllocationBound)]
    leaving: list[_Holder] = []
    staying: list[_Holder] = []
    for allocation in (*snapshot.allocations.values(), *bound):
        live = snapshot.jobs.get(allocation.job)
        goes = allocation.state not in LIVELY or allocation.id in draft.releasing
        is_new = live is not None and (live.allocation == allocation.id or live.allocation is None)
        if allocation.state is AllocationState.RELEASED or not (goes or is_new):
            continue
        places = tuple(
            [
                (row, tuple([gpu for gpu in gpus if (row, gpu) not in promised]))
                for row, gpus in draft.held_places(allocation)
            ]
        )
        (leaving if goes else staying).append(_Holder(allocation, places))
    return leaving, staying


# -- now -------------------------------------------------------------------------------------------


class _Now:
    """The windows that are open: where they are, and who must leave for it.

    `found` is the place of each of `wants`, in their order; once they are kept, `blocked` is what
    of it is not free yet. Nothing is decided before `carry_out`.
    """

    def __init__(self, draft: Draft, sites: Sites, opened: Sequence[Reservation]) -> None:
        self.draft, self.sites = draft, sites
        self.base = draft.view.scratch()
        bound = [one.allocation for one in draft.decisions if isinstance(one, AllocationBound)]
        self.allocations = [*draft.snapshot.allocations.values(), *bound]
        self.wants = wants_of(draft.snapshot, opened, self.allocations)
        self.leaving, self.staying = _holders(draft)
        self.found: list[Places] = []
        self.victims: list[_Holder] = []
        self.blocked: list[tuple[Want, Places]] = []
        if self.wants:
            self._seek()

    def is_whole(self) -> bool:
        return _counts(self.found) == [want.members for want in self.wants]

    def _seek(self) -> None:
        """What leaves anyway is waited for before anybody is asked; who saves his work is asked
        before who would lose it; of equally good ways the first."""
        coming = self.base.scratch()
        for one in self.leaving:
            one.give(coming)
        self.found = self.sites.in_turn(coming, self.wants)
        for willing in self._ways():
            if self.is_whole():
                return
            trial = coming.scratch()
            for one in willing:
                one.give(trial)
            best = _counts(self.sites.in_turn(trial, self.wants))
            if best > _counts(self.found):
                self.found, self.victims = self._fewest(coming, willing, best)

    def _ways(self) -> Iterable[list[_Holder]]:
        """Whom to ask: ever more of those who may be stopped now. Who began last comes first: what
        he has done so far is the least."""
        snapshot = self.draft.snapshot
        staying = [
            one
            for one in self.staying
            if may_be_asked_ms(snapshot, one.allocation) <= snapshot.now_ms
        ]
        staying.sort(key=lambda one: (-one.allocation.running_ms, one.allocation.id))
        settings, jobs = snapshot.settings, snapshot.jobs
        free = [one for one in staying if not is_protected(settings, jobs[one.allocation.job])]
        yield [one for one in free if jobs[one.allocation.job].job.checkpoints]
        yield free
        if len(free) < len(staying):
            allowance, allowed = Allowance(snapshot, self.draft.releasing), []
            for one in staying:
                if allowance.allows(one.allocation):
                    allowance.charge(one.allocation)
                    allowed.append(one)
            yield allowed

    def _fewest(
        self, coming: Pool, willing: Sequence[_Holder], best: list[int]
    ) -> tuple[list[Places], list[_Holder]]:
        """As many of these as make the windows as good as all of them do, nobody in vain, and where
        the windows then are."""
        few, enough, base = 0, len(willing), coming  # in `base`, the first few have left
        while enough - few > 1:
            middle = (few + enough) // 2
            trial = base.scratch()
            for one in willing[few:middle]:
                one.give(trial)
            if _counts(self.sites.in_turn(trial, self.wants)) >= best:
                enough = middle
            else:
                few, base = middle, trial
        trial = base.scratch()
        for one in willing[few:enough]:
            one.give(trial)
        sparing, asked, were = Sparing(self.sites, trial, self.wants), list(willing[:enough]), -1
        while were != len(asked):
            were = len(asked)
            for victim in asked[::-1]:  # who began first is let stay first
                if sparing.stays(victim.places, victim.allocation.shape):
                    asked.remove(victim)
        return sparing.found, asked

    def keep(self) -> None:
        """Take from the draft what is free of them, for the jobs inside."""
        pool = self.draft.pool
        for want, places in zip(self.wants, self.found, strict=True):
            kept = self.draft.kept[want.window.id]
            missing: list[Place] = []
            for place in places:
                if pool.has_free((place,), want.shape):
                    pool.take((place,), want.shape)
                    kept.append((place, want.shape))
                else:
                    missing.append(place)
            if missing:
                self.blocked.append((want, tuple(missing)))

    def let_go(self) -> None:
        """Give it back: jobs have started inside, so that all is different."""
        for kept in self.draft.kept.values():
            for place, shape in kept:
                self.draft.pool.give(place, shape)
            kept.clear()

    def carry_out(self) -> None:
        """Ask those who must leave; what will be theirs is nobody else's."""
        draft, snapshot = self.draft, self.draft.snapshot
        devices, rows = self._first_to_get()
        for victim in self.victims:
            grace_ms = snapshot.jobs[victim.allocation.job].job.grace_ms
            by = f"reservation {self._asks(victim, devices, rows).id}"
            draft.release(victim.allocation.id, ReleaseReason.PREEMPTED, grace_ms, by=by)
        for window in {want.window.id: want.window for want in self.wants}.values():
            for place, shape in draft.kept[window.id]:
                draft.timeline.add_end(Stay(snapshot.now_ms, window.end_ms, (place,), shape))
        for want, places in self.blocked:
            draft.pool.block(places, want.shape)

    def _first_to_get(self) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
        """By device, and by row, the first window that gets it or some of it: its turn."""
        devices: dict[tuple[int, int], int] = {}
        rows: dict[int, int] = {}
        for turn, places in enumerate(self.found):
            for row, gpus in places:
                rows.setdefault(row, turn)
                for gpu in gpus:
                    devices.setdefault((row, gpu), turn)
        return devices, rows

    def _asks(
        self, victim: _Holder, devices: Mapping[tuple[int, int], int], rows: Mapping[int, int]
    ) -> Reservation:
        """The first window that gets one of the victim's devices, or his part of a node."""
        held = [(row, gpu) for row, gpus in victim.places for gpu in gpus]
        turns = [devices[one] for one in held if one in devices]
        turns = turns or [rows[row] for row, _ in victim.places if row in rows]
        return self.wants[min(turns)].window


def _counts(found: Iterable[Places]) -> list[int]:
    """Members that have a place, window by window: the greater of two such lists is the better."""
    return [len(places) for places in found]


# -- ahead -----------------------------------------------------------------------------------------


class _Ahead:
    """Where windows will be: as each opens, and as what it lacks then is there."""

    def __init__(
        self, draft: Draft, sites: Sites, windows: Sequence[Reservation], plan: _Now
    ) -> None:
        self.draft, self.sites, self.windows, self.plan = draft, sites, windows, plan
        snapshot = draft.snapshot
        self.now_ms = snapshot.now_ms
        self.wants = wants_of(snapshot, windows, plan.allocations)
        base = plan.base.scratch()
        for one in (*plan.leaving, *plan.victims):
            one.give(base)
        victims = {one.allocation.id for one in plan.victims}
        staying = [one for one in plan.staying if one.allocation.id not in victims]
        gone = [gone_ms(snapshot, one.allocation) for one in staying]
        self.fillings = [
            Filling(
                sites,
                pool,
                sorted(
                    [
                        Due(at_ms, one.places, one.allocation.shape)
                        for at_ms, one in zip(times, staying, strict=True)
                    ],
                    key=_time_of,
                ),
            )
            for pool, times in (
                (base, [aside_ms for aside_ms, _ in gone]),
                (base.scratch(), [asked_ms for _, asked_ms in gone]),
            )
        ]
        self.kept = [
            (window.end_ms, _needs(base, draft.kept.get(window.id, ()))) for window in windows
        ]
        # Places of a want that nobody can take any more who would be in its way.
        self.noted = {want: [places] for want, places in self._found_now()}

    def _found_now(self) -> list[tuple[Want, Places]]:
        return list(zip(self.plan.wants, self.plan.found, strict=True))

    def note(self) -> None:
        """Keep their places from those who would still be there then."""
        coming = self.fillings[0].pool
        self._keep(self.now_ms, self.plan.blocked, coming)
        short = _short(self._found_now())
        begins = {one.begin_ms for one in self.windows if one.begin_ms > self.now_ms}
        for at_ms in self._times(begins):
            opened = [one for one in self.wants if one.window.begin_ms <= at_ms < one.window.end_ms]
            short &= {one.window.id for one in opened}
            if at_ms not in begins and not self._may_be_whole(at_ms, short):
                continue
            pool, places_then = self._best(at_ms, opened)
            found = list(zip(opened, places_then, strict=True))
            lacking = _short(found)
            if at_ms in begins or short - lacking:
                there = [
                    (want, places)
                    for want, places in found
                    if places and places not in self.noted.setdefault(want, [])
                ]
                for want, places in there:
                    self.noted[want].append(places)
                self._keep(at_ms, there, pool)
            new = {one.window.id for one in opened if one.window.begin_ms == at_ms}
            short = (short | new) & lacking

    def _times(self, begins: set[int]) -> list[int]:
        """After now: windows open or close, or somebody can be counted on to be gone."""
        times = begins | {one.end_ms for one in self.windows}
        times |= {one.at_ms for filling in self.fillings for one in filling.due}
        return sorted(at_ms for at_ms in times if self.now_ms < at_ms < NEVER_MS)

    def _may_be_whole(self, at_ms: int, short: set[str]) -> bool:
        """False if each of these windows surely still lacks members then."""
        _, asked = self.fillings
        lacking = [one for one in self.wants if one.window.id in short]
        if lacking:
            asked.until(at_ms)
        return bool(short - {one.window.id for one in lacking if not asked.has_room(one)})

    def _best(self, at_ms: int, wants: Sequence[Want]) -> tuple[Pool, list[Places]]:
        """What can be counted on then, and where the windows then are."""
        aside, asked = self.fillings
        for filling in self.fillings:
            filling.until(at_ms)
        found = aside.in_turn(wants)
        if _counts(found) != [want.members for want in wants]:
            other = asked.in_turn(wants)
            if _counts(other) > _counts(found):
                return asked.pool, other
        return aside.pool, found

    def _keep(self, at_ms: int, there: Sequence[tuple[Want, Places]], pool: Pool) -> None:
        """Keep these places from then on. What is kept now of windows that are still open then is
        out of the draft's pool already."""
        if there:
            free = pool.scratch()
            free.block_all(
                [need for end_ms, needs in self.kept if at_ms < end_ms for need in needs]
            )
            stays = [
                Stay(at_ms, want.window.end_ms, places, want.shape, calendar=want.window.id)
                for want, places in there
            ]
            self.draft.timeline.keep(stays, free)


def _short(found: Iterable[tuple[Want, Places]]) -> set[str]:
    """The windows that lack members."""
    return {want.window.id for want, places in found if len(places) < want.members}


def _needs(pool: Pool, kept: Sequence[tuple[Place, Shape]]) -> list[Need]:
    """What is kept, shape by shape."""
    by_shape: dict[Shape, list[Place]] = {}
    for place, shape in kept:
        by_shape.setdefault(shape, []).append(place)
    return [pool.need_of(places, shape) for shape, places in by_shape.items()]


def _time_of(one: Due) -> int:
    return one.at_ms
