"""Which devices a gang gets: all of its members' or none.

MostAllocated packing (NAVER NSML, DEVIEW 2023): the fullest node that fits comes first, so that
small jobs do not break whole nodes. A gang takes one node if one holds it, else the fewest. All
keys are integers and end with the node's row: the order is total and the same on every machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.model import WHOLE_GPU_MILLI, Shape
from madang.core.pool import SOLE, Bools, Ints, Place, Pool, SmallInts

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No room now: `room` members of the gang would fit, `nodes` nodes could hold one."""

    room: int
    nodes: int


def place(
    pool: Pool, shape: Shape, members: int, eligible: Bools | None = None
) -> tuple[Place, ...] | Unplaced:
    """One (row, devices) per member in rank order, or why not.

    Args:
        eligible: (N,) rows that may be used at all (model, group); None means every row.
    """
    fits = room_for_one(pool, shape, eligible)
    if members == 1:
        row = _fullest(pool, np.flatnonzero(fits))
        return Unplaced(0, 0) if row < 0 else (seats_on(pool, row, 1, shape)[0],)
    room = members_room(pool, shape, eligible, fits)
    np.minimum(room, members, out=room)
    total = int(room.sum())
    if total < members:
        return Unplaced(total, int(np.count_nonzero(room)))
    places: list[Place] = []
    for row, count in _fewest_nodes(pool, room, members):
        places += seats_on(pool, row, count, shape)
    return tuple(places)


def spread(
    pool: Pool, shape: Shape, members: range, nodes: int, eligible: Bools | None = None
) -> tuple[Place, ...] | Unplaced:
    """One (row, devices) per member: over so many nodes as far as there are any, then packed.

    As many members as there is room for, one of the numbers of `members`. One goes to each of the
    `nodes` fullest nodes that take one; the others join them while there is room, and go to the
    fewest further nodes then. Ranks of one node are consecutive.
    """
    room = np.minimum(members_room(pool, shape, eligible), members.stop - 1)
    total, rows = int(room.sum()), np.flatnonzero(room)
    if total < members.start:
        return Unplaced(total, len(rows))
    order = rows[np.lexsort((rows, pool.whole_free[rows]))]
    counts = dict.fromkeys(order[:nodes].tolist(), 1)
    left = min(total, members.stop - 1) - len(counts)
    for row in counts:
        joining = min(int(room[row]) - 1, left)
        counts[row] += joining
        left -= joining
        room[row] = 0
    rest = _fewest_nodes(pool, room, left) if left else []
    places: list[Place] = []
    for row, count in (*counts.items(), *rest):
        places += seats_on(pool, row, count, shape)
    return tuple(places)


def _fewest_nodes(pool: Pool, room: Ints, members: int) -> list[tuple[int, int]]:
    """(row, members there): the roomiest nodes first, then the fullest that takes all the rest."""
    rows = np.flatnonzero(room)
    order = rows[np.lexsort((rows, pool.whole_free[rows], -room[rows]))]
    chosen: list[tuple[int, int]] = []
    left = members
    for at, row in enumerate(order.tolist()):
        count = int(room[row])
        if count >= left:
            rest = order[at:]
            last = rest[room[rest] >= left]
            keys = pool.whole_free[last]
            fullest = last[keys == keys.min()].min()
            return [*chosen, (int(fullest), left)]
        chosen.append((row, count))
        left -= count
    raise AssertionError(f"{members} members do not fit in {room}")


def room_when_empty(pool: Pool, shape: Shape, members: int, eligible: Bools | None = None) -> int:
    """How many of the members the open nodes could take if nothing else were there."""
    rows = pool.open if eligible is None else pool.open & eligible
    return int(room_if_empty(pool, pool.gpu_usable, shape, members)[rows].sum())


def could_hold(
    pool: Pool, devices: SmallInts, shape: Shape, members: int, rows: Bools | None = None
) -> bool:
    """True iff these rows, had they these devices, could hold the gang if all were free.

    Comparisons first: most gangs have fewer members than there are nodes that could take one.
    """
    fits = devices >= shape.gpus
    if shape.cpu_milli:
        fits &= pool.cpu_total >= shape.cpu_milli
    if shape.memory_mib:
        fits &= pool.memory_total >= shape.memory_mib
    if rows is not None:
        fits &= rows
    nodes = int(np.count_nonzero(fits))
    if nodes >= members or not nodes:
        return nodes >= members
    room = room_if_empty(pool, devices, shape, members)
    return int(room[fits].sum()) >= members


