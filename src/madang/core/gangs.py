"""Where a gang goes: all of its members or none, near to each other, in one go.

A gang takes the smallest domain of the network tree that holds it; of those the one in which it
needs the fewest domains below, then the tightest, so that whole switches stay whole for large
jobs. Ranks follow the tree: consecutive ranks are near. What must stay together (segments) and
what must hold all of it (`within`) is never broken; `switches` is a limit for a while.

Everything is counted per domain with integers (topology.py); Python loops only over the domains
and nodes that are chosen. Best fit over domains: Kueue's topology-aware scheduling and Slurm's
topology/tree do the same; the tiers and the hard limit are Volcano's HyperNode.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from madang.core.hypernodes import ANYWHERE, NODE
from madang.core.model import Category, Job, Shape
from madang.core.placement import (
    Unplaced,
    could_hold,
    members_room,
    place,
    room_if_empty,
    seats_on,
)
from madang.core.policy import Policy
from madang.core.pool import Bools, Ints, Place, Pool, SmallInts
from madang.core.topology import (
    ROOT,
    UNKNOWN_LEVEL,
    Rows,
    Tree,
    depth_of,
    fewest,
    level_of,
    most_of,
    tightest,
    tree_of,
)

NEVER_MS = int(np.iinfo(np.int64).max)
CAPACITY, SEGMENTS, WITHIN, SWITCHES = "capacity", "segments", "within", "switches"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a gang asks of a tree whose nodes are at level D + 1.

    `within` is the level one domain of which must hold it; `by_default` says that the policy asked
    for that, not the job. `units` (D + 2,): how many members must stay together within a domain of
    each level or below; `switches` of level `leaf` are the most it may touch, 0 for any number.
    `members` and `least` are whole units.
    """

    members: int
    least: int
    within: int
    by_default: bool
    units: tuple[int, ...]
    switches: int
    leaf: int

    @property
    def is_plain(self) -> bool:
        """True iff any nodes will do."""
        return self.within == ROOT and self.units[0] == 1 and not self.switches

    @property
    def shared(self) -> int:
        """The level at which nodes without a name count as one domain; -1 for none.

        A job that asks for a level wants to be sure of it; the default is for those who have one.
        """
        return self.within if self.by_default else -1


def place_gang(
    pool: Pool,
    job: Job,
    shape: Shape,
    eligible: Bools | None,
    now_ms: int,
    policy: Policy,
) -> tuple[Place, ...] | Unplaced:
    """One (row, devices) per member in rank order, or why not.

    Of an elastic gang as many members as fit, at least `members_min`.

    Args:
        eligible: (N,) rows that may be used at all; None means every row.
    """
    depth = depth_of(pool.domains)
    terms = terms_of(job, policy, depth, now_ms)
    if terms is None:
        return Unplaced(0, 0)
    if not depth and terms.is_plain and terms.least == terms.members:
        return place(pool, shape, job.members, eligible)
    room = np.minimum(members_room(pool, shape, eligible), terms.members)
    rows = np.flatnonzero(room)
    seating = Seating(pool, tree_of(pool.domains, rows, shared=terms.shared), terms, room[rows])
    chosen = seating.chosen()
    if isinstance(chosen, Unplaced):
        return chosen
    places: list[Place] = []
    for row, count in chosen:
        places += seats_on(pool, row, count, shape)
    return tuple(places)


def terms_of(job: Job, policy: Policy, depth: int, now_ms: int) -> Terms | None:
    """What the job asks of a tree `depth` levels deep; None if it names a level nobody knows."""
    levels = policy.levels
    sizes = [1] * (depth + 2)
    for segment in job.segments:
        at = level_of(levels, depth, segment.level)
        if at == UNKNOWN_LEVEL:
            return None
        sizes[at] = max(sizes[at], segment.members)
    units = [max(sizes[level:]) for level in range(depth + 2)]
    for upper, lower in pairwise(units):
        assert upper % lower == 0, f"segments do not nest: {job}"
    by_default = not job.within and job.category is Category.TRAINING and depth > 0
    asked = (policy.within or "1") if by_default else job.within or ANYWHERE
    within = 1 if by_default and not policy.within else level_of(levels, depth, asked)
    if within == UNKNOWN_LEVEL:
        return None
    insists = now_ms < job.insists_until_ms or not job.switches_wait_ms
    return Terms(
        members=job.members // units[0] * units[0],
        least=least_members(job),
        within=ROOT if job.within_soft else within,
        by_default=by_default,
        units=tuple(units),
        switches=job.switches if insists and depth else 0,
        leaf=min(len(levels), depth) if depth else 1,
    )


