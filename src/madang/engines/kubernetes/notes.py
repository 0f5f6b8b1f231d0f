"""Words about pods and gangs on the API server: why they wait, where they will go, what befell.

Promises: notes never hold up what is done. Of each pod only the newest note is written, and only
where it says something new; one that could not be written is tried again with the next that comes.
At most `WAITING_MAX` wait; beyond that new ones are dropped, and come again with the next change.
"""

import asyncio
from collections.abc import Iterable

from madang.engines.kubernetes.binder import Binder
from madang.engines.kubernetes.client import Object
from madang.engines.kubernetes.values import PodFacts

WAITING_MAX = 50_000
AGAIN_S = 30.0  # numbers in a reason change with every turn: not more often than this
EVENTS_MAX = 1_000

_Key = tuple[str, str]


class Notes:
    """`run` it as a task on the engine's loop; the rest is called there too."""

    def __init__(self, binder: Binder) -> None:
        self._binder = binder
        self._why: dict[str, tuple[PodFacts, str]] = {}
        self._where: dict[str, tuple[PodFacts, str]] = {}
        self._events: list[tuple[str, Object, str, str, str]] = []
        self._said: dict[str, tuple[str, float]] = {}  # uid → what, when
        self._bell = asyncio.Event()

    def waits(self, pods: Iterable[PodFacts], why: str) -> None:
        """PodScheduled=False, reason Unschedulable, for each that is not bound."""
        now_s = asyncio.get_running_loop().time()
        for pod in pods:
            text, at_s = self._said.get(pod.uid, ("", 0.0))
            if pod.node or pod.ended or text == why or len(self._why) >= WAITING_MAX:
                continue
            if text and now_s - at_s < AGAIN_S:
                continue
            self._why[pod.uid] = (pod, why)
            self._bell.set()

    def nominate(self, pod: PodFacts, node: str) -> None:
        """The node on which room is being made for it; "" takes it back."""
        if pod.nominated != node:
            self._where[pod.uid] = (pod, node)
            self._bell.set()

    def event(
        self, namespace: str, about: Object, reason: str, message: str, *, bad: bool = False
    ) -> None:
        """One line in `kubectl describe`."""
        if len(self._events) < EVENTS_MAX:
            kind = "Warning" if bad else "Normal"
            self._events.append((namespace, about, reason, message, kind))
            self._bell.set()

    def forget(self, pod: PodFacts) -> None:
        """The pod is no more."""
        self._said.pop(pod.uid, None)
        self._why.pop(pod.uid, None)
        self._where.pop(pod.uid, None)

    async def run(self) -> None:
        """Write what waits, for ever; where pods will go first."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            where, self._where = self._where, {}
            why, self._why = self._why, {}
            events, self._events = self._events, []
            await asyncio.gather(
                *(self._binder.nominate(p.namespace, p.name, p.uid, to) for p, to in where.values())
            )
            await asyncio.gather(*(self._binder.event(*one) for one in events))
            await asyncio.gather(*(self._mark(pod, text) for pod, text in why.values()))

    async def _mark(self, pod: PodFacts, why: str) -> None:
        if await self._binder.mark_unschedulable(pod.namespace, pod.name, pod.uid, why):
            self._said[pod.uid] = (why, asyncio.get_running_loop().time())


def about(pod: PodFacts) -> Object:
    """An event's object: the pod's controller, else the pod."""
    if pod.owner is not None:
        owner = pod.owner
        return {
            "apiVersion": owner.api_version,
            "kind": owner.kind,
            "name": owner.name,
            "uid": owner.uid,
        }
    return {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
