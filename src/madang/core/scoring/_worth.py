"""What a node is worth to the requests to come, and how much of that a placement takes: the kernel
of `madang`, jitted and as its NumPy twin.

A node's worth is Σ v_c(g_d) over its partly used GPUs + h_c(k) for its k idle ones + the premium of
its room for kinds of several GPUs − what its CPU or memory cannot serve, all in price units; see
`madang` for the terms. A score is worth after − worth before.
"""

from typing import Any

import numpy as np

from madang.core.scoring._accelerate import HAVE_NUMBA, compiles, jit
from madang.core.scoring._base import (
    NEVER,
    WHOLE_MILLI,
    Bools,
    Int16s,
    Int32s,
    Int64s,
    Scores,
    allowed,
)
from madang.core.scoring._mix import SERVED_BITS
from madang.core.scoring._prices import UNIT

ROWS_PLAIN = 6  # so few rows cost NumPy more to set up than to score
FAR = int(np.iinfo(np.int64).max)

# gpu_free (N, G), cpu_free (N,), memory_free (N,), model (N,), open (N,)
NodeArrays = tuple[Int32s, Int64s, Int64s, Int16s, Bools]
# class_of, slice (C, 1001), group (C, G + 1), gang_need (J, 3), gang_worth (C, J),
# per_gpu (2,) cpu and memory, share (2, SERVED_STEPS + 2)
Values = tuple[Int64s, Int64s, Int64s, Int64s, Int64s, Int64s, Int64s]


def score_nodes(node: NodeArrays, values: Values, shape: Int64s, rows: Int64s, out: Scores) -> None:
    """Writes the score and the device of each of `rows`."""
    if compiles(len(node[1])):
        score_nodes_jit(node, values, shape, rows, out.value, out.device)
    elif not HAVE_NUMBA and len(rows) <= ROWS_PLAIN:
        _score_plainly(node, values, shape, rows, out)
    else:
        score_nodes_numpy(node, values, shape, rows, out.value, out.device)


def _score_plainly(
    node: NodeArrays, values: Values, shape: Int64s, rows: Int64s, out: Scores
) -> None:
    """The kernel as plain Python, which is the fastest for a row or two where numba is absent."""
    kernel: Any = score_nodes_jit
    those = [each[rows].tolist() for each in node]
    score, device = [0] * len(rows), [0] * len(rows)
    kernel(those, values, shape.tolist(), range(len(rows)), score, device)
    out.value[:], out.device[:] = score, device


@jit
def _unserved(idle: int, left: int, per_gpu: int, share: Int64s) -> int:
    """Idle milli-GPU that `left` of a resource cannot serve (`Appetite.served`), price units."""
    if left * 1000 >= idle * per_gpu:  # as much as the mean request asks
        return 0
    step = (left * 1000 << 16) // (idle * per_gpu)
    low, part = step >> 8, step & 255
    served = (share[low] * (256 - part) + share[low + 1] * part) >> 8
    unserved: int = idle * UNIT * ((1 << SERVED_BITS) - served) >> SERVED_BITS
    return unserved


