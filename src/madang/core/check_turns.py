"""What no turn may do to those who wait, run, or were promised something: looked at after it.

`check` looks at a state; `Watch` looks at what the decisions of one turn made of it, through faults
and all. Every property is worked out again by the oldest question there is, `seating.seat` on a
pool with and without something, never by the search that decided. Most are relative to what was
known in that turn: with the turn's newcomers nobody is worse off than without them, so that no
fault, and no estimate that did not hold, excuses or hides anything.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from madang.core.budgets import BY_CHOICE, budget_of, up_of
from madang.core.cells.claims import may_claim
from madang.core.cells.promises import unseat
from madang.core.cells.room import is_firm, without_loose
from madang.core.check import check_budgets, require
from madang.core.draft import Draft
from madang.core.estimates import NEVER_MS
from madang.core.events import AllocationBound, Decision, HoleDropped, JobRequeued, ReleaseAsked
from madang.core.gangs import exactly
from madang.core.impact import may_be_stopped
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation, Job, NodeState, ReleaseReason
from madang.core.ordering import has_lost_patience, key_of, ordered
from madang.core.passes.calendar import calendar, rest_of, stand_in, used_milli
from madang.core.passes.honour import honour
from madang.core.passes.make_room import make_room
from madang.core.placement import room_on
from madang.core.policy import Misfit, Victims
from madang.core.pool import Bools, Pool
from madang.core.quotas import Book
from madang.core.rights import Rights
from madang.core.seating import Seated, claimed, rows_for, seat, shape_at
from madang.core.settings import ANY, Reservation
from madang.core.snapshot import Snapshot
from madang.core.state import State
from madang.core.timeline import left_of, stay_of, steps_aside

# The properties, by the names that a count of scenarios goes by.
GUARANTEES, STARVATION, CELLS = "guarantees", "starvation", "cells"
CALENDAR, QUEUE = "calendar reservations", "queue reservations"
BUDGETS, VICTIMS = "disruption budgets", "victims"
PROPERTIES = (GUARANTEES, STARVATION, CELLS, CALENDAR, QUEUE, BUDGETS, VICTIMS)


class Watch:
    """Follows a run turn by turn. `seen` counts the turns in which a property was put to the test.

    A property is put to the test by a turn in which it could have been broken, not by settings that
    are merely there.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter(dict.fromkeys(PROPERTIES, 0))
        self._unmet: frozenset[str] = frozenset()
        self._promised: frozenset[str] = frozenset()

    def look(self, state: State, decisions: Sequence[Decision], now_ms: int) -> None:
        """After a turn, with what it decided.

        Raises:
            InvariantBroken: always a bug of ours.
        """
        bound = [one.allocation for one in decisions if isinstance(one, AllocationBound)]
        self.seen[BUDGETS] += budgets_held(state, decisions)
        self.seen[CELLS] += cells_kept(state, bound)
        if any(isinstance(one, ReleaseAsked) for one in decisions):
            self.seen[VICTIMS] += nobody_in_vain(state, decisions, now_ms)
        # A promise made before is older than whatever else was promised since.
        taken = {one.job for one in decisions if isinstance(one, HoleDropped)}
        fresh = [one for one in bound if one.job not in self._promised and one.job not in taken]
        # Who came back into the queue in this very turn was not in line when others were bound.
        back = {one.job for one in decisions if isinstance(one, JobRequeued)}
        if fresh:
            self.seen[CALENDAR] += windows_kept(state, fresh, now_ms)
            self.seen[QUEUE] += head_not_delayed(state, fresh, back, now_ms)
        if state.planned_ms == now_ms:
            self.seen[STARVATION] += impatient_not_passed(state, fresh, back, now_ms)
            self._look_at_guarantees(state, now_ms)
        self._promised = frozenset(state.nominations)

    def forget(self) -> None:
        """The controller was made anew."""
        self._unmet = frozenset()

    def _look_at_guarantees(self, state: State, now_ms: int) -> None:
        """Who could have his guarantee back has it by the next plan: a place, or a promise."""
        claimed_back, unmet = owed(state, now_ms, self._promised)
        self.seen[GUARANTEES] += claimed_back
        still = sorted(self._unmet & unmet)
        require(not still, "a guarantee is not honoured", still, now_ms)
        self._unmet = unmet


