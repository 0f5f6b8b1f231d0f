"""Chance that is the same on every machine: a number in [0, 1) from a seed and some names.

No generator is carried along, so the order in which things are asked changes nothing: what a member
will do is decided by its name, also after a restart.
"""

from hashlib import blake2b
from math import exp, log
from statistics import NormalDist

_NORMAL = NormalDist()
_SCALE = 1 << 64


def chance(seed: int, *names: str | int) -> float:
    """In [0, 1), uniform over names."""
    digest = blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / _SCALE


def between(low: int, high: int, seed: int, *names: str | int) -> int:
    """In [low, high], uniform."""
    return low + int(chance(seed, *names) * (high - low + 1))


def exponential(mean_ms: int, seed: int, *names: str | int) -> int:
    """Waiting time of a fault that strikes every `mean_ms` on average, at least 1 ms."""
    return max(1, int(-mean_ms * log(1 - chance(seed, *names))))


def log_normal(median_ms: int, sigma: float, seed: int, *names: str | int) -> int:
    """Durations as training jobs have them: many short ones, a long tail. At least 1 ms."""
    return max(1, int(median_ms * exp(sigma * normal(seed, *names))))


def normal(seed: int, *names: str | int) -> float:
    """Mean 0, deviation 1, within ±8."""
    return _NORMAL.inv_cdf(min(max(chance(seed, *names), 1e-15), 1 - 1e-15))
