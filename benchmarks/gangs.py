"""How fast a gang is placed along the network tree, and how fast it is told why it is not.

    python -m benchmarks.gangs                 the tables of docs/benchmarks/gangs.md
    python -m benchmarks.gangs --nodes 12500

Decision only, on one core, in CPU ms (wall time beside it): `seat` on a snapshot of a yard of 8-GPU
nodes in leaves of 8 and blocks of 640, empty or with a share of its GPUs taken at random by jobs
that are not whole nodes. "Why" is what `madang why` and a dry run ask, "never" what admission says,
both with jobs waiting: of one shape, or of as many shapes as there are jobs.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from random import Random

from madang.core import events as ev
from madang.core.admission import judge
from madang.core.explain import why
from madang.core.model import (
    Allocation,
    AllocationState,
    Job,
    Node,
    Project,
    Seat,
    Segment,
    Shape,
)
from madang.core.placement import Unplaced
from madang.core.seating import seat
from madang.core.state import State

GPUS_PER_NODE, NODES_PER_LEAF, LEAVES_PER_BLOCK = 8, 8, 80
ONE = Shape(1, cpu_milli=8_000, memory_mib=100_000)
NODE = Shape(8, cpu_milli=64_000, memory_mib=800_000)
ROUNDS, SPAN_S = 50, 10.0


@dataclass(frozen=True, slots=True)
class Timed:
    """CPU ms of one question asked again and again, and what it was answered."""

    what: str
    p50_ms: float
    p99_ms: float
    wall_p50_ms: float
    answer: str


def timed(what: str, ask: Callable[[], object], answer: str = "") -> Timed:
    """Ask ROUNDS times or for SPAN_S, after once to warm up."""
    first = ask()
    cpu_s: list[float] = []
    wall_s: list[float] = []
    while len(cpu_s) < ROUNDS and (len(cpu_s) < 3 or sum(wall_s) < SPAN_S):
        began_wall_s, began_s = time.perf_counter(), time.process_time()
        ask()
        cpu_s.append(time.process_time() - began_s)
        wall_s.append(time.perf_counter() - began_wall_s)
    cpu_s.sort()
    return Timed(
        what,
        round(statistics.median(cpu_s) * 1000, 2),
        round(cpu_s[len(cpu_s) * 99 // 100] * 1000, 2),
        round(statistics.median(wall_s) * 1000, 2),
        answer or str(first),
    )


def yard(nodes: int, taken_pct: int, *, seed: int = 1) -> State:
    """A yard of these nodes, with a share of its GPUs held by jobs of one GPU."""
    state = State()
    state.apply(ev.ProjectSet(Project("p")), 0)
    draw = Random(f"gangs/{seed}")
    for at in range(nodes):
        leaf = at // NODES_PER_LEAF
        names = (f"b{leaf // LEAVES_PER_BLOCK}", f"l{leaf}")
        node = Node(f"n{at:05}", GPUS_PER_NODE, 96_000, 1_000_000, "H100", domains=names)
        state.apply(ev.NodeSeen(node), 0)
    held = [
        Seat(f"n{at:05}", (gpu,))
        for at in range(nodes)
        for gpu in range(GPUS_PER_NODE)
        if draw.random() * 100 < taken_pct
    ]
    if held:
        job = Job("held", 1, "p", ONE, len(held))
        state.apply(ev.JobSubmitted(job), 0)
        state.apply(
            ev.AllocationBound(
                Allocation("held.1", "held", "p", 1, ONE, tuple(held), AllocationState.BOUND, 0)
            ),
            0,
        )
    return state


def placements(nodes: int) -> Iterator[Timed]:
    """512 members on an empty yard and on one that is half full."""
    for taken_pct in (0, 50):
        snapshot = yard(nodes, taken_pct).snapshot(0)
        asks = {
            "512 × 1 GPU": Job("a", 2, "p", ONE, 512),
            "512 × 1 GPU, tensor groups of 4 in a node, stages of 32 in a leaf": Job(
                "a", 2, "p", ONE, 512, segments=(Segment("leaf", 32), Segment("node", 4))
            ),
            "512 × 1 GPU, at most 20 switches": Job("a", 2, "p", ONE, 512, switches=20),
            "16 to 512 × 1 GPU, within one leaf": Job(
                "a", 2, "p", ONE, 512, members_min=16, within="leaf"
            ),
        }
        if not taken_pct:
            asks["512 × 8 GPUs, within one block"] = Job("a", 2, "p", NODE, 512)
            asks["512 × 8 GPUs, anywhere"] = Job("a", 2, "p", NODE, 512, within="any")
        for what, job in asks.items():
            seated = seat(snapshot, snapshot.pool, job)
            if isinstance(seated, Unplaced):
                answer = f"room for {seated.room}"
            else:
                rows = {row for row, _ in seated.places}
                leaves = len({row // NODES_PER_LEAF for row in rows})
                answer = f"{len(seated.places)} members, {len(rows)} nodes, {leaves} leaves"
            ask = partial(seat, snapshot, snapshot.pool, job)
            yield timed(f"{taken_pct} % taken: {what}", ask, answer)


def refusals(nodes: int, waiting: int) -> Iterator[Timed]:
    """An 80-GPU gang that cannot start, or never can, with others waiting."""
    gang = Job("gang", 2, "p", NODE, 10, within="leaf", submitted_ms=1)
    wide = replace(gang, id="wide", within="", members=10, seq=3)
    for kind in ("one shape", "each its own shape"):
        state = yard(nodes, 40)
        for number in range(waiting):
            size = NODE if kind == "one shape" else replace(NODE, memory_mib=800_000 + number)
            job = Job(f"w{number}", 10 + number, "p", size, 4, submitted_ms=2)
            state.apply(ev.JobSubmitted(job), 2)
        state.apply(ev.JobSubmitted(wide), 1)
        last = replace(wide, id="last", seq=10**6, submitted_ms=3)
        state.apply(ev.JobSubmitted(last), 3)
        snapshot = state.snapshot(4)
        for what, id in (("at the head", "wide"), ("at the end", "last")):
            ask = partial(why, snapshot, id)
            text = why(snapshot, id).text
            yield timed(f"why, {what} of {waiting:,} waiting ({kind})", ask, text)
        rejected = judge(snapshot, gang)
        assert rejected is not None, "ten whole nodes do not fit under a leaf of eight"
        never = partial(judge, snapshot, gang)
        yield timed(f"never, {waiting:,} waiting ({kind})", never, rejected.code)


def main() -> int:
    """Print both tables as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gangs", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--waiting", type=int, default=5_000)
    options = parser.parse_args()
    print(f"{platform.machine()} {sys.version.split()[0]}", file=sys.stderr)
    for one in chain(placements(options.nodes), refusals(options.nodes, options.waiting)):
        print(json.dumps(asdict(one), ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