# -- disruption budgets ----------------------------------------------------------------------------


def budgets_held(state: State, decisions: Sequence[Decision]) -> bool:
    """No budget has more down than it allows, whoever was ended by choice in this turn.

    True iff somebody was ended by choice while members ran under a budget.
    """
    budgets = state.settings.budgets
    if not budgets or not any(
        isinstance(one, ReleaseAsked) and one.reason in BY_CHOICE for one in decisions
    ):
        return False
    check_budgets(state, decisions)
    allocations = state.allocations
    return any(
        budget_of(budgets, live.job) and up_of(allocations[live.allocation])
        for live in state.jobs.values()
        if live.allocation is not None
    )


# -- cells -----------------------------------------------------------------------------------------


def cells_kept(state: State, bound: Sequence[Allocation]) -> bool:
    """HiveD's invariant: what this turn bound took no cell that somebody else was promised.

    Ill hardware, and promises made over running work, may leave promises short; no binding outside
    of cells may make that worse, nor any binding at all while the hardware is whole.

    True iff something was bound while cells are promised that are not opened.
    """
    book = state.book
    if book is None or not bound or not any(book.left.values()):
        return False
    short = book.shortage()
    before = book.scratch()
    is_whole = not book.demoted and all(
        live.state is NodeState.READY and live.node.usable == (1 << live.node.gpus) - 1
        for live in state.nodes.values()
    )
    for allocation in bound:
        if allocation.cells and not is_whole:
            continue
        firm = is_firm(state.jobs[allocation.job].job)
        for rank in range(len(allocation.seats)):
            unseat(before, state.nodes, allocation, rank, firm=firm)
    was_short = {(chain, level): cells for chain, level, cells in before.shortage()}
    for chain, level, cells in short:
        names = book.forest.chains[chain].levels
        worse = cells > was_short.get((chain, level), 0)
        require(not worse, "promised cells were taken", names[level], cells, was_short, bound)
    return True


# -- victims ---------------------------------------------------------------------------------------


def nobody_in_vain(state: State, decisions: Sequence[Decision], now_ms: int) -> bool:
    """Of those who were asked to leave for a job, none without whom it fits as well.

    True iff somebody was.
    """
    victims: dict[str, list[Allocation]] = {}
    for one in decisions:
        if isinstance(one, ReleaseAsked) and one.reason is ReleaseReason.PREEMPTED:
            victims.setdefault(one.by, []).append(state.allocations[one.allocation])
    windows = state.settings.reservations
    for by, asked in sorted(victims.items()):
        if by in state.nominations and windows:
            continue  # where windows will be is reckoned anew: nobody can tell what they left it
        if by in state.nominations:
            _each_needed(state, by, asked, now_ms)
        else:
            kind, _, id = by.partition(" ")
            is_known = kind == "reservation" and id in windows
            require(is_known, "stopped for nobody who is promised anything", by, asked)
            _each_needed_for_window(state, windows[id], asked, now_ms)
    return bool(victims)


def _each_needed(state: State, by: str, victims: Sequence[Allocation], now_ms: int) -> None:
    """On the nodes that the job was promised; where they were the cheapest, on any."""
    draft = _drafted(state, now_ms, but=by)
    snapshot, job = draft.snapshot, state.jobs[by].job
    seats = state.nominations[by]
    members = Counter(state.nodes[seat.node].row for seat in seats)
    shape = shape_at(snapshot, job, seats)
    inside = bool(may_claim(snapshot.cells, snapshot.projects[job.project], job))
    pool = draft.timeline.clear_of(job, draft.room_for(job))
    anywhere = not inside and snapshot.policy.victims is not Victims.LAST
    anywhere &= draft.book.entitled_groups(job) in ((), (ANY,)) and not job.fallbacks
    for spared in victims:
        trial = _without(draft, pool, [one for one in victims if one is not spared])
        if inside:
            fits = _claims(draft, exactly(job, len(seats)), victims, spared, set(members))
        elif snapshot.cells is None:
            fits = all(room_on(trial, row, shape) >= count for row, count in members.items())
        else:
            fits = False  # there may be room, and yet somebody was promised it
        require(not fits, "stopped in vain", spared, "for", job, seats)
        if anywhere:
            again = seat(snapshot, trial, job)
            require(not isinstance(again, Seated), "stopped in vain", spared, job, again)


