"""What is free, as arrays: the scheduler's picture of every device of every node.

N nodes, G devices of the largest node. A snapshot's pool is read-only; a what-if works on its own
`scratch()`, one copy of the free arrays (microseconds at 100,000 GPUs), so nothing is ever undone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madang.core.model import WHOLE_GPU_MILLI, Node, Shape

Ints = NDArray[np.int64]
SmallInts = NDArray[np.int32]
Codes = NDArray[np.int16]
Bools = NDArray[np.bool_]
Place = tuple[int, tuple[int, ...]]  # a node's row and the devices taken there, for one member

MOVING = ("gpu_free", "whole_free", "cpu_free", "memory_free", "tenants")
SUSPICION_MAX = 1 << 12  # suspicion beyond it counts as much
DOUBT_MAX = 255  # of a domain all of whose nodes are suspects
CHANGES_MAX = 1 << 15  # beyond it a follower reads all rows anew, which costs it no more
MANY = 16  # places, from which on it is cheaper to take them by arrays than one by one
SOLE = 1 << 20  # what a member that wants its node for its job alone counts among the tenants


@dataclass(slots=True)
class Taken:
    """What members hold of one node. `gpu_milli` maps a device to what is held of it."""

    gpu_milli: dict[int, int] = field(default_factory=dict)
    cpu_milli: int = 0
    memory_mib: int = 0
    tenants: int = 0

    def add(self, shape: Shape, gpus: tuple[int, ...]) -> None:
        self.cpu_milli += shape.cpu_milli
        self.memory_mib += shape.memory_mib
        self.tenants += SOLE if shape.exclusive else 1
        for gpu in gpus:
            self.gpu_milli[gpu] = self.gpu_milli.get(gpu, 0) + shape.gpu_milli


@dataclass(slots=True)
class Changes:
    """Which rows of a pool were written, in order, and what others keep that is derived of rows.

    Whoever reads `rows` remembers how far it came, and in which `round`: beyond `CHANGES_MAX` the
    list begins anew. `base` is the pool that this one was a copy of when `base.changes` stood at
    `base_at` (round, rows).
    """

    rows: list[int] = field(default_factory=list)
    round: int = 0
    kept: dict[Any, Any] = field(default_factory=dict)
    base: "Pool | None" = None
    base_at: tuple[int, int] = (0, 0)

    def note(self, row: int) -> None:
        if len(self.rows) >= CHANGES_MAX:
            self.rows.clear()
            self.round += 1
        self.rows.append(row)


@dataclass(frozen=True, slots=True)
class Need:
    """What some places take of these rows (R,) of a pool: `gpu_milli` (R, G), the others (R,)."""

    rows: Ints
    gpu_milli: SmallInts
    cpu_milli: Ints
    memory_mib: Ints
    tenants: SmallInts


@dataclass(frozen=True, slots=True)
class Pool:
    """Capacity and what is left of it.

    `gpu_free` (N, G) int32: GPU-milli left per device, 0 where there is no healthy device.
    `whole_free` (N,) int32: devices left whole. `gpu_count` (N,) int32: devices that exist;
    `gpu_usable` (N,) int32: those of them that are healthy.
    `cpu_free`, `memory_free` (N,) int64: milli-cores and MiB left; `*_total` what there is.
    `model`, `group` (N,) int16: codes into the state's names; model 0 is "no GPU".
    `open` (N,) bool: takes new members. `zone` (N,) int16: code of its zone, 0 is public.
    `suspicion` (N,) int32: what speaks against the node, 0 is nothing; `avoid` (N,) int32 the same
    with what speaks against its domains, the more the later it is taken.
    `tenants` (N,) int32: members there, each of an exclusive job counted as `SOLE`.
    `changes`: what was written, where somebody follows it; None elsewhere. Only `take`, `give`,
    `block` and `write_row` tell it, so a pool whose arrays are written otherwise must have None.
    `open_to_all`: what `open` is without the rows that were closed to somebody; None if it is that.
    `domains` (N, D) int32: codes of its network domains from the root down, -1 where it has none;
    D is the depth of the deepest tree, at least 1.
    """

    gpu_free: SmallInts
    whole_free: SmallInts
    gpu_count: SmallInts
    gpu_usable: SmallInts
    cpu_free: Ints
    memory_free: Ints
    cpu_total: Ints
    memory_total: Ints
    model: Codes
    group: Codes
    open: Bools
    zone: Codes
    suspicion: SmallInts
    domains: SmallInts
    avoid: SmallInts
    tenants: SmallInts
    changes: Changes | None = None
    open_to_all: Bools | None = None

    @property
    def nodes(self) -> int:
        return len(self.gpu_count)

    def rows(self, nodes: int) -> "Pool":
        """The first rows, as views of the same arrays."""
        return Pool(**{name: getattr(self, name)[:nodes] for name in ARRAYS})

    def scratch(self) -> "Pool":
        """A copy that may be written to: what moves is copied, what stands still is shared."""
        moving = {name: getattr(self, name).copy() for name in MOVING}
        return replace(self, changes=None, **moving)

    def followed(self, base: "Pool | None" = None) -> "Pool":
        """The same arrays, and from now on a note of every row that is written.

        Args:
            base: the pool that this is a fresh copy of, if that is followed, too.
        """
        changes = Changes()
        if base is not None and base.changes is not None:
            changes.base = base
            changes.base_at = (base.changes.round, len(base.changes.rows))
        return replace(self, changes=changes)

    def with_open(self, rows: Bools) -> "Pool":
        """The same pool with only these rows taking new members; all else is shared."""
        everyone = self.open if self.open_to_all is None else self.open_to_all
        return replace(self, open=rows, open_to_all=everyone)

    def frozen(self) -> "Pool":
        """A read-only copy: what happens to this pool does not show there."""
        return Pool(**{name: getattr(self, name).copy() for name in ARRAYS}).read_only().followed()

    def read_only(self) -> "Pool":
        """The same arrays, in the hands of someone who may not write to them."""
        views: dict[str, Any] = {name: getattr(self, name).view() for name in ARRAYS}
        for array in views.values():
            array.flags.writeable = False
        return Pool(**views, changes=self.changes)

    def take(self, places: Sequence[Place], shape: Shape) -> None:
        """Take the places in this pool, which must be a scratch or the state's own."""
        if len(places) >= MANY and shape.gpu_milli == WHOLE_GPU_MILLI:
            self._take_many(places, shape)
            return
        tenant = SOLE if shape.exclusive else 1
        for row, gpus in places:
            cells, broken = self.gpu_free[row], 0
            for gpu in gpus:
                left = cells.item(gpu)
                assert left >= shape.gpu_milli, f"took a GPU that was not free: {row}/{gpu} {left}"
                broken += left == WHOLE_GPU_MILLI
                cells[gpu] = left - shape.gpu_milli
            self.whole_free[row] -= broken
            self.cpu_free[row] -= shape.cpu_milli
            self.memory_free[row] -= shape.memory_mib
            self.tenants[row] += tenant
            if self.changes is not None:
                self.changes.note(row)

    def _take_many(self, places: Sequence[Place], shape: Shape) -> None:
        """`take` whole devices, all at once: a tenth of the time."""
        rows = np.array([row for row, _ in places])
        held = [len(gpus) for _, gpus in places]
        cells = np.repeat(rows, held), np.array([gpu for _, gpus in places for gpu in gpus], int)
        np.subtract.at(self.gpu_free, cells, WHOLE_GPU_MILLI)
        assert self.gpu_free[cells].min(initial=0) >= 0, f"took GPUs that were not free: {places}"
        np.subtract.at(self.whole_free, rows, held)
        np.subtract.at(self.cpu_free, rows, shape.cpu_milli)
        np.subtract.at(self.memory_free, rows, shape.memory_mib)
        np.add.at(self.tenants, rows, SOLE if shape.exclusive else 1)
        if self.changes is not None:
            for row in rows.tolist():
                self.changes.note(row)

    def block(self, places: Sequence[Place], shape: Shape) -> None:
        """Take of the places what is free of them: a promise that is not all there yet.

        What is not free now is in the hands of those who leave for it, so nothing goes below 0.
        """
        tenant = SOLE if shape.exclusive else 1
        for row, gpus in places:
            for gpu in gpus:
                left = self.gpu_free.item(row, gpu)
                self.whole_free[row] -= left == WHOLE_GPU_MILLI
                self.gpu_free[row, gpu] = max(0, left - shape.gpu_milli)
            self.cpu_free[row] = max(0, self.cpu_free.item(row) - shape.cpu_milli)
            self.memory_free[row] = max(0, self.memory_free.item(row) - shape.memory_mib)
            self.tenants[row] += tenant
            if self.changes is not None:
                self.changes.note(row)

    def need_of(self, places: Sequence[Place], shape: Shape) -> Need:
        """The places as arrays, for whoever blocks them many times."""
        rows, at, members = np.unique(
            np.array([row for row, _ in places], np.int64), return_inverse=True, return_counts=True
        )
        held = [len(gpus) for _, gpus in places]
        gpus = np.array([gpu for _, gpus in places for gpu in gpus], np.int64)
        gpu_milli = np.zeros((len(rows), self.gpu_free.shape[1]), np.int32)
        np.add.at(gpu_milli, (np.repeat(at, held), gpus), shape.gpu_milli)
        tenants = members * (SOLE if shape.exclusive else 1)
        return Need(
            rows,
            gpu_milli,
            members * shape.cpu_milli,
            members * shape.memory_mib,
            tenants.astype(np.int32),
        )

    def block_all(self, needs: Sequence[Need]) -> None:
        """`block` each of the needs; their order does not matter. Nobody may follow this pool."""
        assert self.changes is None, "rows were written that those who follow the pool do not see"
        for need in needs:
            rows = need.rows
            left = np.maximum(self.gpu_free[rows] - need.gpu_milli, 0)
            self.gpu_free[rows] = left
            self.whole_free[rows] = (left == WHOLE_GPU_MILLI).sum(axis=1)
            self.cpu_free[rows] = np.maximum(self.cpu_free[rows] - need.cpu_milli, 0)
            self.memory_free[rows] = np.maximum(self.memory_free[rows] - need.memory_mib, 0)
            self.tenants[rows] += need.tenants

    def has_free(self, places: Sequence[Place], shape: Shape) -> bool:
        """True iff all the places could be taken now."""
        members = Counter(row for row, _ in places)
        devices = Counter((row, gpu) for row, gpus in places for gpu in gpus)
        return (
            all(len(gpus) == shape.gpus for _, gpus in places)
            and all(self.gpu_free.item(at) >= n * shape.gpu_milli for at, n in devices.items())
            and all(
                self.open.item(row)
                and self.tenants.item(row) < (1 if shape.exclusive else SOLE)
                and self.cpu_free.item(row) >= n * shape.cpu_milli
                and self.memory_free.item(row) >= n * shape.memory_mib
                for row, n in members.items()
            )
        )

    def could_ever_hold(self, places: Sequence[Place], shape: Shape) -> bool:
        """True iff the nodes are open, have the devices, and have as much CPU and memory at all."""
        members = Counter(row for row, _ in places)
        return all(len(gpus) == shape.gpus for _, gpus in places) and all(
            self.open.item(row)
            and self.cpu_total.item(row) >= n * shape.cpu_milli
            and self.memory_total.item(row) >= n * shape.memory_mib
            for row, n in members.items()
        )

    def give(self, place: Place, shape: Shape) -> None:
        """Give one member's place back. Ill devices are not part of a place: they stay at 0."""
        row, gpus = place
        cells, mended = self.gpu_free[row], 0
        for gpu in gpus:
            left = cells.item(gpu) + shape.gpu_milli
            assert left <= WHOLE_GPU_MILLI, f"gave back a GPU that was not taken: {row}/{gpu}"
            cells[gpu] = left
            mended += left == WHOLE_GPU_MILLI
        self.whole_free[row] += mended
        self.cpu_free[row] += shape.cpu_milli
        self.memory_free[row] += shape.memory_mib
        self.tenants[row] -= SOLE if shape.exclusive else 1
        if self.changes is not None:
            self.changes.note(row)

    def write_row(self, row: int, node: Node, taken: Taken) -> None:
        """A node's capacity, less what is taken of it; a device that is not usable stays at 0."""
        self.gpu_count[row] = node.gpus
        self.gpu_usable[row] = node.usable.bit_count()
        self.cpu_total[row] = node.cpu_milli
        self.memory_total[row] = node.memory_mib
        for gpu in range(self.gpu_free.shape[1]):
            there = node.usable >> gpu & 1
            left = WHOLE_GPU_MILLI - taken.gpu_milli.get(gpu, 0)
            self.gpu_free[row, gpu] = left if there else 0
        self.whole_free[row] = int((self.gpu_free[row] == WHOLE_GPU_MILLI).sum())
        self.cpu_free[row] = node.cpu_milli - taken.cpu_milli
        self.memory_free[row] = node.memory_mib - taken.memory_mib
        self.tenants[row] = taken.tenants
        if self.changes is not None:
            self.changes.note(row)


