"""Who waits, kept in order by the fold: sorted on insert, and by what is alike.

Jobs of one project that are alike in all that decides whether they may start form a lot: a walk
that could not place one of them need not look at the others. `State` alone writes to a line.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Any

from madang.core.keys import overdue_ms, queue_key
from madang.core.live import Lane, LiveJob, QueueKey, lane_of
from madang.core.needs import Demands, demands_of
from madang.core.policy import Policy

Entry = tuple[QueueKey, str]
Ask = object  # equal for jobs of a project that may start together or not at all


class Line:
    """`queue`: all entries in the policy's order, patience and fair share aside. `lots`: the same
    by project and likeness. `waiting`: how many wait in each lane, `terms`: how many say the same
    of nodes, none of them 0. `patience`:
    (when it is lost, job), sorted, under a policy where it can be. `niced`: per project the jobs
    that their owners have put before or after their others. `ask_of` says which jobs are alike.
    """

    def __init__(self, ask_of: Callable[[LiveJob], Ask]) -> None:
        self._ask_of = ask_of
        self.queue: list[Entry] = []
        self.lots: dict[str, dict[Ask, list[Entry]]] = {}
        self.waiting: dict[Lane, int] = {}
        self.terms: dict[Demands, int] = {}
        self.patience: list[tuple[int, str]] = []
        self.niced: dict[str, int] = {}

    def add(self, policy: Policy, live: LiveJob) -> None:
        """The job waits."""
        job = live.job
        entry = (queue_key(policy, live), job.id)
        insort(self.queue, entry)
        insort(self.lots.setdefault(job.project, {}).setdefault(self._ask_of(live), []), entry)
        lane = lane_of(job)
        self.waiting[lane] = self.waiting.get(lane, 0) + 1
        terms = demands_of(job)
        self.terms[terms] = self.terms.get(terms, 0) + 1
        if policy.patience_ms:
            insort(self.patience, (overdue_ms(policy, live), job.id))
        if job.nice:
            self.niced[job.project] = self.niced.get(job.project, 0) + 1

    def remove(self, policy: Policy, live: LiveJob) -> None:
        """The job waits no longer; it stands as it did when it was added."""
        job = live.job
        entry = (queue_key(policy, live), job.id)
        drop(self.queue, entry)
        lots, ask = self.lots[job.project], self._ask_of(live)
        drop(lots[ask], entry)
        if not lots[ask]:
            del lots[ask]
            if not lots:
                del self.lots[job.project]
        _count_down(self.waiting, lane_of(job))
        _count_down(self.terms, demands_of(job))
        if policy.patience_ms:
            drop(self.patience, (overdue_ms(policy, live), job.id))
        if job.nice:
            _count_down(self.niced, job.project)

    def refill(self, policy: Policy, waiting: Iterable[LiveJob]) -> None:
        """The same jobs under another policy. Lists stay the same objects: others hold them."""
        lists = (self.queue, self.lots, self.waiting, self.terms, self.patience, self.niced)
        for kept in lists:
            kept.clear()
        for live in waiting:
            self.add(policy, live)

    def overdue(self, now_ms: int) -> list[str]:
        """The jobs that have lost their patience, the one that lost it first at the front."""
        if not self.patience or self.patience[0][0] > now_ms:
            return []
        end = bisect_left(self.patience, (now_ms + 1, ""))
        return [id for _, id in self.patience[:end]]

    def copy(self) -> "Line":
        """One that shares nothing."""
        other = Line(self._ask_of)
        other.queue = list(self.queue)
        other.lots = {
            project: {ask: list(lot) for ask, lot in lots.items()}
            for project, lots in self.lots.items()
        }
        other.waiting, other.niced = dict(self.waiting), dict(self.niced)
        other.terms = dict(self.terms)
        other.patience = list(self.patience)
        return other


def _count_down(counts: dict[Any, int], key: object) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def drop(entries: list[Any], entry: Any) -> None:
    """Take an entry out of a sorted list."""
    at = bisect_left(entries, entry)
    assert entries[at : at + 1] == [entry], f"not there to be dropped: {entry}"
    del entries[at]
