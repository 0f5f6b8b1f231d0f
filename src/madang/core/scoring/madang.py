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
    allowed,
)
from madang.core.scoring._mix import Appetite, Asked, Kind, Mix, Served, most_gpu
from madang.core.scoring._scarcity import LOAD_BITS, class_loads, gang_load, premium
from madang.core.scoring._prices import COUNT_BITS, UNIT, Kinds, Prices, balance, holes_of

GANGS_MAX = 8  # kinds of several GPUs whose room is guarded
KINDS_MAX = 64  # kinds that are priced, those that ask for the most GPU; bounds a refresh
REFRESH_FIRST = 16  # arrivals before anything is believed of the mix
REFRESH_PART = 8  # a refresh whenever 1/8 of the remembered arrivals is new


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """One refresh's prices, in price units.

    class_of (models + 1,) by model code, the last entry for no GPU; slice (C, 1001) and group
    (C, G + 1); what CPU and memory let a node serve; gang_need (J, 3) gpus, cpu_milli, memory_mib
    of the kinds of several GPUs and gang_worth (J, C) the premium of room for one of them.
    """

    class_of: Int64s
    slice: Int64s
    group: Int64s
    cpu: Served
    memory: Served
    gang_need: Int64s
    gang_worth: Int64s


def unpriced(width: int) -> Tables:
    """Before anything is known: a milli-GPU is worth a milli-GPU, and nothing is guarded."""
    return Tables(
        class_of=np.zeros(MODELS_MAX + 1, dtype=np.int64),
        slice=np.arange(WHOLE_MILLI + 1, dtype=np.int64)[None] * UNIT,
        group=np.arange(width + 1, dtype=np.int64)[None] * WHOLE_MILLI * UNIT,
        cpu=Appetite().served(),
        memory=Appetite().served(),
        gang_need=np.zeros((0, 3), dtype=np.int64),
        gang_worth=np.zeros((0, 1), dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """The mix, scaled to fill what is left of the pool: kinds with what each asked, the milli-GPU
    expected of each (I,), class_of (models + 1,), usable (I, C)."""

    kinds: list[tuple[Kind, Asked]]
    demand_milli: Int64s
    class_of: Int64s
    usable: Bools


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
        kinds = most_gpu(self.mix.kinds, KINDS_MAX)
        left_milli = int(pool.gpu_free[pool.open].sum(dtype=np.int64))
        if not kinds or left_milli == 0:
            return
        asked_milli = sum(asked.gpu_milli for _, asked in kinds)
        demand = [asked.gpu_milli * left_milli // asked_milli for _, asked in kinds]
        class_of, usable = classes_of(pool, [mask for (_, _, mask), _ in kinds])
        outlook = Outlook(kinds, np.array(demand, dtype=np.int64), class_of, usable)
        self.tables = self._tables(pool, outlook, self._prices(pool, outlook))
        self.epoch += 1

    def _prices(self, pool: Pool, outlook: Outlook) -> Prices:
        gpus = np.array([gpus for (gpus, _, _), _ in outlook.kinds], dtype=np.int64)
        milli = np.array([milli for (_, milli, _), _ in outlook.kinds], dtype=np.int64)
        demand = (outlook.demand_milli << COUNT_BITS) // (gpus * milli)
        rent = np.array([self.rents.get(kind, 0) for kind, _ in outlook.kinds], dtype=np.int64)
        holes = holes_of(pool, outlook.class_of[pool.model], outlook.usable.shape[1])
        prices = balance(Kinds(gpus, milli, demand, outlook.usable), holes, rent)
        self.rents = {
            kind: int(rent) for (kind, _), rent in zip(outlook.kinds, prices.rent, strict=True)
        }
        return prices

    def _tables(self, pool: Pool, outlook: Outlook, prices: Prices) -> Tables:
        classes = outlook.usable.shape[1]
        supply = np.zeros(classes, dtype=np.int64)
        idle = pool.gpu_free.sum(axis=1, dtype=np.int64)
        np.add.at(supply, outlook.class_of[pool.model[pool.open]], idle[pool.open])
        per_milli = premium(class_loads(outlook.demand_milli, outlook.usable, supply))
        scarce = (per_milli * UNIT)[:, None]
        milli = np.arange(WHOLE_MILLI + 1, dtype=np.int64)
        groups = np.arange(prices.group.shape[1], dtype=np.int64) * WHOLE_MILLI
        gangs = most_gpu(self.mix.gangs, GANGS_MAX)
        gang_demand = [asked.gpu_milli * int(idle[pool.open].sum()) // self.mix.gpu_milli for _, asked in gangs]
        gang_need, gang_worth = _gangs(pool, outlook.class_of, gangs, gang_demand)
        return Tables(
            class_of=outlook.class_of,
            slice=prices.slice + (scarce * milli >> LOAD_BITS),
            group=prices.group + (scarce * groups >> LOAD_BITS),
            cpu=self.mix.cpu.served(),
            memory=self.mix.memory.served(),
            gang_need=gang_need,
            gang_worth=gang_worth,
        )

    def score_rows(
        self, pool: Pool, shape: Int64s, rows: Int64s, turn: int, score: Int64s, device: Int16s
    ) -> None:
        tables = self.tables
        asked = (tables.cpu.per_gpu, tables.memory.per_gpu)
        node = (pool.gpu_free, pool.cpu_free, pool.memory_free, pool.model, pool.open)
        value = (
            tables.class_of,
            tables.slice,
            tables.group,
            tables.cpu.share,
            tables.memory.share,
            tables.gang_need,
            tables.gang_worth,
        )
        score_nodes = _score_nodes if HAVE_NUMBA else score_nodes_numpy
        score_nodes(node, value, asked, shape, rows, score, device)


def _gangs(
    pool: Pool, class_of: Int64s, gangs: list[tuple[Kind, Asked]], demand_milli: list[int]
) -> tuple[Int64s, Int64s]:
    """gang_need (J, 3) and gang_worth (J, C): what room for one of each kind needs, and is worth."""
    codes = np.arange(len(class_of), dtype=np.int16)
    codes[-1] = -1
    need = np.zeros((len(gangs), 3), dtype=np.int64)
    worth = np.zeros((len(gangs), int(class_of.max()) + 1), dtype=np.int64)
    for j, ((gpus, _, mask), asked) in enumerate(gangs):
        need[j] = (gpus, asked.cpu_milli // asked.count, asked.memory_mib // asked.count)
        load = gang_load(pool, allowed(pool.model, mask), need[j], demand_milli[j])
        per_milli = int(premium(np.array([load], dtype=np.int64))[0])
        hosts = class_of[codes[allowed(codes, mask)]]
        worth[j, hosts] = per_milli * gpus * WHOLE_MILLI * UNIT >> LOAD_BITS
    return need, worth


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
ValueTables = tuple[Int64s, Int64s, Int64s, Int64s, Int64s, Int64s, Int64s]
AskedPerGpu = tuple[int, int]


@jit
def _unserved(idle: int, left: int, per_gpu: int, share: Int64s) -> int:
    """Idle milli-GPU that `left` of a resource cannot serve (`Appetite.served`), price units."""
    if idle <= 0 or per_gpu <= 0:
        return 0
    step = (left * 1000 << 16) // (idle * per_gpu)  # 65536: as much as the mean request asks
    if step >= 65536:
        return 0
    low, part = step >> 8, step & 255
    served = (share[low] * (256 - part) + share[low + 1] * part) >> 8
    return idle * UNIT * ((1 << 20) - served) >> 20


@jit
def _gang_room(
    idle: int, cpu: int, memory: int, c: int, gang_need: Int64s, gang_worth: Int64s
) -> int:
    """Premium of the room that a node of class c has for kinds of several GPUs."""
    worth = np.int64(0)
    for j in range(len(gang_need)):
        room = idle // gang_need[j, 0]
        if room > 0 and gang_worth[j, c] > 0:
            room = min(room, cpu // max(gang_need[j, 1], 1), memory // max(gang_need[j, 2], 1))
            worth += room * gang_worth[j, c]
    return worth


@jit
def _cheapest(
    free: Int32s, milli: int, open_one: int, value: Int64s
) -> tuple[int, int]:
    """The loss and the device of a sharing request: least loss, then fullest, then first."""
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


@jit
def _fullest(
    free: Int32s, gpus: int, milli: int, idle: int, value: Int64s, group: Int64s
) -> tuple[int, int]:
    """The loss of `gpus` equal parts on the fullest devices, and how many idle ones they open."""
    loss = np.int64(0)
    opened = 0
    left = gpus
    bound = 0
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
    return loss + group[idle] - group[idle - opened], opened


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
    class_of, slice_value, group_value, cpu_share, memory_share, gang_need, gang_worth = tables
    gpus, milli, cpu, memory, mask = shape[0], shape[1], shape[2], shape[3], shape[4]
    cpu_per_gpu, memory_per_gpu = asked
    for index in range(len(rows)):
        row = rows[index]
        score[index] = NEVER
        device[index] = -1
        code = model[row]
        cpu_had, memory_had = cpu_free[row], memory_free[row]
        if not is_open[row] or cpu_had < cpu or memory_had < memory:
            continue
        free = gpu_free[row]
        fitting, idle, milli_had = 0, 0, np.int64(0)
        for slot in range(len(free)):
            milli_had += free[slot]
            fitting += free[slot] >= milli
            idle += free[slot] == 1000
        if gpus > 0 and fitting < gpus:
            continue
        if gpus > 0 and mask != -1 and (code < 0 or (mask >> np.int64(max(code, 0))) & 1 == 0):
            continue
        c = class_of[code]
        value, group = slice_value[c], group_value[c]
        loss, opened = np.int64(0), 0
        if milli == 1000:
            opened = gpus
            loss = group[idle] - group[idle - gpus]
        elif gpus == 1:
            open_one = group[idle] - group[max(idle - 1, 0)] - value[1000 - milli]
            loss, taken = _cheapest(free, milli, open_one, value)
            device[index] = taken
            opened = 1 if free[taken] == 1000 else 0
        elif gpus > 1:
            loss, opened = _fullest(free, gpus, milli, idle, value, group)
        before = _gang_room(idle, cpu_had, memory_had, c, gang_need, gang_worth) - max(
            _unserved(milli_had, cpu_had, cpu_per_gpu, cpu_share),
            _unserved(milli_had, memory_had, memory_per_gpu, memory_share),
        )
        cpu_left, memory_left = cpu_had - cpu, memory_had - memory
        milli_left = milli_had - gpus * milli
        after = _gang_room(idle - opened, cpu_left, memory_left, c, gang_need, gang_worth) - max(
            _unserved(milli_left, cpu_left, cpu_per_gpu, cpu_share),
            _unserved(milli_left, memory_left, memory_per_gpu, memory_share),
        )
        score[index] = after - before - loss


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
