"""madang: the placement that costs the requests to come the least (the default).

Every node has a worth: what the recent mix can still use of it, in price units of 1/128 milli-GPU,

    V(n) = Σ_{partly used GPUs d of n} v_c(g_d) + h_c(k_n) + R(n) − S(n)

    v, h  bid prices of a slice and of a group of idle GPUs (`_prices`), plus the premium of a
          class of models that constrained requests will need (`_scarcity`);
    R     room for requests of several GPUs: Σ_j premium_j · (how many of kind j fit on n);
    S     idle GPU that the node's CPU or memory cannot serve, given how hungry the mix is:
          idle·max(1 − F_cpu(cpu/idle), 1 − F_memory(memory/idle))      (`_mix.Appetite.served`).

The score is V(after) − V(before): how little the placement takes from others. It depends on the
node alone, and on tables that change only at a refresh. Everything is learned from the requests
that have arrived: nothing is known of the future, and no weight comes from any one workload.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from madang.core.scoring._base import (
    ANY_MODEL,
    MODELS_MAX,
    WHOLE_MILLI,
    Bools,
    Int64s,
    PoolArrays,
    Scores,
    Shape,
    allowed,
)
from madang.core.scoring._mix import Appetite, Asked, Kind, Mix, Models, most_gpu
from madang.core.scoring._prices import COUNT_BITS, UNIT, Kinds, Prices, balance, holes_of
from madang.core.scoring._scarcity import LOAD_BITS, class_loads, gang_load, premium
from madang.core.scoring._worth import Values, score_nodes

GANGS_MAX = 8  # kinds of several GPUs whose room is guarded
KINDS_MAX = 64  # kinds that are priced, those that ask for the most GPU; bounds a refresh
REFRESH_FIRST = 16  # arrivals before anything is believed of the mix
Gangs = list[tuple[tuple[int, int, int], Asked]]  # (gpus, band of CPU, model mask)

REFRESH_PART = 4  # a refresh whenever 1/4 of the remembered arrivals is new


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """One refresh's prices, in price units.

    class_of (models + 1,) by model code, the last entry for no GPU; slice (C, 1001) and group
    (C, G + 1); gang_need (J, 3) gpus, cpu_milli, memory_mib of the kinds of several GPUs and
    gang_worth (C, J) the premium of room for one of them; per_gpu (2,) and share (2, S), `Served`
    for CPU and for memory.
    """

    class_of: Int64s
    slice: Int64s
    group: Int64s
    gang_need: Int64s
    gang_worth: Int64s
    per_gpu: Int64s
    share: Int64s

    def values(self) -> Values:
        """As the kernel reads them."""
        return (
            self.class_of,
            self.slice,
            self.group,
            self.gang_need,
            self.gang_worth,
            self.per_gpu,
            self.share,
        )


def unpriced(width: int) -> Tables:
    """Before anything is known: a milli-GPU is worth a milli-GPU, and nothing is guarded."""
    return Tables(
        class_of=np.zeros(MODELS_MAX + 1, dtype=np.int64),
        slice=np.arange(WHOLE_MILLI + 1, dtype=np.int64)[None] * UNIT,
        group=np.arange(width + 1, dtype=np.int64)[None] * WHOLE_MILLI * UNIT,
        gang_need=np.zeros((0, 3), dtype=np.int64),
        gang_worth=np.zeros((1, 0), dtype=np.int64),
        per_gpu=np.zeros(2, dtype=np.int64),
        share=np.stack([Appetite().served().share] * 2),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """The mix, scaled to fill what is left of the pool: kinds with what each asked, masks of the
    models that each allows, the milli-GPU expected of each (I,), class_of (models + 1,),
    usable (I, C)."""

    kinds: list[tuple[Kind, Asked]]
    masks: list[int]
    demand_milli: Int64s
    class_of: Int64s
    usable: Bools


def mask_itself(models: Models) -> int:
    """The mask of models that are given as a mask."""
    assert isinstance(models, int), f"names of models need a table of codes: {models}"
    return models


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

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        self.mix.observe(shape)
        if self.tables.group.shape[1] <= pool.gpu_free.shape[1]:
            self.tables = unpriced(pool.gpu_free.shape[1])
        self.arrivals_to_refresh -= 1
        if self.arrivals_to_refresh == 0:
            self.arrivals_to_refresh = max(REFRESH_FIRST, self.mix.requests // REFRESH_PART)
            self.refresh(pool)

    def refresh(self, pool: PoolArrays, mask_of: Callable[[Models], int] = mask_itself) -> bool:
        """New tables from the mix and from what is left of the pool. False iff nothing is left or
        asked for that could have a price: the tables stay."""
        kinds = most_gpu(self.mix.kinds, KINDS_MAX)
        left_milli = int(pool.gpu_free[pool.open].sum(dtype=np.int64))
        if not kinds or left_milli == 0:
            return False
        asked_milli = sum(asked.gpu_milli for _, asked in kinds)
        demand = [asked.gpu_milli * left_milli // asked_milli for _, asked in kinds]
        masks = [mask_of(models) for (_, _, models), _ in kinds]
        class_of, usable = classes_of(pool, masks)
        outlook = Outlook(kinds, masks, np.array(demand, dtype=np.int64), class_of, usable)
        gangs = [
            ((gpus, band, mask_of(models)), asked)
            for (gpus, band, models), asked in most_gpu(self.mix.gangs, GANGS_MAX)
        ]
        self.tables = self._tables(pool, outlook, self._prices(pool, outlook), gangs)
        self.epoch += 1
        return True

    def _prices(self, pool: PoolArrays, outlook: Outlook) -> Prices:
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

    def _tables(self, pool: PoolArrays, outlook: Outlook, prices: Prices, gangs: Gangs) -> Tables:
        classes = outlook.usable.shape[1]
        supply = np.zeros(classes, dtype=np.int64)
        idle = pool.gpu_free.sum(axis=1, dtype=np.int64)
        np.add.at(supply, outlook.class_of[pool.model[pool.open]], idle[pool.open])
        per_milli = premium(class_loads(outlook.demand_milli, outlook.usable, supply))
        scarce = (per_milli * UNIT)[:, None]
        milli = np.arange(WHOLE_MILLI + 1, dtype=np.int64)
        groups = np.arange(prices.group.shape[1], dtype=np.int64) * WHOLE_MILLI
        hunger = (self.mix.cpu.served(), self.mix.memory.served())
        gang_demand = [
            asked.gpu_milli * int(idle[pool.open].sum()) // self.mix.gpu_milli for _, asked in gangs
        ]
        gang_need, gang_worth = _gangs(pool, outlook.class_of, gangs, gang_demand)
        return Tables(
            class_of=outlook.class_of,
            slice=prices.slice + (scarce * milli >> LOAD_BITS),
            group=prices.group + (scarce * groups >> LOAD_BITS),
            gang_need=gang_need,
            gang_worth=gang_worth,
            per_gpu=np.array([served.per_gpu for served in hunger], dtype=np.int64),
            share=np.stack([served.share for served in hunger]),
        )

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        node = (pool.gpu_free, pool.cpu_free, pool.memory_free, pool.model, pool.open)
        score_nodes(node, self.tables.values(), shape, rows, out)


def _gangs(
    pool: PoolArrays, class_of: Int64s, gangs: Gangs, demand_milli: list[int]
) -> tuple[Int64s, Int64s]:
    """gang_need (J, 3) and gang_worth (C, J): what room for one of each needs, and is worth."""
    codes = np.arange(len(class_of), dtype=np.int16)
    codes[-1] = -1
    need = np.zeros((len(gangs), 3), dtype=np.int64)
    worth = np.zeros((int(class_of.max()) + 1, len(gangs)), dtype=np.int64)
    for j, ((gpus, _, mask), asked) in enumerate(gangs):
        need[j] = (gpus, asked.cpu_milli // asked.count, asked.memory_mib // asked.count)
        load = gang_load(pool, allowed(pool.model, mask), need[j], demand_milli[j])
        per_milli = int(premium(np.array([load], dtype=np.int64))[0])
        hosts = class_of[codes[allowed(codes, mask)]]
        worth[hosts, j] = per_milli * gpus * WHOLE_MILLI * UNIT >> LOAD_BITS
    return need, worth


def classes_of(pool: PoolArrays, masks: list[int]) -> tuple[Int64s, Bools]:
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
