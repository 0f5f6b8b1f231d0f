"""A policy as data: the order of the queue, what a misfit means, who may be moved aside.

A new policy is a value of this class: named integer keys (ordering.py) and named choices. What the
policies of the literature need is here too, so that a replay compares like with like.
"""

from dataclasses import dataclass
from enum import StrEnum

from madang.core.classes import ClassRow
from madang.core.idle_rule import IDLE_RULES, IdleRule

_HOUR_MS = 3_600_000


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
    `reservations` is how many jobs at the head get a start time under `Misfit.RESERVE`, among those
    that wait for the same devices: 1 is EASY (Lifka, JSSPP 1995), many is conservative backfilling.
    `reserved` jobs and gangs of `reserve_gpus_min` GPUs or more (0: none) always get one. The
    history says when those who run will have ended (the quantile `end_permille`) and how long those
    who want to pass will stay (`stay_permille`); 0: it has no say, only limits and estimates have.

    `preempts`: a waiting job may take the devices of running jobs that come after it in the order.
    Levels (the key `level`) grow with the service a job has attained, as in multi-level feedback
    (Tiresias, NSDI 2019, with two levels; here as many as it takes): level L begins at
    `level_ms · level_factor^(L-1)`. Service counts as `run time · gpus^(service_gpus_quarters/4)`.
    `levels` name the network tree's levels from the root down (Node.domains); `within` is the one
    that holds a training on several nodes unless its job says otherwise ("": the outermost that
    nodes name; "any": none does).
    A job that has waited `patience_ms` since it last ran, its head start included, goes first and
    lets nobody pass, so that nobody starves (0: patience without end).

    `classes` are the operator's rows above the default ones (classes.py). Fair share: past usage
    counts half after `fair_half_life_ms` (0: usage has no say) and puts a project's jobs back by
    `fair_lag_ms` at most; `fair_month_pct` of its month's GPU time is added to its usage, and
    `fair_util_pct` of the share of its GPUs that its past jobs left idle (fair.py).

    `placement` names how one member chooses among nodes (scoring/); data that a node lacks counts
    in steps of `fetch_step_mib`, before that.
    `victims` says how those are chosen that are moved aside. Of the cheapest, one who serves users
    counts `serving_weight` times what its stop costs.

    From `night_begin_ms` to `night_end_ms` after midnight, `utc_offset_ms` east of UTC, jobs are
    moved to make room (equal: never): looked for every `night_every_ms`, `moves_at_once` at most
    under way, `night_gpu_ms` of work thrown away in one night, a job once in `move_rest_ms`. A move
    must gain `move_gain_pct` of its cost within `move_horizon_ms`. `idle_rules` say who is warned
    about idle GPUs and who loses them, the first that matches; the first `idle_young_ms` of a job
    do not count. GPUs are measured in windows of `measure_ms` (0: not at all).
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
    placement: str = "madang"
    fetch_step_mib: int = 1024
    victims: Victims = Victims.CHEAPEST
    serving_weight: int = 10
    utc_offset_ms: int = 0
    night_begin_ms: int = 0
    night_end_ms: int = 0
    night_every_ms: int = 60_000
    night_gpu_ms: int = 200 * _HOUR_MS
    moves_at_once: int = 8
    move_rest_ms: int = 20 * _HOUR_MS
    move_gain_pct: int = 400
    move_horizon_ms: int = 8 * _HOUR_MS
    idle_rules: tuple[IdleRule, ...] = IDLE_RULES
    idle_young_ms: int = 1_800_000
    measure_ms: int = 600_000
    reserve_gpus_min: int = 0
    end_permille: int = 0
    stay_permille: int = 0


DEFAULT = Policy("default")