def avoided(pool: Pool) -> SmallInts:
    """(N,) how much each node is to be avoided: by its own suspicion, then by its domains'.

    One suspect speaks for itself; from two on in one domain the switch is in doubt, too, in
    proportion to how many of its nodes they are.
    """
    own = np.minimum(pool.suspicion, SUSPICION_MAX).astype(np.int64)
    doubt = np.zeros(pool.nodes, np.int64)
    for codes in pool.domains.T:
        named = codes >= 0
        there = codes[named]
        nodes, suspects = np.bincount(there), np.bincount(there, weights=own[named] > 0)
        share = np.where(suspects > 1, suspects.astype(np.int64) * DOUBT_MAX, 0)
        share //= np.maximum(nodes, 1)
        doubt[named] = np.maximum(doubt[named], share[there])
    avoid: SmallInts = (own * (DOUBT_MAX + 1) + doubt).astype(np.int32)
    return avoid


_BESIDES = ("changes", "open_to_all")
ARRAYS = tuple(name for name in Pool.__dataclass_fields__ if name not in _BESIDES)


def empty_pool() -> Pool:
    """A pool without nodes."""
    return Pool(
        gpu_free=np.zeros((0, 1), np.int32),
        whole_free=np.zeros(0, np.int32),
        gpu_count=np.zeros(0, np.int32),
        gpu_usable=np.zeros(0, np.int32),
        cpu_free=np.zeros(0, np.int64),
        memory_free=np.zeros(0, np.int64),
        cpu_total=np.zeros(0, np.int64),
        memory_total=np.zeros(0, np.int64),
        model=np.zeros(0, np.int16),
        group=np.zeros(0, np.int16),
        open=np.zeros(0, np.bool_),
        zone=np.zeros(0, np.int16),
        suspicion=np.zeros(0, np.int32),
        domains=np.full((0, 1), -1, np.int32),
        avoid=np.zeros(0, np.int32),
        tenants=np.zeros(0, np.int32),
    )


def widened(pool: Pool, *, nodes: int, gpus: int, levels: int) -> Pool:
    """The pool with room for more nodes, wider ones or a deeper tree; new cells are empty."""
    arrays: dict[str, Any] = {}
    widths = {"gpu_free": gpus, "domains": levels}
    for name in ARRAYS:
        old = getattr(pool, name)
        shape = (nodes, widths[name]) if name in widths else (nodes,)
        new = np.full(shape, -1 if name == "domains" else 0, old.dtype)
        new[tuple(slice(length) for length in old.shape)] = old
        arrays[name] = new
    return Pool(**arrays)
