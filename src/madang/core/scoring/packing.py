"""packing: shared GPUs first, then idle GPUs of a used node, then a node nobody uses.

The Gpu-Packing baseline of FGD's simulator (ATC'23). A node whose n GPUs are all idle scores
max(33 − n, n); else its fullest fitting GPUs are taken: max(50 − k, 33) if k of them are wholly
idle, else max(100 − (Σ left·100/1000)//10, 50). A request without GPU scores 0 everywhere.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.scoring._base import NEVER, WHOLE_MILLI, Int64s, PoolArrays, Scores, Shape, fits
from madang.core.scoring._tightest import OUT_OF_REACH, tightest


@dataclass(frozen=True, slots=True)
class Packing:
    name: str = "packing"
    cached: bool = True
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        free = pool.gpu_free[rows]
        able = fits(pool, shape, rows)
        out.device[:] = tightest(free, shape)
        gpus, milli = int(shape[0]), int(shape[1])
        if gpus == 0:
            out.value[:] = np.where(able, 0, NEVER)
            return
        count = pool.gpu_count[rows].astype(np.int64)
        unused = (free == WHOLE_MILLI).sum(axis=1) == count
        taken = np.sort(np.where(free >= milli, free, OUT_OF_REACH), axis=1)[:, :gpus]
        idle = (taken == WHOLE_MILLI).sum(axis=1)
        left_percent = (taken.astype(np.int64) * 100 // WHOLE_MILLI).sum(axis=1)
        shared = np.maximum(100 - left_percent // 10, 50)
        used = np.where(idle > 0, np.maximum(50 - idle, 33), shared)
        worth = np.where(unused, np.maximum(33 - count, count), used)
        out.value[:] = np.where(able, worth, NEVER)

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return
