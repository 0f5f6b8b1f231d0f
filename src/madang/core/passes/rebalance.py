"""Rebalance: those who have a right to devices take them from those they have a right over.

First whoever is within a guarantee takes back what was lent, then the waiting jobs in turn
(rights.py). Room is made for a whole gang or not at all: by the victims that cost the least work
(impact.py), or, under the policies of the literature, by the last of the order first. Those without
whom the gang fits as well are left in peace; the others are told for whom they leave and what it
costs, and the hole is promised in the same plan.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, groupby

import numpy as np

from madang.core.asks import Ask
from madang.core.budgets import Allowance
from madang.core.clearing import wants_whole
from madang.core.draft import Draft
from madang.core.gangs import least_members
from madang.core.impact import Clearing, impact_gpu_ms, may_be_stopped
from madang.core.model import Allocation, Job, ReleaseReason
from madang.core.ordering import Key, Turns
from madang.core.placement import Unplaced, room_on, seats_on
from madang.core.policy import Victims
from madang.core.pool import Bools, Ints, Pool
from madang.core.rights import Claim, Rights
from madang.core.seating import Gaps, Seated, likeness_in, seat

TRIED_PER_TURN_MAX = 256  # kinds of jobs that room is looked for; so a turn stays short
Movable = tuple[Key, Allocation]


def rebalance(draft: Draft) -> None:
    """Emit JobNominated and the ReleaseAsked of its victims for whoever's turn it is."""
    snapshot, rights = draft.snapshot, Rights.of(draft)
    if not snapshot.queue or not rights.any_preemption():
        return
    turns = Turns(snapshot, draft.usage_milli)
    asking = _asking(draft, turns)
    first = next(asking, None)
    movable = _movable(draft, rights) if first is not None else []
    if first is None or not movable:
        return
    way = _way(draft, movable)
    # Who comes later in a lot has the same rights, guarantees aside, over fewer.
    lots_fare_alike = not draft.book.has_guarantees
    failed: set[object] = set()
    owned = bool(draft.book.quotas)  # what is open to one may be closed to another
    for job in chain((first,), asking):
        claim = rights.claim(job)
        # What found no room among these victims finds none among fewer.
        ask = (likeness_in(snapshot, job), (job.project, job.provisioning) if owned else ())
        if ask not in failed and (claim.groups or claim.key < way.last_key):
            if way.make_room(claim):
                if way.is_done:
                    return
                continue
            failed.add(ask)
        if lots_fare_alike:
            turns.pass_alike()
        if way.is_done or len(failed) == TRIED_PER_TURN_MAX:
            return


def _asking(draft: Draft, turns: Turns) -> Iterator[Job]:
    """Who waits for nothing but devices and is held back by nobody, as the draft stands by then."""
    in_turn = turns if draft.snapshot.policy.preempts else ()
    for job_id in chain(_entitled(draft), in_turn):
        job = draft.snapshot.jobs[job_id].job
        if job.preempts and draft.may_start(job_id) and not draft.is_held_back(job):
            yield job


def _way(draft: Draft, movable: list[Movable]) -> "_CheapestFirst | _LastFirst":
    victims = draft.snapshot.policy.victims
    if victims is Victims.LAST:
        return _LastFirst(draft, movable)
    return _CheapestFirst(draft, movable, in_ranks=victims is Victims.CHEAPEST_OF_LAST)


def _entitled(draft: Draft) -> list[str]:
    """The waiting jobs of those who have guarantees, in turn; whether one is within is seen later.

    It changes with every promise made.
    """
    book = draft.book
    if not book.has_guarantees:
        return []
    turns = Turns(draft.snapshot, draft.usage_milli, book.guaranteed_projects())
    return [id for id in turns if book.entitled_groups(draft.snapshot.jobs[id].job)]


def _movable(draft: Draft, rights: Rights) -> list[Movable]:
    """(key, allocation) of the running jobs that have run their least time, in order."""
    snapshot = draft.snapshot
    movable = [
        (rights.key_of(snapshot.jobs[allocation.job]), allocation)
        for allocation in snapshot.allocations.values()
        if may_be_stopped(draft, allocation)
    ]
    movable.sort(key=_key_of_movable)
    return movable


def _key_of_movable(one: Movable) -> Key:
    return one[0]


def _ask(draft: Draft, claim: Claim) -> Ask:
    """For whom others leave asks for the least that its quotas allow, or its guarantee covers."""
    return draft.modest_ask(claim.waiting, entitled=bool(claim.groups))


def _allowed(draft: Draft, ask: Ask, pool: Pool) -> Pool:
    """Of a what-if what the job's quotas leave open to it, and its guarantee if it is within."""
    return ask.opened(draft.snapshot, draft.timeline.clear_of(ask.job, pool))


