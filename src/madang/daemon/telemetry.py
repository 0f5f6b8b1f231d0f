"""Gives the store what embedded engines read, tells it who holds what, and lets its time pass.

In a thread of its own, so that no turn waits for a sensor or a disk: at each tick it asks the
engine for its readings and the running members for what they reported, and makes frames of both.
It never takes more than half of the time: where reading a fleet takes longer than a tick, ticks are
left out, and they are missing then.

A virtual fleet of speed 10 lives ten seconds in one, so that its ticks are a second long: as many
for each of its hours as elsewhere. No tick is shorter than that, however fast the fleet: a tick is
read, folded and shown, and a page can't show more than one a second either.
"""

import json
import logging
import math
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from madang.core.model import Allocation, AllocationState
from madang.core.snapshot import Snapshot
from madang.daemon.loop import TurnLoop
from madang.engines.base import Engine, EngineError, Sample
from madang.telemetry.frames import METRIC, Column, Frame, Subject
from madang.telemetry.metrics import REPORT
from madang.telemetry.ring import TICK_MS
from madang.telemetry.stays import Held
from madang.telemetry.store import Store

log = logging.getLogger("madang.daemon")

TICK_MS_MIN = 1_000
ADVANCE_S = 0.5  # how soon a tick is found complete
REPORTS_PER_TICK_MAX = 256  # members whose reports are read in a tick; the rest in the next
REPORT_BYTES_MAX = 256 << 10
REPORT_NAMES_MAX = 32  # of one member

Columns = dict[tuple[str, Subject], dict[str, float]]


def tick_ms_of(engine: Engine) -> int:
    """How long a tick is for this engine; see the module."""
    fleet = getattr(getattr(engine, "model", None), "fleet", None)
    speed = float(getattr(fleet, "speed", 1.0))
    return int(min(max(TICK_MS / max(speed, 1.0), TICK_MS_MIN), TICK_MS))


@dataclass(slots=True)
class _Sender:
    """One node's frames: they are of one boot, and numbered."""

    seq: int = 0


@dataclass(slots=True)
class _Reader:
    """How far a member's reports were read, and the last value of each name."""

    offset: int = 0
    values: dict[str, float] = field(default_factory=dict)


class Watch:
    """`open` and `close` it with the loop."""

    def __init__(self, loop: TurnLoop, store: Store) -> None:
        self._loop = loop
        self._store = store
        self._boot = secrets.randbits(63)
        self._senders: dict[str, _Sender] = {}
        self._readers: dict[tuple[str, int], _Reader] = {}
        self._next_reader = 0
        self._held_changed = threading.Event()
        self._held_changed.set()
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def open(self) -> None:
        """Begin. The loop is open already."""
        self._loop.watch(lambda seq: self._held_changed.set())
        self._thread.start()

    def close(self) -> None:
        """Stop, and keep what there is."""
        self._leaving.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        self._store.close()

    def _run(self) -> None:
        self._store.open(self._loop.clock())
        tick_ms = self._store.ring.tick_ms
        next_ms = self._loop.clock()
        while not self._leaving.wait(self._pause_s(next_ms)):
            try:
                now_ms = self._loop.clock()
                if self._held_changed.is_set():
                    self._held_changed.clear()
                    self._store.hold(held_of(self._loop.snapshot()))
                if now_ms >= next_ms:
                    began_s = time.monotonic()
                    self._read(now_ms)
                    took_ms = int((time.monotonic() - began_s) * 1000)
                    next_ms = (now_ms + max(tick_ms, 2 * took_ms)) // tick_ms * tick_ms
                self._store.advance(self._loop.clock())
            except Exception:
                log.exception("telemetry failed; it goes on with the next tick")

    def _pause_s(self, next_ms: int) -> float:
        left_s = max(0.0, (next_ms - self._loop.clock()) / 1000)
        return min(left_s, ADVANCE_S)

    def _read(self, now_ms: int) -> None:
        allocations = [
            one for one in self._loop.allocations() if one.state is AllocationState.RUNNING
        ]
        try:
            by_node = _columns_of(self._loop.engine.sample(), allocations)
        except EngineError:
            log.exception("the sensors cannot be read")
            return
        self._add_reports(by_node, allocations)
        frames = [
            self._frame(node, columns, now_ms) for node, columns in by_node.items() if columns
        ]
        for verdict in self._store.take(frames, now_ms):
            if not verdict.taken:
                log.warning("a frame of %s was refused: %s", verdict.node, verdict.reason)

    def _frame(self, node: str, columns: Columns, now_ms: int) -> Frame:
        sender = self._senders.setdefault(node, _Sender())
        sender.seq += 1
        made = tuple(
            Column(metric, subject, tuple(values), np.array(list(values.values()), np.float32))
            for (metric, subject), values in columns.items()
        )
        return Frame(node, self._boot, sender.seq, now_ms, self._store.ring.tick_ms, made)

    # -- reports -----------------------------------------------------------------------------------

    def _add_reports(self, by_node: dict[str, Columns], allocations: Sequence[Allocation]) -> None:
        """What members reported since they were looked at last, as values of this tick."""
        members = [
            (allocation.id, rank, seat.node)
            for allocation in allocations
            for rank, seat in enumerate(allocation.seats)
            if allocation.holds(rank)
        ]
        known = {(id, rank) for id, rank, _ in members}
        self._readers = {key: one for key, one in self._readers.items() if key in known}
        if not members:
            return
        first = self._next_reader % len(members)
        chosen = (members[first:] + members[:first])[:REPORTS_PER_TICK_MAX]
        self._next_reader = first + len(chosen)
        for id, rank, node in chosen:
            for name, value in self._new_reports(id, rank).items():
                columns = by_node.setdefault(node, {})
                columns.setdefault((REPORT + name, Subject.MEMBER), {})[f"{id}/{rank}"] = value

    def _new_reports(self, allocation: str, rank: int) -> dict[str, float]:
        reader = self._readers.setdefault((allocation, rank), _Reader())
        try:
            block = self._loop.engine.read_reports(
                allocation, rank, reader.offset, REPORT_BYTES_MAX
            )
        except EngineError:
            return {}
        reader.offset += len(block)
        return numbers_of(block)


