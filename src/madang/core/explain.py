"""All the words users read about decisions: why a job waits, why it never fits, how it ended.

Codes and numbers come from the passes; prose is made only here. A guide says what was asked, what
there is, and what would work.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from madang.core import explain_preempt, explain_upkeep
from madang.core.admission import Numbers, Rejected, above_limit, above_quota
from madang.core.draft import Draft
from madang.core.explain_cells import claim_words, held_back_by_cells
from madang.core.explain_needs import NEED_CODES, needs_guide, needs_words
from madang.core.explain_network import (
    NETWORK_CODES,
    binds_now,
    binds_when_empty,
    network_guide,
)
from madang.core.explain_order import (
    above_words,
    gpus_word,
    holders_word,
    limit_tries,
    limit_words,
    needs_word,
    never_words,
    turn_words,
)
from madang.core.explain_places import ZONE_CODES, besides, nowhere, zone_guide
from madang.core.explain_time import RESERVATION_CODES, inside_guide
from madang.core.gangs import is_elastic, least_members
from madang.core.lanes import Lanes
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI, Exit, Job, Phase, Shape
from madang.core.nearest import Change, Turn, nearest
from madang.core.ordering import Turns
from madang.core.passes.honour import honour
from madang.core.passes.make_room import keep_holes
from madang.core.passes.start import walk
from madang.core.placement import Unplaced, members_room, room_when_empty
from madang.core.pool import Place, Pool
from madang.core.seating import count_fitting, fits_when_empty, likeness_in, rows_for, seat
from madang.core.snapshot import Snapshot

NODES_SHOWN_MAX = 8
CPU_SLOT_MODEL = "cpu"  # the model of devices on a machine without GPUs


@dataclass(frozen=True, slots=True)
class Guide:
    """A rejection in words: one line why, then what would work."""

    code: str
    text: str
    tries: tuple[str, ...]
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job does not run, as a code, a sentence and numbers.

    `earliest_ms` is when it could start at the earliest, 0 if nobody can say; `basis` says why.
    """

    code: str
    text: str
    numbers: Numbers = ()
    earliest_ms: int = 0
    basis: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """The answer of a dry run: `code` is `starts_now`, `waits` or `never`."""

    code: str
    text: str
    places: tuple[tuple[str, tuple[int, ...]], ...] = ()
    tries: tuple[str, ...] = ()
    earliest_ms: int = 0


def how_it_ended(rank: int, end: Exit) -> str:
    """One member's bad end in words."""
    if end.lost:
        return f"member {rank} was lost with its node"
    if end.signal:
        return f"member {rank} was ended by signal {end.signal}"
    return f"member {rank} exited with {end.code}"


def size(members: int, shape: Shape) -> str:
    """A request in words: `4 members × 2 GPUs (H100)`."""
    if shape.gpus == 0:
        each = f"{shape.cpu_milli / 1000:g} CPUs"
    elif shape.gpu_milli != WHOLE_GPU_MILLI:
        each = f"{shape.gpu_milli / 1000:g} GPU"
    else:
        each = f"{shape.gpus} GPU{'s' if shape.gpus != 1 else ''}"
    kind = f" ({' or '.join(shape.models)})" if shape.models else ""
    return (f"{members} members × {each}" if members != 1 else each) + kind