def room_if_empty(pool: Pool, devices: SmallInts, shape: Shape, members: int) -> Ints:
    """(N,) how many of the members each node could take, had it these devices, all of them free."""
    room = np.full(pool.nodes, members, np.int64)
    if shape.gpus:
        offered = devices.astype(np.int64) * (WHOLE_GPU_MILLI // shape.gpu_milli)
        np.minimum(room, offered // shape.gpus, out=room)
    if shape.cpu_milli:
        np.minimum(room, pool.cpu_total // shape.cpu_milli, out=room)
    if shape.memory_mib:
        np.minimum(room, pool.memory_total // shape.memory_mib, out=room)
    return room


def room_for_one(pool: Pool, shape: Shape, eligible: Bools | None = None) -> Bools:
    """(N,) the open nodes that could take one member of `shape` now.

    Comparisons only: a division per node would cost ten times as much.
    """
    fits = pool.open.copy() if eligible is None else pool.open & eligible
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        fits &= pool.whole_free >= shape.gpus
    elif shape.gpus:
        fits &= (pool.gpu_free >= shape.gpu_milli).any(axis=1)
    if shape.cpu_milli:
        fits &= pool.cpu_free >= shape.cpu_milli
    if shape.memory_mib:
        fits &= pool.memory_free >= shape.memory_mib
    fits &= pool.tenants < (1 if shape.exclusive else SOLE)
    return fits


def members_room(
    pool: Pool, shape: Shape, eligible: Bools | None = None, fits: Bools | None = None
) -> Ints:
    """(N,) how many members of `shape` each node could take now. `fits` is `room_for_one`."""
    rows = np.flatnonzero(room_for_one(pool, shape, eligible) if fits is None else fits)
    here = np.full(len(rows), _FAR, np.int64)
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        here = (pool.whole_free[rows] // shape.gpus).astype(np.int64)
    elif shape.gpus:
        here = (pool.gpu_free[rows] // shape.gpu_milli).sum(axis=1, dtype=np.int64)
    if shape.cpu_milli:
        np.minimum(here, pool.cpu_free[rows] // shape.cpu_milli, out=here)
    if shape.memory_mib:
        np.minimum(here, pool.memory_free[rows] // shape.memory_mib, out=here)
    room = np.zeros(pool.nodes, np.int64)
    room[rows] = here
    return room


def eligible_rows(pool: Pool, models: tuple[int, ...]) -> Bools | None:
    """(N,) rows whose GPU model is one of the codes; None when any will do."""
    if not models:
        return None
    rows: Bools = pool.model == models[0]
    for code in models[1:]:
        rows |= pool.model == code
    return rows


def room_on(pool: Pool, row: int, shape: Shape) -> int:
    """How many members of `shape` one node could take now; models are not looked at."""
    if not pool.open.item(row) or pool.tenants.item(row) >= (1 if shape.exclusive else SOLE):
        return 0
    room = _FAR
    if shape.gpus and shape.gpu_milli == WHOLE_GPU_MILLI:
        room = pool.whole_free.item(row) // shape.gpus
    elif shape.gpus:
        room = int((pool.gpu_free[row] // shape.gpu_milli).sum())
    if shape.cpu_milli:
        room = min(room, pool.cpu_free.item(row) // shape.cpu_milli)
    if shape.memory_mib:
        room = min(room, pool.memory_free.item(row) // shape.memory_mib)
    return max(0, int(room))


def _fullest(pool: Pool, rows: NDArray[np.intp]) -> int:
    """Of some rows the first with the fewest whole devices left; -1 of none."""
    return int(rows[pool.whole_free[rows].argmin()]) if len(rows) else -1


def seats_on(pool: Pool, row: int, count: int, shape: Shape) -> list[Place]:
    """Devices of one node for `count` members: whole ones lowest first, shares fullest first."""
    free = pool.gpu_free[row].tolist()
    places = []
    for _ in range(count):
        if shape.gpu_milli == WHOLE_GPU_MILLI:
            fitting = [gpu for gpu, left in enumerate(free) if left == WHOLE_GPU_MILLI]
        else:
            fitting = sorted(
                (gpu for gpu, left in enumerate(free) if left >= shape.gpu_milli),
                key=lambda gpu: (free[gpu], gpu),
            )
        gpus = tuple(sorted(fitting[: shape.gpus]))
        assert len(gpus) == shape.gpus, f"row {row} has no room for {shape}: {free}"
        for gpu in gpus:
            free[gpu] -= shape.gpu_milli
        places.append((row, gpus))
    return places
