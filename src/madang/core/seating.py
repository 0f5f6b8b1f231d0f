"""Where a job may sit: the one entry point that passes, explanations and dry runs ask.

`seat` tries the shapes a job takes in its order of preference and gives the first that is placed
whole. What a job may use at all (models) is decided here; `placement` only sees rows and shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madang.core.gangs import could_hold_gang, gang_likeness, least_members, place_gang
from madang.core.model import Job, Seat, Shape
from madang.core.placement import (
    Unplaced,
    could_hold,
    eligible_rows,
    members_room,
    place,
    room_on,
)
from madang.core.pool import Bools, Place, Pool
from madang.core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Seated:
    """Which of its shapes the job gets, and one place per member in rank order."""

    shape: Shape
    places: tuple[Place, ...]


def seat(snapshot: Snapshot, pool: Pool, job: Job) -> Seated | Unplaced:
    """Where the whole job would sit in this pool now, or why not. Takes nothing.

    Args:
        pool: the snapshot's own, or a what-if of it with the same rows.
    """
    least: Unplaced | None = None
    for shape in shapes_of(job):
        rows = rows_for(snapshot, pool, shape)
        if job.members == 1:
            places = place(pool, shape, 1, rows)
        else:
            places = place_gang(pool, job, shape, rows, snapshot.now_ms, snapshot.policy)
        if not isinstance(places, Unplaced):
            return Seated(shape, places)
        if least is None or places.room > least.room:
            least = places
    assert least is not None, f"a job has at least one shape: {job}"
    return least


def shapes_of(job: Job) -> tuple[Shape, ...]:
    """The shapes a job takes, the one it prefers first."""
    return (job.shape,)


def likeness(job: Job) -> object:
    """Jobs that are alike in this fit together or not at all: all that `seat` reads of a job."""
    return (job.shape, gang_likeness(job))


def rows_for(snapshot: Snapshot, pool: Pool, shape: Shape) -> Bools | None:
    """(N,) the rows that a member of this shape may use at all; None when any will do."""
    return eligible_rows(pool, model_codes(snapshot, shape))


def model_codes(snapshot: Snapshot, shape: Shape) -> tuple[int, ...]:
    """Codes of the models of a shape; empty means any. A model nobody has is code -1."""
    return tuple([snapshot.models.get(model, -1) for model in shape.models])


def fits_when_empty(snapshot: Snapshot, job: Job) -> bool:
    """True iff the open nodes could hold the gang if nothing else were there."""
    pool = snapshot.pool
    for shape in shapes_of(job):
        eligible = rows_for(snapshot, pool, shape)
        rows = pool.open if eligible is None else pool.open & eligible
        if job.members == 1:
            fits = could_hold(pool, pool.gpu_usable, shape, 1, rows)
        else:
            fits = could_hold_gang(pool, pool.gpu_usable, job, shape, snapshot.policy, rows)
        if fits:
            return True
    return False


def shape_at(snapshot: Snapshot, job: Job, seats: Sequence[Seat]) -> Shape:
    """The shape in which the job sits on these nodes: the first that all their models allow."""
    models = {snapshot.nodes[one.node].node.model for one in seats}
    for shape in shapes_of(job):
        if not shape.models or models.issubset(shape.models):
            return shape
    return job.shape


class Gaps:
    """How many of a gang's members have no room in a pool that fills with what is given back.

    `missing` at 0 or below is necessary for the gang to fit, not sufficient: ask `seat` then.
    """

    def __init__(self, snapshot: Snapshot, pool: Pool, job: Job) -> None:
        self.pool = pool
        self._members = job.members
        least = least_members(job)
        self._shapes: list[tuple[Shape, Bools | None, list[int]]] = []
        self._missing: list[int] = []
        for shape in shapes_of(job):
            eligible = rows_for(snapshot, pool, shape)
            room = np.minimum(members_room(pool, shape, eligible), job.members).tolist()
            self._shapes.append((shape, eligible, room))
            self._missing.append(least - sum(room))

    @property
    def missing(self) -> int:
        """Members without room, in the shape that lacks the fewest."""
        return min(self._missing)

    def give(self, places: Sequence[Place], shape: Shape) -> None:
        """Give places of this shape back to the pool."""
        for one in places:
            self.pool.give(one, shape)
        rows = list({row: None for row, _ in places})
        for at, (wanted, eligible, room) in enumerate(self._shapes):
            for row in rows:
                if eligible is None or eligible.item(row):
                    here = min(room_on(self.pool, row, wanted), self._members)
                    self._missing[at] -= here - room[row]
                    room[row] = here
