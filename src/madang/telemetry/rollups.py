"""Roll-ups: ticks to minutes and hours, as rows of a table; and the same for what comes late.

Letters: T ticks, U subjects, R rows. A row is one subject at one time with, per metric, the mean,
least and greatest of what is known of it, and of how many values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.plans import Plan
from madang.telemetry.ring import TICKS, Floats, Ints, Key, Plane, Ring, Table

MINUTE_MS = 60_000
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class Stat:
    """(R,) each; `count` 0 where nothing is known, the others NaN there."""

    mean: Floats
    low: Floats
    high: Floats
    count: NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of one table in order of subject and time. `subject` (R,) are rows into `keys`."""

    table: str
    keys: Sequence[Key]
    subject: Ints
    time_ms: Ints
    stats: Mapping[str, Stat]

    def taken(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Rows":
        """Some of the rows."""
        stats = {
            name: Stat(one.mean[rows], one.low[rows], one.high[rows], one.count[rows])
            for name, one in self.stats.items()
        }
        return Rows(self.table, self.keys, self.subject[rows], self.time_ms[rows], stats)


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """Some ticks of one table as the ring stores them, copied: what may be rolled up at leisure."""

    table: str
    keys: Sequence[Key]
    times_ms: Ints
    planes: Mapping[str, tuple[Plane, NDArray[np.generic]]]


def slabs_of(ring: Ring, ticks: Ints) -> list[Slab]:
    """A copy of these ticks (held by the ring) of every table."""
    slabs = []
    slots = ticks % TICKS
    for table in ring.tables.values():
        rows = sorted((key, column) for key, column in table.column_of.items())
        if not rows or not table.planes or not len(ticks):
            continue
        columns = np.array([column for _, column in rows], np.int64)
        planes = {
            name: (plane, plane.array[np.ix_(slots, columns)])
            for name, plane in table.planes.items()
        }
        keys = [key for key, _ in rows]
        slabs.append(Slab(table.name, keys, ticks * ring.tick_ms, planes))
    return slabs


def rows_of(slab: Slab, bucket_ms: int) -> Rows:
    """A slab's ticks, rolled up to minutes or hours; times and subjects without values are left
    out.
    """
    buckets = slab.times_ms // bucket_ms
    times, starts = np.unique(buckets, return_index=True)
    stats = {}
    for name, (plane, stored) in slab.planes.items():
        if stored.any():
            stats[name] = _reduced(plane.decoded(stored), starts)
    subjects = len(slab.keys)
    rows = Rows(
        slab.table,
        slab.keys,
        np.repeat(np.arange(subjects, dtype=np.int64), len(times)),
        np.tile(times * bucket_ms, subjects),
        stats,
    )
    return _without_empty(rows)


def _reduced(values: Floats, starts: NDArray[np.intp]) -> Stat:
    """(T, U) to (U * buckets,), subject by subject."""
    known = ~np.isnan(values)
    count = np.add.reduceat(known, starts, axis=0, dtype=np.uint32)
    total = np.add.reduceat(np.where(known, values, 0), starts, axis=0, dtype=np.float64)
    low = np.fmin.reduceat(values, starts, axis=0)
    high = np.fmax.reduceat(values, starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total / count).astype(np.float32)
    return Stat(mean.T.ravel(), low.T.ravel(), high.T.ravel(), count.T.ravel())


def _without_empty(rows: Rows) -> Rows:
    some = np.zeros(len(rows.subject), np.bool_)
    for one in rows.stats.values():
        some |= one.count > 0
    return rows if some.all() else rows.taken(some)


@dataclass(frozen=True, slots=True, eq=False)
class Late:
    """A frame that came when its minute had been written already."""

    plan: Plan
    tick: int
    block: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """What frames said of one table: `columns` of the ring and `ticks` (R,), per metric values."""

    columns: Ints
    ticks: Ints
    values: Mapping[str, Floats]


def matrices_of(late: Sequence[Late]) -> dict[str, Matrix]:
    """Frames by table, in their order."""
    tables: dict[str, list[tuple[Late, int]]] = {}
    for one in late:
        for at, part in enumerate(one.plan.parts):
            tables.setdefault(part.table.name, []).append((one, at))
    return {name: _matrix(parts) for name, parts in tables.items()}


def _matrix(parts: Sequence[tuple[Late, int]]) -> Matrix:
    columns = [one.plan.parts[at].columns for one, at in parts]
    ticks = [np.full(len(one.plan.parts[at].columns), one.tick, np.int64) for one, at in parts]
    metrics = dict.fromkeys(m for one, at in parts for m in one.plan.parts[at].sources)
    values = {
        metric: np.concatenate([_values(one, at, metric) for one, at in parts])
        for metric in metrics
    }
    return Matrix(np.concatenate(columns), np.concatenate(ticks), values)


def late_rows(late: Sequence[Late], ring: Ring, bucket_ms: int) -> list[Rows]:
    """Late frames rolled up: rows to be added to what is written."""
    return [
        _late_table(ring.tables[name], matrix, ring.tick_ms, bucket_ms)
        for name, matrix in matrices_of(late).items()
    ]


def _late_table(table: Table, matrix: Matrix, tick_ms: int, bucket_ms: int) -> Rows:
    buckets = matrix.ticks * tick_ms // bucket_ms
    order = np.lexsort((buckets, matrix.columns))
    columns, buckets = matrix.columns[order], buckets[order]
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = (columns[1:] != columns[:-1]) | (buckets[1:] != buckets[:-1])
    starts = np.flatnonzero(is_first)
    stats = {
        metric: _reduced(values[order][:, None], starts) for metric, values in matrix.values.items()
    }
    found, subject = np.unique(columns[starts], return_inverse=True)
    keys = [table.keys[column] or ("", "", "") for column in found.tolist()]
    rows = Rows(table.name, keys, subject.astype(np.int64), buckets[starts] * bucket_ms, stats)
    kept = np.array([key[0] != "" for key in keys])  # a column that was freed meanwhile
    return _without_empty(rows.taken(kept[rows.subject]))


def _values(one: Late, at: int, metric: str) -> Floats:
    part = one.plan.parts[at]
    source = part.sources.get(metric)
    if source is None:
        return np.full(len(part.columns), np.nan, np.float32)
    return np.where(source >= 0, one.block[np.maximum(source, 0)], np.float32(np.nan))


def by_day(rows: Rows) -> Iterable[tuple[int, Rows]]:
    """(first ms of the day, in UTC, its rows)."""
    days = rows.time_ms // 86_400_000
    for day in np.unique(days).tolist():
        inside = days == day
        yield day * 86_400_000, rows if inside.all() else rows.taken(inside)
