"""random: one feasible node, any of its fitting GPUs; the floor every other policy must clear.

The seed comes from outside (`key`). A score is a hash of (key, turn, row), so every turn draws anew
and the draw is the same on every machine. Never cached.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.scoring._base import NEVER, WHOLE_MILLI, Int64s, PoolArrays, Scores, Shape, fits

UInt64s = NDArray[np.uint64]


def mixed(bits: UInt64s) -> UInt64s:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): equal bits in, well-spread bits out."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    spread: UInt64s = bits ^ (bits >> np.uint64(31))
    return spread


@dataclass(frozen=True, slots=True)
class Random:
    key: int = 0
    name: str = "random"
    cached: bool = False
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        salt = mixed(np.array([self.key & (2**64 - 1)], dtype=np.uint64) ^ np.uint64(turn))
        draw = mixed(salt ^ rows.astype(np.uint64))
        out.value[:] = np.where(
            fits(pool, shape, rows), (draw >> np.uint64(1)).astype(np.int64), NEVER
        )
        out.device[:] = -1
        gpus, milli = int(shape[0]), int(shape[1])
        if gpus == 1 and milli < WHOLE_MILLI:
            able = pool.gpu_free[rows] >= milli
            count = np.maximum(able.sum(axis=1), 1)
            nth = (mixed(draw) % count.astype(np.uint64)).astype(np.int64)
            out.device[:] = (able.cumsum(axis=1) > nth[:, None]).argmax(axis=1)

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return
