"""A large cluster in the store of a real API server: how soon Madang decides, and what it holds.

    python -m benchmarks.kubernetes.fleet                    5,000 nodes, 20,000 pods (minutes)
    python -m benchmarks.kubernetes.fleet --nodes 500        a tenth of everything
    python -m benchmarks.kubernetes.fleet --new-ledger       started with an empty ledger at last
    python -m benchmarks.kubernetes.fleet --json FILE        the figures for programs

For each 5 nodes of 8 GPUs: 12 pods of two GPUs that others bound and 4 that an earlier Madang
bound, all running, and 4 pods of four GPUs that wait, of which half fit. Then Madang starts. When
all that fits is bound, pods come and go for a minute. No kubelet takes part; who binds is answered
by a status as a kubelet writes it. Needs what `sh tools/kubernetes.sh` builds.
"""

import argparse
import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import orjson

from benchmarks import measuring, yard
from benchmarks.kubernetes.contestants import all_cpu_s, cpu_s
from benchmarks.kubernetes.scenes import (
    GPUS,
    NAMESPACE,
    PODS,
    BenchError,
    Sight,
    add_nodes,
    listed,
    watched,
)
from madang.engines.kubernetes.client import Client, Conflict, Missing, Object
from madang.engines.kubernetes.config import from_kubeconfig
from tests.kubernetes.cluster import Cluster, ClusterError, free_port
from tests.kubernetes.kubelet import GPU

OTHERS, OURS, WAITING = 12, 4, 4  # pods for each 5 nodes
FIRST_S_GOAL, RSS_MB_GOAL = 15.0, 1000.0
WRITES_AT_ONCE = 48
START_S_MAX, END_S_MAX = 300.0, 60.0
QUIET_S = 10.0  # for the rest of a start to be over before memory is called steady
CHANGES_PER_S = 20
LOOK_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figures:
    """Times from the start of the process; memory in MB, the daemon's children included."""

    nodes: int
    pods: int
    pod_bytes: int
    new_ledger: bool
    first_s: float
    all_that_fits_s: float
    start_cpu_s: float
    others_cores: float
    rss_peak_mb: float
    rss_steady_mb: float
    rss_after_mb: float
    turns: int
    turn_p50_s: float  # the upper bound of the histogram's bucket
    turn_p99_s: float
    turn_mean_ms: float
    bound_meanwhile: int
    cpu_share: float  # of one core, while pods came and went


