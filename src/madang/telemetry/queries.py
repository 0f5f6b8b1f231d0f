"""What may be asked of series, and the arithmetic of steps. Where the values lie is not known here.

A series has one value a step, or NaN: the mean, least, greatest or sum of all that is known of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Subject
from madang.telemetry.ring import Floats, Ints

How = Literal["mean", "max", "min", "sum"]
STEPS_MAX = 11_000  # a week by minutes
KEYS_MAX = 20_000
VALUES_MAX = 4_000_000


class BadQuery(ValueError):
    """It can't be answered; the text says what is allowed."""


class HistoryAway(Exception):
    """Who has the history does not answer; the text says who, and what to do."""


@dataclass(frozen=True, slots=True)
class Query:
    """`keys` are (node, key) as frames name them: of a GPU ("n1", "0"), of a member ("n1",
    "train-7.1/0"). From `from_ms` (within) to `to_ms` (without), a value each `step_ms`.
    `sum` is of the values frames bring: of a count, what was added in the step.
    """

    metric: str
    subject: Subject
    keys: tuple[tuple[str, str], ...]
    from_ms: int
    to_ms: int
    step_ms: int
    how: How = "mean"

    def check(self) -> None:
        """Raises:
        BadQuery: it asks for nothing, or for too much at once.
        """
        if self.to_ms <= self.from_ms:
            raise BadQuery(f"from {self.from_ms} to {self.to_ms}: the end is not after the begin")
        if self.step_ms <= 0:
            raise BadQuery(f"a step of {self.step_ms} ms")
        if len(self.keys) > KEYS_MAX:
            raise BadQuery(f"{len(self.keys)} subjects; at most {KEYS_MAX} at once")
        steps = len(self.times_ms)
        if steps > STEPS_MAX:
            raise BadQuery(f"{steps} steps; at most {STEPS_MAX}: ask for a longer step")
        if steps * len(self.keys) > VALUES_MAX:
            raise BadQuery(
                f"{steps} steps of {len(self.keys)} subjects; at most {VALUES_MAX} values at once: "
                "ask for a longer step or fewer subjects"
            )

    @property
    def times_ms(self) -> Ints:
        """(T,) the begins of the steps, multiples of the step."""
        return np.arange(self.from_ms // self.step_ms * self.step_ms, self.to_ms, self.step_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """`times_ms` (T,) int64, `values` (T, K) float32, NaN where nothing is known. `notice` says why
    something that is known may be missing.
    """

    times_ms: Ints
    keys: tuple[tuple[str, str], ...]
    values: Floats
    notice: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """What a source knows, in no order: (N,) each. `key` are rows into the query's keys.

    A point stands for `count` values (or a part of one): their mean, least and greatest. One that
    was read once is its own mean, least and greatest.
    """

    key: NDArray[np.int64]
    at_ms: Ints
    mean: Floats
    low: Floats
    high: Floats
    count: NDArray[np.float64]


def spread(points: Points, length_ms: int, step_ms: int) -> Points:
    """Points that stand for `length_ms` each, over the steps that lie in it."""
    times = length_ms // step_ms
    if times <= 1:
        return points
    return Points(
        np.repeat(points.key, times),
        np.add.outer(points.at_ms, np.arange(times) * step_ms).ravel(),
        np.repeat(points.mean, times),
        np.repeat(points.low, times),
        np.repeat(points.high, times),
        np.repeat(points.count / times, times),
    )


def stepped(query: Query, sources: Iterable[Points]) -> Series:
    """The series of all that the sources know."""
    times_ms = query.times_ms
    shape = (len(times_ms), len(query.keys))
    cells = shape[0] * shape[1]
    total = np.zeros(cells)
    count = np.zeros(cells)
    least = np.full(cells, np.inf, np.float32)
    greatest = np.full(cells, -np.inf, np.float32)
    begin_ms = int(times_ms[0]) if len(times_ms) else 0
    for points in sources:
        row = (points.at_ms - begin_ms) // query.step_ms
        inside = (row >= 0) & (row < shape[0])
        inside &= (points.at_ms >= query.from_ms) & (points.at_ms < query.to_ms)
        inside &= ~np.isnan(points.mean)
        at = (row * shape[1] + points.key)[inside]
        if query.how in ("mean", "sum"):
            weights = points.count[inside]
            total += np.bincount(at, points.mean[inside] * weights, cells)
            count += np.bincount(at, weights, cells)
        elif query.how == "min":
            np.minimum.at(least, at, points.low[inside])
        else:
            np.maximum.at(greatest, at, points.high[inside])
    with np.errstate(invalid="ignore", divide="ignore"):
        match query.how:
            case "mean":
                values = total / count
            case "sum":
                values = np.where(count > 0, total, np.nan)
            case "min":
                values = np.where(np.isinf(least), np.nan, least)
            case "max":
                values = np.where(np.isinf(greatest), np.nan, greatest)
    return Series(times_ms, query.keys, values.astype(np.float32).reshape(shape))
