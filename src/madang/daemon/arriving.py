"""Arrivals: work that came to the engine by itself becomes jobs, as submissions do.

Its key in the ledger makes one job of it, whatever restarts in between; which live job belongs to
which arrival is read from the rows alone. When its job has ended and the same work waits once more
(its maker started it anew), that is another job, with a counter behind the key. What a person has
stopped here stays stopped.
"""

from collections.abc import Iterator, Sequence
from typing import cast

from madang.api.yard import Accepted, Refused
from madang.core.codec import decode_event
from madang.core.events import JobEnded, JobNominated, JobStopAsked, NominationDropped, ProjectSet
from madang.core.explain import Guide
from madang.core.model import NodeState, Project
from madang.core.state import State
from madang.daemon.inbox import Request, Submit
from madang.daemon.intake import request_of
from madang.engines.base import Action, Arrival, Past, Promise, Receives
from madang.ledger import Ledger

OWNER = "system:kubernetes"  # no name that a token can have: nobody else can use its keys
BY = "kubernetes"  # who asks for a stop when the work itself has gone
KEY = "k8s:"
STOPS_MAX = 1_000  # of one job; only a shorter grace makes another one news
ARRIVALS_PER_TURN_MAX = 1_024


class Arriving:
    """Between the loop and an engine's arrivals; of an engine without any it does nothing.

    Used by the loop's thread; `waiting` by any.
    """

    def __init__(self, ledger: Ledger, engine: object) -> None:
        self._ledger = ledger
        self._engine = cast(Receives, engine) if hasattr(engine, "arrivals") else None
        self._job_of: dict[str, str] = {}  # of live jobs
        self._key_of: dict[str, str] = {}
        self._first: dict[str, str] = {}  # of what arrived this turn: key in the ledger → job
        self._asked: frozenset[str] = frozenset()

    def restore(self, state: State) -> None:
        """Read who is who from the rows, and tell the engine; also what there was of `state`.

        Raises:
            LedgerError: they cannot be read.
        """
        if self._engine is None:
            return
        self._job_of, self._key_of = {}, {}
        nodes = state.nodes.items()
        past = Past(
            tuple(id for id, live in nodes if live.state is not NodeState.REMOVED),
            dict(state.settings.shields),
            {id: one.standing.shields for id, one in state.jobs.items() if one.standing.shields},
        )
        self._engine.recall(past)
        for kept, job in self._ledger.live_keys(OWNER).items():
            self._remember(arrival_of(kept), job)

    def requests(self) -> list[Request]:
        """What has arrived, as submissions."""
        if self._engine is None:
            return []
        found = self._engine.arrivals(ARRIVALS_PER_TURN_MAX)
        # Asked of the ledger at once: a question for each would cost more than what it is about.
        self._asked = frozenset(KEY + one.key for one in found)
        self._first = self._ledger.jobs_of_keys(OWNER, sorted(self._asked)) if found else {}
        return [Submit(request_of(one), OWNER, arrival=one) for one in found]

    def key_of(self, job: str) -> str:
        """The arrival that the job was made of, or ""."""
        return self._key_of.get(job, "")

    def waiting(self) -> dict[str, str]:
        """Arrival → job, of every live one."""
        return self._job_of.copy()

    def place(self, arrival: Arrival) -> Accepted | Refused | str:
        """The live job that it is, why it cannot be one, or the key for a new one."""
        if known := self._job_of.get(arrival.key):
            return Accepted(known, new=False)
        last = ""
        for kept in _keys(arrival.key):
            job = self._job_of_key(kept)
            if job is None:
                return self._unless_stopped(arrival, last) or kept
            record = self._ledger.job(job)
            if record is not None and not record.standing.phase.is_final:
                return Accepted(job, new=False)  # of a commit whose answer was lost
            last = job
        raise AssertionError("counters do not end")

    def _job_of_key(self, kept: str) -> str | None:
        if kept in self._asked:
            return self._first.get(kept)
        return self._ledger.job_of_key(OWNER, kept)

    def _unless_stopped(self, arrival: Arrival, last: str) -> Refused | None:
        if not last:
            return None
        stops = [
            decode_event(one.line)
            for one in self._ledger.events(0, STOPS_MAX, job=last, kinds=(JobStopAsked.__name__,))
        ]
        if all(isinstance(one, JobStopAsked) and one.by == BY for one in stops):
            return None
        text = f"its job {last} was stopped in Madang, and {arrival.kind} makes its pods again"
        return Refused(Guide("stopped", text, (f"delete the {arrival.kind}, or make it anew",), ()))

    def facts(self, arrival: Arrival, state: State) -> list[ProjectSet]:
        """What must be there before its job."""
        known = arrival.project in state.projects
        return [] if known else [ProjectSet(Project(arrival.project))]

    def committed(self, answers: Sequence[tuple[Request, object]]) -> None:
        """The turn is committed: tell the engine what became of what arrived."""
        if self._engine is None:
            return
        for request, answer in answers:
            if not isinstance(request, Submit) or request.arrival is None:
                continue
            if isinstance(answer, Accepted):
                self._remember(request.arrival.key, answer.job_id)
            elif isinstance(answer, Refused):
                self._engine.refused(request.arrival.key, answer.guide.text)

    def actions(self, decisions: Sequence[object]) -> list[Action]:
        """What was decided about jobs that arrived, beyond starts and stops."""
        promises: list[Action] = []
        if not self._key_of or self._engine is None:
            return promises
        for decision in decisions:
            match decision:
                case JobNominated(job=job, seats=seats) if job in self._key_of:
                    promises.append(Promise(job, seats))
                case NominationDropped(job=job) if job in self._key_of:
                    promises.append(Promise(job, ()))
                case JobEnded(job=job) if job in self._key_of:
                    key = self._key_of.pop(job)
                    self._job_of.pop(key, None)
                    self._engine.parted(key)
        return promises

    def _remember(self, key: str, job: str) -> None:
        assert self._engine is not None, "only who has arrivals has any to remember"
        self._job_of[key], self._key_of[job] = job, key
        self._engine.known(key, job)


def _keys(arrival: str) -> Iterator[str]:
    """In the ledger: `k8s:UID`, then `k8s:UID:2` and so on."""
    yield f"{KEY}{arrival}"
    n = 2
    while True:
        yield f"{KEY}{arrival}:{n}"
        n += 1


def arrival_of(kept: str) -> str:
    """The arrival's own key of one in the ledger."""
    return kept.removeprefix(KEY).partition(":")[0]
