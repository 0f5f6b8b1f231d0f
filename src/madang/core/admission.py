"""May this job ever run here? Asked once, at submission.

What can never be honoured is rejected with the numbers for a guide; what merely has to wait is
admitted. A yard without nodes admits anything: nodes may come.
"""

from dataclasses import dataclass

import numpy as np

from madang.core.gangs import (
    NEVER_MS,
    SEGMENTS,
    SWITCHES,
    binding,
    could_hold_gang,
    least_members,
    level_name,
    segments_nest,
    terms_of,
)
from madang.core.model import UNLIMITED, Job
from madang.core.placement import could_hold, eligible_rows, room_if_empty
from madang.core.pool import Bools
from madang.core.snapshot import Snapshot
from madang.core.topology import ANYWHERE, NODE, UNKNOWN_LEVEL, depth_of, level_of

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
    if project.quota_milli != UNLIMITED and job.milli > project.quota_milli:
        return Rejected(
            "over_quota",
            (
                ("asked_milli", job.milli),
                ("quota_milli", project.quota_milli),
                ("project", project.id),
            ),
        )
    if (misfit := _terms(snapshot, job)) is not None:
        return misfit
    return _capacity(snapshot, job) if snapshot.pool.nodes else None


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


def _capacity(snapshot: Snapshot, job: Job) -> Rejected | None:
    pool, models, shape = snapshot.pool, snapshot.models, job.shape
    codes = tuple([models[model] for model in shape.models if model in models])
    eligible = eligible_rows(pool, codes)
    # Of the nodes as they are: a model that no node has any more is unknown again.
    if shape.models and (eligible is None or not eligible.any()):
        here = set(pool.model.tolist())
        names = sorted(model for model, code in models.items() if model and code in here)
        known = " ".join(names) or "none"
        return Rejected("unknown_model", (("asked", " ".join(shape.models)), ("known", known)))
    if could_hold(pool, pool.gpu_count, shape, least_members(job), eligible):
        return _network(snapshot, job, eligible)
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


def _network(snapshot: Snapshot, job: Job, eligible: Bools | None) -> Rejected | None:
    """The yard could hold the gang, but not as near together as it must be."""
    pool, policy = snapshot.pool, snapshot.policy
    if job.members == 1 or could_hold_gang(pool, pool.gpu_count, job, job.shape, policy, eligible):
        return None
    depth = depth_of(pool.domains)
    terms = terms_of(job, policy, depth, NEVER_MS if job.switches_wait_ms else 0)
    room = room_if_empty(pool, pool.gpu_count, job.shape, job.members)
    if eligible is not None:
        room[~eligible] = 0
    found = binding(pool, terms, room) if terms is not None else None
    assert terms is not None, f"levels were looked at before: {job}"
    assert found is not None, f"does not fit, but nothing binds: {job}"
    codes = {SEGMENTS: "segments_too_large", SWITCHES: "switches_too_few"}
    row = snapshot.nodes[snapshot.node_ids[found.row]].node.domains if found.row >= 0 else ()
    return Rejected(
        codes.get(found.code, "domain_too_small"),
        (
            ("members", found.least),
            ("members_max", found.room),
            ("level", level_name(policy.levels, depth, found.level)),
            ("domain", row[found.level - 1] if 0 < found.level <= len(row) else ""),
            ("switches", job.switches),
            ("by_default", int(terms.by_default)),
        ),
    )
