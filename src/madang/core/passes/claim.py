"""Claim: reserved work starts inside the cells that its tenant was promised, whoever stands there.

A promise of cells is the tenant's own cluster (HiveD, OSDI 2020): nobody's turn comes before its
own there, so claims are heard before the queue. What a claim finds free it gets at once; where
preemptible work stands in its way, that is asked to leave and the hole is promised in the same
plan. What is not inside a promise is left to the queue.
"""

import numpy as np

from madang.core.budgets import Allowance
from madang.core.cells.claims import may_claim
from madang.core.cells.room import is_firm, without_loose
from madang.core.draft import Draft
from madang.core.events import AllocationBound
from madang.core.gangs import exactly, least_members
from madang.core.impact import impact_gpu_ms
from madang.core.lifecycle import LIVELY
from madang.core.model import Allocation, Job, ReleaseReason, Shape, grace_ms_of
from madang.core.ordering import ordered
from madang.core.passes.start import BINDS_PER_TURN_MAX
from madang.core.placement import Unplaced
from madang.core.pool import Place, Pool
from madang.core.seating import Seated, claimed, likeness_in

SPARED_MAX = 64  # so many are tried to be left where they are, one by one: a turn stays short


def claim(draft: Draft) -> None:
    """Emit AllocationBound, or JobNominated and ReleaseAsked, for claims on promised cells."""
    cells = draft.snapshot.cells
    if cells is not None and cells.promised:
        while _heard(draft):
            pass  # what was given to one may have turned the cells so that another fits


def _heard(draft: Draft) -> bool:
    """Hear each claim once, in order; True iff one was met after another had failed."""
    snapshot = draft.snapshot
    failed: set[object] = set()
    again = False
    for _, job_id in ordered(snapshot):
        job = snapshot.jobs[job_id].job
        owners = may_claim(snapshot.cells, snapshot.projects[job.project], job)
        alike = (owners, likeness_in(snapshot, job), job.preempts)
        if not owners or alike in failed or not draft.may_start(job_id):
            continue
        seated = draft.seated(job, claimed)
        if not isinstance(seated, Unplaced):
            draft.bind(job, seated)
            again |= bool(failed)
        elif job.preempts and _displace(draft, job):
            again |= bool(failed)
        else:
            failed.add(alike)
        if len(draft.decisions) >= BINDS_PER_TURN_MAX:
            return False
    return again


def _displace(draft: Draft, job: Job) -> bool:
    """Promise the job its cells, whoever must leave for it; False iff it is in no promise."""
    snapshot = draft.snapshot
    assert snapshot.cells is not None, "claims are made on promised cells"
    ask = draft.modest_ask(job)  # a promise of cells lifts no limit
    loose = ask.opened(snapshot, _without_lower(draft, job))
    seated = claimed(snapshot, loose, ask.job)
    if isinstance(seated, Unplaced):
        # As many as there is room for may be more than its cells are: then the fewest.
        seated = claimed(snapshot, loose, exactly(job, least_members(job)))
    if isinstance(seated, Unplaced):
        return False
    seated, victims = _fewest(draft, exactly(job, len(seated.places)), seated)
    if not _may_all_leave(draft, victims):
        return False
    for victim in victims:
        live = snapshot.jobs[victim.job]
        if victim.state in LIVELY and victim.id not in draft.releasing:
            grace_ms = grace_ms_of(live.job, live.standing)
            bill = impact_gpu_ms(snapshot, victim)
            draft.release(victim.id, ReleaseReason.PREEMPTED, grace_ms, by=job.id, bill_gpu_ms=bill)
    for other in _promised_there(draft, seated):
        draft.drop_nomination(other)
    if draft.view.has_free(seated.places, seated.shape):
        draft.bind(job, seated)  # nobody has to leave after all: nobody's end would tell
    else:
        draft.nominate(job, seated)
    return True


def _may_all_leave(draft: Draft, victims: list[Allocation]) -> bool:
    """True iff no disruption budget stands against it."""
    allowance = Allowance(draft.snapshot, draft.releasing)
    for victim in victims:
        if victim.state in LIVELY and victim.id not in draft.releasing:
            if not allowance.allows(victim):
                return False
            allowance.charge(victim)
    return True


