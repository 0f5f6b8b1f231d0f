"""Objects of the API server, trimmed to what is needed, as they arrive.

A pod of 10 KiB becomes a value of about one; texts that come again and again are kept once.
Promises: never raises for what an object says. One without a name or uid is None; one whose spec
cannot be read is there, with `refused` saying why.
"""

import sys
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import orjson

from madang.core.model import Taint
from madang.engines.kubernetes.arithmetic import QuantityError, amounts
from madang.engines.kubernetes.podspec import MIB, VOLUMES, Wants, node_terms, selector_of, wants_of
from madang.engines.kubernetes.reading import (
    Malformed,
    items,
    mapping,
    named,
    pairs,
    text,
    texts,
    time_ms,
    truth,
    value,
    whole,
)
from madang.engines.kubernetes.values import (
    GPU,
    Asks,
    BudgetFacts,
    ClaimUse,
    GroupRef,
    NodeFacts,
    Owner,
    Pairs,
    PodFacts,
    PriorityFacts,
    Selector,
    VolumeClaimFacts,
    VolumeFacts,
)

ANNOTATIONS_READ = (
    "madang.io/",
    "kueue.x-k8s.io/",
    "scheduling.",
    "batch.kubernetes.io/",
    "volcano.sh/",
)
ANNOTATIONS_NAMED = frozenset(
    {
        "pod-group-name",
        "gpu-fraction",
        "gpu-memory",
        "gpu-fraction-num-devices",
        "leaderworkerset.sigs.k8s.io/size",
    }
)
SCHEDULER_PLUGINS_GROUP = "scheduling.x-k8s.io/pod-group"
SCHEDULER_PLUGINS_GROUP_OLD = "pod-group.scheduling.sigs.k8s.io"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
KUEUE_TOTAL = "kueue.x-k8s.io/pod-group-total-count"
VOLCANO_GROUPS = ("scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name")
KAI_GROUP = "pod-group-name"

KNOWN_MAX = 4096  # of kinds of pods, each less than a kilobyte; then from the beginning
_EACH_ITS_OWN = frozenset({"nodeName", "hostname", "subdomain"})  # no wish is read from these,
# nor from these of a container; ranks are told by variables, tokens by mounts of their own names
_OF_CONTAINERS = frozenset({"env", "envFrom", "args", "command", "volumeMounts", "image"})
_PLAIN_VOLUMES = VOLUMES - {"persistentVolumeClaim", "ephemeral"}  # nothing is wished by them
_KNOWN: dict[bytes, Wants] = {}

# What a kubelet says of a container that will not begin unless somebody mends something.
CANNOT_BEGIN = frozenset(
    """
    ErrImagePull ImagePullBackOff InvalidImageName ErrImageNeverPull ImageInspectError
    CreateContainerConfigError CreateContainerError RunContainerError
    """.split()  # noqa: SIM905 - they read better so
)
NOT_A_TROUBLE = frozenset({"Ready", "NetworkUnavailable"})  # both become taints and `ready`
TEXT_CHARS_MAX = 512


def pod(of: Mapping[str, Any]) -> PodFacts | None:
    """One pod; None if it has no name."""
    try:
        namespace, name = named(of, "metadata", "namespace"), named(of, "metadata", "name")
        uid = named(of, "metadata", "uid")
    except Malformed:
        return None
    key = f"{namespace}/{name}"
    try:
        return _pod(of, key, namespace, name, uid)
    except Malformed as failure:
        return PodFacts(
            key, namespace, name, uid, _scheduler(of), refused=f"cannot be read: {failure}"
        )


