"""`madang sim replay`: a queueing trace under a policy, on one cluster of equal nodes.

The trace is gzip CSV with the columns job, vc, submit (s), duration (s), gpus. Gangs; up to a
node's GPUs on the fullest node that fits, more on whole nodes. JCT is from submission to end; wait
is JCT less the trace's duration, so it holds restarts too.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from madang.core.policies import POLICIES
from madang.sim.plot import Chart, Series, page
from madang.sim.queueing import Outcome, Replay, TraceJob, members_of
from madang.sim.traces import TraceError, rows_of, write_text

COLUMNS = ("submit", "duration", "gpus")
LARGE_GPUS = 8
GPUS_PER_NODE_MAX = 64
DEFAULT_POLICY = "madang"
DAY_MS = 86_400_000
PLOT_POINTS = 400
# (name, least GPUs, most GPUs)
SIZE_CLASSES = (
    ("1 GPU", 1, 1),
    ("2 to 7", 2, 7),
    ("8", 8, 8),
    ("more than 8", 9, 10**9),
)
WAIT_TICKS = (
    (1.0, "1 s"),
    (10.0, "10 s"),
    (60.0, "1 min"),
    (600.0, "10 min"),
    (3_600.0, "1 h"),
    (36_000.0, "10 h"),
    (86_400.0, "1 d"),
    (864_000.0, "10 d"),
)
SECONDS_MAX = 10**10  # three centuries: a mistaken column must not overflow a clock in ms
NEEDS_ESTIMATES = frozenset({"sjf", "ssf", "srtf", "easy", "conservative"})


def read_trace(path: Path) -> list[TraceJob]:
    """The jobs in order of submission (equal times in file order).

    Raises:
        TraceError: the file is not such a trace.
    """
    jobs = [_job(path, line, row) for line, row in enumerate(rows_of(path, COLUMNS), start=2)]
    if not jobs:
        raise TraceError(f"{path} holds no jobs")
    return sorted(jobs, key=lambda job: job.submit_ms)


def _job(path: Path, line: int, row: dict[str, str]) -> TraceJob:
    try:
        submit_s, duration_s, gpus = float(row["submit"]), float(row["duration"]), int(row["gpus"])
    except (TypeError, ValueError) as wrong:
        raise TraceError(f"{path}, line {line}: numbers expected, got {row}") from wrong
    if not (isfinite(submit_s) and isfinite(duration_s)):
        raise TraceError(f"{path}, line {line}: a time that is no number: {row}")
    if not (0 <= submit_s <= SECONDS_MAX and 0 <= duration_s <= SECONDS_MAX and gpus >= 1):
        raise TraceError(
            f"{path}, line {line}: seconds from 0 to {SECONDS_MAX} and at least 1 GPU expected, "
            f"got {row}"
        )
    return TraceJob(round(submit_s * 1000), round(duration_s * 1000), gpus)


def cluster_of(text: str) -> tuple[int, int]:
    """(nodes, GPUs per node) of `78x8`.

    Raises:
        TraceError: it is not of that form.
    """
    nodes, _, per_node = text.partition("x")
    form = all(word.isascii() and word.isdigit() and len(word) < 7 for word in (nodes, per_node))
    if form and int(nodes) and 1 <= int(per_node) <= GPUS_PER_NODE_MAX:
        return int(nodes), int(per_node)
    raise TraceError(f"--nodes must be NODESxGPUS, for example 78x8; got {text!r}")


def run(
    trace: Path | str,
    cluster: str,
    policy: str = DEFAULT_POLICY,
    *,
    oracle: bool = False,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Replay and measure: the metrics under the keys of `madang sim replay --json`.

    Args:
        oracle: tell the scheduler the true durations; the textbook policies always are.
        plot: where to write the page of waits and utilisation, if anywhere.

    Raises:
        TraceError: the trace, the cluster or the policy's name is wrong, or a job can never fit.
    """
    if policy not in POLICIES:
        raise TraceError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    nodes, per_node = cluster_of(cluster)
    jobs = read_trace(Path(trace))
    _check_sizes(jobs, nodes, per_node)
    if oracle or policy in NEEDS_ESTIMATES:
        jobs = [replace(job, estimate_ms=max(job.duration_ms, 1)) for job in jobs]
    began_s = time.perf_counter()
    outcome = Replay(jobs, nodes, per_node, POLICIES[policy]).run()
    wall_s = time.perf_counter() - began_s
    measured = _measured(jobs, outcome, nodes * per_node)
    result = {"policy": policy, "jobs": len(jobs), **measured, "wall_s": round(wall_s, 2)}
    if plot is not None:
        write_text(plot, plotted(jobs, outcome, nodes * per_node, result))
    return result


