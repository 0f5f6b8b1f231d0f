"""A policy as data: the order of the queue, what a misfit means, who may be moved aside.

A new policy is a value of this class: named integer keys (ordering.py) and named choices. What the
policies of the literature need is here too, so that a replay compares like with like.
"""

from dataclasses import dataclass
from enum import StrEnum


class Misfit(StrEnum):
    """What it means for those behind that a job does not fit now."""

    STOP = "stop"  # nobody behind it starts
    HOLD = "hold"  # nobody behind it takes the models it waits for
    SKIP = "skip"  # everyone behind it may start
    RESERVE = "reserve"  # it gets a start time; those behind may start if that holds (backfill)


@dataclass(frozen=True, slots=True)
class Policy:
    """How waiting jobs are chosen. Times are ms.

    `order` names keys of ordering.py, most significant first; submission order ends every order.
    `reservations` is how many jobs at the head get a start time under `Misfit.RESERVE`: 1 is EASY
    (Lifka, JSSPP 1995), many is conservative backfilling.

    `preempts`: a waiting job may take the devices of running jobs that come after it in the order.
    Levels (the key `level`) grow with the service a job has attained, as in multi-level feedback
    (Tiresias, NSDI 2019, with two levels; here as many as it takes): level L begins at
    `level_ms · level_factor^(L-1)`. Service counts as `run time · gpus^(service_gpus_quarters/4)`.
    `levels` name the network tree's levels from the root down (Node.domains); `within` is the one
    that holds a gang of several nodes unless its job says otherwise ("": anywhere).
    `fair_half_life_ms`: past usage counts half after so long (0: usage has no say).
    A job that has waited `patience_ms` since it last ran goes first, so that nobody starves.
    `run_ms_min` is how long a job runs at least before it is moved aside.
    """

    name: str
    order: tuple[str, ...] = ("priority",)
    misfit: Misfit = Misfit.HOLD
    reservations: int = 1
    preempts: bool = False
    level_ms: int = 0
    level_factor: int = 4
    levels_max: int = 32
    service_gpus_quarters: int = 4
    patience_ms: int = 0
    run_ms_min: int = 0
    levels: tuple[str, ...] = ("block", "leaf")
    within: str = ""
    fair_half_life_ms: int = 0


DEFAULT = Policy("default")
