"""Gangs with their seats: what all kinds have in common once it is known which pods are together.

What the pods themselves say goes into the gang here, for admission, Kueue and the priority
controller had the last word about them. Promises: a rank that was given (annotations of the
Binding) stays; what a gang cannot have alike in all members is refused in one line.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from madang.core.needs import needs_text
from madang.engines.kubernetes.foreign.groups import Group
from madang.engines.kubernetes.foreign.tops import PREEMPTIBLE, Place, Top, wish_of
from madang.engines.kubernetes.reading import digits
from madang.engines.kubernetes.values import Asks, Gang, PodFacts, Role

GANG = "madang.io/gang"
RANK = "madang.io/rank"
POD = "Pod"
CPU_PART = "cpu"


@dataclass(frozen=True, slots=True)
class Arranged:
    """A gang and who sits where: (rank, pod key), ascending. It is ready when nothing is `missing`:
    a pod that is not there, or is gated, has no seat."""

    gang: Gang
    seats: tuple[tuple[int, str], ...] = ()
    missing: int = 0


Placed = tuple[PodFacts, Place]


def seated(gang: Gang, placed: Sequence[Placed]) -> tuple[dict[int, PodFacts], set[str]]:
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


def by_name(pod: PodFacts) -> tuple[tuple[tuple[bool, int, str], ...], str]:
    """Ascending names, numbers in them by value: w-2 before w-10."""
    parts = re.split(r"(\d{1,18})", pod.name)
    return tuple((p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts), pod.uid


def has_devices(asks: Asks) -> bool:
    return bool(asks.gpus or asks.claims)


def alone(pod: PodFacts, made_by: Top | Group | None = None, refused: str = "") -> Arranged:
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
    return arranged(draft, {0: pod})


def arranged(draft: Gang, seats: Mapping[int, PodFacts]) -> Arranged:
    """The gang with all that its pods say; a gated pod has no seat yet."""
    ranks = sorted(seats)
    gang = _merged(draft, [seats[rank] for rank in ranks]) if ranks else draft
    ready = tuple((rank, seats[rank].key) for rank in ranks if not seats[rank].gated)
    return Arranged(gang, ready, gang.members - len(ready))


def _merged(gang: Gang, pods: Sequence[PodFacts]) -> Gang:
    """What the pods say: their admission, Kueue and the priority controller had the last word."""
    one = pods[0]
    asks = largest([gang.asks, *(pod.asks for pod in pods)])
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
        note=gang.note or note([(pod.name, pod.asks) for pod in pods]),
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


def largest(asks: Iterable[Asks]) -> Asks:
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


def note(named: Sequence[tuple[str, Asks]]) -> str:
    """A line where GPUs differ: a seat is counted as the largest."""
    by_gpus: dict[int, str] = {}
    for name, asks in named:
        by_gpus.setdefault(asks.gpus, name)
    if len(by_gpus) < 2:
        return ""
    words = ", ".join(f"{name} asks for {gpus}" for gpus, name in sorted(by_gpus.items()))
    return f"GPUs differ among its members ({words}): each is counted as {max(by_gpus)}"
