"""Ray: the head and all workers of a RayCluster; a RayJob's pods are its RayCluster's.

Worker groups may differ in what they ask for and where they may run, so each group with another
wish is decided by itself; the head, which has no GPU as a rule, comes before them. With in-tree
autoscaling a group's gang is `minReplicas`, and what the autoscaler adds follows pod by pod; a
group with `numOfHosts` > 1 counts so many pods a replica.

Source: ray-project/kuberay v1.5, ray-operator/apis/ray/v1/raycluster_types.go (defaults),
controllers/ray/utils/constant.go (labels), rayjob_types.go (`jobDeploymentStatus`).
"""

from collections.abc import Iterator
from dataclasses import replace

from madang.engines.kubernetes.foreign.tops import (
    Kind,
    Object,
    Place,
    RoleSize,
    Top,
    role_of,
    trimmed,
)
from madang.engines.kubernetes.reading import digits, items, mapping, named, text, truth, whole
from madang.engines.kubernetes.values import PodFacts

TYPE = "ray.io/node-type"
GROUP = "ray.io/group"
REPLICA_INDEX = "ray.io/worker-group-replica-index"  # since 1.5, behind a feature gate
HOST_INDEX = "ray.io/replica-host-index"
HEAD = "head"


def trim_cluster(of: Object) -> Top | None:
    """What the RayCluster says of its pods."""
    return trimmed("RayCluster", of, _read_cluster)


def _read_cluster(top: Top, of: Object) -> Top:
    spec = mapping(of, "spec")
    head = role_of(HEAD, 1, mapping(spec, "headGroupSpec", "template"))
    return replace(
        top,
        roles=(head, *_workers(spec)),
        mixed=True,
        suspended=truth(spec, "suspend"),
    )


def _workers(spec: Object) -> Iterator[RoleSize]:
    scales = truth(spec, "enableInTreeAutoscaling")
    for one in items(spec, "workerGroupSpecs"):
        least = whole(one, "minReplicas")
        replicas = whole(one, "replicas", default=least)
        if truth(one, "suspend"):
            replicas = least = 0
        hosts = whole(one, "numOfHosts", default=1, least=1)
        members = (min(least, replicas) if scales else max(least, replicas)) * hosts
        yield role_of(named(one, "groupName"), members, mapping(one, "template"), each=hosts)


def place_cluster(pod: PodFacts, top: Top) -> Place:
    """By group; by replica and host where KubeRay says them."""
    if pod.label(TYPE) == HEAD:
        return Place(HEAD, 0)
    name = pod.label(GROUP)
    each = next((one.each for one in top.roles if one.name == name), 1)
    replica, host = digits(pod.label(REPLICA_INDEX)), digits(pod.label(HOST_INDEX) or "0")
    if replica is None or host is None or host >= each:
        return Place(name, None)
    return Place(name, replica * each + host)


def trim_job(of: Object) -> Top | None:
    """What the RayJob says: its name and end; its pods are its RayCluster's and its submitter's."""
    return trimmed("RayJob", of, _read_job)


def _read_job(top: Top, of: Object) -> Top:
    ended = {"Complete": "succeeded", "Failed": "failed"}
    status = text(of, "status", "jobDeploymentStatus")
    return replace(top, suspended=truth(of, "spec", "suspend"), finished=ended.get(status, ""))


def _nowhere(pod: PodFacts, top: Top) -> Place:
    return Place("", None)


CLUSTER = Kind("RayCluster", "ray.io", "RayCluster", trim_cluster, place_cluster)
JOB = Kind("RayJob", "ray.io", "RayJob", trim_job, _nowhere)
