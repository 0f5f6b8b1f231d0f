"""Whose turn it is: the waiting jobs one by one, while a plan gives devices away.

Who has lost patience comes first, in order of arrival. Of the others the project whose front job
has the least key comes next: the policy's keys, then arrival put back by how far the project is
beyond its fair share, counted anew whenever it is given something, so that a burst of one project
never wins all. Every order ends with the sequence number, so it is total.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Protocol

from madang.core.fair import Shares
from madang.core.keys import arrival_ms, overdue_ms, queue_key
from madang.core.line import Entry, Line
from madang.core.live import LiveJob, QueueKey
from madang.core.policy import Policy
from madang.core.snapshot import Snapshot

Key = tuple[int, ...]
UsageOf = Mapping[str, int]


class Turns:
    """An iterator over the ids of waiting jobs, whose turn is first comes first.

    `usage_milli` is what projects hold as the plan goes on: read whenever a project's next turn is
    worked out. `pass_alike` leaves out the other jobs of the last one's lot.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        usage_milli: UsageOf | None = None,
        projects: Iterable[str] | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._usage = snapshot.usage_milli if usage_milli is None else usage_milli
        line = snapshot.line
        overdue = line.overdue(snapshot.now_ms)
        wanted = list(line.lots) if projects is None else [p for p in projects if p in line.lots]
        if overdue and projects is not None:
            among = frozenset(wanted)
            overdue = [id for id in overdue if snapshot.jobs[id].job.project in among]
        self._gone = frozenset(overdue)
        self._first = sorted((self._arrival(id), id) for id in overdue)
        self._at = 0
        self._shares = Shares(snapshot)
        self._fronts: list[tuple[Key, str, _Front]] = []
        for project in wanted:
            front = _Front(snapshot, project, self._gone)
            if front.entry is not None:
                self._fronts.append((self._key(project, front.entry), project, front))
        heapify(self._fronts)
        self._last: _Front | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._at < len(self._first):
            self._at += 1
            return self._first[self._at - 1][1]
        self._advance()
        if not self._fronts:
            raise StopIteration
        front = self._fronts[0][2]
        assert front.entry is not None, "a project without a next job has left"
        self._last = front
        return front.entry[1]

    def pass_alike(self) -> None:
        """Nobody of the last job's lot comes any more. A job that lost patience has no lot."""
        if self._last is not None:
            self._last.leave_lot()

    def _advance(self) -> None:
        """The project whose job was last goes to where its next one belongs."""
        front, self._last = self._last, None
        if front is None:
            return
        project = self._fronts[0][1]
        front.step()
        if front.entry is None:
            heappop(self._fronts)
        else:
            heapreplace(self._fronts, (self._key(project, front.entry), project, front))

    def _arrival(self, id: str) -> tuple[int, int]:
        job = self._snapshot.jobs[id].job
        return arrival_ms(job), job.seq

    def _key(self, project: str, entry: Entry) -> Key:
        *keys, arrived_ms, seq = entry[0]
        lag_ms = self._shares.lag_ms(project, self._usage.get(project, 0))
        return (*keys, arrived_ms + lag_ms, seq)


class _Front:
    """A project's waiting jobs in its own order, the next one at `entry`."""

    def __init__(self, snapshot: Snapshot, project: str, gone: frozenset[str]) -> None:
        self._gone = gone
        lots: Iterable[Sequence[Entry]] = snapshot.line.lots[project].values()
        if project in snapshot.line.niced:
            lots = [_by_nice(snapshot, lots, gone)]
            self._passes_alike = False  # one list of all
        else:
            self._passes_alike = True
        self._lots: list[tuple[Entry, int, Sequence[Entry]]] = []
        for lot in lots:
            self._push(lot, 0, heap=False)
        heapify(self._lots)
        self._left_lot = False

    @property
    def entry(self) -> Entry | None:
        return self._lots[0][0] if self._lots else None

    def step(self) -> None:
        """On to the next job."""
        _, at, lot = heappop(self._lots)
        if not self._left_lot:
            self._push(lot, at + 1, heap=True)
        self._left_lot = False

    def leave_lot(self) -> None:
        self._left_lot = self._passes_alike

    def _push(self, lot: Sequence[Entry], at: int, *, heap: bool) -> None:
        while at < len(lot) and lot[at][1] in self._gone:
            at += 1
        if at == len(lot):
            return
        if heap:
            heappush(self._lots, (lot[at], at, lot))
        else:
            self._lots.append((lot[at], at, lot))


def _by_nice(
    snapshot: Snapshot, lots: Iterable[Sequence[Entry]], gone: frozenset[str]
) -> list[Entry]:
    """A project's jobs in the order its users want, each in the place of one of them.

    The places are those the project has without anyone being nice, so that nobody outside the
    project gains or loses. Between the keys of the policy (priority, level) nobody moves.
    """
    places = sorted(entry for lot in lots for entry in lot if entry[1] not in gone)

    def wanted(entry: Entry) -> tuple[Key, int, QueueKey]:
        return entry[0][:-2], snapshot.jobs[entry[1]].job.nice, entry[0]

    return [
        (place[0], id) for place, (_, id) in zip(places, sorted(places, key=wanted), strict=True)
    ]


def key_of(snapshot: Snapshot, live: LiveJob) -> Key:
    """A job's place among all, waiting or running, fair share aside: who may displace whom.

    Shares move with every start; if they moved running jobs, two projects would take turns in
    stopping each other.
    """
    key = queue_key(snapshot.policy, live, snapshot.now_ms)
    return (-1, *key[-2:]) if has_lost_patience(snapshot, live) else (0, *key)


def ordered(snapshot: Snapshot, usage_milli: UsageOf | None = None) -> Iterator[tuple[Key, str]]:
    """(key, job id) of the waiting jobs in turn. The key is `key_of`, not the place in line."""
    for id in Turns(snapshot, usage_milli):
        yield key_of(snapshot, snapshot.jobs[id]), id


def has_lost_patience(snapshot: Snapshot, live: LiveJob) -> bool:
    """True iff the job has waited, since it last ran, as long as the policy lets anyone wait."""
    if not snapshot.policy.patience_ms or live.standing.running_ms:
        return False
    return overdue_ms(snapshot.policy, live) <= snapshot.now_ms


class Timed(Protocol):
    """What time alone may change: the state, or a snapshot of it."""

    @property
    def policy(self) -> Policy: ...
    @property
    def line(self) -> Line: ...
    @property
    def sinks(self) -> Sequence[tuple[int, str]]: ...


def next_change_ms(timed: Timed, after_ms: int) -> int | None:
    """When the order next changes by time alone: a running job sinks, a waiting one loses patience.

    Nobody starts for it unless somebody can be moved aside.
    """
    if not timed.policy.preempts or not timed.line.queue:
        return None
    later = (after_ms + 1, "")
    times = []
    for entries in (timed.line.patience, timed.sinks):
        at = bisect_left(entries, later)
        if at < len(entries):
            times.append(entries[at][0])
    return min(times) if times else None
