"""Words about promised cells: what a quota cannot promise, how a promise stands, who is held back.

See cells/; the codes and numbers come from there.
"""

from madang.core.admission import Rejected
from madang.core.cells.claims import may_claim
from madang.core.cells.room import is_firm
from madang.core.cells.standing import Standing, standings, standings_of
from madang.core.model import Job
from madang.core.placement import Unplaced
from madang.core.pool import Pool
from madang.core.seating import seat, seat_anywhere
from madang.core.snapshot import Snapshot

Words = tuple[str, tuple[tuple[str, int | str], ...]]


def quota_guide(rejected: Rejected) -> tuple[str, tuple[str, ...]]:
    """Why cells cannot be promised, and what would work."""
    n = dict(rejected.numbers)
    match rejected.code:
        case "cells_not_reserved":
            return (
                f"cells are claimed by reserved work, not by {n['provisioning']}",
                ("--provisioning reserved",),
            )
        case "cells_negative":
            return f"{n['count']} cells of {n['level']} cannot be promised", ("0 or more",)
        case "cells_no_machines":
            text = f"no public node of group {n['group']} has GPUs for {n['level']}"
            text += f"; there are: {n['known'] or 'none'}"
            return text, ("name a group with --group, or a model with LEVEL@MODEL",)
        case "cells_unknown_level":
            return (
                f"{n['level']} is no level of cells there; there are: {n['known']}",
                ("choose one of these", "madang topology show"),
            )
        case "cells_ambiguous":
            return f"{n['level']} could be {n['known']}", ("name the group and LEVEL@MODEL",)
        case _:
            text = f"{n['needed']} {n['level']} cells of {n['model'] or 'GPUs'} would be promised"
            text += f", but there are {n['there']}: {n['by']}"
            most = f"at most {n['there']} for all together"
            return text, (most, "lower another: madang quota ls")


def standing_words(one: Standing) -> str:
    """`node (H100): 4 promised, 2 opened, 1 ready; 1 doomed (n3 is not wholly in service)`."""
    kind = f" ({one.model})" if one.model else ""
    text = f"{one.level}{kind}: {one.promised} promised, {one.opened} opened, {one.ready} ready"
    if one.doomed:
        text += f"; {one.doomed} doomed ({_listed(one.nodes, one.nodes_more)} not in full service)"
    if one.occupied:
        text += f"; {one.occupied} occupied by {_listed(one.jobs, one.jobs_more)} until they end"
    return text


def _listed(names: tuple[str, ...], more: int) -> str:
    return ", ".join(names) + (f" and {more} more" if more else "")


def held_back_by_cells(snapshot: Snapshot, pool: Pool, job: Job) -> Words | None:
    """That a firm job would fit, were it not for promised cells; None if they do not hold it."""
    if snapshot.cells is None or not is_firm(job):
        return None
    if isinstance(seat_anywhere(snapshot, pool, job), Unplaced):
        return None
    if not isinstance(seat(snapshot, pool, job), Unplaced):
        return None
    tight = [one for one in standings(snapshot) if one.ready + one.doomed + one.occupied]
    promised = ", ".join(f"{one.owner} {one.promised} {one.level}" for one in tight[:4])
    text = "there is room, but this work cannot be displaced and would break cells promised to"
    return f"{text} others: {promised}", (("promises", len(tight)),)


def claim_words(snapshot: Snapshot, job: Job) -> Words | None:
    """How the promise stands that a waiting reserved job could claim; None if there is none."""
    if not may_claim(snapshot.cells, snapshot.projects[job.project], job):
        return None
    mine = standings_of(snapshot, snapshot.projects[job.project])
    doomed = sum(one.doomed for one in mine)
    words = "; ".join(f"{one.owner} {standing_words(one)}" for one in mine)
    return (
        f"not inside its promised cells now ({words})",
        (("cells_ready", sum(one.ready for one in mine)), ("cells_doomed", doomed)),
    )
