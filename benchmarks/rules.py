"""How long a look at all violation rules takes: rules x running jobs.

`python -m benchmarks.rules` fills the ring of a store with an hour of GPU metrics, lets jobs hold
all devices, and judges by rules of mixed measures (quantiles since the start and over windows,
means, maxima; of five metrics), most about the whole yard, some about single jobs, as owners add
them. Every figure is of the whole look: gathering, measuring, hysteresis.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from madang.core.rules import SHIPPED, Rule
from madang.telemetry.frames import Column, Frame, Subject
from madang.telemetry.ring import TICK_MS, TICKS
from madang.telemetry.rules.judge import Judge, Run
from madang.telemetry.stays import Held
from madang.telemetry.store import Store

BEGIN_MS = 1_795_276_800_000
PER_NODE = 8
METRICS = (
    "gpu_util_percent",
    "gpu_memory_used_percent",
    "gpu_power_w",
    "gpu_temperature_c",
    "gpu_sm_clock_mhz",
)
SPANS_M = (5, 10, 30, 60)


def filled(path: Path, nodes: int, ticks: int) -> Store:
    """A store with so many ticks of the metrics of all nodes."""
    store = Store(path)
    store.open(BEGIN_MS)
    chance = np.random.default_rng(7)
    keys = tuple(str(at) for at in range(PER_NODE))
    for tick in range(ticks):
        at_ms = BEGIN_MS + tick * TICK_MS
        values = chance.integers(0, 100, (nodes, len(METRICS), PER_NODE)).astype(np.float32)
        frames = [
            Frame(
                f"n{node:05}",
                7,
                tick,
                at_ms,
                TICK_MS,
                tuple(
                    Column(metric, Subject.GPU, keys, values[node, at])
                    for at, metric in enumerate(METRICS)
                ),
            )
            for node in range(nodes)
        ]
        store.take(frames, at_ms)
        store.advance(at_ms + 7_000)
    return store


def held(nodes: int, jobs: int) -> list[Held]:
    """Jobs on all devices, as equal as can be."""
    devices = [(f"n{node:05}", gpu) for node in range(nodes) for gpu in range(PER_NODE)]
    cuts = np.linspace(0, len(devices), jobs + 1).astype(int)
    return [
        Held(f"j-{n}.1", f"j-{n}", f"p{n % 20}", "training", "", tuple(devices[a:b]), BEGIN_MS)
        for n, (a, b) in enumerate(itertools.pairwise(cuts))
    ]


def rules_of(count: int, jobs: int) -> list[Rule]:
    """The shipped ones first, then a mix; every second one is about a single job."""
    made = list(SHIPPED.values())
    kinds = [("p25", 0), ("p95", 0)] + [
        (how, span) for how in ("mean", "max", "min", "p50") for span in SPANS_M
    ]
    for n in range(count - len(made)):
        how, span = kinds[n % len(kinds)]
        metric = METRICS[n % 2] if not span else METRICS[n % len(METRICS)]
        scope = (f"j-{n % jobs}",) if n % 2 else ()
        made.append(
            Rule(
                f"r{n}", metric, how, span * 60_000, is_above=bool(n % 3),
                threshold="50", hold_ms=60_000, jobs=scope,
            )
        )  # fmt: skip
    return made


def measured(
    store: Store, rules: list[Rule], runs: list[Run], looks: int, tick: int
) -> list[float]:
    """CPU seconds of each look, of one thread; a tick passes in between."""
    judge = Judge(store)
    found = []
    for at in range(looks):
        store.advance(BEGIN_MS + (tick + at) * TICK_MS + 7_000)
        began_s = time.process_time()
        judge.look(rules, runs, set())
        found.append(time.process_time() - began_s)
    return found


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--gpus", type=int, default=10_240)
    given.add_argument("--jobs", type=int, default=2_000)
    given.add_argument("--looks", type=int, default=7)
    asked = given.parse_args()
    nodes = asked.gpus // PER_NODE
    with tempfile.TemporaryDirectory() as folder:
        store = filled(Path(folder), nodes, TICKS)
        holds = held(nodes, asked.jobs)
        store.hold(holds)
        runs = [
            Run(one.allocation, one.job, one.project, one.category, "", "ada", False)
            for one in holds
        ]
        tick = TICKS
        for count in (3, 10, 100, 1_000):
            rules = rules_of(count, asked.jobs)
            found = measured(store, rules, runs, asked.looks, tick)
            tick += asked.looks
            print(
                f"{asked.gpus} GPUs, {len(runs)} jobs, {count} rules: median "
                f"{statistics.median(found) * 1000:.0f} ms, worst {max(found) * 1000:.0f} ms "
                "of CPU a look"
            )


if __name__ == "__main__":
    main()
