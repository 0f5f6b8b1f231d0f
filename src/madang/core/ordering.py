"""Whose turn it is: named integer keys, smaller first.

Every order ends with the submission and the sequence number, so it is total. Where a policy uses
only keys that never change, the state's own sorted queue is the order.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isqrt

from madang.core.live import LiveJob
from madang.core.model import WHOLE_GPU_MILLI, Job
from madang.core.policy import Policy
from madang.core.snapshot import Snapshot

Key = tuple[int, ...]
_STATIC_ORDER = ("priority",)
_SCALE = 1 << 16


def ordered(snapshot: Snapshot) -> Sequence[tuple[Key, str]]:
    """(key, job id) of the waiting jobs, whose turn is first comes first."""
    if snapshot.policy.order == _STATIC_ORDER:
        return snapshot.queue
    lives = [snapshot.jobs[id] for _, id in snapshot.queue]
    return sorted([(key_of(snapshot, live), live.job.id) for live in lives])


def key_of(snapshot: Snapshot, live: LiveJob) -> Key:
    """A job's place in the policy's order, whether it waits or runs."""
    job, order = live.job, snapshot.policy.order
    if len(order) == 1:  # by far the most common: a turn asks this of every job
        return (KEYS[order[0]](snapshot, live), job.submitted_ms, job.seq)
    keys = [KEYS[name](snapshot, live) for name in order]
    return (*keys, job.submitted_ms, job.seq)


def attained_ms(snapshot: Snapshot, live: LiveJob) -> int:
    """How long the job has run, in all its attempts."""
    standing = live.standing
    now_running = snapshot.now_ms - standing.running_ms if standing.running_ms else 0
    return standing.attained_ms + now_running


def gpus_of(job: Job) -> int:
    """Whole GPUs of all members, at least 1."""
    shape = job.shape
    return job.members * shape.gpus * shape.gpu_milli // WHOLE_GPU_MILLI or 1


def level_of(policy: Policy, job: Job, attained: int) -> int:
    """The feedback level of a job that has attained so much run time."""
    if not attained:
        return 0
    service = attained * service_weight(policy, job) // _SCALE
    return bisect_right(level_begins_ms(policy), service)


def next_level_in_ms(policy: Policy, job: Job, attained: int) -> int:
    """Run time until the job sinks a level; 0 if it never will."""
    weight = service_weight(policy, job)
    level = bisect_right(level_begins_ms(policy), attained * weight // _SCALE)
    if level >= policy.levels_max:
        return 0
    return -(-level_begins_ms(policy)[level] * _SCALE // weight) - attained


def level_begins_ms(policy: Policy) -> tuple[int, ...]:
    """The service at which each level after the first begins, in order."""
    return _level_begins_ms(policy.level_ms, policy.level_factor, policy.levels_max)


@lru_cache(maxsize=64)
def _level_begins_ms(level_ms: int, factor: int, levels_max: int) -> tuple[int, ...]:
    return tuple([level_ms * factor**level for level in range(levels_max)])


def next_change_ms(snapshot: Snapshot) -> int | None:
    """When time alone gives the next reason to move somebody aside, if ever.

    A running job sinks, or has run for the least time; or a waiting one loses its patience.
    """
    policy, now_ms = snapshot.policy, snapshot.now_ms
    if not policy.preempts or "level" not in policy.order or not snapshot.queue:
        return None
    jobs, times = snapshot.jobs, []
    first: Key = ()
    for allocation in snapshot.allocations.values():
        live = jobs.get(allocation.job)
        if live is None or not live.standing.running_ms or not live.job.checkpoints:
            continue
        standing = live.standing
        attained = standing.attained_ms + now_ms - standing.running_ms
        if in_ms := next_level_in_ms(policy, live.job, attained):
            times.append(now_ms + in_ms)
        movable_ms = allocation.running_ms + policy.run_ms_min
        if movable_ms > now_ms:
            first = first or min([key_of(snapshot, jobs[id]) for _, id in snapshot.queue])
            if first < key_of(snapshot, live):
                times.append(movable_ms)
    if policy.patience_ms:
        for _, id in snapshot.queue:
            live = snapshot.jobs[id]
            since_ms = live.standing.waiting_ms or live.job.submitted_ms
            if since_ms + policy.patience_ms > now_ms:
                times.append(since_ms + policy.patience_ms)
    return min(times) if times else None


def service_weight(policy: Policy, job: Job) -> int:
    """gpus^(quarters/4) in 1/65536, in integers: the same on every machine."""
    return _weight(gpus_of(job), policy.service_gpus_quarters)


@lru_cache(maxsize=4096)
def _weight(gpus: int, quarters: int) -> int:
    # The fourth root of gpus^|quarters|, scaled: isqrt twice of x · 2^64.
    root = isqrt(isqrt(gpus ** abs(quarters) << 64))
    return root if quarters >= 0 else max(1, _SCALE * _SCALE // root)


def has_lost_patience(snapshot: Snapshot, live: LiveJob) -> bool:
    """True iff the job has waited, since it last ran, as long as the policy lets anyone wait."""
    patience_ms, standing = snapshot.policy.patience_ms, live.standing
    if not patience_ms or standing.running_ms:
        return False
    return snapshot.now_ms - (standing.waiting_ms or live.job.submitted_ms) >= patience_ms


def _level(snapshot: Snapshot, live: LiveJob) -> int:
    standing = live.standing
    if standing.running_ms:
        attained = standing.attained_ms + snapshot.now_ms - standing.running_ms
        return level_of(snapshot.policy, live.job, attained)
    return -1 if has_lost_patience(snapshot, live) else live.level


def _remaining(snapshot: Snapshot, live: LiveJob) -> int:
    return max(0, live.job.estimate_ms - attained_ms(snapshot, live))


KEYS: dict[str, Callable[[Snapshot, LiveJob], int]] = {
    "priority": lambda snapshot, live: -live.job.priority,
    "estimate": lambda snapshot, live: live.job.estimate_ms,
    "service": lambda snapshot, live: live.job.estimate_ms * gpus_of(live.job),
    "remaining": _remaining,
    "level": _level,
}
