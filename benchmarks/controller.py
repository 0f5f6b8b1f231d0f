"""How fast the controller decides: a synthetic trace replayed on fleets of three sizes, one core.

    python -m benchmarks.controller                    the table of docs/benchmarks/controller.md
    python -m benchmarks.controller --nodes 1250 --profile

Jobs of mixed sizes arrive at a rate near the fleet's capacity, so that a queue forms. Facts, fold,
snapshot, plan and journal lines are the daemon's own; there is no ledger and no engine. Every
`--check-every` turns all invariants are checked, and that time is counted in. `cpu_s` is what the
one thread used; on a machine that does other things too `wall_s` is longer.
"""

import argparse
import cProfile
import gc
import heapq
import json
import math
import platform
import pstats
import random
import sys
import time
from dataclasses import asdict, dataclass
from hashlib import sha256

from madang.core.check import check
from madang.core.codec import encode_event
from madang.core.controller import Controller
from madang.core.events import (
    AllocationBound,
    Fact,
    JobSubmitted,
    MemberEnded,
    MemberStarted,
    NodeSeen,
    ProjectSet,
)
from madang.core.model import Exit, Job, Node, Project, Shape

GPUS_PER_NODE = 8
# (GPUs, weight): most jobs are small, most GPU time is in the large ones, as in published traces.
SIZES = ((1, 55), (2, 12), (4, 10), (8, 15), (16, 4), (32, 2), (64, 1), (128, 1))
RUN_S_MEDIAN, RUN_SIGMA = 900, 1.2
LOAD = 0.98  # of capacity: bursts make a queue, the trace still ends
DONE = Exit(0)


@dataclass(frozen=True, slots=True)
class Result:
    """One replay. Times of a turn are of those that decided something, on the wall."""

    nodes: int
    gpus: int
    jobs: int
    wall_s: float
    cpu_s: float
    jobs_per_cpu_s: float
    turns: int
    turn_us_p50: float
    turn_us_p99: float
    turn_ms_max: float
    queue_mean: float
    queue_max: int
    checks: int
    checks_s: float
    digest: str


