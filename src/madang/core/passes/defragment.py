"""Defragment: at night, move jobs that checkpoint so that idle GPUs become of use to somebody.

What a move gains is the drop of FGD's F over the recent mix (typical.py): GPUs that a typical
request could not use before and can afterwards, for as long as the moved job would have stayed, at
most `move_horizon_ms`. What it costs is the work since the last checkpoint and the restart. A set
of moves is made only if it gains `move_gain_pct` of that; sets are those that leave one node, the
cheapest first, since most gains come with the last job that leaves.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from madang.core.draft import Draft
from madang.core.holes import give
from madang.core.model import WHOLE_GPU_MILLI, AllocationState, ReleaseReason, Shape
from madang.core.moving import Move, Mover, carry_out, destinations, movers, shut
from madang.core.night import DEFRAGMENT, is_due, night_begin_ms
from madang.core.placement import eligible_rows, room_for_one
from madang.core.pool import SmallInts
from madang.core.scoring.fragmentation import Typical
from madang.core.seating import model_codes
from madang.core.typical import typical_requests, unusable

TRIED_MAX = 48  # sets of moves that are worked out in full, a turn: some ten milliseconds
SETS_MAX = 20_000  # sets that are weighed roughly before


@dataclass(frozen=True, slots=True)
class Candidate:
    """Jobs of one node that leave it together, and the most that this could be worth (GPU·ms)."""

    row: int
    leaving: tuple[Mover, ...]
    worth_gpu_ms: int


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may still be spent: moves at the same time, and GPU·ms of thrown away work tonight."""

    moves: int
    bill_gpu_ms: int

    def permits(self, leaving: Sequence[Mover]) -> bool:
        return len(leaving) <= self.moves and bill_of(leaving) <= self.bill_gpu_ms

    def less(self, leaving: Sequence[Mover]) -> "Allowance":
        return Allowance(self.moves - len(leaving), self.bill_gpu_ms - bill_of(leaving))


def defragment(draft: Draft) -> None:
    """Emit JobNominated and ReleaseAsked(MOVED) for the moves that pay for themselves."""
    snapshot = draft.snapshot
    if not is_due(snapshot.policy, snapshot.planned_ms, snapshot.now_ms):
        return
    allowance = allowed(draft)
    if allowance.moves <= 0 or allowance.bill_gpu_ms <= 0:
        return
    restless = _restless_rows(draft)
    scale = Scale(draft, typical_requests(snapshot))
    for candidate in scale.candidates(restless, allowance)[:TRIED_MAX]:
        if not allowance.permits(candidate.leaving):
            continue
        sources = {row for mover in candidate.leaving for row, _ in mover.places}
        if sources & restless:
            continue
        moves = scale.worth_while(candidate.leaving, restless | sources)
        if moves:
            carry_out(draft, moves, DEFRAGMENT)
            allowance = allowance.less(candidate.leaving)
            restless |= sources | {row for move in moves for row, _ in move.places}


def allowed(draft: Draft) -> Allowance:
    """What the policy leaves for now: what is under way and what this night has cost is spent."""
    snapshot, policy = draft.snapshot, draft.snapshot.policy
    under_way = sum(
        _moves(draft, job) for job in snapshot.nominations if snapshot.jobs[job].job.checkpoints
    )
    night = snapshot.settings.nights.get(DEFRAGMENT)
    spent_gpu_ms = 0
    if night is not None and night.begin_ms == night_begin_ms(policy, snapshot.now_ms):
        spent_gpu_ms = night.bill_gpu_ms
    return Allowance(policy.moves_at_once - under_way, policy.night_gpu_ms - spent_gpu_ms)


def _moves(draft: Draft, job_id: str) -> bool:
    """True iff the promise that the job has is the end of a move."""
    live = draft.snapshot.jobs[job_id]
    if live.allocation is None:
        return live.standing.reason == ReleaseReason.MOVED
    return draft.snapshot.allocations[live.allocation].release_reason is ReleaseReason.MOVED


def _restless_rows(draft: Draft) -> set[int]:
    """Rows where somebody leaves or is promised a place: what is free there is not settled yet."""
    snapshot = draft.snapshot
    rows: set[int] = set()
    for id, allocation in snapshot.allocations.items():
        if allocation.state is not AllocationState.RUNNING or id in draft.releasing:
            rows |= {snapshot.nodes[seat.node].row for seat in allocation.seats}
    for seats in snapshot.nominations.values():
        rows |= {snapshot.nodes[seat.node].row for seat in seats}
    for hole in snapshot.settings.holes.values():
        rows |= {snapshot.nodes[seat.node].row for seat in hole.seats}
    return rows


def bill_of(leaving: Iterable[Mover]) -> int:
    """What their moves throw away, in GPU·ms."""
    return sum(mover.bill_gpu_ms for mover in leaving)