def _claims(
    draft: Draft, job: Job, victims: Sequence[Allocation], spared: Allocation, rows: Collection[int]
) -> bool:
    """True iff the job's own promised cells have room for it on these rows, this one spared."""
    snapshot = draft.snapshot
    assert snapshot.cells is not None, "claims are made on promised cells"
    pool = without_loose(snapshot.cells, draft.view)
    elsewhere = [row for row in range(pool.nodes) if row not in rows]
    pool.gpu_free[elsewhere], pool.whole_free[elsewhere] = 0, 0
    pool.cpu_free[:], pool.memory_free[:] = draft.view.cpu_free, draft.view.memory_free
    gone = {victim.id for victim in victims} - {spared.id}
    for allocation in snapshot.allocations.values():
        live = snapshot.jobs.get(allocation.job)
        if live is None or live.allocation != allocation.id or is_firm(live.job):
            continue
        if allocation.cells:
            continue
        places = draft.held_places(allocation)
        for row, _ in places:
            pool.cpu_free[row] += allocation.shape.cpu_milli
            pool.memory_free[row] += allocation.shape.memory_mib
        left_before = allocation.state not in LIVELY and allocation.releasing_ms < snapshot.now_ms
        if allocation.id not in gone and not left_before:
            pool.block(places, allocation.shape)
    return isinstance(claimed(snapshot, pool, job), Seated)


def _each_needed_for_window(
    state: State, window: Reservation, victims: Sequence[Allocation], now_ms: int
) -> None:
    """Without any one of them, fewer of the window's members would have a place."""
    draft = _drafted(state, now_ms, but_window=window.id)
    used = used_milli(state.allocations.values(), state.jobs).get(window.id, 0)
    asked = {victim.id for victim in victims}
    coming = draft.view.scratch()
    for allocation in state.allocations.values():
        if allocation.state not in LIVELY and allocation.id not in asked:
            _give(draft, coming, allocation)
    most = _seat_in(draft.snapshot, _without(draft, coming, victims), window, used)
    for spared in victims:
        trial = _without(draft, coming, [one for one in victims if one is not spared])
        fewer = _seat_in(draft.snapshot, trial, window, used) < most
        require(fewer, "stopped in vain", spared, "for", window)


# -- reservations in the calendar ------------------------------------------------------------------


def windows_kept(state: State, bound: Sequence[Allocation], now_ms: int) -> bool:
    """Who was started will not keep a window from its devices, if estimates hold.

    True iff somebody was started who will still be there when somebody's window opens, or is open.
    """
    reservations = sorted(state.settings.reservations.values(), key=lambda r: (r.begin_ms, r.id))
    live = [window for window in reservations if window.end_ms > now_ms]
    if not live:
        return False
    draft = _drafted(state, now_ms, calendars=False)
    used = used_milli(state.allocations.values(), state.jobs)
    tried = False
    for window in live:
        lasting = [one for one in bound if _stays_beyond(draft.snapshot, one, window)]
        if not lasting:
            continue
        tried = True
        rivals = [other for other in live if _turn(other) < _turn(window)]
        _look_at_window(draft, window, rivals, (bound, lasting), used)
    return tried


