"""The words about the network tree: which level binds, how much room its best domain has.

A part of explain.py, which calls it; codes and numbers come from gangs.py and admission.py.
"""

from madang.core.admission import Numbers, Rejected
from madang.core.gangs import (
    CAPACITY,
    SEGMENTS,
    SWITCHES,
    Binding,
    binding,
    level_name,
    terms_of,
)
from madang.core.hypernodes import NODE
from madang.core.model import Job
from madang.core.placement import members_room, room_if_empty
from madang.core.pool import Ints, Pool
from madang.core.seating import rows_for
from madang.core.snapshot import Snapshot
from madang.core.topology import depth_of

NETWORK_CODES = frozenset(
    {"segments", "unknown_level", "domain_too_small", "segments_too_large", "switches_too_few"}
)


def network_guide(job: Job, rejected: Rejected, asked: str) -> tuple[str, tuple[str, ...]]:
    """(why, what would work) for a rejection whose code is one of `NETWORK_CODES`."""
    n = dict(rejected.numbers)
    fewer = _fewer(job, int(n.get("members_max", 0)))
    match rejected.code:
        case "segments":
            text = (
                f"{asked} asked in segments of {n['segments']}: members must be a multiple of each "
                "segment, and each segment of the smaller ones"
            )
            return text, (f"segments that divide {job.members}, or other --members",)
        case "unknown_level":
            text = f"the network has no level {n['asked']}; there are: {n['known']}"
            return text, ("choose one of them, or a tier: 1 is the leaf switch, 2 the next",)
        case "segments_too_large":
            text = (
                f"{asked} asked in segments within one {n['level']}, but all of them together have "
                f"room for {n['members_max']} such members"
            )
            return text, (*fewer, "smaller segments")
        case "switches_too_few":
            text = (
                f"{asked} asked on at most {n['switches']} {n['level']} switches, but the "
                f"largest so many hold {n['members_max']} such members"
            )
            return text, (*fewer, "--max-wait 10m: after that any number will do", "more switches")
        case _:
            text = f"{asked} asked within one {n['level']}{_whose(n)}, but {_largest(n)}"
            return text, ("--within any: anywhere in the yard", *fewer)


def _whose(n: dict[str, int | str]) -> str:
    return " (the policy's default for training on several nodes)" if n["by_default"] else ""


def _largest(n: dict[str, int | str]) -> str:
    if not n["domain"]:
        return f"no node names its {n['level']}, so each counts as one of its own"
    return f"the largest, {n['domain']}, holds {n['members_max']} such members"


def _fewer(job: Job, members: int) -> tuple[str, ...]:
    return (f"--members {members}",) if 1 <= members < job.members else ()


def binds_now(snapshot: Snapshot, pool: Pool, job: Job) -> tuple[str, Numbers] | None:
    """(what of the network keeps the job's own shape from fitting, the numbers); None if nothing.

    Args:
        pool: as those before it in the queue leave it.
    """
    return _binds(
        snapshot, job, members_room(pool, job.shape, rows_for(snapshot, pool, job, job.shape))
    )


def binds_when_empty(snapshot: Snapshot, job: Job) -> tuple[str, Numbers] | None:
    """The same for the nodes in service, if nothing else were on them."""
    pool, eligible = snapshot.pool, rows_for(snapshot, snapshot.pool, job, job.shape)
    room = room_if_empty(pool, pool.gpu_usable, job.shape, job.members)
    room[~(pool.open if eligible is None else pool.open & eligible)] = 0
    return _binds(snapshot, job, room)


def _binds(snapshot: Snapshot, job: Job, room: Ints) -> tuple[str, Numbers] | None:
    depth = depth_of(snapshot.pool.domains)
    terms = terms_of(job, snapshot.policy, depth, snapshot.now_ms)
    if job.members == 1:
        return None
    if terms is None:
        levels = " ".join((*snapshot.policy.levels, NODE))
        asked = job.within or " or ".join(one.level for one in job.segments)
        return f"the network has no level {asked} now; there are: {levels}", (("level", asked),)
    found = binding(snapshot.pool, terms, room)
    if found is None or found.code == CAPACITY:
        return None
    level = level_name(snapshot.policy.levels, depth, found.level)
    domain = snapshot.domain_name(found.row, found.level)
    later = ""
    match found.code:
        case code if code == SEGMENTS:
            text = f"in segments within one {level} there is room for {found.room}"
        case code if code == SWITCHES:
            text = f"on {terms.switches} {level} switches there is room for {found.room}"
            if job.insists_until_ms:
                left_ms = max(0, job.insists_until_ms - snapshot.now_ms)
                later = f" (any number will do in {left_ms // 1000} s)"
        case _:
            best = f"the {level} with the most room, {domain}," if domain else f"no {level}"
            text = f"all must be within one {level}; {best} has room for {found.room}"
    text += f" of {_wanted(job, found)}{later}; anywhere there is room for {found.anywhere}"
    return text, (
        ("level", level),
        ("domain", domain),
        ("members", found.least),
        ("members_room", found.room),
        ("members_anywhere", found.anywhere),
    )


def _wanted(job: Job, found: Binding) -> str:
    least = f"at least {found.least}" if found.least < job.members else f"{found.least}"
    return f"{least} members"
