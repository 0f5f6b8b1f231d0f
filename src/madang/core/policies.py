"""Named policies: the ones a paper would compare with, and ours.

`sjf`, `ssf`, `srtf`, `easy`, `conservative` need estimates; without any they know nothing about a
job's length and say so by doing badly. `madang` needs none.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from madang.core.classes import ClassRow
from madang.core.idle_rule import IdleRule
from madang.core.policy import DEFAULT, Misfit, Policy, Victims

_HOUR_MS = 3_600_000
RESTART_MS = 60_000  # what it costs a large gang to be stopped and started again

# A job is moved aside at most once a level and levels grow fourfold, so a first level of 120
# restarts keeps what is wasted under 1 % of what is run. Service is run time / gpus^(1/4): a large
# gang is harder to place and dearer to restart, so it sinks later than a small one of its age.
# Who has waited half a day goes first and is passed by nobody. Projects that have used more than
# their share of the last weeks go back by up to a day: between them, not within one.
# Heads have their patience instead of start times: by guessed ends these kept devices idle (waits
# of a seeded trace 17 % longer with one for every head), and large gangs that may take devices in
# their turn waited longer with one than without (ITP 07: 15,199 s against 6,631 s).
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
    reservations=0,
    reserve_gpus_min=0,
    end_permille=500,
    stay_permille=900,
    victims=Victims.CHEAPEST_OF_LAST,
)

PACKED = "fullest"

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        # The literature's, each member on the fullest node, as theirs do.
        Policy("fifo", order=(), misfit=Misfit.STOP, placement=PACKED),
        Policy("fifo-skip", order=(), misfit=Misfit.SKIP, placement=PACKED),
        Policy("sjf", order=("estimate",), misfit=Misfit.SKIP, placement=PACKED),
        Policy("ssf", order=("service",), misfit=Misfit.SKIP, placement=PACKED),
        Policy(
            "srtf",
            order=("remaining",),
            misfit=Misfit.SKIP,
            preempts=True,
            victims=Victims.LAST,
            placement=PACKED,
        ),
        Policy(
            "tiresias",
            order=("level",),
            misfit=Misfit.SKIP,
            preempts=True,
            level_ms=18_000_000,
            levels_max=1,
            victims=Victims.LAST,
            placement=PACKED,
        ),
        Policy("easy", order=(), misfit=Misfit.RESERVE, reservations=1, placement=PACKED),
        Policy("conservative", order=(), misfit=Misfit.RESERVE, reservations=16, placement=PACKED),
        MADANG,
    )
}


def policy_of(stated: Mapping[str, Any]) -> Policy:
    """The policy of a validated policy file (wire/policy.py): what it states, changed in its base.

    A field's key in the file is its name without `_ms`: durations there have their unit.
    """
    base = _BASES[stated.get("base", MADANG.name)]
    named = {field.name: field.name.replace("_ms", "") for field in fields(Policy)}
    changes: dict[str, Any] = {}
    for name, key in named.items():
        if key in stated and name != "classes":
            value = stated[key]
            changes[name] = tuple(value) if isinstance(value, list) else value
    if "idle" in stated:
        changes["idle_rules"] = tuple(_idle_rule_of(row) for row in stated["idle"])
    if "misfit" in changes:
        changes["misfit"] = Misfit(changes["misfit"])
    if "victims" in changes:
        changes["victims"] = Victims(changes["victims"])
    rows = tuple(_row_of(row) for row in stated.get("class", ()))
    return replace(base, classes=(*rows, *base.classes), **changes)


def _idle_rule_of(stated: Mapping[str, Any]) -> IdleRule:
    values = {field.name: field.name.replace("_ms", "") for field in fields(IdleRule)}
    return IdleRule(**{name: stated[key] for name, key in values.items() if key in stated})


def _row_of(stated: Mapping[str, Any]) -> ClassRow:
    of_file = {"retries_max": "retries", "time_limit_ms": "time"}
    values: dict[str, Any] = {}
    for field in fields(ClassRow):
        key = of_file.get(field.name, field.name.replace("_ms", ""))
        if key in stated:
            value = stated[key]
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return ClassRow(**values)


def stated_of(policy: Policy) -> dict[str, Any]:
    """What a policy file would state to get exactly this policy, durations as `1500ms`."""
    base = _BASES.get(policy.name, MADANG)
    stated: dict[str, Any] = {"base": base.name}
    for field in fields(Policy):
        value = getattr(policy, field.name)
        if field.name not in ("classes", "idle_rules"):
            stated[field.name.replace("_ms", "")] = _stated(field.name, value)
    stated["misfit"], stated["victims"] = policy.misfit.value, policy.victims.value
    added = len(policy.classes) - len(base.classes)
    assert policy.classes[added:] == base.classes, f"rows of the base were taken away: {policy}"
    stated["idle"] = [
        {
            one.name.replace("_ms", ""): _stated(one.name, getattr(rule, one.name))
            for one in fields(rule)
        }
        for rule in policy.idle_rules
    ]
    stated["class"] = [_stated_row(row) for row in policy.classes[:added]]
    return stated


def _stated_row(row: ClassRow) -> dict[str, Any]:
    of_file = {"retries_max": "retries", "time_limit_ms": "time"}
    found: dict[str, Any] = {}
    for field in fields(ClassRow):
        value = getattr(row, field.name)
        if value is not None:
            key = of_file.get(field.name, field.name.replace("_ms", ""))
            found[key] = _stated(field.name, value)
    return found


def _stated(name: str, value: Any) -> Any:
    if "_ms" in name:
        return f"{value}ms"
    return list(value) if type(value) is tuple else value


_BASES = {DEFAULT.name: DEFAULT, **POLICIES}
