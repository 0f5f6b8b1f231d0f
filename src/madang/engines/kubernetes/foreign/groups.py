"""Groups that others declare: native PodGroups, those of scheduler-plugins, Volcano, KAI, Kueue's.

A pod names its group by a field, a label or an annotation (`trim.group_of`); the group says how
many must start together. Where both a group and the object that made the pods say a number, the
group's counts: that many start together, and further pods follow one by one, as in each of these
projects.
Kueue's groups of plain pods have no object of their own: each pod says the total.

Sources: kubernetes 1.37 staging/src/k8s.io/api/scheduling/v1beta1/types.go, and 1.36 v1alpha2;
kubernetes-sigs/scheduler-plugins v0.33 apis/scheduling/v1alpha1/types.go; volcano-sh/apis v1.13
pkg/apis/scheduling/v1beta1/types.go (networkTopology, subGroupPolicy); kai-scheduler v0.10
pkg/apis/scheduling/v2alpha2/podgroup_types.go (preemptible below priority 100); kueue v0.14,
"Run Plain Pods" (pod-group-name, pod-group-total-count).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from madang.engines.kubernetes.foreign.tops import Object, wish_of
from madang.engines.kubernetes.reading import (
    Malformed,
    items,
    listed,
    mapping,
    named,
    pairs,
    text,
    value,
    whole,
)

TASK = "volcano.sh/task-spec"
PREEMPTIBLE_BELOW = 100  # KAI: what has no word about it is preemptible below this priority


@dataclass(frozen=True, slots=True)
class Group:
    """`members` start together (0: each pod by itself). `tasks` says how many of each of Volcano's
    tasks at least; `priority` is None where pods say it themselves."""

    kind: str
    key: str
    namespace: str
    name: str
    uid: str
    members: int = 0
    tasks: tuple[tuple[str, int], ...] = ()
    priority: int | None = None
    priority_class: str = ""
    preempts: bool | None = None
    preemptible: bool | None = None
    wish: str = ""
    wish_soft: bool = False
    queue: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True)
class GroupKind:
    """One kind of object that groups pods, named as in discovery."""

    name: str
    trim: Callable[[Object], Group | None]


def _trimmed(kind: str, of: Object, read: Callable[[Group, Object], Group]) -> Group | None:
    try:
        namespace, name = named(of, "metadata", "namespace"), named(of, "metadata", "name")
        uid = named(of, "metadata", "uid")
    except Malformed:
        return None
    group = Group(kind, f"{namespace}/{name}", namespace, name, uid)
    try:
        wish, soft = wish_of(pairs(of, "metadata", "annotations"))
        return read(replace(group, wish=wish, wish_soft=soft), of)
    except Malformed as failure:
        return replace(group, refused=f"PodGroup {name} cannot be read: {failure}")


def native(of: Object) -> Group | None:
    """scheduling.k8s.io, v1alpha2 (1.36) or v1beta1 (1.37)."""
    return _trimmed("NativePodGroup", of, _native)


def _native(group: Group, of: Object) -> Group:
    spec = mapping(of, "spec")
    policy = mapping(spec, "schedulingPolicy")
    if value(policy, "gang") is None and value(policy, "basic") is None:
        raise Malformed(f"the policy {sorted(policy)} is neither gang nor basic")
    members = whole(policy, "gang", "minCount", least=1) if "gang" in policy else 0
    keys = [named(one, "key") for one in items(spec, "schedulingConstraints", "topology")]
    alpha = items(spec, "schedulingConstraints", "topologyConstraints")  # v1alpha2 until late 1.36
    keys += [text(one, "topologyKey") or named(one, "key") for one in alpha]
    refused = ""
    if len(keys) > 1:
        refused = f"PodGroup {group.name} has {len(keys)} topology constraints; one is done"
    if keys and not members:
        refused = f"PodGroup {group.name} has a topology constraint without a gang: not done"
    if text(spec, "parentCompositePodGroupName"):
        refused = f"PodGroup {group.name} is part of a composite one: those are not done"
    has_priority = value(spec, "priority") is not None
    return replace(
        group,
        members=members,
        priority=whole(spec, "priority", least=-(2**31)) if has_priority else None,
        priority_class=text(spec, "priorityClassName"),
        preempts=text(spec, "preemptionPolicy") != "Never" if "preemptionPolicy" in spec else None,
        wish=keys[0] if keys else group.wish,
        wish_soft=False if keys else group.wish_soft,
        refused=refused,
    )


def scheduler_plugins(of: Object) -> Group | None:
    """scheduling.x-k8s.io/v1alpha1."""
    return _trimmed("SchedulerPluginsPodGroup", of, _scheduler_plugins)


def _scheduler_plugins(group: Group, of: Object) -> Group:
    return replace(group, members=whole(of, "spec", "minMember", default=1, least=1))


def volcano(of: Object) -> Group | None:
    """scheduling.volcano.sh/v1beta1."""
    return _trimmed("VolcanoPodGroup", of, _volcano)


def _volcano(group: Group, of: Object) -> Group:
    spec = mapping(of, "spec")
    wish, soft = _network(mapping(spec, "networkTopology"))
    tasks = mapping(spec, "minTaskMember")
    refused = ""
    if listed(spec, "subGroupPolicy"):
        refused = f"PodGroup {group.name} has a subGroupPolicy: subgroups are not done"
    return replace(
        group,
        members=whole(spec, "minMember"),
        tasks=tuple((task, whole(tasks, task)) for task in sorted(tasks)),
        priority_class=text(spec, "priorityClassName"),
        queue=text(spec, "queue"),
        wish=wish or group.wish,
        wish_soft=soft if wish else group.wish_soft,
        refused=refused,
    )


def _network(of: Object) -> tuple[str, bool]:
    """The tier by number or name, and whether it is only a wish."""
    if not of:
        return "", False
    mode = text(of, "mode") or "hard"
    if mode not in ("hard", "soft"):
        raise Malformed(f"networkTopology.mode is {mode!r}; hard or soft")
    name = text(of, "highestTierName")
    if not name and value(of, "highestTierAllowed") is not None:
        name = f"tier {whole(of, 'highestTierAllowed')}"
    if not name and mode == "hard":
        name = "tier 1"  # the CRD's default
    return name, mode == "soft"


def kai(of: Object) -> Group | None:
    """scheduling.run.ai/v2alpha2."""
    return _trimmed("KaiPodGroup", of, _kai)


def _kai(group: Group, of: Object) -> Group:
    spec = mapping(of, "spec")
    required, preferred = _levels(mapping(spec, "topologyConstraint"))
    members, refused = whole(spec, "minMember"), ""
    for one in items(spec, "subGroups"):
        if any(_levels(mapping(one, "topologyConstraint"))):
            refused = (
                f"PodGroup {group.name}: topology of the subgroup {text(one, 'name')}: not done"
            )
        if not whole(spec, "minMember"):
            members += whole(one, "minMember")
    if value(spec, "minSubGroup") is not None:
        refused = f"PodGroup {group.name} has minSubGroup: a part of the subgroups is not done"
    said = text(spec, "preemptibility")
    return replace(
        group,
        members=members,
        priority_class=text(spec, "priorityClassName"),
        preemptible=said == "preemptible" if said else None,
        queue=text(spec, "queue"),
        wish=required or preferred or group.wish,
        wish_soft=not required if required or preferred else group.wish_soft,
        refused=refused,
    )


def _levels(of: Object) -> tuple[str, str]:
    return text(of, "requiredTopologyLevel"), text(of, "preferredTopologyLevel")


def kueue(of: Object) -> Group | None:
    """kueue.x-k8s.io Workload: only who it is; its pods say how many they are."""
    return _trimmed("KueueWorkload", of, lambda group, _: group)


GROUPS = {
    one.name: one
    for one in (
        GroupKind("NativePodGroup", native),
        GroupKind("SchedulerPluginsPodGroup", scheduler_plugins),
        GroupKind("VolcanoPodGroup", volcano),
        GroupKind("KaiPodGroup", kai),
        GroupKind("KueueWorkload", kueue),
    )
}
