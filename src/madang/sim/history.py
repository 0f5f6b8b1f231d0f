"""What the journal tells that a replay needs: how the yard stood, who came, and how long each job
truly takes.

A job's `Course` is what it would do wherever it ran: its runs, each with a length and an end, as
observed. What was none of its doing is taken out: a run that was preempted, moved, reclaimed, put
back, or lost with its node goes on in the next one (if the job checkpoints), or did not count (if
it does not). A user's stop of a running job is an end of its run; of a waiting one it stays where
it was in time. What nobody saw the end of runs on to the end of the window, and a job that never
ran is given the median length of its size (`guessed`).
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from statistics import median_low

from madang.core import events as ev
from madang.core.model import Allocation, Exit, Job, Phase, ReleaseReason
from madang.core.state import State
from madang.core.usage.books import Books
from madang.core.usage.keys import size_of
from madang.sim.world import restored_from_rows

FOREVER_MS = 1 << 52  # longer than any window
STOPPED_BY_OTHERS = frozenset(
    {
        ReleaseReason.PREEMPTED,
        ReleaseReason.MOVED,
        ReleaseReason.RECLAIMED,
        ReleaseReason.REQUEUE,
        ReleaseReason.NODE_LOST,
    }
)
LOST_WITH_NODE = Exit(0, lost=True)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job to an end of its own. Times are ms of work since the run's begin.

    `ends` has for each rank when and how it ends by itself, `length_ms` is the longest of them; a
    rank with -1 goes when the others have pulled it down. `notes` are facts it made on its way (a
    checkpoint, a measurement). `by_user`: somebody stops the job when it is so far.
    """

    length_ms: int
    ends: tuple[tuple[int, Exit], ...] = ()
    notes: tuple[tuple[int, ev.Fact], ...] = ()
    by_user: bool = False


@dataclass(slots=True)
class Course:
    """All runs of a job in order, how long it takes to start and to stop, and where each observed
    attempt began: allocation → (run, ms of work done before it).
    """

    job: Job
    runs: list[Run] = field(default_factory=list)
    start_ms: int = -1
    stop_ms: int = -1
    attempts: dict[str, tuple[int, int]] = field(default_factory=dict)
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """The window [since, until) of a journal, ready to be replayed; it ends with the newest event.

    `facts` are what came from outside in it, in order: (when, fact). `books` hold what was live at
    `since` and have counted nothing of the window yet; `actual` are the books of what happened.
    """

    since_ms: int
    until_ms: int
    base: State
    books: Books
    actual: Books
    facts: tuple[tuple[int, ev.Fact], ...]
    courses: dict[str, Course]
    started_ms: dict[str, int]
    ended_ms: dict[str, int]
    start_ms: int
    stop_ms: int
    events: int

    @property
    def policy(self) -> str:
        """The name of the policy that was in force for the longest part of the window."""
        in_force: dict[str, int] = {}
        name, from_ms = self.base.policy.name, self.since_ms
        for at_ms, fact in (*self.facts, (self.until_ms, None)):
            if fact is None or isinstance(fact, ev.PolicySet):
                in_force[name] = in_force.get(name, 0) + at_ms - from_ms
                from_ms = at_ms
                name = fact.policy.name if fact is not None else name
        return max(in_force, key=lambda each: (in_force[each], each))

    def state(self) -> State:
        """The yard as it stood at `since`, to be changed by the caller."""
        return restored_from_rows(self.base)


@dataclass(slots=True)
class _Attempt:
    allocation: Allocation
    bound_ms: int
    done_ms: int  # of the run, before this attempt
    running_ms: int = -1
    begun: int = 0
    ends: dict[int, tuple[int, Exit]] = field(default_factory=dict)
    asked_ms: int = -1
    reason: ReleaseReason = ReleaseReason.NONE
    saved_ms: int = 0
    notes: list[tuple[int, ev.Fact]] = field(default_factory=list)

    def worked_ms(self, at_ms: int) -> int:
        """Of the run, until then."""
        return self.done_ms + max(0, at_ms - self.running_ms if self.running_ms >= 0 else 0)


