"""The gangs of a group that pods name: how many start together, and who.

The group says the number; the pods of the lowest indices make it, and before them those whose ranks
were given.
A group whose members differ in having GPUs at all is two gangs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from madang.engines.kubernetes.foreign.arranged import (
    CPU_PART,
    GANG,
    Arranged,
    alone,
    arranged,
    has_devices,
    seated,
)
from madang.engines.kubernetes.foreign.groups import PREEMPTIBLE_BELOW, TASK, Group
from madang.engines.kubernetes.foreign.tops import Place
from madang.engines.kubernetes.values import Gang, PodFacts, PriorityFacts, Role

KUEUE_GROUP = "KueuePodGroup"

Order = Callable[[PodFacts], tuple[int, int, int, object]]


def kueue_group(key: str, pods: Sequence[PodFacts], workload: Group | None) -> Group | None:
    """A group of Kueue's, as its pods say it; None without any."""
    if not pods:
        return None
    namespace, _, name = key.partition("/")
    kept = [_group_of(pod) for pod in pods if _group_of(pod)]
    oldest = min(pods, key=lambda pod: (pod.created_ms, pod.uid))
    uid = kept[0] if kept else workload.uid if workload else f"{oldest.uid}/group"
    totals = sorted({pod.group.members for pod in pods if pod.group is not None})
    refused = ""
    if len(totals) > 1 or not totals[0]:
        refused = (
            f"the pods of the group {name} say {', '.join(map(str, totals))} as "
            "kueue.x-k8s.io/pod-group-total-count; all must say the same number"
        )
    return Group(KUEUE_GROUP, key, namespace, name, uid, members=totals[-1], refused=refused)


def _group_of(pod: PodFacts) -> str:
    """What the key of its gang began with when its rank was given; "" if none was."""
    return pod.annotation(GANG).removesuffix(f"/{CPU_PART}")


def of_group(
    group: Group,
    pods: Sequence[PodFacts],
    order: Order,
    priorities: Mapping[str, PriorityFacts],
) -> tuple[Arranged, ...]:
    """Its gangs, then the pods beyond them one by one."""
    priority = _priority_of(group, priorities)
    if group.refused:
        return tuple(alone(pod, group, group.refused) for pod in pods)
    if group.members <= 1:
        return tuple(_with_priority(alone(pod, group), group, priority) for pod in pods)
    chosen, absent = _chosen(group, sorted(pods, key=order))
    gpus = [pod for pod in chosen if has_devices(pod.asks)]
    rest = [pod for pod in chosen if not has_devices(pod.asks)]
    parts = [(CPU_PART, rest, 0), ("", gpus, absent)] if gpus and rest else [("", chosen, absent)]
    found = []
    for suffix, members, missing in parts:
        draft = _group_draft(group, suffix, members, missing)
        placed = [(pod, Place("member", None)) for pod in members]
        seats, _ = seated(draft, placed)
        found.append(_with_priority(arranged(draft, seats), group, priority))
    taken = {pod.key for pod in chosen}
    held = group.wish and not group.wish_soft
    why = (
        f"{group.name} starts {group.members} pods together, and this is one more: it cannot be "
        f"held to their {group.wish}"
    )
    extras = [alone(pod, group, why if held else "") for pod in pods if pod.key not in taken]
    return (*found, *(_with_priority(one, group, priority) for one in extras))


def _chosen(group: Group, pods: Sequence[PodFacts]) -> tuple[list[PodFacts], int]:
    """The pods that start together, in order, and how many of them are not there yet."""
    kept = [pod for pod in pods if _group_of(pod) == group.uid]
    first = kept[: group.members]
    absent = 0
    for task, least in group.tasks:
        have = sum(pod.annotation(TASK) == task for pod in first)
        more = [p for p in pods if p.annotation(TASK) == task and p not in first]
        first += more[: max(least - have, 0)]
        absent += max(least - have - len(more), 0)
    first += [pod for pod in pods if pod not in first][: max(group.members - len(first), 0)]
    order = {pod.key: at for at, pod in enumerate(pods)}
    first.sort(key=lambda pod: order[pod.key])
    return first, max(absent, group.members - len(first))


def _group_draft(group: Group, suffix: str, pods: Sequence[PodFacts], missing: int) -> Gang:
    members = len(pods) + missing
    return Gang(
        key=f"{group.uid}/{suffix}" if suffix else group.uid,
        namespace=group.namespace,
        name=f"{group.name}-{suffix}" if suffix else group.name,
        kind="PodGroup",
        owner_name=group.name,
        project=group.namespace,
        members=members,
        within=group.wish,
        within_soft=group.wish_soft,
        roles=(Role("member", 0, members),),
        queue=group.queue,
    )


def _priority_of(group: Group, priorities: Mapping[str, PriorityFacts]) -> int | None:
    if group.priority is not None:
        return group.priority
    found = priorities.get(group.priority_class)
    return found.value if found else None


def _with_priority(one: Arranged, group: Group, priority: int | None) -> Arranged:
    gang = one.gang
    if priority is not None:
        gang = replace(gang, priority=priority, priority_class=group.priority_class)
    if group.preempts is not None:
        gang = replace(gang, preempts=group.preempts)
    if group.preemptible is not None:
        gang = replace(gang, preemptible=group.preemptible)
    elif group.kind == "KaiPodGroup":
        gang = replace(gang, preemptible=gang.priority < PREEMPTIBLE_BELOW)
    return replace(one, gang=gang)
