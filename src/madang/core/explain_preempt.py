"""The words about being moved aside, for both sides; see explain.py."""

from dataclasses import replace

from madang.core.budgets import BUDGETS, Allowance, Key
from madang.core.model import AllocationState, Job, ReleaseReason
from madang.core.rights import Cause, Rights
from madang.core.settings import DisruptionBudget, Settings
from madang.core.snapshot import Snapshot

NAMES_SHOWN_MAX = 3
Promised = tuple[str, tuple[tuple[str, int | str], ...], int]


def bill(gpu_ms: int) -> str:
    """Work that a stop throws away, in words: `1.5 GPU·h`, `40 GPU·s`."""
    if gpu_ms >= 360_000:
        return f"{gpu_ms / 3_600_000:.3g} GPU·h"
    return f"{gpu_ms / 1_000:.3g} GPU·s"


def promised(snapshot: Snapshot, job_id: str) -> Promised | None:
    """What a job that has its place promised waits for: who leaves for it and at what cost, in
    words and numbers, and until when (0: nobody knows). None if nothing is promised to it."""
    seats = snapshot.nominations.get(job_id)
    if seats is None:
        return None
    text = f"it is promised its place on {_names([seat.node for seat in seats])}"
    leaving = [
        one
        for one in snapshot.allocations.values()
        if one.released_for == job_id and one.state is AllocationState.RELEASING
    ]
    if not leaving:
        return f"{text}, and gets it once it is free", (), 0
    until_ms = 0
    for one in leaving:
        live = snapshot.jobs.get(one.job)
        until_ms = max(until_ms, one.releasing_ms + (live.job.grace_ms if live else 0))
    cost_gpu_ms = sum(one.bill_gpu_ms for one in leaving)
    text += (
        f"; {_names([one.job for one in leaving])} "
        f"{'leaves' if len(leaving) == 1 else 'leave'} for it, which costs {bill(cost_gpu_ms)} "
        "of work at most"
    )
    return text, (("victims", len(leaving)), ("bill_gpu_ms", cost_gpu_ms)), until_ms


def moved(snapshot: Snapshot, job_id: str) -> str:
    """Of a job that is being moved aside: for whom, and what that costs; "" of any other."""
    live = snapshot.jobs[job_id]
    held = snapshot.allocations.get(live.allocation) if live.allocation else None
    if held is None or held.release_reason is not ReleaseReason.PREEMPTED:
        return ""
    for_whom = held.released_for or "somebody before it"
    return (
        f"it was asked to save and leave for {for_whom}, whose turn comes first; that costs "
        f"{bill(held.bill_gpu_ms)} of work at most, and it goes on when there is room again"
    )


def kept_by_budgets(snapshot: Snapshot, job: Job) -> str:
    """Whom the job might displace, were it not for their disruption budgets; "" if nobody."""
    if not snapshot.settings.budgets and not snapshot.settings.shields:
        return ""
    allowance, claim = Allowance(snapshot, ()), Rights(snapshot).claim(job)
    kept: dict[Key, list[str]] = {}
    for allocation in snapshot.allocations.values():
        keys = allowance.held_by(allocation)
        if keys and claim.over(allocation) is not Cause.NONE:
            kept.setdefault(keys[0], []).append(allocation.job)
    words = [
        f"{_names(jobs)} {'stays' if len(jobs) == 1 else 'stay'}: "
        f"{_why_not(snapshot.settings, allowance, key)}"
        for key, jobs in sorted(kept.items())
    ]
    more = len(words) - NAMES_SHOWN_MAX
    return "; ".join(words[:NAMES_SHOWN_MAX]) + (f"; and {more} more budgets" if more > 0 else "")


def never_preempts(snapshot: Snapshot, job: Job) -> str:
    """That nobody leaves for it, if somebody would have to were it another one."""
    if job.preempts:
        return ""
    claim = Rights(snapshot).claim(replace(job, preempts=True))
    if not any(claim.over(one) is not Cause.NONE for one in snapshot.allocations.values()):
        return ""
    return "nobody leaves for it: its priority class may not preempt (preemptionPolicy: Never)"


def _why_not(settings: Settings, allowance: Allowance, key: Key) -> str:
    kind, id = key
    if kind == BUDGETS:
        budget = settings.budgets[id]
        most = f"budget {id} lets {budget.down_max} of its members be down at once"
        return f"{most}, {_down(budget, allowance)}"
    if why := settings.shields[id].why:
        return why
    left = max(0, allowance.left[key])
    if not left:
        return f"budget {id} allows no more disruptions"
    return f"budget {id} allows {left} more {'disruption' if left == 1 else 'disruptions'}, not all"


def _down(budget: DisruptionBudget, allowance: Allowance) -> str:
    down = budget.down_max - allowance.left[BUDGETS, budget.id]
    return "none is" if not down else f"{down} {'is' if down == 1 else 'are'}"


def _names(names: list[str]) -> str:
    unique = list(dict.fromkeys(names))
    more = len(unique) - NAMES_SHOWN_MAX
    shown = ", ".join(unique[:NAMES_SHOWN_MAX])
    return f"{shown} and {more} more" if more > 0 else shown
