"""What projects may hold, and what they can always have back: limits and guarantees, counted once.

A quota belongs to a workspace or a project and counts what that holds in a machine group under a
provisioning; `*` counts all. A limit is never exceeded. A guarantee covers what is `reserved` or
`on_demand`, never `spot`: spot lives on what others leave. Of a workspace's guarantee, what its
projects' own do not take is for all of them together. All of it counts GPUs: who asks for none is
kept by no limit and is within no guarantee.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from madang.core.gangs import least_members
from madang.core.model import UNLIMITED, Allocation, AllocationState, Job, Project, Provisioning
from madang.core.pool import Bools, Pool
from madang.core.settings import ANY, Quota, Settings
from madang.core.snapshot import Snapshot

HeldKey = tuple[str, str, str]  # project, machine group, provisioning


@dataclass(frozen=True, slots=True)
class Short:
    """A quota that a job does not fit in: what is held of it, what it allows, what was asked."""

    quota: Quota
    held_milli: int
    asked_milli: int


class Holdings(Protocol):
    """What a book is opened on: a snapshot, or the state itself."""

    @property
    def settings(self) -> Settings: ...
    @property
    def projects(self) -> Mapping[str, Project]: ...
    @property
    def held_milli(self) -> Mapping[HeldKey, int]: ...


class Book:
    """Quotas and what is held of them, as a plan goes on.

    `held_milli` is copied: `take` writes to the copy. Without quotas nothing is copied or counted;
    each quota is counted once, when it is first asked for.
    """

    def __init__(self, of: Holdings, held_milli: Mapping[HeldKey, int] | None = None) -> None:
        self.projects = of.projects
        self.quotas = of.settings.quotas
        held = of.held_milli if held_milli is None else held_milli
        self.held_milli: dict[HeldKey, int] = dict(held) if self.quotas else {}
        self.has_guarantees = any(quota.guaranteed_milli for quota in self.quotas.values())
        self._of_project: dict[str, tuple[Quota, ...]] = {}
        self._counted: dict[str, int] = {}  # by quota
        self._firm: dict[tuple[str, str], int] = {}  # by project and quota, spot aside

    def of_project(self, project: str) -> tuple[Quota, ...]:
        """The quotas that a project's jobs count under: its own, then its workspace's."""
        if not self.quotas:
            return ()
        if project not in self._of_project:
            known = self.projects.get(project)
            owners = (f"project:{project}", f"workspace:{known.workspace}" if known else "")
            self._of_project[project] = tuple(
                [
                    self.quotas[key]
                    for owner in owners
                    for key in sorted(self.quotas)
                    if self.quotas[key].owner == owner
                ]
            )
        return self._of_project[project]

    def take(self, job: Job, parts: Mapping[str, int]) -> None:
        """The job gets so much: GPU-milli by machine group."""
        if not self.quotas:
            return
        for group, milli in parts.items():
            key = (job.project, group, str(job.provisioning))
            self.held_milli[key] = self.held_milli.get(key, 0) + milli
            for quota in self.of_project(job.project):
                if not _counts(quota, group, job.provisioning):
                    continue
                if quota.key in self._counted:
                    self._counted[quota.key] += milli
                firm = (job.project, quota.key)
                if firm in self._firm and job.provisioning is not Provisioning.SPOT:
                    self._firm[firm] += milli

    # -- limits ----------------------------------------------------------------------------------

    def short_of(self, job: Job, milli: int) -> Short | None:
        """The quota that keeps the job from so much, whatever the machine group; None if none."""
        for quota, room_milli in self._limits(job) if milli else ():
            if quota.group == ANY and milli > room_milli:
                return Short(quota, self.held_of(quota), milli)
        return None

    def full_groups(self, job: Job, milli: int) -> dict[str, Short]:
        """The machine groups where a limit keeps the job from so much, each with its quota."""
        full: dict[str, Short] = {}
        for quota, room_milli in self._limits(job) if milli else ():
            if quota.group != ANY and milli > room_milli and quota.group not in full:
                full[quota.group] = Short(quota, self.held_of(quota), milli)
        return full

    def rooms_milli(self, job: Job, *, entitled: bool) -> tuple[list[int], list[int]]:
        """What limits leave the job wherever it goes, and what each of a machine group leaves it.

        Args:
            entitled: among the latter, what each of its guarantees covers more.
        """
        limits = list(self._limits(job))
        anywhere = [milli for quota, milli in limits if quota.group == ANY]
        somewhere = [milli for quota, milli in limits if quota.group != ANY]
        if entitled:
            guarantees = self._guarantees(job.project, job.provisioning)
            somewhere += [self._covered_more(quota, job.project) for quota in guarantees]
        return anywhere, somewhere

    def _limits(self, job: Job) -> Iterator[tuple[Quota, int]]:
        """The quotas that limit the job, each with what it leaves."""
        for quota in self.of_project(job.project):
            limit_milli = limit_of(quota)
            if limit_milli != UNLIMITED and _is_for(quota, job.provisioning):
                yield quota, limit_milli - self.held_of(quota)

    def held_of(self, quota: Quota) -> int:
        """GPU-milli that count under the quota now."""
        if quota.key not in self._counted:
            self._counted[quota.key] = sum(self.holders_of(quota).values())
        return self._counted[quota.key]

    def holders_of(self, quota: Quota) -> dict[str, int]:
        """What each project holds of what the quota counts."""
        held = dict.fromkeys(self._projects_of(quota), 0)
        for (project, group, provisioning), milli in self.held_milli.items():
            if project in held and _counts(quota, group, provisioning):
                held[project] += milli
        return held

    def _projects_of(self, quota: Quota) -> list[str]:
        kind, _, name = quota.owner.partition(":")
        if kind == "project":
            return [name]
        return [id for id, one in self.projects.items() if one.workspace == name]

    # -- guarantees ------------------------------------------------------------------------------

    def guaranteed_projects(self) -> list[str]:
        """The projects that a guarantee is for, by name."""
        named = {
            project: None
            for key in sorted(self.quotas)
            if self.quotas[key].guaranteed_milli
            for project in self._projects_of(self.quotas[key])
        }
        return sorted(named)

    def entitled_groups(self, job: Job, members: int = 0) -> tuple[str, ...]:
        """The machine groups where the job is within a guarantee; `*` alone: anywhere.

        Args:
            members: with so many; 0: with the fewest that it starts with.
        """
        groups: list[str] = []
        for quota in self._covering(job, members or least_members(job)):
            if quota.group == ANY:
                return (ANY,)
            if quota.group not in groups:
                groups.append(quota.group)
        return tuple(groups)

    def guarantee_of(self, job: Job) -> Quota | None:
        """The guarantee that the job is within, if any: its project's before its workspace's."""
        return next(self._covering(job, least_members(job)), None)

    def _covering(self, job: Job, members: int) -> Iterator[Quota]:
        """The guarantees that so many members are within."""
        milli = members * job.shape.milli
        for quota in self._guarantees(job.project, job.provisioning) if milli else ():
            if milli <= self._covered_more(quota, job.project):
                yield quota

    def covers(self, job: Job, group: str, milli: int) -> bool:
        """True iff so much of one machine group is within a guarantee of the job's project."""
        return any(
            quota.group in (ANY, group) and milli <= self._covered_more(quota, job.project)
            for quota in self._guarantees(job.project, job.provisioning)
        )

    def _guarantees(self, project: str, provisioning: str) -> Iterator[Quota]:
        if provisioning == Provisioning.SPOT:
            return
        for quota in self.of_project(project):
            if quota.guaranteed_milli and _is_for(quota, provisioning):
                yield quota

    def _covered_more(self, quota: Quota, project: str) -> int:
        """How much more of the project is still within the guarantee; below 0: none, not even 0."""
        if quota.owner.startswith("project:"):
            return quota.guaranteed_milli - self._held_firm(project, quota)
        common = quota.guaranteed_milli
        mine = 0
        for sibling in self._projects_of(quota):
            own_milli = self._own_milli(sibling, quota)
            beyond_milli = self._held_firm(sibling, quota) - own_milli
            common -= own_milli
            if sibling == project:
                mine = beyond_milli
            else:
                common -= max(0, beyond_milli)
        return common - mine if common >= 0 else common

    def _own_milli(self, project: str, quota: Quota) -> int:
        """What of a workspace's guarantee is guaranteed to one of its projects."""
        owner = f"project:{project}"
        return sum(
            one.guaranteed_milli
            for one in self.quotas.values()
            if one.owner == owner
            and quota.group in (ANY, one.group)
            and quota.provisioning in (ANY, one.provisioning)
        )

    def _held_firm(self, project: str, quota: Quota) -> int:
        """What a project holds of what the quota counts, spot aside."""
        firm = (project, quota.key)
        if firm not in self._firm:
            self._firm[firm] = sum(
                milli
                for (holder, group, provisioning), milli in self.held_milli.items()
                if holder == project
                and provisioning != Provisioning.SPOT
                and _counts(quota, group, provisioning)
            )
        return self._firm[firm]

    def covered_milli(self, project: str) -> int:
        """What of the project's holdings its own guarantees cover."""
        owner = f"project:{project}"
        return sum(
            min(quota.guaranteed_milli, self._held_firm(project, quota))
            for quota in self.of_project(project)
            if quota.owner == owner and quota.guaranteed_milli
        )


