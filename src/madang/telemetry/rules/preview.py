"""What a rule would have done to runs that there were: from the history and quantiles kept of them.

Minute by minute, as the judge does it tick by tick. Exact are the quantiles of whole percents since
the start, as they were at a run's end. All else is as good as the history: a minute counts as its
mean (for max, min and sum: as what it was), and runs of more than a day are looked at in coarser
steps. Of a run of which no minutes are kept any more, only its end is known.

Letters: T steps, K subjects.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from madang.core.rules import Rule
from madang.telemetry.frames import Subject
from madang.telemetry.metrics import REPORT, Metric, metric_of
from madang.telemetry.quantiles import BINS
from madang.telemetry.queries import How, Query
from madang.telemetry.ring import TICK_MS, Floats
from madang.telemetry.rules.judge import Flags, Run, is_for
from madang.telemetry.rules.measures import SHARE, Numbers, quantile, ticks_of
from madang.telemetry.stays import Stay
from madang.telemetry.store import Store

STEPS_MAX = 1_440
STEP_TICKS = 6  # a minute
SECONDS_MAX = 15.0
FLAGGED_MAX = 500

Keys = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Flagged:
    """A run that the rule would have flagged; `at_end` is NaN where nothing exact is known."""

    stay: Stay
    from_ms: int
    flagged_ms: int
    is_live: bool
    at_end: float


@dataclass(frozen=True, slots=True)
class Preview:
    """See wire/rules.py's PreviewView."""

    looked_at: int
    flagged: list[Flagged]
    unknown: int
    left_off: int
    notices: list[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """`run_of` says who a stay was of; `members_of` names the subjects of an allocation's members,
    (node, ALLOCATION/RANK)."""

    rule: Rule
    since_ms: int
    now_ms: int
    run_of: Callable[[Stay], Run]
    members_of: Callable[[str], Keys]


def preview(store: Store, asked: Asked, seconds: float = SECONDS_MAX) -> Preview:
    """Newest runs first, until all are looked at or the time is over."""
    until_s = time.monotonic() + seconds
    rule, metric = asked.rule, metric_of(asked.rule.metric)
    assert metric is not None, f"a rule that was not looked at: {rule}"
    flagged: list[Flagged] = []
    looked_at = unknown = left_off = 0
    for stay, is_live in store.stays_since(asked.since_ms):
        if time.monotonic() > until_s:
            left_off += 1
            continue
        if not is_for(rule, asked.run_of(stay)):
            continue
        verdict = _look(store, asked, metric, stay, is_live=is_live)
        looked_at += verdict is not None
        unknown += verdict is None
        if verdict is not None and verdict.flagged_ms >= 0:
            flagged.append(verdict)
    flagged.sort(key=lambda one: (-one.flagged_ms, one.stay.held.allocation))
    return Preview(looked_at, flagged, unknown, left_off, _notices(rule, metric))


def _notices(rule: Rule, metric: Metric) -> list[str]:
    found = ["`from` and `for how long` are reckoned from history of minutes, not of ticks"]
    if rule.how in SHARE and rule.window_ms:
        found.append("quantiles over a window are of minutes' means: extremes are blurred")
    if rule.how in SHARE and not rule.window_ms and not metric.percent:
        found.append("quantiles of this metric are a sketch's: their rank is off by 1 % at most")
    found.append("runs that ended before this daemon kept telemetry are not known")
    return found


def _look(
    store: Store, asked: Asked, metric: Metric, stay: Stay, *, is_live: bool
) -> Flagged | None:
    """None: nothing is known; `flagged_ms` is -1 for a run that would not have been flagged."""
    rule, tick_ms = asked.rule, store.ring.tick_ms
    begin_ms = stay.since * tick_ms
    end_ms = asked.now_ms if is_live else (stay.folded + 1) * tick_ms
    at_end = _at_end(stay, rule)
    if (end_ms - begin_ms) // tick_ms < ticks_of(rule.after_ms):
        return Flagged(stay, 0, -1, is_live, at_end)
    steps_least = -(-(end_ms - begin_ms) // STEPS_MAX)
    step_ticks = max(STEP_TICKS, -(-steps_least // (STEP_TICKS * tick_ms)) * STEP_TICKS)
    step_ms = step_ticks * tick_ms
    keys = _keys(store, asked, metric, stay)
    if not keys or end_ms <= begin_ms:
        return None
    how = cast(How, "mean" if rule.how in SHARE else rule.how)
    series = store.query(Query(metric.name, metric.subject, keys, begin_ms, end_ms, step_ms, how))
    known, wrong = _course(rule, metric, series.values, step_ticks)
    if not known.any():
        if np.isnan(at_end):
            return None
        is_wrong = (
            at_end > float(rule.threshold) if rule.is_above else at_end < float(rule.threshold)
        )
        return Flagged(stay, end_ms, 0 if is_wrong else -1, is_live, at_end)
    hold = -(-ticks_of(rule.hold_ms) // step_ticks)
    told = flags(known, wrong, hold)
    if not told.any():
        return Flagged(stay, 0, -1, is_live, at_end)
    # A step is known at its end; the ends of the first and last are the run's at most.
    from_ms = min(int(series.times_ms[int(np.argmax(told))]) + step_ms, end_ms)
    return Flagged(stay, from_ms, int(told.sum()) * step_ms, is_live, at_end)


def _keys(store: Store, asked: Asked, metric: Metric, stay: Stay) -> Keys:
    nodes = tuple(dict.fromkeys(node for node, _ in stay.devices))
    match metric.subject:
        case Subject.GPU:
            return tuple((node, str(gpu)) for node, gpu in stay.devices)
        case Subject.NODE:
            return tuple((node, "") for node in nodes)
        case Subject.MEMBER:
            return asked.members_of(stay.held.allocation)
        case _:
            return tuple(store.ring.keys_of(metric.name, nodes))


def _at_end(stay: Stay, rule: Rule) -> float:
    if rule.window_ms or rule.how not in SHARE:
        return float("nan")
    if rule.metric in stay.bins:
        return stay.histogram(rule.metric).at(SHARE[rule.how])
    sketch = stay.sketches.get(rule.metric)
    return sketch.at(SHARE[rule.how]) if sketch is not None else float("nan")


def _course(rule: Rule, metric: Metric, values: Floats, step_ticks: int) -> tuple[Flags, Flags]:
    """(T,) each: whether the rule's number is known at a step, and whether it is wrong."""
    steps = len(values)
    age = (np.arange(steps) + 1) * step_ticks
    if rule.window_ms:
        width = max(1, ticks_of(rule.window_ms) // step_ticks)
        measured, share = _rolling(rule.how, values, width)
        old_enough = age >= ticks_of(rule.window_ms)
    else:
        measured, share = _since_start(rule.how, values, is_percent=metric.percent)
        old_enough = np.ones(steps, np.bool_)
    least = 0.0 if rule.metric.startswith(REPORT) else 0.5
    known = ~np.isnan(measured) & (share >= least) & old_enough
    known &= age >= ticks_of(rule.after_ms)
    limit = float(rule.threshold)
    with np.errstate(invalid="ignore"):
        return known, known & (measured > limit if rule.is_above else measured < limit)


def _since_start(how: str, values: Floats, *, is_percent: bool) -> tuple[Numbers, Numbers]:
    """The quantile of all up to each step, and the share of it that is known."""
    steps, width = values.shape
    known = np.cumsum((~np.isnan(values)).sum(axis=1))
    share = known / (np.arange(steps) + 1) / width
    if not is_percent:
        found = [quantile(values[: step + 1].ravel(), SHARE[how]) for step in range(steps)]
        return np.array(found), share
    rounded = np.where(np.isnan(values), -1, np.rint(values)).astype(np.int64) + 1
    flat = np.arange(steps)[:, None] * (BINS + 1) + rounded
    counts = np.bincount(flat.ravel(), minlength=steps * (BINS + 1)).reshape(steps, BINS + 1)
    reached = np.cumsum(np.cumsum(counts[:, 1:], axis=0), axis=1)
    rank = np.maximum(np.ceil(SHARE[how] * known), 1)
    value = np.argmax(reached >= rank[:, None], axis=1).astype(float)
    return np.where(known > 0, value, np.nan), share


def _rolling(how: str, values: Floats, width: int) -> tuple[Numbers, Numbers]:
    """The number of the last `width` steps at each step, and the share of it that is known."""
    padded = np.concatenate((np.full((width - 1, values.shape[1]), np.nan, np.float32), values))
    known = ~np.isnan(padded)
    count = _summed(known.sum(axis=1, dtype=np.float64), width)
    share = count / width / max(values.shape[1], 1)
    if how in SHARE:
        windows = [padded[at : at + width].ravel() for at in range(len(values))]
        return np.array([quantile(one, SHARE[how]) for one in windows]), share
    if how in ("min", "max"):
        over = np.fmin if how == "min" else np.fmax
        rows = over.reduce(padded, axis=1)
        return np.asarray(over.reduce(sliding_window_view(rows, width), axis=1), np.float64), share
    total = _summed(np.where(known, padded, 0).sum(axis=1, dtype=np.float64), width)
    if how == "sum":
        return np.where(count > 0, total, np.nan), share
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), share


def _summed(rows: Numbers, width: int) -> Numbers:
    total = np.concatenate(([0.0], np.cumsum(rows)))
    return np.asarray(total[width:] - total[:-width], np.float64)


def flags(
    known: Sequence[bool] | Flags, wrong: Sequence[bool] | Flags, hold: int
) -> NDArray[np.bool_]:
    """(T,) whether the rule is told to be broken after each step: the judge's hysteresis."""
    told = np.zeros(len(known), np.bool_)
    is_broken, since = False, -1
    for step in range(len(known)):
        if known[step] and bool(wrong[step]) != is_broken:
            since = step if since < 0 else since
            if step - since >= hold:
                is_broken, since = not is_broken, -1
        else:
            since = -1
        told[step] = is_broken
    return told


assert TICK_MS * STEP_TICKS == 60_000, "a step is a minute"
