"""The live ring: what sensors said in the last hour, by tick, in arrays.

A tick is `tick_ms` long (10 s) and centred on its time: tick n is what was said within half a tick
round n * tick_ms. Six tables (GPUs, MIG slices, nodes, members, ports, reports) have a column for
each subject ever heard in the hour, and for each metric a plane (TICKS, columns). A plane stores
integer percents in one byte, other small integers in two, the rest as float32; all are exact. Zero
bits are "missing" in each of them, so that what was never written takes no memory.

Letters: T ticks, U columns of a table. One thread writes at a time; who reads beside it may see a
tick half written, never one of another time.
"""

import itertools
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Subject
from madang.telemetry.metrics import REPORT, Metric, metric_of

TICKS = 360  # an hour of ticks of 10 s
TICK_MS = 10_000
CAPACITY_MIN = 64
BYTES_MAX = 4 << 30  # of all planes, as laid out; beyond it new subjects are refused
COLUMNS_MAX = {
    "gpu": 262_144,
    "slice": 65_536,
    "node": 32_768,
    "member": 262_144,
    "port": 262_144,
    "report": 131_072,
}
TABLES = tuple(COLUMNS_MAX)
VALUE = "value"  # the one metric of the table of reports, whose columns have the name in their key

_NAN_BITS = np.uint32(0x7FC00000)  # float32 bits are stored xor these: zero bits are NaN

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Key = tuple[str, str, str]  # node, key, and the report's name or ""


class RingFull(Exception):
    """A bound of the ring is reached; the text says which."""


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """All GPUs, sorted by node and index; another version when one has come or gone.

    `node_of` (U,) int32 are rows into `nodes`, `index` (U,) int16 the device on its node.
    """

    version: int
    nodes: tuple[str, ...]
    node_of: NDArray[np.int32]
    index: NDArray[np.int16]


class Plane:
    """One metric of one table: `array` (TICKS, capacity), encoded."""

    def __init__(self, metric: Metric, capacity: int) -> None:
        self.metric = metric
        self.is_whole = metric.percent or metric.whole
        self.dtype = np.dtype(np.uint8 if metric.percent else "<u2" if metric.whole else "<u4")
        self.array = _untouched(capacity, self.dtype)

    def grow(self, capacity: int, slots: Ints) -> None:
        """Room for more columns; only what was written in these slots is copied."""
        grown = _untouched(capacity, self.dtype)
        grown[slots, : self.array.shape[1]] = self.array[slots]
        self.array = grown

    def encoded(self, values: Floats) -> NDArray[Any]:
        """Values in the metric's range, or NaN, as they are stored."""
        if self.is_whole:
            return np.where(np.isnan(values), 0, np.rint(values) + 1).astype(self.dtype)
        return np.where(np.isnan(values), np.float32(np.nan), values).view(np.uint32) ^ _NAN_BITS

    def decoded(self, stored: NDArray[Any]) -> Floats:
        """What was stored, as float32; NaN where nothing was."""
        if self.is_whole:
            values = stored.astype(np.float32)
            values -= 1
            values[stored == 0] = np.nan
            return values
        bits: NDArray[np.uint32] = stored ^ _NAN_BITS
        return bits.view(np.float32)


def _untouched(capacity: int, dtype: "np.dtype[Any]") -> NDArray[Any]:
    """(TICKS, capacity) zeros that take no memory before they are written, and give it all back.

    Not np.zeros: the C library keeps freed blocks of some MiB, and NumPy asks for huge pages, of
    which the first tick's row would touch every one.
    """
    count = TICKS * capacity
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        except OSError:
            pass  # a kernel without huge pages
    return np.frombuffer(pages, dtype, count).reshape(TICKS, capacity)


@dataclass(slots=True)
class Table:
    """Columns by key and planes by metric. A column that is silent for the whole ring is free."""

    name: str
    keys: list[Key | None] = field(default_factory=list)
    column_of: dict[Key, int] = field(default_factory=dict)
    planes: dict[str, Plane] = field(default_factory=dict)
    last_tick: Ints = field(default_factory=lambda: np.zeros(CAPACITY_MIN, np.int64))
    free: list[int] = field(default_factory=list)
    capacity: int = CAPACITY_MIN


