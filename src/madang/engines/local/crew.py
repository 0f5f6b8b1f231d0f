"""The members that this engine watches, and the moves between what can be known of them.

    IDLE ──Start──▶ ASKED ──"started"──▶ RUNNING ──"ended"──▶ ENDED
      └──────────────┴── given up, overtaken by a stop, or found so on disk ──────▶┘

Every verb may be called under any state of the disk; the files (traces.py) decide, the table here
is only what was last seen of them. All verbs are called with the engine's lock held. What may take
long is given to the helpers, and comes back as a call of `prepared` or `buried`.
"""

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from signal import SIGTERM, SIGUSR1
from typing import Protocol

from madang.core.events import Fact, MemberEnded, MemberStarted
from madang.core.model import Allocation, Exit
from madang.engines.base import Launch, Stop
from madang.engines.local import records, traces
from madang.engines.local.places import Places
from madang.engines.local.records import ExitRecord
from madang.engines.local.traces import Trace

ASK_AGAIN_S = 10.0  # a start that shows no trace: its keeper or its shim was killed
ASKS_MAX = 3
OVERTAKEN = (128 + SIGTERM, int(SIGTERM))  # (code, signal) of what a stop kept from starting

_log = logging.getLogger(__name__)


class Seen(Enum):
    """What was last seen of a member; see the module's docstring."""

    IDLE = "idle"
    ASKED = "asked"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(slots=True)
class Crewman:
    """One member here."""

    seen: Seen = Seen.IDLE
    started: bool = False  # MemberStarted was told
    asked_s: float = 0.0
    asks: int = 0
    shim_pid: int = 0
    burying: bool = False


@dataclass(slots=True)
class Stay:
    """An allocation with members here that have not all ended."""

    id: str
    members: dict[int, Crewman]
    launch: Launch | None = None
    ready: bool = False
    stopped: bool = False
    ports: list[int] = field(default_factory=list)


class Helpers(Protocol):
    """What the crew needs of its engine."""

    def tell(self, fact: Fact) -> None: ...

    def ask(self, allocation: str, rank: int) -> bool:
        """Ask the keeper for a shim; False when there is none now: it is asked again."""

    def prepare(self, stay: Stay, launch: Launch) -> None:
        """Make directories and the launch file, at once or later; then call `prepared`."""

    def bury(self, allocation: str, rank: int) -> None:
        """Kill what an orphan left, later; then call `buried`."""


