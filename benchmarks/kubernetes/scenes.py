"""What is asked of each: a backlog to bind, and gangs that come while it runs.

Bindings are seen by one watch of all bound pods, whose lines are stamped as they come and read
after the clock has stopped. After each run everything is read anew and checked: every pod on one
node, ever; no node with more pods than GPUs.
"""

import asyncio
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import orjson

from benchmarks.kubernetes.contestants import Contestant, all_cpu_s, cpu_s, running
from madang.engines.kubernetes.client import Client, Object
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.kubelet import GPU, make_nodes, node_object

GPUS = 8
NAMESPACE = "bench"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
WRITES_AT_ONCE = 32
GANG = 512
POLL_S = 0.02


class BenchError(Exception):
    """What was measured is not true: the text says what was found."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """`pods` waited before it started. Per bind: CPU ms from its start to the last binding, and
    those of API server and etcd together."""

    who: str
    nodes: int
    pods: int
    bound: int
    start_to_first_s: float
    start_to_last_s: float
    pods_per_s: float  # from the first binding to the last one
    cpu_ms_per_bind: float
    cpu_ms_per_bind_bound: float  # its CPU between the first binding and the last one alone
    server_cpu_ms_per_bind: float
    others_cores: float  # that other programs of this machine used meanwhile: 0 on a quiet one

    @property
    def pods_per_s_by_cpu(self) -> float:
        """What all cores could bind a second if they did nothing else and never waited."""
        each_ms = self.cpu_ms_per_bind_bound + self.server_cpu_ms_per_bind
        return (os.cpu_count() or 1) * 1000 / each_ms


@dataclass(frozen=True, slots=True)
class GangRun:
    """One gang; `held_s` from the first pod bound to the last one."""

    who: str
    nodes: int
    members: int
    creating_s: float
    last_created_to_all_bound_s: float
    held_s: float


@dataclass(slots=True)
class Sight:
    """What the watch has shown so far."""

    lines: list[tuple[float, bytes]] = field(default_factory=list)
    bound: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def take(self, line: bytes) -> None:
        self.lines.append((time.monotonic(), line))
        if line.startswith(b'{"type":"ADDED"'):
            self.bound += 1
            self.last_s = self.lines[-1][0]
            self.first_s = self.first_s or self.last_s

    def nodes_of(self) -> dict[str, set[str]]:
        """uid → every node that it was ever seen on."""
        seen: dict[str, set[str]] = {}
        for _, line in self.lines:
            pod = orjson.loads(line)["object"]
            if node := (pod.get("spec") or {}).get("nodeName"):
                seen.setdefault(pod["metadata"]["uid"], set()).add(node)
        return seen


# -- the scenes ------------------------------------------------------------------------------------


async def backlog(
    cluster: Cluster, client: Client, who: Contestant, nodes: int, pods: int
) -> Backlog:
    """All pods are there; then it starts.

    Raises:
        BenchError: not all were bound, or not truthfully.
    """
    await make_pods(client, who.scheduler, [f"p-{n}" for n in range(pods)])
    servers = [cluster.programs[name].pid for name in ("kube-apiserver", "etcd")]
    async with watched(client) as sight:
        before_s, all_before_s = sum(map(cpu_s, servers)), all_cpu_s() - cpu_s(os.getpid())
        began_s = time.monotonic()
        with running(who, cluster) as it:
            await _bound(sight, 1, it, who.limit_s)
            first_cpu_s = cpu_s(it.pid)
            whole = await _bound(sight, pods, it, who.limit_s)
            last_cpu_s, server_s = cpu_s(it.pid), sum(map(cpu_s, servers)) - before_s
            # The contestant is a child of this process: it counts in neither figure of `all`.
            all_s = all_cpu_s() - cpu_s(os.getpid()) - all_before_s
            others_cores = (all_s - server_s) / (time.monotonic() - began_s)
    bound = sight.bound
    if not whole and who.limit_s > 100:
        raise BenchError(f"{who.name}: {bound} of {pods} pods bound in {who.limit_s:.0f} s")
    check(await listed(client), sight, pods if whole else None)
    await clear(client)
    return Backlog(
        who=who.name,
        nodes=nodes,
        pods=pods,
        bound=bound,
        start_to_first_s=round(sight.first_s - began_s, 2),
        start_to_last_s=round(sight.last_s - began_s, 2),
        pods_per_s=round((bound - 1) / (sight.last_s - sight.first_s), 1),
        cpu_ms_per_bind=round(last_cpu_s * 1000 / bound, 2),
        cpu_ms_per_bind_bound=round((last_cpu_s - first_cpu_s) * 1000 / bound, 2),
        server_cpu_ms_per_bind=round(server_s * 1000 / bound, 2),
        others_cores=round(max(others_cores, 0.0), 2),
    )


async def gangs(
    cluster: Cluster, client: Client, who: Contestant, nodes: int, rounds: int
) -> list[GangRun]:
    """It runs and has nothing to do; then the 512 pods of a gang come, one gang after the other.

    The gang is Kueue's group of plain pods, which needs no kind of its own; kube-scheduler knows
    none, and binds pod by pod.
    """
    told: list[GangRun] = []
    with running(who, cluster) as it:
        async with watched(client) as sight:
            await make_pods(client, who.scheduler, ["probe"])
            if not await _bound(sight, 1, it, who.limit_s):
                raise BenchError(f"{who.name}: does not bind even one pod")
        await clear(client)
        for number in range(rounds):
            async with watched(client) as sight:
                name = f"gang-{number}"
                group = {
                    "labels": {"kueue.x-k8s.io/pod-group-name": name},
                    "annotations": {"kueue.x-k8s.io/pod-group-total-count": str(GANG)},
                }
                began_s = time.monotonic()
                names = [f"{name}-{n}" for n in range(GANG)]
                await make_pods(client, who.scheduler, names, group)
                created_s = time.monotonic()
                if not await _bound(sight, GANG, it, who.limit_s):
                    raise BenchError(f"{who.name}: {sight.bound} of {GANG} members bound")
            check(await listed(client), sight, GANG)
            told.append(
                GangRun(
                    who=who.name,
                    nodes=nodes,
                    members=GANG,
                    creating_s=round(created_s - began_s, 2),
                    last_created_to_all_bound_s=round(sight.last_s - created_s, 2),
                    held_s=round(sight.last_s - sight.first_s, 2),
                )
            )
            await clear(client)
    return told


async def _bound(sight: Sight, count: int, it: subprocess.Popen[bytes], most_s: float) -> bool:
    """Wait for so many bindings; False: it took longer, or it ended before."""
    until_s = time.monotonic() + most_s
    while sight.bound < count and time.monotonic() < until_s:
        if it.poll() is not None and sight.bound < count:
            await asyncio.sleep(1)  # what it bound last is on its way
            break
        await asyncio.sleep(POLL_S)
    return sight.bound >= count


# -- the cluster -----------------------------------------------------------------------------------


@asynccontextmanager
async def watched(client: Client) -> AsyncIterator[Sight]:
    """A watch of bound pods that has begun."""
    sight = Sight()
    page = await client.get(PODS, limit=1)

    async def watch() -> None:
        version, bound = str(page["metadata"]["resourceVersion"]), "spec.nodeName!="
        async for line in client.watch(PODS, version, fieldSelector=bound):
            sight.take(line)

    task = asyncio.create_task(watch())
    try:
        yield sight
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def add_nodes(client: Client, first: int, last: int) -> None:
    """Nodes numbered from `first` to before `last`, ready."""
    await make_nodes(client, [node_object(f"n-{n:05}", gpus=GPUS) for n in range(first, last)])


async def make_pods(
    client: Client, scheduler: str, names: Iterable[str], metadata: Object | None = None
) -> None:
    """Pods of one GPU, as a user would make them."""
    todo = iter(names)
    asks = {"cpu": "1", "memory": "4Gi", GPU: "1"}
    container = {"name": "main", "image": "none", "resources": {"limits": asks}}
    spec = {"schedulerName": scheduler, "restartPolicy": "Never", "containers": [container]}

    async def make() -> None:
        for name in todo:
            await client.post(PODS, {"metadata": {"name": name, **(metadata or {})}, "spec": spec})

    await asyncio.gather(*(make() for _ in range(WRITES_AT_ONCE)))


async def listed(client: Client) -> list[Object]:
    """All pods as they are."""
    return [pod async for page in client.pages(PODS) for pod in page["items"]]


def check(pods: list[Object], sight: Sight, expected: int | None) -> None:
    """Every pod once, on one node ever, none over-committed.

    Raises:
        BenchError: with what was found.
    """
    bound = [pod for pod in pods if pod["spec"].get("nodeName")]
    if expected is not None and len(bound) != expected:
        raise BenchError(f"{len(bound)} of {expected} pods are bound")
    if moved := [uid for uid, nodes in sight.nodes_of().items() if len(nodes) != 1]:
        raise BenchError(f"{len(moved)} pods were seen on two nodes")
    counts = Counter(pod["spec"]["nodeName"] for pod in bound)
    if over := {node: count for node, count in counts.items() if count > GPUS}:
        raise BenchError(f"over-committed: {over}")


async def clear(client: Client) -> None:
    """No pod is left; those that nobody runs go at once."""
    await client.delete(PODS, {"gracePeriodSeconds": 0})
    while (await client.get(PODS, limit=1))["items"]:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(POLL_S)
