"""Zones: pools of nodes for some owners, and for jobs of some sizes.

A zone without owners is public. A job takes the private zones of its project or workspace first,
then the public ones, or the one zone that it names; of each only if its size is the zone's. Nodes
that name no zone are in the zone `public`; a zone that nobody has set takes everyone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.settings import Zone
from madang.core.snapshot import Snapshot

PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Access:
    """Codes of the zones that a job may use: its own ones, which it takes first, and public ones.

    Ascending, so that equal rights are equal values.
    """

    own: tuple[int, ...]
    public: tuple[int, ...]

    @property
    def all(self) -> tuple[int, ...]:
        return (*self.own, *self.public)


def access(snapshot: Snapshot, job: Job) -> Access | None:
    """The zones that the job may use; None if any node will do."""
    if not job.zone and not snapshot.settings.zones:
        return None
    own: list[int] = []
    public: list[int] = []
    for name, code in snapshot.zones.items():
        zone = zone_named(snapshot, name)
        if (not job.zone or zone.id == job.zone) and not shut(snapshot, zone, job):
            (own if zone.owners else public).append(code)
    return Access(tuple(sorted(own)), tuple(sorted(public)))


def allowed_on(snapshot: Snapshot, job: Job, nodes: Iterable[str]) -> bool:
    """True iff the zones of all these nodes take the job."""
    allowed = access(snapshot, job)
    if allowed is None:
        return True
    return all(snapshot.zones[snapshot.nodes[node].node.zone] in allowed.all for node in nodes)


def zone_named(snapshot: Snapshot, name: str) -> Zone:
    """The zone that nodes call so; one that nobody has set is open to all."""
    name = name or PUBLIC
    return snapshot.settings.zones.get(name) or Zone(name)


def zones_of(snapshot: Snapshot) -> Iterator[Zone]:
    """Every zone that is set, and then those that nodes name, by name; `public` is always there."""
    names = {PUBLIC, *snapshot.settings.zones, *(name for name in snapshot.zones if name)}
    for name in sorted(names):
        yield zone_named(snapshot, name)


def shut(snapshot: Snapshot, zone: Zone, job: Job) -> str:
    """Why the zone does not take the job: `private` or `size`; "" if it does."""
    if zone.owners and not set(zone.owners) & set(owners_of(snapshot, job)):
        return "private"
    gpus = size_of(job)
    if gpus < zone.gpus_min or 0 < zone.gpus_max < gpus:
        return "size"
    return ""


def owners_of(snapshot: Snapshot, job: Job) -> tuple[str, ...]:
    """Whom the job belongs to, as zones and quotas name owners."""
    project = snapshot.projects.get(job.project)
    mine = f"project:{job.project}"
    return (mine, f"workspace:{project.workspace}") if project is not None else (mine,)


def size_of(job: Job) -> int:
    """GPUs of all members, a share of one counted as one: what size classes go by."""
    return -(-job.milli // WHOLE_GPU_MILLI)