def guide(job: Job, rejected: Rejected, models: Iterable[str] = ()) -> Guide:
    """The words for a rejection in a yard of these device models."""
    n = dict(rejected.numbers)
    asked = size(job.members, job.shape)
    tries: tuple[str, ...]
    match rejected.code:
        case "unknown_project":
            text = f"project {n['asked']} does not exist; there are: {n['known']}"
            tries = ("choose one with --project", "madang project set NAME --quota GPUS")
        case "unknown_budget":
            text = f"project {n['project']} has no disruption budget {n['asked']}; "
            text += f"it has: {n['known']}"
            tries = (
                "see what there is: madang budget ls",
                "leave --budget out: nothing protects it",
            )
        case "over_quota" | "over_limit":
            least = size(least_members(job), job.shape)
            asked = f"at least {least}" if is_elastic(job) else asked
            text = f"{asked} asked, but {above_words(rejected)}"
            tries = limit_tries(job, rejected)
        case "unknown_model":
            text = f"no node has {n['asked']}; there are: {n['known']}"
            tries = ("choose one with --profile, or leave it out to take any",)
        case "member_too_large":
            text = (
                f"{asked} asked, but the largest node has {n['gpus_max']} GPUs, "
                f"{int(n['cpu_milli_max']) / 1000:g} CPUs, {n['memory_mib_max']} MiB"
            )
            tries = _lighter(n)
        case code if code in NETWORK_CODES:
            text, tries = network_guide(job, rejected, asked)
        case code if code in ZONE_CODES:
            text, tries = zone_guide(job, rejected.numbers)
        case code if code in NEED_CODES:
            text, tries = needs_guide(rejected.numbers)
        case code if code in RESERVATION_CODES:
            text, tries = inside_guide(job, rejected, asked)
        case _:
            text = f"{asked} asked, but all nodes together hold {n['members_max']} such members"
            tries = _smaller(job, int(n["members_max"]))
    return Guide(rejected.code, _said(text, models), tries, rejected.numbers)


def _lighter(n: dict[str, int | str]) -> tuple[str, ...]:
    """What to take less of, so that one node can hold a member."""
    over = [
        advice
        for asked, most, advice in (
            ("gpus", "gpus_max", f"--gpus {n['gpus_max']} and more members"),
            ("cpu_milli", "cpu_milli_max", f"--cpus {int(n['cpu_milli_max']) / 1000:g} or fewer"),
            ("memory_mib", "memory_mib_max", f"--memory {n['memory_mib_max']} or less"),
        )
        if int(n[asked]) > int(n[most])
    ]
    return tuple(over) or ("ask for less per member: no node has all of it at once",)


def _smaller(job: Job, members: int) -> tuple[str, ...]:
    if members >= 1 and job.members > 1:
        return (f"--members {members}",)
    return ()


def _said(text: str, models: Iterable[str]) -> str:
    """Where CPU slots stand in for GPUs, they are called so."""
    if set(models) - {""} != {CPU_SLOT_MODEL}:
        return text
    return text.replace(f" ({CPU_SLOT_MODEL})", "").replace("GPU", "CPU slot")


def why(snapshot: Snapshot, job_id: str) -> Why:
    """Why a live job does not run now.

    Raises:
        KeyError: the job is not live.
    """
    found = _why(snapshot, job_id)
    return replace(found, text=_said(found.text, snapshot.models))


def _why(snapshot: Snapshot, job_id: str) -> Why:
    live = snapshot.jobs[job_id]
    job, standing = live.job, live.standing
    if moves := explain_upkeep.moving(snapshot, job_id):
        return Why("moving", moves)
    if idles := explain_upkeep.idle_why(snapshot, job_id):
        return Why("idle", idles)
    if leaves := explain_preempt.moved(snapshot, job_id):
        return Why("preempted", leaves)
    if standing.phase is not Phase.WAITING:
        return Why(standing.phase, f"it does not wait: it is {standing.phase}")
    if standing.not_before_ms > snapshot.now_ms:
        seconds = (standing.not_before_ms - snapshot.now_ms + 999) // 1000
        return Why(
            "backoff",
            f"{standing.reason}; attempt {standing.attempt + 1} starts in {seconds} s "
            f"(failure {standing.failures} of {job.retries_max} allowed)",
            (("seconds", seconds), ("failures", standing.failures)),
            standing.not_before_ms,
            "the back-off after a failure",
        )
    window = Draft(snapshot).window_of(job)
    if window is not None and snapshot.now_ms < window.begin_ms:
        return Why(
            "reservation",
            f"it runs inside reservation {window.id}, which begins later",
            (("reservation", window.id),),
            window.begin_ms,
            "the begin of its reservation",
        )
    if promised := explain_preempt.promised(snapshot, job_id):
        text, numbers, until_ms = promised
        basis = "their grace to save and leave" if until_ms else ""
        return Why("promised", text, numbers, until_ms, basis)
    lingering = snapshot.still_runs(job_id)
    if lingering:
        nodes = dict.fromkeys(seat.node for seat in snapshot.allocations[lingering].seats)
        return Why(
            "lingering",
            f"its earlier attempt {lingering} was found running on {', '.join(nodes)}, which had "
            "been lost; it is asked to end, and the next attempt waits for that",
            (("allocation", lingering),),
        )
    return _blocked(snapshot, job)


