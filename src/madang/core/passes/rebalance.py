"""Rebalance: those whose turn it is take the devices of those whose turn it is not.

For each waiting job in order: the running jobs that come after it are tried from the last in the
order upwards until the whole gang fits; of those, only the ones without whom it would not fit
where it was placed are asked to leave, so that nobody is stopped in vain. The hole is promised in
the same plan.
Only jobs that checkpoint, and that have run for the policy's least time, can be moved aside.
"""

from collections import Counter
from itertools import chain

from madang.core.draft import Draft
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason
from madang.core.ordering import Key, key_of
from madang.core.placement import Unplaced, room_on, seats_on
from madang.core.pool import Pool
from madang.core.seating import Gaps, Seated, likeness, seat

Movable = tuple[Key, Allocation]


def rebalance(draft: Draft) -> None:
    """Emit JobNominated and the ReleaseAsked of its victims for whoever's turn it is."""
    snapshot = draft.snapshot
    if not snapshot.policy.preempts:
        return
    first = next((key for key, id in draft.order if draft.may_start(id)), None)
    if first is None:
        return
    movable = _movable(draft, first)
    failed: set[object] = set()
    for key, job_id in draft.order:
        if not movable or key >= movable[-1][0]:
            return
        job = snapshot.jobs[job_id].job
        # What found no room among these victims finds none among fewer.
        if likeness(job) in failed or not draft.may_start(job_id):
            continue
        if not _make_room(draft, job, key, movable):
            failed.add(likeness(job))


def _movable(draft: Draft, first: Key) -> list[Movable]:
    """(key, allocation) of the running jobs that may be moved aside for `first`, in order."""
    snapshot = draft.snapshot
    jobs, since_ms = snapshot.jobs, snapshot.now_ms - snapshot.policy.run_ms_min
    movable: list[Movable] = []
    for allocation in snapshot.allocations.values():
        if allocation.state is not AllocationState.RUNNING or allocation.running_ms > since_ms:
            continue
        live = jobs[allocation.job]
        if live.job.checkpoints and allocation.id not in draft.releasing:
            key = key_of(snapshot, live)
            if key > first:
                movable.append((key, allocation))
    movable.sort(key=_key_of_movable)
    return movable


def _key_of_movable(one: Movable) -> Key:
    return one[0]


def _make_room(draft: Draft, job: Job, key: Key, movable: list[Movable]) -> bool:
    """Promise the job a place, victims and all, or change nothing. False iff there is none."""
    trial = draft.view.scratch()
    gaps = Gaps(draft.snapshot, trial, job)
    if gaps.missing <= 0 and not isinstance(seat(draft.snapshot, trial, job), Unplaced):
        return True  # the start pass has not come to it yet
    victims: list[Allocation] = []
    for victim_key, allocation in reversed(movable):
        if victim_key <= key:
            return False
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
        live = draft.snapshot.jobs[victim.job]
        draft.release(victim.id, ReleaseReason.PREEMPTED, live.job.grace_ms)
    seats = [seats_on(trial, row, count, shape) for row, count in members.items()]
    draft.nominate(job, Seated(shape, tuple(chain.from_iterable(seats))))
