"""Slurm alone: `python -m benchmarks.slurm --profile tuned --profile default`."""

import argparse
import os
import sys

from benchmarks import measuring
from benchmarks.slurm import cluster


def main() -> int:
    """Measure each profile asked for; the exit status is 1 if Slurm is absent or fails."""
    options = parsed()
    try:
        if not cluster.is_installed():
            if not options.install:
                raise measuring.PoolError(
                    "Slurm is absent: --install gets it from Debian's packages (as root)"
                )
            cluster.install()
        floor = measuring.measure_floor(options.jobs, options.slots)
        figures = [measured(profile, options) for profile in options.profile or ["tuned"]]
    except measuring.PoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(measuring.table(figures, floor), file=sys.stderr)
    record = measuring.as_record(figures, floor, options.slots)
    measuring.write_record({"slurm": cluster.version(), **record}, options.json)
    return 0


def measured(profile: str, options: argparse.Namespace) -> measuring.Figures:
    """All questions to one profile, on a cluster of its own."""
    with cluster.SlurmCluster(profile, options.slots) as pool:
        figures = measuring.Figures(pool.name)
        figures.single = measuring.measure_latency(pool, options.singles)
        figures.one_by_one = measuring.measure_one_by_one(pool, options.jobs)
        figures.batch = measuring.measure_batch(pool, options.jobs)
    return figures


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slurm", description=__doc__)
    parser.add_argument("--install", action="store_true", help="install Slurm if it is absent")
    parser.add_argument("--profile", action="append", choices=sorted(cluster.PROFILES))
    parser.add_argument("--singles", type=int, default=30, help="jobs timed alone (30)")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of `true` (1000)")
    parser.add_argument("--slots", type=int, default=os.cpu_count(), help="CPUs (one per core)")
    parser.add_argument("--json", default="-", help="file for the figures (standard output)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
