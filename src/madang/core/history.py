"""How long jobs run, learned from every job that ended: integers, no clock, no randomness.

Each family of jobs (user, image, profile and size, from the most particular to everyone) keeps a
histogram of run times in quarter octaves; old runs fade by halving. A quantile is asked for given
what a job has run already, of the most particular family that knows enough. The fold alone
learns, so that a replay of the journal knows the same; the ledger keeps one row a family.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from madang.core.model import WHOLE_GPU_MILLI, Job, Shape

LEAST_MS = 1 << 10  # shorter runs are all alike
BUCKETS = 128  # quarter octaves from about a second to more than a century
RUNS_MIN = 5  # a family that has seen fewer says nothing; its elders are asked
RUNS_MAX = 128  # then all weights are halved: about the last hundred runs count
WEIGHT = 16  # of a fresh run: what it has left after four halvings still counts
FAMILIES_MAX = 8192  # the ones that learned longest ago are forgotten, a sixteenth at once
PERMILLE = 1000
_ANY, _BETWEEN = "*", "\x1f"


@dataclass(frozen=True, slots=True)
class Runs:
    """What a family has seen: weights (at most BUCKETS of them) by bucket, when it last learned."""

    family: str
    weights: tuple[int, ...] = ()
    at_ms: int = 0

    @property
    def key(self) -> str:
        return self.family


@dataclass(frozen=True, slots=True)
class Guess:
    """A quantile of the run time, and of how many runs of which family it is."""

    ms: int
    runs: int
    family: str


def families_of(job: Job) -> tuple[str, ...]:
    """The families that a job counts among, the most particular first; the last is its category."""
    return _families(
        job.category.value, job.owner or job.project, job.image, job.shape, job.members
    )


@lru_cache(maxsize=8192)
def _families(category: str, owner: str, image: str, shape: Shape, members: int) -> tuple[str, ...]:
    each = shape.gpus * shape.gpu_milli
    size = f"{members}x{each / WHOLE_GPU_MILLI:g}"
    chain = (
        (category, owner, image, "|".join(shape.models), size),
        (category, owner, image, _ANY, size),
        (category, owner, _ANY, _ANY, size),
        (category, owner, _ANY, _ANY, _ANY),
        (category, _ANY, _ANY, _ANY, size),
        (category, _ANY, _ANY, _ANY, _ANY),
    )
    return tuple([_BETWEEN.join(family) for family in dict.fromkeys(chain)])


def bucket_of(ms: int) -> int:
    """Four buckets an octave: bucket b holds the times below `bound_ms(b)`."""
    ms = max(ms, LEAST_MS)
    octave = ms.bit_length() - 1
    quarter = ms >> (octave - 2) & 3
    return min((octave - LEAST_MS.bit_length() + 1) * 4 + quarter, BUCKETS - 1)


def bound_ms(bucket: int) -> int:
    """The first time that is too long for the bucket."""
    octave, quarter = divmod(bucket, 4)
    return (5 + quarter) << (octave + LEAST_MS.bit_length() - 3)


def learn(known: Mapping[str, Runs], job: Job, ran_ms: int, now_ms: int) -> list[Runs]:
    """What the job's families know once it has ended after so much run time."""
    bucket = bucket_of(ran_ms)
    return [
        Runs(family, _with(known[family].weights if family in known else (), bucket), now_ms)
        for family in families_of(job)
    ]


def forgotten(known: Mapping[str, Runs]) -> list[str]:
    """The families to forget: none while there are at most FAMILIES_MAX."""
    if len(known) <= FAMILIES_MAX:
        return []
    by_age = sorted([(runs.at_ms, family) for family, runs in known.items()])
    return [family for _, family in by_age[: len(known) - FAMILIES_MAX + FAMILIES_MAX // 16]]


def guess(known: Mapping[str, Runs], job: Job, permille: int, ran_ms: int = 0) -> Guess | None:
    """The run time that this share of such jobs does not exceed, of those that ran `ran_ms` at all.

    Never less than `ran_ms`. None if nobody has seen enough of such jobs.
    """
    first = bucket_of(ran_ms) if ran_ms >= LEAST_MS else 0
    begin_ms = bound_ms(first - 1) if first else 0
    span_ms = bound_ms(first) - begin_ms
    # Of those that ended within the bucket that the job is in now, it has outlived some: the rest
    # are spread over what is left of it.
    ahead_ms = max(0, bound_ms(first) - ran_ms) if first else span_ms
    for family in families_of(job):
        runs = known.get(family)
        if runs is None or len(runs.weights) <= first:
            continue
        head, *beyond = runs.weights[first:]
        left = sum(beyond) * span_ms + head * ahead_ms
        if left >= RUNS_MIN * WEIGHT * span_ms:
            ms = _quantile_ms(runs.weights, first, ahead_ms, permille)
            return Guess(max(ms, ran_ms), left // (WEIGHT * span_ms), family)
    return None


@lru_cache(maxsize=16_384)
def _quantile_ms(weights: tuple[int, ...], first: int, ahead_ms: int, permille: int) -> int:
    """Straight lines inside a bucket; of the bucket `first` only the last `ahead_ms` count."""
    span_ms = bound_ms(first) - (bound_ms(first - 1) if first else 0)
    masses = [weights[first] * ahead_ms, *(weight * span_ms for weight in weights[first + 1 :])]
    wanted = -(-sum(masses) * permille // PERMILLE)
    for bucket, mass in enumerate(masses, start=first):
        if mass and mass >= wanted:
            end_ms = bound_ms(bucket)
            if bucket == first:
                return end_ms - ahead_ms + ahead_ms * wanted // mass
            begin_ms = bound_ms(bucket - 1)
            return begin_ms + (end_ms - begin_ms) * wanted // mass
        wanted -= mass
    raise AssertionError(f"asked for more than there is: {weights}")


def _with(weights: tuple[int, ...], bucket: int) -> tuple[int, ...]:
    """One more run in the bucket."""
    after = list(weights)
    if sum(after) >= RUNS_MAX * WEIGHT:
        after = [weight >> 1 for weight in after]
    after += [0] * (bucket + 1 - len(after))
    after[bucket] += WEIGHT
    return tuple(after)
