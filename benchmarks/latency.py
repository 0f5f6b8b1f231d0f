"""Madang and Slurm side by side on this machine: how soon a job starts, how fast many are done.

`python -m benchmarks.latency` asks, of Slurm (tuned) and of Madang by its command line and by its
HTTP interface, with equally many slots: from the submitting call to the job's first instruction,
over single jobs on an idle pool; and the wall time of 1,000 jobs of `true`, submitted one by one
and as one batch. `xargs` running the same commands under nothing is the physical limit.
"""

import argparse
import os
import sys

from benchmarks import measuring, yard
from benchmarks.slurm import cluster

LATENCY_P50_MS_GOAL = 50.0
THROUGHPUT_RATIO_GOAL = 10.0


def main() -> int:
    """Print the table, write the JSON; the exit status is 1 if a pool failed."""
    options = parsed()
    try:
        floor = measuring.measure_floor(options.jobs, options.slots)
        figures = [*madang_figures(options), *slurm_figures(options)]
    except measuring.PoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(measuring.table(figures, floor), file=sys.stderr)
    for line in verdicts(figures, floor):
        print(line, file=sys.stderr)
    record = measuring.as_record(figures, floor, options.slots)
    if cluster.is_installed():
        record = {"slurm": cluster.version(), **record}
    measuring.write_record(record, options.json)
    return 0


def madang_figures(options: argparse.Namespace) -> list[measuring.Figures]:
    """By command line and by HTTP, on one daemon; every job must have succeeded."""
    figures = []
    with yard.Yard(options.slots) as madang:
        for pool in (yard.YardByCommand(madang), yard.YardByHttp(madang)):
            one = measuring.Figures(pool.name)
            one.single = measuring.measure_latency(pool, options.singles)
            one.one_by_one = measuring.measure_one_by_one(pool, options.jobs)
            if not isinstance(pool, yard.YardByCommand):  # the batch is an HTTP call
                one.batch = measuring.measure_batch(pool, options.jobs)
            figures.append(one)
        madang.check_all_succeeded()
    return figures


def slurm_figures(options: argparse.Namespace) -> list[measuring.Figures]:
    """Slurm's tuned profile, or nothing where it is not installed."""
    if options.no_slurm:
        return []
    if not cluster.is_installed():
        if not options.install:
            print("Slurm is absent: --install gets it from Debian's packages", file=sys.stderr)
            return []
        cluster.install()
    with cluster.SlurmCluster("tuned", options.slots) as pool:
        one = measuring.Figures(pool.name)
        one.single = measuring.measure_latency(pool, options.singles)
        one.one_by_one = measuring.measure_one_by_one(pool, options.jobs)
        one.batch = measuring.measure_batch(pool, options.jobs)
    return [one]


def verdicts(figures: list[measuring.Figures], floor: measuring.Throughput) -> list[str]:
    """The goals, each with what was measured."""
    lines = []
    slurm = next((one for one in figures if one.pool.startswith("Slurm")), None)
    for one in figures:
        if one is slurm:
            continue
        if one.single:
            met = "met" if one.single.p50_ms <= LATENCY_P50_MS_GOAL else "missed"
            goal = f"p50 {one.single.p50_ms:.0f} ms, goal {LATENCY_P50_MS_GOAL:.0f} ms"
            lines.append(f"{one.pool}: {goal}: {met}")
        for what in ("one_by_one", "batch"):
            ours, theirs = getattr(one, what), slurm and getattr(slurm, what)
            if ours is None:
                continue
            share = ours.jobs_per_s / floor.jobs_per_s
            line = f"{one.pool}, {what.replace('_', ' ')}: {share:.1%} of the physical limit"
            if theirs:
                ratio = ours.jobs_per_s / theirs.jobs_per_s
                met = "met" if ratio >= THROUGHPUT_RATIO_GOAL else "missed"
                line += f", {ratio:.1f} × Slurm, goal {THROUGHPUT_RATIO_GOAL:.0f} ×: {met}"
            lines.append(line)
    return lines


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install Slurm if it is absent")
    parser.add_argument("--no-slurm", action="store_true", help="measure Madang alone")
    parser.add_argument("--singles", type=int, default=30, help="jobs timed alone (30)")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of `true` (1000)")
    parser.add_argument("--slots", type=int, default=os.cpu_count(), help="devices (one per core)")
    parser.add_argument("--json", default="-", help="file for the figures (standard output)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
