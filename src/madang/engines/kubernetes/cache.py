"""Everything we know of the cluster, as values, and what of it changed since the last look.

One mirror a kind, all on the engine's own event loop, where their objects are decoded and trimmed:
turns of the scheduler never wait for JSON. Promises: `changed` is called after each change; who
asks for what changed gets each object once, with its last value if it is gone, and a pod that was
replaced by a namesake between two looks as gone first. A standby gathers no news: `listen` begins
with all there is.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from madang.engines.kubernetes import trim
from madang.engines.kubernetes.client import Client, Object
from madang.engines.kubernetes.discovery import Support
from madang.engines.kubernetes.seated import glance
from madang.engines.kubernetes.values import (
    BudgetFacts,
    NodeFacts,
    PodFacts,
    PriorityFacts,
    VolumeClaimFacts,
    VolumeFacts,
)
from madang.engines.kubernetes.watching import Mirror

ALLOCATION = "madang.io/allocation"
JOB = "madang.io/job"
RANK = "madang.io/rank"
GANG = "madang.io/gang"
VOLUME_CLAIM = "PersistentVolumeClaim"
OPTIONAL_S = 10.0  # for kinds that the account may not be allowed to list


@dataclass(frozen=True, slots=True)
class PodNews:
    """`gone`: it is no more, and `pod` is what was last known of it. `before`: what the last news
    of the same pod said."""

    pod: PodFacts
    gone: bool = False
    before: PodFacts | None = None


class Cache:
    """`tops`: kind of the discovery → trim, for the objects that make pods or say a gang's size."""

    def __init__(
        self,
        client: Client,
        support: Support,
        tops: Mapping[str, Callable[[Object], Any]],
        changed: Callable[[], None],
    ) -> None:
        self._changed = changed
        self._tasks: list[asyncio.Task[None]] = []
        self.on_node: dict[str, dict[str, PodFacts]] = {}  # bound pods that have not ended
        self.of_allocation: dict[str, dict[str, PodFacts]] = {}
        self._last: dict[str, PodFacts] = {}
        self._listens = False
        self._pods: list[PodNews] = []
        self._nodes: dict[str, None] = {}
        self._tops: dict[tuple[str, str], None] = {}
        self._budgets: dict[str, None] = {}
        self.nodes: Mirror[NodeFacts] = Mirror(
            client, "/api/v1/nodes", trim.node, lambda key, now: self._mark(self._nodes, key)
        )
        self.pods: Mirror[PodFacts] = Mirror(
            client, "/api/v1/pods", trim.pod, self._pod_told, glance
        )
        self.priorities: Mirror[PriorityFacts] = Mirror(
            client, "/apis/scheduling.k8s.io/v1/priorityclasses", trim.priority_class
        )
        self.budgets: Mirror[BudgetFacts] = Mirror(
            client,
            f"/apis/{support.policy}/poddisruptionbudgets",
            trim.budget,
            lambda key, now: self._mark(self._budgets, key),
        )
        self.claims: Mirror[VolumeClaimFacts] = Mirror(
            client,
            "/api/v1/persistentvolumeclaims",
            trim.volume_claim,
            self._top_told(VOLUME_CLAIM),
        )
        self.volumes: Mirror[VolumeFacts] = Mirror(client, "/api/v1/persistentvolumes", trim.volume)
        self.tops: dict[str, Mirror[Any]] = {
            kind: Mirror(client, "/".join(support.paths[kind]), trimmed, self._top_told(kind))
            for kind, trimmed in tops.items()
            if kind in support.paths
        }

    # -- life ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Mirror from now on."""
        for mirror in (*self._needed, *self._helpful):
            self._tasks.append(asyncio.create_task(_run(mirror)))

    async def synced(self) -> None:
        """Wait until everything is known once; for what may be forbidden, a while only."""
        for mirror in self._needed:
            await mirror.synced.wait()
        helpful = [asyncio.create_task(_wait(mirror)) for mirror in self._helpful]
        _, late = await asyncio.wait(helpful, timeout=OPTIONAL_S)
        for task in late:
            task.cancel()

    async def relist(self) -> None:
        """Pods, nodes and what makes pods as they are now: before a new leader's first write.

        Raises:
            ApiError: they cannot be listed.
        """
        known = [mirror for mirror in self.tops.values() if mirror.synced.is_set()]
        await asyncio.gather(*(mirror.relist() for mirror in (*self._needed, *known)))

    def listen(self) -> None:
        """Everything that is there is news, and from now on what changes."""
        self._listens = True
        self._pods = [PodNews(pod) for pod in self._last.values()]
        self._nodes = dict.fromkeys(self.nodes.objects)
        self._tops = {(kind, key): None for kind, one in self.tops.items() for key in one.objects}

    async def end(self) -> None:
        """Mirror no more."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    @property
    def _needed(self) -> tuple[Mirror[Any], ...]:
        return (self.nodes, self.pods)

    @property
    def _helpful(self) -> tuple[Mirror[Any], ...]:
        return (
            self.priorities,
            self.budgets,
            self.claims,
            self.volumes,
            *self.tops.values(),
        )

    # -- what changed --------------------------------------------------------------------------

    def take_pods(self) -> list[PodNews]:
        """News of pods since the last call, in the order they came."""
        taken, self._pods = self._pods, []
        return taken

    def take_nodes(self) -> list[str]:
        """Nodes that changed, or whose pods did."""
        taken, self._nodes = list(self._nodes), {}
        return taken

    def take_tops(self) -> list[tuple[str, str]]:
        """(kind, `namespace/name`) of what makes pods, changed or gone."""
        taken, self._tops = list(self._tops), {}
        return taken

    def take_budgets(self) -> list[str]:
        """Disruption budgets that changed, or are gone."""
        taken, self._budgets = list(self._budgets), {}
        return taken

    def mark_node(self, node: str) -> None:
        """Look at the node again: it is known now whose pods those on it are."""
        self._nodes[node] = None

    def is_unbound(self, pod: PodFacts) -> bool:
        """It is there, and waits for a node, as far as is known now."""
        now = self.pods.objects.get(pod.key)
        return now is not None and now.uid == pod.uid and not now.node and not now.ended

    # -- told by mirrors -----------------------------------------------------------------------

    def _mark(self, dirty: dict[str, None], key: str) -> None:
        dirty[key] = None
        self._changed()

    def _top_told(self, kind: str) -> Callable[[str, Any], None]:
        def told(key: str, now: Any) -> None:
            self._tops[kind, key] = None
            self._changed()

        return told

    def _pod_told(self, key: str, now: PodFacts | None) -> None:
        before = self._last.get(key)
        if before is not None:
            self._leave(before)
            if self._listens and (now is None or now.uid != before.uid):
                self._pods.append(PodNews(before, gone=True))
        if now is None:
            self._last.pop(key, None)
        else:
            self._last[key] = now
            self._enter(now)
            if self._listens:
                same = before is not None and before.uid == now.uid
                self._pods.append(PodNews(now, before=before if same else None))
        self._changed()

    def _leave(self, pod: PodFacts) -> None:
        if pod.node and self.on_node.get(pod.node, {}).pop(pod.key, None) is not None:
            self._nodes[pod.node] = None
        if allocation := pod.annotation(ALLOCATION):
            beside = self.of_allocation.get(allocation, {})
            beside.pop(pod.key, None)
            if not beside:
                self.of_allocation.pop(allocation, None)

    def _enter(self, pod: PodFacts) -> None:
        if pod.node and not pod.ended:
            self.on_node.setdefault(pod.node, {})[pod.key] = pod
            self._nodes[pod.node] = None
        if allocation := pod.annotation(ALLOCATION):
            self.of_allocation.setdefault(allocation, {})[pod.key] = pod


def _run(mirror: Mirror[Any]) -> Coroutine[Any, Any, None]:
    return mirror.run()


async def _wait(mirror: Mirror[Any]) -> None:
    await mirror.synced.wait()
