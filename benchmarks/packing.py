"""How well, and how fast, each placement policy packs.

`python -m benchmarks.packing openb` replays the public openb lists with their published arrival
orders, ten seeds each, for every policy. `... variants` compares madang with fgd on workloads
derived from the default list by seed: other CPU loads, shares of GPU sharing, GPU-model
constraints, jobs of several GPUs, and hungrier jobs. `... speed` times single decisions at 5,000
nodes of 8 GPUs, on one core, decision and booking included.

The lists are read from the folder that MADANG_DATA names; without it `openb` and `variants` say so
and end.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madang.core.scoring import POLICIES, Board, Madang, Place, Pool, Shape, typical_of
from madang.sim import pack

Result = dict[str, Any]

NODES = "openb_node_list_gpu_node.csv.gz"
LISTS = ("default", "cpu100", "gpushare40")
SEEDS = range(42, 52)
VARIANT_SEED = 7  # of the draw that makes a variant's pod list
CPU100_PODS = 789  # the CPU-only pods of the published cpu100 list, the family's unit
# Models as the published gpuspec lists name them, weighed by how often.
SPECS = (
    ("T4", 36),
    ("V100M16|V100M32", 20),
    ("G2", 14),
    ("P100", 8),
    ("P100|V100M16|V100M32", 4),
    ("P100|T4|V100M16|V100M32", 3),
    ("G2|P100|T4|V100M16|V100M32", 3),
    ("G3", 3),
)
SPEED_NODES = 5_000
SPEED_GOAL_PER_S = 20_000
SPEED_WARM = 2_000  # decisions before the clock starts: kernels loaded, a first mix learned
SPEED_DECISIONS = 30_000


def main() -> int:
    options = parsed()
    measures: dict[str, Callable[[argparse.Namespace], object]] = {
        "openb": measure_openb,
        "variants": measure_variants,
        "speed": measure_speed,
    }
    if options.what != "speed" and not folder().is_dir():
        print("MADANG_DATA names no folder with openb/: set it and run again", file=sys.stderr)
        return 2
    print(json.dumps(measures[options.what](options)))
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("openb", "variants", "speed"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many, from 42 on")
    parser.add_argument("--policies", default=",".join(POLICIES))
    return parser.parse_args()


def folder() -> Path:
    return Path(os.environ.get("MADANG_DATA", "/nonexistent")) / "openb"


def measure_openb(options: argparse.Namespace) -> object:
    """Means over seeds of every policy on the published lists."""
    rows = []
    for name in LISTS:
        for policy in options.policies.split(","):
            files = (
                folder() / NODES,
                folder() / f"openb_pod_list_{name}.csv.gz",
                folder() / f"arrivals_{name}.csv.gz",
            )
            results = [pack.run(*files, seed, policy) for seed in SEEDS[: options.seeds]]
            rows.append({"list": name, **summary(policy, results)})
            say(rows[-1])
    return rows


def summary(policy: str, results: Sequence[Result]) -> dict[str, object]:
    allocated = [result["allocated_pct"]["100"] for result in results]
    return {
        "policy": policy,
        "seeds": len(results),
        "allocated_100": round(statistics.mean(allocated), 2),
        "allocated_100_least": round(min(allocated), 2),
        "allocated_130": mean_of(results, "allocated_pct", "130"),
        "fragmented_100": mean_of(results, "fragmented_pct", "100"),
        "failed_cpu_only_pct": round(
            statistics.mean(result["failed_cpu_only_pct"] for result in results), 2
        ),
        "decisions_per_s": round(
            statistics.median(result["decisions_per_s"] for result in results)
        ),
    }


def mean_of(results: Sequence[Result], key: str, level: str) -> float:
    return float(round(statistics.mean(result[key][level] for result in results), 2))


def say(row: object) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


def measure_variants(options: argparse.Namespace) -> object:
    """madang and fgd side by side on every derived variant."""
    pool, codes = pack.read_nodes(folder() / NODES)
    listed = pack.read_pods(folder() / "openb_pod_list_default.csv.gz", codes)
    rows = []
    for name, pods in variants(listed, codes).items():
        found: dict[str, dict[str, object]] = {}
        for policy in ("fgd", "madang"):
            results = [replayed(pool, pods, seed, policy) for seed in SEEDS[: options.seeds]]
            found[policy] = summary(policy, results)
        ours, theirs = (float(str(found[p]["allocated_100"])) for p in ("madang", "fgd"))
        rows.append({"variant": name, "gain": round(ours - theirs, 2), **found})
        say(rows[-1])
    gains = [float(str(row["gain"])) for row in rows]
    say({"mean_gain": round(statistics.mean(gains), 2), "least_gain": min(gains)})
    return rows


def replayed(pool: Pool, pods: list[Shape], seed: int, policy: str) -> Result:
    total_milli = int(pool.gpu_free.sum(dtype=np.int64))
    trace = pack.Trace(pool, pods, pack.order_of(pods, total_milli, seed))
    typical = typical_of(Counter(pods).items())
    made = pack.policy_named(policy, seed, typical)
    return pack.metrics(trace, pack.replay(trace, made, typical), typical, policy, seed)


def variants(listed: list[Shape], codes: dict[str, int]) -> dict[str, list[Shape]]:
    """The family of the FGD paper, and hungrier jobs, each drawn from the default list."""
    draw = np.random.Generator(np.random.PCG64(VARIANT_SEED))

    def drawn(pods: list[Shape], count: int) -> list[Shape]:
        return [pods[index] for index in draw.integers(0, len(pods), count)]

    def volume(pods: list[Shape]) -> int:
        return sum(shape.total_milli for shape in pods)

    def mixed(part: list[Shape], rest: list[Shape], percent: int) -> list[Shape]:
        """`percent` of the GPU demand from `part`, the others from `rest`, CPU-only pods kept."""
        total = volume(listed)
        some = total * percent * len(part) // (100 * volume(part))
        others = total * (100 - percent) * len(rest) // (100 * volume(rest))
        return cpu_only + drawn(part, some) + drawn(rest, others)

    cpu_only = [shape for shape in listed if not shape.gpus]
    gpu = [shape for shape in listed if shape.gpus]
    sharing = [shape for shape in gpu if shape.shares]
    whole = [shape for shape in gpu if not shape.shares]
    several = [shape for shape in gpu if shape.gpus > 1]
    single = [shape for shape in gpu if shape.gpus == 1]
    made = {"default": listed}
    for percent in (0, 50, 200, 250):
        made[f"cpu{percent:03}"] = gpu + drawn(cpu_only, CPU100_PODS * percent // 100)
    for percent in (0, 20, 60, 80, 100):
        made[f"gpushare{percent}"] = mixed(sharing, whole, percent)
    for percent in (10, 20, 25, 33):
        made[f"gpuspec{percent}"] = constrained(listed, codes, percent, draw)
    for percent in (20, 30, 40, 50):
        made[f"multigpu{percent}"] = mixed(several, single, percent)
    for percent in (80, 115, 130):
        made[f"hungry-cpu{percent}"] = [hungrier(shape, percent, 100) for shape in listed]
    for percent in (150, 200):
        made[f"hungry-memory{percent}"] = [hungrier(shape, 100, percent) for shape in listed]
    return made


def constrained(
    listed: list[Shape], codes: dict[str, int], percent: int, draw: np.random.Generator
) -> list[Shape]:
    """`percent` of the GPU pods bound to models; jobs of 8 GPUs to models that come in eights."""
    weights = np.array([weight for _, weight in SPECS], dtype=np.float64)
    pods = []
    for shape in listed:
        if not shape.gpus or draw.random() * 100 >= percent:
            pods.append(shape)
            continue
        names = SPECS[draw.choice(len(SPECS), p=weights / weights.sum())][0].split("|")
        if shape.gpus > 4 and not {"G2", "G3"} & set(names):
            names = ["G2"]
        pods.append(dataclasses.replace(shape, models=frozenset(codes[name] for name in names)))
    return pods


def hungrier(shape: Shape, cpu_percent: int, memory_percent: int) -> Shape:
    if not shape.gpus:
        return shape
    return dataclasses.replace(
        shape,
        cpu_milli=shape.cpu_milli * cpu_percent // 100,
        memory_mib=shape.memory_mib * memory_percent // 100,
    )


def measure_speed(options: argparse.Namespace) -> object:
    """Decisions a second of CPU time (one core), for one shape and for a mix of 128 shapes."""
    draw = np.random.Generator(np.random.PCG64(VARIANT_SEED))
    one = [Shape(1, 1000, 11_000, 40_000)]
    many = [
        Shape(1, int(milli), int(cpu) * 1000, int(cpu) * 3500)
        for milli, cpu in zip(
            draw.choice((1000, 1000, 810, 650, 470, 320, 230, 160), 128),
            draw.integers(2, 20, 128),
            strict=True,
        )
    ]
    rows = []
    for name, shapes in (("one shape", one), ("128 shapes", many)):
        per_s = statistics.median(speed(shapes, draw) for _ in range(3))
        rows.append({"requests": name, "per_s": round(per_s), "goal_per_s": SPEED_GOAL_PER_S})
        say(rows[-1])
    return rows


def speed(shapes: list[Shape], draw: np.random.Generator) -> float:
    board = Board(yard(SPEED_NODES), Madang())
    began_s = 0.0
    for turn, index in enumerate(draw.integers(0, len(shapes), SPEED_WARM + SPEED_DECISIONS)):
        if turn == SPEED_WARM:
            began_s = time.process_time()
        place = board.choose(shapes[index])
        if isinstance(place, Place):
            board.take(shapes[index], place)
    return SPEED_DECISIONS / (time.process_time() - began_s)


def yard(nodes: int) -> Pool:
    """Empty nodes of 8 GPUs, 96 cores and 384 GiB."""
    cpu = np.full(nodes, 96_000, dtype=np.int64)
    memory = np.full(nodes, 384 * 1024, dtype=np.int64)
    return Pool(
        gpu_free=np.full((nodes, 8), 1000, dtype=np.int32),
        gpu_count=np.full(nodes, 8, dtype=np.int32),
        cpu_free=cpu,
        cpu_total=cpu.copy(),
        memory_free=memory,
        memory_total=memory.copy(),
        model=np.zeros(nodes, dtype=np.int16),
        open=np.ones(nodes, dtype=np.bool_),
    )


if __name__ == "__main__":
    sys.exit(main())
