"""madang: the placement that costs the requests to come the least (the default).

Every node has a value, in what the recent mix can still use of it:

    V(n) = Σ_{shared GPUs d of n} v_c(g_d) + h_c(k_n) − S(n)

with v and h the bid prices of slices and of groups of idle GPUs (`_prices`), k_n the wholly idle
GPUs, and S the guard: idle GPU-milli that the node's CPU or memory, shared out as the recent mix
asks for them, cannot serve,

    S(n) = max(0, idle_n − cpu_n/ρ_cpu, idle_n − memory_n/ρ_memory)      ρ = asked per GPU-milli.

The score is V(after) − V(before): how little the placement takes from others. It depends on the
node alone, and on tables that change only at a refresh. Everything is learned from the requests
that have arrived: nothing is known of the future, and no number comes from any one workload.
"""

from dataclasses import dataclass, field

import numpy as np

from madang.core.scoring._accelerate import HAVE_NUMBA, jit
from madang.core.scoring._base import (
    ANY_MODEL,
    MODELS_MAX,
    NEVER,
    WHOLE_MILLI,
    Bools,
    Int16s,
    Int32s,
    Int64s,
    Pool,
    Shape,
    fits,
)
from madang.core.scoring._mix import Kind, Mix
from madang.core.scoring._prices import COUNT_BITS, UNIT, Kinds, Prices, balance, holes_of

KINDS_MAX = 64  # kinds that are priced, those that ask for the most GPU; bounds a refresh
REFRESH_FIRST = 16  # arrivals before anything is believed of the mix
REFRESH_PART = 8  # a refresh whenever 1/8 of the remembered arrivals is new


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """One refresh's prices: class_of (models + 1,) by model code, the last entry for no GPU; slice
    (C, 1001) and group (C, G + 1) in price units; cpu and memory asked per whole GPU."""

    class_of: Int64s
    slice: Int64s
    group: Int64s
    cpu_milli_per_gpu: int
    memory_mib_per_gpu: int


def unpriced(width: int) -> Tables:
    """Before anything is known: a milli-GPU is worth a milli-GPU, and nothing is guarded."""
    return Tables(
        class_of=np.zeros(MODELS_MAX + 1, dtype=np.int64),
        slice=np.arange(WHOLE_MILLI + 1, dtype=np.int64)[None] * UNIT,
        group=np.arange(width + 1, dtype=np.int64)[None] * WHOLE_MILLI * UNIT,
        cpu_milli_per_gpu=0,
        memory_mib_per_gpu=0,
    )