def _blocked(snapshot: Snapshot, job: Job) -> Why:
    """Why the job, which waits for nothing but its turn, does not start now."""
    never = above_quota(snapshot, job) or above_limit(snapshot, job)
    if never is not None:
        return Why("quota", never_words(job, never), never.numbers)
    short = _short_of_quota(snapshot, job)
    if short is not None:
        return short
    if (limit := limit_words(snapshot, job)) is not None:
        return Why("quota", *limit)
    if not snapshot.pool.nodes:
        return Why("no_nodes", "no node has reported yet")
    if not fits_when_empty(snapshot, job):
        return _out_of_service(snapshot, job)
    draft = _kept_for_others(snapshot, job)
    holders = walk(draft, until=job.id).holders
    placed = draft.seated(job)
    lanes = Lanes(snapshot)
    mine = lanes.of(job)
    ahead = [id for bits, id in holders if bits & mine]
    count = _count_ahead(snapshot, job.id, lanes, mine) if ahead else 0
    earliest_ms, basis = _earliest(snapshot, job)
    if isinstance(placed, Unplaced):
        if (cells := held_back_by_cells(snapshot, draft.room_for(job), job)) is not None:
            text = f"needs {size(job.members, job.shape)}: {cells[0]}"
            return Why("cells", text, (*cells[1], ("ahead", count)), earliest_ms, basis)
        if (bound := binds_now(snapshot, draft.view, job)) is not None:
            words, figures = bound
            text = f"needs {size(job.members, job.shape)}: {words}"
            text += f"; {count} ahead of it" * (count > 0)
            return Why("network", text, (*figures, ("ahead", count)), earliest_ms, basis)
        return _in_turn(snapshot, job, _no_room(snapshot, job, placed, count, (earliest_ms, basis)))
    if ahead:
        first = snapshot.jobs[ahead[0]].job
        behind = Why(
            "behind",
            f"{count} ahead of it {'wait' if count != 1 else 'waits'} for the same devices, "
            f"first {first.id} ({size(first.members, first.shape)})",
            (("ahead", count), ("first", first.id)),
            earliest_ms,
            basis,
        )
        return _in_turn(snapshot, job, behind)
    return Why("next", "it starts with the next turn", (), snapshot.now_ms, "there is room")


def _short_of_quota(snapshot: Snapshot, job: Job) -> Why | None:
    quota_milli = snapshot.projects[job.project].quota_milli
    used_milli = snapshot.usage_milli.get(job.project, 0)
    milli = least_members(job) * job.shape.milli
    if quota_milli == UNLIMITED or not milli or used_milli + milli <= quota_milli:
        return None
    return Why(
        "quota",
        f"project {job.project} holds {gpus_word(used_milli)} of its {gpus_word(quota_milli)} "
        f"GPUs; this job needs {needs_word(job)} more{holders_word(snapshot, job.project)}",
        (("used_milli", used_milli), ("quota_milli", quota_milli), ("asked_milli", milli)),
    )


def _in_turn(snapshot: Snapshot, job: Job, why: Why) -> Why:
    """The same, with its guarantee and its place in turn."""
    words, numbers = turn_words(snapshot, job)
    if (cells := claim_words(snapshot, job)) is not None:
        words, numbers = f"{words}; {cells[0]}", (*numbers, *cells[1])
    return replace(why, text=why.text + words, numbers=(*why.numbers, *numbers))


def _out_of_service(snapshot: Snapshot, job: Job) -> Why:
    """The job fits in the yard, but not in the nodes that are open now."""
    if (bound := binds_when_empty(snapshot, job)) is not None:
        words, figures = bound
        text = f"needs {size(job.members, job.shape)}; of the nodes in service, {words}"
        return Why("out_of_service", text, figures)
    eligible = rows_for(snapshot, snapshot.pool, job, job.shape)
    room = room_when_empty(snapshot.pool, job.shape, job.members, eligible)
    closed = int(np.count_nonzero(~snapshot.pool.open))
    ill = int((snapshot.pool.gpu_count - snapshot.pool.gpu_usable).sum())
    text = (
        f"needs {size(job.members, job.shape)}; the nodes in service could hold {room} of "
        f"{job.members} members even if they were empty{_closed(closed)}{nowhere(snapshot, job)}"
    )
    if ill:
        text += f"; {_count(ill, 'GPU')} unhealthy or taken by others"
    if terms := needs_words(snapshot, job):
        text += f"; {terms}"
    numbers: Numbers = (
        ("members", job.members),
        ("members_room", room),
        ("nodes_closed", closed),
        ("gpus_unhealthy", ill),
    )
    return Why("out_of_service", text, numbers)


