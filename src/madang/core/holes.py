"""Making a named hole: room for so many equal members, by moving away who can go elsewhere.

For each domain of the asked level (or the whole yard): the rows that are cheapest to empty as far
as needed, then a place outside the hole, free now, for everyone who must leave. The cheapest domain
in which all of that works is taken. Nobody is moved in vain: whoever could have stayed beside the
hole is not asked to leave.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from madang.core.draft import Draft
from madang.core.gangs import terms_of
from madang.core.model import Job, Shape
from madang.core.moving import Move, Mover, destinations, movers
from madang.core.placement import members_room, room_on, seats_on
from madang.core.pool import Ints, Place, Pool
from madang.core.seating import rows_for
from madang.core.settings import Hole
from madang.core.topology import depth_of, tree_of

DOMAINS_MAX = 64  # of those whose rows could be emptied, the cheapest to empty are looked into
STUCK_MAX = 64  # jobs found to have nowhere to go, before a domain is given up


@dataclass(frozen=True, slots=True)
class HolePlan:
    """The hole's places, one per member, and who goes where for it."""

    places: tuple[Place, ...]
    moves: tuple[Move, ...]

    @property
    def bill_gpu_ms(self) -> int:
        return sum(move.mover.bill_gpu_ms for move in self.moves)


@dataclass(frozen=True, slots=True)
class NoHole:
    """Why there is no such hole: a code, and how many of its members there would be room for.

    `no_level`: there is no such level. `too_large`: not even if the open nodes were
    empty. `held`: not if all who may be moved were gone. `crowded`: they have nowhere to go.
    """

    code: str
    room: int = 0


def plan_hole(draft: Draft, hole: Hole) -> HolePlan | NoHole:
    """How the hole would be made in what the draft leaves."""
    search = _Search(draft, hole)
    groups = _domains(draft, hole)
    if groups is None:
        return NoHole("no_level")
    emptied = search.room(search.emptied)
    candidates = []
    for rows in groups:
        if int(emptied[rows].sum()) >= hole.members:
            plan = search.emptying(rows, frozenset())
            assert plan is not None, f"counted room that is not there: {hole}"
            candidates.append((plan.bill_gpu_ms, int(rows[0]), rows))
    if not candidates:
        return _impossible(search, groups, emptied)
    candidates.sort(key=lambda one: one[:2])
    for _, _, rows in candidates[:DOMAINS_MAX]:
        made = search.moving_out(rows)
        if made is not None:
            return made
    return NoHole("crowded", hole.members)


def asker_of(hole: Hole) -> Job:
    """A job that asks for all of it: what such a one may use, and how near it wants to be."""
    return Job(hole.id, 0, hole.project, hole.shape, hole.members, within=hole.within)


def _domains(draft: Draft, hole: Hole) -> list[Ints] | None:
    """The rows of each domain that may hold the hole, all in one where any place will do; None if
    there is no such level.

    Unless it says otherwise it must be as near as the policy wants a gang to be.
    """
    pool, snapshot = draft.view, draft.snapshot
    depth = depth_of(pool.domains)
    terms = terms_of(asker_of(hole), snapshot.policy, depth, snapshot.now_ms)
    if terms is None:
        return None
    tree = tree_of(pool.domains, np.arange(pool.nodes), shared=terms.shared)
    ids = tree.ids[terms.within]
    return [np.flatnonzero(ids == id) for id in np.unique(ids)]


