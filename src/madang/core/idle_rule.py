"""Who counts as idle, and what follows: rows of the policy. What they mean is done by idle.py."""

from dataclasses import dataclass

ANY = "*"
_HOUR_MS = 3_600_000


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
