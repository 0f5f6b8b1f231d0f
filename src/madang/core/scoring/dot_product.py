"""dot-product: the node whose free vector is least aligned with the request (FGD's baseline).

int(100·(1 − (cpu_free·cpu/128000² + gpu_free·gpu/8000²)/2)) before placing, over one denominator.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.scoring._base import NEVER, Int64s, PoolArrays, Scores, Shape, fits
from madang.core.scoring._tightest import tightest
from madang.core.scoring.best_fit import CPU_UNIT_MILLI, GPU_UNIT_MILLI

GPU_WEIGHT = (CPU_UNIT_MILLI // GPU_UNIT_MILLI) ** 2


@dataclass(frozen=True, slots=True)
class DotProduct:
    name: str = "dot-product"
    cached: bool = True
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        free = pool.gpu_free[rows]
        idle = free.sum(axis=1, dtype=np.int64)
        aligned = pool.cpu_free[rows] * shape[2] + GPU_WEIGHT * idle * (shape[0] * shape[1])
        whole = 2 * CPU_UNIT_MILLI**2
        rest = whole - aligned
        percent = np.sign(rest) * (np.abs(rest) * 100 // whole)  # towards zero, as int() does
        out.value[:] = np.where(fits(pool, shape, rows), percent, NEVER)
        out.device[:] = tightest(free, shape)

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return