def _impossible(search: "_Search", groups: Sequence[Ints], emptied: Ints) -> NoHole:
    """Is it too large for the yard, or held by those who stay?"""
    pool, shape = search.draft.view, search.hole.shape
    room = np.where(pool.open, pool.gpu_usable // max(shape.gpus, 1), 0)
    eligible = search.eligible
    if eligible is not None:
        room = np.where(eligible, room, 0)
    most = max((int(room[rows].sum()) for rows in groups), default=0)
    if most < search.hole.members:
        return NoHole("too_large", most)
    return NoHole("held", max(int(emptied[rows].sum()) for rows in groups))


@dataclass(slots=True)
class _Emptying:
    """Which rows hold how many members once these have left."""

    members: dict[int, int]
    leaving: dict[str, Mover]

    @property
    def bill_gpu_ms(self) -> int:
        return sum(mover.bill_gpu_ms for mover in self.leaving.values())


class _Search:
    def __init__(self, draft: Draft, hole: Hole) -> None:
        self.draft, self.hole = draft, hole
        self.movers = movers(draft)
        # A hole for anybody is in the zones that take anybody.
        self.eligible = rows_for(draft.snapshot, draft.view, asker_of(hole), hole.shape)
        self.on_row: dict[int, list[Mover]] = {}
        self.emptied = draft.view.scratch()  # what were free if all who may move had left
        for mover in self.movers.values():
            for row in {row: None for row, _ in mover.places}:
                self.on_row.setdefault(row, []).append(mover)
            give(self.emptied, (mover,))
        for here in self.on_row.values():
            here.sort(key=lambda one: one.order)

    def room(self, pool: Pool) -> Ints:
        """(N,) members of the hole that each node could take, none more than there are."""
        return np.minimum(members_room(pool, self.hole.shape, self.eligible), self.hole.members)

    def emptying(self, rows: Ints, stuck: frozenset[str]) -> _Emptying | None:
        """The cheapest rows to empty, one after the other; None if that is not room enough."""
        pool, hole = self.draft.view.scratch(), self.hole
        found = _Emptying({}, {})
        free = self.room(pool)
        for row in sorted(rows.tolist(), key=lambda row: (-int(free[row]), row)):
            self._use(pool, found, row)
        missing = hole.members - sum(found.members.values())
        offers = {row: self._offer(pool, row, found, stuck) for row in rows.tolist()}
        while missing > 0:
            priced = [(o.bill_gpu_ms, row) for row, o in offers.items() if o is not None]
            if not priced:
                return None
            _, row = min(priced)
            offer = offers[row]
            assert offer is not None, "was priced"
            touched = {row: None}
            for mover in offer.leaving.values():
                found.leaving[mover.allocation.id] = mover
                give(pool, (mover,))
                touched |= {at: None for at, _ in mover.places}
            for at in touched:
                if at in offers:
                    self._use(pool, found, at)
                    offers[at] = self._offer(pool, at, found, stuck)
            missing = hole.members - sum(found.members.values())
        found.leaving = _without_idle_moves(pool, hole.shape, found.members, found.leaving)
        return found

    def _use(self, pool: Pool, found: _Emptying, row: int) -> None:
        """Count the members that the row can take now, as far as some are missing."""
        if self.eligible is not None and not self.eligible.item(row):
            return
        others = sum(count for at, count in found.members.items() if at != row)
        count = min(room_on(pool, row, self.hole.shape), self.hole.members - others)
        if count > 0:
            found.members[row] = count

    def _offer(
        self, pool: Pool, row: int, found: _Emptying, stuck: frozenset[str]
    ) -> _Emptying | None:
        """Who must leave the row, the cheapest first, so that it takes one member more."""
        if self.eligible is not None and not self.eligible.item(row):
            return None
        shape = self.hole.shape
        wanted = room_on(pool, row, shape) + 1
        leaving: dict[str, Mover] = {}
        for mover in self.on_row.get(row, ()):
            id = mover.allocation.id
            if id in stuck or id in found.leaving:
                continue
            leaving[id] = mover
            give(pool, (mover,))
            if room_on(pool, row, shape) >= wanted:
                break
        enough = room_on(pool, row, shape) >= wanted
        kept = _without_idle_moves(pool, shape, {row: wanted}, leaving) if enough else leaving
        for mover in kept.values():
            pool.take(mover.places, mover.allocation.shape)
        return _Emptying({row: 1}, kept) if enough else None

    def moving_out(self, rows: Ints) -> HolePlan | None:
        """The hole in these rows and a place for each who leaves; None if somebody finds none."""
        stuck: frozenset[str] = frozenset()
        for _ in range(STUCK_MAX):
            found = self.emptying(rows, stuck)
            if found is None:
                return None
            places = self._places(found)
            free = self.draft.view.scratch()
            free.block(places, self.hole.shape)
            moves = destinations(self.draft.snapshot, free, list(found.leaving.values()))
            if not isinstance(moves, Mover):
                return HolePlan(places, tuple(moves))
            stuck |= {moves.allocation.id}
        return None

    def _places(self, found: _Emptying) -> tuple[Place, ...]:
        """The hole's devices, once those who leave have left."""
        trial, shape = self.draft.view.scratch(), self.hole.shape
        give(trial, found.leaving.values())
        per_row = [seats_on(trial, row, found.members[row], shape) for row in sorted(found.members)]
        places = tuple(chain.from_iterable(per_row))[: self.hole.members]
        assert len(places) == self.hole.members, f"not the whole hole: {found}"
        return places


def _without_idle_moves(
    pool: Pool, shape: Shape, members: dict[int, int], leaving: dict[str, Mover]
) -> dict[str, Mover]:
    """Those without whose leaving the rows do not hold so many members; the others are back in.

    The dearest is spared first. `pool` is one that all of them have left.
    """
    needed = dict(leaving)
    for id, mover in sorted(leaving.items(), key=lambda one: one[1].order, reverse=True):
        pool.take(mover.places, mover.allocation.shape)
        if all(room_on(pool, row, shape) >= count for row, count in members.items()):
            del needed[id]
        else:
            give(pool, (mover,))
    return needed


def give(pool: Pool, leaving: Iterable[Mover]) -> None:
    """Give back what these hold."""
    for mover in leaving:
        for one in mover.places:
            pool.give(one, mover.allocation.shape)
