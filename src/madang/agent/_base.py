"""What every reader promises, and what readers share: counters to increases, values to columns.

A reader reads one kind of sensor. It never raises for a sensor that is missing or broken: what
cannot be read is missing from its columns, and is never zero. It may take long, or hang with its
driver: `gather` does not wait for it.
"""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from madang.telemetry.frames import Column, Signal, Subject
from madang.telemetry.metrics import METRICS

NOT_KNOWN = math.nan
SILENT_READS_MAX = 30  # a counter that was not seen for so many reads is forgotten


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reader says at one moment."""

    columns: tuple[Column, ...] = ()
    signals: tuple[Signal, ...] = ()


class Reader(Protocol):
    """One kind of sensor of this node. One thread at a time."""

    @property
    def name(self) -> str:
        """As people know it: `nvml`."""

    def read(self, now_ms: int) -> Reading:
        """What there is now; counters as increases since the last call that saw them."""

    def close(self) -> None:
        """Give back what it holds."""


class Counters:
    """From where counters stand to how far they moved on since they were last seen.

    The first look gives NaN: nothing is known yet. A counter that went back was reset (a driver was
    reloaded, a port came up again), and has counted what it shows since then.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[float, int]] = {}
        self._reads = 0

    def begin(self) -> None:
        """A new round of looks; those who were silent for long are forgotten."""
        self._reads += 1
        if self._reads % SILENT_READS_MAX == 0:
            oldest = self._reads - SILENT_READS_MAX
            self._last = {name: seen for name, seen in self._last.items() if seen[1] >= oldest}

    def grown(self, name: Hashable, stands_at: float | None) -> float:
        """How much it grew; NaN if it cannot be read, or was not seen before."""
        before = self._seen(name, stands_at)
        if stands_at is None or math.isnan(before):
            return NOT_KNOWN
        return stands_at - before if stands_at >= before else stands_at

    def risen(self, name: Hashable, stands_at: float | None) -> float:
        """As `grown`, of a sum that falls when a part of it leaves: then it grew by nothing."""
        before = self._seen(name, stands_at)
        if stands_at is None or math.isnan(before):
            return NOT_KNOWN
        return max(0.0, stands_at - before)

    def _seen(self, name: Hashable, stands_at: float | None) -> float:
        """Where it stood before; NaN if that, or where it stands now, is not known."""
        if stands_at is None or math.isnan(stands_at):
            return NOT_KNOWN
        before = self._last.get(name, (NOT_KNOWN, 0))[0]
        self._last[name] = (stands_at, self._reads)
        return before


Row = Mapping[str, float | None]  # metric → value


def columns_of(subject: Subject, rows: Mapping[str, Row]) -> tuple[Column, ...]:
    """Values by key and metric as columns, in the order of the table of metrics.

    A column is there only if some value is known.
    """
    keys = tuple(rows)
    found = []
    for metric in ordered({metric for row in rows.values() for metric in row}):
        values = np.array([number(row.get(metric)) for row in rows.values()], np.float32)
        if not np.isnan(values).all():
            found.append(Column(metric, subject, keys, values))
    return tuple(found)


def ordered(metrics: Iterable[str]) -> list[str]:
    """In the table's order."""
    asked = set(metrics)
    return [name for name in METRICS if name in asked]


def number(value: float | None) -> float:
    """As it goes into a column: NaN for what is not known."""
    return NOT_KNOWN if value is None else float(value)