class Seating:
    """One gang before one tree: how many fit where, and the choice.

    `room` (R,): members that each row of the tree could take.
    """

    def __init__(self, pool: Pool, tree: Tree, terms: Terms, room: Ints) -> None:
        self.pool, self.tree, self.terms = pool, tree, terms
        self.capacities = tree.capacities(room, terms.units)
        self._in_use: dict[int, Ints] = {}

    def most(self) -> int:
        """How many members the best domain of the level that must hold them could take."""
        held = self.holds(self.terms.within)
        unit = self.terms.units[ROOT]
        return int(held.max(initial=0)) // unit * unit

    def chosen(self) -> list[tuple[int, int]] | Unplaced:
        """(row of the pool, members there) along the tree, or how many would fit at best."""
        terms, tree = self.terms, self.tree
        most = self.most()
        if most < terms.least or not most:
            return Unplaced(most, len(tree.rows))
        count = min(most, terms.members)
        level, domain = self._smallest(count)
        taken: list[tuple[int, int]] = []
        self._fill(level, domain, count, taken)
        if terms.switches and self._touched(taken) > terms.switches:
            return Unplaced(most, len(tree.rows))
        at = np.array([place for place, _ in taken])
        keys = [first[ids[at]] for first, ids in zip(tree.firsts, tree.ids, strict=True)]
        along = np.lexsort(keys[::-1]).tolist()
        return [(int(tree.rows[taken[n][0]]), taken[n][1]) for n in along]

    def holds(self, level: int) -> Ints:
        """(K_level,) members that each domain could take, on no more switches than allowed."""
        held, leaf = self.capacities[level], self.terms.leaf
        if not self.terms.switches or level >= leaf:
            return held
        over = self.tree.above(leaf, level)
        limit = most_of(self.capacities[leaf], over, len(held), self.terms.switches)
        return np.minimum(held, limit)

    def _smallest(self, count: int) -> tuple[int, int]:
        """(level, domain) of the smallest domain that holds so many.

        Of one level the one that needs the fewest domains below it, then the tightest, then the
        one most in use, so that whole ones stay whole; then the first.
        """
        for level in range(self.tree.nodes, self.terms.within - 1, -1):
            fits = np.flatnonzero(self.holds(level) >= count)
            if len(fits):
                keys = self._keys_of_node if level == self.tree.nodes else self._keys_of_domain
                return level, int(fits[np.lexsort(keys(level, fits, count))[0]])
        raise AssertionError(f"no domain holds {count} members: {self.terms}")

    def _keys_of_node(self, level: int, fits: Rows, count: int) -> list[Ints]:
        """The fullest node, under the leaf and the block most in use. The last key counts most."""
        tree = self.tree
        in_use = [-self.in_use(at)[tree.ids[at][fits]] for at in range(ROOT + 1, level)]
        return [tree.rows[fits], *in_use, self.pool.whole_free[tree.rows[fits]].astype(np.int64)]

    def _keys_of_domain(self, level: int, fits: Rows, count: int) -> list[Ints]:
        """See `_smallest`. The last key counts most."""
        lower = self._lower(level)
        held, over = self.capacities[level], self.tree.above(lower, level)
        needed = fewest(self.capacities[lower], over, len(held), count)
        first = self.tree.firsts[level][fits]
        return [first, -self.in_use(level)[fits], held[fits], needed[fits]]

    def _fill(self, level: int, domain: int, count: int, taken: list[tuple[int, int]]) -> None:
        """Spread so many members over the domain, on as few domains of each level as will do."""
        tree = self.tree
        if level == tree.nodes:
            taken.append((domain, count))
            return
        lower = self._lower(level)
        children = tree.children(level, domain, lower)
        if lower == tree.nodes:
            tie = self.pool.whole_free[tree.rows[children]].astype(np.int64)
        else:
            tie = -self.in_use(lower)[children]
        ties = (tree.firsts[lower][children], tie)
        for at, here in tightest(self.capacities[lower][children], ties, count):
            self._fill(lower, int(children[at]), here, taken)

    def _lower(self, level: int) -> int:
        """The level that a domain's members are spread over: the switches where they are counted.

        Unless segments must stay within a level between the two.
        """
        leaf, units = self.terms.leaf, self.terms.units
        if self.terms.switches and level < leaf and units[level + 1] == units[leaf]:
            return leaf
        return level + 1

    def _touched(self, taken: list[tuple[int, int]]) -> int:
        """How many switches these nodes are under."""
        return len({int(self.tree.ids[self.terms.leaf][at]) for at, _ in taken})

    def in_use(self, level: int) -> Ints:
        """(K_level,) GPUs of each domain that somebody has a part of, on all nodes of the pool."""
        if level not in self._in_use:
            totals = np.zeros(len(self.tree.parents[level]), np.int64)
            if level != ROOT:
                codes = self.pool.domains[:, level - 1]
                known = (codes >= 0) & (codes < len(totals))
                used = (self.pool.gpu_usable - self.pool.whole_free)[known].astype(np.int64)
                np.add.at(totals, codes[known], used)
            self._in_use[level] = totals
        return self._in_use[level]


