"""Reclaim: who holds GPUs and does not use them is warned, and later loses them if it still does
not. The rule is in idle.py; only jobs whose last measurement calls for something are looked at.
"""

from collections.abc import Callable

from madang.core.budgets import Allowance
from madang.core.draft import Draft
from madang.core.events import JobWarned
from madang.core.idle import IDLE, NoRule, Verdict, rule_of, verdict
from madang.core.impact import impact_gpu_ms
from madang.core.model import ReleaseReason
from madang.core.snapshot import Snapshot

IDLENESS = "idleness"  # in whose name ReleaseAsked takes GPUs


def reclaim(draft: Draft) -> None:
    """Emit JobWarned or ReleaseAsked(RECLAIMED), in the order of submission."""
    snapshot, policy = draft.snapshot, draft.snapshot.policy
    if not snapshot.idle:
        return
    allowance = Allowance(snapshot, draft.releasing)
    for job_id in sorted(snapshot.idle, key=_seq(snapshot)):
        live = snapshot.jobs.get(job_id)
        if live is None or live.allocation is None or live.allocation in draft.releasing:
            continue
        job, standing = live.job, live.standing
        allocation, rule = snapshot.allocations[live.allocation], rule_of(policy, job)
        if isinstance(rule, NoRule):
            continue  # there was one when it was measured
        match verdict(policy, job, standing, allocation):
            case Verdict.WARN:
                until_ms = snapshot.now_ms + rule.grace_ms if rule.takes else 0
                draft.add(JobWarned(job_id, IDLE, until_ms))
            case Verdict.TAKE if allowance.allows(allocation):
                allowance.charge(allocation)
                bill = impact_gpu_ms(snapshot, allocation)
                grace_ms = job.grace_ms
                draft.release(
                    allocation.id, ReleaseReason.RECLAIMED, grace_ms, by=IDLENESS, bill_gpu_ms=bill
                )
            case _:
                continue  # it was stopped, or ended, after it was measured; or its budget is spent


def _seq(snapshot: Snapshot) -> Callable[[str], int]:
    """Jobs in the order of submission; one that has ended meanwhile anywhere."""
    return lambda id: snapshot.jobs[id].job.seq if id in snapshot.jobs else 0
