"""Moving a job: who may be moved, what it costs, and where each would go on.

A move stops a job that checkpoints, and promises it in the same commit devices that are free now;
so it waits for nothing but its own end, and nobody takes its place meanwhile.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from madang.core.budgets import Allowance, Key
from madang.core.draft import Draft
from madang.core.impact import impact_gpu_ms, may_be_stopped
from madang.core.model import Allocation, Job, ReleaseReason, Seat
from madang.core.placement import Unplaced
from madang.core.pool import Place, Pool
from madang.core.seating import Seated, seat, shape_at
from madang.core.snapshot import Snapshot

UNKNOWN_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class Mover:
    """A job that may be moved. `bill_gpu_ms` is the work that its move throws away; `left_ms` how
    long it is expected to run on (UNKNOWN_MS: nobody knows), `places` what it holds."""

    allocation: Allocation
    job: Job
    bill_gpu_ms: int
    left_ms: int
    places: tuple[Place, ...]

    @property
    def order(self) -> tuple[int, int]:
        """The cheapest first; ties by age."""
        return (self.bill_gpu_ms, self.job.seq)


@dataclass(frozen=True, slots=True)
class Move:
    """A mover and where it goes."""

    mover: Mover
    seated: Seated

    @property
    def places(self) -> tuple[Place, ...]:
        """One per member in rank order."""
        return self.seated.places


def movers(draft: Draft) -> dict[str, Mover]:
    """Every job that may be moved now, by allocation; of a disruption budget or shield one at a
    time."""
    snapshot = draft.snapshot
    allowance = Allowance(snapshot, draft.releasing)
    found: dict[str, Mover] = {}
    seen: set[Key] = set()
    for id, allocation in snapshot.allocations.items():
        if not may_be_stopped(draft, allocation) or not _may_move(snapshot, allocation):
            continue
        job, places = snapshot.jobs[allocation.job].job, tuple(draft.places_of(allocation.seats))
        if any(len(gpus) != allocation.shape.gpus for _, gpus in places):
            continue  # a device fell ill: it will not run much longer
        keys = {key for key, _ in allowance.counts(allocation)}
        if keys & seen or not allowance.allows(allocation):
            continue
        seen |= keys
        bill = impact_gpu_ms(snapshot, allocation)
        found[id] = Mover(allocation, job, bill, _left_ms(job, allocation, snapshot.now_ms), places)
    return found


def _may_move(snapshot: Snapshot, allocation: Allocation) -> bool:
    """It runs whole, checkpoints, may be moved aside, and has had its rest since it last was."""
    live = snapshot.jobs[allocation.job]
    job, moved_ms = live.job, live.standing.moved_ms
    if allocation.ended or not job.checkpoints or not job.preemptible or not job.shape.gpus:
        return False
    if allocation.cells or job.reservation:
        return False  # it sits in what was promised to its tenant, or kept in the calendar
    return not moved_ms or snapshot.now_ms - moved_ms >= snapshot.policy.move_rest_ms


def _left_ms(job: Job, allocation: Allocation, now_ms: int) -> int:
    length_ms = job.estimate_ms or job.time_limit_ms
    if not length_ms:
        return UNKNOWN_MS
    return max(0, allocation.running_ms + length_ms - now_ms)


def shut(pool: Pool, rows: Iterable[int]) -> Pool:
    """A scratch of the pool in which some rows take nobody."""
    is_open = pool.open.copy()
    is_open[list(rows)] = False
    return replace(pool.scratch(), open=is_open)


def destinations(snapshot: Snapshot, free: Pool, leaving: Sequence[Mover]) -> list[Move] | Mover:
    """Where each goes, of what is free now; or the first that finds no place.

    `free` is a scratch, and has the places taken afterwards. The largest is placed first.
    """
    moves: list[Move] = []
    for mover in sorted(leaving, key=lambda one: (-one.job.milli, one.order)):
        seated = _seated(snapshot, free, mover)
        if seated is None:
            return mover
        free.take(seated.places, seated.shape)
        moves.append(Move(mover, seated))
    return moves


def _seated(snapshot: Snapshot, free: Pool, mover: Mover) -> Seated | None:
    """A place for the job as it runs now: in this shape, with so many members."""
    shape, count = mover.allocation.shape, len(mover.allocation.seats)
    fixed = replace(mover.job, shape=shape, fallbacks=(), members=count, members_min=0)
    # Quotas are by machine group: a move must not need another one's.
    groups = free.group[[row for row, _ in mover.places]]
    found = seat(snapshot, replace(free, open=free.open & np.isin(free.group, groups)), fixed)
    if isinstance(found, Unplaced):
        return None
    seats = [Seat(snapshot.node_ids[row], gpus) for row, gpus in found.places]
    return found if shape_at(snapshot, mover.job, seats) == shape else None


def carry_out(draft: Draft, moves: Iterable[Move], by: str) -> None:
    """Promise each its destination and ask it to leave, in one plan."""
    for move in moves:
        draft.move(move.mover.job, move.seated)
        draft.release(
            move.mover.allocation.id,
            ReleaseReason.MOVED,
            move.mover.job.grace_ms,
            by=by,
            bill_gpu_ms=move.mover.bill_gpu_ms,
        )
