"""How long a turn takes under our own policy, with many waiting: `python -m benchmarks.turns`.

A fleet of 12,500 nodes × 8 that is full, 5,000 jobs of seven projects, four classes and ten sizes
that wait, quotas, and decayed usage. Each turn brings one end and one submission, as in
benchmarks/controller.py; times are CPU ms of the whole step: facts, fold, plan. Prints JSON.
"""

import argparse
import gc
import json
import sys
import time
from dataclasses import replace
from random import Random

import numpy as np

from madang.core import events as ev
from madang.core.classes import Preemptible, class_of
from madang.core.controller import Controller
from madang.core.model import (
    Category,
    Exit,
    Job,
    Node,
    Project,
    Provisioning,
    Purpose,
    Shape,
)
from madang.core.policies import MADANG
from madang.core.settings import Quota

HOUR_MS = 3_600_000
PROJECTS = tuple(f"team-{letter}" for letter in "abcdefg")
CLASSES = (
    (Provisioning.RESERVED, Category.TRAINING, Purpose.PRODUCE),
    (Provisioning.ON_DEMAND, Category.TRAINING, Purpose.PRODUCE),
    (Provisioning.ON_DEMAND, Category.INTERACTIVE, Purpose.TEST),
    (Provisioning.SPOT, Category.DATA, Purpose.TEST),
)
SIZES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (8, 8), (16, 8), (3, 2), (5, 4))


def job_of(number: int, random: Random, now_ms: int) -> Job:
    """A job as intake would make it."""
    axes = random.choice(CLASSES)
    found = class_of((), *axes)
    members, gpus = random.choice(SIZES)
    checkpoints = random.random() < 0.5
    return Job(
        id=f"j-{number}",
        seq=number,
        project=random.choice(PROJECTS),
        shape=Shape(gpus, cpu_milli=gpus * 1_000),
        members=members,
        provisioning=axes[0],
        category=axes[1],
        purpose=axes[2],
        priority=found.priority,
        submitted_ms=now_ms - random.randint(0, 6 * HOUR_MS),
        checkpoints=checkpoints,
        preemptible=found.preemptible is Preemptible.ALWAYS
        or (found.preemptible is Preemptible.CHECKPOINTED and checkpoints),
        head_start_ms=found.head_start_ms,
    )


def full_yard(nodes: int, *, moves: bool, quotas: bool) -> tuple[Controller, list[str]]:
    """Every node held by a job of eight GPUs; under `moves` they may be moved aside."""
    controller, at_ms = Controller(), 0
    facts: list[ev.Fact] = [ev.PolicySet(replace(MADANG, preempts=moves))]
    facts += [ev.ProjectSet(Project(project)) for project in PROJECTS]
    if quotas:
        facts += [
            ev.QuotaSet(Quota(f"project:{p}", guaranteed_milli=nodes * 1_000, weight=1 + at))
            for at, p in enumerate(PROJECTS[:3])
        ]
        facts.append(ev.QuotaSet(Quota("workspace:default", limit_milli=nodes * 8_000)))
    facts += [
        ev.NodeSeen(Node(f"n{n:05}", 8, 96_000, 2_000_000, "H100", "h100")) for n in range(nodes)
    ]
    controller.step(facts, at_ms)
    holders = []
    for n in range(nodes):
        project = PROJECTS[n % len(PROJECTS)]
        job = Job(f"h-{n}", n, project, Shape(8, cpu_milli=8_000), checkpoints=True, priority=20)
        holders.append(ev.JobSubmitted(job))
    controller.step(holders, 1)
    while controller.due_ms(1) == 1:
        controller.step([], 1)
    started = [ev.MemberStarted(f"h-{n}.1", 0, 2) for n in range(nodes)]
    controller.step(started, 2)
    controller.state.take_changed()
    return controller, [f"h-{n}.1" for n in range(nodes)]


def measure(
    nodes: int, waiting: int, turns: int, *, moves: bool, quotas: bool
) -> dict[str, object]:
    """CPU ms of each of many turns."""
    random = Random(7)
    controller, held = full_yard(nodes, moves=moves, quotas=quotas)
    now_ms = 8 * HOUR_MS
    asked = [ev.JobSubmitted(job_of(nodes + n, random, now_ms)) for n in range(waiting)]
    began = time.process_time()
    controller.step(asked, now_ms)
    first_ms = (time.process_time() - began) * 1000
    spent, number = [], nodes + waiting
    gc.collect()
    gc.freeze()
    for turn in range(turns):
        now_ms += 1_000
        number += 1
        facts: list[ev.Fact] = [ev.JobSubmitted(job_of(number, random, now_ms))]
        if held[turn] in controller.state.allocations:
            facts.append(ev.MemberEnded(held[turn], 0, Exit(0), now_ms))
        began = time.process_time()
        controller.step(facts, now_ms)
        spent.append((time.process_time() - began) * 1000)
        controller.state.take_changed()
        controller.state.forget_ended()
    return {
        "nodes": nodes,
        "waiting": len(controller.state.queue),
        "moves_aside": moves,
        "quotas": quotas,
        "first_ms": round(first_ms, 1),
        "p50_ms": round(float(np.percentile(spent, 50)), 2),
        "p99_ms": round(float(np.percentile(spent, 99)), 2),
        "most_ms": round(max(spent), 2),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns", description=__doc__)
    parser.add_argument("--nodes", type=int, default=12_500)
    parser.add_argument("--waiting", type=int, default=5_000)
    parser.add_argument("--turns", type=int, default=200)
    options = parser.parse_args()
    for moves, quotas in ((False, False), (False, True), (True, False), (True, True)):
        result = measure(options.nodes, options.waiting, options.turns, moves=moves, quotas=quotas)
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
