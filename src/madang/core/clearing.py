"""Which holders of devices must leave so that a gang fits, at the least cost: the search, as arrays.

V holders, each with a cost; a *stake* is what one of them holds of one node. On one node the
cheapest holders that free so many devices are a knapsack, solved for all nodes at once; how many
members each node of a domain shall take is a second one, over the nodes. Holders that sit on many
nodes are counted once in full and once in equal parts: the second is a lower bound of any answer.

Promises: `cheapest_on_one` is optimal for one member as long as at most SUBSETS_OF_MAX holders share
the node; every answer is minimal: without any one of the holders there is no room.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.placement import members_room, room_on
from madang.core.pool import Bools, Ints, Place, Pool

FAR = 1 << 62  # no way: more than any sum of costs
COST_MAX = 1 << 46  # of one holder; 8,192 of them stay far from FAR
SUBSETS_OF_MAX = 12  # 4,096 subsets of the holders of one node are looked at, not more
GAIN_ROWS_MAX = 1_024  # nodes among which members are dealt out; the best of each gain are kept


class Holder(Protocol):
    """Somebody who could leave: what it would cost (at least 1), and what it holds."""

    @property
    def cost(self) -> int: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def places(self) -> Sequence[Place]: ...


@dataclass(frozen=True, slots=True)
class Limit:
    """Of these holders only so many members may leave: who (V,) members each counts for, most."""

    members: Ints
    most: int


@dataclass(frozen=True, slots=True)
class Items:
    """What can be had of nodes: I items, each so many whole devices of a row for a cost.

    `who` lists the holders that must all leave for it. Sorted by row, then by cost.
    """

    row: Ints
    gpus: Ints
    cost: Ints
    who: tuple[tuple[int, ...], ...]


class Field:
    """Everybody who could leave, laid out by node. Made once, asked for many gangs."""

    def __init__(self, pool: Pool, holders: Sequence[Holder]) -> None:
        self.pool = pool
        self.holders = holders
        self.cost = np.fromiter((h.cost for h in holders), np.int64, len(holders))
        self.on_row: dict[int, list[int]] = {}
        # Per stake: row, holder, whole devices, CPU and memory that it frees there.
        stakes: list[tuple[int, int, int, int, int]] = []
        self._sharers: dict[tuple[int, int], list[int]] = {}
        for number, holder in enumerate(holders):
            stakes += self._stakes_of(number, holder)
        self.stakes = np.array(stakes, np.int64).reshape(-1, 5)
        for row, number, _, _, _ in stakes:
            self.on_row.setdefault(row, []).append(number)
        held = np.bincount(self.stakes[:, 1], minlength=len(holders))
        self.rows_held = np.maximum(held, 1).astype(np.int64)  # nodes that each is on
        self._add_shared()

    def _stakes_of(self, number: int, holder: Holder) -> list[tuple[int, int, int, int, int]]:
        shape = holder.shape
        whole = shape.gpu_milli == WHOLE_GPU_MILLI
        held: dict[int, tuple[int, int]] = {}
        for row, gpus in holder.places:
            members, devices = held.get(row, (0, 0))
            held[row] = (members + 1, devices + len(gpus))
            for gpu in () if whole else gpus:
                self._sharers.setdefault((row, gpu), []).append(number)
        return [
            (row, number, devices * whole, members * shape.cpu_milli, members * shape.memory_mib)
            for row, (members, devices) in held.items()
        ]

    def _add_shared(self) -> None:
        """Devices that come free whole only if all who share them leave, and can."""
        self.shared: list[tuple[int, tuple[int, ...]]] = []
        self._devices: dict[tuple[int, int], int] = {}  # (row, holder): devices it shares there
        for (row, gpu), who in sorted(self._sharers.items()):
            milli = sum(self.holders[number].shape.gpu_milli for number in who)
            for number in dict.fromkeys(who):
                self._devices[row, number] = self._devices.get((row, number), 0) + 1
            if self.pool.gpu_free.item(row, gpu) + milli == WHOLE_GPU_MILLI:
                self.shared.append((row, tuple(dict.fromkeys(who))))

    def items(self, active: Bools, *, in_parts: bool) -> Items:
        """What the active holders (V,) can free.

        The cost of one who shares devices is spread over those of the node. `in_parts`: everybody's
        is spread over all nodes that he is on. So sums over a node, or over all, are at most what
        it really costs.
        """
        whole = self.stakes[(self.stakes[:, 2] > 0) & active[self.stakes[:, 1]]]
        cost = self.cost // self.rows_held if in_parts else self.cost
        rows, gpus, costs = whole[:, 0], whole[:, 2], cost[whole[:, 1]]
        who: list[tuple[int, ...]] = [(number,) for number in whole[:, 1].tolist()]
        shared = [one for one in self.shared if all(active.item(number) for number in one[1])]
        if shared:
            prices = [
                sum(cost.item(n) // self._devices[row, n] for n in numbers)
                for row, numbers in shared
            ]
            rows = np.concatenate([rows, [row for row, _ in shared]])
            gpus = np.concatenate([gpus, np.ones(len(shared), np.int64)])
            costs = np.concatenate([costs, np.array(prices, np.int64)])
            who += [numbers for _, numbers in shared]
        order = np.lexsort((np.arange(len(rows)), costs, rows))
        return Items(rows[order], gpus[order], costs[order], tuple([who[at] for at in order]))

    def whole_if_gone(self, active: Bools) -> tuple[Ints, Ints, Ints]:
        """(N,) whole devices, CPU and memory free if all active holders had left: at most."""
        n = self.pool.nodes
        mine = self.stakes[active[self.stakes[:, 1]]]
        rows = mine[:, 0]
        whole = self.pool.whole_free + np.bincount(rows, mine[:, 2], n).astype(np.int64)
        shared = [row for row, numbers in self.shared if all(active.item(v) for v in numbers)]
        whole += np.bincount(np.array(shared, np.int64), minlength=n)
        cpu = self.pool.cpu_free + np.bincount(rows, mine[:, 3], n).astype(np.int64)
        memory = self.pool.memory_free + np.bincount(rows, mine[:, 4], n).astype(np.int64)
        return whole, cpu, memory


# -- one node ----------------------------------------------------------------------------------


def freed_at_cost(items: Items, most: int) -> tuple[Ints, Ints]:
    """Rows (U,) and the least cost (U, most + 1) of freeing at least x devices there. 0 for x = 0.

    A knapsack on every row at once: one step for each item that the fullest row has.
    """
    rows, first = np.unique(items.row, return_index=True)
    cost = np.full((len(rows), most + 1), FAR, np.int64)
    cost[:, 0] = 0
    at_row = np.searchsorted(rows, items.row)
    slot = np.arange(len(items.row)) - first[at_row]
    wanted = np.arange(most + 1)
    for step in range(int(slot.max(initial=-1)) + 1):
        here = np.flatnonzero(slot == step)
        before = cost[at_row[here]]
        left = np.maximum(wanted[None, :] - items.gpus[here, None], 0)
        with_it = np.take_along_axis(before, left, 1) + items.cost[here, None]
        cost[at_row[here]] = np.minimum(before, np.minimum(with_it, FAR))
    return rows, cost


def who_frees(items: Items, row: int, gpus: int) -> list[int]:
    """The holders whose leaving frees at least so many devices of a row at the least cost."""
    low, high = np.searchsorted(items.row, [row, row + 1])
    layers = [[0] + [FAR] * gpus]
    for at in range(low, high):
        last, frees, cost = layers[-1], items.gpus.item(at), items.cost.item(at)
        layers.append([min(last[x], last[max(0, x - frees)] + cost) for x in range(gpus + 1)])
    chosen: dict[int, None] = {}
    for step in range(high - low, 0, -1):
        if layers[step][gpus] < layers[step - 1][gpus]:
            chosen.update(dict.fromkeys(items.who[low + step - 1]))
            gpus = max(0, gpus - items.gpus.item(low + step - 1))
    return list(chosen)


_SUBSETS: dict[int, NDArray[np.int64]] = {}


def subsets(count: int) -> NDArray[np.int64]:
    """(2^count, count) every choice among so many: row m holds the bits of m."""
    if count not in _SUBSETS:
        masks = np.arange(1 << count, dtype=np.int64)
        _SUBSETS[count] = masks[:, None] >> np.arange(count) & 1
    return _SUBSETS[count]


class OneNode:
    """Every choice among the holders of one node: what it costs and how many members then fit."""

    def __init__(self, field: Field, row: int, shape: Shape, who: Sequence[Sequence[int]]) -> None:
        """`who`: the units that leave or stay, each one or more holders."""
        pool = field.pool
        self.units = who
        choice = subsets(len(who))
        freed = np.zeros((len(who), pool.gpu_free.shape[1] + 2), np.int64)
        for at, numbers in enumerate(who):
            for number in numbers:
                _add_freed(freed[at], field.holders[number], row)
        now = np.concatenate([pool.gpu_free[row], [pool.cpu_free[row], pool.memory_free[row]]])
        after = choice @ freed + now
        self.room = _room(after[:, :-2], after[:, -2], after[:, -1], shape)
        self.cost = choice @ np.array([sum(field.cost[list(n)].tolist()) for n in who], np.int64)
        self.size = choice.sum(axis=1)

    def forbid(self, limits: Sequence[Limit]) -> None:
        """Leave out what takes down more of a budget than it allows."""
        choice = subsets(len(self.units))
        for limit in limits:
            down = [int(limit.members[list(numbers)].sum()) for numbers in self.units]
            self.room[choice @ np.array(down, np.int64) > limit.most] = -1

    def cheapest(self, members: int) -> tuple[int, list[int]]:
        """The cost of room for so many members and who leaves; FAR if there is none."""
        fits = np.flatnonzero(self.room >= members)
        if not len(fits):
            return FAR, []
        best = int(fits[np.lexsort((fits, self.size[fits], self.cost[fits]))[0]])
        chosen = [n for at, numbers in enumerate(self.units) if best >> at & 1 for n in numbers]
        return int(self.cost[best]), list(dict.fromkeys(chosen))


def _add_freed(cells: NDArray[np.int64], holder: Holder, row: int) -> None:
    for at, gpus in holder.places:
        if at == row:
            for gpu in gpus:
                cells[gpu] += holder.shape.gpu_milli
            cells[-2] += holder.shape.cpu_milli
            cells[-1] += holder.shape.memory_mib


def _room(gpu_free: Ints, cpu: Ints, memory: Ints, shape: Shape) -> Ints:
    """(S,) members that fit in each of S states of one node; at most 2^31."""
    room = np.full(len(cpu), 1 << 31, np.int64)
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        room = (gpu_free == WHOLE_GPU_MILLI).sum(axis=1) // shape.gpus
    elif shape.gpus:
        room = (gpu_free // shape.gpu_milli).sum(axis=1)
    if shape.cpu_milli:
        room = np.minimum(room, cpu // shape.cpu_milli)
    if shape.memory_mib:
        room = np.minimum(room, memory // shape.memory_mib)
    return room


def units_on(field: Field, active: Bools, row: int, shape: Shape) -> list[tuple[int, ...]]:
    """The active holders of a row in units that are worth trying: at most SUBSETS_OF_MAX.

    Where many share the node, those who share one device count as one if whole devices are wanted;
    if shares are wanted, or too many are left, the cheapest are tried.
    """
    who = [number for number in field.on_row.get(row, ()) if active.item(number)]
    if len(who) <= SUBSETS_OF_MAX:
        return [(number,) for number in who]
    units: list[tuple[int, ...]] = [(number,) for number in who]
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        sharing = [n for at, n in field.shared if at == row and all(active.item(v) for v in n)]
        whole = [n for n in who if field.holders[n].shape.gpu_milli == WHOLE_GPU_MILLI]
        units = [(number,) for number in whole] + sharing
    units.sort(key=lambda numbers: (sum(field.cost[list(numbers)].tolist()), numbers))
    return sorted(units[:SUBSETS_OF_MAX])


def cheapest_on_one(
    field: Field, active: Bools, shape: Shape, rows: Bools, limits: Sequence[Limit] = ()
) -> list[int]:
    """Who must leave so that one member fits on one of these rows (N,); empty if nobody's leaving
    helps. Nodes are tried from the least they could cost on, until the rest cannot be cheaper."""
    bound = least_costs(field, active, shape, rows)
    order = np.lexsort((np.arange(len(bound)), bound))
    best_cost, best = FAR, list[int]()
    for row in order.tolist():
        if bound[row] >= best_cost:
            break
        node = OneNode(field, row, shape, units_on(field, active, row, shape))
        if limits:
            node.forbid(limits)
        cost, who = node.cheapest(1)
        if cost < best_cost:
            best_cost, best = cost, who
    return best


def least_costs(field: Field, active: Bools, shape: Shape, rows: Bools) -> Ints:
    """(N,) what room for one member costs there at least; FAR where it cannot be had."""
    bound = np.full(field.pool.nodes, FAR, np.int64)
    mine = field.stakes[active[field.stakes[:, 1]]]
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        items = field.items(active, in_parts=False)
        most = int(field.pool.gpu_usable.max(initial=0))
        held, cost = freed_at_cost(items, most)
        need = np.maximum(shape.gpus - field.pool.whole_free[held], 0)
        bound[held] = np.where(need <= most, cost[np.arange(len(held)), np.minimum(need, most)], FAR)
        # Devices enough, but not the CPU or memory: somebody must leave all the same.
        bound[held[need == 0]] = 0
    np_rows = mine[:, 0]
    cheapest = np.full(field.pool.nodes, FAR, np.int64)
    np.minimum.at(cheapest, np_rows, field.cost[mine[:, 1]])
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        bound = np.where(cheapest < FAR, np.maximum(bound, cheapest), FAR)
    else:
        bound = cheapest
    whole, cpu, memory = field.whole_if_gone(active)
    fits = rows & field.pool.open & (cpu >= shape.cpu_milli) & (memory >= shape.memory_mib)
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        fits &= whole >= shape.gpus
    bound[~fits] = FAR
    return bound


# -- a gang ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Offers:
    """What room costs: rows (U,), room there now (U,), cost (U, R) of room for 1..R more."""

    rows: Ints
    cost: Ints


def offers(field: Field, items: Items, shape: Shape, room: Ints, rows: Bools) -> Offers:
    """What more room costs on each of these rows (N,) for whole devices. `room` (N,) is there now."""
    most = int(field.pool.gpu_usable.max(initial=0))
    held, cost = freed_at_cost(items, most)
    mine = rows[held] & field.pool.open[held]
    held, cost = held[mine], cost[mine]
    gains = np.arange(1, max(1, most // shape.gpus) + 1)
    need = (room[held, None] + gains) * shape.gpus - field.pool.whole_free[held, None]
    need = np.maximum(need, 0)
    price = np.take_along_axis(cost, np.minimum(need, most), 1)
    price[need > most] = FAR
    useful = price[:, 0] < FAR
    return Offers(held[useful], price[useful])


def deal(offered: Offers, members: int) -> tuple[int, list[tuple[int, int]]]:
    """The cheapest way to gain room for so many members: its cost and (row, gain); FAR if none.

    A knapsack over rows, of each the GAIN_ROWS_MAX cheapest for each gain.
    """
    cost, gains = offered.cost, offered.cost.shape[1]
    keep = np.zeros(len(cost), np.bool_)
    for gain in range(gains):
        here = np.flatnonzero(cost[:, gain] < FAR)
        order = here[np.lexsort((here, cost[here, gain]))]
        keep[order[: min(members, GAIN_ROWS_MAX)]] = True
    kept = np.flatnonzero(keep)
    if gains == 1 or members == 1:
        return _deal_singly(offered, kept, members)
    best = np.full(members + 1, FAR, np.int64)
    best[0] = 0
    took = np.zeros((len(kept), members + 1), np.int16)
    wanted = np.arange(members + 1)
    for at, number in enumerate(kept.tolist()):
        before = best.copy()
        for gain in range(1, gains + 1):
            price = cost.item(number, gain - 1)
            if price >= FAR:
                break
            with_it = before[np.maximum(wanted - gain, 0)] + price
            better = with_it < best
            best[better] = with_it[better]
            took[at, better] = gain
    if best[members] >= FAR:
        return FAR, []
    dealt, left = [], members
    for at in range(len(kept) - 1, -1, -1):
        gain = int(took[at, left])
        if gain:
            dealt.append((int(offered.rows[kept[at]]), gain))
            left = max(0, left - gain)
    return int(best[members]), dealt


def _deal_singly(offered: Offers, kept: NDArray[np.intp], members: int) -> tuple[int, list[tuple[int, int]]]:
    """One member more on each of the cheapest rows; of more room than one, as cheap."""
    price = offered.cost[kept, 0]
    order = kept[np.lexsort((kept, price))][:members]
    if len(order) < members:
        return FAR, []
    return int(offered.cost[order, 0].sum()), [(int(offered.rows[at]), 1) for at in order]


def cheapest_for_gang(
    field: Field, active: Bools, shape: Shape, members: int, rows: Bools
) -> list[int]:
    """Who must leave so that so many members fit on these rows; empty if that cannot be had.

    The cheaper of two deals, one with everybody's cost in full on each node, one in equal parts
    over his nodes; each without those who turn out not to be needed.
    """
    best_cost, best = FAR, list[int]()
    room = np.minimum(members_room(field.pool, shape, rows), members)
    missing = members - int(room.sum())
    for in_parts in (False, True):
        items = field.items(active, in_parts=in_parts)
        _, dealt = deal(offers(field, items, shape, room, rows), missing)
        who = {
            number: None
            for row, gain in dealt
            for number in who_frees(items, row, _devices_needed(field, shape, room, row, gain))
        }
        needed = needed_of(field, list(who), shape, members, rows)
        cost = sum(field.cost.item(number) for number in needed)
        if needed and cost < best_cost:
            best_cost, best = cost, needed
    return best


def _devices_needed(field: Field, shape: Shape, room: Ints, row: int, gain: int) -> int:
    devices = (room.item(row) + gain) * shape.gpus - field.pool.whole_free.item(row)
    return int(max(0, devices))


def needed_of(
    field: Field, who: Sequence[int], shape: Shape, members: int, rows: Bools
) -> list[int]:
    """Of these holders the ones without whom there is no room for all members; the dearest are let
    stay first. Empty if even all of them leaving is not enough."""
    trial = field.pool.scratch()
    for number in who:
        _give(trial, field.holders[number])
    room = np.minimum(members_room(trial, shape, rows), members)
    spare = int(room.sum()) - members
    if spare < 0:
        return []
    needed: list[int] = []
    for number in sorted(who, key=lambda n: (-field.cost.item(n), n)):
        holder = field.holders[number]
        trial.take(holder.places, holder.shape)
        lost, after = 0, dict[int, int]()
        for row in {row: None for row, _ in holder.places}:
            if rows.item(row):
                after[row] = min(room_on(trial, row, shape), members)
                lost += int(room[row]) - after[row]
        if lost > spare:
            _give(trial, holder)
            needed.append(number)
            continue
        spare -= lost
        for row, left in after.items():
            room[row] = left
    return sorted(needed)


def _give(pool: Pool, holder: Holder) -> None:
    for place in holder.places:
        pool.give(place, holder.shape)
