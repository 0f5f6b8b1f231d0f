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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from madang.core.model import Allocation, AllocationState, Seat
from madang.core.snapshot import Snapshot
from madang.daemon.loop import TurnLoop
from madang.daemon.state_dir import StateDir, StateDirError
from madang.engines.base import Engine, EngineError, Readings
from madang.telemetry.frames import (
    COLUMNS_MAX,
    METRIC,
    SIGNALS_MAX,
    TEXT_CHARS_MAX,
    Column,
    Frame,
    Signal,
    Subject,
)
from madang.telemetry.history import Retention
from madang.telemetry.metrics import REPORT
from madang.telemetry.ring import TICK_MS
from madang.telemetry.stays import Held
from madang.telemetry.store import Settings, Store

if TYPE_CHECKING:
    from madang.agent.gather import Gather

log = logging.getLogger("madang.daemon")

KEEP_FILE = "telemetry.toml"  # in the state directory
TICK_MS_MIN = 1_000
ADVANCE_S = 0.5  # how soon a tick is found complete
KEEP_PAUSE_S = 1.0
REPORTS_PER_TICK_MAX = 256  # members whose reports are read in a tick; the rest in the next
REPORT_BYTES_MAX = 256 << 10
REPORT_NAMES_MAX = 32  # of one member

MASK = "member_gpu_mask"

# (allocation, rank) → its node and the devices that it was given there
Given = Mapping[tuple[str, int], tuple[str, tuple[int, ...]]]
NOTHING_GIVEN: Given = MappingProxyType({})
# Allocation → what was made of it, and of what: (allocation, category, group, held)
Before = dict[str, tuple[Allocation, str, str, Held]]

Reports = dict[str, dict[str, float]]  # name -> member -> value


def tick_ms_of(engine: Engine) -> int:
    """How long a tick is for this engine; see the module."""
    fleet = getattr(getattr(engine, "model", None), "fleet", None)
    speed = float(getattr(fleet, "speed", 1.0))
    return int(min(max(TICK_MS / max(speed, 1.0), TICK_MS_MIN), TICK_MS))


def store_settings(given: str, state_dir: StateDir, engine: Engine) -> Settings:
    """What --telemetry says, which is kept for the next start; else what was kept.

    Raises:
        StateDirError: the file cannot be read or used.
    """
    path = Path(given) if given else state_dir.path / KEEP_FILE
    if not given and not path.exists():
        return Settings(tick_ms_of(engine))
    from madang.wire.telemetry import TelemetryError, read_telemetry

    try:
        text = path.read_text(encoding="utf-8")
        stated = read_telemetry(text)
    except (OSError, UnicodeDecodeError) as failure:
        raise StateDirError(f"{path} cannot be read: {failure}") from failure
    except TelemetryError as failure:
        raise StateDirError(f"{path} does not say how much telemetry is kept:\n{failure}") from None
    if given:
        state_dir.write_text(KEEP_FILE, text)
    keep = stated.keep
    retention = Retention(keep.minutes, keep.hours, keep.ended, keep.signals, keep.size_max)
    return Settings(tick_ms_of(engine), retention, stated.ring.size_max)


