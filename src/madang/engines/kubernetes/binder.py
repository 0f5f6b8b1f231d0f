"""Pods are bound to nodes, a gang at a time; what cannot be bound is said of each pod by itself.

Promises: a pod is only ever sent to the one node it was asked for; whatever the API server's
answer, or none, each pod ends as `Bound` or `NotBound` with the truth about it: after an answer
that never came, the pod is read again, and past the deadline it is first *changed*, so that a
binding that is still on its way finds another version than it knew. `NotBound("away")` alone means
that nobody knows: its devices stay taken until the watch, or its removal, tells. Nothing is written
by a process that is not the leader.

The Binding carries the pod's uid. Servers from 1.21 on refuse a namesake by it; 1.20 does not look,
and the caller sees by the watch that the pod it meant is gone.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from madang.engines.kubernetes.client import (
    ApiError,
    Away,
    Client,
    Conflict,
    Missing,
    Object,
    TooMany,
)
from madang.engines.kubernetes.evicting import Evictor
from madang.engines.kubernetes.lease import Deposed

log = logging.getLogger("madang.kubernetes")

AT_ONCE = 48  # more do not make the API server faster
NOTES_AT_ONCE = 8  # words about pods that wait never stand in the way of those that go
NOTE_WAITS_S = 2.0  # at most, while pods are bound: a note costs the server what a binding does
PAUSE_S = (0.05, 2.0)
READ_S = 5.0  # for the truth about a pod whose binding was not answered
INVALID = 422  # what old servers say, instead of 409, to a write with another pod's uid
NOTE_CHARS_MAX = 1024  # the API server's limit for the message of an event

Why = Literal["gone", "elsewhere", "refused", "away", "late", "deposed"]


@dataclass(frozen=True, slots=True)
class BindAsk:
    """One pod, and the node that was chosen for it. `annotations` are written with the binding."""

    namespace: str
    pod: str
    uid: str
    node: str
    annotations: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    ask: BindAsk


@dataclass(frozen=True, slots=True)
class NotBound:
    """`gone`: deleted, or a namesake. `elsewhere`: another has bound it. `refused`: the API server
    never will. `late`: not by the deadline, and not bound. `away`: not known. `deposed`: not the
    leader any more; what was under way is not known either."""

    ask: BindAsk
    why: Why
    text: str


Outcome = Bound | NotBound


def _always() -> bool:
    return True


class Binder:
    """`held` is asked right before each write; `at_once` requests are on their way at most."""

    def __init__(self, client: Client, held: Callable[[], bool], at_once: int = AT_ONCE) -> None:
        self._client = client
        self._held = held
        self._line = asyncio.Semaphore(at_once)
        self._notes = asyncio.Semaphore(NOTES_AT_ONCE)
        self._asked = 0  # pods that wait for their binding, or for its answer
        self._calm = asyncio.Event()
        self._calm.set()
        self._evictor = Evictor(client, held)

    # -- a gang --------------------------------------------------------------------------------

    async def bind(self, gang: Sequence[BindAsk], deadline_s: float) -> list[Outcome]:
        """What came of each, in the order asked; at the latest `READ_S` after the deadline.

        `deadline_s` counts from the gang's first request, not from its place in the line. A gang of
        which some are `Bound` and some are not is rolled back by `unbind`: that is the caller's
        decision, who knows whether replacements come.
        """
        clock = _Clock(deadline_s)
        self._asked += len(gang)
        self._calm.clear()
        try:
            if len(gang) == 1:
                return [await self._bind(gang[0], clock)]
            return list(await asyncio.gather(*(self._bind(ask, clock) for ask in gang)))
        finally:
            self._asked -= len(gang)
            if not self._asked:
                self._calm.set()

    async def unbind(self, asks: Sequence[BindAsk], text: str, grace_s: int = 1) -> list[BindAsk]:
        """Roll back. A binding cannot be undone, so the pods are deleted, by uid, and whoever made
        them makes them anew.

        Returns:
            Those that are still there, as the API server did not answer or refused: ask again.

        Raises:
            Deposed: not the leader any more.
        """

        async def removed(ask: BindAsk) -> bool:
            async with self._line:
                try:
                    await self._evictor.remove(ask.namespace, ask.pod, ask.uid, grace_s, text)
                except ApiError as failure:
                    log.warning("%s/%s is not rolled back: %s", ask.namespace, ask.pod, failure)
                    return False
            return True

        told = await asyncio.gather(*(removed(ask) for ask in asks))
        return [ask for ask, gone in zip(asks, told, strict=True) if not gone]

    # -- one pod -------------------------------------------------------------------------------

    async def _bind(self, ask: BindAsk, clock: "_Clock") -> Outcome:
        async with self._line:
            clock.begin()
            unsure = False
            pause_s, most_s = PAUSE_S
            while clock.left_s > 0:
                if not self._held():
                    return NotBound(ask, "deposed", "not the leader any more")
                try:
                    async with asyncio.timeout(clock.left_s):
                        await self._post(ask)
                    return Bound(ask)
                except (ApiError, TimeoutError) as failure:
                    unsure = unsure or _may_have_happened(failure)
                    if (end := await self._end_by(ask, failure, clock)) is not None:
                        return end
                    asked_s = failure.retry_after_s if isinstance(failure, TooMany) else pause_s
                    await asyncio.sleep(max(0.0, min(asked_s, clock.left_s)))
                    pause_s = min(2 * pause_s, most_s)
            if unsure:
                return await self._settle(ask)
            return NotBound(ask, "late", f"not bound to {ask.node} in {clock.most_s:g} s")

    async def _post(self, ask: BindAsk) -> None:
        body: Object = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": ask.pod, "namespace": ask.namespace, "uid": ask.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": ask.node},
        }
        if ask.annotations:
            body["metadata"]["annotations"] = dict(ask.annotations)
        await self._client.write(f"{_path(ask)}/binding", body)

    async def _end_by(self, ask: BindAsk, failure: Exception, clock: "_Clock") -> Outcome | None:
        """What a failure means for good; None: try again."""
        match failure:
            case Missing():
                return NotBound(ask, "gone", "it was deleted")
            case Conflict():
                return await self._look(ask, clock)
            case Away() | TooMany() | TimeoutError():
                return None
            case _:
                return NotBound(ask, "refused", str(failure))

    async def _look(self, ask: BindAsk, clock: "_Clock") -> Outcome | None:
        """After a 409: is it ours already, another's, or was it only changed meanwhile?"""
        try:
            async with asyncio.timeout(max(clock.left_s, 0.0)):
                return _judged(ask, await self._client.get(_path(ask)))
        except Missing:
            return NotBound(ask, "gone", "it was deleted")
        except (ApiError, TimeoutError):
            return None

    async def _settle(self, ask: BindAsk) -> Outcome:
        """Past the deadline, after a request that was never answered.

        The pod is changed: an unanswered binding that has not been written by then is a write to a
        version that is no more. The answer shows the pod after the change.
        """
        unsure = {
            "type": "madang.io/BindingUnsure",
            "status": "True",
            "reason": "NoAnswer",
            "message": f"not answered: a binding to {ask.node} ({secrets.token_hex(4)})",
        }
        body = {"metadata": {"uid": ask.uid}, "status": {"conditions": [unsure]}}
        clock = _Clock(READ_S)
        clock.begin()
        while clock.left_s > 0:
            if not self._held():
                return NotBound(ask, "deposed", "not the leader any more")
            try:
                async with asyncio.timeout(clock.left_s):
                    found = await self._client.patch(
                        f"{_path(ask)}/status", body, "strategic-merge-patch"
                    )
                return _judged(ask, found) or NotBound(ask, "late", "no answer by the deadline")
            except Missing:
                return NotBound(ask, "gone", "it was deleted")
            except (ApiError, TimeoutError) as failure:
                differs = isinstance(failure, ApiError) and failure.status in (409, INVALID)
                if differs and (end := await self._look(ask, clock)) is not None:
                    return end
                await asyncio.sleep(min(PAUSE_S[1] / 4, max(clock.left_s, 0.0)))
        return NotBound(ask, "away", f"the API server does not say whether it is on {ask.node}")

    # -- words about pods ----------------------------------------------------------------------

    async def mark_unschedulable(
        self,
        namespace: str,
        pod: str,
        uid: str,
        message: str,
        is_true: Callable[[], bool] = _always,
    ) -> bool:
        """PodScheduled=False, by which people and autoscalers know; False: it was not written.
        `is_true` is asked right before."""
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
        }
        note = self._note(namespace, pod, uid, {"conditions": [condition]})
        return await self._said(note, is_true=is_true)

    async def nominate(self, namespace: str, pod: str, uid: str, node: str) -> bool:
        """The node on which room is being made for it; "" takes it back. False: not written."""
        note = self._note(namespace, pod, uid, {"nominatedNodeName": node or None})
        return await self._said(note, at_once=True)

    def _note(
        self, namespace: str, pod: str, uid: str, status: Object
    ) -> Callable[[], Awaitable[Object]]:
        body = {"metadata": {"uid": uid}, "status": status}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/status"
        return lambda: self._client.patch(path, body, "strategic-merge-patch")

    async def event(
        self, namespace: str, about: Object, reason: str, message: str, kind: str = "Normal"
    ) -> bool:
        """One line in `kubectl describe` of an object: {apiVersion, kind, name, uid}.
        False: not written."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{str(about.get('name'))[:200]}.{secrets.token_hex(8)}",
                "namespace": namespace,
            },
            "involvedObject": {"namespace": namespace, **about},
            "reason": reason,
            "message": message[:NOTE_CHARS_MAX],
            "type": kind,
            "count": 1,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "source": {"component": "madang"},
        }
        path = f"/api/v1/namespaces/{namespace}/events"
        return await self._said(lambda: self._client.post(path, body))

    async def _said(
        self,
        write: Callable[[], Awaitable[Object]],
        *,
        at_once: bool = False,
        is_true: Callable[[], bool] = _always,
    ) -> bool:
        async with self._notes:
            if not at_once and not self._calm.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._calm.wait(), NOTE_WAITS_S)
            if not self._held() or not is_true():
                return False
            try:
                await write()
            except ApiError as failure:
                log.debug("a note about a pod was not written: %s", failure)
                return False
            return True


class _Clock:
    """Runs from its first `begin`."""

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self._until_s = 0.0

    def begin(self) -> None:
        self._until_s = self._until_s or time.monotonic() + self.most_s

    @property
    def left_s(self) -> float:
        return self._until_s - time.monotonic()


def _judged(ask: BindAsk, pod: Object) -> Outcome | None:
    """What a pod says of the binding that was asked for; None: it waits still."""
    metadata, node = pod["metadata"], (pod.get("spec") or {}).get("nodeName")
    if metadata["uid"] != ask.uid:
        return NotBound(ask, "gone", "another pod has its name")
    if not node:
        deleting = metadata.get("deletionTimestamp")
        return NotBound(ask, "gone", "it is being deleted") if deleting else None
    written = metadata.get("annotations") or {}
    if node == ask.node and all(written.get(key) == value for key, value in ask.annotations):
        return Bound(ask)
    return NotBound(ask, "elsewhere", f"another has bound it to {node}")


def _may_have_happened(failure: Exception) -> bool:
    match failure:
        case TimeoutError():
            return True
        case Away(may_have_happened=happened):
            return happened
    return False


def _path(ask: BindAsk) -> str:
    return f"/api/v1/namespaces/{ask.namespace}/pods/{ask.pod}"


__all__ = ["BindAsk", "Binder", "Bound", "Deposed", "NotBound", "Outcome", "Why"]
