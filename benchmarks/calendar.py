"""What the calendar costs a plan where much is booked at once: one core, decision only.

    python -m benchmarks.calendar

`nodes`: each job of the yard fills a node; three windows are open that hold more nodes than are
free, so that jobs have to leave for them, and a hundred are to come, of which sixteen overlap at
any time. `parts`: jobs of 1, 2, 4 and 8 GPUs, a third of which would lose their work, all of which
end at times of their own, and windows of members of 8, 4 and 2. For each the first plan, one while
those who were asked are leaving, and one after they have left: the calendar pass, and the whole
plan (from the snapshot to the decisions). CPU time; nothing of a timed plan is folded.
"""

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass

from benchmarks.preempt import GPUS_PER_NODE, fleet
from madang.core.controller import Controller
from madang.core.draft import Draft
from madang.core.events import (
    JobSubmitted,
    MemberEnded,
    MemberStarted,
    PolicySet,
    ProjectSet,
    ReleaseAsked,
    ReservationSet,
)
from madang.core.model import Exit, Job, Project, Shape
from madang.core.passes.calendar import calendar
from madang.core.plan import plan
from madang.core.policies import MADANG
from madang.core.settings import Reservation

HOUR_MS = 3_600_000
NOW_MS = 24 * HOUR_MS
STEP_MS = HOUR_MS // 2  # from the beginning of one window ahead to the next
CASES = {"nodes": ((8,), (8,)), "parts": ((1, 2, 4, 8), (8, 4, 2))}  # GPUs of jobs, of windows


@dataclass(frozen=True, slots=True)
class Result:
    """CPU ms of the calendar pass and of a plan by which `asked` jobs are asked to leave."""

    case: str
    moment: str
    nodes: int
    running: int
    windows: int
    asked: int
    calendar_ms_least: float
    calendar_ms_p50: float
    plan_ms_least: float
    plan_ms_p50: float


def booked(case: str, nodes: int, jobs: int, ahead: int) -> Controller:
    """A yard in which so many jobs run, and its windows."""
    held, wanted = CASES[case]
    controller = Controller()
    seen = fleet(nodes)
    controller.step([ProjectSet(Project("busy")), PolicySet(MADANG), *seen], 1)
    controller.step([JobSubmitted(_job(case, n, held)) for n in range(jobs)], 1)
    while controller.due_ms(1) == 1:
        controller.step([], 1)
    state = controller.state
    assert len(state.allocations) == jobs, f"{len(state.allocations)} of {jobs} jobs run"
    for number, id in enumerate(list(state.allocations)):
        state.apply(MemberStarted(id, 0, 2 + number * 7_919 % (12 * HOUR_MS)), NOW_MS)
    for window in _windows(wanted, nodes, ahead):
        state.apply(ReservationSet(window), NOW_MS)
    return controller


def _job(case: str, number: int, held: tuple[int, ...]) -> Job:
    gpus = held[number % len(held)]
    many = len(held) > 1
    return Job(
        f"r-{number}",
        number,
        "busy",
        Shape(gpus, cpu_milli=gpus * 10_000, memory_mib=gpus * 100_000),
        submitted_ms=1,
        checkpoints=not many or number % 3 != 0,
        estimate_ms=NOW_MS + number * 104_729 % (48 * HOUR_MS) if many else 0,
    )


def _windows(wanted: tuple[int, ...], nodes: int, ahead: int) -> list[Reservation]:
    """Three that are open, each of 15% of the yard; each of those to come 0.8% for eight hours."""
    windows = []
    for at in range(3):
        gpus = wanted[at % len(wanted)]
        members = nodes * 15 // 100 * GPUS_PER_NODE // gpus
        shape = Shape(gpus)
        end_ms = NOW_MS + 72 * HOUR_MS
        windows.append(Reservation(f"open-{at}", "busy", shape, members, NOW_MS - 3 + at, end_ms))
    for at in range(ahead):
        gpus = wanted[at % len(wanted)]
        members = max(1, nodes * 8 // 1000 * GPUS_PER_NODE // gpus)
        begin_ms = NOW_MS + (at + 1) * STEP_MS
        end_ms = begin_ms + 8 * HOUR_MS
        shape = Shape(gpus)
        windows.append(Reservation(f"then-{at:03}", "busy", shape, members, begin_ms, end_ms))
    return windows


def measure(case: str, moment: str, controller: Controller, rounds: int) -> Result:
    """Plan the same turn so often; nothing of it is folded."""
    state = controller.state
    passes, plans, asked = [], [], 0
    for _ in range(rounds):
        draft = Draft(state.snapshot(NOW_MS))
        began_s = time.process_time()
        calendar(draft)
        passes.append((time.process_time() - began_s) * 1e3)
        began_s = time.process_time()
        decisions = plan(state.snapshot(NOW_MS))
        plans.append((time.process_time() - began_s) * 1e3)
        asked = sum(isinstance(one, ReleaseAsked) for one in decisions)
    passes.sort()
    plans.sort()
    return Result(
        case,
        moment,
        len(state.node_ids),
        len(state.allocations),
        len(state.settings.reservations),
        asked,
        round(passes[0], 1),
        round(passes[rounds // 2], 1),
        round(plans[0], 1),
        round(plans[rounds // 2], 1),
    )


def fold(controller: Controller) -> list[str]:
    """One turn of it; the allocations that were asked to leave."""
    decisions = controller.step([], NOW_MS).decisions
    return [one.allocation for one in decisions if isinstance(one, ReleaseAsked)]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calendar", description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append", help="one of them only")
    parser.add_argument("--nodes", type=int, default=2_000)
    parser.add_argument("--jobs", type=int, help="default: three for four nodes; parts: twice that")
    parser.add_argument("--ahead", type=int, default=100, help="windows to come")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"python {platform.python_version()} on {platform.machine()}", file=sys.stderr)
    for case in options.case or CASES:
        jobs = options.jobs or options.nodes * 3 // 4 * (1 + (case == "parts"))
        controller = booked(case, options.nodes, jobs, options.ahead)
        print(_line(measure(case, "first", controller, options.rounds)), flush=True)
        leaving = fold(controller)
        print(_line(measure(case, "leaving", controller, options.rounds)), flush=True)
        controller.step([MemberEnded(id, 0, Exit(143), NOW_MS) for id in leaving], NOW_MS)
        print(_line(measure(case, "steady", controller, options.rounds)), flush=True)
    return 0


def _line(result: Result) -> str:
    return json.dumps(asdict(result))


if __name__ == "__main__":
    sys.exit(main())
