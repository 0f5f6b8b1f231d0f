"""Workloads that others make and Madang places: Jobs, JobSets, LeaderWorkerSets, Kubeflow, Ray.

One module a kind says what the object says of its pods (`tops.Top`); `groups.py` reads the groups
that gang schedulers have; `gangs.py` puts both together. Begin there.
"""

from madang.engines.kubernetes.foreign.arranged import POD, Arranged
from madang.engines.kubernetes.foreign.gangs import (
    KINDS,
    Unit,
    Waits,
    World,
    gangs_of,
    unit_of,
)
from madang.engines.kubernetes.foreign.groups import GROUPS, Group
from madang.engines.kubernetes.foreign.tops import Top

__all__ = [
    "GROUPS",
    "KINDS",
    "POD",
    "Arranged",
    "Group",
    "Top",
    "Unit",
    "Waits",
    "World",
    "gangs_of",
    "unit_of",
]
