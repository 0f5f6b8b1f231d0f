"""The store: frames in, everything else out. The only door of this room.

Promises: a frame is taken once, in parts if parts of it are wrong, and its verdict says which; what
was taken is in the ring at once, in quantiles and history soon, and outlives a kill. One lock; who
reads holds it for some milliseconds at most, except for queries of history, which hold none.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Frame, Signal, Subject
from madang.telemetry.plans import Plan, block_of, clean, plan_of
from madang.telemetry.quantiles import Quantiles
from madang.telemetry.queries import Points, Query, Series, stepped
from madang.telemetry.reporters import Refused, Reporter
from madang.telemetry.ring import TICK_MS, Floats, Ring
from madang.telemetry.stays import FOLD_TICKS, Held, Stay, Stays

log = logging.getLogger("madang.telemetry")

NODES_MAX = 32_768
PLANS_MAX = 65_536
SIGNALS_MAX = 20_000  # kept in memory
SIGNALS_PER_NODE_MAX = 200  # a minute; a card in agony says the same a thousand times
STAYS_ENDED_MAX = 2_000  # whose quantiles are at hand at once
LAG_MS = 1_000  # what is said of a tick is here by then, mostly
SILENT_TICKS = 6  # a node that is silent for longer is not waited for

Watcher = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a frame. `quiet`: refused, but no fault of anyone (it had come before)."""

    node: str
    boot: int
    seq: int
    taken: bool
    reason: str = ""
    marks: tuple[str, ...] = ()
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class SignalRecord:
    """A signal, where it was heard, and who held the device then ("" if nobody)."""

    node: str
    at_ms: int
    kind: str
    code: int
    subject: Subject
    key: str
    text: str
    job: str = ""
    allocation: str = ""


@dataclass(frozen=True, slots=True)
class MarkView:
    """What was wrong with a node's frames, how often, when last, and in which words then."""

    kind: str
    count: int
    at_ms: int
    text: str


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """How a node reports. `dropped` are frames that its agent lost, as it says itself."""

    node: str
    seen_ms: int
    at_ms: int
    taken: int
    refused: int
    dropped: int
    clock_offset_ms: int
    marks: tuple[MarkView, ...]


@dataclass(slots=True)
class _Counts:
    taken: int = 0
    refused: int = 0
    samples: int = 0
    marks: int = 0


@dataclass(slots=True)
class _Minute:
    begin_ms: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """`tick_ms` is the length of a tick; a fleet of `speed` 10 has ticks of a second."""

    tick_ms: int = TICK_MS


@dataclass(slots=True)
class _Late:
    """A frame that came after its tick was folded or written."""

    plan: Plan
    tick: int
    block: Floats = field(repr=False)


