"""The simulator's loop: one controller, one virtual fleet, and an unreliable way between them.

Time jumps from one thing that happens to the next. The same steps as the daemon's, without a
ledger: collect → fold → plan → act; a restart goes through the same rows and owes the same actions.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import TypeVar

from madang.core.codec import encode_event, from_json, to_json
from madang.core.controller import Controller, Step
from madang.core.events import AllocationBound, Event, Fact, ReleaseAsked
from madang.core.live import LiveJob, LiveNode
from madang.core.model import Allocation, AllocationState, Job, Node, Project, Standing
from madang.core.pool import ARRAYS
from madang.core.restore import restored, with_recent
from madang.core.state import State
from madang.engines.base import Launch
from madang.engines.measuring import Meter
from madang.engines.virtual import FleetModel, Sensors, sample_of
from madang.sim.faults import Channel

T = TypeVar("T")
LaunchOf = Callable[[Allocation], Launch]


class World:
    """See the module's docstring. `launch_of` says what a bound allocation executes."""

    def __init__(
        self, controller: Controller, model: FleetModel, channel: Channel, launch_of: LaunchOf
    ) -> None:
        self.controller = controller
        self.model = model
        self.channel = channel
        self.now_ms = model.now_ms
        self.turns = self.restarts = 0
        self.journal: list[tuple[int, Event]] = []
        self._launch_of = launch_of
        self._meter = Meter()
        self._sensors = Sensors(model)
        self._digest = sha256()
        self.channel.send(self._reported(), self.now_ms)

    @property
    def state(self) -> State:
        return self.controller.state

    def next_ms(self) -> int | None:
        """When something happens next, if nobody asks for anything."""
        times = (self.model.next_ms(), self.channel.next_ms(), self.controller.due_ms(self.now_ms))
        return min((at_ms for at_ms in times if at_ms is not None), default=None)

    def turn(self, now_ms: int, asked: list[Fact], *, acts: bool = True) -> Step:
        """One turn at this time; `acts=False` is a crash between commit and act."""
        self.now_ms = max(now_ms, self.now_ms)
        self.turns += 1
        self.channel.send(self.model.advance(self.now_ms), self.now_ms)
        step = self.controller.step((*self.channel.receive(self.now_ms), *asked), self.now_ms)
        for event in step.events:
            self.journal.append((self.now_ms, event))
            self._digest.update(f"{self.now_ms} {encode_event(event)}\n".encode())
        self.state.take_changed()
        self.state.forget_ended()
        if acts:
            self._act(step)
        return step

    def restart(self) -> None:
        """The controller dies and is read from rows; the fleet goes on and is adopted."""
        self.restarts += 1
        self.channel.cut()
        self.model.advance(self.now_ms)
        self.controller = Controller(restored_from_rows(self.state))
        self.resync()
        for allocation in list(self.state.allocations.values()):
            if allocation.state is AllocationState.RELEASING:
                self.model.stop(allocation.id, 0)
            elif allocation.state is AllocationState.BOUND:
                self.model.start(self._launch_of(allocation))

    def measure(self, window_ms: int) -> None:
        """Look at the fleet's sensors; what is known of a window goes the way of all facts."""
        self.channel.send(self.model.advance(self.now_ms), self.now_ms)
        seen = sample_of(self._sensors.look(self.now_ms))
        allocations = self.state.allocations.values()
        measured = self._meter.look(seen, allocations, self.now_ms, window_ms)
        self.channel.send([*measured], self.now_ms)

    def resync(self) -> None:
        """The fleet tells again what it knows of its nodes and of all live allocations."""
        self.model.adopt(self.state.allocations.values())
        self.channel.send(self._reported(), self.now_ms)

    def digest(self) -> str:
        """Of the whole journal: the same facts must give the same, byte for byte."""
        return self._digest.hexdigest()

    def _reported(self) -> list[Fact]:
        self.model.report()
        return self.model.advance(self.now_ms)

    def _act(self, step: Step) -> None:
        for decision in step.decisions:
            match decision:
                case AllocationBound(allocation):
                    self.model.start(self._launch_of(allocation))
                case ReleaseAsked(allocation=id, grace_ms=grace_ms):
                    self.model.stop(id, grace_ms)


def restored_from_rows(state: State) -> State:
    """The state as it is read back from rows: values through JSON, derived data made anew."""
    again = restored(
        [
            LiveNode(_copy(Node, live.node), live.state, live.row, live.cordoned, live.suspicion)
            for live in state.nodes.values()
        ],
        [_copy(Project, project) for project in state.projects.values()],
        [
            LiveJob(_copy(Job, live.job), _copy(Standing, live.standing), live.allocation)
            for live in sorted(state.jobs.values(), key=lambda live: live.job.seq)
        ],
        [_copy(Allocation, allocation) for allocation in state.allocations.values()],
        list(state.nominations.items()),
        [_copy(type(setting), setting) for setting in (*state.settings, state.policy)],
    )
    return with_recent(again, [_copy(Job, job) for job in state.learner.since])


def replayed(journal: list[tuple[int, Event]]) -> State:
    """The state that the events alone make."""
    state = State()
    for at_ms, event in journal:
        state.apply(event, at_ms)
    return state


def picture(state: State) -> tuple[object, ...]:
    """What must be equal in two states that are the same: rows and derived data, in order."""
    pool = state.pool
    arrays = [(name, getattr(pool, name).tolist()) for name in ARRAYS]
    return (
        sorted((id, live.job, live.standing, live.allocation) for id, live in state.jobs.items()),
        sorted(state.allocations.items()),
        list(state.nodes.items()),
        sorted(state.projects.items()),
        sorted((project, milli) for project, milli in state.usage_milli.items() if milli),
        state.queue,
        state.deadlines,
        state.backoffs,
        state.insisting,
        sorted(state.nominations.items()),
        sorted((job, sorted(ids)) for job, ids in state.lingering.items()),
        sorted((key, milli) for key, milli in state.held_milli.items() if milli),
        sorted((type(one).__name__, one.key, one) for one in state.settings),
        state.policy,
        state.line.patience,
        state.sinks,
        [entry for entry in arrays if entry[0] not in ("model", "group", "domains")],
        [_domains_of(state, row) for row in range(pool.nodes)],
    )


def _domains_of(state: State, row: int) -> list[tuple[str, ...]]:
    """Names, not codes: those tell in which order the names were first heard."""
    codes = {code: path for path, code in state.domains.items()}
    return [codes[code] for code in state.pool.domains[row].tolist() if code >= 0]


def _copy(kind: type[T], value: T) -> T:
    return from_json(kind, to_json(value))
