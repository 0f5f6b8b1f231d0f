"""Start: everyone in turn, each gang whole, where it fits.

First whoever is within a guarantee, an elastic gang with as much as that covers. A job held back by
a quota lets others pass; one held back by capacity lets pass whom the policy lets pass: nobody
(STOP), those who could never use the models it waits for (HOLD), those who do not delay the start
that it is given (RESERVE, see timeline.py), or all (SKIP) until it has lost its patience, from when
on it holds back too, so that large gangs are not starved. A job that would not fit if every open
node were empty, or only in cells promised to others, waits for a node or a promise, not for its
turn, and lets all pass.
"""

from dataclasses import dataclass, field
from itertools import islice

from madang.core.asks import Ask, seat_most
from madang.core.draft import Draft
from madang.core.gangs import is_elastic
from madang.core.lanes import Lanes
from madang.core.model import WHOLE_GPU_MILLI, Job, Provisioning
from madang.core.ordering import Turns, has_lost_patience
from madang.core.placement import Unplaced
from madang.core.policy import Misfit
from madang.core.seating import Seated, likeness_in, seat
from madang.core.snapshot import Snapshot

BINDS_PER_TURN_MAX = 4096  # a turn stays short; the rest is placed in the next one


def start(draft: Draft) -> None:
    """Emit AllocationBound for each job that may start now, in queue order."""
    walk(draft)


@dataclass(slots=True)
class Walk:
    """What a walk along the queue has met: who holds back whom, and what cannot fit.

    `held_back` is the bit set of models that nobody further back may take; `holders` the jobs that
    said so, first come first; `reserved` the models of each job that got a start time. What was not
    placed once in a walk is not tried again.
    """

    held_back: int = 0
    holders: list[tuple[int, str]] = field(default_factory=list)
    unplaced: set[object] = field(default_factory=set)
    reserved: list[int] = field(default_factory=list)

    def reserved_for(self, models: int) -> int:
        """How many got a start time on devices that these models are among."""
        return sum([bool(bits & models) for bits in self.reserved])


def walk(draft: Draft, until: str = "") -> Walk:
    """Start, in turn, whom there is room for, up to the job `until` (not included).

    Jobs that are alike are tried once, unless one of them is asked for.
    """
    snapshot = draft.snapshot
    so_far = Walk()
    if _start_guaranteed(draft, until):
        return so_far
    lanes = Lanes(snapshot)
    turns = Turns(snapshot, draft.usage_milli)
    for job_id in turns:
        if job_id == until:
            break
        job = snapshot.jobs[job_id].job
        competes_for = lanes.of(job)
        if not competes_for & so_far.held_back:
            if not draft.is_due(job_id):
                continue
            if _bound(draft, job, so_far):
                if len(draft.decisions) >= BINDS_PER_TURN_MAX:
                    break
                continue
            if snapshot.policy.misfit is Misfit.STOP and draft.within_quota(job):
                break
            _hold_back(draft, job, so_far, competes_for)
            if lanes.all_held(so_far.held_back):
                break
        elif competes_for & ~so_far.held_back:
            _hold_the_rest(draft, job, so_far, competes_for)
        if not until and _alike_fare_alike(draft, job):
            turns.pass_alike()
    draft.hold_back(lanes, so_far.holders)
    return so_far


def _alike_fare_alike(draft: Draft, job: Job) -> bool:
    """True iff who is like this misfit does not fit either.

    Beside reservations a shorter one may, and some get a reservation of their own.
    """
    policy = draft.snapshot.policy
    return policy.misfit is not Misfit.RESERVE and not draft.timeline.reservations


