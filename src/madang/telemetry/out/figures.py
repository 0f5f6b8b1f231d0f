"""Figures: metric families with their samples, as values.

What is scraped and what is sent by remote write are both made of these.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from madang.telemetry.histogram import Histogram
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


def histogram(name: str, text: str, counted: Histogram) -> Figure:
    """What a histogram has counted so far. `name` is without `madang_`, ends with `_seconds`."""
    counts, sum_s = counted.taken()
    rows: list[Row] = []
    so_far = 0
    for bound, count in zip((*map(repr, counted.bounds_s), "+Inf"), counts, strict=True):
        so_far += count
        rows.append(((("le", bound),), float(so_far)))
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
