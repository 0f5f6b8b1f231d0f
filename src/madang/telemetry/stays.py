"""Quantiles of every allocation since its start, folded from the ring.

Values are taken from the ring many ticks at once, when an allocation ends, when somebody asks, and
every FOLD_TICKS: no frame pays for them. Integer percents are counted per device, so that each
device of a gang can be compared with the others; the rest goes to one sketch per metric.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Subject
from madang.telemetry.metrics import REPORT, metric_of
from madang.telemetry.quantiles import BINS, Histogram, Sketch
from madang.telemetry.ring import TICKS, VALUE, Floats, Ints, Ring
from madang.telemetry.rollups import Late, Matrix, matrices_of

FOLD_TICKS = 30
LATE_AT_ONCE = 256  # frames
METRICS_MAX = 96  # of one allocation; a job that reports more names has the first of them

Device = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Held:
    """Who holds what now: `devices` are (node, GPU index) in rank order."""

    allocation: str
    job: str
    project: str
    category: str
    group: str
    devices: tuple[Device, ...]
    since_ms: int


@dataclass(slots=True)
class Stay:
    """What was folded of one allocation: `bins[metric]` (D, 101), `sketches[metric]`.

    `devices` (D) are all that it ever held, in rank order at first; `folded` is the last tick that
    is in the bins and sketches.
    """

    held: Held
    devices: list[Device]
    since: int
    folded: int
    bins: dict[str, NDArray[np.uint32]] = field(default_factory=dict)
    sketches: dict[str, Sketch] = field(default_factory=dict)
    sums: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # of bins, made when asked for

    def summed(self, metric: str) -> NDArray[np.int64]:
        """The bins of all devices (101,); not to be written to."""
        known = self.sums.get(metric)
        if known is None:
            bins = self.bins.get(metric)
            known = np.zeros(BINS, np.int64) if bins is None else bins.sum(axis=0, dtype=np.int64)
            self.sums[metric] = known
        return known

    def knows(self, metric: str) -> bool:
        return metric in self.bins or metric in self.sketches

    def has_room(self, metric: str) -> bool:
        return self.knows(metric) or len(self.bins) + len(self.sketches) < METRICS_MAX

    def sketch(self, metric: str) -> Sketch:
        known = self.sketches.get(metric)
        if known is None:
            seed = zlib.crc32(f"{self.held.allocation} {metric}".encode())
            known = self.sketches[metric] = Sketch(seed)
        return known

    def histogram(self, metric: str, device: int | None = None) -> Histogram:
        """Of one device, or of all."""
        bins = self.bins[metric]
        return Histogram(bins.sum(axis=0, dtype=np.int64) if device is None else bins[device])

    def add_bins(self, metric: str, counts: NDArray[np.int64]) -> None:
        self.sums.pop(metric, None)
        known = self.bins.get(metric)
        if known is None:
            known = self.bins[metric] = np.zeros((len(self.devices), BINS), np.uint32)
        known += counts.astype(np.uint32)

    def hold(self, held: Held) -> None:
        """Its devices from now on."""
        self.held = held
        new = [device for device in held.devices if device not in set(self.devices)]
        if new:
            self.devices = [*self.devices, *new]
            more = np.zeros((len(new), BINS), np.uint32)
            self.bins = {name: np.concatenate((old, more)) for name, old in self.bins.items()}

    def copied(self) -> "Stay":
        """One that may be folded further beside this one."""
        made = Stay(self.held, list(self.devices), self.since, self.folded)
        made.bins = {name: bins.copy() for name, bins in self.bins.items()}
        made.sketches = {name: sketch.copied() for name, sketch in self.sketches.items()}
        return made


class Stays:
    """All allocations that are live. Called under the store's lock."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.live: dict[str, Stay] = {}
        self.by_device: dict[Device, list[Stay]] = {}
        self.is_restored = False
        self._late: list[Late] = []

    def restore(self, stays: Iterable[Stay]) -> None:
        """Those that were live before a restart; the next `hold` says which still are."""
        self.live = {stay.held.allocation: stay for stay in stays}
        self.is_restored = True

    def hold(self, held: Sequence[Held]) -> list[Stay]:
        """Take in who holds what; those that have ended, folded to their end."""
        if self._late:
            self._drain()
        now = {one.allocation: one for one in held}
        gone = [stay for id, stay in self.live.items() if id not in now]
        if self.is_restored:
            self.is_restored = False  # when these ended nobody knows: they stay as they were kept
        else:
            self.fold(gone)
        for stay in gone:
            del self.live[stay.held.allocation]
        for one in held:
            stay_now = self.live.get(one.allocation)
            if stay_now is None:
                since = -(-one.since_ms // self.ring.tick_ms)
                # What lies before the ring can't be folded any more.
                folded = max(since, self.ring.oldest) - 1
                devices = list(dict.fromkeys(one.devices))
                self.live[one.allocation] = Stay(one, devices, since, folded)
            elif stay_now.held is not one and stay_now.held != one:
                if stay_now.held.devices != one.devices:
                    self.fold([stay_now])
                stay_now.hold(one)
        self.by_device = {}
        for stay in self.live.values():
            for device in stay.held.devices:
                self.by_device.setdefault(device, []).append(stay)
        return gone

    def fold(self, stays: Iterable[Stay]) -> None:
        """Take in all complete ticks that are not in yet."""
        if self._late:
            self._drain()
        groups: dict[int, list[Stay]] = {}
        for stay in stays:
            stay.folded = max(stay.folded, self.ring.oldest - 1)
            if stay.folded < self.ring.tick:
                groups.setdefault(stay.folded, []).append(stay)
        for folded, group in groups.items():
            ticks = np.arange(folded + 1, self.ring.tick + 1)
            self._fold_devices(group, ticks)
            self._fold_members(group, ticks)
            for stay in group:
                stay.folded = self.ring.tick

    def fold_older_than(self, tick: int) -> None:
        """Fold those of whom a tick before this one is not in yet."""
        behind = [stay for stay in self.live.values() if stay.folded < tick]
        if behind:
            self.fold(behind)

    def _fold_devices(self, stays: Sequence[Stay], ticks: Ints) -> None:
        table = self.ring.tables["gpu"]
        if not table.planes:
            return
        columns = []
        for stay in stays:
            held = set(stay.held.devices)
            for device in stay.devices:
                key = (device[0], str(device[1]), "")
                columns.append(table.column_of.get(key, -1) if device in held else -1)
        if not columns:
            return
        at = np.array(columns, np.int64)
        ends = np.cumsum([len(stay.devices) for stay in stays])
        slots = ticks % TICKS
        for name, plane in table.planes.items():
            stored = plane.array[np.ix_(slots, np.maximum(at, 0))]
            stored[:, at < 0] = 0
            if not stored.any():
                continue
            if plane.metric.percent:
                self._fold_percents(stays, name, stored, ends)
            else:
                values = plane.decoded(stored)
                for stay, end in zip(stays, ends, strict=True):
                    _add(stay, name, values[:, end - len(stay.devices) : end])

    def _fold_percents(
        self, stays: Sequence[Stay], name: str, stored: NDArray[np.uint8], ends: NDArray[np.intp]
    ) -> None:
        """`stored` (T, D) are percents + 1; 0 is missing, and falls in a bin of its own."""
        width = BINS + 1
        devices = stored.shape[1]
        flat = np.arange(devices, dtype=np.int64) * width + stored
        counts = np.bincount(flat.ravel(), minlength=devices * width).reshape(devices, width)[:, 1:]
        for stay, end in zip(stays, ends, strict=True):
            own = counts[end - len(stay.devices) : end]
            if (stay.has_room(name) and own.any()) or name in stay.bins:
                stay.add_bins(name, own)

    def _fold_members(self, stays: Sequence[Stay], ticks: Ints) -> None:
        by_id = {stay.held.allocation: stay for stay in stays}
        slots = ticks % TICKS
        for table_name in ("member", "report"):
            table = self.ring.tables[table_name]
            groups: dict[tuple[str, str], list[int]] = {}
            for (_, key, report), column in table.column_of.items():
                allocation = key.rpartition("/")[0]
                if allocation in by_id:
                    groups.setdefault((allocation, report), []).append(column)
            for (allocation, report), columns in groups.items():
                for name, plane in table.planes.items():
                    values = plane.decoded(plane.array[np.ix_(slots, np.array(columns))])
                    named = REPORT + report if name == VALUE else name
                    _add(by_id[allocation], named, values)

    # -- what came too late for its tick's fold ----------------------------------------------------

    def add_late(self, late: Late) -> None:
        """A frame whose tick somebody may have folded already. Many are added at once, and all
        before the next fold.
        """
        self._late.append(late)
        if len(self._late) >= LATE_AT_ONCE:
            self._drain()

    def _drain(self) -> None:
        late, self._late = self._late, []
        for name, rows in matrices_of(late).items():
            if name in ("gpu", "member", "report"):
                self._add_rows(name, rows)

    def _add_rows(self, name: str, rows: Matrix) -> None:
        table = self.ring.tables[name]
        found: dict[tuple[str, str], tuple[Stay, list[int], list[int]]] = {}
        for row, (column, tick) in enumerate(
            zip(rows.columns.tolist(), rows.ticks.tolist(), strict=True)
        ):
            key = table.keys[column]
            for stay in self._stays_of(name, key) if key is not None else ():
                if key is not None and stay.since <= tick <= stay.folded:
                    whose = (stay.held.allocation, key[2])
                    _, chosen, devices = found.setdefault(whose, (stay, [], []))
                    chosen.append(row)
                    is_gpu = name == "gpu"
                    devices.append(stay.devices.index((key[0], int(key[1]))) if is_gpu else 0)
        for (_, report), (stay, chosen, devices) in found.items():
            for metric, values in rows.values.items():
                named = REPORT + report if metric == VALUE else metric
                _add_some(stay, named, values[chosen], np.array(devices))

    def _stays_of(self, table: str, key: tuple[str, str, str]) -> list[Stay]:
        if table == "gpu":
            return self.by_device.get((key[0], int(key[1])), [])
        stay = self.live.get(key[1].rpartition("/")[0])
        return [] if stay is None else [stay]


def _add_some(stay: Stay, name: str, values: Floats, devices: NDArray[np.int64]) -> None:
    """Values (R,) of devices (R,) of the stay."""
    metric = metric_of(name)
    known = ~np.isnan(values)
    if metric is None or not known.any() or not stay.has_room(name):
        return
    if metric.percent and metric.subject is Subject.GPU:
        bins = np.zeros((len(stay.devices), BINS), np.int64)
        np.add.at(bins, (devices[known], np.rint(values[known]).astype(np.int64)), 1)
        stay.add_bins(name, bins)
    else:
        stay.sketch(name).add(values[known])


def _add(stay: Stay, name: str, values: Floats) -> None:
    if stay.has_room(name) and (name in stay.sketches or not np.isnan(values).all()):
        stay.sketch(name).add(values.ravel())
