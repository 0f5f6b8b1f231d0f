"""What no turn may do to those who wait, run, or were promised something: looked at after it.

`check` looks at a state; `Watch` looks at what the decisions of one turn made of it, through faults
and all. Every property is worked out again by the oldest question there is, `seating.seat` on a
pool with and without something, never by the search that decided. Most are relative to what was
known in that turn: with the turn's newcomers nobody is worse off than without them, so that no
fault, and no estimate that did not hold, excuses or hides anything.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from madang.core.budgets import BY_CHOICE, counts_of, is_protected, up_of
from madang.core.cells.claims import may_claim
from madang.core.cells.promises import unseat
from madang.core.cells.room import is_firm, without_loose
from madang.core.check import check_budgets, check_shields, require
from madang.core.check_windows import (
    WINDOW,
    Before,
    each_needed_for_windows,
    give_back,
    honoured,
    windows_kept,
)
from madang.core.draft import Draft
from madang.core.estimates import NEVER_MS
from madang.core.events import (
    AllocationBound,
    Decision,
    HoleDropped,
    JobRequeued,
    ReleaseAsked,
)
from madang.core.gangs import exactly
from madang.core.impact import may_be_stopped
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation, Job, NodeState, ReleaseReason
from madang.core.ordering import has_lost_patience, key_of, ordered
from madang.core.passes.calendar import calendar
from madang.core.passes.make_room import make_room
from madang.core.placement import room_on
from madang.core.policy import Misfit, Victims
from madang.core.pool import Bools, Pool
from madang.core.quotas import Book
from madang.core.rights import Rights
from madang.core.seating import Seated, claimed, rows_for, seat, shape_at
from madang.core.settings import ANY
from madang.core.snapshot import Snapshot
from madang.core.state import State
from madang.core.timeline import left_of, stay_of

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
            self.seen[CALENDAR] += windows_kept(state, fresh, decisions, now_ms)
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
    settings = state.settings
    if not (settings.budgets or settings.shields) or not any(
        isinstance(one, ReleaseAsked) and one.reason in BY_CHOICE for one in decisions
    ):
        return False
    check_budgets(state, decisions)
    check_shields(state, decisions)
    allocations = state.allocations
    return any(
        any(up for _, up in counts_of(settings, live, up_of(allocations[live.allocation])))
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
    for_windows: list[Allocation] = []
    after = 0
    for at, one in enumerate(decisions):
        if isinstance(one, ReleaseAsked) and one.reason is ReleaseReason.PREEMPTED:
            victims.setdefault(one.by, []).append(state.allocations[one.allocation])
            if one.by.startswith(WINDOW):
                for_windows.append(state.allocations[one.allocation])
                after = at + 1
    windows = state.settings.reservations
    for by, asked in sorted(victims.items()):
        if by in state.nominations and windows:
            continue  # where windows will be is reckoned anew: nobody can tell what they left it
        if by in state.nominations:
            _each_needed(state, by, asked, now_ms)
        else:
            is_known = by.startswith(WINDOW) and by.removeprefix(WINDOW) in windows
            require(is_known, "stopped for nobody who is promised anything", by, asked)
    if for_windows:
        each_needed_for_windows(Before.of(state, decisions[after:], now_ms), for_windows)
    return bool(victims)


def _each_needed(state: State, by: str, victims: Sequence[Allocation], now_ms: int) -> None:
    """On the nodes that the job was promised; where they were the cheapest, on any."""
    draft = _drafted(state, now_ms, but=(by,))
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
        give_back(draft, pool, snapshot.allocations[id])
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
            and not is_protected(snapshot.settings, snapshot.jobs[one.job])
            and claim.over(one)
        ]
        pool = _without(draft, draft.view, victims)
        ask = draft.modest_ask(job, entitled=True)
        allowed = ask.opened(snapshot, draft.timeline.clear_of(job, pool))
        if isinstance(seat(snapshot, allowed, ask.job), Seated):
            found.append(id)
    return asking, frozenset(found)


# -- what-ifs --------------------------------------------------------------------------------------


def _drafted(state: State, now_ms: int, *, but: Collection[str] = ()) -> Draft:
    """A draft with all that is promised kept from everybody: what a pass would see next.

    Args:
        but: jobs whose own promise is forgotten.
    """
    draft = honoured(state, now_ms, but)
    make_room(draft)
    calendar(draft)
    return draft


def _without(draft: Draft, pool: Pool, gone: Iterable[Allocation]) -> Pool:
    """The pool once these have left."""
    trial = pool.scratch()
    for allocation in gone:
        for place in draft.held_places(allocation):
            trial.give(place, allocation.shape)
    return trial
