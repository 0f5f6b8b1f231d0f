"""FGD's fragmentation F (Weng et al., USENIX ATC'23): idle GPU that typical requests cannot use.

With M the typical requests and p_m their share,
    F_n(M) = Σ_m p_m f_n(m)
    f_n(m) = all idle milli of node n, if m cannot run there (GPU, CPU or model) or m asks no GPU;
             else the idle milli on GPUs with less than m's gpu_milli left.
p_m is kept as the integer count w_m, so F here is exact and scaled by W = Σ w_m. Memory is no part
of the paper's F.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from madang.core.scoring._accelerate import compiles, jit
from madang.core.scoring._base import Int16s, Int32s, Int64s, PoolArrays, Shape, allowed

TYPICAL_PERCENT = 95  # the most frequent requests that make up this much of the mix (the paper's)


@dataclass(frozen=True, slots=True, eq=False)
class Typical:
    """table (M, 5) int64: gpus, gpu_milli, cpu_milli, model mask, weight; weight = Σ weights."""

    table: Int64s
    weight: int


def typical_of(counted: Iterable[tuple[Shape, int]]) -> Typical:
    """The most frequent (gpus, gpu_milli, cpu, models), until 95 % of the requests are covered."""
    counts: dict[tuple[int, int, int, int], int] = {}
    for shape, count in counted:
        key = (shape.gpus, shape.gpu_milli, shape.cpu_milli, shape.model_mask)
        counts[key] = counts.get(key, 0) + count
    requests = sum(counts.values())
    rows: list[tuple[int, ...]] = []
    covered = 0
    for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered * 100 >= TYPICAL_PERCENT * requests:
            break
        rows.append((*key, count))
        covered += count
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 5)
    return Typical(table=table, weight=max(covered, 1))


def fragmentation(pool: PoolArrays, rows: Int64s, typical: Typical) -> Int64s:
    """(R,) F of each row, in milli-GPU scaled by `typical.weight`."""
    free = pool.gpu_free[rows]
    cpu, model = pool.cpu_free[rows], pool.model[rows]
    if compiles(len(pool.cpu_free)):
        out = np.empty(len(rows), dtype=np.int64)
        _each_row(free, cpu, model, typical.table, out)
        return out
    return fragmentation_of(free, cpu, model, typical.table)


def fragmentation_of(free: Int32s, cpu: Int64s, model: Int16s, table: Int64s) -> Int64s:
    """(R,) F·W for free (R, G) milli, cpu (R,) and model (R,): the NumPy twin of `one_node`."""
    total = np.zeros(len(free), dtype=np.int64)
    idle = free.sum(axis=1, dtype=np.int64)
    for gpus, milli, cpu_milli, mask, weight in table.tolist():
        if gpus == 0:
            total += weight * idle
            continue
        fitting = free >= milli
        runs = (fitting.sum(axis=1) >= gpus) & (cpu >= cpu_milli)
        runs &= allowed(model, mask)
        lost = np.where(fitting, 0, free).sum(axis=1, dtype=np.int64)
        total += weight * np.where(runs, lost, idle)
    return total


@jit
def one_node(free: Int32s, cpu: int, model: int, table: Int64s) -> int:
    """F·W of one node: free (G,) milli."""
    idle = 0
    for slot in range(len(free)):
        idle += free[slot]
    total = 0
    if idle == 0:
        return total
    for m in range(len(table)):
        gpus, milli, mask = table[m, 0], table[m, 1], table[m, 3]
        lost = 0
        fitting = 0
        for slot in range(len(free)):
            if free[slot] >= milli:
                fitting += 1
            else:
                lost += free[slot]
        model_fits = mask == -1 or (model >= 0 and (mask >> np.int64(max(model, 0))) & 1 == 1)
        runs = gpus > 0 and fitting >= gpus and cpu >= table[m, 2] and model_fits
        total += table[m, 4] * (lost if runs else idle)
    return total


@jit
def _each_row(free: Int32s, cpu: Int64s, model: Int16s, table: Int64s, out: Int64s) -> None:
    for row in range(len(free)):
        out[row] = one_node(free[row], cpu[row], model[row], table)
