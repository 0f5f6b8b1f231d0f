"""What every benchmark of a job pool needs: the same questions, put to any pool in the same way.

A pool is Slurm or Madang behind three verbs. The questions are: how long from the call that
submits a job until the job's own first instruction, and how long until N jobs of `true` have
ended, submitted one by one or as one batch. No sleep is inside anything timed: a start is seen
through a FIFO that the job itself writes to, the end of many jobs through the pool's counters.
"""

import json
import os
import platform
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

START_S_MAX = 120.0  # a job that has not begun by then is a failure of the pool
ENDED_POLL_S = 0.1  # against runs of seconds to minutes; a tighter poll would load the pool
JITTER_S_MAX = 0.5  # between single jobs: scheduler ticks must not meet them in one phase


class PoolError(Exception):
    """The pool under test did not do what was asked; the message holds its own words."""


class Pool(Protocol):
    """A scheduler under test."""

    name: str

    def submit(self, command: Sequence[str]) -> None:
        """Submit one job, as a user would; returns when the pool has acknowledged it."""

    def submit_batch(self, command: Sequence[str], count: int) -> None:
        """Submit `count` equal jobs in one call."""

    def ended(self) -> int:
        """How many jobs have ended since the pool was started; PoolError if one ended badly."""


@dataclass(frozen=True, slots=True)
class Latency:
    """From before the submitting call to the job's first own instruction, over `jobs` jobs."""

    jobs: int
    p50_ms: float
    p99_ms: float
    least_ms: float
    most_ms: float
    acknowledged_p50_ms: float  # until the submitting call returned


@dataclass(frozen=True, slots=True)
class Throughput:
    """`jobs` jobs of `true`, from before the first call until the last one has ended."""

    jobs: int
    wall_s: float
    submitted_s: float  # until the last submitting call returned

    @property
    def jobs_per_s(self) -> float:
        """Ended jobs per second."""
        return self.jobs / self.wall_s


@dataclass(slots=True)
class Figures:
    """What was measured of one pool; None where it was not asked."""

    pool: str
    single: Latency | None = None
    one_by_one: Throughput | None = None
    batch: Throughput | None = None
    notes: list[str] = field(default_factory=list)


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: always a value that was measured."""
    assert 0 < share <= 1, share
    ordered = sorted(values)
    rank = -(-len(ordered) * round(share * 1000) // 1000)  # ceiling
    return ordered[rank - 1]


def measure_latency(pool: Pool, jobs: int, seed: int = 1) -> Latency:
    """Single jobs on an idle pool, one after the other."""
    chance = random.Random(seed)
    began_ms: list[float] = []
    acknowledged_ms: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        fifo = Path(folder, "started")
        os.mkfifo(fifo, 0o600)
        reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)  # both ways: a writer never waits
        try:
            for _ in range(jobs):
                ended_before = pool.ended()
                before = time.monotonic()
                pool.submit(["/bin/sh", "-c", f"echo > '{fifo}'"])
                acknowledged_ms.append((time.monotonic() - before) * 1000)
                began_ms.append((_wait_for_start(reader) - before) * 1000)
                wait_for_ended(pool, ended_before + 1)
                time.sleep(chance.uniform(0, JITTER_S_MAX))
        finally:
            os.close(reader)
    return Latency(
        jobs=jobs,
        p50_ms=round(quantile(began_ms, 0.5), 1),
        p99_ms=round(quantile(began_ms, 0.99), 1),
        least_ms=round(min(began_ms), 1),
        most_ms=round(max(began_ms), 1),
        acknowledged_p50_ms=round(statistics.median(acknowledged_ms), 1),
    )


def _wait_for_start(reader: int) -> float:
    """The moment at which the job wrote to the FIFO."""
    ready, _, _ = select.select([reader], [], [], START_S_MAX)
    now = time.monotonic()
    if not ready:
        raise PoolError(f"a job had not begun after {START_S_MAX:.0f} s")
    os.read(reader, 64)
    return now


def measure_one_by_one(pool: Pool, jobs: int) -> Throughput:
    """`jobs` submitting calls, each after the other has returned, none waiting for its job."""
    target = pool.ended() + jobs
    before = time.monotonic()
    for _ in range(jobs):
        pool.submit(["true"])
    submitted = time.monotonic()
    wait_for_ended(pool, target)
    return Throughput(jobs, round(time.monotonic() - before, 2), round(submitted - before, 2))


def measure_batch(pool: Pool, jobs: int) -> Throughput:
    """`jobs` jobs in one call."""
    target = pool.ended() + jobs
    before = time.monotonic()
    pool.submit_batch(["true"], jobs)
    submitted = time.monotonic()
    wait_for_ended(pool, target)
    return Throughput(jobs, round(time.monotonic() - before, 2), round(submitted - before, 2))


def wait_for_ended(pool: Pool, target: int) -> None:
    """Return when `target` jobs have ended; PoolError when none ends for two minutes."""
    ended, last_change = -1, time.monotonic()
    while (now_ended := pool.ended()) < target:
        if now_ended != ended:
            ended, last_change = now_ended, time.monotonic()
        elif time.monotonic() - last_change > START_S_MAX:
            raise PoolError(f"{pool.name}: {ended} of {target} jobs ended, and no more follow")
        time.sleep(ENDED_POLL_S)
    if now_ended > target:
        raise PoolError(f"{pool.name}: {now_ended} jobs ended where {target} were submitted")


def measure_floor(jobs: int, slots: int) -> Throughput:
    """The same work under nothing: `xargs -P` of `true`."""
    numbers = "\n".join(map(str, range(jobs)))
    before = time.monotonic()
    subprocess.run(
        ["xargs", "-n1", f"-P{slots}", "true"],
        input=numbers,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Throughput(jobs, round(time.monotonic() - before, 3), 0.0)


def table(figures: Iterable[Figures], floor: Throughput) -> str:
    """The figures side by side, as fixed-width text."""
    head = ("", "latency p50", "p99", "one by one", "jobs/s", "batch", "jobs/s")
    rows = [head]
    for one in figures:
        single, each, batch = one.single, one.one_by_one, one.batch
        rows.append(
            (
                one.pool,
                f"{single.p50_ms:.0f} ms" if single else "-",
                f"{single.p99_ms:.0f} ms" if single else "-",
                f"{each.wall_s:.1f} s ({each.jobs})" if each else "-",
                f"{each.jobs_per_s:.1f}" if each else "-",
                f"{batch.wall_s:.1f} s ({batch.jobs})" if batch else "-",
                f"{batch.jobs_per_s:.1f}" if batch else "-",
            )
        )
    bare = f"{floor.wall_s:.2f} s ({floor.jobs})"
    rows.append(("xargs, no scheduler", "-", "-", bare, f"{floor.jobs_per_s:.0f}", "-", "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = (
        "  ".join(f"{cell:{'<' if n == 0 else '>'}{widths[n]}}" for n, cell in enumerate(row))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def as_record(figures: Iterable[Figures], floor: Throughput, slots: int) -> dict[str, object]:
    """The figures as JSON-ready values."""
    return {
        "machine": machine(),
        "slots": slots,
        "floor": asdict(floor),
        "pools": [asdict(one) for one in figures],
    }


def write_record(record: dict[str, object], target: str) -> None:
    """Write the record to a file, or to standard output for `-`."""
    text = json.dumps(record, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
