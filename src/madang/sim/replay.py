"""`madang sim replay`: a queueing trace under a policy, on one cluster of equal nodes.

The trace is gzip CSV with the columns job, vc, submit (s), duration (s), gpus. Gangs; up to a
node's GPUs on the fullest node that fits, more on whole nodes. JCT is from submission to end; wait
is JCT less the trace's duration, so it holds restarts too.
"""

import argparse
import json
import sys
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from madang.core.estimates import NEVER_MS
from madang.core.policies import POLICIES
from madang.core.policy import Policy
from madang.sim.plot import Chart, Section, Series, Table, page
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
ERROR_TICKS = (
    (1.0, "1 %"),
    (10.0, "10 %"),
    (25.0, "25 %"),
    (50.0, "50 %"),
    (100.0, "100 %"),
    (1_000.0, "10 ×"),
    (10_000.0, "100 ×"),
)
ERROR_PCT_MAX = 10_000.0
AT_ONCE_S = 1.0  # who starts within a second of its submission does not wait
END_PERMILLE, STAY_PERMILLE = 500, 900  # what a policy plans by that says nothing of the history
SECONDS_MAX = 10**10  # three centuries: a mistaken column must not overflow a clock in ms
NEEDS_ESTIMATES = frozenset({"sjf", "ssf", "srtf", "easy", "conservative"})


class Knows(StrEnum):
    """What a replay tells its policy of durations."""

    DURATIONS = "durations"  # the true ones: an oracle
    PAST = "past"  # what it has itself seen of the trace so far


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
    owner = row.get("vc") or ""
    return TraceJob(round(submit_s * 1000), round(duration_s * 1000), gpus, owner=owner)


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
    knows: Knows | None = None,
    eta_every: int = 0,
    plot: Path | None = None,
) -> dict[str, Any]:
    """Replay and measure: the metrics under the keys of `madang sim replay --json`.

    Args:
        knows: what the scheduler knows of durations; nothing if left out. The textbook policies
            that cannot do without are always told.
        eta_every: of the jobs that wait, ask every so many when it will start, as it is submitted,
            and measure the error (0: nobody; asking changes nothing).
        plot: where to write the page of waits and utilisation, if anywhere.

    Raises:
        TraceError: the trace, the cluster or the policy's name is wrong, or a job can never fit.
    """
    if policy not in POLICIES:
        raise TraceError(f"no policy {policy!r}; there are {', '.join(POLICIES)}")
    nodes, per_node = cluster_of(cluster)
    jobs = read_trace(Path(trace))
    _check_sizes(jobs, nodes, per_node)
    if knows is Knows.DURATIONS or policy in NEEDS_ESTIMATES:
        jobs = [replace(job, estimate_ms=max(job.duration_ms, 1)) for job in jobs]
    began_s = time.perf_counter()
    rules = _predicting(POLICIES[policy], knows is Knows.PAST)
    outcome = Replay(jobs, nodes, per_node, rules, ask_every=eta_every).run()
    wall_s = time.perf_counter() - began_s
    measured = _measured(jobs, outcome, nodes * per_node)
    result = {"policy": policy, "jobs": len(jobs), **measured, "wall_s": round(wall_s, 2)}
    if eta_every:
        result |= {"eta": eta_of(jobs, outcome), "prediction": prediction_of(jobs, outcome)}
    if plot is not None:
        write_text(plot, plotted(jobs, outcome, nodes * per_node, result))
    return result


