"""fgd: the steepest descent of fragmentation (Weng et al., USENIX ATC'23), the policy to beat.

Score int(100·sigmoid((F_before − F_after)/1000)), highest first; a sharing request tries every GPU.
The sigmoid is read from a table of exact integer thresholds, because a float score (or a random
tie-break) costs the policy several points: many nodes tie, and only one fixed order of nodes keeps
filling the same ones.

The typical requests are given at the start, as in the paper: fgd knows the mix of the whole trace.
"""

from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

from madang.core.scoring._accelerate import compiles, jit
from madang.core.scoring._base import (
    NEVER,
    WHOLE_MILLI,
    Int16s,
    Int32s,
    Int64s,
    PoolArrays,
    Scores,
    Shape,
    fits,
    scores_for,
)
from madang.core.scoring.fragmentation import Typical, fragmentation_of, one_node

SIGMOID_MILLI = 1000  # one whole GPU of fragmentation is one unit of the sigmoid


def thresholds(weight: int) -> Int64s:
    """(99,) the least F·W drop that scores k = 1..99: ceil(W·1000·ln(k/(100 − k))), exactly.

    Decimal's ln is correctly rounded, so the table is the same on every machine.
    """
    with localcontext() as context:
        context.prec = 50
        steps = [
            (Decimal(k) / Decimal(100 - k)).ln() * SIGMOID_MILLI * weight for k in range(1, 100)
        ]
        return np.array([int(step.to_integral_value("ROUND_CEILING")) for step in steps], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Fgd:
    typical: Typical
    steps: Int64s
    name: str = "fgd"
    cached: bool = True
    epoch: int = 0

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        able = fits(pool, shape, rows)
        out.value[:] = NEVER
        out.device[:] = -1
        hits = np.flatnonzero(able)
        if not len(hits):
            return
        inside = rows[hits]
        nodes = (pool.gpu_free[inside], pool.cpu_free[inside], pool.model[inside])
        found = scores_for(len(hits))
        score_nodes = _score_nodes if compiles(len(pool.cpu_free)) else score_nodes_numpy
        score_nodes(nodes, shape, self.typical.table, self.steps, found.value, found.device)
        out.value[hits] = found.value
        out.device[hits] = found.device

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        return


def fgd_of(typical: Typical) -> Fgd:
    return Fgd(typical=typical, steps=thresholds(typical.weight))


Nodes = tuple[Int32s, Int64s, Int16s]  # free (R, G), cpu (R,), model (R,)


def score_nodes_numpy(
    nodes: Nodes, shape: Int64s, table: Int64s, steps: Int64s, score: Int64s, device: Int16s
) -> None:
    """The NumPy twin of `_score_nodes`."""
    free, cpu, model = nodes
    before = fragmentation_of(free, cpu, model, table)
    cpu_after = cpu - shape[2]
    gpus, milli = int(shape[0]), int(shape[1])
    device[:] = -1
    if gpus == 1 and milli < WHOLE_MILLI:
        score[:] = NEVER
        for slot in range(free.shape[1]):
            after = free.copy()
            after[:, slot] -= milli
            drop = before - fragmentation_of(after, cpu_after, model, table)
            worth = np.where(free[:, slot] >= milli, np.searchsorted(steps, drop, "right"), NEVER)
            better = worth > score
            score[better] = worth[better]
            device[better] = slot
        return
    after = free.copy()
    if gpus > 0:
        rank = np.where(free >= milli, free, WHOLE_MILLI + 1).argsort(axis=1, kind="stable")
        np.put_along_axis(
            after, rank[:, :gpus], np.take_along_axis(after, rank[:, :gpus], 1) - milli, 1
        )
    drop = before - fragmentation_of(after, cpu_after, model, table)
    score[:] = np.searchsorted(steps, drop, "right")


@jit
def _score_nodes(
    nodes: Nodes, shape: Int64s, table: Int64s, steps: Int64s, score: Int64s, device: Int16s
) -> None:
    free, cpu, model = nodes
    slots = free.shape[1]
    gpus, milli = shape[0], shape[1]
    after = np.empty(slots, dtype=free.dtype)
    for row in range(len(free)):
        before = one_node(free[row], cpu[row], model[row], table)
        left = cpu[row] - shape[2]
        after[:] = free[row]
        score[row] = -1
        device[row] = -1
        if gpus == 1 and milli < 1000:
            for slot in range(slots):
                if free[row, slot] < milli:
                    continue
                after[slot] -= milli
                drop = before - one_node(after, left, model[row], table)
                after[slot] += milli
                worth = np.searchsorted(steps, drop, side="right")
                if worth > score[row]:
                    score[row] = worth
                    device[row] = slot
            continue
        for _ in range(gpus):
            tightest = -1
            for slot in range(slots):
                if free[row, slot] < milli or after[slot] != free[row, slot]:
                    continue
                if tightest < 0 or free[row, slot] < free[row, tightest]:
                    tightest = slot
            after[tightest] -= milli
        drop = before - one_node(after, left, model[row], table)
        score[row] = np.searchsorted(steps, drop, side="right")
