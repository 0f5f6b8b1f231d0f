"""Carries out what was decided: says which stay has something done for it, and sees it through.

One task a stay at most. Promises: everything may be done again after a crash at any point (pods of
our own have names by allocation and rank, a binding names the pod's uid and its one node); what
fails is tried again; nothing is begun by who is not the leader. How pods are made, bound and ended
is said in `making`, `seating` and `ending`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from madang.engines.base import Launch
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.cache import Cache
from madang.engines.kubernetes.claiming import Busy
from madang.engines.kubernetes.client import ApiError, Away, TooMany
from madang.engines.kubernetes.dra_objects import ClaimFacts
from madang.engines.kubernetes.ending import LATE_GRACE_S, Ender, must_go
from madang.engines.kubernetes.hands import AGAIN_S, Hands
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.making import Maker
from madang.engines.kubernetes.manifests import base_name
from madang.engines.kubernetes.seating import Seater
from madang.engines.kubernetes.shields import Shields
from madang.engines.kubernetes.stays import ENGINE_FAILED, Stay, Stays
from madang.engines.kubernetes.values import PodFacts

log = logging.getLogger("madang.kubernetes")

WARNING = "madang.io/warning"
TRIES = 10  # what is left over then goes with the ended pods
CLEAR_S = 5.0


class Carrier:
    """On the engine's loop. `look` says which stays may need something done."""

    def __init__(
        self, hands: Hands, cache: Cache, stays: Stays, gangs: Gangs, shields: Shields
    ) -> None:
        self._hands = hands
        self._cache = cache
        self._stays = stays
        self._ender = Ender(hands, stays, gangs, shields)
        self._seater = Seater(hands, cache, stays, gangs, self._ender)
        self._maker = Maker(hands, stays, self._ender)
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: dict[str, None] = {}
        self._removing: set[str] = set()
        self.done: Callable[[], None] = lambda: None

    def mark(self, stay: Stay) -> None:
        """Something about it may be due."""
        self._due[stay.id] = None

    def look(self) -> None:
        """Begin what is due and not begun."""
        if not self._hands.held():
            return
        due, self._due = self._due, {}
        now_s = self._stays.now_s()
        for id in due:
            stay = self._stays.live.get(id)
            if stay is None or stay.busy:
                continue
            if now_s < stay.again_s:
                self._due[id] = None
                continue
            if (work := self._work(stay)) is not None:
                self._begin(stay, work)

    def give_up(self, stay: Stay, text: str) -> None:
        """It will never run: end it, so that its devices are free."""
        if not stay.busy and self._hands.held():
            self._begin(stay, self._ender.give_up(stay, text, ENGINE_FAILED))

    def remove(self, pod: PodFacts, text: str) -> None:
        """Have a pod of our own deleted that no stay is about."""
        if pod.uid not in self._removing and self._hands.held():
            self._removing.add(pod.uid)
            self._aside(self._removed(pod, text))

    async def _removed(self, pod: PodFacts, text: str) -> None:
        try:
            await self._ender.remove(pod, LATE_GRACE_S, text)
        finally:
            self._removing.discard(pod.uid)

    def clear(self, stay: Stay) -> None:
        """What its pods needed goes once they have ended; the pods stay for their logs."""
        pods = [one.pod for one in stay.members.values() if one.pod is not None]
        if not stay.key and self._hands.held():
            base, launch = base_name(stay.allocation), stay.launch
            self._aside(self._surely(lambda: self._ender.clear(base, pods)))
            if launch is not None and not pods:
                self._aside(self._surely(lambda: self._ender.clear_unmade(launch)))

    async def _surely(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Try it for a while, if the API server does not answer."""
        for left in reversed(range(TRIES)):
            try:
                return await work()
            except (Away, TooMany):
                if not left:
                    raise
                await asyncio.sleep(CLEAR_S)
        return None

    def forget(self, pods: Sequence[PodFacts]) -> None:
        """Have pods of our own deleted that ended long ago, and what is left of what they needed:
        who was to remove it may have died before."""
        of_base: dict[str, list[PodFacts]] = {}
        for pod in pods:
            of_base.setdefault(pod.name.rpartition("-")[0], []).append(pod)
        for base, those in of_base.items():
            if self._hands.held():
                self._aside(self._ender.clear(base, those))
        for pod in pods:
            self.remove(pod, "it ended long ago")

    def take_back_devices(self) -> None:
        """Claims whose pods need them no more give their devices back."""
        if self._hands.held():
            for facts in self._hands.claimer.stale(self._cache, self._stays):
                if facts.key not in self._removing:
                    self._removing.add(facts.key)
                    self._aside(self._taken_back(facts))

    async def _taken_back(self, facts: ClaimFacts) -> None:
        try:
            async with self._hands.line:
                await self._hands.claimer.take_back(facts)
        finally:
            self._removing.discard(facts.key)

    def warn(self, stay: Stay, text: str) -> None:
        """A word for its members, where they read it (the kubelet brings it within a minute)."""
        for member in stay.members.values():
            if member.pod is not None and not member.pod.ended and not stay.key:
                self._aside(self._warned(member.pod, text))

    async def _warned(self, pod: PodFacts, text: str) -> None:
        body = {"metadata": {"uid": pod.uid, "annotations": {WARNING: text}}}
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        async with self._hands.line:
            await self._hands.client.patch(path, body)

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that no stay waits for."""

        async def done() -> None:
            try:
                await work
            except (ApiError, Deposed) as failure:
                log.warning("left undone: %s", failure)

        task = asyncio.create_task(done())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def end(self) -> None:
        """Leave what is under way: the next engine goes on with it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _work(self, stay: Stay) -> Coroutine[Any, Any, None] | None:
        members = stay.members.values()
        if stay.stop is not None:
            self._ender.end_unmade(stay)
            going = any(must_go(stay, member) for member in members)
            return self._ender.take_away(stay) if going else None
        if stay.key:
            return self._seater.bind_gang(stay) if self._seater.is_hungry(stay) else None
        if stay.launch is not None and any(one.pod is None and not one.ended for one in members):
            return self._launch(stay, stay.launch)
        if any(one.pod and not one.pod.node and not one.pod.ended for one in members):
            return self._seater.bind_own(stay)
        return None

    def _begin(self, stay: Stay, work: Coroutine[Any, Any, None]) -> None:
        async def carried() -> None:
            try:
                await work
            except Deposed:
                log.warning("%s is left to the next leader", stay.id)
            except (ApiError, Busy) as failure:
                log.warning("%s is tried again: %s", stay.id, failure)
                stay.again_s = self._stays.now_s() + AGAIN_S
            except Exception:
                log.exception("%s is tried again after an error", stay.id)
                stay.again_s = self._stays.now_s() + 5 * AGAIN_S
            finally:
                stay.busy = False
                self._due[stay.id] = None
                self.done()

        stay.busy = True
        task = asyncio.create_task(carried())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _launch(self, stay: Stay, launch: Launch) -> None:
        if await self._maker.launch(stay, launch):
            await self._seater.bind_own(stay)
