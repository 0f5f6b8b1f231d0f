"""Calendar: GPUs × window, kept free in time by what is expected to end.

While a window is open, what its own jobs do not hold of it is kept from everyone else; where
that is not free yet, whoever may be stopped is asked to leave, and nobody else is. Before it
opens, nobody starts on its devices who would still be there then, save who can be moved aside.
Nothing of a reservation is stored but the reservation: each plan reckons its devices anew, the
ones that are free first, so a node that dies is made up for by another.
"""

from collections.abc import Iterable
from dataclasses import replace

from madang.core.budgets import Allowance
from madang.core.draft import Draft, Kept
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason, Shape
from madang.core.placement import Unplaced
from madang.core.pool import Pool
from madang.core.seating import Seated, seat
from madang.core.settings import Reservation
from madang.core.timeline import Stay

LOOK_AGAIN_MS = 60_000
Missing = list[tuple[Shape, int]]  # shape, members


def calendar(draft: Draft) -> None:
    """Keep what is reserved now, ask for what is missing of it, and note what will be reserved."""
    snapshot = draft.snapshot
    if not snapshot.settings.reservations:
        return
    now_ms = snapshot.now_ms
    used = used_milli(snapshot.allocations.values(), snapshot.jobs)
    in_turn = sorted(snapshot.settings.reservations.values(), key=lambda r: (r.begin_ms, r.id))
    short: dict[str, Missing] = {}
    for reservation in in_turn:
        if reservation.begin_ms <= now_ms < reservation.end_ms:
            short[reservation.id] = _keep(draft, reservation, used.get(reservation.id, 0))
    _start_inside(draft)
    for reservation in in_turn:
        for place, shape in draft.kept.get(reservation.id, ()):
            draft.timeline.add_end(Stay(now_ms, reservation.end_ms, (place,), shape))
    for reservation in in_turn:
        if now_ms < reservation.begin_ms:
            _look_ahead(draft, reservation)
        else:
            _make_up(draft, reservation, short.get(reservation.id, []))


def _start_inside(draft: Draft) -> None:
    """Jobs inside open windows take what is kept for them; nobody in the queue holds them back."""
    if not draft.kept:
        return
    for _, job_id in draft.snapshot.queue:
        job = draft.snapshot.jobs[job_id].job
        if job.reservation not in draft.kept or not draft.may_start(job_id):
            continue
        seated = draft.seated(job)
        if not isinstance(seated, Unplaced):
            draft.bind(job, seated)


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


def used_milli(allocations: Iterable[Allocation], jobs: object) -> dict[str, int]:
    """What the jobs inside each reservation hold, in GPU-milli."""
    used: dict[str, int] = {}
    for allocation in allocations:
        live = jobs.get(allocation.job)  # type: ignore[attr-defined]
        if live is not None and live.job.reservation:
            held = sum([allocation.holds(rank) for rank in range(len(allocation.seats))])
            milli = held * allocation.shape.milli
            used[live.job.reservation] = used.get(live.job.reservation, 0) + milli
    return used


def stand_in(reservation: Reservation, shape: Shape, members: int) -> Job:
    """The reservation as a job, to ask where it would sit. It takes fewer members if it must."""
    return Job(
        id=f"reservation {reservation.id}",
        seq=0,
        project=reservation.project,
        shape=shape,
        members=members,
        members_min=1 if members > 1 else 0,
        within_soft=True,
        preemptible=False,
    )