def covered(snapshot: Snapshot) -> frozenset[str]:
    """The allocations that a guarantee covers: of each project the oldest, as far as it reaches.

    What does not fit whole in what is left of the guarantee is borrowed whole.
    """
    book = Book(snapshot, {})
    if not book.has_guarantees:
        return frozenset()
    found = []
    projects = frozenset(book.guaranteed_projects())
    holding = [one for one in _holding(snapshot) if one.project in projects]
    for allocation in sorted(holding, key=lambda one: _age(snapshot, one)):
        job = snapshot.jobs[allocation.job].job
        parts = by_group(snapshot, allocation)
        if parts and all(book.covers(job, group, parts[group]) for group in sorted(parts)):
            book.take(job, parts)
            found.append(allocation.id)
    return frozenset(found)


def _holding(snapshot: Snapshot) -> Iterator[Allocation]:
    """Allocations that live jobs go by and that nobody has asked to end."""
    for id, allocation in snapshot.allocations.items():
        live = snapshot.jobs.get(allocation.job)
        is_newest = live is not None and live.allocation == id
        if is_newest and allocation.state is not AllocationState.RELEASING:
            yield allocation


def _age(snapshot: Snapshot, allocation: Allocation) -> tuple[int, int]:
    return allocation.bound_ms, snapshot.jobs[allocation.job].job.seq