def _pod(of: Mapping[str, Any], key: str, namespace: str, name: str, uid: str) -> PodFacts:
    spec, status = mapping(of, "spec"), mapping(of, "status")
    labels, annotations = pairs(of, "metadata", "labels"), pairs(of, "metadata", "annotations")
    wants = _wants(spec, labels, annotations, name)
    exit_code, reason = _ending(status)
    return PodFacts(
        key=key,
        namespace=sys.intern(namespace),
        name=name,
        uid=uid,
        scheduler=sys.intern(text(spec, "schedulerName") or "default-scheduler"),
        node=sys.intern(text(spec, "nodeName")),
        phase=sys.intern(text(status, "phase") or "Pending"),
        gated=any(items(spec, "schedulingGates")),
        deleting=bool(text(of, "metadata", "deletionTimestamp")),
        ready=_condition(status, "Ready") == "True",
        exit_code=exit_code,
        reason=reason,
        nominated=sys.intern(text(status, "nominatedNodeName")),
        priority=whole(spec, "priority", least=-(2**31)),
        priority_class=sys.intern(text(spec, "priorityClassName")),
        preempts=text(spec, "preemptionPolicy") != "Never",
        owner=owner(of),
        labels=pairs_of(labels),
        annotations=annotations_of(annotations),
        asks=wants.asks,
        needs=wants.needs,
        tolerates=wants.tolerates,
        spread=wants.spread,
        within=wants.within,
        group=group_of(spec, labels, annotations),
        volumes=wants.volumes,
        claims=_claims(wants.claims, status),
        refused=wants.refused,
        grace_s=whole(spec, "terminationGracePeriodSeconds", default=30),
        created_ms=time_ms(of, "metadata", "creationTimestamp"),
    )


def _wants(
    spec: Mapping[str, Any], labels: Mapping[str, str], annotations: Mapping[str, str], name: str
) -> Wants:
    """`wants_of`, worked out once for all pods, and all events of a pod, that ask for the same.

    It is most of what a pod costs, and a pod comes several times: made, bound, running, ended.
    """
    try:
        told = orjson.dumps(
            {key: _wished(key, one) for key, one in spec.items() if key not in _EACH_ITS_OWN}
        )
    except TypeError:  # no JSON: a test's, or none that a server sends
        return wants_of(spec, labels, annotations, name)
    means = labels if b'"affinity"' in told else None
    own = name if b'"ephemeral"' in told else ""  # such a volume's claim has the pod's name
    shares = [one for one in annotations if one.startswith("gpu-")]
    key = blake2b(told + orjson.dumps([means, own, shares]), digest_size=16).digest()
    found = _KNOWN.get(key)
    if found is None:
        if len(_KNOWN) >= KNOWN_MAX:
            _KNOWN.clear()
        found = _KNOWN[key] = wants_of(spec, labels, annotations, name)
    return found


def _wished(key: str, one: Any) -> Any:
    """What of a field of the spec may say what the pod needs; all of it where that is unsure."""
    if not isinstance(one, list) or not all(isinstance(part, dict) for part in one):
        return one
    if key in ("containers", "initContainers"):
        return [{k: v for k, v in part.items() if k not in _OF_CONTAINERS} for part in one]
    if key == "volumes":
        kinds = [[k for k in part if k != "name" and part[k] is not None] for part in one]
        return [
            part
            for part, found in zip(one, kinds, strict=True)
            if not _PLAIN_VOLUMES.issuperset(found)
        ]
    return one


def _scheduler(of: Mapping[str, Any]) -> str:
    try:
        return text(of, "spec", "schedulerName")
    except Malformed:
        return ""


def owner(of: Mapping[str, Any]) -> Owner | None:
    """The owner that controls it, if one does. Raises: Malformed."""
    for one in items(of, "metadata", "ownerReferences"):
        if truth(one, "controller"):
            return Owner(
                sys.intern(named(one, "apiVersion")),
                sys.intern(named(one, "kind")),
                sys.intern(named(one, "name")),
                sys.intern(named(one, "uid")),
            )
    return None


