"""`madang sim pack`: the packing protocol of FGD (Weng et al., USENIX ATC'23) over two lists.

Pods arrive in a given order, each is tried once, none leaves, a failure is dropped. The result says
how much of the pool's GPU-milli is allocated, and how much is fragmented, when the arrived demand
reaches 80 ... 130 % of the pool.

Promises: equal files, seed and policy give equal metrics on every machine (only `wall_s` and
`decisions_per_s` vary). Policies other than fgd see nothing but the pods that have arrived; fgd is
given the trace's typical pods, as published.

The rows of the pool are the nodes spread by a Fibonacci hash of their place in the file. A node
list is sorted by site and model; equal scores go to the lowest row, so without the spread a tie
would be a hidden preference for a model. With it the baselines meet their published means.
"""

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madang.core.scoring import (
    DEFAULT_POLICY,
    MODELS_MAX,
    POLICIES,
    WHOLE_MILLI,
    BestFit,
    Board,
    DotProduct,
    Madang,
    MostAllocated,
    Packing,
    Place,
    Policy,
    Pool,
    Random,
    Shape,
    Typical,
    fgd_of,
    fragmentation,
    typical_of,
)
from madang.sim.plot import Chart, Series, page
from madang.sim.traces import ROWS_MAX, TraceError, rows_of, write_text

ARRIVED_PERCENTS = (80, 90, 95, 100, 110, 120, 130)
ARRIVED_PERCENT_MAX = 130  # an order made here stops when this much has arrived
WARM_ARRIVALS = 64  # enough for madang's first refresh
GPUS_PER_NODE_MAX = 64  # as Shape allows; wider machines are several nodes
FIBONACCI_32 = 2_654_435_769  # 2^32 / golden ratio

