"""Make room: holes that operators asked for are made, kept, and given to the job they are for.

A hole is for the first job in the queue's order that asks for all of its GPUs (of its project, if
it names one). Until then nobody else gets its devices, save who claims cells that were promised to
its tenant; at its deadline it is void.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from madang.core.draft import Draft
from madang.core.events import AllocationBound, HoleDropped, HoleMade, JobNominated
from madang.core.holes import NoHole, plan_hole
from madang.core.model import WHOLE_GPU_MILLI, AllocationState, Job, Seat
from madang.core.moving import carry_out
from madang.core.ordering import ordered
from madang.core.placement import Unplaced
from madang.core.pool import Place, Pool
from madang.core.quotas import open_to
from madang.core.seating import seat
from madang.core.settings import Hole

EXPIRED, BROKEN, CLAIMED, TAKEN = "expired", "broken", "claimed", "taken"
Device = tuple[str, int]


def make_room(draft: Draft) -> None:
    """Emit HoleMade and its moves, AllocationBound or JobNominated for who takes a hole, and
    HoleDropped; block what is kept."""
    if not draft.snapshot.settings.holes:
        return
    holes = sorted(draft.snapshot.settings.holes.values(), key=lambda hole: hole.key)
    given = _given(draft)
    for hole in holes:
        if hole.until_ms <= draft.snapshot.now_ms:
            draft.add(HoleDropped(hole.id, EXPIRED))
        elif hole.seats:
            _keep(draft, hole, given)
    for hole in holes:
        if hole.until_ms > draft.snapshot.now_ms and not hole.seats:
            _make(draft, hole)


def keep_holes(draft: Draft, asker: Job) -> None:
    """Block the holes that are not for this job, for an explanation: nothing is decided."""
    for hole in draft.snapshot.settings.holes.values():
        if hole.seats and not _is_for(hole, asker):
            draft.pool.block(draft.places_of(hole.seats), hole.shape)


def _is_for(hole: Hole, job: Job) -> bool:
    """The job asks for all of it, and is of its project if it has one."""
    return job.milli == hole.milli and hole.project in ("", job.project)


def _make(draft: Draft, hole: Hole) -> None:
    plan = plan_hole(draft, hole)
    if isinstance(plan, NoHole):
        draft.add(HoleDropped(hole.id, plan.code))
        return
    ids = draft.snapshot.node_ids
    draft.add(HoleMade(hole.id, tuple(Seat(ids[row], gpus) for row, gpus in plan.places)))
    draft.pool.block(plan.places, hole.shape)
    carry_out(draft, plan.moves, hole.id)


def _given(draft: Draft) -> set[Device]:
    """What this plan has given or promised so far: claims on promised cells go before holes."""
    given: set[Device] = set()
    for decision in draft.decisions:
        match decision:
            case AllocationBound(allocation):
                given |= devices_of(allocation.seats)
            case JobNominated(seats=seats):
                given |= devices_of(seats)
    return given


def devices_of(seats: Iterable[Seat]) -> set[Device]:
    """The devices that these seats name."""
    return {(seat.node, gpu) for seat in seats for gpu in seat.gpus}


def _keep(draft: Draft, hole: Hole, given: set[Device]) -> None:
    places = draft.places_of(hole.seats)
    if not draft.view.could_ever_hold(places, hole.shape) or _is_taken(draft, hole, places):
        draft.add(HoleDropped(hole.id, BROKEN))
    elif not given.isdisjoint(devices_of(hole.seats)):
        draft.add(HoleDropped(hole.id, CLAIMED))
    elif job_id := _taken(draft, hole, places):
        draft.add(HoleDropped(hole.id, TAKEN, job_id))
    else:
        draft.pool.block(places, hole.shape)


def _is_taken(draft: Draft, hole: Hole, places: Sequence[Place]) -> bool:
    """Somebody who was to leave for it was not let end."""
    return not draft.view.has_free(places, hole.shape) and draft.is_taken(places, hole.shape)


def _taken(draft: Draft, hole: Hole, places: Sequence[Place]) -> str:
    """Give the hole to the first in the queue that it is for, if there is one; its id."""
    snapshot = draft.snapshot
    inside: Pool | None = None
    for _, job_id in ordered(snapshot):
        job = snapshot.jobs[job_id].job
        if not _is_for(hole, job) or not draft.may_start(job_id, job.members):
            continue
        inside = _inside(draft, hole, places) if inside is None else inside
        full = draft.book.full_groups(job, job.milli)
        seated = seat(snapshot, open_to(snapshot, inside, full), job)
        if isinstance(seated, Unplaced):
            continue
        if draft.view.has_free(seated.places, seated.shape):
            draft.bind(job, seated)
        else:
            draft.nominate(job, seated)
        return job_id
    return ""


def _inside(draft: Draft, hole: Hole, places: Sequence[Place]) -> Pool:
    """A pool of the hole alone, as it will be when those who leave have left."""
    pool = draft.view.scratch()
    for allocation in draft.snapshot.allocations.values():
        if allocation.state is AllocationState.RELEASING:
            for one in draft.held_places(allocation):
                pool.give(one, allocation.shape)
    free = np.zeros_like(pool.gpu_free)
    for row, gpus in places:
        for gpu in gpus:
            room = pool.gpu_free.item(row, gpu)
            free[row, gpu] = min(room, free.item(row, gpu) + hole.shape.gpu_milli)
    whole = (free == WHOLE_GPU_MILLI).sum(axis=1).astype(np.int32)
    return replace(pool, gpu_free=free, whole_free=whole)