@jit
def _room(idle: int, cpu: int, memory: int, need: Int64s, worth: Int64s) -> int:
    """Premium of a node's room for kinds of several GPUs: need (J, 3), worth (J,) of its class."""
    total = 0
    for j in range(len(need)):
        gpus, cpu_each, memory_each = need[j, 0], need[j, 1], need[j, 2]
        if idle < gpus or cpu < cpu_each or memory < memory_each:
            continue
        room = 1
        if idle >= 2 * gpus:  # divisions are dear here, and one is the usual answer
            room = min(idle // gpus, cpu // max(cpu_each, 1), memory // max(memory_each, 1))
        total += room * worth[j]
    return total


@jit
def _cheapest(free: Int32s, milli: int, open_one: int, value: Int64s) -> tuple[int, int]:
    """Loss and device of a sharing request that fits: least loss, then fullest, then first."""
    best = FAR
    device = -1
    for slot in range(len(free)):
        if free[slot] < milli:
            continue
        loss = open_one if free[slot] == 1000 else value[free[slot]] - value[free[slot] - milli]
        if loss < best or (loss == best and free[slot] < free[device]):
            best = loss
            device = slot
    return best, device


@jit
def _fullest(free: Int32s, gpus: int, milli: int, value: Int64s) -> tuple[int, int]:
    """Loss of `gpus` equal parts on the fullest devices that fit, without the idle ones they open,
    and how many those are."""
    loss, opened, left, bound = 0, 0, gpus, 0
    while left > 0:
        level = 1001
        for slot in range(len(free)):
            if free[slot] >= milli and bound < free[slot] and free[slot] < level:
                level = free[slot]
        for slot in range(len(free)):
            if left > 0 and free[slot] == level:
                left -= 1
                if level == 1000:
                    opened += 1
                    loss -= value[1000 - milli]
                else:
                    loss += value[level] - value[level - milli]
        bound = level
    return loss, opened


@jit
def _gpu_loss(
    free: Int32s, idle: int, shape: Int64s, value: Int64s, group: Int64s
) -> tuple[int, int, int]:
    """Loss of v and h, the device of a sharing request (else −1), and the idle GPUs it opens."""
    gpus, milli = shape[0], shape[1]
    if gpus == 0:
        return 0, -1, 0
    if milli == 1000:
        return group[idle] - group[idle - gpus], -1, gpus
    if gpus == 1:
        open_one = group[idle] - group[max(idle - 1, 0)] - value[1000 - milli]
        loss, device = _cheapest(free, milli, open_one, value)
        return loss, device, 1 if free[device] == 1000 else 0
    loss, opened = _fullest(free, gpus, milli, value)
    return loss + group[idle] - group[idle - opened], -1, opened


@jit
def score_nodes_jit(
    node: NodeArrays, values: Values, shape: Int64s, rows: Int64s, score: Int64s, device: Int16s
) -> None:
    gpu_free, cpu_free, memory_free, model, is_open = node
    class_of, slice_value, group_value, need, gang_worth, per_gpu, share = values
    gpus, milli, cpu, memory, mask = shape[0], shape[1], shape[2], shape[3], shape[4]
    for index in range(len(rows)):
        row = rows[index]
        score[index] = NEVER
        device[index] = -1
        code, cpu_had, memory_had = model[row], cpu_free[row], memory_free[row]
        if not is_open[row] or cpu_had < cpu or memory_had < memory:
            continue
        free = gpu_free[row]
        fitting, idle, had = 0, 0, 0
        for slot in range(len(free)):
            had += free[slot]
            fitting += free[slot] >= milli
            idle += free[slot] == 1000
        if gpus > 0 and fitting < gpus:
            continue
        if gpus > 0 and mask != -1 and (code < 0 or (mask >> np.int64(max(code, 0))) & 1 == 0):
            continue
        c = class_of[code]
        loss, taken, opened = _gpu_loss(free, idle, shape, slice_value[c], group_value[c])
        before = _room(idle, cpu_had, memory_had, need, gang_worth[c]) - max(
            _unserved(had, cpu_had, per_gpu[0], share[0]),
            _unserved(had, memory_had, per_gpu[1], share[1]),
        )
        cpu_left, memory_left, left = cpu_had - cpu, memory_had - memory, had - gpus * milli
        after = _room(idle - opened, cpu_left, memory_left, need, gang_worth[c]) - max(
            _unserved(left, cpu_left, per_gpu[0], share[0]),
            _unserved(left, memory_left, per_gpu[1], share[1]),
        )
        score[index] = after - before - loss
        device[index] = taken


def score_nodes_numpy(
    node: NodeArrays, values: Values, shape: Int64s, rows: Int64s, score: Int64s, device: Int16s
) -> None:
    """The NumPy twin of `score_nodes_jit`."""
    gpu_free, cpu_free, memory_free, model, is_open = node
    class_of, _, _, need, gang_worth, per_gpu, share = values
    gpus, milli, cpu, memory, mask = shape.tolist()
    score[:] = NEVER
    device[:] = -1
    able = is_open[rows] & (cpu_free[rows] >= cpu) & (memory_free[rows] >= memory)
    if gpus > 0:
        able &= (gpu_free[rows] >= milli).sum(axis=1) >= gpus
        able &= allowed(model[rows], mask)
    hits = np.flatnonzero(able)
    inside = rows[hits]
    free, classes = gpu_free[inside], class_of[model[inside]]
    idle = (free == WHOLE_MILLI).sum(axis=1)
    loss, taken, opened = _gpu_loss_numpy(free, classes, shape, values)
    milli_had = free.sum(axis=1, dtype=np.int64)
    worth = []
    for asked, devices in ((0, 0), (1, opened)):
        cpu_now, memory_now = cpu_free[inside] - asked * cpu, memory_free[inside] - asked * memory
        left = milli_had - asked * gpus * milli
        room = _room_numpy(idle - devices, cpu_now, memory_now, need, gang_worth[classes].T)
        short = np.maximum(
            _unserved_numpy(left, cpu_now, int(per_gpu[0]), share[0]),
            _unserved_numpy(left, memory_now, int(per_gpu[1]), share[1]),
        )
        worth.append(room - short)
    score[hits] = worth[1] - worth[0] - loss
    device[hits] = taken


def _unserved_numpy(idle: Int64s, left: Int64s, per_gpu: int, share: Int64s) -> Int64s:
    short = left * 1000 < idle * per_gpu
    step = (left * 1000 << 16) // np.where(short, idle * per_gpu, 1 << 62)
    low, part = step >> 8, step & 255
    served = (share[low] * (256 - part) + share[low + 1] * part) >> 8
    lost = idle * UNIT * ((1 << SERVED_BITS) - served) >> SERVED_BITS
    unserved: Int64s = np.where(short, lost, 0)
    return unserved


def _room_numpy(idle: Int64s, cpu: Int64s, memory: Int64s, need: Int64s, worth: Int64s) -> Int64s:
    total = np.zeros(len(idle), dtype=np.int64)
    for (gpus, cpu_each, memory_each), each in zip(need.tolist(), worth, strict=True):
        room = idle // gpus
        for left, asked in ((cpu, cpu_each), (memory, memory_each)):
            if asked > 0:
                room = np.minimum(room, left // asked)
        total += room * each
    return total


def _gpu_loss_numpy(
    free: Int32s, classes: Int64s, shape: Int64s, values: Values
) -> tuple[Int64s, Int64s, Int64s]:
    """The NumPy twin of `_gpu_loss`, for rows that fit: free (R, G), classes (R,)."""
    _, slice_value, group_value, *_ = values
    gpus, milli = int(shape[0]), int(shape[1])
    idle = (free == WHOLE_MILLI).sum(axis=1)
    none = np.full(len(free), -1, dtype=np.int64)
    if gpus == 0:
        return np.zeros(len(free), dtype=np.int64), none, np.zeros(len(free), dtype=np.int64)
    if milli == WHOLE_MILLI:
        whole = group_value[classes, idle] - group_value[classes, idle - gpus]
        return whole, none, np.full(len(free), gpus, dtype=np.int64)
    fitting = free >= milli
    after = np.where(fitting, free - milli, 0)
    cut = slice_value[classes[:, None], free] - slice_value[classes[:, None], after]
    if gpus == 1:
        fresh = group_value[classes, idle] - group_value[classes, np.maximum(idle - 1, 0)]
        fresh -= slice_value[classes, WHOLE_MILLI - milli]
        each = np.where(fitting, np.where(free == WHOLE_MILLI, fresh[:, None], cut), FAR)
        best = each == each.min(axis=1, initial=FAR)[:, None]
        device = np.where(best & fitting, free, WHOLE_MILLI + 1).argmin(axis=1)
        opened = np.take_along_axis(free, device[:, None], 1)[:, 0] == WHOLE_MILLI
        return each.min(axis=1, initial=FAR), device, opened.astype(np.int64)
    order = np.where(fitting, free, WHOLE_MILLI + 1).argsort(axis=1, kind="stable")[:, :gpus]
    level = np.take_along_axis(free, order, 1)
    opened = (level == WHOLE_MILLI).sum(axis=1)
    loss = np.where(level == WHOLE_MILLI, 0, np.take_along_axis(cut, order, 1)).sum(axis=1)
    loss -= opened * slice_value[classes, WHOLE_MILLI - milli]
    loss += group_value[classes, idle] - group_value[classes, idle - opened]
    return loss, none, opened
