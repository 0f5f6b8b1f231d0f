"""When the yard is tidied up: a window of the day, in the yard's own offset from UTC.

Integers only. A window may pass midnight; one that begins when it ends is none.
"""

from madang.core.policy import Policy

DAY_MS = 86_400_000
NEVER_MS = -1
DEFRAGMENT = "defragment"  # in whose name ReleaseAsked moves a job at night


def has_night(policy: Policy) -> bool:
    """True iff the policy has a window at all."""
    return policy.night_begin_ms != policy.night_end_ms


def night_begin_ms(policy: Policy, now_ms: int) -> int:
    """When the window began that it is now; NEVER_MS outside of it."""
    since_ms = (now_ms + policy.utc_offset_ms - policy.night_begin_ms) % DAY_MS
    length_ms = (policy.night_end_ms - policy.night_begin_ms) % DAY_MS
    return now_ms - since_ms if since_ms < length_ms else NEVER_MS


def is_due(policy: Policy, looked_ms: int, now_ms: int) -> bool:
    """True iff it is night, and nobody has looked since the last full `night_every_ms`."""
    if not has_night(policy):
        return False
    begin_ms = night_begin_ms(policy, now_ms)
    if begin_ms == NEVER_MS:
        return False
    return looked_ms < max(begin_ms, now_ms - now_ms % policy.night_every_ms)


def next_look_ms(policy: Policy, looked_ms: int, now_ms: int) -> int:
    """When to look next if nothing happens before; NEVER_MS if there is no night."""
    if not has_night(policy):
        return NEVER_MS
    if is_due(policy, looked_ms, now_ms):
        return now_ms
    ahead_ms = (policy.night_begin_ms - now_ms - policy.utc_offset_ms) % DAY_MS or DAY_MS
    slot_ms = now_ms - now_ms % policy.night_every_ms + policy.night_every_ms
    if night_begin_ms(policy, now_ms) != NEVER_MS and night_begin_ms(policy, slot_ms) != NEVER_MS:
        return min(slot_ms, now_ms + ahead_ms)
    return now_ms + ahead_ms
