"""The words about moves, holes and idle GPUs; see explain.py."""

from collections.abc import Sequence
from dataclasses import replace

from madang.core.holes import NoHole
from madang.core.idle import NoRule, rule_of
from madang.core.impact import impact_gpu_ms
from madang.core.model import (
    WHOLE_GPU_MILLI,
    Allocation,
    AllocationState,
    Job,
    ReleaseReason,
    Standing,
)
from madang.core.settings import Hole
from madang.core.snapshot import Snapshot

HOLES_SHOWN_MAX = 3
_UNITS_MS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))


def span(ms: int) -> str:
    """`2 h 10 m`, `40 s`."""
    for at, (unit, size_ms) in enumerate(_UNITS_MS):
        if ms >= size_ms:
            count, rest_ms = divmod(ms, size_ms)
            if at + 1 == len(_UNITS_MS):
                return f"{count} {unit}"
            smaller, small_ms = _UNITS_MS[at + 1]
            more = rest_ms // small_ms
            return f"{count} {unit} {more} {smaller}" if more else f"{count} {unit}"
    return f"{max(ms, 0)} ms"


def gpu_hours(gpu_s: int) -> str:
    """`0.4 GPU-hours`, `30 GPU-seconds`."""
    return f"{gpu_s / 3600:.1f} GPU-hours" if gpu_s >= 360 else f"{gpu_s} GPU-seconds"


# -- holes ---------------------------------------------------------------------------------------


def hole_size(hole: Hole) -> str:
    """`8 × 8 GPUs (H100) within one block`."""
    gpus = f"{hole.shape.gpus} GPU{'s' if hole.shape.gpus != 1 else ''}"
    kind = f" ({' or '.join(hole.shape.models)})" if hole.shape.models else ""
    within = f" within one {hole.within}" if hole.within not in ("", "any") else ""
    return f"{hole.members} × {gpus}{kind}{within}"


def hole_cost(moves: int, cost_gpu_s: int) -> str:
    """What making a hole means, in a sentence."""
    if not moves:
        return "it is free already: nobody moves"
    who = f"{moves} job{'s move' if moves != 1 else ' moves'}"
    return f"{who}, which throws away {gpu_hours(cost_gpu_s)} of work"


def no_hole(hole: Hole, why: NoHole, levels: Sequence[str]) -> str:
    """Why a hole cannot be made."""
    asked = hole_size(hole)
    match why.code:
        case "no_level":
            levels = ", ".join((*levels, "node", "any"))
            return f"{asked} asked, but there is no such level; there are: {levels}"
        case "too_large":
            return f"{asked} asked, but there are only {why.room} such pieces even if all were free"
        case "held":
            return (
                f"{asked} asked; if all who may be moved were gone there would be {why.room}. The "
                "others do not checkpoint, must not be moved aside, or were moved or started lately"
            )
        case "crowded":
            return f"{asked} asked, but those who would have to leave find no other place"
        case _:
            return f"{asked} asked, but the yard has changed meanwhile"


def smaller_hole(hole: Hole, why: NoHole) -> list[str]:
    """What would work, or may."""
    tries = []
    if 0 < why.room < hole.members:
        tries.append(f"madang make-room {why.room}x{hole.shape.gpus} --dry-run")
    elif why.code == "crowded" and hole.members > 1:
        tries.append(f"madang make-room {hole.members // 2}x{hole.shape.gpus} --dry-run")
    if hole.within and why.code != "changed":
        tries.append("leave --within out, or name a larger level")
    return tries or ["try again"]


def kept_for_holes(snapshot: Snapshot, models: tuple[str, ...]) -> str:
    """`64 GPUs are kept for room-1` where some are that a job of these models could use, or ""."""
    kept: dict[str, int] = {}
    for hole in snapshot.settings.holes.values():
        for seat in hole.seats:
            if not models or snapshot.nodes[seat.node].node.model in models:
                kept[hole.id] = kept.get(hole.id, 0) + hole.shape.milli
    if not kept:
        return ""
    names = list(kept)[:HOLES_SHOWN_MAX] + (["…"] if len(kept) > HOLES_SHOWN_MAX else [])
    return f"{sum(kept.values()) / WHOLE_GPU_MILLI:g} GPUs are kept for {', '.join(names)}"


# -- moves ---------------------------------------------------------------------------------------


def move_cost_gpu_ms(snapshot: Snapshot, allocation: Allocation) -> int:
    """What a move that is under way threw away."""
    live = snapshot.jobs.get(allocation.job)
    if live is None:
        return 0
    then = replace(allocation, state=AllocationState.RUNNING)
    return impact_gpu_ms(replace(snapshot, now_ms=allocation.releasing_ms), then)


def moving(snapshot: Snapshot, job_id: str) -> str:
    """Where a job moves that was asked to make room, or ""."""
    seats = snapshot.nominations.get(job_id)
    live = snapshot.jobs[job_id]
    held = snapshot.allocations[live.allocation] if live.allocation is not None else None
    leaves = held is not None and held.release_reason is ReleaseReason.MOVED
    if not leaves and (seats is None or live.standing.reason != ReleaseReason.MOVED):
        return ""
    if seats is None:
        return "it was asked to start anew, and waits for a place"
    nodes = ", ".join(dict.fromkeys(seat.node for seat in seats))
    return f"it moves to {nodes} to make room for others, and goes on there at once"


# -- idleness ------------------------------------------------------------------------------------


def idle(job: Job, standing: Standing) -> str:
    """A warning that is in force, or ""."""
    if not standing.warned_ms or not standing.idle_since_ms:
        return ""
    what = "GPU has" if job.milli <= WHOLE_GPU_MILLI else "GPUs have"
    return f"its {what} been idle for {span(standing.idle_until_ms - standing.idle_since_ms)}"


def idle_why(snapshot: Snapshot, job_id: str) -> str:
    """The warning, and what comes of it; "" if there is none."""
    live = snapshot.jobs[job_id]
    text, rule = idle(live.job, live.standing), rule_of(snapshot.policy, live.job)
    if not text or isinstance(rule, NoRule):
        return text
    if not rule.takes:
        return f"{text}; others could use them: end it, or submit it with --idle-ok"
    left_ms = live.standing.warned_ms + rule.grace_ms - snapshot.now_ms
    when = f"in {span(left_ms)}" if left_ms > 0 else "with the next measurement"
    return f"{text}; it loses them {when} unless it uses them"
