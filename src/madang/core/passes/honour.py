"""Honour: a job that was promised devices gets them once all have left; till then nobody else does.

A running job that moves has its promise kept until it has left the place it moves from.
A promise is void when its node or a device of it is not there any more, when its project may not
hold that much any more, when a zone is shut to it by now, when a node got a taint or lost a label,
when its nodes are no longer as near as its job demands, when it would break a promise of cells,
when somebody was not let end after all, or when nobody is left whose leaving it could wait for.
"""

from collections.abc import Sequence

from madang.core.draft import Draft
from madang.core.gangs import keeps_terms
from madang.core.lifecycle import LIVELY
from madang.core.live import LiveJob
from madang.core.model import AllocationState, Job, Shape
from madang.core.needs import demands_of
from madang.core.pool import Place
from madang.core.seating import Seated, shape_at, with_cells
from madang.core.snapshot import Snapshot
from madang.core.zones import allowed_on


def honour(draft: Draft) -> None:
    """Emit AllocationBound or NominationDropped for each promise that is due; block the rest.

    In the order of submission: the order in which they were promised is in no row.
    """
    snapshot = draft.snapshot
    for job_id in sorted(snapshot.nominations, key=lambda id: snapshot.jobs[id].job.seq):
        live = snapshot.jobs[job_id]
        if live.standing.stop_asked and live.allocation is None:
            continue  # the settle pass has ended it, and its promise with it
        job, seats = live.job, snapshot.nominations[job_id]
        places = tuple(draft.places_of(seats))
        promised = Seated(shape_at(snapshot, job, seats), places)
        if live.allocation is not None:
            _keep_for_the_move(draft, live, promised)
            continue
        still_runs = snapshot.still_runs(job_id)
        kept = with_cells(snapshot, job, promised)
        rows = [row for row, _ in places]
        if (
            kept is None
            or not snapshot.pool.could_ever_hold(places, promised.shape)
            or not draft.within_quota(job, len(places))
            or not _within_groups(draft, job, promised)
            or not allowed_on(snapshot, job, [seat.node for seat in seats])
            or not _still_meets(snapshot, job, rows)
            or not keeps_terms(snapshot.pool, job, rows, snapshot.now_ms, snapshot.policy)
        ):
            draft.drop_nomination(job_id)
        elif draft.view.has_free(places, promised.shape) and not still_runs:
            draft.bind(job, kept)
        elif still_runs or _somebody_leaves(draft, places, promised.shape):
            draft.keep_promise(job, kept)
        else:
            draft.drop_nomination(job_id)


def _still_meets(snapshot: Snapshot, job: Job, rows: Sequence[int]) -> bool:
    meets = snapshot.ground.mask(demands_of(job))
    return meets is None or bool(meets[list(rows)].all())


def _keep_for_the_move(draft: Draft, live: LiveJob, promised: Seated) -> None:
    """The job has not left yet, or was seen to leave only now: it waits from the next turn on."""
    pool, is_leaving = draft.snapshot.pool, live.job.id not in draft.snapshot.unsettled
    is_void = not pool.could_ever_hold(promised.places, promised.shape)
    held = draft.snapshot.allocations[live.allocation] if live.allocation is not None else None
    goes_on = held is not None and held.state in LIVELY and held.id not in draft.releasing
    if is_leaving and (live.standing.stop_asked or is_void or goes_on):
        draft.drop_nomination(live.job.id)
    elif not live.standing.stop_asked:
        draft.keep_promise(live.job, promised)


def _within_groups(draft: Draft, job: Job, promised: Seated) -> bool:
    """True iff no limit of a machine group, lowered since perhaps, keeps the job from it."""
    snapshot, parts = draft.snapshot, dict[str, int]()
    for row, _ in promised.places:
        group = snapshot.nodes[snapshot.node_ids[row]].node.group
        parts[group] = parts.get(group, 0) + promised.shape.milli
    return all(group not in draft.book.full_groups(job, milli) for group, milli in parts.items())


def _somebody_leaves(draft: Draft, places: Sequence[Place], shape: Shape) -> bool:
    """True iff an allocation on one of these nodes has been asked to end, and nobody goes on there
    who was not let end after all."""
    rows = {row for row, _ in places}
    return not draft.is_taken(places, shape) and any(
        row in rows
        for id, allocation in draft.snapshot.allocations.items()
        if allocation.state is AllocationState.RELEASING or id in draft.releasing
        for row, _ in draft.held_places(allocation)
    )
