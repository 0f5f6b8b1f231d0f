"""What every placement policy sees, answers and promises.

A policy gives one integer score to every node that can host a request; the highest score wins and
equal scores go to the lowest node row. So the order is total, the same on every machine, and a
node's score depends on nothing but that node's own state and the policy's tables: that is what
lets `Board` keep scores and rescore only the nodes that changed.

Letters: N nodes, G slots for GPUs on the widest node, R rows asked for.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

WHOLE_MILLI = 1000
NEVER = np.iinfo(np.int64).min  # the score of a node that cannot host the request
MODELS_MAX = 62  # codes of GPU models are bits of one signed 64-bit mask
ANY_MODEL = -1  # all bits set

Int16s = NDArray[np.int16]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Bools = NDArray[np.bool_]


class PoolArrays(Protocol):
    """What placement reads of a pool, whoever owns it: `Pool` below, or the scheduler's own.

    See `Pool` for shapes and units.
    """

    @property
    def gpu_free(self) -> Int32s: ...
    @property
    def gpu_count(self) -> Int32s: ...
    @property
    def cpu_free(self) -> Int64s: ...
    @property
    def cpu_total(self) -> Int64s: ...
    @property
    def memory_free(self) -> Int64s: ...
    @property
    def memory_total(self) -> Int64s: ...
    @property
    def model(self) -> Int16s: ...
    @property
    def open(self) -> Bools: ...
    @property
    def nodes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Pool:
    """The part of a snapshot that placement reads: plain arrays, one row a node.

    gpu_free (N, G) int32 milli-GPU left per device (0 where there is no device), gpu_count (N,)
    int32, cpu_free and cpu_total (N,) int64 milli-cores, memory_free and memory_total (N,) int64
    MiB, model (N,) int16 code of the GPU model (-1: none), open (N,) bool: takes new work.
    """

    gpu_free: Int32s
    gpu_count: Int32s
    cpu_free: Int64s
    cpu_total: Int64s
    memory_free: Int64s
    memory_total: Int64s
    model: Int16s
    open: Bools

    def __post_init__(self) -> None:
        nodes = len(self.gpu_count)
        for name in ("cpu_free", "cpu_total", "memory_free", "memory_total", "model", "open"):
            rows = getattr(self, name).shape
            assert rows == (nodes,), f"{name} has shape {rows}, the pool has {nodes} nodes"
        assert self.gpu_free.shape[0] == nodes, f"gpu_free has {self.gpu_free.shape[0]} rows"
        assert int(self.model.max(initial=-1)) < MODELS_MAX, f"more than {MODELS_MAX} models"

    @property
    def nodes(self) -> int:
        return len(self.gpu_count)

    def copied(self) -> "Pool":
        """The same pool with its own free arrays: a what-if."""
        return Pool(
            gpu_free=self.gpu_free.copy(),
            gpu_count=self.gpu_count,
            cpu_free=self.cpu_free.copy(),
            cpu_total=self.cpu_total,
            memory_free=self.memory_free.copy(),
            memory_total=self.memory_total,
            model=self.model,
            open=self.open,
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """What one member asks of one node: `gpus` devices with `gpu_milli` left on each.

    `models` holds the allowed model codes; None allows any. Two equal shapes fail or fit together.
    """

    gpus: int
    gpu_milli: int
    cpu_milli: int
    memory_mib: int
    models: frozenset[int] | None = None

    def __post_init__(self) -> None:
        assert 0 <= self.gpus <= 64, f"gpus must be 0 to 64, got {self.gpus}"
        assert 0 <= self.gpu_milli <= WHOLE_MILLI, f"gpu_milli must be 0 to 1000: {self.gpu_milli}"
        assert (self.gpus == 0) == (self.gpu_milli == 0), f"gpus and gpu_milli disagree: {self}"
        assert self.cpu_milli >= 0, f"cpu_milli must not be negative: {self.cpu_milli}"
        assert self.memory_mib >= 0, f"memory_mib must not be negative: {self.memory_mib}"

    @property
    def total_milli(self) -> int:
        return self.gpus * self.gpu_milli

    @property
    def shares(self) -> bool:
        """Takes part of one GPU."""
        return self.gpus == 1 and self.gpu_milli < WHOLE_MILLI

    @property
    def model_mask(self) -> int:
        if self.models is None:
            return ANY_MODEL
        return sum(1 << code for code in sorted(self.models))

    def vector(self) -> Int64s:
        """(5,) int64 for the kernels: gpus, gpu_milli, cpu_milli, memory_mib, model mask."""
        asked = (self.gpus, self.gpu_milli, self.cpu_milli, self.memory_mib, self.model_mask)
        return np.array(asked, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Place:
    """A node row and the devices taken on it, ascending."""

    row: int
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Why no node takes the shape: nodes counted once, at the first filter that stops them."""

    closed: int
    model: int
    gpu: int
    cpu: int
    memory: int

    @property
    def reason(self) -> str:
        """The filter that stops the most nodes; ties go to the earlier filter."""
        counts = (("gpu", self.gpu), ("cpu", self.cpu), ("memory", self.memory))
        rest = (("model", self.model), ("closed", self.closed))
        return max(counts + rest, key=lambda pair: pair[1])[0]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a policy writes for R rows.

    value (R,) int64, higher is better, NEVER where the shape does not fit; device (R,) int16, the
    GPU that a sharing shape would take, −1 for other shapes.
    """

    value: Int64s
    device: Int16s


def scores_for(rows: int) -> Scores:
    """For a policy to write: every row of it, so what it holds before does not matter."""
    return Scores(np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int16))


class Policy(Protocol):
    """A way to prefer one node over another.

    `cached` says that a score depends on nothing but the node and the policy's tables, and `epoch`
    changes whenever kept scores are no longer true (new tables).
    """

    @property
    def name(self) -> str: ...

    @property
    def cached(self) -> bool: ...

    @property
    def epoch(self) -> int: ...

    def observe(self, pool: PoolArrays, shape: Shape) -> None:
        """A request of this shape has arrived (before it is placed)."""
        ...

    def score_rows(
        self, pool: PoolArrays, shape: Int64s, rows: Int64s, turn: int, out: Scores
    ) -> None:
        """Writes the scores of `rows` (R,), and nothing else: equal arguments, equal numbers.

        `shape` is `Shape.vector()`. `turn` counts the decisions; only a policy with `cached` False
        may look at it.
        """
        ...


def fits(pool: PoolArrays, shape: Int64s, rows: Int64s) -> Bools:
    """(R,) which of `rows` can host the shape now. The one feasibility rule of the family."""
    gpus, milli, cpu, memory, mask = (int(asked) for asked in shape)
    able: Bools = pool.open[rows] & (pool.cpu_free[rows] >= cpu)
    able &= pool.memory_free[rows] >= memory
    if gpus > 0:
        able &= (pool.gpu_free[rows] >= milli).sum(axis=1) >= gpus
        able &= allowed(pool.model[rows], mask)
    return able


def allowed(model: Int16s, mask: int) -> Bools:
    """Which models the mask allows; a node without a model is allowed by 'any' alone."""
    if mask == ANY_MODEL:
        return np.ones(len(model), dtype=np.bool_)
    bits = (np.int64(mask) >> np.maximum(model, 0).astype(np.int64)) & 1
    able: Bools = (model >= 0) & (bits == 1)
    return able


def why_unplaced(pool: PoolArrays, shape: Shape) -> Unplaced:
    """Counts of nodes by the first filter that stops them: closed, model, gpu, cpu, memory."""
    left = np.ones(pool.nodes, dtype=np.bool_)
    counts = []
    fitting = (pool.gpu_free >= max(shape.gpu_milli, 1)).sum(axis=1) >= shape.gpus
    able_model = allowed(pool.model, shape.model_mask) if shape.gpus else left
    for able in (
        pool.open,
        able_model,
        fitting,
        pool.cpu_free >= shape.cpu_milli,
        pool.memory_free >= shape.memory_mib,
    ):
        counts.append(int((left & ~able).sum()))
        left = left & able
    assert not left.any(), f"{shape} fits on row {int(left.argmax())}"
    return Unplaced(*counts)


def tightest_devices(free: Int32s, shape: Shape) -> tuple[int, ...]:
    """The `gpus` fullest devices of one node that still fit the shape, ascending.

    `free` is (G,) milli; equal devices go by their index.
    """
    able = [slot for slot in range(len(free)) if free[slot] >= shape.gpu_milli]
    able.sort(key=lambda slot: (int(free[slot]), slot))
    assert len(able) >= shape.gpus, f"{shape} does not fit on {free.tolist()}"
    return tuple(sorted(able[: shape.gpus]))
