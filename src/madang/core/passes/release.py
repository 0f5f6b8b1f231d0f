"""Release: ask the engine to end what must not go on.

Broken gangs, stopped jobs, lost nodes, time limits, and strays that nobody should still run.
"""

from madang.core.draft import Draft
from madang.core.model import ReleaseReason


def release(draft: Draft) -> None:
    """Emit ReleaseAsked once for each allocation that must end."""
    snapshot = draft.snapshot
    for stray in snapshot.strays:
        draft.release(stray, ReleaseReason.STRAY, grace_ms=0)
    for allocation_id, reason in snapshot.troubled.items():
        live = snapshot.jobs[snapshot.allocations[allocation_id].job]
        draft.release(allocation_id, reason, live.job.grace_ms)
    for deadline_ms, allocation_id in snapshot.deadlines:
        if deadline_ms > snapshot.now_ms:
            break
        live = snapshot.jobs[snapshot.allocations[allocation_id].job]
        draft.release(allocation_id, ReleaseReason.TIME_LIMIT, live.job.grace_ms)
