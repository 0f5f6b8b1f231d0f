"""Grow: an elastic gang that runs with fewer members than it wants starts anew with more.

It is asked to end, waits, and starts with what fits by then: nothing is promised, so it grows only
where nobody waits for what it would take. It shrinks the same way: whoever is moved aside, or loses
a node, starts with what fits. Only a job that checkpoints grows, and only if it is worth it: what
it gains must be GAIN_FACTOR times what the new start costs. Nobody knows how long a job without an
estimate will go on, so it is taken to go on for as long as it has run (Lindy's law): it grows the
later the less it would gain, and at most a constant share of its run is spent on restarts.
"""

from madang.core.budgets import Allowance
from madang.core.draft import Draft
from madang.core.impact import restart_ms
from madang.core.live import LiveJob
from madang.core.model import WHOLE_GPU_MILLI, Allocation, Job, ReleaseReason
from madang.core.placement import Unplaced
from madang.core.snapshot import Snapshot

GAIN_FACTOR = 4  # the estimate may be wrong by as much and nothing is lost


def grow(draft: Draft) -> None:
    """Emit ReleaseAsked for each gang that shall start anew with more members, oldest job first."""
    snapshot = draft.snapshot
    if not snapshot.short or any(draft.who_could_start()):
        return
    allowance = Allowance(snapshot, draft.releasing)
    live_of = {id: snapshot.jobs[snapshot.allocations[id].job] for id in snapshot.short}
    for id in sorted(live_of, key=lambda id: live_of[id].job.seq):
        live, allocation = live_of[id], snapshot.allocations[id]
        if id in draft.releasing or not allowance.allows(allocation):
            continue
        if allocation.ended:
            continue  # a gang whose members come to their end does not begin anew
        members = _members_anew(draft, live.job, allocation)
        if _is_worth_it(snapshot, live, allocation, members):
            milli = _milli(allocation)
            bill_gpu_ms = restart_ms(live.job, milli) * milli // WHOLE_GPU_MILLI
            by = f"it grows from {len(allocation.seats)} to {members} members"
            draft.release(
                id, ReleaseReason.MOVED, live.job.grace_ms, by=by, bill_gpu_ms=bill_gpu_ms
            )
            return  # one at a time: what the next would take is not known before this one sits


def _milli(allocation: Allocation) -> int:
    """GPU-milli of all its members."""
    return len(allocation.seats) * allocation.shape.milli


def worth_from_ms(job: Job, allocation: Allocation, members: int = 0) -> int:
    """When it may first be worth to start anew with so many members, 0: with all."""
    cost_ms = GAIN_FACTOR * restart_ms(job, _milli(allocation))
    if job.estimate_ms:
        return allocation.running_ms + cost_ms
    wanted = members or job.members
    more = wanted - len(allocation.seats)
    return allocation.running_ms + -(-cost_ms * wanted // more)


def looks_ms(job: Job, allocation: Allocation) -> list[int]:
    """When to look whether it is worth it: for one member more, two, four and so on, and for all.

    How many there is room for is not known before. What lies between has its look at the next.
    """
    more, times = job.members - len(allocation.seats), [worth_from_ms(job, allocation)]
    for bit in range(more.bit_length()):
        members = len(allocation.seats) + (1 << bit)
        if members < job.members:
            times.append(worth_from_ms(job, allocation, members))
    return times


def _is_worth_it(snapshot: Snapshot, live: LiveJob, allocation: Allocation, members: int) -> bool:
    """True iff what it would gain with so many members is GAIN_FACTOR times what that costs."""
    job, standing, now_ms = live.job, live.standing, snapshot.now_ms
    ran_ms = now_ms - allocation.running_ms
    cost_ms = restart_ms(job, _milli(allocation))
    if standing.checkpoint_ms > allocation.running_ms:
        cost_ms += now_ms - standing.checkpoint_ms  # run again what was not saved
    if ran_ms < max(GAIN_FACTOR * cost_ms, job.run_ms_min, snapshot.policy.run_ms_min):
        return False
    left_ms = ran_ms
    if job.estimate_ms:
        left_ms = job.estimate_ms - standing.attained_ms - ran_ms
    more = members - len(allocation.seats)
    return left_ms * more >= GAIN_FACTOR * cost_ms * members


def _members_anew(draft: Draft, job: Job, allocation: Allocation) -> int:
    """With how many members it would start if it ended now: what quotas and room allow."""
    seated = draft.seat_anew(job, allocation)
    return 0 if isinstance(seated, Unplaced) else len(seated.places)
