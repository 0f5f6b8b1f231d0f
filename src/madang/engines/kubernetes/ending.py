"""Takes away what is to go: members that are stopped, and all of a stay that is given up.

Promises: only pods are touched that were looked at, by their uid; a pod that may have been made or
bound unseen is looked for before its member is told as ended. Where a disruption budget holds: who
was to go by the scheduler's choice, and of whom nobody has gone yet, goes on, and the scheduler is
told; anybody else stays releasing, and is asked again.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress

from madang.core.budgets import BY_CHOICE
from madang.core.model import Exit
from madang.engines.base import EngineError, Launch
from madang.engines.kubernetes import trim
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.cache import RANK
from madang.engines.kubernetes.client import Missing
from madang.engines.kubernetes.evicting import Held, Vanished
from madang.engines.kubernetes.hands import Hands
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.manifests import CODE_PASS, collection_of, pass_secret
from madang.engines.kubernetes.notes import about
from madang.engines.kubernetes.shields import Shields
from madang.engines.kubernetes.stays import LOST, Member, Stay, Stays
from madang.engines.kubernetes.values import PodFacts

log = logging.getLogger("madang.kubernetes")

HELD_S = 5.0  # a disruption budget is asked again so often
GRACE_S_MAX = 86_400
LATE_GRACE_S = 1  # 0 would drop the object while its processes may still run


class Ender:
    """On the engine's loop. Its verbs raise ApiError and Deposed: doing them again is harmless."""

    def __init__(self, hands: Hands, stays: Stays, gangs: Gangs, shields: Shields) -> None:
        self._hands = hands
        self._stays = stays
        self._gangs = gangs
        self._shields = shields

    async def give_up(self, stay: Stay, text: str, end: Exit) -> None:
        """Remove what there is of it; it has ended when that is gone. Raises what removing does."""
        log.warning("%s: %s", stay.id, text)
        pods = [one.pod for one in stay.members.values() if one.pod is not None]
        living = [pod for pod in pods if not pod.ended]
        for pod in living[:1]:
            self._hands.notes.event(pod.namespace, about(pod), "RolledBack", text, bad=True)
        self._stays.give_up(stay, end, text)
        await asyncio.gather(*(self.remove(pod, LATE_GRACE_S, text) for pod in living))

    async def take_away(self, stay: Stay) -> None:
        """Ask who is still there to end, within the grace that is left."""
        assert stay.stop is not None, f"nobody asked for it to end: {stay}"
        left_s = stay.stop_at_s - self._stays.now_s()
        grace_s = min(max(math.ceil(left_s), LATE_GRACE_S), GRACE_S_MAX)
        going = [member for member in stay.members.values() if must_go(stay, member)]
        stop, at_s, text = stay.stop, stay.stop_at_s, _reason(stay)
        if stop.reason in BY_CHOICE and _is_whole(stay, going):
            # One of those who may be held goes first: if it is held, none of them has gone.
            going.sort(key=lambda one: one.pod is None or not self._shields.covers(one.pod))
            if not await self._let_go(stay, going[0], grace_s, text):
                if stay.stop is stop and _is_whole(stay, going):
                    self._stays.take_back(stay)
                    self._shields.held(stay, stay.held)
                    stay.held = ""
                return
            going.pop(0).asked_at_s = at_s
        told = await asyncio.gather(
            *(self._let_go(stay, member, grace_s, text) for member in going), return_exceptions=True
        )
        failures = [one for one in told if isinstance(one, BaseException)]
        for member, one in zip(going, told, strict=True):
            if one is True:
                member.asked_at_s = at_s
        if failures:
            raise failures[0]
        if False in told:
            stay.again_s = self._stays.now_s() + HELD_S

    async def _let_go(self, stay: Stay, member: Member, grace_s: int, text: str) -> bool:
        """Ask one member to end. False: a disruption budget holds it."""
        pod = member.pod
        if pod is None:
            await self._never_made(stay, member)
            return True
        by_choice = stay.stop is not None and stay.stop.reason in BY_CHOICE
        asks = bool(stay.key) or (by_choice and self._shields.covers(pod))
        if not asks or stay.fate is not None:
            await self.remove(pod, grace_s, text)
            return True
        grace_s = min(grace_s, max(pod.grace_s, LATE_GRACE_S))
        async with self._hands.line:
            said = await self._hands.evictor.evict(pod.namespace, pod.name, pod.uid, grace_s, text)
        if isinstance(said, Held):
            if stay.held != said.text:
                stay.held = said.text
                words = f"{stay.job} is to make room ({text}), but a budget holds it: {said.text}"
                self._hands.notes.event(pod.namespace, about(pod), "EvictionHeld", words, bad=True)
            return False
        stay.held = ""
        if isinstance(said, Vanished):
            self._stays.gone(stay, pod)
        return True

    async def _never_made(self, stay: Stay, member: Member) -> None:
        """A pod was asked for and the answer was lost: see whether it is there."""
        launch = stay.launch
        if launch is not None and not stay.key:
            made = await asyncio.to_thread(self._hands.made, launch)
            bodies = {
                int(one["metadata"]["annotations"][RANK]): one
                for one in made
                if one["kind"] == "Pod"
            }
            meta = bodies[member.rank]["metadata"]
            path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
            try:
                found = trim.pod(await self._hands.client.get(path))
            except Missing:
                found = None
            if found is not None:
                self._stays.seen(stay, found)
                return
        for pod in self._gangs.seats(stay.key).values() if stay.key else ():
            if stay.asked_for.get(pod.uid) == member.rank:
                # Nobody knows whether it was bound: it goes, and its maker makes another one.
                await self.remove(pod, LATE_GRACE_S, "its binding was not answered")
        self._stays.end_one(stay, member.rank, LOST)

    async def remove(self, pod: PodFacts, grace_s: int, text: str) -> None:
        """Delete it, whatever its budget says."""
        async with self._hands.line:
            await self._hands.evictor.remove(pod.namespace, pod.name, pod.uid, grace_s, text)

    async def clear(self, base: str, pods: Sequence[PodFacts]) -> None:
        """What these pods, which have ended, needed beside them; `base` begins their names. What no
        pod speaks of hangs on the Service, and goes with it."""
        passes = {pod.annotation(CODE_PASS): None for pod in pods if pod.annotation(CODE_PASS)}
        secrets = [f"{base}-env", *(pass_secret(base, digest) for digest in passes)]
        inside = f"namespaces/{self._hands.namespace}"
        paths = [f"/api/v1/{inside}/services/{base}"]
        paths += [f"/api/v1/{inside}/secrets/{name}" for name in secrets]
        claims = (use.claim for pod in pods for use in pod.claims)
        paths += [f"/apis/resource.k8s.io/v1/{inside}/resourceclaims/{name}" for name in claims]
        await self._delete(paths)

    async def clear_unmade(self, launch: Launch) -> None:
        """The same where no pod was ever seen: then it is what this process would make."""
        with suppress(EngineError):
            objects = await asyncio.to_thread(self._hands.made, launch)
            beside = [one for one in objects if one["kind"] != "Pod"]
            await self._delete(f"{collection_of(one)}/{one['metadata']['name']}" for one in beside)

    async def _delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            if not self._hands.held():
                raise Deposed("not the leader any more: it is left to the next one")
            with suppress(Missing):
                async with self._hands.line:
                    await self._hands.client.delete(path)

    def end_unmade(self, stay: Stay) -> None:
        """Members of a stay that is stopped have ended, if nobody ever asked for their pods."""
        for member in list(stay.members.values()):
            if member.pod is None and not _was_asked_for(stay, member):
                self._stays.end_one(stay, member.rank, LOST)


def _is_whole(stay: Stay, going: Sequence[Member]) -> bool:
    """Nobody of it has been asked to end so far, or is about to; `going` are all who are there."""
    return bool(going) and all(
        member in going
        and member.asked_at_s == 0.0
        and member.pod is not None
        and not member.pod.deleting
        for member in stay.members.values()
        if not member.ended
    )


def must_go(stay: Stay, member: Member) -> bool:
    """It has not ended, and was not asked to end as soon as it must by now."""
    if member.ended or (member.pod is not None and member.pod.ended):
        return False
    if member.pod is None and not _was_asked_for(stay, member):
        return False
    return member.asked_at_s == 0.0 or stay.stop_at_s < member.asked_at_s


def _was_asked_for(stay: Stay, member: Member) -> bool:
    """Its pod was asked to be made or bound: it may be there though we do not see it."""
    return member.tried or member.rank in stay.asked_for.values()


def _reason(stay: Stay) -> str:
    why = stay.stop.reason if stay.stop is not None else ""
    return f"Madang: {why}" if why else "Madang ends it"
