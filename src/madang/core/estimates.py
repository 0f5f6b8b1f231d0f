"""How long a job will hold its devices: what the user said, what such jobs took, what the limit is.

In that order, and never more than the limit. What has outrun what was said of it is expected to
take as long again. Nobody knows the end of a job of which none of the three says anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from madang.core.history import Runs, guess
from madang.core.model import Job

NEVER_MS = np.iinfo(np.int64).max
OVERDUE_FACTOR = 2

SAID, HISTORY, LIMIT, UNKNOWN = "said", "history", "limit", ""
MOVED = "moved aside"


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long from now, and how one knows: `runs` and `permille` are those of a history."""

    left_ms: int
    source: str
    runs: int = 0
    permille: int = 0

    def end_ms(self, now_ms: int) -> int:
        """When it ends, NEVER_MS if nobody knows."""
        return NEVER_MS if self.left_ms >= NEVER_MS - now_ms else now_ms + self.left_ms


@dataclass(frozen=True, slots=True)
class Ending:
    """A job that gives devices back before the one that was asked for starts, and why then."""

    job: str
    at_ms: int
    estimate: Estimate

    @property
    def is_moved(self) -> bool:
        return self.estimate.source == MOVED


@dataclass(frozen=True, slots=True)
class Expected:
    """When a job starts: at `start_ms` if `is_known`, else at any time from then on.

    `after` are the jobs whose devices it gets, the last to leave first. Of `futures` that were
    looked at it is the middle one.
    """

    start_ms: int
    is_known: bool
    after: tuple[Ending, ...] = ()
    futures: int = 1


NOBODY_KNOWS = Estimate(NEVER_MS, UNKNOWN)


def left(
    known: Mapping[str, Runs], permille: int, job: Job, *, before_ms: int = 0, ran_ms: int = 0
) -> Estimate:
    """How much longer a job runs that has run `ran_ms`, after `before_ms` in earlier attempts.

    At least 1 ms. The time limit is of an attempt, all else of the job.

    Args:
        known: the history by family; `permille` the quantile to read there (0: it has no say).
    """
    attained_ms = before_ms + ran_ms
    found = NOBODY_KNOWS
    if job.estimate_ms:
        found = Estimate(_beyond(job.estimate_ms, attained_ms) - attained_ms, SAID)
    elif permille and (guessed := guess(known, job, permille, attained_ms)) is not None:
        total_ms = max(guessed.ms, attained_ms + 1)
        found = Estimate(total_ms - attained_ms, HISTORY, guessed.runs, permille)
    if not job.time_limit_ms:
        return found
    limit_left_ms = job.time_limit_ms - ran_ms
    if found.left_ms <= limit_left_ms:
        return found
    if limit_left_ms > 0:
        return Estimate(limit_left_ms, LIMIT)
    # Its end has been asked for; it is on its way.
    return Estimate(ran_ms + 1 if found.source is UNKNOWN else 1, LIMIT)


def _beyond(said_ms: int, attained_ms: int) -> int:
    return said_ms if attained_ms < said_ms else attained_ms * OVERDUE_FACTOR + 1
