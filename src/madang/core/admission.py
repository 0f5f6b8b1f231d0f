"""May this job ever run here? Asked once, at submission.

What can never be honoured is rejected with the numbers for a guide; what merely has to wait is
admitted. A yard without nodes admits anything: nodes may come.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.budgets import budget_of
from madang.core.gangs import (
    NEVER_MS,
    SEGMENTS,
    SWITCHES,
    WITHIN,
    binding,
    could_hold_gang,
    least_members,
    level_name,
    segments_nest,
    terms_of,
)
from madang.core.hypernodes import ANYWHERE, NODE
from madang.core.model import UNLIMITED, Job, Shape
from madang.core.needs import TOLERATES_ALL, demands_of, need_text, needs_text
from madang.core.placement import could_hold, eligible_rows, room_if_empty
from madang.core.pool import Bools
from madang.core.quotas import Book, Short, limit_of
from madang.core.seating import model_codes, rows_for, zone_rows
from madang.core.settings import Zone
from madang.core.snapshot import Snapshot
from madang.core.topology import UNKNOWN_LEVEL, depth_of, level_of
from madang.core.zones import shut, size_of, zones_of

SHOWN_MAX = 8  # labels' values and taints in a guide

Numbers = tuple[tuple[str, int | str], ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a job can never run: a code and the numbers explain.py words it from."""

    code: str
    numbers: Numbers


def judge(snapshot: Snapshot, job: Job) -> Rejected | None:
    """None if the job may wait its turn, else why it never could run."""
    project = snapshot.projects.get(job.project)
    if project is None:
        known = " ".join(sorted(snapshot.projects)) or "none"
        return Rejected("unknown_project", (("asked", job.project), ("known", known)))
    barred = (
        above_quota(snapshot, job)
        or _limited(snapshot, job)
        or _terms(snapshot, job)
        or _unprotected(snapshot, job)
        or _outside(snapshot, job)
        or _barred(snapshot, job)
        or _unmet(snapshot, job)
    )
    if barred is not None or not snapshot.pool.nodes:
        return barred
    refused = [_refused(snapshot, job, shape) for shape in job.shapes]
    # Any shape will do; of the reasons, the first that is not just a model that nobody has.
    return _shut_out(snapshot, job) if None in refused else min(refused, key=_is_unknown)


def _is_unknown(refused: Rejected | None) -> bool:
    return refused is not None and refused.code == "unknown_model"


def above_quota(snapshot: Snapshot, job: Job) -> Rejected | None:
    """Even the fewest members are above what the job's project may hold."""
    project, milli = snapshot.projects[job.project], least_members(job) * job.shape.milli
    if project.quota_milli == UNLIMITED or milli <= project.quota_milli:
        return None
    numbers = (("asked_milli", milli), ("quota_milli", project.quota_milli))
    return Rejected("over_quota", (*numbers, ("project", project.id)))


def above_limit(snapshot: Snapshot, job: Job) -> Rejected | None:
    """The limit, if any, above which the job is though nobody holds anything: under that it never
    can start. For a job that the nodes could hold."""
    return _limited(snapshot, job) or _shut_out(snapshot, job)


def _limited(snapshot: Snapshot, job: Job) -> Rejected | None:
    """Even the fewest members are above a limit of its project or workspace."""
    short = Book(snapshot, {}).short_of(job, least_members(job) * job.shape.milli)
    return None if short is None else _over_limit(short)


def _shut_out(snapshot: Snapshot, job: Job) -> Rejected | None:
    """Limits keep it from each machine group that could hold it; None too if none could."""
    full = Book(snapshot, {}).full_groups(job, least_members(job) * job.shape.milli)
    closed = [snapshot.groups[group] for group in full if group in snapshot.groups]
    if not closed:
        return None
    pool, beside = snapshot.pool, ~np.isin(snapshot.pool.group, closed)
    for shape in job.shapes:
        eligible = rows_for(snapshot, pool, job, shape)
        if eligible is not None and not eligible.any():
            continue
        rows = beside if eligible is None else beside & eligible
        if could_hold_gang(pool, pool.gpu_count, job, shape, snapshot.policy, rows):
            return None
        could = [group for group in full if _holds(snapshot, job, shape, eligible, group)]
        if could:
            return _over_limit(max((full[group] for group in could), key=_limit_then_group))
    return None