@dataclass(slots=True)
class Madang:
    """`observe` is the one mutating verb: it learns the mix and refreshes the tables."""

    name: str = "madang"
    cached: bool = True
    epoch: int = 0
    mix: Mix = field(default_factory=Mix)
    tables: Tables = field(default_factory=lambda: unpriced(0))
    rents: dict[Kind, int] = field(default_factory=dict)
    arrivals_to_refresh: int = REFRESH_FIRST

    def observe(self, pool: Pool, shape: Shape) -> None:
        self.mix.observe(shape)
        if self.tables.group.shape[1] <= pool.gpu_free.shape[1]:
            self.tables = unpriced(pool.gpu_free.shape[1])
        self.arrivals_to_refresh -= 1
        if self.arrivals_to_refresh == 0:
            self.arrivals_to_refresh = max(REFRESH_FIRST, self.mix.requests // REFRESH_PART)
            self.refresh(pool)

    def refresh(self, pool: Pool) -> None:
        """New tables from the mix and from what is left of the pool."""
        priced = list(self.mix.most_gpu(KINDS_MAX))
        left_milli = int(pool.gpu_free[pool.open].sum(dtype=np.int64))
        asked_milli = sum(count * gpus * milli for (gpus, milli, _), count in priced)
        if not priced or left_milli == 0:
            return
        class_of, usable = classes_of(pool, [mask for (_, _, mask), _ in priced])
        expected = [(count * left_milli << COUNT_BITS) // asked_milli for _, count in priced]
        kinds = Kinds(
            gpus=np.array([gpus for (gpus, _, _), _ in priced], dtype=np.int64),
            milli=np.array([milli for (_, milli, _), _ in priced], dtype=np.int64),
            demand=np.array(expected, dtype=np.int64),
            usable=usable,
        )
        rent = np.array([self.rents.get(kind, 0) for kind, _ in priced], dtype=np.int64)
        holes = holes_of(pool, class_of[pool.model], usable.shape[1])
        prices = balance(kinds, holes, rent)
        self.rents = {kind: int(rent) for (kind, _), rent in zip(priced, prices.rent, strict=True)}
        self.tables = self._tables(class_of, prices)
        self.epoch += 1

    def _tables(self, class_of: Int64s, prices: Prices) -> Tables:
        gpu_milli = max(self.mix.gpu_milli, 1)
        return Tables(
            class_of=class_of,
            slice=prices.slice,
            group=prices.group,
            cpu_milli_per_gpu=self.mix.cpu_milli * WHOLE_MILLI // gpu_milli,
            memory_mib_per_gpu=self.mix.memory_mib * WHOLE_MILLI // gpu_milli,
        )

    def score_rows(
        self, pool: Pool, shape: Int64s, rows: Int64s, turn: int, score: Int64s, device: Int16s
    ) -> None:
        tables = self.tables
        asked = (tables.cpu_milli_per_gpu, tables.memory_mib_per_gpu)
        node = (pool.gpu_free, pool.cpu_free, pool.memory_free, pool.model, pool.open)
        value = (tables.class_of, tables.slice, tables.group)
        score_nodes = _score_nodes if HAVE_NUMBA else score_nodes_numpy
        score_nodes(node, value, asked, shape, rows, score, device)


def classes_of(pool: Pool, masks: list[int]) -> tuple[Int64s, Bools]:
    """Models that the same kinds may use share a class: class_of (models + 1,), usable (I, C).

    The last entry of class_of (model −1) is a class of its own that hosts nothing but 'any'.
    """
    models = int(pool.model.max(initial=-1)) + 1
    seen: dict[tuple[bool, ...], int] = {}
    class_of = np.zeros(models + 1, dtype=np.int64)
    for code in range(-1, models):
        hosts = tuple(mask == ANY_MODEL or (code >= 0 and mask >> code & 1 == 1) for mask in masks)
        class_of[code] = seen.setdefault(hosts, len(seen))
    return class_of, np.array(list(seen), dtype=np.bool_).T.copy()


NodeArrays = tuple[Int32s, Int64s, Int64s, Int16s, Bools]
ValueTables = tuple[Int64s, Int64s, Int64s]
AskedPerGpu = tuple[int, int]


@jit
def _shortage(idle: int, cpu: int, memory: int, asked: AskedPerGpu) -> int:
    """Idle milli-GPU that the node's CPU or memory cannot serve, in price units."""
    short = np.int64(0)
    if asked[0] > 0:
        short = max(short, idle - cpu * 1000 // asked[0])
    if asked[1] > 0:
        short = max(short, idle - memory * 1000 // asked[1])
    return short * 128


@jit
def _slices_taken(
    free: Int32s, gpus: int, milli: int, value: Int64s, group: Int64s
) -> tuple[int, int]:
    """Loss of v and h where `gpus` devices with `milli` each are taken, and the device of a sharing
    request (the one that loses least, then the fullest, then the first). Assumes that they fit."""
    idle = 0
    for slot in range(len(free)):
        if free[slot] == 1000:
            idle += 1
    if milli == 1000:
        return group[idle] - group[idle - gpus], -1
    open_one = np.int64(0)
    if idle > 0:
        open_one = group[idle] - group[idle - 1] - value[1000 - milli]
    if gpus == 1:
        best = np.int64(9223372036854775807)
        device = -1
        for slot in range(len(free)):
            if free[slot] < milli:
                continue
            loss = open_one if free[slot] == 1000 else value[free[slot]] - value[free[slot] - milli]
            if loss < best or (loss == best and free[slot] < free[device]):
                best = loss
                device = slot
        return best, device
    loss = np.int64(0)
    left = gpus
    bound = 0
    while left > 0:  # the fullest first, as many of each level as are needed
        level = 1001
        for slot in range(len(free)):
            if free[slot] >= milli and bound < free[slot] < level:
                level = free[slot]
        for slot in range(len(free)):
            if left > 0 and free[slot] == level:
                left -= 1
                if level == 1000:
                    loss += group[idle] - group[idle - 1] - value[1000 - milli]
                    idle -= 1
                else:
                    loss += value[level] - value[level - milli]
        bound = level
    return loss, -1


@jit
def _score_nodes(
    node: NodeArrays,
    tables: ValueTables,
    asked: AskedPerGpu,
    shape: Int64s,
    rows: Int64s,
    score: Int64s,
    device: Int16s,
) -> None:
    gpu_free, cpu_free, memory_free, model, is_open = node
    class_of, slice_value, group_value = tables
    gpus, milli, cpu, memory, mask = shape[0], shape[1], shape[2], shape[3], shape[4]
    for index in range(len(rows)):
        row = rows[index]
        score[index] = NEVER
        device[index] = -1
        code = model[row]
        if not is_open[row] or cpu_free[row] < cpu or memory_free[row] < memory:
            continue
        free = gpu_free[row]
        fitting = 0
        idle = np.int64(0)
        for slot in range(len(free)):
            idle += free[slot]
            if free[slot] >= milli:
                fitting += 1
        loss = np.int64(0)
        if gpus > 0:
            if fitting < gpus:
                continue
            if mask != -1 and (code < 0 or (mask >> np.int64(max(code, 0))) & 1 == 0):
                continue
            c = class_of[code]
            loss, taken = _slices_taken(free, gpus, milli, slice_value[c], group_value[c])
            device[index] = taken
        before = _shortage(idle, cpu_free[row], memory_free[row], asked)
        after = _shortage(
            idle - gpus * milli, cpu_free[row] - cpu, memory_free[row] - memory, asked
        )
        score[index] = before - after - loss


def score_nodes_numpy(
    node: NodeArrays,
    tables: ValueTables,
    asked: AskedPerGpu,
    shape: Int64s,
    rows: Int64s,
    score: Int64s,
    device: Int16s,
) -> None:
    """The NumPy twin of `_score_nodes`."""
    gpu_free, cpu_free, memory_free, model, is_open = (part[rows] for part in node)
    gpus, milli, cpu, memory, mask = (int(part) for part in shape)
    device[:] = -1
    able = is_open & (cpu_free >= cpu) & (memory_free >= memory)
    loss = np.zeros(len(rows), dtype=np.int64)
    if gpus > 0:
        able &= (gpu_free >= milli).sum(axis=1) >= gpus
        if mask != ANY_MODEL:
            able &= (model >= 0) & (np.int64(mask) >> np.maximum(model, 0).astype(np.int64) & 1 > 0)
        loss[able] = _losses_numpy(gpu_free[able], gpus, milli, tables, model[able])
        if gpus == 1 and milli < WHOLE_MILLI:
            device[able] = _cheapest_numpy(gpu_free[able], milli, tables, model[able])
    idle = gpu_free.sum(axis=1, dtype=np.int64)
    before = _shortage_numpy(idle, cpu_free, memory_free, asked)
    after = _shortage_numpy(idle - gpus * milli, cpu_free - cpu, memory_free - memory, asked)
    score[:] = np.where(able, before - after - loss, NEVER)


def _shortage_numpy(idle: Int64s, cpu: Int64s, memory: Int64s, asked: AskedPerGpu) -> Int64s:
    short = np.zeros(len(idle), dtype=np.int64)
    for left, per_gpu in zip((cpu, memory), asked, strict=True):
        if per_gpu > 0:
            short = np.maximum(short, idle - left * WHOLE_MILLI // per_gpu)
    return short * UNIT


def _slot_losses_numpy(free: Int32s, milli: int, tables: ValueTables, model: Int16s) -> Int64s:
    """(R, G) loss of taking `milli` of each device; the largest number where it does not fit."""
    class_of, slice_value, group_value = tables
    c = class_of[model]
    idle = (free == WHOLE_MILLI).sum(axis=1)
    one = group_value[c, idle] - group_value[c, idle - 1] - slice_value[c, WHOLE_MILLI - milli]
    fitting = free >= milli
    after = np.where(fitting, free - milli, 0)
    cut = slice_value[c[:, None], free] - slice_value[c[:, None], after]
    loss = np.where(free == WHOLE_MILLI, one[:, None], cut)
    return np.where(fitting, loss, np.iinfo(np.int64).max)


def _cheapest_numpy(free: Int32s, milli: int, tables: ValueTables, model: Int16s) -> Int16s:
    loss = _slot_losses_numpy(free, milli, tables, model)
    best = loss == loss.min(axis=1)[:, None]
    slots: Int16s = np.where(best, free, WHOLE_MILLI + 1).argmin(axis=1).astype(np.int16)
    return slots


def _losses_numpy(
    free: Int32s, gpus: int, milli: int, tables: ValueTables, model: Int16s
) -> Int64s:
    class_of, slice_value, group_value = tables
    c = class_of[model]
    idle = (free == WHOLE_MILLI).sum(axis=1)
    if milli == WHOLE_MILLI:
        whole: Int64s = group_value[c, idle] - group_value[c, idle - gpus]
        return whole
    if gpus == 1:
        least: Int64s = _slot_losses_numpy(free, milli, tables, model).min(axis=1)
        return least
    taken = np.sort(np.where(free >= milli, free, WHOLE_MILLI + 1), axis=1)[:, :gpus]
    fresh = (taken == WHOLE_MILLI).sum(axis=1)
    cut = slice_value[c[:, None], taken] - slice_value[c[:, None], taken - milli]
    loss: Int64s = np.where(taken == WHOLE_MILLI, 0, cut).sum(axis=1)
    loss += group_value[c, idle] - group_value[c, idle - fresh]
    return loss - fresh * slice_value[c, WHOLE_MILLI - milli]