class Daemon:
    """`madang up --engine kubernetes` on a state directory that outlives it."""

    def __init__(self, cluster: Cluster, state: Path) -> None:
        where = ["--kubeconfig", str(cluster.kubeconfig()), "--state", str(state)]
        where += ["--port", str(free_port())]
        self.state = state
        self.began_s = time.monotonic()
        with (cluster.folder / "madang.log").open("ab") as log:
            self.ran = subprocess.Popen(
                [*yard.program(), "up", "--engine", "kubernetes", *where],
                env=yard.environment(state),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def end(self) -> None:
        """Stop it; what runs goes on."""
        self.ran.send_signal(signal.SIGTERM)
        try:
            self.ran.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self.ran.kill()
            self.ran.wait()
            raise BenchError(f"the daemon did not end within {END_S_MAX:.0f} s") from None

    def memory_mb(self, kind: str) -> float:
        """`VmRSS` or `VmHWM` of it and its children."""
        return sum(_memory_kb(pid, kind) for pid in _family(self.ran.pid)) * 1024 / 1e6

    def turns(self) -> tuple[dict[float, int], float]:
        """How many turns took at most so many seconds, by bound; and seconds in all."""
        told = json.loads((self.state / "client.json").read_text())
        door = http.client.HTTPConnection(str(told["url"]).removeprefix("http://"), timeout=60)
        door.request("GET", "/metrics", headers={"Authorization": f"Bearer {told['token']}"})
        text = door.getresponse().read().decode()
        door.close()
        name = "madang_turn_duration_seconds"
        found = re.findall(rf'^{name}_bucket{{[^}}]*le="([^"]+)"[^}}]*}} (\S+)', text, re.M)
        whole = re.search(rf"^{name}_sum(?:{{[^}}]*}})? (\S+)", text, re.M)
        if not found or whole is None:
            raise BenchError(f"/metrics has no {name}: {text[:300]}")
        return {float(bound): int(float(n)) for bound, n in found}, float(whole[1])


async def measured(cluster: Cluster, folder: Path, options: argparse.Namespace) -> Figures:
    """Fill the store, start Madang, let pods come and go.

    Raises:
        BenchError: what was seen cannot be true, or did not come.
    """
    nodes = options.nodes
    async with Client(from_kubeconfig(cluster.kubeconfig())) as client:
        await _fill(cluster, client, folder, nodes)
        waiting = nodes * WAITING // 5
        await _make(client, (_pod(f"w-{n}", 4, "madang") for n in range(waiting)))
        there = await listed(client)
        pod_bytes = sum(len(orjson.dumps(pod)) for pod in there) // len(there)
        _say(f"{nodes:,} nodes and {len(there):,} pods of {pod_bytes:,} bytes are there")
        state = folder / ("second" if options.new_ledger else "first")
        async with watched(client) as sight, _running(client, sight):
            others_before_s = all_cpu_s() - _all_known_s(cluster)
            daemon = Daemon(cluster, state)
            try:
                await _until(sight, 1, daemon)
                await _until(sight, waiting // 2, daemon)
                start_cpu_s = cpu_s(daemon.ran.pid)
                took_s = time.monotonic() - daemon.began_s
                others_s = all_cpu_s() - _all_known_s(cluster, daemon.ran.pid) - others_before_s
                _say(f"first {sight.first_s - daemon.began_s:.1f} s, all that fits {took_s:.1f} s")
                await asyncio.sleep(QUIET_S)
                peak_mb, steady_mb = daemon.memory_mb("VmHWM"), daemon.memory_mb("VmRSS")
                first_s = sight.first_s - daemon.began_s
                all_s = sight.last_s - daemon.began_s
                change = await _changing(client, sight, daemon, waiting, options.seconds)
                after_mb = daemon.memory_mb("VmRSS")
                peak_mb = max(peak_mb, daemon.memory_mb("VmHWM"))
            finally:
                daemon.end()
        _check(await listed(client), sight)
    return Figures(
        nodes=nodes,
        pods=len(there),
        pod_bytes=pod_bytes,
        new_ledger=options.new_ledger,
        first_s=round(first_s, 2),
        all_that_fits_s=round(all_s, 2),
        start_cpu_s=round(start_cpu_s, 2),
        others_cores=round(max(others_s, 0.0) / took_s, 2),
        rss_peak_mb=round(peak_mb, 1),
        rss_steady_mb=round(steady_mb, 1),
        rss_after_mb=round(after_mb, 1),
        turns=change.turns,
        turn_p50_s=change.quantile(0.5),
        turn_p99_s=change.quantile(0.99),
        turn_mean_ms=round(change.turns_s * 1000 / max(change.turns, 1), 2),
        bound_meanwhile=change.bound,
        cpu_share=round(change.cpu_s / change.took_s, 3),
    )


# -- what is there before -------------------------------------------------------------------------


async def _fill(cluster: Cluster, client: Client, folder: Path, nodes: int) -> None:
    """Nodes, and the pods that run: others' are made where they are, ours are bound by Madang."""
    await client.post("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    await add_nodes(client, 0, nodes)
    others, ours = nodes * OTHERS // 5, nodes * OURS // 5
    _say(f"{nodes:,} nodes are there; {others:,} pods of others come")
    await _make(
        client,
        (_pod(f"o-{n}", 2, "default-scheduler", f"n-{n % nodes:05}") for n in range(others)),
    )
    await _make(client, (_pod(f"m-{n}", 2, "madang") for n in range(ours)))
    async with watched(client) as sight:
        daemon = Daemon(cluster, folder / "first")
        try:
            await _until(sight, ours, daemon)
        finally:
            daemon.end()
        took_s = sight.last_s - daemon.began_s
    _say(f"an earlier Madang bound {ours:,}, the first after {sight.first_s - daemon.began_s:.1f}"
         f" s, the last after {took_s:.1f} s")  # fmt: skip
    there = [pod for pod in await listed(client) if pod["spec"].get("nodeName")]
    await _each(there, lambda pod: _run(client, pod))


def _pod(name: str, gpus: int, scheduler: str, node: str = "") -> Object:
    """As large as pods of training are: variables, volumes, tolerations, annotations."""
    asks = {"cpu": "4", "memory": "16Gi", GPU: str(gpus)}
    variables = [{"name": f"VARIABLE_{n}", "value": f"value-{n}-of-{name}"} for n in range(24)]
    container = {
        "name": "main",
        "image": "registry.example/training/model:2026.11",
        "command": ["torchrun", "--nnodes=1", "train.py"],
        "env": variables,
        "resources": {"limits": asks, "requests": asks},
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }
    spec: Object = {
        "schedulerName": scheduler,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
    if node:
        spec["nodeName"] = node
    notes = {"example.com/commit": "0" * 40, "example.com/about": "one of many " * 40}
    labels = {"app": "training", "team": f"team-{len(name) % 7}", "run": name}
    return {"metadata": {"name": name, "labels": labels, "annotations": notes}, "spec": spec}


async def _run(client: Client, pod: Object) -> None:
    """What its kubelet writes when its containers have started."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    image = "registry.example/training/model"
    status = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "startTime": now,
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds
        ],
        "containerStatuses": [
            {
                "name": "main",
                "ready": True,
                "restartCount": 0,
                "image": image,
                "imageID": f"{image}@sha256:{'0' * 64}",
                "containerID": f"containerd://{'0' * 64}",
                "state": {"running": {"startedAt": now}},
            }
        ],
    }
    path = f"{PODS}/{pod['metadata']['name']}/status"
    with suppress(Missing, Conflict):  # it was deleted or changed meanwhile
        await client.put(path, {**pod, "status": status})


async def _make(client: Client, pods: Iterable[Object]) -> None:
    await _each(pods, lambda pod: client.post(PODS, pod))


async def _each(todo: Iterable[T], work: Callable[[T], Awaitable[object]]) -> None:
    left = iter(todo)

    async def some() -> None:
        for one in left:
            await work(one)

    await asyncio.gather(*(some() for _ in range(WRITES_AT_ONCE)))


# -- pods come and go -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """What was read over the time in which pods came and went."""

    took_s: float
    cpu_s: float
    bound: int
    counts: dict[float, int]  # turns by bound, each with all shorter ones
    turns_s: float

    @property
    def turns(self) -> int:
        return max(self.counts.values(), default=0)

    def quantile(self, share: float) -> float:
        """The least bound of the histogram that so many turns kept."""
        return min(bound for bound, n in self.counts.items() if n >= share * self.turns)


async def _changing(
    client: Client, sight: Sight, daemon: Daemon, made: int, seconds: float
) -> Change:
    """One that runs is deleted and another made, so many times a second."""
    before, before_s = daemon.turns()
    bound, began_cpu_s, began_s = sight.bound, cpu_s(daemon.ran.pid), time.monotonic()
    pods = [pod for pod in await listed(client) if pod["spec"].get("nodeName")]
    going = iter([name for pod in pods if (name := pod["metadata"]["name"]).startswith("w-")])
    for n in range(round(seconds * CHANGES_PER_S)):
        await asyncio.sleep(max(0.0, began_s + n / CHANGES_PER_S - time.monotonic()))
        if (name := next(going, None)) is None:
            raise BenchError("no pod is left that could be deleted: fewer seconds, or more nodes")
        await client.delete(f"{PODS}/{name}", {"gracePeriodSeconds": 0})
        await client.post(PODS, _pod(f"w-{made + n}", 4, "madang"))
    after, after_s = daemon.turns()
    return Change(
        took_s=time.monotonic() - began_s,
        cpu_s=cpu_s(daemon.ran.pid) - began_cpu_s,
        bound=sight.bound - bound,
        counts={bound: n - before[bound] for bound, n in after.items()},
        turns_s=after_s - before_s,
    )


@asynccontextmanager
async def _running(client: Client, sight: Sight) -> AsyncIterator[None]:
    """A kubelet's answer to each binding that is seen."""

    async def answer() -> None:
        at = 0
        while True:
            fresh, at = sight.lines[at:], len(sight.lines)
            pods = [
                orjson.loads(line)["object"]
                for _, line in fresh
                if line.startswith(b'{"type":"ADDED"')
            ]
            await _each(pods, lambda pod: _run(client, pod))
            await asyncio.sleep(LOOK_S)

    task = asyncio.create_task(answer())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# -- below ----------------------------------------------------------------------------------------


async def _until(sight: Sight, count: int, daemon: Daemon) -> None:
    """Wait for so many bindings. Raises: BenchError."""
    until_s = time.monotonic() + START_S_MAX
    while sight.bound < count:
        if daemon.ran.poll() is not None or time.monotonic() > until_s:
            raise BenchError(f"{sight.bound} of {count} pods bound; the daemon {daemon.ran.poll()}")
        await asyncio.sleep(LOOK_S)


def _check(pods: list[Object], sight: Sight) -> None:
    """No pod was seen on two nodes, no node has more than it has GPUs. Raises: BenchError."""
    if moved := [uid for uid, nodes in sight.nodes_of().items() if len(nodes) != 1]:
        raise BenchError(f"{len(moved)} pods were seen on two nodes")
    used: Counter[str] = Counter()
    for pod in pods:
        if node := pod["spec"].get("nodeName"):
            used[node] += int(pod["spec"]["containers"][0]["resources"]["limits"][GPU])
    if over := {node: gpus for node, gpus in used.items() if gpus > GPUS}:
        raise BenchError(f"over-committed: {over}")


def _all_known_s(cluster: Cluster, *more: int) -> float:
    """CPU of what is measured: servers, this program, and what else is named."""
    servers = [cluster.programs[name].pid for name in ("kube-apiserver", "etcd")]
    own = time.process_time()
    return own + sum(cpu_s(pid) for pid in (*servers, *more))


def _family(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [pid, *(one for child in children for one in _family(child))]


def _memory_kb(pid: int, kind: str) -> int:
    found = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    return int(found[1]) if found else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> int:
    """Measure; the exit status is 1 if something was not true."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kubernetes.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=5000, help="nodes of 8 GPUs (5000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of pods that come and go (60)")
    parser.add_argument("--new-ledger", action="store_true", help="the last start knows nothing")
    parser.add_argument("--json", default="-", help="file for the figures (standard output)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as folder:
        try:
            cluster = Cluster(Path(folder))
        except ClusterError as error:
            _say(f"error: {error}")
            return 1
        try:
            found = asyncio.run(measured(cluster, Path(folder), options))
        except BenchError as error:
            log = (Path(folder) / "madang.log").read_text(errors="replace")
            _say(f"error: {error}\n{log[-3000:]}")
            return 1
        finally:
            cluster.close()
    for name, value, goal in (
        ("start to first binding, s", found.first_s, FIRST_S_GOAL),
        ("memory at its peak, MB", found.rss_peak_mb, RSS_MB_GOAL),
    ):
        _say(f"{name}: {value:,.1f}, goal {goal:,.0f}: {'met' if value <= goal else 'missed'}")
    load = [round(one, 1) for one in os.getloadavg()]
    measuring.write_record(asdict(found) | {"load": load}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
