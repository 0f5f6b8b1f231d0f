"""Carries out what was decided: makes pods of our own, binds gangs, takes pods away.

One task a stay at most. Promises: everything may be done again after a crash at any point (pods of
our own have names by allocation and rank, a binding names the pod's uid and its one node); a gang
that is not bound whole by its deadline is rolled back, and told as lost, so that it waits again; a
disruption budget that holds leaves the stay releasing, and is asked again; nothing is written by
who is not the leader.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from madang.core.model import Exit
from madang.engines.base import EngineError, Launch
from madang.engines.kubernetes import trim
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.binder import BindAsk, Binder, Bound, NotBound, Outcome
from madang.engines.kubernetes.cache import ALLOCATION, RANK, Cache
from madang.engines.kubernetes.claiming import Busy, Claimer, Given
from madang.engines.kubernetes.client import (
    ApiError,
    Away,
    Client,
    Conflict,
    Missing,
    Object,
    TooMany,
)
from madang.engines.kubernetes.dra import Refusal
from madang.engines.kubernetes.dra_objects import ClaimFacts
from madang.engines.kubernetes.evicting import Evictor, Held, Vanished
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.manifests import CODE_PASS, pass_secret
from madang.engines.kubernetes.notes import Notes, about
from madang.engines.kubernetes.seated import seated
from madang.engines.kubernetes.stays import ABSENT_S, ENGINE_FAILED, LOST, Member, Stay, Stays
from madang.engines.kubernetes.values import PodFacts

log = logging.getLogger("madang.kubernetes")

AT_ONCE = 48
BIND_S = 30.0  # a gang that is not bound whole by then is rolled back
AGAIN_S = 2.0
HELD_S = 5.0  # a disruption budget is asked again so often
WARNING = "madang.io/warning"
GRACE_S_MAX = 86_400
LATE_GRACE_S = 1  # 0 would drop the object while its processes may still run

Made = Callable[[Launch], Sequence[Object]]  # what a job of our own needs, in the order of making


@dataclass(slots=True)
class Hands:
    """What it works with."""

    client: Client
    binder: Binder
    evictor: Evictor
    notes: Notes
    held: Callable[[], bool]
    made: Made
    claimer: Claimer


class Carrier:
    """On the engine's loop. `look` says which stays may need something done."""

    def __init__(self, hands: Hands, cache: Cache, stays: Stays, gangs: Gangs) -> None:
        self._hands = hands
        self._cache = cache
        self._stays = stays
        self._gangs = gangs
        self._line = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: dict[str, None] = {}
        self._told_held: dict[str, str] = {}
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
            self._begin(stay, self._give_up(stay, text, ENGINE_FAILED))

    def remove(self, pod: PodFacts, text: str) -> None:
        """Have a pod of our own deleted that no stay is about."""
        if pod.uid not in self._removing and self._hands.held():
            self._removing.add(pod.uid)
            self._aside(self._removed(pod, text))

    async def _removed(self, pod: PodFacts, text: str) -> None:
        try:
            await self._remove(pod, LATE_GRACE_S, text)
        finally:
            self._removing.discard(pod.uid)

    def clear(self, stay: Stay) -> None:
        """What its pods needed goes once they have ended; the pods stay for their logs."""
        pods = [one.pod for one in stay.members.values() if one.pod is not None]
        if pods and not stay.key and self._hands.held():
            self._aside(self._cleared(pods))

    async def _cleared(self, pods: Sequence[PodFacts]) -> None:
        base = pods[0].name.rpartition("-")[0]
        passes = {pod.annotation(CODE_PASS): None for pod in pods if pod.annotation(CODE_PASS)}
        secrets = [f"{base}-env", *(pass_secret(base, digest) for digest in passes)]
        inside = f"namespaces/{pods[0].namespace}"
        paths = [f"/api/v1/{inside}/services/{base}"]
        paths += [f"/api/v1/{inside}/secrets/{name}" for name in secrets]
        claims = (use.claim for pod in pods for use in pod.claims)
        paths += [f"/apis/resource.k8s.io/v1/{inside}/resourceclaims/{name}" for name in claims]
        for path in paths:
            with suppress(Missing):
                await self._hands.client.delete(path)

    def take_back_devices(self) -> None:
        """Claims whose pods need them no more give their devices back."""
        if self._hands.held():
            for facts in self._hands.claimer.stale(self._cache, self._stays):
                if facts.key not in self._removing:
                    self._removing.add(facts.key)
                    self._aside(self._taken_back(facts))

    async def _taken_back(self, facts: ClaimFacts) -> None:
        try:
            async with self._line:
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
        async with self._line:
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
            for member in list(members):
                if member.pod is None and not _was_asked_for(stay, member):
                    self._stays.end_one(stay, member.rank, LOST)
            going = any(_must_go(stay, member) for member in members)
            return self._take_away(stay) if going else None
        if stay.key:
            return self._bind_gang(stay) if self._is_hungry(stay) else None
        if stay.launch is not None and any(one.pod is None and not one.ended for one in members):
            return self._launch(stay, stay.launch)
        if any(one.pod and not one.pod.node and not one.pod.ended for one in members):
            return self._bind_own(stay)
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

    # -- jobs of our own -----------------------------------------------------------------------

    async def _launch(self, stay: Stay, launch: Launch) -> None:
        """Make what is missing, then bind it."""
        try:
            objects = await asyncio.to_thread(self._hands.made, launch)
            for one in objects:
                if one["kind"] != "Pod":
                    await self._make(one)
            pods = [one for one in objects if one["kind"] == "Pod"]
            await asyncio.gather(*(self._make_pod(stay, one) for one in pods))
        except (Away, TooMany, Conflict, Deposed):
            raise
        except (ApiError, EngineError) as failure:
            # The API server, or an admission hook, will never have it.
            await self._give_up(stay, f"its pods cannot be made: {failure}", ENGINE_FAILED)
            return
        await self._bind_own(stay)

    async def _make_pod(self, stay: Stay, body: Object) -> None:
        rank = int(body["metadata"]["annotations"][RANK])
        member = stay.members[rank]
        if member.ended or member.pod is not None:
            return
        async with self._line:
            member.tried = True
            found = trim.pod(await self._make(body))
        if found is None or found.annotation(ALLOCATION) != stay.id:
            raise EngineError(f"a pod named {body['metadata']['name']} is there already")
        self._stays.seen(stay, found)

    async def _make(self, body: Object) -> Object:
        """POST; a pod that is there already by that name is read, the rest is as it was made:
        Secrets may be made and deleted by us, and read by nobody.

        Raises:
            ApiError: refused, or no answer.
        """
        if not self._hands.held():
            raise Deposed("not the leader any more: nothing was made")
        path, name = _path(body), body["metadata"]["name"]
        try:
            return await self._hands.client.post(path, body)
        except Conflict as failure:
            if failure.reason != "AlreadyExists":
                raise
            if body["kind"] != "Pod":
                return body
            return await self._hands.client.get(f"{path}/{name}")

    async def _bind_own(self, stay: Stay) -> None:
        asks = [
            self._ask(stay, member.rank, member.pod)
            for member in stay.members.values()
            if member.pod is not None and not member.pod.node and not member.pod.ended
        ]
        if stay.stop is None:
            await self._bind(stay, asks)

    # -- gangs of others -----------------------------------------------------------------------

    def _is_hungry(self, stay: Stay) -> bool:
        """A seat has a pod to be bound, or none though it should have one."""
        if stay.launch is None and not stay.bound_once:
            return False  # adopted, and its Start is still to come
        return any(
            not member.ended and (member.pod is None or member.broken is not None)
            for member in stay.members.values()
        )

    async def _bind_gang(self, stay: Stay) -> None:
        seats = self._gangs.seats(stay.key)
        empty = [
            member
            for member in stay.members.values()
            if not member.ended and (member.pod is None or member.broken is not None)
        ]
        for member in empty:
            if (pod := seats.get(member.rank)) is not None and pod.phase == "Succeeded":
                # Done in an earlier attempt: its maker makes no other one for it.
                self._stays.end_one(stay, member.rank, Exit(0))
        empty = [member for member in empty if not member.ended]
        here = self._pods_for(stay, [member.rank for member in empty], seats.items())
        if not stay.bound_once and len(here) < len(empty):
            if self._stays.now_s() - stay.asked_s >= ABSENT_S:
                text = f"{len(empty) - len(here)} of its pods are not there"
                await self._give_up(stay, text, LOST)
            else:
                stay.again_s = self._stays.now_s() + AGAIN_S / 4
            return
        if here:
            stay.asked_for |= {pod.uid: rank for rank, pod in here.items()}
            await self._bind(stay, [self._ask(stay, rank, pod) for rank, pod in here.items()])
        else:
            stay.again_s = self._stays.now_s() + AGAIN_S

    def _pods_for(
        self, stay: Stay, ranks: Sequence[int], seats: Iterable[tuple[int, PodFacts]]
    ) -> dict[int, PodFacts]:
        """Which pod each empty seat gets, as far as there are some.

        A pod that was asked for a seat is never asked for another one, whatever the gangs are
        arranged to meanwhile: it may sit there already, and the watch has only not told it.
        """
        sitting = {one.pod.uid for one in stay.members.values() if one.pod is not None}
        free = [(rank, pod) for rank, pod in seats if _can_bind(pod) and pod.uid not in sitting]
        kept = {stay.asked_for[pod.uid]: pod for _, pod in free if pod.uid in stay.asked_for}
        new = {rank: pod for rank, pod in free if pod.uid not in stay.asked_for}
        found = {rank: pod for rank, pod in (new | kept).items() if rank in ranks}
        gang = self._gangs.gang(stay.key)
        if gang is not None and len(gang.roles) == 1:
            # All are alike: who was arranged to a seat that is kept for another takes an empty one.
            spare = [pod for rank, pod in sorted(new.items()) if rank in kept or rank not in ranks]
            empty = [rank for rank in ranks if rank not in found]
            found |= dict(zip(empty, spare, strict=False))
        return found

    # -- binding -------------------------------------------------------------------------------

    def _ask(self, stay: Stay, rank: int, pod: PodFacts) -> BindAsk:
        node = stay.seats[rank].node
        return BindAsk(pod.namespace, pod.name, pod.uid, node, stay.annotations(rank))

    async def _bind(self, stay: Stay, asks: Sequence[BindAsk]) -> None:
        if not await self._have_devices(stay, asks):
            return
        outcomes = await self._hands.binder.bind(asks, BIND_S)
        bound = [one.ask for one in outcomes if isinstance(one, Bound)]
        failed = [one for one in outcomes if isinstance(one, NotBound)]
        for ask in bound:
            self._seat(stay, ask)
        if not failed:
            if not stay.bound_once:
                stay.bound_once = True
                self._announce(stay)
            return
        if any(one.why == "deposed" for one in failed):
            raise Deposed("not the leader any more: what was bound stays bound")
        if any(one.why == "away" for one in failed):
            stay.again_s = self._stays.now_s() + AGAIN_S
            return
        await self._part_bound(stay, failed)

    async def _have_devices(self, stay: Stay, asks: Sequence[BindAsk]) -> bool:
        """Whether all claims of these pods name the devices of their seats now; raises what trying
        again may mend, while there is time."""
        given = [
            Given(stay.id, pod, ask.node, stay.seats[int(dict(ask.annotations)[RANK])].gpus)
            for ask in asks
            if (pod := self._pod_of(stay, ask)) is not None and pod.claims
        ]
        if not given:
            return True
        stay.claim_s = stay.claim_s or self._stays.now_s()
        told = await asyncio.gather(*(self._give(one) for one in given), return_exceptions=True)
        if failure := next((one for one in told if isinstance(one, BaseException)), None):
            late = self._stays.now_s() - stay.claim_s > BIND_S and not stay.bound_once
            if not late or not isinstance(failure, ApiError | Busy):
                raise failure
            await self._give_up(stay, f"its devices cannot be claimed: {failure}", LOST)
            return False
        stay.claim_s = 0.0
        refusal = next((one for one in told if isinstance(one, Refusal)), None)
        if refusal is not None and stay.bound_once:
            stay.again_s = self._stays.now_s() + AGAIN_S  # a replacement's: its seat stays empty
        elif refusal is not None:
            end = LOST if stay.key or not refusal.for_good else ENGINE_FAILED
            await self._give_up(stay, refusal.text, end)
            self._gangs.withdraw(stay.key)
        return refusal is None

    async def _give(self, given: Given) -> Refusal | None:
        async with self._line:
            return await self._hands.claimer.give(given)

    async def _part_bound(self, stay: Stay, failed: Sequence[NotBound]) -> None:
        """Some will not be bound. Replacements may come for what was deleted; else roll back."""
        waited_s = self._stays.now_s() - stay.asked_s
        only_gone = all(one.why == "gone" for one in failed)
        if stay.key and only_gone and (stay.bound_once or waited_s < ABSENT_S):
            stay.again_s = self._stays.now_s() + AGAIN_S / 4
            return
        if stay.bound_once:
            # One replacement could not be bound: its seat stays empty until its time is over.
            stay.again_s = self._stays.now_s() + AGAIN_S
            return
        first = failed[0]
        text = f"not bound whole ({first.ask.pod}: {first.text}): rolled back"
        await self._give_up(stay, text, LOST)

    def _seat(self, stay: Stay, ask: BindAsk) -> None:
        """The pod sits there now, whether the watch has told it yet or not."""
        pod = self._pod_of(stay, ask)
        if pod is None:
            return
        if not pod.node:
            others = tuple(one for one in pod.annotations if one not in ask.annotations)
            pod = seated(pod, ask.node, tuple(sorted((*others, *ask.annotations))))
        self._stays.seen(stay, pod)

    def _pod_of(self, stay: Stay, ask: BindAsk) -> PodFacts | None:
        pod = self._cache.pods.objects.get(f"{ask.namespace}/{ask.pod}")
        if pod is not None and pod.uid == ask.uid:
            return pod
        # Made just now: the watch has not told it yet.
        made = [one.pod for one in stay.members.values() if one.pod is not None]
        return next((one for one in made if one.uid == ask.uid), None)

    def _announce(self, stay: Stay) -> None:
        """One event for the whole job."""
        first = next((one.pod for one in stay.members.values() if one.pod is not None), None)
        if first is None:
            return
        nodes = list(dict.fromkeys(seat.node for seat in stay.seats))
        shown = ", ".join(nodes[:4]) + (f" and {len(nodes) - 4} more" if len(nodes) > 4 else "")
        text = f"{len(stay.seats)} pods of {stay.job} were bound to {shown}"
        self._hands.notes.event(first.namespace, about(first), "Scheduled", text)

    # -- ending --------------------------------------------------------------------------------

    async def _give_up(self, stay: Stay, text: str, end: Exit) -> None:
        """Remove what there is of it; it has ended when that is gone. Raises what removing does."""
        log.warning("%s: %s", stay.id, text)
        pods = [one.pod for one in stay.members.values() if one.pod is not None]
        living = [pod for pod in pods if not pod.ended]
        for pod in living[:1]:
            self._hands.notes.event(pod.namespace, about(pod), "RolledBack", text, bad=True)
        self._stays.give_up(stay, end, text)
        await asyncio.gather(*(self._remove(pod, LATE_GRACE_S, text) for pod in living))

    async def _take_away(self, stay: Stay) -> None:
        assert stay.stop is not None, f"nobody asked for it to end: {stay}"
        left_s = stay.stop_at_s - self._stays.now_s()
        grace_s = min(max(math.ceil(left_s), LATE_GRACE_S), GRACE_S_MAX)
        going = [member for member in stay.members.values() if _must_go(stay, member)]
        at_s, text = stay.stop_at_s, _reason(stay)
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
        if not stay.key or stay.fate is not None:
            await self._remove(pod, grace_s, text)
            return True
        grace_s = min(grace_s, max(pod.grace_s, LATE_GRACE_S))
        async with self._line:
            said = await self._hands.evictor.evict(pod.namespace, pod.name, pod.uid, grace_s, text)
        if isinstance(said, Held):
            if self._told_held.get(stay.id) != said.text:
                self._told_held[stay.id] = said.text
                words = f"{stay.job} is to make room ({text}), but a budget holds it: {said.text}"
                self._hands.notes.event(pod.namespace, about(pod), "EvictionHeld", words, bad=True)
            return False
        self._told_held.pop(stay.id, None)
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
                await self._remove(pod, LATE_GRACE_S, "its binding was not answered")
        self._stays.end_one(stay, member.rank, LOST)

    async def _remove(self, pod: PodFacts, grace_s: int, text: str) -> None:
        async with self._line:
            await self._hands.evictor.remove(pod.namespace, pod.name, pod.uid, grace_s, text)


def _path(body: Object) -> str:
    """The collection that an object goes to."""
    version = body["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{body['metadata']['namespace']}/{body['kind'].lower()}s"


def _can_bind(pod: PodFacts | None) -> bool:
    return pod is not None and not (pod.node or pod.gated or pod.deleting or pod.ended)


def _must_go(stay: Stay, member: Member) -> bool:
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


__all__ = ["Carrier", "Hands", "Made", "Outcome"]
