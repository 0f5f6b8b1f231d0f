"""What this API server can do: its version and groups, and in words what is missing for what.

Madang runs on Kubernetes 1.20 to 1.37; what a version lacks is said, never assumed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from madang.engines.kubernetes.client import Client, Missing, Object, Refused

OLDEST = (1, 20)
NEWEST_TRIED = (1, 37)
_GATES_SINCE = (1, 26)  # pod scheduling gates: alpha, off by default; beta since 1.27
_SIDECARS_SINCE = (1, 28)
_POD_RESOURCES_SINCE = (1, 32)

# kind that people submit → (group, versions we read, newest first, plural)
FOREIGN: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "Job": ("batch", ("v1",), "jobs"),
    "JobSet": ("jobset.x-k8s.io", ("v1alpha2",), "jobsets"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io", ("v1",), "leaderworkersets"),
    "PyTorchJob": ("kubeflow.org", ("v1",), "pytorchjobs"),
    "TrainJob": ("trainer.kubeflow.org", ("v1alpha1",), "trainjobs"),
    "RayCluster": ("ray.io", ("v1", "v1alpha1"), "rayclusters"),
    "RayJob": ("ray.io", ("v1", "v1alpha1"), "rayjobs"),
    "Workload": ("scheduling.k8s.io", ("v1beta1", "v1alpha2", "v1alpha1"), "workloads"),
    "NativePodGroup": ("scheduling.k8s.io", ("v1beta1", "v1alpha2"), "podgroups"),
    "SchedulerPluginsPodGroup": ("scheduling.x-k8s.io", ("v1alpha1",), "podgroups"),
    "VolcanoPodGroup": ("scheduling.volcano.sh", ("v1beta1",), "podgroups"),
    "KaiPodGroup": ("scheduling.run.ai", ("v2alpha2",), "podgroups"),
    "KueueWorkload": ("kueue.x-k8s.io", ("v1beta2", "v1beta1"), "workloads"),
    "HyperNode": ("topology.volcano.sh", ("v1alpha1",), "hypernodes"),
}

# What devices there are, and who has them: the same, for the scheduler itself.
DEVICES: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "ResourceClaim": ("resource.k8s.io", ("v1",), "resourceclaims"),
    "ResourceSlice": ("resource.k8s.io", ("v1",), "resourceslices"),
    "DeviceClass": ("resource.k8s.io", ("v1",), "deviceclasses"),
    "DeviceTaintRule": ("resource.k8s.io", ("v1", "v1beta2", "v1alpha3"), "devicetaintrules"),
}
DEVICES_NEEDED = ("ResourceClaim", "ResourceSlice", "DeviceClass")


@dataclass(frozen=True, slots=True)
class Support:
    """`paths` has the root of every collection that is there: kind → "/apis/batch/v1" + plural."""

    version: tuple[int, int]
    version_text: str
    groups: frozenset[str]
    paths: Mapping[str, tuple[str, str]]

    def has(self, group_version: str) -> bool:
        return group_version in self.groups

    @property
    def policy(self) -> str:
        """The group of disruption budgets and evictions."""
        return "policy/v1" if self.has("policy/v1") else "policy/v1beta1"

    @property
    def gates(self) -> bool:
        """Pods may be held back by scheduling gates."""
        return self.version >= _GATES_SINCE

    @property
    def dra(self) -> str:
        """The version of dynamic resource allocation that we understand, or ""."""
        return "resource.k8s.io/v1" if self.has("resource.k8s.io/v1") else ""

    @property
    def claims(self) -> bool:
        """Claims, slices and classes are there, and this account may list them."""
        return all(kind in self.paths for kind in DEVICES_NEEDED)

    @property
    def lacks(self) -> tuple[str, ...]:
        """What is missing here, for people."""
        name = self.version_text
        said = []
        if self.version < OLDEST:
            said.append(f"{name} is older than 1.20, the oldest that is supported")
        if self.version > NEWEST_TRIED:
            said.append(f"{name} is newer than 1.37, the newest that was looked at")
        if not self.has("policy/v1"):
            said.append(f"{name} has policy/v1beta1 only (policy/v1 came with 1.21): it is used")
        if not self.gates:
            said.append(
                f"{name} has no scheduling gates (1.26): Kueue cannot hold pods back by them"
            )
        if self.version < _SIDECARS_SINCE:
            said.append(f"{name} has no sidecar init containers (1.28)")
        if self.version < _POD_RESOURCES_SINCE:
            said.append(f"{name} has no resources of a whole pod (1.32)")
        if not self.dra:
            said.append(
                f"{name} has no resource.k8s.io/v1 (1.34): GPUs by device plugin only, no claims"
            )
        elif not self.claims:
            said.append(
                "this account may not list claims, slices and classes of resource.k8s.io: pods "
                "with claims are refused (the chart's rbac.dra=true lets them)"
            )
        return tuple(said)


async def discover(client: Client) -> Support:
    """Ask the server for its version and groups.

    Raises:
        ApiError: it does not answer, or not this account.
    """
    told = await client.get("/version")
    groups = await client.get("/apis")
    found = frozenset(
        str(version["groupVersion"])
        for group in groups.get("groups", [])
        for version in group.get("versions", [])
    )
    paths: dict[str, tuple[str, str]] = {}
    for kind, (group, versions, plural) in {**FOREIGN, **DEVICES}.items():
        for version in versions:
            if f"{group}/{version}" in found and await _serves(client, group, version, plural):
                paths[kind] = (f"/apis/{group}/{version}", plural)
                break
    for kind in DEVICES:
        # Off unless the role has them: nobody waits for, or asks again and again, what is refused.
        if kind in paths and not await _may_list(client, "/".join(paths[kind])):
            del paths[kind]
    return Support(_version_of(told), str(told.get("gitVersion", "?")), found, paths)


async def _may_list(client: Client, path: str) -> bool:
    try:
        await client.get(path, limit=1)
    except (Missing, Refused):
        return False
    return True


async def _serves(client: Client, group: str, version: str, plural: str) -> bool:
    try:
        listed = await client.get(f"/apis/{group}/{version}")
    except Missing:
        return False
    return any(one.get("name") == plural for one in listed.get("resources", []))


def _version_of(told: Object) -> tuple[int, int]:
    """(major, minor); vendors write "28+" and leave major and minor out."""
    whole = re.match(r"v?(\d+)\.(\d+)", str(told.get("gitVersion", "")))
    major = re.match(r"\d+", str(told.get("major", "")))
    minor = re.match(r"\d+", str(told.get("minor", "")))
    if major and minor:
        return int(major[0]), int(minor[0])
    return (int(whole[1]), int(whole[2])) if whole else (0, 0)
