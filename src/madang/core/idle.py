"""Is a job idle, since when, and what follows from it?

A measurement says how busy a job's busiest device was over a window. Windows that follow each other
without a gap and stay under the rule's limit make a streak; a gap, a busy window or a new attempt
ends it. So nothing is ever concluded from what was not measured.
"""

from dataclasses import dataclass, replace
from enum import Enum

from madang.core.events import JobMeasured
from madang.core.idle_rule import ANY, IdleRule
from madang.core.model import Allocation, AllocationState, Category, Job, Standing
from madang.core.policy import Policy

IDLE = "idle"  # the code of JobWarned
GAP_MS_MAX = 1_000  # between two windows that count as one: clocks tick, sensors do not sleep


class Verdict(Enum):
    """What a measurement calls for."""

    NOTHING = "nothing"
    WARN = "warn"
    TAKE = "take"


@dataclass(frozen=True, slots=True)
class NoRule:
    """Nobody asks whether such a job is idle."""


def rule_of(policy: Policy, job: Job) -> IdleRule | NoRule:
    """The first rule that is for such jobs."""
    if job.idle_ok or not job.shape.gpus:
        return NoRule()
    for rule in policy.idle_rules:
        if rule.category in (ANY, job.category) and rule.provisioning in (ANY, job.provisioning):
            return rule
    return NoRule()


def after(
    policy: Policy, job: Job, standing: Standing, allocation: Allocation, measured: JobMeasured
) -> Standing:
    """The job's standing once this was measured: its streak goes on, begins anew, or is over."""
    rule = rule_of(policy, job)
    begin_ms = max(measured.at_ms - measured.window_ms, allocation.running_ms)
    busiest = measured.util_pct if measured.busiest_pct < 0 else measured.busiest_pct
    if isinstance(rule, NoRule) or busiest >= rule.util_pct or measured.at_ms <= begin_ms:
        if not standing.idle_since_ms:
            return standing
        return replace(standing, idle_since_ms=0, idle_until_ms=0, warned_ms=0)
    goes_on = (
        standing.idle_since_ms >= allocation.running_ms
        and standing.idle_since_ms > 0
        and begin_ms <= standing.idle_until_ms + GAP_MS_MAX
    )
    if goes_on:
        until_ms = max(standing.idle_until_ms, measured.at_ms)
        return replace(standing, idle_until_ms=until_ms)
    return replace(standing, idle_since_ms=begin_ms, idle_until_ms=measured.at_ms, warned_ms=0)


def verdict(policy: Policy, job: Job, standing: Standing, allocation: Allocation) -> Verdict:
    """What the streak that the last measurement made or went on with calls for.

    Only a job that runs whole; the time before `idle_young_ms` does not count. It is taken once it
    has been measured idle for the whole of the grace that its warning gave.
    """
    rule = rule_of(policy, job)
    if isinstance(rule, NoRule) or not standing.idle_since_ms or standing.stop_asked:
        return Verdict.NOTHING
    if allocation.state is not AllocationState.RUNNING or allocation.ended:
        return Verdict.NOTHING
    since_ms = max(standing.idle_since_ms, allocation.running_ms + policy.idle_young_ms)
    if standing.idle_until_ms - since_ms < rule.idle_ms:
        return Verdict.NOTHING
    if not standing.warned_ms:
        return Verdict.WARN
    if rule.takes and standing.idle_until_ms - standing.warned_ms >= rule.grace_ms:
        return Verdict.TAKE
    return Verdict.NOTHING


def goes_on_later(job: Job) -> bool:
    """What becomes of it once its GPUs are taken: back to the queue, or the end."""
    return job.checkpoints and job.category is not Category.INTERACTIVE
