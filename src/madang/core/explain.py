"""All the words users read about decisions: why a job waits, why it never fits, how it ended.

Codes and numbers come from the passes; prose is made only here. A guide says what was asked, what
there is, and what would work.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.admission import Numbers, Rejected
from madang.core.model import UNLIMITED, WHOLE_GPU_MILLI, Exit, Job, Phase, Shape
from madang.core.passes.start import competing_models, model_codes
from madang.core.placement import Unplaced, eligible_rows, members_room, place
from madang.core.pool import Bools, Place
from madang.core.snapshot import Snapshot

HOLDERS_SHOWN_MAX = 3


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

    `earliest_ms` is when it could start at the earliest, 0 if nobody can say; `basis` says from what.
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


def _gpus(milli: int | str) -> str:
    return f"{int(milli) / WHOLE_GPU_MILLI:g}"


def guide(job: Job, rejected: Rejected) -> Guide:
    """The words for a rejection."""
    n = dict(rejected.numbers)
    asked = size(job.members, job.shape)
    tries: tuple[str, ...]
    match rejected.code:
        case "unknown_project":
            text = f"project {n['asked']} does not exist; there are: {n['known']}"
            tries = ("choose one with --project", "or: madang project set NAME --quota GPUS")
        case "over_quota":
            quota = _gpus(n["quota_milli"])
            text = f"{asked} asked, but project {job.project} may hold {quota} GPUs at most"
            tries = _smaller(job, int(n["quota_milli"]) // max(job.shape.milli, 1))
            if not tries:
                tries = (f"raise it: madang project set {job.project} --quota GPUS",)
        case "unknown_model":
            text = f"no node has {n['asked']}; there are: {n['known']}"
            tries = ("choose one with --profile, or leave it out to take any",)
        case "member_too_large":
            text = (
                f"{asked} asked, but the largest node has {n['gpus_max']} GPUs, "
                f"{int(n['cpu_milli_max']) / 1000:g} CPUs, {n['memory_mib_max']} MiB"
            )
            tries = ("ask for fewer GPUs per member and more members",)
        case _:
            text = f"{asked} asked, but all nodes together hold {n['members_max']} such members"
            tries = _smaller(job, int(n["members_max"]))
    return Guide(rejected.code, text, tries, rejected.numbers)


def _smaller(job: Job, members: int) -> tuple[str, ...]:
    if members >= 1 and job.members > 1:
        return (f"--members {members}",)
    return ()


def why(snapshot: Snapshot, job_id: str) -> Why:
    """Why a live job does not run now.

    Raises:
        KeyError: the job is not live.
    """
    live = snapshot.jobs[job_id]
    job, standing = live.job, live.standing
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
    return _blocked(snapshot, job)


def _blocked(snapshot: Snapshot, job: Job) -> Why:
    quota_milli = snapshot.projects[job.project].quota_milli
    used_milli = snapshot.usage_milli.get(job.project, 0)
    if quota_milli != UNLIMITED and used_milli + job.milli > quota_milli:
        return Why(
            "quota",
            f"project {job.project} holds {_gpus(used_milli)} of its {_gpus(quota_milli)} GPUs; "
            f"this job needs {_gpus(job.milli)} more{_holders(snapshot, job.project)}",
            (("used_milli", used_milli), ("quota_milli", quota_milli), ("asked_milli", job.milli)),
        )
    if not snapshot.pool.nodes:
        return Why("no_nodes", "no node has reported yet")
    ahead = _ahead(snapshot, job)
    eligible = eligible_rows(snapshot.pool, model_codes(snapshot, job))
    placed = place(snapshot.pool, job.shape, job.members, eligible)
    earliest_ms, basis = _earliest(snapshot, job, eligible)
    if isinstance(placed, Unplaced):
        return _no_room(snapshot, job, placed, ahead, earliest_ms, basis)
    if ahead:
        first = snapshot.jobs[ahead[0]].job
        return Why(
            "behind",
            f"{len(ahead)} ahead of it wait for the same GPUs, first {first.id} "
            f"({size(first.members, first.shape)})",
            (("ahead", len(ahead)), ("first", first.id)),
            earliest_ms,
            basis,
        )
    return Why("next", "it starts with the next turn", (), snapshot.now_ms, "there is room")


def _no_room(
    snapshot: Snapshot, job: Job, placed: Unplaced, ahead: list[str], earliest_ms: int, basis: str
) -> Why:
    pool = snapshot.pool
    open_rows = pool.open
    free = int(pool.whole_free[open_rows].sum())
    most = int(pool.whole_free[open_rows].max(initial=0))
    total = int(pool.gpu_count.sum())
    text = f"needs {size(job.members, job.shape)}; {free} of {total} GPUs are free"
    if free >= job.shape.gpus:
        text += f", at most {most} on one node"
    if job.members > 1:
        text += f": room for {placed.room} of {job.members} members"
    if ahead:
        text += f"; {len(ahead)} ahead of it"
    closed = int(np.count_nonzero(~open_rows))
    if closed:
        text += f"; {closed} node{'s take' if closed != 1 else ' takes'} no work"
    numbers: Numbers = (
        ("free", free),
        ("most_on_one_node", most),
        ("total", total),
        ("members_room", placed.room),
        ("ahead", len(ahead)),
    )
    return Why("capacity", text, numbers, earliest_ms, basis)


def _ahead(snapshot: Snapshot, job: Job) -> list[str]:
    """Ids of the waiting jobs before this one that compete for the same devices."""
    mine = competing_models(snapshot, job)
    ahead = []
    for _, job_id in snapshot.queue:
        if job_id == job.id:
            break
        if competing_models(snapshot, snapshot.jobs[job_id].job) & mine:
            ahead.append(job_id)
    return ahead


def _holders(snapshot: Snapshot, project: str) -> str:
    held: list[tuple[int, str]] = []
    for allocation in snapshot.allocations.values():
        if allocation.project == project:
            members = sum(allocation.holds(r) for r in range(len(allocation.seats)))
            held.append((-members * allocation.shape.milli, allocation.job))
    held.sort()
    shown = ", ".join(f"{job} {_gpus(-milli)}" for milli, job in held[:HOLDERS_SHOWN_MAX])
    return f" (held by {shown}{', …' if len(held) > HOLDERS_SHOWN_MAX else ''})" if held else ""


def _earliest(snapshot: Snapshot, job: Job, eligible: Bools | None) -> tuple[int, str]:
    """When the job itself would fit if every running job ends at its time limit; 0 if never so."""
    pool = snapshot.pool.scratch()
    for count, (deadline_ms, allocation_id) in enumerate(snapshot.deadlines, start=1):
        allocation = snapshot.allocations[allocation_id]
        for rank, seat in enumerate(allocation.seats):
            if allocation.holds(rank):
                node = snapshot.nodes[seat.node]
                pool.give((node.row, seat.gpus), allocation.shape, node.node.usable)
        if not isinstance(place(pool, job.shape, job.members, eligible), Unplaced):
            plural = "s" if count != 1 else ""
            return deadline_ms, f"the time limit{plural} of {count} running job{plural}"
    return 0, "no running job that must end has a time limit"


def try_job(snapshot: Snapshot, job: Job, rejected: Rejected | None) -> Trial:
    """What would happen to the job if it were submitted now."""
    if rejected is not None:
        words = guide(job, rejected)
        return Trial("never", words.text, (), words.tries)
    placed = _would_start(snapshot, job)
    if placed is not None:
        places = tuple((snapshot.node_ids[row], gpus) for row, gpus in placed)
        nodes = dict.fromkeys(node for node, _ in places)
        return Trial("starts_now", f"starts now on {', '.join(nodes)}", places)
    reason = _blocked(snapshot, job)
    return Trial(
        "waits", reason.text, (), _what_fits_now(snapshot, job), earliest_ms=reason.earliest_ms
    )


def _would_start(snapshot: Snapshot, job: Job) -> tuple[Place, ...] | None:
    quota_milli = snapshot.projects[job.project].quota_milli
    used_milli = snapshot.usage_milli.get(job.project, 0)
    if quota_milli != UNLIMITED and used_milli + job.milli > quota_milli:
        return None
    # It would stand behind everyone of its class and above.
    mine = competing_models(snapshot, job)
    for (minus_priority, _, _), job_id in snapshot.queue:
        if -minus_priority < job.priority:
            break
        if competing_models(snapshot, snapshot.jobs[job_id].job) & mine:
            return None
    eligible = eligible_rows(snapshot.pool, model_codes(snapshot, job))
    placed = place(snapshot.pool, job.shape, job.members, eligible)
    return None if isinstance(placed, Unplaced) else placed


def _what_fits_now(snapshot: Snapshot, job: Job) -> tuple[str, ...]:
    eligible = eligible_rows(snapshot.pool, model_codes(snapshot, job))
    tries = []
    room = int(np.minimum(members_room(snapshot.pool, job.shape, eligible), job.members).sum())
    if 1 <= room < job.members:
        tries.append(f"--members {room} fits in what is free now")
    free = snapshot.pool.whole_free[snapshot.pool.open]
    most = int(free.max(initial=0))
    if 1 <= most < job.shape.gpus:
        tries.append(f"--gpus {most} per member fits in what is free now")
    if job.shape.models:
        anywhere = place(snapshot.pool, job.shape, job.members)
        if not isinstance(anywhere, Unplaced):
            tries.append("any GPU model: leave --profile out")
    return tuple(tries)