class Store:
    """See the module. `path` is the directory of its own in the state directory."""

    def __init__(self, path: Path, settings: Settings = Settings()) -> None:
        self.path = path
        self.settings = settings
        self.ring = Ring(settings.tick_ms)
        self.counts = _Counts()
        self.watchers: list[Watcher] = []
        self._lock = threading.RLock()
        self._plans: dict[object, Plan] = {}
        self._reporters: dict[str, Reporter] = {}
        self._stays = Stays(self.ring)
        self._ended: dict[str, Stay] = {}
        self._signals: deque[SignalRecord] = deque(maxlen=SIGNALS_MAX)
        self._signal_minutes: dict[str, _Minute] = {}
        self._heard: dict[int, int] = {}  # tick -> nodes that told of it
        self._folded_tick = -1

    def open(self, now_ms: int) -> None:
        """Take up what a run before has left."""

    def close(self) -> None:
        """Keep what there is."""

    # -- in ----------------------------------------------------------------------------------------

    def take(
        self, frames: Iterable[Frame], now_ms: int, sent_ms: int | None = None
    ) -> list[Verdict]:
        """Take in frames, oldest first. `sent_ms` is the sender's clock as it sent them."""
        batch = list(frames)
        counts: dict[str, int] = {}
        for frame in batch:
            counts[frame.node] = counts.get(frame.node, 0) + 1
        offset_ms = None if sent_ms is None else now_ms - sent_ms
        with self._lock:
            return [
                self._take(frame, now_ms, offset_ms, alone=counts[frame.node] == 1)
                for frame in batch
            ]

    def receive(
        self, body: bytes, frames: Iterable[Frame], now_ms: int, sent_ms: int | None
    ) -> list[Verdict]:
        """Take in the frames of one body of HTTP."""
        return self.take(frames, now_ms, sent_ms)

    def _take(self, frame: Frame, now_ms: int, offset_ms: int | None, *, alone: bool) -> Verdict:
        reporter = self._reporters.get(frame.node)
        if reporter is None:
            if len(self._reporters) >= NODES_MAX:
                self.counts.refused += 1
                reason = f"{NODES_MAX} nodes report already, the most there may be"
                return Verdict(frame.node, frame.boot, frame.seq, False, reason)
            reporter = self._reporters[frame.node] = Reporter(frame.node)
        reporter.seen_ms = now_ms
        try:
            at_ms = reporter.admit(frame, now_ms, offset_ms, alone=alone)
        except Refused as refused:
            if not refused.quiet:
                reporter.refused += 1
                self.counts.refused += 1
            return Verdict(
                frame.node, frame.boot, frame.seq, False, refused.reason, quiet=refused.quiet
            )
        reporter.taken += 1
        reporter.dropped += frame.dropped
        self.counts.taken += 1
        marks = self._keep(frame, reporter, at_ms, now_ms)
        if frame.signals:
            marks += self._note_signals(frame, reporter, at_ms - frame.at_ms, now_ms)
        self.counts.marks += len(marks)
        return Verdict(frame.node, frame.boot, frame.seq, True, marks=tuple(marks))

    def _keep(self, frame: Frame, reporter: Reporter, at_ms: int, now_ms: int) -> list[str]:
        """Put the values in their places; what was wrong with some."""
        plan = self._plan(frame)
        block, bad = clean(plan, block_of(frame))
        marks = [f"{kind}: {text}" for kind, text in plan.marks]
        for kind, text in plan.marks:
            reporter.mark(kind, text, now_ms)
        if bad.any():
            text = _bad_text(frame, bad)
            reporter.mark("out_of_range", text, now_ms, int(bad.sum()))
            marks.append(f"out_of_range: {text}")
        self.counts.samples += plan.count
        tick = reporter.tick_for(frame, at_ms, self.ring.tick_ms)
        is_first = reporter.is_first_of(tick)
        if tick > self.ring.newest:
            self.ring.begin(tick)
        if self.ring.holds(tick):
            if is_first:
                plan.write(self.ring, tick, block)
                self._heard[tick] = self._heard.get(tick, 0) + 1
            else:
                plan.combine(self.ring, tick, block)
        return marks

    def _plan(self, frame: Frame) -> Plan:
        key: object = frame.shape or (
            frame.node,
            tuple((one.metric, one.subject, one.keys) for one in frame.columns),
        )
        plan = self._plans.get(key)
        if plan is None or plan.generation != self.ring.generation:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            plan = self._plans[key] = plan_of(frame, self.ring)
        return plan

    def _note_signals(
        self, frame: Frame, reporter: Reporter, offset_ms: int, now_ms: int
    ) -> list[str]:
        minute = self._signal_minutes.setdefault(frame.node, _Minute())
        if now_ms - minute.begin_ms >= 60_000:
            minute.begin_ms, minute.count = now_ms, 0
        room = max(0, SIGNALS_PER_NODE_MAX - minute.count)
        minute.count += len(frame.signals)
        for signal in frame.signals[:room]:
            self._signals.append(self._record(frame.node, signal, offset_ms))
        if len(frame.signals) <= room:
            return []
        text = f"{len(frame.signals) - room} signals beyond {SIGNALS_PER_NODE_MAX} a minute"
        reporter.mark("signals_dropped", text, now_ms, len(frame.signals) - room)
        return [f"signals_dropped: {text}"]

    def _record(self, node: str, signal: Signal, offset_ms: int) -> SignalRecord:
        held: list[Stay] = []
        if signal.subject is Subject.GPU and signal.key.split("/")[0].isdecimal():
            held = self._stays.by_device.get((node, int(signal.key.split("/")[0])), [])
        owner = held[0].held if held else None
        return SignalRecord(
            node,
            signal.at_ms + offset_ms,
            signal.kind,
            signal.code,
            signal.subject,
            signal.key,
            signal.text,
            owner.job if owner else "",
            owner.allocation if owner else "",
        )

    # -- time --------------------------------------------------------------------------------------

    def advance(self, now_ms: int) -> None:
        """Complete the ticks that are due, and do what is due then. Called several times a tick."""
        done: list[int] = []
        with self._lock:
            due = self._due_tick(now_ms)
            if due > self.ring.tick:
                first = max(self.ring.tick + 1, due - FOLD_TICKS)
                self.ring.begin(due)
                self.ring.tick = due
                done = list(range(first, due + 1))
                self._heard = {tick: n for tick, n in self._heard.items() if tick > due}
                if due - self._folded_tick >= FOLD_TICKS:
                    self._folded_tick = due
                    self._stays.fold(self._stays.live.values())
                    self.ring.sweep()
        for tick in done:
            for watcher in list(self.watchers):
                try:
                    watcher(tick)
                except Exception:
                    log.exception("a watcher of ticks failed")

    def _due_tick(self, now_ms: int) -> int:
        """The newest tick that is over, or that everyone has told of."""
        tick_ms = self.ring.tick_ms
        lag_ms = min(LAG_MS, tick_ms // 4)
        due = (now_ms - lag_ms - tick_ms // 2) // tick_ms
        after = due + 1
        if self.ring.time_ms(after) <= now_ms and after <= self.ring.newest:
            since_ms = now_ms - SILENT_TICKS * tick_ms
            alive = sum(one.seen_ms >= since_ms for one in self._reporters.values())
            if self._heard.get(after, 0) >= alive > 0:
                return after
        return due

    def hold(self, held: Sequence[Held]) -> None:
        """Who holds what now."""
        with self._lock:
            for stay in self._stays.hold(held):
                self._ended[stay.held.allocation] = stay
                while len(self._ended) > STAYS_ENDED_MAX:
                    del self._ended[next(iter(self._ended))]

    # -- out ---------------------------------------------------------------------------------------

    def held(self, allocation: str) -> Held | None:
        """Who and where, while it is live or not long ended."""
        with self._lock:
            stay = self._stays.live.get(allocation) or self._ended.get(allocation)
            return stay.held if stay else None

    def query(self, query: Query) -> Series:
        """See queries.py.

        Raises:
            BadQuery: it asks for nothing, or for too much at once.
        """
        query.check()
        return stepped(query, [self._ring_points(query)])

    def _ring_points(self, query: Query) -> Points:
        with self._lock:
            first = max(self.ring.oldest, -(-query.from_ms // self.ring.tick_ms))
            last = min(self.ring.newest, (query.to_ms - 1) // self.ring.tick_ms)
            ticks = np.arange(first, last + 1)
            values = self.ring.gather(query.metric, query.keys, ticks)
        return _points(values, ticks * self.ring.tick_ms)

    def quantiles(self, allocation: str, metric: str) -> Quantiles | None:
        """Of an allocation since its start, to the newest complete tick; None if nothing is known.

        What is returned does not change any more.
        """
        with self._lock:
            stay = self._folded_stay(allocation)
            if stay is None:
                return None
            if metric in stay.bins:
                return stay.histogram(metric)
            sketch = stay.sketches.get(metric)
            return sketch.copied() if sketch is not None else None

    def device_quantiles(
        self, allocation: str, metric: str
    ) -> list[tuple[tuple[str, int], Quantiles]]:
        """Per device in rank order; empty for what is no integer percent."""
        with self._lock:
            stay = self._folded_stay(allocation)
            if stay is None or metric not in stay.bins:
                return []
            return [
                (device, stay.histogram(metric, row)) for row, device in enumerate(stay.devices)
            ]

    def known_metrics(self, allocation: str) -> list[str]:
        """The metrics of which quantiles of the allocation are known."""
        with self._lock:
            stay = self._folded_stay(allocation)
            return sorted({*stay.bins, *stay.sketches}) if stay else []

    def _folded_stay(self, allocation: str) -> Stay | None:
        stay = self._stays.live.get(allocation)
        if stay is not None:
            self._stays.fold([stay])
            return stay
        return self._ended.get(allocation)

    def signals(
        self, from_ms: int, to_ms: int, node: str | None = None, job: str | None = None
    ) -> list[SignalRecord]:
        """What happened from `from_ms` (within) to `to_ms` (without), oldest first."""
        with self._lock:
            found = [
                one
                for one in self._signals
                if from_ms <= one.at_ms < to_ms
                and (node is None or one.node == node)
                and (job is None or one.job == job)
            ]
        return sorted(found, key=lambda one: one.at_ms)

    def health(self) -> list[NodeHealth]:
        """How each node reports, by name."""
        with self._lock:
            return [_health(one) for _, one in sorted(self._reporters.items())]


def _bad_text(frame: Frame, bad: NDArray[np.bool_]) -> str:
    """The first value that was dropped, and how many more."""
    at = int(np.flatnonzero(bad)[0])
    more = f" and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""
    for column in frame.columns:
        if at < len(column.keys):
            value = float(column.values[at])
            return f"{column.metric} of {column.subject} {column.keys[at]!r} is {value:g}{more}"
        at -= len(column.keys)
    raise AssertionError(f"no value {at} in {frame}")


def _points(values: Floats, times_ms: NDArray[np.int64]) -> Points:
    """A matrix (T, K) as points."""
    rows, keys = np.nonzero(~np.isnan(values))
    found = values[rows, keys]
    return Points(
        keys.astype(np.int64), times_ms[rows], found, found, found, np.ones(len(found), np.int64)
    )


def _health(one: Reporter) -> NodeHealth:
    boot = one.boots.get(one.current)
    return NodeHealth(
        one.node,
        one.seen_ms,
        one.at_ms,
        one.taken,
        one.refused,
        one.dropped,
        boot.offset_ms if boot else 0,
        tuple(
            MarkView(kind, mark.count, mark.at_ms, mark.text) for kind, mark in one.marks.items()
        ),
    )


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000
