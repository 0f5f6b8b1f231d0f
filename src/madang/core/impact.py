"""What it costs to stop a running job, and the cheapest room for one that waits.

The impact of a stop is the work it throws away and the restart, for the whole gang, in GPU·ms:

    impact = (now - last checkpoint + restart) · GPUs

A job that does not checkpoint, or was never seen to, loses all since it started. Who has been
stopped before weighs more each time, and who serves users more than who trains: that is the
*cost* which victims are chosen by; the impact itself is the bill that is shown.

`cheapest_room` looks at the domains that could hold the whole gang first, and then for the victims
that cost the least there. Least run times and disruption budgets bind: whoever may not be stopped
is no victim at all. Every pass that makes room uses this.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from madang.core.budgets import Allowance, Key
from madang.core.clearing import (
    COST_MAX,
    FAR,
    Field,
    Gang,
    Limits,
    cheapest_on_one,
    wants_whole,
)
from madang.core.draft import Draft
from madang.core.gangs import Terms, least_members, terms_of
from madang.core.live import LiveJob
from madang.core.model import (
    WHOLE_GPU_MILLI,
    Allocation,
    AllocationState,
    Category,
    Job,
    Purpose,
    ReleaseReason,
    Shape,
)
from madang.core.placement import Unplaced
from madang.core.policy import Policy
from madang.core.pool import Bools, Place, Pool
from madang.core.seating import Seated, rows_for, seat
from madang.core.snapshot import Snapshot
from madang.core.topology import ROOT, depth_of, tree_of

# What a stop and a new start cost a job that does not say so itself.
RESTART_MS_ONE, RESTART_MS_NODE, RESTART_MS_MORE = 7_000, 30_000, 60_000
GPUS_OF_NODE = 8
DOMAINS_ASKED_MAX = 8  # where `seat` wants more than room: the domains that promise most
SEATS_ASKED_MAX = 256  # how often `seat` is asked for one job who of many is needed
CLEARED_PER_TURN_MAX = 64  # a turn stays short; the rest gets its room in the next one


def restart_ms(job: Job, milli: int) -> int:
    """What a stop and a new start cost: as the job says, else guessed by the GPUs it holds."""
    if job.restart_ms:
        return job.restart_ms
    if milli <= WHOLE_GPU_MILLI:
        return RESTART_MS_ONE
    return RESTART_MS_NODE if milli <= GPUS_OF_NODE * WHOLE_GPU_MILLI else RESTART_MS_MORE


def lost_ms(snapshot: Snapshot, live: LiveJob, allocation: Allocation) -> int:
    """Run time that a stop now would throw away: since the last checkpoint seen, else the start.

    At most: one that saves when it is told to leave loses less.
    """
    if allocation.state is not AllocationState.RUNNING:
        return 0
    saved_ms = live.standing.checkpoint_ms if live.job.checkpoints else 0
    return max(0, snapshot.now_ms - max(allocation.running_ms, saved_ms))


def impact_gpu_ms(snapshot: Snapshot, allocation: Allocation) -> int:
    """What it would cost to stop the allocation now, in GPU·ms of its whole gang: the bill."""
    live = snapshot.jobs[allocation.job]
    shape = allocation.shape
    milli = len(allocation.seats) * shape.gpus * shape.gpu_milli
    cost_ms = lost_ms(snapshot, live, allocation) + restart_ms(live.job, milli)
    return cost_ms * milli // WHOLE_GPU_MILLI


def serves(job: Job) -> bool:
    """True iff users wait for the job's answers."""
    return job.category is Category.SERVING and job.purpose is Purpose.SERVICE


def cost_of(policy: Policy, live: LiveJob, bill_gpu_ms: int) -> int:
    """What victims are chosen by: the bill, weighed; at least 1, at most COST_MAX."""
    cost = bill_gpu_ms * (1 + live.standing.preemptions)
    if live.job.category is Category.SERVING and serves(live.job):
        cost *= policy.serving_weight
    return min(cost, COST_MAX) or 1