def _look_at_window(
    draft: Draft,
    window: Reservation,
    rivals: Sequence[Reservation],
    newcomers: tuple[Sequence[Allocation], Sequence[Allocation]],
    used: Mapping[str, int],
) -> None:
    """Until the time when all of the window could be there, as much of it is as without these.

    Args:
        newcomers: who was started, and those of them who will stay.
    """
    snapshot, (bound, lasting) = draft.snapshot, newcomers
    # Of promised cells a window has no share: it is kept as if they, too, were firm work.
    views = (snapshot, replace(snapshot, cells=None))
    members = sum(count for _, count in rest_of(window, used.get(window.id, 0)))
    for at_ms in _ends_within(snapshot, window):
        older = [one for one in rivals if one.begin_ms <= at_ms < one.end_ms]
        beside = _ended_by(draft, at_ms, {one.id for one in bound})
        staying = [one for one in lasting if _is_there(snapshot, one, at_ms)]
        alone = _without(draft, beside, staying)
        has = [_room_for(view, beside, window, older, used) for view in views]
        could = [_room_for(view, alone, window, older, used) for view in views]
        delayed = has[0] < could[0] and has[1] < could[1]
        if at_ms > max(window.begin_ms, snapshot.now_ms):
            delayed &= could[0] >= members  # before that, who knows which part of it counts
        require(not delayed, "in the way of a window", window, at_ms, has, could, lasting)
        if has[0] >= members:
            return


def _ends_within(snapshot: Snapshot, window: Reservation) -> list[int]:
    """The window's beginning, and when others are expected to end while it is open."""
    begin_ms = max(window.begin_ms, snapshot.now_ms)
    ends = {
        left_of(snapshot, one).end_ms(snapshot.now_ms)
        for id, one in snapshot.allocations.items()
        if (live := snapshot.jobs.get(one.job)) is not None and live.allocation == id
    }
    return [begin_ms, *sorted(at_ms for at_ms in ends if begin_ms < at_ms < window.end_ms)]


def _is_there(snapshot: Snapshot, one: Allocation, at_ms: int) -> bool:
    return stay_of(snapshot, snapshot.jobs[one.job].job).end_ms(snapshot.now_ms) > at_ms


def _turn(window: Reservation) -> tuple[int, str]:
    return window.begin_ms, window.id


def _room_for(
    snapshot: Snapshot,
    pool: Pool,
    window: Reservation,
    older: Iterable[Reservation],
    used: Mapping[str, int],
) -> int:
    """How many members of a window have a place once those before it have theirs."""
    left = pool.scratch()
    for one in older:
        _seat_in(snapshot, left, one, used.get(one.id, 0))
    return _seat_in(snapshot, left, window, used.get(window.id, 0))


def _stays_beyond(snapshot: Snapshot, one: Allocation, window: Reservation) -> bool:
    """True iff it holds devices past the window's beginning, and may not be asked to leave then."""
    job = snapshot.jobs[one.job].job
    if job.reservation in snapshot.settings.reservations or one.cells:
        return False  # it has a window of its own, or its tenant's own cells
    if stay_of(snapshot, job).end_ms(snapshot.now_ms) <= window.begin_ms:
        return False
    return not steps_aside(snapshot, job, window.begin_ms)


def _ended_by(draft: Draft, at_ms: int, newcomers: Collection[str]) -> Pool:
    """What is free at that time if everybody ends when expected, and who may be asked is."""
    snapshot = draft.snapshot
    pool = draft.view.scratch()
    for id, allocation in snapshot.allocations.items():
        live = snapshot.jobs.get(allocation.job)
        if live is None or live.allocation != id:
            continue
        if id in newcomers:
            ends = stay_of(snapshot, live.job).end_ms(snapshot.now_ms) <= at_ms
        else:
            ends = left_of(snapshot, allocation).end_ms(snapshot.now_ms) <= at_ms
        may_be_asked = may_be_stopped(draft, allocation) and live.job.preemptible
        may_be_asked &= not budget_of(snapshot.settings.budgets, live.job)
        if allocation.state not in LIVELY or ends or may_be_asked:
            _give(draft, pool, allocation)
    return pool


def _seat_in(snapshot: Snapshot, pool: Pool, window: Reservation, used: int) -> int:
    """How many members of what its jobs do not hold there is room for; block it."""
    members = 0
    for shape, count in rest_of(window, used):
        seated = seat(snapshot, pool, stand_in(window, shape, count))
        if isinstance(seated, Seated):
            pool.block(seated.places, seated.shape)
            members += len(seated.places)
    return members


# -- reservations in the queue ---------------------------------------------------------------------


