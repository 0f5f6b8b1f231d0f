"""Fair share between projects: what each has used lately, and how far that puts its jobs back.

A project is charged GPU-milli·ms of what it holds beyond its guarantees; a charge counts half after
each half-life. What it holds now counts as if it were kept for two half-lives more, so that a start
weighs at once and no burst wins all (the longest past weighs 1/ln 2 = 1.44 half-lives). A charge C
against the fair share R puts jobs back by `fair_lag_ms · C/(C + R)`: nothing for a project that has
used nothing, half the lag at its share, never more than the lag, so that nobody is shut out.
All in integers: the same on every machine.
"""

from collections.abc import Mapping
from math import isqrt

from madang.core.model import WHOLE_GPU_MILLI
from madang.core.quotas import Book
from madang.core.settings import ANY, Quota, Used
from madang.core.snapshot import Snapshot

_BITS = 64
_STEPS = 32  # of decay in a half-life; within a step nothing decays
HELD_HALF_LIVES = 2
_WEIGHT = 1000  # weights are counted in thousandths, so that a workspace's can be split


def _step_factors() -> tuple[int, ...]:
    """(steps + 1,) 2^(-i/steps) in 1/2^64."""
    root = 1 << (_BITS - 1)  # a half; its square root, five times over, is 2^(-1/32)
    for _ in range(_STEPS.bit_length() - 1):
        root = isqrt(root << _BITS)
    factors = [1 << _BITS]
    for _ in range(_STEPS):
        factors.append(factors[-1] * root >> _BITS)
    return tuple(factors)


_FACTOR = _step_factors()
_SUM = tuple(sum(_FACTOR[1 : i + 1]) for i in range(_STEPS + 1))  # of the first i factors below 1


def decayed(amount: int, steps: int) -> int:
    """What is left of an amount after so many steps."""
    halves, rest = divmod(steps, _STEPS)
    return amount * _FACTOR[rest] >> (_BITS + halves)


def used_at(used: Used, held_milli: int, now_ms: int, half_life_ms: int) -> int:
    """The charge at a time, in GPU-milli·ms, if so much has been held since it was last known."""
    step_ms = max(1, half_life_ms // _STEPS)
    steps = now_ms // step_ms - used.as_of_ms // step_ms
    if steps <= 0:
        return used.milli_ms + held_milli * max(0, now_ms - used.as_of_ms)
    first_ms = step_ms - used.as_of_ms % step_ms
    between = held_milli * step_ms * _geometric(steps - 1) >> _BITS
    old = decayed(used.milli_ms + held_milli * first_ms, steps)
    return old + between + held_milli * (now_ms % step_ms)


def _geometric(steps: int) -> int:
    """f + f² + … of so many steps, in 1/2^64."""
    halves, rest = divmod(steps, _STEPS)
    whole = 2 * _SUM[_STEPS] - (2 * _SUM[_STEPS] >> halves)  # Σ 2^-b over the whole half-lives
    return whole + (_SUM[rest] >> halves)


class Shares:
    """What each project has been charged, and by how much its jobs go back for it."""

    def __init__(self, snapshot: Snapshot) -> None:
        policy = snapshot.policy
        self._lag_ms = policy.fair_lag_ms if policy.fair_half_life_ms else 0
        self._snapshot = snapshot
        self._horizon_ms = HELD_HALF_LIVES * policy.fair_half_life_ms
        self._known: dict[str, tuple[int, int, int]] = {}
        self._covered_milli: dict[str, int] = {}
        if self._lag_ms:
            self._book = Book(snapshot)
            self._weights = weights(snapshot)
            capacity_milli = int(snapshot.pool.gpu_count.sum()) * WHOLE_GPU_MILLI
            self._capacity = self._horizon_ms * capacity_milli
            self._weight_sum = sum(self._weights.values())

    def lag_ms(self, project: str, held_milli: int) -> int:
        """By how much the project's jobs go back, if it held so much."""
        if not self._lag_ms:
            return 0
        charge, fair = self.charge(project, held_milli)
        return self._lag_ms * charge // (charge + fair) if charge + fair else 0

    def charge(self, project: str, held_milli: int) -> tuple[int, int]:
        """(what the project is charged, its fair share of that), in GPU-milli·ms."""
        if project not in self._known:
            self._known[project] = self._past(project)
        past, factor_pct, fair = self._known[project]
        beyond = max(0, held_milli - self._covered_milli[project])
        return (past + beyond * self._horizon_ms) * factor_pct // 100, fair

    def _past(self, project: str) -> tuple[int, int, int]:
        """(what it has used, the factor of its idleness, its fair share)."""
        snapshot, policy = self._snapshot, self._snapshot.policy
        held_milli = snapshot.usage_milli.get(project, 0)
        covered_milli = self._book.covered_milli(project)
        self._covered_milli[project] = covered_milli
        used = snapshot.settings.used.get(project, Used(project, 0, snapshot.now_ms))
        past = used_at(
            used, max(0, held_milli - covered_milli), snapshot.now_ms, policy.fair_half_life_ms
        )
        factor_pct, factors = 100, snapshot.settings.factors.get(project)
        if factors is not None:
            past += factors.month_gpu_ms * WHOLE_GPU_MILLI * policy.fair_month_pct // 100
            if factors.util_pct >= 0:
                factor_pct += policy.fair_util_pct * max(0, 100 - factors.util_pct) // 100
        weight = self._weights.get(project, 0)
        fair = self._capacity * weight // self._weight_sum if weight else 0
        return past, factor_pct, fair


def weights(snapshot: Snapshot) -> dict[str, int]:
    """The weight, in thousandths, of each project that waits or holds.

    A project's is its quota's. Where the workspace has a quota of its own, the projects in it share
    the workspace's weight by theirs.
    """
    quotas = snapshot.settings.quotas
    active = dict.fromkeys(snapshot.line.lots)
    active.update(dict.fromkeys(id for id, milli in snapshot.usage_milli.items() if milli))
    if not quotas:
        return dict.fromkeys(active, _WEIGHT)
    own = {id: _weight_of(quotas, f"project:{id}") for id in active}
    in_workspace: dict[str, int] = {}
    for id, weight in own.items():
        workspace = snapshot.projects[id].workspace
        in_workspace[workspace] = in_workspace.get(workspace, 0) + weight
    found = {}
    for id, weight in own.items():
        workspace = snapshot.projects[id].workspace
        owner = f"workspace:{workspace}"
        if any(quota.owner == owner for quota in quotas.values()):
            shared = _WEIGHT * _weight_of(quotas, owner) * weight
            found[id] = shared // in_workspace[workspace] if in_workspace[workspace] else 0
        else:
            found[id] = _WEIGHT * weight
    return found


def _weight_of(quotas: Mapping[str, Quota], owner: str) -> int:
    """The weight of an owner: of its quota for everything, else the largest of its quotas'."""
    whole = quotas.get(f"{owner}/{ANY}/{ANY}")
    if whole is not None:
        return whole.weight
    return max((quota.weight for quota in quotas.values() if quota.owner == owner), default=1)
