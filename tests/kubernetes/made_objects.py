"""Objects that are not workloads, as an API server shows them: nodes, volumes, devices; and an
allocation to hold pods against.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from madang.core.model import Allocation, AllocationState, Seat, Shape
from tests.kubernetes.examples import thing

Object = dict[str, Any]

DRIVER = "gpu.nvidia.com"
T = TypeVar("T")

GANG_OF_TWO = Allocation(
    id="a-1.1",
    job="a-1",
    project="lab",
    attempt=1,
    shape=Shape(1),
    seats=(Seat("n0", (0,)), Seat("n1", (3,))),
    state=AllocationState.BOUND,
    bound_ms=0,
)


def there(read: Callable[[Mapping[str, Any]], T | None]) -> Callable[[Mapping[str, Any]], T]:
    """The same reader, for objects that it must find something in."""

    def found_in(of: Mapping[str, Any]) -> T:
        found = read(of)
        assert found is not None, f"nothing is found in {of}"
        return found

    return found_in


def node(
    name: str = "n1", *, allocatable_gpus: int = 8, conditions: Any = (), **spec: Any
) -> Object:
    """A machine of 8 GPUs with a device plugin, feature discovery and network cards."""
    room = {
        "cpu": "128",
        "memory": "1Ti",
        "pods": "110",
        "ephemeral-storage": "1Ti",
        "nvidia.com/gpu": "8",
        "rdma/hca": "8",
    }
    said = {"Ready": "True", **dict(conditions)}
    of = thing(
        "v1",
        "Node",
        name,
        labels={
            "kubernetes.io/hostname": name,
            "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
            "nvidia.com/gpu.memory": "81559",
            "topology.kubernetes.io/rack": "r1",
        },
        spec={"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}], **spec},
        status={
            "capacity": room,
            "allocatable": room | {"nvidia.com/gpu": str(allocatable_gpus)},
            "conditions": [
                {"type": kind, "status": status, "reason": "Seen"} for kind, status in said.items()
            ],
            "nodeInfo": {"kubeletVersion": "v1.34.1"},
        },
    )
    return of


def device(name: str, *, taints: Any = (), **attributes: Any) -> Object:
    said = {"type": {"string": "gpu"}, "productName": {"string": "NVIDIA H100 80GB HBM3"}}
    found: Object = {"name": name, "attributes": said | attributes}
    return found | ({"taints": list(taints)} if taints else {})


def resource_slice(node_name: str = "n1", count: int = 8, **rest: Any) -> Object:
    spec = {
        "driver": DRIVER,
        "nodeName": node_name,
        "pool": {"name": node_name, "generation": 3, "resourceSliceCount": 1},
        "devices": [device(f"gpu-{index}") for index in range(count)],
    }
    return thing("resource.k8s.io/v1", "ResourceSlice", f"{node_name}-{DRIVER}", spec=spec | rest)


def cel(expression: str) -> Object:
    return {"cel": {"expression": expression}}


def device_class(*expressions: str) -> Object:
    said = expressions or (
        f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'gpu'",
    )
    spec = {
        "selectors": [cel(one) for one in said],
        "config": [{"opaque": {"driver": DRIVER, "parameters": {"sharing": "none"}}}],
    }
    return thing("resource.k8s.io/v1", "DeviceClass", DRIVER, spec=spec)


def claim(name: str = "p-gpus", count: int = 2, **exactly: Any) -> Object:
    body = {"deviceClassName": DRIVER, "allocationMode": "ExactCount", "count": count, **exactly}
    of = thing(
        "resource.k8s.io/v1",
        "ResourceClaim",
        name,
        thing("v1", "Pod", "p"),
        spec={"devices": {"requests": [{"name": "gpus", "exactly": body}]}},
    )
    return of


def all_objects() -> list[Object]:
    """One of each."""
    affinity = {
        "required": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
            ]
        }
    }
    taint = {"key": "broken", "effect": "NoExecute"}
    return [
        node(),
        resource_slice(),
        device_class(),
        claim(),
        thing(
            "resource.k8s.io/v1",
            "DeviceTaintRule",
            "r",
            spec={"deviceSelector": {"driver": DRIVER, "device": "gpu-1"}, "taint": taint},
        ),
        thing(
            "policy/v1",
            "PodDisruptionBudget",
            "b",
            spec={"selector": {"matchLabels": {"app": "a"}}},
            status={"disruptionsAllowed": 1},
        ),
        thing("scheduling.k8s.io/v1", "PriorityClass", "p", value=5, globalDefault=False),
        thing(
            "v1",
            "PersistentVolumeClaim",
            "c",
            spec={"volumeName": "v", "accessModes": ["ReadWriteMany"]},
            status={"phase": "Bound"},
        ),
        thing("v1", "PersistentVolume", "v", spec={"nodeAffinity": affinity}),
        thing(
            "topology.volcano.sh/v1alpha1",
            "HyperNode",
            "s0",
            spec={
                "tier": 1,
                "tierName": "leaf",
                "members": [
                    {"type": "Node", "selector": {"exactMatch": {"name": "n1"}}},
                    {"type": "Node", "selector": {"regexMatch": {"pattern": "^n[2-3]$"}}},
                    {"type": "Node", "selector": {"labelMatch": {"matchLabels": {"rack": "r1"}}}},
                ],
            },
        ),
    ]
