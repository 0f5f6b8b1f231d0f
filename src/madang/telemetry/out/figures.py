"""Figures: metric families with their samples, as values; and a histogram to count in.

What is scraped and what is sent by remote write are both made of these.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from madang.telemetry.out.blocks import Fact
from madang.telemetry.out.names import PREFIX, Family

Labels = tuple[tuple[str, str], ...]
Row = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A family and its samples. Of a histogram `rows` are (`le` among the labels, count so far),
    and `sums` (labels, sum); there is a row of `le` `+Inf` for each sum.
    """

    family: Family
    rows: tuple[Row, ...]
    sums: tuple[Row, ...] = ()

    def samples(self) -> Iterator[tuple[str, Labels, float]]:
        """(name, labels, value) of all that is written."""
        name = self.family.name
        if self.family.form != "histogram":
            for labels, value in self.rows:
                yield self.family.sample, labels, value
            return
        for labels, value in self.rows:
            yield f"{name}_bucket", labels, value
        counts = {_without_le(labels): value for labels, value in self.rows}  # the last: +Inf
        for labels, value in self.sums:
            yield f"{name}_count", labels, counts[labels]
            yield f"{name}_sum", labels, value


def gauge(name: str, text: str, rows: Iterable[Row], unit: str = "") -> Figure:
    """A figure that goes up and down. `name` is without `madang_`."""
    return Figure(Family(PREFIX + name, "gauge", text, unit), tuple(rows))


def counter(name: str, text: str, rows: Iterable[Row], unit: str = "") -> Figure:
    """A figure that only grows. `name` is without `madang_` and `_total`."""
    return Figure(Family(PREFIX + name, "counter", text, unit), tuple(rows))


def single(value: float) -> tuple[Row]:
    """The one row of a figure without labels."""
    return (((), value),)


@dataclass(slots=True)
class Histogram:
    """Counts durations by upper bounds in seconds. Any thread; costs a microsecond."""

    bounds_s: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        assert list(self.bounds_s) == sorted(set(self.bounds_s)), self.bounds_s
        self.counts = [0] * (len(self.bounds_s) + 1)

    def add(self, seconds: float) -> None:
        """One more of so many seconds; a bound belongs to the bucket that it ends."""
        with self.lock:
            self.counts[bisect_left(self.bounds_s, seconds)] += 1
            self.sum_s += seconds

    def figure(self, name: str, text: str) -> Figure:
        """As it is now. `name` is without `madang_` and ends with `_seconds`."""
        with self.lock:
            counts, sum_s = list(self.counts), self.sum_s
        rows: list[Row] = []
        so_far = 0
        for bound, count in zip((*self.bounds_s, float("inf")), counts, strict=True):
            so_far += count
            word = "+Inf" if bound == float("inf") else repr(bound)
            rows.append(((("le", word),), float(so_far)))
        family = Family(PREFIX + name, "histogram", text, "seconds")
        return Figure(family, tuple(rows), single(sum_s))


def facts_of(figures: Iterable[Figure], at_ms: int) -> list[Fact]:
    """The figures' samples for remote write."""
    return [
        Fact(name, labels, at_ms, value)
        for figure in figures
        for name, labels, value in figure.samples()
    ]


def _without_le(labels: Sequence[tuple[str, str]]) -> Labels:
    return tuple(pair for pair in labels if pair[0] != "le")
