"""What a job may ask for under its quotas: an elastic gang asks for less where it must.

A job that wants all its members or none asks once. An elastic gang asks for the most that a limit
has room for; where machine groups have limits of their own, for fewer after that, because fewer may
go where more may not. Nothing is asked for above a quota, so nothing is started above one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from madang.core.gangs import is_elastic, least_members, whole_segments
from madang.core.model import Job
from madang.core.placement import Unplaced
from madang.core.pool import Pool
from madang.core.quotas import Book, Short, open_to
from madang.core.seating import Seated
from madang.core.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Ask:
    """The job, wanting no more members than its quotas allow.

    `full`: the machine groups where a limit has no room for so many. `groups`: those that it is
    for, `*` alone: any; for a job within a guarantee those where so many are covered.
    """

    job: Job
    full: dict[str, Short]
    groups: tuple[str, ...]

    def opened(self, snapshot: Snapshot, pool: Pool) -> Pool:
        """What of the pool is open to it."""
        return open_to(snapshot, pool, self.full, self.groups)


def sizes(book: Book, job: Job, room_milli: int | None, *, entitled: bool) -> list[int]:
    """With how many members a job may start that its quotas let start, the most first.

    Args:
        room_milli: what the quota of its project leaves; None: that has none.
        entitled: it asks as one within a guarantee, for no more than that covers.
    """
    each = job.shape.milli
    if not is_elastic(job) or not each:
        return [job.members]
    anywhere, somewhere = book.rooms_milli(job, entitled=entitled)
    if room_milli is not None:
        anywhere.append(room_milli)
    most = min([job.members, *[milli // each for milli in anywhere]])
    counts = {most, *[min(most, milli // each) for milli in somewhere]}
    found = {whole_segments(job, members) for members in counts}
    return sorted([one for one in found if one >= least_members(job)], reverse=True)


def seat_most(asks: Iterable[Ask], find: Callable[[Ask], Seated | Unplaced]) -> Seated | Unplaced:
    """The seats of the ask that gives the most members, of those that give as many the first."""
    best: Seated | Unplaced = Unplaced(0, 0)
    for ask in asks:
        if isinstance(best, Seated) and len(best.places) >= ask.job.members:
            break  # who asks for fewer gets no more
        found = find(ask)
        if isinstance(found, Seated):
            if isinstance(best, Unplaced) or len(found.places) > len(best.places):
                best = found
        elif isinstance(best, Unplaced) and found.room >= best.room:
            best = found
    return best
