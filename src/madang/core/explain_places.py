"""The words about where a job may sit: zones, other profiles it takes, nodes of its own."""

import numpy as np

from madang.core.admission import Numbers
from madang.core.explain_needs import needs_words
from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.pool import Pool
from madang.core.seating import rows_for
from madang.core.snapshot import Snapshot
from madang.core.zones import PUBLIC, access, size_of

ZONE_CODES = ("unknown_zone", "zone_private", "zone_size")


def zone_guide(job: Job, numbers: Numbers) -> tuple[str, tuple[str, ...]]:
    """Why no zone takes the job, and what would work."""
    n = dict(numbers)
    code = "unknown_zone" if "known" in n else "zone_size" if n["sizes"] != "none" else ""
    if code == "unknown_zone":
        text = f"there is no zone {n['asked']}; there are: {n['known']}"
        return text, ("choose one with --zone, or leave it out", "see them: madang zone ls")
    if code == "zone_size":
        where = f"zone {n['asked']} takes" if n["asked"] else "zones take"
        text = f"{n['gpus']} GPUs asked in all, but {where} other sizes: {n['sizes']} GPUs"
        tries = ("leave --zone out",) if n["asked"] else ()
        return text, (*tries, "ask for a size that one takes: --members, --gpus")
    if n["asked"]:
        text = f"zone {n['asked']} is private: it takes jobs of {n['owners']}"
        return text, (f"leave --zone out: project {job.project} may use the public ones",)
    text = f"every zone is private, and none takes jobs of project {job.project}"
    return text, ("ask an operator: madang zone set ZONE --owners …",)


def nowhere(snapshot: Snapshot, job: Job) -> str:
    """Why a job has no node at all, however empty: the zone that it names has none."""
    there = snapshot.pool.zone[snapshot.pool.gpu_count > 0]
    code = snapshot.zones.get("" if job.zone == PUBLIC else job.zone, -1)
    return f"; no node is in zone {job.zone}" if job.zone and not (there == code).any() else ""


def besides(snapshot: Snapshot, pool: Pool, job: Job) -> str:
    """What else keeps a job that waits for room from it, to be said after the figures."""
    text = ""
    for shape in job.shapes[1:]:
        rows = rows_for(snapshot, pool, job, shape)
        able = pool.open if rows is None else pool.open & rows
        free = int(pool.whole_free[able].sum())
        text += f"; or {' or '.join(shape.models) or 'any'}: {free} free"
    if job.exclusive:
        empty = int(np.count_nonzero(pool.open & (pool.tenants == 0) & (pool.gpu_count > 0)))
        text += f"; it wants its nodes for itself, and {empty} of them are empty"
    if job.shape.gpu_milli < WHOLE_GPU_MILLI and job.shape.gpus:
        most = int(pool.gpu_free[pool.open].max(initial=0))
        text += f"; at most {most / WHOLE_GPU_MILLI:g} of one GPU is free"
    allowed = access(snapshot, job)
    if allowed is not None and len(allowed.all) < len(snapshot.zones):
        names = {code: name or PUBLIC for name, code in snapshot.zones.items()}
        open_to = ", ".join(sorted(names[code] for code in allowed.all)) or "none"
        asked = f"{size_of(job)} GPU{'s' if size_of(job) != 1 else ''}"
        text += f"; with {asked}, project {job.project} may use zone {open_to}"
    if terms := needs_words(snapshot, job):
        text += f"; {terms}"
    return text
