"""May this job ever run here? Asked once, at submission.

What can never be honoured is rejected with the numbers for a guide; what merely has to wait is
admitted. A yard without nodes admits anything: nodes may come.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from madang.core.model import UNLIMITED, Job
from madang.core.placement import could_hold, eligible_rows, room_if_empty
from madang.core.pool import Pool
from madang.core.snapshot import Snapshot

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
    return _capacity(snapshot.pool, snapshot.models, job) if snapshot.pool.nodes else None


def _capacity(pool: Pool, models: Mapping[str, int], job: Job) -> Rejected | None:
    shape = job.shape
    codes = tuple([models[model] for model in shape.models if model in models])
    eligible = eligible_rows(pool, codes)
    # Of the nodes as they are: a model that no node has any more is unknown again.
    if shape.models and (eligible is None or not eligible.any()):
        here = set(pool.model.tolist())
        names = sorted(model for model, code in models.items() if model and code in here)
        known = " ".join(names) or "none"
        return Rejected("unknown_model", (("asked", " ".join(shape.models)), ("known", known)))
    if could_hold(pool, pool.gpu_count, shape, job.members, eligible):
        return None
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
