"""What changed becomes facts and work: the order in which the engine's tables look at the cluster.

On the engine's loop, without waiting for anything. First what the daemon asked, then gangs (a pod
is known by its gang), then members, time, nodes; then what is due is begun. Promises: annotations
alone make no pod a member: whoever makes pods can write them, so a pod must be of the very gang
that its allocation places, or of our own namespace.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from madang.core.events import Fact, MemberStarted
from madang.core.model import Allocation
from madang.engines.base import Action, Arrival, Launch, Past, Promise, Start, Stop, Tell
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.cache import ALLOCATION, JOB, RANK, Cache, PodNews
from madang.engines.kubernetes.carrying import Carrier
from madang.engines.kubernetes.hands import Hands
from madang.engines.kubernetes.late import Late
from madang.engines.kubernetes.nodefacts import NodeTeller
from madang.engines.kubernetes.notes import Notes
from madang.engines.kubernetes.shields import Shields
from madang.engines.kubernetes.stays import Stay, Stays
from madang.engines.kubernetes.values import PodFacts
from madang.engines.kubernetes.viewing import Viewer

TICK_S = 1.0
CLEAN_S = 60.0
KEEP_ENDED_S = 6 * 3600.0  # our own ended pods, for their logs


@dataclass(frozen=True, slots=True)
class Ours:
    """Whose pods are ours: to place (`scheduler`), and of our own jobs (in `namespace`)."""

    scheduler: str
    namespace: str
    has_tree: bool = False  # operators declare the network tree

    def is_own(self, pod: PodFacts) -> bool:
        """It is of a job of our own."""
        return bool(pod.label(JOB)) and pod.namespace == self.namespace


@dataclass(slots=True)
class Heap:
    """What waits for the daemon to fetch it, and what the daemon asked. Any thread."""

    facts: deque[Fact] = field(default_factory=deque)
    offers: deque[Arrival] = field(default_factory=deque)
    asked: deque[Callable[[], None]] = field(default_factory=deque)  # as much as is bound at most


class Settler:
    """`settle` again and again, once `adopt` was called."""

    def __init__(self, ours: Ours, cache: Cache, hands: Hands, heap: Heap) -> None:
        self._ours = ours
        self._heap = heap
        self._cache = cache
        self._notes: Notes = hands.notes
        self._held = hands.held
        tell = heap.facts.append
        self.stays = Stays(tell, time.monotonic, now_ms)
        self.stays.over = self._over
        self.devices = hands.claimer.devices
        self.nodes = NodeTeller(cache, self.stays, self.is_ours, tell, time.monotonic, self.devices)
        self.nodes.declared = ours.has_tree
        self.gangs = Gangs(
            cache, ours.scheduler, ours.is_own, time.monotonic, tell,
            hands.notes.waits, lambda: self.nodes.layout, self.nodes.asked_for, self.devices,
        )  # fmt: skip
        self.shields = Shields(cache, self.stays, tell, time.monotonic)
        self.carrier = Carrier(hands, cache, self.stays, self.gangs, self.shields)
        self.late = Late(cache, self.stays, self.gangs, hands.notes, self.carrier.remove)
        self.viewer: Viewer | None = None
        self._adopted = False
        self._ticked_s = self._cleaned_s = 0.0

    # -- the order of things -------------------------------------------------------------------

    def settle(self) -> None:
        """Look at all that changed since the last call."""
        if not self._adopted:
            return
        self._do_asked()
        pods, tops = self._cache.take_pods(), self._cache.take_tops()
        self.devices.look(tops)
        self.gangs.look(pods, tops)
        for news in pods:
            self._look_at(news)
        self.shields.look(self._cache.take_budgets(), pods)
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._tick()
        self.nodes.look(self._cache.take_nodes())
        self.carrier.look()
        self._heap.offers.extend(self.gangs.offers())

    def _do_asked(self) -> None:
        asked = self._heap.asked
        for _ in range(len(asked)):
            asked.popleft()()

    def _tick(self) -> None:
        self._ticked_s = time.monotonic()
        self.stays.tick(self._may_replace)
        for stay, why in self.stays.stuck():
            self.carrier.give_up(stay, why)
        self.gangs.tick(self.stays.of_key)
        self.nodes.tick()
        self.late.tick()
        self.shields.tick()
        self.carrier.take_back_devices()
        if self.viewer is not None:
            self.viewer.logs.tick()
        if self._ticked_s - self._cleaned_s >= CLEAN_S and self._held():
            self._cleaned_s = self._ticked_s
            self._clean()

    def _look_at(self, news: PodNews) -> None:
        pod = news.pod
        id = pod.annotation(ALLOCATION)
        stay = self.stays.live.get(id) if id else None
        if news.gone:
            self._notes.forget(pod)
            if stay is not None:
                self.stays.gone(stay, pod)
        elif stay is not None and self._belongs(stay, pod):
            self.stays.seen(stay, pod)
        elif id and self._ours.is_own(pod):
            self._stray(pod, id)
        self.late.look(news)
        if stay is None and (key := self.gangs.gang_of(pod)):
            stay = self.stays.of_key.get(key)
        if stay is not None:
            self.carrier.mark(stay)

    def _stray(self, pod: PodFacts, id: str) -> None:
        """A pod of ours whose allocation has ended, or is not in the ledger."""
        rank = pod.annotation(RANK)
        if pod.ended or pod.deleting or id in self.stays.live:
            return
        if self.stays.knows(id):
            self.carrier.remove(pod, "its allocation has ended")
        elif rank.isascii() and rank.isdigit():
            self._heap.facts.append(MemberStarted(id, int(rank), now_ms()))

    def is_ours(self, pod: PodFacts) -> bool:
        """The core counts it already, by its allocation."""
        stay = self.stays.live.get(pod.annotation(ALLOCATION))
        if stay is None or not self._belongs(stay, pod):
            return False
        return pod.ended or not self.stays.is_left_out(stay, pod)

    def _belongs(self, stay: Stay, pod: PodFacts) -> bool:
        if not stay.key:
            return self._ours.is_own(pod)
        return self.gangs.gang_of(pod) == stay.key

    def _may_replace(self, stay: Stay) -> bool:
        return bool(stay.key) and self.gangs.may_replace(stay.key)

    def _over(self, stay: Stay) -> None:
        self.shields.forget(stay)
        for seat in stay.seats:
            self._cache.mark_node(seat.node)
        self.carrier.clear(stay)

    def _clean(self) -> None:
        """What is left over goes; our own pods that ended long ago, and their logs, too."""
        self.late.look_for_stranded()
        old_ms = now_ms() - int(KEEP_ENDED_S * 1000)
        ended = [
            pod
            for pod in self._cache.pods.objects.values()
            if pod.ended and self._ours.is_own(pod) and not pod.deleting
        ]
        old = [pod for pod in ended if pod.created_ms < old_ms and not self.is_ours(pod)]
        self.carrier.forget(old)

    # -- what the daemon asked -----------------------------------------------------------------

    def recall(self, past: Past) -> None:
        """What the yard has from before."""
        self.nodes.recall(past.nodes)
        self.shields.recall(past.shields, past.shielded)

    def adopt(self, allocations: Sequence[Allocation]) -> None:
        """Take over what is live; everything was listed anew right before."""
        self._do_asked()  # among it: which jobs are whose gang
        self._cache.listen()
        pods, tops = self._cache.take_pods(), self._cache.take_tops()
        self.devices.look(tops)
        self.gangs.look(pods, tops)
        for allocation in allocations:
            key = self.gangs.key_of(allocation.job)
            beside = self._cache.of_allocation.get(allocation.id, {}).values()
            mine = [
                pod
                for pod in beside
                if (self.gangs.gang_of(pod) == key if key else self._ours.is_own(pod))
            ]
            self.carrier.mark(self.stays.adopt(allocation, key, mine))
        for pod in list(self._cache.pods.objects.values()):
            if (id := pod.annotation(ALLOCATION)) and self._ours.is_own(pod):
                self._stray(pod, id)
        self.nodes.look_at_all()
        self._cache.take_budgets()
        self.shields.look_at_all()
        self._adopted = True

    def act(self, action: Action) -> None:
        """Carry it out, in the end."""
        match action:
            case Start(launch):
                self._start(launch)
            case Stop():
                self._stop(action)
            case Tell():
                if (stay := self.stays.live.get(action.allocation)) is not None:
                    self.carrier.warn(stay, action.text)
            case Promise():
                self._promise(action)

    def _start(self, launch: Launch) -> None:
        stay = self.stays.start(launch)
        if stay is not None:
            self.carrier.mark(stay)

    def _stop(self, stop: Stop) -> None:
        stay = self.stays.stop(stop)
        if stay is not None:
            for member in stay.members.values():
                # Its log goes with the pod: what is to be kept of it is fetched from now on.
                if self.viewer and not stay.key and member.pod is not None and member.pod.node:
                    self.viewer.logs.follow(member.pod)
            self.carrier.mark(stay)
            return
        for pod in self._cache.of_allocation.get(stop.allocation, {}).values():
            if self._ours.is_own(pod) and not pod.ended:
                self.carrier.remove(pod, "nobody knows its allocation")

    def _promise(self, promise: Promise) -> None:
        pods = self.gangs.seats(self.gangs.key_of(promise.job))
        for rank, pod in pods.items():
            node = promise.seats[rank].node if rank < len(promise.seats) else ""
            if not pod.node:
                self._notes.nominate(pod, node)

    def explain(self, key: str, why: str) -> None:
        """Say at its pods why the gang waits."""
        self._notes.waits(self.gangs.seats(key).values(), why)


def now_ms() -> int:
    """The wall's time."""
    return time.time_ns() // 1_000_000
