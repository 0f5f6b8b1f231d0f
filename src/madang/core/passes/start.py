"""Start: FIFO within priority class, each gang whole, on the fullest nodes that fit.

A job held back by its own project's quota lets others pass; a job held back by capacity lets pass
only jobs that could never use the models it waits for, so that large gangs are not starved.
"""

from madang.core.draft import Draft
from madang.core.model import Job
from madang.core.placement import Unplaced, eligible_rows, place
from madang.core.snapshot import Snapshot

BINDS_PER_TURN_MAX = 4096  # a turn stays short; the rest is placed in the next one
_CPU_ONLY = 1  # bit 0, the code of "no GPU": CPU-only jobs queue among themselves


def start(draft: Draft) -> None:
    """Emit AllocationBound for each job that may start now, in queue order."""
    snapshot = draft.snapshot
    everything = (1 << len(snapshot.models)) - 1
    held_back = 0
    for _, job_id in snapshot.queue:
        live = snapshot.jobs[job_id]
        if live.standing.stop_asked or live.standing.not_before_ms > snapshot.now_ms:
            continue
        competes_for = competing_models(snapshot, live.job)
        if competes_for & held_back or not draft.within_quota(live.job):
            continue
        codes = model_codes(snapshot, live.job)
        eligible = eligible_rows(draft.pool, codes)
        places = place(draft.pool, live.job.shape, live.job.members, eligible)
        if isinstance(places, Unplaced):
            held_back |= competes_for
            if held_back == everything:
                return
            continue
        draft.bind(live.job, places)
        if len(draft.decisions) >= BINDS_PER_TURN_MAX:
            return


def model_codes(snapshot: Snapshot, job: Job) -> tuple[int, ...]:
    """Codes of the models the job may run on; empty means any. A model nobody has is code -1."""
    return tuple(snapshot.models.get(model, -1) for model in job.shape.models)


def competing_models(snapshot: Snapshot, job: Job) -> int:
    """Bit set of the model codes whose devices the job waits for."""
    if job.shape.gpus == 0:
        return _CPU_ONLY
    if not job.shape.models:
        return (1 << len(snapshot.models)) - 1
    bits = 0
    for code in model_codes(snapshot, job):
        if code >= 0:
            bits |= 1 << code
    return bits
