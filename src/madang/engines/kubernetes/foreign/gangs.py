"""Which pods are decided together, and which rank each of them has.

`unit_of` says which object decides about a pod: the group it names, else the topmost known object
that made it, else the pod itself. `gangs_of` turns a unit and its pods into gangs with seats.
Promises: a gang's size is what its object says, never how many pods there are; a rank that was
given (annotations of the Binding) stays; what a gang cannot have alike in all members is refused in
one line. Pure: the same pods give the same gangs, in any order they come.

A gang has one shape. So members without GPUs (a Ray head, a launcher) are a part of their own, with
`/cpu` in its key, and amounts that differ among the others are rounded up to the largest (`note`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from madang.core.needs import needs_text
from madang.engines.kubernetes.foreign import job, jobset, kubeflow, lws, ray
from madang.engines.kubernetes.foreign.groups import (
    PREEMPTIBLE_BELOW,
    TASK,
    Group,
)
from madang.engines.kubernetes.foreign.tops import (
    PREEMPTIBLE,
    Kind,
    Place,
    RoleSize,
    Top,
    wish_of,
)
from madang.engines.kubernetes.reading import digits
from madang.engines.kubernetes.values import (
    Asks,
    Gang,
    Owner,
    PodFacts,
    PriorityFacts,
    Role,
)

GANG = "madang.io/gang"
RANK = "madang.io/rank"
KUEUE_GROUP = "KueuePodGroup"
POD = "Pod"
CPU_PART = "cpu"
EXTRA = "extra"

KINDS: Mapping[str, Kind] = {
    one.name: one
    for one in (
        job.KIND,
        jobset.KIND,
        lws.KIND,
        kubeflow.PYTORCH,
        kubeflow.TRAIN,
        ray.CLUSTER,
        ray.JOB,
    )
}
_BY_LABEL = ((jobset.KIND, jobset.NAME), (lws.KIND, lws.NAME))
_BY_OWNER = {(one.group, one.kind): one for one in KINDS.values()}


@dataclass(frozen=True, slots=True)
class World:
    """What is known: by kind (as in discovery), then by `namespace/name`. A kind that is not
    watched is absent."""

    tops: Mapping[str, Mapping[str, Top]] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Group]] = field(default_factory=dict)
    priorities: Mapping[str, PriorityFacts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """What decides: `kind` is one of KINDS or GROUPS, KUEUE_GROUP or POD."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Waits:
    """Nothing can be said yet; `text` is for people."""

    text: str


@dataclass(frozen=True, slots=True)
class Arranged:
    """A gang and who sits where: (rank, pod key), ascending. It is ready when nothing is `missing`:
    a pod that is not there, or is gated, has no seat."""

    gang: Gang
    seats: tuple[tuple[int, str], ...] = ()
    missing: int = 0


Placed = tuple[PodFacts, Place]


def unit_of(pod: PodFacts, world: World) -> Unit | Waits:
    """Which object decides about the pod."""
    group = pod.group
    if group is not None and group.kind == KUEUE_GROUP:
        return Unit(KUEUE_GROUP, f"{pod.namespace}/{group.name}")
    if group is not None and group.kind in world.groups:
        key = f"{pod.namespace}/{group.name}"
        if key not in world.groups[group.kind]:
            return Waits(f"its PodGroup {group.name} is not there yet")
        return Unit(group.kind, key)
    found = _top_of(pod, world)
    if isinstance(found, Waits):
        return found
    return Unit(POD, pod.key) if found is None else Unit(found.kind, found.key)


def _top_of(pod: PodFacts, world: World) -> Top | Waits | None:
    """The topmost known object whose pod it is; None if there is none.

    Two kinds put others between themselves and their pods (Jobs, StatefulSets), and labels on both.
    """
    for labelled, label in _BY_LABEL:
        if pod.label(label) and labelled.name in world.tops:
            return _known(labelled, pod.namespace, pod.label(label), "", world)
    owner: Owner | None = pod.owner
    found: Top | None = None
    while owner is not None:
        kind = _BY_OWNER.get((owner.group, owner.kind))
        if kind is None or kind.name not in world.tops:
            break
        above = _known(kind, pod.namespace, owner.name, owner.uid, world)
        if isinstance(above, Waits):
            return above
        if not above.roles and not above.refused:  # a TrainJob, a RayJob: those below say the size
            break
        found, owner = above, above.owner
    return found


