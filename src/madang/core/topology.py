"""The network tree as arrays: which nodes lie under which switch, and what fits under each.

Level 0 is the root, levels 1 to D are those of `Node.domains` from the root down, level D + 1 is
the node itself. N rows of the pool, R of them looked at, K_l domains at level l. What has no name
at some level is a domain of its own there: nobody knows whom it is near.

Promises: no loop over nodes, integers only, and every choice ends in a row of the pool, so that it
is the same on every machine and after every restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from madang.core.hypernodes import ANYWHERE, NODE
from madang.core.pool import Ints, SmallInts

ROOT = 0
UNKNOWN_LEVEL = -1
Rows = NDArray[np.intp]


def level_of(levels: Sequence[str], depth: int, name: str) -> int:
    """The level of a name in a tree `depth` deep; UNKNOWN_LEVEL if nobody has it.

    A number is a tier, as Volcano counts them: 1 is the leaf switch, 0 the node. What is deeper
    than any node's domains are is the node itself.
    """
    if name == ANYWHERE:
        return ROOT
    if name in (NODE, "0"):
        return depth + 1
    if name.isdecimal():
        at = len(levels) - int(name)
    else:
        at = levels.index(name) if name in levels else UNKNOWN_LEVEL
    return min(at, depth) + 1 if at >= 0 else UNKNOWN_LEVEL


@dataclass(frozen=True, slots=True)
class Tree:
    """Some rows of a pool under their domains.

    `rows` (R,): rows of the pool. `ids[l]` (R,): the domain of each at level l; at the last level
    its own place in `rows`. `parents[l]` (K_l,): the domain at level l - 1 of each at level l.
    `firsts[l]` (K_l,): the first row of the pool in each, which orders domains: their numbers tell
    in which order their names were first heard, and that is not in any row of the ledger.
    Domains that hold none of the rows have no meaning: their capacity is 0.
    """

    rows: Rows
    ids: tuple[Ints, ...]
    parents: tuple[Ints, ...]
    firsts: tuple[Ints, ...]

    @property
    def nodes(self) -> int:
        """The level of nodes, the innermost."""
        return len(self.ids) - 1

    def above(self, level: int, upper: int) -> Ints:
        """(K_level,) the domain at an upper level of each domain at this one."""
        over = self.parents[level] if level > upper else np.arange(len(self.parents[level]))
        for at in range(level - 1, upper, -1):
            over = self.parents[at][over]
        return over

    def sums(self, level: int, values: Ints, upper: int) -> Ints:
        """(K_upper,) what the domains of a level come to under each domain of an upper one."""
        totals = np.zeros(len(self.parents[upper]), np.int64)
        np.add.at(totals, self.above(level, upper), values)
        return totals

    def capacities(self, room: Ints, units: Sequence[int]) -> tuple[Ints, ...]:
        """(K_l,) for each level: how many members fit, in whole units of that level and below.

        `room` (R,) is how many fit on each node; `units[l]` how many must stay together within a
        domain of level l, or below; each a multiple of those below it.
        """
        here = room // units[-1] * units[-1]
        found = [here]
        for level in range(self.nodes - 1, ROOT - 1, -1):
            here = self.sums(level + 1, here, level) // units[level] * units[level]
            found.append(here)
        return tuple(reversed(found))

    def children(self, level: int, domain: int, lower: int) -> Rows:
        """The domains of a lower level under one of this level."""
        return np.flatnonzero(self.above(lower, level) == domain)


def depth_of(domains: SmallInts) -> int:
    """How many levels the tree has, down to the deepest that any node names; 0 if none does."""
    for depth in range(domains.shape[1], 0, -1):  # mostly the first: cheaper than all at once
        if domains[:, depth - 1].max(initial=-1) >= 0:
            return depth
    return 0


def tree_of(domains: SmallInts, rows: Rows, *, shared: int = -1) -> Tree:
    """The tree of these rows of a pool.

    Args:
        domains: (N, D) codes, outermost first; -1 where a node has no name.
        shared: a level at which the nodes without a name count as one domain; -1 for none.
    """
    ids = [np.arange(len(rows))]
    for level in range(depth_of(domains), ROOT, -1):
        codes = domains[:, level - 1]
        here = codes[rows].astype(np.int64)
        unnamed = here < 0
        if unnamed.any():
            first = int(codes.max()) + 1
            here[unnamed] = first if level == shared else first + ids[-1][unnamed]
        ids.append(here)
    ids.append(np.zeros(len(rows), np.int64))
    ids.reverse()
    parents, firsts = [np.zeros(1, np.int64)], [rows[:1] if len(rows) else np.zeros(1, np.intp)]
    for upper, lower in pairwise(ids):
        domains_here = int(lower.max(initial=-1)) + 1
        parent, first_row = np.zeros((2, domains_here), np.int64)
        parent[lower] = upper
        first_row[lower[::-1]] = rows[::-1]  # the last to be written is the first
        parents.append(parent)
        firsts.append(first_row)
    return Tree(rows, tuple(ids), tuple(parents), tuple(firsts))


def fewest(capacity: Ints, group: Ints, groups: int, count: int) -> Ints:
    """(groups,) of how many domains `count` members need at least in each group; 0 where too small.

    Args:
        capacity: (K,) how many fit in each domain.
        group: (K,) the group of each, below `groups`.
    """
    order = np.lexsort((-capacity, group))
    held, of = capacity[order], group[order]
    total = np.cumsum(held)
    first = np.searchsorted(of, np.arange(groups))
    before = np.concatenate(([0], total))[first]  # what the groups before come to
    short = total - before[of] < count
    needed = np.zeros(groups, np.int64)
    np.add.at(needed, of, short.astype(np.int64))
    enough = np.zeros(groups, np.int64)
    np.add.at(enough, group, capacity)
    needed += 1
    needed[enough < count] = 0
    return needed


def most_of(capacity: Ints, group: Ints, groups: int, domains: int) -> Ints:
    """(groups,) how many members the roomiest so many domains of each group hold."""
    order = np.lexsort((-capacity, group))
    held, of = capacity[order], group[order]
    first = np.searchsorted(of, np.arange(groups))
    roomiest = np.arange(len(of)) - first[of] < domains
    totals = np.zeros(groups, np.int64)
    np.add.at(totals, of[roomiest], held[roomiest])
    return totals


def tightest(capacity: Ints, ties: Sequence[Ints], count: int) -> list[tuple[int, int]]:
    """(place, members there) of the fewest domains that hold the count, with the least left over.

    Among as few: neighbours in size with the smallest sum, or the largest ones and the tightest
    for the rest, whichever leaves less; so the largest are left alone where smaller ones do. Equal
    ones go by `ties`, of which the last counts most. What is left over is left in one piece.
    """
    order = np.lexsort((*ties, -capacity))
    held = capacity[order]
    total = np.concatenate(([0], np.cumsum(held)))
    assert total[-1] >= count, f"{count} members do not fit in {capacity}"
    few = int(np.searchsorted(total, count))  # so many of the roomiest are enough
    sums = total[few:] - total[: len(total) - few]
    enough = int(np.searchsorted(-sums, -count, side="right")) - 1  # sums fall along the order
    begin = int(np.searchsorted(-sums, -sums[enough]))
    chosen = order[begin : begin + few]
    rest = count - int(total[few - 1])
    fitting = order[few - 1 :][held[few - 1 :] >= rest]
    least = capacity[fitting].min()
    if int(total[few - 1]) + int(least) < int(sums[begin]):
        last = fitting[capacity[fitting] == least][:1]
        chosen = np.concatenate((order[: few - 1], last))
    taken = []
    left = count
    for place in chosen[::-1].tolist():  # the smallest are filled, the largest keeps what is left
        here = min(left, int(capacity[place]))
        taken.append((place, here))
        left -= here
    return taken