class _Reader:
    """Follows each job's attempts through the journal, and makes its course of them."""

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self.courses: dict[str, Course] = {}
        self.attempts: dict[str, _Attempt] = {}
        self.started_ms: dict[str, int] = {}
        self.ended_ms: dict[str, int] = {}
        self.starts: list[int] = []
        self.stops: list[int] = []
        self._carry: dict[str, tuple[int, list[tuple[int, ev.Fact]]]] = {}

    def read(self, event: ev.Event, at_ms: int) -> None:
        match event:
            case ev.JobSubmitted(job):
                self.courses.setdefault(job.id, Course(job))
            case ev.AllocationBound(allocation) if allocation.job in self.courses:
                self._bind(allocation, at_ms)
            case ev.MemberStarted(id, rank) if id in self.attempts:
                self._begin(self.attempts[id], rank, at_ms)
            case ev.MemberEnded(id, rank, end) if id in self.attempts:
                attempt = self.attempts[id]
                self._begin(attempt, rank, at_ms)
                attempt.ends.setdefault(rank, (at_ms, end))
                if len(attempt.ends) == len(attempt.allocation.seats) and attempt.asked_ms >= 0:
                    course = self.courses[attempt.allocation.job]
                    course.stop_ms = at_ms - attempt.asked_ms
                    self.stops.append(course.stop_ms)
            case ev.ReleaseAsked(id) | ev.ReleaseHeld(id) if id in self.attempts:
                self._ask(self.attempts[id], event, at_ms)
            case ev.CheckpointSaved(job) | ev.JobMeasured(job):
                self._note(job, event, at_ms)
            case ev.JobRequeued(job, reason) if job in self.courses:
                self._leave(job, at_ms, lost=reason == ReleaseReason.NODE_LOST)
            case ev.JobEnded(job, phase) if job in self.courses:
                self._leave(job, at_ms, lost=False, phase=phase)
                self._carry.pop(job, None)
                self.ended_ms[job] = at_ms
                if at_ms < self.since_ms:
                    self._forget(job)

    def _ask(self, attempt: _Attempt, event: ev.ReleaseAsked | ev.ReleaseHeld, at_ms: int) -> None:
        """It was asked to end, or was not after all."""
        if isinstance(event, ev.ReleaseHeld):
            attempt.asked_ms, attempt.reason = -1, ReleaseReason.NONE
        elif attempt.asked_ms < 0 and len(attempt.ends) < len(attempt.allocation.seats):
            attempt.asked_ms, attempt.reason = at_ms, event.reason

    def _forget(self, job: str) -> None:
        del self.courses[job]
        self.started_ms.pop(job, None)
        self.ended_ms.pop(job, None)

    def _bind(self, allocation: Allocation, at_ms: int) -> None:
        course = self.courses[allocation.job]
        done_ms, notes = self._carry.pop(allocation.job, (0, []))
        self.attempts[allocation.id] = _Attempt(allocation, at_ms, done_ms, notes=notes)
        course.attempts[allocation.id] = (len(course.runs), done_ms)
        self.started_ms.setdefault(allocation.job, at_ms)

    def _begin(self, attempt: _Attempt, rank: int, at_ms: int) -> None:
        attempt.begun |= 1 << rank
        if attempt.running_ms >= 0 or attempt.begun != attempt.allocation.all_ranks:
            return
        attempt.running_ms = at_ms
        course = self.courses[attempt.allocation.job]
        course.start_ms = at_ms - attempt.bound_ms
        self.starts.append(course.start_ms)

    def _newest(self, job: str) -> _Attempt | None:
        course = self.courses.get(job)
        id = next(reversed(course.attempts), None) if course is not None else None
        return self.attempts.get(id) if id is not None else None

    def _note(self, job: str, event: ev.CheckpointSaved | ev.JobMeasured, at_ms: int) -> None:
        attempt = self._newest(job)
        if attempt is not None and attempt.running_ms >= 0:
            attempt.notes.append((attempt.worked_ms(at_ms), event))
            if isinstance(event, ev.CheckpointSaved):
                attempt.saved_ms = attempt.worked_ms(at_ms)

    def _leave(self, job: str, at_ms: int, *, lost: bool, phase: Phase | None = None) -> None:
        """The job leaves its attempt: the run goes on later, or this was its end."""
        attempt = self._newest(job)
        if attempt is None:
            return
        course = self.courses[job]
        del self.attempts[attempt.allocation.id]
        until_ms = max((at for at, _ in attempt.ends.values()), default=at_ms)
        until_ms = attempt.asked_ms if attempt.asked_ms >= 0 else until_ms
        if attempt.reason in STOPPED_BY_OTHERS or lost:
            kept_ms = attempt.saved_ms or attempt.worked_ms(until_ms)
            kept_ms = kept_ms if course.job.checkpoints else 0
            notes = [note for note in attempt.notes if note[0] <= kept_ms]
            self._carry[job] = (kept_ms, notes)
            return
        notes_made = tuple(attempt.notes)
        if phase is Phase.STOPPED:
            length_ms = attempt.worked_ms(until_ms)
            course.runs.append(Run(length_ms, (), notes_made, by_user=True))
            return
        if attempt.reason is ReleaseReason.TIME_LIMIT:
            course.runs.append(Run(FOREVER_MS, (), notes_made))
            return
        course.runs.append(_natural(attempt, notes_made))

    def unfinished(self, job: str, at_ms: int) -> None:
        """What nobody saw the end of: it was still running, and runs on."""
        attempt = self._newest(job)
        if attempt is not None:
            self.courses[job].runs.append(Run(FOREVER_MS, (), tuple(attempt.notes)))


