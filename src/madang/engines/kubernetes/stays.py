"""The allocations that are live, and what becomes of their members, derived from pods.

A plain table without I/O: actions and pods go in; facts, and what is to be done next, come out.
Promises: each member is told as started once and as ended once, in this order; a member of our own
that was seen and is no more has ended; one of a foreign gang has ended only if its maker does not
put another pod in its place within `REPLACE_S`. An ended member is never un-ended: a pod that comes
for it afterwards waits for the job's next allocation.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from madang.core.events import Fact, MemberEnded, MemberStarted
from madang.core.model import Allocation, Exit, Seat
from madang.engines.base import Launch, Stop
from madang.engines.kubernetes.cache import ALLOCATION, GANG, JOB, RANK
from madang.engines.kubernetes.trim import CANNOT_BEGIN
from madang.engines.kubernetes.values import PodFacts

REPLACE_S = 30.0  # controllers make another pod after 10 s or 20 s, then ever later
BEGIN_S = 300.0  # an image that cannot be pulled now may be there after a registry's bad minutes
ABSENT_S = 30.0  # a new attempt waits so long for its pods
STOPPED_MAX = 10_000  # stops that came before their start, remembered
LOST = Exit(0, lost=True)
ENGINE_FAILED = Exit(125)  # it could not be made; as container runtimes say it
# The kubelet's or a controller's doing, not the program's: costs the job none of its retries.
BLAMELESS = frozenset(
    """
    Evicted NodeLost NodeShutdown Terminated Shutdown Preempting Preempted UnexpectedAdmissionError
    OutOfcpu OutOfmemory OutOfpods OutOfnvidia.com/gpu NodeAffinity DeletionByTaintManager
    DeletionByPodGC EvictionByEvictionAPI PreemptionByScheduler TopologyAffinityError
    """.split()  # noqa: SIM905 - they read better so
)

Told = Callable[[Fact], None]


@dataclass(slots=True)
class Member:
    """One rank. `pod` is the pod in its seat, ended or not; None before there is one."""

    rank: int
    pod: PodFacts | None = None
    ran: bool = False  # the ledger has it as started
    started: bool = False  # told
    ended: bool = False  # told, or the ledger has it
    tried: bool = False  # a pod was asked for, and the answer may have been lost
    asked_at_s: float = 0.0  # the end of the grace with which it was asked to go
    stuck_s: float = 0.0  # since when it cannot begin
    broken: Exit | None = None  # how its last pod ended, while a replacement may still come
    broken_s: float = 0.0


@dataclass(slots=True)
class Stay:
    """One allocation. `key` is the gang it places, "" for a job of our own."""

    allocation: Allocation  # as it was when it came: only what never changes is read from it
    key: str
    members: dict[int, Member]
    launch: Launch | None = None
    asked_s: float = 0.0  # when its Start came
    bound_once: bool = False  # the whole gang was bound; from now on only replacements are
    stop: Stop | None = None
    stop_at_s: float = 0.0  # when what still runs is killed
    busy: bool = False  # something is being done for it on the API server
    claim_s: float = 0.0  # since when its claims cannot be written
    again_s: float = 0.0  # not before this moment is it tried again
    held: str = ""  # what the budget that holds it said last, as it was told
    fate: Exit | None = None  # how whoever still ends is told: it was given up
    asked_for: dict[str, int] = field(default_factory=dict)  # uid → the one seat it may ever get

    @property
    def id(self) -> str:
        return self.allocation.id

    @property
    def job(self) -> str:
        return self.allocation.job

    @property
    def seats(self) -> tuple[Seat, ...]:
        return self.allocation.seats

    @property
    def over(self) -> bool:
        """Every member has ended."""
        return all(member.ended for member in self.members.values())

    def annotations(self, rank: int) -> tuple[tuple[str, str], ...]:
        """What says of a pod that it sits in this seat."""
        return (
            (ALLOCATION, self.id),
            (JOB, self.job),
            (RANK, str(rank)),
            *(((GANG, self.key),) if self.key else ()),
        )


@dataclass(slots=True)
class Stays:
    """`tell` hears of facts in their order; `now_s` is monotonic, `now_ms` the wall's."""

    tell: Told
    now_s: Callable[[], float]
    now_ms: Callable[[], int]
    live: dict[str, Stay] = field(default_factory=dict)
    of_key: dict[str, Stay] = field(default_factory=dict)  # by the gang that it places
    on_node: dict[str, dict[tuple[str, int], int]] = field(default_factory=dict)  # device bits
    past_pods: dict[tuple[str, int], str] = field(default_factory=dict)  # uids, for kept logs
    problems: dict[str, str] = field(default_factory=dict)  # why some could not be made
    over: Callable[[Stay], None] = lambda stay: None
    _stopped: dict[str, None] = field(default_factory=dict)
    _past: dict[str, None] = field(default_factory=dict)

    # -- actions -------------------------------------------------------------------------------

    def adopt(self, allocation: Allocation, key: str, pods: Iterable[PodFacts]) -> Stay:
        """Take over what the ledger says is live, with the pods that belong to it."""
        stay = self._new(allocation, key)
        for rank, member in stay.members.items():
            member.ended = not allocation.holds(rank)
            member.ran = bool(allocation.started >> rank & 1)
        for pod in sorted(pods, key=lambda one: (one.ended, one.key)):
            self.seen(stay, pod)
        for member in stay.members.values():
            if member.ran and member.pod is None and not member.ended:
                self._broke(stay, member, LOST)
        stay.bound_once = all(one.pod is not None or one.ended for one in stay.members.values())
        return stay

    def start(self, launch: Launch) -> Stay | None:
        """The stay that is to be carried out; None if there is nothing to do."""
        id = launch.allocation.id
        if id in self._past:
            return None
        stay = self.live.get(id) or self._new(launch.allocation, launch.arrival)
        if stay.launch is None:
            stay.launch, stay.asked_s = launch, self.now_s()
        if id in self._stopped:
            del self._stopped[id]
            self.end_rest(stay, LOST)
            return None
        return stay

    def stop(self, stop: Stop) -> Stay | None:
        """The stay that is to be ended; None if there is none."""
        stay = self.live.get(stop.allocation)
        if stay is None:
            if stop.allocation not in self._past:
                _remember(self._stopped, stop.allocation)
            return None
        at_s = self.now_s() + stop.grace_ms / 1000
        if stay.stop is None or at_s < stay.stop_at_s:
            stay.stop, stay.stop_at_s = stop, at_s
            stay.again_s = 0.0
        for member in stay.members.values():
            if member.broken is not None:
                self._end(stay, member, member.broken)
            elif member.pod is None and not stay.busy and not member.tried and not stay.asked_for:
                self._end(stay, member, LOST)
        return stay

    def take_back(self, stay: Stay) -> None:
        """Its stop: none of its members could be asked to end, and all go on."""
        stay.stop, stay.stop_at_s, stay.again_s = None, 0.0, 0.0
        for member in stay.members.values():
            member.asked_at_s = 0.0

    # -- pods ----------------------------------------------------------------------------------

    def seen(self, stay: Stay, pod: PodFacts) -> None:
        """A pod that belongs to the stay is as it is now."""
        member = _member(stay, pod)
        if member is None or self.is_left_out(stay, pod):
            return
        current = member.pod
        if current is not None and current.uid != pod.uid:
            if pod.ended:
                return
        elif current is not None and member.broken is not None:
            return  # older than the end that we know of: a binding's answer may come after it
        elif current is not None and current.node and not pod.node:
            return  # older than the binding that we know of
        member.pod = pod
        if pod.ended:
            self._started(stay, member)
            self._broke(stay, member, exit_of(pod))
            return
        member.broken = None
        if pod.phase == "Running":
            self._started(stay, member)
        stuck = pod.phase == "Pending" and pod.reason in CANNOT_BEGIN
        member.stuck_s = (member.stuck_s or self.now_s()) if stuck else 0.0

    def is_left_out(self, stay: Stay, pod: PodFacts) -> bool:
        """It names a seat of the stay, and that is over, or elsewhere, or another pod's."""
        member = _member(stay, pod)
        if member is None or member.ended:
            return True
        if pod.node and pod.node != stay.seats[member.rank].node:
            return True
        current = member.pod
        if current is None or current.uid == pod.uid:
            return False
        # Two pods for one seat: the first one has it while it lives.
        return not current.ended and member.broken is None

    def gone(self, stay: Stay, pod: PodFacts) -> None:
        """A pod that belonged to the stay is no more."""
        member = _member(stay, pod)
        if member is None or member.ended or member.pod is None or member.pod.uid != pod.uid:
            return
        if member.broken is None:
            end = exit_of(pod)
            if end is LOST and stay.stop is not None:
                # It was asked to go, and the kubelet did not say how it went.
                end = Exit(0, signal=9 if self.now_s() >= stay.stop_at_s else 15)
            self._broke(stay, member, end)

    def tick(self, replaceable: Callable[[Stay], bool]) -> None:
        """End members whose replacement did not come."""
        now_s = self.now_s()
        for stay in list(self.live.values()):
            for member in stay.members.values():
                if member.ended or member.broken is None:
                    continue
                if now_s - member.broken_s >= REPLACE_S or not replaceable(stay):
                    self._end(stay, member, member.broken)

    def stuck(self) -> list[tuple[Stay, str]]:
        """Jobs of our own that hold devices for members which cannot begin, and why."""
        late_s = self.now_s() - BEGIN_S
        return [
            (stay, f"{member.pod.name} cannot begin: {member.pod.reason}")
            for stay in self.live.values()
            if not stay.key and stay.stop is None
            for member in stay.members.values()
            if member.stuck_s and member.stuck_s <= late_s and member.pod is not None
        ]

    def end_one(self, stay: Stay, rank: int, end: Exit) -> None:
        """This member has ended: it was never made."""
        self._end(stay, stay.members[rank], end)

    def end_rest(self, stay: Stay, end: Exit) -> None:
        """Those that have not ended have now: they were never made."""
        for member in stay.members.values():
            self._end(stay, member, member.broken or end)

    def give_up(self, stay: Stay, end: Exit, problem: str) -> None:
        """Who has no pod has ended; the others have once their pods are gone: until then they hold
        what they hold. All are told as `end`."""
        self.problems[stay.id] = problem
        while len(self.problems) > STOPPED_MAX:
            del self.problems[next(iter(self.problems))]
        stay.fate = end
        if stay.stop is None:
            stay.stop, stay.stop_at_s = Stop(stay.id, 0, problem), self.now_s()
        for member in stay.members.values():
            if member.pod is None or member.pod.ended or member.broken is not None:
                self._end(stay, member, end)

    def holds_on(self, node: str) -> tuple[tuple[str, int], ...]:
        """(allocation, rank) of what sits on a node, also what is only to be started there."""
        return tuple(self.on_node.get(node, ()))

    def held_on(self, node: str) -> int:
        """The bit set of devices that live members hold there."""
        found = 0
        for bits in self.on_node.get(node, {}).values():
            found |= bits
        return found

    def knows(self, id: str) -> bool:
        """True iff it is live, or ended under our eyes."""
        return id in self.live or id in self._past

    # -- below ---------------------------------------------------------------------------------

    def _new(self, allocation: Allocation, key: str) -> Stay:
        members = {rank: Member(rank) for rank in range(len(allocation.seats))}
        stay = Stay(allocation, key, members)
        self.live[stay.id] = stay
        if key:
            self.of_key[key] = stay
        for rank, seat in enumerate(stay.seats):
            if allocation.holds(rank):
                bits = sum(1 << gpu for gpu in seat.gpus)
                self.on_node.setdefault(seat.node, {})[stay.id, rank] = bits
        return stay

    def _started(self, stay: Stay, member: Member) -> None:
        if not member.started:
            member.started = True
            self.tell(MemberStarted(stay.id, member.rank, self.now_ms()))

    def _broke(self, stay: Stay, member: Member, end: Exit) -> None:
        """It ended well, or badly and for good; or a replacement may come."""
        if end.ok or not stay.key or stay.stop is not None:
            self._end(stay, member, end)
        elif member.broken is None:
            member.broken, member.broken_s = end, self.now_s()

    def _end(self, stay: Stay, member: Member, end: Exit) -> None:
        if member.ended:
            return
        member.ended, member.broken = True, None
        self.tell(MemberEnded(stay.id, member.rank, stay.fate or end, self.now_ms()))
        beside = self.on_node.get(stay.seats[member.rank].node, {})
        beside.pop((stay.id, member.rank), None)
        if not beside:
            self.on_node.pop(stay.seats[member.rank].node, None)
        if member.pod is not None:
            self.past_pods[stay.id, member.rank] = member.pod.uid
        if stay.over:
            del self.live[stay.id]
            if self.of_key.get(stay.key) is stay:
                del self.of_key[stay.key]
            _remember(self._past, stay.id)
            while len(self.past_pods) > STOPPED_MAX:
                del self.past_pods[next(iter(self.past_pods))]
            self.over(stay)


def exit_of(pod: PodFacts) -> Exit:
    """How a pod that has ended, or is gone, ended."""
    if pod.phase == "Succeeded":
        return Exit(0)
    if pod.reason in BLAMELESS or pod.exit_code is None:
        return LOST if pod.reason in BLAMELESS or pod.phase != "Failed" else ENGINE_FAILED
    if pod.exit_code > 128:
        return Exit(0, signal=pod.exit_code - 128)
    return Exit(pod.exit_code) if pod.exit_code or pod.phase != "Failed" else ENGINE_FAILED


def _member(stay: Stay, pod: PodFacts) -> Member | None:
    rank = pod.annotation(RANK)
    return stay.members.get(int(rank)) if rank.isascii() and rank.isdigit() else None


def _remember(kept: dict[str, None], id: str) -> None:
    kept[id] = None
    while len(kept) > STOPPED_MAX:
        del kept[next(iter(kept))]
