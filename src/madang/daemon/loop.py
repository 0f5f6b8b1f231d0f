"""The one loop: collect → fold → snapshot → plan → commit → act, in one thread.

Nothing acts before its commit, and nobody is answered before it. When a commit fails nothing of the
turn has happened: the state is read again from the rows, users are told to try again, and what the
engine saw is folded once more. Who kills this thread at any point loses nothing acknowledged.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from madang.api.yard import Accepted, Made, NotCommitted, Refused
from madang.core.admission import Rejected
from madang.core.check import check
from madang.core.controller import Controller, Step
from madang.core.events import (
    AllocationBound,
    Fact,
    JobRejected,
    JobSubmitted,
    JobWarned,
    NodeSeen,
    ReleaseAsked,
)
from madang.core.explain import guide
from madang.core.explain_upkeep import idle_why
from madang.core.model import Allocation, AllocationState, Job, grace_ms_of
from madang.core.policy import Policy
from madang.core.restore import restored, with_recent
from madang.core.snapshot import Snapshot
from madang.core.state import State
from madang.daemon.arriving import Arriving
from madang.daemon.inbox import Ask, Inbox, Note, Request, Submit
from madang.daemon.intake import Profiles, job_from, job_of, launch_of
from madang.engines.base import Action, Arrival, Engine, EngineError, Launch, Start, Stop, Tell
from madang.ledger import CommitFailed, CommitUnknown, Ledger, LedgerError, NewJob, turn_of
from madang.telemetry.histogram import Histogram
from madang.wire.jobs import JobRequest

log = logging.getLogger("madang.daemon")

REQUESTS_PER_TURN_MAX = 2_048  # a turn stays short: the rest waits one turn
FACTS_PER_TURN_MAX = 4_096
IDLE_TURN_S = 1.0  # an engine that cannot wake the loop is looked at this often
CHECK_EVERY_S = 30.0  # all invariants, while that costs less than a turn may
CHECK_ALLOCATIONS_MAX = 2_000
RECOVERY_PAUSE_S = 0.5
REQUESTS_CACHED_MAX = 4_096
TURN_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Clock(Protocol):
    """Wall time in integer ms, never going back."""

    def __call__(self) -> int: ...
    def not_before(self, then_ms: int) -> None: ...


@dataclass(slots=True)
class _Turn:
    """One turn's requests on their way in."""

    requests: list[Request]
    facts: list[Fact] = field(default_factory=list)
    new: list[NewJob] = field(default_factory=list)
    memos: list[tuple[str, str]] = field(default_factory=list)
    answers: list[tuple[Request, Any]] = field(default_factory=list)
    submitted: dict[str, tuple[Submit, Job]] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)