def trace(jobs: int, gpus: int, seed: int = 1) -> list[tuple[Job, int]]:
    """(job, run ms) in order of submission, offering LOAD of the GPUs."""
    draw = random.Random(f"controller/{seed}")
    sizes = [size for size, _ in SIZES if size <= gpus // 2]
    weights = [weight for size, weight in SIZES if size <= gpus // 2]
    drawn = []
    for number in range(jobs):
        size = draw.choices(sizes, weights)[0]
        run_s = min(RUN_S_MEDIAN * math.exp(RUN_SIGMA * draw.gauss(0, 1)), 86_400)
        drawn.append((number, size, max(1, int(run_s * 1000)), draw.random()))
    demand_ms = sum(size * run_ms for _, size, run_ms, _ in drawn)
    mean_gap_ms = demand_ms / (LOAD * gpus) / jobs
    at_ms, submitted = 0.0, []
    for number, size, run_ms, chance in drawn:
        at_ms += -mean_gap_ms * math.log(1 - chance)
        members, each = (1, size) if size <= GPUS_PER_NODE else (size // GPUS_PER_NODE, 8)
        shape = Shape(each, cpu_milli=each * 10_000, memory_mib=each * 100_000)
        project = f"p{number % 7}"
        submitted.append(
            (Job(f"j-{number}", number, project, shape, members, submitted_ms=int(at_ms)), run_ms)
        )
    return submitted


class Replay:
    """A perfect engine at once: what is bound starts, what has run ends."""

    def __init__(self, nodes: int, jobs: list[tuple[Job, int]], check_every: int) -> None:
        self.jobs = jobs
        self.check_every = check_every
        self.controller = Controller()
        self.run_ms = {job.id: run_ms for job, run_ms in jobs}
        self.ends: list[tuple[int, str, int]] = []
        self.turn_s: list[float] = []
        self.queue_sum = self.queue_max = self.turns = self.checks = 0
        self.checks_s = 0.0
        self.journal = sha256()
        seen = [
            NodeSeen(Node(f"n{n:05}", GPUS_PER_NODE, 96_000, 1_000_000, "H100"))
            for n in range(nodes)
        ]
        projects = [ProjectSet(Project(f"p{number}")) for number in range(7)]
        self.controller.step([*projects, *seen], 0)

    def run(self) -> None:
        """Replay to the end."""
        arrivals, next_at = self.jobs, 0
        soon: list[Fact] = []
        now_ms = 0
        while next_at < len(arrivals) or self.ends or soon:
            if not soon:
                times = [self.ends[0][0]] if self.ends else []
                if next_at < len(arrivals):
                    times.append(arrivals[next_at][0].submitted_ms)
                now_ms = max(now_ms, min(times))
            facts, soon = soon, []
            while self.ends and self.ends[0][0] <= now_ms:
                at_ms, allocation, members = heapq.heappop(self.ends)
                facts += [MemberEnded(allocation, r, DONE, at_ms) for r in range(members)]
            while next_at < len(arrivals) and arrivals[next_at][0].submitted_ms <= now_ms:
                facts.append(JobSubmitted(arrivals[next_at][0]))
                next_at += 1
            soon = self._turn(facts, now_ms)

    def _turn(self, facts: list[Fact], now_ms: int) -> list[Fact]:
        began_s = time.perf_counter()
        step = self.controller.step(facts, now_ms)
        if step.decisions:
            self.turn_s.append(time.perf_counter() - began_s)
        for event in step.events:
            self.journal.update(encode_event(event).encode())
        started: list[Fact] = []
        for decision in step.decisions:
            if isinstance(decision, AllocationBound):
                one = decision.allocation
                members = len(one.seats)
                heapq.heappush(self.ends, (now_ms + self.run_ms[one.job], one.id, members))
                started += [MemberStarted(one.id, rank, now_ms) for rank in range(members)]
        state = self.controller.state
        state.take_changed()
        state.forget_ended()
        self.turns += 1
        self.queue_sum += len(state.queue)
        self.queue_max = max(self.queue_max, len(state.queue))
        if self.check_every and self.turns % self.check_every == 0:
            began_s = time.process_time()
            check(state)
            self.checks += 1
            self.checks_s += time.process_time() - began_s
        return started


def measure(nodes: int, jobs: int, check_every: int) -> Result:
    """Replay `jobs` jobs on a fleet and measure."""
    replay = Replay(nodes, trace(jobs, nodes * GPUS_PER_NODE), check_every)
    gc.collect()
    gc.freeze()
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    replay.run()
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    turn_s = sorted(replay.turn_s)
    return Result(
        nodes=nodes,
        gpus=nodes * GPUS_PER_NODE,
        jobs=jobs,
        wall_s=round(wall_s, 2),
        cpu_s=round(cpu_s, 2),
        jobs_per_cpu_s=round(jobs / cpu_s, 1),
        turns=replay.turns,
        turn_us_p50=round(turn_s[len(turn_s) // 2] * 1e6, 1),
        turn_us_p99=round(turn_s[len(turn_s) * 99 // 100] * 1e6, 1),
        turn_ms_max=round(turn_s[-1] * 1e3, 2),
        queue_mean=round(replay.queue_sum / replay.turns, 1),
        queue_max=replay.queue_max,
        checks=replay.checks,
        checks_s=round(replay.checks_s, 2),
        digest=replay.journal.hexdigest()[:16],
    )


@dataclass(frozen=True, slots=True)
class Pending:
    """Turns of a full fleet with a long queue, each after one end and one submission; CPU time."""

    nodes: int
    pending: int
    kind: str
    turn_ms_p50: float
    turn_ms_p99: float
    turn_ms_max: float


def measure_pending(nodes: int, pending: int, kind: str, turns: int = 300) -> Pending:
    """A turn with so many waiting. `kind`: `same` (one model), `mixed` (four models, one of them
    free, so that the whole queue is looked at), or `quota` (everyone waits for quota)."""
    models = ("H100", "A100", "L40S", "T4") if kind == "mixed" else ("H100",)
    controller = _full(nodes, models)
    _let_wait(controller, pending, kind, models)
    running = list(controller.state.allocations)
    now_ms, turn_s = 2, []
    for number in range(turns):
        now_ms += 1000
        size = 2 if kind == "quota" else 8
        job = Job(f"x-{number}", 10**7 + number, "p", Shape(size, models=models[:1]))
        facts: list[Fact] = [
            MemberEnded(running[number * 3 % len(running)], 0, DONE, now_ms),
            JobSubmitted(job),
        ]
        began_s = time.process_time()
        controller.step(facts, now_ms)
        turn_s.append(time.process_time() - began_s)
    turn_s.sort()
    quantiles = (turns // 2, turns * 99 // 100, turns - 1)
    return Pending(nodes, pending, kind, *(round(turn_s[at] * 1e3, 3) for at in quantiles))


def _full(nodes: int, models: tuple[str, ...]) -> Controller:
    """A fleet on which every node runs one job; of four models the last stays free."""
    controller = Controller()
    seen = [
        NodeSeen(Node(f"n{n:05}", 8, 96_000, 1_000_000, models[n % len(models)]))
        for n in range(nodes)
    ]
    filling = [
        JobSubmitted(
            Job(f"f-{n}", n, "busy", Shape(8, models=(models[n % len(models)],)), submitted_ms=1)
        )
        for n in range(nodes)
        if len(models) == 1 or n % len(models) != len(models) - 1
    ]
    controller.step([ProjectSet(Project("busy")), ProjectSet(Project("p")), *seen], 1)
    controller.step(filling, 1)
    while controller.due_ms(1) == 1:
        controller.step([], 1)
    return controller


def _let_wait(controller: Controller, pending: int, kind: str, models: tuple[str, ...]) -> None:
    """Submit those who will wait, by capacity or by quota."""
    draw = random.Random("controller/pending")
    wanted = models[:-1] or models
    waiting = [
        JobSubmitted(
            Job(
                f"w-{n}",
                10**6 + n,
                "p",
                Shape(2 if kind == "quota" else 8, models=(wanted[n % len(wanted)],)),
                members=1 if kind == "quota" else draw.choice((1, 2, 4, 16)),
                submitted_ms=2,
            )
        )
        for n in range(pending)
    ]
    controller.step(waiting, 2)
    if kind == "quota":
        controller.step([ProjectSet(Project("p", quota_milli=1000))], 2)
    assert len(controller.state.queue) == pending, "not all of them wait"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.controller", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[128, 1_250, 12_500])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--check-every", type=int, default=5_000, help="turns; 0 is never")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--no-pending", action="store_true", help="leave out the long queues")
    options = parser.parse_args()
    print(f"python {platform.python_version()} on {platform.machine()}", file=sys.stderr)
    for nodes in options.nodes:
        if options.profile:
            with cProfile.Profile() as profile:
                measure(nodes, options.jobs, options.check_every)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            continue
        print(json.dumps(asdict(measure(nodes, options.jobs, options.check_every))))
    if not options.no_pending and not options.profile:
        for kind in ("same", "mixed", "quota"):
            print(json.dumps(asdict(measure_pending(12_500, 5_000, kind))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
