"""Where the windows of the calendar go: each on the first place, in an order that is fixed, that
has room.

Windows are placed one after the other, who begins first before the others, and anew each time. So
their places must depend on as little as can be. Of all the places that a window could have the
first is taken, in an order that nothing decides but the yard itself: most members, then nodes whose
turn is first (health, own zone), then the smallest domain of the network that holds them all, then
nodes in the order of the tree from where its own jobs sit on, then the lowest devices. No price and
no fill of a node is looked at.

Promises (the independence of irrelevant alternatives): what is taken beside the places of all these
windows moves none of them. For if a place is the first of those that fit, and still fits when other
things are taken, it is still the first: nothing fits now that did not before. The oldest window
thus stays where it was, hence the next one finds its own place untouched, and so on.

Where cells are promised to tenants the order does not tell all: a window that would break a promise
looks where none is kept, and which cells these are changes with what is taken.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from madang.core.cells.room import breaks, shielded
from madang.core.live import LiveJob
from madang.core.model import WHOLE_GPU_MILLI, Allocation, Job, Shape
from madang.core.placement import members_room
from madang.core.pool import Bools, Ints, Place, Pool
from madang.core.seating import rows_for, turns_of
from madang.core.settings import Reservation
from madang.core.snapshot import Snapshot
from madang.core.topology import ROOT, tree_of

Places = tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """What a window lacks: so many members of a shape. `near`: rows on which its jobs sit."""

    window: Reservation
    shape: Shape
    members: int
    near: frozenset[int] = frozenset()


def turn_of(window: Reservation) -> tuple[int, str]:
    """Windows are placed by this, the smallest first."""
    return window.begin_ms, window.id


def stand_in(window: Reservation) -> Job:
    """The window as a job, to ask which nodes it may use."""
    return Job(
        id=f"reservation {window.id}",
        seq=0,
        project=window.project,
        shape=window.shape,
        members=window.members,
        preemptible=False,
    )


def whole(window: Reservation) -> Want:
    """All of its members."""
    return Want(window, window.shape, window.members)


def rest_of(window: Reservation, used: int) -> list[tuple[Shape, int]]:
    """(shape, members) that its jobs do not hold: whole members, and the rest of a broken one.

    Args:
        used: what its jobs hold, in GPU-milli.
    """
    each = window.shape.milli
    left = max(0, window.members * each - used)
    rest = [(window.shape, left // each)]
    broken = left % each // window.shape.gpu_milli
    if broken:
        rest.append((replace(window.shape, gpus=broken, cpu_milli=0, memory_mib=0), 1))
    return [(shape, members) for shape, members in rest if members]


def used_milli(allocations: Iterable[Allocation], jobs: Mapping[str, LiveJob]) -> dict[str, int]:
    """What the jobs inside each reservation hold, in GPU-milli."""
    used: dict[str, int] = {}
    for allocation in allocations:
        live = jobs.get(allocation.job)
        if live is not None and live.job.reservation:
            held = sum([allocation.holds(rank) for rank in range(len(allocation.seats))])
            milli = held * allocation.shape.milli
            used[live.job.reservation] = used.get(live.job.reservation, 0) + milli
    return used


def wants_of(
    snapshot: Snapshot, windows: Iterable[Reservation], allocations: Collection[Allocation]
) -> list[Want]:
    """What these windows lack, in their order, if these allocations are all there are."""
    used = used_milli(allocations, snapshot.jobs)
    near: dict[str, set[int]] = {}
    for allocation in allocations:
        live = snapshot.jobs.get(allocation.job)
        if live is not None and live.job.reservation:
            rows = near.setdefault(live.job.reservation, set())
            for rank, seat in enumerate(allocation.seats):
                if allocation.holds(rank):
                    rows.add(snapshot.nodes[seat.node].row)
    return [
        Want(window, shape, members, frozenset(near.get(window.id, ())))
        for window in windows
        for shape, members in rest_of(window, used.get(window.id, 0))
    ]


class Sites:
    """The places of windows in any pool with a snapshot's rows."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._orders: dict[tuple[str, frozenset[int]], tuple[Bools | None, Ints, Ints]] = {}
        tree = tree_of(snapshot.pool.domains, np.arange(snapshot.pool.nodes))
        self._tree = [first[ids] for first, ids in zip(tree.firsts, tree.ids, strict=True)]

    def fit(self, pool: Pool, want: Want) -> Places:
        """Where as many of the members as have room go: one place each. Takes nothing."""
        places = self._first(pool, want)
        book = self.snapshot.cells
        if book is None or not places or breaks(book, places, want.shape) is None:
            return places
        places = self._first(shielded(book, pool), want)
        return () if places and breaks(book, places, want.shape) is not None else places

    def _first(self, pool: Pool, want: Want) -> Places:
        eligible, order, turns = self._order(pool, want)
        room = np.minimum(members_room(pool, want.shape, eligible), want.members)
        rows = order[room[order] > 0]
        here = room[rows]
        total = np.cumsum(here)
        if not len(rows):
            return ()
        count = min(want.members, int(total[-1]))
        last = turns[rows[int(np.searchsorted(total, count))]]
        circle = int(np.searchsorted(turns[rows], last, side="right"))
        inside = np.flatnonzero(self._smallest(pool, rows[:circle], here[:circle], count))
        members = np.diff(np.minimum(np.cumsum(here[inside]), count), prepend=0)
        used = members > 0
        return _lowest(pool, rows[inside[used]], members[used], want.shape)

    def _smallest(self, pool: Pool, rows: Ints, room: Ints, count: int) -> Bools:
        """(R,) those of these rows, which are in order, that are in the domain to be taken: of the
        smallest tier of which one holds so many; of several the first."""
        alone = np.flatnonzero(room >= count)
        if len(alone):
            there: Bools = np.arange(len(rows)) == alone[0]
            return there
        tree = tree_of(pool.domains, rows)
        for level in range(tree.nodes - 1, ROOT, -1):
            ids = tree.ids[level]
            holds = np.bincount(ids, weights=room)[ids] >= count
            if holds.any():
                chosen: Bools = ids == ids[int(holds.argmax())]
                return chosen
        return np.ones(len(rows), np.bool_)

    def rows_of(self, pool: Pool, want: Want) -> Bools | None:
        """(N,) the rows that the window may use; None: all that are open."""
        return self._order(pool, want)[0]

    def _order(self, pool: Pool, want: Want) -> tuple[Bools | None, Ints, Ints]:
        """(N,) the rows that the window may use (None: all), rows in order, and their turns."""
        key = want.window.id, want.near
        if key not in self._orders:
            job = stand_in(want.window)
            eligible = rows_for(self.snapshot, pool, job, want.shape)
            turns = turns_of(self.snapshot, pool, job)
            if turns is None:
                turns = np.zeros(pool.nodes, np.int64)
            far = np.ones(pool.nodes, np.bool_)
            far[list(want.near)] = False
            order = np.lexsort((*self._tree[::-1], far, turns))
            self._orders[key] = eligible, order, turns
        return self._orders[key]

    def in_turn(self, pool: Pool, wants: Iterable[Want]) -> list[Places]:
        """Where each goes that comes after those before it. Takes nothing."""
        return self.taken_in_turn(pool.scratch(), wants)

    def taken_in_turn(self, left: Pool, wants: Iterable[Want]) -> list[Places]:
        """Where each goes that comes after those before it. Takes all of it."""
        found = []
        for want in wants:
            places = self.fit(left, want)
            left.take(places, want.shape)
            found.append(places)
        return found


