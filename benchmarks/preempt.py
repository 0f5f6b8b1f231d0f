"""How fast a preemption is decided: one plan of a full fleet, on one core, decision only.

    python -m benchmarks.preempt

`single`: a job of a higher class wants one GPU of a fleet that 4,000 jobs of one GPU fill.
`reclaim`: a project within its guarantee takes one borrowed GPU back from another; the shape for
which KAI-Scheduler publishes 13.9 s end to end on 500 nodes. `gang`: 512 members of one GPU, then
64 of eight, inside one block of a network tree. A plan is everything from the snapshot to the
decisions: turns, start pass, rights, costs, search. Folding, commit and the engine are not in it.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from madang.core.controller import Controller
from madang.core.events import (
    Fact,
    JobNominated,
    JobSubmitted,
    MemberStarted,
    NodeSeen,
    PolicySet,
    ProjectSet,
    QuotaSet,
    ReleaseAsked,
)
from madang.core.model import Job, Node, Project, Shape
from madang.core.plan import plan
from madang.core.policy import Misfit, Policy
from madang.core.settings import Quota

GPUS_PER_NODE = 8
NODES_PER_LEAF, LEAVES_PER_BLOCK = 8, 16
CLASSES = Policy("classes", misfit=Misfit.SKIP, preempts=True)
NOW_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Result:
    """CPU ms of a plan that moves `victims` jobs aside."""

    case: str
    nodes: int
    running: int
    victims: int
    plan_ms_least: float
    plan_ms_p50: float
    plan_ms_most: float


def fleet(nodes: int) -> list[NodeSeen]:
    """So many nodes in a network tree of leaves and blocks."""
    return [
        NodeSeen(
            Node(
                f"n{n:05}",
                GPUS_PER_NODE,
                96_000,
                1_000_000,
                "H100",
                domains=(
                    f"b{n // (NODES_PER_LEAF * LEAVES_PER_BLOCK)}",
                    f"l{n // NODES_PER_LEAF}",
                ),
            )
        )
        for n in range(nodes)
    ]


def full(nodes: int, gpus_each: int, facts: list[Fact]) -> Controller:
    """A fleet that jobs of so many GPUs fill; each has run for its own while."""
    controller = Controller()
    seen = fleet(nodes)
    projects = [ProjectSet(Project(name)) for name in ("busy", "ours")]
    controller.step([*projects, PolicySet(CLASSES), *facts, *seen], 1)
    shape = Shape(gpus_each, cpu_milli=gpus_each * 10_000, memory_mib=gpus_each * 100_000)
    count = nodes * GPUS_PER_NODE // gpus_each
    jobs = [
        JobSubmitted(Job(f"r-{n}", n, "busy", shape, submitted_ms=1, checkpoints=True))
        for n in range(count)
    ]
    controller.step(jobs, 1)
    while controller.due_ms(1) == 1:
        controller.step([], 1)
    for number, id in enumerate(list(controller.state.allocations)):
        at_ms = 2 + number * 7_919 % 3_000_000
        controller.state.apply(MemberStarted(id, 0, at_ms), NOW_MS)
    assert len(controller.state.allocations) == count, "the fleet is not full"
    return controller


def measure(case: str, controller: Controller, job: Job, rounds: int) -> Result:
    """Plan the same turn so often; nothing of it is folded."""
    state = controller.state
    state.apply(JobSubmitted(job), NOW_MS)
    spent, victims = [], 0
    for _ in range(rounds):
        began_s = time.process_time()
        decisions = plan(state.snapshot(NOW_MS))
        spent.append((time.process_time() - began_s) * 1e3)
        victims = sum(isinstance(one, ReleaseAsked) for one in decisions)
        assert any(isinstance(one, JobNominated) for one in decisions), "nobody was moved aside"
    spent.sort()
    return Result(
        case,
        len(state.node_ids),
        len(state.allocations),
        victims,
        round(spent[0], 1),
        round(spent[len(spent) // 2], 1),
        round(spent[-1], 1),
    )


def waiting(gpus: int, members: int = 1, priority: int = 40, within: str = "any") -> Job:
    """The job that room is made for."""
    shape = Shape(gpus, cpu_milli=gpus * 10_000, memory_mib=gpus * 100_000)
    return Job("w-1", 10**6, "ours", shape, members, priority=priority, within=within)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preempt", description=__doc__)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"python {platform.python_version()} on {platform.machine()}", file=sys.stderr)
    nodes, rounds = options.nodes, options.rounds
    guarantee = QuotaSet(Quota("project:ours", guaranteed_milli=64_000))
    cases: tuple[tuple[Any, ...], ...] = (
        ("single", 1, [], waiting(1)),
        ("reclaim", 1, [guarantee], waiting(1, priority=0)),
        ("gang 512x1", 1, [], waiting(1, 512, within="block")),
        ("gang 64x8", 1, [], waiting(8, 64, within="block")),
        ("gang 64x8 over 4-GPU jobs", 4, [], waiting(8, 64, within="block")),
    )
    for case, gpus_each, facts, job in cases:
        controller = full(nodes, gpus_each, list(facts))
        print(json.dumps(asdict(measure(case, controller, job, rounds))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