def head_not_delayed(
    state: State, bound: Sequence[Allocation], back: Collection[str], now_ms: int
) -> bool:
    """Those who passed the head of the queue do not delay its start, if estimates hold.

    Asked of policies that give the head a start time, where nothing but the queue is promised.
    True iff somebody passed.
    """
    settings = state.settings
    if state.policy.misfit is not Misfit.RESERVE or settings.reservations or settings.quotas:
        return False
    draft = Draft(state.snapshot(now_ms))
    head = next((id for _, id in ordered(draft.snapshot) if _waits(draft, id)), "")
    if not head or head in back:
        return False
    snapshot = draft.snapshot
    key = key_of(snapshot, snapshot.jobs[head])
    behind = {one.id for one in bound if key_of(snapshot, snapshot.jobs[one.job]) > key}
    # Who is nice has changed places with others of his project: nobody knows who was behind.
    if not behind or any(live.job.nice for live in snapshot.jobs.values()):
        return False
    held = earliest_ms(state, head, now_ms)
    alone = earliest_ms(state, head, now_ms, without=behind)
    require(held <= alone, "the head is delayed", state.jobs[head].job, held, alone, behind)
    return True


def _waits(draft: Draft, id: str) -> bool:
    """The job waits for nothing but devices that open nodes have and its quotas leave open."""
    return draft.may_start(id) and draft.fits_when_empty(draft.snapshot.jobs[id].job)


def earliest_ms(state: State, job: str, now_ms: int, without: Collection[str] = ()) -> int:
    """When there is room for a waiting job if all end as expected and nobody else is started.

    Args:
        without: allocations that are thought away.
    """
    draft = _drafted(state, now_ms)
    snapshot = draft.snapshot
    pool, ends = draft.view.scratch(), []
    for id, allocation in sorted(snapshot.allocations.items()):
        live = snapshot.jobs.get(allocation.job)
        if live is None or live.allocation != id:
            continue
        expected = left_of if allocation.bound_ms < now_ms or allocation.running_ms else None
        left = expected(snapshot, allocation) if expected else stay_of(snapshot, live.job)
        end_ms = left.end_ms(now_ms)
        if allocation.state not in LIVELY:
            end_ms = max(now_ms + 1, allocation.releasing_ms + live.job.grace_ms)
        ends.append((now_ms if id in without else end_ms, id))
    for end_ms, id in sorted(ends):
        if end_ms == NEVER_MS:
            break
        if end_ms > now_ms and isinstance(seat(snapshot, pool, snapshot.jobs[job].job), Seated):
            break
        _give(draft, pool, snapshot.allocations[id])
        now_ms = max(now_ms, end_ms)
    return now_ms if isinstance(seat(snapshot, pool, snapshot.jobs[job].job), Seated) else NEVER_MS


# -- nobody starves --------------------------------------------------------------------------------


def _are_rivals(snapshot: Snapshot, one: Job, other: Job) -> bool:
    """True iff both want devices, or both none, and some node is open to both."""
    if bool(one.shape.gpus) != bool(other.shape.gpus):
        return False
    return bool((_open_to(snapshot, one) & _open_to(snapshot, other)).any())


def _open_to(snapshot: Snapshot, job: Job) -> Bools:
    """(N,) the rows that the job may use in one of its shapes."""
    pool = snapshot.pool
    there = np.zeros(pool.nodes, np.bool_)
    for shape in job.shapes:
        rows = rows_for(snapshot, pool, job, shape)
        there |= True if rows is None else rows
    return there


def impatient_not_passed(
    state: State, bound: Sequence[Allocation], back: Collection[str], now_ms: int
) -> bool:
    """Who has lost patience is passed by nobody who competes for the same devices.

    Whoever has a right of his own (a guarantee, cells, a window, a hole) takes nobody's turn.
    True iff somebody waits who has lost it.
    """
    if not state.policy.patience_ms:
        return False
    snapshot = state.snapshot(now_ms)
    lost = [id for _, id in state.queue if has_lost_patience(snapshot, state.jobs[id])]
    lost = [id for id in lost if id not in back]
    if not lost:
        return False
    draft = _drafted(state, now_ms)
    rights = Rights.of(draft)
    # Who waits for his own window holds nobody back: nobody else can have its devices.
    waiting = [id for id in lost if _waits(draft, id) and not draft.window_of(state.jobs[id].job)]
    for id in waiting if bound else ():
        live = state.jobs[id]
        for one in bound:
            job = state.jobs[one.job].job
            if one.cells or job.reservation or one.id in rights.covered:
                continue
            passes = key_of(snapshot, state.jobs[one.job]) > key_of(snapshot, live)
            require(
                not (passes and _are_rivals(snapshot, job, live.job)),
                "passed one who lost patience",
                live,
                one,
            )
    return bool(waiting)


