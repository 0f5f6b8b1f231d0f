"""Nodes that are not there: one fake kubelet for any number of them, in a thread of its own.

Node objects are kept as they were made; a pod that is bound to one of them is admitted as a real
kubelet admits it (what does not fit fails with `OutOfnvidia.com/gpu`, and is kept in `refused`),
becomes Running, ends, and goes when it is deleted, after its grace. How it ends:

- annotation `test.madang.io/runs-s`: by itself after so long, with `test.madang.io/exits` (0);
- `processes=True`: its containers are real processes (`podprocess.py`), with their environment,
  log, exit code and signals; logs and commands are served to the API server as a kubelet does;
- else it runs until `finish`, or until it is deleted.

What it promises tests: `starts` counts how often a pod really began; `moved` stays empty unless a
pod was ever seen on two nodes.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

from madang.engines.kubernetes.arithmetic import pod_requests
from madang.engines.kubernetes.client import ApiError, Client, Conflict, Missing, Object
from madang.engines.kubernetes.config import Access
from madang.engines.kubernetes.watching import Mirror
from tests.kubernetes.podprocess import Door, PodProcesses

log = logging.getLogger("tests.kubelet")

GPU = "nvidia.com/gpu"
RUNS = "test.madang.io/runs-s"
EXITS = "test.madang.io/exits"
WRITES_AT_ONCE = 32
PATIENCE_S = 60.0
TERMINATED, KILLED = 143, 137

T = TypeVar("T")


def node_object(
    name: str,
    *,
    gpus: int = 8,
    cpu: str = "128",
    memory: str = "1Ti",
    port: int = 10250,
    labels: Mapping[str, str] | None = None,
) -> Object:
    """A Node as a kubelet with NVIDIA's device plugin and feature discovery shows it."""
    room = {"cpu": cpu, "memory": memory, "pods": "256", "ephemeral-storage": "1Ti"}
    found = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    if gpus:
        room[GPU] = str(gpus)
        found |= {
            f"{GPU}.product": "NVIDIA-H100-80GB-HBM3",
            f"{GPU}.count": str(gpus),
            f"{GPU}.memory": "81559",
        }
    return {
        "metadata": {"name": name, "labels": found | dict(labels or {})},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": _conditions(ready=True),
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": dict.fromkeys(_INFO, "") | {"kubeletVersion": "v1.20.2-test"},
        },
    }


async def make_nodes(client: Client, nodes: list[Object]) -> None:
    """Create them, without the taint that the API server gives to a node it does not know yet."""
    line = asyncio.Semaphore(WRITES_AT_ONCE)

    async def one(node: Object) -> None:
        async with line:
            made = await client.post("/api/v1/nodes", node)
            if (made.get("spec") or {}).get("taints"):
                taints = (node.get("spec") or {}).get("taints")
                path = f"/api/v1/nodes/{node['metadata']['name']}"
                await client.patch(path, {"spec": {"taints": taints}})

    await asyncio.gather(*(one(node) for node in nodes))


