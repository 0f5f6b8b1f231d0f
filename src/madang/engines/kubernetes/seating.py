"""Binds pods to the seats that were decided: gangs of others, and pods of our own.

Promises: a gang that is not bound whole by its deadline is rolled back, and told as lost, so that
it waits again; a pod that was asked for a seat is never asked for another one; the claims of a pod
name its devices before it is bound; one event tells of a whole gang.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from madang.core.model import Exit
from madang.engines.kubernetes.arrivals import Gangs
from madang.engines.kubernetes.binder import BindAsk, Bound, NotBound
from madang.engines.kubernetes.cache import RANK, Cache
from madang.engines.kubernetes.claiming import Busy, Given
from madang.engines.kubernetes.client import ApiError
from madang.engines.kubernetes.dra import Refusal
from madang.engines.kubernetes.ending import Ender
from madang.engines.kubernetes.hands import AGAIN_S, Hands
from madang.engines.kubernetes.lease import Deposed
from madang.engines.kubernetes.notes import about
from madang.engines.kubernetes.stays import ABSENT_S, ENGINE_FAILED, LOST, Stay, Stays
from madang.engines.kubernetes.values import PodFacts

BIND_S = 30.0  # a gang that is not bound whole by then is rolled back


class Seater:
    """On the engine's loop."""

    def __init__(
        self, hands: Hands, cache: Cache, stays: Stays, gangs: Gangs, ender: Ender
    ) -> None:
        self._hands = hands
        self._cache = cache
        self._stays = stays
        self._gangs = gangs
        self._ender = ender

    async def bind_own(self, stay: Stay) -> None:
        """Pods of our own that are made and not bound. Raises: ApiError, Deposed, Busy."""
        asks = [
            self._ask(stay, member.rank, member.pod)
            for member in stay.members.values()
            if member.pod is not None and not member.pod.node and not member.pod.ended
        ]
        if stay.stop is None:
            await self._bind(stay, asks)

    def is_hungry(self, stay: Stay) -> bool:
        """A seat has a pod to be bound, or none though it should have one."""
        if stay.launch is None and not stay.bound_once:
            return False  # adopted, and its Start is still to come
        return any(
            not member.ended and (member.pod is None or member.broken is not None)
            for member in stay.members.values()
        )

    async def bind_gang(self, stay: Stay) -> None:
        """What sits in no seat yet of a gang of others. Raises: ApiError, Deposed, Busy."""
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
                await self._ender.give_up(stay, text, LOST)
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
            await self._ender.give_up(stay, f"its devices cannot be claimed: {failure}", LOST)
            return False
        stay.claim_s = 0.0
        refusal = next((one for one in told if isinstance(one, Refusal)), None)
        if refusal is not None and stay.bound_once:
            stay.again_s = self._stays.now_s() + AGAIN_S  # a replacement's: its seat stays empty
        elif refusal is not None:
            end = LOST if stay.key or not refusal.for_good else ENGINE_FAILED
            await self._ender.give_up(stay, refusal.text, end)
            self._gangs.withdraw(stay.key)
        return refusal is None

    async def _give(self, given: Given) -> Refusal | None:
        async with self._hands.line:
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
        await self._ender.give_up(stay, text, LOST)

    def _seat(self, stay: Stay, ask: BindAsk) -> None:
        """The pod sits there now, whether the watch has told it yet or not."""
        pod = self._pod_of(stay, ask)
        if pod is None:
            return
        if not pod.node:
            others = tuple(one for one in pod.annotations if one not in ask.annotations)
            annotations = tuple(sorted((*others, *ask.annotations)))
            pod = replace(pod, node=ask.node, annotations=annotations)
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


def _can_bind(pod: PodFacts | None) -> bool:
    return pod is not None and not (pod.node or pod.gated or pod.deleting or pod.ended)