def group_of(
    spec: Mapping[str, Any], labels: Mapping[str, str], annotations: Mapping[str, str]
) -> GroupRef | None:
    """The group that a pod, or a template, names. The native one goes before all others."""
    native = text(spec, "schedulingGroup", "podGroupName")
    if native:
        return GroupRef("NativePodGroup", native)
    for key in (SCHEDULER_PLUGINS_GROUP, SCHEDULER_PLUGINS_GROUP_OLD):
        if labels.get(key):
            return GroupRef("SchedulerPluginsPodGroup", labels[key])
    for key in VOLCANO_GROUPS:
        if annotations.get(key):
            return GroupRef("VolcanoPodGroup", annotations[key])
    if annotations.get(KAI_GROUP):
        return GroupRef("KaiPodGroup", annotations[KAI_GROUP])
    if labels.get(KUEUE_GROUP):
        total = annotations.get(KUEUE_TOTAL, "")
        members = int(total) if total.isascii() and total.isdigit() and len(total) < 7 else 0
        return GroupRef("KueuePodGroup", labels[KUEUE_GROUP], members)
    return None


def _claims(uses: tuple[ClaimUse, ...], status: Mapping[str, Any]) -> tuple[ClaimUse, ...]:
    """With the names of the claims that were made from templates."""
    made = {
        text(one, "name"): text(one, "resourceClaimName")
        for one in items(status, "resourceClaimStatuses")
    }
    return tuple(
        ClaimUse(use.name, use.claim or made.get(use.name, ""), use.template) for use in uses
    )


def _ending(status: Mapping[str, Any]) -> tuple[int | None, str]:
    """(exit code, reason): the first container's that failed, else 0 when all have ended; of one
    that waits for something, what it waits for."""
    reason = text(status, "reason")
    codes: list[tuple[int, str]] = []
    for kind in ("initContainerStatuses", "containerStatuses"):
        for one in items(status, kind):
            waits = text(mapping(one, "state", "waiting"), "reason")
            if waits in CANNOT_BEGIN:
                return None, waits
    for one in items(status, "containerStatuses"):
        ended = value(one, "state", "terminated")
        if ended is None:
            return None, reason
        codes.append((whole(ended, "exitCode", least=-(2**31)), text(ended, "reason")))
    if text(status, "phase") not in ("Succeeded", "Failed") or not codes:
        return None, reason
    code, why = next((found for found in codes if found[0]), codes[0])
    return code, (reason or why)[:TEXT_CHARS_MAX]


def _condition(status: Mapping[str, Any], kind: str) -> str:
    for one in items(status, "conditions"):
        if text(one, "type") == kind:
            return text(one, "status")
    return ""


def annotations_of(of: Mapping[str, str]) -> Pairs:
    """Those of a pod's annotations that are read, in their order."""
    return pairs_of(
        {
            name: value
            for name, value in of.items()
            if name.startswith(ANNOTATIONS_READ) or name in ANNOTATIONS_NAMED
        }
    )


def pairs_of(of: Mapping[str, str]) -> Pairs:
    """A map of texts in the order of its keys, each text kept once."""
    intern = sys.intern
    return tuple([(intern(key), intern(of[key])) for key in sorted(of)])


def node(of: Mapping[str, Any]) -> NodeFacts | None:
    """One node; None if it has no name."""
    try:
        name, uid = named(of, "metadata", "name"), named(of, "metadata", "uid")
    except Malformed:
        return None
    try:
        return _node(of, name, uid)
    except (Malformed, QuantityError) as failure:
        return NodeFacts(name, uid, refused=f"cannot be read: {failure}")