def _natural(attempt: _Attempt, notes: tuple[tuple[int, ev.Fact], ...]) -> Run:
    """The run as its members ended it; who was pulled down by a release has no end of its own."""
    ends = []
    for rank in range(len(attempt.allocation.seats)):
        at_ms, end = attempt.ends.get(rank, (FOREVER_MS, LOST_WITH_NODE))
        by_itself = attempt.asked_ms < 0 or at_ms <= attempt.asked_ms
        ends.append((attempt.worked_ms(at_ms) if by_itself else -1, end))
    if all(at_ms < 0 for at_ms, _ in ends):
        ends[0] = (attempt.worked_ms(attempt.asked_ms), ends[0][1])
    return Run(max(at_ms for at_ms, _ in ends), tuple(ends), notes)


# -- the whole journal ---------------------------------------------------------------------------

_REPLAYED = (
    ev.ProjectSet,
    ev.NodeSeen,
    ev.NodeLost,
    ev.NodeRemoved,
    ev.NodeCordoned,
    ev.NodeFlagged,
    ev.WorkspaceSet,
    ev.QuotaSet,
    ev.ZoneSet,
    ev.ReservationSet,
    ev.BudgetSet,
    ev.PolicySet,
    ev.TopologySet,
    ev.HoleAsked,
    ev.SettingDropped,
    ev.ProjectMeasured,
    ev.JobSubmitted,
    ev.JobStopAsked,
    ev.JobRequeueAsked,
)


def history_of(journal: Iterable[tuple[int, ev.Event]], since_ms: int, until_ms: int) -> History:
    """Read a journal once, from its first line; from `until` on it is not read."""
    base, books, reader = State(), Books(since_ms), _Reader(since_ms)
    actual: Books | None = None
    facts: list[tuple[int, ev.Fact]] = []
    count = last_ms = 0
    for at_ms, event in journal:
        if at_ms >= until_ms:
            break
        count, last_ms = count + 1, at_ms
        reader.read(event, at_ms)
        if at_ms < since_ms:
            base.apply(event, at_ms)
            base.forget_ended()
            base.take_changed()
            books.apply(event, at_ms)
            continue
        if actual is None:
            actual = deepcopy(books)
        actual.apply(event, at_ms)
        if isinstance(event, _REPLAYED):
            facts.append((at_ms, event))
    actual = deepcopy(books) if actual is None else actual
    until_ms = min(until_ms, max(last_ms, since_ms) + 1)
    starts, stops = reader.starts or [0], reader.stops or [0]
    courses = _finished(reader, until_ms)
    return History(
        since_ms,
        until_ms,
        base,
        books,
        actual,
        tuple(_cleaned(facts, courses)),
        courses,
        {job: ms for job, ms in reader.started_ms.items() if job in courses},
        {job: ms for job, ms in reader.ended_ms.items() if job in courses},
        median_low(starts),
        median_low(stops),
        count,
    )


def _finished(reader: _Reader, until_ms: int) -> dict[str, Course]:
    """Every course with an end: who still runs runs on, who never ran gets his size's median."""
    lengths: dict[str, list[int]] = {}
    for course in reader.courses.values():
        for run in course.runs:
            if run.length_ms < FOREVER_MS:
                lengths.setdefault(size_of(course.job.milli), []).append(run.length_ms)
    everyone = [ms for each in lengths.values() for ms in each] or [0]
    for id, course in reader.courses.items():
        if id not in reader.ended_ms:
            reader.unfinished(id, until_ms)
        if not course.runs:
            course.guessed = True
            of_size = lengths.get(size_of(course.job.milli), everyone)
            course.runs.append(Run(course.job.estimate_ms or median_low(of_size)))
    return reader.courses


def _cleaned(
    facts: list[tuple[int, ev.Fact]], courses: dict[str, Course]
) -> Iterable[tuple[int, ev.Fact]]:
    """The facts without what belongs to the stays of the record: those of a replay are others."""
    for at_ms, fact in facts:
        match fact:
            case ev.NodeSeen():
                yield at_ms, replace(fact, holds=(), at_ms=0)
            case ev.JobStopAsked(job) if job in courses and courses[job].runs[-1].by_user:
                continue  # it is the end of its last run
            case _:
                yield at_ms, fact