class Victim(NamedTuple):
    """A running allocation that may be asked to leave. `counts`: what counts how many of its
    members.

    A tuple: thousands are made in a turn.
    """

    allocation: Allocation
    shape: Shape
    places: Sequence[Place]
    cost: int
    bill_gpu_ms: int
    grace_ms: int
    counts: tuple[tuple[Key, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """Where the whole gang will sit, and who must leave for it; nobody of them in vain."""

    seated: Seated
    victims: tuple[Victim, ...]

    @property
    def cost(self) -> int:
        return sum(victim.cost for victim in self.victims)

    @property
    def bill_gpu_ms(self) -> int:
        return sum(victim.bill_gpu_ms for victim in self.victims)


def may_be_stopped(draft: Draft, allocation: Allocation) -> bool:
    """True iff it runs, for its least time, and nobody has asked it to end."""
    if allocation.state is not AllocationState.RUNNING or allocation.id in draft.releasing:
        return False
    snapshot = draft.snapshot
    live = snapshot.jobs.get(allocation.job)
    if live is None or live.allocation != allocation.id or live.standing.stop_asked:
        return False
    least_ms = max(snapshot.policy.run_ms_min, live.job.run_ms_min)
    return snapshot.now_ms - allocation.running_ms >= least_ms


def cheapest_room(draft: Draft, job: Job, victims: Iterable[Allocation]) -> Room | None:
    """The cheapest room for the job if some of these may be stopped; None if that is not enough.

    The caller says who may be displaced; least run times and budgets are looked at here. Nothing is
    decided: see `Clearing.clear`.
    """
    stoppable = [victim for victim in victims if may_be_stopped(draft, victim)]
    if not draft.within_quota(job):
        return None
    ask = draft.modest_ask(job)
    return Clearing(draft, stoppable).room_for(ask.job, None, draft.room_for(job))


class Clearing:
    """Everybody who may be stopped in this draft, laid out once and asked for many jobs.

    `victims` are in the order given; of those who cost the same the first are chosen.
    """

    def __init__(self, draft: Draft, stoppable: Iterable[Allocation]) -> None:
        """`stoppable`: allocations that `may_be_stopped`."""
        self.draft = draft
        self.allowance = Allowance(draft.snapshot, draft.releasing)
        self.victims = [self._victim(allocation) for allocation in stoppable]
        self.field = Field(self.victims)
        held = [len(one.places) * one.shape.milli for one in self.victims]
        self._milli = np.array(held, np.int64)
        self._cleared = 0
        self._stays = np.ones(len(self.victims), np.bool_)
        keys = sorted({key for victim in self.victims for key, _ in victim.counts})
        at = {key: number for number, key in enumerate(keys)}
        self._keys: list[Key] = keys
        self._counted = {
            number: [(at[key], members) for key, members in victim.counts]
            for number, victim in enumerate(self.victims)
            if victim.counts
        }
        self._free: Bools | None = None

    def _victim(self, allocation: Allocation) -> Victim:
        snapshot = self.draft.snapshot
        live = snapshot.jobs[allocation.job]
        bill = impact_gpu_ms(snapshot, allocation)
        return Victim(
            allocation,
            allocation.shape,
            self.draft.held_places(allocation),
            cost_of(snapshot.policy, live, bill),
            bill,
            live.job.grace_ms,
            self.allowance.counts(allocation),
        )

    def room_for(self, job: Job, displaceable: Bools | None, pool: Pool) -> Room | None:
        """The cheapest room for the job, in the first of its shapes that can have any.

        Args:
            displaceable: (V,) those of `victims` that the job may displace; None: all.
            pool: what is free and open to it.
        """
        draft = self.draft
        seated = seat(draft.snapshot, pool, job)
        if isinstance(seated, Seated):
            return Room(seated, ())
        active = self._stays if displaceable is None else self._stays & displaceable
        if not active.any() or not self._could_suffice(job, active, pool):
            return None
        for shape in job.shapes:
            alone = replace(job, shape=shape, fallbacks=()) if job.fallbacks else job
            room = _Search(self, alone, active, pool).room()
            if room is not None:
                return room
        return None

    def _could_suffice(self, job: Job, active: Bools, pool: Pool) -> bool:
        """False iff even all GPUs of all active victims are too few: seen at once."""
        least = min(shape.milli for shape in job.shapes) * least_members(job)
        free = int(pool.gpu_free[pool.open].sum())
        return bool(free + int(self._milli[active].sum()) >= least)

    def clear(self, job: Job, room: Room, reason: ReleaseReason = ReleaseReason.PREEMPTED) -> None:
        """Decide it: the victims are asked to leave and told for whom and what it costs; the job is
        promised the hole in the same plan."""
        for victim in room.victims:
            id = victim.allocation.id
            bill = victim.bill_gpu_ms
            self.draft.release(id, reason, victim.grace_ms, by=job.id, bill_gpu_ms=bill)
            self.allowance.charge(victim.allocation)
            self._stays[self.victims.index(victim)] = False
        self._free = None
        self.draft.nominate(job, room.seated)
        self._cleared += 1

    @property
    def is_done(self) -> bool:
        """True iff nobody is left who may be stopped, or enough were for one turn."""
        return self._cleared >= CLEARED_PER_TURN_MAX or not self._stays.any()

    @property
    def limits(self) -> Limits:
        """What the budgets still allow. One that is overdrawn (more are down than it allows, by
        whatever cause) binds nobody but those who count under it."""
        left = self.allowance.left
        return Limits(self._counted, [max(0, left[key]) for key in self._keys])

    @property
    def free(self) -> Bools:
        """(V,) those of `victims` whom no budget keeps, as far as it is about them alone."""
        if self._free is None:
            self._free = np.ones(len(self.victims), np.bool_)
            self._free[self.limits.never()] = False
        return self._free


class _Search:
    """One job of one shape before the holders that it may displace."""

    def __init__(self, clearing: Clearing, job: Job, active: Bools, pool: Pool) -> None:
        self.clearing, self.job = clearing, job
        self.field, self.pool = clearing.field, pool
        self.snapshot = clearing.draft.snapshot
        self.limits = clearing.limits
        self.active = active & clearing.free
        self.terms = terms_of(
            job, self.snapshot.policy, depth_of(self.pool.domains), self.snapshot.now_ms
        )
        eligible = rows_for(self.snapshot, self.pool, job, job.shape)
        self.rows = self.pool.open if eligible is None else self.pool.open & eligible

    def room(self) -> Room | None:
        """The cheapest room that is found; None if there is none, or only beyond a budget."""
        if self.terms is None or not self.active.any():
            return None
        if self.job.members == 1:
            shape = self.job.shape
            who = cheapest_on_one(self.field, self.pool, self.active, shape, self.rows, self.limits)
            return (self._seated(who) if who else None) or self._by_asking([self.rows])
        return self._for_gang(self.terms)

    def _for_gang(self, terms: Terms) -> Room | None:
        """Domain by domain, from the one that could be cheapest, until the rest cannot be."""
        shape, members = self._unit(terms)
        gang = Gang(self.field, self.pool, self.active, shape, members)
        domains = list(self._domains(terms))
        bounds = [gang.least_cost(rows) for rows in domains]
        order = sorted(range(len(domains)), key=lambda at: (bounds[at], at))
        order = [at for at in order if bounds[at] < FAR]
        best: Room | None = None
        for at in order:
            if best is not None and bounds[at] >= best.cost:
                break
            room = self._seated(self._within_limits(gang, domains[at]))
            if room is not None and (best is None or room.cost < best.cost):
                best = room
        if best is not None or not order:
            return best
        return self._by_asking([domains[at] for at in order[:DOMAINS_ASKED_MAX]])

    def _unit(self, terms: Terms) -> tuple[Shape, int]:
        """What must be found so many times: members that stay together on a node are one."""
        job, unit = self.job, terms.units[-1]
        if unit == 1 or not wants_whole(job.shape):
            return job.shape, terms.least
        one = job.shape
        shape = replace(
            one,
            gpus=one.gpus * unit,
            cpu_milli=one.cpu_milli * unit,
            memory_mib=one.memory_mib * unit,
        )
        return shape, -(-terms.least // unit)

    def _domains(self, terms: Terms) -> Iterator[Bools]:
        """(N,) the rows of each domain one of which must hold the gang."""
        if terms.within == ROOT:
            yield self.rows
            return
        rows = np.flatnonzero(self.rows)
        ids = tree_of(self.pool.domains, rows, shared=terms.shared).ids[terms.within]
        for domain in np.unique(ids).tolist():
            inside = np.zeros(self.pool.nodes, np.bool_)
            inside[rows[ids == domain]] = True
            yield inside

    def _within_limits(self, gang: Gang, rows: Bools) -> list[int]:
        """The cheapest victims in a domain that break no budget; of a budget that would be, only
        the cheapest of those first chosen are looked at again."""
        who = gang.cheapest(rows)
        for _ in self.limits.most:
            broken = self.limits.broken(who)
            if broken < 0:
                return who
            gang = gang.without(self._beyond(broken, who))
            who = gang.cheapest(rows)
        return who if self.limits.allows(who) else []

    def _beyond(self, broken: int, who: Sequence[int]) -> Bools:
        """(V,) all under this limit but the cheapest of these that it allows together."""
        limit, kept = self.limits.only(broken), list[int]()
        for number in sorted(who, key=lambda n: (self.field.cost.item(n), n)):
            if number in limit.of and limit.allows([*kept, number]):
                kept.append(number)
        beyond = np.zeros(len(self.active), np.bool_)
        beyond[list(limit.of)] = True
        beyond[kept] = False
        return beyond

    def _seated(self, who: Sequence[int]) -> Room | None:
        """The room once these have left, without those whom the gang fits beside."""
        if not who:
            return None
        trial = self.field.gone(self.pool, who)
        seated = seat(self.snapshot, trial, self.job)
        if isinstance(seated, Unplaced):
            return None
        needed = sorted(who)
        if 1 < len(who) <= SEATS_ASKED_MAX:
            needed, seated = self._needed(who, trial, seated)
        return Room(seated, tuple([self.clearing.victims[number] for number in needed]))

    def _needed(self, who: Sequence[int], trial: Pool, seated: Seated) -> tuple[list[int], Seated]:
        """Who of these is needed, and where the gang then sits: the dearest are let stay first."""
        needed = []
        for number in sorted(who, key=lambda n: (-self.field.cost.item(n), n)):
            self.field.take(trial, number)
            beside = seat(self.snapshot, trial, self.job)
            if isinstance(beside, Unplaced):
                self.field.give(trial, number)
                needed.append(number)
            else:
                seated = beside
        return sorted(needed), seated

    def _by_asking(self, domains: Sequence[Bools]) -> Room | None:
        """Where a job wants more than room (whole switches, nodes of its own): the cheapest for
        what they hold leave one after the other until `seat` agrees; the cheapest domain."""
        rooms = [self._asked(rows) for rows in domains]
        return min((room for room in rooms if room is not None), key=_cost_of_room, default=None)

    def _asked(self, rows: Bools) -> Room | None:
        willing = self._willing(rows)
        if isinstance(seat(self.snapshot, self.field.gone(self.pool, willing), self.job), Unplaced):
            return None
        few, enough = 0, len(willing)  # it fits once `enough` have left, and not after `few`
        while enough - few > 1:
            middle = (few + enough) // 2
            trial = self.field.gone(self.pool, willing[:middle])
            if isinstance(seat(self.snapshot, trial, self.job), Unplaced):
                few = middle
            else:
                enough = middle
        seated = seat(self.snapshot, self.field.gone(self.pool, willing[:enough]), self.job)
        assert isinstance(seated, Seated), "it was asked before"
        there = {row for row, _ in seated.places}
        near = [
            number
            for number in willing[:enough]
            if any(row in there for row, _ in self.field.holders[number].places)
        ]
        return self._seated(near) or self._seated(willing[:enough])

    def _willing(self, rows: Bools) -> list[int]:
        """Who may leave some of these rows, the cheapest for what they hold first, and of each
        budget no more than may be down."""
        of = self.clearing.victims
        numbers = np.unique(self.field.stakes[rows[self.field.stakes[:, 0]], 1])
        numbers = numbers[self.active[numbers]]
        chosen: list[int] = []
        for number in sorted(numbers.tolist(), key=lambda n: (_per_device(of[n]), n)):
            if number not in self.limits.of or self.limits.allows([*chosen, number]):
                chosen.append(number)
        return chosen


def _per_device(holder: Victim) -> int:
    milli = len(holder.places) * holder.shape.milli
    return holder.cost * WHOLE_GPU_MILLI // max(milli, 1)


def _cost_of_room(room: Room) -> int:
    return room.cost
