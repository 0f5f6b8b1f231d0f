"""Where a job may sit: the one entry point that passes, explanations and dry runs ask.

`seat` tries the shapes a job takes in its order of preference and gives the first that is placed
whole. What a job may use at all (models, zones) and what it should use first (nodes in good
health, its own zones, nodes that have its data) is decided here; `placement` only sees rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from madang.core.cells.claims import claim, label, may_claim
from madang.core.cells.room import breaks, is_firm, shielded
from madang.core.gangs import could_hold_gang, gang_likeness, least_members, place_gang
from madang.core.hypernodes import ANYWHERE
from madang.core.model import Category, Job, Seat, Shape
from madang.core.needs import demands_of
from madang.core.placement import (
    Unplaced,
    could_hold,
    eligible_rows,
    members_room,
    room_on,
    spread,
)
from madang.core.pool import Bools, Ints, Place, Pool
from madang.core.ranking import best
from madang.core.snapshot import Snapshot
from madang.core.zones import access

TRAINING = Category.TRAINING
SERVING_NODES = 3  # a service spreads over so many nodes unless it says otherwise
CIRCLES_MAX = 4  # of ever more rows, in which a gang looks for room one after the other
_FETCH_BITS = 24


@dataclass(frozen=True, slots=True)
class Seated:
    """Which of its shapes the job gets, and one place per member in rank order.

    `cells` names the promised cell of each place, if the job claims any.
    """

    shape: Shape
    places: tuple[Place, ...]
    cells: tuple[str, ...] = ()


def seat(snapshot: Snapshot, pool: Pool, job: Job) -> Seated | Unplaced:
    """Where the whole job would sit in this pool now, or why not. Takes nothing.

    Firm work (which cannot be displaced) leaves as many whole cells as are promised to others.

    Args:
        pool: the snapshot's own, or a what-if of it with the same rows.
    """
    seated = seat_anywhere(snapshot, pool, job)
    book = snapshot.cells
    if book is None or not is_firm(job) or isinstance(seated, Unplaced):
        return seated
    if breaks(book, seated.places, seated.shape) is None:
        return seated
    again = seat_anywhere(snapshot, shielded(book, pool), job)
    if isinstance(again, Seated) and breaks(book, again.places, again.shape) is not None:
        return Unplaced(0, 0)
    return again


def seat_anywhere(snapshot: Snapshot, pool: Pool, job: Job) -> Seated | Unplaced:
    """`seat`, whatever it does to promised cells."""
    least: Unplaced | None = None
    for shape in job.shapes:
        rows = rows_for(snapshot, pool, job, shape)
        places = _placed(snapshot, pool, job, shape, rows)
        if not isinstance(places, Unplaced):
            return Seated(shape, places)
        if least is None or places.room > least.room:
            least = places
    assert least is not None, f"a job has at least one shape: {job}"
    return least


def with_cells(snapshot: Snapshot, job: Job, seated: Seated) -> Seated | None:
    """The same seats with the promised cells they would stand in; None if they break a promise."""
    book = snapshot.cells
    owners = may_claim(book, snapshot.projects[job.project], job)
    if book is None:
        return seated
    labels = label(book, owners, seated.places, seated.shape) if owners else None
    if labels is not None:
        return replace(seated, cells=labels)
    if is_firm(job) and breaks(book, seated.places, seated.shape) is not None:
        return None
    return seated


def claimed(snapshot: Snapshot, pool: Pool, job: Job) -> Seated | Unplaced:
    """Where a reserved job would sit inside its own promised cells. Takes nothing."""
    book = snapshot.cells
    owners = may_claim(book, snapshot.projects[job.project], job)
    if book is None or not owners:
        return Unplaced(0, 0)

    def sit(view: Pool, modest: Job) -> tuple[Shape, tuple[Place, ...]] | None:
        seated = seat_anywhere(snapshot, view, modest)
        return None if isinstance(seated, Unplaced) else (seated.shape, seated.places)

    found = claim(book, pool, owners, job, sit)
    if found is None:
        return Unplaced(0, 0)
    return Seated(found.shape, found.places, found.labels)


def likeness(job: Job) -> object:
    """Jobs of a project that are alike in it fit together or not at all: all that `seat` reads."""
    asked = (job.shape, gang_likeness(job), is_firm(job))
    if _is_plain(job):
        return asked
    wishes = (job.fallbacks, job.exclusive, job.data, spread_of(job), job.zone)
    return (*asked, *wishes, job.needs, job.tolerates)


def likeness_in(snapshot: Snapshot, job: Job) -> object:
    """The same for jobs of any projects: a zone may be open to one and shut to another."""
    return (job.project, likeness(job)) if snapshot.settings.zones else likeness(job)


def _is_plain(job: Job) -> bool:
    """True iff the job asks for nothing but members of one shape."""
    return not (
        job.fallbacks
        or job.exclusive
        or job.data
        or job.zone
        or job.needs
        or job.tolerates
        or (job.members > 1 and spread_of(job) > 1)
    )


def spread_of(job: Job) -> int:
    """Over how many nodes the job's members go if there are so many; 1 if it packs.

    A job that must be near (`within`, by default every training gang; `switches`, segments) gets
    that, and no spread.
    """
    near = job.within not in ("", ANYWHERE) or (not job.within and job.category is TRAINING)
    if job.members == 1 or near or job.switches or job.segments:
        return 1
    asked = job.spread_nodes or (SERVING_NODES if job.category is Category.SERVING else 1)
    return min(asked, job.members)


# -- what it may use, and what first ---------------------------------------------------------------


def rows_for(snapshot: Snapshot, pool: Pool, job: Job, shape: Shape) -> Bools | None:
    """(N,) the rows that a member of this shape may use at all; None when any will do."""
    rows = eligible_rows(pool, model_codes(snapshot, shape))
    meets = snapshot.ground.mask(demands_of(job))
    if meets is not None:
        rows = meets if rows is None else rows & meets
    there = zone_rows(snapshot, pool, job)
    if there is None:
        return rows
    return there if rows is None else rows & there


def zone_rows(snapshot: Snapshot, pool: Pool, job: Job) -> Bools | None:
    """(N,) the rows in zones that take the job; None when all do."""
    allowed = access(snapshot, job)
    if allowed is None:
        return None
    there = np.zeros(pool.nodes, np.bool_)
    for code in allowed.all:
        there |= pool.zone == code
    return there


def model_codes(snapshot: Snapshot, shape: Shape) -> tuple[int, ...]:
    """Codes of the models of a shape; empty means any. A model nobody has is code -1."""
    return tuple([snapshot.models.get(model, -1) for model in shape.models])


def turns_of(snapshot: Snapshot, pool: Pool, job: Job) -> Ints | None:
    """(N,) which rows the job should take first: smaller first; None when none is better.

    First whether anything speaks against the node or its domains, then whose zone it is in, then
    how much of the job's data it lacks, in steps of the policy's size; and last whether it has
    GPUs, for a job that needs none.
    """
    allowed = access(snapshot, job)
    mixed = allowed is not None and bool(allowed.own) and bool(allowed.public)
    if not snapshot.suspects and not mixed and not job.data and job.shape.gpus:
        return None
    turns = pool.avoid.astype(np.int64) << _FETCH_BITS + 2
    if mixed:
        assert allowed is not None, "some zones are its own"
        for code in allowed.public:
            turns |= (pool.zone == code).astype(np.int64) << _FETCH_BITS + 1
    if job.data:
        steps = fetch_mib(snapshot, pool, job) // max(1, snapshot.policy.fetch_step_mib)
        turns |= np.minimum(steps, (1 << _FETCH_BITS) - 1) << 1
    if not job.shape.gpus:
        turns |= pool.gpu_count > 0
    return turns


def fetch_mib(snapshot: Snapshot, pool: Pool, job: Job) -> Ints:
    """(N,) MiB of the job's images and data sets that each node would have to fetch."""
    missing = np.full(pool.nodes, sum(mib for _, mib in job.data), np.int64)
    for name, mib in job.data:
        missing[list(snapshot.cached.get(name, ()))] -= mib
    return missing


