"""Who must leave so that a gang fits, at the least cost: the search, as arrays.

V holders, each with a cost; a *stake* is what one of them holds of one node. Which holders free so
many devices of a node at the least cost is a knapsack, solved for all nodes at once; how many
members each node takes is a second one, over the nodes. Whoever sits on many nodes is counted once
in full on each, and once in equal parts: sums of parts are a lower bound of any answer.

Promises: `cheapest_on_one` is optimal where at most SUBSETS_OF_MAX holders share a node; nobody is
named without whom there is room as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.placement import members_room, room_on
from madang.core.pool import Bools, Ints, Place, Pool

FAR = 1 << 62  # there is no way: more than any sum of costs
COST_MAX = 1 << 46  # of one holder; sums of 8,192 of them stay far from FAR
SUBSETS_OF_MAX = 12  # all 4,096 choices among the holders of a node are looked at, not more
ROWS_DEALT_MAX = 1_024  # nodes that members are dealt out to: the cheapest for each gain


class Holder(Protocol):
    """Somebody who could leave: what that costs (1 at least, COST_MAX at most), what it holds."""

    @property
    def cost(self) -> int: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def places(self) -> Sequence[Place]: ...


class Limits:
    """Of the holders under a limit only so many may leave. There may be thousands of limits, and
    most holders are under none or one: only those that bear on who is asked about are looked at.

    `of`: holder → (limit, what he counts for there), of those who are under any; `most`: by limit.
    """

    def __init__(self, of: Mapping[int, Sequence[tuple[int, int]]], most: Sequence[int]) -> None:
        self.of, self.most = of, most

    def broken(self, who: Iterable[int]) -> int:
        """The first limit that does not allow all of these to leave together; -1 if all do."""
        sums: dict[int, int] = {}
        for number in who:
            for limit, count in self.of.get(number, ()):
                sums[limit] = sums.get(limit, 0) + count
        return min((one for one, total in sums.items() if total > self.most[one]), default=-1)

    def allows(self, who: Iterable[int]) -> bool:
        """True iff all of these may leave together."""
        return self.broken(who) < 0

    def never(self) -> list[int]:
        """Whoever alone is too many."""
        return [number for number in self.of if not self.allows((number,))]

    def under(self, limit: int) -> list[int]:
        """Who counts for something there."""
        return [
            number
            for number, counts in self.of.items()
            if any(one == limit and count for one, count in counts)
        ]

    def only(self, limit: int) -> "Limits":
        """That limit alone."""
        of = {n: [c for c in self.of[n] if c[0] == limit] for n in self.under(limit)}
        return Limits(of, self.most)


NO_LIMITS = Limits({}, ())


@dataclass(frozen=True, slots=True)
class Items:
    """What can be had of nodes: I items, each so many whole devices of a row for a cost.

    `who` are the holders that must all leave for it. Sorted by row, then by cost.
    """

    row: Ints
    gpus: Ints
    cost: Ints
    who: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Offers:
    """What room costs: `rows` (U,), and `cost` (U, R) of room for 1..R more members there."""

    rows: Ints
    cost: Ints


class Field:
    """Everybody who could leave, laid out by node. Made once, asked for many gangs.

    Sets of holders are (V,) bools. The pool is given with each question: what was promised since is
    not free in it.
    """

    def __init__(self, holders: Sequence[Holder]) -> None:
        self.holders = holders
        self.cost = np.fromiter((h.cost for h in holders), np.int64, len(holders))
        self.on_row: dict[int, list[int]] = {}
        self._sharers: dict[tuple[int, int], list[int]] = {}
        self._shares: dict[tuple[int, int], int] = {}  # (row, holder): devices it shares there
        stakes = [stake for at, holder in enumerate(holders) for stake in self._stakes(at, holder)]
        # (H, 5): row, holder, and the whole devices, CPU and memory that it frees there.
        self.stakes = np.array(stakes, np.int64).reshape(-1, 5)
        for row, number, *_ in stakes:
            self.on_row.setdefault(row, []).append(number)
        nodes = np.bincount(self.stakes[:, 1], minlength=len(holders)).astype(np.int64)
        self.parts = np.maximum(nodes, 1)
        for (row, _), who in self._sharers.items():
            for number in who:
                self._shares[row, number] = self._shares.get((row, number), 0) + 1

    def _stakes(self, number: int, holder: Holder) -> list[tuple[int, int, int, int, int]]:
        shape, places = holder.shape, holder.places
        is_whole = shape.gpu_milli == WHOLE_GPU_MILLI
        if is_whole and len(places) == 1:  # by far the most, and thousands of them
            row, gpus = places[0]
            return [(row, number, len(gpus), shape.cpu_milli, shape.memory_mib)]
        held: dict[int, tuple[int, int]] = {}
        for row, gpus in places:
            members, devices = held.get(row, (0, 0))
            held[row] = (members + 1, devices + len(gpus) * is_whole)
            for gpu in () if is_whole else gpus:
                sharers = self._sharers.setdefault((row, gpu), [])
                if number not in sharers:
                    sharers.append(number)
        return [
            (row, number, devices, members * shape.cpu_milli, members * shape.memory_mib)
            for row, (members, devices) in held.items()
        ]

    def shared(self, pool: Pool, active: Bools) -> list[tuple[int, tuple[int, ...]]]:
        """(row, holders) of each device that is whole once these, all of them active, have left."""
        found = []
        for (row, gpu), who in sorted(self._sharers.items()):
            if not all(active.item(number) for number in who):
                continue
            held = sum(
                self.holders[number].shape.gpu_milli * gpus.count(gpu)
                for number in who
                for at, gpus in self.holders[number].places
                if at == row
            )
            if pool.gpu_free.item(row, gpu) + held == WHOLE_GPU_MILLI:
                found.append((row, tuple(who)))
        return found

    def items(self, pool: Pool, active: Bools, *, in_parts: bool) -> Items:
        """What the active holders can free.

        The cost of one who shares devices is spread over those of the node; `in_parts`, everybody's
        over all the nodes that he is on: sums are then at most what it really costs.
        """
        whole = self.stakes[(self.stakes[:, 2] > 0) & active[self.stakes[:, 1]]]
        cost = self.cost // self.parts if in_parts else self.cost
        rows, gpus, costs = whole[:, 0], whole[:, 2], cost[whole[:, 1]]
        who: list[tuple[int, ...]] = [(number,) for number in whole[:, 1].tolist()]
        shared = self.shared(pool, active) if self._sharers else []
        if shared:
            price = [sum(cost.item(n) // self._shares[row, n] for n in ns) for row, ns in shared]
            rows = np.concatenate([rows, np.array([row for row, _ in shared], np.int64)])
            gpus = np.concatenate([gpus, np.ones(len(shared), np.int64)])
            costs = np.concatenate([costs, np.array(price, np.int64)])
            who += [numbers for _, numbers in shared]
        order = np.lexsort((np.arange(len(rows)), costs, rows))
        ordered = [who[at] for at in order.tolist()]
        return Items(rows[order], gpus[order], costs[order], tuple(ordered))

    def if_gone(self, pool: Pool, active: Bools) -> tuple[Ints, Ints, Ints]:
        """(N,) whole devices, CPU and memory that would be free if all active holders had left."""
        nodes = pool.nodes
        mine = self.stakes[active[self.stakes[:, 1]]]
        freed = [np.bincount(mine[:, 0], mine[:, at], nodes).astype(np.int64) for at in (2, 3, 4)]
        if self._sharers:
            rows = np.array([row for row, _ in self.shared(pool, active)], np.int64)
            freed[0] += np.bincount(rows, minlength=nodes)
        return pool.whole_free + freed[0], pool.cpu_free + freed[1], pool.memory_free + freed[2]

    def gone(self, pool: Pool, who: Sequence[int]) -> Pool:
        """A what-if of the pool: these have left."""
        trial = pool.scratch()
        for number in who:
            self.give(trial, number)
        return trial

    def give(self, trial: Pool, number: int) -> None:
        """One more leaves the what-if."""
        holder = self.holders[number]
        for place in holder.places:
            trial.give(place, holder.shape)

    def take(self, trial: Pool, number: int) -> None:
        """One comes back into the what-if."""
        holder = self.holders[number]
        trial.take(holder.places, holder.shape)


def wants_whole(shape: Shape) -> bool:
    """True iff a member needs whole devices."""
    return shape.gpus > 0 and shape.gpu_milli == WHOLE_GPU_MILLI


# -- one node ----------------------------------------------------------------------------------


def freed_at_cost(items: Items, most: int) -> tuple[Ints, Ints]:
    """Rows (U,), and the least cost (U, most + 1) of freeing at least x = 0..most devices there.

    A knapsack on every row at once: one step for each item of the row that has most.
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
        cost[at_row[here]] = np.minimum(before, with_it)
    return rows, cost


