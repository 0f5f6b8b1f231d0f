"""Where in the cells: what firm work may take, and which cells a tenant's virtual ones would be.

Firm work outside all cells is placed as ever and then judged by the counts; only if it would break
a promise is it placed again, in a pool from which as many whole cells are hidden as promises need
(`shield`). What is taken beside them leaves them whole, so the second placement is safe by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.cells.book import CellBook
from madang.core.cells.forest import SLOTS, Chain
from madang.core.model import WHOLE_GPU_MILLI, Job, Shape
from madang.core.pool import Place, Pool

Bits = NDArray[np.int64]
Ranks = NDArray[np.int64]
_ALIGNED = {
    size: np.int64(sum(1 << first for first in range(0, 63, size))) for size in (1, 2, 4, 8, 16, 32)
}


def is_firm(job: Job) -> bool:
    """True iff the job, once it runs, cannot be displaced: promises must be able to do without.

    Who counts under a disruption budget can be displaced only as the budget allows.
    """
    return not job.preemptible or bool(job.budget)


# -- firm work outside cells ----------------------------------------------------------------------


def breaks(book: CellBook, places: Sequence[Place], shape: Shape) -> tuple[int, int] | None:
    """(chain, level) of a promise that firm members of others at these places would break.

    Inside an opened cell the level is the cell's. None: no promise is touched.
    """
    rows: dict[int, tuple[int, int]] = {}
    for row, gpus in places:
        if row < len(book.forest.chain_of) and book.forest.chain_of[row] >= 0:
            taken, members = rows.get(row, (0, 0))
            for gpu in range(book.forest.gpus[row]) if shape.exclusive else gpus:
                taken |= 1 << gpu
            rows[row] = (taken, members + 1)
    goods = {}
    for row, (taken, members) in rows.items():
        bound = book.bound.item(row)
        cpu_milli, memory_mib = members * shape.cpu_milli, members * shape.memory_mib
        crowds = bound and (
            book.host_gpus(row, cpu_milli, memory_mib) > book.forest.gpus[row] - bound.bit_count()
        )
        if taken & bound or crowds:
            return (book.forest.chain_of[row], 0)
        goods[row] = book.good_of(row, taken, cpu_milli, memory_mib)
    for at, lost in book.losses(goods).items():
        for level, count in enumerate(lost):
            if count and book.need[at][level] and book.slack(at, level) < count:
                return (at, level)
    return None


def shielded(book: CellBook, pool: Pool) -> Pool:
    """The pool without the cells that promises need and those that are open."""
    view = pool.scratch()
    hidden = book.bound.copy()
    for at, needs in enumerate(book.need):
        if any(needs):
            rows = book.forest.chains[at].rows
            hidden[rows] |= shield(book, pool, at)
    rows = np.flatnonzero(hidden)
    _keep_only(view, rows, ~hidden[rows])
    gpus = np.maximum(np.array(book.forest.gpus, np.int64)[rows], 1)
    left = gpus - np.bitwise_count(hidden[rows])
    for free, total, used in (
        (view.cpu_free, book.cpu_total, book.host_cpu),
        (view.memory_free, book.memory_total, book.host_memory),
    ):
        theirs = np.maximum(total[rows] * left // gpus - used[rows], 0)
        free[rows] = np.minimum(free[rows], theirs)
    return view


def shield(book: CellBook, pool: Pool, at: int) -> Bits:
    """(Nc,) devices of as many whole cells of a chain as its promises need, the busiest first."""
    kept = book.shields.get(at)
    if kept is not None and kept[0] == book.version:
        return kept[1]
    chain = book.forest.chains[at]
    counts = [0] * len(chain.levels)
    for (_, where, level), left in book.left.items():
        if where == at:
            counts[level] += max(0, left)
    chosen = pick(book, at, counts, pool.whole_free[chain.rows].astype(np.int64)).devices
    book.shields[at] = (book.version, chosen)
    return chosen


def _keep_only(view: Pool, rows: NDArray[np.intp], bits: Bits) -> None:
    """Of these rows only these devices stay in the view."""
    width = np.arange(view.gpu_free.shape[1], dtype=np.int64)
    there = (bits[:, None] >> width & 1).astype(np.bool_)
    left = np.where(there, view.gpu_free[rows], 0)
    view.gpu_free[rows] = left
    view.whole_free[rows] = (left == WHOLE_GPU_MILLI).sum(axis=1)


def only(pool: Pool, allowed: Bits) -> Pool:
    """A view of the pool in which only the allowed devices (N,) are there."""
    view = pool.scratch()
    rows = np.flatnonzero(allowed)
    free = view.gpu_free[rows]
    view.gpu_free[:] = 0
    view.whole_free[:] = 0
    view.gpu_free[rows] = free
    _keep_only(view, rows, allowed[rows])
    return view


def without_loose(book: CellBook, pool: Pool) -> Pool:
    """What would be free if all that can be displaced were gone.

    Of the host nothing is held back: a cell's share of it goes with the cell.
    """
    view = pool.scratch()
    width = np.arange(view.gpu_free.shape[1], dtype=np.int64)
    there = (book.usable[:, None] >> width & 1).astype(np.bool_)
    view.gpu_free[:] = np.where(there, WHOLE_GPU_MILLI - book.firm, 0)
    view.whole_free[:] = (view.gpu_free == WHOLE_GPU_MILLI).sum(axis=1)
    view.cpu_free[:] = view.cpu_total
    view.memory_free[:] = view.memory_total
    view.tenants[:] = 0
    return view


# -- choosing cells -------------------------------------------------------------------------------


@dataclass(slots=True)
class Picked:
    """`devices` (Nc,): the chosen cells as bit sets. Per level: their indices, how many lack."""

    devices: Bits
    cells: list[list[int]]
    missing: list[int]


def pick(
    book: CellBook, at: int, counts: Sequence[int], rank: Ranks, out_of: Bits | None = None
) -> Picked:
    """So many whole cells of each level of a chain: buddy allocation.

    The largest cells first, and of each level those first that split the least: a cell whose
    parent is not whole, then one whose parent's parent is not, and so on; never more splits of a
    level than its slack. Among equals the lowest sum of `rank` (Nc,) first, then the lowest index.
    `out_of` (Nc,): the devices to find cells in; None: those that virtual cells could still use.
    """
    picker = _Picker(book, at, rank, out_of)
    missing = [0] * len(counts)
    for level in range(len(counts) - 1, -1, -1):
        if counts[level] > 0:
            missing[level] = picker.take(level, counts[level])
    return Picked(picker.chosen, picker.cells, missing)


class _Picker:
    """One call of `pick`. `good` are the devices that are not chosen yet."""

    def __init__(self, book: CellBook, at: int, rank: Ranks, out_of: Bits | None) -> None:
        self.book, self.at, self.rank = book, at, rank
        self.chain: Chain = book.forest.chains[at]
        self.good: Bits = book.good[self.chain.rows] if out_of is None else out_of
        self.chosen: Bits = np.zeros(len(self.chain.rows), np.int64)
        self.cells: list[list[int]] = [[] for _ in self.chain.levels]
        self.split: list[set[int]] = [set() for _ in self.chain.levels]

    def take(self, level: int, count: int) -> int:
        """Choose up to `count` cells of a level; how many there are too few."""
        if level >= self.chain.inner - 1:
            return self._take_nodes(level, count)
        for upper in range(level, self.chain.inner):
            count = self._take_buddies(level, upper, count)
        return count

    def _take_nodes(self, level: int, count: int) -> int:
        """Choose nodes or network cells."""
        chain = self.chain
        k = level - chain.inner
        full = np.int64((1 << chain.sizes[chain.inner - 1]) - 1)
        cells = np.flatnonzero(self._wholes()[k + 1])
        ranks = self.rank
        for up, members in zip(chain.up[: k + 1], chain.members[: k + 1], strict=True):
            inside = up >= 0
            ranks = np.bincount(up[inside], ranks[inside], len(members)).astype(np.int64)
        above = self._above(k, cells)
        order = np.lexsort((cells, ranks[cells], np.array([len(p) for p in above], np.int64)))
        for at in order.tolist():
            if not count:
                break
            if self._may_split(above[at]):
                cell = cells.item(at)
                slots = [cell] if k < 0 else chain.slots_of(level, cell)
                self._choose(slots, full)
                row = chain.rows.item(slots[0])
                self.cells[level].append(cell if k >= 0 else row * SLOTS)
                count -= 1
        return count

    def _take_buddies(self, level: int, upper: int, count: int) -> int:
        """Choose cells inside nodes that are part of whole cells up to just this upper level."""
        chain, is_node = self.chain, upper == self.chain.inner - 1
        here = _firsts(self.good, chain, level)
        if upper > level:
            here = here & _covered(self.good, chain, upper)
        if not is_node:
            here = here & ~_covered(self.good, chain, upper + 1)
        slots = np.flatnonzero(here) if count else np.zeros(0, np.intp)
        above = self._above(-1, slots) if is_node else [[] for _ in slots]
        order = np.lexsort((slots, self.rank[slots], np.array([len(p) for p in above], np.int64)))
        for at in order.tolist():
            slot = slots.item(at)
            for first in range(0, here.item(slot).bit_length(), chain.sizes[level]):
                if not count:
                    return 0
                if not here.item(slot) >> first & 1:
                    continue
                buddies = [
                    (m, slot * SLOTS + first // chain.sizes[m]) for m in range(level + 1, upper + 1)
                ]
                if self._may_split([*buddies, *above[at]]):
                    self._choose([slot], np.int64(((1 << chain.sizes[level]) - 1) << first))
                    self.cells[level].append(chain.rows.item(slot) * SLOTS + first)
                    count -= 1
        return count

    def _choose(self, slots: Sequence[int], bits: np.int64) -> None:
        for slot in slots:
            self.chosen[slot] |= bits
        self.good = self.good & ~self.chosen

    def _may_split(self, cells: Sequence[tuple[int, int]]) -> bool:
        """Count these (level, cell) as split, unless a level has no slack left for it."""
        fresh = [(level, cell) for level, cell in cells if cell not in self.split[level]]
        for level, _ in fresh:
            need = self.book.need[self.at][level]
            if need and self.book.slack(self.at, level) <= len(self.split[level]):
                return False
        for level, cell in fresh:
            self.split[level].add(cell)
        return True

    def _wholes(self) -> list[NDArray[np.bool_]]:
        """For nodes and then each network level, which cells are whole."""
        chain = self.chain
        full = (1 << chain.sizes[chain.inner - 1]) - 1
        found = [(self.good & full) == full]
        for up, members in zip(chain.up, chain.members, strict=True):
            inside = (up >= 0) & found[-1]
            counts = np.bincount(up[inside], minlength=len(members))
            found.append(counts == len(members[0]))
        return found

    def _above(self, k: int, cells: NDArray[np.intp]) -> list[list[tuple[int, int]]]:
        """The whole cells, as (level, cell), that each cell of network level k (-1: nodes) is in.

        Up to the first that is not whole.
        """
        chain, wholes = self.chain, self._wholes()
        found: list[list[tuple[int, int]]] = [[] for _ in cells]
        at = cells.astype(np.int64)
        for j in range(k + 1, len(chain.up)):
            parent = np.where(at >= 0, chain.up[j][at], -1)
            at = np.where((parent >= 0) & wholes[j + 1][parent], parent, -1)
            for n in np.flatnonzero(at >= 0).tolist():
                found[n].append((chain.inner + j, at.item(n)))
        return found


def _firsts(good: Bits, chain: Chain, level: int) -> Bits:
    """(Nc,) the first devices of the whole cells of a level inside a node."""
    size = chain.sizes[level]
    if level == chain.inner - 1:
        full = (1 << size) - 1
        whole: Bits = ((good & full) == full).astype(np.int64)
        return whole
    found, step = good, 1
    while step < size:
        found = found & found >> step
        step *= 2
    firsts: Bits = found & _ALIGNED[size]
    return firsts


def _covered(good: Bits, chain: Chain, level: int) -> Bits:
    """(Nc,) all devices of the whole cells of a level inside a node."""
    covered: Bits = _firsts(good, chain, level) * np.int64((1 << chain.sizes[level]) - 1)
    return covered