class Watch:
    """`open` and `close` it with the loop. `open_sensors` is for an engine that runs members on
    this machine: who reads the machine itself.
    """

    def __init__(
        self,
        loop: TurnLoop,
        store: Store,
        open_sensors: "Callable[[], Gather] | None" = None,
    ) -> None:
        self._loop = loop
        self._store = store
        self._boot = secrets.randbits(63)
        self._open_sensors = open_sensors
        self._gather: Gather | None = None
        self._seqs: dict[str, int] = {}
        self._refused: set[str] = set()  # nodes whose refusal was logged
        self._offsets: dict[tuple[str, int], int] = {}  # how far members' reports were read
        self._next_reader = 0
        self._held_changed = threading.Event()
        self._held_changed.set()
        self._given: Given = {}
        self._before: Before = {}
        self._leaving = threading.Event()
        self._threads = (
            threading.Thread(target=self._run, name="watch", daemon=True),
            threading.Thread(target=self._keep, name="keeping", daemon=True),
        )

    def open(self) -> None:
        """Begin. The loop is open already."""
        self._loop.watch(lambda seq: self._held_changed.set())
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop, and keep what there is."""
        self._leaving.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=30)
        if self._gather is not None:
            self._gather.close()
        self._store.close()

    def _run(self) -> None:
        self._store.open(self._loop.clock())
        if self._open_sensors is not None:
            self._gather = self._open_sensors()
        tick_ms = self._store.ring.tick_ms
        next_ms = self._loop.clock()
        while not self._leaving.wait(self._pause_s(next_ms)):
            try:
                now_ms = self._loop.clock()
                if self._held_changed.is_set():
                    self._held_changed.clear()
                    self._store.hold(held_of(self._loop.snapshot(), self._given, self._before))
                if now_ms >= next_ms:
                    began_s = time.monotonic()
                    self._read(now_ms)
                    took_ms = int((time.monotonic() - began_s) * 1000)
                    next_ms = (now_ms + max(tick_ms, 2 * took_ms)) // tick_ms * tick_ms
                self._store.advance(self._loop.clock())
            except Exception:
                log.exception("telemetry failed; it goes on with the next tick")

    def _keep(self) -> None:
        """Files are written in a thread of their own: a slow disk delays no tick."""
        while not self._leaving.wait(KEEP_PAUSE_S):
            self._store.keep(self._loop.clock())

    def _pause_s(self, next_ms: int) -> float:
        left_s = max(0.0, (next_ms - self._loop.clock()) / 1000)
        return min(left_s, ADVANCE_S)

    def _look_who_was_given_what(self) -> None:
        """Under a device plugin kubelet chose the devices; agents tell which."""
        members = getattr(self._loop.engine, "members_of_pods", None)
        if members is None:
            return
        with self._store.looking():
            keys, masks = self._store.ring.latest(MASK)
        given = given_of(keys, masks.tolist(), members()) if keys else {}
        if given != self._given:
            self._given = given
            self._held_changed.set()

    def _read(self, now_ms: int) -> None:
        self._look_who_was_given_what()
        allocations = [
            one for one in self._loop.allocations() if one.state is AllocationState.RUNNING
        ]
        try:
            readings = self._loop.engine.readings()
        except EngineError:
            log.exception("the sensors cannot be read")
            return
        reports = self._reports(allocations)
        frames = [self._frame(one, reports.pop(one.node, {}), now_ms) for one in readings]
        # Members report also where the engine has no sensor: their node may have an agent, whose
        # frames these are not.
        for verdict in self._store.take(frames, now_ms):
            if not verdict.taken and verdict.node not in self._refused:
                self._refused.add(verdict.node)
                log.warning("a frame of %s was refused: %s", verdict.node, verdict.reason)

    def _frame(self, one: Readings, reports: Reports, now_ms: int) -> Frame:
        columns = [Column(c.metric, Subject(c.subject), c.keys, c.values) for c in one.columns]
        signals = [
            Signal(s.at_ms, s.kind, s.code, Subject(s.subject), s.key, s.text[:TEXT_CHARS_MAX])
            for s in one.signals
        ]
        if self._gather is not None:
            here = self._gather.read(now_ms, self._store.ring.tick_ms / 2000)
            columns += here.columns
            signals += here.signals
        columns += [
            Column(
                REPORT + name,
                Subject.MEMBER,
                tuple(values),
                np.array(list(values.values()), np.float32),
            )
            for name, values in reports.items()
        ]
        self._seqs[one.node] = seq = self._seqs.get(one.node, 0) + 1
        tick_ms = self._store.ring.tick_ms
        columns_here = tuple(columns[:COLUMNS_MAX])
        return Frame(
            one.node,
            self._boot,
            seq,
            now_ms,
            tick_ms,
            columns_here,
            tuple(signals[:SIGNALS_MAX]),
        )

    # -- reports -----------------------------------------------------------------------------------

    def _reports(self, allocations: Sequence[Allocation]) -> dict[str, Reports]:
        """What members reported since they were looked at last: by node, name and member."""
        members = [
            (allocation.id, rank, seat.node)
            for allocation in allocations
            for rank, seat in enumerate(allocation.seats)
            if allocation.holds(rank)
        ]
        known = {(id, rank) for id, rank, _ in members}
        self._offsets = {key: at for key, at in self._offsets.items() if key in known}
        if not members:
            return {}
        first = self._next_reader % len(members)
        chosen = (members[first:] + members[:first])[:REPORTS_PER_TICK_MAX]
        self._next_reader = first + len(chosen)
        found: dict[str, Reports] = {}
        for id, rank, node in chosen:
            for name, value in self._new_reports(id, rank).items():
                found.setdefault(node, {}).setdefault(name, {})[f"{id}/{rank}"] = value
        return found

    def _new_reports(self, allocation: str, rank: int) -> dict[str, float]:
        offset = self._offsets.get((allocation, rank), 0)
        try:
            block = self._loop.engine.read_reports(allocation, rank, offset, REPORT_BYTES_MAX)
        except EngineError:
            return {}
        self._offsets[allocation, rank] = offset + len(block)
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


def given_of(
    keys: Sequence[tuple[str, str]],
    masks: Sequence[float],
    members: Mapping[str, tuple[str, int]],
) -> Given:
    """What agents say of pods, as what members have. `keys`: (node, "NAMESPACE.POD/CONTAINER")."""
    found: dict[tuple[str, int], tuple[str, int]] = {}
    for (node, key), mask in zip(keys, masks, strict=True):
        member = members.get(key.rpartition("/")[0])
        if member is not None:
            found[member] = (node, found.get(member, (node, 0))[1] | int(mask))
    return {
        member: (node, tuple(gpu for gpu in range(mask.bit_length()) if mask >> gpu & 1))
        for member, (node, mask) in found.items()
    }


def held_of(
    snapshot: Snapshot, given: Given = NOTHING_GIVEN, before: Before | None = None
) -> list[Held]:
    """Who holds what, for the store: `given` goes before the numbers of seats, which are nominal
    where somebody else chooses the devices. It counts where it is of the seat's node and size.

    `before`, kept from call to call, has what was made of allocations that are still the same.
    """
    held, known = [], {} if before is None or given else before.copy()
    if before is not None:
        before.clear()
    for allocation in snapshot.allocations.values():
        live = snapshot.jobs.get(allocation.job)
        category = live.job.category.value if live else ""
        node = snapshot.nodes.get(allocation.seats[0].node) if allocation.seats else None
        group = node.node.group if node else ""
        kept = known.get(allocation.id)
        if kept is None or kept[0] is not allocation or kept[1:3] != (category, group):
            kept = (allocation, category, group, _held(allocation, category, group, given))
        if before is not None and not given:
            before[allocation.id] = kept
        held.append(kept[3])
    return held


def _held(allocation: Allocation, category: str, group: str, given: Given) -> Held:
    devices = [
        (seat.node, gpu)
        for rank, seat in enumerate(allocation.seats)
        if allocation.holds(rank)
        for gpu in _devices_of(seat, given.get((allocation.id, rank)))
    ]
    return Held(
        allocation.id,
        allocation.job,
        allocation.project,
        category,
        group,
        tuple(dict.fromkeys(devices)),
        allocation.running_ms or allocation.bound_ms,
    )


def _devices_of(seat: Seat, told: tuple[str, tuple[int, ...]] | None) -> tuple[int, ...]:
    if told is None or told[0] != seat.node or len(told[1]) != len(seat.gpus):
        return seat.gpus
    return told[1]