class _CheapestFirst:
    """Those are moved aside who cost the least work; of those who cost the same, the last in order.

    In ranks: only if the last rank of the order does not suffice, the one before is looked at too.
    Whoever is displaced from the middle of an order soon displaces somebody behind him in turn.
    """

    def __init__(self, draft: Draft, movable: list[Movable], *, in_ranks: bool) -> None:
        self.draft = draft
        self.movable = movable[::-1]
        self.last_key = self.movable[0][0]
        self._in_ranks = in_ranks
        self._clearing: Clearing | None = None

    @property
    def clearing(self) -> Clearing:
        """Made when somebody first has a right over anybody."""
        if self._clearing is None:
            self._clearing = Clearing(self.draft, [allocation for _, allocation in self.movable])
        return self._clearing

    @property
    def is_done(self) -> bool:
        """True iff nobody is left to be moved aside."""
        return self._clearing is not None and self._clearing.is_done

    def make_room(self, claim: Claim) -> bool:
        """Promise the job a place, victims and all, or change nothing. False iff there is none."""
        displaceable = self._displaceable(claim)
        if not displaceable.any():
            return False
        ask = _ask(self.draft, claim)
        job, pool = ask.job, _allowed(self.draft, ask, self.draft.view)
        for among in self._ranks(displaceable):
            if not self._could_suffice(job, among, pool):
                continue
            room = self.clearing.room_for(job, among, pool)
            if room is not None:
                if room.victims:
                    self.clearing.clear(job, room)
                return True
        return False

    def _could_suffice(self, job: Job, among: Bools, pool: Pool) -> bool:
        """False iff the gang fits nowhere even if all of these (V,) left and nodes had nothing but
        GPUs: seen at once, where a search would have to find it out."""
        if not all(map(wants_whole, job.shapes)):
            return True
        mine = self._stakes[among[self._stakes[:, 1]]]
        free = np.bincount(mine[:, 0], mine[:, 2], pool.nodes).astype(np.int64) + pool.whole_free
        room = free[pool.open] // min(shape.gpus for shape in job.shapes)
        return int(room.sum()) >= least_members(job)

    @cached_property
    def _stakes(self) -> Ints:
        """(H, 3): row, number of who may be moved, devices at most that he holds whole there."""
        nodes = self.draft.snapshot.nodes
        stakes = [
            (nodes[seat.node].row, number, len(seat.gpus))
            for number, (_, allocation) in enumerate(self.movable)
            for seat in allocation.seats
        ]
        return np.array(stakes, np.int64).reshape(-1, 3)

    def _displaceable(self, claim: Claim) -> Bools:
        """(V,) of those who are movable."""
        found = np.zeros(len(self.movable), np.bool_)
        for number, (key, allocation) in enumerate(self.movable):
            if not claim.groups and key <= claim.key:
                break  # nobody has a right over those before him, guarantees aside
            found[number] = bool(claim.over(allocation))
        return found

    def _ranks(self, displaceable: Bools) -> Iterator[Bools]:
        """(V,) the displaceable of the last rank, of the last two, and so on."""
        if not self._in_ranks:
            yield displaceable
            return
        numbers = np.flatnonzero(displaceable).tolist()
        among = np.zeros_like(displaceable)
        for _, rank in groupby(numbers, key=lambda number: _rank(self.movable[number][0])):
            among[list(rank)] = True
            yield among.copy()


def _rank(key: Key) -> Key:
    """What of a key ranks jobs: not when they came."""
    return key[:-2]


class _LastFirst:
    """Victims are tried from the last of the order upwards until the whole gang fits."""

    def __init__(self, draft: Draft, movable: list[Movable]) -> None:
        self.draft, self.movable = draft, movable
        self.allowance = Allowance(draft.snapshot, draft.releasing)

    @property
    def last_key(self) -> Key:
        return self.movable[-1][0]

    @property
    def is_done(self) -> bool:
        """True iff nobody is left to be moved aside."""
        return not self.movable

    def make_room(self, claim: Claim) -> bool:
        """Promise the job a place, victims and all, or change nothing. False iff there is none."""
        ask = _ask(self.draft, claim)
        snapshot, job = self.draft.snapshot, ask.job
        trial = self.draft.view.scratch()
        allowed = _allowed(self.draft, ask, trial)
        gaps = Gaps(snapshot, trial, job)
        if gaps.missing <= 0 and not isinstance(seat(snapshot, allowed, job), Unplaced):
            return True  # the start pass has not come to it yet
        victims: list[Allocation] = []
        down = self.allowance.copy()
        for victim_key, allocation in reversed(self.movable):
            if not claim.groups and victim_key <= claim.key:
                return False
            if not claim.over(allocation) or not down.allows(allocation):
                continue
            down.charge(allocation)
            victims.append(allocation)
            gaps.give(self.draft.held_places(allocation), allocation.shape)
            if gaps.missing > 0:
                continue
            seated = seat(snapshot, allowed, job)
            if not isinstance(seated, Unplaced):
                self._promise(job, allowed, seated, victims)
                return True
        return False

    def _promise(self, job: Job, trial: Pool, seated: Seated, victims: list[Allocation]) -> None:
        """Ask for the leave of those without whom there is no room on these nodes, of no others.

        `trial` is what is open to the job of the pool without any of the victims, who are last in
        the order first. Where cells are promised there may be room that it must not have.
        """
        draft, shape = self.draft, seated.shape
        members = Counter(row for row, _ in seated.places)
        in_cells = draft.snapshot.cells is not None
        for victim in reversed(victims):
            held = draft.held_places(victim)
            trial.take(held, victim.shape)
            if in_cells:
                beside = seat(draft.snapshot, trial, job)
                fits = isinstance(beside, Seated)
            else:
                fits = all(room_on(trial, row, shape) >= count for row, count in members.items())
            if fits:
                continue  # the gang fits beside it
            for one in held:
                trial.give(one, victim.shape)
            owner, bill = draft.snapshot.jobs[victim.job].job, impact_gpu_ms(draft.snapshot, victim)
            self.allowance.charge(victim)
            draft.release(
                victim.id,
                ReleaseReason.PREEMPTED,
                owner.grace_ms,
                by=job.id,
                bill_gpu_ms=bill,
            )
        if in_cells:
            last = seat(draft.snapshot, trial, job)
            assert isinstance(last, Seated), f"there was room: {job}"
            seated = last
        else:
            seats = [seats_on(trial, row, count, shape) for row, count in members.items()]
            seated = Seated(shape, tuple(chain.from_iterable(seats)))
        draft.nominate(job, seated)
        leaving = draft.releasing
        self.movable = [one for one in self.movable if one[1].id not in leaving]
