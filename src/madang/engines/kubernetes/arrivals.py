"""The gangs that others have made for our scheduler: offered, known as jobs, and gone again.

A plain table without I/O over what `foreign` finds. Promises: a gang is offered once all its pods
are there, ungated and unbound, and again until it is answered; one that cannot be placed truthfully
is not offered, and `notes` says why; one whose maker is gone, has finished or made no pods for
`ABSENT_S` departs. Which live job is which gang is what the daemon reads from the ledger; nothing
is remembered here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from madang.core.events import Fact, JobStopAsked
from madang.core.model import Shape
from madang.engines.base import Arrival
from madang.engines.kubernetes import foreign, volumes
from madang.engines.kubernetes.cache import (
    GANG,
    RANK,
    VOLUME_CLAIM,
    Cache,
    PodNews,
)
from madang.engines.kubernetes.devices import Devices
from madang.engines.kubernetes.foreign import POD, Arranged, Unit, Waits, World
from madang.engines.kubernetes.nodes import extended_needs
from madang.engines.kubernetes.seated import only_seated
from madang.engines.kubernetes.topology import Layout, wish_of
from madang.engines.kubernetes.values import Gang, PodFacts

BY = "kubernetes"
CLAIM = "ResourceClaim"
ABSENT_S = 60.0  # its maker may be between two attempts
GONE_S = 2.0  # its pods' ends are told first
MISSING_S = 10.0  # controllers take a moment to make all pods
ANSWER_S = 10.0  # an offer whose turn could not be committed is made again
SWEEP_S = 1.0  # what is not offered for the first time may wait so long more
REFUSED_S = 60.0  # what can never run is judged anew so often: nodes may have come


@dataclass(slots=True)
class Known:
    """One gang. `arranged` is None while it has no pods."""

    key: str
    unit: Unit | None = None
    arranged: Arranged | None = None
    job: str = ""
    offered_s: float = 0.0
    refused: str = ""  # by the daemon
    refused_s: float = 0.0
    absent_s: float = 0.0  # since when it has no pods that live
    missing_s: float = 0.0  # since when some of its pods are not there
    leaving: bool = False


@dataclass(slots=True)
class Gangs:
    """`now_s` is monotonic; `is_own` says of a pod that it is of a job of our own."""

    cache: Cache
    scheduler: str
    is_own: Callable[[PodFacts], bool]
    now_s: Callable[[], float]
    tell: Callable[[Fact], None]
    notes: Callable[[Iterable[PodFacts], str], None]
    layout: Callable[[], Layout]
    asked_for: Callable[[Iterable[str]], None]  # resources of nodes that the core does not count
    devices: Devices
    known: dict[str, Known] = field(default_factory=dict)
    _units: dict[Unit, dict[str, None]] = field(default_factory=dict)
    _unit_of: dict[str, Unit] = field(default_factory=dict)
    _keys_of: dict[Unit, tuple[str, ...]] = field(default_factory=dict)
    _gang_of: dict[str, str] = field(default_factory=dict)  # pod → gang
    _rank_of: dict[str, int] = field(default_factory=dict)  # pod → its rank there
    _uncertain: dict[str, None] = field(default_factory=dict)  # gangs that changed, or lack pods
    _waits: dict[str, None] = field(default_factory=dict)  # pods whose maker is not seen yet
    _tied: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)  # claim → pods
    _dirty: dict[Unit, None] = field(default_factory=dict)
    _ready: dict[str, tuple[Layout, Arrival]] = field(default_factory=dict)
    _fresh: dict[str, None] = field(default_factory=dict)  # ready since the last look at offers
    _swept_s: float = 0.0  # when all that are ready were looked at
    _job_of: dict[str, str] = field(default_factory=dict)
    _key_of: dict[str, str] = field(default_factory=dict)

    # -- what changed --------------------------------------------------------------------------

    def look(self, pods: Iterable[PodNews], tops: Iterable[tuple[str, str]]) -> None:
        """Take in what changed, and arrange anew what it concerns."""
        world = self.world()
        moved = list(tops)
        for kind, key in moved:
            unit = Unit(kind, key)
            if unit in self._units:
                self._dirty[unit] = None
            for pod_key in self._tied_to(kind, key):
                if (tied := self._unit_of.get(pod_key)) is not None:
                    self._dirty[tied] = None
        made = any(kind in foreign.KINDS or kind in foreign.GROUPS for kind, _ in moved)
        for key in list(self._waits) if made else ():
            if (pod := self.cache.pods.objects.get(key)) is not None:
                self._place(pod, world)
        for news in pods:
            if news.gone:
                self._untie(news.pod)
                self._leave(news.pod.key)
            elif self._concerns(news.pod) and not self._is_echo(news):
                self._tie(news.pod)
                self._place(news.pod, world)
        dirty, self._dirty = self._dirty, {}
        for unit in dirty:
            self._arrange(unit, world)

    def world(self) -> World:
        """All that says how pods belong together, as it is now."""
        return World(
            tops={k: m.objects for k, m in self.cache.tops.items() if k in foreign.KINDS},
            groups={k: m.objects for k, m in self.cache.tops.items() if k in foreign.GROUPS},
            priorities=self.cache.priorities.objects,
        )

    def _tied_to(self, kind: str, key: str) -> list[str]:
        """The pods that this claim, or any claim of this class, is of."""
        if kind == "DeviceClass":
            return [pod for (what, _), pods in self._tied.items() if what == CLAIM for pod in pods]
        return list(self._tied.get((kind, key), ()))

    def _tie(self, pod: PodFacts) -> None:
        for tie in _ties_of(pod):
            self._tied.setdefault(tie, {})[pod.key] = None

    def _untie(self, pod: PodFacts) -> None:
        for tie in _ties_of(pod):
            tied = self._tied.get(tie, {})
            tied.pop(pod.key, None)
            if not tied:
                self._tied.pop(tie, None)

    def _concerns(self, pod: PodFacts) -> bool:
        return pod.scheduler == self.scheduler and not self.is_own(pod)

    def _is_echo(self, news: PodNews) -> bool:
        """It was bound to the seat that it has here, and nothing else: all is arranged as before.

        Each binding comes back so, and a gang of 512 would be arranged anew 512 times.
        """
        pod, before = news.pod, news.before
        if before is None or before.node or not pod.node:
            return False
        key = self._gang_of.get(pod.key, "")
        known = self.known.get(key)
        if known is None or not known.job or pod.key in self._waits:
            return False
        if pod.annotation(GANG) != key or pod.annotation(RANK) != str(self._rank_of.get(pod.key)):
            return False
        return only_seated(before, pod)

    def _place(self, pod: PodFacts, world: World) -> None:
        match foreign.unit_of(pod, world):
            case Waits(text):
                self._leave(pod.key)
                self._waits[pod.key] = None
                if not pod.node:
                    self.notes([pod], text)
            case unit:
                if self._unit_of.get(pod.key) != unit:
                    self._leave(pod.key)
                    self._unit_of[pod.key] = unit
                    self._units.setdefault(unit, {})[pod.key] = None
                self._waits.pop(pod.key, None)
                self._dirty[unit] = None

    def _leave(self, key: str) -> None:
        self._waits.pop(key, None)
        self._gang_of.pop(key, None)
        self._rank_of.pop(key, None)
        if (unit := self._unit_of.pop(key, None)) is not None:
            self._units[unit].pop(key, None)
            self._dirty[unit] = None

    def _arrange(self, unit: Unit, world: World) -> None:
        keys = self._units.get(unit, {})
        pods = [self._resolved(self.cache.pods.objects[key]) for key in keys]
        found = foreign.gangs_of(unit, pods, world) if pods else ()
        for key in self._keys_of.pop(unit, ()):
            if key in self.known:
                self.known[key].arranged = None
                self._uncertain[key] = None
        if not pods:
            self._units.pop(unit, None)
        else:
            self._keys_of[unit] = tuple(one.gang.key for one in found)
        for one in found:
            known = self.known.setdefault(one.gang.key, Known(one.gang.key))
            known.unit, known.arranged = unit, one
            known.job = known.job or self._job_of.get(known.key, "")
            self._uncertain[known.key] = None
            for rank, pod in one.seats:
                self._gang_of[pod], self._rank_of[pod] = known.key, rank
            self._judge(known)

    def _resolved(self, pod: PodFacts) -> PodFacts:
        if pod.volumes:
            claims, kept = self.cache.claims.objects, self.cache.volumes.objects
            pod = volumes.resolved(pod, claims, kept)
        return self.devices.resolved(pod)

    def _judge(self, known: Known) -> None:
        """Is it to be offered now?"""
        self._ready.pop(known.key, None)
        arranged = known.arranged
        if arranged is None or known.job:
            return
        pods = self.pods_of(known)
        self.asked_for(name for name, _ in arranged.gang.asks.extended)
        layout = self.layout()
        made = arrival_of(arranged.gang, layout)
        if isinstance(made, str):
            self.notes(pods, made)
            return
        if arranged.missing or self.maker_is_gone(known) or self._is_suspended(known):
            return
        # What an earlier attempt has done is done; of a gang that was given up the rest is left.
        left = [pod for pod in pods if pod.phase != "Succeeded"]
        if left and all(not pod.node and not pod.ended and not pod.deleting for pod in left):
            self._ready[known.key], self._fresh[known.key] = (layout, made), None

    # -- between the daemon and the table ------------------------------------------------------

    def offers(self) -> list[Arrival]:
        """What may be offered now: ready, and neither answered nor just offered."""
        now_s, found = self.now_s(), []
        looked, self._fresh = self._fresh, {}
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s, looked = now_s, dict.fromkeys(self._ready)
        layout = self.layout()
        for key in looked:
            if key not in self._ready:
                continue
            known = self.known[key]
            if known.refused and now_s - known.refused_s < REFUSED_S:
                continue
            if known.offered_s and now_s - known.offered_s < ANSWER_S:
                continue
            assert known.arranged is not None, f"ready without pods: {known}"
            of, offer = self._ready[key]
            made = offer if of is layout else arrival_of(known.arranged.gang, layout)
            if isinstance(made, Arrival):
                known.offered_s = now_s
                found.append(made)
        return found

    def answer(self, key: str, job: str) -> None:
        """It is this job."""
        known = self.known.setdefault(key, Known(key))
        self._uncertain[key] = None
        known.job, known.refused, known.leaving = job, "", False
        self._job_of[key], self._key_of[job] = job, key
        self._ready.pop(key, None)

    def refuse(self, key: str, why: str) -> None:
        """It can never run, as things are."""
        if (known := self.known.get(key)) is not None:
            known.refused, known.refused_s, known.offered_s = why, self.now_s(), 0.0
            self.notes(self.pods_of(known), why)

    def withdraw(self, key: str) -> None:
        """If it can no more be placed as it is now, its job ends, its pods are told why, and it is
        offered again once it can: else it would be started again and again."""
        known = self.known.get(key)
        if known is None or known.arranged is None or not known.job or known.leaving:
            return
        if known.arranged.gang.refused:
            known.leaving = True
            self.tell(JobStopAsked(known.job, by=BY))

    def part(self, key: str) -> None:
        """Its job has ended."""
        self._key_of.pop(self._job_of.pop(key, ""), None)
        if (known := self.known.get(key)) is not None:
            known.job, known.leaving, known.offered_s = "", False, 0.0
            self._uncertain[key] = None
            if known.unit is not None:
                self._dirty[known.unit] = None

    def tick(self, placed: Mapping[str, object]) -> None:
        """Let depart what has gone. `placed` are the gangs that have an allocation.

        Looks only at those of which something changed, until they live and lack nothing.
        """
        now_s = self.now_s()
        for key in list(self._uncertain):
            known = self.known.get(key)
            if known is None:
                del self._uncertain[key]
                continue
            if self._lives(known):
                known.absent_s = 0.0
                self._look_for_missing(known, now_s)
                if not known.missing_s:
                    del self._uncertain[key]
                continue
            known.absent_s = known.absent_s or now_s
            gone_s = now_s - known.absent_s
            if not known.job:
                if known.arranged is None and gone_s > ABSENT_S:
                    del self.known[key], self._uncertain[key]
                continue
            patience_s = GONE_S if self.maker_is_gone(known) else ABSENT_S
            if gone_s < patience_s or known.leaving:
                continue
            if known.key in placed and patience_s != GONE_S:
                continue  # its members' ends are told one by one
            known.leaving = True
            self.tell(JobStopAsked(known.job, by=BY))

    def _look_for_missing(self, known: Known, now_s: float) -> None:
        """A gang that waits for pods of its own says so, and for how many."""
        arranged = known.arranged
        if known.job or arranged is None or not arranged.missing:
            known.missing_s = 0.0
            return
        known.missing_s = known.missing_s or now_s
        if now_s - known.missing_s >= MISSING_S and not arranged.gang.refused:
            members = arranged.gang.members
            text = f"{arranged.missing} of its {members} pods are not there yet, or are held back"
            self.notes(self.pods_of(known), text)

    def _lives(self, known: Known) -> bool:
        if known.unit is None:
            return False
        objects, gang_of = self.cache.pods.objects, self._gang_of
        for key in self._units.get(known.unit, ()):
            if gang_of.get(key) == known.key:
                pod = objects.get(key)
                if pod is not None and not pod.ended:
                    return not self.maker_is_gone(known)
        return False

    def maker_is_gone(self, known: Known) -> bool:
        """What made its pods is no more, or has finished; for a bare pod: the pod itself.

        A group is not a maker: it may go before its pods do.
        """
        if known.unit is None:
            return False  # nothing of it was seen since the start: it may be between attempts
        if known.unit.kind in foreign.KINDS and known.unit.kind in self.cache.tops:
            top = self.cache.tops[known.unit.kind].objects.get(known.unit.key)
            return top is None or bool(top.finished)
        return not self._units.get(known.unit)

    def _is_suspended(self, known: Known) -> bool:
        assert known.unit is not None, f"arranged without a unit: {known}"
        if known.unit.kind not in foreign.KINDS or known.unit.kind not in self.cache.tops:
            return False
        top = self.cache.tops[known.unit.kind].objects.get(known.unit.key)
        return top is not None and bool(top.suspended)

    # -- what others ask of it -----------------------------------------------------------------

    def gang_of(self, pod: PodFacts) -> str:
        """The key of the gang that the pod is of, or ""."""
        return self._gang_of.get(pod.key, "")

    def pods_of(self, known: Known) -> list[PodFacts]:
        """By rank."""
        if known.arranged is None:
            return []
        objects = self.cache.pods.objects
        return [objects[key] for _, key in sorted(known.arranged.seats) if key in objects]

    def seats(self, key: str) -> dict[int, PodFacts]:
        """rank → the pod that has it now."""
        known = self.known.get(key)
        if known is None or known.arranged is None:
            return {}
        objects = self.cache.pods.objects
        return {rank: objects[pod] for rank, pod in known.arranged.seats if pod in objects}

    def gang(self, key: str) -> Gang | None:
        """What is known of it, while it has pods."""
        known = self.known.get(key)
        return known.arranged.gang if known is not None and known.arranged is not None else None

    def may_replace(self, key: str) -> bool:
        """True while its maker is there and may make another pod for one that broke."""
        known = self.known.get(key)
        if known is None or known.unit is None or known.unit.kind == POD:
            return False
        return not self.maker_is_gone(known)

    def key_of(self, job: str) -> str:
        """The gang of a job, or ""."""
        return self._key_of.get(job, "")


def _ties_of(pod: PodFacts) -> list[tuple[str, str]]:
    """The claims by which it waits, or goes somewhere."""
    found = [(VOLUME_CLAIM, f"{pod.namespace}/{name}") for name in pod.volumes]
    return found + [(CLAIM, f"{pod.namespace}/{use.claim}") for use in pod.claims if use.claim]


def arrival_of(gang: Gang, layout: Layout) -> Arrival | str:
    """What the daemon is told of it; or why it cannot be placed truthfully."""
    if gang.refused:
        return gang.refused
    wish = wish_of(gang.within, gang.within_soft, layout)
    demands = extended_needs(gang.asks, gang.needs)
    if wish.refused or demands.refused:
        return wish.refused or demands.refused
    asks = gang.asks
    return Arrival(
        key=gang.key,
        kind=gang.kind,
        name=gang.name,
        project=gang.project,
        members=gang.members,
        members_min=gang.members_min,
        shape=Shape(asks.gpus, asks.gpu_milli, asks.cpu_milli, asks.memory_mib),
        priority=gang.priority,
        preemptible=gang.preemptible,
        preempts=gang.preempts,
        within=wish.level,
        within_soft=wish.soft,
        spread_nodes=gang.members if gang.spread else 0,
        needs=demands.needs,
        tolerates=gang.tolerates,
    )
