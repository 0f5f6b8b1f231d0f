"""What people see of members: their logs and reports, and where a command runs beside one.

On the engine's loop. Promises: a member that never had a pod answers with why; one whose pod is
gone with its log says so.
"""

import time
from collections.abc import Callable
from pathlib import Path

from madang.engines.base import EngineError
from madang.engines.kubernetes.cache import RANK, Cache
from madang.engines.kubernetes.client import ApiError, Client
from madang.engines.kubernetes.logs import Logs
from madang.engines.kubernetes.manifests import CODE_OF, CODE_PASS
from madang.engines.kubernetes.stays import Stays
from madang.engines.kubernetes.values import PodFacts


class Viewer:
    """See the module's docstring. `logs` keeps the spools."""

    def __init__(
        self,
        client: Client,
        folder: Path,
        cache: Cache,
        stays: Stays,
        is_own: Callable[[PodFacts], bool],
    ) -> None:
        self.logs = Logs(client, folder, time.monotonic)
        self._client = client
        self._cache = cache
        self._stays = stays
        self._is_own = is_own

    def may_fetch(self, code: str, pass_digest: str) -> bool:
        """Whether a live pod of ours may have this snapshot, by its pass. From any thread."""
        return any(
            pod.annotation(CODE_PASS) == pass_digest and pod.annotation(CODE_OF) == code
            for pods in list(self._cache.of_allocation.values())
            for pod in list(pods.values())
            if not pod.ended and self._is_own(pod)
        )

    def members(self) -> dict[str, tuple[str, int]]:
        """Bound pod ("NAMESPACE.NAME") → its allocation and rank. From any thread."""
        found = {}
        for allocation, pods in list(self._cache.of_allocation.items()):
            for pod in list(pods.values()):
                rank = pod.annotation(RANK)
                if pod.node and not pod.ended and rank.isdecimal():
                    found[f"{pod.namespace}.{pod.name}"] = (allocation, int(rank))
        return found

    async def spooled(self, allocation: str, rank: int) -> Path | None:
        """The folder with `log` and `reports`; None while there is nothing to read.

        Raises:
            EngineError: no such member, or its log is gone.
        """
        pod = self._pod_of(allocation, rank)
        if pod is not None:
            return await self.logs.spool(pod) if pod.node else None
        stay = self._stays.live.get(allocation)
        if stay is not None and rank in stay.members:
            last = stay.members[rank].pod
            return self.logs.kept(last.uid) if last is not None else None
        uid = self._stays.past_pods.get((allocation, rank), "")
        kept = self.logs.kept(uid)
        if kept is None and allocation not in self._stays.problems:
            raise EngineError(f"member {rank} of {allocation} has no pod, and so no log any more")
        return kept

    async def running(self, allocation: str, rank: int) -> tuple[PodFacts, str]:
        """The member's pod, and the container in which commands run beside it.

        Raises:
            EngineError: it does not run.
        """
        pod = self._pod_of(allocation, rank)
        if pod is None or pod.phase != "Running":
            raise EngineError(f"member {rank} of {allocation} does not run")
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        try:
            found = await self._client.get(path)
        except ApiError as failure:
            raise EngineError(f"{pod.key}: {failure}") from failure
        return pod, str(found["spec"]["containers"][0]["name"])

    def _pod_of(self, allocation: str, rank: int) -> PodFacts | None:
        pods = self._cache.of_allocation.get(allocation, {}).values()
        found = [pod for pod in pods if pod.annotation(RANK) == str(rank)]
        return min(found, key=lambda pod: (pod.ended, -pod.created_ms, pod.key), default=None)