# -- guarantees ------------------------------------------------------------------------------------


def owed(state: State, now_ms: int, promised: Collection[str] = ()) -> tuple[int, frozenset[str]]:
    """How many within a guarantee wait, or have room made for them since `promised` was all that
    was promised; and the ids of those for whom room could be made and was not.

    Room from what is free, and from all that the job has a right over and that may be stopped; of
    those who count under a disruption budget nobody is counted on.
    """
    book = Book(state)
    if not book.has_guarantees or not state.queue:
        return 0, frozenset()
    entitled = [id for _, id in state.queue if book.entitled_groups(state.jobs[id].job)]
    if not entitled:
        return 0, frozenset()
    asking = sum(id in state.nominations and id not in promised for id in entitled)
    draft = _drafted(state, now_ms)
    rights, snapshot = Rights.of(draft), draft.snapshot
    found = []
    for _, id in ordered(snapshot):
        job = snapshot.jobs[id].job
        groups = draft.book.entitled_groups(job)
        if not groups or not draft.may_start(id) or draft.window_of(job) is not None:
            continue
        asking += 1
        claim = rights.claim(job)
        victims = [
            one
            for one in snapshot.allocations.values()
            if may_be_stopped(draft, one)
            and not budget_of(snapshot.settings.budgets, snapshot.jobs[one.job].job)
            and claim.over(one)
        ]
        pool = _without(draft, draft.view, victims)
        ask = draft.modest_ask(job, entitled=True)
        allowed = ask.opened(snapshot, draft.timeline.clear_of(job, pool))
        if isinstance(seat(snapshot, allowed, ask.job), Seated):
            found.append(id)
    return asking, frozenset(found)


# -- what-ifs --------------------------------------------------------------------------------------


def _drafted(
    state: State, now_ms: int, *, but: str = "", but_window: str = "", calendars: bool = True
) -> Draft:
    """A draft with all that is promised kept from everybody: what a pass would see next.

    Args:
        but: the job whose own promise is forgotten; `but_window`: the window that is.
        calendars: whether what open windows keep is kept, too.
    """
    draft = Draft(state.snapshot(now_ms))
    if but:
        others = {id: seats for id, seats in state.nominations.items() if id != but}
        draft.snapshot = replace(draft.snapshot, nominations=others)
        draft.promised.discard(but)
    if but_window:
        settings = copy(draft.snapshot.settings)
        settings.reservations = dict(settings.reservations)
        del settings.reservations[but_window]
        draft.snapshot = replace(draft.snapshot, settings=settings)
    honour(draft)
    make_room(draft)
    if calendars:
        calendar(draft)
    return draft


def _give(draft: Draft, pool: Pool, allocation: Allocation) -> None:
    """What it leaves, less what of it is promised to somebody."""
    for row, gpus in draft.held_places(allocation):
        promised = _promised_on(draft.snapshot, row)
        pool.give((row, tuple([gpu for gpu in gpus if gpu not in promised])), allocation.shape)


def _promised_on(snapshot: Snapshot, row: int) -> set[int]:
    node = snapshot.node_ids[row]
    holes = [hole.seats for hole in snapshot.settings.holes.values()]
    return {
        gpu
        for seats in (*snapshot.nominations.values(), *holes)
        for seat in seats
        if seat.node == node
        for gpu in seat.gpus
    }


def _without(draft: Draft, pool: Pool, gone: Iterable[Allocation]) -> Pool:
    """The pool once these have left."""
    trial = pool.scratch()
    for allocation in gone:
        for place in draft.held_places(allocation):
            trial.give(place, allocation.shape)
    return trial