class Crew:
    """See the module's docstring."""

    def __init__(self, node: str, places: Places, boot_id: str, helpers: Helpers) -> None:
        self._node = node
        self._places = places
        self._boot_id = boot_id
        self._helpers = helpers
        self.stays: dict[str, Stay] = {}

    # -- what the daemon asks -----------------------------------------------------------------

    def find_living(self) -> None:
        """Take in what runs here by the marks on disk, before anybody has said what should."""
        for mark in sorted(os.listdir(self._places.live)):
            directory = self._places.allocation(mark)
            names = os.listdir(directory) if directory.is_dir() else []
            ranks = sorted(int(name) for name in names if name.isdigit())
            running = [rank for rank in ranks if self._may_run(mark, rank)]
            if running:
                members = {rank: Crewman(seen=Seen.RUNNING) for rank in running}
                stopped = self._places.stop(mark).exists()
                self.stays[mark] = Stay(mark, members, stopped=stopped)
            else:
                self._places.live_mark(mark).unlink(missing_ok=True)

    def adopt(self, allocations: Sequence[Allocation], *, rebooted: bool) -> None:
        """Look for each live member of the ledger; tell what is found."""
        for allocation in allocations:
            stay = self._stay(allocation)
            stay.stopped = self._places.stop(allocation.id).exists()
            for rank in stay.members:
                was_started = bool(allocation.started >> rank & 1)
                self._settle(stay, rank, gone=rebooted or was_started)
            if stay.stopped:
                self._poke_all(stay)
            self._drop_if_over(stay)

    def start(self, launch: Launch) -> None:
        """Start every member here that has never been started."""
        id = launch.allocation.id
        stay = self.stays.get(id)
        if stay is not None and stay.launch is not None:
            return  # the same again
        is_new = _made(self._places.allocation(id))
        if stay is None:
            stay = self._stay(launch.allocation)
            for rank in stay.members if not is_new else ():
                self._settle(stay, rank, gone=False)
            stay.stopped = not is_new and self._places.stop(id).exists()
        stay.launch = launch
        if stay.stopped:
            self._end_unstarted(stay, OVERTAKEN, "")
        idle = any(member.seen is Seen.IDLE for member in stay.members.values())
        if self._drop_if_over(stay) or not idle:
            return
        self._mark_live(id)
        self._helpers.prepare(stay, launch)

    def stop(self, stop: Stop) -> None:
        """Write the stop file, and wake whoever must read it."""
        stay = self.stays.get(stop.allocation)
        self._write_stop(stop)
        if stay is None:
            return
        stay.stopped = True
        if not stay.ready:
            self._end_unstarted(stay, OVERTAKEN, "")
        self._poke_all(stay)
        self._drop_if_over(stay)

    # -- what is heard ------------------------------------------------------------------------

    def heard(self, line: str) -> None:
        """A shim's line; see `shim.Call.tell`. What does not fit is dropped: the files decide."""
        verb, _, rest = line.partition(" ")
        id, *words = rest.split(" ")
        stay = self.stays.get(id)
        if stay is None or not all(word.isdigit() for word in words):
            return
        match verb, [int(word) for word in words]:
            case "started", [rank, shim_pid, at_ms] if rank in stay.members:
                self._started(stay, rank, shim_pid, at_ms)
            case "ended", [rank, code, signal, at_ms] if rank in stay.members:
                self._ended(stay, rank, ExitRecord(code, signal, False, at_ms))
            case _:
                _log.warning("a line of a shim makes no sense: %r", line[:200])
        self._drop_if_over(stay)

    def prepared(self, id: str, problem: str) -> None:
        """The directory is ready, or why it never will be."""
        stay = self.stays.get(id)
        if stay is None:
            return
        if problem:
            self._end_unstarted(stay, (records.ENGINE_FAILED, 0), problem)
        elif stay.stopped:
            self._end_unstarted(stay, OVERTAKEN, "")
        else:
            stay.ready = True
            for rank, member in stay.members.items():
                if member.seen is Seen.IDLE:
                    self._ask(stay, rank)
        self._drop_if_over(stay)

    def buried(self, id: str, rank: int, exit: ExitRecord | None) -> None:
        """An orphan has been cleared away; None: not yet, the scan tries again."""
        stay = self.stays.get(id)
        if stay is None:
            return
        stay.members[rank].burying = False
        if exit is not None:
            self._ended(stay, rank, exit)
        self._drop_if_over(stay)

    def keeper_came(self) -> None:
        """A new keeper: what the old one may have taken with it is asked again, at no cost."""
        for stay in list(self.stays.values()):
            for rank, member in stay.members.items():
                if member.seen is Seen.ASKED:
                    self._helpers.ask(stay.id, rank)

    def scan(self) -> None:
        """The safety net: look at the files of all that should be running or starting."""
        now_s = time.monotonic()
        for stay in list(self.stays.values()):
            for rank, member in stay.members.items():
                if member.seen is Seen.RUNNING:
                    self._settle(stay, rank, gone=True)
                elif member.seen is Seen.ASKED and now_s > member.asked_s + ASK_AGAIN_S:
                    self._settle(stay, rank, gone=False)
                    if member.seen is Seen.ASKED:
                        self._ask_again(stay, rank)
            self._drop_if_over(stay)

    def holds(self, stays: Iterable[Stay] | None = None) -> list[tuple[str, int]]:
        """(allocation, rank) of what may be running."""
        return [
            (stay.id, rank)
            for stay in (self.stays.values() if stays is None else stays)
            for rank, member in stay.members.items()
            if member.seen in (Seen.ASKED, Seen.RUNNING)
        ]

    # -- moves --------------------------------------------------------------------------------

    def _stay(self, allocation: Allocation) -> Stay:
        ranks = [
            rank
            for rank, seat in enumerate(allocation.seats)
            if seat.node == self._node and not allocation.ended >> rank & 1
        ]
        stay = Stay(allocation.id, {rank: Crewman() for rank in ranks})
        self.stays[allocation.id] = stay
        return stay

    def _may_run(self, id: str, rank: int) -> bool:
        try:
            trace = traces.look(self._places.state(id, rank), self._boot_id).trace
        except OSError as error:
            _log.error("cannot look at member %s/%d, trying again: %s", id, rank, error)
            return True  # the scan looks again
        return trace in (Trace.RUNNING, Trace.ORPHANED)

    def _settle(self, stay: Stay, rank: int, *, gone: bool) -> None:
        """Bring one member to where its files say it is. `gone`: no trace at all means lost."""
        member = stay.members[rank]
        state = self._places.state(stay.id, rank)
        try:
            found = traces.look(state, self._boot_id)
        except OSError as error:
            _log.error("cannot look at member %s/%d, trying again: %s", stay.id, rank, error)
            member.seen = Seen.RUNNING if gone else member.seen  # so that the scan looks again
            return
        start = found.record.start
        match found.trace:
            case Trace.RUNNING | Trace.ENDED | Trace.ORPHANED if start is not None:
                self._started(stay, rank, start.shim_pid, start.at_ms)
        match found.trace:
            case Trace.RUNNING:
                member.seen = Seen.RUNNING
            case Trace.ENDED:
                assert found.record.exit is not None, f"ended without an exit: {stay.id}/{rank}"
                self._ended(stay, rank, found.record.exit)
            case Trace.ORPHANED | Trace.NEVER if (
                gone or found.trace is Trace.ORPHANED
            ) and not member.burying:
                member.seen = Seen.RUNNING
                member.burying = True
                self._helpers.bury(stay.id, rank)

    def _started(self, stay: Stay, rank: int, shim_pid: int, at_ms: int) -> None:
        member = stay.members[rank]
        if member.seen is Seen.ENDED or member.started:
            return
        member.seen = Seen.RUNNING
        member.started = True
        member.shim_pid = shim_pid
        self._helpers.tell(MemberStarted(stay.id, rank, at_ms))
        if stay.stopped:
            # It may have looked for the stop file just before that was written.
            self._poke(stay, rank)

    def _ended(self, stay: Stay, rank: int, exit: ExitRecord) -> None:
        member = stay.members[rank]
        if member.seen is Seen.ENDED:
            return
        if not member.started and not exit.lost:
            self._tell_missed_start(stay, rank)
        member.seen = Seen.ENDED
        end = Exit(exit.code, exit.signal, exit.lost)
        self._helpers.tell(MemberEnded(stay.id, rank, end, exit.at_ms))

    def _tell_missed_start(self, stay: Stay, rank: int) -> None:
        try:
            start = records.read(self._places.state(stay.id, rank)).start
        except OSError:
            return
        if start is not None:
            self._started(stay, rank, start.shim_pid, start.at_ms)

    def _ask(self, stay: Stay, rank: int) -> None:
        member = stay.members[rank]
        member.seen = Seen.ASKED
        member.asked_s = time.monotonic()
        member.asks += 1
        self._helpers.ask(stay.id, rank)

    def _ask_again(self, stay: Stay, rank: int) -> None:
        if stay.members[rank].asks < ASKS_MAX:
            self._ask(stay, rank)
            return
        text = f"no process could be started for it in {ASKS_MAX} tries; see the daemon's log"
        self._write_line(stay.id, rank, text)
        self._give_up(stay, rank, ExitRecord(records.ENGINE_FAILED, 0, False, _now_ms()))

    def _give_up(self, stay: Stay, rank: int, exit: ExitRecord) -> None:
        """It will never start: nobody can start it any more from here on."""
        try:
            if not traces.give_up(self._places.state(stay.id, rank), exit):
                # A shim has just got hold of it and will tell; were that lost, the scan looks.
                stay.members[rank].seen = Seen.ASKED
                stay.members[rank].asked_s = time.monotonic()
                return
        except OSError as error:
            # A full disk, most likely. No shim can write a start record on it either; and were it
            # to get room in this moment, the scan finds what runs and the daemon stops the stray.
            _log.error("cannot record the end of %s/%d: %s", stay.id, rank, error)
        self._ended(stay, rank, exit)

    def _end_unstarted(self, stay: Stay, end: tuple[int, int], problem: str) -> None:
        for rank, member in stay.members.items():
            if member.seen is Seen.IDLE:
                if problem:
                    self._write_line(stay.id, rank, problem)
                self._give_up(stay, rank, ExitRecord(*end, False, _now_ms()))

    def _poke_all(self, stay: Stay) -> None:
        for rank, member in stay.members.items():
            if member.seen is Seen.RUNNING:
                self._poke(stay, rank)

    def _poke(self, stay: Stay, rank: int) -> None:
        """A SIGTERM needs no stop file, for the disk that has no room for one."""
        number = SIGUSR1 if self._places.stop(stay.id).exists() else SIGTERM
        try:
            traces.poke(self._places.state(stay.id, rank), number)
        except OSError as error:
            _log.error("cannot wake the shim of %s/%d: %s", stay.id, rank, error)

    def _drop_if_over(self, stay: Stay) -> bool:
        if any(member.seen is not Seen.ENDED for member in stay.members.values()):
            return False
        if self.stays.pop(stay.id, None) is not None:
            self._places.live_mark(stay.id).unlink(missing_ok=True)
        return True

    # -- files --------------------------------------------------------------------------------

    def _mark_live(self, id: str) -> None:
        try:
            os.close(os.open(self._places.live_mark(id), os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            _log.error("cannot mark %s as live: %s", id, error)

    def _write_stop(self, stop: Stop) -> None:
        """Atomically; a later deadline than the one that stands is not written."""
        path = self._places.stop(stop.allocation)
        deadline_ms = _now_ms() + stop.grace_ms
        try:
            standing = json.loads(path.read_bytes())
            if standing["deadline_ms"] <= deadline_ms:
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none, or damaged
        asked = {"reason": stop.reason, "deadline_ms": deadline_ms, "grace_ms": stop.grace_ms}
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            fresh = path.with_name("stop.new")
            fresh.write_text(json.dumps(asked))
            fresh.rename(path)
        except OSError as error:
            _log.error("cannot write %s, stopping with the default grace: %s", path, error)

    def _write_line(self, id: str, rank: int, text: str) -> None:
        """A line for people in the log of a member that never ran."""
        _log.warning("member %s/%d: %s", id, rank, text)
        path = self._places.member(id, rank) / records.LOG
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(f"[madang] {text}\n".encode())
        except OSError as error:
            _log.error("cannot write %s: %s", path, error)


def _made(directory: Path) -> bool:
    """Make a directory; False when it was there."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
