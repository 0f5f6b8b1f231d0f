"""What the yard is asked for these days, and how much idle GPU such requests could not use.

FGD's fragmentation F (Weng et al., USENIX ATC'23; scoring/fragmentation.py) over the jobs that are
live: those that run and those that wait are the most recent demand there is, they are in the rows,
and a yard that is asked for nothing large loses nothing by having no large hole.
"""

import numpy as np

from madang.core.pool import Ints, Pool
from madang.core.scoring._base import MODELS_MAX
from madang.core.scoring._base import Shape as Asked
from madang.core.scoring.fragmentation import Typical, fragmentation_of, typical_of
from madang.core.snapshot import Snapshot


def typical_requests(snapshot: Snapshot) -> Typical:
    """The live jobs' requests, each member one; those for CPUs alone say nothing about GPUs."""
    counted: dict[Asked, int] = {}
    for live in snapshot.jobs.values():
        shape = live.job.shape
        if not shape.gpus:
            continue
        codes = [snapshot.models[model] for model in shape.models if model in snapshot.models]
        if shape.models and (not codes or max(codes) >= MODELS_MAX):
            continue
        models = frozenset(codes) if codes else None
        asked = Asked(shape.gpus, shape.gpu_milli, shape.cpu_milli, shape.memory_mib, models)
        counted[asked] = counted.get(asked, 0) + live.job.members
    return typical_of(counted.items())


def unusable(pool: Pool, rows: Ints, typical: Typical) -> Ints:
    """(R,) F of some rows, in GPU-milli scaled by `typical.weight`; all of a closed one is lost.

    The NumPy form: compiling the other would cost a turn more than it saves.
    """
    lost = fragmentation_of(
        pool.gpu_free[rows], pool.cpu_free[rows], pool.model[rows], typical.table
    )
    idle = pool.gpu_free[rows].sum(axis=1, dtype=np.int64)
    return np.where(pool.open[rows], lost, idle * typical.weight)


def unusable_milli(snapshot: Snapshot) -> tuple[int, int]:
    """(expected GPU-milli that a typical request cannot use, GPU-milli idle) in the open nodes."""
    pool, typical = snapshot.pool, typical_requests(snapshot)
    lost = int(unusable(pool, np.flatnonzero(pool.open), typical).sum())
    return lost // typical.weight, int(pool.gpu_free[pool.open].sum())
