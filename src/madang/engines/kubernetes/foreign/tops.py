"""What an object that makes pods says about them: how many, in which roles, decided how.

`Top` is what remains of a Job, a JobSet, a RayCluster …; each module of this family makes it
(`Kind.trim`) and says where one of its pods stands in it (`Kind.place`). Sizes are from specs.
Promises: `trim` never raises; what cannot be read, or not be done, is a Top with `refused`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from madang.engines.kubernetes.podspec import Wants, wants_of
from madang.engines.kubernetes.reading import (
    Malformed,
    items,
    mapping,
    named,
    pairs,
    text,
    value,
)
from madang.engines.kubernetes.trim import owner
from madang.engines.kubernetes.values import Owner, PodFacts

MEMBERS_MAX = 65_536  # of one object: as many as a job may have
WITHIN = "madang.io/within"
WITHIN_SOFT = "madang.io/within-soft"
PREEMPTIBLE = "madang.io/preemptible"
KUEUE_REQUIRED = "kueue.x-k8s.io/podset-required-topology"
KUEUE_PREFERRED = "kueue.x-k8s.io/podset-preferred-topology"
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RoleSize:
    """`members` pods of one template; `alone`: each of them is decided by itself; `each` is how
    many one replica has (a Job of a JobSet, a replica of several hosts)."""

    name: str
    members: int
    wants: Wants
    alone: bool = False
    each: int = 1


@dataclass(frozen=True, slots=True)
class Top:
    """See the module's docstring. `copied`: the roles are there once for each copy (a
    LeaderWorkerSet's groups), and each copy is decided by itself; `parted`: so is each role;
    `mixed`: so are roles that ask for different nodes. `wish` is the node label that should hold
    the gang."""

    kind: str
    key: str
    namespace: str
    name: str
    uid: str
    owner: Owner | None = None
    roles: tuple[RoleSize, ...] = ()
    copied: bool = False
    parted: bool = False
    mixed: bool = False
    wish: str = ""
    wish_soft: bool = False
    preemptible: bool = True
    queue: str = ""
    suspended: bool = False
    finished: str = ""
    refused: str = ""

    @property
    def members(self) -> int:
        """Of one copy."""
        return sum(role.members for role in self.roles)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod stands: `index` in its role, None if nothing says it."""

    role: str
    index: int | None
    copy: int = 0


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object that makes pods."""

    name: str  # as in discovery
    group: str
    kind: str
    trim: Callable[[Object], Top | None]
    place: Callable[[PodFacts, Top], Place]


def trimmed(kind: str, of: Object, read: Callable[[Top, Object], Top]) -> Top | None:
    """What `read` makes of the object, on top of what all kinds have in common."""
    try:
        namespace, name = named(of, "metadata", "namespace"), named(of, "metadata", "name")
        uid = named(of, "metadata", "uid")
    except Malformed:
        return None
    top = Top(kind, f"{namespace}/{name}", namespace, name, uid)
    try:
        top = read(_with_wishes(top, of), of)
    except Malformed as failure:
        return replace(top, refused=f"{kind} {name} cannot be read: {failure}")
    if not top.refused and top.members > MEMBERS_MAX:
        said = f"{kind} {name} has {top.members} members; {MEMBERS_MAX} are the most"
        return replace(top, refused=said)
    return top


def _with_wishes(top: Top, of: Object) -> Top:
    annotations = pairs(of, "metadata", "annotations")
    wish, soft = wish_of(annotations)
    labels = pairs(of, "metadata", "labels")
    return replace(
        top,
        owner=owner(of),
        wish=wish,
        wish_soft=soft,
        preemptible=annotations.get(PREEMPTIBLE) != "false",
        queue=labels.get(KUEUE_QUEUE, ""),
    )


def wish_of(annotations: Mapping[str, str]) -> tuple[str, bool]:
    """(node label or level that should hold the gang, whether that is only a wish)."""
    if annotations.get(WITHIN):
        return annotations[WITHIN], annotations.get(WITHIN_SOFT) == "true"
    if annotations.get(KUEUE_REQUIRED):
        return annotations[KUEUE_REQUIRED], False
    if annotations.get(KUEUE_PREFERRED):
        return annotations[KUEUE_PREFERRED], True
    return "", False


def role_of(
    name: str, members: int, template: Object, *, alone: bool = False, each: int = 1
) -> RoleSize:
    """A role from its pod template. Raises: Malformed."""
    labels = pairs(template, "metadata", "labels")
    annotations = pairs(template, "metadata", "annotations")
    wants = wants_of(mapping(template, "spec"), labels, annotations)
    return RoleSize(name, members, wants, alone, each)


def finished_by(conditions: Iterable[Object], good: str, bad: str) -> str:
    """`succeeded`, `failed` or nothing, by the condition that is true."""
    for one in conditions:
        if text(one, "status") == "True" and text(one, "type") in (good, bad):
            return "succeeded" if text(one, "type") == good else "failed"
    return ""


def conditions_of(of: Object) -> list[Object]:
    """Raises: Malformed."""
    return list(items(of, "status", "conditions"))


def is_set(of: Object, *path: str) -> bool:
    """Raises: Malformed if the way there is none."""
    return value(of, *path) is not None