def _holds(snapshot: Snapshot, job: Job, shape: Shape, eligible: Bools | None, group: str) -> bool:
    """True iff the machine group has a node that could hold one of the members."""
    rows = snapshot.pool.group == snapshot.groups.get(group, -1)
    if eligible is not None:
        rows &= eligible
    return could_hold(snapshot.pool, snapshot.pool.gpu_count, shape, 1, rows)


def _limit_then_group(short: Short) -> tuple[int, str]:
    return limit_of(short.quota), short.quota.key


def _over_limit(short: Short) -> Rejected:
    quota = short.quota
    return Rejected(
        "over_limit",
        (
            ("asked_milli", short.asked_milli),
            ("quota_milli", limit_of(quota)),
            ("quota", quota.key),
            ("owner", quota.owner),
            ("group", quota.group),
            ("provisioning", quota.provisioning),
            ("weight", quota.weight),
        ),
    )


def _terms(snapshot: Snapshot, job: Job) -> Rejected | None:
    """What no tree of switches could honour: segments that do not nest, levels nobody knows."""
    if not segments_nest(job):
        sizes = " and ".join(str(segment.members) for segment in job.segments)
        return Rejected("segments", (("members", job.members), ("segments", sizes)))
    levels = snapshot.policy.levels
    for name in (job.within or ANYWHERE, *(segment.level for segment in job.segments)):
        if level_of(levels, len(levels), name) == UNKNOWN_LEVEL:
            known = " ".join((ANYWHERE, *levels, NODE))
            return Rejected("unknown_level", (("asked", name), ("known", known)))
    return None


def _unprotected(snapshot: Snapshot, job: Job) -> Rejected | None:
    """The job counts on a disruption budget that its project does not have."""
    budgets = snapshot.settings.budgets
    if not job.budget or budget_of(budgets, job):
        return None
    mine = sorted(one.id for one in budgets.values() if one.project == job.project)
    return Rejected(
        "unknown_budget",
        (("asked", job.budget), ("project", job.project), ("known", " ".join(mine) or "none")),
    )


def _outside(snapshot: Snapshot, job: Job) -> Rejected | None:
    """Why a job can never run inside the reservation it names."""
    if not job.reservation:
        return None
    known = snapshot.settings.reservations
    found = known.get(job.reservation)
    if found is None or found.end_ms <= max(snapshot.now_ms, job.submitted_ms):
        mine = [one.id for one in known.values() if one.project == job.project]
        return Rejected(
            "unknown_reservation",
            (("asked", job.reservation), ("known", " ".join(sorted(mine)) or "none")),
        )
    if found.project != job.project:
        return Rejected("reservation_of_other", (("asked", found.id), ("project", found.project)))
    held_milli = found.members * found.shape.milli
    milli = least_members(job) * job.shape.milli
    if milli > held_milli:
        return Rejected(
            "reservation_too_small",
            (("asked", found.id), ("asked_milli", milli), ("held_milli", held_milli)),
        )
    return None


def _barred(snapshot: Snapshot, job: Job) -> Rejected | None:
    """Why no zone takes the job, if none does."""
    if not job.zone and not snapshot.settings.zones:
        return None
    zones = list(zones_of(snapshot))
    asked = [zone for zone in zones if zone.id == job.zone] if job.zone else zones
    known = " ".join(zone.id for zone in zones)
    if not asked:
        return Rejected("unknown_zone", (("asked", job.zone), ("known", known)))
    reasons = [shut(snapshot, zone, job) for zone in asked]
    if "" in reasons:
        return None
    fits = [zone for zone, why in zip(asked, reasons, strict=True) if why == "size"]
    code = "zone_private" if job.zone and not fits else "zone_size"
    return Rejected(
        code,
        (
            ("asked", job.zone),
            ("gpus", size_of(job)),
            ("sizes", ", ".join(f"{zone.id} {_sizes(zone)}" for zone in fits) or "none"),
            ("owners", " ".join(asked[0].owners)),
        ),
    )


