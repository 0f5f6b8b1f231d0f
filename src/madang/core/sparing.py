"""Whom windows can do without: told by sums where these tell, so that few are placed anew for it.

Each of those who may be asked to leave is looked at one after the other: would the windows have as
many members if he stayed? To place them all again for each would cost a plan seconds where hundreds
have to leave. Sums answer nearly always. If he fits beside their places, nothing moves (windows.py
promises that). And what all rows together have room for bounds how many members there can be.

Promises: the same answers as placing anew.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.placement import members_room, room_on
from madang.core.pool import Bools, Ints, Pool
from madang.core.windows import Places, Sites, Want


@dataclass(slots=True)
class _Room:
    """How many members of a shape some rows (None: all) have room for, together: `total`.

    `weights`: how much of it a member of each window takes at least.
    """

    shape: Shape
    rows: Bools | None
    weights: list[int]
    on: Ints
    total: int

    def look(self, pool: Pool, row: int) -> None:
        """The row may have changed."""
        if self.rows is None or self.rows.item(row):
            room = room_on(pool, row, self.shape)
            self.total += room - self.on.item(row)
            self.on[row] = room


class Bounds:
    """How many members windows can have at most in a pool that changes row by row."""

    def __init__(self, sites: Sites, pool: Pool, wants: Sequence[Want]) -> None:
        self.wants = wants
        rows = [sites.rows_of(pool, want) for want in wants]
        self.single: list[_Room] = []
        for at, want in enumerate(wants):
            weights = [int(at == other) for other in range(len(wants))]
            self.single.append(_room(pool, want.shape, rows[at], weights))
        shapes = list(dict.fromkeys(want.shape for want in wants))
        self.joint: list[_Room] = []
        for shape in shapes if len(wants) > 1 else ():
            weights = [int(want.shape == shape) for want in wants]
            if sum(weights) > 1:
                self.joint.append(_room(pool, shape, _any_of(rows, weights), weights))
        units = list(dict.fromkeys(Shape(shape.gpus, shape.gpu_milli) for shape in shapes))
        for unit in units if len(shapes) > 1 else ():
            weights = [_units(want.shape, unit) for want in wants]
            self.joint.append(_room(pool, unit, _any_of(rows, weights), weights))

    def look(self, pool: Pool, rows: Iterable[int]) -> None:
        """These rows of the pool may have changed."""
        for row in set(rows):
            for room in (*self.single, *self.joint):
                room.look(pool, row)

    def fall_short(self, counts: Sequence[int]) -> bool:
        """True if windows surely have fewer members than these: a list that is smaller.

        As long as nobody before it can have more, one that must have fewer makes the list smaller.
        """
        last = len(counts) - 1
        for at, (want, room, count) in enumerate(zip(self.wants, self.single, counts, strict=True)):
            most = min(want.members, room.total)
            if most < count:
                return True
            if most > count:
                last = at
                break
        return any(
            room.total < sum(map(int.__mul__, room.weights[: last + 1], counts))
            for room in self.joint
        )


def _room(pool: Pool, shape: Shape, rows: Bools | None, weights: list[int]) -> _Room:
    on = members_room(pool, shape, rows)
    return _Room(shape, rows, weights, on, int(on.sum()))


def _any_of(rows: Sequence[Bools | None], weights: Sequence[int]) -> Bools | None:
    """The rows that any of the windows with a weight may use."""
    used = [one for one, weight in zip(rows, weights, strict=True) if weight]
    masks = [one for one in used if one is not None]
    if len(masks) < len(used):
        return None
    either: Bools = np.logical_or.reduce(masks)
    return either


def _units(shape: Shape, unit: Shape) -> int:
    """How many members of `unit`, which asks for devices only, are lost where one of `shape` is."""
    if unit.gpu_milli < WHOLE_GPU_MILLI:
        return shape.gpus * (shape.gpu_milli // unit.gpu_milli)
    return shape.gpus // unit.gpus if shape.gpu_milli == WHOLE_GPU_MILLI else 0


class Sparing:
    """The places of windows in a pool to which who could leave comes back, one by one.

    `found` is where they are now, `pool` what there is without those who stay.
    """

    def __init__(self, sites: Sites, pool: Pool, wants: Sequence[Want]) -> None:
        self.sites, self.pool, self.wants = sites, pool, wants
        self.bounds = Bounds(sites, pool, wants)
        self.found: list[Places] = []
        self._place()

    def _place(self) -> None:
        left = self.pool.scratch()
        self._now_at(self.sites.taken_in_turn(left, self.wants), left)

    def _now_at(self, found: list[Places], left: Pool) -> None:
        self.found, self._left = found, left
        self.counts = [len(places) for places in found]
        self._rows = {row for places in found for row, _ in places}
        self._alone = {
            row
            for want, places in zip(self.wants, found, strict=True)
            if want.shape.exclusive
            for row, _ in places
        }

    def stays(self, places: Places, shape: Shape) -> bool:
        """Let this stay if the windows have as many members then. True iff it does."""
        rows = [row for row, _ in places]
        self.pool.take(places, shape)
        if self._rows.isdisjoint(rows) or self._fits_beside(places, shape):
            self._left.take(places, shape)
            self.bounds.look(self.pool, rows)
            return True
        self.bounds.look(self.pool, rows)
        if not self.bounds.fall_short(self.counts):
            left = self.pool.scratch()
            beside = self.sites.taken_in_turn(left, self.wants)
            if [len(some) for some in beside] >= self.counts:
                self._now_at(beside, left)
                return True
        for place in places:
            self.pool.give(place, shape)
        self.bounds.look(self.pool, rows)
        return False

    def _fits_beside(self, places: Places, shape: Shape) -> bool:
        """True if it leaves the windows' places as they are, which then are the first still.

        Not where cells are promised: which rows these close depends on what is taken.
        """
        if self.sites.snapshot.cells is not None:
            return False
        left, members = self._left, Counter(row for row, _ in places)
        devices = Counter((row, gpu) for row, gpus in places for gpu in gpus)
        return all(left.gpu_free.item(at) >= n * shape.gpu_milli for at, n in devices.items()) and (
            all(
                not shape.exclusive
                and row not in self._alone
                and left.cpu_free.item(row) >= n * shape.cpu_milli
                and left.memory_free.item(row) >= n * shape.memory_mib
                for row, n in members.items()
                if row in self._rows
            )
        )
