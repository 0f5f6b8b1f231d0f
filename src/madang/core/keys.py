"""The named integer keys that orders are made of, smaller first, and the key a queue is kept by.

A waiting job attains nothing, so its key stands still until it runs: the queue is sorted once, on
insert. What time alone changes (patience) is looked at in ordering.py.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import cache, lru_cache
from math import isqrt

from madang.core.live import LiveJob, QueueKey
from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.policy import Policy

_SCALE = 1 << 16


MOVES_FREE = 32
DOUBLINGS_MAX = 16  # of the least run time of a job that is moved aside again and again


def queue_key(policy: Policy, live: LiveJob, now_ms: int = 0) -> QueueKey:
    """A job's place in the policy's order, patience aside; `now_ms` matters while it runs."""
    keys = [KEYS[name](policy, live, now_ms) for name in policy.order]
    return (*keys, arrival_ms(live.job), live.job.seq)


def arrival_ms(job: Job) -> int:
    """When the job came, had its class no head start: classes age at one rate."""
    return job.submitted_ms - job.head_start_ms


def overdue_ms(policy: Policy, live: LiveJob) -> int:
    """When a waiting job loses its patience: a head start counts as time already waited."""
    since_ms = live.standing.waiting_ms or live.job.submitted_ms
    return since_ms - live.job.head_start_ms + policy.patience_ms


def attained_ms(live: LiveJob, now_ms: int) -> int:
    """How long the job has run, in all its attempts."""
    standing = live.standing
    now_running = now_ms - standing.running_ms if standing.running_ms else 0
    return standing.attained_ms + now_running


def gpus_of(job: Job) -> int:
    """Whole GPUs of all members, at least 1."""
    return max(1, job.milli // WHOLE_GPU_MILLI)


def level_of(policy: Policy, job: Job, attained: int) -> int:
    """The feedback level of a job that has attained so much run time."""
    weight = service_weight(policy, job)
    return bisect_right(
        _bounds_ms(policy.level_ms, policy.level_factor, policy.levels_max, weight), attained
    )


@lru_cache(maxsize=4096)
def _bounds_ms(level_ms: int, factor: int, levels: int, weight: int) -> tuple[int, ...]:
    """The run time with which each level but the first begins, for a job of this weight."""
    return tuple([-(-level_ms * factor**level * _SCALE // weight) for level in range(levels)])


def sinks_ms(policy: Policy, live: LiveJob, began_ms: int, until_ms: int) -> list[int]:
    """When a job that began to run then will sink, level by level, up to some time."""
    job, before = live.job, live.standing.attained_ms
    weight, found = service_weight(policy, job), []
    for level in range(level_of(policy, job, before), policy.levels_max):
        bound: int = policy.level_ms * policy.level_factor**level
        at_ms = began_ms + -(-bound * _SCALE // weight) - before
        if at_ms > until_ms:
            break
        found.append(at_ms)
    return found


def undisturbed_ms(policy: Policy, live: LiveJob) -> int:
    """How long a job runs before one whose turn is earlier may move it aside.

    The least run time, doubled with each time it was moved aside beyond the first few: who sinks
    through the levels is moved a few times at no loss, and only who takes turns is moved often.
    """
    least_ms = max(policy.run_ms_min, live.job.run_ms_min)
    often = max(0, live.standing.preemptions - MOVES_FREE)
    return least_ms << min(often, DOUBLINGS_MAX)


def service_weight(policy: Policy, job: Job) -> int:
    """gpus^(quarters/4) in 1/65536, in integers: the same on every machine."""
    return _power(gpus_of(job), policy.service_gpus_quarters)


@cache
def _power(gpus: int, quarters: int) -> int:
    # The fourth root of gpus^|quarters|, scaled: isqrt twice of x · 2^64.
    root = isqrt(isqrt(gpus ** abs(quarters) << 64))
    return root if quarters >= 0 else max(1, _SCALE * _SCALE // root)


def _remaining(policy: Policy, live: LiveJob, now_ms: int) -> int:
    return max(0, live.job.estimate_ms - attained_ms(live, now_ms))


KEYS: dict[str, Callable[[Policy, LiveJob, int], int]] = {
    "priority": lambda policy, live, now_ms: -live.job.priority,
    "estimate": lambda policy, live, now_ms: live.job.estimate_ms,
    "service": lambda policy, live, now_ms: live.job.estimate_ms * gpus_of(live.job),
    "remaining": _remaining,
    "level": lambda policy, live, now_ms: level_of(policy, live.job, attained_ms(live, now_ms)),
}
