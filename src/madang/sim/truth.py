"""What is really so in the fleet, held against what the controller believes and records.

The controller sees facts; this sees the fleet itself. Any difference that must not be is raised.
"""

from madang.core.events import AllocationBound, Event, JobEnded, JobStopAsked, ReleaseAsked
from madang.core.model import WHOLE_GPU_MILLI, Allocation, NodeState, Phase, ReleaseReason
from madang.core.state import State
from madang.engines.virtual import FleetModel
from madang.engines.virtual.model import Stay


class UntrueRecord(AssertionError):
    """What the controller recorded or allowed is not so; the message holds the objects."""


class Truth:
    """Follows a scenario turn by turn."""

    def __init__(self, model: FleetModel, *, keeps_order: bool) -> None:
        self.model = model
        self.keeps_order = keeps_order
        self.ended: dict[str, JobEnded] = {}
        self._stops: set[str] = set()
        self._taken: set[str] = set()  # jobs whose idle GPUs were taken
        self._bound: set[str] = set()
        self._newest: dict[str, str] = {}

    def look(self, events: tuple[Event, ...], state: State) -> None:
        """After each turn, with what it changed."""
        for event in events:
            match event:
                case JobStopAsked(job=job):
                    self._stops.add(job)
                case ReleaseAsked(allocation=id, reason=ReleaseReason.RECLAIMED):
                    self._taken.add(id.rpartition(".")[0])
                case AllocationBound(allocation):
                    self._look_at_start(allocation, state)
                case JobEnded(job=job):
                    self._look_at_end(event)
        if self.keeps_order:
            self._look_at_devices()

    def _look_at_start(self, allocation: Allocation, state: State) -> None:
        """An id is used once; an older attempt runs on at most where nobody can see it."""
        _require(allocation.id not in self._bound, "bound twice", allocation)
        _require(allocation.job not in self.ended, "started after its end", allocation)
        self._bound.add(allocation.id)
        older = self.model.stays.get(self._newest.get(allocation.job, ""))
        self._newest[allocation.job] = allocation.id
        for member in older.members if older is not None and self.keeps_order else ():
            hidden = state.nodes[member.node].state is NodeState.LOST
            _require(hidden or not member.runs, "two attempts run", allocation, member)

    def _look_at_end(self, event: JobEnded) -> None:
        _require(event.job not in self.ended, "ended twice", event)
        self.ended[event.job] = event
        stay = self.model.stays.get(self._newest.get(event.job, ""))
        match event.phase:
            case Phase.SUCCEEDED:
                _require(stay is not None and _all_well(stay), "did not succeed", event, stay)
            case Phase.STOPPED if event.reason == ReleaseReason.RECLAIMED:
                _require(event.job in self._taken, "nobody took its GPUs", event)
            case Phase.STOPPED:
                _require(event.job in self._stops, "nobody asked to stop it", event)
            case Phase.FAILED if event.reason.startswith("member"):
                _require(stay is not None and _failed_so(stay, event), "otherwise", event, stay)
            case Phase.FAILED:
                _require(event.reason in ("time_limit", "attempts"), "unknown reason", event)

    def _look_at_devices(self) -> None:
        """No device is really used by more than it has."""
        for id, place in self.model.places.items():
            used = [0] * place.node.gpus
            for allocation, rank in place.members:
                stay = self.model.stays[allocation]
                member = stay.members[rank]
                for gpu in member.gpus if member.runs else ():
                    used[gpu] += stay.launch.allocation.shape.gpu_milli
            _require(max(used, default=0) <= WHOLE_GPU_MILLI, "used twice", id, place.members)


def _all_well(stay: Stay) -> bool:
    return all(member.exit is not None and member.exit.ok for member in stay.members)


def _failed_so(stay: Stay, event: JobEnded) -> bool:
    """`member 3 exited with 1` is what member 3 did."""
    words = event.reason.split()
    end, number = stay.members[int(words[1])].exit, int(words[-1])
    return end is not None and (end.signal == number if "signal" in words else end.code == number)


def _require(claim: bool, *what: object) -> None:
    if not claim:
        raise UntrueRecord(" | ".join(map(str, what)))