def by_group(snapshot: Snapshot, allocation: Allocation) -> dict[str, int]:
    """GPU-milli that an allocation holds in each machine group."""
    parts: dict[str, int] = {}
    for rank, seat in enumerate(allocation.seats):
        if allocation.holds(rank):
            group = snapshot.nodes[seat.node].node.group
            parts[group] = parts.get(group, 0) + allocation.shape.milli
    return {group: milli for group, milli in parts.items() if milli}


def limit_of(quota: Quota) -> int:
    """What may be held at most: an owner of weight 0 borrows nothing beyond its guarantee."""
    if quota.weight == 0:
        limit_milli = quota.limit_milli
        if limit_milli == UNLIMITED:
            return quota.guaranteed_milli
        return min(limit_milli, quota.guaranteed_milli)
    return quota.limit_milli


def open_to(
    snapshot: Snapshot, pool: Pool, closed: Mapping[str, object], only: tuple[str, ...] = (ANY,)
) -> Pool:
    """The pool with some machine groups closed, or all but some; itself where nothing is."""
    if not closed and only == (ANY,):
        return pool
    rows: Bools = pool.open.copy()
    if only != (ANY,):
        codes = [snapshot.groups[group] for group in only if group in snapshot.groups]
        rows &= np.isin(pool.group, codes)
    for group in closed:
        if group in snapshot.groups:
            rows &= pool.group != snapshot.groups[group]
    return pool.with_open(rows)


def _is_for(quota: Quota, provisioning: str) -> bool:
    return quota.provisioning in (ANY, provisioning)


def _counts(quota: Quota, group: str, provisioning: str) -> bool:
    return quota.group in (ANY, group) and quota.provisioning in (ANY, provisioning)