def _node(of: Mapping[str, Any], name: str, uid: str) -> NodeFacts:
    labels = pairs(of, "metadata", "labels")
    status = mapping(of, "status")
    has = amounts(mapping(status, "capacity"))
    free = amounts(mapping(status, "allocatable") or mapping(status, "capacity"))
    pods_max = free.pop("pods", 0)
    return NodeFacts(
        name=name,
        uid=uid,
        ready=_condition(status, "Ready") == "True",
        unschedulable=truth(of, "spec", "unschedulable"),
        labels=pairs_of(labels),
        taints=tuple(
            Taint(named(one, "key"), text(one, "value"), named(one, "effect"))
            for one in items(of, "spec", "taints")
        ),
        allocatable=Asks(
            cpu_milli=free.pop("cpu", 0),
            memory_mib=free.pop("memory", 0) // MIB,
            gpus=free.pop(GPU, 0),
            extended=tuple(sorted(free.items())),
        ),
        pods_max=pods_max,
        model=labels.get("nvidia.com/gpu.product", ""),
        gpu_count=max(has.get(GPU, 0), 0),
        gpu_memory_mib=_whole_label(labels, "nvidia.com/gpu.memory"),
        version=text(status, "nodeInfo", "kubeletVersion"),
        troubles=_troubles(items(status, "conditions")),
    )


def _troubles(conditions: Iterable[Mapping[str, Any]]) -> Pairs:
    """Every condition that is true and should not be (node problem detector's among them)."""
    return tuple(
        sorted(
            (text(one, "type"), text(one, "reason"))
            for one in conditions
            if text(one, "status") == "True" and text(one, "type") not in NOT_A_TROUBLE
        )
    )


def _whole_label(labels: Mapping[str, str], key: str) -> int:
    found = labels.get(key, "")
    return int(found) if found.isascii() and found.isdigit() and len(found) < 10 else 0


def budget(of: Mapping[str, Any]) -> BudgetFacts | None:
    """A PodDisruptionBudget of policy/v1 or v1beta1; None if it has no name."""
    try:
        namespace, name = named(of, "metadata", "namespace"), named(of, "metadata", "name")
    except Malformed:
        return None
    key = f"{namespace}/{name}"
    try:
        selector = selector_of(value(of, "spec", "selector"))
        allowed = whole(of, "status", "disruptionsAllowed")
        if whole(of, "status", "observedGeneration") < whole(of, "metadata", "generation"):
            allowed = 0  # its controller has not seen its newest spec: the API server waits, too
    except Malformed as failure:
        nothing = Selector(nothing=True)
        return BudgetFacts(key, namespace, name, nothing, refused=f"cannot be read: {failure}")
    if of.get("apiVersion") == "policy/v1beta1" and not selector.terms:
        selector = Selector(nothing=True)  # empty meant nothing there, and everything since v1
    return BudgetFacts(key, namespace, name, selector, allowed)


def priority_class(of: Mapping[str, Any]) -> PriorityFacts | None:
    """A PriorityClass; None if it cannot be read."""
    try:
        return PriorityFacts(
            named(of, "metadata", "name"),
            whole(of, "value", least=-(2**31)),
            truth(of, "globalDefault"),
            text(of, "preemptionPolicy") != "Never",
        )
    except Malformed:
        return None


def volume_claim(of: Mapping[str, Any]) -> VolumeClaimFacts | None:
    """A PersistentVolumeClaim; None if it has no name."""
    try:
        key = f"{named(of, 'metadata', 'namespace')}/{named(of, 'metadata', 'name')}"
    except Malformed:
        return None
    try:
        return VolumeClaimFacts(
            key,
            text(of, "spec", "volumeName") if text(of, "status", "phase") == "Bound" else "",
            text(of, "spec", "storageClassName"),
            "ReadWriteOncePod" in texts(of, "spec", "accessModes"),
        )
    except Malformed as failure:
        return VolumeClaimFacts(key, refused=f"cannot be read: {failure}")


def volume(of: Mapping[str, Any]) -> VolumeFacts | None:
    """A PersistentVolume; None if it has no name."""
    try:
        name = named(of, "metadata", "name")
    except Malformed:
        return None
    try:
        required = value(of, "spec", "nodeAffinity", "required")
        return VolumeFacts(name, node_terms(mapping(required)) if required else ())
    except Malformed as failure:
        return VolumeFacts(name, refused=f"cannot be read: {failure}")
