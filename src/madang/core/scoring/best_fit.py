"""best-fit: the node with least left after the placement.

int(100·(1 − (½·cpu_left/128000 + ½·gpu_left/8000))), as FGD's baseline (ATC'23) weighs the two: a
node of 128 cores and 8 GPUs is the unit. Written over one denominator, so no float decides.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.scoring._base import NEVER, Int64s, PoolArrays, Scores, Shape, fits
from madang.core.scoring._tightest import tightest

CPU_UNIT_MILLI = 128_000
GPU_UNIT_MILLI = 8_000


@dataclass(frozen=True, slots=True)
class BestFit:
    name: str = "best-fit"
    cached: bool = True
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        free = pool.gpu_free[rows]
        cpu_left = pool.cpu_free[rows] - shape[2]
        gpu_left = free.sum(axis=1, dtype=np.int64) - shape[0] * shape[1]
        whole = 2 * CPU_UNIT_MILLI
        used = whole - cpu_left - gpu_left * (CPU_UNIT_MILLI // GPU_UNIT_MILLI)
        percent = np.sign(used) * (np.abs(used) * 100 // whole)  # towards zero, as int() does
        out.value[:] = np.where(fits(pool, shape, rows), percent, NEVER)
        out.device[:] = tightest(free, shape)

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return
