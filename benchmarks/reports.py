"""How long a usage report takes: a journal of a million events, read once and then reported on.

    python -m benchmarks.reports                 a million events
    python -m benchmarks.reports --events 50000  fewer

The journal is that of the real controller on 128 nodes of 8 GPUs under a made-up load, committed to
a SQLite ledger as the daemon does. Timed: reading it into books, one report of 30 days by project
and size, and the memory of the process that did it. docs/benchmarks/reports.md has the figures.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from random import Random

from madang.core.controller import Step
from madang.core.events import Event, Fact
from madang.core.policies import POLICIES
from madang.core.usage.books import Books
from madang.core.usage.report import report
from madang.ledger import Ledger, Turn, open_ledger
from madang.ledger.bookkeeping import catch_up
from madang.sim.queueing import Replay, TraceJob

NODES, PER_NODE = 128, 8
SIZES = (1, 1, 1, 1, 1, 2, 2, 4, 8, 8, 16, 32)
LOAD = 0.95
EVENTS_PER_TURN = 1_000


class Written(Replay):
    """A replay whose journal goes into a ledger; ends when it is long enough."""

    def __init__(self, jobs: list[TraceJob], ledger: Ledger, events_max: int) -> None:
        self.kept: list[tuple[int, Event]] = []
        self.count = 0
        super().__init__(jobs, NODES, PER_NODE, POLICIES["fifo-skip"])
        self.ledger, self.events_max = ledger, events_max
        self.epoch = ledger.take_lead("benchmark")

    def turn(self, facts: list[Fact], now_ms: int) -> Step:
        step = super().turn(facts, now_ms)
        self.kept += [(now_ms, event) for event in step.events]
        if len(self.kept) >= EVENTS_PER_TURN:
            self.commit()
        if self.count >= self.events_max:
            raise StopIteration
        return step

    def commit(self) -> None:
        events = tuple(event for _, event in self.kept)
        self.ledger.commit(Turn(self.epoch, self.kept[-1][0], events))
        self.count += len(self.kept)
        self.kept.clear()


def jobs_of(count: int, seed: int) -> list[TraceJob]:
    """Poisson arrivals, log-normal run times, at LOAD of the capacity."""
    random = Random(f"madang/reports/{seed}")
    mean_gpu_s = sum(SIZES) / len(SIZES) * 5_000
    gap_s = mean_gpu_s / (NODES * PER_NODE * LOAD)
    at_s, jobs = 0.0, []
    for _ in range(count):
        at_s += random.expovariate(1 / gap_s)
        run_s = min(random.lognormvariate(7.0, 1.5), 86_400 * 3)
        jobs.append(TraceJob(round(at_s * 1000), max(1, round(run_s * 1000)), random.choice(SIZES)))
    return jobs


def write_journal(path: Path, events: int) -> None:
    """The ledger with so many events."""
    ledger = open_ledger(f"sqlite:///{path}")
    try:
        Written(jobs_of(events // 4, 1), ledger, events).run()
    except StopIteration:
        pass
    finally:
        ledger.close()


def read_journal(path: Path) -> dict[str, object]:
    """The figures of one pass and one report."""
    ledger = open_ledger(f"sqlite:///{path}")
    begun_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    books = Books()
    last = catch_up(books, ledger)
    read_s, read_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    began_s = time.perf_counter()
    found = report(books, max(0, books.at_ms - 30 * 86_400_000), books.at_ms, ("project", "size"))
    report_s = time.perf_counter() - began_s
    began_s = time.perf_counter()
    report(books, max(0, books.at_ms - 30 * 86_400_000), books.at_ms, ("size", "day"))
    by_day_s = time.perf_counter() - began_s
    ledger.close()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "events": last,
        "days": round(books.at_ms / 86_400_000, 1),
        "rows": books.rows(),
        "read_s": round(read_s, 2),
        "read_cpu_s": round(read_cpu_s, 2),
        "report_s": round(report_s, 3),
        "report_by_day_s": round(by_day_s, 3),
        "rss_before_mib": begun_kib // 1024,
        "rss_peak_mib": peak_kib // 1024,
        "held_gpu_h": round(found.total.amounts.held_gpu_us / 3.6e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reports", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--journal", help="keep the ledger there, or read the one that is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(asked.journal) if asked.journal else Path(folder) / "madang.db"
        if not path.exists():
            write_journal(path, asked.events)
        print(json.dumps(read_journal(path)))


if __name__ == "__main__":
    main()
