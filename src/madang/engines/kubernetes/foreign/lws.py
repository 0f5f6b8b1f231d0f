"""LeaderWorkerSet: each group (a leader and its workers) is a gang of its own.

With `startupPolicy: LeaderReady` the workers do not exist before the leader runs, so leader and
workers are decided one after the other. Exclusive placement is refused: the workers' pods are made
only once the leader is placed.

Source: kubernetes-sigs/lws v0.7, api/leaderworkerset/v1/leaderworkerset_types.go (labels, defaults,
startupPolicy), pkg/webhooks/pod_webhook.go (indices; affinities of exclusive placement).
"""

from dataclasses import replace

from madang.engines.kubernetes.foreign.tops import (
    Kind,
    Object,
    Place,
    RoleSize,
    Top,
    is_set,
    role_of,
    trimmed,
)
from madang.engines.kubernetes.reading import digits, mapping, pairs, text, whole
from madang.engines.kubernetes.values import PodFacts

NAME = "leaderworkerset.sigs.k8s.io/name"
COPY = "leaderworkerset.sigs.k8s.io/group-index"
INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
PLACED_AFTER_THE_LEADER = (
    "leaderworkerset.sigs.k8s.io/exclusive-topology",
    "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology",
)


def trim(of: Object) -> Top | None:
    """What the LeaderWorkerSet says of its pods."""
    return trimmed("LeaderWorkerSet", of, _read)


def _read(top: Top, of: Object) -> Top:
    template = mapping(of, "spec", "leaderWorkerTemplate")
    size = whole(template, "size", default=1, least=1)
    workers = mapping(template, "workerTemplate")
    has_own = is_set(template, "leaderTemplate")
    leader = role_of("leader", 1, mapping(template, "leaderTemplate") if has_own else workers)
    roles: tuple[RoleSize, ...] = (leader,)
    if size > 1:
        roles = (leader, role_of("worker", size - 1, workers))
    annotations = pairs(of, "metadata", "annotations")
    refused = next((key for key in PLACED_AFTER_THE_LEADER if key in annotations), "")
    return replace(
        top,
        roles=roles,
        copied=True,
        parted=text(of, "spec", "startupPolicy") == "LeaderReady",
        refused=(
            f"LeaderWorkerSet {top.name} has {refused}: it makes the workers only after the leader "
            "is placed; use madang.io/within instead"
            if refused
            else ""
        ),
    )


def place(pod: PodFacts, top: Top) -> Place:
    """By group and worker index; the leader is worker 0."""
    copy, index = digits(pod.label(COPY)), digits(pod.label(INDEX))
    if index == 0:
        return Place("leader", 0, copy or 0)
    return Place("worker", None if index is None else index - 1, copy or 0)


KIND = Kind("LeaderWorkerSet", "leaderworkerset.x-k8s.io", "LeaderWorkerSet", trim, place)