class Ring:
    """The tables and the ticks. `tick` is the newest complete one, `newest` the newest begun."""

    def __init__(self, tick_ms: int = TICK_MS, bytes_max: int = BYTES_MAX) -> None:
        self.tick_ms = tick_ms
        self.tick = -1
        self.newest = -1
        self.bytes_max = bytes_max
        self.touched = np.zeros(TICKS, np.bool_)  # slots that hold something
        self.tables = {name: Table(name) for name in TABLES}
        self.generation = 0  # grows when a column is freed: who kept its number must ask again
        self.added: list[tuple[str, int, Key]] = []  # columns given out since somebody looked
        self._units = Units(0, (), np.zeros(0, np.int32), np.zeros(0, np.int16))
        self._order = np.zeros(0, np.int64)
        self._units_stale = False

    # -- time --------------------------------------------------------------------------------------

    def tick_of(self, at_ms: int) -> int:
        return (at_ms + self.tick_ms // 2) // self.tick_ms

    def time_ms(self, tick: int) -> int:
        return tick * self.tick_ms

    def holds(self, tick: int) -> bool:
        return self.newest - TICKS < tick <= self.newest

    @property
    def oldest(self) -> int:
        """The first tick that the ring has room for now."""
        return max(0, self.newest - TICKS + 1)

    def begin(self, tick: int) -> None:
        """`tick` is the newest from now on; what leaves the ring is forgotten."""
        if tick <= self.newest:
            return
        first = max(self.newest + 1, tick - TICKS + 1)
        slots = np.unique(np.arange(first, tick + 1) % TICKS)
        slots = slots[self.touched[slots]]
        self.touched[slots] = False
        for table in self.tables.values():
            used = len(table.keys)
            for plane in table.planes.values():
                plane.array[slots, :used] = 0
        self.newest = tick
        self.tick = max(self.tick, tick - TICKS)

    @property
    def first(self) -> int:
        """The first tick that holds something; the newest where none does."""
        ticks = np.arange(self.oldest, self.newest + 1)
        held = ticks[self.touched[ticks % TICKS]]
        return int(held[0]) if len(held) else self.newest

    # -- columns -----------------------------------------------------------------------------------

    def column_for(self, table_name: str, key: Key) -> int:
        """The column of a subject, a new one if it has none.

        Raises:
            RingFull: there is no room for one more.
        """
        table = self.tables[table_name]
        known = table.column_of.get(key)
        if known is not None:
            return known
        if table.free:
            column = table.free.pop()
            table.keys[column] = key
        else:
            column = len(table.keys)
            if column >= COLUMNS_MAX[table_name]:
                raise RingFull(f"{column} {table_name}s are known already, the most there may be")
            if column >= table.capacity:
                self._grow(table)
            table.keys.append(key)
        self._put(table, column, key)
        self.added.append((table_name, column, key))
        return column

    def restore_column(self, table_name: str, column: int, key: Key) -> None:
        """Give a subject the column that it had before a restart."""
        table = self.tables[table_name]
        while column >= table.capacity:
            self._grow(table)
        while column >= len(table.keys):
            table.free.append(len(table.keys))
            table.keys.append(None)
        before = table.keys[column]
        if before is None:
            table.free.remove(column)
        else:
            table.column_of.pop(before, None)
        table.keys[column] = key
        self._put(table, column, key)
        table.last_tick[column] = 0  # until a tick says more: who is silent is swept

    def _put(self, table: Table, column: int, key: Key) -> None:
        table.column_of[key] = column
        table.last_tick[column] = max(self.newest, 0)
        self._units_stale |= table.name == "gpu"

    def _grow(self, table: Table) -> None:
        grown = table.capacity * 2
        more = sum(plane.array.nbytes for plane in table.planes.values())
        if self.laid_out_bytes + more > self.bytes_max:
            raise RingFull(f"the ring's {self.bytes_max >> 20} MiB are laid out")
        slots = np.flatnonzero(self.touched)
        for plane in table.planes.values():
            plane.grow(grown, slots)
        table.last_tick = np.concatenate((table.last_tick, np.zeros(table.capacity, np.int64)))
        table.capacity = grown

    @property
    def laid_out_bytes(self) -> int:
        tables = self.tables.values()
        return sum(plane.array.nbytes for table in tables for plane in table.planes.values())

    def plane_for(self, table_name: str, metric: Metric) -> Plane:
        """The plane of a metric, a new one if it has none.

        Raises:
            RingFull: there is no room for one more.
        """
        table = self.tables[table_name]
        name = VALUE if table_name == "report" else metric.name
        known = table.planes.get(name)
        if known is None:
            if self.laid_out_bytes + TICKS * table.capacity * 4 > self.bytes_max:
                raise RingFull(f"the ring's {self.bytes_max >> 20} MiB are laid out")
            known = table.planes[name] = Plane(metric, table.capacity)
        return known

    def sweep(self) -> None:
        """Free the columns that were silent for the whole ring."""
        for table in self.tables.values():
            used = len(table.keys)
            for column in np.flatnonzero(table.last_tick[:used] < self.oldest).tolist():
                key = table.keys[column]
                if key is None:
                    continue
                del table.column_of[key]
                table.keys[column] = None
                table.free.append(column)
                self.generation += 1
                self._units_stale |= table.name == "gpu"

    # -- reading -----------------------------------------------------------------------------------

    @property
    def units(self) -> Units:
        """All GPUs in their fixed order."""
        if self._units_stale:
            self._units_stale = False
            table = self.tables["gpu"]
            rows = sorted((key[0], int(key[1]), at) for key, at in list(table.column_of.items()))
            nodes = tuple(dict.fromkeys(node for node, _, _ in rows))
            row_of = {node: row for row, node in enumerate(nodes)}
            self._order = np.array([at for _, _, at in rows], np.int64)
            self._units = Units(
                self._units.version + 1,
                nodes,
                np.array([row_of[node] for node, _, _ in rows], np.int32),
                np.array([index for _, index, _ in rows], np.int16),
            )
        return self._units

    def column(self, metric: str, tick: int | None = None) -> Floats:
        """A GPU metric at a tick (the newest complete one), (U,) in the order of `units`."""
        units = self.units
        at = self.tick if tick is None else tick
        plane = self.tables["gpu"].planes.get(metric)
        if plane is None or at < 0 or not self.holds(at):
            return np.full(len(units.index), np.nan, np.float32)
        return plane.decoded(plane.array[at % TICKS][self._order])

    def latest(self, metric: str, tick: int | None = None) -> tuple[list[tuple[str, str]], Floats]:
        """Any metric at a tick: (node, key) of those of whom something is known, and the values."""
        at = self.tick if tick is None else tick
        table, named = self._where(metric, all_tables=False)[0]
        plane = table.planes.get(named)
        if plane is None or at < 0 or not self.holds(at):
            return [], np.zeros(0, np.float32)
        used = len(table.keys)
        values = plane.decoded(plane.array[at % TICKS, :used])
        name = metric.removeprefix(REPORT) if table.name == "report" else ""
        found = [
            (column, key)
            for column in np.flatnonzero(~np.isnan(values)).tolist()
            if (key := table.keys[column]) is not None and key[2] == name
        ]
        keys = [(key[0], key[1]) for _, key in found]
        return keys, values[[column for column, _ in found]]

    def report_names(self) -> list[str]:
        """The names that jobs report by, `report_…`."""
        return sorted({REPORT + key[2] for key in list(self.tables["report"].column_of)})

    def keys_of(self, metric: str, nodes: Iterable[str]) -> list[tuple[str, str]]:
        """(node, key) of all subjects on these nodes that the metric may be said of."""
        wanted = set(nodes)
        name = metric.removeprefix(REPORT) if metric.startswith(REPORT) else ""
        found = [
            (key[0], key[1])
            for table, _ in self._where(metric)
            for key in list(table.column_of)
            if key[0] in wanted and key[2] == name
        ]
        return sorted(found, key=lambda key: (key[0], _numbers(key[1])))

    def gather(self, metric: str, keys: Sequence[tuple[str, str]], ticks: Ints) -> Floats:
        """(T, K) values of these subjects at these ticks; NaN where nothing is known."""
        values = np.full((len(ticks), len(keys)), np.nan, np.float32)
        held = np.flatnonzero((ticks > self.newest - TICKS) & (ticks <= self.newest))
        slots = ticks[held] % TICKS
        name = metric.removeprefix(REPORT) if metric.startswith(REPORT) else ""
        for table, named in self._where(metric):
            plane = table.planes.get(named)
            if plane is None or not len(held):
                continue
            columns = [table.column_of.get((node, key, name), -1) for node, key in keys]
            at = np.array(columns, np.int64)
            here = np.flatnonzero(at >= 0)
            if len(here):
                stored = plane.array[np.ix_(slots, at[here])]
                values[np.ix_(held, here)] = plane.decoded(stored)
        return values

    def _where(self, metric: str, *, all_tables: bool = True) -> list[tuple[Table, str]]:
        if metric.startswith(REPORT):
            return [(self.tables["report"], VALUE)]
        known = metric_of(metric)
        subject = known.subject if known else Subject.GPU
        found = [(self.tables[subject.value], metric)]
        if subject is Subject.GPU and all_tables:
            found.append((self.tables["slice"], metric))
        return found


def table_of(subject: Subject, metric: str, key: str) -> str:
    """The table that a value belongs to."""
    if metric.startswith(REPORT):
        return "report"
    if subject is Subject.GPU and "/" in key:
        return "slice"
    return subject.value


def _numbers(key: str) -> tuple[tuple[int, int, str], ...]:
    """A key for sorting: 2 before 10."""
    return tuple(_pieces(key))


def _pieces(key: str) -> Iterator[tuple[int, int, str]]:
    for is_digits, letters in itertools.groupby(key, str.isdigit):
        piece = "".join(letters)
        yield (0, int(piece), "") if is_digits and piece.isascii() else (1, 0, piece)
