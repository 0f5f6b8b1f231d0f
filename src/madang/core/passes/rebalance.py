"""Rebalance: those whose turn it is take the devices of those whose turn it is not.

For each waiting job in order: the running jobs that come after it are tried from the last in the
order upwards until the whole gang fits; of those only the ones that sit where it was placed are
asked to leave, so that nobody is stopped in vain. The hole is promised in the same plan.
Only jobs that checkpoint, and that have run for the policy's least time, can be moved aside.
"""

from madang.core.draft import Draft
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason
from madang.core.ordering import Key, key_of, ordered
from madang.core.passes.start import model_codes
from madang.core.placement import Unplaced, eligible_rows, place
from madang.core.pool import Place, Pool

Movable = tuple[Key, Allocation]


def rebalance(draft: Draft) -> None:
    """Emit JobNominated and the ReleaseAsked of its victims for whoever's turn it is."""
    snapshot = draft.snapshot
    if not snapshot.policy.preempts:
        return
    waiting = [(key, id) for key, id in ordered(snapshot) if draft.may_start(id)]
    if not waiting:
        return
    movable = _movable(draft)
    failed: set[object] = set()
    for key, job_id in waiting:
        if not movable or key >= movable[-1][0]:
            return
        job = snapshot.jobs[job_id].job
        # What found no room among these victims finds none among fewer.
        if (job.shape, job.members) in failed or not draft.within_quota(job):
            continue
        if not _make_room(draft, job, key, movable):
            failed.add((job.shape, job.members))


def _movable(draft: Draft) -> list[Movable]:
    """(key, allocation) of the running jobs that may be moved aside, in order."""
    snapshot = draft.snapshot
    movable: list[Movable] = []
    for allocation in snapshot.allocations.values():
        if allocation.state is not AllocationState.RUNNING or allocation.id in draft.releasing:
            continue
        live = snapshot.jobs[allocation.job]
        ran_ms = snapshot.now_ms - allocation.running_ms
        if live.job.checkpoints and ran_ms >= snapshot.policy.run_ms_min:
            movable.append((key_of(snapshot, live), allocation))
    movable.sort(key=lambda one: one[0])
    return movable


def _make_room(draft: Draft, job: Job, key: Key, movable: list[Movable]) -> bool:
    """Promise the job a place, victims and all, or change nothing."""
    eligible = eligible_rows(draft.view, model_codes(draft.snapshot, job))
    trial = draft.view.scratch()
    victims: list[Allocation] = []
    freed = int(trial.gpu_free.sum())
    for victim_key, allocation in reversed(movable):
        if victim_key <= key:
            return False
        _give_back(draft, trial, allocation)
        victims.append(allocation)
        freed += allocation.shape.milli * len(allocation.seats)
        if freed < job.milli:
            continue
        places = place(trial, job.shape, job.members, eligible)
        if not isinstance(places, Unplaced):
            _promise(draft, job, places, victims, movable)
            return True
    return False


def _promise(
    draft: Draft,
    job: Job,
    places: tuple[Place, ...],
    victims: list[Allocation],
    movable: list[Movable],
) -> None:
    wanted = {(row, gpu) for row, gpus in places for gpu in gpus}
    leaving = [v for v in victims if _overlaps(draft, v, wanted)]
    for victim in leaving:
        live = draft.snapshot.jobs[victim.job]
        draft.release(victim.id, ReleaseReason.PREEMPTED, live.job.grace_ms)
        _give_back(draft, draft.pool, victim)
    gone = {victim.id for victim in leaving}
    movable[:] = [one for one in movable if one[1].id not in gone]
    draft.nominate(job, places)
    # What the victims leave beside the hole is free only when seen to be.
    draft.pool.block(places, job.shape)
    for victim in leaving:
        _take_the_rest(draft, victim, wanted)


def _overlaps(draft: Draft, allocation: Allocation, wanted: set[tuple[int, int]]) -> bool:
    held = draft.held_places(allocation)
    return any((row, gpu) in wanted for row, gpus in held for gpu in gpus)


def _give_back(draft: Draft, pool: Pool, allocation: Allocation) -> None:
    for one in draft.held_places(allocation):
        pool.give(one, allocation.shape)


def _take_the_rest(draft: Draft, victim: Allocation, wanted: set[tuple[int, int]]) -> None:
    for row, gpus in draft.held_places(victim):
        rest = tuple(gpu for gpu in gpus if (row, gpu) not in wanted)
        if rest:
            draft.pool.block([(row, rest)], victim.shape)