def keeps_terms(pool: Pool, job: Job, rows: Sequence[int], now_ms: int, policy: Policy) -> bool:
    """True iff a gang whose ranks sit on these rows keeps its hard terms in the tree as it is."""
    if job.members == 1:
        return True
    terms = terms_of(job, policy, depth_of(pool.domains), now_ms)
    if terms is None or len(rows) % terms.units[ROOT]:
        return False
    nodes, node_of = np.unique(rows, return_inverse=True)
    tree = tree_of(pool.domains, nodes, shared=terms.shared)
    for level, unit in enumerate(terms.units):
        runs = tree.ids[level][node_of].reshape(-1, len(rows) if level == terms.within else unit)
        if (runs != runs[:, :1]).any():
            return False
    return not terms.switches or len(set(tree.ids[terms.leaf].tolist())) <= terms.switches


def least_members(job: Job) -> int:
    """The fewest members that the job starts with, in whole segments."""
    if not job.members_min and not job.segments:
        return job.members
    unit = max((segment.members for segment in job.segments), default=1)
    least = -(-(job.members_min or job.members) // unit) * unit
    return min(least, job.members)  # a gang smaller than its segment is one segment


def is_elastic(job: Job) -> bool:
    """True iff it may start with fewer members than it wants."""
    return bool(job.members_min) and least_members(job) < job.members


def at_size(job: Job, members: int) -> Job:
    """The same job wanting no more members than so many: what it asks for under a quota."""
    return job if members == job.members else replace(job, members=members)


def exactly(job: Job, members: int) -> Job:
    """The same job with so many members or none."""
    return replace(job, members=members, members_min=0) if is_elastic(job) else job


def whole_segments(job: Job, members: int) -> int:
    """So many members or the next fewer that its segments can be made of."""
    unit = max((segment.members for segment in job.segments), default=1)
    return members // unit * unit


def gang_likeness(job: Job) -> tuple[object, ...]:
    """All that decides, besides its shape, whether and where a gang fits; () for a single member.

    Whether it still insists on few switches depends on when it came, so such jobs are like no other
    that came at another time.
    """
    if job.members == 1:
        return ()
    since_ms = job.submitted_ms if job.switches and job.switches_wait_ms else 0
    return (
        job.members,
        job.members_min,
        job.segments,
        job.within,
        job.within_soft,
        job.category is Category.TRAINING,
        job.switches,
        job.switches_wait_ms,
        since_ms,
    )


def segments_nest(job: Job) -> bool:
    """True iff the gang can be cut into each kind of segment, and the larger into the smaller."""
    sizes = sorted([segment.members for segment in job.segments] + [job.members])
    return all(upper % lower == 0 for lower, upper in pairwise(sizes))


@dataclass(frozen=True, slots=True)
class Binding:
    """What keeps a gang from fitting: CAPACITY, SEGMENTS, WITHIN or SWITCHES.

    `level` is the level of the tree that binds, `room` how many members the best domain of it has
    room for, `row` a node in that domain; `anywhere` how many fit if the network is not looked at,
    and `least` how many must.
    """

    code: str
    level: int
    room: int
    row: int
    anywhere: int
    least: int


def binding(pool: Pool, terms: Terms, room: Ints) -> Binding | None:
    """The innermost of a gang's terms that it fails on; None if it fits.

    Args:
        room: (N,) members that each node could take, now or when empty.
    """
    room = np.minimum(room, terms.members)
    rows = np.flatnonzero(room)
    anywhere = min(int(room.sum()), terms.members)

    def best(level: int, **changes: Any) -> tuple[int, int]:
        """(members, a row) of the best domain of a level under looser terms."""
        tree = tree_of(pool.domains, rows, shared=terms.shared)
        seating = Seating(pool, tree, replace(terms, within=level, **changes), room[rows])
        held = seating.holds(level)
        domain = int(held.argmax()) if len(held) else 0
        under = rows[tree.ids[level] == domain]
        return seating.most(), int(under[0]) if len(under) else -1

    if anywhere < terms.least:
        return Binding(CAPACITY, ROOT, anywhere, -1, anywhere, terms.least)
    nodes = len(terms.units) - 1
    for level in range(nodes, ROOT - 1, -1):
        inner = terms.units[level]
        if inner > 1 and (level == nodes or inner > terms.units[level + 1]):
            units = tuple([min(unit, inner) for unit in terms.units])
            held, row = best(ROOT, units=units, switches=0)
            if held < terms.least:
                return Binding(SEGMENTS, level, held, row, anywhere, terms.least)
    held, row = best(terms.within, switches=0)
    if held < terms.least:
        return Binding(WITHIN, terms.within, held, row, anywhere, terms.least)
    held, row = best(terms.within)
    if held < terms.least:
        return Binding(SWITCHES, terms.leaf, held, row, anywhere, terms.least)
    return None


def level_name(levels: Sequence[str], depth: int, level: int) -> str:
    """What people call a level of a tree: `block`, `node`, or its tier where it has no name."""
    if level == depth + 1:
        return NODE
    return levels[level - 1] if 0 < level <= len(levels) else f"level {level}"


def _has_nodes_enough(
    pool: Pool, devices: SmallInts, shape: Shape, terms: Terms, rows: Bools | None
) -> bool:
    """True if some domain has as many nodes that could take one member as there are members.

    Comparisons and one count: a tenth of what it costs to look at the whole tree. False says
    nothing.
    """
    if terms.units[ROOT] > 1 or terms.switches or not ROOT < terms.within < len(terms.units) - 1:
        return False
    fits = devices >= shape.gpus
    if shape.cpu_milli:
        fits &= pool.cpu_total >= shape.cpu_milli
    if shape.memory_mib:
        fits &= pool.memory_total >= shape.memory_mib
    if rows is not None:
        fits &= rows
    codes = pool.domains[:, terms.within - 1][fits]
    return int(np.bincount(codes[codes >= 0], minlength=1).max()) >= terms.least


def could_hold_gang(
    pool: Pool, devices: SmallInts, job: Job, shape: Shape, policy: Policy, rows: Bools | None
) -> bool:
    """True iff these rows, had they these devices, could hold the gang if all were free.

    A limit on switches that ends some day is not looked at.
    """
    now_ms = NEVER_MS if job.switches_wait_ms else 0
    terms = terms_of(job, policy, depth_of(pool.domains), now_ms)
    if terms is None or not could_hold(pool, devices, shape, terms.least, rows):
        return False
    if terms.is_plain or _has_nodes_enough(pool, devices, shape, terms, rows):
        return True
    room = room_if_empty(pool, devices, shape, terms.members)
    if rows is not None:
        room[~rows] = 0
    held = np.flatnonzero(room)
    tree = tree_of(pool.domains, held, shared=terms.shared)
    return Seating(pool, tree, terms, room[held]).most() >= terms.least