def _start_guaranteed(draft: Draft, until: str) -> bool:
    """Start whoever is within a guarantee. True iff the turn of `until` came."""
    book, snapshot = draft.book, draft.snapshot
    if not book.has_guarantees:
        return False
    waiting: list[str] | None = None  # the first two who could start
    turns = Turns(snapshot, draft.usage_milli, book.guaranteed_projects())
    for job_id in turns:
        job = snapshot.jobs[job_id].job
        groups = book.entitled_groups(job) if draft.window_of(job) is None else ()
        if groups and job_id == until:
            return True
        if groups and draft.within_quota(job):
            if not draft.is_due(job_id):
                continue
            if is_elastic(job) and waiting is None:
                waiting = list(islice(draft.who_could_start(), 2))
            if waiting == [job_id] and _bound(draft, job, Walk()):
                continue  # with all it may have: nobody else wants what its guarantee leaves
            seated = draft.seated(job, entitled=True)
            if not isinstance(seated, Unplaced):
                draft.bind(job, seated)
                if len(draft.decisions) >= BINDS_PER_TURN_MAX:
                    break
                continue
        if not until:
            turns.pass_alike()
    return False


def _bound(draft: Draft, job: Job, so_far: Walk) -> bool:
    """Start the job if its quotas and the room beside reservations allow it."""
    if draft.window_of(job) is not None:
        return False  # the calendar pass has seen to it
    seated = seat_most(draft.asks(job), lambda ask: _seated(draft, ask, so_far))
    if isinstance(seated, Unplaced):
        return False
    draft.bind(job, seated)
    draft.timeline.started(job, seated.places, seated.shape)
    return True


def _seated(draft: Draft, ask: Ask, so_far: Walk) -> Seated | Unplaced:
    """Where it sits beside reservations; nowhere if what is alike did not before."""
    snapshot, job = draft.snapshot, ask.job
    pool, alike = ask.opened(snapshot, draft.view), likeness_in(snapshot, job)
    if pool is not draft.view:
        alike = (job.project, job.provisioning, alike)  # not all is open to it
    if alike in so_far.unplaced:
        return Unplaced(0, 0)
    held = draft.timeline.held_for(job)
    if held and (alike, held) in so_far.unplaced:
        return Unplaced(0, 0)
    seated = seat(snapshot, draft.timeline.beside(held, pool), job)
    if isinstance(seated, Unplaced):
        if held and not isinstance(seat(snapshot, pool, job), Unplaced):
            so_far.unplaced.add((alike, held))
        else:
            so_far.unplaced.add(alike)
    return seated


def _hold_back(draft: Draft, job: Job, so_far: Walk, competes_for: int) -> None:
    """A job for which there is no room may keep those behind from what it waits for.

    It is given a start time where the policy plans one; if nobody can say one, or the policy plans
    none, it holds back as the policy has it. Who has lost patience holds back even so: a start time
    rests on estimates, and nobody shall wait for ever because they were wrong.
    """
    snapshot, policy = draft.snapshot, draft.snapshot.policy
    if draft.window_of(job) is not None:
        return  # it waits for its own devices: nobody else can have them
    lost = has_lost_patience(snapshot, snapshot.jobs[job.id])
    holds = policy.misfit is Misfit.HOLD or lost
    plans = policy.misfit is Misfit.RESERVE or policy.end_permille
    if plans:
        is_head = so_far.reserved_for(competes_for) < policy.reservations
        holds |= is_head and policy.misfit is Misfit.RESERVE
        plans = holds or is_head or _is_planned(snapshot, job)
    if not (holds or plans):
        return
    if not draft.within_quota(job) or not draft.fits_when_empty(job):
        return
    if plans and draft.timeline.reserve(job):
        so_far.reserved.append(competes_for)
        holds = lost
    if holds:
        so_far.held_back |= competes_for
        so_far.holders.append((competes_for, job.id))


def _hold_the_rest(draft: Draft, job: Job, so_far: Walk, competes_for: int) -> None:
    """Who is held back on a part of what it competes for, and has lost patience, is not to be
    passed on the other parts either.
    """
    if draft.window_of(job) is not None or not draft.is_due(job.id):
        return
    if not has_lost_patience(draft.snapshot, draft.snapshot.jobs[job.id]):
        return
    if draft.within_quota(job) and draft.fits_when_empty(job):
        so_far.held_back |= competes_for
        so_far.holders.append((competes_for, job.id))


def _is_planned(snapshot: Snapshot, job: Job) -> bool:
    """True iff the job always gets a start time: it is `reserved`, or a large gang."""
    least = snapshot.policy.reserve_gpus_min * WHOLE_GPU_MILLI
    return job.provisioning is Provisioning.RESERVED or 0 < least <= job.milli
