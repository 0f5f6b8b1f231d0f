"""Start: FIFO within priority class, each gang whole, on the fullest nodes that fit.

A job held back by its own project's quota lets others pass; a job held back by capacity lets pass
only jobs that could never use the models it waits for, so that large gangs are not starved. A job
that would not fit if every open node were empty waits for a node, not for its turn, and lets all
pass. Under a policy that lets those behind pass a misfit, one that has lost its patience holds them
back all the same: nothing that ends is taken before it.
"""

from dataclasses import dataclass, field

from madang.core.draft import Draft
from madang.core.live import Lane, LiveJob
from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.ordering import Key, has_lost_patience
from madang.core.placement import Unplaced
from madang.core.policy import Misfit
from madang.core.seating import fits_when_empty, likeness, seat
from madang.core.snapshot import Snapshot

BINDS_PER_TURN_MAX = 4096  # a turn stays short; the rest is placed in the next one
_CPU_ONLY = 1  # bit 0; model code c is bit c + 1: CPU-only jobs queue among themselves


def start(draft: Draft) -> None:
    """Emit AllocationBound for each job that may start now, in queue order."""
    if draft.snapshot.policy.misfit is not Misfit.RESERVE:
        walk(draft)


@dataclass(slots=True)
class Walk:
    """What a walk along the queue has met: who holds back whom, and what cannot fit.

    `held_back` is the bit set of models that nobody further back may take; `holders` the jobs that
    said so, first come first. What was not placed once in a walk is not tried again.
    """

    held_back: int = 0
    holders: list[tuple[int, str]] = field(default_factory=list)
    unplaced: set[object] = field(default_factory=set)


def walk(draft: Draft, until: Key | None = None) -> Walk:
    """Start, in order, whom there is room for, up to the job of the key `until` (not included)."""
    snapshot = draft.snapshot
    so_far = Walk()
    competing = {lane: competing_models(snapshot, lane) for lane in snapshot.waiting}
    whole_max = _whole_free_max(draft)
    for key, job_id in draft.order:
        if until is not None and key >= until:
            break
        live = snapshot.jobs[job_id]
        job = live.job
        if job.shape.gpus > whole_max and _is_passed(snapshot, live):
            continue  # a busy yard: most of a long queue costs no more than this
        competes_for = competing[job.shape.models if job.shape.gpus else None]
        if competes_for & so_far.held_back:
            continue
        if not draft.may_start(job_id) or likeness(job) in so_far.unplaced:
            continue
        if _bound(draft, job):
            if len(draft.decisions) >= BINDS_PER_TURN_MAX:
                break
            whole_max = _whole_free_max(draft)
            continue
        so_far.unplaced.add(likeness(job))
        if snapshot.policy.misfit is Misfit.STOP:
            break
        holds = snapshot.policy.misfit is Misfit.HOLD or has_lost_patience(snapshot, live)
        if holds and fits_when_empty(snapshot, job):
            so_far.held_back |= competes_for
            so_far.holders.append((competes_for, job_id))
            if all(bits & so_far.held_back for bits in competing.values()):
                break
    return so_far


def _whole_free_max(draft: Draft) -> int:
    """The most devices that are wholly free on one open node."""
    pool = draft.view
    return int((pool.whole_free * pool.open).max(initial=0))


def _is_passed(snapshot: Snapshot, live: LiveJob) -> bool:
    """True iff nothing comes of it that this job of whole devices does not fit."""
    if snapshot.policy.misfit is not Misfit.SKIP or has_lost_patience(snapshot, live):
        return False
    return live.job.shape.gpu_milli == WHOLE_GPU_MILLI


def _bound(draft: Draft, job: Job) -> bool:
    seated = seat(draft.snapshot, draft.view, job)
    if isinstance(seated, Unplaced):
        return False
    draft.bind(job, seated)
    return True


def competing_models(snapshot: Snapshot, lane: Lane) -> int:
    """Bit set of what the jobs of a lane wait for: bit 0 CPUs alone, bit c + 1 model code c."""
    if lane is None:
        return _CPU_ONLY
    if not lane:
        return (1 << (len(snapshot.models) + 1)) - 2
    bits = 0
    for model in lane:
        if model in snapshot.models:
            bits |= 2 << snapshot.models[model]
    return bits