def _predicting(policy: Policy, predict: bool) -> Policy:
    """The policy with the history in its plans, or without."""
    if not predict:
        return replace(policy, end_permille=0, stay_permille=0)
    if policy.end_permille:
        return policy
    return replace(policy, end_permille=END_PERMILLE, stay_permille=STAY_PERMILLE)


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
    sections: list[Section] = [
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
    if outcome.expected_ms:
        sections += [_eta_chart(jobs, outcome), _eta_table(result["eta"])]
    about = f"{len(jobs)} jobs on {gpus} GPUs"
    return page(f"Queueing: {result['policy']}", about, _flat(result), sections)


def _flat(result: dict[str, Any]) -> dict[str, Any]:
    """The figures that are one number each; what is told by size has a table of its own."""
    flat = {name: value for name, value in result.items() if not isinstance(value, dict)}
    guessed = result.get("prediction", {})
    return flat | {f"prediction, {name}": value for name, value in guessed.items()}


@dataclass(frozen=True, slots=True)
class _Told:
    """What a job was told at its submission and what came of it, in seconds from then.

    `peers_s` is what PEERS would have said.
    """

    gpus: int
    told_s: float  # inf: nobody could say
    waited_s: float
    peers_s: tuple[float, ...] = ()

    @property
    def is_right_away(self) -> bool:
        return max(self.told_s, self.waited_s) <= AT_ONCE_S


def _told(jobs: Sequence[TraceJob], outcome: Outcome) -> list[_Told]:
    told, pages = [], _QueuePages(jobs, outcome)
    for number, at_ms in sorted(outcome.expected_ms.items()):
        job, started_ms = jobs[number], outcome.first_start_ms[number]
        told_s = inf if at_ms == NEVER_MS else (at_ms - job.submit_ms) / 1000
        waited_s = (started_ms - job.submit_ms) / 1000
        told.append(_Told(job.gpus, told_s, waited_s, pages.say(job)))
    return told


class _QueuePages:
    """What the queue-time pages of clusters say, the naive peers of a forecast: the mean wait of
    the last PEER_JOBS that started, of that size class, and the median of the last that waited."""

    def __init__(self, jobs: Sequence[TraceJob], outcome: Outcome) -> None:
        self._starts: dict[str, list[tuple[int, float]]] = {}  # (when, waited s) by size class
        for number, at_ms in sorted(outcome.first_start_ms.items(), key=lambda one: one[::-1]):
            waited_s = (at_ms - jobs[number].submit_ms) / 1000
            self._starts.setdefault(_size_class(jobs[number].gpus), []).append((at_ms, waited_s))
        self._waits = {
            name: [one for one in starts if one[1] > AT_ONCE_S]
            for name, starts in self._starts.items()
        }

    def say(self, job: TraceJob) -> tuple[float, ...]:
        """By each of PEERS; inf where nothing has been seen."""
        name = _size_class(job.gpus)
        started = _before(self._starts[name], job.submit_ms)
        waited = _before(self._waits[name], job.submit_ms)
        return (
            float(np.mean(started)) if started else inf,
            float(np.median(waited)) if waited else inf,
        )


PEERS = ("mean_of_started", "median_of_waited")
PEER_JOBS = 50


def _before(starts: Sequence[tuple[int, float]], at_ms: int) -> list[float]:
    end = bisect_left(starts, (at_ms, -inf))
    return [waited_s for _, waited_s in starts[max(0, end - PEER_JOBS) : end]]


def _size_class(gpus: int) -> str:
    return next(name for name, least, most in SIZE_CLASSES if least <= gpus <= most)


def eta_of(jobs: Sequence[TraceJob], outcome: Outcome) -> dict[str, dict[str, Any]]:
    """How wrong the start that was told at submission was, by size of the job.

    Of those that waited, or were told so, and were asked: medians of the real wait, of what was
    told, of the absolute error in seconds; quantiles of that in percent of the real wait (of a
    second at least); how many were told too late a start; the same error of the naive peers. An
    answer that could not be given is as wrong as can be (null where a quantile falls on one).
    """
    told = _told(jobs, outcome)
    rows = {"all": told}
    rows |= {
        name: [one for one in told if _size_class(one.gpus) == name] for name, _, _ in SIZE_CLASSES
    }
    return {name: _eta_row(of) for name, of in rows.items() if of}


def _eta_row(told: Sequence[_Told]) -> dict[str, Any]:
    waited = [one for one in told if not one.is_right_away]
    known = [one for one in waited if isfinite(one.told_s)]
    row: dict[str, Any] = {
        "right_away": len(told) - len(waited),
        "asked": len(waited),
        "unknown": len(waited) - len(known),
    }
    if not waited:
        return row
    row["median_wait_s"] = _quantile([one.waited_s for one in waited], 0.5)
    row["median_told_s"] = _quantile([one.told_s for one in waited], 0.5)
    row["median_error_s"] = _quantile([abs(one.told_s - one.waited_s) for one in waited], 0.5)
    off = [_off_pct(one.told_s, one.waited_s) for one in waited]
    row |= {f"error_pct_p{p}": _quantile(off, p / 100) for p in (25, 50, 75, 90)}
    if known:
        late = sum(one.told_s > one.waited_s for one in known)
        row["too_late_pct"] = round(100 * late / len(known), 1)
        ratios = [max(one.told_s, 1.0) / max(one.waited_s, 1.0) for one in known]
        row["median_told_by_real"] = _quantile(ratios, 0.5, digits=2)
    for at, name in enumerate(PEERS):
        theirs = [_off_pct(one.peers_s[at], one.waited_s) for one in waited]
        row[f"{name}_error_pct"] = _quantile(theirs, 0.5)
    return row


def _off_pct(told_s: float, waited_s: float) -> float:
    return 100 * abs(told_s - waited_s) / max(waited_s, 1.0)


def _quantile(values: Sequence[float], share: float, digits: int = 1) -> float | None:
    """None where it falls on an answer that could not be given."""
    value = float(np.quantile(values, share, method="inverted_cdf"))
    return round(value, digits) if isfinite(value) else None


def prediction_of(jobs: Sequence[TraceJob], outcome: Outcome) -> dict[str, Any]:
    """How wrong the median of the history was about the run time, as the job came."""
    pairs = [(guessed, jobs[n].duration_ms) for n, guessed in sorted(outcome.guessed_ms.items())]
    if not pairs:
        return {"guessed": 0}
    ratios = [max(guessed, 1) / max(ran, 1) for guessed, ran in pairs]
    off = [max(ratio, 1 / ratio) for ratio in ratios]
    return {
        "guessed": len(pairs),
        "median_factor_off": round(float(np.median(off)), 2),
        "too_short_pct": round(100 * sum(ratio < 1 for ratio in ratios) / len(ratios), 1),
    }


def _eta_chart(jobs: Sequence[TraceJob], outcome: Outcome) -> Chart:
    """How far off the told starts were, for each size: error in percent of the real wait."""
    told = [one for one in _told(jobs, outcome) if not one.is_right_away]
    off = {
        name: [_off_pct(one.told_s, one.waited_s) for one in told if _size_class(one.gpus) == name]
        for name, _, _ in SIZE_CLASSES
    }
    curves = [
        Series(f"{name} ({len(of)} that waited)", _errors(of), in_steps=True)
        for name, of in off.items()
        if of
    ]
    pages = [_off_pct(one.peers_s[0], one.waited_s) for one in told]
    if pages:
        name = "a queue page: mean wait of the last 50 started"
        curves.append(Series(name, _errors(pages), in_steps=True))
    return Chart(
        title="Error of the start that was told at submission",
        about="Of the jobs that waited or were told so: |told − real| in percent of the real wait. "
        f"Errors under 1 % stand at 1 %, over {ERROR_PCT_MAX:g} % or unknown there.",
        x_label="off by at most",
        y_label="% of the jobs of that size",
        series=tuple(curves),
        x_ticks=ERROR_TICKS,
        x_is_log=True,
        y_max=100,
    )


def _errors(off_pct: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(error, percent of the jobs that were off by at most so much), from 0 % of them on."""
    ends = [min(max(error, 1.0), ERROR_PCT_MAX) for error in sorted(off_pct)]
    points = [(error, 100 * rank / len(ends)) for rank, error in enumerate(ends, start=1)]
    step = max(1, len(points) // PLOT_POINTS)
    return ((ends[0], 0.0), *points[::step], points[-1])


# (key of a row of eta_of, what it is)
ETA_LINES = (
    ("right_away", "at once, as told"),
    ("asked", "others asked"),
    ("unknown", "told nothing"),
    ("median_wait_s", "median wait s"),
    ("median_told_s", "median told s"),
    ("error_pct_p25", "error p25 %"),
    ("error_pct_p50", "error p50 %"),
    ("error_pct_p75", "error p75 %"),
    ("error_pct_p90", "error p90 %"),
    ("too_late_pct", "told too late %"),
    ("mean_of_started_error_pct", "mean of 50 started, p50 %"),
    ("median_of_waited_error_pct", "median of 50 that waited, p50 %"),
)


def _eta_rows(eta: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """A line for each figure, a column for each size."""
    return [(head, *(_cell(row, key) for row in eta.values())) for key, head in ETA_LINES]


def _cell(row: dict[str, Any], key: str) -> str:
    if key not in row:
        return ""
    return "unknown" if row[key] is None else f"{row[key]:,}"


def _eta_table(eta: dict[str, dict[str, Any]]) -> Table:
    return Table(
        title="Expected starts by size of the job",
        about="Of the jobs that waited or were told so, and were asked. The last two lines are "
        "what a queue page would have said: the error of the mean wait of the last 50 that "
        "started, and of the median of the last 50 that waited.",
        columns=("", *eta),
        rows=tuple(_eta_rows(eta)),
    )


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
    parser.add_argument(
        "--predict",
        action="store_true",
        help="plan by the run times learned so far from the trace; reported with their error",
    )
    parser.add_argument(
        "--eta",
        type=int,
        nargs="?",
        const=1,
        default=0,
        metavar="N",
        help="ask (every N-th of) the jobs that wait when they start, and report the error",
    )
    parser.add_argument("--plot", help="write waits and utilisation there: one HTML file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="madang sim replay", description=__doc__)
    add_arguments(parser)
    asked = parser.parse_args(arguments)
    plot = Path(asked.plot) if asked.plot else None
    knows = Knows.DURATIONS if asked.oracle else Knows.PAST if asked.predict else None
    try:
        result = run(
            asked.trace,
            asked.nodes,
            asked.policy,
            knows=knows,
            eta_every=max(0, asked.eta),
            plot=plot,
        )
    except TraceError as wrong:
        print(f"madang sim replay: {wrong}", file=sys.stderr)
        return 2
    print(json.dumps(result) if asked.json else table(result))
    return 0


def table(result: dict[str, Any]) -> str:
    """The result as lines for people."""
    flat = _flat(result)
    width = max(18, *map(len, flat))
    lines = [f"{name:>{width}}  {value}" for name, value in flat.items()]
    if "eta" not in result:
        return "\n".join(lines)
    rows = [("expected starts by size", *result["eta"]), *_eta_rows(result["eta"])]
    lines += [
        "",
        *("  ".join([f"{head:>32}", *(f"{cell:>12}" for cell in of)]) for head, *of in rows),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
