"""Scarcity: what the bid prices of a fluid cannot see, because a fluid never takes a wrong turn.

The linear program behind `_prices` gives a constrained resource no value as long as some routing
serves everyone; the requests that come first then take it, and the ones that can use nothing else
fail. So a resource that only some requests need carries a premium: how much of it they will use.

    load_c  of a class of models: the requests that cannot use every class, each spread over the
            classes it can use so that the highest load is least, relative to the supply.
    load_j  of a kind j of several GPUs on one node: its demand relative to what the nodes that have
            the GPUs, the CPU and the memory for it together can host.

The premium is load² of the milli-GPU at stake: convex, as the chance to meet an exhausted resource
is; a resource hardly asked for is free to all, one that is asked for entirely is worth itself.
"""

import numpy as np

from madang.core.scoring._base import WHOLE_MILLI, Bools, Int64s, PoolArrays

LOAD_BITS = 16  # loads and shares are in 1/65536
SPREAD_ROUNDS = 24  # of moving demand from loaded classes to idle ones


def premium(load: Int64s) -> Int64s:
    """load² in 1/65536, for a load in 1/65536; no more than 1."""
    capped = np.minimum(load, 1 << LOAD_BITS)
    squared: Int64s = capped * capped >> LOAD_BITS
    return squared


def class_loads(demand: Int64s, usable: Bools, supply: Int64s) -> Int64s:
    """(C,) load of each class in 1/65536: demand (I,) milli, usable (I, C), supply (C,) milli."""
    offered = supply > 0
    hosts = usable & offered
    constrained = (usable | ~offered).sum(axis=1) < len(supply)
    constrained &= hosts.any(axis=1)
    hosts, demand = hosts[constrained], demand[constrained]
    load = np.zeros(len(supply), dtype=np.int64)
    if not len(demand):
        return load
    share = _normal(np.where(hosts, supply, 0) >> 4)
    for _ in range(SPREAD_ROUNDS):
        load = (share * demand[:, None]).sum(axis=0) // np.maximum(supply, 1)
        share = _normal((share << LOAD_BITS) // np.maximum(load, 64))
    balanced: Int64s = (share * demand[:, None]).sum(axis=0) // np.maximum(supply, 1)
    return balanced


def _normal(weight: Int64s) -> Int64s:
    """Rows scaled to sum to 65536 (rounded down)."""
    normal: Int64s = (weight << LOAD_BITS) // np.maximum(weight.sum(axis=1), 1)[:, None]
    return normal


def gang_load(pool: PoolArrays, usable: Bools, need: Int64s, demand_milli: int) -> int:
    """Load in 1/65536 of a kind whose `need` (3,) is gpus, cpu_milli, memory_mib on one node.

    `usable` (N,) says which nodes its models allow.
    """
    gpus, cpu_milli, memory_mib = need.tolist()
    fits = (pool.gpu_free == WHOLE_MILLI).sum(axis=1) // gpus
    fits = np.minimum(fits, pool.cpu_free // max(cpu_milli, 1))
    fits = np.minimum(fits, pool.memory_free // max(memory_mib, 1))
    hosted = int(fits[usable & pool.open].sum()) * int(gpus) * WHOLE_MILLI
    return min((demand_milli << LOAD_BITS) // max(hosted, 1), 1 << LOAD_BITS)
