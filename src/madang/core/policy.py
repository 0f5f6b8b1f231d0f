"""A policy as data: the order of the queue, what a misfit means, who may be moved aside.

A new policy is a value of this class: named integer keys (ordering.py) and named choices. What the
policies of the literature need is here too, so that a replay compares like with like.
"""

from dataclasses import dataclass, field
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
    A job that has waited `patience_ms` since it last ran goes first, so that nobody starves.
    `run_ms_min` is how long a job runs at least before it is moved aside. `level_begins_ms` is
    derived: the service at which each level after the first begins.
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
    level_begins_ms: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        begins_ms = [self.level_ms * self.level_factor**level for level in range(self.levels_max)]
        object.__setattr__(self, "level_begins_ms", tuple(begins_ms))


DEFAULT = Policy("default")