def _placed(
    snapshot: Snapshot, pool: Pool, job: Job, shape: Shape, rows: Bools | None
) -> tuple[Place, ...] | Unplaced:
    """The places of all members in one shape, in the best circle of rows that holds them."""
    turns = turns_of(snapshot, pool, job)
    if job.members == 1:
        place = best(pool, snapshot.scorer, snapshot.models, shape, rows, turns)
        return Unplaced(0, 0) if place is None else (place,)
    if turns is not None:
        for circle in _circles(pool, turns, rows):
            places = _inside(snapshot, pool, job, shape, circle)
            if not isinstance(places, Unplaced):
                return places
    return _inside(snapshot, pool, job, shape, rows)


def _circles(pool: Pool, turns: Ints, rows: Bools | None) -> list[Bools]:
    """Ever wider sets of rows: those whose turn is first, those and the next, …; not all of them.

    A gang that fits in none of the first ones looks at all rows.
    """
    there = pool.open if rows is None else pool.open & rows
    levels = np.unique(turns[there])[:-1]
    return [there & (turns <= level) for level in levels[:CIRCLES_MAX].tolist()]


def _inside(
    snapshot: Snapshot, pool: Pool, job: Job, shape: Shape, rows: Bools | None
) -> tuple[Place, ...] | Unplaced:
    nodes = spread_of(job)
    if nodes > 1:
        members = range(least_members(job), job.members + 1)
        return spread(pool, shape, members, nodes, rows)
    return place_gang(pool, job, shape, rows, snapshot.now_ms, snapshot.policy)


