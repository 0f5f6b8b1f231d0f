"""Taking pods away: by the Eviction API, so that disruption budgets hold, or by their uid alone.

Promises: only the pod with that uid is touched, never a namesake that came after it; a budget that
holds (429) is told as `Held` and nothing was changed; a pod that goes carries the condition
`DisruptionTarget`, by which the Job controller knows that the failure was not the program's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from madang.engines.kubernetes.client import (
    ApiError,
    Away,
    Client,
    Conflict,
    Missing,
    Object,
    TooMany,
)
from madang.engines.kubernetes.lease import Deposed

TRIES = 4
PAUSE_S = 0.25
PREEMPTED = "PreemptionByScheduler"  # the reason that kube-scheduler gives, known to controllers

_TWO_BUDGETS = "more than one PodDisruptionBudget"  # which is an error 500


@dataclass(frozen=True, slots=True)
class Evicted:
    """It is going: its end is seen when its grace is over."""


@dataclass(frozen=True, slots=True)
class Held:
    """A disruption budget holds it; nothing was changed. `text` is the API server's."""

    text: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """It was gone already, or another pod has its name."""


class Evictor:
    """`held` is asked right before each write."""

    def __init__(self, client: Client, held: Callable[[], bool]) -> None:
        self._client = client
        self._held = held
        self._version = ""  # of the Eviction kind that this server takes

    async def evict(
        self, namespace: str, pod: str, uid: str, grace_s: int, text: str
    ) -> Evicted | Held | Vanished:
        """Ask for it to go, with the budget's consent.

        It is asked first without consequence, so that a pod that stays does not say of itself that
        it is being disrupted.

        Raises:
            Deposed: not the leader any more.
            ApiError: refused, or no answer after some tries; asking again is harmless.
        """
        said = await self._ask(namespace, pod, uid, grace_s, only_try=True)
        if not isinstance(said, Evicted):
            return said
        if not await self._mark(namespace, pod, uid, text):
            return Vanished()
        said = await self._ask(namespace, pod, uid, grace_s)
        if isinstance(said, Held):
            await self._mark(namespace, pod, uid, f"not disrupted: {said.text}", going=False)
        return said

    async def remove(self, namespace: str, pod: str, uid: str, grace_s: int, text: str) -> bool:
        """Delete it whatever its budget says; False if it was gone already.

        For members of a gang that was not bound whole: they run nothing that could be disrupted.

        Raises:
            Deposed: not the leader any more.
            ApiError: refused, or no answer after some tries; asking again is harmless.
        """
        if not await self._mark(namespace, pod, uid, text):
            return False
        options = {**_options(uid, grace_s), "kind": "DeleteOptions", "apiVersion": "v1"}
        said = await self._tried(
            (namespace, pod, uid), lambda: self._client.delete(_path(namespace, pod), options)
        )
        return isinstance(said, Evicted)

    async def _ask(
        self, namespace: str, pod: str, uid: str, grace_s: int, *, only_try: bool = False
    ) -> Evicted | Held | Vanished:
        if not self._version:
            self._version = await self._eviction_version()
        body: Object = {
            "apiVersion": self._version,
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            "deleteOptions": _options(uid, grace_s) | ({"dryRun": ["All"]} if only_try else {}),
        }
        return await self._tried(
            (namespace, pod, uid),
            lambda: self._client.post(f"{_path(namespace, pod)}/eviction", body),
        )

    async def _tried(
        self, who: tuple[str, str, str], write: Callable[[], Awaitable[Object]]
    ) -> Evicted | Held | Vanished:
        """The same write again and again is one: it names the uid."""
        for left in reversed(range(TRIES)):
            if not self._held():
                raise Deposed("not the leader any more: no pod was taken away")
            try:
                await write()
                return Evicted()
            except ApiError as failure:
                if (end := await self._end_by(who, failure)) is not None:
                    return end
                if not left:
                    raise
                asked_s = failure.retry_after_s if isinstance(failure, TooMany) else 0.0
                await asyncio.sleep(max(asked_s, PAUSE_S * (TRIES - left)))
        raise AssertionError("a write ends by an answer or by an error")

    async def _end_by(self, who: tuple[str, str, str], failure: ApiError) -> Held | Vanished | None:
        """What a failure means for good; None: try again.

        Raises:
            ApiError: the failure itself, where trying again is no use.
        """
        match failure:
            case Missing():
                return Vanished()
            case TooMany():
                return Held(failure.message) if _by_budget(failure) else None
            case Away():
                return Held(failure.message) if _TWO_BUDGETS in failure.message else None
            case Conflict() | ApiError(status=422):
                # The uid differs, or only somebody else wrote at the same time.
                return None if await self._is_there(*who) else Vanished()
        raise failure

    async def _mark(
        self, namespace: str, pod: str, uid: str, text: str, *, going: bool = True
    ) -> bool:
        """Write the condition; False: there is no such pod."""
        condition = {
            "type": "DisruptionTarget",
            "status": "True" if going else "False",
            "reason": PREEMPTED,
            "message": text,
        }
        body = {"metadata": {"uid": uid}, "status": {"conditions": [condition]}}
        path = f"{_path(namespace, pod)}/status"
        said = await self._tried(
            (namespace, pod, uid), lambda: self._client.patch(path, body, "strategic-merge-patch")
        )
        return isinstance(said, Evicted)

    async def _is_there(self, namespace: str, pod: str, uid: str) -> bool:
        try:
            found = await self._client.get(_path(namespace, pod))
        except Missing:
            return False
        return str(found["metadata"]["uid"]) == uid

    async def _eviction_version(self) -> str:
        """policy/v1 since 1.22, policy/v1beta1 before: as the server says of its own verb."""
        for one in (await self._client.get("/api/v1")).get("resources", []):
            if one.get("name") == "pods/eviction":
                return f"{one.get('group') or 'policy'}/{one.get('version') or 'v1'}"
        return "policy/v1"


def _path(namespace: str, pod: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{pod}"


def _options(uid: str, grace_s: int) -> Object:
    return {"gracePeriodSeconds": grace_s, "preconditions": {"uid": uid}}


def _by_budget(failure: TooMany) -> bool:
    causes = (failure.details or {}).get("causes") or []
    return any(cause.get("reason") == "DisruptionBudget" for cause in causes)
