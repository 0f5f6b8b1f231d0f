"""JobSet: all Jobs of all its replicatedJobs are one gang.

Where it starts them one after another (`startupPolicy: InOrder`, `dependsOn`) each replicatedJob is
decided by itself: the pods of a later one do not exist before those of an earlier one run, so the
whole can never be decided at once. A replicatedJob with fewer parallel pods than completions runs
in waves, and each of its pods is by itself. Exclusive placement by affinity is refused: JobSet
makes the followers' pods only once the leader is placed.

Source: kubernetes-sigs/jobset v0.10, api/jobset/v1alpha2/jobset_types.go (labels and defaults),
pkg/webhooks/pod_mutating_webhook.go, pkg/controllers/scheduling.go (its own gangs, 1.37).
"""

from dataclasses import replace

from madang.engines.kubernetes.foreign.job import completion_index
from madang.engines.kubernetes.foreign.tops import (
    Kind,
    Object,
    Place,
    RoleSize,
    Top,
    conditions_of,
    finished_by,
    role_of,
    trimmed,
)
from madang.engines.kubernetes.reading import (
    digits,
    items,
    listed,
    mapping,
    named,
    pairs,
    text,
    truth,
    value,
    whole,
)
from madang.engines.kubernetes.values import PodFacts

NAME = "jobset.sigs.k8s.io/jobset-name"
ROLE = "jobset.sigs.k8s.io/replicatedjob-name"
JOB_INDEX = "jobset.sigs.k8s.io/job-index"
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
BY_SELECTOR = "alpha.jobset.sigs.k8s.io/node-selector"


def trim(of: Object) -> Top | None:
    """What the JobSet says of its pods."""
    return trimmed("JobSet", of, _read)


def _read(top: Top, of: Object) -> Top:
    spec = mapping(of, "spec")
    roles = []
    sequenced = text(spec, "startupPolicy", "startupPolicyOrder") == "InOrder"
    exclusive = _exclusive(of)
    for one in items(spec, "replicatedJobs"):
        roles.append(_role(one))
        sequenced = sequenced or bool(listed(one, "dependsOn"))
        exclusive = exclusive or _exclusive(mapping(one, "template"))
    return replace(
        top,
        roles=tuple(roles),
        parted=sequenced,
        suspended=truth(spec, "suspend"),
        finished=finished_by(conditions_of(of), "Completed", "Failed"),
        refused=(
            f"JobSet {top.name} asks for exclusive placement by {exclusive}: JobSet makes the "
            "other pods only after the first is placed; use madang.io/within instead"
            if exclusive
            else ""
        ),
    )


def _exclusive(of: Object) -> str:
    annotations = pairs(of, "metadata", "annotations")
    return "" if BY_SELECTOR in annotations else annotations.get(EXCLUSIVE, "")


def _role(of: Object) -> RoleSize:
    job = mapping(of, "template", "spec")
    parallelism = whole(job, "parallelism", default=1)
    is_bounded = value(job, "completions") is not None
    completions = whole(job, "completions") if is_bounded else parallelism
    members = min(parallelism, completions) * whole(of, "replicas", default=1)
    waves = completions > parallelism
    template = mapping(job, "template")
    each = min(parallelism, completions)
    return role_of(named(of, "name"), members, template, alone=waves, each=each)


def place(pod: PodFacts, top: Top) -> Place:
    """By replicatedJob, then by the job's and the pod's index."""
    name = pod.label(ROLE)
    job, index = digits(pod.label(JOB_INDEX)), completion_index(pod)
    each = next((one.each for one in top.roles if one.name == name), 0)
    if job is None or index is None or index >= each:
        return Place(name, None)
    return Place(name, job * each + index)


KIND = Kind("JobSet", "jobset.x-k8s.io", "JobSet", trim, place)
