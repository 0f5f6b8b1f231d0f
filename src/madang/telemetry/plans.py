"""Where the values of a frame go: worked out once for each shape, then only arrays are moved.

A plan lists slices of a frame's block and the columns of the ring's planes they belong to; what has
no place (an unknown metric, a key of no form) is left out and told as a mark with each frame.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Column, Frame, Subject
from madang.telemetry.metrics import REPORT, Metric, metric_of
from madang.telemetry.ring import TICKS, VALUE, Floats, Ints, Plane, Ring, RingFull, Table, table_of

NAMES_SHOWN_MAX = 5
_GPU_KEY = re.compile(r"\d{1,4}(/\d{1,3})?", re.ASCII)
_MEMBER_KEY = re.compile(r"[^/]+/\d{1,6}", re.ASCII)
_NAN_BITS = np.uint32(0x7FC00000)

Selection = slice | Ints


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """`block[source]` goes to `plane.array[slot, target]`."""

    plane: Plane
    target: Selection
    source: Selection
    is_count: bool


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One table's share of a frame: `columns` (R,) and, per metric, where its values (R,) are in
    the block: `source` (R,) int64, -1 where the metric says nothing of that column.
    """

    table: Table
    columns: Ints
    sources: dict[str, Ints]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`low` and `high` (V,) are what is accepted; `marks` what is wrong with the shape itself."""

    generation: int
    low: Floats
    high: Floats
    writes: tuple[Write, ...]
    parts: tuple[Part, ...]
    marks: tuple[tuple[str, str], ...]
    count: int  # of values that have a place

    def write(self, ring: Ring, tick: int, block: Floats) -> None:
        """Put a clean block (in range, or NaN) into a tick that holds nothing of it yet."""
        missing = np.isnan(block)
        bits = np.where(missing, np.float32(np.nan), block).view(np.uint32) ^ _NAN_BITS
        whole = np.where(missing, np.float32(0), np.rint(block) + np.float32(1))
        slot = tick % TICKS
        for one in self.writes:
            stored = whole if one.plane.is_whole else bits
            one.plane.array[slot, one.target] = stored[one.source]
        self._touch(ring, tick)

    def combine(self, ring: Ring, tick: int, block: Floats) -> None:
        """Put a block into a tick that has something of its node: counts add up, the rest is as
        the newer block says, as far as it says something.
        """
        slot = tick % TICKS
        for one in self.writes:
            array = one.plane.array
            old = one.plane.decoded(array[slot, one.target])
            new = block[one.source]
            if one.is_count:
                new = np.where(np.isnan(old), new, old + np.nan_to_num(new, nan=0.0))
            array[slot, one.target] = one.plane.encoded(np.where(np.isnan(new), old, new))
        self._touch(ring, tick)

    def _touch(self, ring: Ring, tick: int) -> None:
        ring.touched[tick % TICKS] = True
        for part in self.parts:
            last = part.table.last_tick
            last[part.columns] = np.maximum(last[part.columns], tick)


def block_of(frame: Frame) -> Floats:
    """All values of a frame, one column after the other."""
    if frame.block is not None:
        return frame.block
    if not frame.columns:
        return np.zeros(0, np.float32)
    return np.concatenate([column.values for column in frame.columns], dtype=np.float32)


def plan_of(frame: Frame, ring: Ring) -> Plan:
    """The plan of a frame's shape; subjects never heard of get columns of the ring."""
    sizes = [len(column.keys) for column in frame.columns]
    count = sum(sizes)
    low = np.full(count, -np.inf, np.float32)  # what has no place is not judged
    high = np.full(count, np.inf, np.float32)
    writes: list[Write] = []
    sources: dict[str, dict[str, dict[int, int]]] = {}
    wrong: dict[str, list[str]] = {}
    begin = placed = 0
    for column, size in zip(frame.columns, sizes, strict=True):
        metric = metric_of(column.metric)
        if metric is None:
            wrong.setdefault("unknown_metric", []).append(column.metric)
        elif metric.subject is not column.subject:
            text = f"{column.metric} of a {column.subject}, not a {metric.subject}"
            wrong.setdefault("wrong_subject", []).append(text)
        else:
            low[begin : begin + size], high[begin : begin + size] = metric.range
            found = _columns(frame.node, column, metric, ring, wrong)
            for table, pairs in found.items():
                writes += _writes(ring, table, metric, pairs, begin, wrong)
                named = VALUE if table == "report" else metric.name
                rows = sources.setdefault(table, {}).setdefault(named, {})
                rows.update((to, begin + of) for of, to in pairs)
                placed += len(pairs)
        begin += size
    parts = tuple(_part(ring.tables[table], rows) for table, rows in sources.items())
    marks = tuple((kind, _listed(names)) for kind, names in wrong.items())
    return Plan(ring.generation, low, high, tuple(writes), parts, marks, placed)


def _columns(
    node: str, column: Column, metric: Metric, ring: Ring, wrong: dict[str, list[str]]
) -> dict[str, list[tuple[int, int]]]:
    """Per table (place in the column, column of the ring), for all keys that have a form."""
    found: dict[str, list[tuple[int, int]]] = {}
    name = metric.name.removeprefix(REPORT) if metric.name.startswith(REPORT) else ""
    for at, key in enumerate(column.keys):
        if not _is_key(column.subject, key):
            wrong.setdefault("wrong_key", []).append(f"{column.subject} {key!r}")
            continue
        table = table_of(column.subject, metric.name, key)
        try:
            found.setdefault(table, []).append((at, ring.column_for(table, (node, key, name))))
        except RingFull as full:
            wrong.setdefault("ring_full", []).append(str(full))
    return found


def _is_key(subject: Subject, key: str) -> bool:
    if subject is Subject.GPU:
        return _GPU_KEY.fullmatch(key) is not None
    if subject is Subject.MEMBER:
        return _MEMBER_KEY.fullmatch(key) is not None
    return key == "" if subject is Subject.NODE else key != ""


def _writes(
    ring: Ring,
    table: str,
    metric: Metric,
    pairs: Sequence[tuple[int, int]],
    begin: int,
    wrong: dict[str, list[str]],
) -> list[Write]:
    try:
        plane = ring.plane_for(table, metric)
    except RingFull as full:
        wrong.setdefault("ring_full", []).append(str(full))
        return []
    source = np.array([begin + at for at, _ in pairs], np.int64)
    target = np.array([to for _, to in pairs], np.int64)
    return [Write(plane, _selected(target), _selected(source), metric.form == "count")]


def _selected(at: Ints) -> Selection:
    """A slice if they follow each other: much faster."""
    if len(at) and np.array_equal(at, np.arange(at[0], at[0] + len(at))):
        return slice(int(at[0]), int(at[0]) + len(at))
    return at


def _part(table: Table, rows: dict[str, dict[int, int]]) -> Part:
    columns = list(dict.fromkeys(column for to in rows.values() for column in to))
    sources = {
        named: np.array([to.get(column, -1) for column in columns], np.int64)
        for named, to in rows.items()
    }
    return Part(table, np.array(columns, np.int64), sources)


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - NAMES_SHOWN_MAX} more" if len(unique) > NAMES_SHOWN_MAX else ""
    return ", ".join(unique[:NAMES_SHOWN_MAX]) + more


def clean(plan: Plan, block: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The block with NaN for what is out of range, and which values those were (V,).

    What has no place in the ring is not judged.
    """
    accepted = (block >= plan.low) & (block <= plan.high)
    if accepted.all():
        return block, np.zeros(0, np.bool_)
    bad = ~accepted & ~np.isnan(block)
    return np.where(accepted, block, np.float32(np.nan)), bad