def _no_room(
    snapshot: Snapshot, job: Job, placed: Unplaced, ahead: int, earliest: tuple[int, str]
) -> Why:
    pool = snapshot.pool
    eligible = rows_for(snapshot, pool, job, job.shape)
    rows = pool.open if eligible is None else pool.open & eligible
    offered = pool.gpu_count if eligible is None else pool.gpu_count[eligible]
    free = int(pool.whole_free[rows].sum())
    most = int(pool.whole_free[rows].max(initial=0))
    total = int(offered.sum())
    if job.shape.gpus:
        text = f"needs {size(job.members, job.shape)}; {free} of {total} such GPUs are free"
        if free >= job.shape.gpus:
            text += f", at most {most} on one node"
        if members_room(pool, _without_host(job.shapes[0]), eligible).sum() >= job.members:
            text += f"; with {_host(job.shape)} for each member, too few of them can be used"
    else:
        text = (
            f"needs {size(job.members, job.shape)}; at most "
            f"{int(pool.cpu_free[rows].max(initial=0)) / 1000:g} CPUs and "
            f"{int(pool.memory_free[rows].max(initial=0))} MiB are free on one node"
        )
    if job.members > 1:
        text += f": room for {placed.room} of {job.members} members"
    text += besides(snapshot, pool, job)
    if ahead:
        text += f"; {ahead} ahead of it"
    text += _closed(int(np.count_nonzero(~pool.open)))
    if kept := explain_upkeep.kept_for_holes(snapshot, job.shape.models):
        text += f"; {kept}"
    if stays := explain_preempt.kept_by_budgets(snapshot, job):
        text += f"; {stays}"
    if never := explain_preempt.never_preempts(snapshot, job):
        text += f"; {never}"
    numbers: Numbers = (
        ("free", free),
        ("most_on_one_node", most),
        ("total", total),
        ("members_room", placed.room),
        ("ahead", ahead),
    )
    return Why("capacity", text, numbers, *earliest)


def _without_host(shape: Shape) -> Shape:
    return replace(shape, cpu_milli=0, memory_mib=0)


def _host(shape: Shape) -> str:
    return f"{shape.cpu_milli / 1000:g} CPUs and {shape.memory_mib} MiB"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s are' if number != 1 else ' is'}"


def _closed(nodes: int) -> str:
    return f"; {nodes} node{'s take' if nodes != 1 else ' takes'} no work" if nodes else ""


def _count_ahead(snapshot: Snapshot, until: str, lanes: Lanes, mine: int) -> int:
    """How many jobs whose turn is before that one's could go and compete for the same devices."""
    ahead: dict[object, tuple[Job, int]] = {}  # by likeness: equal jobs fit or do not
    for job_id in Turns(snapshot):
        if job_id == until:
            break
        live = snapshot.jobs[job_id]
        if live.standing.stop_asked or live.standing.not_before_ms > snapshot.now_ms:
            continue
        if not lanes.of(live.job) & mine:
            continue
        if _short_of_quota(snapshot, live.job) is not None:
            continue
        alike = likeness_in(snapshot, live.job)
        ahead[alike] = (live.job, ahead[alike][1] + 1 if alike in ahead else 1)
    return count_fitting(snapshot, ahead.values())


