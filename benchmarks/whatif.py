"""How long a what-if takes, and how far its replay is from what happened.

    python -m benchmarks.whatif            7 days of 128 nodes of 8 GPUs
    python -m benchmarks.whatif --days 1   fewer

A virtual fleet lives through the days under the daemon's default policy: nodes are lost and come
back, starts and stops take their time, jobs fail. Its journal goes into a SQLite ledger, and
`madang sim what-if` replays it under another policy. docs/benchmarks/reports.md has the figures.
"""

import argparse
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from random import Random

from madang.core import events as ev
from madang.core.codec import encode_event
from madang.core.controller import Controller
from madang.core.model import Allocation, Category, Job, Node, Project, Provisioning, Shape
from madang.engines.base import Launch
from madang.engines.virtual import Faults, Fleet, FleetModel, Times
from madang.ledger import open_ledger
from madang.sim.faults import Channel, Chaos
from madang.sim.world import World

DAY_MS = 86_400_000
SIZES = ((1, 1), (1, 1), (1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4))  # GPUs, members
PROJECTS = ("vision", "speech", "llm")
LOAD = 0.9
MEAN_RUN_S = 3_400  # of the log-normal below


def fleet_of(nodes: int) -> Fleet:
    """Nodes of eight, each lost once a month for twenty minutes; one attempt in fifty fails."""
    return Fleet(
        tuple(Node(f"n{n:03}", 8, 96_000, 1_000_000, "H100") for n in range(nodes)),
        seed=7,
        times=Times(start_ms=(500, 30_000), stop_ms=(200, 20_000), slow_share=0.02),
        faults=Faults(node_mtbf_ms=30 * DAY_MS, node_mttr_ms=1_200_000, crash_share=0.02),
    )


def arrivals(random: Random, nodes: int, days: int) -> list[tuple[Job, int]]:
    """(job, its run in s), by time: Poisson arrivals, log-normal runs, LOAD of the capacity."""
    mean_gpus = sum(gpus * members for gpus, members in SIZES) / len(SIZES)
    gap_ms = mean_gpus * MEAN_RUN_S * 1000 / (nodes * 8 * LOAD)
    at_ms, found = 0.0, list[tuple[Job, int]]()
    while (at_ms := at_ms + random.expovariate(1 / gap_ms)) < days * DAY_MS:
        gpus, members = random.choice(SIZES)
        number = len(found) + 1
        job = Job(
            f"j-{number}",
            number,
            random.choice(PROJECTS),
            Shape(gpus, cpu_milli=gpus * 8_000),
            members,
            random.choice((Provisioning.ON_DEMAND, Provisioning.ON_DEMAND, Provisioning.SPOT)),
            random.choice((Category.TRAINING, Category.TRAINING, Category.INTERACTIVE)),
            submitted_ms=round(at_ms),
            checkpoints=random.random() < 0.7,
            retries_max=1,
        )
        found.append((job, max(10, round(min(random.lognormvariate(7.0, 1.5), 86_400)))))
    return found


def live(nodes: int, days: int) -> list[tuple[int, ev.Event]]:
    """Let the fleet live; its journal."""
    random = Random("madang/whatif")
    jobs = arrivals(random, nodes, days)
    seconds = {job.id: run_s for job, run_s in jobs}

    def launch(allocation: Allocation) -> Launch:
        env = (
            ("MADANG_VIRTUAL_SECONDS", str(seconds[allocation.job])),
            ("MADANG_VIRTUAL_STEPS", "0"),
        )
        return Launch(allocation, allocation.job, "bench", ("train",), env)

    model = FleetModel(fleet_of(nodes), 0)
    channel = Channel(Random("madang/whatif/channel"), Chaos(0.0, 0, 0.0, 0.0, keeps_order=True))
    world = World(Controller(), model, channel, launch)
    world.turn(0, [ev.ProjectSet(Project(name)) for name in PROJECTS])
    for job, _ in jobs:
        while (next_ms := world.next_ms()) is not None and next_ms < job.submitted_ms:
            world.turn(next_ms, [])
        world.turn(job.submitted_ms, [ev.JobSubmitted(job)])
    return world.journal


def write(path: Path, journal: list[tuple[int, ev.Event]]) -> None:
    """The journal as the ledger keeps it, in one transaction: commits are not measured here."""
    open_ledger(f"sqlite:///{path.absolute()}").close()
    lines = [
        (seq, at_ms, type(event).__name__, encode_event(event))
        for seq, (at_ms, event) in enumerate(journal, 1)
    ]
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            "INSERT INTO journal (seq, at_ms, kind, line) VALUES (?, ?, ?, ?)", lines
        )
        database.execute("UPDATE lead SET last_seq = ?, last_ms = ?", (len(lines), lines[-1][1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whatif", description=__doc__)
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--policy", default="madang")
    parser.add_argument("--journal", help="keep the ledger there, or read the one that is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(asked.journal) if asked.journal else Path(folder) / "madang.db"
        url = f"sqlite:///{path.absolute()}"
        began_s = time.perf_counter()
        if not path.exists():
            write(path, live(asked.nodes, asked.days))
        lived_s = time.perf_counter() - began_s
        words = ("sim", "what-if", "--policy", asked.policy, "--ledger", url)
        window = ("--since", "1970-01-01", "--json")
        began_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "madang", *words, *window],
            capture_output=True,
            check=True,
            text=True,
        )
        wall_s = time.perf_counter() - began_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    result.pop("gains")
    result.pop("losses")
    figures = {
        "lived_s": round(lived_s, 1),
        "cli_wall_s": round(wall_s, 1),
        "cli_cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "cli_rss_mib": used.ru_maxrss // 1024,
    }
    print(json.dumps({**figures, **result}, indent=1))


if __name__ == "__main__":
    main()
