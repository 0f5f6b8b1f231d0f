"""The shapes that schedulers are compared by, decided by the real controller on one core.

    python -m benchmarks.scale              every shape: the table of docs/benchmarks/scale.md
    python -m benchmarks.scale --only gang preemption
    python -m benchmarks.scale --only turn --profile

Decision only: facts, plan and explanation of the core, as the daemon and the simulator call them,
on a state that the fold has kept up; no ledger, no engine, no API. Times are CPU ms of the one
thread (`time.process_time`), so that other work on the machine does not count. Prints JSON lines.
"""

import argparse
import cProfile
import gc
import json
import platform
import pstats
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks import placement, turns
from madang.core import events as ev
from madang.core.controller import Controller
from madang.core.explain import why
from madang.core.model import Job, Node, Project, Provisioning, Shape
from madang.core.placement import Unplaced
from madang.core.plan import plan
from madang.core.policies import MADANG
from madang.core.seating import Seated, seat
from madang.core.settings import Quota

NODES, NODES_LARGE, NODES_KAI = 5_000, 12_500, 500
GPUS = 8
LEAF_NODES, BLOCK_LEAVES = 20, 25  # a block of 500 nodes, 4,000 GPUs
PENDING = 5_000
NOW_MS = 1_000_000
RUNS = 30
POLICY = replace(MADANG, within="block")


def fleet(
    nodes: int, *, policy: object = POLICY, cells: tuple[tuple[str, int], ...] = ()
) -> Controller:
    """An empty fleet with a network of blocks and leaves."""
    controller = Controller()
    assert isinstance(policy, type(POLICY)), policy
    facts: list[ev.Fact] = [ev.PolicySet(policy)]
    facts += [ev.ProjectSet(Project(name)) for name in ("busy", "p", "tenant")]
    for n in range(nodes):
        leaf = n // LEAF_NODES
        domains = (f"b{leaf // BLOCK_LEAVES}", f"l{leaf}")
        facts.append(
            ev.NodeSeen(Node(f"n{n:05}", GPUS, 96_000, 1_000_000, "H100", "h100", domains))
        )
    if cells:
        facts.append(ev.QuotaSet(Quota("project:tenant", cells=cells)))
    controller.step(facts, 0)
    return controller


def settle(controller: Controller, facts: list[ev.Fact], now_ms: int) -> None:
    """Turns until none is due at once."""
    controller.step(facts, now_ms)
    while controller.due_ms(now_ms) == now_ms:
        controller.step([], now_ms)
    controller.state.take_changed()


def fill(controller: Controller, jobs: int, gpus: int) -> None:
    """So many preemptible jobs run, since a while ago."""
    shape = Shape(gpus, cpu_milli=gpus * 10_000)
    asked: list[ev.Fact] = [
        ev.JobSubmitted(Job(f"f-{n}", n, "busy", shape, checkpoints=True, submitted_ms=1))
        for n in range(jobs)
    ]
    settle(controller, asked, 1)
    assert not controller.state.queue, "the fleet is too small for what fills it"
    settle(controller, [ev.MemberStarted(f"f-{n}.1", 0, 2) for n in range(jobs)], 2)


def spent_ms(question: Callable[[], object], runs: int = RUNS) -> dict[str, float]:
    """CPU ms of one answer."""
    question()
    gc.collect()
    gc.freeze()
    spent = []
    for _ in range(runs):
        began_s = time.process_time()
        question()
        spent.append((time.process_time() - began_s) * 1e3)
    return quantiles(spent)


def quantiles(spent: list[float]) -> dict[str, float]:
    return {
        "p50_ms": round(float(np.percentile(spent, 50)), 2),
        "p99_ms": round(float(np.percentile(spent, 99)), 2),
        "most_ms": round(max(spent), 2),
    }


# -- the shapes -----------------------------------------------------------------------------------


def singles() -> dict[str, object]:
    """One-GPU jobs a second on 5,000 × 8: `seat` alone, a plan, a turn with fold and admission."""
    shape = Shape(1, cpu_milli=10_000, memory_mib=100_000)
    controller = fleet(NODES)
    asked: list[ev.Fact] = [
        ev.JobSubmitted(Job(f"s-{n}", n, "p", shape, submitted_ms=1)) for n in range(4_000)
    ]
    for fact in asked:
        controller.state.apply(fact, NOW_MS)
    plan(controller.state.snapshot(NOW_MS))  # kernels loaded
    began_s = time.process_time()
    decisions = plan(controller.state.snapshot(NOW_MS))
    plan_s = time.process_time() - began_s
    other = fleet(NODES)
    began_s = time.process_time()
    step = other.step(asked, NOW_MS)
    turn_s = time.process_time() - began_s
    assert len(decisions) == len(step.decisions) == len(asked), "not all were placed"
    return {
        "nodes": NODES,
        "seats_per_s": round(placement.seats_per_s([(1, 1000, 11)])[0]),
        "plan_per_s": round(len(asked) / plan_s),
        "turn_per_s": round(len(asked) / turn_s),
        "turn_of_4000_ms": round(turn_s * 1e3, 1),
    }


