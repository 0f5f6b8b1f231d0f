"""Kubeflow: PyTorchJob (training operator v1) is a gang itself; TrainJob (v2) is its JobSet's.

A PyTorchJob needs all its replicas, or `runPolicy.schedulingPolicy.minAvailable`, or in an elastic
one `minReplicas` workers; more pods than that follow one by one. A TrainJob says its size only
together with its runtime: the JobSet that Trainer makes of the two is read, named by the TrainJob.

Source: kubeflow/training-operator v1.9, pkg/apis/kubeflow.org/v1/{pytorch,common}_types.go;
kubeflow/trainer v2.1, pkg/apis/trainer/v1alpha1/trainjob_types.go.
"""

from dataclasses import replace

from madang.engines.kubernetes.foreign.tops import (
    Kind,
    Object,
    Place,
    RoleSize,
    Top,
    conditions_of,
    finished_by,
    is_set,
    role_of,
    trimmed,
)
from madang.engines.kubernetes.reading import Malformed, digits, mapping, text, truth, whole
from madang.engines.kubernetes.values import PodFacts

ROLE = "training.kubeflow.org/replica-type"
INDEX = "training.kubeflow.org/replica-index"
ORDER = ("Master", "Worker")


def trim_pytorch(of: Object) -> Top | None:
    """What the PyTorchJob says of its pods."""
    return trimmed("PyTorchJob", of, _read_pytorch)


def _read_pytorch(top: Top, of: Object) -> Top:
    spec = mapping(of, "spec")
    replicas = mapping(spec, "pytorchReplicaSpecs")
    unknown = sorted(set(replicas) - set(ORDER))
    if unknown:
        raise Malformed(f"pytorchReplicaSpecs has {unknown[0]!r}; there are {' and '.join(ORDER)}")
    roles = []
    for name in ORDER:
        if name in replicas:
            role = mapping(replicas, name)
            members = whole(role, "replicas", default=1)
            roles.append(role_of(name.lower(), members, mapping(role, "template")))
    return replace(
        top,
        roles=_at_least(tuple(roles), spec),
        queue=top.queue or text(spec, "runPolicy", "schedulingPolicy", "queue"),
        suspended=truth(spec, "runPolicy", "suspend"),
        finished=finished_by(conditions_of(of), "Succeeded", "Failed"),
    )


def _at_least(roles: tuple[RoleSize, ...], spec: Object) -> tuple[RoleSize, ...]:
    """The roles, the last one cut down to what must start together."""
    everything = sum(role.members for role in roles)
    needed = whole(spec, "runPolicy", "schedulingPolicy", "minAvailable") or everything
    if is_set(spec, "elasticPolicy", "minReplicas"):
        masters = sum(role.members for role in roles if role.name == "master")
        needed = min(needed, masters + whole(spec, "elasticPolicy", "minReplicas"))
    if needed > everything:
        raise Malformed(f"minAvailable is {needed}, but there are only {everything} replicas")
    spare = everything - needed
    if not roles or spare > roles[-1].members:
        return roles
    return (*roles[:-1], replace(roles[-1], members=roles[-1].members - spare))


def place_pytorch(pod: PodFacts, top: Top) -> Place:
    """By replica type and index."""
    return Place(pod.label(ROLE).lower(), digits(pod.label(INDEX)))


def trim_train(of: Object) -> Top | None:
    """What the TrainJob says: its name and end; its pods are its JobSet's."""
    return trimmed("TrainJob", of, _read_train)


def _read_train(top: Top, of: Object) -> Top:
    return replace(
        top,
        suspended=truth(of, "spec", "suspend"),
        finished=finished_by(conditions_of(of), "Complete", "Failed"),
    )


def _nowhere(pod: PodFacts, top: Top) -> Place:
    return Place("", None)


PYTORCH = Kind("PyTorchJob", "kubeflow.org", "PyTorchJob", trim_pytorch, place_pytorch)
TRAIN = Kind("TrainJob", "trainer.kubeflow.org", "TrainJob", trim_train, _nowhere)
