"""Fragmentation before and after a night: a virtual fleet of 128 × 8 GPUs under a day's load.

    python -m benchmarks.defragment              the table
    python -m benchmarks.defragment --json       all samples

The same jobs come twice, from one seed: once without a night, once with one from 02:00 to 06:00.
The core, the virtual fleet and its times are the real ones; only the clock is the simulator's.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from math import log
from random import Random

import numpy as np

from madang.core import events as ev
from madang.core.controller import Controller
from madang.core.draft import Draft
from madang.core.holes import NoHole, plan_hole
from madang.core.model import Allocation, Job, Node, Project, ReleaseReason, Shape
from madang.core.policies import MADANG
from madang.core.policy import Policy
from madang.core.settings import Hole
from madang.core.typical import unusable_milli
from madang.engines.base import Launch
from madang.engines.virtual import Fleet, FleetModel
from madang.sim.faults import QUIET, Channel
from madang.sim.world import World

HOUR_MS = 3_600_000
NODES, GPUS = 128, 8
DAY_BEGINS_H, NIGHT_H, ENDS_H = 2, (26, 30), 31
JOBS_PER_HOUR = {True: 44, False: 24}  # by day (08:00 to 20:00), by night
SIZES = ((0.50, 1, 1), (0.70, 1, 2), (0.85, 1, 4), (0.98, 1, 8), (1.00, 2, 8))
RUN_H, RUN_SIGMA = 6.0, 1.2  # median and spread of the log-normal
CHECKPOINTED = 0.6
NIGHT = replace(MADANG, name="night", night_begin_ms=2 * HOUR_MS, night_end_ms=6 * HOUR_MS)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The yard at a time: idle GPUs, how many of them a typical request could not use (F), and
    how many nodes are free as a whole."""

    hour: float
    idle_gpus: float
    lost_gpus: float
    free_nodes: int
    waiting: int
    moves: int
    bill_gpu_h: float


def demand(seed: int) -> tuple[list[Job], dict[str, str]]:
    """Jobs of a day and a night, and how many seconds each runs."""
    random = Random(f"defragment/{seed}")
    jobs: list[Job] = []
    seconds: dict[str, str] = {}
    at_h = float(DAY_BEGINS_H)
    while at_h < NIGHT_H[1]:
        per_hour = JOBS_PER_HOUR[8 <= at_h % 24 < 20]
        at_h += -log(1 - random.random()) / per_hour
        draw = random.random()
        members, gpus = next((m, g) for share, m, g in SIZES if draw <= share)
        number = len(jobs) + 1
        job = Job(
            f"j-{number}",
            number,
            "default",
            Shape(gpus, cpu_milli=gpus * 11_000, memory_mib=gpus * 200_000),
            members,
            submitted_ms=int(at_h * HOUR_MS),
            checkpoints=random.random() < CHECKPOINTED,
        )
        jobs.append(job)
        run_s = RUN_H * 3600 * random.lognormvariate(0, RUN_SIGMA)
        seconds[job.id] = str(max(60, int(min(run_s, 72 * 3600))))
    return jobs, seconds


