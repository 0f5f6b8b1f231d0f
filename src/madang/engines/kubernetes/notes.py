"""Words about pods and gangs on the API server: why they wait, where they will go, what befell.

Promises: notes never hold up what is done. Of each pod only the newest note is written, and only
where it says something new; a reason that came too soon after another is written when its time has
come, if the pod is still not bound then (see `reasons`). Everything that waits here is bounded.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import isfinite

from madang.engines.kubernetes.binder import Binder
from madang.engines.kubernetes.client import Object
from madang.engines.kubernetes.reasons import Reason, Reasons
from madang.engines.kubernetes.values import PodFacts

EVENTS_MAX = 1_000
MARKS = 64  # reasons that are written before events and nominations have their turn again


class Notes:
    """`run` it as a task on the engine's loop; the rest is called there too. `is_unbound`: the pod
    is there now, and waits."""

    def __init__(
        self,
        binder: Binder,
        is_unbound: Callable[[PodFacts], bool],
        now_s: Callable[[], float],
    ) -> None:
        self._binder = binder
        self._is_unbound = is_unbound
        self._now_s = now_s
        self._reasons = Reasons()
        self._where: dict[str, tuple[PodFacts, str]] = {}
        self._events: list[tuple[str, Object, str, str, str]] = []
        self._bell = asyncio.Event()

    def waits(self, pods: Iterable[PodFacts], why: str) -> None:
        """PodScheduled=False, reason Unschedulable, for each that is not bound."""
        now_s = self._now_s()
        for pod in pods:
            if not pod.node and not pod.ended and self._reasons.say(Reason(pod, why), now_s):
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
        self._reasons.forget(pod.uid)
        self._where.pop(pod.uid, None)

    async def run(self) -> None:
        """Write what waits, for ever; where pods will go first."""
        while True:
            await self._something()
            self._bell.clear()
            where, self._where = self._where, {}
            events, self._events = self._events, []
            await asyncio.gather(
                *(self._binder.nominate(p.namespace, p.name, p.uid, to) for p, to in where.values())
            )
            await asyncio.gather(*(self._binder.event(*one) for one in events))
            due = self._reasons.take(self._now_s(), MARKS)
            await asyncio.gather(*(self._mark(one) for one in due))

    async def _something(self) -> None:
        """Wait until there is something to write."""
        wait_s = self._reasons.next_s() - self._now_s()
        if wait_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s if isfinite(wait_s) else None):
                    await self._bell.wait()

    async def _mark(self, reason: Reason) -> None:
        pod = reason.pod
        if not self._is_unbound(pod):
            self._reasons.forget(pod.uid)
        elif not await self._binder.mark_unschedulable(
            pod.namespace, pod.name, pod.uid, reason.text, lambda: self._is_unbound(pod)
        ):
            self._reasons.failed(reason, self._now_s())


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
