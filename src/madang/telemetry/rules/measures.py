"""The numbers that rules compare: one per measure and running allocation, from ring and quantiles.

Exact for all but two: quantiles since the start of what is no integer percent are a sketch's (rank
off by 1 % of the count at most) and as old as the last fold, five minutes at most. A number is NaN,
unknown, while less than half of what it is of was measured; nothing is concluded from it then.

Times of a rule are counted in ticks of ten seconds. A fleet of speed 10 has ticks of a second, and
lives an hour of a rule in six minutes, as it lives all else.

Letters: A running allocations, D subjects (devices, nodes, members, ports) of them, T ticks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.core.rules import QUANTILES, Rule
from madang.telemetry.metrics import REPORT, Metric, metric_of
from madang.telemetry.quantiles import BINS
from madang.telemetry.ring import TICK_MS, TICKS, VALUE, Floats, Ints, Plane, Ring, Table
from madang.telemetry.stays import Stay
from madang.telemetry.store import Store

CELLS_MAX = 2_000_000  # looked at in one go
SHARE = {name: int(name[1:]) / 100 for name in QUANTILES}

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """What a rule compares: `how` of `metric` over `window` ticks; 0: since the start."""

    metric: str
    how: str
    window: int

    def is_proof(self, *, is_above: bool) -> bool:
        """One value alone can show that a rule is broken: nothing missing could mend it."""
        return self.how in ("max", "sum") if is_above else self.how == "min"


def ticks_of(ms: int) -> int:
    """How many ticks a rule's time is, rounded up."""
    return -(-ms // TICK_MS)


def measure_of(rule: Rule) -> Measure:
    return Measure(rule.metric, rule.how, ticks_of(rule.window_ms))


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """The subjects of allocations: `at` (D,) columns of `table`, and `of` (D,) whose they are, rows
    into what was asked for, ascending."""

    table: Table
    named: str
    at: Ints
    of: Ints


class Measurer:
    """Measures for one look: what several measures need is gathered once. Made anew each look."""

    def __init__(self, store: Store, allocations: Sequence[str]) -> None:
        self.store = store
        self.ring: Ring = store.ring
        with store.looking() as stays:
            self.tick = self.ring.tick
            found = [stays.live.get(id) for id in allocations]
        self.stays: list[Stay | None] = found
        self.age = np.array(
            [self.tick - one.since + 1 if one is not None else 0 for one in found], np.int64
        )
        self._members: dict[str, dict[tuple[str, str], list[int]]] = {}
        self._columns_of: dict[tuple[str, int], list[int]] = {}

    def values(
        self, wanted: Mapping[tuple[Measure, bool], NDArray[np.bool_]]
    ) -> dict[tuple[Measure, bool], Numbers]:
        """(A,) for each measure and side, NaN where unknown or not wanted (A,)."""
        found: dict[tuple[Measure, bool], Numbers] = {}
        groups: dict[tuple[str, int], list[tuple[Measure, bool]]] = {}
        for one in wanted:
            groups.setdefault((one[0].metric, one[0].window), []).append(one)
            found[one] = np.full(len(self.stays), np.nan)
        known = np.array([one is not None for one in self.stays], np.bool_)
        for (name, window), measures in groups.items():
            metric = metric_of(name)
            asked = np.logical_or.reduce([wanted[one] for one in measures]) & known
            rows = np.flatnonzero(asked)
            if metric is None or not len(rows) or self.tick < 0:
                continue
            if window:
                self._over_window(metric, window, rows, measures, found)
            elif metric.percent:
                self._since_start(metric, rows, measures, found)
            else:
                self._sketched(metric, rows, measures, found)
        return found

    # -- since the start ---------------------------------------------------------------------------

    def _since_start(
        self,
        metric: Metric,
        rows: Ints,
        measures: Sequence[tuple[Measure, bool]],
        found: dict[tuple[Measure, bool], Numbers],
    ) -> None:
        """What is folded, and what the ring has beyond it: exact up to this tick."""
        with self.store.looking():
            stays = [self._stay(row) for row in rows]
            counts = np.stack([one.summed(metric.name) for one in stays])
            columns = self._columns(metric, rows)
            plane = columns.table.planes.get(columns.named)
            if plane is not None and len(columns.at):
                self._add_unfolded(counts, stays, columns, plane)
            devices = np.array([len(one.held.devices) for one in stays])
        total = counts.sum(axis=1)
        enough = (total > 0) & (2 * total >= self.age[rows] * devices)
        for one in measures:
            found[one][rows] = np.where(enough, ranked(counts, SHARE[one[0].how]), np.nan)

    def _add_unfolded(
        self, counts: Ints, stays: Sequence[Stay], columns: _Columns, plane: Plane
    ) -> None:
        folded = np.array([max(one.folded, self.ring.oldest - 1) for one in stays])
        width = BINS + 1
        for last in np.unique(folded[folded < self.tick]):
            inside = folded[columns.of] == last
            slots = np.arange(last + 1, self.tick + 1) % TICKS
            stored = plane.array[np.ix_(slots, columns.at[inside])]
            flat = columns.of[inside] * width + stored.astype(np.int64)
            more = np.bincount(flat.ravel(), minlength=len(stays) * width)
            counts += more.reshape(len(stays), width)[:, 1:]

    def _sketched(
        self,
        metric: Metric,
        rows: Ints,
        measures: Sequence[tuple[Measure, bool]],
        found: dict[tuple[Measure, bool], Numbers],
    ) -> None:
        is_of_devices = metric.subject.value == "gpu"
        with self.store.looking():
            for row in rows:
                stay = self._stay(row)
                sketch = stay.sketches.get(metric.name)
                least = self.age[row] * len(stay.held.devices) / 2 if is_of_devices else 1
                if sketch is None or sketch.count < max(least, 1):
                    continue
                for one in measures:
                    found[one][row] = sketch.at(SHARE[one[0].how])

    # -- over a window -----------------------------------------------------------------------------

    def _over_window(
        self,
        metric: Metric,
        window: int,
        rows: Ints,
        measures: Sequence[tuple[Measure, bool]],
        found: dict[tuple[Measure, bool], Numbers],
    ) -> None:
        window = min(window, TICKS)
        ticks = np.arange(self.tick - window + 1, self.tick + 1)
        with self.store.looking():
            whole = self._columns(metric, rows)
            plane = whole.table.planes.get(whole.named)
        if plane is None or not len(whole.at):
            return
        starts = np.flatnonzero(np.diff(whole.of, prepend=-1))
        ends = np.append(starts[1:], len(whole.of))
        room = max(1, CELLS_MAX // window)
        begin = 0
        while begin < len(starts):
            end = max(begin + 1, int(np.searchsorted(ends, starts[begin] + room, side="right")))
            cut = slice(int(starts[begin]), int(ends[end - 1]))
            with self.store.looking():
                values = self._gathered(plane, whole.at[cut], ticks)
            owners = whole.of[starts[begin:end]]
            since = np.array([self._stay(rows[one]).since for one in owners])
            parts = starts[begin:end] - starts[begin]
            sizes = ends[begin:end] - starts[begin:end]
            first = np.repeat(since - ticks[0], sizes)  # before it, somebody else held the device
            if (first > 0).any():
                values[np.arange(window)[:, None] < first] = np.nan
            is_irregular = metric.name.startswith(REPORT)
            known = np.add.reduceat(~np.isnan(values), parts, axis=1).sum(axis=0, dtype=np.int64)
            enough = (known > 0) if is_irregular else 2 * known >= window * sizes
            enough &= self.age[rows[owners]] >= window
            for one in measures:
                value = _reduced(one[0].how, values, parts, known, is_percent=metric.percent)
                told = known > 0 if one[0].is_proof(is_above=one[1]) else enough
                found[one][rows[owners]] = np.where(told, value, np.nan)
            begin = end

    def _gathered(self, plane: Plane, at: Ints, ticks: Ints) -> Floats:
        """(T, D); NaN where the ring holds nothing (any more, or yet)."""
        held = ticks > self.ring.newest - TICKS
        stored = plane.array[np.ix_(ticks % TICKS, at)]
        values = plane.decoded(stored)
        if not held.all():
            values[~held] = np.nan
        return values

    # -- who is measured ---------------------------------------------------------------------------

    def _stay(self, row: int) -> Stay:
        stay = self.stays[row]
        assert stay is not None, f"nobody holds anything in row {row}"
        return stay

    def _columns(self, metric: Metric, rows: Ints) -> _Columns:
        """The subjects of these allocations that the ring knows. Under the store's lock."""
        if metric.name.startswith(REPORT):
            name = metric.name.removeprefix(REPORT)
            return self._of_members("report", VALUE, rows, name)
        kind = metric.subject.value
        if kind == "member":
            return self._of_members("member", metric.name, rows, "")
        at: list[int] = []
        of: list[int] = []
        for place, row in enumerate(rows.tolist()):
            columns = self._of_row(kind, row)
            at += columns
            of += [place] * len(columns)
        table = self.ring.tables[kind]
        return _Columns(table, metric.name, np.array(at, np.int64), np.array(of, np.int64))

    def _of_row(self, kind: str, row: int) -> list[int]:
        """Columns of one allocation's devices, nodes or ports; looked up once a look."""
        known = self._columns_of.get((kind, row))
        if known is None:
            devices = self._stay(row).held.devices
            nodes = dict.fromkeys(node for node, _ in devices)
            if kind == "gpu":
                keys = [(node, str(gpu), "") for node, gpu in devices]
            elif kind == "port":
                keys = [key for node in nodes for key in self._ports(node)]
            else:
                keys = [(node, "", "") for node in nodes]
            column_of = self.ring.tables[kind].column_of
            known = [column_of[key] for key in keys if key in column_of]
            self._columns_of[kind, row] = known
        return known

    def _ports(self, node: str) -> list[tuple[str, str, str]]:
        if "port" not in self._members:
            found: dict[tuple[str, str], list[int]] = {}
            for key, column in self.ring.tables["port"].column_of.items():
                found.setdefault((key[0], ""), []).append(column)
            self._members["port"] = found
        table = self.ring.tables["port"]
        keys = [table.keys[column] for column in self._members["port"].get((node, ""), ())]
        return [key for key in keys if key is not None]

    def _of_members(self, kind: str, named: str, rows: Ints, name: str) -> _Columns:
        table = self.ring.tables[kind]
        if kind not in self._members:
            found: dict[tuple[str, str], list[int]] = {}
            for (_, key, report), column in table.column_of.items():
                found.setdefault((key.rpartition("/")[0], report), []).append(column)
            self._members[kind] = found
        at: list[int] = []
        of: list[int] = []
        for place, row in enumerate(rows.tolist()):
            columns = self._members[kind].get((self._stay(row).held.allocation, name), ())
            at += columns
            of += [place] * len(columns)
        return _Columns(table, named, np.array(at, np.int64), np.array(of, np.int64))


def _reduced(how: str, values: Floats, parts: Ints, known: Ints, *, is_percent: bool) -> Numbers:
    """(A,) of (T, D): `parts` (A,) are the first columns of each."""
    if how in SHARE and is_percent:
        sizes = np.diff(parts, append=values.shape[1])
        base = np.repeat(np.arange(len(parts)) * (BINS + 1), sizes)
        flat = np.where(np.isnan(values), np.float32(-1), values).astype(np.int64) + (base + 1)
        counts = np.bincount(flat.ravel(), minlength=len(parts) * (BINS + 1))
        return ranked(counts.reshape(len(parts), BINS + 1)[:, 1:], SHARE[how])
    if how in SHARE:
        ends = np.append(parts[1:], values.shape[1])
        pairs = zip(parts, ends, strict=True)
        return np.array([quantile(values[:, one:end], SHARE[how]) for one, end in pairs])
    if how == "min":
        return np.asarray(np.fmin.reduce(np.fmin.reduceat(values, parts, axis=1)), np.float64)
    if how == "max":
        return np.asarray(np.fmax.reduce(np.fmax.reduceat(values, parts, axis=1)), np.float64)
    filled = np.where(np.isnan(values), np.float32(0), values)
    total = np.add.reduceat(filled, parts, axis=1, dtype=np.float64).sum(axis=0)
    if how == "sum":
        return np.asarray(total, np.float64)
    return np.asarray(total / np.maximum(known, 1), np.float64)


def ranked(counts: Ints, share: float) -> Numbers:
    """(A,) the nearest rank of counts (A, 101) of whole percents; anything where there are none."""
    reached = np.cumsum(counts, axis=1)
    rank = np.maximum(np.ceil(share * reached[:, -1]), 1)
    return np.asarray(np.argmax(reached >= rank[:, None], axis=1), np.float64)


def quantile(values: Floats, share: float) -> float:
    """The nearest rank, as telemetry/quantiles.py has it; NaN of nothing."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan")
    rank = min(max(int(np.ceil(share * len(known))), 1), len(known)) - 1
    return float(np.partition(known, rank)[rank])