def _unmet(snapshot: Snapshot, job: Job) -> Rejected | None:
    """No node that its zones have is what the job needs, or taints keep it off those that are."""
    ground, pool = snapshot.ground, snapshot.pool
    meets = ground.mask(demands_of(job))
    there = zone_rows(snapshot, pool, job)
    if there is None:
        there = np.ones(pool.nodes, np.bool_)
    if meets is None or not there.any() or (meets & there).any():
        return None
    labelled = ground.mask((job.needs, TOLERATES_ALL))
    able = there if labelled is None else there & labelled
    if able.any():
        against = ground.taints_against(demands_of(job))[:SHOWN_MAX]
        taints = ", ".join(f"{text} on {count}" for text, count in against)
        return Rejected("tainted", (("nodes", int(able.sum())), ("taints", taints)))
    each = dict.fromkeys(one for all_of in job.needs for one in all_of)
    counts = {one: ground.count((((one,),), TOLERATES_ALL)) for one in each}
    known = [(one.key, ground.values_of(one.key)) for one in each if not counts[one]]
    return Rejected(
        "unmet_needs",
        (
            ("nodes", int(there.sum())),
            ("asked", needs_text(job.needs)),
            ("alone", ", ".join(f"{need_text(one)}: {count}" for one, count in counts.items())),
            *((f"label {key}", " ".join(values[:SHOWN_MAX])) for key, values in known),
        ),
    )


def _sizes(zone: Zone) -> str:
    return f"{zone.gpus_min}-{zone.gpus_max or ''}"


def _refused(snapshot: Snapshot, job: Job, shape: Shape) -> Rejected | None:
    """Why the nodes there are could never hold the job in this shape."""
    pool, models = snapshot.pool, snapshot.models
    # Of the nodes as they are: a model that no node has any more is unknown again.
    eligible = eligible_rows(pool, model_codes(snapshot, shape))
    if shape.models and (eligible is None or not eligible.any()):
        here = set(pool.model.tolist())
        names = sorted(model for model, code in models.items() if model and code in here)
        known = " ".join(names) or "none"
        return Rejected("unknown_model", (("asked", " ".join(shape.models)), ("known", known)))
    eligible = rows_for(snapshot, pool, job, shape)
    if eligible is not None and not eligible.any() and not shape.models:
        return None  # its zone has no nodes yet
    if could_hold(pool, pool.gpu_count, shape, least_members(job), eligible):
        return _network(snapshot, job, shape, eligible)
    rows = np.ones(pool.nodes, np.bool_) if eligible is None else eligible
    room = room_if_empty(pool, pool.gpu_count, shape, job.members)[rows]
    return Rejected(
        "too_large" if room.any() else "member_too_large",
        (
            ("members", job.members),
            ("gpus", shape.gpus),
            ("gpu_milli", shape.gpu_milli),
            ("cpu_milli", shape.cpu_milli),
            ("memory_mib", shape.memory_mib),
            ("members_max", int(room.sum())),
            ("gpus_max", int(pool.gpu_count[rows].max(initial=0))),
            ("cpu_milli_max", int(pool.cpu_total[rows].max(initial=0))),
            ("memory_mib_max", int(pool.memory_total[rows].max(initial=0))),
        ),
    )


def _network(snapshot: Snapshot, job: Job, shape: Shape, eligible: Bools | None) -> Rejected | None:
    """The yard could hold the gang, but not as near together as it must be."""
    pool, policy = snapshot.pool, snapshot.policy
    if job.members == 1 or could_hold_gang(pool, pool.gpu_count, job, shape, policy, eligible):
        return None
    depth = depth_of(pool.domains)
    terms = terms_of(job, policy, depth, NEVER_MS if job.switches_wait_ms else 0)
    room = room_if_empty(pool, pool.gpu_count, shape, job.members)
    if eligible is not None:
        room[~eligible] = 0
    found = binding(pool, terms, room) if terms is not None else None
    assert terms is not None, f"levels were looked at before: {job}"
    assert found is not None, f"does not fit, but nothing binds: {job}"
    codes = {SEGMENTS: "segments_too_large", SWITCHES: "switches_too_few"}
    level = level_name(policy.levels, depth, found.level)
    domain = snapshot.domain_name(found.row, found.level)
    if level == NODE and found.code == WITHIN and job.within in policy.levels:
        level, domain = job.within, ""  # a level that no node names here
    return Rejected(
        codes.get(found.code, "domain_too_small"),
        (
            ("members", found.least),
            ("members_max", found.room),
            ("level", level),
            ("domain", domain),
            ("switches", job.switches),
            ("by_default", int(terms.by_default)),
        ),
    )
