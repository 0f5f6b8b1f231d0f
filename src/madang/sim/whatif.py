"""`madang sim what-if`: the platform's own journal, replayed under another policy.

Three yards are compared over one window: what really happened, the same journal replayed under the
policy that was in force, and replayed under the other. The difference between the first two is the
error of the method; only what the third differs from the second by is the policy's doing.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from madang.core.events import Event
from madang.core.policies import POLICIES, policy_of
from madang.core.policy import DEFAULT, Policy
from madang.core.usage.books import Books
from madang.core.usage.keys import SIZE_NAMES
from madang.core.usage.report import Line, report
from madang.core.usage.rows import Ints
from madang.sim.history import History, history_of
from madang.sim.plot import Bars, Chart, Section, Series, Table, page
from madang.sim.replay import DAY_MS, WAIT_TICKS
from madang.sim.rerun import Rerun

MOVERS_MAX = 10  # who gains most, who loses most
NEAR_MS = 60_000  # a start within a minute of the real one counts as hit
HOUR_MS = 3_600_000
GPU_US_PER_S = 1_000_000
CURVE_POINTS = 400

NAMED = {"default": DEFAULT, **POLICIES}


class NothingToReplay(ValueError):
    """The journal has nothing in that window; the text says what there is."""


def policy_of_file(stated: Mapping[str, Any], file: str) -> Policy:
    """The policy that a validated file states; named after the file if it goes by a known name."""
    policy = policy_of(stated)
    is_other = policy.name in NAMED and NAMED[policy.name] != policy
    return replace(policy, name=file) if is_other else policy


@dataclass(frozen=True, slots=True)
class Yard:
    """One of the three: its books over the window, and when each job started and ended."""

    name: str
    books: Books
    started_ms: Mapping[str, int]
    ended_ms: Mapping[str, int]


def run(
    journal: Iterable[tuple[int, Event]],
    window: tuple[int, int],
    policy: Policy,
    *,
    oracle: bool = False,
    plot: bool = False,
) -> dict[str, Any]:
    """Replay the window [since, until) twice and compare.

    Args:
        oracle: tell the scheduler how long the jobs really ran.
        plot: the page comes along, under the key `page`.

    Raises:
        NothingToReplay: no job was submitted or ran in the window.
    """
    began_s = time.perf_counter()
    history = history_of(journal, *window)
    if not history.courses:
        raise NothingToReplay("the journal holds no job in this window; take a longer --since")
    read_s = time.perf_counter() - began_s
    actual = Yard("actual", history.actual, history.started_ms, history.ended_ms)
    recorded = _rerun("recorded", history, None, oracle=oracle)
    other = _rerun("other", history, policy, oracle=oracle)
    yards = (actual, recorded, other)
    measured = {yard.name: _measured(yard, history) for yard in yards}
    result: dict[str, Any] = {
        "policy": policy.name,
        "recorded_policy": history.policy,
        "since_ms": history.since_ms,
        "until_ms": history.until_ms,
        "events": history.events,
        "jobs": len(history.courses),
        "guessed_lengths": sum(course.guessed for course in history.courses.values()),
        **measured,
        "difference": _difference(measured["recorded"], measured["other"]),
        "method_error": _method_error(history, actual, recorded, measured),
        "by_size": _by(history, yards, ("size",)),
        "by_class": _by(history, yards, ("provisioning", "category")),
        "by_project": _by(history, yards, ("project",)),
        **_movers(history, recorded, other),
        "read_s": round(read_s, 2),
        "wall_s": round(time.perf_counter() - began_s, 2),
    }
    if plot:
        result["page"] = _page(history, yards, result)
    return result


def _rerun(name: str, history: History, policy: Policy | None, *, oracle: bool) -> Yard:
    done = Rerun(history, policy, oracle=oracle).run()
    started_ms = {**_before(history.started_ms, history.since_ms), **done.marks.started_ms}
    return Yard(name, done.books, started_ms, done.marks.ended_ms)


def _before(times_ms: Mapping[str, int], since_ms: int) -> dict[str, int]:
    return {job: ms for job, ms in times_ms.items() if ms < since_ms}


# -- figures -------------------------------------------------------------------------------------


def _measured(yard: Yard, history: History) -> dict[str, Any]:
    found = report(yard.books, history.since_ms, history.until_ms).total
    jct = _jcts_ms(yard.books, history)
    amounts, waits = found.amounts, found.waits
    taken = amounts.held_gpu_us + amounts.stranded_gpu_us
    capacity = amounts.capacity_gpu_us
    return {
        "started": waits.count,
        "ended": amounts.ended,
        "waiting": amounts.waiting,
        **_waits(found),
        "avg_jct_s": round(float(jct.mean()) / 1000, 1) if len(jct) else None,
        "p99_jct_s": round(float(np.percentile(jct, 99)) / 1000, 1) if len(jct) else None,
        "waited_gpu_h": round(amounts.waited_gpu_us / 3.6e9, 2),
        "held_gpu_h": round(amounts.held_gpu_us / 3.6e9, 2),
        "utilisation": round(taken / capacity, 4) if capacity else None,
        "preemptions": amounts.preemptions + amounts.moves + amounts.reclaims,
        "wasted_gpu_s": round(amounts.wasted_gpu_us / GPU_US_PER_S, 1),
    }


def _waits(line: Line) -> dict[str, Any]:
    waits = line.waits
    return {
        "avg_wait_s": round(waits.mean_ms / 1000, 1) if waits.count else None,
        "p50_wait_s": round(waits.p50_ms / 1000, 1) if waits.count else None,
        "p90_wait_s": round(waits.p90_ms / 1000, 1) if waits.count else None,
        "p99_wait_s": round(waits.p99_ms / 1000, 1) if waits.count else None,
    }


def _jcts_ms(books: Books, history: History) -> Ints:
    """From submission to the end, of the jobs that ended in the window."""
    ended = books.ended.table()
    return ended[(ended[:, 1] >= history.since_ms) & (ended[:, 1] < history.until_ms)][:, 2]


def _difference(recorded: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Other less recorded, where both have a number."""
    return {
        name: round(other[name] - value, 4)
        for name, value in recorded.items()
        if value is not None and other[name] is not None
    }


