"""The ceiling: a client that only binds. `python -m benchmarks.kubernetes.bare KUBECONFIG`

Lists the nodes and the pods that are for it, gives each node as many pods as it has GPUs, in the
order of their names, and sends the bindings: with our own client, so many at once as our binder
does. No decision, no cache, no watch, no ledger.
"""

import asyncio
import sys
from itertools import chain, repeat
from pathlib import Path

from madang.engines.kubernetes.binder import AT_ONCE
from madang.engines.kubernetes.client import Client, Object
from madang.engines.kubernetes.config import from_kubeconfig

NAME = "bare"


async def main(kubeconfig: str) -> None:
    """Bind all that wait for it."""
    async with Client(from_kubeconfig(Path(kubeconfig))) as client:
        nodes = [node async for page in client.pages("/api/v1/nodes") for node in page["items"]]
        seats = chain.from_iterable(
            repeat(node["metadata"]["name"], int(node["status"]["allocatable"]["nvidia.com/gpu"]))
            for node in nodes
        )
        waiting = f"spec.schedulerName={NAME},spec.nodeName="
        pods = [
            pod["metadata"]
            async for page in client.pages("/api/v1/pods", fieldSelector=waiting)
            for pod in page["items"]
        ]
        todo = iter(list(zip(pods, seats, strict=False)))

        async def bind() -> None:
            for pod, node in todo:
                path = f"/api/v1/namespaces/{pod['namespace']}/pods/{pod['name']}/binding"
                await client.write(path, _binding(pod, node))

        await asyncio.gather(*(bind() for _ in range(AT_ONCE)))
    await asyncio.Event().wait()  # until it is ended: its CPU is read while it is there


def _binding(pod: Object, node: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod["name"], "namespace": pod["namespace"], "uid": pod["uid"]},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
