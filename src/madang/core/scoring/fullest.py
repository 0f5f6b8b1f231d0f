"""fullest: the node with the fewest whole GPUs left, the lowest row of these.

MostAllocated as NAVER's NSML packs (DEVIEW 2023), by GPUs alone: small jobs do not break whole
nodes. What the queueing policies of the literature are compared with.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.scoring._base import (
    NEVER,
    WHOLE_MILLI,
    Int64s,
    PoolArrays,
    Scores,
    Shape,
    fits,
)
from madang.core.scoring._tightest import tightest


@dataclass(frozen=True, slots=True)
class Fullest:
    name: str = "fullest"
    cached: bool = True
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        free = pool.gpu_free[rows]
        whole = (free == WHOLE_MILLI).sum(axis=1)
        out.value[:] = np.where(fits(pool, shape, rows), -whole, NEVER)
        out.device[:] = tightest(free, shape)

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return