class Scale:
    """Weighs sets of moves by the drop of F in what a draft leaves."""

    def __init__(self, draft: Draft, typical: Typical) -> None:
        self.draft, self.typical = draft, typical
        self.policy = draft.snapshot.policy

    def worth_while(self, leaving: Sequence[Mover], closed: Iterable[int]) -> list[Move]:
        """Where they would go, if that is worth what it costs; else nothing."""
        view = self.draft.view
        free = shut(view, closed)
        moves = destinations(self.draft.snapshot, free, leaving)
        if isinstance(moves, Mover):
            return []
        give(free, leaving)
        after = replace(free, open=view.open)
        rows = {row for mover in leaving for row, _ in mover.places}
        rows |= {row for move in moves for row, _ in move.places}
        touched = np.array(sorted(rows), np.int64)
        drop = unusable(view, touched, self.typical) - unusable(after, touched, self.typical)
        worth = self.worth_gpu_ms(int(drop.sum()), leaving)
        return moves if worth * 100 >= self.policy.move_gain_pct * bill_of(leaving) else []

    def worth_gpu_ms(self, drop: int, leaving: Sequence[Mover]) -> int:
        """What a drop of F is worth until the first of them would have ended anyway; at least 0."""
        span_ms = min(self.policy.move_horizon_ms, *(mover.left_ms for mover in leaving))
        return max(0, drop) * span_ms // (self.typical.weight * WHOLE_GPU_MILLI)

    def candidates(self, restless: set[int], allowance: Allowance) -> list[Candidate]:
        """Sets that may pay, the most worth first, judged as if each could choose its node."""
        sets = [
            (row, leaving) for row, leaving in self._sets(restless) if allowance.permits(leaving)
        ]
        gains = self._gains(sets)
        found = []
        for (row, leaving), gain in zip(sets, gains, strict=True):
            worth = self.worth_gpu_ms(gain, leaving)
            if worth * 100 >= self.policy.move_gain_pct * bill_of(leaving) and worth:
                found.append(Candidate(row, leaving, worth))
        found.sort(key=lambda one: (bill_of(one.leaving) - one.worth_gpu_ms, one.row))
        return found

    def _sets(self, restless: set[int]) -> list[tuple[int, tuple[Mover, ...]]]:
        """Per row: the cheapest to leave, the two cheapest, …; and each of the others alone."""
        on_row: dict[int, list[Mover]] = {}
        for mover in movers(self.draft).values():
            rows = {row for row, _ in mover.places}
            if not rows & restless:
                for row in rows:
                    on_row.setdefault(row, []).append(mover)
        sets: list[tuple[int, tuple[Mover, ...]]] = []
        for row in sorted(on_row):
            here = sorted(on_row[row], key=lambda one: one.order)
            sets += [(row, tuple(here[: n + 1])) for n in range(len(here))]
            sets += [(row, (mover,)) for mover in here[1:]]
        return sets[:SETS_MAX]

    def _gains(self, sets: Sequence[tuple[int, tuple[Mover, ...]]]) -> list[int]:
        """The drop of F where each set leaves, and at most so much where it goes."""
        left = self._left_behind(sets)
        best: dict[Shape, int] = {}
        gains = []
        for (_, leaving), drop in zip(sets, left, strict=True):
            for mover in leaving:
                shape = mover.allocation.shape
                if shape not in best:
                    best[shape] = self._best_fill(shape)
            filled = [best[mover.allocation.shape] * len(mover.places) for mover in leaving]
            gains.append(drop + sum(filled))
        return gains

    def _left_behind(self, sets: Sequence[tuple[int, tuple[Mover, ...]]]) -> list[int]:
        """(sets,) the drop of F on the row that each leaves, all at once.

        What gangs leave on other rows is not counted: it is only an estimate.
        """
        if not sets:
            return []
        view = self.draft.view
        rows = np.array([row for row, _ in sets], np.int64)
        gone = replace(
            view,
            gpu_free=view.gpu_free[rows],
            cpu_free=view.cpu_free[rows],
            model=view.model[rows],
            open=view.open[rows],
        )
        before = unusable(gone, np.arange(len(rows)), self.typical)
        for at, (row, leaving) in enumerate(sets):
            for mover in leaving:
                for _, gpus in (place for place in mover.places if place[0] == row):
                    gone.gpu_free[at, list(gpus)] += mover.allocation.shape.gpu_milli
                    gone.cpu_free[at] += mover.allocation.shape.cpu_milli
        drop: list[int] = (before - unusable(gone, np.arange(len(rows)), self.typical)).tolist()
        return drop

    def _best_fill(self, shape: Shape) -> int:
        """The most that F drops anywhere when one member of the shape comes."""
        view = self.draft.view
        eligible = eligible_rows(view, model_codes(self.draft.snapshot, shape))
        rows = np.flatnonzero(room_for_one(view, shape, eligible))
        if not len(rows):
            return 0
        before = unusable(view, rows, self.typical)
        after = replace(
            view,
            gpu_free=_filled(view.gpu_free[rows], shape),
            cpu_free=view.cpu_free[rows] - shape.cpu_milli,
            model=view.model[rows],
            open=view.open[rows],
        )
        return int((before - unusable(after, np.arange(len(rows)), self.typical)).max())


def _filled(free: SmallInts, shape: Shape) -> SmallInts:
    """(R, G) free milli once a member has come to each row: whole devices, or the fullest one."""
    if shape.gpu_milli == WHOLE_GPU_MILLI:
        whole = free == WHOLE_GPU_MILLI
        taken = whole & (np.cumsum(whole, axis=1) <= shape.gpus)
        return np.where(taken, 0, free).astype(np.int32)
    fullest = np.where(free >= shape.gpu_milli, free, WHOLE_GPU_MILLI + 1).argmin(axis=1)
    free[np.arange(len(free)), fullest] -= shape.gpu_milli
    return free
