"""The virtual fleet as a pure model: actions in, facts out, time given by the caller.

A heap of what will happen, advanced to a time: no clock, no thread, no file. The daemon drives it
by the wall clock through `VirtualEngine`, the simulator by a virtual one. What happens is decided
by the fleet's seed and by names alone, so the same actions at the same times give the same facts.

A node that is rebooted loses its members; one that is cut off keeps them, and what happens there is
told when it is back, before it is seen again. Stops that could not reach it are delivered then.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from madang.core.events import (
    CheckpointSaved,
    Fact,
    MemberEnded,
    MemberStarted,
    NodeLost,
    NodeSeen,
)
from madang.core.model import Allocation, Exit, Node
from madang.engines.base import Launch
from madang.engines.virtual.chance import between, chance, exponential
from madang.engines.virtual.fleet import Fleet
from madang.engines.virtual.script import WELL, Script, script_of

LOST = Exit(0, lost=True)
TERMINATED = Exit(0, signal=15)
KILLED = Exit(0, signal=9)
SLOW_FACTOR = 10
MISHAPS_MAX = 10_000  # where nobody reads the sensors, the oldest are forgotten


@dataclass(slots=True)
class Member:
    """One worker. Times are real ms, 0 while they have not come; `starts` counts its runs."""

    rank: int
    node: str
    gpus: tuple[int, ...]
    started_ms: int = 0
    ended_ms: int = 0
    exit: Exit | None = None
    starts: int = 0
    end_ms: int = 0  # when it will end, as far as is known now
    end: Exit = WELL
    stop_ms: int = 0  # when SIGTERM reached it

    @property
    def runs(self) -> bool:
        return self.starts > 0 and self.exit is None


@dataclass(slots=True)
class Stay:
    """One allocation in the fleet. `kill_ms` is when what is left is killed, 0 if not asked to."""

    launch: Launch
    script: Script
    speed: float
    members: list[Member]
    kill_ms: int = 0
    stop_ms: int = 0
    saved_ms: int = 0  # its newest checkpoint, which rank 0 saves for all
    resumed_step: int = 0  # where it went on

    @property
    def done_ms(self) -> int:
        """Of its run what earlier attempts did for it; virtual ms."""
        return self.script.run_ms * self.resumed_step // max(self.script.steps, 1)


@dataclass(slots=True)
class _Place:
    """A node: whether it is up, whether it can be heard, and what it could not tell yet."""

    node: Node
    up: bool = True
    heard: bool = True
    told_lost: bool = False
    silences: int = 0
    ill: dict[int, int] = field(default_factory=dict)  # devices that are broken, since when
    untold: list[Fact] = field(default_factory=list)
    members: dict[tuple[str, int], None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mishap:
    """What a node's kernel would log: the device `gpu` fell ill, or (-1) its port lost the link."""

    at_ms: int
    node: str
    gpu: int


