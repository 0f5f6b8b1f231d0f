"""One valid object of each kind that Madang places, with its pods as its controller makes them.

Names, labels, indices and owners are those that the real controllers set; sources are in the
modules of `engines/kubernetes/foreign`. Used by the tables (objects as they are) and on a real API
server, where none of these controllers runs: create `objects_for`, then `pods_for` with the uids
they got.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]

NAMESPACE = "lab"
# Real controllers of these watch a real API server; their children are found by labels there.
MADE_BY_THE_SERVER = frozenset({"Job", "StatefulSet"})


@dataclass(frozen=True)
class Example:
    """`gangs`: how many members each gang has, in the order in which they come."""

    name: str
    objects: tuple[Object, ...]
    pods: tuple[Object, ...]
    gangs: tuple[int, ...]
    on_1_20: bool = True  # the API server of 1.20 keeps what the example needs


def uid(kind: str, name: str) -> str:
    """What stands for the uid of an object until a server gives it one."""
    return f"uid-of-{kind}-{name}".lower()


def pods_for(example: Example, uids: Mapping[tuple[str, str], str], namespace: str) -> list[Object]:
    """The pods, to be created: `uids` by (kind, name) of the objects as the server has them."""
    text = json.dumps(example.pods)
    for (kind, name), real in uids.items():
        text = text.replace(uid(kind, name), real)
    pods: list[Object] = json.loads(text)
    for pod in pods:
        metadata = pod["metadata"]
        metadata["namespace"] = namespace
        del metadata["uid"]
        owners = [
            one
            for one in metadata.get("ownerReferences", [])
            if one["kind"] not in MADE_BY_THE_SERVER
        ]
        metadata["ownerReferences"] = owners
        pod.pop("status", None)
    return pods


def objects_for(example: Example, namespace: str) -> list[Object]:
    """The objects, to be created. Owners among them are left out: a server gives other uids."""
    found = copy.deepcopy(list(example.objects))
    for one in found:
        one["metadata"]["namespace"] = namespace
        one["metadata"].pop("uid", None)
        one["metadata"].pop("ownerReferences", None)
    return found


def template(gpus: int = 8, labels: Mapping[str, str] | None = None, **spec: Any) -> Object:
    """A pod template: one container with so many GPUs."""
    resources: Object = {"requests": {"cpu": "4" if gpus else "1", "memory": "8Gi"}}
    if gpus:
        resources["limits"] = {"nvidia.com/gpu": str(gpus)}
    container = {
        "name": "main",
        "image": "example/train:1",
        "command": ["sleep", "3600"],
        "resources": resources,
    }
    body: Object = {"schedulerName": "madang", "containers": [container], "restartPolicy": "Never"}
    made: Object = {"spec": body | spec}
    if labels:
        made["metadata"] = {"labels": dict(labels)}
    return made


def thing(api: str, kind: str, name: str, owner: Object | None = None, **rest: Any) -> Object:
    """An object with a uid."""
    metadata: Object = {"namespace": NAMESPACE, "name": name, "uid": uid(kind, name)}
    metadata["creationTimestamp"] = "2026-11-21T10:00:00Z"
    if owner is not None:
        metadata["ownerReferences"] = [reference(owner)]
    for key in ("labels", "annotations"):
        if key in rest:
            metadata[key] = rest.pop(key)
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}


def reference(to: Object) -> Object:
    """An owner reference that controls."""
    return {
        "apiVersion": to["apiVersion"],
        "kind": to["kind"],
        "name": to["metadata"]["name"],
        "uid": to["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod(name: str, of: Object, owner: Object | None = None, **rest: Any) -> Object:
    """A pod of a template."""
    labels = dict((of.get("metadata") or {}).get("labels") or {}) | rest.pop("labels", {})
    made = thing("v1", "Pod", name, owner, labels=labels, **rest)
    made["spec"] = copy.deepcopy(of["spec"])
    made["status"] = {"phase": "Pending"}
    return made


def plain() -> Example:
    return Example("plain", (), (pod("notebook", template(1)),), (1,))


def indexed_job(members: int = 4) -> Example:
    spec: Object = {
        "completions": members,
        "parallelism": members,
        "completionMode": "Indexed",
        "template": template(),
    }
    job = thing("batch/v1", "Job", "train", spec=spec)
    pods = tuple(
        pod(
            f"train-{index}-x{index}z",
            template(),
            job,
            labels={
                "job-name": "train",
                "batch.kubernetes.io/job-name": "train",
                "controller-uid": job["metadata"]["uid"],
                "batch.kubernetes.io/job-completion-index": str(index),
            },
            annotations={"batch.kubernetes.io/job-completion-index": str(index)},
        )
        for index in range(members)
    )
    return Example("indexed-job", (job,), pods, (members,), on_1_20=False)


def loose_job() -> Example:
    spec: Object = {"completions": 6, "parallelism": 2, "template": template(1)}
    job = thing("batch/v1", "Job", "sweep", spec=spec)
    pods = tuple(
        pod(f"sweep-{end}", template(1), job, labels={"job-name": "sweep"}) for end in ("a1", "b2")
    )
    return Example("loose-job", (job,), pods, (1, 1))


def _jobset_pods(jobset: Object, roles: tuple[tuple[str, int, int, int], ...]) -> list[Object]:
    """Of (role, replicas, pods a Job, GPUs)."""
    name, pods, overall = jobset["metadata"]["name"], [], 0
    for role, replicas, each, gpus in roles:
        for job_index in range(replicas):
            job = thing("batch/v1", "Job", f"{name}-{role}-{job_index}", jobset)
            for index in range(each):
                labels = {
                    "jobset.sigs.k8s.io/jobset-name": name,
                    "jobset.sigs.k8s.io/replicatedjob-name": role,
                    "jobset.sigs.k8s.io/replicatedjob-replicas": str(replicas),
                    "jobset.sigs.k8s.io/job-index": str(job_index),
                    "jobset.sigs.k8s.io/job-global-index": str(overall),
                    "jobset.sigs.k8s.io/restart-attempt": "0",
                    "job-name": job["metadata"]["name"],
                    "batch.kubernetes.io/job-name": job["metadata"]["name"],
                }
                at = {"batch.kubernetes.io/job-completion-index": str(index)}
                made = pod(
                    f"{job['metadata']['name']}-{index}-q{index}k",
                    template(gpus),
                    job,
                    labels=labels,
                    annotations=at,
                )
                pods.append(made)
            overall += 1
    return pods


def _replicated(role: str, replicas: int, each: int, gpus: int) -> Object:
    job = {"parallelism": each, "completions": each, "template": template(gpus)}
    return {"name": role, "replicas": replicas, "template": {"spec": job}}


def jobset(**spec: Any) -> Example:
    """A driver without GPUs and two Jobs of two workers."""
    roles = (("driver", 1, 1, 0), ("workers", 2, 2, 8))
    body = {"replicatedJobs": [_replicated(*role) for role in roles], **spec}
    made = thing("jobset.x-k8s.io/v1alpha2", "JobSet", "llm", spec=body)
    return Example("jobset", (made,), tuple(_jobset_pods(made, roles)), (1, 4))


def train_job() -> Example:
    """Trainer makes one JobSet of the TrainJob and its runtime."""
    job = thing(
        "trainer.kubeflow.org/v1alpha1",
        "TrainJob",
        "tune",
        spec={"runtimeRef": {"name": "torch-distributed"}, "trainer": {"numNodes": 4}},
    )
    roles = (("node", 1, 4, 8),)
    spec = {"replicatedJobs": [_replicated(*role) for role in roles]}
    made = thing("jobset.x-k8s.io/v1alpha2", "JobSet", "tune", job, spec=spec)
    return Example("train-job", (job, made), tuple(_jobset_pods(made, roles)), (4,))


def leader_worker_set(**spec: Any) -> Example:
    """Two groups of a leader and two workers, all alike."""
    name, size = "serve", 3
    body = {
        "replicas": 2,
        "leaderWorkerTemplate": {"size": size, "workerTemplate": template(4)},
        "startupPolicy": "LeaderCreated",
        **spec,
    }
    lws = thing("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", name, spec=body)
    leaders = thing("apps/v1", "StatefulSet", name, lws)
    pods = []
    for group in range(2):
        labels = {
            "leaderworkerset.sigs.k8s.io/name": name,
            "leaderworkerset.sigs.k8s.io/group-index": str(group),
            "leaderworkerset.sigs.k8s.io/group-key": f"hash{group}",
        }
        size_says = {"leaderworkerset.sigs.k8s.io/size": str(size)}
        index = "leaderworkerset.sigs.k8s.io/worker-index"
        leader = pod(
            f"{name}-{group}",
            template(4),
            leaders,
            labels=labels | {index: "0"},
            annotations=size_says,
        )
        workers = thing("apps/v1", "StatefulSet", f"{name}-{group}", leader)
        pods.append(leader)
        for worker in range(1, size):
            made = pod(
                f"{name}-{group}-{worker}",
                template(4),
                workers,
                labels=labels | {index: str(worker)},
                annotations=size_says
                | {"leaderworkerset.sigs.k8s.io/leader-name": f"{name}-{group}"},
            )
            pods.append(made)
    return Example("leader-worker-set", (lws,), tuple(pods), (3, 3))


def pytorch_job(**spec: Any) -> Example:
    replicas = {
        "Master": {"replicas": 1, "restartPolicy": "OnFailure", "template": template()},
        "Worker": {"replicas": 3, "restartPolicy": "OnFailure", "template": template()},
    }
    body = {"pytorchReplicaSpecs": replicas, **spec}
    job = thing("kubeflow.org/v1", "PyTorchJob", "bert", spec=body)
    pods = []
    for role, count in (("master", 1), ("worker", 3)):
        for index in range(count):
            labels = {
                "training.kubeflow.org/job-name": "bert",
                "training.kubeflow.org/operator-name": "pytorchjob-controller",
                "training.kubeflow.org/replica-type": role,
                "training.kubeflow.org/replica-index": str(index),
            }
            if role == "master":
                labels["training.kubeflow.org/job-role"] = "master"
            pods.append(pod(f"bert-{role}-{index}", template(), job, labels=labels))
    return Example("pytorch-job", (job,), tuple(pods), (4,))


def _ray_pods(cluster: Object, name: str, workers: int) -> list[Object]:
    common = {
        "ray.io/cluster": cluster["metadata"]["name"],
        "ray.io/is-ray-node": "yes",
        "app.kubernetes.io/created-by": "kuberay-operator",
    }
    head = common | {"ray.io/node-type": "head", "ray.io/group": "headgroup"}
    worker = common | {"ray.io/node-type": "worker", "ray.io/group": "gpu"}
    ends = ("2wq9d", "8mn4c", "zz1ab")[:workers]
    return [
        pod(f"{name}-head-k7x2p", template(0), cluster, labels=head),
        *(pod(f"{name}-gpu-worker-{end}", template(), cluster, labels=worker) for end in ends),
    ]


def _ray_spec(workers: int, **spec: Any) -> Object:
    group = {
        "groupName": "gpu",
        "replicas": workers,
        "minReplicas": 1,
        "maxReplicas": 8,
        "rayStartParams": {},
        "template": template(),
    }
    head = {"rayStartParams": {}, "template": template(0)}
    return {"rayVersion": "2.52.0", "headGroupSpec": head, "workerGroupSpecs": [group], **spec}


def ray_cluster(**spec: Any) -> Example:
    cluster = thing("ray.io/v1", "RayCluster", "tuner", spec=_ray_spec(3, **spec))
    return Example("ray-cluster", (cluster,), tuple(_ray_pods(cluster, "tuner", 3)), (1, 3))


def ray_job() -> Example:
    job = thing(
        "ray.io/v1",
        "RayJob",
        "eval",
        spec={"entrypoint": "python eval.py", "rayClusterSpec": _ray_spec(2)},
        status={"jobDeploymentStatus": "Initializing"},
    )
    cluster = thing("ray.io/v1", "RayCluster", "eval-9x7kq", job, spec=_ray_spec(2))
    pods = tuple(_ray_pods(cluster, "eval-9x7kq", 2))
    return Example("ray-job", (job, cluster), pods, (1, 2))


def _grouped(
    name: str, group: Object | None, mark: Object, *, count: int = 3, native: bool = False
) -> Example:
    pods = []
    for index in range(count):
        made = pod(f"{name}-{index}", template(2), **copy.deepcopy(mark))
        if native:
            made["spec"]["schedulingGroup"] = {"podGroupName": name}
        pods.append(made)
    objects = () if group is None else (group,)
    return Example(name, objects, tuple(pods), (count,), on_1_20=not native)


def native_group(version: str = "v1beta1") -> Example:
    constraints = {
        "v1beta1": {"topology": [{"key": "topology.kubernetes.io/rack"}]},
        "v1alpha2": {"topologyConstraints": [{"topologyKey": "topology.kubernetes.io/rack"}]},
    }
    spec = {
        "schedulingPolicy": {"gang": {"minCount": 3}},
        "schedulingConstraints": constraints[version],
        "priority": 50,
        "priorityClassName": "research",
    }
    name = f"native-{version}"
    group = thing(f"scheduling.k8s.io/{version}", "PodGroup", name, spec=spec)
    return _grouped(name, group, {}, native=True)


def scheduler_plugins_group() -> Example:
    group = thing(
        "scheduling.x-k8s.io/v1alpha1",
        "PodGroup",
        "cosched",
        spec={"minMember": 3, "scheduleTimeoutSeconds": 60},
    )
    mark = {"labels": {"scheduling.x-k8s.io/pod-group": "cosched"}}
    return _grouped("cosched", group, mark)


def volcano_group(**spec: Any) -> Example:
    body = {"minMember": 3, "minTaskMember": {"worker": 3}, "queue": "default", **spec}
    group = thing("scheduling.volcano.sh/v1beta1", "PodGroup", "vc", spec=body)
    mark = {
        "annotations": {
            "scheduling.k8s.io/group-name": "vc",
            "volcano.sh/task-spec": "worker",
            "volcano.sh/job-name": "vc",
        }
    }
    return _grouped("vc", group, mark)


def kai_group(**spec: Any) -> Example:
    body = {"minMember": 3, "queue": "team-a", "priorityClassName": "train", **spec}
    group = thing("scheduling.run.ai/v2alpha2", "PodGroup", "pg-kai", spec=body)
    mark = {
        "annotations": {"pod-group-name": "pg-kai"},
        "labels": {"kai.scheduler/queue": "team-a"},
    }
    return _grouped("pg-kai", group, mark)


def kueue_group() -> Example:
    mark = {
        "labels": {
            "kueue.x-k8s.io/pod-group-name": "kq",
            "kueue.x-k8s.io/queue-name": "user-queue",
            "kueue.x-k8s.io/managed": "true",
        },
        "annotations": {"kueue.x-k8s.io/pod-group-total-count": "3"},
    }
    return _grouped("kq", None, mark)


def all_examples() -> list[Example]:
    """One of each."""
    return [
        plain(),
        indexed_job(),
        loose_job(),
        jobset(),
        train_job(),
        leader_worker_set(),
        pytorch_job(),
        ray_cluster(),
        ray_job(),
        native_group("v1beta1"),
        native_group("v1alpha2"),
        scheduler_plugins_group(),
        volcano_group(),
        kai_group(),
        kueue_group(),
    ]