def numbers_of(block: bytes) -> dict[str, float]:
    """The last number of each name in lines of reports; what is no number is left out."""
    last: dict[str, float] = {}
    for line in block.splitlines():
        try:
            stated = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(stated, dict):
            continue
        for name, value in stated.items():
            if name != "t_ms" and type(value) in (int, float) and METRIC.fullmatch(REPORT + name):
                last[name] = float(value) if abs(value) < 3e38 else math.nan
    return dict(list(last.items())[:REPORT_NAMES_MAX])


def held_of(snapshot: Snapshot) -> list[Held]:
    """Who holds what, for the store."""
    held = []
    for allocation in snapshot.allocations.values():
        live = snapshot.jobs.get(allocation.job)
        devices = [
            (seat.node, gpu)
            for rank, seat in enumerate(allocation.seats)
            if allocation.holds(rank)
            for gpu in seat.gpus
        ]
        node = snapshot.nodes.get(allocation.seats[0].node) if allocation.seats else None
        held.append(
            Held(
                allocation.id,
                allocation.job,
                allocation.project,
                live.job.category.value if live else "",
                node.node.group if node else "",
                tuple(dict.fromkeys(devices)),
                allocation.running_ms or allocation.bound_ms,
            )
        )
    return held


def _columns_of(sample: Sample, allocations: Iterable[Allocation]) -> dict[str, Columns]:
    """What sensors say, by node."""
    places = {
        (one.id, rank): seat.node for one in allocations for rank, seat in enumerate(one.seats)
    }
    by_node: dict[str, Columns] = {}
    for node in sample.nodes:
        columns = by_node.setdefault(node.node, {})
        _put(columns, Subject.NODE, "", _named("node", node, _NODE_FIELDS))
        for gpu in node.gpus:
            _put(columns, Subject.GPU, str(gpu.index), _named("gpu", gpu, _GPU_FIELDS))
    for member in sample.members:
        place = places.get((member.allocation, member.rank))
        if place is not None:
            key = f"{member.allocation}/{member.rank}"
            columns = by_node.setdefault(place, {})
            _put(columns, Subject.MEMBER, key, _named("member", member, _MEMBER_FIELDS))
    return by_node


_GPU_FIELDS = ("util_percent", "memory_used_mib", "power_w", "temperature_c")
_NODE_FIELDS = ("cpu_percent", "memory_used_mib")
_MEMBER_FIELDS = ("cpu_percent", "memory_mib")


def _named(subject: str, one: Any, fields: Sequence[str]) -> Mapping[str, float | None]:
    return {f"{subject}_{name}": getattr(one, name) for name in fields}


def _put(columns: Columns, subject: Subject, key: str, values: Mapping[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None:
            columns.setdefault((name, subject), {})[key] = float(value)