def _fewest(draft: Draft, job: Job, seated: Seated) -> tuple[Seated, list[Allocation]]:
    """The same job on the same nodes, and who must leave: who was bound first stays if it can."""
    snapshot = draft.snapshot
    rows = {row for row, _ in seated.places}
    standing = [
        one
        for one in _displaceable(draft)
        if rows.intersection(_rows_of(draft, one)) and not _goes_before(draft, one, job)
    ]
    left = _without_lower(draft, job)
    elsewhere = np.ones(left.nodes, np.bool_)
    elsewhere[list(rows)] = False
    left.gpu_free[elsewhere], left.whole_free[elsewhere] = 0, 0
    left.cpu_free[:], left.memory_free[:] = draft.view.cpu_free, draft.view.memory_free
    for allocation in standing:
        for row, _ in draft.held_places(allocation):
            left.cpu_free[row] += allocation.shape.cpu_milli
            left.memory_free[row] += allocation.shape.memory_mib
    if len(standing) > SPARED_MAX:
        left.take(seated.places, seated.shape)
    victims = []
    for allocation in standing:
        beside = left.scratch()
        held = [one for one in draft.held_places(allocation) if one[0] in rows]
        stays = all(_stays(beside, one, allocation.shape) for one in held)
        if stays and len(standing) <= SPARED_MAX:
            again = claimed(snapshot, beside, job)
            stays = isinstance(again, Seated)
            seated = again if isinstance(again, Seated) else seated
        if stays:
            left = beside
        else:
            victims.append(allocation)
    return seated, victims


def _displaceable(draft: Draft) -> list[Allocation]:
    """What runs and stands in nobody's promised cell by right, in the order it was bound."""
    snapshot = draft.snapshot
    found = []
    for allocation in snapshot.allocations.values():
        live = snapshot.jobs.get(allocation.job)
        newest = live is not None and live.allocation == allocation.id
        if live is not None and newest and not is_firm(live.job) and not allocation.cells:
            found.append(allocation)
    return found


def _without_lower(draft: Draft, job: Job) -> Pool:
    """What would be free if all that the job may displace were gone."""
    assert draft.snapshot.cells is not None, "claims are made on promised cells"
    left = without_loose(draft.snapshot.cells, draft.view)
    for one in _displaceable(draft):
        if _goes_before(draft, one, job):
            left.block(draft.held_places(one), one.shape)
    for decision in draft.decisions:  # whoever got his promise in this plan is not seen to run yet
        if isinstance(decision, AllocationBound):
            one = decision.allocation
            if not (one.cells or is_firm(draft.snapshot.jobs[one.job].job)):
                left.block(draft.places_of(one.seats), one.shape)
    return left


def _goes_before(draft: Draft, one: Allocation, job: Job) -> bool:
    """True iff it is the tenant's own work of a higher class, that could take the cell back at once
    (rights.py): the two would stop each other for ever."""
    policy, theirs = draft.snapshot.policy, draft.snapshot.jobs[one.job].job
    ranked = policy.preempts and job.preemptible and "priority" in policy.order
    return ranked and theirs.project == job.project and theirs.priority > job.priority


def _stays(left: Pool, place: Place, shape: Shape) -> bool:
    """Take one member's place if it is still there; True iff it is."""
    row, gpus = place
    fits = (
        not shape.exclusive
        and all(left.gpu_free.item(row, gpu) >= shape.gpu_milli for gpu in gpus)
        and (not shape.cpu_milli or left.cpu_free.item(row) >= shape.cpu_milli)
        and (not shape.memory_mib or left.memory_free.item(row) >= shape.memory_mib)
    )
    if fits:
        left.take((place,), shape)
    return fits


def _rows_of(draft: Draft, allocation: Allocation) -> list[int]:
    return [row for row, _ in draft.held_places(allocation)]


def _promised_there(draft: Draft, seated: Seated) -> list[str]:
    """Other jobs that were promised these devices and have no right to them against a claim."""
    snapshot = draft.snapshot
    wanted = {(row, gpu) for row, gpus in seated.places for gpu in gpus}
    found = []
    for id, seats in snapshot.nominations.items():
        if id not in draft.promised or id in draft.bound or is_firm(snapshot.jobs[id].job):
            continue
        promised = draft.places_of(seats)
        if any((row, gpu) in wanted for row, gpus in promised for gpu in gpus):
            found.append(id)
    return found