class Fleet:
    """`with Fleet(access) as fleet: fleet.add("n-1")`. All public methods are for other threads."""

    def __init__(self, access: Access, *, processes: bool = False) -> None:
        self.starts: Counter[tuple[str, str]] = Counter()  # by namespace and pod
        self.refused: list[str] = []
        self.moved: list[str] = []
        self._access = access
        self._processes = processes
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubelet", daemon=True)
        self._lives: dict[str, _Life] = {}  # by uid
        self._named: dict[str, list[_Life]] = defaultdict(list)  # by namespace/name
        self._of_node: dict[str, dict[str, dict[str, int]]] = defaultdict(dict)
        self._room: dict[str, dict[str, int]] = {}
        self._line = asyncio.Semaphore(WRITES_AT_ONCE)

    def __enter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="kubelet-")
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *failure: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()
        self._folder.cleanup()

    # -- for tests -----------------------------------------------------------------------------

    def add(self, *names: str, gpus: int = 8, **more: Any) -> None:
        """Nodes, ready when this returns; `more` goes to `node_object`."""
        nodes = [node_object(name, gpus=gpus, port=self._door.port, **more) for name in names]
        self.add_objects(nodes)

    def add_objects(self, nodes: list[Object]) -> None:
        """Nodes as given; the port is ours."""
        for node in nodes:
            endpoint = {"kubeletEndpoint": {"Port": self._door.port}}
            node["status"]["daemonEndpoints"] = endpoint
            room = node["status"]["allocatable"]
            counted = {"requests": {key: room[key] for key in room if key != "pods"}}
            self._room[node["metadata"]["name"]] = pod_requests(
                {"containers": [{"resources": counted}]}
            )
        self._call(make_nodes(self._client, nodes))

    def set_ready(self, name: str, ready: bool) -> None:
        body = {"status": {"conditions": _conditions(ready=ready)}}
        path = f"/api/v1/nodes/{name}/status"
        self._call(self._client.patch(path, body, "strategic-merge-patch"))

    def remove(self, name: str) -> None:
        """The machine is gone, with all that ran there, and so is its Node object."""
        self._room.pop(name, None)

        async def gone() -> None:
            await self._client.delete(f"/api/v1/nodes/{name}")
            for life in [one for one in self._lives.values() if one.node == name]:
                life.task.cancel()

        self._call(gone())

    def finish(self, namespace: str, pod: str, code: int = 0) -> None:
        """End a pod that runs."""

        async def end() -> None:
            for life in self._named[f"{namespace}/{pod}"]:
                life.end(code)

        self._call(end())

    def pids(self, namespace: str, pod: str) -> list[int]:
        """The processes of a pod's containers that run now."""
        found = self._find(namespace, pod)
        return found.pids if found is not None else []

    def pause(self) -> None:
        """Stop looking at pods (an agent that is away); `go_on` ends it."""
        self._call(self._stop_looking())

    def go_on(self) -> None:
        self._call(self._look())

    # -- the thread ----------------------------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    async def _open(self) -> None:
        self._client = await Client(self._access).__aenter__()
        self._door = Door(Path(self._folder.name), self._find)
        await self._door.open()
        await self._look()

    async def _look(self) -> None:
        self._mirror = Mirror(
            self._client, "/api/v1/pods", _trimmed, self._told, fieldSelector="spec.nodeName!="
        )
        self._watching = asyncio.create_task(self._mirror.run())
        await self._mirror.synced.wait()

    async def _stop_looking(self) -> None:
        self._watching.cancel()
        with suppress(asyncio.CancelledError):
            await self._watching

    async def _close(self) -> None:
        await self._stop_looking()
        lives = list(self._lives.values())
        for life in lives:
            life.task.cancel()
        await asyncio.gather(*(life.task for life in lives), return_exceptions=True)
        await self._door.close()
        await self._client.__aexit__()

    def _find(self, namespace: str, pod: str) -> PodProcesses | None:
        lives = self._named.get(f"{namespace}/{pod}")
        return lives[-1].processes if lives else None

    def _told(self, key: str, now: Object | None) -> None:
        """A pod of some node, or (None) none any more."""
        for life in self._named.get(key, ()):
            if now is None or life.uid != now["uid"]:
                life.forget()
            elif life.node != now["spec"]["nodeName"]:
                self.moved.append(f"{key} from {life.node} to {now['spec']['nodeName']}")
            elif now["grace_s"] is not None:
                life.go_within(now["grace_s"])
        if now is None or now["uid"] in self._lives or now["spec"]["nodeName"] not in self._room:
            return
        life = self._lives[now["uid"]] = _Life(key, now)
        self._named[key].append(life)
        if now["grace_s"] is not None:
            life.go_within(now["grace_s"])
        life.task = asyncio.create_task(self._live(life))

    # -- one pod -------------------------------------------------------------------------------

    async def _live(self, life: "_Life") -> None:
        try:
            if life.pod["phase"] not in ("Succeeded", "Failed"):
                await self._run(life)
            await life.going.wait()
            if not life.forgotten.is_set():
                await self._delete(life)
        finally:
            self._of_node[life.node].pop(life.uid, None)
            if life.processes is not None:
                await life.processes.close()
            del self._lives[life.uid]
            self._named[f"{life.namespace}/{life.name}"].remove(life)

    async def _run(self, life: "_Life") -> None:
        asks = pod_requests(life.pod["spec"])
        if lacks := self._lacks(life.node, asks):
            self.refused.append(f"{life.namespace}/{life.name} on {life.node}: {lacks}")
            await self._say(life, {"phase": "Failed", "reason": f"OutOf{lacks}"})
            return
        self._of_node[life.node][life.uid] = asks
        spec, annotations = life.pod["spec"], life.pod["annotations"]
        if life.going.is_set():
            return
        if self._processes and RUNS not in annotations:
            folder = Path(self._folder.name) / life.uid
            life.processes = PodProcesses(self._client, life.pod, folder)
            if failure := await life.processes.prepare():
                await self._say(life, _ended(spec, failure[0], failure[1]))
                return
        self.starts[life.namespace, life.name] += 1
        await self._say(life, _running(spec))
        code = await self._code(life)
        self._of_node[life.node].pop(life.uid, None)
        reason = "Completed" if code == 0 else "Error"
        if not life.forgotten.is_set():
            await self._say(life, _ended(spec, code, reason))

    async def _code(self, life: "_Life") -> int:
        """Wait for its end. Exit codes as a runtime gives them: 128 + the signal."""
        if life.processes is not None:
            return await life.processes.run(life.going, life.left_s)
        runs_s = life.pod["annotations"].get(RUNS)
        own_end = asyncio.create_task(life.ended(float(runs_s) if runs_s else None))
        going = asyncio.create_task(life.going.wait())
        try:
            await asyncio.wait((own_end, going), return_when=asyncio.FIRST_COMPLETED)
            return own_end.result() if own_end.done() else TERMINATED
        finally:
            own_end.cancel()
            going.cancel()
            await asyncio.wait((own_end, going))

    def _lacks(self, node: str, asks: Mapping[str, int]) -> str:
        room = self._room.get(node, {})
        taken = self._of_node[node].values()
        for key, count in asks.items():
            if count + sum(other.get(key, 0) for other in taken) > room.get(key, 0):
                return key
        return ""

    async def _say(self, life: "_Life", status: Object) -> None:
        body = {"metadata": {"uid": life.uid}, "status": status}
        path = f"/api/v1/namespaces/{life.namespace}/pods/{life.name}/status"
        await self._surely(life, lambda: self._client.patch(path, body, "strategic-merge-patch"))

    async def _delete(self, life: "_Life") -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": life.uid}}
        path = f"/api/v1/namespaces/{life.namespace}/pods/{life.name}"
        await self._surely(life, lambda: self._client.delete(path, options))

    async def _surely(self, life: "_Life", write: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Until it is written or the pod is gone, as a kubelet does."""
        while not life.forgotten.is_set():
            try:
                async with self._line:
                    await write()
                return
            except Missing:
                return
            except Conflict as failure:
                if "UID" in failure.message:
                    return
            except ApiError as failure:
                log.debug("kubelet: %s", failure)
            with suppress(TimeoutError):
                await asyncio.wait_for(life.forgotten.wait(), 0.2)


class _Life:
    """One pod on its node."""

    task: asyncio.Task[None]

    def __init__(self, key: str, pod: Object) -> None:
        self.namespace, self.name = key.split("/")
        self.pod = pod
        self.uid = str(pod["uid"])
        self.node = str(pod["spec"]["nodeName"])
        self.processes: PodProcesses | None = None
        self.going = asyncio.Event()  # it was asked to go
        self.forgotten = asyncio.Event()  # its object is gone
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked_s = 0.0
        self._grace_s = 0.0

    def end(self, code: int) -> None:
        if self.processes is not None:
            self.processes.kill()
        if not self._code.done():
            self._code.set_result(code)

    async def ended(self, after_s: float | None) -> int:
        try:
            return await asyncio.wait_for(asyncio.shield(self._code), after_s)
        except TimeoutError:
            return int(self.pod["annotations"].get(EXITS, "0"))

    def go_within(self, grace_s: float) -> None:
        """As in a kubelet, a later word may shorten it only."""
        if not self.going.is_set():
            self._asked_s, self._grace_s = time.monotonic(), grace_s
        self._grace_s = min(self._grace_s, grace_s)
        self.going.set()

    def left_s(self) -> float:
        """Of its grace, once it was asked to go."""
        return self._asked_s + self._grace_s - time.monotonic()

    def forget(self) -> None:
        self.forgotten.set()
        self.go_within(0)


def _trimmed(pod: Object) -> Object | None:
    metadata = pod["metadata"]
    deleting = metadata.get("deletionTimestamp") is not None
    return {
        "uid": metadata["uid"],
        "metadata": {key: metadata.get(key) for key in ("name", "namespace", "uid", "labels")},
        "annotations": metadata.get("annotations") or {},
        "grace_s": float(metadata.get("deletionGracePeriodSeconds") or 0) if deleting else None,
        "phase": (pod.get("status") or {}).get("phase") or "Pending",
        "spec": pod["spec"],
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _running(spec: Object) -> Object:
    return {
        "phase": "Running",
        "startTime": _now(),
        "podIP": "127.0.0.1",
        "hostIP": "127.0.0.1",
        "conditions": _of_pod(ready=True),
        "containerStatuses": [
            _container(one, {"running": {"startedAt": _now()}}, ready=True)
            for one in spec["containers"]
        ],
    }


def _ended(spec: Object, code: int, reason: str) -> Object:
    state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": _now()}}
    return {
        "phase": "Failed" if code else "Succeeded",
        "conditions": _of_pod(ready=False),
        "containerStatuses": [_container(one, state, ready=False) for one in spec["containers"]],
    }


def _container(container: Object, state: Object, *, ready: bool) -> Object:
    return {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": "",
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": state,
    }


def _of_pod(*, ready: bool) -> list[Object]:
    word = "True" if ready else "False"
    return [
        {"type": "Initialized", "status": "True"},
        {"type": "Ready", "status": word},
        {"type": "ContainersReady", "status": word},
    ]


def _conditions(*, ready: bool) -> list[Object]:
    pressures = [
        {"type": kind, "status": "False", "reason": "KubeletHasEnough"}
        for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
    ]
    word, reason = ("True", "KubeletReady") if ready else ("False", "KubeletNotReady")
    return [*pressures, {"type": "Ready", "status": word, "reason": reason}]


_INFO = (
    "machineID",
    "systemUUID",
    "bootID",
    "kernelVersion",
    "osImage",
    "containerRuntimeVersion",
    "kubeletVersion",
    "kubeProxyVersion",
    "operatingSystem",
    "architecture",
)
