"""Honour: a job that was promised devices gets them once all have left; till then nobody else does.

A promise is void when its job is stopped, or a node or device of it is not there any more.
"""

from madang.core.draft import Draft


def honour(draft: Draft) -> None:
    """Emit AllocationBound or NominationDropped for each promise that is due; block the rest.

    In the order of submission: the order in which they were promised is in no row.
    """
    snapshot = draft.snapshot
    for job_id in sorted(snapshot.nominations, key=lambda id: snapshot.jobs[id].job.seq):
        live, seats = snapshot.jobs[job_id], snapshot.nominations[job_id]
        if live.standing.stop_asked:
            continue  # settle ends it in this plan, and its promise with it
        places = draft.places_of(seats)
        whole = all(len(gpus) == live.job.shape.gpus for _, gpus in places)
        there = whole and all(snapshot.pool.open[row] for row, _ in places)
        if not there or not draft.within_quota(live.job):
            draft.drop_nomination(job_id)
        elif draft.view.has_free(places, live.job.shape) and not snapshot.still_runs(job_id):
            draft.bind(live.job, tuple(places))
        else:
            draft.pool.block(places, live.job.shape)