def gang() -> dict[str, object]:
    """A gang of 512 in one block of 500 nodes, 60 of 200 GPUs of each leaf in use."""
    controller = fleet(NODES)
    fill(controller, 12_000, 1)
    found: dict[str, object] = {"nodes": NODES}
    for name, gpus, within in (("512x1", 1, "block"), ("512x4", 4, "block")):
        job = Job(name, 10**6, "p", Shape(gpus, cpu_milli=10_000), 512, within=within)
        snapshot = controller.state.snapshot(NOW_MS)
        seated = seat(snapshot, snapshot.pool, job)
        assert isinstance(seated, Seated), f"{name}: {seated}"

        def ask(job: Job = job) -> object:
            snapshot = controller.state.snapshot(NOW_MS)
            return seat(snapshot, snapshot.pool, job)

        found[name] = spent_ms(ask)
    controller.state.apply(ev.JobSubmitted(Job("gang", 10**6, "p", Shape(1), 512)), NOW_MS)
    decisions = plan(controller.state.snapshot(NOW_MS))
    assert len(decisions) == 1, decisions
    found["plan_512x1"] = spent_ms(lambda: plan(controller.state.snapshot(NOW_MS)))
    return found


def unschedulable() -> dict[str, object]:
    """Why a gang of 80 GPUs does not start, on a full fleet with 5,000 pending."""
    found: dict[str, object] = {"pending": PENDING}
    for nodes in (NODES_KAI, NODES):
        controller = fleet(nodes)
        fill(controller, nodes, 8)
        waiting: list[ev.Fact] = [
            ev.JobSubmitted(
                Job(f"w-{n}", 10**6 + n, "p", Shape(1 + n % 8), 1 + n % 3, submitted_ms=3)
            )
            for n in range(PENDING)
        ]
        waiting.append(
            ev.JobSubmitted(Job("gang", 10**7, "p", Shape(8), 10, submitted_ms=4, within="block"))
        )
        settle(controller, waiting, NOW_MS)
        told = why(controller.state.snapshot(NOW_MS), "gang")
        asked = spent_ms(
            lambda controller=controller: why(controller.state.snapshot(NOW_MS), "gang"),  # type: ignore[misc]
            runs=10,
        )
        found[f"{nodes}_nodes"] = {**asked, "code": told.code, "text": told.text[:160]}
    return found


def preemption() -> dict[str, object]:
    """The cheapest victim for one GPU among 4,000 running one-GPU jobs; 500 and 5,000 nodes."""
    found: dict[str, object] = {"running": 4_000}
    for nodes in (NODES_KAI, NODES):
        controller = fleet(nodes)
        fill(controller, 4_000, 1)
        rest = nodes - NODES_KAI
        full = [
            ev.JobSubmitted(Job(f"r-{n}", 10**5 + n, "busy", Shape(8), preemptible=False))
            for n in range(rest)
        ]
        settle(controller, list(full), 3)
        urgent = Job("urgent", 10**6, "p", Shape(1, cpu_milli=1_000), priority=100)
        controller.state.apply(ev.JobSubmitted(urgent), NOW_MS)
        decisions = plan(controller.state.snapshot(NOW_MS))
        kinds = sorted(type(one).__name__ for one in decisions)
        assert kinds == ["JobNominated", "ReleaseAsked"], kinds
        asked = spent_ms(lambda controller=controller: plan(controller.state.snapshot(NOW_MS)))  # type: ignore[misc]
        found[f"{nodes}_nodes"] = asked
    return found


def turn() -> dict[str, object]:
    """A full turn with 5,000 pending at 12,500 nodes: see benchmarks/turns.py, under our policy."""
    return {
        f"moves={moves} quotas={quotas}": turns.measure(
            NODES_LARGE, PENDING, 200, moves=moves, quotas=quotas
        )
        for moves, quotas in ((False, False), (True, True))
    }


def cells() -> dict[str, object]:
    """What promised cells cost: one placement of firm work with and without, and one claim."""
    found: dict[str, object] = {"nodes": NODES}
    firm = Job("firm", 10**6, "p", Shape(1, cpu_milli=10_000), preemptible=False)
    for name, promised in (
        ("none", ()),
        ("loose", (("node", 1_000), ("leaf", 20))),
        ("tight", (("node", 3_500),)),
    ):
        controller = fleet(NODES, cells=promised)
        fill(controller, 12_000, 1)
        snapshot = controller.state.snapshot(NOW_MS)

        def ask(controller: Controller = controller) -> Seated | Unplaced:
            state = controller.state
            return seat(state.snapshot(NOW_MS), state.pool, firm)

        assert isinstance(ask(), Seated), "the guard refuses what is safe"
        found[f"firm, {name}"] = spent_ms(ask, runs=300)
        if promised:
            assert snapshot.cells is not None, "promised nothing"
            book = snapshot.cells
            found[f"scratch, {name}"] = spent_ms(book.scratch, runs=100)
            claim = Job("claim", 10**7, "tenant", Shape(8), 1, Provisioning.RESERVED)
            controller.state.apply(ev.JobSubmitted(claim), NOW_MS)
            found[f"turn with a claim, {name}"] = spent_ms(
                lambda controller=controller: plan(controller.state.snapshot(NOW_MS))  # type: ignore[misc]
            )
    return found


SHAPES: dict[str, Callable[[], dict[str, object]]] = {
    "singles": singles,
    "gang": gang,
    "unschedulable": unschedulable,
    "preemption": preemption,
    "turn": turn,
    "cells": cells,
}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=sorted(SHAPES), default=list(SHAPES))
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    options = parser.parse_args()
    print(f"python {platform.python_version()} on {platform.machine()}", file=sys.stderr)
    for name in options.only:
        if options.profile:
            with cProfile.Profile() as profile:
                SHAPES[name]()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            continue
        print(json.dumps({"shape": name, **SHAPES[name]()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
