"""most-allocated: Kubernetes' bin packing, the fullest node first.

The mean over GPU, CPU and memory of the percentage asked for after the placement, each rounded
down, as NodeResourcesFit's MostAllocated strategy does with equal weights. A resource that the node
has none of is left out of the mean.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.scoring._base import NEVER, WHOLE_MILLI, Int64s, PoolArrays, Scores, Shape, fits
from madang.core.scoring._tightest import tightest


@dataclass(frozen=True, slots=True)
class MostAllocated:
    name: str = "most-allocated"
    cached: bool = True
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        free = pool.gpu_free[rows]
        gpu_total = pool.gpu_count[rows].astype(np.int64) * WHOLE_MILLI
        gpu_left = free.sum(axis=1, dtype=np.int64) - shape[0] * shape[1]
        percent = np.zeros(len(rows), dtype=np.int64)
        kinds = np.zeros(len(rows), dtype=np.int64)
        for left, total in (
            (gpu_left, gpu_total),
            (pool.cpu_free[rows] - shape[2], pool.cpu_total[rows]),
            (pool.memory_free[rows] - shape[3], pool.memory_total[rows]),
        ):
            percent += (total - left) * 100 // np.maximum(total, 1)
            kinds += total > 0
        mean = percent // np.maximum(kinds, 1)
        out.value[:] = np.where(fits(pool, shape, rows), mean, NEVER)
        out.device[:] = tightest(free, shape)

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return
