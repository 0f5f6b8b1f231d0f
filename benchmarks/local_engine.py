"""How fast the local engine starts members, beside the physical limit on the same machine.

    python -m benchmarks.local_engine [--jobs 1000] [--singles 200] [--json FILE]

Two questions, asked of the engine alone (no ledger, no scheduler):

- latency: from `act(Start)` of one member until `observe` gives its MemberStarted, one at a time;
- throughput: N members of `true`, at most 2 x CPUs at once, from the first `act` until the last
  MemberEnded.

The limit is `xargs -P <cpus> -n 1 true` over N: fork, exec and wait with nothing recorded, nothing
logged and nobody told. Both are run in turns, so that a noisy neighbour meets both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from madang.core.events import MemberEnded, MemberStarted
from madang.core.model import Allocation, AllocationState, Seat, Shape
from madang.engines.base import Launch, Start
from madang.engines.code_store import CodeStore
from madang.engines.local import LocalEngine

ROUNDS = 3
ENDED_S_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Report:
    """Times of the engine and of the limit; each throughput is the median of ROUNDS."""

    cpus: int
    singles: int
    started_p50_ms: float
    started_p99_ms: float
    jobs: int
    engine_per_s: float
    engine_cpu_ms: float  # of this side (the daemon's) for one member
    xargs_per_s: float
    share_of_limit: float


class Bench:
    """An open engine and what it has told."""

    def __init__(self, root: Path, slots: int) -> None:
        self._slots = slots
        self._woken = threading.Event()
        self._count = 0
        self.engine = LocalEngine(root, CodeStore(root / "code"), node="here", devices=slots)
        self.engine.open(self._woken.set)
        self.engine.adopt(())

    def _start(self) -> Start:
        self._count += 1
        job = f"bench-{self._count}"
        seats = (Seat("here", (self._count % self._slots,)),)
        allocation = Allocation(
            f"{job}.1", job, "default", 1, Shape(1), seats, AllocationState.BOUND, 0
        )
        return Start(Launch(allocation, "bench", "bench", ("true",), checkpoint_key="bench"))

    def _facts(self) -> list[object]:
        self._woken.wait(1.0)
        self._woken.clear()
        return list(self.engine.observe(10_000))

    def started_ms(self) -> float:
        """One member alone; it has ended when this returns."""
        begun_s = time.perf_counter()
        self.engine.act([self._start()])
        took_ms = 0.0
        while True:
            for fact in self._facts():
                if isinstance(fact, MemberStarted):
                    took_ms = (time.perf_counter() - begun_s) * 1000
                if isinstance(fact, MemberEnded):
                    return took_ms

    def per_s(self, jobs: int) -> float:
        """Members of `true` per second, each slot filled again as soon as it is free."""
        begun_s = time.perf_counter()
        self.engine.act([self._start() for _ in range(min(jobs, self._slots))])
        sent, ended = min(jobs, self._slots), 0
        while ended < jobs:
            assert time.perf_counter() - begun_s < ENDED_S_MAX, f"{ended} of {jobs} ended"
            news = sum(isinstance(fact, MemberEnded) for fact in self._facts())
            ended += news
            more = min(news, jobs - sent)
            self.engine.act([self._start() for _ in range(more)])
            sent += more
        return jobs / (time.perf_counter() - begun_s)


def xargs_per_s(jobs: int, cpus: int) -> float:
    """The same command under nothing."""
    text = "\n".join(map(str, range(jobs))) + "\n"
    begun_s = time.perf_counter()
    argv = ["xargs", "-P", str(cpus), "-n", "1", "true"]
    subprocess.run(argv, input=text, text=True, check=True)
    return jobs / (time.perf_counter() - begun_s)


def measure(jobs: int, singles: int) -> Report:
    """All of it; the state directory is a temporary one on the disk of TMPDIR."""
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="madang-bench-") as root:
        bench = Bench(Path(root), slots=2 * cpus)
        for _ in range(10):
            bench.started_ms()
        latencies = sorted(bench.started_ms() for _ in range(singles))
        engine, limit = [], []
        cpu_s = time.process_time()
        for _ in range(ROUNDS):
            engine.append(bench.per_s(jobs))
            limit.append(xargs_per_s(jobs, cpus))
        cpu_s = time.process_time() - cpu_s
        bench.engine.close()
    return Report(
        cpus=cpus,
        singles=singles,
        started_p50_ms=round(statistics.median(latencies), 2),
        started_p99_ms=round(latencies[int(len(latencies) * 0.99)], 2),
        jobs=jobs,
        engine_per_s=round(statistics.median(engine), 1),
        engine_cpu_ms=round(cpu_s * 1000 / (ROUNDS * jobs), 2),
        xargs_per_s=round(statistics.median(limit), 1),
        share_of_limit=round(statistics.median(engine) / statistics.median(limit), 3),
    )


def main(arguments: Sequence[str]) -> None:
    """Print the report; `--json` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    report = measure(options.jobs, options.singles)
    text = json.dumps(asdict(report), indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