# -- what passes ask besides -----------------------------------------------------------------------


def fits_when_empty(snapshot: Snapshot, job: Job) -> bool:
    """True iff the open nodes could hold the gang if nothing else were there."""
    pool = snapshot.pool
    for shape in job.shapes:
        eligible = rows_for(snapshot, pool, job, shape)
        rows = pool.open if eligible is None else pool.open & eligible
        if job.members == 1:
            fits = could_hold(pool, pool.gpu_usable, shape, 1, rows)
        else:
            fits = could_hold_gang(pool, pool.gpu_usable, job, shape, snapshot.policy, rows)
        if fits:
            return True
    return False


def count_fitting(snapshot: Snapshot, asked: Iterable[tuple[Job, int]]) -> int:
    """How many of the jobs would fit, each alone: the sum of `fits_when_empty`.

    Wherever a job fits, one fits that asks for less CPU and memory and is alike otherwise: such a
    kind is halved until all of a part fit or none does. Mostly that is one look a kind.

    Args:
        asked: (job, how many there are like it).
    """
    kinds: dict[object, list[tuple[Job, int]]] = {}
    for job, count in asked:
        kinds.setdefault(_likeness_but_host(snapshot, job), []).append((job, count))
    return sum(_count_of_kind(snapshot, alike) for alike in kinds.values())


def _likeness_but_host(snapshot: Snapshot, job: Job) -> object:
    """Who is alike in it differs in CPU and memory only."""
    if not _is_plain(job):
        return likeness_in(snapshot, job)
    owner, shape = job.project if snapshot.settings.zones else "", job.shape
    devices = (shape.gpus, shape.gpu_milli, shape.models, shape.exclusive)
    return owner, devices, gang_likeness(job), is_firm(job)


def _count_of_kind(snapshot: Snapshot, alike: list[tuple[Job, int]]) -> int:
    first = alike[0][0]
    total = sum(count for _, count in alike)
    if len(alike) == 1:
        return total * fits_when_empty(snapshot, first)
    cpus = [job.shape.cpu_milli for job, _ in alike]
    memories = [job.shape.memory_mib for job, _ in alike]
    if fits_when_empty(snapshot, _with_host(first, max(cpus), max(memories))):
        return total
    if not fits_when_empty(snapshot, _with_host(first, min(cpus), min(memories))):
        return 0
    by_cpu = max(cpus) * (min(memories) + 1) > max(memories) * (min(cpus) + 1)
    alike.sort(key=lambda one: one[0].shape.cpu_milli if by_cpu else one[0].shape.memory_mib)
    half = len(alike) // 2
    return _count_of_kind(snapshot, alike[:half]) + _count_of_kind(snapshot, alike[half:])


def _with_host(job: Job, cpu_milli: int, memory_mib: int) -> Job:
    return replace(job, shape=replace(job.shape, cpu_milli=cpu_milli, memory_mib=memory_mib))


def shape_at(snapshot: Snapshot, job: Job, seats: Sequence[Seat]) -> Shape:
    """The shape in which the job sits on these nodes: the first that all their models allow."""
    models = {snapshot.nodes[one.node].node.model for one in seats}
    for shape in job.shapes:
        if not shape.models or models.issubset(shape.models):
            return shape
    return job.shapes[0]


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
        for shape in job.shapes:
            eligible = rows_for(snapshot, pool, job, shape)
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