class TurnLoop:
    """Owns the controller, the writer side of the ledger, and the engine's acting side."""

    def __init__(
        self,
        ledger: Ledger,
        engine: Engine,
        clock: Clock,
        holder: str,
        on_failure: Callable[[], None],
    ) -> None:
        self.ledger = ledger
        self.engine = engine
        self.clock = clock
        self.holder = holder
        self.inbox = Inbox(self.wake)
        self.arriving = Arriving(ledger, engine)
        self.failure = ""
        self.last_seq = 0
        self.turns = Histogram(TURN_BOUNDS_S)
        self._lock = threading.RLock()
        self._bell = threading.Event()
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)
        self._controller = Controller()
        self._profiles = Profiles()
        self._unfolded: list[Fact] = []
        self._told: deque[Fact] = deque(maxlen=FACTS_PER_TURN_MAX)  # beyond it the oldest are lost
        self._requests: dict[str, tuple[str, JobRequest]] = {}
        self._on_failure = on_failure
        self._watchers: list[Callable[[int], None]] = []
        self._epoch = 0
        self._next_n = 1
        self._version = 0
        self._checked_ms = 0
        self._readers_view: tuple[int, Snapshot] | None = None

    # -- life ----------------------------------------------------------------------------------

    def open(self, first_facts: Sequence[Fact] = ()) -> None:
        """Take the lead, read the rows, adopt what runs, and begin to turn."""
        self._epoch = self.ledger.take_lead(self.holder)
        self._restore()
        self.engine.open(self.wake)
        self.arriving.restore(self._controller.state)
        self.engine.adopt(list(self._controller.state.allocations.values()))
        self._unfolded = list(first_facts)
        self._act(self._owed_actions())
        self._thread.start()

    def close(self) -> None:
        """Finish the turn in hand and stop. What runs goes on."""
        self._leaving = True
        self.inbox.close("the daemon is shutting down")
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout=30)
        self.engine.close()

    def wake(self) -> None:
        """There is something to do. Any thread may call it."""
        self._bell.set()

    def tell(self, facts: Sequence[Fact]) -> None:
        """Facts for the next turn that nobody waits for; in a flood the oldest are lost."""
        self._told.extend(facts)
        self.wake()

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._controller.state.policy

    def allocations(self) -> list[Allocation]:
        """Every allocation that is live."""
        with self._lock:
            return list(self._controller.state.allocations.values())

    def watch(self, watcher: Callable[[int], None]) -> None:
        """Call `watcher(last journal sequence)` after each commit, from the loop's thread."""
        self._watchers.append(watcher)

    def trial_job(self, request: JobRequest, owner: str = "") -> Job:
        """The job that a request would become, for a dry run."""
        with self._lock:
            shapes, n = self._profiles.shapes(request), self._next_n
            rows = self._controller.state.policy.classes
            now_ms = self.clock()
            return job_from(request, n=n, shapes=shapes, now_ms=now_ms, owner=owner, classes=rows)

    def snapshot(self) -> Snapshot:
        """The yard after the last committed turn, safe to read from any thread."""
        with self._lock:
            if self._readers_view is None or self._readers_view[0] != self._version:
                frozen = self._controller.state.snapshot(self.clock()).detached()
                self._readers_view = (self._version, frozen)
            return replace(self._readers_view[1], now_ms=self.clock())

    # -- the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._leaving:
                self._bell.wait(self._pause_s())
                self._bell.clear()
                began_s = time.perf_counter()
                self._turn()
                self.turns.add(time.perf_counter() - began_s)
        except BaseException as failure:
            # Ours, or another daemon leads: the rows are right, the memory is not. Stop; a restart
            # reads the rows.
            log.critical("the turn loop broke", exc_info=True)
            self.failure = f"{type(failure).__name__}: {failure}"
            self.inbox.close("the daemon has stopped turning and must be restarted")
            self._on_failure()

    def _pause_s(self) -> float:
        """How long nothing is due, if no news come: a back-off or a time limit ends the pause."""
        now_ms = self.clock()
        due_ms = self._controller.due_ms(now_ms)
        if due_ms is None:
            return IDLE_TURN_S
        return min(IDLE_TURN_S, max(0, due_ms - now_ms) / 1000)

    def _turn(self) -> None:
        requests = self.inbox.take(REQUESTS_PER_TURN_MAX) + self.arriving.requests()
        told = [self._told.popleft() for _ in range(len(self._told))]
        observed = self._unfolded + told + self.engine.observe(FACTS_PER_TURN_MAX)
        self._unfolded = []
        with self._lock:
            turn = _Turn(requests)
            now_ms = self.clock()
            try:
                for request in requests:
                    self._take_in(turn, request, now_ms)
                step = self._controller.step((*observed, *turn.facts), now_ms)
                self._commit(turn, step, now_ms)
            except (CommitFailed, CommitUnknown) as failure:
                self._unfolded = observed
                self._fail(requests, failure)
                return
            self._version += bool(step.events)
            self._check_sometimes(now_ms)
        self.arriving.committed(turn.answers)
        self._act(self._actions(step))
        self._answer(turn)
        if len(requests) >= REQUESTS_PER_TURN_MAX or len(observed) >= FACTS_PER_TURN_MAX:
            self.wake()

    def _take_in(self, turn: _Turn, request: Request, now_ms: int) -> None:
        """Turn a request into facts and writes of this turn."""
        match request:
            case Ask(fact=fact):
                turn.facts.append(fact)
                turn.answers.append((request, None))
            case Note(job=job_id, memo=memo):
                turn.memos.append((job_id, memo))
                turn.answers.append((request, None))
            case Submit(arrival=Arrival() as arrival):
                self._take_arrival(turn, request, arrival, now_ms)
            case Submit(request=asked, owner=owner, idempotency_key=key):
                known = self._known(turn, owner, key)
                if known:
                    turn.answers.append((request, Accepted(known, new=False)))
                    return
                n = self._next_n + len(turn.submitted)
                shapes = self._profiles.shapes(asked)
                rows = self._controller.state.policy.classes
                job = job_from(asked, n=n, shapes=shapes, now_ms=now_ms, owner=owner, classes=rows)
                turn.submitted[job.id] = (request, job)
                turn.keys[owner, key] = job.id
                turn.facts.append(JobSubmitted(job))

    def _take_arrival(self, turn: _Turn, asked: Submit, arrival: Arrival, now_ms: int) -> None:
        state = self._controller.state
        key = self.arriving.place(arrival)
        if not isinstance(key, str):
            turn.answers.append((asked, key))
            return
        n = self._next_n + len(turn.submitted)
        rows = state.policy.classes
        job = job_of(arrival, n=n, now_ms=now_ms, owner=asked.owner, classes=rows)
        turn.submitted[job.id] = (replace(asked, idempotency_key=key), job)
        turn.facts += [*self.arriving.facts(arrival, state), JobSubmitted(job)]

    def _known(self, turn: _Turn, owner: str, key: str) -> str:
        """The job that this owner's idempotency key already made, or ""."""
        if not key:
            return ""
        return turn.keys.get((owner, key)) or self.ledger.job_of_key(owner, key) or ""

    def _commit(self, turn: _Turn, step: Step, now_ms: int) -> None:
        rejected = {event.job: event for event in step.events if isinstance(event, JobRejected)}
        for job_id, (submit, job) in turn.submitted.items():
            if job_id in rejected:
                event = rejected[job_id]
                why = Rejected(event.code, event.numbers)
                words = guide(job, why, self._controller.state.models)
                turn.answers.append((submit, Refused(words)))
                continue
            body = submit.request.model_dump_json(exclude_defaults=True)
            memo = submit.request.memo
            turn.new.append(NewJob(job_id, submit.owner, body, submit.idempotency_key, memo))
            turn.answers.append((submit, Accepted(job_id, True, self._made(job_id))))
        state = self._controller.state
        rows = turn_of(
            state, step.events, epoch=self._epoch, at_ms=now_ms, new=turn.new, memos=turn.memos
        )
        if step.events or turn.memos:
            _, self.last_seq = self.ledger.commit(rows)
        self._next_n += len(turn.submitted)
        for job_id, (submit, _) in turn.submitted.items():
            if job_id not in rejected:
                self._remember(job_id, submit.owner, submit.request)
        state.forget_ended()
        if any(isinstance(event, NodeSeen) for event in step.events):
            self._refresh_profiles()

    def _made(self, job_id: str) -> Made:
        """The job as this turn leaves it, so that its submitter is answered without a read."""
        state = self._controller.state
        live = state.jobs.get(job_id) or state.ended_jobs[job_id]
        newest = state.allocations.get(live.allocation) if live.allocation else None
        return Made(live.job, live.standing, newest)

    def _answer(self, turn: _Turn) -> None:
        for watcher in self._watchers:
            watcher(self.last_seq)
        for request, answer in turn.answers:
            if not request.answer.cancelled():
                request.answer.set_result(answer)

    def _fail(self, requests: list[Request], failure: Exception) -> None:
        """Nothing of the turn happened: say so, and be again what the rows say."""
        log.error("a turn could not be committed: %s", failure)
        for request in requests:
            request.answer.set_exception(NotCommitted(str(failure)))
        while not self._leaving:
            try:
                self._restore()
                # A commit whose answer was lost may have happened: what it owes is idempotent.
                self._act(self._owed_actions())
                self._bell.wait(RECOVERY_PAUSE_S)  # what is full or away does not mend in no time
                return
            except LedgerError as again:
                log.error("the ledger cannot be read: %s", again)
                self._bell.wait(RECOVERY_PAUSE_S)
                self._bell.clear()

    # -- parts ---------------------------------------------------------------------------------

    def _restore(self) -> None:
        loaded = self.ledger.load()
        state: State = restored(
            loaded.nodes,
            loaded.projects,
            loaded.jobs,
            loaded.allocations,
            loaded.nominations,
            loaded.settings,
        )
        with_recent(state, loaded.recent)
        self._controller = Controller(state)
        self._next_n = loaded.next_n
        self.last_seq = loaded.last_seq
        self.clock.not_before(loaded.last_ms)
        self._version += 1
        self._refresh_profiles()

    def _refresh_profiles(self) -> None:
        self._profiles.refresh(live.node for live in self._controller.state.nodes.values())

    def _owed_actions(self) -> list[Action]:
        """After a start: whatever is committed and may not be carried out. All idempotent."""
        owed: list[Action] = []
        state = self._controller.state
        for allocation in state.allocations.values():
            if allocation.state is AllocationState.RELEASING:
                live = state.jobs.get(allocation.job)
                grace_ms = grace_ms_of(live.job, live.standing) if live else 0
                left_ms = max(0, allocation.releasing_ms + grace_ms - self.clock())
                owed.append(Stop(allocation.id, left_ms, allocation.release_reason))
            elif allocation.state is AllocationState.BOUND:
                owed.append(Start(self._launch(AllocationBound(allocation))))
        return owed

    def _actions(self, step: Step) -> list[Action]:
        actions: list[Action] = []
        for decision in step.decisions:
            match decision:
                case AllocationBound():
                    actions.append(Start(self._launch(decision)))
                case ReleaseAsked(allocation=allocation, grace_ms=grace_ms, reason=reason):
                    actions.append(Stop(allocation, grace_ms, reason))
                case JobWarned(job=job):
                    actions += self._warning(job)
        return self.arriving.actions(step.decisions) + actions

    def _warning(self, job: str) -> list[Action]:
        state = self._controller.state
        live = state.jobs.get(job)
        if live is None or live.allocation is None:
            return []
        return [Tell(live.allocation, idle_why(state.view(self.clock()), job))]

    def _act(self, actions: list[Action]) -> None:
        if not actions:
            return
        try:
            self.engine.act(actions)
        except EngineError:
            # The engine owes us a MemberEnded for what it could not do; this is only its log line.
            log.exception("the engine could not act at once")

    def _launch(self, decision: AllocationBound) -> Launch:
        allocation = decision.allocation
        if allocation.job not in self._requests:
            record = self.ledger.job(allocation.job)
            assert record is not None, f"a bound job has no row: {allocation}"
            request = JobRequest.model_validate(json.loads(record.request))
            self._remember(allocation.job, record.owner, request)
        owner, request = self._requests[allocation.job]
        key = self.arriving.key_of(allocation.job)
        job = self._controller.state.jobs[allocation.job].job
        return launch_of(allocation, job, owner, request, key)

    def _remember(self, job_id: str, owner: str, request: JobRequest) -> None:
        while len(self._requests) >= REQUESTS_CACHED_MAX:
            del self._requests[next(iter(self._requests))]
        self._requests[job_id] = (owner, request)

    def _check_sometimes(self, now_ms: int) -> None:
        state = self._controller.state
        if now_ms - self._checked_ms < CHECK_EVERY_S * 1000:
            return
        if len(state.allocations) <= CHECK_ALLOCATIONS_MAX:
            check(state)
        self._checked_ms = now_ms