def _lowest(pool: Pool, rows: Ints, members: Ints, shape: Shape) -> Places:
    """The lowest devices of some nodes that have room for so many members each."""
    if shape.gpu_milli < WHOLE_GPU_MILLI or not shape.gpus:
        there = zip(rows.tolist(), members.tolist(), strict=True)
        return tuple([place for row, count in there for place in _shares(pool, row, count, shape)])
    free = pool.gpu_free[rows] == WHOLE_GPU_MILLI
    taken = free & (np.cumsum(free, axis=1) <= (members * shape.gpus)[:, None])
    gpus = np.nonzero(taken)[1].reshape(-1, shape.gpus)
    assert len(gpus) == members.sum(), f"rows {rows} have no room for {members} of {shape}"
    return tuple(zip(np.repeat(rows, members).tolist(), map(tuple, gpus.tolist()), strict=True))


def _shares(pool: Pool, row: int, members: int, shape: Shape) -> list[Place]:
    """The lowest devices of one node; members may share one."""
    free = pool.gpu_free[row].tolist()
    places = []
    for _ in range(members):
        fitting = [gpu for gpu, left in enumerate(free) if left >= shape.gpu_milli]
        gpus = tuple(fitting[: shape.gpus])
        assert len(gpus) == shape.gpus, f"row {row} has no room for {shape}: {free}"
        for gpu in gpus:
            free[gpu] -= shape.gpu_milli
        places.append((row, gpus))
    return places