def _known(kind: Kind, namespace: str, name: str, uid: str, world: World) -> Top | Waits:
    top = world.tops[kind.name].get(f"{namespace}/{name}")
    if top is None:
        return Waits(f"its {kind.kind} {name} is not known yet")
    if uid and top.uid != uid:
        return Waits(f"it belongs to an earlier {kind.kind} {name}")
    return top


def gangs_of(unit: Unit, pods: Iterable[PodFacts], world: World) -> tuple[Arranged, ...]:
    """The gangs of a unit, in the order in which they had best be decided.

    `pods` are those for which `unit_of` says this unit; ended and deleted ones may be among them.
    """
    here = sorted((pod for pod in pods if _counts(pod)), key=_by_name)
    if unit.kind in KINDS:
        top = world.tops.get(unit.kind, {}).get(unit.key)
        return () if top is None else _of_top(top, here)
    if unit.kind == POD:
        return tuple(_alone(pod) for pod in here)
    if unit.kind == KUEUE_GROUP:
        group: Group | None = _kueue_group(unit, here, world)
    else:
        group = world.groups.get(unit.kind, {}).get(unit.key)
    return () if group is None else _of_group(group, here, world)


def _counts(pod: PodFacts) -> bool:
    """False of a pod that its maker replaces: it has no seat any more."""
    return not pod.deleting and pod.phase != "Failed"


