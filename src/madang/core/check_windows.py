"""What no turn may do to a window of the calendar: looked at after the turn, as `check_turns` does.

The turn is taken back as far as the calendar could not know it, and each window is placed, as
windows are (windows.py), with and without who was started or asked to leave. Nothing that the
calendar noted, kept or chose is looked at.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from madang.core.budgets import is_protected
from madang.core.check import require
from madang.core.draft import Draft
from madang.core.estimates import NEVER_MS
from madang.core.events import AllocationBound, Decision, JobNominated, ReleaseAsked
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation
from madang.core.passes.calendar import may_be_asked_ms
from madang.core.passes.honour import honour
from madang.core.pool import Pool
from madang.core.settings import Reservation
from madang.core.snapshot import Snapshot
from madang.core.state import State
from madang.core.timeline import left_of, stay_of, steps_aside
from madang.core.windows import Sites, Want, turn_of, wants_of

WINDOW = "reservation "  # and its id: for whom somebody was stopped
NOBODY, ASIDE, ASKED = range(3)  # whom windows count on: who leaves, who saves his work, who may be


@dataclass(frozen=True, slots=True)
class Before:
    """A turn as it was before those were started, nominated or asked to leave whom its last
    decisions name: what the calendar of that turn could know."""

    draft: Draft
    windows: list[Reservation]
    newcomers: frozenset[str]
    unasked: frozenset[str]

    @classmethod
    def of(cls, state: State, last: Sequence[Decision], now_ms: int) -> "Before":
        nominated = {one.job for one in last if isinstance(one, JobNominated)}
        draft = honoured(state, now_ms, nominated)
        for hole in state.settings.holes.values():
            draft.pool.block(draft.places_of(hole.seats), hole.shape)
        windows = sorted(state.settings.reservations.values(), key=turn_of)
        return cls(
            draft,
            [one for one in windows if now_ms < one.end_ms],
            frozenset(one.allocation.id for one in last if isinstance(one, AllocationBound)),
            frozenset(one.allocation for one in last if isinstance(one, ReleaseAsked)),
        )

    def gone_ms(self, one: Allocation, counted_on: int) -> int:
        """From when on a window can count on what it holds."""
        snapshot = self.draft.snapshot
        if one.id in self.newcomers or (one.state not in LIVELY and one.id not in self.unasked):
            return snapshot.now_ms
        live = snapshot.jobs.get(one.job)
        if live is None or live.allocation != one.id:
            return NEVER_MS
        end_ms = left_of(snapshot, one).end_ms(snapshot.now_ms)
        asks = counted_on == ASKED or (counted_on == ASIDE and live.job.checkpoints)
        if not asks or is_protected(snapshot.settings, live):
            return end_ms
        return min(end_ms, may_be_asked_ms(snapshot, one))

    def pool(self, at_ms: int, counted_on: int = NOBODY) -> Pool:
        """What can be counted on by then."""
        pool = self.draft.view.scratch()
        for one in self.draft.snapshot.allocations.values():
            if self.gone_ms(one, counted_on) <= at_ms:
                give_back(self.draft, pool, one)
        return pool

    def take(self, pool: Pool, one: Allocation) -> None:
        """Let it stay where it is, what is promised to others aside."""
        for row, gpus in self.draft.held_places(one):
            promised = _promised_on(self.draft, row)
            pool.take([(row, tuple([g for g in gpus if g not in promised]))], one.shape)

    def counts(self, snapshot: Snapshot, pool: Pool, windows: Iterable[Reservation]) -> list[int]:
        """Members that have a place there, window by window, in their turn.

        Args:
            snapshot: of this turn, with or without its promised cells.
        """
        found, left, sites = [], pool.scratch(), Sites(snapshot)
        for want in self.wants(windows):
            places = sites.fit(left, want)
            left.take(places, want.shape)
            found.append(len(places))
        return found

    def wants(self, windows: Iterable[Reservation]) -> list[Want]:
        snapshot = self.draft.snapshot
        return wants_of(snapshot, windows, snapshot.allocations.values())

    def times(self, window: Reservation) -> list[int]:
        """As it opens, and when somebody may be gone, or another window closes, while it is."""
        snapshot = self.draft.snapshot
        begin_ms = max(window.begin_ms, snapshot.now_ms)
        times = {other.end_ms for other in self.windows}
        for one in snapshot.allocations.values():
            times |= {self.gone_ms(one, ASIDE), self.gone_ms(one, ASKED)}
        return [begin_ms, *sorted(at_ms for at_ms in times if begin_ms < at_ms < window.end_ms)]


def windows_kept(
    state: State, bound: Sequence[Allocation], decisions: Sequence[Decision], now_ms: int
) -> bool:
    """Who was started will not keep a window from its devices, if estimates hold.

    Held against what was known before the first of them was started. True iff somebody was who will
    still be there when somebody's window opens, or is open.
    """
    live = {id for id, one in state.settings.reservations.items() if now_ms < one.end_ms}
    # Others got their own window's devices, or their tenant's own cells.
    ordinary = [
        one for one in bound if not one.cells and state.jobs[one.job].job.reservation not in live
    ]
    if not live or not ordinary:
        return False
    ids = {one.id for one in ordinary}
    first = next(
        at
        for at, one in enumerate(decisions)
        if isinstance(one, AllocationBound) and one.allocation.id in ids
    )
    before = Before.of(state, decisions[first:], now_ms)
    tried = [_look_at_window(before, window, ordinary) for window in before.windows]
    return any(tried)


def _look_at_window(before: Before, window: Reservation, bound: Sequence[Allocation]) -> bool:
    """Until the time when all of the window could be there, as much of it is as without these,
    unless an older one has more. True iff any of these stays so long."""
    snapshot = before.draft.snapshot
    # Of promised cells a window has no share: it is kept as if they, too, were firm work.
    views = (snapshot, replace(snapshot, cells=None))
    lack = [want.members for want in before.wants([window])]
    tried = False
    for at_ms in before.times(window) if lack else ():
        lasting = [one for one in bound if _stays_beyond(snapshot, one, at_ms)]
        tried |= bool(lasting)
        together = [one for one in before.windows if turn_of(one) <= turn_of(window)]
        together = [one for one in together if one.begin_ms <= at_ms < one.end_ms]
        # Whom an open window counts on it has asked: nobody more than those who leave by now.
        is_open = at_ms == snapshot.now_ms
        could = [_most(before, view, at_ms, together, ()) for view in views]
        has = [_most(before, view, at_ms, together, lasting, is_open=is_open) for view in views]
        delayed = all(one < other for one, other in zip(has, could, strict=True))
        if at_ms > max(window.begin_ms, snapshot.now_ms):
            delayed &= could[0][-len(lack) :] == lack  # who knows which part of it counts by then
        require(not delayed, "in the way of a window", window, at_ms, has, could, lasting)
        if has[0][-len(lack) :] == lack:
            break
    return tried


def _most(
    before: Before,
    view: Snapshot,
    at_ms: int,
    windows: Sequence[Reservation],
    staying: Sequence[Allocation],
    *,
    is_open: bool = False,
) -> list[int]:
    """How many members each of these windows will have, whomever they count on, beside these."""
    found = []
    for counted_on in (NOBODY,) if is_open else (ASIDE, ASKED):
        pool = before.pool(at_ms, counted_on)
        for one in staying:
            before.take(pool, one)
        found.append(before.counts(view, pool, windows))
    return max(found)


def _stays_beyond(snapshot: Snapshot, one: Allocation, at_ms: int) -> bool:
    """True iff it holds devices past that time, and may not be asked to leave then."""
    job = snapshot.jobs[one.job].job
    if stay_of(snapshot, job).end_ms(snapshot.now_ms) <= at_ms:
        return False
    return not steps_aside(snapshot, job, at_ms)


def each_needed_for_windows(before: "Before", victims: Sequence[Allocation]) -> None:
    """Without any one of them, a window that is open has fewer members, and none before it more."""
    snapshot = before.draft.snapshot
    opened = [one for one in before.windows if one.begin_ms <= snapshot.now_ms]
    pool = before.pool(snapshot.now_ms)
    most = before.counts(snapshot, pool, opened)
    for spared in victims:
        trial = pool.scratch()
        before.take(trial, spared)
        fewer = before.counts(snapshot, trial, opened) < most
        require(fewer, "stopped in vain", spared, "for", opened)


# -- what-ifs --------------------------------------------------------------------------------------


def honoured(state: State, now_ms: int, but: Collection[str]) -> Draft:
    """A draft with the places kept that are promised to jobs, save these."""
    draft = Draft(state.snapshot(now_ms))
    if but:
        others = {id: seats for id, seats in state.nominations.items() if id not in but}
        draft.snapshot = replace(draft.snapshot, nominations=others)
        draft.promised.difference_update(but)
    honour(draft)
    return draft


def give_back(draft: Draft, pool: Pool, allocation: Allocation) -> None:
    """What it leaves, less what of it is promised to somebody."""
    for row, gpus in draft.held_places(allocation):
        promised = _promised_on(draft, row)
        pool.give((row, tuple([gpu for gpu in gpus if gpu not in promised])), allocation.shape)


def _promised_on(draft: Draft, row: int) -> set[int]:
    node = draft.snapshot.node_ids[row]
    promised = [seats for id, seats in draft.snapshot.nominations.items() if id in draft.promised]
    holes = [hole.seats for hole in draft.snapshot.settings.holes.values()]
    return {
        gpu
        for seats in (*promised, *holes)
        for seat in seats
        if seat.node == node
        for gpu in seat.gpus
    }
