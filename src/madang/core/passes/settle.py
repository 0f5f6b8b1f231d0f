"""Settle: what becomes of a job whose allocation has ended, or that was stopped while it waited."""

from madang.core.draft import Draft
from madang.core.events import JobEnded, JobRequeued
from madang.core.explain import how_it_ended
from madang.core.idle import goes_on_later
from madang.core.lifecycle import BLAMELESS
from madang.core.model import Allocation, Exit, Job, Phase, ReleaseReason, Standing

RETRY_BACKOFF_MS = 1_000  # doubles with each failure: a crash at start must not spin
RETRY_BACKOFF_MS_MAX = 300_000
ATTEMPTS_MAX = 1_000  # a job that loses every node it touches ends some day


def settle(draft: Draft) -> None:
    """Emit JobEnded or JobRequeued for each unsettled job, in the order of submission.

    The order in which they came to be unsettled is in no row: a state read at a start must settle
    them in the same one.
    """
    snapshot = draft.snapshot
    for job_id in sorted(snapshot.unsettled, key=lambda id: snapshot.jobs[id].job.seq):
        live = snapshot.jobs[job_id]
        allocation = snapshot.allocations[live.allocation] if live.allocation else None
        if allocation is not None and _succeeded(allocation):
            draft.add(
                JobEnded(job_id, Phase.SUCCEEDED, "")
            )  # even if a stop came a moment too late
        elif live.standing.stop_asked:
            draft.add(JobEnded(job_id, Phase.STOPPED, ReleaseReason.STOP))
        else:
            assert allocation is not None, f"nothing to settle: {live}"
            draft.add(_verdict(live.job, live.standing, allocation, snapshot.now_ms))


def _verdict(
    job: Job, standing: Standing, allocation: Allocation, now_ms: int
) -> JobEnded | JobRequeued:
    reason = allocation.release_reason
    broken = _first_broken(allocation)
    if reason is ReleaseReason.TIME_LIMIT:
        return JobEnded(job.id, Phase.FAILED, reason)
    if reason is ReleaseReason.RECLAIMED and not goes_on_later(job):
        return JobEnded(job.id, Phase.STOPPED, reason)
    if reason in BLAMELESS or (broken is not None and broken[1].lost):
        if standing.attempt >= ATTEMPTS_MAX:
            return JobEnded(job.id, Phase.FAILED, "attempts")
        why = reason if reason in BLAMELESS else ReleaseReason.NODE_LOST
        return JobRequeued(job.id, why, standing.failures, 0)
    assert broken is not None, f"asked to end as {reason}, but nothing broke: {allocation}"
    why_broken = how_it_ended(*broken)
    failures = standing.failures + 1
    if failures > job.retries_max:
        return JobEnded(job.id, Phase.FAILED, why_broken)
    backoff_ms = min(RETRY_BACKOFF_MS << min(failures - 1, 20), RETRY_BACKOFF_MS_MAX)
    return JobRequeued(job.id, why_broken, failures, now_ms + backoff_ms)


def _succeeded(allocation: Allocation) -> bool:
    """Every member ended well, and nobody had asked it to."""
    return allocation.release_reason is ReleaseReason.NONE and not _first_broken(allocation)


def _first_broken(allocation: Allocation) -> tuple[int, Exit] | None:
    """The first member seen to end badly: the ones after it may only have been pulled down."""
    return next(((rank, end) for rank, end in allocation.exits if not end.ok), None)
