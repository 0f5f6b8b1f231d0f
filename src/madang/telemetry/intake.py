"""Frames in: judged, and put in their places. Knows no lock, no clock and no file.

What a frame leaves behind besides values in the ring: marks and counts of its node, signals, the
ticks that were touched, and itself where it came after its minute had been written to history.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Frame, Signal, Subject
from madang.telemetry.plans import Plan, block_of, clean, plan_of
from madang.telemetry.reporters import Refused, Reporter
from madang.telemetry.ring import Ring
from madang.telemetry.rollups import Late
from madang.telemetry.signals import SignalRecord
from madang.telemetry.stays import Stay, Stays
from madang.telemetry.taps import Taken

NODES_MAX = 32_768
PLANS_MAX = 65_536
SIGNALS_MAX = 20_000  # kept in memory
SIGNALS_PER_NODE_MAX = 200  # a minute; a card in agony says the same a thousand times


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


@dataclass(slots=True)
class Counts:
    """Since the start. `samples` are values that had a place."""

    taken: int = 0
    refused: int = 0
    samples: int = 0
    marks: int = 0


@dataclass(slots=True)
class _Minute:
    begin_ms: int = 0
    count: int = 0


class Intake:
    """`dirty` are ticks touched, `late` frames of minutes before `written_ms`, `new_signals` those
    nobody has written yet; who keeps them empties them.
    """

    def __init__(self, ring: Ring, stays: Stays) -> None:
        self.ring = ring
        self.stays = stays
        self.counts = Counts()
        self.reporters: dict[str, Reporter] = {}
        self.signals: deque[SignalRecord] = deque(maxlen=SIGNALS_MAX)
        self.new_signals: list[SignalRecord] = []
        self.dirty: set[int] = set()
        self.late: list[Late] = []
        self.written_ms = 0
        self.heard: dict[int, int] = {}  # tick -> nodes that told of it
        self.tapped: list[Taken] | None = None  # a list: somebody wants what is taken
        self._plans: dict[object, Plan] = {}
        self._signal_minutes: dict[str, _Minute] = {}

    def take(self, batch: Sequence[Frame], now_ms: int, sent_ms: int | None) -> list[Verdict]:
        """Take in frames, oldest first."""
        counts: dict[str, int] = {}
        for frame in batch:
            counts[frame.node] = counts.get(frame.node, 0) + 1
        offset_ms = None if sent_ms is None else now_ms - sent_ms
        return [
            self._take(frame, now_ms, offset_ms, alone=counts[frame.node] == 1) for frame in batch
        ]

    def _take(self, frame: Frame, now_ms: int, offset_ms: int | None, *, alone: bool) -> Verdict:
        reporter = self.reporters.get(frame.node)
        if reporter is None:
            if len(self.reporters) >= NODES_MAX:
                self.counts.refused += 1
                reason = f"{NODES_MAX} nodes report already, the most there may be"
                return Verdict(frame.node, frame.boot, frame.seq, False, reason)
            reporter = self.reporters[frame.node] = Reporter(frame.node)
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
        if self.tapped is not None:
            self.tapped.append(Taken(frame, at_ms, block))
        self.counts.samples += plan.count
        tick = reporter.tick_for(frame, at_ms, self.ring.tick_ms)
        is_first = reporter.is_first_of(tick)
        if tick > self.ring.newest:
            self.ring.begin(tick)
        if self.ring.holds(tick):
            self.dirty.add(tick)
            if is_first:
                plan.write(self.ring, tick, block)
                self.heard[tick] = self.heard.get(tick, 0) + 1
            else:
                plan.combine(self.ring, tick, block)
        if tick * self.ring.tick_ms < self.written_ms or not self.ring.holds(tick):
            self.late.append(Late(plan, tick, block))
        if is_first and tick <= self.ring.tick:
            self.stays.add_late(Late(plan, tick, block))
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
            record = self._record(frame.node, signal, offset_ms)
            self.signals.append(record)
            self.new_signals.append(record)
        if len(frame.signals) <= room:
            return []
        text = f"{len(frame.signals) - room} signals beyond {SIGNALS_PER_NODE_MAX} a minute"
        reporter.mark("signals_dropped", text, now_ms, len(frame.signals) - room)
        return [f"signals_dropped: {text}"]

    def _record(self, node: str, signal: Signal, offset_ms: int) -> SignalRecord:
        held: list[Stay] = []
        if signal.subject is Subject.GPU and signal.key.split("/")[0].isdecimal():
            held = self.stays.by_device.get((node, int(signal.key.split("/")[0])), [])
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