class Night:
    """One run of the fleet under a policy."""

    def __init__(self, policy: Policy, seed: int) -> None:
        nodes = tuple(
            Node(f"n{row:03}", GPUS, 96_000, 2_000_000, "H100", domains=(f"b{row // 32}",))
            for row in range(NODES)
        )
        model = FleetModel(Fleet(nodes, seed), 0)
        channel = Channel(Random(seed), QUIET)
        self.jobs, self.seconds = demand(seed)
        self.world = World(Controller(), model, channel, self.launch_of)
        self.policy = policy
        self.moves = self.bill_gpu_ms = 0
        self.slowest_ms = 0.0

    def launch_of(self, allocation: Allocation) -> Launch:
        # Who is stopped and checkpoints goes on where it was.
        done_s = self.world.state.jobs[allocation.job].standing.attained_ms // 1000
        seconds = max(1, int(self.seconds[allocation.job]) - done_s)
        env = (("MADANG_VIRTUAL_SECONDS", str(seconds)),)
        return Launch(allocation, allocation.job, "bench", ("train",), env)

    def run(self) -> list[Sampled]:
        """Samples of every half hour, from the evening on."""
        self._turn(0, [ev.ProjectSet(Project("default")), ev.PolicySet(self.policy)])
        asks: list[tuple[int, Job | None]] = [(job.submitted_ms, job) for job in self.jobs]
        asks += [(half * HOUR_MS // 2, None) for half in range(4, 2 * ENDS_H + 1)]
        samples = []
        for at_ms, job in sorted(asks, key=lambda ask: ask[0]):
            self._until(at_ms)
            if job is None:
                self._turn(at_ms, self._saved(at_ms))
                samples.append(self._sample(at_ms))
            else:
                self._turn(at_ms, [ev.JobSubmitted(job)])
        return samples

    def _saved(self, at_ms: int) -> list[ev.Fact]:
        """Who checkpoints does so every half hour, each at a moment of its own."""
        return [
            ev.CheckpointSaved(live.job.id, at_ms - live.job.seq * 97 % 1_800 * 1_000)
            for live in self.world.state.jobs.values()
            if live.job.checkpoints and live.standing.running_ms
        ]

    def _until(self, at_ms: int) -> None:
        while (next_ms := self.world.next_ms()) is not None and next_ms < at_ms:
            self._turn(next_ms, [])

    def _turn(self, at_ms: int, facts: list[ev.Fact]) -> None:
        began_s = time.perf_counter()
        step = self.world.turn(at_ms, facts)
        moved = [
            event
            for event in step.decisions
            if isinstance(event, ev.ReleaseAsked) and event.reason is ReleaseReason.MOVED
        ]
        self.moves += len(moved)
        self.bill_gpu_ms += sum(event.bill_gpu_ms for event in moved)
        if moved:
            self.slowest_ms = max(self.slowest_ms, 1000 * (time.perf_counter() - began_s))

    def room(self, members: int) -> str:
        """What it would take to free so many whole nodes now."""
        began_s = time.perf_counter()
        snapshot = self.world.state.snapshot(self.world.now_ms)
        hole = Hole("room", Shape(GPUS), members, self.world.now_ms + HOUR_MS)
        plan = plan_hole(Draft(snapshot), hole)
        took_ms = 1000 * (time.perf_counter() - began_s)
        if isinstance(plan, NoHole):
            return f"{members}x{GPUS}: {plan.code}, room for {plan.room} ({took_ms:.0f} ms)"
        moved = sum(move.mover.allocation.shape.gpus * len(move.places) for move in plan.moves)
        return (
            f"{members}x{GPUS}: {len(plan.moves)} jobs with {moved} GPUs move, "
            f"{plan.bill_gpu_ms / HOUR_MS:.2f} GPU-h ({took_ms:.0f} ms)"
        )

    def _sample(self, at_ms: int) -> Sampled:
        state = self.world.state
        lost, idle = unusable_milli(state.snapshot(at_ms))
        return Sampled(
            hour=at_ms / HOUR_MS,
            idle_gpus=idle / 1000,
            lost_gpus=lost / 1000,
            free_nodes=int(np.count_nonzero(state.pool.whole_free == GPUS)),
            waiting=len(state.queue),
            moves=self.moves,
            bill_gpu_h=round(self.bill_gpu_ms / HOUR_MS, 2),
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.defragment", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gain", type=int, default=NIGHT.move_gain_pct, help="move_gain_pct")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    night_policy = replace(NIGHT, move_gain_pct=options.gain)
    runs = {"no night": MADANG, "02:00-06:00": night_policy}
    found = {}
    for name, policy in runs.items():
        night = Night(policy, options.seed)
        samples = night.run()
        rooms = [night.room(members) for members in (16, 24, 32, 40)]
        found[name] = (samples, night.slowest_ms, rooms)
    if options.json:
        print(
            json.dumps(
                {name: [asdict(one) for one in samples] for name, (samples, _, _) in found.items()}
            )
        )
        return
    print("time   policy       idle  lost to F  share  free nodes  waiting  moves  thrown away")
    for hour in (24.0, 26.0, 27.0, 28.0, 30.0):
        for name, (samples, _, _) in found.items():
            one = next(sampled for sampled in samples if sampled.hour == hour)
            share = 100 * one.lost_gpus / max(one.idle_gpus, 1)
            print(
                f"{int(hour % 24):02}:00  {name:<11} {one.idle_gpus:5.0f} {one.lost_gpus:10.1f} "
                f"{share:5.1f}% {one.free_nodes:11} {one.waiting:8} {one.moves:6} "
                f"{one.bill_gpu_h:7.2f} GPU-h"
            )
    for name, (_, _, rooms) in found.items():
        print(f"at {ENDS_H % 24:02}:00, {name}: make-room " + "; ".join(rooms))
    print(f"slowest turn that moved somebody: {found['02:00-06:00'][1]:.0f} ms")


if __name__ == "__main__":
    main()
