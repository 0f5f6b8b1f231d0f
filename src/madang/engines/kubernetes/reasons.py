"""Which pod is to say now why it waits: a plain table, without I/O or a clock of its own.

Promises: the last reason given for a pod is the one that is written in the end, at once if nothing
was written at it for `AGAIN_S`, else when that time is over; what is written already is not written
again; what could not be written comes again. A pod is here once, and not after it was forgotten. At
most `WAITING_MAX` wait; beyond that new ones are dropped, and come again with their next change.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf

from madang.engines.kubernetes.values import PodFacts

WAITING_MAX = 50_000
AGAIN_S = 30.0  # numbers in a reason change with every turn: not more often than this


@dataclass(frozen=True, slots=True)
class Reason:
    """What a pod that is not bound is to say."""

    pod: PodFacts
    text: str


@dataclass(slots=True)
class Reasons:
    """All times are of one monotonic clock, in seconds."""

    _waiting: dict[str, Reason] = field(default_factory=dict)  # by uid
    _written: dict[str, tuple[str, float]] = field(default_factory=dict)  # uid → text, when
    _due: list[tuple[float, str]] = field(default_factory=list)  # a heap: when, uid; one a uid

    def say(self, reason: Reason, now_s: float) -> bool:
        """It is to be written in its time. False: there is nothing new to do."""
        uid = reason.pod.uid
        text, at_s = self._written.get(uid, ("", -inf))
        if uid in self._waiting:
            self._waiting[uid] = reason  # its time stays; it may say again what is written
            return False
        if text == reason.text or len(self._due) >= WAITING_MAX:
            return False
        self._waiting[uid] = reason
        heappush(self._due, (max(now_s, at_s + AGAIN_S), uid))
        return True

    def take(self, now_s: float, most: int) -> list[Reason]:
        """What is to be written now; of each that is not, `failed` must be told."""
        found: list[Reason] = []
        while self._due and self._due[0][0] <= now_s and len(found) < most:
            _, uid = heappop(self._due)
            reason = self._waiting.pop(uid, None)
            if reason is not None and reason.text != self._written.get(uid, ("", 0.0))[0]:
                self._written[uid] = reason.text, now_s
                found.append(reason)
        return found

    def failed(self, reason: Reason, now_s: float) -> None:
        """Nobody knows what is written there now: it is tried again, if nothing newer waits."""
        uid = reason.pod.uid
        if uid not in self._written:
            return  # forgotten meanwhile
        self._written[uid] = "", now_s
        if uid not in self._waiting:
            self.say(reason, now_s)

    def forget(self, uid: str) -> None:
        """The pod is no more, or waits no more."""
        self._waiting.pop(uid, None)
        self._written.pop(uid, None)

    def next_s(self) -> float:
        """When there may be something to take; infinity: not before somebody says something."""
        return self._due[0][0] if self._due else inf