Int64s = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trace:
    """The pool at the start, each pod's shape, and the arrival order as pod numbers."""

    pool: Pool
    pods: list[Shape]
    order: Int64s

    @property
    def total_milli(self) -> int:
        return int(self.pool.gpu_free.sum(dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Replayed:
    """One entry per arrival: GPU-milli arrived and used so far, F·W, and whether it failed."""

    arrived: Int64s
    used: Int64s
    fragmented: Int64s
    failed: NDArray[np.bool_]
    wall_s: float
    deciding_s: float


def run(
    nodes: Path | str,
    pods: Path | str,
    arrivals: Path | str | None = None,
    seed: int = 42,
    policy: str = DEFAULT_POLICY,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Replays one seed and returns the metrics under the keys of `madang sim pack --json`.

    Args:
        plot: where to write the page of curves, if anywhere.

    Raises:
        TraceError: a file cannot be used or the policy is not known.
    """
    if seed < 0:
        raise TraceError(f"--seed must be 0 or more; got {seed}")
    if policy not in POLICIES:
        raise _no_policy(policy)
    trace = read_trace(nodes, pods, arrivals, seed)
    typical = typical_of(Counter(trace.pods).items())
    # Once through the first arrivals untimed: numba loads (or compiles) its kernels there.
    first = Trace(pool=trace.pool, pods=trace.pods, order=trace.order[:WARM_ARRIVALS])
    replay(first, policy_named(policy, seed, typical), typical)
    replayed = replay(trace, policy_named(policy, seed, typical), typical)
    result = metrics(trace, replayed, typical, policy, seed)
    if plot is not None:
        write_text(plot, plotted(trace, replayed, typical, result))
    return result


def read_trace(
    nodes: Path | str, pods: Path | str, arrivals: Path | str | None, seed: int
) -> Trace:
    pool, codes = read_nodes(Path(nodes))
    shapes = read_pods(Path(pods), codes)
    if arrivals is None:
        order = order_of(shapes, int(pool.gpu_free.sum(dtype=np.int64)), seed)
    else:
        order = read_order(Path(arrivals), seed, len(shapes))
    return Trace(pool=pool, pods=shapes, order=order)


def policy_named(name: str, seed: int, typical: Typical) -> Policy:
    """A new policy of that name; `seed` is used by random, `typical` by fgd."""
    match name:
        case "random":
            return Random(key=seed)
        case "best-fit":
            return BestFit()
        case "dot-product":
            return DotProduct()
        case "most-allocated":
            return MostAllocated()
        case "packing":
            return Packing()
        case "fgd":
            return fgd_of(typical)
        case "madang":
            return Madang()
    raise _no_policy(name)


def _no_policy(name: str) -> TraceError:
    return TraceError(f"no packing policy is called {name!r}; choose one of {', '.join(POLICIES)}")


def replay(trace: Trace, policy: Policy, typical: Typical) -> Replayed:
    """Every arrival in turn, against a copy of the trace's pool."""
    arrivals = len(trace.order)
    arrived, used, fragmented = (np.zeros(arrivals, dtype=np.int64) for _ in range(3))
    failed = np.zeros(arrivals, dtype=np.bool_)
    board = Board(trace.pool.copied(), policy)
    per_node = fragmentation(board.pool, np.arange(board.pool.nodes), typical)
    whole_f, arrived_milli, used_milli, deciding_ns = int(per_node.sum()), 0, 0, 0
    began_ns = time.perf_counter_ns()
    for turn, pod in enumerate(trace.order.tolist()):
        shape = trace.pods[pod]
        asked_ns = time.perf_counter_ns()
        place = board.choose(shape)
        if isinstance(place, Place):
            board.take(shape, place)
        deciding_ns += time.perf_counter_ns() - asked_ns
        arrived_milli += shape.total_milli
        if isinstance(place, Place):
            used_milli += shape.total_milli
            now = int(fragmentation(board.pool, np.array([place.row]), typical)[0])
            whole_f += now - int(per_node[place.row])
            per_node[place.row] = now
        failed[turn] = not isinstance(place, Place)
        arrived[turn], used[turn], fragmented[turn] = arrived_milli, used_milli, whole_f
    wall_s = (time.perf_counter_ns() - began_ns) / 1e9
    return Replayed(arrived, used, fragmented, failed, wall_s, deciding_ns / 1e9)


def metrics(
    trace: Trace, replayed: Replayed, typical: Typical, policy: str, seed: int
) -> dict[str, Any]:
    total = trace.total_milli
    percent = (200 * replayed.arrived + total) // (2 * total)  # rounded to the nearest
    allocated: dict[str, float | None] = {}
    fragmented: dict[str, float | None] = {}
    for level in ARRIVED_PERCENTS:
        there = percent == level
        seen = bool(there.any())
        allocated[str(level)] = _percent(replayed.used[there], total) if seen else None
        fragmented[str(level)] = (
            _percent(replayed.fragmented[there], total * typical.weight) if seen else None
        )
    cpu_only = np.array([shape.gpus == 0 for shape in trace.pods], dtype=np.bool_)[trace.order]
    failed_cpu_only = int((replayed.failed & cpu_only).sum())
    return {
        "policy": policy,
        "seed": seed,
        "allocated_pct": allocated,
        "fragmented_pct": fragmented,
        "failed_pods": int(replayed.failed.sum()),
        "failed_cpu_only_pct": round(100 * failed_cpu_only / max(int(cpu_only.sum()), 1), 4),
        "wall_s": round(replayed.wall_s, 3),
        "decisions_per_s": round(len(trace.order) / max(replayed.deciding_s, 1e-9)),
    }


def plotted(trace: Trace, replayed: Replayed, typical: Typical, result: dict[str, Any]) -> str:
    """The page of `--plot`: allocated and fragmented, over the demand that has arrived."""
    total = trace.total_milli
    percent = (200 * replayed.arrived + total) // (2 * total)
    levels = np.unique(percent).tolist()
    at = [percent == level for level in levels]
    used = tuple(
        (x, _percent(replayed.used[there], total)) for x, there in zip(levels, at, strict=True)
    )
    torn = tuple(
        (x, _percent(replayed.fragmented[there], total * typical.weight))
        for x, there in zip(levels, at, strict=True)
    )
    chart = Chart(
        title="Allocated and fragmented GPUs",
        about="Each point is the mean over the arrivals that round to it.",
        x_label="arrived demand, % of the pool",
        y_label="% of the pool",
        series=(Series("allocated", used), Series("fragmented (F of FGD)", torn)),
        y_max=100,
    )
    policy, seed = result["policy"], result["seed"]
    facts = {"policy": policy, "seed": seed} | {
        f"allocated at {level} %": value
        for level, value in result["allocated_pct"].items()
        if value is not None
    }
    facts |= {name: result[name] for name in ("failed_pods", "failed_cpu_only_pct")}
    about = f"{len(trace.order)} arrivals, {trace.pool.nodes} nodes, {total // WHOLE_MILLI} GPUs"
    return page(f"Packing: {policy}, seed {seed}", about, facts, [chart])


def _percent(milli: Int64s, total: int) -> float:
    return round(100 * int(milli.sum()) / (len(milli) * total), 4)


def read_nodes(path: Path) -> tuple[Pool, dict[str, int]]:
    """The pool, rows spread by Fibonacci hash, and the code of each GPU model (by name order)."""
    rows = list(rows_of(path, ("cpu_milli", "memory_mib", "gpu", "model")))
    if not rows:
        raise TraceError(f"{path} lists no node; expected a header and one line a node")
    rows = [rows[index] for index in spread(len(rows))]
    gpu_count = np.array([_number(path, row, "gpu") for row in rows], dtype=np.int32)
    if int(gpu_count.max()) > GPUS_PER_NODE_MAX:
        raise TraceError(
            f"{path} has a node of {gpu_count.max()} GPUs; {GPUS_PER_NODE_MAX} is most"
        )
    if not gpu_count.any():
        raise TraceError(f"{path} has no GPU; percentages of GPU capacity need at least one")
    names = sorted({row["model"] for row in rows if row["model"]})
    if len(names) > MODELS_MAX:
        raise TraceError(
            f"{path} names {len(names)} GPU models; at most {MODELS_MAX} are supported"
        )
    codes = {name: code for code, name in enumerate(names)}
    slots = np.arange(int(gpu_count.max()))
    cpu = np.array([_number(path, row, "cpu_milli") for row in rows], dtype=np.int64)
    memory = np.array([_number(path, row, "memory_mib") for row in rows], dtype=np.int64)
    pool = Pool(
        gpu_free=np.where(slots < gpu_count[:, None], WHOLE_MILLI, 0).astype(np.int32),
        gpu_count=gpu_count,
        cpu_free=cpu,
        cpu_total=cpu.copy(),
        memory_free=memory,
        memory_total=memory.copy(),
        model=np.array([codes.get(row["model"], -1) for row in rows], dtype=np.int16),
        open=np.ones(len(rows), dtype=np.bool_),
    )
    return pool, codes


def spread(count: int) -> list[int]:
    """0..count−1 by Fibonacci hash, neighbours far apart: a fixed order without clusters."""
    return sorted(range(count), key=lambda index: (index * FIBONACCI_32 % 2**32, index))


def read_pods(path: Path, codes: dict[str, int]) -> list[Shape]:
    """One shape a line. gpu_milli is per GPU and capped at 1000; models joined by '|' in gpu_spec.

    A model that the pool does not have stays asked for, and never fits.
    """
    shapes: dict[Shape, Shape] = {}
    pods = []
    for row in rows_of(path, ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")):
        gpus = _number(path, row, "num_gpu")
        milli = min(_number(path, row, "gpu_milli"), WHOLE_MILLI) if gpus else 0
        if gpus > GPUS_PER_NODE_MAX or (gpus and not milli):
            raise TraceError(
                f"{path}: a pod of {gpus} GPUs with {milli} gpu_milli; expected at most "
                f"{GPUS_PER_NODE_MAX} GPUs and 1 to 1000 gpu_milli, or 0 GPUs"
            )
        named = [name for name in (row["gpu_spec"] or "").split("|") if name]
        shape = Shape(
            gpus=gpus,
            gpu_milli=milli,
            cpu_milli=_number(path, row, "cpu_milli"),
            memory_mib=_number(path, row, "memory_mib"),
            models=frozenset(codes[n] for n in named if n in codes) if named and gpus else None,
        )
        pods.append(shapes.setdefault(shape, shape))
    if not any(shape.gpus for shape in pods):
        raise TraceError(f"{path} has no pod that asks for a GPU; arrived demand would stay at 0 %")
    return pods


def read_order(path: Path, seed: int, pods: int) -> Int64s:
    """The published arrival order of that seed: pod numbers, first line = 0."""
    csv.field_size_limit(16 * ROWS_MAX)
    seeds = []
    for row in rows_of(path, ("seed", "order")):
        seeds.append(row["seed"])
        if row["seed"] != str(seed):
            continue
        words = (row["order"] or "").split()
        numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
        if not words or len(numbers) < len(words) or max(numbers) >= pods:
            raise TraceError(f"{path}: seed {seed} must hold pod numbers from 0 to {pods - 1}")
        return np.array(numbers, dtype=np.int64)
    raise TraceError(
        f"{path} has no arrival order for seed {seed}; it has {', '.join(seeds) or 'none'}. "
        "Choose one of these, or leave --arrivals out to make an order from the seed"
    )


def order_of(pods: Sequence[Shape], total_milli: int, seed: int) -> Int64s:
    """The protocol's order: the list shuffled, then drawn with replacement up to 130 % of capacity.

    NumPy's PCG64 from `seed`: one permutation, then one draw at a time.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    order = draw.permutation(len(pods)).tolist()
    arrived = sum(pods[pod].total_milli for pod in order)
    while arrived * 100 < ARRIVED_PERCENT_MAX * total_milli:
        pod = int(draw.integers(len(pods)))
        order.append(pod)
        arrived += pods[pod].total_milli
    return np.array(order, dtype=np.int64)


def _number(path: Path, row: dict[str, Any], column: str) -> int:
    text = row[column]
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 15:
        raise TraceError(f"{path}: {column} must be a whole number, got {text!r}")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--nodes", required=True, help="gzip CSV: cpu_milli, memory_mib, gpu, model"
    )
    parser.add_argument(
        "--pods", required=True, help="gzip CSV: cpu_milli, memory_mib, num_gpu, ..."
    )
    parser.add_argument("--arrivals", help="gzip CSV of published orders: seed, order")
    parser.add_argument("--seed", type=int, default=42, help="of the order, and of random (42)")
    parser.add_argument("--policy", default=DEFAULT_POLICY, help=", ".join(POLICIES))
    parser.add_argument("--plot", help="write the curves there: one HTML file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="madang sim pack", description="Replay a packing trace.")
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    plot = Path(asked.plot) if asked.plot else None
    try:
        result = run(asked.nodes, asked.pods, asked.arrivals, asked.seed, asked.policy, plot)
    except TraceError as wrong:
        print(f"madang sim pack: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps(result) if asked.json else table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result as lines for people."""
    lines = [f"{result['policy']}  seed {result['seed']}", "arrived %  allocated %  fragmented %"]
    for level, allocated in result["allocated_pct"].items():
        fragmented = result["fragmented_pct"][level]
        if allocated is not None:
            lines.append(f"{level:>9}  {allocated:>11.2f}  {fragmented:>12.2f}")
    lines.append(
        f"failed {result['failed_pods']} pods ({result['failed_cpu_only_pct']:.2f} % of the "
        f"CPU-only ones); {result['decisions_per_s']} decisions/s"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