def rest_of(reservation: Reservation, used: int) -> list[tuple[Shape, int]]:
    """(shape, members) that its jobs do not hold: whole members, and the rest of a broken one."""
    each = reservation.shape.milli
    left = max(0, reservation.members * each - used)
    rest = [(reservation.shape, left // each)]
    broken = left % each // reservation.shape.gpu_milli
    if broken:
        rest.append((replace(reservation.shape, gpus=broken, cpu_milli=0, memory_mib=0), 1))
    return [(shape, members) for shape, members in rest if members]


def _keep(draft: Draft, reservation: Reservation, used: int) -> Missing:
    """Keep what is free of it, ask for the rest; what nobody leaves for."""
    short: Missing = []
    kept = draft.kept.setdefault(reservation.id, [])
    for shape, members in rest_of(reservation, used):
        missing = members - _block(draft, stand_in(reservation, shape, members), kept)
        if not missing:
            continue
        wanted = stand_in(reservation, shape, missing)
        # What leaves anyway is waited for before anybody is asked to, also if its job has left it.
        leaving = [one for one in draft.snapshot.allocations.values() if _leaves(draft, one)]
        coming = _given(draft, leaving)
        seated = seat(draft.snapshot, coming, wanted)
        if isinstance(seated, Unplaced) or len(seated.places) < missing:
            seated = _ask_for(draft, reservation, wanted, coming) or seated
        if not isinstance(seated, Unplaced):
            # Of these places what is free already is nobody else's any more.
            draft.pool.block(seated.places, seated.shape)
            missing -= len(seated.places)
        if missing:
            short.append((shape, missing))
    return short


def _block(draft: Draft, wanted: Job, kept: list[Kept]) -> int:
    """Keep what is free now, up to so many members; how many that are."""
    seated = seat(draft.snapshot, draft.view, wanted)
    if isinstance(seated, Unplaced):
        return 0
    draft.pool.take(seated.places, seated.shape)
    kept += [(place, seated.shape) for place in seated.places]
    return len(seated.places)


def _ask_for(draft: Draft, reservation: Reservation, wanted: Job, coming: Pool) -> Seated | None:
    """Ask the fewest to leave who make room for as many members as can be; None: nobody helps.

    Who began last is asked first: what it has done so far is the least.
    """
    victims = sorted(
        [one for one in _allocations(draft) if may_be_asked(draft, one)],
        key=lambda one: (-one.running_ms, one.id),
    )
    best = seat(draft.snapshot, coming, wanted)
    before = 0 if isinstance(best, Unplaced) else len(best.places)
    trial = coming.scratch()
    asked: list[Allocation] = []
    allowance = Allowance(draft.snapshot, draft.releasing)
    for victim in victims:
        job = draft.snapshot.jobs[victim.job].job
        if not allowance.allows(job, victim):
            continue
        allowance.charge(job, victim)
        for place in draft.held_places(victim):
            trial.give(place, victim.shape)
        asked.append(victim)
        seated = seat(draft.snapshot, trial, wanted)
        if not isinstance(seated, Unplaced) and len(seated.places) == wanted.members:
            break
    seated = seat(draft.snapshot, trial, wanted)
    if isinstance(seated, Unplaced) or len(seated.places) <= before:
        return None
    asked, seated = _needed(draft, wanted, trial, asked, seated)
    for victim in asked:
        live = draft.snapshot.jobs[victim.job]
        by = f"reservation {reservation.id}"
        draft.release(victim.id, ReleaseReason.PREEMPTED, live.job.grace_ms, by=by)
    return seated


def _needed(
    draft: Draft, wanted: Job, trial: Pool, asked: list[Allocation], seated: Seated
) -> tuple[list[Allocation], Seated]:
    """Of those asked the ones without whom fewer members have room, and where these then sit.

    Who began first is let stay first. `trial` is the pool without any of them.
    """
    needed = []
    for victim in reversed(asked):
        held = draft.held_places(victim)
        trial.take(held, victim.shape)
        beside = seat(draft.snapshot, trial, wanted)
        if isinstance(beside, Unplaced) or len(beside.places) < len(seated.places):
            for place in held:
                trial.give(place, victim.shape)
            needed.append(victim)
        else:
            seated = beside
    return needed[::-1], seated


def may_be_asked(draft: Draft, allocation: Allocation) -> bool:
    """True iff the job may be stopped for a window that opens."""
    snapshot = draft.snapshot
    live = snapshot.jobs.get(allocation.job)
    if live is None or live.allocation != allocation.id or _leaves(draft, allocation):
        return False
    window = snapshot.settings.reservations.get(live.job.reservation)
    if window is not None and snapshot.now_ms < window.end_ms:
        return False
    ran_ms = snapshot.now_ms - (allocation.running_ms or allocation.bound_ms)
    if ran_ms < max(snapshot.policy.run_ms_min, live.job.run_ms_min):
        return False
    # Who stays on after its own window has no right to.
    return live.job.preemptible or window is not None


def _look_ahead(draft: Draft, reservation: Reservation) -> None:
    """Note where the reservation will be: on what will be free by then, else on what is asked."""
    timeline = draft.timeline
    wanted = stand_in(reservation, reservation.shape, reservation.members)
    free, kept = timeline.free_at(reservation.begin_ms, reservation.end_ms)
    seated = seat(draft.snapshot, kept, wanted)
    if isinstance(seated, Unplaced) or len(seated.places) < reservation.members:
        ending = {one.id for one in _allocations(draft) if may_be_asked(draft, one)}
        for id in ending:
            _give_rest(kept, draft, draft.snapshot.allocations[id])
        more = seat(draft.snapshot, kept, wanted)
        seated = seated if isinstance(more, Unplaced) else more
    if isinstance(seated, Unplaced):
        return
    timeline.keep(
        Stay(
            reservation.begin_ms,
            reservation.end_ms,
            seated.places,
            seated.shape,
            calendar=reservation.id,
        ),
        free,
    )


def _make_up(draft: Draft, reservation: Reservation, missing: Missing) -> None:
    """An open window is short of what nobody could be asked for: note when that will be there."""
    timeline = draft.timeline
    for shape, members in missing:
        wanted = stand_in(reservation, shape, members)
        for at_ms in timeline.ends_before(reservation.end_ms):
            free, kept = timeline.free_at(at_ms, reservation.end_ms)
            seated = seat(draft.snapshot, kept, wanted)
            if isinstance(seated, Unplaced) or len(seated.places) < members:
                continue
            end_ms = reservation.end_ms
            stay = Stay(at_ms, end_ms, seated.places, seated.shape, calendar=reservation.id)
            timeline.keep(stay, free)
            break


def _give_rest(pool: Pool, draft: Draft, allocation: Allocation) -> None:
    """Give back what of it is not free yet."""
    for place in draft.held_places(allocation):
        row, gpus = place
        busy = tuple(
            [g for g in gpus if pool.gpu_free.item(row, g) + allocation.shape.gpu_milli <= 1000]
        )
        pool.give((row, busy), allocation.shape)


def _allocations(draft: Draft) -> list[Allocation]:
    """Those that hold devices for a job that goes by them."""
    jobs = draft.snapshot.jobs
    return [
        one
        for id, one in draft.snapshot.allocations.items()
        if (live := jobs.get(one.job)) is not None and live.allocation == id
    ]


def _leaves(draft: Draft, allocation: Allocation) -> bool:
    return allocation.state not in LIVELY or allocation.id in draft.releasing


def _given(draft: Draft, leaving: Iterable[Allocation]) -> Pool:
    """What will be free once these have left, promises to others aside."""
    pool = draft.view.scratch()
    for allocation in leaving:
        if allocation.state is not AllocationState.RELEASED:
            for place in draft.held_places(allocation):
                pool.give(place, allocation.shape)
    for id in draft.promised:
        if id in draft.snapshot.nominations:
            live = draft.snapshot.jobs[id]
            places = draft.places_of(draft.snapshot.nominations[id])
            pool.block(places, live.job.shape)
    return pool
