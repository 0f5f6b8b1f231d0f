"""Scores kept between decisions: a request of a known shape rescores only the nodes that changed.

A score depends on its node alone (see `_base`), so per shape the board keeps every node's score
and how far it has read the log of changed rows. A choice rescores what the log added, then takes
the highest score, lowest row first: O(changed + N) with N a single pass over 64-bit integers.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from madang.core.scoring._base import (
    NEVER,
    WHOLE_MILLI,
    Int64s,
    Place,
    Policy,
    Pool,
    Scores,
    Shape,
    Unplaced,
    scores_for,
    tightest_devices,
    why_unplaced,
)

SHAPES_MAX = (
    256  # kept shapes; beyond it the one unused for longest is forgotten (10 B a node each)
)


@dataclass(slots=True)
class _Kept:
    vector: Int64s
    scores: Scores  # (N,)
    read: int  # entries of the log that are in the scores
    epoch: int


class Board:
    """One pool under one policy. The board owns the pool's free arrays: `take` and `give` are the
    only ways they change, `changed` says that the caller changed a row in another way."""

    def __init__(self, pool: Pool, policy: Policy) -> None:
        self.pool = pool
        self.policy = policy
        self.turn = 0
        self._kept: OrderedDict[Shape, _Kept] = OrderedDict()
        # Whoever falls further behind than this log reaches rescores everything.
        self._log = np.zeros(max(2 * pool.nodes, 64), dtype=np.int64)
        self._logged = 0
        self._all_rows = np.arange(pool.nodes, dtype=np.int64)

    def choose(self, shape: Shape) -> Place | Unplaced:
        """The best node for one new request, or why there is none. Takes nothing."""
        self.policy.observe(self.pool, shape)
        self.turn += 1
        kept = self._scored(shape)
        value, device = kept.scores.value, kept.scores.device
        row = int(value.argmax()) if self.pool.nodes else 0
        if not self.pool.nodes or value[row] == NEVER:
            return why_unplaced(self.pool, shape)
        return Place(row=row, devices=self._devices(shape, row, int(device[row])))

    def take(self, shape: Shape, place: Place) -> None:
        """Books a placement. Asserts that every part of it was free."""
        self._book(shape, place, +1)

    def give(self, shape: Shape, place: Place) -> None:
        """Undoes a booking."""
        self._book(shape, place, -1)

    def changed(self, row: int) -> None:
        if self._logged == len(self._log):
            self._logged = 0
            for kept in self._kept.values():
                kept.epoch = -1
        self._log[self._logged] = row
        self._logged += 1

    def _scored(self, shape: Shape) -> _Kept:
        kept = self._kept.get(shape)
        if kept is None:
            kept = self._keep(shape)
        self._kept.move_to_end(shape)
        behind = self._logged - kept.read
        if kept.epoch != self.policy.epoch or not self.policy.cached or behind >= self.pool.nodes:
            self._score(kept, self._all_rows, kept.scores)
        elif behind:
            rows = self._log[kept.read : self._logged]
            fresh = scores_for(len(rows))
            self._score(kept, rows, fresh)
            kept.scores.value[rows] = fresh.value
            kept.scores.device[rows] = fresh.device
        kept.read, kept.epoch = self._logged, self.policy.epoch
        return kept

    def _score(self, kept: _Kept, rows: Int64s, out: Scores) -> None:
        self.policy.score_rows(self.pool, kept.vector, rows, self.turn, out)

    def _keep(self, shape: Shape) -> _Kept:
        if len(self._kept) >= SHAPES_MAX:
            self._kept.popitem(last=False)
        kept = _Kept(shape.vector(), scores_for(self.pool.nodes), read=0, epoch=-1)
        self._kept[shape] = kept
        return kept

    def _devices(self, shape: Shape, row: int, device: int) -> tuple[int, ...]:
        if shape.gpus == 0:
            return ()
        if shape.shares:
            return (device,)
        return tightest_devices(self.pool.gpu_free[row], shape)

    def _book(self, shape: Shape, place: Place, sign: int) -> None:
        pool, row = self.pool, place.row
        assert len(place.devices) == shape.gpus, f"{place} does not hold {shape}"
        for device in place.devices:
            left = int(pool.gpu_free[row, device]) - sign * shape.gpu_milli
            assert 0 <= left <= WHOLE_MILLI, f"GPU {device} of row {row} would have {left} milli"
            assert device < pool.gpu_count[row], f"row {row} has no GPU {device}"
            pool.gpu_free[row, device] = left
        cpu = int(pool.cpu_free[row]) - sign * shape.cpu_milli
        memory = int(pool.memory_free[row]) - sign * shape.memory_mib
        assert 0 <= cpu <= pool.cpu_total[row], f"row {row} would have {cpu} milli-cores"
        assert 0 <= memory <= pool.memory_total[row], f"row {row} would have {memory} MiB"
        pool.cpu_free[row] = cpu
        pool.memory_free[row] = memory
        self.changed(row)
