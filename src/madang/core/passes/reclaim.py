"""Reclaim: who holds GPUs and does not use them is warned, and later loses them if it still does
not. The rule is in idle.py; only jobs whose last measurement calls for something are looked at.
"""

from madang.core.draft import Draft
from madang.core.events import JobWarned
from madang.core.idle import IDLE, NoRule, Verdict, rule_of, verdict
from madang.core.model import ReleaseReason
from madang.core.moving import bill_gpu_ms

IDLENESS = "idleness"  # in whose name ReleaseAsked takes GPUs


def reclaim(draft: Draft) -> None:
    """Emit JobWarned or ReleaseAsked(RECLAIMED), in the order of submission."""
    snapshot, policy = draft.snapshot, draft.snapshot.policy
    for job_id in sorted(snapshot.idle, key=lambda id: snapshot.jobs[id].job.seq):
        live = snapshot.jobs[job_id]
        if live.allocation is None or live.allocation in draft.releasing:
            continue
        job, standing = live.job, live.standing
        allocation, rule = snapshot.allocations[live.allocation], rule_of(policy, job)
        assert not isinstance(rule, NoRule), f"marked as idle without a rule: {live}"
        match verdict(policy, job, standing, allocation):
            case Verdict.WARN:
                until_ms = snapshot.now_ms + rule.grace_ms if rule.takes else 0
                draft.add(JobWarned(job_id, IDLE, until_ms))
            case Verdict.TAKE:
                bill = bill_gpu_ms(job, standing, allocation, snapshot.now_ms)
                draft.release(
                    allocation.id,
                    ReleaseReason.RECLAIMED,
                    job.grace_ms,
                    by=IDLENESS,
                    bill_gpu_ms=bill,
                )
            case Verdict.NOTHING:
                raise AssertionError(f"marked as idle for nothing: {live}")
