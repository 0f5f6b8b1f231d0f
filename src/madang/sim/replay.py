"""`madang sim replay`: a queueing trace under a policy, on one cluster of equal nodes.

The trace is gzip CSV with the columns job, vc, submit (s), duration (s), gpus. Gangs; up to a
node's GPUs on the fullest node that fits, more on whole nodes. JCT is from submission to end; wait
is JCT less the trace's duration, so it holds restarts too.
"""

import argparse
import csv
import gzip
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from madang.core.policies import POLICIES
from madang.sim.queueing import Outcome, Replay, TraceJob, members_of

COLUMNS = ("submit", "duration", "gpus")
LARGE_GPUS = 8
JOBS_MAX = 5_000_000
NEEDS_ESTIMATES = frozenset({"sjf", "ssf", "srtf", "easy", "conservative"})


class TraceError(ValueError):
    """A trace that cannot be replayed: what was found, what is expected, what to do."""


def read_trace(path: Path) -> list[TraceJob]:
    """The jobs in order of submission (equal times in file order).

    Raises:
        TraceError: the file is not such a trace.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            reader = csv.DictReader(text)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(f"{path} lacks the columns {missing}; it has {reader.fieldnames}")
            jobs = [_job(path, number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as wrong:
        raise TraceError(f"{path} cannot be read as gzip CSV: {wrong}") from wrong
    if not jobs:
        raise TraceError(f"{path} holds no jobs")
    return sorted(jobs, key=lambda job: job.submit_ms)


def _job(path: Path, line: int, row: dict[str, str]) -> TraceJob:
    if line > JOBS_MAX:
        raise TraceError(f"{path} has more than {JOBS_MAX} jobs")
    try:
        submit_s, duration_s, gpus = float(row["submit"]), float(row["duration"]), int(row["gpus"])
    except (TypeError, ValueError) as wrong:
        raise TraceError(f"{path}, line {line}: numbers expected, got {row}") from wrong
    if submit_s < 0 or duration_s < 0 or gpus < 1:
        raise TraceError(f"{path}, line {line}: negative time or no GPU: {row}")
    return TraceJob(round(submit_s * 1000), round(duration_s * 1000), gpus)


def cluster_of(text: str) -> tuple[int, int]:
    """(nodes, GPUs per node) of `78x8`.

    Raises:
        TraceError: it is not of that form.
    """
    nodes, _, per_node = text.partition("x")
    if not (nodes.isdigit() and per_node.isdigit() and int(nodes) and 1 <= int(per_node) <= 64):
        raise TraceError(f"--nodes must be NODESxGPUS, for example 78x8; got {text!r}")
    return int(nodes), int(per_node)


def run(trace: Path, cluster: str, policy: str, *, oracle: bool = False) -> dict[str, Any]:
    """Replay and measure.

    Args:
        oracle: tell the scheduler the true durations; the textbook policies always are.

    Raises:
        TraceError: the trace, the cluster or the policy's name is wrong, or a job can never fit.
    """
    if policy not in POLICIES:
        raise TraceError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    nodes, per_node = cluster_of(cluster)
    jobs = read_trace(trace)
    _check_sizes(jobs, nodes, per_node)
    if oracle or policy in NEEDS_ESTIMATES:
        jobs = [replace(job, estimate_ms=max(job.duration_ms, 1)) for job in jobs]
    began_s = time.perf_counter()
    outcome = Replay(jobs, nodes, per_node, POLICIES[policy]).run()
    wall_s = time.perf_counter() - began_s
    measured = _measured(jobs, outcome, nodes * per_node)
    return {"policy": policy, "jobs": len(jobs), **measured, "wall_s": round(wall_s, 2)}


def _check_sizes(jobs: Sequence[TraceJob], nodes: int, per_node: int) -> None:
    for job in jobs:
        members, gpus = members_of(job.gpus, per_node)
        if members > nodes * (per_node // gpus):
            raise TraceError(f"a job asks for {job.gpus} GPUs, the cluster has {nodes}x{per_node}")


def _measured(jobs: Sequence[TraceJob], outcome: Outcome, gpus: int) -> dict[str, Any]:
    submit = np.array([job.submit_ms for job in jobs])
    length = np.array([job.duration_ms for job in jobs])
    size = np.array([job.gpus for job in jobs])
    ended = np.array(outcome.ended_ms)
    jct = (ended - submit) / 1000
    wait = jct - length / 1000
    large = wait[size >= LARGE_GPUS]
    makespan_ms = int(ended.max() - submit.min())
    work = int((length * size).sum()) + outcome.wasted_gpu_ms
    return {
        "avg_jct_s": round(float(jct.mean()), 1),
        "p99_jct_s": round(float(np.percentile(jct, 99)), 1),
        "avg_wait_s": round(float(wait.mean()), 1),
        "p99_wait_s": round(float(np.percentile(wait, 99)), 1),
        "avg_wait_large_s": round(float(large.mean()), 1) if len(large) else None,
        "makespan_s": round(makespan_ms / 1000, 1),
        "preemptions": outcome.preemptions,
        "wasted_gpu_s": round(outcome.wasted_gpu_ms / 1000, 1),
        "utilisation": round(work / (makespan_ms * gpus), 4) if makespan_ms else 0.0,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", required=True, help="gzip CSV: job, vc, submit, duration, gpus")
    parser.add_argument("--nodes", required=True, help="NODESxGPUS, for example 78x8")
    parser.add_argument("--policy", default="madang", help=", ".join(POLICIES))
    parser.add_argument("--oracle", action="store_true", help="tell the policy true durations")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="madang sim replay", description=__doc__)
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    try:
        result = run(Path(asked.trace), asked.nodes, asked.policy, oracle=asked.oracle)
    except TraceError as wrong:
        print(f"madang sim replay: {wrong}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:>18}  {value}" for name, value in result.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
