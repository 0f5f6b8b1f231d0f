"""The virtual fleet as an engine: the model, driven by the wall clock.

A thread does nothing but wait for the model's next moment and call `wake`; the model itself
advances when it is looked at. Every action is on record before it happens, so the fleet outlives
the daemon.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from madang.core.events import Fact
from madang.core.model import Allocation
from madang.engines.base import Action, EngineError, Readings, Sample, Start, Stop, Tell
from madang.engines.virtual import record as lines
from madang.engines.virtual.fleet import Fleet, fleet_of
from madang.engines.virtual.model import FleetModel, Member, Stay
from madang.engines.virtual.record import Record
from madang.engines.virtual.sensors import Sensors, readings_of, sample_of
from madang.engines.virtual.story import log_of, reports_of


def open_fleet(values: Mapping[str, Any], state_dir: Path) -> "VirtualEngine":
    """The engine of a fleet file's validated values; it keeps its record under `state_dir`."""
    return VirtualEngine(fleet_of(values), state_dir / "virtual")


def wall_ms() -> int:
    """Wall time in integer ms."""
    return time.time_ns() // 1_000_000


class VirtualEngine:
    """An `Engine`; see `madang.engines.base`. Every verb may be called from any thread."""

    def __init__(self, fleet: Fleet, folder: Path, clock: Callable[[], int] = wall_ms) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self._facts: deque[Fact] = deque()
        self._wake: Callable[[], None] = lambda: None
        self._closed = True
        self._thread: threading.Thread | None = None
        self._record = Record(folder / "actions.ndjson")
        self.model = self._remembered(fleet)
        self._sensors = Sensors(self.model)

    # -- life --------------------------------------------------------------------------------------

    def open(self, wake: Callable[[], None]) -> None:
        with self._lock:
            self._wake, self._closed = wake, False
            self.model.report()
            self._advance()
        self._thread = threading.Thread(target=self._watch, name="virtual-fleet", daemon=True)
        self._thread.start()
        wake()

    def adopt(self, allocations: Sequence[Allocation]) -> None:
        with self._lock:
            self._advance()
            self.model.adopt(allocations)
            self._forget_old({allocation.id for allocation in allocations})
            self._advance()
        self._wake()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._moved.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._record.close()

    # -- act and observe ---------------------------------------------------------------------------

    def act(self, actions: Sequence[Action]) -> None:
        with self._lock:
            self._advance()
            self._record.add(*self._entries(actions))
            for action in actions:
                match action:
                    case Start(launch):
                        self.model.start(launch)
                    case Stop(allocation=allocation, grace_ms=grace_ms):
                        self.model.stop(allocation, grace_ms)
                    case Tell():
                        pass  # who exists only in time reads nothing
            self._advance()
            self._moved.notify_all()
            is_news = bool(self._facts)
        if is_news:
            self._wake()

    def observe(self, facts_max: int) -> list[Fact]:
        with self._lock:
            self._advance()
            taken = [self._facts.popleft() for _ in range(min(facts_max, len(self._facts)))]
            self._moved.notify_all()
            return taken

    # -- people's view -----------------------------------------------------------------------------

    def read_log(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        with self._lock:
            stay, member = self._member(allocation, rank)
            text = log_of(stay, member, self.model.fleet.seed, self._advance())
        return text[offset : offset + bytes_max]

    def read_reports(self, allocation: str, rank: int, offset: int, bytes_max: int) -> bytes:
        with self._lock:
            stay, member = self._member(allocation, rank)
            text = reports_of(stay, member, self.model.fleet.seed, self._advance())
        part = text[offset : offset + bytes_max]
        return part[: part.rfind(b"\n") + 1]

    def exec_command(
        self, allocation: str, rank: int, command: Sequence[str]
    ) -> tuple[list[str], dict[str, str], str]:
        with self._lock:
            self._member(allocation, rank)
        raise EngineError(
            f"member {rank} of {allocation} exists only in a virtual fleet: nothing can run there"
        )

    def sample(self) -> Sample:
        """What the sensors of every node show now."""
        with self._lock:
            look = self._sensors.look(self._advance())
        return sample_of(look)

    def readings(self) -> Sequence[Readings]:
        with self._lock:
            look = self._sensors.look_on(self._advance())
        return readings_of(look)

    # -- inside: the lock is held ------------------------------------------------------------------

    def _advance(self) -> int:
        now_ms = max(self._clock(), self.model.now_ms)  # a clock that is set back stands still
        self._facts += self.model.advance(now_ms)
        return now_ms

    def _member(self, allocation: str, rank: int) -> tuple[Stay, Member]:
        stay = self.model.stays.get(allocation)
        if stay is None or not 0 <= rank < len(stay.members):
            raise EngineError(f"no member {rank} of {allocation} is in this fleet")
        return stay, stay.members[rank]

    def _entries(self, actions: Sequence[Action]) -> list[dict[str, Any]]:
        """The lines of these actions; of a Start that is repeated, one."""
        now_ms, entries = self.model.now_ms, []
        begun: set[str] = set()
        for action in actions:
            match action:
                case Start(launch):
                    id = launch.allocation.id
                    if id not in begun and not self.model.knows(id):
                        begun.add(id)
                        entries.append(lines.started(now_ms, launch, self.model.fleet.speed))
                case Stop(allocation=allocation, grace_ms=grace_ms):
                    entries.append(lines.stopped(now_ms, allocation, grace_ms))
        return entries

    def _remembered(self, fleet: Fleet) -> FleetModel:
        """The model as the record has it, at the record's last moment."""
        model: FleetModel | None = None
        for entry in self._record.read():
            if model is None:
                model = FleetModel(fleet, entry["opened_ms"])
                continue
            model.advance(max(entry["at_ms"], model.now_ms))
            if "start" in entry:
                model.start(lines.launch_of(entry), speed=entry["speed"])
            else:
                model.stop(entry["stop"], entry["grace_ms"])
        if model is None:
            model = FleetModel(fleet, self._clock())
            self._record.add(lines.opened(model.now_ms))
        model.advance(max(self._clock(), model.now_ms))  # what was told before is told by `adopt`
        return model

    def _forget_old(self, live: set[str]) -> None:
        """Keep the record short: the oldest stays that ended leave it, and so do their logs."""
        ended = [
            id
            for id, stay in self.model.stays.items()
            if id not in live and all(member.exit is not None for member in stay.members)
        ]
        dropped = set(ended[: -lines.ENDED_KEPT_MAX])
        if not dropped:
            return
        for id in dropped:
            self.model.forget(id)
        self._record.replace(
            entry
            for entry in list(self._record.read())
            if entry.get("stop") not in dropped
            and ("start" not in entry or entry["start"][0] not in dropped)
        )

    def _watch(self) -> None:
        """Wake the daemon at each moment when something happens."""
        with self._lock:
            while not self._closed:
                next_ms = self.model.next_ms()
                wait_s = None if next_ms is None else (next_ms - self._clock()) / 1000
                if wait_s is not None and wait_s <= 0:
                    self._advance()
                    if self._facts:
                        self._wake()
                    continue
                self._moved.wait(wait_s)
