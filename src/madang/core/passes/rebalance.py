"""Rebalance: those who have a right to devices take them from those they have a right over.

First whoever is within a guarantee takes back what was lent (rights.py). Then, for each waiting job
in turn: the running jobs that come after it are tried from the last in the order upwards until the
whole gang fits; of those, only the ones without whom it would not fit where it was placed are asked
to leave, so that nobody is stopped in vain. The hole is promised in the same plan.
Nobody is moved aside before it has run for its class's least time and the policy's.
"""

from collections import Counter
from itertools import chain

from madang.core.draft import Draft
from madang.core.model import Allocation, AllocationState, Job, ReleaseReason
from madang.core.ordering import Key, Turns, key_of
from madang.core.placement import Unplaced, room_on, seats_on
from madang.core.pool import Pool
from madang.core.quotas import open_to
from madang.core.rights import Claim, Rights
from madang.core.seating import Gaps, Seated, likeness, seat
from madang.core.settings import ANY

Movable = tuple[Key, Allocation]


def rebalance(draft: Draft) -> None:
    """Emit JobNominated and the ReleaseAsked of its victims for whoever's turn it is."""
    snapshot, rights = draft.snapshot, Rights.of(draft)
    if not snapshot.queue or not rights.any_preemption():
        return
    movable = _movable(draft)
    failed: set[object] = set()
    for job_id in (*_entitled(draft), *Turns(snapshot, draft.usage_milli)):
        if not movable:
            return
        job = snapshot.jobs[job_id].job
        # What found no room among these victims finds none among fewer.
        if not draft.may_start(job_id):
            continue
        claim = rights.claim(job)
        ask = (likeness(job), job.project if claim.groups else "")
        if ask in failed or not (claim.groups or claim.key < movable[-1][0]):
            continue
        if not _make_room(draft, claim, movable):
            failed.add(ask)


def _entitled(draft: Draft) -> list[str]:
    """The waiting jobs of those who have guarantees, in turn; whether one is within is seen later.

    It changes with every promise made.
    """
    book = draft.book
    if not book.has_guarantees:
        return []
    turns = Turns(draft.snapshot, draft.usage_milli, book.guaranteed_projects())
    return [id for id in turns if book.entitled_groups(draft.snapshot.jobs[id].job)]


def _movable(draft: Draft) -> list[Movable]:
    """(key, allocation) of the running jobs that have run their least time, in order."""
    snapshot = draft.snapshot
    movable: list[Movable] = []
    for allocation in snapshot.allocations.values():
        if allocation.state is not AllocationState.RUNNING or allocation.id in draft.releasing:
            continue
        live = snapshot.jobs[allocation.job]
        ran_ms = snapshot.now_ms - allocation.running_ms
        if ran_ms >= max(snapshot.policy.run_ms_min, live.job.run_ms_min):
            movable.append((key_of(snapshot, live), allocation))
    movable.sort(key=lambda one: one[0])
    return movable


def _make_room(draft: Draft, claim: Claim, movable: list[Movable]) -> bool:
    """Promise the job a place, victims and all, or change nothing. False iff there is none."""
    job, trial = claim.waiting, draft.view.scratch()
    allowed = _allowed(draft, claim, trial)
    gaps = Gaps(draft.snapshot, trial, job)
    if gaps.missing <= 0 and not isinstance(seat(draft.snapshot, allowed, job), Unplaced):
        return True  # the start pass has not come to it yet
    victims: list[Allocation] = []
    for victim_key, allocation in reversed(movable):
        if not claim.groups and victim_key <= claim.key:
            return False
        if not claim.over(allocation):
            continue
        victims.append(allocation)
        gaps.give(draft.held_places(allocation), allocation.shape)
        if gaps.missing > 0:
            continue
        seated = seat(draft.snapshot, allowed, job)
        if not isinstance(seated, Unplaced):
            _promise(draft, job, trial, seated, victims)
            leaving = draft.releasing
            movable[:] = [one for one in movable if one[1].id not in leaving]
            return True
    return False


def _allowed(draft: Draft, claim: Claim, trial: Pool) -> Pool:
    """Of a what-if what the job's quotas leave open to it, and its guarantee if it is within."""
    full = draft.book.full_groups(claim.waiting, claim.waiting.milli)
    return open_to(draft.snapshot, trial, full, claim.groups or (ANY,))


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
