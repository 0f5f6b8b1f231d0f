"""Release: ask the engine to end what must not go on.

Broken gangs, stopped jobs, lost nodes, time limits, and strays that nobody should still run.
"""

from madang.core.draft import Draft
from madang.core.model import ReleaseReason, grace_ms_of
from madang.core.snapshot import Snapshot


def release(draft: Draft) -> None:
    """Emit ReleaseAsked once for each allocation that must end."""
    snapshot = draft.snapshot
    for stray in snapshot.strays:
        draft.release(stray, ReleaseReason.STRAY, _stray_grace_ms(snapshot, stray))
    for allocation_id, reason in snapshot.troubled.items():
        live = snapshot.jobs[snapshot.allocations[allocation_id].job]
        draft.release(allocation_id, reason, grace_ms_of(live.job, live.standing))
    for deadline_ms, allocation_id in snapshot.deadlines:
        if deadline_ms > snapshot.now_ms:
            break
        live = snapshot.jobs[snapshot.allocations[allocation_id].job]
        draft.release(allocation_id, ReleaseReason.TIME_LIMIT, grace_ms_of(live.job, live.standing))


def _stray_grace_ms(snapshot: Snapshot, stray: str) -> int:
    """None for what nobody waits for; but asking again must not cut short the grace of the rest."""
    allocation = snapshot.allocations.get(stray)
    live = snapshot.jobs.get(allocation.job) if allocation is not None else None
    if live is None or live.allocation != stray:
        return 0
    return grace_ms_of(live.job, live.standing)