def _by_name(pod: PodFacts) -> tuple[tuple[tuple[bool, int, str], ...], str]:
    """Ascending names, numbers in them by value: w-2 before w-10."""
    parts = re.split(r"(\d{1,18})", pod.name)
    return tuple((p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts), pod.uid


# -- from the object that made the pods --------------------------------------------------------


def _of_top(top: Top, pods: Sequence[PodFacts]) -> tuple[Arranged, ...]:
    place = KINDS[top.kind].place
    placed = [(pod, place(pod, top)) for pod in pods]
    if top.refused:
        return tuple(_alone(pod, top, top.refused) for pod in pods)
    copies = sorted({at.copy for _, at in placed}) if top.copied else [0]
    found: list[Arranged] = []
    seated: set[str] = set()
    for copy in copies:
        for suffix, roles in _parts(top):
            draft = _draft(top, roles, suffix, copy if top.copied else None)
            mine = [one for one in placed if one[1].copy == copy or not top.copied]
            seats, known = _seated(draft, roles, mine)
            seated |= known
            if mine:
                found.append(_arranged(draft, seats))
    singles = [_alone(pod, top) for pod in pods if pod.key not in seated]
    return (*found, *singles)


def _parts(top: Top) -> list[tuple[str, tuple[RoleSize, ...]]]:
    """(what its key ends in, its roles) of each part that is decided by itself."""
    roles = [role for role in top.roles if role.members and not role.alone]
    if not roles:
        return []
    if top.parted:
        return [(role.name, (role,)) for role in roles] if len(roles) > 1 else [("", (roles[0],))]
    if top.mixed:
        alike: dict[object, list[RoleSize]] = {}
        for role in roles:
            wants = role.wants
            like = (wants.asks.gpus, wants.asks.extended, wants.needs, wants.tolerates)
            alike.setdefault(like, []).append(role)
        if len(alike) > 1:
            return [(some[0].name, tuple(some)) for some in alike.values()]
    with_gpus = tuple(role for role in roles if _has_devices(role.wants.asks))
    without = tuple(role for role in roles if not _has_devices(role.wants.asks))
    if with_gpus and without:
        return [(CPU_PART, without), ("", with_gpus)]
    return [("", tuple(roles))]


def _has_devices(asks: Asks) -> bool:
    return bool(asks.gpus or asks.claims)


def _draft(top: Top, roles: Sequence[RoleSize], suffix: str, copy: int | None) -> Gang:
    """The gang as its object describes it."""
    kind, owner_name = top.kind, top.name
    if top.owner is not None:
        kind, owner_name = top.owner.kind, top.owner.name
    endings = [str(copy)] if copy is not None else []
    endings += [suffix] if suffix else []
    first, found = 0, []
    for role in roles:
        found.append(Role(role.name, first, role.members))
        first += role.members
    return Gang(
        key="/".join([top.uid, *endings]),
        namespace=top.namespace,
        name="-".join([top.name, *endings]),
        kind=kind,
        owner_name=owner_name,
        project=top.namespace,
        members=first,
        asks=_largest(role.wants.asks for role in roles),
        preemptible=top.preemptible,
        within=top.wish,
        within_soft=top.wish_soft,
        roles=tuple(found),
        queue=top.queue,
        note=_note([(role.name, role.wants.asks) for role in roles]),
        refused=next((f"{r.name}: {r.wants.refused}" for r in roles if r.wants.refused), ""),
    )


def _seated(
    gang: Gang, roles: Sequence[RoleSize], placed: Sequence[Placed]
) -> tuple[dict[int, PodFacts], set[str]]:
    """Who sits on which rank, and the keys of all pods that belong here, seated or spare."""
    ranges = {role.name: range(role.first, role.first + role.members) for role in gang.roles}
    seats: dict[int, PodFacts] = {}
    known: set[str] = set()
    for pod, _ in placed:
        rank = digits(pod.annotation(RANK)) if pod.annotation(GANG) == gang.key else None
        if rank is not None and rank < gang.members:
            seats.setdefault(rank, pod)
            known.add(pod.key)
    by_index = sorted(placed, key=lambda one: one[1].index is None)
    for pod, place in by_index:
        ranks = ranges.get(place.role)
        if ranks is None or pod.key in known:
            continue
        if place.index is None:
            wanted = next((rank for rank in ranks if rank not in seats), None)
        else:
            wanted = ranks[place.index] if place.index < len(ranks) else None
        if wanted is not None:
            # The second pod of an index is spare until the first one has gone.
            seats.setdefault(wanted, pod)
            known.add(pod.key)
    return seats, known


# -- from a group that the pods name -----------------------------------------------------------


def _kueue_group(unit: Unit, pods: Sequence[PodFacts], world: World) -> Group | None:
    if not pods:
        return None
    namespace, _, name = unit.key.partition("/")
    workload = world.groups.get("KueueWorkload", {}).get(unit.key)
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
    return Group(KUEUE_GROUP, unit.key, namespace, name, uid, members=totals[-1], refused=refused)


def _group_of(pod: PodFacts) -> str:
    """What the key of its gang began with when its rank was given; "" if none was."""
    return pod.annotation(GANG).removesuffix(f"/{CPU_PART}")


def _of_group(group: Group, pods: Sequence[PodFacts], world: World) -> tuple[Arranged, ...]:
    priority = _priority_of(group, world)
    if group.refused:
        return tuple(_alone(pod, group, group.refused) for pod in pods)
    if group.members <= 1:
        return tuple(_with_priority(_alone(pod, group), group, priority) for pod in pods)
    chosen, absent = _chosen(group, sorted(pods, key=lambda pod: _in_its_top(pod, world)))
    gpus = [pod for pod in chosen if _has_devices(pod.asks)]
    rest = [pod for pod in chosen if not _has_devices(pod.asks)]
    parts = [(CPU_PART, rest, 0), ("", gpus, absent)] if gpus and rest else [("", chosen, absent)]
    found = []
    for suffix, members, missing in parts:
        draft = _group_draft(group, suffix, members, missing)
        placed = [(pod, Place("member", None)) for pod in members]
        seats, _ = _seated(draft, (), placed)
        found.append(_with_priority(_arranged(draft, seats), group, priority))
    taken = {pod.key for pod in chosen}
    held = group.wish and not group.wish_soft
    why = (
        f"{group.name} starts {group.members} pods together, and this is one more: it cannot be "
        f"held to their {group.wish}"
    )
    extras = [_alone(pod, group, why if held else "") for pod in pods if pod.key not in taken]
    return (*found, *(_with_priority(one, group, priority) for one in extras))


def _in_its_top(pod: PodFacts, world: World) -> tuple[int, int, int, object]:
    """An order by role and index where the object that made the pod is known, else by name."""
    top = _top_of(pod, world)
    if not isinstance(top, Top):
        return (0, 0, 0, _by_name(pod))
    place = KINDS[top.kind].place(pod, top)
    names = [role.name for role in top.roles]
    role = names.index(place.role) if place.role in names else len(names)
    index = 1 << 30 if place.index is None else place.index
    return (place.copy, role, index, _by_name(pod))


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


def _priority_of(group: Group, world: World) -> int | None:
    if group.priority is not None:
        return group.priority
    found = world.priorities.get(group.priority_class)
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


# -- what all have in common -------------------------------------------------------------------


def _alone(pod: PodFacts, made_by: Top | Group | None = None, refused: str = "") -> Arranged:
    """A gang of this pod alone."""
    owner = pod.owner
    draft = Gang(
        key=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        kind=owner.kind if owner else POD,
        owner_name=owner.name if owner else pod.name,
        project=pod.namespace,
        members=1,
        preemptible=made_by.preemptible is not False if made_by else True,
        roles=(Role("pod", 0, 1),),
        queue=made_by.queue if made_by else "",
        refused=refused,
    )
    return _arranged(draft, {0: pod})


def _arranged(draft: Gang, seats: Mapping[int, PodFacts]) -> Arranged:
    """The gang with all that its pods say; a gated pod has no seat yet."""
    ranks = sorted(seats)
    gang = _merged(draft, [seats[rank] for rank in ranks]) if ranks else draft
    ready = tuple((rank, seats[rank].key) for rank in ranks if not seats[rank].gated)
    return Arranged(gang, ready, gang.members - len(ready))


def _merged(gang: Gang, pods: Sequence[PodFacts]) -> Gang:
    """What the pods say: their admission, Kueue and the priority controller had the last word."""
    one = pods[0]
    asks = _largest([gang.asks, *(pod.asks for pod in pods)])
    within, soft, clash = _wish(gang, pods)
    preempting = [pod for pod in pods if pod.annotation(PREEMPTIBLE) == "false"]
    return replace(
        gang,
        asks=asks,
        priority=min(pod.priority for pod in pods),
        priority_class=one.priority_class,
        preempts=all(pod.preempts for pod in pods),
        preemptible=gang.preemptible and not preempting,
        within=within if gang.members > 1 else "",
        within_soft=soft and gang.members > 1,
        needs=one.needs,
        tolerates=tuple(t for t in one.tolerates if all(t in pod.tolerates for pod in pods)),
        spread=any(pod.spread for pod in pods) and gang.members > 1,
        note=gang.note or _note([(pod.name, pod.asks) for pod in pods]),
        refused=gang.refused or _refusal(pods) or clash,
    )


def _wish(gang: Gang, pods: Sequence[PodFacts]) -> tuple[str, bool, str]:
    """(label, soft, why not): of the object, else of the pods' annotations, else their affinity."""
    by_affinity = sorted({pod.within for pod in pods})
    if len(by_affinity) > 1:
        return "", False, "some of its pods have a required podAffinity and some not: not done"
    within, soft = gang.within, gang.within_soft
    if not within:
        said = sorted({wish_of(dict(pod.annotations)) for pod in pods})
        if len(said) > 1:
            names = " and ".join(name or "nothing" for name, _ in said)
            return "", False, f"its pods ask for different topology: {names}"
        within, soft = said[0]
    hard = by_affinity[0]
    if hard and within and (within, soft) != (hard, False):
        return "", False, f"it is to be within one {within} and, by podAffinity, within one {hard}"
    return (hard, False, "") if hard else (within, soft, "")


def _refusal(pods: Sequence[PodFacts]) -> str:
    for pod in pods:
        if pod.refused:
            return f"{pod.name}: {pod.refused}" if len(pods) > 1 else pod.refused
    for pod in pods[1:]:
        if pod.needs != pods[0].needs:
            return (
                f"{pods[0].name} must go to nodes with {needs_text(pods[0].needs) or 'any labels'},"
                f" {pod.name} to {needs_text(pod.needs) or 'any'}: members of a gang need the same"
            )
    return ""


def _largest(asks: Iterable[Asks]) -> Asks:
    """The most of anything that one of them asks for."""
    found = Asks()
    for one in asks:
        extended = dict(found.extended)
        for name, amount in one.extended:
            extended[name] = max(extended.get(name, 0), amount)
        found = Asks(
            cpu_milli=max(found.cpu_milli, one.cpu_milli),
            memory_mib=max(found.memory_mib, one.memory_mib),
            gpus=max(found.gpus, one.gpus),
            extended=tuple(sorted(extended.items())),
            claims=found.claims or one.claims,
        )
    return found


def _note(named: Sequence[tuple[str, Asks]]) -> str:
    """A line where GPUs differ: a seat is counted as the largest."""
    by_gpus: dict[int, str] = {}
    for name, asks in named:
        by_gpus.setdefault(asks.gpus, name)
    if len(by_gpus) < 2:
        return ""
    words = ", ".join(f"{name} asks for {gpus}" for gpus, name in sorted(by_gpus.items()))
    return f"GPUs differ among its members ({words}): each is counted as {max(by_gpus)}"