class FleetModel:
    """See the module's docstring. Times that are given never go back.

    `version` grows with whatever changes what the sensors look at: who runs where, which nodes can
    be heard, which devices are ill. `mishaps` are those that the sensors have not told yet.
    """

    def __init__(self, fleet: Fleet, opened_ms: int) -> None:
        self.fleet = fleet
        self.now_ms = opened_ms
        self.version = 0
        self.mishaps: deque[Mishap] = deque(maxlen=MISHAPS_MAX)
        self.stays: dict[str, Stay] = {}
        self.places = {node.id: _Place(node) for node in fleet.nodes}
        self._saved_step: dict[str, int] = {}  # of jobs that go on from there
        self._stopped: dict[str, None] = {}  # asked to stop, never started
        self._expected: dict[str, Allocation] = {}  # adopted, and not known here
        self._heap: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = 0
        self._facts: list[Fact] = []
        self._is_calm = False
        self._strike_later(opened_ms)

    # -- time --------------------------------------------------------------------------------------

    def next_ms(self) -> int | None:
        """When something will happen next, if nobody acts."""
        return self._heap[0][0] if self._heap else None

    def advance(self, now_ms: int) -> list[Fact]:
        """Let time pass, and give all facts that nobody has been given yet, oldest first."""
        assert now_ms >= self.now_ms, f"time went back from {self.now_ms} to {now_ms}"
        while self._heap and self._heap[0][0] <= now_ms:
            at_ms, _, happen = heappop(self._heap)
            self.now_ms = max(self.now_ms, at_ms)
            happen(self.now_ms)
        self.now_ms = now_ms
        facts, self._facts = self._facts, []
        return facts

    def _at(self, at_ms: int, happen: Callable[[int], None]) -> None:
        self._order += 1
        heappush(self._heap, (at_ms, self._order, happen))

    # -- actions -----------------------------------------------------------------------------------

    def knows(self, allocation: str) -> bool:
        """True iff a Start of it would start nothing."""
        return allocation in self.stays

    def start(self, launch: Launch, *, speed: float | None = None) -> None:
        """Start every member that was not ended before; idempotent."""
        allocation = launch.allocation
        if allocation.id in self.stays:
            return
        expected = self._expected.pop(allocation.id, allocation)
        ranks = [rank for rank in range(len(allocation.seats)) if expected.holds(rank)]
        script = script_of(self.fleet, launch)
        stay = Stay(
            launch,
            script,
            speed or self.fleet.speed,
            [Member(rank, seat.node, seat.gpus) for rank, seat in enumerate(allocation.seats)],
            resumed_step=self._saved_step.get(allocation.job, 0) if script.resumes else 0,
        )
        self.stays[allocation.id] = stay
        was_stopped = allocation.id in self._stopped
        self._stopped.pop(allocation.id, None)
        for rank, member in enumerate(stay.members):
            place = self.places.get(member.node)
            if rank not in ranks:
                member.exit, member.ended_ms = expected_exit(expected, rank), self.now_ms
            elif place is None:
                self._tell(NodeLost(member.node))
                self._end(stay, member, LOST, self.now_ms)
            elif was_stopped:
                self._end(stay, member, TERMINATED, self.now_ms)
            elif not place.heard:
                pass  # told as lost when the node is back
            else:
                self._schedule_start(stay, member)
            if place is not None and member.exit is None:
                place.members[allocation.id, rank] = None

    def stop(self, allocation_id: str, grace_ms: int) -> None:
        """SIGTERM now, SIGKILL after the grace; a second one may only shorten the grace."""
        stay = self.stays.get(allocation_id)
        if stay is None:
            self._stop_unknown(allocation_id)
            return
        kill_ms = self.now_ms + grace_ms
        if stay.kill_ms and kill_ms >= stay.kill_ms:
            return
        stay.kill_ms = kill_ms
        stay.stop_ms = stay.stop_ms or self.now_ms
        for member in stay.members:
            if member.exit is None and self.places[member.node].heard:
                self._terminate(stay, member)

    def adopt(self, allocations: Iterable[Allocation]) -> None:
        """Tell again what became of these; what was started and left no trace is lost."""
        for allocation in allocations:
            stay = self.stays.get(allocation.id)
            if stay is None:
                self._adopt_unknown(allocation)
                continue
            for member in stay.members:
                place = self.places.get(member.node)
                if member.starts:
                    fact = MemberStarted(allocation.id, member.rank, member.started_ms)
                    self._tell_from(place, fact)
                if stay.saved_ms and not member.rank:
                    self._tell_from(place, CheckpointSaved(allocation.job, stay.saved_ms))
                if member.exit is not None:
                    end = MemberEnded(allocation.id, member.rank, member.exit, member.ended_ms)
                    self._tell_from(place, end)

    def report(self) -> None:
        """Tell of every node, as after a start of the daemon."""
        for id, place in self.places.items():
            if place.heard:
                self._tell(NodeSeen(place.node, tuple(place.members), self.now_ms))
            elif place.told_lost:
                self._tell(NodeLost(id))

    def forget(self, allocation_id: str) -> None:
        """Drop what is kept of an allocation that has ended."""
        stay = self.stays[allocation_id]
        assert all(member.exit is not None for member in stay.members), f"still there: {stay}"
        del self.stays[allocation_id]

    def _stop_unknown(self, allocation_id: str) -> None:
        self._stopped[allocation_id] = None
        expected = self._expected.pop(allocation_id, None)
        for rank in range(len(expected.seats)) if expected is not None else ():
            assert expected is not None
            if expected.holds(rank):
                self._tell(MemberEnded(allocation_id, rank, TERMINATED, self.now_ms))

    def _adopt_unknown(self, allocation: Allocation) -> None:
        for rank in range(len(allocation.seats)):
            if allocation.holds(rank) and allocation.started >> rank & 1:
                self._tell(MemberEnded(allocation.id, rank, LOST, self.now_ms))
                ended = allocation.ended | 1 << rank
                exits = (*allocation.exits, (rank, LOST))
                allocation = replace(allocation, ended=ended, exits=exits)
        if allocation.ended != allocation.all_ranks:
            self._expected[allocation.id] = allocation

    def calm(self) -> None:
        """No new faults from now on; what is broken mends in its time."""
        self._is_calm = True

    # -- members -----------------------------------------------------------------------------------

    def _schedule_start(self, stay: Stay, member: Member) -> None:
        times, id = self.fleet.times, stay.launch.allocation.id
        at_ms = self.now_ms + self._span_ms(stay, times.start_ms, id, member.rank, "start")
        self._at(at_ms, lambda now_ms: self._begin(stay, member, now_ms))

    def _begin(self, stay: Stay, member: Member, now_ms: int) -> None:
        if member.exit is not None or member.starts:
            return
        place, script = self.places[member.node], stay.script
        if not place.up or (stay.launch.allocation.id, member.rank) not in place.members:
            return
        if script.error:
            self._end(stay, member, script.exit, now_ms)
            return
        self.version += 1
        member.starts += 1
        member.started_ms = now_ms
        self._tell_from(place, MemberStarted(stay.launch.allocation.id, member.rank, now_ms))
        run_ms, member.end = script.run_ms, script.exit
        if member.rank == script.crashes:
            run_ms, member.end = script.crash_ms, Exit(1)
        run_ms = max(0, run_ms - stay.done_ms)
        self._end_later(stay, member, now_ms + int(run_ms / stay.speed))
        if not member.rank and script.save_every:
            self._save_later(stay, member, stay.resumed_step + script.save_every)

    def _save_later(self, stay: Stay, member: Member, step: int) -> None:
        """A checkpoint with the report of a step, and later the next one."""
        script = stay.script
        if step > script.steps:
            return

        def save(now_ms: int) -> None:
            if member.exit is not None:
                return
            stay.saved_ms = now_ms
            self._saved_step[stay.launch.allocation.job] = step
            job = stay.launch.allocation.job
            self._tell_from(self.places.get(member.node), CheckpointSaved(job, now_ms))
            self._save_later(stay, member, step + script.save_every)

        left_ms = script.run_ms * step / script.steps - stay.done_ms
        at_ms = member.started_ms + int(left_ms / stay.speed)
        self._at(at_ms, save)

    def _end_later(self, stay: Stay, member: Member, at_ms: int) -> None:
        member.end_ms = at_ms

        def happen(now_ms: int) -> None:
            if member.exit is None and member.end_ms == at_ms:
                self._end(stay, member, member.end, now_ms)

        self._at(at_ms, happen)

    def _terminate(self, stay: Stay, member: Member) -> None:
        """The stop reaches the member: it ends by the signal, or by force, or was about to end."""
        member.stop_ms = member.stop_ms or self.now_ms
        if not member.starts:
            self._end(stay, member, TERMINATED, self.now_ms)
            return
        id, times = stay.launch.allocation.id, self.fleet.times
        willing_ms = member.stop_ms + self._span_ms(stay, times.stop_ms, id, member.rank, "stop")
        kill_ms = max(stay.kill_ms, self.now_ms)
        at_ms, end = (willing_ms, TERMINATED)
        if stay.script.defies or willing_ms > kill_ms:
            at_ms, end = kill_ms, KILLED
        if at_ms < member.end_ms:
            member.end = end
            self._end_later(stay, member, max(at_ms, self.now_ms))

    def _end(self, stay: Stay, member: Member, end: Exit, at_ms: int) -> None:
        self.version += 1
        member.exit, member.ended_ms = end, at_ms
        id = stay.launch.allocation.id
        place = self.places.get(member.node)
        if place is not None:
            place.members.pop((id, member.rank), None)
        self._tell_from(place, MemberEnded(id, member.rank, end, at_ms))

    def _span_ms(self, stay: Stay, span_ms: tuple[int, int], *names: str | int) -> int:
        span = between(*span_ms, self.fleet.seed, *names)
        if self.fleet.times.slow_share:
            slow = chance(self.fleet.seed, *names, "slow") < self.fleet.times.slow_share
            span = span_ms[1] * SLOW_FACTOR if slow else span
        return int(span / stay.speed)

    # -- nodes and devices -------------------------------------------------------------------------

    def _strike_later(self, now_ms: int) -> None:
        faults = self.fleet.faults
        for id, place in self.places.items():
            if faults.node_mtbf_ms:
                self._next_node_fault(id, 0, now_ms)
            for gpu in range(place.node.gpus if faults.gpu_mtbf_ms else 0):
                self._next_gpu_fault(id, gpu, 0, now_ms)

    def _next_node_fault(self, id: str, count: int, now_ms: int) -> None:
        faults, seed = self.fleet.faults, self.fleet.seed
        wait_ms = self.fleet.real_ms(exponential(faults.node_mtbf_ms, seed, id, count))
        away_ms = self.fleet.real_ms(exponential(faults.node_mttr_ms, seed, id, count, "away"))

        def strike(at_ms: int) -> None:
            if self._is_calm:
                return
            cut_off = chance(seed, id, count, "kind") < faults.partition_share
            self.take_down(id, max(1, away_ms), cut_off=cut_off)
            self._next_node_fault(id, count + 1, at_ms + away_ms)

        self._at(now_ms + max(1, wait_ms), strike)

    def take_down(self, id: str, away_ms: int, *, cut_off: bool) -> None:
        """The node is silent for `away_ms` from now; unless it is only cut off, all there end."""
        place = self.places[id]
        if not place.heard:
            return
        now_ms = self.now_ms
        self.version += 1
        if cut_off:
            self.mishaps.append(Mishap(now_ms, id, -1))
        place.heard, place.up = False, cut_off
        place.silences += 1
        if not cut_off:
            for allocation_id, rank in list(place.members):
                stay = self.stays[allocation_id]
                self._end(stay, stay.members[rank], LOST, now_ms)
        detect_ms = self.fleet.real_ms(self.fleet.faults.detect_ms)
        if detect_ms < away_ms:
            silence = place.silences
            self._at(now_ms + detect_ms, lambda _: self._give_up(place, silence))
        self._at(now_ms + away_ms, lambda at_ms: self._bring_back(place, at_ms))

    def _give_up(self, place: _Place, silence: int) -> None:
        if not place.heard and place.silences == silence:
            place.told_lost = True
            self._tell(NodeLost(place.node.id))

    def _bring_back(self, place: _Place, now_ms: int) -> None:
        self.version += 1
        place.up = place.heard = True
        place.told_lost = False
        self._facts += place.untold
        place.untold.clear()
        for id, rank in list(place.members):
            stay = self.stays[id]
            member = stay.members[rank]
            if not member.starts:
                self._end(stay, member, LOST, now_ms)  # its Start never reached the node
        self._tell(NodeSeen(place.node, tuple(place.members), self.now_ms))
        for id, rank in list(place.members):
            if self.stays[id].kill_ms:
                self._terminate(self.stays[id], self.stays[id].members[rank])

    def _next_gpu_fault(self, id: str, gpu: int, count: int, now_ms: int) -> None:
        faults, seed = self.fleet.faults, self.fleet.seed
        wait_ms = exponential(faults.gpu_mtbf_ms, seed, id, "gpu", gpu, count)
        ill_ms = exponential(faults.gpu_mttr_ms, seed, id, "gpu", gpu, count, "ill")

        def strike(at_ms: int) -> None:
            if self._is_calm:
                return
            self.set_health(id, gpu, healthy=False)
            self._at(at_ms + max(1, self.fleet.real_ms(ill_ms)), heal)

        def heal(at_ms: int) -> None:
            self.set_health(id, gpu, healthy=True)
            self._next_gpu_fault(id, gpu, count + 1, at_ms)

        self._at(now_ms + max(1, self.fleet.real_ms(wait_ms)), strike)

    def set_health(self, id: str, gpu: int, *, healthy: bool) -> None:
        """The device falls ill, and takes the members on it down; or it is well again."""
        place = self.places[id]
        bits = place.node.well | 1 << gpu if healthy else place.node.well & ~(1 << gpu)
        place.node = replace(place.node, healthy=bits)
        self.version += 1
        if healthy:
            place.ill.pop(gpu, None)
        elif gpu not in place.ill:
            place.ill[gpu] = self.now_ms
            self.mishaps.append(Mishap(self.now_ms, id, gpu))
        if place.heard:
            self._tell(NodeSeen(place.node, tuple(place.members), self.now_ms))
        for allocation_id, rank in [] if healthy else list(place.members):
            stay = self.stays[allocation_id]
            member = stay.members[rank]
            if gpu in member.gpus and member.runs and place.up:
                self._end(stay, member, Exit(0, signal=6), self.now_ms)  # what an Xid does to NCCL

    # -- telling -----------------------------------------------------------------------------------

    def _tell(self, fact: Fact) -> None:
        self._facts.append(fact)

    def _tell_from(self, place: _Place | None, fact: Fact) -> None:
        """What happens on a silent node is told when it is back; None: a node that is no more."""
        (self._facts if place is None or place.heard else place.untold).append(fact)


def expected_exit(allocation: Allocation, rank: int) -> Exit:
    """How a member that holds nothing any more is known to have ended."""
    return dict(allocation.exits)[rank]