def _method_error(
    history: History, actual: Yard, recorded: Yard, measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """How far a replay under the policy that was in force is from what happened."""
    starts = _apart_ms(history, actual.started_ms, recorded.started_ms)
    ends = _apart_ms(history, actual.ended_ms, recorded.ended_ms)
    return {
        "jobs_compared": len(starts),
        "start_median_s": _seconds(starts, 50),
        "start_p90_s": _seconds(starts, 90),
        "start_within_a_minute_pct": (
            round(100 * float((starts <= NEAR_MS).mean()), 1) if len(starts) else None
        ),
        "end_median_s": _seconds(ends, 50),
        "end_p90_s": _seconds(ends, 90),
        "total": _difference(measured["actual"], measured["recorded"]),
    }


def _apart_ms(history: History, one: Mapping[str, int], other: Mapping[str, int]) -> Ints:
    """How far apart the moments of the jobs are that have both in the window."""
    since_ms = history.since_ms
    both = [abs(other[job] - ms) for job, ms in one.items() if ms >= since_ms and job in other]
    return np.array(both, np.int64)


def _seconds(values_ms: Ints, percentile: int) -> float | None:
    if not len(values_ms):
        return None
    return round(float(np.percentile(values_ms, percentile)) / 1000, 1)


def _by(history: History, yards: Iterable[Yard], by: tuple[str, ...]) -> list[dict[str, Any]]:
    """Waits and waste of each group, for the three yards side by side."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for yard in yards:
        for line in report(yard.books, history.since_ms, history.until_ms, by).lines:
            found = groups.setdefault(line.group, dict(zip(by, line.group, strict=True)))
            found[yard.name] = {
                "started": line.waits.count,
                "waiting": line.amounts.waiting,
                **_waits(line),
                "held_gpu_h": round(line.amounts.held_gpu_us / 3.6e9, 2),
                "waited_gpu_h": round(line.amounts.waited_gpu_us / 3.6e9, 2),
                "preemptions": line.amounts.preemptions,
                "wasted_gpu_s": round(line.amounts.wasted_gpu_us / GPU_US_PER_S, 1),
            }
    if by == ("size",):
        return sorted(groups.values(), key=lambda each: SIZE_NAMES.index(each["size"]))
    return [groups[group] for group in sorted(groups)]


def _movers(history: History, recorded: Yard, other: Yard) -> dict[str, Any]:
    """Who gains and who loses by the end of the job (or, until it ends, by its start)."""
    gains: list[tuple[int, str, str]] = []
    for job in history.courses:
        for what, one, two in (
            ("end", recorded.ended_ms, other.ended_ms),
            ("start", recorded.started_ms, other.started_ms),
        ):
            if job in one and job in two:
                if one[job] != two[job]:
                    gains.append((one[job] - two[job], job, what))
                break
    gains.sort(key=lambda gain: (-gain[0], gain[1]))
    better = [gain for gain in gains if gain[0] > 0]
    worse = [gain for gain in reversed(gains) if gain[0] < 0]
    return {
        "gain_jobs": len(better),
        "lose_jobs": len(worse),
        "same_jobs": len(history.courses) - len(better) - len(worse),
        "gains": [_mover(history, gain) for gain in better[:MOVERS_MAX]],
        "losses": [_mover(history, gain) for gain in worse[:MOVERS_MAX]],
    }


def _mover(history: History, gain: tuple[int, str, str]) -> dict[str, Any]:
    earlier_ms, id, what = gain
    job = history.courses[id].job
    return {
        "job": id,
        "project": job.project,
        "gpus": job.milli / 1000,
        "provisioning": job.provisioning.value,
        "category": job.category.value,
        f"{what}s_earlier_s": round(earlier_ms / 1000, 1),
    }


# -- for people ----------------------------------------------------------------------------------

_ROWS = (
    ("avg_wait_s", "mean wait, s"),
    ("p50_wait_s", "median wait, s"),
    ("p90_wait_s", "90 % wait, s"),
    ("p99_wait_s", "99 % wait, s"),
    ("avg_jct_s", "mean completion, s"),
    ("p99_jct_s", "99 % completion, s"),
    ("started", "jobs started"),
    ("ended", "jobs ended"),
    ("waiting", "jobs waiting at the end"),
    ("waited_gpu_h", "GPU·hours waited for"),
    ("held_gpu_h", "GPU·hours held"),
    ("utilisation", "held / capacity"),
    ("preemptions", "stopped for others"),
    ("wasted_gpu_s", "wasted GPU·s"),
)
_YARDS = ("actual", "recorded", "other")


def lines(result: Mapping[str, Any]) -> str:
    """The result as lines for people."""
    head = ("", "really", f"replayed ({result['recorded_policy']})", result["policy"])
    rows = [head, *_figures(result)]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    text = [
        "  ".join([row[0].ljust(widths[0]), *(row[at].rjust(widths[at]) for at in (1, 2, 3))])
        for row in rows
    ]
    return "\n".join([*text, "", *_sentences(result)])


def _figures(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(words, *(_plain(result[yard][name]) for yard in _YARDS)) for name, words in _ROWS]


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if 0 < abs(value) < 10 else f"{value:,.0f}"


def _sentences(result: Mapping[str, Any]) -> list[str]:
    error = result["method_error"]
    moved = f"{result['gain_jobs']} end or start earlier under {result['policy']}"
    rest = f"{result['lose_jobs']} later, {result['same_jobs']} as before"
    text = [f"{result['jobs']} jobs: {moved}, {rest}."]
    if error["jobs_compared"]:
        hit = f"within {error['start_median_s']:g} s of when they really did"
        text.append(
            f"The method's own error: replayed under {result['recorded_policy']}, half of "
            f"{error['jobs_compared']} jobs start {hit}, nine of ten within "
            f"{error['start_p90_s']:g} s. Do not trust a smaller difference."
        )
    if result["guessed_lengths"]:
        text.append(
            f"{result['guessed_lengths']} jobs never ran: they are given the median length of "
            "their size."
        )
    return text


def _page(history: History, yards: Iterable[Yard], result: Mapping[str, Any]) -> str:
    """Waits, the yard over time, sizes, and who gains or loses, as one HTML page."""
    yards = tuple(yards)
    names = {"actual": "what happened", "recorded": "replayed as recorded"}
    names["other"] = str(result["policy"])
    waits = Chart(
        title="Waits",
        about="From submission to the first start, of the jobs that started in the window.",
        x_label="waited at most",
        y_label="% of the jobs",
        series=tuple(
            Series(names[yard.name], _distribution(yard.books, history), in_steps=True)
            for yard in yards
            if _distribution(yard.books, history)
        ),
        x_ticks=WAIT_TICKS,
        x_is_log=True,
        y_max=100,
    )
    held = Chart(
        title="GPUs held over time",
        about="Means of 400 equal stretches.",
        x_label="days since the window began",
        y_label="GPUs",
        series=tuple(Series(names[yard.name], _held(yard.books, history)) for yard in yards),
    )
    sections: list[Section] = [
        Table(
            title="In figures",
            about=_sentences(result)[0],
            columns=("", *(names[name] for name in _YARDS)),
            rows=tuple(_figures(result)),
        ),
        waits,
        held,
        _sizes(result, names),
        _who(result, "gains", "Who gains most"),
        _who(result, "losses", "Who loses most"),
    ]
    facts = {
        f"method error: {name}": value
        for name, value in result["method_error"].items()
        if name != "total"
    }
    about = " ".join(_sentences(result)[1:]) or "No job can be compared with what happened."
    return page(f"What if: {result['policy']}", about, facts, sections)


def _distribution(books: Books, history: History) -> tuple[tuple[float, float], ...]:
    """(wait in s, % of the jobs that waited at most that long); waits under a second stand at 1."""
    waited = books.waited.table()
    first = waited[(waited[:, 4] == 1) & (waited[:, 5] == 1) & (waited[:, 2] >= history.since_ms)]
    waits_s = np.sort(first[:, 2] - first[:, 1]) / 1000
    if not len(waits_s):
        return ()
    at = np.unique(np.linspace(0, len(waits_s) - 1, CURVE_POINTS).round().astype(np.int64))
    shares: dict[float, float] = {1.0: 0.0}
    for place in at.tolist():
        shares[max(1.0, float(waits_s[place]))] = round(100 * (place + 1) / len(waits_s), 3)
    return tuple(shares.items())


def _held(books: Books, history: History) -> tuple[tuple[float, float], ...]:
    """(days since the window began, mean GPUs held) of CURVE_POINTS equal stretches."""
    rows = [*books.held.table().tolist(), *books.open_held(history.until_ms, charged=True)]
    changes = sorted(
        change
        for _, begin_ms, end_ms, milli in rows
        for change in ((begin_ms, milli), (end_ms, -milli))
    )
    edges = np.linspace(history.since_ms, history.until_ms, CURVE_POINTS + 1)
    if not changes:
        return ((0.0, 0.0),)
    times = np.array([at_ms for at_ms, _ in changes])
    level = np.cumsum([milli for _, milli in changes])
    # Milli·ms held up to each change; between two of them it grows evenly.
    sums = np.concatenate([[0], np.cumsum(level[:-1] * np.diff(times))])
    means = np.diff(np.interp(edges, times, sums)) / (edges[1] - edges[0]) / 1000
    days = ((edges[:-1] + edges[1:]) / 2 - history.since_ms) / DAY_MS
    return tuple(zip(days.tolist(), np.round(means, 3).tolist(), strict=True))


def _sizes(result: Mapping[str, Any], names: Mapping[str, str]) -> Bars:
    """Mean waits by size in the two replays."""
    return Bars(
        title="Mean wait by size",
        about="GPUs of all members, and how long they waited for their first start on average.",
        unit="minutes",
        parts=("mean wait",),
        rows=tuple(
            (f"{each['size']}: {names[yard]}", (round((each[yard]["avg_wait_s"] or 0) / 60, 2),))
            for each in result["by_size"]
            for yard in _YARDS[1:]
            if yard in each
        ),
    )


def _who(result: Mapping[str, Any], key: str, title: str) -> Table:
    movers = result[key]
    return Table(
        title=title,
        about="By the end of the job; by its start where it has not ended in both replays.",
        columns=("job", "project", "class", "GPUs", "earlier by, min"),
        rows=tuple(
            (
                each["job"],
                each["project"],
                f"{each['provisioning']} {each['category']}",
                f"{each['gpus']:g}",
                f"{each.get('ends_earlier_s', each.get('starts_earlier_s', 0)) / 60:,.1f}",
            )
            for each in movers
        ),
        words=3,
    )
