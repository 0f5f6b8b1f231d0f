"""A policy as data: the order of the queue, what a misfit means, who may be moved aside.

A new policy is a value of this class: named integer keys (ordering.py) and named choices. What the
policies of the literature need is here too, so that a replay compares like with like.
"""

from dataclasses import dataclass
from enum import StrEnum

ANY = "*"
_HOUR_MS = 3_600_000


class Misfit(StrEnum):
    """What it means for those behind that a job does not fit now."""

    STOP = "stop"  # nobody behind it starts
    HOLD = "hold"  # nobody behind it takes the models it waits for
    SKIP = "skip"  # everyone behind it may start
    RESERVE = "reserve"  # it gets a start time; those behind may start if that holds (backfill)


@dataclass(frozen=True, slots=True)
class IdleRule:
    """When jobs of a category and provisioning (`*`: any) count as idle, and what follows.

    Idle is: the busiest of its GPUs under `util_pct` for `idle_ms` on end. Then it is warned; if it
    stays so for `grace_ms` more and the rule `takes`, its GPUs are taken.
    """

    category: str = ANY
    provisioning: str = ANY
    util_pct: int = 5
    idle_ms: int = 2 * _HOUR_MS
    grace_ms: int = _HOUR_MS
    takes: bool = False


# Everyone but services is told; nothing is taken before an operator says so. See the page
# docs/policies/reclaim.md for why these numbers, and for the rules to take by.
IDLE_RULES = (
    IdleRule("interactive"),
    IdleRule("training", idle_ms=_HOUR_MS),
    IdleRule("data", idle_ms=_HOUR_MS),
)


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
    From `night_begin_ms` to `night_end_ms` after midnight, `utc_offset_ms` east of UTC, jobs are
    moved to make room (equal: never): looked for every `night_every_ms`, `moves_at_once` at most
    under way, `night_gpu_ms` of work thrown away in one night, a job once in `move_rest_ms`. A move
    must gain `move_gain_pct` of its cost within `move_horizon_ms`. `idle_rules` say who is warned
    about idle GPUs and who loses them, the first that matches; the first `idle_young_ms` of a job
    do not count. GPUs are measured in windows of `measure_ms` (0: not at all).
    A job that has waited `patience_ms` since it last ran goes first, so that nobody starves.
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
    utc_offset_ms: int = 0
    night_begin_ms: int = 0
    night_end_ms: int = 0
    night_every_ms: int = 60_000
    night_gpu_ms: int = 200 * _HOUR_MS
    moves_at_once: int = 8
    move_rest_ms: int = 20 * _HOUR_MS
    move_gain_pct: int = 200
    move_horizon_ms: int = 8 * _HOUR_MS
    idle_rules: tuple[IdleRule, ...] = IDLE_RULES
    idle_young_ms: int = 1_800_000
    measure_ms: int = 600_000


DEFAULT = Policy("default")
