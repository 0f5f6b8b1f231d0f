"""The plan of a turn: passes in a fixed order over one frozen snapshot.

Settle comes first so that a job that ended frees its quota's next; release before start so that
nothing is started that must end; promises (also those of cells and of the calendar) before the
queue, and the queue before anyone is moved aside for it; gangs grow into what nobody waits for, and
the yard is tidied up. Devices of a release asked here are free only when seen to be.
"""

from collections.abc import Callable

from madang.core.draft import Draft
from madang.core.events import Decision
from madang.core.passes.calendar import calendar
from madang.core.passes.claim import claim
from madang.core.passes.defragment import defragment
from madang.core.passes.grow import grow
from madang.core.passes.honour import honour
from madang.core.passes.make_room import make_room
from madang.core.passes.rebalance import rebalance
from madang.core.passes.reclaim import reclaim
from madang.core.passes.release import release
from madang.core.passes.settle import settle
from madang.core.passes.start import start
from madang.core.snapshot import Snapshot

PASSES: tuple[Callable[[Draft], None], ...] = (
    settle,
    release,
    honour,
    reclaim,
    claim,
    make_room,
    calendar,
    start,
    rebalance,
    grow,
    defragment,
)


def plan(snapshot: Snapshot) -> list[Decision]:
    """Every decision of this turn, in order. Pure: the same snapshot gives the same list."""
    draft = Draft(snapshot)
    for one_pass in PASSES:
        one_pass(draft)
    return draft.decisions