def _check_sizes(jobs: Sequence[TraceJob], nodes: int, per_node: int) -> None:
    for job in jobs:
        members, gpus = members_of(job.gpus, per_node)
        if members > nodes * (per_node // gpus):
            raise TraceError(
                f"a job asks for {job.gpus} GPUs, which {nodes}x{per_node} can never hold; "
                "use more nodes"
            )


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


def plotted(jobs: Sequence[TraceJob], outcome: Outcome, gpus: int, result: dict[str, Any]) -> str:
    """The page of `--plot`: how long jobs of each size waited, and what was in use when."""
    waits = {name: _waits_s(jobs, outcome, least, most) for name, least, most in SIZE_CLASSES}
    curves = tuple(
        Series(f"{name} ({len(of)} jobs)", _distribution(of), in_steps=True)
        for name, of in waits.items()
        if of
    )
    charts = [
        Chart(
            title="Waits by size of the job",
            about="Wait is the time from submission to end less the trace's duration. "
            "Waits under a second stand at 1 s.",
            x_label="waited at most",
            y_label="% of the jobs of that size",
            series=curves,
            x_ticks=WAIT_TICKS,
            x_is_log=True,
            y_max=100,
        ),
        Chart(
            title="Utilisation over time",
            about="GPUs that jobs hold, restarts included.",
            x_label="days since the first start",
            y_label="% of the GPUs",
            series=(Series("held", _utilisation(outcome.held, gpus)),),
            y_max=100,
        ),
    ]
    about = f"{len(jobs)} jobs on {gpus} GPUs"
    return page(f"Queueing: {result['policy']}", about, result, charts)


def _waits_s(jobs: Sequence[TraceJob], outcome: Outcome, least: int, most: int) -> list[float]:
    """Sorted waits of the jobs of that many GPUs."""
    ends = zip(jobs, outcome.ended_ms, strict=True)
    return sorted(
        (ended_ms - job.submit_ms - job.duration_ms) / 1000
        for job, ended_ms in ends
        if least <= job.gpus <= most
    )


def _distribution(waits_s: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(wait, percent of the jobs that waited at most that long), at most PLOT_POINTS + 1 of them.

    From 1 s, where a wait of less counts too, to the longest.
    """
    sample = np.quantile(waits_s, np.linspace(0, 1, PLOT_POINTS), method="inverted_cdf")
    counts = np.searchsorted(waits_s, sample, side="right")
    shares: dict[float, float] = {}
    for wait_s, count in zip(sample.tolist(), counts.tolist(), strict=True):
        shares[max(1.0, wait_s)] = round(100 * count / len(waits_s), 3)
    at_once = 100 * int(np.searchsorted(waits_s, 1.0, side="right")) / len(waits_s)
    return tuple({1.0: round(at_once, 3), **shares}.items())


def _utilisation(held: Sequence[tuple[int, int]], gpus: int) -> tuple[tuple[float, float], ...]:
    """(days since the first start, mean percent held) of PLOT_POINTS equal stretches."""
    times = np.array([at_ms for at_ms, _ in held], np.int64)
    level = np.cumsum([more for _, more in held])
    spans = np.diff(times)
    # GPU·ms used up to each time; between two of them it grows evenly.
    used = np.concatenate([[0], np.cumsum(level[:-1] * spans)])
    edges = np.linspace(times[0], times[-1], PLOT_POINTS + 1)
    means = np.diff(np.interp(edges, times, used)) / max(edges[1] - edges[0], 1e-9) / gpus
    middles = (edges[:-1] + edges[1:]) / 2 - times[0]
    days = (middles / DAY_MS).tolist()
    return tuple(zip(days, np.round(100 * means, 3).tolist(), strict=True))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", required=True, help="gzip CSV: job, vc, submit, duration, gpus")
    parser.add_argument("--nodes", required=True, help="NODESxGPUS, for example 78x8")
    parser.add_argument("--policy", default=DEFAULT_POLICY, help=", ".join(POLICIES))
    parser.add_argument("--oracle", action="store_true", help="tell the policy true durations")
    parser.add_argument("--plot", help="write waits and utilisation there: one HTML file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="madang sim replay", description=__doc__)
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    plot = Path(asked.plot) if asked.plot else None
    try:
        result = run(asked.trace, asked.nodes, asked.policy, oracle=asked.oracle, plot=plot)
    except TraceError as wrong:
        print(f"madang sim replay: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps(result) if asked.json else table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result as lines for people."""
    return "\n".join(f"{name:>18}  {value}" for name, value in result.items())


if __name__ == "__main__":
    sys.exit(main())
