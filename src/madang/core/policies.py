"""Named policies: the ones a paper would compare with, and ours.

`sjf`, `ssf`, `srtf`, `easy`, `conservative` need estimates; without any they know nothing about a
job's length and say so by doing badly. `madang` needs none.
"""

from madang.core.policy import Misfit, Policy, Victims

_HOUR_MS = 3_600_000
RESTART_MS = 60_000  # what it costs a large gang to be stopped and started again

# A job is moved aside at most once a level and levels grow fourfold, so a first level of 120
# restarts keeps what is wasted under 1 % of what is run. Service is run time / gpus^(1/4): a large
# gang is harder to place and dearer to restart, so it sinks later than a small one of its age.
# Who has waited half a day goes first and is passed by nobody. Projects that have used more than
# their share of the last weeks go back by up to a day: between them, not within one.
MADANG = Policy(
    "madang",
    order=("priority", "level"),
    misfit=Misfit.SKIP,
    preempts=True,
    level_ms=120 * RESTART_MS,
    level_factor=4,
    service_gpus_quarters=-1,
    patience_ms=12 * _HOUR_MS,
    run_ms_min=2 * RESTART_MS,
    fair_half_life_ms=7 * 24 * _HOUR_MS,
    fair_lag_ms=24 * _HOUR_MS,
    fair_month_pct=25,
    fair_util_pct=50,
    victims=Victims.CHEAPEST_OF_LAST,
)

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("fifo", order=(), misfit=Misfit.STOP),
        Policy("fifo-skip", order=(), misfit=Misfit.SKIP),
        Policy("sjf", order=("estimate",), misfit=Misfit.SKIP),
        Policy("ssf", order=("service",), misfit=Misfit.SKIP),
        Policy(
            "srtf",
            order=("remaining",),
            misfit=Misfit.SKIP,
            preempts=True,
            victims=Victims.LAST,
        ),
        Policy(
            "tiresias",
            order=("level",),
            misfit=Misfit.SKIP,
            preempts=True,
            level_ms=18_000_000,
            levels_max=1,
            victims=Victims.LAST,
        ),
        Policy("easy", order=(), misfit=Misfit.RESERVE, reservations=1),
        Policy("conservative", order=(), misfit=Misfit.RESERVE, reservations=16),
        MADANG,
    )
}
