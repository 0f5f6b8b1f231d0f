"""Rebalance: those whose turn it is take the devices of those whose turn it is not.

For each waiting job in order, room is made for its whole gang or not at all: by the victims that
cost the least work (impact.py), or, under the policies of the literature, by the last of the order
first. Those without whom the gang fits as well are left in peace; the others are told for whom they
leave and what it costs, and the hole is promised in the same plan.
"""

from bisect import bisect_right
from collections import Counter
from itertools import chain

import numpy as np

from madang.core.budgets import Allowance
from madang.core.draft import Draft
from madang.core.impact import CLEARED_PER_TURN_MAX, Clearing, impact_gpu_ms, may_be_stopped
from madang.core.model import Allocation, Job, ReleaseReason
from madang.core.ordering import Key, key_of, ordered
from madang.core.placement import Unplaced, room_on, seats_on
from madang.core.policy import Victims
from madang.core.pool import Pool
from madang.core.seating import Gaps, Seated, likeness, seat

Movable = tuple[Key, Allocation]


def rebalance(draft: Draft) -> None:
    """Emit JobNominated and the ReleaseAsked of its victims for whoever's turn it is."""
    if not draft.snapshot.policy.preempts:
        return
    waiting = [(key, id) for key, id in ordered(draft.snapshot) if draft.may_start(id)]
    if not waiting:
        return
    movable = _movable(draft, waiting[0][0])
    if draft.snapshot.policy.victims is Victims.LAST:
        _last_first(draft, waiting, movable)
    else:
        _cheapest_first(draft, waiting, movable)


def _movable(draft: Draft, first: Key) -> list[Movable]:
    """(key, allocation) of those that may be moved aside for the first who waits, in order."""
    snapshot = draft.snapshot
    movable: list[Movable] = []
    for allocation in snapshot.allocations.values():
        if may_be_stopped(draft, allocation):
            live = snapshot.jobs[allocation.job]
            if live.job.checkpoints and (key := key_of(snapshot, live)) > first:
                movable.append((key, allocation))
    movable.sort(key=_key_of_movable)
    return movable


def _key_of_movable(one: Movable) -> Key:
    return one[0]


# -- the cheapest ------------------------------------------------------------------------------


def _cheapest_first(draft: Draft, waiting: list[tuple[Key, str]], movable: list[Movable]) -> None:
    # Of those who cost the same the last of the order goes first.
    import os
    tiers = sorted({key[:-2] for key, _ in movable})
    rank = {tier: len(tiers) - 1 - at for at, tier in enumerate(tiers)}
    f = os.environ.get("F", "lin")
    w = {"lin": lambda k: 1 + k, "pow2": lambda k: 2**k, "pow8": lambda k: 8**min(k, 8), "none": lambda k: 1}[f]
    weights = {allocation.id: w(rank[key[:-2]]) for key, allocation in movable}
    clearing = Clearing(draft, [allocation for _, allocation in reversed(movable)], weights)
    key_of_victim = {allocation.id: key for key, allocation in movable}
    keys = [key_of_victim[victim.allocation.id] for victim in reversed(clearing.victims)]
    numbers = np.arange(len(keys) - 1, -1, -1)
    failed: dict[object, int] = {}  # what found no room among the victims from there on
    cleared = 0
    for key, job_id in waiting:
        after = bisect_right(keys, key)
        if after == len(keys) or cleared == CLEARED_PER_TURN_MAX:
            return
        job = draft.snapshot.jobs[job_id].job
        # What found no room among these victims finds none among fewer.
        if failed.get(likeness(job), after + 1) <= after or not draft.may_start(job_id):
            continue
        room = clearing.room_for(job, numbers >= after)
        if room is None:
            failed[likeness(job)] = after
        elif room.victims:
            clearing.clear(job, room)
            cleared += 1


# -- the last of the order ---------------------------------------------------------------------


def _last_first(draft: Draft, waiting: list[tuple[Key, str]], movable: list[Movable]) -> None:
    """Victims are tried from the last of the order upwards until the whole gang fits."""
    failed: set[object] = set()
    for key, job_id in waiting:
        if not movable or key >= movable[-1][0]:
            return
        job = draft.snapshot.jobs[job_id].job
        # What found no room among these victims finds none among fewer.
        if likeness(job) in failed or not draft.may_start(job_id):
            continue
        if not _make_room(draft, job, key, movable):
            failed.add(likeness(job))


def _make_room(draft: Draft, job: Job, key: Key, movable: list[Movable]) -> bool:
    """Promise the job a place, victims and all, or change nothing. False iff there is none."""
    trial = draft.view.scratch()
    gaps = Gaps(draft.snapshot, trial, job)
    if gaps.missing <= 0 and not isinstance(seat(draft.snapshot, trial, job), Unplaced):
        return True  # the start pass has not come to it yet
    victims: list[Allocation] = []
    allowance = Allowance(draft.snapshot, draft.releasing)
    for victim_key, allocation in reversed(movable):
        if victim_key <= key:
            return False
        owner = draft.snapshot.jobs[allocation.job].job
        if not allowance.allows(owner, allocation):
            continue
        allowance.charge(owner, allocation)
        victims.append(allocation)
        gaps.give(draft.held_places(allocation), allocation.shape)
        if gaps.missing > 0:
            continue
        seated = seat(draft.snapshot, trial, job)
        if not isinstance(seated, Unplaced):
            _promise(draft, job, trial, seated, victims)
            leaving = draft.releasing
            movable[:] = [one for one in movable if one[1].id not in leaving]
            return True
    return False


def _promise(
    draft: Draft, job: Job, trial: Pool, seated: Seated, victims: list[Allocation]
) -> None:
    """Ask for the leave of those without whom there is no room on these nodes, and of no others.

    `trial` is the pool without any of the victims, who are last in the order first.
    """
    shape, members = seated.shape, Counter(row for row, _ in seated.places)
    for victim in reversed(victims):
        held = draft.held_places(victim)
        trial.take(held, victim.shape)
        if all(room_on(trial, row, shape) >= count for row, count in members.items()):
            continue  # the gang fits beside it
        for one in held:
            trial.give(one, victim.shape)
        grace_ms = draft.snapshot.jobs[victim.job].job.grace_ms
        bill = impact_gpu_ms(draft.snapshot, victim)
        draft.release(victim.id, ReleaseReason.PREEMPTED, grace_ms, by=job.id, bill_gpu_ms=bill)
    seats = [seats_on(trial, row, count, shape) for row, count in members.items()]
    draft.nominate(job, Seated(shape, tuple(chain.from_iterable(seats))))
