"""Pods of others that a binding of ours put where they have no seat (any more): they are removed.

A binding that was held up on its way, by a proxy, until its gang had been given up is done when it
is let go. The pod then uses devices that its allocation has not, and its gang is never whole again.
So it goes, and its maker makes another one; until then its devices count as taken by others.

Promises: removed is only what names our scheduler, a gang and an allocation, and either was seen to
be bound while that allocation was not live, or while its seat there was another's; or has no live
allocation while pods of its own gang wait, for `STRANDED_S`. Who merely runs on without an
allocation in this ledger, as after a ledger was lost, is left alone. Whoever writes such
annotations at his own pods gets his own pods deleted, no others. Of pods that Madang made itself
`settling` sees to it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.cache import ALLOCATION, GANG, Cache, PodNews
from madang.engines.kubernetes.notes import Notes, about
from madang.engines.kubernetes.stays import Stays
from madang.engines.kubernetes.values import PodFacts

AGAIN_S = 10.0  # a removal that failed is asked for again
STRANDED_S = 60.0  # makers and watches had their time


@dataclass(slots=True)
class Late:
    """`remove` has a pod deleted by its uid; it may fail, and is asked for again."""

    cache: Cache
    stays: Stays
    gangs: Gangs
    notes: Notes
    remove: Callable[[PodFacts, str], None]
    _going: dict[str, tuple[PodFacts, str, float]] = field(default_factory=dict)  # uid → when asked
    _stranded: dict[str, float] = field(default_factory=dict)  # uid → since when

    def look(self, news: PodNews) -> None:
        """A pod changed; its stay has looked at it already."""
        pod, before = news.pod, news.before
        if news.gone or pod.ended or pod.deleting:
            self._going.pop(pod.uid, None)
        elif before is not None and not before.node and self._has_no_seat(pod):
            self._drop(pod, f"was bound to {pod.node} when its place there had been given up")

    def tick(self) -> None:
        """Ask again for what did not go."""
        now_s = self.stays.now_s()
        for pod, text, asked_s in list(self._going.values()):
            if now_s - asked_s >= AGAIN_S:
                self._going[pod.uid] = pod, text, now_s
                self.remove(pod, text)

    def look_for_stranded(self) -> None:
        """Those that were bound while nobody led: they keep their gang from ever being whole."""
        now_s, before = self.stays.now_s(), self._stranded
        self._stranded = {
            pod.uid: before.get(pod.uid, now_s)
            for pods in self.cache.of_allocation.values()
            for pod in pods.values()
            if not pod.deleting and self._has_no_seat(pod) and self._is_waited_for(pod)
        }
        for pods in list(self.cache.of_allocation.values()):
            for pod in list(pods.values()):
                since_s = self._stranded.get(pod.uid, now_s)
                if now_s - since_s >= STRANDED_S and pod.uid not in self._going:
                    self._drop(pod, f"sits on {pod.node} without a place, and its gang waits")

    def _drop(self, pod: PodFacts, text: str) -> None:
        text = f"{text}: it is removed, so that another one is made"
        self._going[pod.uid] = pod, text, self.stays.now_s()
        self.notes.event(pod.namespace, about(pod), "BoundLate", f"{pod.name} {text}", bad=True)
        self.remove(pod, text)

    def _has_no_seat(self, pod: PodFacts) -> bool:
        """It was bound by us, and not to a seat that is its own now."""
        id = pod.annotation(ALLOCATION)
        if not (id and pod.node and pod.annotation(GANG)) or pod.ended:
            return False
        if pod.scheduler != self.gangs.scheduler or self.gangs.is_own(pod):
            return False
        stay = self.stays.live.get(id)
        return stay is None or self.stays.is_left_out(stay, pod)

    def _is_waited_for(self, pod: PodFacts) -> bool:
        key = pod.annotation(GANG)
        if self.gangs.gang_of(pod) != key:
            return False
        beside = self.gangs.seats(key).values()
        return any(not (one.node or one.gated or one.ended or one.deleting) for one in beside)
