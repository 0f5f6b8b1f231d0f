"""How fast turns are committed and pages read, on SQLite and PostgreSQL.

    python -m benchmarks.ledger [--ended 10000 100000] [--directory DIR] [--json FILE]

The turns are real ones: a controller schedules one-GPU jobs that start and end, and the ledger
writes its events and rows. Only `Ledger.commit` is timed. fsync is on, and its price is printed.
CPU is this process's own (of PostgreSQL it leaves the server's out): wall time is what a quiet
machine gives, CPU what a busy one cannot take away.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine
from madang.core import events as ev
from madang.core.controller import Controller
from madang.core.model import Exit, Job, Node, Phase, Project, Shape
from madang.ledger import Ledger, NewJob, Turn, open_ledger, turn_of
from madang.testing.postgresql import NoPostgresql, postgresql_server
from madang.testing.yard import state_of

Record = dict[str, Any]
GROUPS = (1, 10, 100, 1_000, 4_000)  # events a turn, about
NODES = 1_250
REQUEST = '{"command":["python","train.py","--epochs","90"],"gpus":1,"project":"vision"}'
ROUNDS = 30  # of a read; the median is told


class Source:
    """Turns of a yard in full swing: each brings some jobs, starts some, ends some."""

    def __init__(self, epoch: int) -> None:
        self.controller = Controller()
        self.epoch = epoch
        self.now_ms = 1_000
        self.n = 0
        self.bound: list[str] = []
        self.running: list[str] = []

    def turn(self, facts: list[ev.Fact]) -> Turn:
        self.now_ms += 10
        step = self.controller.step(facts, self.now_ms)
        new = [
            NewJob(event.job.id, "ada", REQUEST)
            for event in step.events
            if isinstance(event, ev.JobSubmitted)
        ]
        self.bound += [e.allocation.id for e in step.decisions if isinstance(e, ev.AllocationBound)]
        state = self.controller.state
        turn = turn_of(state, step.events, epoch=self.epoch, at_ms=self.now_ms, new=new)
        state.forget_ended()
        return turn

    def first(self) -> Turn:
        nodes = [Node(f"node-{i:05}", 8, 128_000, 1_000_000, "H100") for i in range(NODES)]
        return self.turn([ev.ProjectSet(Project("vision")), *map(ev.NodeSeen, nodes)])

    def next(self, events: int) -> Turn:
        """A turn of about so many events: five a job (submitted, bound, started, ended, ended)."""
        jobs = max(1, events // 5)
        if events < 5 and self.n % 2 and self.bound:
            return self.turn(self._starts(1))
        return self.turn([*self._ends(jobs), *self._starts(jobs), *self._submits(jobs)])

    def _submits(self, count: int) -> list[ev.Fact]:
        facts: list[ev.Fact] = []
        for _ in range(count):
            self.n += 1
            job = Job(f"digits-{self.n}", self.n, "vision", Shape(1), submitted_ms=self.now_ms)
            facts.append(ev.JobSubmitted(job))
        return facts

    def _starts(self, count: int) -> list[ev.Fact]:
        started, self.bound = self.bound[:count], self.bound[count:]
        self.running += started
        return [ev.MemberStarted(id, 0, self.now_ms) for id in started]

    def _ends(self, count: int) -> list[ev.Fact]:
        ended, self.running = self.running[:count], self.running[count:]
        return [ev.MemberEnded(id, 0, Exit(0), self.now_ms) for id in ended]


def turns_of(source: Source, group: int, events_min: int) -> Iterator[Turn]:
    told = 0
    while told < events_min:
        turn = source.next(group)
        told += len(turn.events)
        yield turn


def fsync_ms(directory: Path) -> float:
    """One append of 4 KiB and its fsync: what one commit costs at least."""
    times = []
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        for _ in range(50):
            begin = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def commits(url: str) -> list[Record]:
    print(
        f"{'events/turn':>12} {'rows/turn':>10} {'turns':>6} {'p50 ms':>8} {'p99 ms':>8} "
        f"{'events/s':>10} {'CPU us/event':>13}"
    )
    records = []
    with closing(open_ledger(url)) as ledger:
        source = Source(ledger.take_lead("benchmark"))
        ledger.commit(source.first())
        for group in GROUPS:
            for turn in turns_of(source, group, 3 * group):  # a swing of this size
                ledger.commit(turn)
            turns = list(turns_of(source, group, max(200 * min(group, 5), 20 * group)))
            record = commit_all(ledger, turns)
            records.append(record)
            print(
                f"{record['events_per_turn']:12.1f} {record['rows_per_turn']:10.1f} "
                f"{len(turns):6} {record['p50_ms']:8.2f} {record['p99_ms']:8.2f} "
                f"{record['events_per_s']:10.0f} {record['cpu_us_per_event']:13.1f}"
            )
    return records


def commit_all(ledger: Ledger, turns: list[Turn]) -> Record:
    times = []
    cpu_begin = time.process_time()
    for turn in turns:
        begin = time.perf_counter()
        ledger.commit(turn)
        times.append(time.perf_counter() - begin)
    cpu_s = time.process_time() - cpu_begin
    events = sum(len(turn.events) for turn in turns)
    rows = sum(len(turn.jobs) + len(turn.allocations) + len(turn.nodes) for turn in turns)
    times.sort()
    return {
        "events_per_turn": events / len(turns),
        "rows_per_turn": rows / len(turns),
        "p50_ms": statistics.median(times) * 1000,
        "p99_ms": times[len(times) * 99 // 100] * 1000,
        "events_per_s": events / sum(times),
        "cpu_us_per_event": cpu_s / events * 1e6,
    }


def reads(url: str, ended: int, live: int) -> Record:
    """With so many ended and live jobs: what a start and a page cost."""
    with closing(open_ledger(url)) as ledger:
        source = Source(ledger.take_lead("benchmark"))
        ledger.commit(source.first())
        while source.n < ended:
            ledger.commit(source.next(20_000))
        while source.controller.state.jobs:
            count = len(source.bound) + len(source.running)
            ledger.commit(source.turn([*source._ends(count), *source._starts(count)]))
        ledger.commit(source.turn(source._submits(live)))
    marks = [time.perf_counter()]
    ledger = open_ledger(url)
    marks.append(time.perf_counter())
    loaded = ledger.load()
    marks.append(time.perf_counter())
    state_of(loaded)
    marks.append(time.perf_counter())
    open_ms, load_ms, restore_ms = ((b - a) * 1000 for a, b in pairwise(marks))
    with closing(ledger):
        print(
            f"{ended} ended and {len(loaded.jobs)} live jobs, {len(loaded.nodes)} nodes: "
            f"open {open_ms:.1f} ms, load {load_ms:.1f} ms, restore {restore_ms:.1f} ms"
        )
        asked = {name: median_ms(ask) for name, ask in questions(ledger, ended).items()}
    for name, ms in asked.items():
        print(f"  {name:44} {ms:8.2f} ms")
    return {
        "ended": ended,
        "live": live,
        "open_ms": open_ms,
        "load_ms": load_ms,
        "restore_ms": restore_ms,
        **{f"{name}, ms": ms for name, ms in asked.items()},
    }


def questions(ledger: Ledger, ended: int) -> dict[str, Callable[[], object]]:
    live = [phase for phase in Phase if not phase.is_final]
    return {
        "one job": lambda: ledger.job(ended // 2),
        "100 newest jobs": ledger.jobs,
        "100 oldest jobs": lambda: ledger.jobs(before=101),
        "100 live jobs": lambda: ledger.jobs(phases=live),
        "waiting jobs (none)": lambda: ledger.jobs(phases=[Phase.WAITING, Phase.STOPPING]),
        "failed jobs (none)": lambda: ledger.jobs(phases=[Phase.FAILED]),
        "failed or stopped jobs (none)": lambda: ledger.jobs(phases=[Phase.FAILED, Phase.STOPPED]),
        "failed jobs of one project (none)": lambda: ledger.jobs(
            phases=[Phase.FAILED], project="vision"
        ),
        "a name that no job has": lambda: ledger.jobs(name="nobody"),
        "events of one job": lambda: ledger.events(0, 100, job=f"digits-{ended // 2}"),
        "100 newest events": lambda: ledger.events(ledger.journal_span()[1] - 100, 100),
        "counts of all phases": ledger.phase_counts,
    }


def median_ms(ask: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def import_ms() -> float:
    """What `madang.ledger` adds to a process that has the core."""
    code = (
        "import time, madang.core.controller; begin = time.process_time();"
        "import madang.ledger; print((time.process_time() - begin) * 1000)"
    )
    answers = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
        for _ in range(5)
    ]
    return statistics.median(float(answer.stdout) for answer in answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ended", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--live", type=int, default=1_000)
    parser.add_argument("--directory", type=Path, default=None, help="where SQLite's files go")
    parser.add_argument("--json", type=Path, default=None, help="write the figures there too")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.directory)))
        record: Record = {
            "machine": machine(),
            "load": os.getloadavg()[0],
            "fdatasync_ms": fsync_ms(directory),
            "import_cpu_ms": import_ms(),
        }
        print(
            f"Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"load {record['load']:.1f}, "
            f"fdatasync of 4 KiB {record['fdatasync_ms']:.2f} ms, "
            f"import of madang.ledger {record['import_cpu_ms']:.0f} ms of CPU"
        )
        backends: dict[str, Callable[[str], str]] = {
            "SQLite": lambda name: f"sqlite:///{directory}/{name}.db"
        }
        try:
            backends["PostgreSQL"] = stack.enter_context(postgresql_server()).make_database
        except NoPostgresql as absent:
            print(f"without PostgreSQL: {absent}", file=sys.stderr)
        for backend, url_of in backends.items():
            print(f"\n{backend}: commits (load {os.getloadavg()[0]:.1f})")
            record[backend] = {"commits": commits(url_of("commits")), "reads": []}
            for ended in arguments.ended:
                print(f"\n{backend}: reads (load {os.getloadavg()[0]:.1f})")
                record[backend]["reads"].append(
                    reads(url_of(f"reads_{ended}"), ended, arguments.live)
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
