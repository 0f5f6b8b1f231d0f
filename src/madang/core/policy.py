"""A policy as data: the order of the queue, what a misfit means, who may be moved aside.

A new policy is a value of this class: named integer keys (ordering.py) and named choices. What the
policies of the literature need is here too, so that a replay compares like with like.
"""

from dataclasses import dataclass
from enum import StrEnum

from madang.core.classes import ClassRow


class Misfit(StrEnum):
    """What it means for those behind that a job does not fit now."""

    STOP = "stop"  # nobody behind it starts
    HOLD = "hold"  # nobody behind it takes the models it waits for
    SKIP = "skip"  # everyone behind it may start
    RESERVE = "reserve"  # it gets a start time; those behind may start if that holds (backfill)


class Victims(StrEnum):
    """Who of those that a waiting job may displace is moved aside for it."""

    CHEAPEST = "cheapest"  # the set that costs the least work (impact.py)
    CHEAPEST_OF_LAST = "cheapest-of-last"  # the same, among the last of the order that suffice
    LAST = "last"  # the last of the order first, whatever it costs


@dataclass(frozen=True, slots=True)
class Policy:
    """How waiting jobs are chosen. Times are ms.

    `order` names keys of keys.py, most significant first; arrival (submission less the head start
    of the job's class) and sequence end every order.
    `reservations` is how many jobs at the head get a start time under `Misfit.RESERVE`: 1 is EASY
    (Lifka, JSSPP 1995), many is conservative backfilling.

    `preempts`: a waiting job may take the devices of running jobs that come after it in the order.
    Levels (the key `level`) grow with the service a job has attained, as in multi-level feedback
    (Tiresias, NSDI 2019, with two levels; here as many as it takes): level L begins at
    `level_ms · level_factor^(L-1)`. Service counts as `run time · gpus^(service_gpus_quarters/4)`.
    `levels` name the network tree's levels from the root down (Node.domains); `within` is the one
    that holds a gang of several nodes unless its job says otherwise ("": anywhere).
    A job that has waited `patience_ms` since it last ran, its head start included, goes first and
    lets nobody pass, so that nobody starves (0: patience without end).

    `classes` are the operator's rows above the default ones (classes.py). Fair share: past usage
    counts half after `fair_half_life_ms` (0: usage has no say) and puts a project's jobs back by
    `fair_lag_ms` at most; `fair_month_pct` of its month's GPU time is added to its usage, and
    `fair_util_pct` of the share of its GPUs that its past jobs left idle (fair.py).

    `victims` says how those are chosen that are moved aside. Under the cheapest, one who serves users
    counts `serving_weight` times what its stop costs.
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
    classes: tuple[ClassRow, ...] = ()
    fair_lag_ms: int = 0
    fair_month_pct: int = 0
    fair_util_pct: int = 0
    victims: Victims = Victims.CHEAPEST
    serving_weight: int = 10


DEFAULT = Policy("default")