def who_frees(items: Items, row: int, gpus: int) -> list[int]:
    """The holders whose leaving frees at least so many devices of a row at the least cost."""
    low, high = np.searchsorted(items.row, [row, row + 1]).tolist()
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
    """Every choice among the holders of one node: what it costs, how many members then fit."""

    def __init__(self, field: Field, pool: Pool, row: int, shape: Shape, active: Bools) -> None:
        self.units = _units(field, pool, row, shape, active)
        self._choice = subsets(len(self.units))
        freed = np.zeros((len(self.units), pool.gpu_free.shape[1] + 2), np.int64)
        cost = np.zeros(len(self.units), np.int64)
        for at, numbers in enumerate(self.units):
            for number in numbers:
                _add_freed(freed[at], field.holders[number], row)
                cost[at] += field.cost[number]
        now = np.concatenate([pool.gpu_free[row], [pool.cpu_free[row], pool.memory_free[row]]])
        after = self._choice @ freed + now
        self.room = _room(after[:, :-2], after[:, -2], after[:, -1], shape)
        self.cost = self._choice @ cost

    def forbid(self, limits: Limits) -> None:
        """Leave out the choices that a limit does not allow."""
        found: dict[int, list[int]] = {}
        for at, numbers in enumerate(self.units):
            for number in numbers:
                for limit, count in limits.of.get(number, ()):
                    found.setdefault(limit, [0] * len(self.units))[at] += count
        for limit, counts in found.items():
            if sum(counts) > limits.most[limit]:
                self.room[self._choice @ np.array(counts, np.int64) > limits.most[limit]] = -1

    def cheapest(self, members: int) -> tuple[int, list[int]]:
        """The cost of room for so many members, and who leaves; FAR if there is none."""
        fits = np.flatnonzero(self.room >= members)
        if not len(fits):
            return FAR, []
        size = self._choice[fits].sum(axis=1)
        best = int(fits[np.lexsort((fits, size, self.cost[fits]))[0]])
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
    """(S,) members that fit in each of S states of one node, given its devices (S, G)."""
    room = np.full(len(cpu), 1 << 31, np.int64)
    if wants_whole(shape):
        room = (gpu_free == WHOLE_GPU_MILLI).sum(axis=1) // shape.gpus
    elif shape.gpus:
        room = (gpu_free // shape.gpu_milli).sum(axis=1)
    if shape.cpu_milli:
        room = np.minimum(room, cpu // shape.cpu_milli)
    if shape.memory_mib:
        room = np.minimum(room, memory // shape.memory_mib)
    return room


def _units(
    field: Field, pool: Pool, row: int, shape: Shape, active: Bools
) -> list[tuple[int, ...]]:
    """The active holders of a row, as units that leave together: SUBSETS_OF_MAX at most.

    Where more share the node, those who share a device are one unit if whole devices are wanted,
    and the cheapest units are looked at.
    """
    who = [number for number in field.on_row.get(row, ()) if active.item(number)]
    units: list[tuple[int, ...]] = [(number,) for number in who]
    if len(units) <= SUBSETS_OF_MAX:
        return units
    if wants_whole(shape):
        units = [u for u in units if field.holders[u[0]].shape.gpu_milli == WHOLE_GPU_MILLI]
        units += [numbers for at, numbers in field.shared(pool, active) if at == row]
    units.sort(key=lambda numbers: (sum(field.cost.item(n) for n in numbers), numbers))
    return units[:SUBSETS_OF_MAX]


def cheapest_on_one(
    field: Field,
    pool: Pool,
    active: Bools,
    shape: Shape,
    rows: Bools,
    limits: Limits = NO_LIMITS,
) -> list[int]:
    """Who must leave so that one member fits on one of these rows (N,); empty if nothing helps.

    Rows are tried from the one that could be cheapest, until the rest cannot be cheaper.
    """
    bound = least_costs(field, pool, active, shape, rows)
    best_cost, best = FAR, list[int]()
    for row in np.lexsort((np.arange(len(bound)), bound)).tolist():
        if bound[row] >= best_cost:
            break
        node = OneNode(field, pool, row, shape, active)
        node.forbid(limits)
        cost, who = node.cheapest(1)
        if cost < best_cost:
            best_cost, best = cost, who
    return best


def least_costs(field: Field, pool: Pool, active: Bools, shape: Shape, rows: Bools) -> Ints:
    """(N,) what room for one member costs there at least; FAR where it cannot be had."""
    bound = np.full(pool.nodes, FAR, np.int64)
    mine = field.stakes[active[field.stakes[:, 1]]]
    np.minimum.at(bound, mine[:, 0], field.cost[mine[:, 1]])  # somebody must leave
    whole, cpu, memory = field.if_gone(pool, active)
    fits = rows & pool.open & (cpu >= shape.cpu_milli) & (memory >= shape.memory_mib)
    if wants_whole(shape):
        fits &= whole >= shape.gpus
        held, cost = freed_at_cost(field.items(pool, active, in_parts=False), shape.gpus)
        need = np.maximum(shape.gpus - pool.whole_free[held], 0)
        bound[held] = np.maximum(bound[held], cost[np.arange(len(held)), need])
    bound[~fits] = FAR
    return bound


# -- a gang ------------------------------------------------------------------------------------


class Gang:
    """The search for room for `members` members of one shape; domain by domain."""

    def __init__(self, field: Field, pool: Pool, active: Bools, shape: Shape, members: int) -> None:
        self.field, self.pool, self.active = field, pool, active
        self.shape, self.members = shape, members
        self._room = np.minimum(members_room(pool, shape), members)
        self._if_gone = self._room_if_gone()
        self._items = {
            in_parts: field.items(pool, active, in_parts=in_parts) for in_parts in (False, True)
        }
        self._offers = {in_parts: self._offered(in_parts) for in_parts in (False, True)}

    def without(self, spared: Bools) -> "Gang":
        """The same search if these holders (V,) stay."""
        return Gang(self.field, self.pool, self.active & ~spared, self.shape, self.members)

    def _room_if_gone(self) -> Ints:
        """(N,) members that fit at most once everybody active has left; shares are guessed high."""
        shape, pool = self.shape, self.pool
        whole, cpu, memory = self.field.if_gone(pool, self.active)
        room = np.full(pool.nodes, self.members, np.int64)
        if wants_whole(shape):
            room = whole // shape.gpus
        elif shape.gpus:
            room = pool.gpu_usable * np.int64(WHOLE_GPU_MILLI // shape.gpu_milli)
        if shape.cpu_milli:
            room = np.minimum(room, cpu // shape.cpu_milli)
        if shape.memory_mib:
            room = np.minimum(room, memory // shape.memory_mib)
        room[~pool.open] = 0
        return np.minimum(room, self.members)

    def _offered(self, in_parts: bool) -> Offers:
        """What more room costs on each row. Shares and bare CPUs: looked at node by node."""
        if not wants_whole(self.shape):
            return self._offered_one_by_one(in_parts)
        most = int(self.pool.gpu_usable.max(initial=0))
        rows, cost = freed_at_cost(self._items[in_parts], most)
        gains = np.arange(1, max(1, most // self.shape.gpus) + 1)
        need = (self._room[rows, None] + gains) * self.shape.gpus
        need = np.maximum(need - self.pool.whole_free[rows, None], 0)
        price = np.take_along_axis(cost, np.minimum(need, most), 1)
        price[need > most] = FAR
        price[self._room[rows, None] + gains > self._if_gone[rows, None]] = FAR
        return Offers(rows, price)

    def _offered_one_by_one(self, in_parts: bool) -> Offers:
        rows = np.array(sorted(self.field.on_row), np.int64)
        rows = rows[self._if_gone[rows] > self._room[rows]]
        most = int((self._if_gone - self._room)[rows].max(initial=1))
        price = np.full((len(rows), most), FAR, np.int64)
        for at, row in enumerate(rows.tolist()):
            node = OneNode(self.field, self.pool, row, self.shape, self.active)
            for gain in range(most):
                cost, who = node.cheapest(self._room.item(row) + gain + 1)
                if cost == FAR:
                    break
                price[at, gain] = sum(self._cost(number, in_parts) for number in who)
        return Offers(rows, price)

    def _cost(self, number: int, in_parts: bool) -> int:
        cost = self.field.cost.item(number)
        return cost // self.field.parts.item(number) if in_parts else cost

    def least_cost(self, rows: Bools) -> int:
        """What room for the gang on these rows (N,) costs at least; FAR if it cannot be had."""
        missing = self.members - int(self._room[rows].sum())
        if int(self._if_gone[rows].sum()) < self.members:
            return FAR
        offered = self._offers[True]
        price = offered.cost[rows[offered.rows]]
        gains = np.arange(1, price.shape[1] + 1)
        each = np.where(price < FAR, price // gains, FAR).min(axis=1, initial=FAR)
        room = (price < FAR).sum(axis=1)
        order = np.argsort(each, kind="stable")
        left = missing - np.concatenate([[0], np.cumsum(room[order])[:-1]])
        takes = np.clip(left, 0, room[order])
        return int((np.where(takes > 0, each[order], 0) * takes).sum())

    def cheapest(self, rows: Bools) -> list[int]:
        """Who must leave so that the gang fits on these rows; empty if nothing helps.

        The cheaper of two deals, everybody's cost in full on each node and in equal parts, each
        without those who turn out not to be needed.
        """
        best_cost, best = FAR, list[int]()
        missing = self.members - int(self._room[rows].sum())
        if missing <= 0:
            return []
        for in_parts in (False, True):
            offered = self._offers[in_parts]
            here = rows[offered.rows]
            dealt = deal(Offers(offered.rows[here], offered.cost[here]), missing)
            who = {n: None for row, gain in dealt for n in self._who(in_parts, row, gain)}
            needed = needed_of(self, list(who), rows)
            cost = sum(self.field.cost.item(number) for number in needed)
            if needed and cost < best_cost:
                best_cost, best = cost, needed
        return best

    def _who(self, in_parts: bool, row: int, gain: int) -> list[int]:
        room = self._room.item(row) + gain
        if wants_whole(self.shape):
            devices = room * self.shape.gpus - self.pool.whole_free.item(row)
            who = who_frees(self._items[in_parts], row, max(0, devices))
            if self._fits(row, room, who):
                return who
        node = OneNode(self.field, self.pool, row, self.shape, self.active)
        return node.cheapest(room)[1]

    def _fits(self, row: int, room: int, who: Sequence[int]) -> bool:
        """True iff the row has room for so many once these have left: also CPU and memory."""
        holders = [self.field.holders[number] for number in who]
        cpu, memory = self.pool.cpu_free.item(row), self.pool.memory_free.item(row)
        for holder in holders:
            members = sum(at == row for at, _ in holder.places)
            cpu += members * holder.shape.cpu_milli
            memory += members * holder.shape.memory_mib
        return cpu >= room * self.shape.cpu_milli and memory >= room * self.shape.memory_mib


def deal(offered: Offers, members: int) -> list[tuple[int, int]]:
    """The cheapest way to gain room for so many members: (row, gain); empty if there is none.

    A knapsack over the rows.
    """
    cost, gains = offered.cost, offered.cost.shape[1]
    keep = np.zeros(len(cost), np.bool_)
    for gain in range(gains):
        here = np.flatnonzero(cost[:, gain] < FAR)
        order = here[np.lexsort((here, cost[here, gain]))]
        keep[order[: min(members, ROWS_DEALT_MAX)]] = True
    kept = np.flatnonzero(keep).tolist()
    best = np.full(members + 1, FAR, np.int64)
    best[0] = 0
    took = np.zeros((len(kept), members + 1), np.int16)
    wanted = np.arange(members + 1)
    if gains == 1:
        kept.sort(key=lambda at: (cost.item(at, 0), at))
        return [(offered.rows.item(at), 1) for at in kept[:members]] if len(kept) >= members else []
    for at, number in enumerate(kept):
        before = best.copy()
        for gain in range(1, gains + 1):
            price = cost.item(number, gain - 1)
            if price < FAR:
                with_it = before[np.maximum(wanted - gain, 0)] + price
                better = with_it < best
                best[better] = with_it[better]
                took[at, better] = gain
    if best[members] >= FAR:
        return []
    dealt, left = [], members
    for at in range(len(kept) - 1, -1, -1):
        if gain := int(took[at, left]):
            dealt.append((offered.rows.item(kept[at]), gain))
            left = max(0, left - gain)
    return dealt


def needed_of(gang: Gang, who: Sequence[int], rows: Bools) -> list[int]:
    """Of these holders the ones without whom the gang has no room on these rows; empty if it has
    none even without all of them. The dearest are let stay first."""
    field, members = gang.field, gang.members
    trial = field.gone(gang.pool, who)
    room = np.minimum(members_room(trial, gang.shape, rows), members)
    spare = int(room.sum()) - members
    if spare < 0:
        return []
    needed: list[int] = []
    for number in sorted(who, key=lambda n: (-field.cost.item(n), n)):
        field.take(trial, number)
        after = {
            row: min(room_on(trial, row, gang.shape), members)
            for row in {row: None for row, _ in field.holders[number].places}
            if rows.item(row)
        }
        lost = sum(int(room[row]) - left for row, left in after.items())
        if lost > spare:
            field.give(trial, number)
            needed.append(number)
            continue
        spare -= lost
        for row, left in after.items():
            room[row] = left
    return sorted(needed)
