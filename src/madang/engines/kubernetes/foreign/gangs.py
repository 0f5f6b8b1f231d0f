"""Which pods are decided together, and which rank each of them has.

`unit_of` says which object decides about a pod: the group it names, else the topmost known object
that made it, else the pod itself. `gangs_of` turns a unit and its pods into gangs with seats.
Promises: a gang's size is what its object says, never how many pods there are; a rank that was
given (annotations of the Binding) stays; what a gang cannot have alike in all members is refused in
one line. Pure: the same pods give the same gangs, in any order they come.

A gang has one shape. So members without GPUs (a Ray head, a launcher) are a part of their own, with
`/cpu` in its key, and amounts that differ among the others are rounded up to the largest (`note`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from madang.engines.kubernetes.foreign import job, jobset, kubeflow, lws, ray
from madang.engines.kubernetes.foreign.arranged import (
    CPU_PART,
    POD,
    Arranged,
    alone,
    arranged,
    by_name,
    has_devices,
    largest,
    note,
    seated,
)
from madang.engines.kubernetes.foreign.grouping import KUEUE_GROUP, kueue_group, of_group
from madang.engines.kubernetes.foreign.groups import Group
from madang.engines.kubernetes.foreign.tops import Kind, RoleSize, Top
from madang.engines.kubernetes.values import Gang, Owner, PodFacts, PriorityFacts, Role

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


class Unit(NamedTuple):
    """What decides: `kind` is one of KINDS or GROUPS, KUEUE_GROUP or POD."""

    kind: str
    key: str


@dataclass(frozen=True, slots=True)
class Waits:
    """Nothing can be said yet; `text` is for people."""

    text: str


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
    here = sorted((pod for pod in pods if _counts(pod)), key=by_name)
    if unit.kind in KINDS:
        top = world.tops.get(unit.kind, {}).get(unit.key)
        return () if top is None else _of_top(top, here)
    if unit.kind == POD:
        return tuple(alone(pod) for pod in here)
    if unit.kind == KUEUE_GROUP:
        workload = world.groups.get("KueueWorkload", {}).get(unit.key)
        group: Group | None = kueue_group(unit.key, here, workload)
    else:
        group = world.groups.get(unit.kind, {}).get(unit.key)
    if group is None:
        return ()
    return of_group(group, here, lambda pod: _in_its_top(pod, world), world.priorities)


def _counts(pod: PodFacts) -> bool:
    """False of a pod that its maker replaces: it has no seat any more."""
    return not pod.deleting and pod.phase != "Failed"


# -- from the object that made the pods --------------------------------------------------------


def _of_top(top: Top, pods: Sequence[PodFacts]) -> tuple[Arranged, ...]:
    place = KINDS[top.kind].place
    placed = [(pod, place(pod, top)) for pod in pods]
    if top.refused:
        return tuple(alone(pod, top, top.refused) for pod in pods)
    copies = sorted({at.copy for _, at in placed}) if top.copied else [0]
    found: list[Arranged] = []
    taken: set[str] = set()
    for copy in copies:
        for suffix, roles in _parts(top):
            draft = _draft(top, roles, suffix, copy if top.copied else None)
            mine = [one for one in placed if one[1].copy == copy or not top.copied]
            seats, known = seated(draft, mine)
            taken |= known
            if mine:
                found.append(arranged(draft, seats))
    singles = [alone(pod, top) for pod in pods if pod.key not in taken]
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
    with_gpus = tuple(role for role in roles if has_devices(role.wants.asks))
    without = tuple(role for role in roles if not has_devices(role.wants.asks))
    if with_gpus and without:
        return [(CPU_PART, without), ("", with_gpus)]
    return [("", tuple(roles))]


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
        asks=largest(role.wants.asks for role in roles),
        preemptible=top.preemptible,
        within=top.wish,
        within_soft=top.wish_soft,
        roles=tuple(found),
        queue=top.queue,
        note=note([(role.name, role.wants.asks) for role in roles]),
        refused=next((f"{r.name}: {r.wants.refused}" for r in roles if r.wants.refused), ""),
    )


def _in_its_top(pod: PodFacts, world: World) -> tuple[int, int, int, object]:
    """An order by role and index where the object that made the pod is known, else by name."""
    top = _top_of(pod, world)
    if not isinstance(top, Top):
        return (0, 0, 0, by_name(pod))
    place = KINDS[top.kind].place(pod, top)
    names = [role.name for role in top.roles]
    role = names.index(place.role) if place.role in names else len(names)
    index = 1 << 30 if place.index is None else place.index
    return (place.copy, role, index, by_name(pod))