def _earliest(snapshot: Snapshot, job: Job) -> tuple[int, str]:
    """When the job itself would fit if every running job ends at its time limit; 0 if never so.

    Ends only add room, so the first end that suffices is found by halving; each half's ends are
    given back once.
    """
    deadlines = snapshot.deadlines
    none_ms, none_basis = 0, "no running job that must end has a time limit"
    before, pool = 0, snapshot.pool.scratch()
    if isinstance(seat(snapshot, _after(snapshot, pool, 0, len(deadlines)), job), Unplaced):
        return none_ms, none_basis
    after = len(deadlines)  # it fits after so many ends, and not after `before`
    while after - before > 1:
        middle = (before + after) // 2
        trial = _after(snapshot, pool, before, middle)
        if isinstance(seat(snapshot, trial, job), Unplaced):
            before, pool = middle, trial
        else:
            after = middle
    if not after:
        return snapshot.now_ms, "there is room"
    plural = "s" if after != 1 else ""
    return deadlines[after - 1][0], f"the time limit{plural} of {after} running job{plural}"


def _after(snapshot: Snapshot, pool: Pool, first: int, last: int) -> Pool:
    """The pool once the running jobs with these deadlines have ended."""
    pool = pool.scratch()
    for _, allocation_id in snapshot.deadlines[first:last]:
        allocation = snapshot.allocations[allocation_id]
        for rank, held in enumerate(allocation.seats):
            if allocation.holds(rank):
                live = snapshot.nodes[held.node]
                usable = live.node.usable
                gpus = tuple(gpu for gpu in held.gpus if usable >> gpu & 1)
                pool.give((live.row, gpus), allocation.shape)
    return pool


def try_job(snapshot: Snapshot, job: Job, rejected: Rejected | None) -> Trial:
    """What would happen to the job if it were submitted now, behind everyone of its class."""
    if rejected is not None:
        words = guide(job, rejected, snapshot.models)
        known = job.project in snapshot.projects
        nearer = _nearest_words(snapshot.joined(job), job) if known else ()
        return Trial("never", words.text, (), (*words.tries, *nearer))
    snapshot = snapshot.joined(job)
    reason = _blocked(snapshot, job)
    if reason.code == "next":
        placed = _placed_behind(snapshot, job)
        places = tuple((snapshot.node_ids[row], gpus) for row, gpus in placed)
        nodes = list(dict.fromkeys(node for node, _ in places))
        shown = ", ".join(nodes[:NODES_SHOWN_MAX])
        more = len(nodes) - NODES_SHOWN_MAX
        return Trial(
            "starts_now", f"starts now on {shown}{f' and {more} more' * (more > 0)}", places
        )
    text, tries = _said(reason.text, snapshot.models), _nearest_words(snapshot, job)
    return Trial("waits", text, (), tries, earliest_ms=reason.earliest_ms)


def _kept_for_others(snapshot: Snapshot, job: Job) -> Draft:
    """The next turn's draft as the job finds it: what others are promised is not free."""
    draft = Draft(snapshot)
    honour(draft)
    keep_holes(draft, job)
    return draft


def _placed_behind(snapshot: Snapshot, job: Job) -> tuple[Place, ...]:
    draft = _kept_for_others(snapshot, job)
    walk(draft, until=job.id)
    placed = draft.seated(job)
    assert not isinstance(placed, Unplaced), f"would start, but where? {job} {placed}"
    return placed.places


def tries_now(snapshot: Snapshot, job_id: str) -> tuple[str, ...]:
    """What is nearest to a waiting job and would start now; nothing for one that does not wait.

    Raises:
        KeyError: the job is not live.
    """
    live = snapshot.jobs[job_id]
    if live.standing.phase is not Phase.WAITING or live.standing.not_before_ms > snapshot.now_ms:
        return ()
    return _nearest_words(snapshot, live.job)


def _nearest_words(snapshot: Snapshot, job: Job) -> tuple[str, ...]:
    if not snapshot.pool.nodes:
        return ()
    changes = nearest(Turn(snapshot, job.id), job)
    return tuple(_said(_change_words(change), snapshot.models) for change in changes)


def _change_words(change: Change) -> str:
    match change.option:
        case "--members --gpus":
            members, gpus = change.value.split()
            return f"--members {members} --gpus {gpus} would start now: as many GPUs, other members"
        case "--switches" | "--spread" | "--exclusive" | "--zone" | "--need":
            return f"without {change.option} it would start now"
        case "segments":
            return "without segments it would start now"
        case "all":
            return f"without {change.value} it would start now"
        case _:
            return f"{change.option} {change.value}".rstrip() + " would start now"
